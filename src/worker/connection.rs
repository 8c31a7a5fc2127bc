//! From an accepted descriptor to a served connection.
//!
//! Takes what the acceptor brought, from a listener or from another worker, gives it a place among the worker's connections and a
//! task of its own; and sends it off to another worker. When it leaves is the protocol's to find out.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Worker;
use super::source::Accepted;
use crate::gateway::Peer;
use crate::handover::{Passing, Proxied};
use crate::listener::Address;
use crate::protocol::http::connection;
use crate::protocol::http::ledger::Ledger;
use crate::protocol::http::socket::Socket;
use crate::sys;

/// The error of sendmsg(2) for more descriptors on their way than the limit of open files allows.
const ETOOMANYREFS: i32 = 109;

/// Where clients of a listener have connected to: name and port, spelled once for all of them.
pub type Here = (String, String);

/// [`Here`] of a listener; None where the client chose it, for it is bound to all addresses, and the socket knows.
pub fn here(listener: &Address) -> Option<Here> {
    match listener {
        Address::Tcp(address) if !address.ip().is_unspecified() => Some(spelled(address)),
        _ => None,
    }
}

/// An address and its port in text.
fn spelled(address: &SocketAddr) -> (String, String) {
    let text = match address.ip().to_canonical() {
        IpAddr::V4(address) => dotted(address),
        address => address.to_string(),
    };
    (text, address.port().to_string())
}

/// As std spells it, at a tenth of the price: its formatting is half of what it costs to start a connection.
fn dotted(address: Ipv4Addr) -> String {
    let mut text = String::with_capacity("255.255.255.255".len());
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        for (unit, from) in [(100, 100), (10, 10), (1, 0)] {
            if octet >= from {
                text.push(char::from(b'0' + octet / unit % 10));
            }
        }
    }
    text
}

/// Serves a connection in a task of its own.
pub fn start(worker: &Rc<Worker>, accepted: Accepted) {
    worker.load.opened();
    let number = worker.arrived.replace(worker.arrived.get() + 1);
    let counters = worker.slot.counters();
    let Accepted {
        socket,
        remote,
        here,
        taken_over,
        passing,
    } = accepted;
    if taken_over {
        counters.taken_over.fetch_add(1, Ordering::Relaxed);
    } else {
        counters.accepts.fetch_add(1, Ordering::Relaxed);
    }
    let unix = matches!(remote, Address::Unix(_));
    let mut peer = Peer::default();
    if let Address::Tcp(address) = &remote {
        (peer.remote_addr, peer.remote_port) = spelled(address);
        (peer.server_name, peer.server_port) = match here {
            Some(here) => here,
            None => match sys::socket::local(&socket) {
                Ok(Address::Tcp(local)) => spelled(&local),
                _ => Default::default(),
            },
        };
    }
    if let Some(proxied) = Peer::proxied(&passing.proxied) {
        peer = proxied;
    }
    let socket = match Socket::new(socket, unix) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!("a connection could not be registered and was closed: {error}");
            worker.load.closed();
            return;
        }
    };
    let place = worker.clerk.enter(&socket, unix, passing.protocol);
    if passing.proxied != Proxied::No {
        worker.clerk.proxied(place, passing.proxied);
    }
    let ledger = Rc::new(Ledger::new(peer, place, sys::piece::number_of(&socket)));
    ledger.shared.set(taken_over);
    // Its task may have to wait for a handler that never returns: until it runs, nothing has been read.
    worker.clerk.idle(place, passing.ahead.is_empty(), passing.fresh);
    worker.connections.borrow_mut().insert(number, ledger.clone());
    counters
        .open
        .store(worker.connections.borrow().len() as u64, Ordering::Relaxed);
    let place = Place {
        worker: worker.clone(),
        ledger: ledger.clone(),
        number,
    };
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        connection::serve(socket, passing, ledger, worker).await;
        drop(place);
    });
}

impl Worker {
    /// Sends a connection off to whichever worker takes it.
    pub(super) fn give_away(&self, connection: BorrowedFd<'_>, passing: &Passing) -> io::Result<()> {
        // A stop may have been asked for since the loop last looked: then nobody is left to take it.
        if !self.slot.commands().handover {
            return Err(io::Error::other("the server stops"));
        }
        match self.handover.give(connection, passing) {
            Ok(()) => {
                self.slot.counters().handed_over.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(ETOOMANYREFS) => {
                if self.give_until.get().is_some_and(|until| Instant::now() > until) {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no worker took it in time"));
                }
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(error) => Err(error),
        }
    }
}

/// The connections of a worker by their numbers.
pub type Connections = HashMap<u64, Rc<Ledger>, BuildHasherDefault<Spread>>;

/// Spreads our own numbers over a table; nobody from outside can choose them.
#[derive(Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio of 64 bits (Knuth, TAOCP 6.4): neighbours end far from each other, in the upper bits too.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A connection's place among the others, given back when it ends in whatever way.
struct Place {
    worker: Rc<Worker>,
    ledger: Rc<Ledger>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self { worker, ledger, number } = self;
        // Left over only by a panic of ours: the exchange must not count as under way for ever.
        connection::abandon(ledger, &**worker);
        let counters = worker.slot.counters();
        if worker.draining.get() && ledger.raced.get() {
            counters.raced.fetch_add(1, Ordering::Relaxed);
        }
        worker.clerk.leave(ledger.place);
        worker.connections.borrow_mut().remove(number);
        let open = worker.connections.borrow().len();
        counters.open.store(open as u64, Ordering::Relaxed);
        worker.load.closed();
        worker.leave_line(ledger);
        if worker.draining.get() {
            worker.drained.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_spelled_as_std_does() {
        for number in (0..=u32::MAX)
            .step_by(999_983)
            .chain([0x7f00_0001, u32::MAX, 0x0a63_6409])
        {
            let address = Ipv4Addr::from(number);
            assert_eq!(dotted(address), address.to_string());
        }
        let spelled_as = |text: &str| spelled(&text.parse().unwrap());
        assert_eq!(spelled_as("[::1]:80"), ("::1".to_owned(), "80".to_owned()));
        assert_eq!(
            spelled_as("[::ffff:10.0.0.1]:65535"),
            ("10.0.0.1".to_owned(), "65535".to_owned())
        );
    }

    #[test]
    fn a_listener_at_all_addresses_does_not_know_which_one_was_meant() {
        let at = |text: &str| here(&Address::Tcp(text.parse().unwrap()));
        assert_eq!(at("127.0.0.1:8000"), Some(("127.0.0.1".to_owned(), "8000".to_owned())));
        assert_eq!((at("0.0.0.0:8000"), at("[::]:8000")), (None, None));
        assert_eq!(here(&Address::Unix(None)), None);
    }
}
