//! The life of one connection: hyper over the guard, one timer, then a close that loses nothing.
//!
//! Takes a socket and a service; returns when the connection is closed. It reads nothing itself.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use appserver_handler::abi;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::guard::Guard;
use super::leaving::Leave;
use super::ledger::{Ledger, Outcome};
use super::socket::Socket;
use super::{Gate, Service, tunnel};
use crate::handover::Passing;

/// Between two tries to hand a connection over.
const RETRY: Duration = Duration::from_millis(5);
/// A deadline that is noticed so late was not watched: this process was stopped, or its machine. Whoever is waited for could
/// not show that they were in time, and gets as much again.
pub const ASLEEP: Duration = Duration::from_millis(100);

/// Serves a connection to its end, or until it is another worker's.
pub async fn serve<S: Service>(socket: Socket, passing: Passing, ledger: Rc<Ledger>, service: Rc<S>) {
    let gate: Rc<dyn Gate> = service.clone();
    let guard = Guard::new(socket, passing, ledger.clone(), gate.clone());
    let guard = Rc::new(RefCell::new(guard));
    let mut timer = pin!(sleep_until(Instant::now()));
    loop {
        converse(&guard, &ledger, service.clone(), timer.as_mut()).await;
        let leave = guard.borrow().leave;
        match leave {
            None => break,
            // The last hold on the socket goes with the guard; to the client nothing happens.
            Some(Leave::Taken) => return,
            Some(Leave::HandOver) if hand_over(&guard, &ledger, &*gate).await => return,
            // A request may lie in its buffer: it is served here and told of the end.
            Some(Leave::HandOver) => guard.borrow_mut().stay(),
        }
    }
    // Whatever hyper ended it for, from here on it is nobody else's.
    guard.borrow_mut().set_idle(false);
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

/// Gives the connection to whoever takes it; false when it has to be ended here.
async fn hand_over(guard: &Rc<RefCell<Guard>>, ledger: &Ledger, gate: &dyn Gate) -> bool {
    let passing = guard.borrow().passing();
    while gate.hands_over(ledger) {
        let given = gate.give(guard.borrow().socket.as_fd(), &passing);
        match given {
            Ok(()) => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(RETRY).await,
            Err(error) => {
                tracing::warn!("an idle connection is closed, for it cannot be handed over: {error}");
                return false;
            }
        }
    }
    false
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
            if ledger.upgrade.borrow().is_some() || ledger.over.get() {
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
            && let Some(late) = std::time::Instant::now().checked_duration_since(due)
        {
            // Once: a thread that is always late must not wait for ever.
            if late >= ASLEEP && ledger.extra.get() != Some(due) {
                ledger.bound(phase, ASLEEP);
                ledger.extra.set(ledger.deadline.get().map(|(due, _)| due));
                continue;
            }
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

#[cfg(test)]
mod tests {
    use std::time::Instant as Moment;

    use tokio::runtime::Builder;

    use super::super::ledger::Phase;
    use super::*;

    #[test]
    fn a_deadline_that_nobody_watched_is_put_off_once() {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let ledger = Ledger::default();
            let passed = async || {
                let mut timer = pin!(sleep_until(Instant::now()));
                poll_fn(|cx| Poll::Ready(poll_deadline(&ledger, timer.as_mut(), cx))).await
            };
            let past = Moment::now() - ASLEEP * 2;
            ledger.deadline.set(Some((past, Phase::Write)));
            assert!(!passed().await);
            assert!(ledger.deadline.get().is_some_and(|(due, _)| due > past));
            // The extra time was slept through as well.
            ledger.deadline.set(Some((past, Phase::Write)));
            ledger.extra.set(Some(past));
            assert!(passed().await);
            assert_eq!(ledger.expired.get(), Some(Phase::Write));
        });
    }
}
