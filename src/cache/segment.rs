//! The segment: shared words, what lies where in them, and the only ways to write them.
//!
//! Takes a size; gives the header, the small tables of the whole, and the words of each shard. A byte is never borrowed here: what others
//! may overwrite at any time is copied, word by word, and believed only after the reader has looked again.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::shm::{self, Shared};
use crate::sys::{robust, time};

/// Changes with the layout: a later binary takes over only what it would have made itself.
const VERSION: u64 = 0x6170_7063_6163_0001;
/// Words of the header.
const HEADER: usize = 64;
const AT_VERSION: usize = 0;
const AT_MAX_ENTRY: usize = 1;
const AT_SEED: usize = 2;
const AT_SERIAL: usize = 3;
const AT_PURGES: usize = 4;
/// Words of the table that tells who makes what.
pub(super) const MAKING: usize = 4096;
/// Words of the table of what was not worth keeping.
pub(super) const PASSES: usize = 4096;
/// Words of the table of invalidations.
pub(super) const EPOCHS: usize = 4096;
/// Words of a shard before its index: the lock, and the state.
pub(super) const SHARD_HEAD: usize = robust::WORDS + 24;
/// Slots of a bucket, which is a cache line.
pub(super) const WAYS: usize = 8;
/// Words of data for each bucket: a slot for 512 bytes.
const WORDS_A_BUCKET: usize = 512;
/// Words that a bucket takes: its slots, their frequencies, and its share of the ghosts.
const BUCKET: usize = WAYS + 1 + GHOSTS_A_BUCKET;
const GHOSTS_A_BUCKET: usize = 4;
/// Most shards there are.
const MOST_SHARDS: usize = 16;
/// The share of a shard that new entries pass through: one tenth (S3-FIFO).
const SMALL: usize = 10;

/// The words, and how they are divided.
#[derive(Debug)]
pub(super) struct Segment {
    words: &'static [AtomicU64],
    /// What a later master takes over.
    pub fd: OwnedFd,
    /// Bytes in all.
    pub size: u64,
    /// Most bytes of an entry.
    pub max_entry: u64,
    /// Of all hashes; drawn when the segment is made, so that nobody can aim at one bucket.
    pub seed: u64,
    /// One for each shard.
    pub plans: Vec<Plan>,
}

/// Where the parts of a shard lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// The lock and the state.
    pub head: &'static [AtomicU64],
    /// Buckets of [`WAYS`] slots.
    pub index: &'static [AtomicU64],
    /// A word for each bucket: a byte for each slot.
    pub heat: &'static [AtomicU64],
    /// Fingerprints of what was thrown away not long ago.
    pub ghosts: &'static [AtomicU64],
    /// Where new entries go.
    pub small: &'static [AtomicU64],
    /// Where those go that were asked for again.
    pub main: &'static [AtomicU64],
}

impl Segment {
    /// A new one, zeroed.
    pub fn create(size: u64, max_entry: u64, seed: u64) -> io::Result<Self> {
        let Shared { words, fd } = shm::create("appserver-cache", (size / 8) as usize)?;
        put(&words[AT_MAX_ENTRY], max_entry);
        put(&words[AT_SEED], seed);
        // Those that come back from a file were given by others: they are all smaller.
        put(&words[AT_SERIAL], time::unix_ms() << 16);
        let segment = Self::divide(words, fd, max_entry, seed);
        for plan in &segment.plans {
            robust::Robust::make(plan.head)?;
        }
        // Last: what has it is whole.
        words[AT_VERSION].store(VERSION, Ordering::Release);
        Ok(segment)
    }

    /// One that an earlier master made, if it is as this one would make it.
    pub fn open(fd: OwnedFd, size: u64, max_entry: u64) -> io::Result<Option<Self>> {
        let Some(Shared { words, fd }) = shm::open(fd, (size / 8) as usize)? else {
            return Ok(None);
        };
        let same = words[AT_VERSION].load(Ordering::Acquire) == VERSION && get(&words[AT_MAX_ENTRY]) == max_entry;
        let seed = get(&words[AT_SEED]);
        Ok(same.then(|| Self::divide(words, fd, max_entry, seed)))
    }

    fn divide(words: &'static [AtomicU64], fd: OwnedFd, max_entry: u64, seed: u64) -> Self {
        let size = words.len() as u64 * 8;
        let tables = HEADER + MAKING + PASSES + EPOCHS;
        // A shard's small ring has to hold the largest entry.
        let fitting = (size / SMALL as u64 / max_entry.max(1)).max(1) as usize;
        let shards = fitting.min(MOST_SHARDS).next_power_of_two();
        let shards = if shards > fitting { shards / 2 } else { shards };
        let each = (words.len() - tables) / shards / 8 * 8;
        let plans = words[tables..].chunks_exact(each).take(shards);
        Self {
            plans: plans.map(|words| Plan::of(words, max_entry)).collect(),
            words,
            fd,
            size,
            max_entry,
            seed,
        }
    }

    fn table(&self, skip: usize, length: usize) -> &'static [AtomicU64] {
        &self.words[HEADER + skip..HEADER + skip + length]
    }

    /// Who makes what.
    pub fn making(&self) -> &'static [AtomicU64] {
        self.table(0, MAKING)
    }

    /// What was not worth keeping.
    pub fn passes(&self) -> &'static [AtomicU64] {
        self.table(MAKING, PASSES)
    }

    /// How often keys were invalidated.
    pub fn epochs(&self) -> &'static [AtomicU64] {
        self.table(MAKING + PASSES, EPOCHS)
    }

    /// How often something was purged that is no single key.
    pub fn purges(&self) -> &'static AtomicU64 {
        &self.words[AT_PURGES]
    }

    /// A number that was never given before.
    pub fn serial(&self) -> u64 {
        self.words[AT_SERIAL].fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Plan {
    fn of(words: &'static [AtomicU64], max_entry: u64) -> Self {
        let (head, rest) = words.split_at(SHARD_HEAD);
        let buckets = (rest.len() / (WORDS_A_BUCKET + BUCKET)).max(1);
        let (index, rest) = rest.split_at(buckets * WAYS);
        // Their own cache lines, however many there are.
        let (heat, rest) = rest.split_at(buckets.next_multiple_of(8));
        let (ghosts, data) = rest.split_at(buckets * GHOSTS_A_BUCKET);
        let largest = super::record::HEAD + (max_entry as usize).div_ceil(8) + 1;
        let small = (data.len() / SMALL).max(largest).min(data.len() / 2);
        let (small, main) = data.split_at(small);
        Self {
            head,
            index,
            heat,
            ghosts,
            small,
            main,
        }
    }
}

/// Reads a word.
pub(super) fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

/// Writes a word of the segment.
pub(super) fn put(word: &AtomicU64, value: u64) {
    step();
    word.store(value, Ordering::Relaxed);
}

/// Writes a word from which readers go on to others: they see all that was written before.
pub(super) fn publish(word: &AtomicU64, value: u64) {
    step();
    word.store(value, Ordering::Release);
}

/// Changes a word only if it is still the one that was read.
pub(super) fn exchange(word: &AtomicU64, from: u64, to: u64) -> bool {
    step();
    word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}

/// Between each two writes stands a point where tests have a writer die.
#[cfg(not(debug_assertions))]
#[inline(always)]
fn step() {}

#[cfg(debug_assertions)]
fn step() {
    super::crash::step();
}
