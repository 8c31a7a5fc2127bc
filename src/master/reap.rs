//! The end of a worker: what it was doing, what it had not written yet, and who takes its place.
//!
//! Takes a process that ended; gives its record (which `capsule` writes), its access lines on disk and its slot back.
//! Orphans that became ours (as process 1, or as a subreaper) are nobody's business.
#![forbid(unsafe_code)]

use super::workers::{Stage, Worker};
use super::{Master, Phase, capsule};
use crate::scoreboard::{State, Tally};
use crate::sys::boot::Boot;
use crate::sys::process::{self, Outcome, Pid};
use crate::sys::time;

impl Master {
    /// Reaps every child that has ended.
    pub(super) fn reap(&mut self) {
        loop {
            match process::look() {
                Ok(Some((pid, outcome))) => {
                    self.hear_last_word(pid);
                    // Whoever kills it once more for good measure must not meet another process of its id.
                    let known = self.check_ended(pid, outcome)
                        || self.autopsy_ended(pid, outcome)
                        || self.monitor_ended(pid, outcome)
                        || self.purge_ended(pid, outcome)
                        || self.cache_reader_ended(pid, outcome)
                        || self.successor_ended(pid, outcome);
                    let peak_memory = process::reap(pid);
                    self.free_waiting(pid);
                    if !known {
                        self.worker_ended(pid, outcome, peak_memory);
                    }
                }
                Ok(None) => return,
                Err(error) => return tracing::error!("cannot look for children that ended: {error}"),
            }
        }
    }

    /// What a worker said of its start may have come after we listened.
    fn hear_last_word(&mut self, pid: Pid) {
        let said = match self.workers.of(pid).map(|worker| &worker.stage) {
            Some(Stage::Starting { boot, .. }) => boot.look(),
            _ => return,
        };
        match said {
            Boot::Ready => self.ready(pid),
            Boot::Failed(reason) => self.start_failed(pid, reason),
            Boot::Pending | Boot::Gone => {}
        }
    }

    /// A worker, or an orphan that is nobody's business, ended and is reaped.
    fn worker_ended(&mut self, pid: Pid, outcome: Outcome, peak_memory: u64) {
        let Some(worker) = self.workers.take(pid) else { return };
        let now = time::monotonic_ns();
        worker.slot.state_set(State::Dead);
        let capsule = self.capsule(&worker, outcome, peak_memory, now);
        self.lay_to_rest(&worker, now);
        let at_start = capsule::at_start_of(&worker);
        worker.slot.bury();
        // A connection that only it was woken for waits for somebody to look.
        self.workers.iter().for_each(|other| other.commands.wake());
        self.tell_all(capsule);
        match worker.stage {
            Stage::Starting { .. } => {
                let reason = format!(
                    "worker {} {} before it was ready{at_start}",
                    worker.post + 1,
                    outcome.told()
                );
                self.delay(&worker, now);
                self.generation_failed(worker.generation, &reason, &reason);
            }
            // Workers that serve for a moment and die would be refilled for ever: that generation is not the one to go to.
            Stage::Ready if self.change.is_rolling(worker.generation) => {
                let reason = format!("worker {} {} before all were ready", worker.post + 1, outcome.told());
                self.refuse(&reason);
            }
            Stage::Killed {
                ref why,
                tally: Tally::ExitBoot | Tally::ExitMemory,
            } if self.change.is_rolling(worker.generation) => {
                let reason = format!("worker {} was killed before all were ready: {why}", worker.post + 1);
                self.refuse(&reason);
            }
            Stage::Ready
            | Stage::Killed {
                tally: Tally::ExitBoot | Tally::ExitMemory,
                ..
            } => self.delay(&worker, now),
            // It was told to go.
            Stage::Draining { .. } | Stage::Killed { .. } => {}
        }
    }

    /// Keeps what a worker has counted and not written, and tells of the calls that died with it.
    fn lay_to_rest(&self, worker: &Worker, now: u64) {
        let house = self.board.house();
        // One whose access line is written has had its answer.
        let calls = worker.slot.calls();
        let unanswered = calls.iter().filter(|call| !call.logged);
        unanswered.for_each(|_| house.count(Tally::CallsKilled));
        if let Some(access) = &self.access {
            access.flush(worker.slot.log());
            access.mourn(worker, now);
        }
    }

    fn delay(&mut self, worker: &Worker, now: u64) {
        // A generation that was refused says nothing about the one that serves.
        if self
            .current
            .as_ref()
            .is_none_or(|current| current.number != worker.generation)
        {
            return;
        }
        let delay = self.workers.backoff(worker.post).died(now, worker.served(now));
        if !delay.is_zero() && self.phase == Phase::Serving {
            tracing::warn!(worker = worker.post + 1, "died early again; next start in {delay:?}");
        }
    }
}
