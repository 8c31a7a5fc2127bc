//! The life of one connection: requests one by one, by the short way or by hyper, then a raw stream or a close that loses nothing.
//!
//! Takes a socket and a service; returns when the connection is closed. It reads nothing itself.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use appserver_handler::abi;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use tokio::time::sleep;

use super::direct::Turn;
use super::guard::Guard;
use super::leaving::Leave;
use super::ledger::{Ledger, Outcome};
use super::reply::Reply;
use super::socket::Socket;
use super::timer::Timer;
use super::upload::Upload;
use super::{Gate, Service, direct, tunnel};
use crate::handover::Passing;
use crate::sys::time;

/// Between the first two tries to hand a connection over; the pauses double up to the second, for hundreds may be trying.
const RETRY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// What came of a connection that was to be handed over.
enum Handed {
    /// It is another worker's.
    Over,
    /// Not yet, and its client has sent something.
    Detained,
    /// It has to be ended here.
    Refused,
}

/// Serves a connection to its end, or until it is another worker's.
pub async fn serve<S: Service>(socket: Socket, passing: Passing, ledger: Rc<Ledger>, service: Rc<S>) {
    let gate: Rc<dyn Gate> = service.clone();
    let guard = Guard::new(socket, passing, ledger.clone(), gate.clone());
    let guard = Rc::new(RefCell::new(guard));
    let mut timer = Timer::default();
    loop {
        // hyper has the requests whose body or answer streams, one at a time.
        if let Turn::Hyper(answer) = direct::converse(&guard, &ledger, &service, &mut timer).await {
            // Far larger than all the rest of a connection, and most never come here.
            Box::pin(converse(&guard, &ledger, service.clone(), answer, &mut timer)).await;
            if guard.borrow().is_settled() || leave_body(&guard, &ledger, &mut timer).await {
                continue;
            }
        }
        let leave = guard.borrow().leave;
        match leave {
            None => break,
            // The last hold on the socket goes with the guard; to the client nothing happens.
            Some(Leave::Taken) => return,
            Some(Leave::HandOver) => match hand_over(&guard, &ledger, &*gate).await {
                Handed::Over => return,
                Handed::Detained => guard.borrow_mut().detain(),
                // A request may lie in its buffer: it is served here and told of the end.
                Handed::Refused => guard.borrow_mut().stay(),
            },
        }
    }
    // Whatever hyper ended it for, from here on it is nobody else's.
    guard.borrow_mut().set_idle(false);
    let upgrade = ledger.upgrade.borrow_mut().take();
    if let Some((head, call)) = upgrade {
        let (sent, finished) = Box::pin(tunnel::run(&guard, &ledger, &*gate, head, &call, &mut timer)).await;
        let record = ledger.record.borrow_mut().take();
        if let Some(mut record) = record {
            record.bytes = sent;
            record.outcome = if finished { Outcome::Ok } else { Outcome::Aborted };
            gate.finished(&ledger, record, time::monotonic_ns());
        }
    }
    abandon(&ledger, &*gate);
    ledger.expired.set(None);
    ledger.deadline.set(None);
    poll_fn(|cx| timer.poll_bounded(&ledger, cx, |cx| guard.borrow_mut().poll_close(cx))).await;
}

/// Reads what is left of the body of a request whose handler has answered without it: the answer did not say that the connection
/// closes, so the next request is waited for. False when there is none left, or no end of it.
async fn leave_body(guard: &Rc<RefCell<Guard>>, ledger: &Ledger, timer: &mut Timer) -> bool {
    if ledger.is_busy() || guard.borrow().is_last() {
        return false;
    }
    poll_fn(|cx| timer.poll_bounded(ledger, cx, |cx| guard.borrow_mut().poll_discard(cx))).await
}

/// Gives the connection to whoever takes it.
async fn hand_over(guard: &Rc<RefCell<Guard>>, ledger: &Ledger, gate: &dyn Gate) -> Handed {
    let passing = guard.borrow().passing();
    let mut pause = RETRY.0;
    while gate.hands_over(ledger) {
        let given = gate.give(guard.borrow().socket.as_fd(), &passing);
        match given {
            Ok(()) => return Handed::Over,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut pausing = pin!(sleep(pause));
                let sent = poll_fn(|cx| match pausing.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(false),
                    Poll::Pending => guard.borrow().socket.poll_readable(cx).map(|()| true),
                });
                if sent.await {
                    return Handed::Detained;
                }
                pause = (pause * 2).min(RETRY.1);
            }
            Err(error) => {
                tracing::warn!("an idle connection is closed, for it cannot be handed over: {error}");
                return Handed::Refused;
            }
        }
    }
    Handed::Refused
}

/// One request by hyper, until its answer has left, either side ends it, or it is turned over to a raw stream. `answer` is there already
/// where only its body streams.
async fn converse<S: Service>(
    guard: &Rc<RefCell<Guard>>,
    ledger: &Rc<Ledger>,
    service: Rc<S>,
    answer: Option<Reply>,
    timer: &mut Timer,
) {
    let answer = RefCell::new(answer);
    let front = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let (service, ledger, answer) = (service.clone(), ledger.clone(), answer.take());
        async move {
            let answer = match answer {
                Some(answer) => answer,
                None => service.serve(ledger, Upload::Coming(request.into_body())).await,
            };
            Ok::<_, Infallible>(answer.into_response())
        }
    });
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None);
    let mut http = pin!(builder.serve_connection(Handle(guard.clone()), front));
    let mut poll = |cx: &mut Context<'_>| {
        if let Poll::Ready(outcome) = http.as_mut().poll(cx) {
            if let Err(error) = outcome {
                tracing::debug!(remote = ledger.peer().remote_addr, "connection ended: {error}");
            }
            return Poll::Ready(());
        }
        if guard.borrow().is_settled() || ledger.upgrade.borrow().is_some() || ledger.over.get() {
            return Poll::Ready(());
        }
        Poll::Pending
    };
    poll_fn(|cx| timer.poll_bounded(ledger, cx, &mut poll)).await;
}

/// Accounts for an exchange that the connection did not live to finish.
pub fn abandon(ledger: &Ledger, gate: &dyn Gate) {
    ledger.set_client(abi::STATE_GONE);
    let record = ledger.record.borrow_mut().take();
    if let Some(mut record) = record {
        if record.outcome == Outcome::Ok {
            record.outcome = Outcome::Aborted;
        }
        gate.finished(ledger, record, time::monotonic_ns());
    }
}

/// The guard as hyper holds it; the connection keeps the other end, to close it in its own way.
struct Handle(Rc<RefCell<Guard>>);

impl Read for Handle {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buf)
    }
}

impl Write for Handle {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}
