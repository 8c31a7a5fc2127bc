//! What leaves on a guarded connection: interim responses first, then what hyper has, with files by sendfile(2).
//!
//! Takes hyper's slices, gives the socket its bytes; pieces of the phantom block stand for files. When everything has left it says that
//! an exchange is over. It reads nothing.
#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use appserver_handler::abi;
use bytes::{Buf, BytesMut};
use hyper::rt::Write;
use tokio::task::coop::has_budget_remaining;

use super::guard::Guard;
use super::ledger::{Phase, SentFile};
use super::pace::Pace;
use super::phantom;
use crate::scoreboard::Timeout;
use crate::sys::time;

/// The largest buffer that an idle connection keeps.
const IDLE: usize = 16 * 1024;

impl Guard {
    /// Sends interim responses; they go before anything hyper has to send.
    pub(super) fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut queue = self.ledger.interim.borrow_mut();
        while let Some(front) = queue.front_mut() {
            let sent = ready!(self.socket.poll_write(cx, &[IoSlice::new(front)]))?;
            front.advance(sent);
            if front.is_empty() {
                queue.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the part of a file that a slice of phantom bytes stands for.
    fn poll_file(&mut self, cx: &mut Context<'_>, count: usize) -> Poll<io::Result<usize>> {
        let mut files = self.ledger.files.borrow_mut();
        let Some(SentFile { file, offset, left }) = files.front_mut() else {
            return Poll::Ready(Err(io::Error::other("phantom bytes without a file")));
        };
        let count = count.min(usize::try_from(*left).unwrap_or(usize::MAX));
        let sent = ready!(self.socket.poll_send_file(cx, file.fd(), *offset, count))?;
        if sent == 0 {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was sent",
            )));
        }
        *offset += sent as u64;
        *left -= sent as u64;
        if *left == 0 {
            files.pop_front();
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let first = slices.iter().position(|slice| !slice.is_empty()).unwrap_or(0);
        let slices = &slices[first..];
        let real = slices
            .iter()
            .position(|slice| phantom::is(slice))
            .unwrap_or(slices.len());
        match slices.first() {
            None => Poll::Ready(Ok(0)),
            Some(file) if real == 0 => self.poll_file(cx, file.len()),
            Some(_) => self.socket.poll_write(cx, &slices[..real]),
        }
    }

    /// Everything there was to send has left: an answer may be complete.
    pub(super) fn flushed(&mut self) {
        if self.ledger.chunk_out.replace(false) {
            self.ledger.wake();
        }
        if self.ledger.answered.get() && self.ledger.is_busy() {
            self.ledger.answered.set(false);
            self.writing = Pace::default();
            // What a faulty handler announced and did not send must not go out as part of the next response.
            self.ledger.files.borrow_mut().clear();
            let now = time::monotonic_ns();
            let record = self.ledger.record.borrow_mut().take();
            if let Some(record) = record {
                self.gate.finished(&self.ledger, record, now);
            }
            if self.buf.is_empty() && self.buf.capacity() > IDLE {
                // An upload's buffer is not for an idle connection to keep.
                self.buf = BytesMut::new();
            }
            self.rest();
            self.ledger
                .bound_from(now, Phase::Idle, self.settings().timeouts.keep_alive);
        }
    }
}

impl Write for Guard {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let guard = self.get_mut();
        let sent = guard.poll_send(cx, slices);
        let over = guard.ledger.expired.get() == Some(Phase::Write);
        if over && (sent.is_ready() || has_budget_remaining()) {
            guard.ledger.expired.set(None);
        }
        match &sent {
            // Only now: a client that has made room meanwhile has read.
            Poll::Pending if over && has_budget_remaining() && !guard.has_read() => {
                guard.gate.expired(&guard.ledger, Timeout::Write);
                // Of what lies in the kernel's buffers nothing will be read either.
                guard.ledger.reset.set(true);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            Poll::Pending => guard.wait_for_room(),
            Poll::Ready(Ok(count)) if guard.writing.waits() => guard.room_came(*count),
            Poll::Ready(Err(_)) => guard.ledger.set_client(abi::STATE_GONE),
            _ => {}
        }
        sent
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        ready!(guard.poll_interim(cx))?;
        guard.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection is taken back from hyper and closed by `poll_close`.
        Poll::Ready(Ok(()))
    }
}
