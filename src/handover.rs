//! How idle connections outlive their worker: descriptors on their way to whoever serves.
//!
//! Takes an idle connection from a worker that leaves, with what was read ahead of it; gives it to a ready worker. What
//! nobody takes yet waits in the kernel, across the death of any worker. Which connections go, and when, is decided by
//! the workers.
#![forbid(unsafe_code)]

use crate::config::Protocol;
use crate::sys::fd;
use std::io;
use std::net::SocketAddr;
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
    /// What is spoken on it.
    pub protocol: Protocol,
    /// What a PROXY header says of its ends, or that it is still to come.
    pub proxied: Proxied,
    /// Bytes of the client's that were read and belong to no request yet.
    pub ahead: Vec<u8>,
}

/// What a PROXY header has to do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Proxied {
    /// Nothing: its own ends count.
    #[default]
    No,
    /// It begins with one, which has not been read to its end.
    Awaited,
    /// It was one of a client that reached the front-end over a Unix socket.
    Unix {
        /// Whether the client spoke TLS.
        tls: bool,
    },
    /// It was one of a client with an address.
    Inet {
        /// The client.
        source: SocketAddr,
        /// Where the client has connected to.
        here: SocketAddr,
        /// Whether the client spoke TLS.
        tls: bool,
    },
}

impl Proxied {
    /// As it travels: no more than 255 bytes.
    fn spelled(&self) -> String {
        let over = |tls: bool| if tls { "tls" } else { "tcp" };
        match self {
            Proxied::No | Proxied::Awaited => String::new(),
            Proxied::Unix { tls } => over(*tls).to_owned(),
            Proxied::Inet { source, here, tls } => format!("{} {source} {here}", over(*tls)),
        }
    }

    fn read(text: &[u8]) -> Option<Self> {
        let mut words = str::from_utf8(text).ok()?.split(' ');
        let tls = words.next()? == "tls";
        Some(match (words.next(), words.next()) {
            (None, _) => Proxied::Unix { tls },
            (source, here) => Proxied::Inet {
                source: source?.parse().ok()?,
                here: here?.parse().ok()?,
                tls,
            },
        })
    }
}

const UNIX: u8 = 1;
const FRESH: u8 = 2;
const UWSGI: u8 = 4;
const AWAITED: u8 = 8;
/// The flags are followed by the length of what a PROXY header has told, and that.
const PROXIED: u8 = 16;
/// Most bytes before those that were read ahead.
const PREFACE: usize = 2 + 255;

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
        let told = passing.proxied.spelled();
        let flags = [
            (passing.unix, UNIX),
            (passing.fresh, FRESH),
            (passing.protocol == Protocol::Uwsgi, UWSGI),
            (passing.proxied == Proxied::Awaited, AWAITED),
            (!told.is_empty(), PROXIED),
        ];
        message.push(flags.iter().map(|(set, flag)| u8::from(*set) * flag).sum());
        if !told.is_empty() {
            message.push(told.len() as u8);
            message.extend_from_slice(told.as_bytes());
        }
        message.extend_from_slice(&passing.ahead);
        fd::send(&self.give, &message, Some(connection))
    }

    /// Takes a connection over; None when none is on its way.
    ///
    /// # Errors
    /// From recvmsg(2).
    pub fn take(&self) -> io::Result<Option<(OwnedFd, Passing)>> {
        let mut buffer = vec![0; PREFACE + MOST_AHEAD];
        loop {
            let (len, passed) = match fd::receive(&self.take, &mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let Some((flags, ahead)) = buffer[..len].split_first() else {
                continue;
            };
            let Some(connection) = passed else {
                return Err(io::Error::other(
                    "a connection that was handed over is lost, for this process has no free descriptor (RLIMIT_NOFILE)",
                ));
            };
            let (proxied, ahead) = match ahead.split_first() {
                Some((length, rest)) if flags & PROXIED != 0 => {
                    let (told, ahead) = rest.split_at(rest.len().min(usize::from(*length)));
                    (Proxied::read(told).unwrap_or_default(), ahead)
                }
                _ if flags & AWAITED != 0 => (Proxied::Awaited, ahead),
                _ => (Proxied::No, ahead),
            };
            let passing = Passing {
                unix: flags & UNIX != 0,
                fresh: flags & FRESH != 0,
                protocol: if flags & UWSGI != 0 {
                    Protocol::Uwsgi
                } else {
                    Protocol::Http
                },
                proxied,
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
            protocol: Protocol::Uwsgi,
            proxied: Proxied::No,
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
    fn what_a_proxy_header_has_told_goes_with_it() {
        let channel = Handover::new().unwrap();
        let (_client, server) = UnixStream::pair().unwrap();
        let inet = |source: &str, tls: bool| Proxied::Inet {
            source: source.parse().unwrap(),
            here: "[2001:db8:2001:db8:2001:db8:2001:db8]:65535".parse().unwrap(),
            tls,
        };
        for proxied in [
            Proxied::Awaited,
            Proxied::Unix { tls: true },
            Proxied::Unix { tls: false },
            inet("203.0.113.7:80", false),
            inet("[2001:db8:2001:db8:2001:db8:2001:db8]:65535", true),
        ] {
            for ahead in [&b""[..], b"PROXY TC", &[b'x'; MOST_AHEAD]] {
                let passing = Passing {
                    proxied,
                    ahead: ahead.to_vec(),
                    ..Passing::default()
                };
                channel.give(server.as_fd(), &passing).unwrap();
                assert_eq!(channel.take().unwrap().unwrap().1, passing);
            }
        }
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
