//! From an accepted descriptor to a served connection.
//!
//! Takes what the acceptor handed over, gives it a place among the worker's connections and a task of its own.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::Worker;
use super::accept::Accepted;
use crate::gateway::Peer;
use crate::listener::Address;
use crate::protocol::http::connection;
use crate::protocol::http::ledger::Ledger;
use crate::protocol::http::socket::Socket;
use crate::sys;

/// Serves an accepted connection in a task of its own.
pub fn start(worker: &Rc<Worker>, accepted: Accepted, number: u64, addresses: &[Address]) {
    let counters = worker.slot.counters();
    counters.accepts.fetch_add(1, Ordering::Relaxed);
    let Accepted {
        socket,
        remote,
        listener,
    } = accepted;
    let unix = matches!(remote, Address::Unix(_));
    let mut peer = Peer::default();
    if let Address::Tcp(address) = &remote {
        peer.remote_addr = address.ip().to_canonical().to_string();
        peer.remote_port = address.port().to_string();
        // The listener may be bound to all addresses; then the socket knows which one the client chose.
        let local = match &addresses[listener] {
            Address::Tcp(local) if !local.ip().is_unspecified() => Some(*local),
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
    let ledger = Rc::new(Ledger::new(peer));
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
        connection::serve(socket, ledger, worker).await;
        drop(place);
    });
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
