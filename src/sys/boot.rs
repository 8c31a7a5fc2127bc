//! The pipe over which a new worker tells its master, once, how its start went.
//!
//! Takes one word from the child; gives [`Boot`] to the parent. The exit code is no part of it, since a handler can
//! exit with any code it likes.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What the parent knows about a child's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// Nothing was said yet.
    Pending,
    /// It is ready to serve.
    Ready,
    /// It cannot serve, for this reason.
    Failed(String),
    /// It went away without a word.
    Gone,
}

/// The child's end.
#[derive(Debug)]
pub struct BootSender(OwnedFd);

/// The parent's end; non-blocking.
#[derive(Debug)]
pub struct BootReceiver {
    pipe: OwnedFd,
    said: RefCell<Vec<u8>>,
}

/// Longest reason that is passed on, within PIPE_BUF, so that it is written whole or not at all (pipe(7)).
const LONGEST: usize = 4000;

/// A new pipe.
pub fn channel() -> io::Result<(BootReceiver, BootSender)> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    super::fd::set_nonblocking(&read, true)?;
    Ok((
        BootReceiver {
            pipe: read,
            said: RefCell::default(),
        },
        BootSender(write),
    ))
}

impl BootSender {
    /// One whose descriptor was inherited.
    pub fn of(pipe: OwnedFd) -> Self {
        Self(pipe)
    }

    /// Says that the worker serves. A master that is gone already is noticed elsewhere.
    pub fn ready(self) {
        let _ = nix::unistd::write(&self.0, b"R");
    }

    /// Says why the worker cannot serve.
    pub fn failed(self, reason: &str) {
        let mut message = Vec::with_capacity(reason.len() + 1);
        message.push(b'F');
        message.extend_from_slice(&reason.as_bytes()[..reason.len().min(LONGEST)]);
        let _ = nix::unistd::write(&self.0, &message);
    }
}

impl BootReceiver {
    /// What has been said so far; never blocks.
    pub fn look(&self) -> Boot {
        let mut buffer = [0; LONGEST + 96];
        let mut said = self.said.borrow_mut();
        let count = loop {
            match nix::unistd::read(&self.pipe, &mut buffer) {
                Err(nix::errno::Errno::EINTR) => {}
                other => break other,
            }
        };
        match count {
            Ok(0) if said.is_empty() => return Boot::Gone,
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(_) => {}
        }
        match said.split_first() {
            None => Boot::Pending,
            Some((b'F', reason)) => Boot::Failed(String::from_utf8_lossy(reason).into_owned()),
            Some(_) => Boot::Ready,
        }
    }
}

impl AsFd for BootSender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for BootReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_pending_until_it_is_told() {
        let (receiver, sender) = channel().unwrap();
        assert_eq!(receiver.look(), Boot::Pending);
        sender.ready();
        assert_eq!(receiver.look(), Boot::Ready);
        assert_eq!(receiver.look(), Boot::Ready, "the answer stays");
    }

    #[test]
    fn a_failed_boot_gives_its_reason() {
        let (receiver, sender) = channel().unwrap();
        sender.failed("no such symbol");
        assert_eq!(receiver.look(), Boot::Failed("no such symbol".to_owned()));
    }

    #[test]
    fn a_child_that_goes_away_is_noticed() {
        let (receiver, sender) = channel().unwrap();
        drop(sender);
        assert_eq!(receiver.look(), Boot::Gone);
    }
}
