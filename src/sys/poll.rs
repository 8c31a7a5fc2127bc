//! Waiting for descriptors with a deadline (poll(2)).
//!
//! Takes borrowed descriptors and a moment of the monotonic clock; gives the indices of those that have something to
//! read or are closed. An interruption is an empty answer, since the loop above looks at everything anyway.
#![forbid(unsafe_code)]

use super::time::monotonic_ns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::BorrowedFd;

/// Waits until one of `fds` is readable or closed, or `deadline` (ns, CLOCK_MONOTONIC) has passed.
pub fn readable(fds: &[BorrowedFd<'_>], deadline: Option<u64>) -> io::Result<Vec<usize>> {
    let timeout = match deadline {
        None => PollTimeout::NONE,
        // Rounded up: waking a millisecond early would only make the loop spin.
        Some(at) => {
            let milliseconds = at.saturating_sub(monotonic_ns()).div_ceil(1_000_000);
            PollTimeout::try_from(milliseconds.min(3_600_000)).unwrap_or(PollTimeout::MAX)
        }
    };
    let mut set: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    match poll(&mut set, timeout) {
        Ok(_) => {}
        Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let heard = set.iter().enumerate().filter(|(_, fd)| fd.any().unwrap_or(true));
    Ok(heard.map(|(index, _)| index).collect())
}
