//! Answers that take their time: takes milliseconds, gives an answer after them, or from another thread.
//!
//! It needs no runtime: a thread and a parked waker are enough.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use appserver_handler::{Body, Environ, Level, StartResponse, State};

use crate::answer::text;
use crate::{Lab, query::Query};

/// `?ms=`
pub fn sleep(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    let ms = query.number("ms", 0);
    thread::sleep(Duration::from_millis(ms));
    text(&start_response, "200 OK", format!("slept {ms} ms\n"))
}

/// `?ms=`
pub fn spin(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    let ms = query.number("ms", 0);
    let until = Instant::now() + Duration::from_millis(ms);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    text(&start_response, "200 OK", format!("spun {ms} ms\n"))
}

/// How long every call of `/paced` takes from now on, in milliseconds.
static PACE: AtomicU64 = AtomicU64::new(0);

/// `?ms=`: sets the pace of `/paced`, whose request is the same whatever its pace.
pub fn pace(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    let ms = query.number("ms", 0);
    PACE.store(ms, Ordering::Relaxed);
    text(&start_response, "200 OK", format!("{ms} ms\n"))
}

/// Takes its pace, then tells whose thread it was given: `inline` or `pool`.
pub fn paced(_: &Lab, _: Environ, _: &Query, start_response: StartResponse) -> Body {
    text(&start_response, "200 OK", at_pace())
}

/// `?chunks=`: returns at once; then each chunk takes its pace, and tells whose thread it was given.
pub fn paced_chunks(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    start_response("200 OK", &[("Content-Type", "text/plain")]);
    Body::iter((0..query.number("chunks", 1)).map(|_| at_pace()))
}

fn at_pace() -> String {
    let ms = PACE.load(Ordering::Relaxed);
    if ms > 0 {
        thread::sleep(Duration::from_millis(ms));
    }
    // The first thread of a process has the process's number (gettid(2)), and it is the I/O thread.
    let link = std::fs::read_link("/proc/thread-self").unwrap_or_default();
    let first = link
        .file_name()
        .is_some_and(|tid| tid == std::process::id().to_string().as_str());
    if first { "inline\n" } else { "pool\n" }.to_owned()
}

/// `?ms=&fail=&tell=`: with `fail` the response is dropped unfinished; with `tell` the error log says when it is detached.
pub fn detach(_: &Lab, environ: Environ, query: &Query, start_response: StartResponse) -> Body {
    let delay = Duration::from_millis(query.number("ms", 0));
    let fail = query.flag("fail");
    let response = start_response.detach();
    if query.flag("tell") {
        environ.log(Level::Info, "the lab has detached its response");
    }
    thread::spawn(move || {
        thread::sleep(delay);
        if fail {
            return;
        }
        let done = response
            .start("200 OK", &[("Content-Type", "text/plain")])
            .and_then(|()| response.write("answered from another thread\n"));
        match done {
            Ok(()) => drop(response.finish()),
            Err(error) => drop(response.fail(format_args!("/detach: {error}"))),
        }
    });
    Body::empty()
}

/// What `/state` reported last: the client that is gone cannot be told.
static LAST: Mutex<&str> = Mutex::new("none");

/// `?ms=`: waits so long for the state to change, then reports it; `?last=1` tells what was reported before.
pub fn state(_: &Lab, environ: Environ, query: &Query, start_response: StartResponse) -> Body {
    if query.flag("last") {
        let last = *LAST.lock().unwrap_or_else(PoisonError::into_inner);
        return text(&start_response, "200 OK", format!("{last}\n"));
    }
    let until = Instant::now() + Duration::from_millis(query.number("ms", 0));
    let waker = Waker::from(Arc::new(Parked(thread::current())));
    while environ.state() == State::Here {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        if environ.poll_state(&mut Context::from_waker(&waker)) == Poll::Pending {
            thread::park_timeout(left);
        }
    }
    let state = match environ.state() {
        State::Here => "here",
        State::HalfClosed => "half-closed",
        State::Gone => "gone",
    };
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = state;
    environ.log(Level::Info, format_args!("the lab sees the client {state}"));
    text(&start_response, "200 OK", format!("{state}\n"))
}

struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
