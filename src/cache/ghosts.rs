//! Fingerprints of entries that were thrown away before anyone asked for them twice.
//!
//! Takes hashes; tells whether one was thrown away lately: such an entry has shown that it is wanted, and goes where it stays longer
//! (S3-FIFO). A hint only: what is forgotten or taken for another costs a place, never an answer. Under the shard's lock.
#![forbid(unsafe_code)]

use std::sync::atomic::AtomicU64;

use super::segment::{get, put};

/// A word each: half of the hash, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ghosts {
    words: &'static [AtomicU64],
    /// How many there were.
    count: &'static AtomicU64,
}

impl Ghosts {
    pub fn over(words: &'static [AtomicU64], count: &'static AtomicU64) -> Self {
        Self { words, count }
    }

    fn word(&self, hash: u64) -> &'static AtomicU64 {
        &self.words[(hash >> 17) as usize % self.words.len()]
    }

    /// An entry was thrown away.
    pub fn add(&self, hash: u64) {
        let now = get(self.count) + 1;
        put(self.count, now);
        put(self.word(hash), hash << 32 | now & 0xffff_ffff);
    }

    /// Whether it was one of the last that were; it is forgotten.
    pub fn take(&self, hash: u64) -> bool {
        let word = self.word(hash);
        let (found, now) = (get(word), get(self.count));
        let age = (now as u32).wrapping_sub(found as u32) as usize;
        let is = found != 0 && found >> 32 == hash & 0xffff_ffff && age < self.words.len();
        if is {
            put(word, 0);
        }
        is
    }
}
