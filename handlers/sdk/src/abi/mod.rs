//! What crosses between the server and a handler: plain C structs and function pointers, nothing else.
//!
//! This is `include/appserver.h` in Rust; the header is the specification and a test compares the layouts.
//! Rules: strings are pointer and length; `struct_size` stands first in every struct that may grow; fields are only
//! appended; who creates a thing frees it; status codes cross, unwinding never does. It holds no logic.
#![allow(unsafe_code)]

pub mod cache;
pub(crate) mod call;
pub(crate) mod clock;
mod desk;
#[doc(hidden)]
pub mod export;
pub(crate) mod guard;
pub(crate) mod init;
mod send;
pub(crate) mod testing;

pub use cache::{Cache, E_BUSY, FEATURE_CACHE, PURGE_KEY, PURGE_PREFIX, PURGE_TAG};
use std::ffi::c_void;

/// First field of a descriptor after its size: `APPSERVR` read as a little-endian number.
pub const MAGIC: u64 = u64::from_le_bytes(*b"APPSERVR");
/// Another major is refused by either side.
pub const ABI_MAJOR: u32 = 1;
/// Grows when something was appended.
pub const ABI_MINOR: u32 = 1;
/// The one symbol that a module exports: `const appserver_module *appserver_module_v1(void)`.
pub const ENTRY: &str = "appserver_module_v1";

/// Outcome of a call across the boundary; negative is a failure.
pub type Status = i32;
/// Done.
pub const OK: Status = 0;
/// Would block; the wake callback that was passed will be called exactly once.
pub const AGAIN: Status = 1;
/// The end of a sequence: of the input, of an iteration, of the environ.
pub const END: Status = 2;
/// No such key.
pub const ABSENT: Status = 3;
/// Not allowed at this point of the call.
pub const E_STATE: Status = -1;
/// A malformed status, header or argument.
pub const E_INVALID: Status = -2;
/// The client ended its request body early.
pub const E_TRUNCATED: Status = -3;
/// The request body is over `limits.body`.
pub const E_TOO_LARGE: Status = -4;
/// A deadline passed.
pub const E_TIMEOUT: Status = -5;
/// The client is gone, or the call has ended.
pub const E_GONE: Status = -6;
/// The server cannot do that on this connection.
pub const E_UNSUPPORTED: Status = -7;
/// The handler failed; the reason went to the log.
pub const E_FAILED: Status = -8;
/// The handler panicked; the message went to the log.
pub const E_PANIC: Status = -9;

/// `threads`: calls of one worker never overlap; `wsgi.multithread` is false.
pub const THREADS_ONE: u32 = 0;
/// `threads`: calls may run on any threads at once.
pub const THREADS_MANY: u32 = 1;
/// `threads`: every call of a worker runs on one and the same thread, the one that ran `worker_init`.
pub const THREADS_PINNED: u32 = 2;

/// `panic_strategy`: the language has no panics.
pub const PANIC_NONE: u32 = 0;
/// `panic_strategy`: panics unwind and are caught inside the module.
pub const PANIC_UNWIND: u32 = 1;
/// `panic_strategy`: a panic ends the worker.
pub const PANIC_ABORT: u32 = 2;

/// Feature bit: request and response trailers.
pub const FEATURE_TRAILERS: u64 = 1;
/// Feature bit: `body_file`.
pub const FEATURE_FILE: u64 = 1 << 1;
/// Feature bit: `informational`.
pub const FEATURE_INFORMATIONAL: u64 = 1 << 2;
/// Feature bit: `detach` and `finish`.
pub const FEATURE_DETACH: u64 = 1 << 3;
/// Feature bit: `upgrade`.
pub const FEATURE_UPGRADE: u64 = 1 << 4;
/// Feature bit: the would-block forms.
pub const FEATURE_POLL: u64 = 1 << 5;

/// `state`: the client is connected and may still send.
pub const STATE_HERE: Status = 0;
/// `state`: the client has sent a FIN; it may still read.
pub const STATE_HALF_CLOSED: Status = 1;
/// `state`: the connection is gone; nothing can be delivered any more.
pub const STATE_GONE: Status = 2;

/// `log`: severities.
pub const LOG_ERROR: i32 = 1;
/// See [`LOG_ERROR`].
pub const LOG_WARN: i32 = 2;
/// See [`LOG_ERROR`].
pub const LOG_INFO: i32 = 3;
/// See [`LOG_ERROR`].
pub const LOG_DEBUG: i32 = 4;
/// See [`LOG_ERROR`].
pub const LOG_TRACE: i32 = 5;

/// Borrowed bytes; not NUL-terminated, not necessarily UTF-8. `ptr` may be null only when `len` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Str {
    /// First byte.
    pub ptr: *const u8,
    /// Number of bytes.
    pub len: usize,
}

/// A header or trailer field, or a module argument.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Field name.
    pub name: Str,
    /// Field value.
    pub value: Str,
}

/// Called by the server exactly once for every `AGAIN`, on any thread, also when the call ends. Must not block.
pub type Wake = Option<unsafe extern "C" fn(ctx: *mut c_void)>;

/// Bytes of a body. With `release` they stay the handler's until the server calls `release(owner)`, once, on any
/// thread; without it the server copies them before the function returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Chunk {
    /// First byte.
    pub ptr: *const u8,
    /// Number of bytes; 0 is allowed and sends nothing.
    pub len: usize,
    /// Frees `owner`, or null.
    pub release: Option<unsafe extern "C" fn(owner: *mut c_void)>,
    /// What keeps the bytes alive.
    pub owner: *mut c_void,
}

/// A body that yields chunks. `next` and `close` may run on another thread than the call, never two at once.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Iter {
    /// `sizeof(appserver_iter)`.
    pub struct_size: usize,
    /// Passed to both functions.
    pub ctx: *mut c_void,
    /// `OK` and a chunk, `END`, `AGAIN` (then `wake` must be called once), or a failure.
    pub next:
        Option<unsafe extern "C" fn(ctx: *mut c_void, out: *mut Chunk, wake: Wake, wake_ctx: *mut c_void) -> Status>,
    /// Called exactly once, whatever happens.
    pub close: Option<unsafe extern "C" fn(ctx: *mut c_void)>,
}

/// A body that is a range of a file, sent by sendfile(2) where the connection allows it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct File {
    /// `sizeof(appserver_file)`.
    pub struct_size: usize,
    /// An open descriptor of a regular file; it stays the handler's until `close`.
    pub fd: i32,
    /// First byte to send.
    pub offset: u64,
    /// Number of bytes, or `u64::MAX` for all to the end of the file.
    pub length: u64,
    /// Passed to `close`.
    pub ctx: *mut c_void,
    /// Called exactly once when the server has done with the file.
    pub close: Option<unsafe extern "C" fn(ctx: *mut c_void)>,
}

/// What an init function is told.
#[repr(C)]
pub struct Init {
    /// `sizeof(appserver_init)`.
    pub struct_size: usize,
    /// The mount's URL prefix, which becomes SCRIPT_NAME; empty in `module_init`.
    pub mount: Str,
    /// The mount's arguments, sorted by name; none in `module_init`.
    pub args: *const Field,
    /// Number of arguments.
    pub args_len: usize,
    /// The worker's number, counted from 1, as in the logs; 0 in `module_init`.
    pub worker: u32,
    /// Number of workers the server was asked to run.
    pub workers: u32,
    /// Most threads that may call at once.
    pub threads: u32,
    /// Keeps the struct free of padding.
    pub reserved: u32,
    /// Generation of the module image, counted from 1.
    pub generation: u64,
    /// The server's; pass it back with `init_error`.
    pub host_ctx: *mut c_void,
}

/// One request and its response. Opaque, reference-counted, usable from any thread.
#[repr(C)]
pub struct Call {
    _opaque: [u8; 0],
    _not_send: std::marker::PhantomData<(*mut u8, std::marker::PhantomPinned)>,
}

/// The functions of the server. Valid as long as the process lives.
#[repr(C)]
pub struct Host {
    /// `sizeof(appserver_host)` of the server.
    pub struct_size: usize,
    /// The server's ABI major.
    pub abi_major: u32,
    /// The server's ABI minor.
    pub abi_minor: u32,
    /// What this server can do (`FEATURE_*`).
    pub features: u64,
    /// Name and version, as in the Server header: `appserver/0.1.0`.
    pub server: Str,

    /// Writes to the error log; `call` may be null.
    pub log: unsafe extern "C" fn(call: *mut Call, level: i32, message: Str),
    /// Tells why an init function failed; before it returns.
    pub init_error: unsafe extern "C" fn(init: *const Init, message: Str),

    /// One more owner of the call.
    pub call_retain: unsafe extern "C" fn(call: *mut Call),
    /// One owner less. A detached call released by its last owner without `finish` has failed.
    pub call_release: unsafe extern "C" fn(call: *mut Call),

    /// The value of one environ key, built when asked for; valid until the call is freed. `OK` or `ABSENT`.
    pub environ_get: unsafe extern "C" fn(call: *mut Call, key: Str, value: *mut Str) -> Status,
    /// The environ by index; `END` past the last.
    pub environ_at: unsafe extern "C" fn(call: *mut Call, index: usize, key: *mut Str, value: *mut Str) -> Status,

    /// The method as sent.
    pub method: unsafe extern "C" fn(call: *mut Call, value: *mut Str) -> Status,
    /// The request target as sent.
    pub target: unsafe extern "C" fn(call: *mut Call, value: *mut Str) -> Status,
    /// Request fields in the order sent, repeats included; `END` past the last.
    pub field_at: unsafe extern "C" fn(call: *mut Call, index: usize, field: *mut Field) -> Status,
    /// Request trailers; `E_STATE` before the input has ended, `END` past the last.
    pub trailer_at: unsafe extern "C" fn(call: *mut Call, index: usize, field: *mut Field) -> Status,
    /// When the call must have answered, in ns of CLOCK_MONOTONIC; 0 when nothing bounds it.
    pub deadline: unsafe extern "C" fn(call: *mut Call) -> u64,
    /// `STATE_HERE`, `STATE_HALF_CLOSED` or `STATE_GONE`.
    pub state: unsafe extern "C" fn(call: *mut Call) -> Status,
    /// `AGAIN` and a wake when the state changes from what it is now; `OK` when it is `STATE_GONE` already.
    pub state_poll: unsafe extern "C" fn(call: *mut Call, wake: Wake, ctx: *mut c_void) -> Status,

    /// Reads the request body; blocks. `OK` with at least a byte, `END`, or a failure.
    pub input_read: unsafe extern "C" fn(call: *mut Call, buf: *mut u8, len: usize, got: *mut usize) -> Status,
    /// Like `input_read`, but `AGAIN` instead of blocking.
    pub input_poll: unsafe extern "C" fn(
        call: *mut Call,
        buf: *mut u8,
        len: usize,
        got: *mut usize,
        wake: Wake,
        ctx: *mut c_void,
    ) -> Status,

    /// Sets status and headers. Takes effect once; with `exc_info` (a message, logged) it replaces them before the first
    /// body byte and aborts the response after it (PEP 3333).
    pub start_response: unsafe extern "C" fn(
        call: *mut Call,
        status: Str,
        fields: *const Field,
        fields_len: usize,
        exc_info: *const Str,
    ) -> Status,
    /// Sends an interim response (100 to 199, not 101) at once.
    pub informational:
        unsafe extern "C" fn(call: *mut Call, status: u32, fields: *const Field, fields_len: usize) -> Status,
    /// Sets the trailers; before the body ends.
    pub trailers: unsafe extern "C" fn(call: *mut Call, fields: *const Field, fields_len: usize) -> Status,

    /// Appends to the body; blocks while the client does not read.
    pub write: unsafe extern "C" fn(call: *mut Call, bytes: *const u8, len: usize) -> Status,
    /// Like `write`, but takes what it can (`OK`, `taken` > 0) or `AGAIN`.
    pub write_poll: unsafe extern "C" fn(
        call: *mut Call,
        bytes: *const u8,
        len: usize,
        taken: *mut usize,
        wake: Wake,
        ctx: *mut c_void,
    ) -> Status,
    /// The whole (rest of the) body in one buffer. At most one of the `body_*` functions a call. On failure `release` was
    /// not called and the bytes stay the handler's.
    pub body_bytes: unsafe extern "C" fn(call: *mut Call, chunk: *const Chunk) -> Status,
    /// The (rest of the) body as an iterator. On failure `close` was not called and stays the handler's.
    pub body_iter: unsafe extern "C" fn(call: *mut Call, iter: *const Iter) -> Status,
    /// The (rest of the) body as a file range. On failure `close` was not called and stays the handler's.
    pub body_file: unsafe extern "C" fn(call: *mut Call, file: *const File) -> Status,

    /// From inside `handle`: the response is finished later, from any thread that holds a reference.
    pub detach: unsafe extern "C" fn(call: *mut Call) -> Status,
    /// Ends a detached response; a failure status becomes a 500, or cuts a response that was begun.
    pub finish: unsafe extern "C" fn(call: *mut Call, outcome: Status) -> Status,
    /// Answers 101 with these fields; from then on input and write move raw bytes until `finish`. Detaches.
    pub upgrade: unsafe extern "C" fn(call: *mut Call, fields: *const Field, fields_len: usize) -> Status,
    /// Writes to `wsgi.errors`: the error log, with the request id.
    pub errors_write: unsafe extern "C" fn(call: *mut Call, bytes: Str) -> Status,

    /// The shared cache's table; null = absent.
    pub cache: *const Cache,
    /// Reserved for the metrics table; null = absent.
    pub metrics: *const c_void,
    /// Reserved for the tasks table; null = absent.
    pub tasks: *const c_void,
    /// Reserved; null.
    pub reserved: [*const c_void; 5],
}

/// What a module says of itself.
#[repr(C)]
pub struct Module {
    /// `sizeof(appserver_module)` of the module.
    pub struct_size: usize,
    /// [`MAGIC`].
    pub magic: u64,
    /// The ABI it was built for.
    pub abi_major: u32,
    /// The ABI it was built for.
    pub abi_minor: u32,
    /// The least minor of a server that can run it.
    pub min_host_minor: u32,
    /// `THREADS_*`.
    pub threads: u32,
    /// `PANIC_*`.
    pub panic_strategy: u32,
    /// Keeps the struct free of padding; 0.
    pub reserved: u32,
    /// Features it cannot do without; an unknown one is refused.
    pub required_features: u64,
    /// Features it would use.
    pub optional_features: u64,
    /// The module's name.
    pub name: Str,
    /// The module's version.
    pub version: Str,
    /// The SDK's version; empty without one.
    pub sdk_version: Str,
    /// The compiler; for the log.
    pub compiler: Str,
    /// Once per image, before any fork of the template; may be null. Starts no thread.
    pub module_init:
        Option<unsafe extern "C" fn(host: *const Host, init: *const Init, module: *mut *mut c_void) -> Status>,
    /// Once per worker and mount, after the fork; may be null.
    pub worker_init: Option<
        unsafe extern "C" fn(
            host: *const Host,
            module: *mut c_void,
            init: *const Init,
            worker: *mut *mut c_void,
        ) -> Status,
    >,
    /// After the drain; may be null.
    pub worker_shutdown: Option<unsafe extern "C" fn(module: *mut c_void, worker: *mut c_void)>,
    /// Serves one request. Must not be null. The call is borrowed until it returns (see `call_retain`).
    pub handle: Option<unsafe extern "C" fn(module: *mut c_void, worker: *mut c_void, call: *mut Call) -> Status>,
}

/// The type of the exported symbol.
pub type Entry = unsafe extern "C" fn() -> *const Module;

// SAFETY: a descriptor and a host table are immutable data that live as long as the process.
unsafe impl Sync for Module {}
// SAFETY: as above.
unsafe impl Sync for Host {}

impl Str {
    /// No bytes.
    pub const EMPTY: Str = Str {
        ptr: std::ptr::null(),
        len: 0,
    };

    /// Borrows `bytes`.
    pub const fn of(bytes: &[u8]) -> Str {
        Str {
            ptr: bytes.as_ptr(),
            len: bytes.len(),
        }
    }

    /// The bytes.
    ///
    /// # Safety
    /// `ptr` and `len` must describe bytes that stay valid and unchanged for `'a`.
    pub const unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
}
