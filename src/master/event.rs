//! What can happen to the master, as one closed list.
//!
//! Takes the descriptors the master waits on; gives [`Event`]s in the order in which they should be acted upon: stops
//! first, then what processes said, then which ended. Acting is not done here.
#![forbid(unsafe_code)]

use super::check::Check;
use super::workers::{Stage, Workers};
use crate::sys::boot::{Boot, BootReceiver};
use crate::sys::fd::EventFd;
use crate::sys::poll;
use crate::sys::process::Pid;
use crate::sys::signal::{Ear, Signal};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// We were signalled.
    Signal(Signal),
    /// A worker has asked for something.
    Notice,
    /// A worker said how its start went.
    Boot(Pid, Boot),
    /// The check of a module has something to say.
    Check,
    /// The master that is to succeed this one has something to say.
    Successor,
    /// Children have ended. They are reaped only when this is acted upon: until then no id of theirs can be another's.
    Ended,
}

/// Waits for the next events, at most until `deadline` (ns, CLOCK_MONOTONIC); none when that passed. `others` only wake:
/// whoever they belong to knows what there is to read.
pub fn wait(
    ear: &Ear,
    notice: &EventFd,
    workers: &Workers,
    check: Option<&Check>,
    successor: Option<&BootReceiver>,
    others: &[BorrowedFd<'_>],
    deadline: Option<u64>,
) -> io::Result<Vec<Event>> {
    let starting: Vec<_> = workers
        .iter()
        .filter_map(|worker| match &worker.stage {
            Stage::Starting { boot, .. } => Some((worker.pid, boot)),
            _ => None,
        })
        .collect();
    let mut fds: Vec<BorrowedFd<'_>> = vec![ear.as_fd(), notice.as_fd()];
    fds.extend(starting.iter().map(|(_, boot)| boot.as_fd()));
    fds.extend(check.map(AsFd::as_fd));
    let answer = fds.len();
    fds.extend(successor.map(AsFd::as_fd));
    fds.extend(others);
    let heard = poll::readable(&fds, deadline)?;

    let mut events: Vec<Event> = Vec::new();
    let mut ended = false;
    for signal in ear.take() {
        match signal {
            Signal::Child => ended = true,
            signal => events.push(Event::Signal(signal)),
        }
    }
    if heard.contains(&1) {
        events.push(Event::Notice);
    }
    for (index, (pid, boot)) in starting.iter().enumerate() {
        if heard.contains(&(index + 2)) {
            match boot.look() {
                Boot::Pending => {}
                said => events.push(Event::Boot(*pid, said)),
            }
        }
    }
    if check.is_some() && (ended || heard.contains(&(starting.len() + 2))) {
        events.push(Event::Check);
    }
    if successor.is_some() && heard.contains(&answer) {
        events.push(Event::Successor);
    }
    if ended {
        events.push(Event::Ended);
    }
    Ok(events)
}
