//! The life of one connection: hyper over the guard, one timer, then a close that loses nothing.
//!
//! Takes a socket and a service; returns when the connection is closed. It reads nothing itself.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use appserver_handler::abi;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use tokio::time::{Instant, Sleep, sleep_until};

use super::guard::Guard;
use super::ledger::{Ledger, Outcome};
use super::socket::Socket;
use super::{Gate, Service, tunnel};

/// Serves a connection to its end.
pub async fn serve<S: Service>(socket: Socket, ledger: Rc<Ledger>, service: Rc<S>) {
    let gate: Rc<dyn Gate> = service.clone();
    let guard = Rc::new(RefCell::new(Guard::new(socket, ledger.clone(), gate.clone())));
    let mut timer = pin!(sleep_until(Instant::now()));
    converse(&guard, &ledger, service, timer.as_mut()).await;
    let upgrade = ledger.upgrade.borrow_mut().take();
    if let Some((head, call)) = upgrade {
        let (sent, finished) = tunnel::run(&guard, &ledger, &*gate, head, &call, timer.as_mut()).await;
        let record = ledger.record.borrow_mut().take();
        if let Some(mut record) = record {
            record.bytes = sent;
            record.outcome = if finished { Outcome::Ok } else { Outcome::Aborted };
            gate.finished(&ledger, record, std::time::Instant::now());
        }
    }
    abandon(&ledger, &*gate);
    ledger.expired.set(None);
    ledger.deadline.set(None);
    poll_fn(|cx| {
        ledger.attend(cx);
        loop {
            if guard.borrow_mut().poll_close(cx).is_ready() {
                return Poll::Ready(());
            }
            if !poll_deadline(&ledger, timer.as_mut(), cx) {
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// HTTP, until either side ends it or it is turned over to a raw stream.
async fn converse<S: Service>(
    guard: &Rc<RefCell<Guard>>,
    ledger: &Rc<Ledger>,
    service: Rc<S>,
    mut timer: Pin<&mut Sleep>,
) {
    let front = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let (service, ledger) = (service.clone(), ledger.clone());
        async move { Ok::<_, Infallible>(service.serve(ledger, request.into_body()).await) }
    });
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None);
    let mut http = pin!(builder.serve_connection(Handle(guard.clone()), front));
    poll_fn(|cx| {
        ledger.attend(cx);
        loop {
            if let Poll::Ready(outcome) = http.as_mut().poll(cx) {
                if let Err(error) = outcome {
                    tracing::debug!(remote = ledger.peer.remote_addr, "connection ended: {error}");
                }
                return Poll::Ready(());
            }
            if ledger.upgrade.borrow().is_some() {
                return Poll::Ready(());
            }
            if !poll_deadline(ledger, timer.as_mut(), cx) {
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// Arms the timer for the deadline in force; true when that has passed, and `expired` says whose it was.
///
/// The timer is never moved to a later time: it fires early and is armed anew then, so that a request costs no timer.
pub(super) fn poll_deadline(ledger: &Ledger, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> bool {
    loop {
        let Some((at, _)) = ledger.deadline.get() else {
            return false;
        };
        let at = Instant::from_std(at);
        if timer.is_elapsed() || timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        if let Some((due, phase)) = ledger.deadline.get()
            && Instant::from_std(due) <= Instant::now()
        {
            ledger.deadline.set(None);
            ledger.expired.set(Some(phase));
            return true;
        }
    }
}

/// Accounts for an exchange that the connection did not live to finish.
pub fn abandon(ledger: &Ledger, gate: &dyn Gate) {
    ledger.set_client(abi::STATE_GONE);
    let record = ledger.record.borrow_mut().take();
    if let Some(mut record) = record {
        if record.outcome == Outcome::Ok {
            record.outcome = Outcome::Aborted;
        }
        gate.finished(ledger, record, std::time::Instant::now());
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
