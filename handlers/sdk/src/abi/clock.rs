//! The clock that deadlines are told in: takes nothing, gives nanoseconds of CLOCK_MONOTONIC (clock_gettime(2)).
//!
//! The standard library keeps the number behind `Instant` to itself, and the SDK has no dependency to ask instead.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};

#[repr(C)]
struct Timespec {
    seconds: c_long,
    nanoseconds: c_long,
}

const CLOCK_MONOTONIC: c_int = 1;

unsafe extern "C" {
    fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
}

/// Now, in ns.
pub(crate) fn monotonic_ns() -> u64 {
    let mut time = Timespec {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: the place is ours and has the layout that the C library of a 64-bit Linux expects.
    unsafe { clock_gettime(CLOCK_MONOTONIC, &raw mut time) };
    time.seconds as u64 * 1_000_000_000 + time.nanoseconds as u64
}
