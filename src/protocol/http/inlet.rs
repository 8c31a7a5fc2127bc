//! What hyper reads of a guarded connection: a head of ours, then the body's bytes once their framing was followed.
//!
//! Takes a request that the guard has accepted and whose body or answer streams; gives hyper its bytes as they come, or an error where
//! the body breaks off. It looks at no head of the client's.
#![forbid(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use appserver_handler::abi;
use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor};

use super::framing::Framing;
use super::guard::{Guard, Stage};
use super::ledger::Phase;
use super::refusal::Refusal;
use super::shown::{Shown, takes_trailers};
use crate::scoreboard::Timeout;

/// Read at once while a body streams.
const CHUNK: usize = 64 * 1024;

impl Guard {
    /// Has hyper read a head like that of the request under way.
    pub(super) fn show(&mut self, framing: Framing, expects: bool, trailers: bool) {
        let shown = Shown {
            to_head: self.asked.to_head,
            old: self.asked.old,
            keep_alive: self.asked.keep_alive,
            framing,
            expects,
            trailers,
        };
        self.shown = Bytes::from(shown.head());
    }

    /// The same for a request that has been read to its end, and that hyper is to send the answer to.
    pub(super) fn show_whole(&mut self) {
        let trailers = self.ledger.record.borrow().as_ref().is_some_and(|record| {
            let request = record.call.as_ref().map(|call| &call.request);
            request.is_some_and(|request| takes_trailers(&request.fields, &request.bytes))
        });
        self.show(Framing::None, false, trailers);
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, cursor: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let Stage::Body(follower) = &mut self.stage else {
            return Poll::Pending;
        };
        while self.buf.is_empty() {
            let fault = match self.ledger.expired.take() {
                Some(Phase::Body) => {
                    self.gate.expired(&self.ledger, Timeout::Body);
                    Some(Refusal::BODY_TIMEOUT)
                }
                _ if self.ended => Some(Refusal::BODY_TRUNCATED),
                _ => None,
            };
            if let Some(fault) = fault {
                self.ledger.body_fault.set(Some(fault));
                self.ledger.closing.set(true);
                self.stage = Stage::Refused;
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.buf.reserve(CHUNK);
            match self.socket.poll_read(cx, &mut self.buf) {
                Poll::Ready(Ok(0)) => {
                    self.ended = true;
                    self.ledger.set_client(abi::STATE_HALF_CLOSED);
                }
                Poll::Ready(Ok(_)) => self.ledger.deadline.set(None),
                Poll::Ready(Err(error)) => {
                    self.ledger.set_client(abi::STATE_GONE);
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    if self.ledger.bounding() != Some(Phase::Body) {
                        self.ledger.bound(Phase::Body, self.gate.settings().timeouts.body);
                    }
                    return Poll::Pending;
                }
            }
        }
        let most = self.buf.len().min(cursor.remaining());
        match follower.follow(&self.buf[..most]) {
            Ok(used) => {
                cursor.put_slice(&self.buf[..used]);
                self.buf.advance(used);
                if follower.done() {
                    self.ledger.body_open.set(false);
                    self.stage = Stage::Head;
                    self.ledger.deadline.set(None);
                    if !self.ledger.is_busy() && !self.is_last() {
                        // Its answer had left before the body's end: the connection is free now.
                        self.settled = true;
                        self.rest();
                        self.ledger.bound(Phase::Idle, self.gate.settings().timeouts.keep_alive);
                    }
                }
                Poll::Ready(Ok(()))
            }
            Err(refusal) => {
                self.ledger.body_fault.set(Some(refusal));
                self.ledger.closing.set(true);
                self.stage = Stage::Refused;
                Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
            }
        }
    }
}

impl Read for Guard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut cursor: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        if !guard.shown.is_empty() {
            let most = guard.shown.len().min(cursor.remaining());
            cursor.put_slice(&guard.shown.split_to(most));
            return Poll::Ready(Ok(()));
        }
        match guard.stage {
            // hyper has one request at a time; the next is looked at when its answer has left.
            Stage::Head => guard.watch(cx),
            Stage::Body(_) => guard.poll_body(cx, &mut cursor),
            Stage::Refused => Poll::Pending,
        }
    }
}
