//! The start and the end of the master.
//!
//! Takes a valid configuration; gives a [`Master`] that holds its sockets, pidfile and signals, or the reason why it
//! cannot. Everything that can fail for good fails here, before the first fork.
#![forbid(unsafe_code)]

use super::access_file::AccessFile;
use super::autopsy::Autopsies;
use super::cache;
use super::control::{Control, ControlError, default_path};
use super::house::Told;
use super::monitor::MonitorPost;
use super::notify::ServiceManager;
use super::oom::Oom;
use super::outcome::{Asked, Verb};
use super::pidfile::{Pidfile, PidfileError};
use super::reload::Change;
use super::sockets::Sockets;
use super::succession::Heir;
use super::upgrade::Upgrade;
use super::workers::Workers;
use super::{Hooks, Inheritance, Master, Phase};
use crate::config::{AccessTarget, Config, MOST_WORKERS};
use crate::handover::Handover;
use crate::listener::{Listener, ListenerError};
use crate::scoreboard::Scoreboard;
use crate::sys::fd::EventFd;
use crate::sys::privilege::{self, PrivilegeError};
use crate::sys::process::{self, Pid};
use crate::sys::signal::{self, Ear};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why the master cannot start.
#[derive(Debug)]
pub enum StartError {
    /// The working directory cannot be entered.
    Chdir(PathBuf, io::Error),
    /// A listener could not be had.
    Listener(ListenerError),
    /// The admin listener could not be had.
    Admin(ListenerError),
    /// The pidfile could not be written.
    Pidfile(PidfileError),
    /// The control socket could not be had.
    Control(ControlError),
    /// The account of the workers is not to be had.
    Account(PrivilegeError),
    /// The access log cannot be opened.
    AccessLog(PathBuf, io::Error),
    /// The kernel refused something basic.
    Kernel(&'static str, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chdir(path, error) => write!(f, "cannot enter directory {} (chdir): {error}", path.display()),
            Self::Listener(error) => error.fmt(f),
            Self::Admin(error) => {
                let error = error.to_string();
                write!(
                    f,
                    "admin: {}",
                    error.replace("choose another --bind", "change `[admin] bind`")
                )
            }
            Self::Pidfile(error) => error.fmt(f),
            Self::Control(error) => error.fmt(f),
            Self::Account(error) => error.fmt(f),
            Self::AccessLog(path, error) => write!(f, "cannot open access log {}: {error}", path.display()),
            Self::Kernel(what, error) => write!(f, "cannot set up {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Enters the directory and takes on the limits of the configuration; before anything is opened.
pub fn settle(config: &Config) -> Result<(), StartError> {
    if let Some(path) = &config.chdir {
        std::env::set_current_dir(path).map_err(|error| StartError::Chdir(path.clone(), error))?;
    }
    if let Some(mask) = config.umask {
        privilege::umask(mask);
    }
    process::raise_open_files().map_err(|error| StartError::Kernel("the limit of open files", error))
}

impl Master {
    /// Takes everything the server needs: sockets, files, signals. Comes after [`settle`].
    pub fn start(
        config: Config,
        only_default_bind: bool,
        env: &dyn Fn(&str) -> Option<String>,
        hooks: Hooks,
        inheritance: Option<Inheritance>,
    ) -> Result<Self, StartError> {
        let mut wanted = config.workers;
        let (mut handed, mut kept, mut heir, mut generations) = (Vec::new(), None, Heir::default(), 0);
        let mut cache = None;
        if let Some(inheritance) = inheritance {
            wanted = inheritance.wanted(config.workers);
            generations = inheritance.generations;
            heir = Heir::of(
                inheritance.line,
                inheritance.predecessor,
                inheritance.images,
                inheritance.control,
            );
            handed = inheritance.listeners;
            kept = Some((inheritance.board, inheritance.handover));
            cache = cache::taken_over(inheritance.cache, &config.cache);
        }
        let identity =
            privilege::look_up(config.user.as_deref(), config.group.as_deref()).map_err(StartError::Account)?;
        // First of all that opens anything: inherited descriptors have numbers that must not be taken meanwhile.
        let open_monitor = |handed: &mut _| MonitorPost::open(&config, handed).map_err(StartError::Admin);
        let adopted = MonitorPost::comes_first(&config)
            .then(|| open_monitor(&mut handed))
            .transpose()?;
        let sockets = Sockets::open(&config, only_default_bind, env, &mut handed).map_err(StartError::Listener)?;
        let monitor = adopted
            .map_or_else(|| open_monitor(&mut handed), Ok)
            .inspect_err(|_| sockets.undo())?;
        let mut manager = ServiceManager::from_env(env);
        sockets.unwanted.iter().for_each(|name| manager.remove_named(name));
        // One of which no listener can be made is closed, which is all that would have become of it.
        let unwanted = handed
            .into_iter()
            .filter_map(|(deed, socket)| Listener::of(socket, &deed).ok());
        heir.leave(unwanted.collect());
        let waiting = heir.is_waiting();
        let rest = || {
            let access = match &config.log.access {
                None => None,
                Some(target) => Some(AccessFile::open(target, config.log.access_format, &identity).map_err(
                    |error| {
                        StartError::AccessLog(
                            match target {
                                AccessTarget::File(path) => path.clone(),
                                AccessTarget::Stdout => PathBuf::from("-"),
                            },
                            error,
                        )
                    },
                )?),
            };
            let (memory, ends) = kept.unzip();
            let board = memory
                .map_or(Ok(None), Scoreboard::adopt)
                .and_then(|board| match board {
                    Some(board) => Ok(board),
                    None => Scoreboard::create(),
                });
            let board = board.map_err(|error| StartError::Kernel("the scoreboard", error))?;
            let ear = Ear::open().map_err(|error| StartError::Kernel("signal handlers", error))?;
            signal::ignore_broken_pipes().map_err(|error| StartError::Kernel("signal handlers", error))?;
            // Last, so that no failure leaves it behind.
            let pidfile = config
                .pidfile
                .as_deref()
                .filter(|_| !waiting)
                .map(Pidfile::write)
                .transpose()
                .map_err(StartError::Pidfile)?;
            let handover = match ends {
                Some((give, take)) => Handover::of(give, take),
                None => Handover::new(),
            };
            let handover = handover.map_err(|error| StartError::Kernel("the handover of connections", error))?;
            let notice = EventFd::new().map_err(|error| StartError::Kernel("an eventfd", error))?;
            let control = config.control.clone().or_else(|| default_path(env));
            let control = control
                .as_deref()
                .map(|path| heir.control_at(path).map_or_else(|| Control::open(path), Ok))
                .transpose()
                .map_err(StartError::Control);
            let control = control.inspect_err(|_| pidfile.iter().for_each(Pidfile::remove))?;
            Ok((pidfile, control, access, board, ear, Arc::new(handover), notice))
        };
        let (pidfile, control, access, board, ear, handover, notice) = rest().inspect_err(|_| {
            sockets.undo();
            let admin = monitor.listener().filter(|listener| !listener.is_handed());
            admin.iter().for_each(|listener| listener.unlink());
        })?;
        // Who asks before we have taken over asks the old master.
        let control = if waiting { heir.keep(control) } else { control };
        let upgrade = Upgrade::new(hooks.program.clone(), heir);
        Ok(Self {
            hooks,
            pid: Pid::this(),
            ear,
            board,
            doors: sockets.doors,
            shut: Vec::new(),
            manager,
            handover,
            notice,
            pidfile,
            control,
            access,
            identity,
            wanted: wanted.clamp(1, MOST_WORKERS),
            started_with: config,
            phase: Phase::Serving,
            current: None,
            previous: None,
            cache,
            idle_caches: Vec::new(),
            cache_reader: None,
            purges: Vec::new(),
            cache_told: 0,
            change: Change::None,
            reload_again: None,
            replies: Vec::new(),
            asking: Vec::new(),
            upgrade,
            looked: 0,
            looping: false,
            workers: Workers::default(),
            generations,
            served: false,
            announced: false,
            autopsies: Autopsies::default(),
            oom: Oom::watch(),
            monitor,
            told: Told::default(),
        })
    }

    /// The first things it does: says where it listens and has the first generation checked.
    pub(super) fn begin(&mut self) {
        self.show_title();
        let listeners: Vec<_> = self.doors.iter().map(|door| door.listener.clone()).collect();
        for (door, listener) in self.doors.iter().zip(&listeners) {
            tracing::info!("listening on {}{}", listener.address(), door.wanted.protocol);
            if self.owns_what_is_shared() {
                self.manager.store(listener);
            }
        }
        let asked = Asked {
            verb: Verb::Reload,
            tickets: Vec::new(),
        };
        self.announce_monitor();
        self.try_generation(self.started_with.clone(), listeners, asked);
    }

    /// The last things it does: nothing of it is left behind on disk.
    pub(super) fn end(&mut self) {
        if self.phase == Phase::Handed {
            // What came after the last look is for the successor as well.
            for heard in self.ear.take() {
                self.successor_hears(heard);
            }
        }
        self.reply_when_seen(u64::MAX);
        self.tell_scaled(u64::MAX);
        self.close_autopsies();
        self.own_listeners().for_each(|listener| listener.unlink());
        if self.owns_what_is_shared() {
            self.monitor.listener().iter().for_each(|listener| listener.unlink());
        }
        self.control.iter().for_each(Control::unlink);
        self.upgrade.heir.unlink();
        if let Some(pidfile) = &self.pidfile {
            pidfile.remove();
        }
        if self.phase != Phase::Handed {
            self.keep_cache();
        }
        if self.phase == Phase::Handed {
            tracing::info!("all workers of the old master have left, and so does it");
        } else {
            tracing::info!("stopped");
        }
    }
}
