//! How idle connections outlive their worker: descriptors on their way to whoever serves.
//!
//! Takes an idle connection from a worker that leaves, with what was read ahead of it; gives it to a ready worker. What
//! nobody takes yet waits in the kernel, across the death of any worker. Which connections go, and when, is decided by
//! the workers.
#![forbid(unsafe_code)]

use crate::sys::fd;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most bytes read ahead that travel with a connection; one with more finishes its head where it is.
pub const MOST_AHEAD: usize = 16 * 1024;

/// The channel that the master and all its workers share, whatever their generation.
#[derive(Debug)]
pub struct Handover {
    give: OwnedFd,
    take: OwnedFd,
}

/// What is known of a connection on its way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Passing {
    /// It is a Unix socket.
    pub unix: bool,
    /// No request has come on it yet.
    pub fresh: bool,
    /// Bytes of the client's that were read and belong to no request yet.
    pub ahead: Vec<u8>,
}

const UNIX: u8 = 1;
const FRESH: u8 = 2;

impl Handover {
    /// A new, empty channel.
    ///
    /// # Errors
    /// From socketpair(2).
    pub fn new() -> io::Result<Self> {
        let (give, take) = fd::packet_pair()?;
        Self::of(give, take)
    }

    /// One that a predecessor used, with what is still on its way.
    ///
    /// # Errors
    /// From fcntl(2).
    pub fn of(give: OwnedFd, take: OwnedFd) -> io::Result<Self> {
        fd::set_nonblocking(&give, true)?;
        fd::set_nonblocking(&take, true)?;
        Ok(Self { give, take })
    }

    /// Both ends, for a successor: where is given, where is taken.
    pub fn ends(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.give.as_fd(), self.take.as_fd())
    }

    /// Sends a connection off; the caller then closes its own descriptor without a word to the client.
    ///
    /// # Errors
    /// `WouldBlock` when too many are on their way: try again a little later. Others from sendmsg(2).
    pub fn give(&self, connection: BorrowedFd<'_>, passing: &Passing) -> io::Result<()> {
        let mut message = Vec::with_capacity(1 + passing.ahead.len());
        message.push((u8::from(passing.unix) * UNIX) | (u8::from(passing.fresh) * FRESH));
        message.extend_from_slice(&passing.ahead);
        fd::send(&self.give, &message, Some(connection))
    }

    /// Takes a connection over; None when none is on its way.
    ///
    /// # Errors
    /// From recvmsg(2).
    pub fn take(&self) -> io::Result<Option<(OwnedFd, Passing)>> {
        let mut buffer = vec![0; 1 + MOST_AHEAD];
        loop {
            let (len, passed) = match fd::receive(&self.take, &mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            // A message whose descriptor found no room in our table is lost to the kernel, not to us.
            let (Some(connection), Some((flags, ahead))) = (passed, buffer[..len].split_first()) else {
                return Ok(None);
            };
            let passing = Passing {
                unix: flags & UNIX != 0,
                fresh: flags & FRESH != 0,
                ahead: ahead.to_vec(),
            };
            return Ok(Some((connection, passing)));
        }
    }
}

/// Readable while a connection is on its way.
impl AsFd for Handover {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.take.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_connection_arrives_with_what_was_read_ahead() {
        let channel = Handover::new().unwrap();
        assert!(channel.take().unwrap().is_none());
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(b"queued").unwrap();
        let passing = Passing {
            unix: true,
            fresh: false,
            ahead: b"GET / HT".to_vec(),
        };
        channel.give(server.as_fd(), &passing).unwrap();
        drop(server);
        let (taken, found) = channel.take().unwrap().unwrap();
        assert_eq!(found, passing);
        let mut queued = [0; 6];
        UnixStream::from(taken).read_exact(&mut queued).unwrap();
        assert_eq!(&queued, b"queued");
        assert!(channel.take().unwrap().is_none());
    }

    #[test]
    fn a_full_channel_says_so_and_loses_nothing() {
        let channel = Handover::new().unwrap();
        let (_client, server) = UnixStream::pair().unwrap();
        let mut given = 0;
        while channel.give(server.as_fd(), &Passing::default()).is_ok() {
            given += 1;
        }
        assert!(given > 50, "{given}");
        for _ in 0..given {
            assert!(channel.take().unwrap().is_some());
        }
        assert!(channel.take().unwrap().is_none());
    }
}
