//! How a guarded connection goes to another worker, and how it is known that it could.
//!
//! Takes a guard between two requests, and gives what goes with the socket. It tells the worker when a
//! connection waits for a request with nothing read of it. Who takes it over is not known here.
#![forbid(unsafe_code)]

use super::guard::{Guard, Stage};
use super::socket::Socket;
use crate::config::Protocol;
use crate::handover::{MOST_AHEAD, Passing};

/// How a connection leaves its worker without being closed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// It is to be handed over.
    HandOver,
    /// It was, while the worker was stuck.
    Taken,
}

impl Guard {
    /// Whether the connection leaves for another worker, before another request is begun here. What was read of a request goes
    /// with it, what was not read stays in the socket.
    pub(super) fn leaves(&mut self) -> bool {
        if self.idle && self.gate.is_taken(&self.ledger) {
            self.leave = Some(Leave::Taken);
        } else if self.gate.hands_over(&self.ledger)
            && !self.detained
            // A packet that is translated is a request of this worker.
            && (self.protocol == Protocol::Http || self.ledger.front.borrow().is_none())
            && !self.ended
            && !self.last
            && !self.ledger.closing.get()
            && self.ledger.expired.get().is_none()
            && self.buf.len() <= MOST_AHEAD
        {
            self.set_idle(false);
            self.leave = Some(Leave::HandOver);
        }
        self.leave.is_some()
    }

    /// An answer has left: it is said here already that the connection waits for another request, for nobody may ask before that comes.
    pub(super) fn rest(&mut self) {
        let stays = !self.ended && !self.last && !self.ledger.closing.get();
        if stays && self.buf.is_empty() && matches!(self.stage, Stage::Head) {
            self.set_idle(true);
        }
    }

    /// Tells the worker when it changes.
    pub(super) fn set_idle(&mut self, idle: bool) {
        if self.idle != idle {
            self.idle = idle;
            self.gate.idle(&self.ledger, idle, self.fresh);
        }
    }

    /// What goes with the connection when it is handed over.
    pub(super) fn passing(&self) -> Passing {
        Passing {
            unix: matches!(self.socket, Socket::Unix(_)),
            fresh: self.fresh,
            protocol: self.protocol,
            proxied: self.proxied,
            ahead: self.buf.to_vec(),
        }
    }

    /// It cannot go yet, and its client has sent something.
    pub(super) fn detain(&mut self) {
        self.leave = None;
        self.detained = true;
    }

    /// It stays after all: nobody can take it.
    pub(super) fn stay(&mut self) {
        self.leave = None;
        self.ledger.stays.set(true);
    }
}
