//! HTTP/1.1: the guard decides what is a request, hyper speaks the protocol, the worker's service answers.
//!
//! The way of a request: `socket` -> `guard` (with `head`, `field`, `target`, `facts`, `framing`, `refusal`, `front_end`) -> `direct` -> the
//! [`Service`] -> `answer` -> `body` -> `direct` (its head by `reply`) -> `outlet` -> `socket`. Where a body streams in or out it goes by way
//! of hyper, which is `shown` a head of ours, reads by `inlet` (and `upload`) and writes by `outlet`. `closing` is how a connection ends and
//! `leaving` how it goes elsewhere; `ledger` is what all these tell each other, `connection` is the life of one connection with its `timer`,
//! `tunnel` what follows a 101.
#![forbid(unsafe_code)]

pub mod answer;
pub mod body;
mod closing;
pub mod connection;
mod direct;
mod facts;
pub mod field;
pub mod framing;
mod front_end;
#[cfg(test)]
mod golden;
pub mod guard;
pub mod head;
mod inlet;
pub mod kept;
mod leaving;
pub mod ledger;
#[cfg(test)]
mod opinions;
mod outlet;
mod pace;
pub mod phantom;
pub mod refusal;
pub mod reply;
mod shown;
pub mod socket;
mod spare;
pub mod target;
pub mod timer;
pub mod tunnel;
pub mod upload;

use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::{Timeouts, Trusted};
use crate::gateway::Call;
use crate::handover::{Passing, Proxied};
use crate::scoreboard::Timeout;

/// What bounds a connection and its requests.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of heads and bodies.
    pub limits: head::Limits,
    /// Of each phase.
    pub timeouts: Timeouts,
    /// Whose word about a client is taken.
    pub trusted: Trusted,
    /// Bytes a second that a body has to come in at; 0 is any.
    pub body_rate: u64,
    /// Bytes a second that an answer has to be read at; 0 is any.
    pub write_rate: u64,
    /// Bodies up to this many bytes are read before the call.
    pub body_buffer: usize,
}

/// What a connection asks of the worker it belongs to.
pub trait Gate {
    /// What bounds it.
    fn settings(&self) -> &Settings;
    /// Whether another call may start now; if not, the task is woken when it may.
    fn may_start(&self, ledger: &Rc<ledger::Ledger>) -> bool;
    /// Whether connections are to leave.
    fn is_draining(&self) -> bool;
    /// Whether this one leaves for another worker once it is idle, and is not closed.
    fn hands_over(&self, ledger: &ledger::Ledger) -> bool;
    /// Hands it over; the caller then drops its socket without a word.
    ///
    /// # Errors
    /// `WouldBlock`: try again a little later. After any other it has to be ended here.
    fn give(&self, connection: BorrowedFd<'_>, passing: &Passing) -> io::Result<()>;
    /// It begins, or ceases, to wait for a request of which nothing has been read; `fresh` if for its first.
    fn idle(&self, ledger: &ledger::Ledger, idle: bool, fresh: bool);
    /// A PROXY header was read, and tells of its ends.
    fn proxied(&self, ledger: &ledger::Ledger, proxied: Proxied);
    /// Whether an idle one was handed over while this thread was stuck: its socket is not to be touched.
    fn is_taken(&self, ledger: &ledger::Ledger) -> bool;
    /// A named timeout is over that the client or the handler should have kept: a count and a line in the log.
    fn expired(&self, ledger: &ledger::Ledger, timeout: Timeout);
    /// The exchange under way begins, or ceases, to wait for its client alone: it takes no place among the calls meanwhile.
    fn waits_for_client(&self, ledger: &ledger::Ledger, waits: bool);
    /// Runs [`Call::advance`] where the call's handler runs.
    fn advance(&self, call: &Arc<Call>);
    /// An exchange is over, at `now` (ns): the log line, the counters, and the end of its call.
    fn finished(&self, ledger: &ledger::Ledger, record: ledger::Record, now: u64);
}

/// What answers requests: the worker.
pub trait Service: Gate + 'static {
    /// Answers the request that stands in the ledger, and whose body is given.
    fn serve(self: Rc<Self>, ledger: Rc<ledger::Ledger>, body: upload::Upload) -> impl Future<Output = reply::Reply>;
}
