//! Whether a client moves its bytes fast enough, in one direction.
//!
//! Takes when we began to wait for the client, and what it moved; gives the moment at which it has had its time. Waiting uses up an
//! allowance, which is the direction's timeout; each byte buys back the time it takes at the least rate. So a pause is bounded
//! by the timeout, the rate by an average over as long, and time in which nobody waited for the client costs it nothing. What becomes
//! of a client that is too slow is decided where it is waited for.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::guard::Guard;
use super::ledger::Phase;
use crate::sys::socket::queued;
use crate::sys::time;

/// What a client is held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Its longest pause, and the allowance.
    pub(super) pause: Duration,
    /// Bytes a second at least; 0 is any.
    pub(super) rate: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Of the allowance, what is used up (ns).
    used: u64,
    /// Since when the client is waited for (ns, CLOCK_MONOTONIC); 0 when it is not.
    since: u64,
    /// Bytes that the kernel held for the client when last looked at, and those it was seen to take since they were sent.
    queued: u64,
    ahead: u64,
}

impl Pace {
    /// Whether the client is waited for.
    pub(super) fn waits(&self) -> bool {
        self.since != 0
    }

    /// The client is waited for, from now on unless it was already; true if it was not.
    pub(super) fn wait(&mut self, now: u64) -> bool {
        let begins = self.since == 0;
        if begins {
            self.since = now;
        }
        begins
    }

    /// Bytes have moved, or room for them was made: it is not waited for any more.
    pub(super) fn moved(&mut self, now: u64, bytes: u64, terms: Terms) {
        if self.since == 0 {
            return;
        }
        let known = bytes.min(self.ahead);
        self.ahead -= known;
        self.settle(now, bytes - known, terms);
        self.since = 0;
    }

    /// What the kernel holds for the client as the wait begins.
    pub(super) fn holds(&mut self, queued: u64) {
        self.queued = queued;
    }

    /// What it holds now: a client that has taken some of it since the last look reads, although there is no room yet for more. True if
    /// so; then the wait begins anew.
    pub(super) fn took(&mut self, now: u64, queued: u64, terms: Terms) -> bool {
        let taken = self.queued.saturating_sub(queued);
        self.queued = queued;
        if taken == 0 {
            return false;
        }
        self.ahead += taken;
        self.settle(now, taken, terms);
        self.since = now;
        self.due(terms) > now
    }

    /// When the client that is waited for has had its time (ns).
    pub(super) fn due(&self, terms: Terms) -> u64 {
        self.since
            .saturating_add(time::nanos(terms.pause).saturating_sub(self.used))
    }

    fn settle(&mut self, now: u64, bytes: u64, terms: Terms) {
        if terms.rate > 0 {
            let waited = now.saturating_sub(self.since);
            let bought = u128::from(bytes) * 1_000_000_000 / u128::from(terms.rate);
            let used = self.used.saturating_add(waited);
            self.used = used.saturating_sub(u64::try_from(bought).unwrap_or(u64::MAX));
        }
    }
}

impl Guard {
    fn read_terms(&self) -> Terms {
        let settings = self.settings();
        Terms {
            pause: settings.timeouts.body,
            rate: settings.body_rate,
        }
    }

    fn write_terms(&self) -> Terms {
        let settings = self.settings();
        Terms {
            pause: settings.timeouts.write,
            rate: settings.write_rate,
        }
    }

    /// The client's body, or its reading, is waited for: whichever is over first bounds the connection.
    fn bound_by_pace(&self) {
        let waits = |pace: &Pace, terms: Terms, phase| pace.waits().then(|| (pace.due(terms), phase));
        let reading = waits(&self.reading, self.read_terms(), Phase::Body);
        let writing = waits(&self.writing, self.write_terms(), Phase::Write);
        let due = reading.into_iter().chain(writing).min_by_key(|(due, _)| *due);
        self.ledger.deadline.set(due);
    }

    /// More of a body has to come before anything can go on.
    pub(super) fn wait_for_body(&mut self) {
        self.reading.wait(time::monotonic_ns());
        // A call may hold a thread while it waits for more of its body; before there is one nothing is held.
        if self
            .ledger
            .record
            .borrow()
            .as_ref()
            .is_some_and(|record| record.call.is_none())
        {
            self.gate.waits_for_client(&self.ledger, true);
        }
        self.bound_by_pace();
    }

    /// Some of it has come.
    pub(super) fn body_came(&mut self, bytes: usize) {
        if self.reading.waits() {
            let terms = self.read_terms();
            self.reading.moved(time::monotonic_ns(), bytes as u64, terms);
            self.is_back();
        }
        self.bound_by_pace();
    }

    /// Nothing more of it is waited for.
    pub(super) fn body_over(&mut self) {
        self.reading = Pace::default();
        self.bound_by_pace();
    }

    /// The client has to read before anything more can leave.
    pub(super) fn wait_for_room(&mut self) {
        if self.writing.wait(time::monotonic_ns()) {
            self.writing.holds(queued(&self.socket).unwrap_or(0));
            self.gate.waits_for_client(&self.ledger, true);
        }
        self.bound_by_pace();
    }

    /// Some of the answer has left.
    pub(super) fn room_came(&mut self, bytes: usize) {
        let terms = self.write_terms();
        self.writing.moved(time::monotonic_ns(), bytes as u64, terms);
        self.is_back();
        self.bound_by_pace();
    }

    fn is_back(&self) {
        if !self.reading.waits() && !self.writing.waits() {
            self.gate.waits_for_client(&self.ledger, false);
        }
    }

    /// The time for reading is over, and there is no room yet; but a client that is slow enough frees too little of the kernel's buffer
    /// for that to be told. True if it has read, and gets more time.
    pub(super) fn has_read(&mut self) -> bool {
        let terms = self.write_terms();
        let queued = queued(&self.socket).unwrap_or(u64::MAX);
        self.writing.took(time::monotonic_ns(), queued, terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn terms(rate: u64) -> Terms {
        Terms {
            pause: Duration::from_secs(30),
            rate,
        }
    }

    /// Seconds until a client is given up that moves so many bytes each so many seconds; none if it is not within a day.
    fn given_up(bytes: u64, every: u64, rate: u64) -> Option<u64> {
        let mut pace = Pace::default();
        let mut now = SECOND;
        while now < 86_400 * SECOND {
            pace.wait(now);
            let next = now + every * SECOND;
            if pace.due(terms(rate)) < next {
                return Some(pace.due(terms(rate)) / SECOND - 1);
            }
            now = next;
            pace.moved(now, bytes, terms(rate));
        }
        None
    }

    #[test]
    fn a_byte_now_and_then_is_no_pace_and_a_burst_in_time_is() {
        assert_eq!(given_up(1, 29, 500), Some(30));
        assert_eq!(given_up(1, 1, 500), Some(30));
        assert_eq!(
            given_up(250, 1, 500),
            Some(59),
            "half the rate takes twice the allowance"
        );
        assert_eq!(given_up(500, 1, 500), None);
        assert_eq!(given_up(14_500, 29, 500), None);
        assert_eq!(given_up(1, 29, 0), None, "no rate is asked for");
        assert_eq!(given_up(1_000_000, 31, 500), Some(30), "a pause is a pause");
    }

    #[test]
    fn what_was_fast_once_is_not_slow_for_ever_after() {
        let mut pace = Pace::default();
        pace.wait(SECOND);
        pace.moved(2 * SECOND, 1 << 30, terms(500));
        pace.wait(2 * SECOND);
        assert_eq!(
            pace.due(terms(500)),
            32 * SECOND,
            "the allowance is never more than whole"
        );
    }

    #[test]
    fn time_in_which_nobody_waits_costs_nothing() {
        let mut pace = Pace::default();
        for second in (1..1000).step_by(10) {
            pace.wait(second * SECOND);
            pace.moved(second * SECOND + SECOND / 1000, 1, terms(500));
        }
        pace.wait(2000 * SECOND);
        assert_eq!(pace.due(terms(500)), 2030 * SECOND);
    }

    #[test]
    fn what_a_client_takes_from_the_kernel_counts_and_is_not_counted_twice() {
        let mut pace = Pace::default();
        assert!(pace.wait(SECOND));
        pace.holds(1_000_000);
        assert!(pace.took(31 * SECOND, 900_000, terms(500)), "it reads");
        assert!(!pace.wait(31 * SECOND));
        assert!(!pace.took(61 * SECOND, 900_000, terms(500)), "it has stopped");
        let mut slow = Pace::default();
        slow.wait(SECOND);
        slow.holds(1_000_000);
        assert!(slow.took(31 * SECOND, 999_999, terms(500)), "a byte");
        assert_eq!(
            slow.due(terms(500)),
            31 * SECOND + SECOND / 500,
            "is worth two milliseconds"
        );
        slow.moved(31 * SECOND, 1, terms(500));
        slow.wait(31 * SECOND);
        assert_eq!(slow.due(terms(500)), 31 * SECOND + SECOND / 500, "once");
    }
}
