//! The upgrade of the binary: another master is executed beside this one, and takes over once it is ready.
//!
//! Takes USR2; gives a new process that has our listeners, modules, scoreboard and connections, or a log line that says why
//! not, and then nothing else has changed. A master that is process 1, or in the foreground of a terminal, stays as the
//! shepherd of its successors: what is sent to it is sent to them, and their end is its end. What a successor does with
//! what it is handed stands in `succession`, whom a shepherd follows in `shepherd`.
#![forbid(unsafe_code)]

use super::control::Ticket;
use super::inheritance::{Estate, VARIABLE};
use super::outcome::{Asked, Verb};
use super::reload::Change;
use super::shepherd::Followed;
use super::succession::{Heir, Orphans};
use super::{Master, Phase};
use crate::exit::Exit;
use crate::generation::Generation;
use crate::sys::boot::{self, Boot, BootReceiver, BootSender};
use crate::sys::fd;
use crate::sys::process::{self, Outcome, Pid, Program};
use crate::sys::signal::{self, Signal};
use crate::sys::{time, title};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// How far an upgrade is, seen from either side.
#[derive(Debug)]
pub struct Upgrade {
    program: Program,
    stage: Stage,
    /// What we are while we take over from another master, and what stays with us of it.
    pub(super) heir: Heir,
    /// What a master that is gone left on the scoreboard.
    pub(super) orphans: Orphans,
}

#[derive(Debug)]
enum Stage {
    None,
    Starting(Successor),
    /// It was refused or told to stop, and is killed at the deadline (ns).
    Leaving {
        pid: Pid,
        deadline: u64,
    },
    /// It serves.
    Handed(Followed),
}

/// A new master that is not ready yet.
#[derive(Debug)]
struct Successor {
    pid: Pid,
    boot: BootReceiver,
    deadline: u64,
    patience: Duration,
    /// It closed its end without a word.
    silent: bool,
    flock: Option<File>,
    /// What we were sent meanwhile, which is as much for it.
    heard: Vec<Signal>,
    asked: Asked,
}

/// How long a successor may take to leave when we stop quickly.
const QUICK: Duration = Duration::from_secs(2);

impl Upgrade {
    /// None under way; `program` is what the next one executes.
    pub fn new(program: Program, heir: Heir) -> Self {
        Self {
            program,
            stage: Stage::None,
            heir,
            orphans: Orphans::default(),
        }
    }

    /// Where a successor under way answers.
    pub fn answer(&self) -> Option<&BootReceiver> {
        match &self.stage {
            Stage::Starting(successor) if !successor.silent => Some(&successor.boot),
            _ => None,
        }
    }

    /// When something must be done about it (ns).
    pub fn deadline(&self) -> Option<u64> {
        let stage = match &self.stage {
            Stage::Starting(Successor { deadline, .. }) | Stage::Leaving { deadline, .. } => Some(*deadline),
            Stage::None | Stage::Handed(_) => None,
        };
        stage.into_iter().chain(self.orphans.next()).min()
    }

    /// Whether a successor is on its way.
    pub fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Starting(_))
    }

    /// Whether no process of an upgrade must be waited for before we stop.
    pub fn is_over(&self) -> bool {
        !matches!(self.stage, Stage::Starting(_) | Stage::Leaving { .. })
    }

    /// In a forked child: closes what is the master's alone.
    pub fn forget(&mut self) {
        self.stage = Stage::None;
        self.heir.forget();
    }
}

impl Master {
    /// USR2 and the verb: executes the binary anew.
    pub(super) fn start_upgrade(&mut self, tickets: Vec<Ticket>) {
        let asked = Asked {
            verb: Verb::Upgrade,
            tickets,
        };
        if let Some(obstacle) = self.obstacle() {
            return self.tell_refused(asked, obstacle);
        }
        let current = self.current.clone().expect("its absence is an obstacle");
        match self.execute_successor(&current) {
            Ok((pid, boot, flock)) => {
                // It checks the modules first, then starts its workers.
                let patience = current.config.timeouts.boot.saturating_mul(2);
                self.upgrade.stage = Stage::Starting(Successor {
                    pid,
                    boot,
                    deadline: time::monotonic_ns().saturating_add(time::nanos(patience)),
                    patience,
                    silent: false,
                    flock,
                    heard: Vec::new(),
                    asked,
                });
            }
            Err(error) => self.tell_refused(asked, &format!("cannot start the new master: {error}")),
        }
    }

    fn obstacle(&self) -> Option<&'static str> {
        match self.upgrade.stage {
            Stage::Starting(_) => return Some("another one is under way"),
            Stage::Leaving { .. } => return Some("the process that the last one started has not left yet"),
            Stage::Handed(_) => return Some("this master has handed over to another one"),
            Stage::None => {}
        }
        if self.phase != Phase::Serving {
            Some("the workers are stopped; TTIN or HUP brings them back")
        } else if self.upgrade.heir.is_waiting() || !self.announced {
            Some("the workers are still being started; try again when they are ready")
        } else if !matches!(self.change, Change::None) {
            Some("a reload is under way; try again when it is over")
        } else {
            None
        }
    }

    #[allow(clippy::type_complexity)]
    fn execute_successor(&self, current: &Generation) -> io::Result<(Pid, BootReceiver, Option<File>)> {
        let (boot, line) = boot::channel()?;
        // One shepherd is enough: those who succeed under it leave when they have handed over.
        let stays = self.upgrade.heir.shepherd().is_none() && (self.pid.as_raw() == 1 || process::is_in_foreground());
        let flock = if stays { Some(io::pipe()?) } else { None };
        let estate = Estate {
            doors: &self.doors,
            admin: self
                .started_with
                .admin
                .as_ref()
                .zip(self.monitor.listener().map(Arc::as_ref)),
            control: self
                .control
                .as_ref()
                .and_then(|control| Some((control.path(), control.socket()?))),
            board: self.board.memory(),
            handover: self.handover.ends(),
            cache: self.cache.as_deref(),
            images: &current.images,
            generations: self.generations,
            wanted: self.wanted,
            configured: current.config.workers,
            line: &line,
            shepherd: match &flock {
                Some((_, write)) => Some(write.as_fd()),
                None => self.upgrade.heir.shepherd(),
            },
        };
        let memory = estate.seal()?;
        let mut passed = estate.descriptors();
        passed.push(memory.as_fd());
        let program = program_with(&self.upgrade.program, &memory);
        let path = program.path.display();
        let no = BootSender::of(line.as_fd().try_clone_to_owned()?);
        let pid = process::fork(|mask| {
            let error = process::execute(&program, &passed, mask);
            no.failed(&format!("cannot execute {path}: {error}"));
            i32::from(Exit::Start.code())
        })?;
        let flock = flock.map(|(read, _)| File::from(OwnedFd::from(read)));
        if let Some(flock) = &flock {
            fd::set_nonblocking(flock, true)?;
        }
        tracing::info!("upgrading: process {pid} runs {path}");
        Ok((pid, boot, flock))
    }

    /// The successor has said something.
    pub(super) fn hear_successor(&mut self) {
        let Stage::Starting(successor) = &mut self.upgrade.stage else {
            return;
        };
        match successor.boot.look() {
            Boot::Pending => {}
            Boot::Ready => self.hand_over(),
            Boot::Failed(reason) => self.refuse_upgrade(&reason),
            // How it ends is the reason.
            Boot::Gone => {
                successor.silent = true;
                process::kill(successor.pid);
            }
        }
    }

    /// The successor serves: our workers finish, and nothing that is shared is ours any more.
    fn hand_over(&mut self) {
        let Stage::Starting(successor) = std::mem::replace(&mut self.upgrade.stage, Stage::None) else {
            return;
        };
        let pid = successor.pid;
        if successor.flock.is_some()
            && let Err(error) = process::adopt_orphans()
        {
            tracing::warn!("an upgrade after this one will not be followed: {error}");
        }
        self.upgrade.stage = Stage::Handed(Followed::new(pid, successor.flock));
        self.phase = Phase::Handed;
        if let Some(control) = &mut self.control {
            control.let_go();
        }
        tracing::info!("process {pid} serves; the workers of this one finish and leave");
        self.tell_done(successor.asked, self.generations + 1);
        let status = format!("{} workers, generation {}", self.wanted, self.generations + 1);
        self.manager.main_pid(pid, &status);
        self.drain_all("the server was upgraded");
        let _ = title::set(&format!("appserver: master, handed over to {pid}"));
        successor.heard.into_iter().for_each(|heard| signal::send(pid, heard));
    }

    /// It is not to be: says why and goes on as before. The process, if it lives, leaves by itself or is killed.
    fn refuse_upgrade(&mut self, reason: &str) {
        let Stage::Starting(successor) = std::mem::replace(&mut self.upgrade.stage, Stage::None) else {
            return;
        };
        self.tell_refused(successor.asked, reason);
        self.upgrade.stage = Stage::Leaving {
            pid: successor.pid,
            deadline: time::monotonic_ns().saturating_add(time::nanos(self.patience())),
        };
        for heard in successor.heard {
            match heard {
                Signal::Hup => self.reload(Vec::new()),
                Signal::Winch => self.pause(),
                // These took effect when they came.
                _ => {}
            }
        }
    }

    /// A child ended; true when it was a successor.
    pub(super) fn successor_ended(&mut self, pid: Pid, outcome: Outcome) -> bool {
        match &mut self.upgrade.stage {
            Stage::Starting(successor) if successor.pid == pid => {
                let reason = match successor.boot.look() {
                    Boot::Failed(reason) => reason,
                    _ => format!("the new master {} before it was ready", outcome.told()),
                };
                self.refuse_upgrade(&reason);
                self.successor_gone(pid);
                true
            }
            Stage::Leaving { pid: leaving, .. } if *leaving == pid => {
                self.successor_gone(pid);
                true
            }
            Stage::Handed(followed) => followed.ended(pid, outcome),
            _ => false,
        }
    }

    /// A successor that was not to be is gone: what it left behind is put in order.
    fn successor_gone(&mut self, pid: Pid) {
        self.upgrade.stage = Stage::None;
        if let Some(Err(error)) = self.pidfile.as_ref().map(|pidfile| pidfile.restore(pid)) {
            tracing::error!("{error}");
        }
        self.upgrade.orphans.expect(None, time::monotonic_ns());
    }

    /// Ends a successor that takes too long, to start or to leave.
    pub(super) fn successor_deadline(&mut self, now: u64) {
        match &self.upgrade.stage {
            Stage::Starting(successor) if successor.deadline <= now => match successor.boot.look() {
                Boot::Ready => self.hand_over(),
                _ => {
                    let (pid, patience) = (successor.pid, successor.patience);
                    process::kill(pid);
                    let advice = "raise timeouts.boot if it needs longer";
                    self.refuse_upgrade(&format!("the new master was not ready within {patience:?}; {advice}"));
                }
            },
            Stage::Leaving { pid, deadline } if *deadline <= now => {
                process::kill(*pid);
                // Nothing is left to be done but to hear of its end.
                self.upgrade.stage = Stage::Leaving {
                    pid: *pid,
                    deadline: u64::MAX,
                };
            }
            _ => {}
        }
    }

    /// Keeps a signal for the successor, or passes it on; true when it is not for us.
    pub(super) fn successor_hears(&mut self, heard: Signal) -> bool {
        match &mut self.upgrade.stage {
            Stage::Starting(successor) => match heard {
                Signal::Hup | Signal::Winch => {
                    tracing::info!("an upgrade is under way; {heard:?} is heeded after it");
                    successor.heard.push(heard);
                    true
                }
                Signal::Ttin | Signal::Ttou | Signal::Usr1 => {
                    successor.heard.push(heard);
                    false
                }
                _ => false,
            },
            Stage::Handed(followed) if heard != Signal::Child => {
                let Some(pid) = followed.pid() else { return false };
                signal::send(pid, heard);
                match heard {
                    Signal::Int | Signal::Quit => self.quit_all(),
                    Signal::Usr1 => self.reopen_logs(),
                    _ => {}
                }
                true
            }
            _ => false,
        }
    }

    /// We stop: a successor that has not taken over stops with us.
    pub(super) fn stop_successor(&mut self, quick: bool) {
        let (Stage::Starting(Successor { pid, .. }) | Stage::Leaving { pid, .. }) = self.upgrade.stage else {
            return;
        };
        if matches!(self.upgrade.stage, Stage::Starting(_)) {
            tracing::info!("the upgrade is given up, the server stops");
        }
        signal::send(pid, if quick { Signal::Quit } else { Signal::Term });
        let patience = if quick { QUICK } else { self.patience() };
        self.upgrade.stage = Stage::Leaving {
            pid,
            deadline: time::monotonic_ns().saturating_add(time::nanos(patience)),
        };
    }

    /// With what code we leave, if our workers have left and we have handed over; None while we stay as shepherd.
    pub(super) fn handed_exit(&self) -> Option<Exit> {
        match &self.upgrade.stage {
            Stage::Handed(followed) => followed.exit(),
            _ => Some(Exit::Done),
        }
    }
}

/// The program with what is handed over in its environment, and without what was passed to us: the sockets of a service
/// manager are ours to pass on now.
fn program_with(program: &Program, memory: &OwnedFd) -> Program {
    use std::os::fd::AsRawFd;
    let mut program = program.clone();
    let gone = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", VARIABLE];
    program.env.retain(|(name, _)| gone.iter().all(|gone| name != gone));
    // A watchdog of ours is our successor's: the variable that names us alone goes (sd_watchdog_enabled(3)).
    let this = Pid::this().to_string();
    program
        .env
        .retain(|(name, value)| name != "WATCHDOG_PID" || value.to_string_lossy() != this);
    program
        .env
        .push((OsString::from(VARIABLE), memory.as_raw_fd().to_string().into()));
    program
}
