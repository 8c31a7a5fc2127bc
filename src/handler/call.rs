//! One call across the boundary: the table of functions a handler may call, over whatever carries the request.
//!
//! Takes pointers from a plugin, checks them at the edge, gives safe values to an [`Exchange`], and turns what it says back
//! into a status code. It knows neither HTTP nor sockets nor what a status line may hold: that is the gateway's.
//! The opaque `appserver_call` is an `Arc<E>` turned raw: `call_retain` and `call_release` are its count.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::Arc;
use std::task::Waker;

use appserver_handler::abi::{self, Chunk, File, Host, Iter, Status, Str, Wake};
use bytes::Bytes;

use super::{cache, functions};

/// A wake callback and its context. It is called exactly once, when dropped, by a function that answered AGAIN;
/// one that did not declines it.
pub struct Waking {
    wake: unsafe extern "C" fn(*mut c_void),
    ctx: *mut c_void,
}

// SAFETY: the ABI allows a wake to be called on any thread; the context is only passed back.
unsafe impl Send for Waking {}

impl Waking {
    /// `None` without a callback.
    pub(super) fn new(wake: Wake, ctx: *mut c_void) -> Option<Self> {
        Some(Self { wake: wake?, ctx })
    }
}

impl Waking {
    /// Gives the wake back unused: the function that was passed it does not answer AGAIN.
    pub fn decline<T>(self, answer: T) -> T {
        std::mem::forget(self);
        answer
    }
}

impl Drop for Waking {
    fn drop(&mut self) {
        // SAFETY: the plugin promised a callback that may be called once, on any thread, until it was called.
        unsafe { (self.wake)(self.ctx) }
    }
}

/// A handler's iterator body: `next` until it ends, then `close`, exactly once (also when dropped early).
pub struct Chunks {
    raw: Iter,
}

// SAFETY: the ABI says that next and close may run on any thread, never two at once; `&mut self` holds the latter.
unsafe impl Send for Chunks {}

/// What an iterator said.
pub enum Next {
    /// A piece of the body.
    Chunk(Bytes),
    /// No more.
    End,
    /// Nothing yet; the wake will be called.
    Again,
    /// The handler failed; the status it gave.
    Failed(Status),
}

impl Chunks {
    pub(super) fn new(raw: Iter) -> Self {
        Self { raw }
    }

    /// Gives the iterator back to the plugin unclosed.
    pub(super) fn disown(self) {
        std::mem::forget(self);
    }

    /// Asks for the next chunk; `waker` is woken once if the answer is [`Next::Again`].
    pub fn next(&mut self, waker: &Waker) -> Next {
        unsafe extern "C" fn wake(ctx: *mut c_void) {
            // SAFETY: `ctx` came from `Box::into_raw` below, and a wake is called once.
            let waker = unsafe { Box::from_raw(ctx.cast::<Waker>()) };
            waker.wake();
        }
        let Some(next) = self.raw.next else { return Next::End };
        let mut out = Chunk {
            ptr: std::ptr::null(),
            len: 0,
            release: None,
            owner: std::ptr::null_mut(),
        };
        let ctx = Box::into_raw(Box::new(waker.clone()));
        // SAFETY: both pointers are valid, and the plugin calls `wake` only when it answers AGAIN.
        let status = unsafe { next(self.raw.ctx, &mut out, Some(wake), ctx.cast()) };
        if status == abi::AGAIN {
            return Next::Again;
        }
        // SAFETY: without AGAIN the plugin did not keep the context, so the box is still ours.
        drop(unsafe { Box::from_raw(ctx) });
        match status {
            // SAFETY: the plugin filled `out` with bytes that are valid now.
            abi::OK => match unsafe { adopt(&out) } {
                Some(bytes) => Next::Chunk(bytes),
                None => Next::Failed(abi::E_INVALID),
            },
            abi::END => Next::End,
            failure => Next::Failed(failure),
        }
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        if let Some(close) = self.raw.close {
            // SAFETY: called once, here only, after the last next.
            unsafe { close(self.raw.ctx) }
        }
    }
}

/// A handler's file body: the range to send; `close` is called when dropped.
pub struct FileRange {
    raw: File,
}

// SAFETY: the descriptor is a number and close may run on any thread.
unsafe impl Send for FileRange {}
// SAFETY: nothing is changed through a shared reference.
unsafe impl Sync for FileRange {}

impl FileRange {
    pub(super) fn new(raw: File) -> Self {
        Self { raw }
    }

    /// Gives the file back to the plugin unclosed.
    pub(super) fn disown(self) {
        std::mem::forget(self);
    }

    /// The descriptor, open until drop.
    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        // SAFETY: the plugin keeps it open until close is called, which is in drop.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.raw.fd) }
    }

    /// First byte.
    pub fn offset(&self) -> u64 {
        self.raw.offset
    }

    /// Number of bytes; `u64::MAX` means to the end of the file.
    pub fn length(&self) -> u64 {
        self.raw.length
    }
}

impl Drop for FileRange {
    fn drop(&mut self) {
        if let Some(close) = self.raw.close {
            // SAFETY: called once, here only.
            unsafe { close(self.raw.ctx) }
        }
    }
}

/// A name and a value.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

/// What carries one request and its response; implemented by the gateway. Every method may be called on any thread.
pub trait Exchange: Send + Sync + 'static {
    /// Writes to the error log with the request's id.
    fn log(&self, level: i32, message: &[u8]);
    /// One environ value.
    fn environ_get(&self, key: &[u8]) -> Option<&[u8]>;
    /// The environ by index.
    fn environ_at(&self, index: usize) -> Option<(&[u8], &[u8])>;
    /// The method as sent.
    fn method(&self) -> &[u8];
    /// The target as sent.
    fn target(&self) -> &[u8];
    /// The request's fields by index.
    fn field_at(&self, index: usize) -> Option<(&[u8], &[u8])>;
    /// The request's trailers by index; an error before the input has ended.
    fn trailer_at(&self, index: usize) -> Result<Option<Pair<'_>>, Status>;
    /// ns of CLOCK_MONOTONIC, 0 for none.
    fn deadline(&self) -> u64;
    /// `STATE_*`.
    fn state(&self) -> Status;
    /// Waits for a change of the state.
    fn state_poll(&self, waking: Waking) -> Status;
    /// Reads the body, blocking: how many bytes, 0 at the end.
    fn input_read(&self, buf: &mut [u8]) -> Result<usize, Status>;
    /// Reads the body; `AGAIN` keeps the waking.
    fn input_poll(&self, buf: &mut [u8], waking: Option<Waking>) -> Result<usize, Status>;
    /// Sets the head.
    fn start_response(
        &self,
        status: &[u8],
        fields: &mut dyn Iterator<Item = (&[u8], &[u8])>,
        exc_info: Option<&[u8]>,
    ) -> Status;
    /// Sends an interim response.
    fn informational(&self, status: u32, fields: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Status;
    /// Sets the trailers.
    fn trailers(&self, fields: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Status;
    /// Appends to the body, blocking.
    fn write(&self, bytes: &[u8]) -> Status;
    /// Appends to the body; how many bytes were taken, or `AGAIN`.
    fn write_poll(&self, bytes: &[u8], waking: Option<Waking>) -> Result<usize, Status>;
    /// The rest of the body; it is taken over only when it is accepted.
    fn body_bytes(&self, take: &mut dyn FnMut() -> Bytes) -> Status;
    /// The rest of the body; given back when refused.
    fn body_iter(&self, chunks: Chunks) -> Result<(), (Status, Chunks)>;
    /// The rest of the body; given back when refused.
    fn body_file(&self, file: FileRange) -> Result<(), (Status, FileRange)>;
    /// The response is finished later.
    fn detach(&self) -> Status;
    /// The response is finished.
    fn finish(&self, outcome: Status) -> Status;
    /// Answers 101.
    fn upgrade(&self, fields: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Status;
    /// `wsgi.errors`.
    fn errors_write(&self, bytes: &[u8]) -> Status;
    /// The plugin holds one more reference.
    fn retained(&self);
    /// The plugin let go of one reference.
    fn released(&self);
}

/// Gives the call to a plugin for the time of `run`.
pub fn lend<E: Exchange, R>(call: &Arc<E>, run: impl FnOnce(*mut abi::Call) -> R) -> R {
    run(Arc::as_ptr(call).cast_mut().cast())
}

/// The function table over a kind of exchange.
pub struct Table<E>(std::marker::PhantomData<E>);

impl<E: Exchange> Table<E> {
    /// The table; it lives as long as the process.
    pub fn host() -> &'static Host {
        if cache::is_there() {
            Self::WITH_CACHE
        } else {
            Self::PLAIN
        }
    }

    const PLAIN: &'static Host = &Self::make(super::FEATURES, std::ptr::null());
    const WITH_CACHE: &'static Host = &Self::make(super::FEATURES | abi::FEATURE_CACHE, &raw const cache::TABLE);

    const fn make(features: u64, cache: *const abi::Cache) -> Host {
        Host {
            struct_size: size_of::<Host>(),
            abi_major: abi::ABI_MAJOR,
            abi_minor: abi::ABI_MINOR,
            features,
            server: Str::of(super::SERVER.as_bytes()),
            log: functions::log::<E>,
            init_error: functions::init_error,
            call_retain: functions::call_retain::<E>,
            call_release: functions::call_release::<E>,
            environ_get: functions::environ_get::<E>,
            environ_at: functions::environ_at::<E>,
            method: functions::method::<E>,
            target: functions::target::<E>,
            field_at: functions::field_at::<E>,
            trailer_at: functions::trailer_at::<E>,
            deadline: functions::deadline::<E>,
            state: functions::state::<E>,
            state_poll: functions::state_poll::<E>,
            input_read: functions::input_read::<E>,
            input_poll: functions::input_poll::<E>,
            start_response: functions::start_response::<E>,
            informational: functions::informational::<E>,
            trailers: functions::trailers::<E>,
            write: functions::write::<E>,
            write_poll: functions::write_poll::<E>,
            body_bytes: functions::body_bytes::<E>,
            body_iter: functions::body_iter::<E>,
            body_file: functions::body_file::<E>,
            detach: functions::detach::<E>,
            finish: functions::finish::<E>,
            upgrade: functions::upgrade::<E>,
            errors_write: functions::errors_write::<E>,
            cache,
            metrics: std::ptr::null(),
            tasks: std::ptr::null(),
            reserved: [std::ptr::null(); 5],
        }
    }
}

/// The bytes of a chunk as the server's own: shared with the plugin until the last copy goes, or copied.
///
/// # Safety
/// `chunk` must hold what the ABI promises of a chunk.
pub(super) unsafe fn adopt(chunk: &Chunk) -> Option<Bytes> {
    if chunk.ptr.is_null() && chunk.len != 0 {
        return None;
    }
    // SAFETY: promised by the caller.
    let bytes: &'static [u8] = unsafe {
        Str {
            ptr: chunk.ptr,
            len: chunk.len,
        }
        .bytes()
    };
    match chunk.release {
        None => Some(Bytes::copy_from_slice(bytes)),
        Some(release) => Some(Bytes::from_owner(Owned {
            bytes,
            release,
            owner: chunk.owner,
        })),
    }
}

/// Bytes of a plugin, kept alive by it.
struct Owned {
    bytes: &'static [u8],
    release: unsafe extern "C" fn(*mut c_void),
    owner: *mut c_void,
}

// SAFETY: the ABI lets the bytes be read and released on any thread.
unsafe impl Send for Owned {}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: called once, here only, when no copy of the bytes is left.
        unsafe { (self.release)(self.owner) }
    }
}
