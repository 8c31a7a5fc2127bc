//! The master: binds, forks, listens for signals, reaps and decides.
//!
//! Takes a configuration and the [`Hooks`] that say what a worker's life is; gives the exit code. It has one thread,
//! one poll set and one loop; whatever may block is done by a short-lived child. It never reads a byte from a client
//! and runs no handler code.
//!
//! **Invariant**: an event is acted upon at once and completely; what must wait is a deadline or a state, so that a
//! TERM in the middle of a reload is no special case.
#![forbid(unsafe_code)]

pub mod backoff;
mod check;
pub mod event;
mod pidfile;
mod reap;
mod reload;
mod spawn;
mod start;
mod stop;
mod workers;

pub use check::{Probe, check_and_wait};
pub use start::{StartError, settle};

use crate::config::Config;
use crate::exit::Exit;
use crate::generation::{Generation, Seat};
use crate::listener::Listener;
use crate::log;
use crate::scoreboard::{Scoreboard, State};
use crate::sys::boot::Boot;
use crate::sys::privilege::Identity;
use crate::sys::process::{self, Pid};
use crate::sys::signal::{Ear, Signal};
use crate::sys::{time, title};
use event::Event;
use pidfile::Pidfile;
use reap::AccessFile;
use reload::Reload;
use std::rc::Rc;
use std::sync::Arc;
use workers::{Stage, Workers};

/// What the master must be told, since it knows neither workers nor command lines.
pub struct Hooks {
    /// A worker's life, in the forked child.
    pub serve: fn(Seat) -> Exit,
    /// Loads and checks modules, in a throw-away child.
    pub probe: Probe,
    /// Reads the configuration anew, at a reload.
    pub load: Box<dyn Fn() -> Result<Config, String>>,
}

/// The master and all it owns.
pub struct Master {
    hooks: Hooks,
    pid: Pid,
    ear: Ear,
    board: &'static Scoreboard,
    listeners: Vec<Arc<Listener>>,
    pidfile: Option<Pidfile>,
    access: Option<AccessFile>,
    identity: Identity,
    /// What it was started with; of a reload's configuration only a part takes effect.
    started_with: Config,
    phase: Phase,
    /// The generation that serves; none before the first was accepted.
    current: Option<Rc<Generation>>,
    reload: Reload,
    /// Whether another reload was asked for while one was under way.
    reload_again: bool,
    workers: Workers,
    /// Number of workers there should be.
    wanted: usize,
    /// Number of the last generation that was tried.
    generations: u64,
    /// Whether a worker was ever ready: from then on, only a stop ends the server.
    served: bool,
    /// Whether the first generation was announced as complete.
    announced: bool,
}

/// What the master is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Keeping every post filled.
    Serving,
    /// Keeping every post empty, until told otherwise.
    Paused,
    /// Waiting for the last worker to leave; a quick stop has no patience left.
    Stopping { exit: Exit, quick: bool },
}

impl Master {
    /// Lives until it is told to stop.
    pub fn run(mut self) -> Exit {
        self.give_log_away();
        self.begin();
        let exit = loop {
            if let Phase::Stopping { exit, .. } = self.phase
                && self.workers.is_empty()
            {
                break exit;
            }
            let check = self.reload.check();
            match event::wait(&self.ear, &self.workers, check, self.deadline()) {
                Ok(events) => events.into_iter().for_each(|event| self.act(event)),
                Err(error) => {
                    // Without its poll set it is deaf; a supervisor can start a better one.
                    tracing::error!("the master cannot wait for events: {error}");
                    self.stop(Exit::Start, true);
                }
            }
            self.keep_up();
        };
        self.end();
        exit
    }

    /// Acts upon one event.
    fn act(&mut self, event: Event) {
        match event {
            Event::Signal(Signal::Term) if matches!(self.phase, Phase::Stopping { .. }) => self.stop(Exit::Done, true),
            Event::Signal(Signal::Term) => self.stop(Exit::Done, false),
            Event::Signal(Signal::Int | Signal::Quit) => self.stop(Exit::Done, true),
            Event::Signal(_) if matches!(self.phase, Phase::Stopping { .. }) => {}
            Event::Signal(Signal::Hup) => self.start_reload(),
            Event::Signal(Signal::Ttin) => self.scale(1),
            Event::Signal(Signal::Ttou) => self.scale(-1),
            Event::Signal(Signal::Usr1) => self.reopen_logs(),
            Event::Signal(Signal::Usr2) => {
                tracing::warn!("an upgrade of the binary is not available yet; USR2 ignored")
            }
            Event::Signal(Signal::Winch) => self.pause(),
            Event::Signal(Signal::Child) => {}
            Event::Boot(pid, Boot::Ready) => self.ready(pid),
            Event::Boot(pid, Boot::Failed(reason)) => self.start_failed(pid, reason),
            // How it ends is the reason; a worker that cannot tell us any more is of no use if it lives.
            Event::Boot(pid, Boot::Gone) => process::kill(pid),
            Event::Boot(_, Boot::Pending) => {}
            Event::Check => self.hear_check(),
            Event::Ended(pid, outcome) => self.ended(pid, outcome),
        }
    }

    /// Does what is due: deadlines first, then vacant posts.
    fn keep_up(&mut self) {
        let now = time::monotonic_ns();
        let due: Vec<Pid> = self
            .workers
            .iter()
            .filter(|worker| worker.deadline().is_some_and(|deadline| deadline <= now))
            .map(|worker| worker.pid)
            .collect();
        for pid in due {
            self.out_of_patience(pid);
        }
        self.check_deadline(now);
        if self.phase == Phase::Serving {
            self.fill_posts(now);
        }
    }

    /// The moment at which [`Master::keep_up`] has something to do (ns).
    fn deadline(&self) -> Option<u64> {
        let workers = self.workers.iter().filter_map(|worker| worker.deadline());
        let check = self.reload.check().map(|check| check.deadline);
        let vacant = match (&self.current, self.phase) {
            (Some(current), Phase::Serving) => self.workers.vacant(current.number, self.wanted),
            _ => Vec::new(),
        };
        let posts = vacant.into_iter().map(|post| self.workers.vacant_until(post));
        workers.chain(check).chain(posts).min()
    }

    /// A worker is ready.
    fn ready(&mut self, pid: Pid) {
        let Some(worker) = self
            .workers
            .of(pid)
            .filter(|worker| matches!(worker.stage, Stage::Starting { .. }))
        else {
            return;
        };
        worker.stage = Stage::Ready;
        worker.ready_since = Some(time::monotonic_ns());
        let (post, generation) = (worker.post + 1, worker.generation);
        // It says so itself; but a reader must never find a ready worker that looks like a starting one.
        if worker.slot.state() == State::Starting {
            worker.slot.state_set(State::Ready);
        }
        self.served = true;
        tracing::debug!(worker = post, pid = pid.as_raw(), generation, "worker ready");
        if !self.announced && self.workers.ready(generation) >= self.wanted {
            self.announced = true;
            tracing::info!("ready: {} workers (generation {generation})", self.wanted);
        }
        self.advance_reload();
    }

    /// A worker cannot start, for `reason`; or lost too much time over it.
    fn start_failed(&mut self, pid: Pid, reason: String) {
        let Some(worker) = self
            .workers
            .of(pid)
            .filter(|worker| matches!(worker.stage, Stage::Starting { .. }))
        else {
            return;
        };
        let (post, generation) = (worker.post + 1, worker.generation);
        process::kill(pid);
        worker.stage = Stage::Killed { why: reason.clone() };
        self.generation_failed(generation, &format!("worker {post}: {reason}"), &reason);
    }

    /// A worker of `generation` did not come up: what that means depends on who serves meanwhile.
    fn generation_failed(&mut self, generation: u64, with_worker: &str, reason: &str) {
        if matches!(self.phase, Phase::Stopping { .. }) {
            return;
        }
        if self.reload.is_starting(generation) {
            self.refuse_reload(reason);
        } else if !self.served {
            tracing::error!("{reason}");
            self.stop(Exit::Module, true);
        } else {
            tracing::error!("a worker could not start: {with_worker}");
        }
    }

    /// TTIN and TTOU: one worker more or fewer, never fewer than one.
    fn scale(&mut self, by: isize) {
        if self.phase == Phase::Paused {
            self.resume();
            return;
        }
        self.wanted = self.wanted.saturating_add_signed(by).clamp(1, MOST_WORKERS);
        self.reload.scale(by);
        tracing::info!("{} workers wanted", self.wanted);
        let surplus = self
            .workers
            .iter()
            .filter(|worker| worker.post >= self.wanted && worker.holds_post());
        let surplus: Vec<Pid> = surplus.map(|worker| worker.pid).collect();
        surplus.into_iter().for_each(|pid| self.drain(pid, "scaled down"));
        self.show_title();
        // One worker fewer may be all that a reload was waiting for.
        self.advance_reload();
    }

    /// WINCH: the workers leave, the master stays.
    fn pause(&mut self) {
        // A terminal sends WINCH to its foreground when its window changes: nobody asked for anything.
        if self.phase != Phase::Serving || self.current.is_none() || process::is_in_foreground() {
            return;
        }
        self.phase = Phase::Paused;
        self.abandon_reload();
        tracing::info!("workers stopped by WINCH; HUP or TTIN brings them back");
        self.drain_all("stopped by WINCH");
    }

    fn resume(&mut self) {
        if self.phase == Phase::Paused {
            self.phase = Phase::Serving;
            tracing::info!("workers wanted again");
        }
    }

    /// USR1: whoever rotated the log files wants them opened anew.
    fn reopen_logs(&mut self) {
        if let Err(error) = log::reopen() {
            tracing::error!("{error}");
        }
        self.give_log_away();
        if let Some(access) = &mut self.access {
            access.reopen(&self.identity);
        }
        for worker in self.workers.iter() {
            worker.slot.command_reopen();
            worker.commands.wake();
        }
        tracing::info!("logs reopened");
    }

    /// Workers of another account open the error log themselves, after a rotation.
    pub(super) fn give_log_away(&self) {
        if let Some(path) = &self.started_with.log.file {
            // Without the right to, the account is our own or the administrator has seen to it.
            let _ = self.identity.own_file(path);
        }
    }

    fn show_title(&self) {
        // A title is a comfort; where the kernel refuses it, ps shows the command line.
        let _ = title::set(&format!("appserver: master [{} workers]", self.wanted));
    }
}

/// Most workers there may be, whatever the signals ask for; as in the configuration.
const MOST_WORKERS: usize = 1024;
