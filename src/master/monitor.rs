//! The monitor's post: its listener, its birth and its end.
//!
//! Takes `[admin] bind`; keeps one monitor there from the first moment to the last. A monitor that dies is replaced and costs
//! nothing else; one that dies early again and again is held back. What it answers is its own business.
#![forbid(unsafe_code)]

use super::backoff::Backoff;
use super::spawn::RETRY;
use super::{Master, Phase};
use crate::config::{self, Bind, Config};
use crate::exit::Exit;
use crate::generation::MonitorSeat;
use crate::listener::{Deed, Listener, ListenerError};
use crate::log;
use crate::scoreboard::Tally;
use crate::status::MASTER_BEAT_MS;
use crate::sys::fd::EventFd;
use crate::sys::process::{self, Outcome, Pid};
use crate::sys::signal::{self, Blocked};
use crate::sys::{time, title};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Those who ask how the server is are few.
const BACKLOG: u32 = 128;

/// In the monitor: whether TERM or QUIT came. Its handler may touch nothing but an atomic.
static LEAVING: AtomicBool = AtomicBool::new(false);

/// The post.
#[derive(Debug, Default)]
pub struct MonitorPost {
    /// Where it answers; nobody is posted without.
    listener: Option<Arc<Listener>>,
    pid: Option<Pid>,
    /// Wakes it to reopen its log.
    commands: Option<EventFd>,
    /// When it was forked (ns).
    born: u64,
    backoff: Backoff,
    /// When the master has to be seen next (ns).
    beat: u64,
}

impl MonitorPost {
    /// Opens the admin listener, if one is configured, or takes it from what a predecessor hands us; one that is named by
    /// its number before others are bound.
    pub fn open(config: &Config, handed: &mut Vec<(Deed, OwnedFd)>) -> Result<Self, ListenerError> {
        let Some(bind) = &config.admin else {
            return Ok(Self::default());
        };
        let listener = match Listener::handed(bind, handed)? {
            Some(listener) => listener,
            None => Listener::open(&config::Listener {
                backlog: BACKLOG,
                ..config::Listener::new(bind.clone())
            })?,
        };
        Ok(Self::on(Some(Arc::new(listener))))
    }

    /// On a listener that is open already.
    pub fn on(listener: Option<Arc<Listener>>) -> Self {
        Self {
            listener,
            ..Self::default()
        }
    }

    /// Whether the listener must be adopted before any of ours is bound, which might take its number.
    pub fn comes_first(config: &Config) -> bool {
        matches!(config.admin, Some(Bind::Fd(_)))
    }

    /// Where it answers.
    pub fn listener(&self) -> Option<&Arc<Listener>> {
        self.listener.as_ref()
    }

    /// Has the monitor open its log anew.
    pub fn reopen_log(&self) {
        if let Some(commands) = self.commands.as_ref().filter(|_| self.pid.is_some()) {
            commands.wake();
        }
    }

    /// In a child: closes what is no business of it.
    pub fn forget(&mut self) {
        self.listener = None;
        self.commands = None;
        self.pid = None;
    }
}

impl Master {
    /// Says where the monitor answers.
    pub(super) fn announce_monitor(&self) {
        if let Some(listener) = self.monitor.listener() {
            tracing::info!("admin on {}", listener.address());
        }
    }

    /// The moment at which [`Master::tend_monitor`] has something to do (ns).
    pub(super) fn monitor_deadline(&self) -> Option<u64> {
        self.monitor.listener()?;
        let vacant = self.monitor.pid.is_none() && !matches!(self.phase, Phase::Stopping { .. } | Phase::Handed);
        let birth = vacant.then(|| self.monitor.backoff.until());
        Some(birth.map_or(self.monitor.beat, |birth| birth.min(self.monitor.beat)))
    }

    /// Fills the post when it is vacant, and sees to it that the loop goes round now and then.
    pub(super) fn tend_monitor(&mut self, now: u64) {
        let Some(listener) = self.monitor.listener().cloned() else {
            return;
        };
        self.monitor.beat = now.saturating_add(MASTER_BEAT_MS * 1_000_000);
        let vacant = self.monitor.pid.is_none() && self.monitor.backoff.until() <= now;
        if !vacant || matches!(self.phase, Phase::Stopping { .. } | Phase::Handed) {
            return;
        }
        match self.spawn_monitor(listener) {
            Ok(pid) => (self.monitor.pid, self.monitor.born) = (Some(pid), now),
            Err(error) => {
                let delay = self.monitor.backoff.died(now, None).max(RETRY);
                self.monitor.backoff.hold(now, delay);
                tracing::error!("cannot start the monitor: {error}; next try in {delay:?}");
            }
        }
    }

    /// A child ended; true when it was the monitor.
    pub(super) fn monitor_ended(&mut self, pid: Pid, outcome: Outcome) -> bool {
        if self.monitor.pid != Some(pid) {
            return false;
        }
        self.monitor.pid = None;
        if matches!(self.phase, Phase::Stopping { .. } | Phase::Handed) {
            return true;
        }
        self.board.house().count(Tally::MonitorExits);
        let now = time::monotonic_ns();
        let lived = Duration::from_nanos(now.saturating_sub(self.monitor.born));
        let delay = self.monitor.backoff.died(now, Some(lived));
        tracing::warn!(
            monitor_pid = pid.as_raw(),
            "the monitor {}; the next one starts {}",
            outcome.told(),
            if delay.is_zero() {
                "at once".to_owned()
            } else {
                format!("in {delay:?}")
            }
        );
        true
    }

    /// Whether no monitor is left, at the end of a stop; one that is there is ended. It has nothing to finish.
    pub(super) fn monitor_left(&self) -> bool {
        if let Some(pid) = self.monitor.pid {
            process::kill(pid);
        }
        self.monitor.pid.is_none()
    }

    fn spawn_monitor(&mut self, listener: Arc<Listener>) -> io::Result<Pid> {
        let commands = EventFd::new()?;
        let seat = MonitorSeat {
            board: self.board,
            listener,
            commands: commands.try_clone()?,
            leaving: &LEAVING,
            master: self.pid,
        };
        self.monitor.commands = Some(commands);
        process::fork(|mask| i32::from(self.be_born_monitor(seat, mask).code()))
    }

    /// In the child: from a copy of the master to the monitor.
    fn be_born_monitor(&mut self, seat: MonitorSeat, mask: Blocked) -> Exit {
        let identity = self.identity.clone();
        let live = self.hooks.monitor;
        self.forget();
        log::set_role("monitor");
        let set_up = || -> Result<bool, String> {
            signal::ignore_group_signals().map_err(|error| format!("cannot ignore signals: {error}"))?;
            signal::on_stop(|| LEAVING.store(true, Ordering::Relaxed), &seat.commands)
                .map_err(|error| format!("cannot listen to signals: {error}"))?;
            drop(mask);
            identity.assume().map_err(|error| error.to_string())?;
            // By a kill, since a monitor that is stopped would else keep the listener; after the change of user, which clears it.
            process::kill_when_parent_ends(seat.master).map_err(|error| format!("cannot watch the master: {error}"))
        };
        match set_up() {
            Ok(true) => {}
            Ok(false) => return Exit::Done,
            Err(reason) => {
                tracing::error!("the monitor cannot start: {reason}");
                return Exit::Start;
            }
        }
        let _ = title::set("appserver: monitor");
        live(seat)
    }
}
