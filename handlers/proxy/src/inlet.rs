//! The body of a request on its way to the origin.
//!
//! Takes what the server has of it, as hyper asks; gives frames, and the trailers at its end. It holds one piece at a time: a slow origin holds
//! the client back.
#![forbid(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use appserver_handler::{Environ, Input};
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{HeaderName, HeaderValue};

/// Bytes of a piece.
const PIECE: usize = 32 * 1024;

/// See the module.
pub struct Inlet(Option<Open>);

struct Open {
    environ: Rc<Environ>,
    input: Input,
    buffer: Vec<u8>,
    /// Bytes that are still to come, where that was told.
    left: Option<u64>,
}

impl Inlet {
    /// The body of a request, if it has one.
    pub fn of(environ: &Rc<Environ>) -> Self {
        let length = environ
            .header("content-length")
            .and_then(|value| str::from_utf8(value).ok()?.parse().ok());
        let has_body = length.is_some_and(|length: u64| length > 0) || environ.header("transfer-encoding").is_some();
        Self(has_body.then(|| Open {
            environ: environ.clone(),
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
        let frame = match ready!(open.input.poll_read(cx, &mut open.buffer)) {
            Ok(0) => trailers(&open.environ).map(|trailers| Ok(Frame::trailers(trailers))),
            Ok(count) => {
                if let Some(left) = &mut open.left {
                    *left = left.saturating_sub(count as u64);
                }
                return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&open.buffer[..count])))));
            }
            Err(error) => Some(Err(error)),
        };
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
