//! What can be told about the running server: the one source of `/status`, `/metrics` and `appserver status`.
//!
//! Takes the scoreboard; gives a [`Status`]: the [`Facts`] as the master wrote them, and everything else counted from the
//! slots. It reads shared memory and /proc only, so it can be asked by any process, whoever hangs.
#![forbid(unsafe_code)]

mod cache;
mod facts;
pub mod metrics;
mod totals;

pub use cache::CacheStatus;
pub use facts::{Facts, GenerationFacts, ModuleFacts, Outcome};
pub use totals::Totals;

use crate::scoreboard::{Fact, Scoreboard, Slot, State};
use crate::sys::{process, time};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;

/// A worker whose loop has not come round for this long (ms) serves nobody: five of its beats.
pub const UNRESPONSIVE_MS: u64 = 5_000;
/// A master whose loop has not come round for this long (ms) hangs; a living one comes round every [`MASTER_BEAT_MS`].
pub const MASTER_LOST_MS: u64 = 20_000;
/// How often (ms) a master goes round its loop although nothing happens, so that it can be seen to live.
pub const MASTER_BEAT_MS: u64 = 5_000;

/// Everything, at one moment. Ages are of that moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// Of the master's binary.
    pub version: String,
    /// The master's process.
    pub master_pid: i32,
    /// How long ago the master last went round its loop; absent when it has not told.
    pub master_seen_ms: Option<u64>,
    /// Since the server started; an upgrade of the binary is no start.
    pub uptime_seconds: u64,
    /// `starting` (until the first generation is complete), `serving`, `paused` or `stopping`.
    pub phase: String,
    /// Number of workers there should be.
    pub wanted: u64,
    /// Number of workers that are ready and responsive, of whatever generation.
    pub ready: u64,
    /// How many were ready already, at most `wanted`; what [`ready`] measures by.
    pub reached: u64,
    /// The generation that serves; 0 before the first.
    pub generation: u64,
    /// Whether a reload is under way.
    pub reloading: bool,
    /// Whether a generation's workers keep dying at their start.
    pub looping: bool,
    /// Where the server listens.
    pub listeners: Vec<String>,
    /// The generations that exist: the one that serves first.
    pub generations: Vec<GenerationFacts>,
    /// How the last reload, rollback or upgrade ended.
    pub last: Option<Outcome>,
    /// By number, the longest-lived of a number first.
    pub workers: Vec<WorkerStatus>,
    /// Counts since the server started, workers that are gone included.
    pub totals: Totals,
    /// The shared cache; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheStatus>,
}

/// One worker process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its number, counted from 1. While one is replaced, two processes have it.
    pub worker: u64,
    /// Its process.
    pub pid: i32,
    /// `starting`, `ready`, `draining`, `stuck`, or `dead` for the moment until it is counted.
    pub state: String,
    /// The generation it serves.
    pub generation: u64,
    /// Since its fork.
    pub uptime_seconds: u64,
    /// Requests it has answered.
    pub requests: u64,
    /// Requests in progress.
    pub in_flight: u64,
    /// Open connections.
    pub connections: u64,
    /// Connections it has accepted.
    pub accepts: u64,
    /// Resident memory; absent when the process has gone.
    pub memory_bytes: Option<u64>,
    /// How long ago its loop last came round; absent before the first time.
    pub heartbeat_age_ms: Option<u64>,
    /// Calls of the handler in progress, oldest first.
    pub calls: Vec<CallStatus>,
}

/// One call of the handler in progress.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CallStatus {
    /// Method and target; bytes that are no printable ASCII are escaped.
    pub line: String,
    /// Its request id.
    pub request_id: String,
    /// How long it has been running.
    pub age_ms: u64,
}

/// All that is known.
pub fn status(board: &'static Scoreboard) -> Status {
    let house = board.house();
    // A text that is being written, or was never told, leaves the rest as it is.
    let facts: Facts = serde_json::from_slice(&house.told()).unwrap_or_default();
    let (mut workers, totals, cache) = house.between_burials(|| {
        // The clock first: what is recorded after it has the age zero.
        let now = time::monotonic_ns();
        let workers: Vec<WorkerStatus> = board.claimed().map(|slot| worker(slot, now)).collect();
        let mut cache = CacheStatus::default();
        cache.add(&house.kept().cache);
        board.claimed().for_each(|slot| cache.add(&slot.counters().cache));
        (workers, Totals::of(board), cache)
    });
    let size = house.fact(Fact::CacheSize);
    let cache = (size > 0).then(|| CacheStatus {
        size,
        bytes: house.fact(Fact::CacheBytes),
        entries: house.fact(Fact::CacheEntries),
        ..cache
    });
    for worker in &mut workers {
        worker.memory_bytes = process::memory_of(process::Pid::from_raw(worker.pid));
    }
    workers.sort_by_key(|worker| (worker.worker, std::cmp::Reverse(worker.uptime_seconds)));
    let seen = house.fact(Fact::Alive);
    Status {
        version: facts.version,
        master_pid: house.fact(Fact::Master) as i32,
        master_seen_ms: (seen != 0).then(|| time::monotonic_ns().saturating_sub(seen) / 1_000_000),
        uptime_seconds: time::unix_seconds().saturating_sub(house.fact(Fact::Started)),
        phase: phase_name(house.fact(Fact::Phase)).to_owned(),
        wanted: house.fact(Fact::Wanted),
        ready: workers.iter().filter(|worker| worker.serves()).count() as u64,
        reached: house.fact(Fact::Reached),
        generation: house.fact(Fact::Generation),
        reloading: house.fact(Fact::Reloading) != 0,
        looping: house.fact(Fact::Looping) != 0,
        listeners: facts.listeners,
        generations: facts.generations,
        last: facts.last,
        workers,
        totals,
        cache,
    }
}

/// Whether the server should be sent requests: the rule of `/readyz`.
///
/// # Errors
/// Why not, as a sentence. It is ready while it serves (not before its first generation was complete, not while it is paused or
/// stops), no generation is in a crash loop, and at least half of the workers that were ready once (at most those wanted) are
/// ready and responsive now. So a crash or a rolling reload of a few is no reason to send the load elsewhere, and asking for
/// more workers is none either; with one worker, its absence is.
pub fn ready(status: &Status) -> Result<(), String> {
    match status.phase.as_str() {
        "serving" => {}
        "starting" => {
            return Err(format!("starting: {} of {} workers ready", status.ready, status.wanted));
        }
        other => return Err(other.to_owned()),
    }
    if status.looping {
        return Err("workers keep dying; see the log".to_owned());
    }
    let enough = status.reached.div_ceil(2).max(1);
    if status.ready < enough {
        let (ready, wanted) = (status.ready, status.wanted);
        return Err(format!("{ready} of {wanted} workers ready; {enough} would be enough"));
    }
    Ok(())
}

/// Whether the master goes round its loop: the rule of `/healthz`.
///
/// # Errors
/// For how long it has not, as a sentence.
pub fn healthy(status: &Status) -> Result<(), String> {
    match status.master_seen_ms {
        Some(age) if age > MASTER_LOST_MS => Err(format!("the master has not moved for {} s", age / 1000)),
        _ => Ok(()),
    }
}

impl WorkerStatus {
    /// Whether it is ready and its loop comes round.
    pub fn serves(&self) -> bool {
        self.state == "ready" && self.heartbeat_age_ms.is_none_or(|age| age < UNRESPONSIVE_MS)
    }
}

fn worker(slot: Slot, now: u64) -> WorkerStatus {
    let counters = slot.counters();
    let ago = |then: u64| now.saturating_sub(then);
    let beat = slot.heartbeat();
    let calls = slot.calls().into_iter().map(|call| CallStatus {
        line: call.line.escape_ascii().to_string(),
        request_id: call.request_id.escape_ascii().to_string(),
        age_ms: ago(call.started) / 1_000_000,
    });
    WorkerStatus {
        worker: slot.number() as u64,
        pid: slot.pid().as_raw(),
        state: state_name(slot.state()).to_owned(),
        generation: slot.generation(),
        uptime_seconds: ago(slot.started()) / 1_000_000_000,
        requests: counters.requests.load(Ordering::Relaxed),
        in_flight: counters.in_flight.load(Ordering::Relaxed),
        connections: counters.open.load(Ordering::Relaxed),
        accepts: counters.accepts.load(Ordering::Relaxed),
        memory_bytes: None,
        heartbeat_age_ms: (beat != 0).then(|| ago(beat) / 1_000_000),
        calls: calls.collect(),
    }
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Empty | State::Dead => "dead",
        State::Starting => "starting",
        State::Ready => "ready",
        State::Draining => "draining",
        State::Stuck => "stuck",
    }
}

/// The words of [`Fact::Phase`].
fn phase_name(phase: u64) -> &'static str {
    match phase {
        1 => "serving",
        2 => "paused",
        3 => "stopping",
        _ => "starting",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(ready: u64, reached: u64, wanted: u64) -> Status {
        Status {
            phase: "serving".to_owned(),
            ready,
            reached,
            wanted,
            ..Status::default()
        }
    }

    #[test]
    fn half_of_what_was_reached_is_enough_and_none_never_is() {
        assert_eq!(super::ready(&serving(10, 10, 10)), Ok(()));
        assert_eq!(super::ready(&serving(5, 10, 10)), Ok(()));
        assert_eq!(
            super::ready(&serving(2, 2, 10)),
            Ok(()),
            "more were asked for a moment ago"
        );
        assert_eq!(
            super::ready(&serving(4, 10, 10)).unwrap_err(),
            "4 of 10 workers ready; 5 would be enough"
        );
        assert!(super::ready(&serving(0, 1, 1)).is_err());
        assert!(super::ready(&serving(0, 0, 1)).is_err());
    }

    #[test]
    fn a_server_that_loops_starts_pauses_or_stops_is_not_ready() {
        let looping = Status {
            looping: true,
            ..serving(10, 10, 10)
        };
        assert!(super::ready(&looping).is_err());
        for phase in ["starting", "paused", "stopping"] {
            let status = Status {
                phase: phase.to_owned(),
                ..serving(10, 10, 10)
            };
            assert!(super::ready(&status).unwrap_err().starts_with(phase));
        }
    }

    #[test]
    fn a_master_that_does_not_move_is_not_healthy() {
        let seen = |ms| Status {
            master_seen_ms: ms,
            ..Status::default()
        };
        assert_eq!(healthy(&seen(None)), Ok(()));
        assert_eq!(healthy(&seen(Some(MASTER_BEAT_MS + 1000))), Ok(()));
        assert!(healthy(&seen(Some(MASTER_LOST_MS + 1))).is_err());
    }

    #[test]
    fn a_status_is_counted_from_the_slots_and_the_sums() {
        let board = Scoreboard::create().unwrap();
        let house = board.house();
        house.set(Fact::Phase, 1);
        house.set(Fact::Wanted, 2);
        house.tell(br#"{"version":"1","listeners":["127.0.0.1:1"],"generations":[],"last":null}"#);
        let gone = board.claim(1).unwrap();
        gone.number_set(1);
        gone.counters().requests.store(40, Ordering::Relaxed);
        gone.bury();
        let slot = board.claim(2).unwrap();
        slot.number_set(1);
        slot.pid_set(process::Pid::this());
        slot.state_set(State::Ready);
        slot.beat();
        slot.counters().requests.store(2, Ordering::Relaxed);
        let _call = slot.call_begin(b"abc", b"GET /\xff", 1).unwrap();
        let status = status(board);
        assert_eq!((status.ready, status.totals.requests), (1, 42));
        assert_eq!(status.listeners, ["127.0.0.1:1"]);
        let worker = &status.workers[0];
        assert_eq!((worker.worker, worker.generation, worker.requests), (1, 2, 2));
        assert!(worker.memory_bytes.is_some_and(|bytes| bytes > 100_000));
        assert_eq!(worker.calls[0].line, r"GET /\xff");
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
