//! A log of entries in a ring of words: written at its head under the shard's lock, given up at its tail, read by anyone at any time.
//!
//! Takes records, gives each a position. Positions only grow, and one below the tail is void: a reader looks at the tail before it copies
//! and again after, so it needs no lock, and no writer that dies leaves anything to repair. Which entry is worth its room is decided in `shard`.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::record::{self, Draft, Entry, Shape};
use super::segment::{get, publish, put};

/// The ring. Words of a position: its remainder by the length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ring {
    words: &'static [AtomicU64],
    /// Where the next record goes.
    head: &'static AtomicU64,
    /// Positions below are void.
    tail: &'static AtomicU64,
}

/// What came of reading.
#[derive(Debug)]
pub(super) enum Read<T> {
    /// What was asked for.
    Is(T),
    /// Another record lies there.
    Other,
    /// It has been given up, and may have been overwritten while it was read.
    Gone,
}

impl Ring {
    pub fn over(words: &'static [AtomicU64], head: &'static AtomicU64, tail: &'static AtomicU64) -> Self {
        Self { words, head, tail }
    }

    /// Words it has.
    pub fn capacity(&self) -> usize {
        self.words.len()
    }

    /// Words that records take, given up ones not counted.
    pub fn used(&self) -> usize {
        // Read in this order, what the two say is never less than nothing.
        let tail = get(self.tail);
        (get(self.head).saturating_sub(tail) as usize).min(self.capacity())
    }

    /// Words that can be written before something has to be given up.
    pub fn free(&self) -> usize {
        self.capacity() - self.used()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.used() == 0
    }

    /// The position of the oldest record.
    pub fn tail(&self) -> u64 {
        get(self.tail)
    }

    fn from(&self, position: u64) -> &'static [AtomicU64] {
        &self.words[(position % self.capacity() as u64) as usize..]
    }

    fn is_void(&self, position: u64) -> bool {
        // What was read before must not be read after this.
        fence(Ordering::Acquire);
        get(self.tail) > position
    }

    /// Reads the record at `position` if it is `wanted`.
    pub fn read(&self, position: u64, wanted: impl FnOnce(&Shape, &[AtomicU64]) -> bool) -> Read<Entry> {
        match self.peek(position, |shape, words| wanted(shape, words).then_some((*shape, words))) {
            Read::Is((shape, words)) => {
                let bytes = record::bytes(words, shape.length());
                if self.is_void(position) {
                    return Read::Gone;
                }
                shape.check(bytes).map_or(Read::Other, Read::Is)
            }
            Read::Other => Read::Other,
            Read::Gone => Read::Gone,
        }
    }

    /// Looks at the record at `position`. What `look` gives is believed only if the record was still there afterwards.
    pub fn peek<T>(&self, position: u64, look: impl FnOnce(&Shape, &'static [AtomicU64]) -> Option<T>) -> Read<T> {
        if self.tail.load(Ordering::Acquire) > position {
            return Read::Gone;
        }
        let words = self.from(position);
        let found = record::shape(words).and_then(|shape| look(&shape, words));
        if self.is_void(position) {
            return Read::Gone;
        }
        found.map_or(Read::Other, Read::Is)
    }

    /// Words that a record of `words` needs at the head as it stands, with the filling up to the ring's end.
    pub fn needs(&self, words: usize) -> usize {
        let left = self.capacity() - (get(self.head) % self.capacity() as u64) as usize;
        if left < words { left + words } else { words }
    }

    /// Makes the place for a record of `words` at the head, where there is room for what it [needs](Ring::needs). Nobody sees it before [`Ring::advance`].
    fn place(&self, words: usize) -> (u64, &'static [AtomicU64]) {
        let head = get(self.head);
        let rest = self.from(head);
        if rest.len() >= words {
            return (head, rest);
        }
        record::write_pad(&rest[0], rest.len());
        let head = head + rest.len() as u64;
        put(self.head, head);
        (head, self.from(head))
    }

    /// Writes a record; gives its position.
    pub fn append(&self, draft: &Draft<'_>) -> u64 {
        let words = draft.words();
        let (position, place) = self.place(words);
        draft.write(place);
        put(self.head, position + words as u64);
        position
    }

    /// Copies a record of another ring, or of this one.
    pub fn copy(&self, record: &[AtomicU64]) -> u64 {
        let (position, place) = self.place(record.len());
        for (to, from) in place.iter().zip(record) {
            put(to, get(from));
        }
        put(self.head, position + record.len() as u64);
        position
    }

    /// The oldest record; None when there is none. Under the lock alone.
    pub fn oldest(&self) -> Option<(Shape, &'static [AtomicU64])> {
        if self.is_empty() {
            return None;
        }
        let words = self.from(get(self.tail));
        record::shape(words).map(|shape| (shape, &words[..shape.words]))
    }

    /// Gives up the oldest `words`. They may be written from now on.
    pub fn give_up(&self, words: usize) {
        publish(self.tail, get(self.tail) + words as u64);
        // Who reads a word that is written from now on must see the new tail when it looks again.
        fence(Ordering::Release);
    }

    /// Gives up everything.
    pub fn clear(&self) {
        publish(self.tail, get(self.head));
        fence(Ordering::Release);
    }
}
