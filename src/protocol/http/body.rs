//! The body of an answer, as hyper takes it.
//!
//! Takes pieces from a call's output and gives frames; it holds the handler to the Content-Length it declared and never lets more
//! out. A file goes as phantom bytes, which the guard sends with sendfile(2). It never waits for a client: hyper asks when there is room.
#![forbid(unsafe_code)]

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use appserver_handler::abi;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::ledger::{Ledger, Outcome, Phase, SentFile};
use super::{Gate, phantom};
use crate::gateway::Call;
use crate::gateway::answer::Piece;
use crate::gateway::request::Version;
use crate::scoreboard::Timeout;

/// See the module.
pub struct ResponseBody {
    kind: Kind,
    ledger: Rc<Ledger>,
}

enum Kind {
    Empty,
    Full(Bytes),
    File { left: u64 },
    Stream(Stream),
}

struct Stream {
    call: Arc<Call>,
    gate: Rc<dyn Gate>,
    /// Bytes of the declared Content-Length that have not come yet.
    left: Option<u64>,
    /// Bytes of a file that have not been handed over yet.
    file: u64,
    ended: bool,
    /// Hyper was given something to send after the head.
    begun: bool,
    /// It cannot go on.
    broken: bool,
    /// There was more than the declared length.
    overlong: bool,
}

/// The handler broke off: hyper must cut the connection.
#[derive(Debug)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the handler did not finish its response")
    }
}

impl std::error::Error for Broken {}

impl ResponseBody {
    /// Nothing.
    pub fn empty(ledger: Rc<Ledger>) -> Self {
        Self {
            kind: Kind::Empty,
            ledger,
        }
    }

    /// One buffer.
    pub fn full(bytes: Bytes, ledger: Rc<Ledger>) -> Self {
        let kind = if bytes.is_empty() {
            Kind::Empty
        } else {
            Kind::Full(bytes)
        };
        Self { kind, ledger }
    }

    /// A range of a file.
    pub fn file(file: SentFile, ledger: Rc<Ledger>) -> Self {
        let left = file.left;
        if left == 0 {
            return Self::empty(ledger);
        }
        ledger.files.borrow_mut().push_back(file);
        Self {
            kind: Kind::File { left },
            ledger,
        }
    }

    /// Whether the handler has nothing more to say.
    pub fn is_whole(&self) -> bool {
        !matches!(self.kind, Kind::Stream(_))
    }

    /// The next bytes of a whole body, those that stand for a file among them (see [`phantom`]); none at its end.
    pub fn take(&mut self) -> Bytes {
        let bytes = match &mut self.kind {
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                bytes
            }
            Kind::File { left } => {
                let piece = phantom::bytes(*left);
                *left -= piece.len() as u64;
                piece
            }
            Kind::Empty | Kind::Stream(_) => Bytes::new(),
        };
        if !bytes.is_empty() {
            self.ledger.note(|record| record.bytes += bytes.len() as u64);
        }
        bytes
    }

    /// How many bytes a whole body has; None when it has none.
    pub fn length(&self) -> Option<u64> {
        match &self.kind {
            Kind::Full(bytes) => Some(bytes.len() as u64),
            Kind::File { left } => Some(*left),
            Kind::Empty | Kind::Stream(_) => None,
        }
    }

    /// What the call's output brings; of a declared length, or open-ended.
    pub fn stream(call: Arc<Call>, declared: Option<u64>, gate: Rc<dyn Gate>, ledger: Rc<Ledger>) -> Self {
        let stream = Stream {
            call,
            gate,
            left: declared,
            file: 0,
            ended: false,
            begun: false,
            broken: false,
            overlong: false,
        };
        Self {
            kind: Kind::Stream(stream),
            ledger,
        }
    }
}

impl ResponseBody {
    /// Has the shared cache see what the client gets: all of it, or none is kept.
    fn gather(&self, frame: &Option<Result<Frame<Bytes>, Broken>>) {
        let Kind::Stream(stream) = &self.kind else { return };
        let mut gathering = self.ledger.gathering.borrow_mut();
        let Some(gathered) = gathering.as_mut() else { return };
        let goes_on = match frame {
            // A body with trailers, or with a file in it, is not kept.
            Some(Ok(frame)) => frame
                .data_ref()
                .is_some_and(|data| !phantom::is(data) && gathered.add(data.clone())),
            Some(Err(_)) => false,
            None => true,
        };
        let whole = stream.left == Some(0) || frame.is_none() && stream.ended;
        if !goes_on || stream.overlong {
            *gathering = None;
        } else if whole && let Some(gathered) = gathering.take() {
            gathered.end();
        }
    }
}

impl Stream {
    fn poll_piece(&mut self, cx: &mut Context<'_>, ledger: &Ledger) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut over = ledger.expired.get() == Some(Phase::Chunk);
        if over {
            ledger.expired.set(None);
        }
        loop {
            if self.broken {
                // What came before is to leave first, be it only the head: with nothing sent, the close would look like that of an
                // idle connection.
                if !std::mem::replace(&mut self.begun, true) {
                    ledger.chunk_out.set(true);
                }
                if ledger.chunk_out.get() {
                    return Poll::Pending;
                }
                self.cut(ledger);
                return Poll::Ready(Some(Err(Broken)));
            }
            if self.file > 0 {
                let piece = phantom::bytes(self.file);
                self.file -= piece.len() as u64;
                return Poll::Ready(self.admit(piece, ledger));
            }
            let piece = match self.call.poll_output(cx) {
                Poll::Ready(piece) => piece,
                // Only now: a chunk that is there came in time.
                Poll::Pending if over => {
                    self.call.set_client(abi::STATE_GONE);
                    self.gate.expired(ledger, Timeout::Request);
                    self.cut(ledger);
                    ledger.note(|record| record.outcome = Outcome::Timeout);
                    return Poll::Ready(Some(Err(Broken)));
                }
                Poll::Pending => {
                    // A detached response takes the time it likes; its client is watched by `write`.
                    if ledger.bounding().is_none() && !self.call.is_detached() {
                        ledger.bound(Phase::Chunk, self.gate.settings().timeouts.request);
                    }
                    return Poll::Pending;
                }
            };
            over = false;
            if ledger.bounding() == Some(Phase::Chunk) {
                ledger.deadline.set(None);
            }
            match piece {
                Piece::Bytes(bytes) => {
                    self.begun = true;
                    ledger.chunk_out.set(true);
                    return Poll::Ready(self.admit(bytes, ledger));
                }
                Piece::Ask if ledger.chunk_out.get() => {
                    // The next chunk is made when the last one has left; the guard wakes us.
                    self.call.ask_later();
                    return Poll::Pending;
                }
                Piece::Ask => self.gate.advance(&self.call),
                Piece::File(file) => match super::answer::measure(file, self.left) {
                    Ok(file) if file.left == 0 => {}
                    Ok(file) => {
                        self.file = file.left;
                        ledger.files.borrow_mut().push_back(file);
                    }
                    Err(fault) => self.break_off(&fault.0),
                },
                Piece::End(_) if self.left.is_some_and(|left| left > 0) => {
                    self.break_off("its body is shorter than its Content-Length");
                }
                Piece::End(trailers) => {
                    self.ended = true;
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Piece::Failed => self.broken = true,
            }
        }
    }

    /// Lets a piece out as far as the declared length allows.
    fn admit(&mut self, mut bytes: Bytes, ledger: &Ledger) -> Option<Result<Frame<Bytes>, Broken>> {
        if let Some(left) = &mut self.left {
            if bytes.len() as u64 > *left {
                bytes.truncate(*left as usize);
                self.call
                    .complain("its body is longer than its Content-Length; the rest was dropped");
                ledger.note(|record| record.outcome = Outcome::Fault);
                self.ended = true;
                self.overlong = true;
            } else if bytes.len() as u64 == *left {
                self.call.set_sated();
            }
            *left -= bytes.len() as u64;
        }
        Some(Ok(Frame::data(bytes)))
    }

    fn cut(&self, ledger: &Ledger) {
        ledger.note(|record| record.outcome = Outcome::Fault);
        // Without a length and without chunks the end of the connection would pass for the end of the body.
        ledger
            .reset
            .set(self.left.is_none() && self.call.request.version == Version::Http10);
    }

    fn break_off(&mut self, fault: &str) {
        self.call.complain(&format!("{fault}; the connection was cut"));
        self.broken = true;
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let body = self.get_mut();
        let frame = match &mut body.kind {
            Kind::Stream(stream) if stream.ended => None,
            Kind::Stream(stream) => ready!(stream.poll_piece(cx, &body.ledger)),
            Kind::Empty | Kind::Full(_) | Kind::File { .. } => {
                let piece = body.take();
                return Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))));
            }
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            body.ledger.note(|record| record.bytes += data.len() as u64);
        }
        body.gather(&frame);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty | Kind::File { left: 0 } => true,
            Kind::Stream(stream) => stream.ended,
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::File { left } => SizeHint::with_exact(*left),
            Kind::Stream(Stream { left: Some(left), .. }) => SizeHint::with_exact(*left),
            Kind::Stream(_) => SizeHint::default(),
        }
    }
}

impl Drop for ResponseBody {
    /// hyper has taken all it will take; what is in its buffers has still to leave (see `Guard::flushed`).
    fn drop(&mut self) {
        // What has not come to its end is not kept, and nobody waits for it any more.
        self.ledger.gathering.take();
        self.ledger.answered.set(true);
    }
}
