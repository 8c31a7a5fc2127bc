//! The workers the master knows, each with where it is in its life.
//!
//! Takes what was forked and what was heard of it; gives look-ups by process, generation and post. A post is one of
//! the N places that are to be filled at all times; during a reload two generations share it. Nothing is decided here.
#![forbid(unsafe_code)]

use super::backoff::Backoff;
use crate::cache::Cache;
use crate::handler::image::Image;
use crate::scoreboard::{Slot, Tally};
use crate::sys::boot::BootReceiver;
use crate::sys::fd::EventFd;
use crate::sys::process::Pid;
use std::sync::Arc;
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
    /// The cache it serves from.
    pub cache: Option<Arc<Cache>>,
    /// The modules it has loaded, for the names of its stack.
    pub images: Vec<Image>,
    /// Wakes it to look at its commands.
    pub commands: EventFd,
    /// When it first was ready (ns).
    pub ready_since: Option<u64>,
    /// Its resident memory when last looked at (bytes).
    pub memory: u64,
    /// Its resident memory when it became ready (bytes): less than that no successor would use.
    pub memory_at_first: u64,
    /// Why it is to be replaced, once it is: it serves until its successor is ready.
    pub retiring: Option<Retiring>,
    /// Where it is in its life.
    pub stage: Stage,
}

/// Why a worker that serves well is replaced all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retiring {
    /// It has answered limits.max-requests requests.
    Requests,
    /// It has lived for limits.max-lifetime.
    Lifetime,
    /// It uses more than limits.memory-soft.
    Memory,
    /// Somebody else has told it to leave, at this moment (ns).
    Told(u64),
}

impl Retiring {
    /// Whether it is the lesser reason: who was told to leave waits for us, the others can serve on for long.
    pub fn gives_way_to(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Requests | Self::Lifetime | Self::Memory, Self::Told(_))
        )
    }

    /// As the end of "replaced: ".
    pub fn why(self) -> &'static str {
        match self {
            Self::Requests => "it has answered limits.max-requests requests",
            Self::Lifetime => "it has lived for limits.max-lifetime",
            Self::Memory => "it uses more than limits.memory-soft",
            Self::Told(_) => "it was told to leave by somebody else",
        }
    }

    /// What it counts as; what others do is none of our recycling.
    pub fn tally(self) -> Option<Tally> {
        match self {
            Self::Requests => Some(Tally::RecycledRequests),
            Self::Lifetime => Some(Tally::RecycledLifetime),
            Self::Memory => Some(Tally::RecycledMemory),
            Self::Told(_) => None,
        }
    }
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
        /// As what it counts.
        tally: Tally,
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

    /// Whether it is not ready yet.
    pub fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. })
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

/// A post: one of the places that are to be filled at all times.
#[derive(Debug, Clone, Copy, Default)]
pub struct Post<'a> {
    /// Who serves.
    pub serving: Option<&'a Worker>,
    /// Who starts, in its place if somebody serves.
    pub next: Option<&'a Worker>,
}

/// All of them, and the deaths at their posts.
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

    /// Who is at each of the first `count` posts.
    pub fn posts(&self, count: usize) -> Vec<Post<'_>> {
        let mut posts = vec![Post::default(); count];
        for worker in &self.list {
            match (posts.get_mut(worker.post), &worker.stage) {
                (Some(post), Stage::Ready) => post.serving = Some(worker),
                (Some(post), Stage::Starting { .. }) => post.next = Some(worker),
                _ => {}
            }
        }
        posts
    }

    /// Number of ready ones, whatever they serve.
    pub fn serving(&self) -> usize {
        self.list.iter().filter(|worker| worker.is_ready()).count()
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
            cache: None,
            images: Vec::new(),
            commands,
            ready_since: None,
            memory: 0,
            memory_at_first: 0,
            retiring: None,
            stage,
        }
    }

    #[test]
    fn a_post_knows_who_serves_and_who_is_to_follow() {
        let mut workers = Workers::default();
        let starting = || Stage::Starting {
            boot: boot::channel().unwrap().0,
            deadline: 9,
            patience: Duration::ZERO,
        };
        workers.add(worker(0, 10, 1, Stage::Ready));
        workers.add(worker(0, 11, 2, starting()));
        workers.add(worker(1, 12, 1, Stage::Draining { deadline: 7, why: "" }));
        workers.add(worker(1, 13, 2, starting()));
        let raw = |worker: Option<&Worker>| worker.map(|worker| worker.pid.as_raw());
        let posts = workers.posts(3);
        let pids: Vec<_> = posts.iter().map(|post| (raw(post.serving), raw(post.next))).collect();
        assert_eq!(pids[0], (Some(10), Some(11)));
        assert_eq!(pids[1], (None, Some(13)), "one that drains is at no post");
        assert_eq!(pids[2], (None, None));
        assert_eq!(workers.posts(1).len(), 1, "who is beyond is not asked for");
        assert_eq!(workers.serving(), 1);
        assert_eq!(workers.take(Pid::from_raw(10)).map(|worker| worker.post), Some(0));
        assert!(workers.take(Pid::from_raw(10)).is_none(), "an orphan is nobody we know");
        assert_eq!(workers.iter().filter_map(Worker::deadline).min(), Some(7));
    }
}
