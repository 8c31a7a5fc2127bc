//! The one timer of a connection, for whichever deadline is in force.
//!
//! Takes the ledger's deadline, wakes the connection when it has passed and says then whose it was. What that means is decided by
//! who waits.
#![forbid(unsafe_code)]

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

use super::ledger::Ledger;
use crate::sys::time;

/// A deadline that is noticed so late was not watched: this process was stopped, or its machine. Whoever is waited for could
/// not show that they were in time, and gets as much again.
pub const ASLEEP: Duration = Duration::from_millis(100);

/// See the module.
pub struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// When it fires (ns, CLOCK_MONOTONIC); none before it was first armed.
    due: Option<u64>,
}

impl Default for Timer {
    /// Not armed yet.
    fn default() -> Self {
        Self {
            sleep: Box::pin(sleep_until(Instant::now())),
            due: None,
        }
    }
}

impl Timer {
    /// Polls with the deadline in force beside it: when that has passed, `poll` is asked once more and finds it expired.
    pub fn poll_bounded<T>(
        &mut self,
        ledger: &Ledger,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        ledger.attend(cx);
        loop {
            if let Poll::Ready(done) = poll(cx) {
                return Poll::Ready(done);
            }
            if !self.poll_deadline(ledger, cx) {
                return Poll::Pending;
            }
        }
    }

    /// Arms the timer for the deadline in force; true when that has passed, and `expired` says whose it was.
    ///
    /// The timer is never moved to a later time: it fires early and is armed anew then, so that a request costs no timer.
    pub fn poll_deadline(&mut self, ledger: &Ledger, cx: &mut Context<'_>) -> bool {
        loop {
            let Some((at, phase)) = ledger.deadline.get() else {
                return false;
            };
            // Who waits may have bounded it by the same moment again, after it was put off.
            let at = match ledger.extra.get() {
                Some((passed, until)) if passed == at => until,
                _ => at,
            };
            if self.due.is_some_and(|due| due <= at) && !self.sleep.is_elapsed() {
                return false;
            }
            let now = time::monotonic_ns();
            if now < at {
                let after = Duration::from_nanos(at - now);
                self.sleep.as_mut().reset(Instant::now() + after);
                // Out of budget, the task is polled again, and has to arm it then.
                self.due = coop::has_budget_remaining().then_some(at);
                if self.sleep.as_mut().poll(cx).is_pending() {
                    return false;
                }
                continue;
            }
            // Once: a thread that is always late must not wait for ever.
            if now - at >= time::nanos(ASLEEP) && ledger.extra.get().is_none_or(|(_, until)| until != at) {
                let until = now.saturating_add(time::nanos(ASLEEP));
                ledger.deadline.set(Some((until, phase)));
                ledger.extra.set(Some((at, until)));
                continue;
            }
            ledger.deadline.set(None);
            ledger.expired.set(Some(phase));
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::runtime::Builder;

    use super::super::ledger::Phase;
    use super::*;

    #[test]
    fn a_deadline_that_nobody_watched_is_put_off_once() {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let ledger = Ledger::default();
            let passed = async || {
                let mut timer = Timer::default();
                poll_fn(|cx| Poll::Ready(timer.poll_deadline(&ledger, cx))).await
            };
            let past = time::monotonic_ns() - time::nanos(ASLEEP * 2);
            ledger.deadline.set(Some((past, Phase::Write)));
            assert!(!passed().await);
            assert!(ledger.deadline.get().is_some_and(|(due, _)| due > past));
            // The extra time was slept through as well.
            ledger.deadline.set(Some((past, Phase::Write)));
            ledger.extra.set(Some((past - 1, past)));
            assert!(passed().await);
            assert_eq!(ledger.expired.get(), Some(Phase::Write));
        });
    }
}
