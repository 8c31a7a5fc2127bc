//! Where tests have a writer die or stop: between any two writes to the segment. In debug builds alone.
//!
//! Takes the number of a write; ends or stops this process before it. Counts for the whole process, so that a test gives it one writer.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, Ordering};

/// Writes until it happens; none is planned below zero.
static LEFT: AtomicI64 = AtomicI64::new(-1);
static ACT: std::sync::Mutex<Option<fn()>> = std::sync::Mutex::new(None);

/// Before the `number`-th write from now (0 is the next) `act` is called, once.
pub fn plan(number: u32, act: fn()) {
    *ACT.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(act);
    LEFT.store(i64::from(number), Ordering::SeqCst);
}

/// Nothing happens any more. Tells whether it was still to come.
pub fn unplan() -> bool {
    LEFT.swap(-1, Ordering::SeqCst) >= 0
}

/// A write is about to be done.
pub(super) fn step() {
    if LEFT.load(Ordering::Relaxed) < 0 {
        return;
    }
    if LEFT.fetch_sub(1, Ordering::SeqCst) == 0 {
        let act = ACT.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(act) = act {
            act();
        }
    }
}
