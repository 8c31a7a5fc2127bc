//! One who speaks over the control socket, from the connection to the last byte of the reply.
//!
//! Takes an accepted connection; gives the request once its line is complete, and sends the reply as fast as it is read. It
//! never waits: what is not there yet is for the next look. How many there may be is decided in `control`.
#![forbid(unsafe_code)]

use crate::sys::{privilege, socket, time};
use crate::verbs::{LONGEST, Outcome, Reply, Request};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long a request may take to arrive, and an answer to be read.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before an answer that found no room is tried again, and before accept(2) is after it failed.
const RETRY: Duration = Duration::from_millis(20);

/// Who asked: for bringing the reply back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub(super) u64);

/// One connection to the control socket.
#[derive(Debug)]
pub struct Caller {
    ticket: Ticket,
    stream: UnixStream,
    stage: Stage,
    /// Nothing more is read from it: it has said enough, or ended its half of the conversation.
    deaf: bool,
    /// Asked for the stop: it learns of our end by the end of the connection.
    stays: bool,
}

#[derive(Debug)]
enum Stage {
    /// Its request arrives, at the latest at this moment (ns).
    Asking { text: Vec<u8>, until: u64 },
    /// The master is at it.
    Waiting,
    /// The reply leaves, at the latest at this moment (ns).
    Hearing { rest: Vec<u8>, until: u64 },
    /// It has its reply and waits for our end.
    Staying,
    /// To be closed.
    Over,
}

impl Caller {
    /// One that was just accepted, without blocking.
    pub fn new(ticket: Ticket, stream: OwnedFd, now: u64) -> Self {
        Self {
            ticket,
            stream: UnixStream::from(stream),
            stage: Stage::Asking {
                text: Vec::new(),
                until: now.saturating_add(time::nanos(PATIENCE)),
            },
            deaf: false,
            stays: false,
        }
    }

    /// What its reply is brought back by.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Whether it has said nothing yet, or not all.
    pub fn is_silent(&self) -> bool {
        matches!(self.stage, Stage::Asking { .. })
    }

    /// Whether it is to be closed.
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// When it must be looked at again (ns).
    pub fn deadline(&self) -> Option<u64> {
        match self.stage {
            Stage::Asking { until, .. } => Some(until),
            Stage::Hearing { .. } => Some(soon()),
            Stage::Waiting | Stage::Staying | Stage::Over => None,
        }
    }

    /// Root and the master's own account may ask; the mode of the file says the same, until somebody changes it.
    pub fn is_entitled(&self) -> Result<(), String> {
        let own = privilege::effective_user();
        match socket::peer_user(&self.stream) {
            Ok(user) if user == 0 || user == own => Ok(()),
            Ok(user) => Err(format!(
                "user {user} may not control this server; root and user {own} may"
            )),
            Err(error) => Err(format!("the kernel does not tell who asks: {error}")),
        }
    }

    /// Whether something to read from it is worth waking up for.
    pub fn is_heard(&self) -> bool {
        !self.deaf && matches!(self.stage, Stage::Asking { .. } | Stage::Waiting)
    }

    /// Does what can be done without waiting; gives the request once it is complete.
    pub fn go_on(&mut self, now: u64) -> Option<(Ticket, Request)> {
        match &self.stage {
            Stage::Asking { .. } => {
                let request = self.listen();
                if let Stage::Asking { until, .. } = self.stage
                    && until <= now
                {
                    self.turn_away(&format!("no request came within {PATIENCE:?}"));
                }
                return request.map(|request| (self.ticket, request));
            }
            Stage::Waiting if !self.deaf => self.look_after(),
            Stage::Hearing { until, .. } => {
                let late = *until <= now;
                self.send();
                if late && matches!(self.stage, Stage::Hearing { .. }) {
                    self.stage = Stage::Over;
                }
            }
            Stage::Waiting | Stage::Staying | Stage::Over => {}
        }
        None
    }

    /// Reads on until the line is complete.
    fn listen(&mut self) -> Option<Request> {
        let Stage::Asking { text, .. } = &mut self.stage else {
            return None;
        };
        let mut buffer = [0; 1024];
        let line = loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.deaf = true;
                    if text.is_empty() {
                        self.stage = Stage::Over;
                        return None;
                    }
                    break std::mem::take(text);
                }
                Ok(count) => text.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.stage = Stage::Over;
                    return None;
                }
            }
            match text.iter().position(|byte| *byte == b'\n') {
                Some(end) if end < LONGEST => {
                    text.truncate(end);
                    break std::mem::take(text);
                }
                _ if text.len() >= LONGEST => {
                    self.turn_away(&format!("a request has at most {LONGEST} bytes, on one line"));
                    return None;
                }
                _ => {}
            }
        };
        match Request::read(&line) {
            Ok(request) => {
                self.stays = request == Request::Stop;
                self.stage = Stage::Waiting;
                Some(request)
            }
            Err(reason) => {
                self.turn_away(&reason);
                None
            }
        }
    }

    /// One that waits has nothing more to say; what is heard is its end, or the end of its half.
    fn look_after(&mut self) {
        match self.stream.read(&mut [0; 1024]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Ok(0) if !socket::is_gone(&self.stream) => self.deaf = true,
            Ok(0) | Err(_) => self.stage = Stage::Over,
            Ok(_) => self.deaf = true,
        }
    }

    /// Refuses whatever it wants.
    pub fn turn_away(&mut self, reason: &str) {
        self.hear(&Reply::refused(reason));
    }

    /// Begins to send a reply.
    pub fn hear(&mut self, reply: &Reply) {
        self.stays &= reply.outcome == Outcome::Done;
        let line = Reply {
            master_pid: i32::try_from(std::process::id()).ok(),
            ..reply.clone()
        }
        .line();
        self.stage = Stage::Hearing {
            rest: line.into_bytes(),
            until: time::monotonic_ns().saturating_add(time::nanos(PATIENCE)),
        };
        self.send();
    }

    /// Sends what there is room for.
    fn send(&mut self) {
        let Stage::Hearing { rest, .. } = &mut self.stage else {
            return;
        };
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(count) => drop(rest.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.stage = Stage::Over;
                    return;
                }
            }
        }
        self.stage = if self.stays { Stage::Staying } else { Stage::Over };
    }
}

/// The moment of the next try of what found no room.
pub fn soon() -> u64 {
    time::monotonic_ns().saturating_add(time::nanos(RETRY))
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
