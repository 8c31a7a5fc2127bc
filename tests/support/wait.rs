//! Waiting for a condition, never for luck.
//!
//! Takes a condition and a deadline; gives what the condition found, or fails the test with what was waited for. The
//! pause between two looks is the only sleep in the tests.

use std::time::{Duration, Instant};

/// Long enough for a loaded machine with two cores, short enough that a hang is seen in a run.
pub const PATIENCE: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(5);

/// Looks until `found` gives something; fails the test after [`PATIENCE`].
pub fn until<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, found).unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain: {what}"))
}

/// Looks until `found` gives something, or `None` when the time is up.
pub fn within<T>(patience: Duration, mut found: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(it) = found() {
            return Some(it);
        }
        if Instant::now() >= end {
            return None;
        }
        pause(PAUSE);
    }
}

/// One look's pause, or the pace of a client that is slow on purpose.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place: between two looks, and to pace a slow client"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
