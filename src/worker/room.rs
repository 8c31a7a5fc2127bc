//! Room for a newcomer where there is none: the connections that have waited longest for a request give way.
//!
//! Takes a worker that has all the connections it may have, in a server where all have; tells whether some could go, and has the oldest
//! of them closed. Whether anybody wants their place is the acceptor's to know; those that are in the middle of a request are left alone.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::Worker;
use crate::listener::{Address, Listener};
use crate::protocol::http::ledger::{Ledger, Phase};
use crate::scoreboard::State;
use crate::sys::{self, time};

/// Who has waited for less is about to be heard of: a request is on its way, or an answer.
const LEAST: u64 = 100_000_000;
/// Most that go at once; and of those that wait, one in so many.
const MOST: usize = 32;
const SHARE: usize = 8;
/// Between two lines about it.
const QUIET: u64 = 60_000_000_000;

/// Bytes that the kernel holds at most for a client that does not read: by itself it takes up to 4 MiB for each, until it has no memory
/// for anybody's connections.
const HELD: u32 = 1024 * 1024;

/// Has the kernel hold little for each client of a listener; one that does not know how holds more.
pub(super) fn spare_the_kernel(listener: &Listener) {
    if matches!(listener.address(), Address::Tcp(_)) {
        let _ = sys::socket::hold_at_most(listener, HELD);
    }
}

impl Worker {
    /// Whether this worker has all the connections it may have, as all of its generation have, and some of its own only wait.
    pub(super) fn could_make_room(&self) -> bool {
        self.load.holds_its_most()
            && self.others_are_full()
            && self
                .connections
                .borrow()
                .values()
                .any(|ledger| self.clerk.is_idle(ledger.place))
    }

    /// Alone in a test or a probe it leaves everything as it is.
    fn others_are_full(&self) -> bool {
        let generation = self.slot.generation();
        self.board.get().is_some_and(|board| {
            let others = board.claimed().filter(|slot| {
                slot.index() != self.slot.index() && slot.generation() == generation && slot.state() == State::Ready
            });
            let most = self.limits.connections as u64;
            others
                .into_iter()
                .all(|slot| slot.counters().open.load(Ordering::Relaxed) >= most)
        })
    }

    /// Has those closed that have waited longest; how many.
    pub(super) fn make_room(&self) -> usize {
        let now = time::monotonic_ns();
        let connections = self.connections.borrow();
        let mut waiting: Vec<(u64, &Rc<Ledger>)> = connections
            .values()
            .filter(|ledger| self.clerk.is_idle(ledger.place))
            .filter_map(|ledger| Some((self.waits_since(ledger)?, ledger)))
            .filter(|(since, _)| now.saturating_sub(*since) >= LEAST)
            .collect();
        let going = (waiting.len() / SHARE).clamp(1, MOST).min(waiting.len());
        if going == 0 {
            return 0;
        }
        waiting.select_nth_unstable_by_key(going - 1, |(since, _)| *since);
        for (_, ledger) in &waiting[..going] {
            ledger.gives_way.set(true);
            ledger.wake();
        }
        if now >= self.room_told.get() {
            self.room_told.set(now.saturating_add(QUIET));
            tracing::warn!(
                "every worker has limits.connections ({}): idle connections are closed early to make room for new ones",
                self.limits.connections
            );
        }
        going
    }

    /// Since when an idle connection has waited, by what bounds it (ns).
    fn waits_since(&self, ledger: &Ledger) -> Option<u64> {
        let timeouts = &self.settings.timeouts;
        let (due, phase) = ledger.deadline.get()?;
        let after = match phase {
            Phase::Idle => timeouts.keep_alive,
            Phase::Head => timeouts.header,
            _ => return None,
        };
        Some(due.saturating_sub(time::nanos(after)))
    }
}
