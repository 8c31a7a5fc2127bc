//! The start and the end of the master.
//!
//! Takes a valid configuration; gives a [`Master`] that holds its sockets, pidfile and signals, or the reason why it
//! cannot. Everything that can fail for good fails here, before the first fork.
#![forbid(unsafe_code)]

use super::pidfile::{Pidfile, PidfileError};
use super::reap::AccessFile;
use super::reload::Reload;
use super::workers::Workers;
use super::{Hooks, Master, Phase};
use crate::config::{self, AccessTarget, Bind, Config};
use crate::listener::{Listener, ListenerError};
use crate::scoreboard::Scoreboard;
use crate::sys::fd;
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
    /// The pidfile could not be written.
    Pidfile(PidfileError),
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
            Self::Pidfile(error) => error.fmt(f),
            Self::Account(error) => error.fmt(f),
            Self::AccessLog(path, error) => write!(f, "cannot open access log {}: {error}", path.display()),
            Self::Kernel(what, error) => write!(f, "cannot set up {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Opens every listener. When none was asked for (`only_default`) and sockets were handed over by the service manager
/// (sd_listen_fds(3)), those are the listeners.
fn open_listeners(
    wanted: &[config::Listener],
    only_default: bool,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Listener>, ListenerError> {
    let inherited = if only_default { fd::inherited(env) } else { Vec::new() };
    let Some(default) = wanted.first().filter(|_| !inherited.is_empty()) else {
        // The order of the configuration is kept, but inherited descriptors are taken before one of ours can have
        // their number.
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_by_key(|index| !matches!(wanted[*index].bind, Bind::Fd(_)));
        let mut opened: Vec<(usize, Listener)> = Vec::with_capacity(order.len());
        for index in order {
            match Listener::open(&wanted[index]) {
                Ok(listener) => opened.push((index, listener)),
                Err(error) => {
                    opened.iter().for_each(|(_, listener)| listener.unlink());
                    return Err(error);
                }
            }
        }
        opened.sort_by_key(|(index, _)| *index);
        return Ok(opened.into_iter().map(|(_, listener)| listener).collect());
    };
    let as_listener = |number| config::Listener {
        bind: Bind::Fd(number),
        ..default.clone()
    };
    inherited
        .into_iter()
        .map(|(number, _)| Listener::open(&as_listener(number)))
        .collect()
}

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
    ) -> Result<Self, StartError> {
        let identity =
            privilege::look_up(config.user.as_deref(), config.group.as_deref()).map_err(StartError::Account)?;
        // First of all that opens anything: inherited descriptors have numbers that must not be taken meanwhile.
        let listeners = open_listeners(&config.listeners, only_default_bind, env).map_err(StartError::Listener)?;
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
            let board = Scoreboard::create().map_err(|error| StartError::Kernel("the scoreboard", error))?;
            let ear = Ear::open().map_err(|error| StartError::Kernel("signal handlers", error))?;
            signal::ignore_broken_pipes().map_err(|error| StartError::Kernel("signal handlers", error))?;
            // Last, so that no failure leaves it behind.
            let pidfile = config
                .pidfile
                .as_deref()
                .map(Pidfile::write)
                .transpose()
                .map_err(StartError::Pidfile)?;
            Ok((pidfile, access, board, ear))
        };
        let (pidfile, access, board, ear) = rest().inspect_err(|_| listeners.iter().for_each(Listener::unlink))?;
        Ok(Self {
            hooks,
            pid: Pid::this(),
            ear,
            board,
            listeners: listeners.into_iter().map(Arc::new).collect(),
            pidfile,
            access,
            identity,
            wanted: config.workers,
            started_with: config,
            phase: Phase::Serving,
            current: None,
            reload: Reload::None,
            reload_again: false,
            workers: Workers::default(),
            generations: 0,
            served: false,
            announced: false,
        })
    }

    /// The first things it does: says where it listens and has the first generation checked.
    pub(super) fn begin(&mut self) {
        self.show_title();
        for listener in &self.listeners {
            tracing::info!("listening on {}", listener.address());
        }
        self.try_generation(self.started_with.clone());
    }

    /// The last things it does: nothing of it is left behind on disk.
    pub(super) fn end(&mut self) {
        self.listeners.iter().for_each(|listener| listener.unlink());
        if let Some(pidfile) = &self.pidfile {
            pidfile.remove();
        }
        tracing::info!("stopped");
    }
}
