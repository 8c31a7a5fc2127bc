//! The only reader of a client's socket: it decides what is a request, and hyper sees nothing else.
//!
//! Takes bytes from the socket; gives the connection one request at a time: the next head is looked at when the answer before it has left.
//! Where hyper is to stream a body in or out, it gives hyper a head of our own with the same method, version and framing, and then
//! the body's bytes once their framing was followed. What cannot be accepted becomes a request too, and the service answers it with
//! the refusal.
//! What hyper reads of it is in `inlet.rs`, what leaves in `outlet.rs`, how it ends in `closing.rs` or goes on elsewhere in `leaving.rs`; it knows nothing of handlers.
#![forbid(unsafe_code)]

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use appserver_handler::abi;
use bytes::{Buf, Bytes, BytesMut};
use tokio::task::coop::has_budget_remaining;

use super::closing::LINGER_AT_STOP;
use super::framing::{Follower, Framing};
use super::front_end::is_trusted;
use super::head::{Limits, Progress, Version};
use super::leaving::Leave;
use super::ledger::{FIELDS, Incoming, Ledger, Phase, is_head};
use super::pace::Pace;
use super::refusal::Refusal;
use super::reply::Asked;
use super::shown::takes_trailers;
use super::socket::Socket;
use super::{Gate, Settings};
use crate::config::Protocol;
use crate::handover::{Passing, Proxied};
use crate::protocol::uwsgi;
use crate::scoreboard::Timeout;

/// Bytes read at once; also what a pipelining client may send ahead.
pub(super) const CHUNK: usize = 16 * 1024;

/// What the guard reads next.
pub(super) enum Stage {
    Head,
    Body(Follower),
    /// The request was refused: nothing more is read as HTTP.
    Refused,
}

/// What comes next on a connection.
pub(super) enum Next {
    /// A request that stands in the ledger, with its whole body: mostly none.
    Whole(Bytes),
    /// A request whose body has still to come: hyper's, which will be shown its head.
    Streams,
    /// Nothing more: the client has ended, or the connection leaves.
    Nothing,
}

/// See the module.
pub struct Guard {
    pub(super) socket: Socket,
    pub(super) ledger: Rc<Ledger>,
    pub(super) gate: Rc<dyn Gate>,
    pub(super) buf: BytesMut,
    /// What the request under way asks of the form of its answer.
    pub(super) asked: Asked,
    /// Of the head that hyper is shown, what it has not read yet.
    pub(super) shown: Bytes,
    pub(super) stage: Stage,
    /// Of the body that comes.
    pub(super) reading: Pace,
    /// Of the answer that leaves.
    pub(super) writing: Pace,
    /// The client has sent its FIN.
    pub(super) ended: bool,
    /// No request has come yet.
    pub(super) fresh: bool,
    /// What the client speaks.
    pub(super) protocol: Protocol,
    /// What a PROXY header says of the connection, or that it is still to come.
    pub(super) proxied: Proxied,
    /// What its peer says of clients is believed.
    pub(super) trusted: bool,
    /// The client said that its last request was the last one.
    pub(super) last: bool,
    /// The worker lists it as idle.
    pub(super) idle: bool,
    /// Its client has sent something while nobody could take it over: that is served here first.
    pub(super) detained: bool,
    /// How it leaves its worker without being closed.
    pub(super) leave: Option<Leave>,
    /// Our FIN has been sent.
    pub(super) shut: bool,
    /// Something of the client's was unread then.
    pub(super) unread: bool,
    /// Bytes that were read since then.
    pub(super) drained: usize,
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
        let trusted = is_trusted(&gate.settings().trusted, ledger.peer());
        Self {
            socket,
            ledger,
            gate,
            buf: BytesMut::from(&passing.ahead[..]),
            asked: Asked {
                to_head: false,
                old: false,
                keep_alive: true,
            },
            shown: Bytes::new(),
            stage: Stage::Head,
            reading: Pace::default(),
            writing: Pace::default(),
            ended: false,
            fresh: passing.fresh,
            protocol: passing.protocol,
            proxied: passing.proxied,
            trusted,
            last: false,
            // As it was listed when it came.
            idle: passing.ahead.is_empty(),
            detained: false,
            leave: None,
            shut: false,
            unread: false,
            drained: 0,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        self.gate.settings()
    }

    /// While an exchange is under way: notice a client that leaves, keep what it sends ahead.
    pub(super) fn watch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.ended && self.buf.len() < CHUNK {
            self.buf.reserve(CHUNK / 4);
            match ready!(self.socket.poll_read(cx, &mut self.buf)) {
                Ok(0) => self.end(),
                // Nobody else may have it now.
                Ok(_) => self.set_idle(false),
                Err(error) => {
                    self.ledger.set_client(abi::STATE_GONE);
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Pending
    }

    /// Whether the connection serves no other request after this one.
    pub(super) fn is_last(&self) -> bool {
        self.last || self.ledger.closing.get()
    }

    /// Whether the last answer has left, nothing of its request is still to be read, and another may come.
    pub(super) fn is_settled(&self) -> bool {
        !self.ledger.is_busy() && matches!(self.stage, Stage::Head) && !self.is_last()
    }

    /// The client's FIN. It alone is no goodbye: the client may have shut its writing side and still read.
    fn end(&mut self) {
        self.ended = true;
        self.ledger.set_client(abi::STATE_HALF_CLOSED);
    }

    /// Waits for the next request.
    #[inline]
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Next>> {
        if !matches!(self.stage, Stage::Head) || self.leaves() {
            return Poll::Ready(Ok(Next::Nothing));
        }
        loop {
            let awaited = matches!(self.proxied, Proxied::Awaited)
                && match self.awaits_proxy() {
                    Ok(awaited) => awaited,
                    Err(refusal) => return self.refuse(refusal),
                };
            if !self.buf.is_empty() && !awaited {
                let limits: Limits = self.settings().limits;
                let parsed = {
                    let mut head = self.ledger.head.borrow_mut();
                    if head.fields.capacity() == 0 {
                        head.fields.reserve(FIELDS);
                    }
                    match self.protocol {
                        Protocol::Http => head.parse(&self.buf, &limits),
                        Protocol::Uwsgi => uwsgi::parse(&mut head, &mut self.buf, &limits, &self.ledger.front),
                    }
                };
                match parsed {
                    Ok(Progress::Complete) => {
                        // A uwsgi packet is the front-end's word already.
                        if self.trusted
                            && self.protocol == Protocol::Http
                            && let Err(refusal) = self.hear_front_end()
                        {
                            return self.refuse(refusal);
                        }
                        // Only a whole head takes a turn: who sends half of one keeps nobody waiting. It is read anew then.
                        if !self.gate.may_start(&self.ledger) {
                            // It is not the client that is late now.
                            self.ledger.deadline.set(None);
                            self.ledger.expired.set(None);
                            return Poll::Pending;
                        }
                        return Poll::Ready(Ok(self.accept(&limits)));
                    }
                    Ok(Progress::Partial) => {}
                    Err(refusal) => return self.refuse(refusal),
                }
                if self.ended {
                    return self.refuse(Refusal::HEAD_TRUNCATED);
                }
                if self.ledger.bounding() != Some(Phase::Head) {
                    self.ledger.bound(Phase::Head, self.settings().timeouts.header);
                }
            } else if self.ended {
                return Poll::Ready(Ok(Next::Nothing));
            }
            if self.buf.capacity() - self.buf.len() < CHUNK / 4 {
                self.make_room();
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
                // The task has had its turn, and what has come is not known; it is polled again.
                Poll::Pending if !has_budget_remaining() => return Poll::Pending,
                Poll::Pending if self.detained && self.buf.is_empty() => {
                    // It had sent nothing after all.
                    self.detained = false;
                    if self.leaves() {
                        return Poll::Ready(Ok(Next::Nothing));
                    }
                    return self.wait_for_head();
                }
                Poll::Pending => return self.wait_for_head(),
            }
        }
    }

    /// Nothing has come: time may be over, or the server about to stop. Only now, for what lies in the socket came in time.
    fn wait_for_head(&mut self) -> Poll<io::Result<Next>> {
        let expired = self.ledger.expired.take();
        let over = matches!(expired, Some(Phase::Idle | Phase::Head));
        if !self.buf.is_empty() {
            return if over {
                self.gate.expired(&self.ledger, Timeout::Header);
                self.refuse(Refusal::HEAD_TIMEOUT)
            } else {
                Poll::Pending
            };
        }
        if self.ledger.gives_way.take() {
            // Another client takes its place at once: it is not waited for to end its side.
            self.last = true;
            self.set_idle(false);
            self.ledger.closing.set(true);
            return Poll::Ready(Ok(Next::Nothing));
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
            return Poll::Ready(Ok(Next::Nothing));
        }
        if self.ledger.bounding().is_none() {
            self.ledger.bound(Phase::Idle, self.settings().timeouts.keep_alive);
        }
        self.set_idle(true);
        self.put_by();
        Poll::Pending
    }

    /// Hands a whole head over, and its body if that has come with it.
    #[inline]
    fn accept(&mut self, limits: &Limits) -> Next {
        let ledger = self.ledger.clone();
        let head = ledger.head.borrow();
        // A copy of its own size: a split would tie up the buffer, and cost more, for as long as the call lives.
        let bytes = Bytes::copy_from_slice(&self.buf[..head.len]);
        self.buf.advance(head.len);
        self.set_idle(false);
        self.fresh = false;
        self.detained = false;
        self.last = !head.keep_alive;
        self.asked = Asked {
            to_head: head.method.of(&bytes) == b"HEAD",
            old: head.version == Version::Http10,
            keep_alive: head.keep_alive,
        };
        self.ledger.deadline.set(None);
        self.ledger.expired.set(None);
        let next = match head.framing {
            Framing::None | Framing::Length(0) => Next::Whole(Bytes::new()),
            Framing::Length(length)
                if length <= self.buf.len() as u64 && length <= self.settings().body_buffer as u64 =>
            {
                let body = Bytes::copy_from_slice(&self.buf[..length as usize]);
                self.buf.advance(length as usize);
                Next::Whole(body)
            }
            framing => {
                self.stage = Stage::Body(Follower::new(framing, limits));
                self.reading = Pace::default();
                // Who has begun to send need not be told to go on (RFC 9110 section 10.1.1).
                let expects = head.expect_continue && self.buf.is_empty();
                self.show(framing, expects, takes_trailers(&head.fields, &bytes));
                Next::Streams
            }
        };
        self.ledger.body_open.set(matches!(self.stage, Stage::Body(_)));
        *self.ledger.incoming.borrow_mut() = Some(Incoming::Accepted(bytes));
        next
    }

    /// Hands a refusal over; it is the connection's last request.
    fn refuse(&mut self, refusal: Refusal) -> Poll<io::Result<Next>> {
        let seen = self.buf.split().freeze();
        self.set_idle(false);
        self.stage = Stage::Refused;
        self.ledger.deadline.set(None);
        self.ledger.closing.set(true);
        self.asked = Asked {
            // An answer to HEAD has no body, a refusal neither (RFC 9110 section 9.3.2).
            to_head: is_head(&seen),
            old: false,
            keep_alive: false,
        };
        *self.ledger.incoming.borrow_mut() = Some(Incoming::Refused(refusal, seen));
        Poll::Ready(Ok(Next::Whole(Bytes::new())))
    }

    /// Bytes that came behind the last request, for the raw stream after an upgrade. That is no request of which the client could have said
    /// that it was the last.
    pub fn take_ahead(&mut self) -> Bytes {
        self.last = false;
        self.buf.split().freeze()
    }

    /// The socket, for the raw stream after an upgrade.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }
}
