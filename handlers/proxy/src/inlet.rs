//! The body of a request on its way to the origin.
//!
//! Takes what the server has of it, as hyper asks; gives frames, and the trailers at its end, and tells how far it is. It holds one piece at a
//! time: a slow origin holds the client back.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use appserver_handler::{Environ, Input};
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{HeaderName, HeaderValue};
use tokio::time::Instant;

/// Bytes of a piece.
const PIECE: usize = 32 * 1024;

/// How far the body is, for whoever waits for the answer to it.
pub struct Upload {
    whose: Cell<Turn>,
    /// When it last went on.
    moved: Cell<Instant>,
    spoilt: Cell<Option<io::ErrorKind>>,
}

/// Who has to do something next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nobody: all of it has been handed on.
    Over,
    /// The client: the server bounds how long it may take (`timeouts.body`).
    Client,
    /// The origin.
    Origin,
}

impl Upload {
    pub fn new() -> Self {
        Self {
            whose: Cell::new(Turn::Over),
            moved: Cell::new(Instant::now()),
            spoilt: Cell::new(None),
        }
    }

    /// Whether all of it has been handed on.
    pub fn is_over(&self) -> bool {
        self.whose.get() == Turn::Over
    }

    /// What the client did wrong, if it did.
    pub fn spoilt(&self) -> Option<io::ErrorKind> {
        self.spoilt.get()
    }

    /// Until when an origin that was last heard of at `heard` may be silent: it need not answer what it does not have yet.
    pub fn deadline(&self, heard: Instant, patience: Duration) -> Instant {
        let from = match self.whose.get() {
            Turn::Client => Instant::now(),
            Turn::Over | Turn::Origin => heard.max(self.moved.get()),
        };
        from + patience
    }

    fn goes_on(&self, whose: Turn) {
        self.whose.set(whose);
        self.moved.set(Instant::now());
    }
}

/// See the module.
pub struct Inlet(Option<Open>);

struct Open {
    environ: Rc<Environ>,
    upload: Rc<Upload>,
    input: Input,
    buffer: Vec<u8>,
    /// Bytes that are still to come, where that was told.
    left: Option<u64>,
}

impl Inlet {
    /// The body of a request, if it has one; `upload` is told how far it is.
    pub fn of(environ: &Rc<Environ>, upload: &Rc<Upload>) -> Self {
        let length = environ
            .header("content-length")
            .and_then(|value| str::from_utf8(value).ok()?.parse().ok());
        let has_body = length.is_some_and(|length: u64| length > 0) || environ.header("transfer-encoding").is_some();
        upload.goes_on(if has_body { Turn::Origin } else { Turn::Over });
        Self(has_body.then(|| Open {
            environ: environ.clone(),
            upload: upload.clone(),
            input: environ.input(),
            buffer: vec![0; PIECE],
            left: length,
        }))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Body for Inlet {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(open) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let Poll::Ready(read) = open.input.poll_read(cx, &mut open.buffer) else {
            open.upload.whose.set(Turn::Client);
            return Poll::Pending;
        };
        let frame = match read {
            Ok(0) => trailers(&open.environ).map(|trailers| Ok(Frame::trailers(trailers))),
            Ok(count) => {
                if let Some(left) = &mut open.left {
                    *left = left.saturating_sub(count as u64);
                }
                let over = open.left == Some(0);
                open.upload.goes_on(if over { Turn::Over } else { Turn::Origin });
                return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&open.buffer[..count])))));
            }
            Err(error) => {
                open.upload.spoilt.set(Some(error.kind()));
                Some(Err(error))
            }
        };
        open.upload.goes_on(Turn::Over);
        self.0 = None;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|open| open.left == Some(0))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            None => SizeHint::with_exact(0),
            Some(Open { left: Some(left), .. }) => SizeHint::with_exact(*left),
            Some(_) => SizeHint::default(),
        }
    }
}

fn trailers(environ: &Environ) -> Option<HeaderMap> {
    let told = environ.trailers().ok()?;
    let mut map = HeaderMap::new();
    for (name, value) in told {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    (!map.is_empty()).then_some(map)
}
