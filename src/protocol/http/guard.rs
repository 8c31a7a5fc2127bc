//! The only reader of a client's socket: it decides what is a request, and hyper sees nothing else.
//!
//! Takes bytes from the socket; gives hyper, for each head it accepted, a head of our own with the same method, version and framing,
//! and then the body's bytes once their framing was followed. One request at a time: the next head is looked at when the answer
//! before it has left. What cannot be accepted becomes a request of ours too, and the service answers it with the refusal.
//! What leaves is in `outlet.rs`, how it ends in `closing.rs` or goes on elsewhere in `leaving.rs`; it knows nothing of handlers.
#![forbid(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use appserver_handler::abi;
use bytes::{Buf, Bytes, BytesMut};
use hyper::rt::{Read, ReadBufCursor};

use super::closing::LINGER_AT_STOP;
use super::framing::{Follower, Framing};
use super::head::{Head, Limits, Progress};
use super::leaving::Leave;
use super::ledger::{Incoming, Ledger, Phase, is_head};
use super::refusal::Refusal;
use super::shown::canonical;
use super::socket::Socket;
use super::{Gate, Settings};
use crate::handover::Passing;
use crate::scoreboard::Timeout;

/// Bytes read at once; also what a pipelining client may send ahead.
const CHUNK: usize = 16 * 1024;
/// Read at once while a body streams.
const BODY_CHUNK: usize = 64 * 1024;
/// Fields there is room for before the list has to grow.
const FIELDS: usize = 12;

/// What the guard reads next.
pub(super) enum Stage {
    Head,
    Body(Follower),
    /// The request was refused: nothing more is read as HTTP.
    Refused,
}

/// See the module.
pub struct Guard {
    pub(super) socket: Socket,
    pub(super) ledger: Rc<Ledger>,
    pub(super) gate: Rc<dyn Gate>,
    pub(super) buf: BytesMut,
    head: Head,
    pub(super) stage: Stage,
    /// The client has sent its FIN.
    pub(super) ended: bool,
    /// No request has come yet.
    pub(super) fresh: bool,
    /// The client said that its last request was the last one.
    pub(super) last: bool,
    /// The worker lists it as idle.
    pub(super) idle: bool,
    /// How it leaves its worker without being closed.
    pub(super) leave: Option<Leave>,
    /// Our FIN has been sent.
    pub(super) shut: bool,
    /// Something of the client's was unread then.
    pub(super) unread: bool,
}

impl Guard {
    /// Guards a connection: a fresh one, or one that was taken over with what was read of it.
    pub fn new(socket: Socket, passing: Passing, ledger: Rc<Ledger>, gate: Rc<dyn Gate>) -> Self {
        let timeouts = &gate.settings().timeouts;
        if passing.fresh {
            ledger.bound(Phase::Head, timeouts.header);
        } else {
            ledger.bound(Phase::Idle, timeouts.keep_alive);
        }
        Self {
            socket,
            ledger,
            gate,
            buf: BytesMut::from(&passing.ahead[..]),
            head: Head::default(),
            stage: Stage::Head,
            ended: false,
            fresh: passing.fresh,
            last: false,
            // As it was listed when it came.
            idle: passing.ahead.is_empty(),
            leave: None,
            shut: false,
            unread: false,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        self.gate.settings()
    }

    /// While an exchange is under way: notice a client that leaves, keep what it sends ahead.
    fn watch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.ended && self.buf.len() < CHUNK {
            self.buf.reserve(CHUNK / 4);
            match ready!(self.socket.poll_read(cx, &mut self.buf)) {
                Ok(0) => self.end(),
                Ok(_) => {}
                Err(error) => {
                    self.ledger.set_client(abi::STATE_GONE);
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Pending
    }

    /// The client's FIN. It alone is no goodbye: the client may have shut its writing side and still read.
    fn end(&mut self) {
        self.ended = true;
        self.ledger.set_client(abi::STATE_HALF_CLOSED);
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, cursor: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.ledger.is_busy() || !self.ledger.interim.borrow().is_empty() {
            return self.watch(cx);
        }
        if self.leaves() {
            return Poll::Ready(Ok(()));
        }
        loop {
            if !self.buf.is_empty() {
                if !self.gate.may_start(&self.ledger) {
                    // It is not the client that is late now.
                    self.ledger.deadline.set(None);
                    self.ledger.expired.set(None);
                    return Poll::Pending;
                }
                let limits: Limits = self.settings().limits;
                match self.head.parse(&self.buf, &limits) {
                    Ok(Progress::Complete) => {
                        self.accept(&limits, cursor);
                        return Poll::Ready(Ok(()));
                    }
                    Ok(Progress::Partial) => {}
                    Err(refusal) => return self.refuse(refusal, cursor),
                }
                if self.ended {
                    return self.refuse(Refusal::HEAD_TRUNCATED, cursor);
                }
                if self.ledger.bounding() != Some(Phase::Head) {
                    self.ledger.bound(Phase::Head, self.settings().timeouts.header);
                }
            } else if self.ended {
                return Poll::Ready(Ok(()));
            }
            if self.buf.capacity() - self.buf.len() < CHUNK / 4 {
                self.buf.reserve(CHUNK / 2);
            }
            match self.socket.poll_read(cx, &mut self.buf) {
                Poll::Ready(Ok(0)) => {
                    self.set_idle(false);
                    self.end();
                }
                Poll::Ready(Ok(_)) => self.set_idle(false),
                Poll::Ready(Err(error)) => {
                    self.set_idle(false);
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => return self.wait_for_head(cursor),
            }
        }
    }

    /// Nothing has come: time may be over, or the server about to stop. Only now, for what lies in the socket came in time.
    fn wait_for_head(&mut self, cursor: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let expired = self.ledger.expired.take();
        let over = matches!(expired, Some(Phase::Idle | Phase::Head));
        if !self.buf.is_empty() {
            return if over {
                self.gate.expired(&self.ledger, Timeout::Header);
                self.refuse(Refusal::HEAD_TIMEOUT, cursor)
            } else {
                Poll::Pending
            };
        }
        let ends = self.gate.is_draining() && !self.gate.hands_over(&self.ledger);
        if ends && self.fresh && !over {
            // Its client was let in and is about to send; a connection opened ahead must not hold the stop.
            if self.ledger.bounding() != Some(Phase::Idle) {
                self.ledger.bound(Phase::Idle, LINGER_AT_STOP);
            }
            return Poll::Pending;
        }
        if over && !self.gate.is_draining() {
            // A client that has connected and said nothing is as idle as one between two requests; but the timeout was the other.
            self.gate.expired(
                &self.ledger,
                if self.fresh {
                    Timeout::Header
                } else {
                    Timeout::KeepAlive
                },
            );
        }
        if over || ends {
            // Nothing was begun, so nothing is owed; but the client may be sending just now.
            self.set_idle(false);
            self.ledger.closing.set(true);
            return Poll::Ready(Ok(()));
        }
        self.set_idle(true);
        Poll::Pending
    }

    /// Hands a whole head over: its bytes to the service, a head of ours to hyper.
    fn accept(&mut self, limits: &Limits, cursor: &mut ReadBufCursor<'_>) {
        let head = std::mem::take(&mut self.head);
        self.head.fields.reserve(FIELDS);
        // A copy of its own size: a split would tie up the buffer, and cost more, for as long as the call lives.
        let bytes = Bytes::copy_from_slice(&self.buf[..head.len]);
        self.buf.advance(head.len);
        self.fresh = false;
        self.last = !head.keep_alive;
        self.stage = match head.framing {
            Framing::None | Framing::Length(0) => Stage::Head,
            framing => Stage::Body(Follower::new(framing, limits)),
        };
        self.ledger.body_open.set(matches!(self.stage, Stage::Body(_)));
        self.ledger.deadline.set(None);
        self.ledger.expired.set(None);
        canonical(&head, &bytes, cursor);
        *self.ledger.incoming.borrow_mut() = Some(Incoming::Accepted(bytes, head));
    }

    /// Hands a refusal over; to hyper it looks like a request that asks for the last answer.
    fn refuse(&mut self, refusal: Refusal, cursor: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let seen = self.buf.split().freeze();
        self.stage = Stage::Refused;
        self.ledger.deadline.set(None);
        self.ledger.closing.set(true);
        // An answer to HEAD has no body, a refusal neither (RFC 9110 section 9.3.2).
        let method: &[u8] = if is_head(&seen) { b"HEAD" } else { b"GET" };
        *self.ledger.incoming.borrow_mut() = Some(Incoming::Refused(refusal, seen));
        cursor.put_slice(method);
        cursor.put_slice(b" / HTTP/1.1\r\nConnection: close\r\n\r\n");
        Poll::Ready(Ok(()))
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
            self.buf.reserve(BODY_CHUNK);
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

    /// Bytes that came behind the last request, for the raw stream after an upgrade.
    pub fn take_ahead(&mut self) -> Bytes {
        self.buf.split().freeze()
    }

    /// The socket, for the raw stream after an upgrade.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl Read for Guard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut cursor: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        match guard.stage {
            Stage::Head => guard.poll_head(cx, &mut cursor),
            Stage::Body(_) => guard.poll_body(cx, &mut cursor),
            Stage::Refused => Poll::Pending,
        }
    }
}
