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

use super::closing::LINGER_BYTES;
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
            asked: self.asked,
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

    /// Reads a body to its end that nobody wants; false when it breaks off, or is too long for that.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut left = LINGER_BYTES;
        loop {
            if self.buf.is_empty() {
                if self.ended || self.ledger.expired.take() == Some(Phase::Body) {
                    return Poll::Ready(false);
                }
                self.buf.reserve(CHUNK);
                match self.socket.poll_read(cx, &mut self.buf) {
                    Poll::Ready(Ok(count @ 1..)) => self.body_came(count),
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending => {
                        self.wait_for_body();
                        return Poll::Pending;
                    }
                }
            }
            let Stage::Body(follower) = &mut self.stage else {
                return Poll::Ready(false);
            };
            let Some(used) = follower.follow(&self.buf).ok().filter(|used| *used <= left) else {
                return Poll::Ready(false);
            };
            left -= used;
            self.buf.advance(used);
            if follower.done() {
                self.ledger.body_open.set(false);
                self.stage = Stage::Head;
                self.body_over();
                return Poll::Ready(true);
            }
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, cursor: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
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
                Poll::Ready(Ok(count)) => self.body_came(count),
                Poll::Ready(Err(error)) => {
                    self.ledger.set_client(abi::STATE_GONE);
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    self.wait_for_body();
                    self.put_by();
                    return Poll::Pending;
                }
            }
        }
        let Stage::Body(follower) = &mut self.stage else {
            return Poll::Pending;
        };
        let most = self.buf.len().min(cursor.remaining());
        match follower.follow(&self.buf[..most]) {
            Ok(used) => {
                cursor.put_slice(&self.buf[..used]);
                self.buf.advance(used);
                if follower.done() {
                    self.ledger.body_open.set(false);
                    self.stage = Stage::Head;
                    self.body_over();
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
