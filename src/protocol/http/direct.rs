//! The short way of a request: its body is here, its answer is whole, and hyper is not needed.
//!
//! Takes what the guard accepted, has the service answer it and sends that; gives the connection over to hyper where a body streams in or
//! out, and back when it ends. What is a request, and what may be answered, is decided by the same checks as on hyper's way.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::rt::Write;
use tokio::task::yield_now;

use super::body::ResponseBody;
use super::guard::{Guard, Next};
use super::ledger::Ledger;
use super::reply::{self, Reply};
use super::timer::Timer;
use super::upload::Upload;
use super::{Service, phantom};

/// Requests of one client that are answered in a row, where it has sent more ahead, before others get their turn.
const IN_A_ROW: usize = 16;
/// The largest buffer for heads that a connection keeps.
const KEPT: usize = 8 * 1024;
/// A body up to this long is copied behind its head: one buffer is sent faster than two.
const COPIED: usize = 4 * 1024;

/// Whose turn it is.
pub(super) enum Turn {
    /// hyper's, for a body that streams: the request's, or that of an answer which is there already.
    Hyper(Option<Reply>),
    /// Nobody's: the connection ends, leaves, or is no longer HTTP.
    Over,
}

/// Serves requests until one has to go hyper's way, or there are no more.
pub(super) async fn converse<S: Service>(
    guard: &RefCell<Guard>,
    ledger: &Rc<Ledger>,
    service: &Rc<S>,
    timer: &mut Timer,
) -> Turn {
    let mut head = Vec::new();
    let mut in_a_row = 0;
    loop {
        let next = poll_fn(|cx| timer.poll_bounded(ledger, cx, |cx| guard.borrow_mut().poll_next(cx))).await;
        let body = match next {
            Ok(Next::Whole(body)) => body,
            Ok(Next::Streams) => return Turn::Hyper(None),
            Ok(Next::Nothing) => return Turn::Over,
            Err(error) => return broken(ledger, &error),
        };
        let mut serving = pin!(service.clone().serve(ledger.clone(), Upload::Whole(body)));
        let answer = poll_fn(|cx| {
            timer.poll_bounded(ledger, cx, |cx| match serving.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Ok(Some(answer))),
                Poll::Pending if ledger.upgrade.borrow().is_some() || ledger.over.get() => Poll::Ready(Ok(None)),
                Poll::Pending => guard.borrow_mut().poll_meanwhile(cx),
            })
        });
        let answer = match answer.await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Turn::Over,
            Err(error) => return broken(ledger, &error),
        };
        if !answer.body.is_whole() {
            guard.borrow_mut().show_whole();
            return Turn::Hyper(Some(answer));
        }
        let mut sending = Sending::new(answer, &guard.borrow(), head);
        let send = poll_fn(|cx| timer.poll_bounded(ledger, cx, |cx| sending.poll(&mut guard.borrow_mut(), cx)));
        if let Err(error) = send.await {
            return broken(ledger, &error);
        }
        head = sending.end();
        if head.capacity() > KEPT {
            head = Vec::new();
        }
        let ahead = {
            let mut guard = guard.borrow_mut();
            // By now the body is dropped, which says that all of it was taken.
            guard.flushed();
            if guard.is_last() {
                return Turn::Over;
            }
            !guard.buf.is_empty()
        };
        in_a_row = if ahead { in_a_row + 1 } else { 0 };
        if in_a_row == IN_A_ROW {
            in_a_row = 0;
            yield_now().await;
        }
    }
}

fn broken(ledger: &Ledger, error: &io::Error) -> Turn {
    tracing::debug!(remote = ledger.peer().remote_addr, "connection ended: {error}");
    Turn::Over
}

impl Guard {
    /// While an answer is made: sends interim responses, notices a client that leaves.
    fn poll_meanwhile<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = self.poll_interim(cx) {
            return Poll::Ready(Err(error));
        }
        self.watch(cx).map(|outcome| match outcome {
            Err(error) => Err(error),
            Ok(()) => unreachable!("watching ends with an error alone"),
        })
    }
}

/// An answer on its way out.
struct Sending {
    head: Vec<u8>,
    /// Bytes of the head that have left.
    sent: usize,
    piece: Bytes,
    body: ResponseBody,
}

impl Sending {
    /// Begins; `buffer` is reused.
    fn new(answer: Reply, guard: &Guard, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        reply::write(&mut buffer, &answer, guard.asked, answer.body.length());
        let Reply { fields, mut body, .. } = answer;
        fields.give_back();
        let mut piece = body.take();
        if piece.len() <= COPIED && !phantom::is(&piece) {
            buffer.extend_from_slice(&piece);
            piece = Bytes::new();
        }
        Self {
            head: buffer,
            sent: 0,
            piece,
            body,
        }
    }

    /// Sends what there is room for, until all has left.
    fn poll(&mut self, guard: &mut Guard, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.sent < self.head.len() || !self.piece.is_empty() {
                let slices = [IoSlice::new(&self.head[self.sent..]), IoSlice::new(&self.piece)];
                let full = match (slices[0].is_empty(), self.piece.is_empty()) {
                    (true, _) => &slices[1..],
                    (_, true) => &slices[..1],
                    _ => &slices[..],
                };
                let sent = ready!(Pin::new(&mut *guard).poll_write_vectored(cx, full))?;
                let of_head = sent.min(self.head.len() - self.sent);
                self.sent += of_head;
                self.piece.advance(sent - of_head);
            }
            self.piece = self.body.take();
            if self.piece.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// The answer has left; gives the buffer back.
    fn end(self) -> Vec<u8> {
        self.head
    }
}
