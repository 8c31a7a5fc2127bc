//! The clock that every deadline and every age is measured with.
//!
//! Takes nothing; gives nanoseconds of CLOCK_MONOTONIC, which all processes of one machine share, so that a time
//! written by a worker can be compared by the master. Wall-clock time is told, never measured with.
#![allow(unsafe_code)]

use std::time::Duration;

/// Nanoseconds of CLOCK_MONOTONIC (clock_gettime(2)).
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec that the call only writes; CLOCK_MONOTONIC exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Seconds since 1970 as the last tick of the kernel knew them (CLOCK_REALTIME_COARSE): at most some milliseconds late, and
/// several times cheaper than the exact time.
pub fn unix_seconds_coarse() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec that the call only writes; the clock exists on every Linux since 2.6.32.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &mut now) };
    now.tv_sec as u64
}

/// A duration in nanoseconds, capped at what 64 bits hold (584 years).
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Seconds since 1970, for people.
pub fn unix_seconds() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Milliseconds since 1970: what the cache's times are told in.
pub fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
