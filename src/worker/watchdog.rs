//! The watchdog: a thread that acts for the runtime thread while that is stuck in a handler.
//!
//! Takes what the runtime thread shows of the handler code it runs, and the calls that were given up on the pool's threads.
//! When a piece has outlasted `timeouts.request`, or the worker's drain, it answers in its stead, writes the access line, has the
//! worker replaced and hands its connections to others; these go at once when the worker is leaving. A pooled call that goes on after its answer it only reports. It runs no handler code.
//!
//! **Invariant**: what is the runtime thread's own is touched from here only within [`Bench::take`], for so long is that
//! thread held up.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::roster::Roster;
use super::stuck::{Held, Report};
use crate::gateway::Call;
use crate::handover::Handover;
use crate::protocol::http::timer::ASLEEP;
use crate::scoreboard::{CallRecord, Timeout};
use crate::sys::piece::Bench;
use crate::sys::{fault, time};

/// How long a call may go on after its 504 before its worker counts as stuck: a handler that looks at its deadline only between
/// two steps gets away, one that hangs costs little more time.
pub const OVERTIME: Duration = Duration::from_secs(1);
/// Between two looks: an eighth of `timeouts.request`, within these bounds.
const TICK: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));
/// How long a piece has to have run in a worker that leaves before its idle connections are handed over without it.
const HELD_UP: u64 = 1_000_000_000;
/// Between two attempts to hand over what found no room in the channel.
const RETRY: Duration = Duration::from_millis(5);
/// How much stack the thread gets; untouched pages cost nothing.
const STACK: usize = 256 * 1024;

/// What the runtime thread and the watchdog share.
pub struct Watch {
    bench: Bench<Arc<Call>>,
    suspects: Mutex<VecDeque<Suspect>>,
    /// The records of suspects that did not come back: they stay on the scoreboard for as long as this worker lives.
    stuck: Mutex<Vec<CallRecord>>,
    roused: Condvar,
}

/// A call that was answered for its handler, which may still run.
struct Suspect {
    call: Arc<Call>,
    due: u64,
    /// Its place on the scoreboard, once its answer is accounted for.
    kept: Option<CallRecord>,
}

impl Watch {
    /// Nothing to watch yet.
    pub fn new() -> Self {
        Self {
            bench: Bench::new(),
            suspects: Mutex::default(),
            stuck: Mutex::default(),
            roused: Condvar::new(),
        }
    }

    /// Runs handler code of a call on the runtime thread, watched from `now` (ns) on.
    pub fn inline<R>(&self, call: &Arc<Call>, now: u64, run: impl FnOnce() -> R) -> R {
        self.bench.work(call, now, run)
    }

    /// Has a call looked at a little later, whose time was over.
    pub fn suspect(&self, call: &Arc<Call>) {
        let due = time::monotonic_ns() + time::nanos(OVERTIME);
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        suspects.push_back(Suspect {
            call: call.clone(),
            due,
            kept: None,
        });
        drop(suspects);
        self.roused.notify_one();
    }

    /// Keeps a suspect's record on the scoreboard, where the master looks for what is stuck, although its answer has left.
    pub fn keep(&self, call: &Arc<Call>, record: CallRecord) {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suspect) = suspects.iter_mut().find(|suspect| Arc::ptr_eq(&suspect.call, call)) {
            suspect.kept = Some(record);
        }
    }

    /// The suspects whose time has come, and when the next one's does (ns).
    fn due(&self, now: u64) -> (Vec<Arc<Call>>, Option<u64>) {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        while suspects.front().is_some_and(|first| first.due <= now)
            && let Some(suspect) = suspects.pop_front()
        {
            if suspect.call.thread().is_some()
                && let Some(record) = suspect.kept
            {
                self.stuck.lock().unwrap_or_else(PoisonError::into_inner).push(record);
            }
            due.push(suspect.call);
        }
        (due, suspects.front().map(|first| first.due))
    }

    fn rest(&self, time: Duration) {
        let suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.roused.wait_timeout(suspects, time));
    }
}

/// What the watchdog works with.
pub struct Watchdog {
    /// What it watches.
    pub watch: Arc<Watch>,
    /// How it reports.
    pub report: Report,
    /// Where connections go.
    pub handover: Arc<Handover>,
    /// The open connections.
    pub roster: Arc<Roster>,
    /// The runtime thread.
    pub thread: i32,
}

impl Watchdog {
    /// Starts the thread.
    ///
    /// # Errors
    /// From pthread_create(3).
    pub fn start(self) -> io::Result<()> {
        let named = thread::Builder::new().name("watchdog".into()).stack_size(STACK);
        named.spawn(move || self.run()).map(|_| ())
    }

    fn run(self) {
        // Without it a crash is told without its stack; no reason not to watch.
        let _ = fault::arm_thread();
        let mut told = None;
        let tick = (self.report.timeouts.request / 8).clamp(TICK.0, TICK.1);
        loop {
            let left = self.look(&mut told);
            let time = left.map_or(tick, |left| left.min(tick));
            let began = Instant::now();
            self.watch.rest(time);
            if began.elapsed() >= time + ASLEEP {
                // All threads of this process slept as long: its handlers are not to blame.
                self.watch.rest(ASLEEP);
            }
        }
    }

    /// Acts on what has taken too long; gives the time to what will have next. `told` is when the worker was first seen leaving.
    fn look(&self, told: &mut Option<u64>) -> Option<Duration> {
        let now = time::monotonic_ns();
        let timeouts = &self.report.timeouts;
        let commands = self.report.slot.commands();
        if commands.drain {
            told.get_or_insert(now);
        }
        let mut next = None;
        if let Some(since) = self.watch.bench.since() {
            let late = since.saturating_add(time::nanos(timeouts.request));
            // Its master does not wait longer for it than a drain, and the runtime thread does not even know that it leaves.
            let drained = told.map_or(u64::MAX, |told| told.saturating_add(time::nanos(timeouts.drain)));
            let held_up = since.saturating_add(HELD_UP);
            if late.min(drained) <= now {
                let timeout = if drained < late {
                    Timeout::Drain
                } else {
                    Timeout::Request
                };
                self.watch.bench.take(since, |call| self.act_for(call, timeout));
            } else if commands.handover && held_up <= now {
                self.watch.bench.hold(since, || self.empty());
                next = Some(late.min(drained));
            } else {
                next = Some(late.min(drained).min(held_up));
            }
        }
        let (due, later) = self.watch.due(now);
        for call in due {
            if let Some(thread) = call.thread() {
                self.report.stuck(&call, Held::Pool(thread));
            }
        }
        let next = [next, later].into_iter().flatten().min()?;
        Some(Duration::from_nanos(
            next.saturating_sub(time::monotonic_ns()).max(1_000_000),
        ))
    }

    /// Does for the runtime thread what cannot wait for it.
    fn act_for(&self, call: &Arc<Call>, timeout: Timeout) {
        let ended = self.report.end(call, timeout);
        self.report.stuck(call, Held::Runtime(self.thread));
        if let Some(ended) = ended {
            self.report.log(call, &ended);
        }
        // The client has its answer and a successor is on its way; now the others. At a stop nobody is left to take them.
        let commands = self.report.slot.commands();
        if commands.handover || !commands.drain {
            self.empty();
        }
    }

    /// Hands over every connection that nothing is owed on, as long as there are any and the runtime thread does not ask for
    /// them back. It brings no new ones: the kernel passes it over.
    fn empty(&self) {
        loop {
            let (given, left) = self.roster.give_all(&self.handover);
            let counters = self.report.slot.counters();
            counters.handed_over.fetch_add(given as u64, Ordering::Relaxed);
            if left == 0 || self.watch.bench.is_awaited() {
                return;
            }
            thread::park_timeout(RETRY);
        }
    }
}
