//! The workers the master knows, each with where it is in its life.
//!
//! Takes what was forked and what was heard of it; gives look-ups by process, generation and post. A post is one of
//! the N places that are to be filled at all times; during a reload two generations share it. Nothing is decided here.
#![forbid(unsafe_code)]

use super::backoff::Backoff;
use crate::scoreboard::Slot;
use crate::sys::boot::BootReceiver;
use crate::sys::fd::EventFd;
use crate::sys::process::Pid;
use std::time::Duration;

/// One worker process, until it is reaped.
#[derive(Debug)]
pub struct Worker {
    /// Its place on the scoreboard.
    pub slot: Slot,
    /// The post it fills, counted from 0.
    pub post: usize,
    /// Its process.
    pub pid: Pid,
    /// The generation it serves.
    pub generation: u64,
    /// Wakes it to look at its commands.
    pub commands: EventFd,
    /// When it first was ready (ns).
    pub ready_since: Option<u64>,
    /// Where it is in its life.
    pub stage: Stage,
}

/// Where a worker is in its life.
#[derive(Debug)]
pub enum Stage {
    /// Forked; must be ready by `deadline` (ns).
    Starting {
        /// Where it says how it went.
        boot: BootReceiver,
        /// When we lose patience.
        deadline: u64,
        /// How long that was from its fork.
        patience: Duration,
    },
    /// Serving.
    Ready,
    /// Told to finish and leave by `deadline` (ns).
    Draining {
        /// When it is killed.
        deadline: u64,
        /// Why it leaves.
        why: &'static str,
    },
    /// Killed by us; only its end is missing.
    Killed {
        /// Why, for the report.
        why: String,
    },
}

impl Worker {
    /// Whether it serves or is about to.
    pub fn holds_post(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. } | Stage::Ready)
    }

    /// Whether it serves.
    pub fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready)
    }

    /// How long it has been ready at `now` (ns).
    pub fn served(&self, now: u64) -> Option<Duration> {
        self.ready_since
            .map(|since| Duration::from_nanos(now.saturating_sub(since)))
    }

    /// The moment at which something must be done about it (ns).
    pub fn deadline(&self) -> Option<u64> {
        match self.stage {
            Stage::Starting { deadline, .. } | Stage::Draining { deadline, .. } => Some(deadline),
            Stage::Ready | Stage::Killed { .. } => None,
        }
    }
}

/// All of them, and the posts.
#[derive(Debug, Default)]
pub struct Workers {
    list: Vec<Worker>,
    posts: Vec<Backoff>,
}

impl Workers {
    /// Adds one that was just forked.
    pub fn add(&mut self, worker: Worker) {
        self.list.push(worker);
    }

    /// Takes out the one that ended; None for a process that is no worker.
    pub fn take(&mut self, pid: Pid) -> Option<Worker> {
        let index = self.list.iter().position(|worker| worker.pid == pid)?;
        Some(self.list.remove(index))
    }

    /// Every one.
    pub fn iter(&self) -> std::slice::Iter<'_, Worker> {
        self.list.iter()
    }

    /// Every one, to be changed.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Worker> {
        self.list.iter_mut()
    }

    /// The one of this process.
    pub fn of(&mut self, pid: Pid) -> Option<&mut Worker> {
        self.list.iter_mut().find(|worker| worker.pid == pid)
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Number of ready ones of a generation.
    pub fn ready(&self, generation: u64) -> usize {
        self.list
            .iter()
            .filter(|worker| worker.generation == generation && worker.is_ready())
            .count()
    }

    /// The posts below `wanted` that no worker of `generation` holds.
    pub fn vacant(&self, generation: u64, wanted: usize) -> Vec<usize> {
        let held = |post| {
            let mut of_it = self
                .list
                .iter()
                .filter(|worker| worker.generation == generation && worker.post == post);
            of_it.any(Worker::holds_post)
        };
        (0..wanted).filter(|post| !held(*post)).collect()
    }

    /// The record of deaths at a post.
    pub fn backoff(&mut self, post: usize) -> &mut Backoff {
        if self.posts.len() <= post {
            self.posts.resize_with(post + 1, Backoff::default);
        }
        &mut self.posts[post]
    }

    /// When a post may be filled (ns).
    pub fn vacant_until(&self, post: usize) -> u64 {
        self.posts.get(post).map_or(0, Backoff::until)
    }

    /// Forgets all deaths.
    pub fn forgive(&mut self) {
        self.posts.iter_mut().for_each(Backoff::reset);
    }

    /// Closes every descriptor of it, in a forked child.
    pub fn forget(&mut self) {
        self.list = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;
    use crate::sys::boot;

    fn worker(post: usize, pid: i32, generation: u64, stage: Stage) -> Worker {
        let slot = Scoreboard::create().unwrap().claim(generation).unwrap();
        let commands = EventFd::new().unwrap();
        Worker {
            slot,
            post,
            pid: Pid::from_raw(pid),
            generation,
            commands,
            ready_since: None,
            stage,
        }
    }

    #[test]
    fn a_post_is_vacant_until_a_worker_of_its_generation_holds_it() {
        let mut workers = Workers::default();
        assert_eq!(workers.vacant(1, 3), [0, 1, 2]);
        let boot = boot::channel().unwrap().0;
        let starting = Stage::Starting {
            boot,
            deadline: 9,
            patience: Duration::ZERO,
        };
        workers.add(worker(0, 10, 1, starting));
        workers.add(worker(1, 11, 1, Stage::Ready));
        workers.add(worker(2, 12, 1, Stage::Draining { deadline: 7, why: "" }));
        workers.add(worker(2, 13, 2, Stage::Ready));
        assert_eq!(workers.vacant(1, 3), [2], "one that drains holds no post");
        assert_eq!(workers.vacant(2, 3), [0, 1], "each generation fills its own");
        assert_eq!((workers.ready(1), workers.ready(2)), (1, 1));
        assert_eq!(workers.take(Pid::from_raw(11)).map(|worker| worker.post), Some(1));
        assert!(workers.take(Pid::from_raw(11)).is_none(), "an orphan is nobody we know");
        assert_eq!(workers.vacant(1, 3), [1, 2]);
        assert_eq!(workers.iter().filter_map(Worker::deadline).min(), Some(7));
    }
}
