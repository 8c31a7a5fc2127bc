//! Faults: takes a path, gives a panic, a crash, an exit, a hang or a leak.
//!
//! The one write through a null pointer is what `/segv` is for.
#![allow(unsafe_code)]

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use appserver_handler::{Body, Environ, StartResponse};

use crate::answer::text;
use crate::{Lab, query::Query};

/// What `/leak` keeps.
static LEAKED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

pub fn panic(_: &Lab, _: Environ, _: &Query, _: StartResponse) -> Body {
    panic!("the lab panics, as asked");
}

/// A chunk, then a panic in the iterator.
pub fn panic_midway(_: &Lab, _: Environ, _: &Query, start_response: StartResponse) -> Body {
    start_response("200 OK", &[("Content-Type", "text/plain")]);
    let mut first = true;
    Body::iter(std::iter::from_fn(move || {
        assert!(std::mem::take(&mut first), "the lab panics midway, as asked");
        Some("before the panic\n")
    }))
}

pub fn segv(_: &Lab, _: Environ, _: &Query, _: StartResponse) -> Body {
    write_to_nowhere()
}

pub fn abort(_: &Lab, _: Environ, _: &Query, _: StartResponse) -> Body {
    std::process::abort()
}

/// `?code=`
pub fn exit(_: &Lab, _: Environ, query: &Query, _: StartResponse) -> Body {
    std::process::exit(i32::try_from(query.number("code", 0)).unwrap_or(0))
}

pub fn hang(_: &Lab, _: Environ, _: &Query, _: StartResponse) -> Body {
    never_return()
}

/// `?mib=`: touched, so that it counts as resident.
pub fn leak(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    let mib = query.number("mib", 1);
    let memory = vec![0xA5; usize::try_from(mib << 20).unwrap_or(0)];
    let mut leaked = LEAKED.lock().unwrap_or_else(PoisonError::into_inner);
    leaked.push(memory);
    let total: usize = leaked.iter().map(Vec::len).sum();
    text(&start_response, "200 OK", format!("{} MiB leaked\n", total >> 20))
}

pub fn write_to_nowhere() -> ! {
    // SAFETY: there is none: the address is not mapped and the process is meant to die of SIGSEGV here.
    unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
    std::process::abort()
}

pub fn never_return() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
