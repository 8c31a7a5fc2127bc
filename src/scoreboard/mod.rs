//! What every process can know about every worker, whoever dies when: counters, calls in progress, commands, log.
//!
//! Takes one shared mapping; gives [`Slot`]s, one a worker. A slot is written by its worker alone (the master clears
//! it, names it and commands it) and readable by anyone. There is no lock: a reader copies and checks, so a `kill -9`
//! at any instruction breaks nothing. Nothing here decides anything.
#![forbid(unsafe_code)]

mod counters;
mod house;
mod log_buffer;
mod record;
mod slot;
mod text;

pub use counters::{CacheCounters, Counters, Eviction, Histogram, LATENCY_BOUNDS, Timeout};
pub use house::{Fact, House, NUMBERS, TEXT, Tally};
pub use log_buffer::LogBuffer;
pub use record::{Call, CallMark, CallRecord};
pub use slot::{Commands, Plea, Slot, State};

use crate::sys::{shm, time};
use slot::{GENERATION, SLOT_WORDS, STARTED, STATE, Views};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Version of the layout; a master that is handed a board of another version starts a fresh one.
pub const LAYOUT: u64 = 2;
/// Number of slots: two generations of the most workers a configuration may ask for, and some that drain.
pub const SLOTS: usize = 2112;
/// Most calls in progress that a slot remembers; further calls go unrecorded.
pub const CALLS: usize = 64;
/// Bytes of a request id that are kept.
pub const REQUEST_ID: usize = 64;
/// Bytes of a request line that are kept.
pub const REQUEST_LINE: usize = 160;
/// Bytes of access log that a worker may hold back.
pub const LOG: usize = 64 * 1024;

/// Index in the header of how many slots, from the first, were ever claimed.
const CLAIMED: usize = 4;
const MAGIC: u64 = u64::from_be_bytes(*b"appsrvr\0");
const HEADER: usize = 8 + house::HOUSE_WORDS.next_multiple_of(8);

/// All slots.
#[derive(Debug)]
pub struct Scoreboard {
    house: House,
    words: &'static [AtomicU64],
    views: Vec<OnceLock<Box<Views>>>,
    memory: OwnedFd,
}

impl Scoreboard {
    /// A fresh board that lives as long as the process.
    pub fn create() -> io::Result<&'static Self> {
        let shared = shm::create("appserver-scoreboard", HEADER + SLOTS * SLOT_WORDS)?;
        shared.words[0].store(MAGIC, Ordering::Relaxed);
        shared.words[1].store(LAYOUT, Ordering::Relaxed);
        shared.words[2].store(SLOTS as u64, Ordering::Relaxed);
        shared.words[3].store(SLOT_WORDS as u64, Ordering::Relaxed);
        Ok(Self::over(shared))
    }

    /// The board of a predecessor, with all that is on it; None when it has another layout.
    ///
    /// # Errors
    /// From mmap(2).
    pub fn adopt(memory: OwnedFd) -> io::Result<Option<&'static Self>> {
        let Some(shared) = shm::open(memory, HEADER + SLOTS * SLOT_WORDS)? else {
            return Ok(None);
        };
        let expected = [MAGIC, LAYOUT, SLOTS as u64, SLOT_WORDS as u64];
        let same = expected
            .iter()
            .zip(shared.words)
            .all(|(expected, found)| found.load(Ordering::Relaxed) == *expected);
        Ok(same.then(|| Self::over(shared)))
    }

    fn over(shared: shm::Shared) -> &'static Self {
        let views = (0..SLOTS).map(|_| OnceLock::new()).collect();
        Box::leak(Box::new(Self {
            house: House::over(&shared.words[8..HEADER]),
            words: shared.words,
            views,
            memory: shared.fd,
        }))
    }

    /// The memory behind it, for a successor.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// What is known of the server as a whole.
    pub fn house(&self) -> &House {
        &self.house
    }

    /// All slots, used or not.
    pub fn slots(&'static self) -> impl Iterator<Item = Slot> {
        (0..SLOTS).map(move |index| Slot { board: self, index })
    }

    /// The slots that are in use. Those that never were are not looked at: reading a page of the mapping gives it memory.
    pub fn claimed(&'static self) -> impl Iterator<Item = Slot> {
        let ever = (self.words[CLAIMED].load(Ordering::Acquire) as usize).min(SLOTS);
        self.slots().take(ever).filter(|slot| slot.state() != State::Empty)
    }

    /// Takes an empty slot for a worker about to be forked: zeroed, in state Starting. None when all are taken.
    pub fn claim(&'static self, generation: u64) -> Option<Slot> {
        // By exchange: during an upgrade two masters claim slots.
        let slot = self.slots().find(|slot| {
            slot.word(STATE)
                .compare_exchange(0, State::Starting as u64, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        })?;
        self.words[CLAIMED].fetch_max(slot.index as u64 + 1, Ordering::AcqRel);
        slot.clear_but_state();
        slot.word(GENERATION).store(generation, Ordering::Relaxed);
        slot.word(STARTED).store(time::monotonic_ns(), Ordering::Relaxed);
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_taken_over_with_what_is_on_it_unless_it_has_another_layout() {
        let board = Scoreboard::create().unwrap();
        board.house().count(Tally::ReloadsDone);
        let slot = board.claim(7).unwrap();
        let copy = || board.memory().try_clone_to_owned().unwrap();
        let taken = Scoreboard::adopt(copy()).unwrap().unwrap();
        assert_eq!(taken.house().tally(Tally::ReloadsDone), 1);
        assert_ne!(taken.claim(8).unwrap().index(), slot.index());
        assert_eq!(taken.slots().next().unwrap().generation(), 7);
        board.words[1].store(LAYOUT + 1, Ordering::Relaxed);
        assert!(Scoreboard::adopt(copy()).unwrap().is_none());
        let other = shm::create("smaller", 64).unwrap();
        assert!(Scoreboard::adopt(other.fd).unwrap().is_none());
        let none = std::fs::File::open("/dev/null").unwrap();
        assert!(Scoreboard::adopt(none.into()).unwrap().is_none());
    }
}
