//! From an accepted descriptor to a served connection.
//!
//! Takes what the acceptor brought, from a listener or from another worker, gives it a place among the worker's connections and a
//! task of its own; and sends it off to another worker. When it leaves is the protocol's to find out.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Worker;
use super::accept::Accepted;
use crate::gateway::Peer;
use crate::handover::Passing;
use crate::listener::Address;
use crate::protocol::http::connection;
use crate::protocol::http::ledger::Ledger;
use crate::protocol::http::socket::Socket;
use crate::sys;

/// The error of sendmsg(2) for more descriptors on their way than the limit of open files allows.
const ETOOMANYREFS: i32 = 109;

/// Serves a connection in a task of its own.
pub fn start(worker: &Rc<Worker>, accepted: Accepted, number: u64, addresses: &[Address]) {
    let counters = worker.slot.counters();
    let Accepted {
        socket,
        remote,
        listener,
        passing,
    } = accepted;
    match listener {
        Some(_) => counters.accepts.fetch_add(1, Ordering::Relaxed),
        None => counters.taken_over.fetch_add(1, Ordering::Relaxed),
    };
    let unix = matches!(remote, Address::Unix(_));
    let mut peer = Peer::default();
    if let Address::Tcp(address) = &remote {
        peer.remote_addr = address.ip().to_canonical().to_string();
        peer.remote_port = address.port().to_string();
        // The listener may be bound to all addresses; then the socket knows which one the client chose.
        let local = match listener.and_then(|listener| addresses.get(listener)) {
            Some(Address::Tcp(local)) if !local.ip().is_unspecified() => Some(*local),
            _ => match sys::socket::local(&socket) {
                Ok(Address::Tcp(local)) => Some(local),
                _ => None,
            },
        };
        if let Some(local) = local {
            peer.server_name = local.ip().to_canonical().to_string();
            peer.server_port = local.port().to_string();
        }
    }
    let socket = match Socket::new(socket, unix) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!("a connection could not be registered and was closed: {error}");
            worker.load.closed();
            return;
        }
    };
    let place = worker.clerk.enter(&socket, unix);
    let ledger = Rc::new(Ledger::new(peer, place, sys::piece::number_of(&socket)));
    ledger.shared.set(listener.is_none());
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
        // It may have been called up and left without a call.
        worker.call_up();
        if worker.draining.get() {
            worker.drained.notify_one();
        }
    }
}
