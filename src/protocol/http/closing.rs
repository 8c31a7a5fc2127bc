//! The end of a guarded connection.
//!
//! Takes a guard that hyper has given back; closes so that the last answer arrives and what crosses the close is counted. It answers
//! nothing any more.
#![forbid(unsafe_code)]

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop::has_budget_remaining;

use super::guard::{Guard, Stage};
use super::ledger::Phase;

/// Read at once of what nobody wants any more.
const CHUNK: usize = 16 * 1024;
/// How long a close waits for the client's FIN in all.
const LINGER: Duration = Duration::from_secs(5);
/// The same at a stop: long enough for what was under way, too short to hold it.
pub(super) const LINGER_AT_STOP: Duration = Duration::from_secs(1);
/// How many bytes a close reads that nobody wants: more than a client has under way, and an end for one that sends for ever.
pub(super) const LINGER_BYTES: usize = 16 * 1024 * 1024;

impl Guard {
    /// Whether nothing has come behind what the client itself called its last request. What else it might send breaks its word (RFC 9112
    /// section 9.6), and is not waited for: most connections that serve one request end so.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        self.buf.reserve(CHUNK / 4);
        let more = self.socket.poll_read(cx, &mut self.buf);
        if more.is_pending() && !has_budget_remaining() {
            // The task has had its turn, and what has come is not known.
            return false;
        }
        self.unread = matches!(more, Poll::Ready(Ok(1..)));
        !self.unread
    }

    /// Ends the connection so that the last answer is not lost: our FIN, then the client's, then close. A reset sent
    /// because unread bytes are left would take the answer with it (RFC 9112 section 9.6).
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let unread = !self.buf.is_empty() || matches!(self.stage, Stage::Body(_));
        if self.ledger.reset.get() {
            if self.ledger.shared.get() {
                self.socket.break_off();
            }
            self.socket.reset();
            return Poll::Ready(());
        }
        if !self.shut {
            self.shut = true;
            self.unread = unread;
            if self.ended || self.last && !unread && self.is_silent(cx) {
                if self.ledger.shared.get() {
                    self.socket.shut_writing();
                }
                return Poll::Ready(());
            }
            self.socket.shut_writing();
            self.ledger.bound(Phase::Close, LINGER);
        }
        // A stop may begin while we wait.
        if self.gate.is_draining() {
            self.ledger.bound_at_most(Phase::Close, LINGER_AT_STOP);
        }
        loop {
            if self.ledger.expired.take() == Some(Phase::Close) {
                return Poll::Ready(());
            }
            self.buf.clear();
            self.buf.reserve(CHUNK);
            let read = ready!(self.socket.poll_read(cx, &mut self.buf));
            self.drained += self.buf.len();
            match read {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) if self.drained > LINGER_BYTES => return Poll::Ready(()),
                // The rest of a body was under way before our close; anything else crossed it.
                Ok(_) if self.unread => {}
                Ok(_) => self.ledger.raced.set(true),
            }
        }
    }
}
