//! A generation: one configuration and the images of its modules, and all that a worker of it is born with.
//!
//! Takes what the master has decided and read; gives the worker a [`Seat`]. Nothing happens here.
#![forbid(unsafe_code)]

use crate::config::Config;
use crate::handler::image::Image;
use crate::listener::Listener;
use crate::scoreboard::Slot;
use crate::sys::boot::BootSender;
use crate::sys::fd::EventFd;
use crate::sys::process::Pid;
use std::rc::Rc;
use std::sync::Arc;

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
}

/// All that a worker is born with.
///
/// When `serve` is called with it, the process has its account, its title and its signals: the group's are ignored,
/// TERM and QUIT set the drain command in the slot and wake `commands`, and the master's death does the same.
#[derive(Debug)]
pub struct Seat {
    /// The worker's number, counted from 1, as in its title and in the logs.
    pub number: usize,
    /// Its place on the board.
    pub slot: Slot,
    /// What it serves.
    pub generation: Rc<Generation>,
    /// Where it accepts: bound and non-blocking.
    pub listeners: Vec<Arc<Listener>>,
    /// Over which it says, once, that it is ready or why it cannot be.
    pub boot: BootSender,
    /// Readable when `slot.commands()` changed; clear it, then look.
    pub commands: EventFd,
    /// Who forked it.
    pub master: Pid,
}
