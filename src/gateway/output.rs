//! A response body on its way to the client: what was written, and where the rest comes from.
//!
//! Takes bytes of `write`, a buffer, an iterator or a file; gives pieces to the protocol. It neither waits nor wakes: the call does.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use bytes::Bytes;

use crate::handler::call::{Chunks, FileRange, Waking};

/// Bytes that may wait here before a writer has to.
pub const WINDOW: usize = 256 * 1024;

/// Pieces that wait for the client.
#[derive(Default)]
pub struct Output {
    queue: VecDeque<Bytes>,
    queued: usize,
    /// The handler's side, when it waits for room.
    pub waiting: Option<Waking>,
}

impl Output {
    /// Appends a piece.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queued += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    /// The next piece.
    pub fn pop(&mut self) -> Option<Bytes> {
        let bytes = self.queue.pop_front()?;
        self.queued -= bytes.len();
        Some(bytes)
    }

    /// Bytes that fit before the writer has to wait.
    pub fn room(&self) -> usize {
        WINDOW.saturating_sub(self.queued)
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What waits, to be thrown away outside of any lock: dropping it may run the handler's own code.
    pub fn take_all(&mut self) -> VecDeque<Bytes> {
        self.queued = 0;
        std::mem::take(&mut self.queue)
    }
}

/// Where the rest of a body comes from.
#[derive(Default)]
pub enum Source {
    /// From `write` alone.
    #[default]
    Written,
    /// One buffer.
    Bytes(Bytes),
    /// A file.
    File(FileRange),
    /// An iterator that may be asked.
    Idle(Chunks),
    /// An iterator that is being asked, on some thread; whether it was woken meanwhile.
    Asked {
        /// Its wake came before its answer.
        woken: bool,
    },
    /// An iterator that said it would wake us.
    Waiting(Chunks),
    /// Nothing more.
    Ended,
}

impl Source {
    /// Whether one of the `body_*` functions was used.
    pub fn is_set(&self) -> bool {
        !matches!(self, Source::Written)
    }
}
