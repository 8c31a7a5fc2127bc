//! The master: binds, forks, listens for signals, reaps and decides.
//!
//! Takes a configuration and the [`Hooks`] that say what a worker's life is; gives the exit code. It has one thread,
//! one poll set and one loop; whatever may block is done by a short-lived child. It never reads a byte from a client
//! and runs no handler code.
//!
//! **Invariant**: an event is acted upon at once and completely; what must wait is a deadline or a state, so that a
//! TERM in the middle of a reload is no special case.
#![forbid(unsafe_code)]

mod access_file;
mod autopsy;
mod backoff;
mod cache;
mod caller;
mod capsule;
mod check;
mod control;
mod doors;
mod event;
mod house;
mod inheritance;
mod monitor;
mod notify;
mod oom;
mod outcome;
mod pidfile;
mod posts;
mod purge;
mod reap;
mod recycle;
mod reload;
mod scale;
mod shepherd;
mod sockets;
mod spawn;
mod start;
mod stop;
mod succession;
mod upgrade;
mod verb;
mod workers;

pub use check::{Probe, check_and_wait};
pub use inheritance::Inheritance;
pub use start::{StartError, settle};

use crate::cache::Cache;
use crate::config::Config;
use crate::exit::Exit;
use crate::generation::{Generation, MonitorSeat, Seat};
use crate::handover::Handover;
use crate::log;
use crate::scoreboard::Scoreboard;
use crate::sys::boot::Boot;
use crate::sys::fd::EventFd;
use crate::sys::privilege::Identity;
use crate::sys::process::{self, Pid, Program};
use crate::sys::signal::{Ear, Signal};
use crate::sys::{time, title};
use crate::verbs::Reply;
use access_file::AccessFile;
use autopsy::Autopsies;
use control::{Control, Ticket};
use doors::Door;
use event::Event;
use house::Told;
use monitor::MonitorPost;
use notify::ServiceManager;
use oom::Oom;
use pidfile::Pidfile;
use purge::Purging;
use reload::Change;
use scale::Asking;
use std::rc::Rc;
use std::sync::Arc;
use upgrade::Upgrade;
use workers::Workers;

/// What the master must be told, since it knows neither workers nor command lines.
pub struct Hooks {
    /// A worker's life, in the forked child.
    pub serve: fn(Seat) -> Exit,
    /// The monitor's life, in the forked child.
    pub monitor: fn(MonitorSeat) -> Exit,
    /// Loads and checks modules, in a throw-away child.
    pub probe: Probe,
    /// Reads the configuration anew, at a reload; and whether no listener was asked for.
    pub load: Box<dyn Fn() -> Result<(Config, bool), String>>,
    /// This program, for an upgrade.
    pub program: Program,
}

/// The master and all it owns.
pub struct Master {
    hooks: Hooks,
    pid: Pid,
    ear: Ear,
    board: &'static Scoreboard,
    doors: Vec<Door>,
    /// Those of the generation before that the present one does not want.
    shut: Vec<Door>,
    handover: Arc<Handover>,
    /// Workers wake us by it when they ask for something.
    notice: EventFd,
    /// Who is told how we are.
    manager: ServiceManager,
    pidfile: Option<Pidfile>,
    /// Where the verbs are heard.
    control: Option<Control>,
    access: Option<AccessFile>,
    identity: Identity,
    /// What it was started with; of a reload's configuration only a part takes effect.
    started_with: Config,
    phase: Phase,
    /// The generation that serves; none before the first was accepted.
    current: Option<Rc<Generation>>,
    /// The one before, for a rollback.
    previous: Option<Rc<Generation>>,
    /// The cache of the generation that serves.
    cache: Option<Arc<Cache>>,
    /// Caches of others, whose memory is given back when the last worker that serves from them has ended.
    idle_caches: Vec<Arc<Cache>>,
    /// Who reads what was stored of it.
    cache_reader: Option<Pid>,
    /// What is being thrown out of it.
    purges: Vec<Purging>,
    /// When it was last told how full it is (ns).
    cache_told: u64,
    /// From the current generation to another, if one is asked for.
    change: Change,
    /// Who asked for another reload while a change was under way.
    reload_again: Option<Vec<Ticket>>,
    /// What is to be replied once it is true for everybody, or at the latest then (ns).
    replies: Vec<(Ticket, Reply, u64)>,
    asking: Vec<Asking>,
    /// From this process to another, or from another to this.
    upgrade: Upgrade,
    workers: Workers,
    /// Number of workers there should be.
    wanted: usize,
    /// Number of the last generation that was tried.
    generations: u64,
    /// Whether a worker was ever ready: from then on, only a stop ends the server.
    served: bool,
    /// Whether the first generation was announced as complete.
    announced: bool,
    /// The stacks that are being named.
    autopsies: Autopsies,
    /// What the kernel killed for want of memory.
    oom: Oom,
    /// When all workers were last looked at (ns).
    looked: u64,
    /// Whether every worker keeps dying early.
    looping: bool,
    monitor: MonitorPost,
    told: Told,
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
    /// A successor serves; waiting for the last worker to leave and, as its shepherd, for the successor's end.
    Handed,
}

impl Master {
    /// Lives until it is told to stop.
    pub fn run(mut self) -> Exit {
        self.give_log_away();
        self.begin();
        let exit = loop {
            if let Some(exit) = self.over() {
                break exit;
            }
            let deadline = self.deadline();
            let others = self.control.iter().flat_map(Control::fds).collect::<Vec<_>>();
            match event::wait(
                &self.ear,
                &self.notice,
                &self.workers,
                self.change.check(),
                self.upgrade.answer(),
                &others,
                deadline,
            ) {
                Ok(events) => events.into_iter().for_each(|event| self.act(event)),
                Err(error) => {
                    // Without its poll set it is deaf; a supervisor can start a better one.
                    tracing::error!("the master cannot wait for events: {error}");
                    self.stop(Exit::Start, true);
                }
            }
            self.hear_verbs();
            self.keep_up();
        };
        self.end();
        exit
    }

    /// With what code it leaves, once nothing is left to wait for.
    fn over(&self) -> Option<Exit> {
        match self.phase {
            _ if !self.workers.is_empty() => None,
            Phase::Stopping { .. } | Phase::Handed if !self.monitor_left() => None,
            Phase::Stopping { exit, .. } => Some(exit).filter(|_| self.upgrade.is_over()),
            Phase::Handed => self.handed_exit(),
            Phase::Serving | Phase::Paused => None,
        }
    }

    /// Acts upon one event.
    fn act(&mut self, event: Event) {
        match event {
            Event::Signal(heard) if self.successor_hears(heard) => {}
            Event::Signal(Signal::Term) if matches!(self.phase, Phase::Stopping { .. }) => self.stop(Exit::Done, true),
            Event::Signal(Signal::Term) => self.stop(Exit::Done, false),
            Event::Signal(Signal::Int | Signal::Quit) => self.stop(Exit::Done, true),
            Event::Signal(_) if matches!(self.phase, Phase::Stopping { .. }) => {}
            Event::Signal(Signal::Hup) => self.reload(Vec::new()),
            Event::Signal(Signal::Ttin) => self.scale_by(1),
            Event::Signal(Signal::Ttou) => self.scale_by(-1),
            Event::Signal(Signal::Usr1) => self.reopen_logs(),
            Event::Signal(Signal::Usr2) => self.start_upgrade(Vec::new()),
            Event::Signal(Signal::Winch) => self.pause(),
            Event::Signal(Signal::Child) => {}
            Event::Notice => self.hear_pleas(),
            Event::Boot(pid, Boot::Ready) => self.ready(pid),
            Event::Boot(pid, Boot::Failed(reason)) => self.start_failed(pid, reason),
            // How it ends is the reason; a worker that cannot tell us any more is of no use if it lives.
            Event::Boot(pid, Boot::Gone) => process::kill(pid),
            Event::Boot(_, Boot::Pending) => {}
            Event::Check => self.hear_check(),
            Event::Successor => self.hear_successor(),
            Event::Ended => self.reap(),
        }
    }

    /// Does what is due: deadlines first, then the posts.
    fn keep_up(&mut self) {
        let now = time::monotonic_ns();
        self.manager.beat(now);
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
        self.autopsies_due(now);
        self.successor_deadline(now);
        self.look_for_orphans(now);
        self.look_after(now);
        if self.phase == Phase::Serving {
            self.keep_posts(now);
        }
        self.tend_monitor(now);
        self.tell_house();
        self.reply_when_seen(now);
        self.tell_scaled(now);
    }

    /// The moment at which [`Master::keep_up`] has something to do (ns).
    fn deadline(&self) -> Option<u64> {
        let workers = self.workers.iter().filter_map(|worker| worker.deadline());
        let check = self.change.check().map(|check| check.deadline);
        let posts = (self.phase == Phase::Serving).then(|| self.posts_deadline()).flatten();
        let control = self.control.as_ref().and_then(Control::deadline);
        workers
            .chain(check)
            .chain(posts)
            .chain(control)
            .chain(self.replies_deadline())
            .chain(self.scaled_deadline())
            .chain(self.manager.deadline())
            .chain(self.autopsies.deadline())
            .chain(self.monitor_deadline())
            .chain(self.upgrade.deadline())
            .chain([self.next_look()])
            .min()
    }

    /// USR1: whoever rotated the log files wants them opened anew.
    pub(super) fn reopen_logs(&mut self) {
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
        self.monitor.reopen_log();
        tracing::info!("logs reopened");
    }

    /// Workers of another account open the error log themselves, after a rotation.
    pub(super) fn give_log_away(&self) {
        if let Some(path) = &self.started_with.log.file {
            // Without the right to, the account is our own or the administrator has seen to it.
            let _ = self.identity.own_file(path);
        }
    }

    /// What the service manager shows of us.
    fn service_status(&self) -> String {
        let serving = self.current.as_ref().map_or(0, |current| current.number);
        format!("{} workers, generation {serving}", self.wanted)
    }

    fn show_title(&self) {
        // A title is a comfort; where the kernel refuses it, ps shows the command line.
        let _ = title::set(&format!("appserver: master [{} workers]", self.wanted));
    }
}
