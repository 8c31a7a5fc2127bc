//! A request body on its way to the handler: a bounded queue with an end that may be an error.
//!
//! Takes pieces from the protocol, gives bytes to `input_read` and `input_poll`. A body that was cut short ends in an error, never in
//! an end of input. It does not wait or wake by itself: the call that owns it does.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::task::Waker;

use appserver_handler::abi::{E_GONE, Status};
use bytes::{Buf, Bytes};

use crate::handler::call::Waking;

/// Bytes that may wait here before the client is no longer read from.
pub const WINDOW: usize = 64 * 1024;

/// The body's queue.
#[derive(Default)]
pub struct Input {
    queue: VecDeque<Bytes>,
    buffered: usize,
    end: Option<Result<(), Status>>,
    /// The handler asked for input, so a waiting client may be told to go on (`Expect: 100-continue`).
    pub wanted: bool,
    /// The protocol's side, when it waits for room or for the first want.
    pub pump: Option<Waker>,
    /// The handler's side, when it waits for bytes.
    pub waiting: Option<Waking>,
}

impl Input {
    /// A body that is here as a whole.
    pub fn whole(bytes: Bytes) -> Self {
        let mut input = Self::default();
        input.push(bytes);
        input.end = Some(Ok(()));
        input
    }

    /// The first bytes of a body that goes on.
    pub fn begun(bytes: Bytes) -> Self {
        let mut input = Self::default();
        input.push(bytes);
        input
    }

    /// Appends a piece.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() && self.end.is_none() {
            self.buffered += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    /// Ends the body; the first end counts.
    pub fn finish(&mut self, outcome: Result<(), Status>) {
        self.end.get_or_insert(outcome);
    }

    /// Ends the body for a call that is over: nothing more can be read.
    pub fn discard(&mut self) {
        self.queue.clear();
        self.buffered = 0;
        self.end = Some(Err(E_GONE));
    }

    /// Whether the protocol may push another piece.
    pub fn has_room(&self) -> bool {
        self.buffered < WINDOW
    }

    /// Whether all of it was read and it ended well.
    pub fn ended(&self) -> bool {
        self.queue.is_empty() && matches!(self.end, Some(Ok(())))
    }

    /// Moves bytes into `buf`: how many, 0 at the end; `None` while there are none.
    pub fn take(&mut self, buf: &mut [u8]) -> Option<Result<usize, Status>> {
        let mut taken = 0;
        while taken < buf.len() {
            let Some(front) = self.queue.front_mut() else { break };
            let n = front.len().min(buf.len() - taken);
            buf[taken..taken + n].copy_from_slice(&front[..n]);
            front.advance(n);
            if front.is_empty() {
                self.queue.pop_front();
            }
            taken += n;
        }
        self.buffered -= taken;
        match (taken, self.end) {
            (0, None) => None,
            (0, Some(end)) => Some(end.map(|()| 0)),
            (n, _) => Some(Ok(n)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_and_the_end_after_them() {
        let mut input = Input::default();
        let mut buf = [0u8; 4];
        assert_eq!(input.take(&mut buf), None);
        input.push(Bytes::from_static(b"abc"));
        input.push(Bytes::from_static(b"def"));
        assert_eq!(input.take(&mut buf), Some(Ok(4)));
        assert_eq!(&buf, b"abcd");
        input.finish(Ok(()));
        assert_eq!(input.take(&mut buf), Some(Ok(2)));
        assert_eq!(input.take(&mut buf), Some(Ok(0)));
    }

    #[test]
    fn a_cut_body_ends_in_its_error_after_what_came() {
        let mut input = Input::default();
        input.push(Bytes::from_static(b"ab"));
        input.finish(Err(-3));
        input.finish(Ok(()));
        let mut buf = [0u8; 8];
        assert_eq!(input.take(&mut buf), Some(Ok(2)));
        assert_eq!(input.take(&mut buf), Some(Err(-3)));
    }
}
