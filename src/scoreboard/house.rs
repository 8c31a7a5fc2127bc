//! What is known of the server as a whole: its master's facts and counts, and the counters of workers that are gone.
//!
//! Takes what the master says (it alone writes); gives it to the monitor and to a later master. A text is guarded by a
//! sequence, numbers stand by themselves: no reader ever waits for a writer that may be dead.
#![forbid(unsafe_code)]

use super::counters::{COUNTER_WORDS, Counters};
use super::text::{text_load, text_store};
use crate::config::MOST_WORKERS;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

/// Bytes of text that are kept.
pub const TEXT: usize = 24 * 1024;
const FACTS: usize = 0;
const TALLIES: usize = 16;
const KEPT: usize = 64;
const SEQUENCE: usize = KEPT + COUNTER_WORDS;
const LENGTH: usize = SEQUENCE + 1;
const BURIALS_BEGUN: usize = LENGTH + 1;
const BURIALS_ENDED: usize = BURIALS_BEGUN + 1;
const ACCEPTS: usize = BURIALS_ENDED + 1;
/// Workers whose accepts are summed up by their number.
pub const NUMBERS: usize = MOST_WORKERS;
const TEXT_AT: usize = ACCEPTS + NUMBERS;
/// Words that the page needs.
pub(super) const HOUSE_WORDS: usize = TEXT_AT + TEXT / 8;

/// A number that the master keeps true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// The master's process.
    Master = 0,
    /// Number of workers there should be.
    Wanted = 1,
    /// The generation that serves.
    Generation = 2,
    /// What the master is about: 0 starting, 1 serving, 2 paused, 3 stopping.
    Phase = 3,
    /// When the server started (seconds since 1970).
    Started = 4,
    /// When the master last went round its loop (ns, CLOCK_MONOTONIC).
    Alive = 5,
    /// 1 while a generation's workers keep dying at their start.
    Looping = 6,
    /// 1 while a reload is under way.
    Reloading = 7,
    /// Number of workers that were ready already, at most [`Fact::Wanted`]: what [`ready`](crate::status::ready) measures by, so that
    /// asking for more workers never makes the server look unready.
    Reached = 8,
    /// Bytes of the shared cache that are taken, as of the last second.
    CacheBytes = 9,
    /// Its entries.
    CacheEntries = 10,
    /// Bytes it has; 0 when there is none.
    CacheSize = 11,
}

/// Something that is counted since the server started, across reloads and upgrades.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tally {
    /// Reloads that were completed.
    ReloadsDone = 0,
    /// Reloads that were refused and undone.
    ReloadsRefused = 1,
    /// Rollbacks that were completed.
    Rollbacks = 2,
    /// Upgrades of the binary that were completed.
    UpgradesDone = 3,
    /// Upgrades that failed.
    UpgradesRefused = 4,
    /// Workers started.
    Spawned = 5,
    /// Workers that left because they were told to.
    ExitAsked = 6,
    /// Workers that left by themselves.
    ExitUnasked = 7,
    /// Workers that a signal not of ours ended.
    ExitCrash = 8,
    /// Workers that were told to leave, and perhaps killed, because a call was stuck in them.
    ExitStuck = 9,
    /// Workers killed because they outlived their drain.
    ExitDrain = 10,
    /// Workers that could not start.
    ExitBoot = 11,
    /// Workers killed for their memory, by us.
    ExitMemory = 12,
    /// Workers that the kernel killed for want of memory.
    ExitOom = 13,
    /// Workers replaced for their number of requests.
    RecycledRequests = 14,
    /// Workers replaced for their age.
    RecycledLifetime = 15,
    /// Workers replaced for their memory.
    RecycledMemory = 16,
    /// Workers replaced because a call was stuck in them.
    RecycledStuck = 17,
    /// Calls that died with their workers.
    CallsKilled = 18,
    /// Monitors that had to be started again.
    MonitorExits = 19,
    /// Workers that were not ready in time.
    BootExpired = 20,
    /// Rollbacks that were refused.
    RollbacksRefused = 21,
}

/// How long a reader waits for a moment when nobody is buried: a master on a busy machine may lose its core in the middle of it.
const PATIENCE: Duration = Duration::from_millis(100);

/// The page.
#[derive(Debug)]
pub struct House {
    words: &'static [AtomicU64],
    kept: Counters,
}

impl House {
    pub(super) fn over(words: &'static [AtomicU64]) -> Self {
        Self {
            words,
            kept: Counters::over(&words[KEPT..KEPT + COUNTER_WORDS]),
        }
    }

    /// What a fact is now.
    pub fn fact(&self, fact: Fact) -> u64 {
        self.words[FACTS + fact as usize].load(Ordering::Relaxed)
    }

    /// Says what a fact is from now on.
    pub fn set(&self, fact: Fact, value: u64) {
        self.words[FACTS + fact as usize].store(value, Ordering::Relaxed);
    }

    /// How often something happened.
    pub fn tally(&self, of: Tally) -> u64 {
        self.words[TALLIES + of as usize].load(Ordering::Relaxed)
    }

    /// Counts it once more.
    pub fn count(&self, of: Tally) {
        self.words[TALLIES + of as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The sums of all workers that are gone; gauges among them mean nothing.
    pub fn kept(&self) -> &Counters {
        &self.kept
    }

    /// Adds the counters of a worker that is gone, before its slot is given back. [`Slot::bury`](super::Slot::bury) does both, so that no
    /// reader counts it twice or not at all.
    pub(super) fn keep(&self, gone: &Counters) {
        for (sum, of_it) in self.kept.words().into_iter().zip(gone.words()) {
            sum.fetch_add(of_it.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Connections that gone workers of this number (from 1) had accepted.
    pub fn kept_accepts(&self, number: usize) -> u64 {
        self.accepts(number).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    pub(super) fn keep_accepts(&self, number: usize, count: u64) {
        if let Some(word) = self.accepts(number) {
            word.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn accepts(&self, number: usize) -> Option<&AtomicU64> {
        let index = number.checked_sub(1).filter(|index| *index < NUMBERS)?;
        Some(&self.words[ACCEPTS + index])
    }

    pub(super) fn burial_begins(&self) {
        self.words[BURIALS_BEGUN].fetch_add(1, Ordering::AcqRel);
        fence(Ordering::Release);
    }

    pub(super) fn burial_ends(&self) {
        self.words[BURIALS_ENDED].fetch_add(1, Ordering::Release);
    }

    /// Reads sums and slots at a moment when no worker is between the two. A master that was killed in the middle of it
    /// leaves one there for ever; then the last look has to do.
    pub fn between_burials<T>(&self, mut read: impl FnMut() -> T) -> T {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let ended = self.words[BURIALS_ENDED].load(Ordering::Acquire);
            let begun = self.words[BURIALS_BEGUN].load(Ordering::Acquire);
            if begun == ended {
                let found = read();
                fence(Ordering::Acquire);
                if self.words[BURIALS_BEGUN].load(Ordering::Relaxed) == begun {
                    return found;
                }
            }
            std::thread::yield_now();
        }
        read()
    }

    /// Replaces the text; what is longer than [`TEXT`] is cut.
    pub fn tell(&self, text: &[u8]) {
        let text = &text[..text.len().min(TEXT)];
        let sequence = &self.words[SEQUENCE];
        let odd = sequence.load(Ordering::Relaxed) | 1;
        sequence.store(odd, Ordering::Relaxed);
        fence(Ordering::Release);
        self.words[LENGTH].store(text.len() as u64, Ordering::Relaxed);
        text_store(&self.words[TEXT_AT..], text);
        sequence.store(odd + 1, Ordering::Release);
    }

    /// The text; empty when none was told yet, or its writer died over it.
    pub fn told(&self) -> Vec<u8> {
        for _ in 0..64 {
            let before = self.words[SEQUENCE].load(Ordering::Acquire);
            let length = (self.words[LENGTH].load(Ordering::Relaxed) as usize).min(TEXT);
            let text = text_load(&self.words[TEXT_AT..], length);
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && before == self.words[SEQUENCE].load(Ordering::Relaxed) {
                return text;
            }
            std::hint::spin_loop();
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;

    #[test]
    fn facts_counts_and_text_are_kept_and_the_dead_are_summed_up() {
        let board = Scoreboard::create().unwrap();
        let house = board.house();
        assert!(house.told().is_empty());
        house.set(Fact::Wanted, 7);
        house.count(Tally::ReloadsDone);
        house.tell(b"{\"a\":1}");
        house.tell(b"{}");
        assert_eq!((house.fact(Fact::Wanted), house.tally(Tally::ReloadsDone)), (7, 1));
        assert_eq!(house.told(), b"{}");
        let slot = board.claim(1).unwrap();
        slot.counters().requests.store(5, Ordering::Relaxed);
        house.keep(slot.counters());
        house.keep(slot.counters());
        assert_eq!(house.kept().requests.load(Ordering::Relaxed), 10);
        slot.release();
        assert_eq!(house.fact(Fact::Wanted), 7, "a slot is no part of the house");
    }

    #[test]
    fn no_reader_finds_a_worker_between_its_slot_and_the_sums() {
        let board = Scoreboard::create().unwrap();
        let mut buried = 0;
        let total = || {
            let live: u64 = board
                .claimed()
                .map(|slot| slot.counters().requests.load(Ordering::Relaxed))
                .sum();
            live + board.house().kept().requests.load(Ordering::Relaxed)
        };
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let slot = board.claim(1).unwrap();
                    slot.number_set(3);
                    slot.counters().requests.store(5, Ordering::Relaxed);
                    slot.counters().accepts.store(2, Ordering::Relaxed);
                    slot.bury();
                }
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                let now = board.house().between_burials(total);
                assert!(now >= buried, "{now} after {buried}");
                buried = now;
            }
        });
        assert_eq!(board.house().between_burials(total), 10_000);
        assert_eq!(
            (board.house().kept_accepts(3), board.house().kept_accepts(0)),
            (4000, 0)
        );
    }

    #[test]
    fn a_burial_that_never_ends_keeps_no_reader_waiting() {
        let board = Scoreboard::create().unwrap();
        board.house().burial_begins();
        assert_eq!(board.house().between_burials(|| 7), 7);
    }
}
