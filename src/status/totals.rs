//! What was counted since the server started, over workers that live and workers that are gone.
//!
//! Takes the house's sums and every slot; gives one sum of each. Read between burials, none of them ever goes backwards.
#![forbid(unsafe_code)]

use crate::scoreboard::{Counters, LATENCY_BOUNDS, NUMBERS, Scoreboard, Tally, Timeout};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts by name, where a count has several.
pub type Named = BTreeMap<String, u64>;

/// The sums.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Requests that got an answer of any kind.
    pub requests: u64,
    /// Answers by class, `1xx` to `5xx`.
    pub status: Named,
    /// Requests whose bytes crossed our close at a stop.
    pub raced: u64,
    /// Requests that died with their workers: accepted, and not answered.
    pub lost: u64,
    /// Requests whose client went away first.
    pub aborted: u64,
    /// Panics caught in handlers.
    pub panics: u64,
    /// Expired timeouts by name, as in `[timeouts]`.
    pub timeouts: Named,
    /// Connections accepted.
    pub accepts: u64,
    /// Connections accepted, by the worker's number.
    pub accepts_by_worker: BTreeMap<u64, u64>,
    /// Connections handed to another worker.
    pub handed_over: u64,
    /// Connections taken over from another worker.
    pub taken_over: u64,
    /// Bytes sent to clients.
    pub bytes_out: u64,
    /// How long requests took: counts in the buckets of [`LATENCY_BOUNDS`], the last for all above.
    pub latency_buckets: Vec<u64>,
    /// Sum of all durations (us).
    pub latency_sum_us: u64,
    /// Workers that ended, by cause.
    pub exits: Named,
    /// Reloads by outcome.
    pub reloads: Named,
    /// Rollbacks by outcome.
    pub rollbacks: Named,
    /// Upgrades of the binary by outcome.
    pub upgrades: Named,
    /// Workers that were replaced by plan, by reason.
    pub recycled: Named,
    /// Workers started.
    pub spawned: u64,
    /// Monitors that had to be started again.
    pub monitor_exits: u64,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const TIMEOUTS: [(Timeout, &str); 6] = [
    (Timeout::Header, "header"),
    (Timeout::Body, "body"),
    (Timeout::Request, "request"),
    (Timeout::Write, "write"),
    (Timeout::KeepAlive, "keep-alive"),
    (Timeout::Drain, "drain"),
];
const EXITS: [(Tally, &str); 8] = [
    (Tally::ExitAsked, "asked"),
    (Tally::ExitUnasked, "unasked"),
    (Tally::ExitCrash, "crash"),
    (Tally::ExitStuck, "stuck"),
    (Tally::ExitDrain, "drain"),
    (Tally::ExitBoot, "boot"),
    (Tally::ExitMemory, "memory"),
    (Tally::ExitOom, "oom"),
];
const RELOADS: [(Tally, &str); 2] = [(Tally::ReloadsDone, "done"), (Tally::ReloadsRefused, "refused")];
const ROLLBACKS: [(Tally, &str); 2] = [(Tally::Rollbacks, "done"), (Tally::RollbacksRefused, "refused")];
const UPGRADES: [(Tally, &str); 2] = [(Tally::UpgradesDone, "done"), (Tally::UpgradesRefused, "refused")];
const RECYCLED: [(Tally, &str); 4] = [
    (Tally::RecycledRequests, "requests"),
    (Tally::RecycledLifetime, "lifetime"),
    (Tally::RecycledMemory, "memory"),
    (Tally::RecycledStuck, "stuck"),
];

impl Totals {
    /// Sums everything up; to be called between burials ([`House::between_burials`](crate::scoreboard::House::between_burials)).
    pub fn of(board: &'static Scoreboard) -> Self {
        let house = board.house();
        let mut totals = Self::default();
        for name in CLASSES {
            totals.status.insert(name.to_owned(), 0);
        }
        for (_, name) in TIMEOUTS {
            totals.timeouts.insert(name.to_owned(), 0);
        }
        totals.latency_buckets = vec![0; LATENCY_BOUNDS.len() + 1];
        totals.add(house.kept());
        // A number that nobody has at the moment keeps its count: a series must not come and go with its worker.
        for number in 1..=NUMBERS {
            let kept = house.kept_accepts(number);
            if kept != 0 {
                totals.accepts_by_worker.insert(number as u64, kept);
            }
        }
        for slot in board.claimed() {
            totals.add(slot.counters());
            if slot.number() != 0 {
                let by = totals.accepts_by_worker.entry(slot.number() as u64).or_default();
                *by += slot.counters().accepts.load(Ordering::Relaxed);
            }
        }
        let named = |tallies: &[(Tally, &str)]| -> Named {
            let counts = tallies.iter().map(|(of, name)| ((*name).to_owned(), house.tally(*of)));
            counts.collect()
        };
        totals.lost = house.tally(Tally::CallsKilled);
        totals.exits = named(&EXITS);
        totals.reloads = named(&RELOADS);
        totals.rollbacks = named(&ROLLBACKS);
        totals.upgrades = named(&UPGRADES);
        totals.recycled = named(&RECYCLED);
        totals.spawned = house.tally(Tally::Spawned);
        totals.monitor_exits = house.tally(Tally::MonitorExits);
        // Whoever does not start or leave in time is killed by the master.
        for (name, killed) in [("boot", Tally::BootExpired), ("drain", Tally::ExitDrain)] {
            *totals.timeouts.entry(name.to_owned()).or_default() += house.tally(killed);
        }
        totals
    }

    fn add(&mut self, counters: &Counters) {
        let of = |word: &AtomicU64| word.load(Ordering::Relaxed);
        self.requests += of(counters.requests);
        for (name, word) in CLASSES.iter().zip(counters.status) {
            *self.status.entry((*name).to_owned()).or_default() += of(word);
        }
        for (timeout, name) in TIMEOUTS {
            *self.timeouts.entry(name.to_owned()).or_default() += of(counters.timeouts[timeout as usize]);
        }
        for (sum, word) in self.latency_buckets.iter_mut().zip(counters.latency.buckets) {
            *sum += of(word);
        }
        self.latency_sum_us += of(counters.latency.sum);
        self.raced += of(counters.raced);
        self.aborted += of(counters.aborted);
        self.panics += of(counters.panics);
        self.accepts += of(counters.accepts);
        self.handed_over += of(counters.handed_over);
        self.taken_over += of(counters.taken_over);
        self.bytes_out += of(counters.bytes_out);
    }
}
