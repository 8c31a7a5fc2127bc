//! What the guard, the service and the response body of one connection tell each other.
//!
//! All three live in one task of the worker's runtime, so plain cells do. The ledger decides nothing: the guard reads and closes by it,
//! the service answers by it, and the access log gets its record from it.
#![forbid(unsafe_code)]

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use appserver_handler::abi;
use bytes::Bytes;

use super::field::Field;
use super::head::Head;
use super::refusal::Refusal;
use crate::cache::response::Gathering;
use crate::gateway::request::Peer;
use crate::gateway::{Call, Front, Request};
use crate::handler::call::FileRange;
use crate::scoreboard::CallRecord;
use crate::sys::time;

/// Fields of a head there is room for before the list has to grow; a list with more room is not kept.
pub const FIELDS: usize = 12;

/// A request as the guard hands it over, beside what hyper sees of it.
pub enum Incoming {
    /// A whole, valid head: its bytes. Its parts stand in [`Ledger::head`].
    Accepted(Bytes),
    /// What could not be accepted, and its first bytes for the log.
    Refused(Refusal, Bytes),
}

/// What a connection is waiting for, and so which timeout bounds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The next request: `keep-alive`.
    Idle,
    /// The rest of a head: `header`.
    Head,
    /// More of a body: `body`.
    Body,
    /// The handler's next chunk: `request`.
    Chunk,
    /// The client to read: `write`.
    Write,
    /// The client to close: a fixed short time.
    Close,
}

/// How an exchange ended, for the access log and the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcome {
    /// Answered to the last byte.
    #[default]
    Ok,
    /// Refused by the guard.
    Refused,
    /// The handler failed.
    Fault,
    /// The handler did not answer in time.
    Timeout,
    /// The client left, or did not read in time, before the last byte.
    Aborted,
}

impl Outcome {
    /// As in the access log.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
            Outcome::Fault => "fault",
            Outcome::Timeout => "timeout",
            Outcome::Aborted => "aborted",
        }
    }
}

/// One exchange, from its head to the last byte of its answer.
pub struct Record {
    /// The call, once there is one.
    pub call: Option<Arc<Call>>,
    /// Its record on the scoreboard.
    pub kept: Option<CallRecord>,
    /// What was asked, when the shared cache answers and there is no call.
    pub asked: Option<Box<Request>>,
    /// What the shared cache did for it.
    pub cache: &'static str,
    /// The head's bytes when there was no call.
    pub refused: Bytes,
    /// Whom a front-end named as its client when there was no call.
    pub remote: Option<String>,
    /// Status of the answer; 0 while there is none.
    pub status: u16,
    /// Bytes of the body that went to the client's connection.
    pub bytes: u64,
    /// When the head was whole (ns, CLOCK_MONOTONIC).
    pub began: u64,
    /// Microseconds from the head to the handler's start.
    pub queue_us: u64,
    /// Microseconds the handler took for its head.
    pub handler_us: u64,
    /// How it ended.
    pub outcome: Outcome,
}

impl Record {
    /// What was asked, if that could be read.
    pub fn request(&self) -> Option<&Request> {
        match &self.call {
            Some(call) => Some(&call.request),
            None => self.asked.as_deref(),
        }
    }

    /// The client's address as it is to be shown; `peer` is the connection's.
    pub fn remote_addr<'a>(&'a self, peer: &'a Peer) -> &'a str {
        match self.request() {
            Some(request) => request.remote_addr(),
            None => self.remote.as_deref().unwrap_or(&peer.remote_addr),
        }
    }

    /// For an exchange that begins now.
    pub fn new(began: u64) -> Self {
        Self {
            call: None,
            kept: None,
            asked: None,
            cache: "",
            refused: Bytes::new(),
            remote: None,
            status: 0,
            bytes: 0,
            began,
            queue_us: 0,
            handler_us: 0,
            outcome: Outcome::Ok,
        }
    }
}

/// A file that stands among the bytes to send as phantom bytes.
pub struct SentFile {
    /// The range.
    pub file: FileRange,
    /// The next byte to send.
    pub offset: u64,
    /// Bytes left.
    pub left: u64,
}

/// See the module.
#[derive(Default)]
pub struct Ledger {
    /// Both ends of the connection itself.
    own: Arc<Peer>,
    /// What a PROXY header has made of them.
    pub proxied: OnceCell<Arc<Peer>>,
    /// Where the worker lists it.
    pub place: u32,
    /// Its descriptor, for the watchdog (see `sys::piece`).
    pub number: RawFd,
    /// Another process may hold it too: what is to reach the client is said aloud, for a close alone says nothing.
    pub shared: Cell<bool>,
    /// Its last answer was given behind this thread's back: it is only to be closed.
    pub over: Cell<bool>,
    /// The worker is full: if it is idle, it is to be closed.
    pub gives_way: Cell<bool>,
    /// Its exchange waits for the client and takes no place among the calls.
    pub placeless: Cell<bool>,
    /// It could not be handed over, and is ended as at a stop.
    pub stays: Cell<bool>,
    /// The head that the guard reads, and then the parts of what it accepted.
    pub head: RefCell<Head>,
    /// What a trusted front-end says of the request that the guard accepted.
    pub front: RefCell<Option<Box<Front>>>,
    /// What the guard accepted or refused and the service has not taken yet.
    pub incoming: RefCell<Option<Incoming>>,
    /// The exchange under way.
    pub record: RefCell<Option<Record>>,
    /// The body of its answer has been taken to the end; the last of it may still have to leave.
    pub answered: Cell<bool>,
    /// A chunk of a streamed body has not left yet.
    pub chunk_out: Cell<bool>,
    /// The answer says `Connection: close` by our will, or the connection must not be used again.
    pub closing: Cell<bool>,
    /// What bounds the connection now, and until when (ns, CLOCK_MONOTONIC).
    pub deadline: Cell<Option<(u64, Phase)>>,
    /// The deadline that was put off, and until when: it is not again.
    pub extra: Cell<Option<(u64, u64)>>,
    /// The phase whose time is over.
    pub expired: Cell<Option<Phase>>,
    /// Interim responses that go before anything else.
    pub interim: RefCell<VecDeque<Bytes>>,
    /// What is gathered of the answer for the shared cache.
    pub gathering: RefCell<Option<Gathering>>,
    /// Files whose phantom bytes have still to leave.
    pub files: RefCell<VecDeque<SentFile>>,
    /// Why the request's body ended early.
    pub body_fault: Cell<Option<Refusal>>,
    /// The head of a 101 that the connection is to be turned over with.
    pub upgrade: RefCell<Option<(Bytes, Arc<Call>)>>,
    /// The request's body has not been read to its end.
    pub body_open: Cell<bool>,
    /// Only a reset tells the client that its response is not complete.
    pub reset: Cell<bool>,
    /// Bytes came after we closed our side at a stop.
    pub raced: Cell<bool>,
    /// What was last seen of the client, for calls that begin later.
    client: Cell<abi::Status>,
    /// It waits for its turn to start a call.
    queued: Cell<bool>,
    /// A place among the calls is kept for it.
    promised: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

impl Ledger {
    /// For a connection that begins here.
    pub fn new(peer: Peer, place: u32, number: RawFd) -> Self {
        Self {
            own: Arc::new(peer),
            place,
            number,
            ..Self::default()
        }
    }

    /// Both ends of the connection, as they are to be shown.
    pub fn peer(&self) -> &Arc<Peer> {
        self.proxied.get().unwrap_or(&self.own)
    }

    /// Keeps the room of a list of fields for the next head, unless it is large.
    pub fn give_back(&self, mut fields: Vec<Field>) {
        let mut head = self.head.borrow_mut();
        if fields.capacity() <= FIELDS && head.fields.capacity() == 0 {
            fields.clear();
            head.fields = fields;
        }
    }

    /// Remembers the task to wake when something changes.
    pub fn attend(&self, cx: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }

    /// Has the connection looked at again.
    pub fn wake(&self) {
        if let Some(task) = self.task.borrow().as_ref() {
            task.wake_by_ref();
        }
    }

    /// Whether an exchange is under way.
    pub fn is_busy(&self) -> bool {
        self.record.borrow().is_some() || self.incoming.borrow().is_some()
    }

    /// Tells the call under way how the client is, and those to come.
    pub fn set_client(&self, client: abi::Status) {
        self.client.set(client);
        let call = self.record.borrow().as_ref().and_then(|record| record.call.clone());
        if let Some(call) = call {
            call.set_client(client);
        }
    }

    /// How the client was when last looked at.
    pub fn client(&self) -> abi::Status {
        self.client.get()
    }

    /// Waits for its turn to start a call; true when it was not waiting already.
    pub fn queue_up(&self) -> bool {
        !self.queued.replace(true)
    }

    /// Its turn has come, and a place among the calls is kept for it; false when it waits no more.
    pub fn called_up(&self) -> bool {
        let waits = self.queued.replace(false);
        self.promised.set(self.promised.get() || waits);
        waits
    }

    /// Whether its turn has come and it has not taken it.
    pub fn is_promised(&self) -> bool {
        self.promised.get()
    }

    /// It waits no more; true when a place was kept for it.
    pub fn step_out(&self) -> bool {
        self.queued.set(false);
        self.promised.replace(false)
    }

    /// Changes the record of the exchange under way.
    pub fn note(&self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.record.borrow_mut().as_mut() {
            change(record);
        }
    }

    /// Bounds the connection; `None` lifts the bound.
    pub fn bound(&self, phase: Phase, after: Duration) {
        self.bound_from(time::monotonic_ns(), phase, after);
    }

    /// The same, from a moment that is known (ns).
    pub fn bound_from(&self, now: u64, phase: Phase, after: Duration) {
        self.deadline.set(Some((now.saturating_add(time::nanos(after)), phase)));
    }

    /// Shortens what is left of a phase, if it bounds the connection.
    pub fn bound_at_most(&self, phase: Phase, left: Duration) {
        let at = time::monotonic_ns().saturating_add(time::nanos(left));
        if self
            .deadline
            .get()
            .is_some_and(|(due, bounding)| bounding == phase && due > at)
        {
            self.deadline.set(Some((at, phase)));
        }
    }

    /// The phase that bounds the connection.
    pub fn bounding(&self) -> Option<Phase> {
        self.deadline.get().map(|(_, phase)| phase)
    }
}

/// Whether what was refused, or broke off, is a HEAD request as far as it goes.
pub fn is_head(bytes: &[u8]) -> bool {
    first_line(bytes).starts_with(b"HEAD ")
}

/// The first line of what was refused, for the log.
pub fn first_line(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let line = bytes[start..]
        .split(|byte| matches!(byte, b'\r' | b'\n'))
        .next()
        .unwrap_or_default();
    &line[..line.len().min(256)]
}
