//! A server for one request, in the process of a test: takes a request and an app, gives the response.
//!
//! It speaks the same table of functions as the real one, so that what passes here crosses the boundary as it would
//! there. It has no network and no limits, checks no headers, and cannot upgrade.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{NonNull, null, null_mut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::desk::TABLE;
use super::{AGAIN, Call, Chunk, E_INVALID, END, Field, Init, Iter, OK, Status, Str};
use crate::handler::{App, Handler};

/// How long a detached response or a pending body may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(10);

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A request to be.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub(super) method: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) environ: Pairs,
    pub(super) fields: Pairs,
    pub(super) body: Vec<u8>,
    pub(super) truncated: bool,
}

/// What came of a request.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// `200 OK`; empty if `start_response` was never called.
    pub status: String,
    /// Names and values in order.
    pub headers: Vec<(String, String)>,
    /// All of the body.
    pub body: Vec<u8>,
    /// Names and values in order.
    pub trailers: Vec<(String, String)>,
    /// Statuses of the interim responses.
    pub informational: Vec<u16>,
    /// Lines of the error log, those of `wsgi.errors` included.
    pub log: Vec<String>,
    /// Whether the response was given up: an error, a panic, or a detached response that was dropped.
    pub failed: bool,
}

/// One call: what `*mut Call` points to here.
pub(super) struct Desk {
    pub(super) request: Request,
    state: Mutex<State>,
    pub(super) finished: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) read: usize,
    pub(super) started: bool,
    pub(super) detached: bool,
    pub(super) finished: bool,
    pub(super) response: Response,
    pub(super) body: Option<Pulled>,
}

/// A body to be pulled when the handler has returned.
pub(super) struct Pulled(pub(super) Iter);

// SAFETY: the ABI lets the server run next and close on another thread.
unsafe impl Send for Pulled {}

impl Request {
    /// A request with a method and a target: path, and query after a `?`.
    pub fn new(method: &str, target: &str) -> Request {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let request = Request {
            method: method.into(),
            target: target.into(),
            ..Request::default()
        };
        request
            .environ("REQUEST_METHOD", method)
            .environ("SCRIPT_NAME", "")
            .environ("PATH_INFO", path)
            .environ("QUERY_STRING", query)
            .environ("SERVER_NAME", "test")
            .environ("SERVER_PORT", "80")
            .environ("SERVER_PROTOCOL", "HTTP/1.1")
            .environ("wsgi.url_scheme", "http")
    }

    /// `GET target`.
    pub fn get(target: &str) -> Request {
        Request::new("GET", target)
    }

    /// `POST target` with a body.
    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Request {
        let mut request = Request::new("POST", target);
        request.body = body.into();
        let length = request.body.len().to_string();
        request.environ("CONTENT_LENGTH", length)
    }

    /// Adds a request field and its environ key.
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.fields.push((name.into(), value.into()));
        let key = name.to_ascii_uppercase().replace('-', "_");
        match key.as_str() {
            "CONTENT_TYPE" | "CONTENT_LENGTH" => self.environ(key, value),
            _ => self.environ(format!("HTTP_{key}"), value),
        }
    }

    /// Sets an environ key.
    pub fn environ(mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Request {
        let key = key.into();
        self.environ.retain(|(known, _)| *known != key);
        self.environ.push((key, value.into()));
        self
    }

    /// Makes the client leave in the middle of its request body.
    pub fn truncated(mut self) -> Request {
        self.truncated = true;
        self
    }

    /// Serves the request. Panics if the response takes longer than ten seconds.
    pub fn run(self, app: &impl App) -> Response {
        super::guard::install(&TABLE);
        let desk = Arc::new(Desk {
            request: self,
            state: Mutex::default(),
            finished: Condvar::new(),
        });
        let call = NonNull::new(Arc::as_ptr(&desk).cast_mut())
            .expect("an Arc is never null")
            .cast::<Call>();
        let status = super::guard::guard(call.as_ptr(), || {
            // SAFETY: `desk` keeps the call alive until the end of this function.
            let call = unsafe { super::call::BorrowedCall::new(&TABLE, call) };
            super::export::serve(&call, |environ, start_response| app.call(environ, start_response))
        });
        desk.conclude(status)
    }
}

impl Response {
    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(sent, _)| sent.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Builds a handler as a worker would, with these arguments of its mount.
pub fn init<H: Handler>(args: &[(&str, &str)]) -> Result<H, String> {
    let field = |(name, value): &(&str, &str)| Field {
        name: Str::of(name.as_bytes()),
        value: Str::of(value.as_bytes()),
    };
    let args: Vec<Field> = args.iter().map(field).collect();
    let raw = Init {
        struct_size: size_of::<Init>(),
        mount: Str::EMPTY,
        args: args.as_ptr(),
        args_len: args.len(),
        worker: 0,
        workers: 1,
        threads: 1,
        reserved: 0,
        generation: 1,
        host_ctx: null_mut(),
    };
    super::guard::install(&TABLE);
    // SAFETY: the arguments outlive the value.
    H::init(&unsafe { super::init::Init::new(&TABLE, &raw, None) })
}

impl Desk {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn conclude(&self, status: Status) -> Response {
        let mut state = self.state();
        state.response.failed |= status != OK;
        if let Some(Pulled(iter)) = state.body.take() {
            drop(state);
            let outcome = self.pull(&iter);
            state = self.state();
            state.response.failed |= outcome != OK;
        }
        if state.detached {
            let wait = self
                .finished
                .wait_timeout_while(state, PATIENCE, |state| !state.finished);
            let (waited, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
            assert!(!timeout.timed_out(), "the detached response was not finished");
            state = waited;
        }
        std::mem::take(&mut state.response)
    }

    fn pull(&self, iter: &Iter) -> Status {
        let (Some(next), Some(close)) = (iter.next, iter.close) else {
            return E_INVALID;
        };
        let status = loop {
            let bell = Arc::new(Bell::default());
            let mut chunk = NO_CHUNK;
            // SAFETY: one thread, before close; the bell is freed by its ring.
            let status = unsafe {
                next(
                    iter.ctx,
                    &raw mut chunk,
                    Some(ring),
                    Arc::into_raw(bell.clone()) as *mut c_void,
                )
            };
            match status {
                OK => {
                    self.take(&chunk);
                    bell.unused();
                }
                AGAIN => assert!(bell.wait(), "the body did not wake the server"),
                other => {
                    bell.unused();
                    break other;
                }
            }
        };
        // SAFETY: once, after the last next.
        unsafe { close(iter.ctx) };
        if status == END { OK } else { status }
    }

    pub(super) fn take(&self, chunk: &Chunk) {
        // SAFETY: the chunk is valid until it is released.
        let bytes = unsafe {
            Str {
                ptr: chunk.ptr,
                len: chunk.len,
            }
            .bytes()
        };
        self.state().response.body.extend_from_slice(bytes);
        if let Some(release) = chunk.release {
            // SAFETY: once, after the last use of the bytes.
            unsafe { release(chunk.owner) };
        }
    }
}

const NO_CHUNK: Chunk = Chunk {
    ptr: null(),
    len: 0,
    release: None,
    owner: null_mut(),
};

#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn wait(&self) -> bool {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.heard.wait_timeout_while(rung, PATIENCE, |rung| !*rung);
        !wait.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Takes back the reference that was meant for the wake.
    fn unused(self: &Arc<Self>) {
        assert_eq!(Arc::strong_count(self), 2, "the body woke the server without an AGAIN");
        // SAFETY: `next` did not answer AGAIN, so nobody will ring.
        unsafe { Arc::decrement_strong_count(Arc::as_ptr(self)) };
    }
}

unsafe extern "C" fn ring(ctx: *mut c_void) {
    // SAFETY: rung once, with what `pull` passed.
    let bell = unsafe { Arc::from_raw(ctx.cast::<Bell>()) };
    *bell.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
    bell.heard.notify_all();
}
