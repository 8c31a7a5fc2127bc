//! Where connections come from: a listener, or another worker.
//!
//! Takes what is queued there; gives it as [`Accepted`], with all that is known of it. When something is taken, and by whom, is the acceptor's.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::connection::{Here, here};
use crate::config;
use crate::handover::{Handover, Passing, Proxied};
use crate::listener::{Address, Listener};
use crate::sys;
use crate::sys::epoll::Shared;

/// A connection that came from a listener or from another worker.
pub struct Accepted {
    /// The socket: non-blocking, close-on-exec.
    pub socket: OwnedFd,
    /// Who connected.
    pub remote: Address,
    /// Where it connected to, as far as the listener knows.
    pub here: Option<Here>,
    /// Another worker accepted it.
    pub taken_over: bool,
    /// What is known of it.
    pub passing: Passing,
}

/// A listener, and how a connection begins that comes from it.
pub(super) struct Door {
    pub(super) listener: Arc<Listener>,
    /// Where its clients have connected to, as far as it knows.
    here: Option<Here>,
    passing: Passing,
}

impl Door {
    /// One that is configured as `wanted`.
    pub(super) fn new(listener: &Arc<Listener>, wanted: Option<&config::Listener>) -> Self {
        Self {
            listener: listener.clone(),
            here: here(listener.address()),
            passing: Passing {
                unix: matches!(listener.address(), Address::Unix(_)),
                fresh: true,
                protocol: wanted.map(|wanted| wanted.protocol).unwrap_or_default(),
                proxied: if wanted.is_some_and(|wanted| wanted.proxy_protocol) {
                    Proxied::Awaited
                } else {
                    Proxied::No
                },
                ..Passing::default()
            },
        }
    }
}

/// Where connections come from.
pub(super) struct Source {
    /// Absent for what other workers hand over.
    pub(super) door: Option<Door>,
    pub(super) queue: Shared,
}

impl Source {
    /// Whether it is a door, and shut.
    pub(super) fn is_shut(&self) -> bool {
        let door = self.door.as_ref();
        door.is_some_and(|Door { listener, .. }| listener.has_door() && listener.is_shut())
    }
}

/// Takes one connection, if there is one: from a listener, or from another worker.
pub(super) fn take(handover: &Handover, door: Option<&Door>) -> io::Result<Option<Accepted>> {
    let Some(door) = door else {
        return take_over(handover);
    };
    Ok(door.listener.accept()?.map(|(socket, remote)| Accepted {
        socket,
        remote,
        here: door.here.clone(),
        taken_over: false,
        passing: door.passing.clone(),
    }))
}

/// Takes a connection over from another worker, if there is one.
fn take_over(handover: &Handover) -> io::Result<Option<Accepted>> {
    let (socket, passing, remote) = loop {
        // A connection that finds no free descriptor when it is received is closed by the kernel.
        drop(handover.as_fd().try_clone_to_owned()?);
        let Some((socket, passing)) = handover.take()? else {
            return Ok(None);
        };
        match sys::socket::peer(&socket) {
            _ if passing.unix => break (socket, passing, Address::Unix(None)),
            Ok(remote) => break (socket, passing, remote),
            // Reset by its client on the way: there may be others behind it.
            Err(_) => {}
        }
    };
    Ok(Some(Accepted {
        socket,
        remote,
        here: None,
        taken_over: true,
        passing,
    }))
}
