//! The shared cache as it is told of: how full it is, and what it did for requests.
//!
//! Takes the house's facts and the counters of all workers; gives numbers by name. It looks into no segment.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::totals::Named;
use crate::scoreboard::{CacheCounters, Eviction};

/// Since the server started, over all workers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Bytes there are; 0 when there is no cache.
    pub size: u64,
    /// Bytes that are taken, as of the last second.
    pub bytes: u64,
    /// Entries, as of the last second.
    pub entries: u64,
    /// Requests answered with what was fresh.
    pub hits: u64,
    /// Requests that it could have answered, and for which the handler was asked.
    pub misses: u64,
    /// Requests answered with what was stale.
    pub stale: u64,
    /// Misses for which the handler confirmed what was kept.
    pub revalidated: u64,
    /// Requests that it was not asked about.
    pub bypassed: u64,
    /// Responses kept.
    pub stores: u64,
    /// Requests that waited for another one's answer.
    pub coalesced: u64,
    /// Entries thrown away, by cause.
    pub evictions: Named,
    /// Writes left undone because another writer did not get on.
    pub busy: u64,
    /// Reads begun again.
    pub retries: u64,
    /// Parts emptied because a writer had died in them.
    pub wiped: u64,
}

const CAUSES: [(Eviction, &str); 4] = [
    (Eviction::Space, "space"),
    (Eviction::Index, "index"),
    (Eviction::Purged, "purged"),
    (Eviction::Expired, "expired"),
];

impl CacheStatus {
    pub(super) fn add(&mut self, counters: &CacheCounters) {
        let of = |word: &AtomicU64| word.load(Ordering::Relaxed);
        for (sum, word) in [
            (&mut self.hits, counters.hits),
            (&mut self.misses, counters.misses),
            (&mut self.stale, counters.stale),
            (&mut self.revalidated, counters.revalidated),
            (&mut self.bypassed, counters.bypassed),
            (&mut self.stores, counters.stores),
            (&mut self.coalesced, counters.coalesced),
            (&mut self.busy, counters.busy),
            (&mut self.retries, counters.retries),
            (&mut self.wiped, counters.wiped),
        ] {
            *sum += of(word);
        }
        for (cause, name) in CAUSES {
            *self.evictions.entry(name.to_owned()).or_default() += of(counters.evictions[cause as usize]);
        }
    }
}
