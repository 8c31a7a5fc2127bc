//! A generation: one configuration and the images of its modules, and all that a worker of it is born with.
//!
//! Takes what the master has decided and read; gives the worker a [`Seat`]. Nothing happens here.
#![forbid(unsafe_code)]

use crate::cache::Cache;
use crate::config::Config;
use crate::handler::image::Image;
use crate::handover::Handover;
use crate::listener::Listener;
use crate::scoreboard::{Scoreboard, Slot};
use crate::sys::boot::BootSender;
use crate::sys::fd::EventFd;
use crate::sys::process::Pid;
use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// One configuration with the bytes of its modules.
#[derive(Debug)]
pub struct Generation {
    /// Counts from 1. An attempt that is refused once its workers start keeps its number, so that no two generations
    /// share one.
    pub number: u64,
    /// What it was configured with.
    pub config: Config,
    /// The modules: `images[i]` belongs to `config.mounts[i]`.
    pub images: Vec<Image>,
    /// Where its workers accept: `listeners[i]` belongs to `config.listeners[i]`, unless the service manager handed over
    /// others.
    pub listeners: Vec<Arc<Listener>>,
    /// When its modules were read (seconds since 1970).
    pub loaded_at: u64,
    /// The cache that its workers share with those of other generations; None where there is none.
    pub cache: Option<Arc<Cache>>,
}

/// All that a worker is born with.
///
/// When `serve` is called with it, the process has its account, its title and its signals: the group's are ignored,
/// TERM and QUIT set the plea to leave in the slot and wake `commands`, and the master's death does the same.
#[derive(Debug)]
pub struct Seat {
    /// The worker's number, counted from 1, as in its title and in the logs.
    pub number: usize,
    /// Its place on the board.
    pub slot: Slot,
    /// What it serves.
    pub generation: Rc<Generation>,
    /// Over which it says, once, that it is ready or why it cannot be.
    pub boot: BootSender,
    /// Readable when `slot.commands()` changed; clear it, then look.
    pub commands: EventFd,
    /// Where idle connections are handed from worker to worker.
    pub handover: Arc<Handover>,
    /// Wakes the master to look at the pleas (`slot.plead`).
    pub notice: EventFd,
    /// Who forked it.
    pub master: Pid,
    /// What its master, or a later one, tells of itself.
    pub board: &'static Scoreboard,
    /// A service manager keeps the listeners open when master and workers are gone.
    pub kept: bool,
    /// The access log as the master holds it open, for a worker that has to come even if it cannot open the file itself.
    pub access: Option<File>,
}

/// All that the monitor is born with.
///
/// When its life begins with it, the process has its account, its title and its signals: the group's are ignored, TERM and
/// QUIT set `leaving` and wake `commands`, and the master's death kills it.
#[derive(Debug)]
pub struct MonitorSeat {
    /// What it reads.
    pub board: &'static Scoreboard,
    /// Where it answers: bound and non-blocking.
    pub listener: Arc<Listener>,
    /// Readable when it is to leave or, if it is not `leaving`, to reopen its log.
    pub commands: EventFd,
    /// Whether it is to leave.
    pub leaving: &'static AtomicBool,
    /// Who forked it.
    pub master: Pid,
}
