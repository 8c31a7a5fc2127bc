//! The open connections of a worker, as its watchdog can read them while the runtime thread is stuck in a handler.
//!
//! Takes what the runtime thread says of each connection: its descriptor, and whether it waits for a request with nothing read of
//! it. Gives the watchdog those that can be handed to another worker, and the runtime thread, should it come back, which of its
//! connections are its own no more. When that may happen is not decided here.
//!
//! One word a connection, written by the runtime thread alone with plain stores. The one exception is [`Roster::give`]: whoever calls it
//! has made sure that the runtime thread does not touch its connections until it returns.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Protocol;
use crate::handover::{Handover, Passing, Proxied};
use crate::sys::fd;

/// The place of a connection that found none: it is served like any other and not listed.
pub const NOWHERE: u32 = u32::MAX;
/// Most places there are, whatever the limit of connections: 8 MiB of words.
const MOST: usize = 1 << 20;

// A word holds the descriptor's number in its lower half, and these bits; 0 is a free place.
const OPEN: u64 = 1 << 32;
const UNIX: u64 = 1 << 33;
const FRESH: u64 = 1 << 34;
const IDLE: u64 = 1 << 35;
const TAKEN: u64 = 1 << 36;
const UWSGI: u64 = 1 << 37;
/// Its entry in the side table says more.
const PROXIED: u64 = 1 << 38;

/// The list, for any thread.
pub struct Roster {
    entries: Box<[AtomicU64]>,
    /// Of those with a PROXY header, what it tells, by their places. The runtime thread does not hold the lock while it runs a handler.
    proxied: Mutex<HashMap<usize, Proxied>>,
}

/// A connection that waits for a request, nothing of which has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    place: usize,
    number: RawFd,
    /// What goes with it.
    pub passing: Passing,
}

impl Roster {
    /// The connections that can be handed over. What it says is old at once unless the runtime thread is stuck.
    pub fn idle(&self) -> Vec<Idle> {
        let waits = |(place, entry): (usize, &AtomicU64)| {
            let word = entry.load(Ordering::Acquire);
            let proxied = match word & PROXIED {
                0 => None,
                _ => self.proxied().get(&place).copied(),
            };
            (word & (IDLE | TAKEN) == IDLE).then(|| Idle {
                place,
                number: word as u32 as RawFd,
                passing: Passing {
                    unix: word & UNIX != 0,
                    fresh: word & FRESH != 0,
                    protocol: if word & UWSGI != 0 {
                        Protocol::Uwsgi
                    } else {
                        Protocol::Http
                    },
                    proxied: proxied.unwrap_or_default(),
                    ahead: Vec::new(),
                },
            })
        };
        self.entries.iter().enumerate().filter_map(waits).collect()
    }

    fn proxied(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Proxied>> {
        self.proxied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands one of [`Roster::idle`] over. This process keeps its own descriptor until the runtime thread drops it: closed by
    /// another hand it would stay in that thread's epoll set for ever, with a token that means nothing any more (epoll(7),
    /// questions 6). To be called only while that thread is known not to touch its connections.
    ///
    /// # Errors
    /// `WouldBlock` when too many are on their way; nothing has changed then. Others from sendmsg(2) and fcntl(2).
    pub fn give(&self, idle: &Idle, handover: &Handover) -> io::Result<()> {
        let socket = fd::duplicate(idle.number)?;
        handover.give(socket.as_fd(), &idle.passing)?;
        self.entries[idle.place].fetch_or(TAKEN, Ordering::AcqRel);
        Ok(())
    }

    /// [`Roster::give`] for as many as the channel has room for: how many went, and how many are left.
    pub fn give_all(&self, handover: &Handover) -> (usize, usize) {
        let all = self.idle();
        let given = all.iter().take_while(|idle| self.give(idle, handover).is_ok()).count();
        (given, all.len() - given)
    }
}

/// The runtime thread's side of the list.
pub struct Clerk {
    roster: Arc<Roster>,
    free: RefCell<Vec<u32>>,
}

impl Clerk {
    /// An empty list with room for so many connections.
    pub fn new(connections: usize) -> Self {
        let room = connections.min(MOST);
        Self {
            roster: Arc::new(Roster {
                entries: (0..room).map(|_| AtomicU64::new(0)).collect(),
                proxied: Mutex::default(),
            }),
            free: RefCell::new((0..room as u32).rev().collect()),
        }
    }

    /// For the watchdog.
    pub fn roster(&self) -> Arc<Roster> {
        self.roster.clone()
    }

    /// Lists a connection, as busy: its place.
    pub fn enter(&self, socket: &impl AsFd, unix: bool, protocol: Protocol) -> u32 {
        let Some(place) = self.free.borrow_mut().pop() else {
            return NOWHERE;
        };
        let number = socket.as_fd().as_raw_fd() as u32;
        let kind = if unix { UNIX } else { 0 } | if protocol == Protocol::Uwsgi { UWSGI } else { 0 };
        let word = u64::from(number) | OPEN | kind;
        self.roster.entries[place as usize].store(word, Ordering::Release);
        place
    }

    /// What a PROXY header has to do with a connection.
    pub fn proxied(&self, place: u32, proxied: Proxied) {
        let Some(entry) = self.roster.entries.get(place as usize) else {
            return;
        };
        let kept = entry.load(Ordering::Relaxed) & !PROXIED;
        if proxied == Proxied::No {
            entry.store(kept, Ordering::Release);
            self.roster.proxied().remove(&(place as usize));
        } else {
            self.roster.proxied().insert(place as usize, proxied);
            entry.store(kept | PROXIED, Ordering::Release);
        }
    }

    /// A connection waits for a request and nothing of it has been read; or that is over.
    pub fn idle(&self, place: u32, idle: bool, fresh: bool) {
        if let Some(entry) = self.roster.entries.get(place as usize) {
            let kept = entry.load(Ordering::Relaxed) & !(IDLE | FRESH);
            let added = if idle { IDLE } else { 0 } | if fresh { FRESH } else { 0 };
            entry.store(kept | added, Ordering::Release);
        }
    }

    /// Whether a connection waits for a request.
    pub fn is_idle(&self, place: u32) -> bool {
        let entry = self.roster.entries.get(place as usize);
        entry.is_some_and(|entry| entry.load(Ordering::Relaxed) & (IDLE | TAKEN) == IDLE)
    }

    /// Whether a connection has been handed over behind the runtime thread's back: it must not be read, written or shut down.
    pub fn is_taken(&self, place: u32) -> bool {
        let entry = self.roster.entries.get(place as usize);
        entry.is_some_and(|entry| entry.load(Ordering::Acquire) & TAKEN != 0)
    }

    /// Takes a connection off the list.
    pub fn leave(&self, place: u32) {
        if let Some(entry) = self.roster.entries.get(place as usize) {
            let word = entry.load(Ordering::Relaxed);
            entry.store(0, Ordering::Release);
            if word & PROXIED != 0 {
                self.roster.proxied().remove(&(place as usize));
            }
            self.free.borrow_mut().push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn only_a_connection_that_waits_can_be_handed_over() {
        let clerk = Clerk::new(8);
        let (_client, server) = UnixStream::pair().unwrap();
        let place = clerk.enter(&server, true, Protocol::Uwsgi);
        let roster = clerk.roster();
        assert!(roster.idle().is_empty(), "a new one is busy");
        clerk.idle(place, true, true);
        let passing = |fresh| Passing {
            unix: true,
            fresh,
            protocol: Protocol::Uwsgi,
            proxied: Proxied::No,
            ahead: Vec::new(),
        };
        assert_eq!(roster.idle()[0].passing, passing(true));
        clerk.idle(place, false, false);
        assert!(roster.idle().is_empty());
        clerk.idle(place, true, false);
        assert_eq!(roster.idle()[0].passing, passing(false));
        clerk.leave(place);
        assert!(roster.idle().is_empty());
    }

    #[test]
    fn what_a_proxy_header_told_goes_with_its_connection_alone() {
        let clerk = Clerk::new(2);
        let (_client, server) = UnixStream::pair().unwrap();
        let place = clerk.enter(&server, true, Protocol::Http);
        clerk.idle(place, true, true);
        let roster = clerk.roster();
        let told = Proxied::Inet {
            source: "203.0.113.7:80".parse().unwrap(),
            here: "192.0.2.1:443".parse().unwrap(),
            tls: true,
        };
        for proxied in [Proxied::Awaited, told, Proxied::No, Proxied::Unix { tls: false }] {
            clerk.proxied(place, proxied);
            assert_eq!(roster.idle()[0].passing.proxied, proxied);
        }
        clerk.leave(place);
        let place = clerk.enter(&server, true, Protocol::Http);
        clerk.idle(place, true, true);
        assert_eq!(roster.idle()[0].passing.proxied, Proxied::No);
        clerk.proxied(NOWHERE, told);
    }

    #[test]
    fn a_connection_given_by_the_watchdog_is_the_runtimes_no_more() {
        let clerk = Clerk::new(8);
        let handover = Handover::new().unwrap();
        let (mut client, server) = UnixStream::pair().unwrap();
        let place = clerk.enter(&server, true, Protocol::Uwsgi);
        clerk.idle(place, true, false);
        assert!(!clerk.is_taken(place));
        let roster = clerk.roster();
        let given = std::thread::scope(|scope| scope.spawn(|| roster.give_all(&handover)).join().unwrap());
        assert_eq!(given, (1, 0));
        assert!(clerk.is_taken(place) && roster.idle().is_empty());

        // The old worker still holds the descriptor: the new one has to end the connection, not just to close it.
        client.write_all(b"hello").unwrap();
        let (taken, _) = handover.take().unwrap().unwrap();
        let mut taken = UnixStream::from(taken);
        let mut hello = [0; 5];
        taken.read_exact(&mut hello).unwrap();
        taken.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut hello).unwrap(), 0, "closed by its new owner");
        drop(server);
        clerk.leave(place);
    }

    #[test]
    fn a_full_channel_leaves_the_rest_where_it_is() {
        let clerk = Clerk::new(2000);
        let handover = Handover::new().unwrap();
        let (_client, server) = UnixStream::pair().unwrap();
        let copies: Vec<_> = (0..600).map(|_| server.try_clone().unwrap()).collect();
        let places: Vec<u32> = copies
            .iter()
            .map(|copy| clerk.enter(copy, true, Protocol::Http))
            .collect();
        places.iter().for_each(|place| clerk.idle(*place, true, false));
        let (given, left) = clerk.roster().give_all(&handover);
        assert_eq!(given + left, 600);
        assert!(left > 0);
        let mut taken = 0;
        while handover.take().unwrap().is_some() {
            taken += 1;
        }
        assert_eq!(taken, given);
        assert_eq!(clerk.roster().idle().len(), left);
    }

    #[test]
    fn places_are_used_again_and_those_beyond_the_last_are_nowhere() {
        let clerk = Clerk::new(1);
        let (_client, server) = UnixStream::pair().unwrap();
        let place = clerk.enter(&server, true, Protocol::Uwsgi);
        assert_eq!(clerk.enter(&server, true, Protocol::Uwsgi), NOWHERE);
        clerk.idle(NOWHERE, true, false);
        assert!(!clerk.is_taken(NOWHERE));
        clerk.leave(NOWHERE);
        clerk.leave(place);
        assert_eq!(clerk.enter(&server, true, Protocol::Uwsgi), place);
    }
}
