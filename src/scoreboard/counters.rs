//! The counters of one worker, under their names.
//!
//! Takes the words of a slot that hold counters; gives each its name. Any thread of the worker may add; readers see
//! each counter by itself, not all at one moment. What is published of them is decided elsewhere.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the latency buckets, in microseconds; one more bucket takes what is longer.
pub const LATENCY_BOUNDS: [u64; 19] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Words that counters take.
pub(super) const COUNTER_WORDS: usize = 72;

/// A named timeout that a worker enforces; `boot` is the master's, and so is `drain` where the worker itself hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Timeout {
    Header,
    Body,
    Request,
    Write,
    KeepAlive,
    Drain,
}

/// Counters of one worker. All but the two gauges only grow.
#[derive(Debug)]
pub struct Counters {
    /// Open connections (gauge).
    pub open: &'static AtomicU64,
    /// Calls in progress (gauge).
    pub in_flight: &'static AtomicU64,
    /// Requests that got an answer of any kind.
    pub requests: &'static AtomicU64,
    /// Answers by class: 1xx at 0 to 5xx at 4.
    pub status: [&'static AtomicU64; 5],
    /// Connections accepted.
    pub accepts: &'static AtomicU64,
    /// Requests whose bytes crossed our close at a stop.
    pub raced: &'static AtomicU64,
    /// Requests whose client went away first.
    pub aborted: &'static AtomicU64,
    /// Panics caught in handlers.
    pub panics: &'static AtomicU64,
    /// Bytes sent to clients.
    pub bytes_out: &'static AtomicU64,
    /// How long requests took.
    pub latency: Histogram,
    /// Expired timeouts, by [`Timeout`].
    pub timeouts: [&'static AtomicU64; 6],
    /// Connections handed to another worker.
    pub handed_over: &'static AtomicU64,
    /// Connections taken over from another worker.
    pub taken_over: &'static AtomicU64,
    /// What came of looking into the shared cache.
    pub cache: CacheCounters,
}

/// What a worker did with the shared cache.
#[derive(Debug)]
pub struct CacheCounters {
    /// Requests answered from it, fresh or validated by its own conditions.
    pub hits: &'static AtomicU64,
    /// Requests that it could have answered and had nothing for.
    pub misses: &'static AtomicU64,
    /// Requests answered from it with what was stale.
    pub stale: &'static AtomicU64,
    /// Entries that the handler confirmed (304).
    pub revalidated: &'static AtomicU64,
    /// Requests that it was not asked about, by rule or by what they are.
    pub bypassed: &'static AtomicU64,
    /// Responses kept.
    pub stores: &'static AtomicU64,
    /// Requests that waited for another one's answer.
    pub coalesced: &'static AtomicU64,
    /// Entries thrown away, by [`Eviction`].
    pub evictions: [&'static AtomicU64; 4],
    /// Stores left undone because the lock could not be had in time.
    pub busy: &'static AtomicU64,
    /// Reads begun again, because what was read was overwritten meanwhile.
    pub retries: &'static AtomicU64,
    /// Parts of the segment emptied, because a writer died in them.
    pub wiped: &'static AtomicU64,
}

/// Why an entry was thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Others needed its bytes.
    Space,
    /// Others needed its place in the index.
    Index,
    /// It was purged, by a verb or by an unsafe method.
    Purged,
    /// It was of no use any more.
    Expired,
}

/// Counts of durations in the buckets of [`LATENCY_BOUNDS`].
#[derive(Debug)]
pub struct Histogram {
    /// One a bound, and the last for everything above.
    pub buckets: [&'static AtomicU64; LATENCY_BOUNDS.len() + 1],
    /// Sum of all, in microseconds.
    pub sum: &'static AtomicU64,
}

impl Histogram {
    /// Counts one duration of `microseconds`. From one thread of the worker only.
    pub fn record(&self, microseconds: u64) {
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound < microseconds);
        // One thread writes: a plain store does, and costs far less than a locked addition.
        for (word, amount) in [(self.buckets[bucket], 1), (self.sum, microseconds)] {
            word.store(word.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
        }
    }
}

impl Counters {
    /// Names the words; there must be at least as many as counters.
    pub(super) fn over(words: &'static [AtomicU64]) -> Self {
        let mut words = words.iter();
        let mut next = || words.next().expect("COUNTER_WORDS covers every counter");
        Self {
            open: next(),
            in_flight: next(),
            requests: next(),
            status: std::array::from_fn(|_| next()),
            accepts: next(),
            raced: next(),
            aborted: next(),
            panics: next(),
            bytes_out: next(),
            latency: Histogram {
                buckets: std::array::from_fn(|_| next()),
                sum: next(),
            },
            timeouts: std::array::from_fn(|_| next()),
            handed_over: next(),
            taken_over: next(),
            cache: CacheCounters {
                hits: next(),
                misses: next(),
                stale: next(),
                revalidated: next(),
                bypassed: next(),
                stores: next(),
                coalesced: next(),
                evictions: std::array::from_fn(|_| next()),
                busy: next(),
                retries: next(),
                wiped: next(),
            },
        }
    }

    /// Every word, in one order: for sums.
    pub(super) fn words(&self) -> Vec<&'static AtomicU64> {
        let mut words = vec![self.open, self.in_flight, self.requests];
        words.extend(self.status);
        words.extend([self.accepts, self.raced, self.aborted, self.panics, self.bytes_out]);
        words.extend(self.latency.buckets);
        words.push(self.latency.sum);
        words.extend(self.timeouts);
        words.extend([self.handed_over, self.taken_over]);
        let cache = &self.cache;
        words.extend([
            cache.hits,
            cache.misses,
            cache.stale,
            cache.revalidated,
            cache.bypassed,
            cache.stores,
        ]);
        words.push(cache.coalesced);
        words.extend(cache.evictions);
        words.extend([cache.busy, cache.retries, cache.wiped]);
        words
    }
}
