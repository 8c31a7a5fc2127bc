//! Which workers have served long enough.
//!
//! Takes, once a second, the age, memory and heartbeat of each worker, and what workers ask for themselves; marks those
//! that are to be replaced, and the posts replace them, a bounded number at a time. Only what can hurt the others is
//! not waited for: too much memory is killed, a hung worker is told to go at once.
#![forbid(unsafe_code)]

use super::workers::Retiring;
use super::{Master, Phase};
use crate::config::Limits;
use crate::scoreboard::{Plea, Tally};
use crate::sys::process::{self, Pid};
use crate::sys::time;
use std::time::Duration;

/// Between two looks at all workers.
const TICK: Duration = Duration::from_secs(1);
/// How much later than a call's own deadline a silent worker is given up.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a worker that was told to leave serves on for its successor to come, at least. Together with a tick it is less than a
/// worker waits for us to say how it is to leave.
const TOLD: Duration = Duration::from_millis(500);
/// A master that has not looked for so long was not running itself.
const SLEPT: Duration = Duration::from_secs(5);

/// What is to be done about a worker.
enum Verdict {
    Retire(Retiring),
    /// It was told to leave, and its successor takes its time.
    LetGo(Retiring),
    Kill(String),
    /// Its loop has not gone round for too long.
    Hung(Duration),
}

impl Master {
    /// When the next look is due (ns).
    pub(super) fn next_look(&self) -> u64 {
        self.looked.saturating_add(time::nanos(TICK))
    }

    /// Looks at every worker that serves.
    pub(super) fn look_after(&mut self, now: u64) {
        if now < self.next_look() {
            return;
        }
        // Whoever froze us froze them too (a paused container, a debugger): they have not had the time to show a sign of life.
        let frozen = now.saturating_sub(self.looked) > time::nanos(SLEPT);
        self.looked = now;
        self.oom.look();
        let Some(current) = self.current.clone() else { return };
        let (limits, request) = (&current.config.limits, current.config.timeouts.request);
        let mut verdicts: Vec<(Pid, Verdict)> = Vec::new();
        for worker in self.workers.iter_mut() {
            worker.memory = process::memory_of(worker.pid).unwrap_or(worker.memory);
            if limits.memory_hard > 0 && worker.memory > limits.memory_hard && worker.holds_post() {
                verdicts.push((worker.pid, Verdict::Kill(over_the_hard_limit(worker.memory, limits))));
                continue;
            }
            let Some(served) = worker.served(now).filter(|_| worker.is_ready()) else {
                continue;
            };
            let silent = Duration::from_nanos(now.saturating_sub(worker.slot.heartbeat().max(worker.slot.started())));
            if silent > request + SILENCE && !frozen {
                verdicts.push((worker.pid, Verdict::Hung(silent)));
            } else if let Some(retiring) = worker.retiring {
                if matches!(retiring, Retiring::Told(since) if now.saturating_sub(since) > time::nanos(TOLD)) {
                    verdicts.push((worker.pid, Verdict::LetGo(retiring)));
                }
            } else if limits.memory_soft > 0 && worker.memory > soft_limit(limits, worker.memory_at_first) {
                verdicts.push((worker.pid, Verdict::Retire(Retiring::Memory)));
            } else if !limits.max_lifetime.is_zero() && served >= limits.max_lifetime {
                verdicts.push((worker.pid, Verdict::Retire(Retiring::Lifetime)));
            }
        }
        for (pid, verdict) in verdicts {
            match verdict {
                Verdict::Retire(why) => self.retire(pid, why),
                Verdict::LetGo(told) => self.let_go(pid, told.why(), false),
                Verdict::Kill(why) => self.kill(pid, why, Tally::ExitMemory),
                Verdict::Hung(silent) => {
                    tracing::error!(
                        worker_pid = pid.as_raw(),
                        "a worker's loop has been silent for {silent:?}: it is replaced"
                    );
                    self.board.house().count(Tally::RecycledStuck);
                    self.let_go(pid, "its loop was silent", false);
                }
            }
        }
    }

    /// Why a worker that has just become ready is of no use: it would be killed at the next look, and so would each after it.
    /// Also takes down how big it is, and says so when that is more than would have it replaced.
    pub(super) fn too_big(&mut self, pid: Pid) -> Option<String> {
        let target = self.target()?;
        let limits = &target.config.limits;
        let worker = self.workers.of(pid).filter(|worker| worker.is_starting())?;
        let memory = process::memory_of(pid)?;
        (worker.memory, worker.memory_at_first) = (memory, memory);
        if limits.memory_hard > 0 && memory > limits.memory_hard {
            return Some(format!(
                "a worker is too big when it has just started: {}",
                over_the_hard_limit(memory, limits)
            ));
        }
        // One speaks for all.
        if limits.memory_soft > 0 && memory > limits.memory_soft && worker.post == 0 {
            tracing::warn!(
                "a worker that has just started uses {} MiB, more than limits.memory-soft; it is replaced above {} MiB",
                memory >> 20,
                soft_limit(limits, memory) >> 20
            );
        }
        None
    }

    /// Workers have asked for something.
    pub(super) fn hear_pleas(&mut self) {
        self.notice.clear();
        let pleas: Vec<(Pid, Plea)> = self
            .workers
            .iter()
            .filter(|worker| worker.is_ready())
            .map(|worker| (worker.pid, worker.slot.plea()))
            .collect();
        for (pid, plea) in pleas {
            match plea {
                Plea::None => {}
                Plea::Requests => self.retire(pid, Retiring::Requests),
                Plea::Stuck => {
                    self.board.house().count(Tally::RecycledStuck);
                    self.record_stuck(pid);
                    self.let_go(pid, "a call is stuck in it", false);
                }
                // It waits for a word of ours. Whoever told it may be about to tell us: then the word is to empty the queues, and it
                // would be too late for that had it gone already.
                Plea::Leaving => self.retire(pid, Retiring::Told(time::monotonic_ns())),
            }
        }
    }

    /// Has a worker replaced, its successor first.
    fn retire(&mut self, pid: Pid, why: Retiring) {
        if self.phase != Phase::Serving {
            return;
        }
        if let Some(worker) = self
            .workers
            .of(pid)
            .filter(|worker| worker.is_ready() && worker.retiring.is_none_or(|before| before.gives_way_to(why)))
        {
            worker.retiring = Some(why);
            tracing::info!(
                worker = worker.post + 1,
                worker_pid = pid.as_raw(),
                "worker is to be replaced: {}",
                why.why()
            );
        }
    }
}

/// Above how much memory (bytes) a worker is replaced. One that begins above the limit would be so for ever, each
/// successor as big as it: that one may grow by a quarter.
fn soft_limit(limits: &Limits, at_first: u64) -> u64 {
    if at_first > limits.memory_soft {
        at_first.saturating_add(at_first / 4)
    } else {
        limits.memory_soft
    }
}

fn over_the_hard_limit(memory: u64, limits: &Limits) -> String {
    format!(
        "it uses {} MiB, more than limits.memory-hard ({} MiB)",
        memory >> 20,
        limits.memory_hard >> 20
    )
}
