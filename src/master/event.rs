//! What can happen to the master, as one closed list.
//!
//! Takes the descriptors the master waits on; gives [`Event`]s in the order in which they should be acted upon: stops
//! first, then what processes said, then which ended. Acting is not done here.
#![forbid(unsafe_code)]

use super::check::Check;
use super::workers::{Stage, Workers};
use crate::sys::boot::Boot;
use crate::sys::poll;
use crate::sys::process::{self, Outcome, Pid};
use crate::sys::signal::{Ear, Signal};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// We were signalled.
    Signal(Signal),
    /// A worker said how its start went.
    Boot(Pid, Boot),
    /// The check of a module has something to say.
    Check,
    /// A child ended; it is reaped.
    Ended(Pid, Outcome),
}

/// Waits for the next events, at most until `deadline` (ns, CLOCK_MONOTONIC); none when that passed.
pub fn wait(ear: &Ear, workers: &Workers, check: Option<&Check>, deadline: Option<u64>) -> io::Result<Vec<Event>> {
    let starting: Vec<_> = workers
        .iter()
        .filter_map(|worker| match &worker.stage {
            Stage::Starting { boot, .. } => Some((worker.pid, boot)),
            _ => None,
        })
        .collect();
    let mut fds: Vec<BorrowedFd<'_>> = vec![ear.as_fd()];
    fds.extend(starting.iter().map(|(_, boot)| boot.as_fd()));
    fds.extend(check.map(AsFd::as_fd));
    let heard = poll::readable(&fds, deadline)?;

    let mut events: Vec<Event> = Vec::new();
    let mut ended = false;
    for signal in ear.take() {
        match signal {
            Signal::Child => ended = true,
            signal => events.push(Event::Signal(signal)),
        }
    }
    for (index, (pid, boot)) in starting.iter().enumerate() {
        // When a child ended, its last word may have come after the wait.
        if ended || heard.contains(&(index + 1)) {
            match boot.look() {
                Boot::Pending => {}
                said => events.push(Event::Boot(*pid, said)),
            }
        }
    }
    if heard.contains(&(starting.len() + 1)) || (ended && check.is_some()) {
        events.push(Event::Check);
    }
    if ended {
        while let Some((pid, outcome)) = process::look()? {
            process::reap(pid);
            events.push(Event::Ended(pid, outcome));
        }
    }
    Ok(events)
}
