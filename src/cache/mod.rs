//! The shared cache: responses, by the rules of HTTP, and handlers' own values, in one segment of memory that all workers share.
//!
//! Takes keys and bytes; gives back what was kept, if it is still there: any entry can vanish at any time. `directives` reads
//! Cache-Control and `policy` decides by it; both are pure. `segment`, `shard`, `ring`, `index` and `record` are the memory, `response` and
//! `values` what lies in it, `making` who is at work for others. Nothing here knows sockets, calls or processes.
#![forbid(unsafe_code)]

pub mod conditional;
#[cfg(debug_assertions)]
pub mod crash;
pub mod directives;
mod ghosts;
mod index;
pub mod key;
pub mod making;
#[cfg(test)]
mod oracle;
pub mod policy;
mod purge;
pub mod range;
mod record;
pub mod response;
mod ring;
mod segment;
mod shard;
pub mod shown;
mod store;
pub mod tags;
mod targeted;
#[cfg(test)]
mod tests;
mod values;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::scoreboard::CacheCounters;
use crate::sys::fd::EventFd;
use crate::sys::{shm, time};
use making::BELLS;
pub use purge::Purge;
use record::{Draft, Entry, Kind};
use segment::{EPOCHS, Segment, get};
use shard::{Shard, Toll, Writer};
pub use store::Unread;
pub use values::Refused;

/// A shard whose writer did not get on is left alone for so long (ms): not every store shall wait in vain.
const LEFT_ALONE: u64 = 100;

/// The cache of a server. Workers share one: it is made before they are forked.
#[derive(Debug)]
pub struct Cache {
    segment: Segment,
    shards: Vec<Shard>,
    /// Until when each shard is left alone (ms, CLOCK_MONOTONIC); of this process.
    stuck: Vec<AtomicU64>,
    bells: Vec<EventFd>,
    /// Whether an earlier master made it, whose workers may serve from it still.
    adopted: bool,
    counters: OnceLock<&'static CacheCounters>,
}

/// What is in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Entries; counted in a part of the index and reckoned from it where there are very many.
    pub entries: u64,
    /// Bytes they take, those included that are of no use any more and have not given way yet.
    pub bytes: u64,
    /// Bytes there are, all told.
    pub size: u64,
}

/// What has been invalidated before a request began: what was made of an older state is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Witness {
    epoch: u64,
    purges: u64,
}

impl Cache {
    /// A new, empty one of `size` bytes, whose entries have up to `max_entry`.
    ///
    /// # Errors
    /// There is no memory for it, or there are no descriptors.
    pub fn create(size: u64, max_entry: u64) -> io::Result<Self> {
        let segment = Segment::create(size, max_entry, seed())?;
        let bells = (0..BELLS).map(|_| EventFd::new()).collect::<io::Result<_>>()?;
        Ok(Self::over(segment, bells, false))
    }

    /// The one that an earlier master made, if it is of this size and this version; else None.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn open(fd: OwnedFd, bells: Vec<EventFd>, size: u64, max_entry: u64) -> io::Result<Option<Self>> {
        let segment = Segment::open(fd, size, max_entry)?;
        Ok(segment
            .filter(|_| bells.len() == BELLS)
            .map(|segment| Self::over(segment, bells, true)))
    }

    fn over(segment: Segment, bells: Vec<EventFd>, adopted: bool) -> Self {
        let shards: Vec<Shard> = segment.plans.iter().map(|plan| Shard::over(*plan)).collect();
        Self {
            stuck: shards.iter().map(|_| AtomicU64::new(0)).collect(),
            segment,
            shards,
            bells,
            adopted,
            counters: OnceLock::new(),
        }
    }

    /// The memory, for a later master.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.segment.fd.as_fd()
    }

    /// What wakes those who wait for each other, for a later master.
    pub fn bells(&self) -> &[EventFd] {
        &self.bells
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.segment.size
    }

    /// Most bytes of an entry.
    pub fn max_entry(&self) -> u64 {
        self.segment.max_entry
    }

    /// Gives the memory back to the kernel: of all whom this master knows, nobody uses it any more. What an earlier master made stays
    /// as it is.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn release(&self) -> io::Result<()> {
        if self.adopted {
            return Ok(());
        }
        shm::clear(&self.segment.fd, self.segment.size)
    }

    /// Counts what this process does from now on.
    pub fn count_by(&self, counters: &'static CacheCounters) {
        let _ = self.counters.set(counters);
    }

    fn pay(&self, toll: &Toll) {
        let Some(counters) = self.counters.get() else { return };
        let evictions = counters.evictions.iter().zip(toll.evictions);
        for (counter, amount) in evictions.chain([(&counters.wiped, toll.wiped), (&counters.retries, toll.retries)]) {
            if amount > 0 {
                // Handlers' threads come here, too.
                counter.fetch_add(amount, Ordering::Relaxed);
            }
        }
    }

    /// What is in it now.
    pub fn usage(&self) -> Usage {
        /// Slots that are looked at in each shard.
        const LOOKED_AT: usize = 1 << 18;
        let entries = self.shards.iter().map(|shard| {
            let seen = shard.slots().min(LOOKED_AT);
            (shard.entries(seen) * shard.slots() / seen.max(1)) as u64
        });
        Usage {
            entries: entries.sum(),
            bytes: self.shards.iter().map(|shard| shard.used() as u64 * 8).sum(),
            size: self.segment.size,
        }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(key, self.segment.seed)
    }

    fn number(&self, hash: u64) -> usize {
        (hash >> 60) as usize % self.shards.len()
    }

    fn find(&self, kind: Kind, hash: u64, key: &[u8]) -> Option<Entry> {
        let mut toll = Toll::default();
        let found = self.shards[self.number(hash)].find(kind, hash, key, &mut toll);
        if toll.retries > 0 {
            self.pay(&toll);
        }
        found
    }

    /// The right to write to a hash's shard.
    fn write(&self, hash: u64) -> Result<Writer<'_>, Refused> {
        let number = self.number(hash);
        let now = time::monotonic_ns() / 1_000_000;
        let stuck = &self.stuck[number];
        let patience = if get(stuck) > now {
            Duration::ZERO
        } else {
            shard::PATIENCE
        };
        self.shards[number].write(patience).map_err(|robust_stuck| {
            let _: crate::sys::robust::Stuck = robust_stuck;
            stuck.store(now + LEFT_ALONE, Ordering::Relaxed);
            if let Some(counters) = self.counters.get() {
                counters.busy.fetch_add(1, Ordering::Relaxed);
            }
            Refused::Busy
        })
    }

    /// Keeps an entry.
    fn keep(&self, draft: &Draft<'_>, proven: bool, still: impl Fn() -> bool) -> Result<(), Refused> {
        if draft.length() > self.segment.max_entry || draft.key.len() > record::LONGEST_KEY {
            return Err(Refused::TooLarge);
        }
        let mut writer = self.write(draft.hash)?;
        if still() {
            writer
                .keep(draft, proven, time::unix_ms())
                .map_err(|shard::TooLarge| Refused::TooLarge)?;
            // Who invalidates looks for what is there, and may have looked just before it was.
            if !still() {
                writer.remove(draft.kind, draft.hash, draft.key);
            }
        }
        self.pay(&writer.toll);
        Ok(())
    }

    fn epoch(&self, hash: u64) -> &'static AtomicU64 {
        &self.segment.epochs()[(hash >> 8) as usize % EPOCHS]
    }

    fn witness(&self, hash: u64) -> Witness {
        Witness {
            epoch: self.epoch(hash).load(Ordering::Acquire),
            purges: self.segment.purges().load(Ordering::Acquire),
        }
    }
}

/// Drawn by the standard library from the kernel, so that nobody outside knows it.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
