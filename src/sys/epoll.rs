//! An epoll set, thin (epoll(7)): what mio cannot give is exclusive wake-ups on a shared listener.
//!
//! Takes descriptors with a token; gives the tokens that are ready. Balancing and re-adding are the caller's policy.
#![allow(unsafe_code)]

use super::fd::check;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// An epoll set, close-on-exec.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

/// How a descriptor is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Readable.
    Read,
    /// Readable, and of several sets that watch it only one is woken (EPOLLEXCLUSIVE).
    ReadExclusive,
}

/// One descriptor with something to read, or whose peer has closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// What it was added with.
    pub token: u64,
}

impl Epoll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was just created and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches `fd`, level-triggered.
    pub fn add(&self, fd: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Watches `fd` no more.
    pub fn delete(&self, fd: &impl AsFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Interest::Read)
    }

    /// Waits for at most `timeout` (for ever when absent) and puts what is ready into `ready`, at most 64 a call. An
    /// interruption gives none.
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<()> {
        ready.clear();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        let timeout = timeout.map_or(-1, |time| {
            i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        // SAFETY: the kernel writes at most as many events as the live array holds.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, timeout) };
        match check(count) {
            Ok(count) => {
                let tokens = events.iter().take(count as usize).map(|event| event.u64);
                ready.extend(tokens.map(|token| Ready { token }));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn control(&self, operation: i32, fd: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        let events = match interest {
            Interest::Read => libc::EPOLLIN,
            Interest::ReadExclusive => libc::EPOLLIN | libc::EPOLLEXCLUSIVE,
        };
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: token,
        };
        // SAFETY: `event` is live for the call; both descriptors are open while borrowed.
        let done = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_fd().as_raw_fd(), &mut event) };
        check(done).map(|_| ())
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
