//! The buffers that idle connections do without.
//!
//! Takes the empty buffer of a connection that waits for a request, gives it to the next that has something to read: a thread needs as
//! many as it has connections in the middle of a head, and no more. What is in a buffer is not its business.
#![forbid(unsafe_code)]

use std::cell::Cell;

use bytes::BytesMut;

use super::guard::{CHUNK, Guard};

thread_local! {
    /// One is enough: a connection that is read gives it back before the next is, unless its request is not whole.
    static SPARE: Cell<BytesMut> = Cell::default();
}

impl Guard {
    /// Room for what comes next.
    pub(super) fn make_room(&mut self) {
        if self.buf.capacity() == 0 {
            // At the end of the thread there is none.
            self.buf = SPARE.try_with(Cell::take).unwrap_or_default();
            if self.buf.capacity() >= CHUNK / 4 {
                return;
            }
        }
        self.buf.reserve(CHUNK / 2);
    }

    /// It waits, and nothing of the next request is here.
    pub(super) fn put_by(&mut self) {
        let buf = std::mem::take(&mut self.buf);
        if buf.capacity() <= CHUNK {
            let _ = SPARE.try_with(|spare| spare.set(buf));
        }
    }
}
