//! The way of a [`Body`] to the server: takes the body that a handler returned, gives one of the `body_*` calls.
//!
//! What the server calls back later (`next`, `close`, `release`) stands here too, each behind the panic guard. It sets
//! no headers and reads no file.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::call::CallRef;
use super::guard;
use super::{AGAIN, Chunk, E_FAILED, E_INVALID, END, File, Iter, LOG_ERROR, OK, Status, Wake};
use crate::body::{Body, BodyStream, Closers, Source};

/// Shorter chunks are copied by the server: that is cheaper than a box for their owner.
const COPY_BELOW: usize = 1024;

/// Gives the body to the server. On failure it is closed here.
pub(super) fn send(call: &CallRef, body: Body) -> Status {
    let (source, closers) = body.take_apart();
    match source {
        Source::Empty if closers.is_empty() => OK,
        Source::Empty => {
            // Carries the closers to the end of the response; after a detach they run here, and that is no failure.
            let _ = send_owned(call, Vec::new(), closers);
            OK
        }
        Source::Static(bytes) if closers.is_empty() => send_static(call, bytes),
        Source::Static(bytes) => send_owned(call, bytes.to_vec(), closers),
        Source::Bytes(bytes) if closers.is_empty() && bytes.len() < COPY_BELOW => send_copied(call, &bytes),
        Source::Bytes(bytes) => send_owned(call, bytes, closers),
        Source::Stream(stream) => send_stream(call, stream, closers),
        Source::File { file, offset, length } => {
            let fd = file.as_raw_fd();
            let ctx = Box::into_raw(Box::new((file, closers)));
            let file = File {
                struct_size: size_of::<File>(),
                fd,
                offset,
                length,
                ctx: ctx.cast(),
                close: Some(file_close),
            };
            // SAFETY: the descriptor is in the box that file_close frees.
            let status = unsafe { call.body_file(&file) };
            if status != OK {
                // SAFETY: on failure the box stays ours.
                drop(unsafe { Box::from_raw(ctx) });
            }
            status
        }
    }
}

fn send_static(call: &CallRef, bytes: &'static [u8]) -> Status {
    let chunk = Chunk {
        ptr: bytes.as_ptr(),
        len: bytes.len(),
        release: Some(release_nothing),
        owner: null_mut(),
    };
    // SAFETY: the bytes live as long as the image, and images are never unloaded.
    unsafe { call.body_bytes(&chunk) }
}

fn send_copied(call: &CallRef, bytes: &[u8]) -> Status {
    // SAFETY: without a release the server copies before it returns.
    unsafe { call.body_bytes(&copied(bytes)) }
}

fn send_owned(call: &CallRef, bytes: Vec<u8>, closers: Closers) -> Status {
    let chunk = owned(bytes, closers);
    // SAFETY: release_owned frees the bytes.
    let status = unsafe { call.body_bytes(&chunk) };
    if status != OK {
        // SAFETY: on failure the owner stays ours.
        unsafe { release_owned(chunk.owner) };
    }
    status
}

fn copied(bytes: &[u8]) -> Chunk {
    Chunk {
        ptr: bytes.as_ptr(),
        len: bytes.len(),
        release: None,
        owner: null_mut(),
    }
}

fn owned(bytes: Vec<u8>, closers: Closers) -> Chunk {
    let owner = Box::new((bytes, closers));
    Chunk {
        ptr: owner.0.as_ptr(),
        len: owner.0.len(),
        release: Some(release_owned),
        owner: Box::into_raw(owner).cast(),
    }
}

unsafe extern "C" fn release_nothing(_owner: *mut c_void) {}

unsafe extern "C" fn release_owned(owner: *mut c_void) {
    // SAFETY: the server passes back, once, what `owned` gave it.
    let owner = unsafe { Box::from_raw(owner.cast::<(Vec<u8>, Closers)>()) };
    guard::run(null_mut(), || drop(owner));
}

unsafe extern "C" fn file_close(ctx: *mut c_void) {
    // SAFETY: the server passes back, once, what `send` gave it.
    let owner = unsafe { Box::from_raw(ctx.cast::<(std::fs::File, Closers)>()) };
    guard::run(null_mut(), || drop(owner));
}

/// The context of an iterator that the server drives.
struct Stream {
    stream: Box<dyn BodyStream>,
    closers: Closers,
    /// A short chunk lies here while the server copies it.
    current: Vec<u8>,
    waiting: Option<Arc<HostWake>>,
    call: CallRef,
}

fn send_stream(call: &CallRef, stream: Box<dyn BodyStream>, closers: Closers) -> Status {
    let ctx = Box::into_raw(Box::new(Stream {
        stream,
        closers,
        current: Vec::new(),
        waiting: None,
        call: call.clone(),
    }));
    let iter = Iter {
        struct_size: size_of::<Iter>(),
        ctx: ctx.cast(),
        next: Some(stream_next),
        close: Some(stream_close),
    };
    // SAFETY: both functions take this box, from any thread since a BodyStream is Send.
    let status = unsafe { call.body_iter(&iter) };
    if status != OK {
        // SAFETY: on failure the box stays ours and nobody else has it.
        unsafe { stream_close(ctx.cast()) };
    }
    status
}

unsafe extern "C" fn stream_next(ctx: *mut c_void, out: *mut Chunk, wake: Wake, wake_ctx: *mut c_void) -> Status {
    if ctx.is_null() || out.is_null() {
        return E_INVALID;
    }
    // SAFETY: ctx is the box of send_stream, and the server never runs two at once.
    let this = unsafe { &mut *ctx.cast::<Stream>() };
    let call = this.call.raw();
    guard::guard(call, || {
        let signal = wake.map(|wake| Arc::new(HostWake::new(wake, wake_ctx)));
        let waker = signal.clone().map_or_else(|| Waker::noop().clone(), Waker::from);
        match this.stream.poll_next(&mut Context::from_waker(&waker)) {
            Poll::Pending => {
                if let Some(signal) = signal {
                    signal.arm();
                    this.waiting = Some(signal);
                }
                AGAIN
            }
            Poll::Ready(None) => END,
            Poll::Ready(Some(Ok(bytes))) => {
                let chunk = if bytes.len() < COPY_BELOW {
                    this.current = bytes;
                    copied(&this.current)
                } else {
                    owned(bytes, Closers::default())
                };
                // SAFETY: the server gave a place to write the chunk to.
                unsafe { out.write(chunk) };
                OK
            }
            Poll::Ready(Some(Err(error))) => {
                guard::log(call, LOG_ERROR, &format!("the response body failed: {error}"));
                E_FAILED
            }
        }
    })
}

unsafe extern "C" fn stream_close(ctx: *mut c_void) {
    // SAFETY: the server passes back, once, what send_stream gave it.
    let this = unsafe { Box::from_raw(ctx.cast::<Stream>()) };
    let Stream {
        stream,
        closers,
        waiting,
        call,
        ..
    } = *this;
    // The iterator goes before its closers run, and both go even if one of them panics.
    guard::run(call.raw(), || drop(stream));
    guard::run(call.raw(), || drop(closers));
    if let Some(signal) = waiting {
        signal.fire();
    }
}

/// The server's wake callback as a waker: however often and from wherever it is woken, the server hears it once for an
/// `AGAIN` and never without one.
struct HostWake {
    stage: AtomicU8,
    target: Mutex<Option<Target>>,
}

struct Target {
    wake: unsafe extern "C" fn(*mut c_void),
    ctx: *mut c_void,
}

// SAFETY: the ABI lets the callback be called on any thread.
unsafe impl Send for Target {}

/// `next` has not returned; a wake is remembered only.
const POLLING: u8 = 0;
/// Woken while `next` ran.
const EARLY: u8 = 1;
/// `next` answers AGAIN; the first wake goes through.
const ARMED: u8 = 2;

impl HostWake {
    fn new(wake: unsafe extern "C" fn(*mut c_void), ctx: *mut c_void) -> HostWake {
        HostWake {
            stage: AtomicU8::new(POLLING),
            target: Mutex::new(Some(Target { wake, ctx })),
        }
    }

    fn arm(&self) {
        if self.stage.swap(ARMED, Ordering::AcqRel) == EARLY {
            self.fire();
        }
    }

    fn fire(&self) {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Target { wake, ctx }) = target {
            // SAFETY: taken out of its place, so this is the one call for this AGAIN.
            unsafe { wake(ctx) };
        }
    }
}

impl std::task::Wake for HostWake {
    fn wake(self: Arc<Self>) {
        let before = self
            .stage
            .compare_exchange(POLLING, EARLY, Ordering::AcqRel, Ordering::Acquire);
        if before == Err(ARMED) {
            self.fire();
        }
    }
}
