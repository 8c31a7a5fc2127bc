//! The posts: who should serve at each, and the next steps towards that.
//!
//! Takes the workers as they are and the generation that should serve; starts what is missing, replaces what is
//! outdated and lets go what is too much. First boot, respawn, reload, undo, rollback, recycling and scaling are all
//! this one comparison; it keeps no plan of its own.
//!
//! **Invariant**: a worker that serves is let go only when its successor is ready, so at no moment do fewer serve than
//! before the change began.
#![forbid(unsafe_code)]

use super::reload::Change;
use super::workers::{Post, Retiring, Stage, Worker};
use super::{Master, Phase};
use crate::exit::Exit;
use crate::generation::Generation;
use crate::scoreboard::{Plea, State, Tally};
use crate::sys::process::{self, Pid};
use crate::sys::time;
use std::collections::BTreeSet;
use std::rc::Rc;

/// How many successors may start at once beside those that serve: a quarter of them, so that a change of ten workers
/// takes four rounds and memory for three more.
fn most_successors(wanted: usize) -> usize {
    wanted.div_ceil(4)
}

/// How many are forked before the master listens again: a fork takes a millisecond.
const AT_ONCE: usize = 16;

impl Master {
    /// What new workers serve: in a change the generation to come, else the one that is.
    pub(super) fn target(&self) -> Option<Rc<Generation>> {
        match &self.change {
            Change::Rolling(roll) => Some(roll.to.clone()),
            _ => self.current.clone(),
        }
    }

    /// Starts and lets go what is due now; the rest follows when those are ready.
    pub(super) fn keep_posts(&mut self, now: u64) {
        let Some(target) = self.target() else { return };
        self.trim();
        let mut due = self.due(&target);
        due.retain(|post| self.is_trial(&target) || self.workers.vacant_until(*post) <= now);
        for post in due.into_iter().take(AT_ONCE) {
            self.fill(&target, post, now);
            // A start that failed at once has ended the change: the next round sees the new target.
            if self.target().is_none_or(|now| now.number != target.number) {
                return;
            }
        }
    }

    /// When [`Master::keep_posts`] has something to do that no event announces (ns).
    pub(super) fn posts_deadline(&self) -> Option<u64> {
        let due = self.due(&*self.target()?);
        due.into_iter().map(|post| self.workers.vacant_until(post)).min()
    }

    /// The posts at which a worker is to be started: vacant ones, and as many outdated ones as may have a successor.
    fn due(&self, target: &Generation) -> Vec<usize> {
        // What a worker deletes must not come back from the file.
        if self.cache_reader.is_some() {
            return Vec::new();
        }
        let posts = self.workers.posts(self.wanted);
        let starting = posts
            .iter()
            .filter(|post| post.serving.is_some() && post.next.is_some())
            .count();
        let mut room = most_successors(self.wanted).saturating_sub(starting);
        let mut is_due = |post: &Post<'_>| match (post.serving, post.next) {
            (_, Some(_)) => false,
            (None, None) => true,
            (Some(serving), None) => {
                let due = is_outdated(serving, target) && room > 0;
                room -= usize::from(due);
                due
            }
        };
        (0..posts.len()).filter(|number| is_due(&posts[*number])).collect()
    }

    /// A generation on trial is started without delay: one early death ends the trial.
    fn is_trial(&self, target: &Generation) -> bool {
        matches!(&self.change, Change::Rolling(roll) if roll.to.number == target.number)
    }

    /// Whether this generation has not served yet, so that its failure leaves everything as it was.
    pub(super) fn is_unproven(&self, generation: u64) -> bool {
        self.change.is_rolling(generation) || !self.served || self.upgrade.heir.is_waiting()
    }

    /// Lets go who is too much: beyond the number wanted, or on its way to a generation that was taken back.
    fn trim(&mut self) {
        let target = self.target().map_or(0, |target| target.number);
        let rolling = matches!(self.change, Change::Rolling(_));
        let mut gone: Vec<(Pid, &'static str)> = Vec::new();
        for worker in self.workers.iter().filter(|worker| worker.holds_post()) {
            if worker.is_starting() && worker.generation != target {
                gone.push((worker.pid, "its generation was taken back"));
            } else if worker.post >= self.wanted && !(rolling && worker.is_ready()) {
                gone.push((worker.pid, "scaled down"));
            }
        }
        gone.into_iter().for_each(|(pid, why)| self.let_go(pid, why, false));
    }

    /// A worker is ready: whoever served at its post goes.
    pub(super) fn ready(&mut self, pid: Pid) {
        let too_big = self.too_big(pid);
        let Some(worker) = self.workers.of(pid).filter(|worker| worker.is_starting()) else {
            return;
        };
        worker.stage = Stage::Ready;
        worker.ready_since = Some(time::monotonic_ns());
        let (post, generation) = (worker.post, worker.generation);
        if worker.slot.plea() != Plea::None {
            // Said before anybody could act on it.
            self.notice.wake();
        }
        // It says so itself; but a reader must never find a ready worker that looks like a starting one.
        if worker.slot.state() == State::Starting {
            worker.slot.state_set(State::Ready);
        }
        // Once a generation serves, the back-off is the answer to it; until then the generation is not the one to go to.
        if let Some(reason) = too_big
            && !matches!(self.phase, Phase::Stopping { .. })
            && (self.change.is_rolling(generation) || !self.served || self.upgrade.heir.is_waiting())
        {
            return self.generation_failed(generation, &format!("worker {}: {reason}", post + 1), &reason);
        }
        self.served = true;
        tracing::debug!(worker = post + 1, worker_pid = pid.as_raw(), generation, "worker ready");
        self.announce(generation);
        if matches!(self.phase, Phase::Stopping { .. }) {
            return self.drain(pid, "the server stops");
        }
        let before = self
            .workers
            .iter()
            .filter(|worker| worker.post == post && worker.is_ready() && worker.pid != pid);
        let before: Vec<_> = before.map(|worker| (worker.pid, worker.retiring)).collect();
        // Before they are told to go: the doors that this closes have queues, and they are the last who can empty them.
        let doors_shut = self.complete_if_rolled();
        for (pid, retiring) in before {
            if let Some(tally) = retiring.and_then(Retiring::tally) {
                self.board.house().count(tally);
            }
            self.let_go(
                pid,
                retiring.map_or("replaced by another generation", |retiring| retiring.why()),
                doors_shut,
            );
        }
    }

    /// Tells once that the first generation is complete.
    pub(super) fn announce(&mut self, generation: u64) {
        if !self.announced && self.is_held_by(generation) {
            self.announced = true;
            let status = self.service_status();
            self.manager.ready(&status);
            tracing::info!("ready: {} workers (generation {generation})", self.wanted);
            self.take_over(generation);
        }
    }

    /// Whether every post is held by a ready worker of this generation.
    pub(super) fn is_held_by(&self, generation: u64) -> bool {
        let ready = self
            .workers
            .iter()
            .filter(|worker| worker.is_ready() && worker.generation == generation);
        let held: BTreeSet<usize> = ready.map(|worker| worker.post).collect();
        (0..self.wanted).all(|post| held.contains(&post))
    }

    /// A worker cannot start, for `reason`; or lost too much time over it.
    pub(super) fn start_failed(&mut self, pid: Pid, reason: String) {
        let Some(worker) = self.workers.of(pid).filter(|worker| worker.is_starting()) else {
            return;
        };
        let (post, generation) = (worker.post + 1, worker.generation);
        process::kill(pid);
        worker.stage = Stage::Killed {
            why: reason.clone(),
            tally: Tally::ExitBoot,
        };
        self.generation_failed(generation, &format!("worker {post}: {reason}"), &reason);
    }

    /// A worker of `generation` did not come up: what that means depends on who serves meanwhile.
    pub(super) fn generation_failed(&mut self, generation: u64, with_worker: &str, reason: &str) {
        if matches!(self.phase, Phase::Stopping { .. }) {
            return;
        }
        if self.change.is_rolling(generation) {
            self.refuse(reason);
        } else if self.is_unproven(generation) {
            self.decline(reason, Exit::Module);
        } else {
            tracing::error!("a worker could not start: {with_worker}");
        }
    }
}

/// Whether a worker that serves is to be replaced.
fn is_outdated(worker: &Worker, target: &Generation) -> bool {
    worker.generation != target.number || worker.retiring.is_some()
}
