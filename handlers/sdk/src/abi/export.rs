//! The entry points of a module: takes an [`Export`] from the `handler!` macro, gives its descriptor.
//!
//! Each checks its pointers and runs behind the panic guard. It knows nothing of HTTP.
#![allow(unsafe_code)]

use std::any::Any;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ptr::{NonNull, null_mut};

use super::call::{BorrowedCall, CallRef};
use super::guard::{guard, install, run};
use super::send::send;
use super::{
    ABI_MAJOR, ABI_MINOR, Call, E_FAILED, E_INVALID, FEATURE_DETACH, FEATURE_FILE, FEATURE_INFORMATIONAL, FEATURE_POLL,
    FEATURE_TRAILERS, FEATURE_UPGRADE, Host, Init, MAGIC, Module, OK, Status, Str, THREADS_MANY, THREADS_ONE,
    THREADS_PINNED,
};
use crate::handler::{Handler, Threads};
use crate::start_response::{Responder, StartResponse};
use crate::{Body, Environ};

/// The one symbol of a module, for an [`Export`]: the last step of `handler!`.
#[doc(hidden)]
#[macro_export]
macro_rules! module_symbol {
    ($exported:ident, $version:expr) => {
        static MODULE: $crate::abi::Module = $crate::abi::export::module::<$exported>(
            ::std::env!("CARGO_PKG_NAME"),
            $version,
            if ::std::cfg!(panic = "abort") {
                $crate::abi::PANIC_ABORT
            } else {
                $crate::abi::PANIC_UNWIND
            },
        );

        // SAFETY: a library with two modules does not link; no other symbol has this name.
        #[unsafe(no_mangle)]
        extern "C" fn appserver_module_v1() -> *const $crate::abi::Module {
            &raw const MODULE
        }
    };
}

/// What `handler!` tells of a module; nothing for handlers to implement by hand.
pub trait Export: 'static {
    /// What serves the requests.
    type Handler: Handler;
    /// Whether there is a `module_init`.
    const HAS_IMAGE: bool;
    /// Runs once per image.
    fn image(init: &crate::Init<'_>) -> ImageResult;
}

/// One worker's state of one mount.
struct Worker<H> {
    handler: H,
    host: &'static Host,
}

type Image = Box<dyn Any + Send + Sync>;

/// What `module_init` gives: the state of an image, or why there is none.
pub type ImageResult = Result<Box<dyn Any + Send + Sync>, String>;

/// The descriptor of a module.
pub const fn module<E: Export>(name: &'static str, version: &'static str, panic_strategy: u32) -> Module {
    Module {
        struct_size: size_of::<Module>(),
        magic: MAGIC,
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        min_host_minor: 0,
        threads: match E::Handler::THREADS {
            Threads::One => THREADS_ONE,
            Threads::Many => THREADS_MANY,
            Threads::Pinned => THREADS_PINNED,
        },
        panic_strategy,
        reserved: 0,
        required_features: 0,
        optional_features: FEATURE_TRAILERS
            | FEATURE_FILE
            | FEATURE_INFORMATIONAL
            | FEATURE_DETACH
            | FEATURE_UPGRADE
            | FEATURE_POLL,
        name: Str::of(name.as_bytes()),
        version: Str::of(version.as_bytes()),
        sdk_version: Str::of(env!("CARGO_PKG_VERSION").as_bytes()),
        compiler: Str::of(env!("APPSERVER_RUSTC").as_bytes()),
        module_init: if E::HAS_IMAGE { Some(module_init::<E>) } else { None },
        worker_init: Some(worker_init::<E>),
        worker_shutdown: Some(worker_shutdown::<E>),
        handle: Some(handle::<E>),
    }
}

unsafe extern "C" fn module_init<E: Export>(host: *const Host, init: *const Init, out: *mut *mut c_void) -> Status {
    // SAFETY: the server's table lives as long as the process, its init as long as this function.
    let (Some(host), Some(raw)) = (unsafe { host.as_ref() }, unsafe { init.as_ref() }) else {
        return E_INVALID;
    };
    start(host, raw, out, || {
        // SAFETY: raw and its arguments are valid until this function returns.
        let init = unsafe { crate::Init::new(host, raw, None) };
        let image: Image = E::image(&init)?;
        Ok(Box::into_raw(Box::new(image)).cast())
    })
}

unsafe extern "C" fn worker_init<E: Export>(
    host: *const Host,
    module: *mut c_void,
    init: *const Init,
    out: *mut *mut c_void,
) -> Status {
    // SAFETY: the server's table lives as long as the process, its init as long as this function.
    let (Some(host), Some(raw)) = (unsafe { host.as_ref() }, unsafe { init.as_ref() }) else {
        return E_INVALID;
    };
    start(host, raw, out, || {
        // SAFETY: null without a module_init, else the box that module_init gave, which is never freed.
        let image = unsafe { module.cast::<Image>().as_ref() }.filter(|_| E::HAS_IMAGE);
        // SAFETY: raw and its arguments are valid until this function returns.
        let init = unsafe { crate::Init::new(host, raw, image.map(|image| &**image)) };
        let handler = E::Handler::init(&init)?;
        Ok(Box::into_raw(Box::new(Worker { handler, host })).cast())
    })
}

/// What both init functions share: the checks, the guard, and the reason for the server.
fn start(
    host: &'static Host,
    init: &Init,
    out: *mut *mut c_void,
    build: impl FnOnce() -> Result<*mut c_void, String>,
) -> Status {
    // SAFETY: init_error is in every table of this major, and the message is valid for the call.
    let refuse = |reason: &str| unsafe { (host.init_error)(init, Str::of(reason.as_bytes())) };
    if out.is_null() || init.struct_size < size_of::<Init>() {
        return E_INVALID;
    }
    if host.abi_major != ABI_MAJOR || host.struct_size < size_of::<Host>() {
        refuse("this server's function table is older than the SDK that the module was built with; upgrade the server");
        return E_INVALID;
    }
    install(host);
    match run(null_mut(), build) {
        Some(Ok(state)) => {
            // SAFETY: checked above; the server gave a place for the pointer.
            unsafe { out.write(state) };
            OK
        }
        Some(Err(reason)) => {
            refuse(&reason);
            E_FAILED
        }
        None => {
            refuse("the module panicked in its init; the message is in the error log");
            super::E_PANIC
        }
    }
}

unsafe extern "C" fn worker_shutdown<E: Export>(_module: *mut c_void, worker: *mut c_void) {
    if worker.is_null() {
        return;
    }
    // SAFETY: the server gives back, once and after the last call, what worker_init made.
    let worker = unsafe { Box::from_raw(worker.cast::<Worker<E::Handler>>()) };
    run(null_mut(), || worker.handler.shutdown());
    run(null_mut(), || drop(worker));
}

unsafe extern "C" fn handle<E: Export>(_module: *mut c_void, worker: *mut c_void, call: *mut Call) -> Status {
    let (false, Some(call)) = (worker.is_null(), NonNull::new(call)) else {
        return E_INVALID;
    };
    // SAFETY: made by worker_init; shared only, as Handler is Sync.
    let worker = unsafe { &*worker.cast::<Worker<E::Handler>>() };
    guard(call.as_ptr(), || {
        // SAFETY: the server lends the call until this function returns.
        let call = unsafe { BorrowedCall::new(worker.host, call) };
        serve(&call, |environ, start_response| {
            worker.handler.call(environ, start_response)
        })
    })
}

/// Runs one call and hands its body to the server.
pub(super) fn serve(call: &CallRef, app: impl FnOnce(Environ, StartResponse<'_>) -> Body) -> Status {
    let environ = Environ::new(call.clone());
    // Of this frame, within which the server lends the call: only what a handler keeps has to be counted.
    let responder = ManuallyDrop::new(Responder::new(call.lend()));
    let body = StartResponse::scope(&responder, |start_response| app(environ, start_response));
    send(call, body)
}

/// Name and version of the server.
pub(crate) fn server(host: &'static Host) -> &'static str {
    // SAFETY: a table and its texts live as long as the process.
    std::str::from_utf8(unsafe { host.server.bytes() }).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use std::ptr::null_mut;

    use crate::{Body, Environ, Handler, Init, StartResponse, Threads, abi};

    struct Picky;

    impl Handler for Picky {
        const THREADS: Threads = Threads::Pinned;

        fn init(_init: &Init<'_>) -> Result<Picky, String> {
            Err("never good enough".to_owned())
        }

        fn call(&self, _environ: Environ, start_response: StartResponse<'_>) -> Body {
            start_response("200 OK", &[]);
            Body::empty()
        }
    }
    // A unit struct is a value as well as a type: the type must win.
    crate::handler!(Picky);

    unsafe extern "C" {
        fn appserver_module_v1() -> *const abi::Module;
    }

    fn module() -> &'static abi::Module {
        // SAFETY: the symbol is defined above, by the macro, and gives a static.
        unsafe { &*appserver_module_v1() }
    }

    #[test]
    fn the_descriptor_says_what_the_crate_and_the_handler_say() {
        let module = module();
        assert_eq!(
            (module.struct_size, module.magic),
            (size_of::<abi::Module>(), abi::MAGIC)
        );
        assert_eq!((module.abi_major, module.abi_minor), (abi::ABI_MAJOR, abi::ABI_MINOR));
        assert_eq!(
            (module.threads, module.panic_strategy),
            (abi::THREADS_PINNED, abi::PANIC_UNWIND)
        );
        // SAFETY: the texts of a descriptor are static.
        let text = |str: abi::Str| String::from_utf8_lossy(unsafe { str.bytes() }).into_owned();
        assert_eq!(text(module.name), env!("CARGO_PKG_NAME"));
        assert_eq!(text(module.version), env!("CARGO_PKG_VERSION"));
        assert!(text(module.compiler).starts_with("rustc "), "{}", text(module.compiler));
        assert!(module.module_init.is_none() && module.worker_init.is_some() && module.handle.is_some());
    }

    #[test]
    fn null_pointers_are_refused_and_not_followed() {
        let module = module();
        let mut out = null_mut();
        // SAFETY: every pointer that is not null is ours and valid.
        unsafe {
            let init = module.worker_init.expect("there is one");
            assert_eq!(
                init(std::ptr::null(), null_mut(), std::ptr::null(), &raw mut out),
                abi::E_INVALID
            );
            let handle = module.handle.expect("there is one");
            assert_eq!(handle(null_mut(), null_mut(), null_mut()), abi::E_INVALID);
            module.worker_shutdown.expect("there is one")(null_mut(), null_mut());
        }
        assert!(out.is_null());
    }
}
