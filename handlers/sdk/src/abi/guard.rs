//! The panic guard of every entry point: takes a closure, gives a status; the message goes to the server's log.
//!
//! The hook logs where the panic happened, so that a module built with `panic = "abort"` is heard too. It never lets a
//! panic leave the module, not even one from the destructor of a panic's payload.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::ptr::null_mut;
use std::sync::{Once, OnceLock};

use super::{Call, E_PANIC, Host, LOG_ERROR, Status, Str};

/// The process has one server; this is its table as this module image was given it.
static HOST: OnceLock<&'static Host> = OnceLock::new();
static HOOK: Once = Once::new();

thread_local! {
    /// The call that this thread works for, borrowed from the entry point below on the stack.
    static CURRENT: Cell<*mut Call> = const { Cell::new(null_mut()) };
    /// Set by the hook, so that the guard does not report the same panic a second time.
    static LOGGED: Cell<bool> = const { Cell::new(false) };
}

/// Remembers the server and sends the panics of this image to its log; the first time counts.
pub(super) fn install(host: &'static Host) {
    let _ = HOST.set(host);
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if HOST.get().is_some() {
                report(info);
            } else {
                previous(info);
            }
        }));
    });
}

/// Writes one line to the error log; before the server is known there is nowhere to write to.
pub(crate) fn log(call: *mut Call, level: i32, message: &str) {
    if let Some(host) = HOST.get() {
        // SAFETY: the call is null or alive, which CURRENT and the callers ensure; the message is valid for the call.
        unsafe { (host.log)(call, level, Str::of(message.as_bytes())) }
    }
}

/// Runs an entry point's work; a panic becomes `E_PANIC`.
pub(super) fn guard(call: *mut Call, work: impl FnOnce() -> Status) -> Status {
    run(call, work).unwrap_or(E_PANIC)
}

/// As [`guard`], for work that gives something else; `None` after a panic.
pub(super) fn run<T>(call: *mut Call, work: impl FnOnce() -> T) -> Option<T> {
    let outer = CURRENT.replace(call);
    let result = catch_unwind(AssertUnwindSafe(work));
    CURRENT.set(outer);
    match result {
        Ok(value) => Some(value),
        Err(payload) => {
            if !LOGGED.replace(false) {
                log(
                    call,
                    LOG_ERROR,
                    &format!("the handler panicked: {}", message(&*payload)),
                );
            }
            bury(payload);
            None
        }
    }
}

/// Runs something that must not keep others from running, as one closer of several; a panic is logged and ends here.
pub(crate) fn contain(work: impl FnOnce()) {
    run(CURRENT.get(), work);
}

fn report(info: &PanicHookInfo<'_>) {
    LOGGED.set(true);
    let place = info.location().map(|at| format!(" at {at}")).unwrap_or_default();
    let mut text = format!("the handler panicked{place}: {}", message(info.payload()));
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        text.push_str(&format!("\n{backtrace}"));
    }
    log(CURRENT.get(), LOG_ERROR, &text);
}

fn message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "(a payload that is not text)"
    }
}

/// A payload's destructor may panic as well, and that one's payload too: the second is leaked.
fn bury(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        LOGGED.set(false);
        std::mem::forget(second);
    }
}
