//! What hyper makes of a body that was followed to its end: the guard finds where it ends, hyper decodes it, and the two
//! have to mean the same bytes.
//!
//! Takes a chunked body and the places to cut it at; gives its data and its trailers as hyper hands them to a service.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};

use super::grammar::Pair;

/// As the guard shows a request to hyper.
const HEAD: &[u8] = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";

/// What a service was given: data, trailers, and whether that was all of the body.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    pub data: Vec<u8>,
    pub trailers: Vec<Pair>,
    pub whole: bool,
}

/// `body` as hyper decodes it when it comes in pieces that end so.
pub fn by_hyper(body: &[u8], ends: &[usize]) -> Decoded {
    let decoded = Rc::new(RefCell::new(Decoded::default()));
    let service = service_fn(|request: Request<Incoming>| {
        let decoded = decoded.clone();
        async move {
            let mut body = request.into_body();
            let mut whole = true;
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                let mut decoded = decoded.borrow_mut();
                match frame.map(Frame::into_data) {
                    Ok(Ok(data)) => decoded.data.extend_from_slice(&data),
                    Ok(Err(frame)) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        let owned = trailers
                            .iter()
                            .map(|(name, value)| (name.as_str().into(), value.as_bytes().into()));
                        decoded.trailers.extend(owned);
                    }
                    Err(_) => whole = false,
                }
            }
            decoded.borrow_mut().whole = whole;
            Ok::<_, Infallible>(Response::new(Nothing))
        }
    });
    let mut pieces = vec![HEAD];
    let mut begin = 0;
    for end in ends {
        pieces.push(&body[begin..*end]);
        begin = *end;
    }
    let pieces: Vec<Vec<u8>> = pieces.iter().rev().map(|piece| piece.to_vec()).collect();
    let mut connection = pin!(http1::Builder::new().serve_connection(Memory(pieces), service));
    let mut cx = Context::from_waker(Waker::noop());
    // It waits for nothing but itself, and yields now and then.
    for _ in 0..100 + ends.len() {
        if connection.as_mut().poll(&mut cx).is_ready() || decoded.borrow().whole {
            break;
        }
    }
    decoded.take()
}

/// A connection in memory: the pieces that come, the last first; what is sent is nobody's concern.
struct Memory(Vec<Vec<u8>>);

impl Read for Memory {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut cursor: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.0.pop() else {
            return Poll::Pending;
        };
        let rest = piece.split_off(piece.len().min(cursor.remaining()));
        cursor.put_slice(&piece);
        if !rest.is_empty() {
            self.0.push(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, sent: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(sent.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The body of an answer.
struct Nothing;

impl Body for Nothing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }
}
