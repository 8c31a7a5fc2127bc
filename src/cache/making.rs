//! Who is making which answer, so that others that want the same wait for it instead of asking the handler again.
//!
//! Takes hashes of keys; gives each to one process at a time, in a word of the segment that tells which. What is over is rung on one of a few
//! eventfds that all workers were born with. A dead process's claims are given up by the master that reaps it; whoever waits has a deadline
//! of its own. Two keys that share a word do not wait for each other: then both ask the handler, and nothing is lost but the saving.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Cache;
use super::segment::{MAKING, PASSES};
use crate::sys::fd::EventFd;
use crate::sys::time;

/// Eventfds that a cache has. Many keys share one: who is woken looks again.
pub const BELLS: usize = 64;
/// Bits of a process's number (`/proc/sys/kernel/pid_max` is at most 2^22).
const PID: u32 = 22;
/// How long it is remembered that an answer was not kept (s).
const PASS_FOR: u64 = 60;

/// What came of claiming a key.
#[derive(Debug)]
pub enum Claim {
    /// It is this process's to make, until this is dropped.
    Mine(Making),
    /// Another one is at it.
    Theirs,
    /// Nobody can be asked to wait for it.
    Free,
}

/// The right to make an answer for others.
#[derive(Debug)]
pub struct Making {
    cache: Arc<Cache>,
    word: &'static AtomicU64,
    held: u64,
    bell: usize,
}

/// The bell that is rung when the answer for a hash is there, or never will be.
pub fn bell(hash: u64) -> usize {
    place(hash) % BELLS
}

fn place(hash: u64) -> usize {
    (hash >> 20) as usize % MAKING
}

fn word(hash: u64, pid: u32) -> u64 {
    hash << PID | u64::from(pid)
}

fn pid_of(word: u64) -> u32 {
    (word & ((1 << PID) - 1)) as u32
}

impl Cache {
    /// Claims the making of what a hash stands for.
    pub fn claim(self: &Arc<Self>, hash: u64) -> Claim {
        let place = &self.segment.making()[place(hash)];
        let mine = word(hash, std::process::id());
        match place.compare_exchange(0, mine, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Claim::Mine(Making {
                cache: self.clone(),
                word: place,
                held: mine,
                bell: bell(hash),
            }),
            Err(other) if other >> PID == mine >> PID => Claim::Theirs,
            Err(_) => Claim::Free,
        }
    }

    /// Whether somebody is making it.
    pub fn is_making(&self, hash: u64) -> bool {
        let held = self.segment.making()[place(hash)].load(Ordering::Acquire);
        held != 0 && held >> PID == word(hash, 0) >> PID
    }

    /// Gives up what a process that has died was making, and wakes who waits for it.
    pub fn bury(&self, pid: u32) {
        for (number, place) in self.segment.making().iter().enumerate() {
            let held = place.load(Ordering::Acquire);
            if pid_of(held) == pid && held != 0 {
                let _ = place.compare_exchange(held, 0, Ordering::AcqRel, Ordering::Relaxed);
                self.bells[number % BELLS].wake();
            }
        }
    }

    /// What is rung for a hash.
    pub fn bell(&self, hash: u64) -> &EventFd {
        &self.bells[bell(hash)]
    }

    /// Remembers that the answer for a hash was not kept: nobody need wait for the next one.
    pub fn pass(&self, hash: u64) {
        let until = (time::unix_seconds_coarse() + PASS_FOR) & 0xffff_ffff;
        self.segment.passes()[hash as usize % PASSES].store(hash >> 32 << 32 | until, Ordering::Relaxed);
    }

    /// Whether an answer for a hash was not kept lately.
    pub fn passes(&self, hash: u64) -> bool {
        let found = self.segment.passes()[hash as usize % PASSES].load(Ordering::Relaxed);
        found >> 32 == hash >> 32 && (found & 0xffff_ffff) > time::unix_seconds_coarse() & 0xffff_ffff
    }

    /// The answer for a hash was kept after all.
    pub(super) fn no_pass(&self, hash: u64) {
        let word = &self.segment.passes()[hash as usize % PASSES];
        if word.load(Ordering::Relaxed) >> 32 == hash >> 32 {
            word.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // Not if it was given up already: it may be another's now.
        let _ = self
            .word
            .compare_exchange(self.held, 0, Ordering::AcqRel, Ordering::Relaxed);
        self.cache.bells[self.bell].wake();
    }
}
