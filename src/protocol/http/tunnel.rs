//! Raw bytes both ways, after a handler answered 101 (RFC 9110 section 7.8).
//!
//! Takes the connection back from HTTP; what the client sends becomes the call's input, what the handler writes goes to the client,
//! until the handler finishes or the client is gone.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use appserver_handler::abi;
use bytes::{Buf, Bytes, BytesMut};

use super::Gate;
use super::guard::Guard;
use super::ledger::Ledger;
use super::timer::Timer;
use crate::gateway::Call;
use crate::gateway::answer::Piece;
use crate::scoreboard::Timeout;

/// Moves bytes until either side ends: how many the handler sent, and whether it finished.
pub async fn run(
    guard: &Rc<RefCell<Guard>>,
    ledger: &Ledger,
    gate: &dyn Gate,
    head: Bytes,
    call: &Arc<Call>,
    timer: &mut Timer,
) -> (u64, bool) {
    let ahead = guard.borrow_mut().take_ahead();
    call.push_input(ahead);
    let mut tunnel = Tunnel {
        guard,
        call,
        out: head,
        sent: 0,
        open: true,
        buf: BytesMut::new(),
    };
    ledger.deadline.set(None);
    let finished = poll_fn(|cx| {
        ledger.attend(cx);
        let moved = tunnel.poll(cx);
        // A client that does not read what is sent holds a call for nothing; one that is sent nothing may wait.
        while moved.is_pending() && timer.poll_deadline(ledger, cx) {
            ledger.expired.set(None);
            let mut guard = guard.borrow_mut();
            if !guard.has_read() {
                gate.expired(ledger, Timeout::Write);
                ledger.reset.set(true);
                return Poll::Ready(false);
            }
            guard.wait_for_room();
        }
        moved
    })
    .await;
    (tunnel.sent, finished)
}

struct Tunnel<'a> {
    guard: &'a Rc<RefCell<Guard>>,
    call: &'a Arc<Call>,
    out: Bytes,
    sent: u64,
    open: bool,
    buf: BytesMut,
}

impl Tunnel<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.poll_in(cx);
        self.poll_out(cx)
    }

    fn poll_in(&mut self, cx: &mut Context<'_>) {
        while self.open {
            match self.call.poll_wants_input(cx) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) => self.open = false,
                Poll::Pending => return,
            }
            self.buf.reserve(16 * 1024);
            match self.guard.borrow_mut().socket().poll_read(cx, &mut self.buf) {
                Poll::Ready(Ok(0)) => {
                    self.open = false;
                    self.call.set_client(abi::STATE_HALF_CLOSED);
                    self.call.finish_input(Ok(None));
                }
                Poll::Ready(Ok(_)) => self.call.push_input(self.buf.split().freeze()),
                Poll::Ready(Err(_)) => {
                    self.open = false;
                    self.call.set_client(abi::STATE_GONE);
                }
                Poll::Pending => return,
            }
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        // What the handler said before it switched goes first.
        match self.guard.borrow_mut().poll_interim(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(false),
            Poll::Pending => return Poll::Pending,
        }
        loop {
            while !self.out.is_empty() {
                let mut guard = self.guard.borrow_mut();
                match guard.socket().poll_write(cx, &[IoSlice::new(&self.out)]) {
                    Poll::Ready(Ok(sent)) => {
                        self.out.advance(sent);
                        if guard.writing.waits() {
                            guard.room_came(sent);
                        }
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending => {
                        guard.wait_for_room();
                        return Poll::Pending;
                    }
                }
            }
            match self.call.poll_output(cx) {
                Poll::Ready(Piece::Bytes(bytes)) => {
                    self.sent += bytes.len() as u64;
                    self.out = bytes;
                }
                Poll::Ready(Piece::End(_)) => return Poll::Ready(true),
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending if self.call.is_gone() => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
