//! How long to wait before a dead worker is replaced.
//!
//! Takes the deaths at one post in the order they happen; gives the moment of the next start. A worker that served is
//! replaced at once. One that died before it was ready, or within a second of it, three times running, is held back
//! twice as long each time. It is pure: it reads no clock.
#![forbid(unsafe_code)]

use crate::sys::time;
use std::time::Duration;

/// A death this soon after being ready counts as one at start.
pub const EARLY: Duration = Duration::from_secs(1);
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
const PATIENCE: u32 = 3;

/// The deaths at one post.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    early: u32,
    until: u64,
}

impl Backoff {
    /// Notes a death at `now` (ns) of a worker that had been ready for `served`, or was never ready. Gives the delay.
    pub fn died(&mut self, now: u64, served: Option<Duration>) -> Duration {
        self.early = if served.is_some_and(|served| served >= EARLY) {
            0
        } else {
            self.early.saturating_add(1)
        };
        let delay = match self.early.checked_sub(PATIENCE) {
            None => Duration::ZERO,
            Some(doublings) => FIRST.saturating_mul(1 << doublings.min(16)).min(LONGEST),
        };
        self.hold(now, delay);
        delay
    }

    /// Holds the next start back for `delay` from `now` (ns).
    pub fn hold(&mut self, now: u64, delay: Duration) {
        self.until = now.saturating_add(time::nanos(delay));
    }

    /// When the next worker may start (ns).
    pub fn until(&self) -> u64 {
        self.until
    }

    /// Whether one early death has followed the other.
    pub fn is_looping(&self) -> bool {
        self.early >= PATIENCE
    }

    /// Forgets: another generation is not to blame.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_served_is_replaced_at_once() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            assert_eq!(backoff.died(5, Some(Duration::from_secs(1))), Duration::ZERO);
        }
        assert_eq!(backoff.until(), 5);
    }

    #[test]
    fn the_third_early_death_running_is_held_back_and_each_further_one_twice_as_long() {
        let mut backoff = Backoff::default();
        let served = [None, Some(Duration::ZERO), None, Some(Duration::from_millis(999)), None];
        let delays = served.map(|served| backoff.died(0, served).as_millis());
        assert_eq!(delays, [0, 0, 100, 200, 400]);
        for _ in 0..40 {
            backoff.died(0, None);
        }
        assert_eq!(backoff.died(0, None), LONGEST);
    }

    #[test]
    fn one_good_life_ends_the_row() {
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            backoff.died(0, None);
        }
        backoff.died(0, Some(Duration::from_secs(2)));
        assert_eq!(backoff.died(0, None), Duration::ZERO);
    }
}
