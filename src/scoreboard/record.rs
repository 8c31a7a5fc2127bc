//! The calls that a worker has in progress, as anyone may read them.
//!
//! Takes the request id and line of a call; gives [`CallRecord`], which ends it when dropped, and to readers [`Call`]s. A
//! reader that meets a record being written looks again, a few times; it never waits.
#![forbid(unsafe_code)]

use super::slot::{CALLS_USED, RECORD_WORDS, RECORDS, Slot};
use super::text::{text_load, text_store};
use super::{CALLS, REQUEST_ID, REQUEST_LINE};
use std::sync::atomic::{AtomicU64, Ordering, fence};

const ID_WORDS: usize = REQUEST_ID / 8;

/// A call that a reader found in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// When it began (ns, CLOCK_MONOTONIC).
    pub started: u64,
    /// Its request id.
    pub request_id: Vec<u8>,
    /// Its request line.
    pub line: Vec<u8>,
    /// Its access line is written already; the call itself goes on.
    pub logged: bool,
}

/// A record of a call in progress; dropping it ends the call.
#[derive(Debug)]
pub struct CallRecord {
    slot: Slot,
    index: usize,
}

/// Names a record of a call that is in progress, for who does not own it.
#[derive(Debug, Clone, Copy)]
pub struct CallMark {
    slot: Slot,
    index: usize,
}

impl CallRecord {
    /// Its name.
    pub fn mark(&self) -> CallMark {
        CallMark {
            slot: self.slot,
            index: self.index,
        }
    }
}

impl CallMark {
    /// Says that the access line of the call is written, so that nobody writes another should the worker die. The record
    /// must not have been dropped.
    pub fn logged(self) {
        self.slot.record(self.index)[2].fetch_or(LOGGED, Ordering::Release);
    }
}

/// In a record's word of lengths: its access line is written.
const LOGGED: u64 = 1 << 63;

impl Slot {
    /// Records a call that begins at `now` (ns, CLOCK_MONOTONIC); None when [`CALLS`] are in progress already. Both texts are cut to what fits.
    pub fn call_begin(self, request_id: &[u8], line: &[u8], now: u64) -> Option<CallRecord> {
        let index = self.take_record()?;
        let record = self.record(index);
        let id = &request_id[..request_id.len().min(REQUEST_ID)];
        let line = &line[..line.len().min(REQUEST_LINE)];
        // Odd while it is written: a reader that meets an odd or a changed sequence looks again.
        let sequence = record[0].load(Ordering::Relaxed) | 1;
        record[0].store(sequence, Ordering::Relaxed);
        fence(Ordering::Release);
        record[1].store(now, Ordering::Relaxed);
        record[2].store((id.len() | line.len() << 32) as u64, Ordering::Relaxed);
        text_store(&record[3..], id);
        text_store(&record[3 + ID_WORDS..], line);
        record[0].store(sequence + 1, Ordering::Release);
        Some(CallRecord { slot: self, index })
    }

    /// The calls in progress, oldest first. One that is being written this moment is left out.
    pub fn calls(self) -> Vec<Call> {
        let used = self.word(CALLS_USED).load(Ordering::Acquire);
        let taken = (0..CALLS).filter(|index| used & 1 << index != 0);
        let mut calls: Vec<Call> = taken.filter_map(|index| self.call(index)).collect();
        calls.sort_by_key(|call| call.started);
        calls
    }

    fn call(self, index: usize) -> Option<Call> {
        let record = self.record(index);
        // A worker that is stopped mid-write would have us wait for ever; a few looks tell the two apart.
        for _ in 0..8 {
            let before = record[0].load(Ordering::Acquire);
            let started = record[1].load(Ordering::Relaxed);
            let lengths = record[2].load(Ordering::Relaxed);
            let request_id = text_load(&record[3..], (lengths as u32 as usize).min(REQUEST_ID));
            let length = ((lengths & !LOGGED) >> 32) as usize;
            let line = text_load(&record[3 + ID_WORDS..], length.min(REQUEST_LINE));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && before == record[0].load(Ordering::Relaxed) {
                return (started != 0).then_some(Call {
                    started,
                    request_id,
                    line,
                    logged: lengths & LOGGED != 0,
                });
            }
            std::hint::spin_loop();
        }
        None
    }

    fn take_record(self) -> Option<usize> {
        let used = self.word(CALLS_USED);
        loop {
            let free = used.load(Ordering::Relaxed).trailing_ones() as usize;
            if free == CALLS {
                return None;
            }
            // Several threads of one worker may begin calls; whoever sets the bit has the record.
            if used.fetch_or(1 << free, Ordering::Acquire) & 1 << free == 0 {
                return Some(free);
            }
        }
    }

    fn record(self, index: usize) -> &'static [AtomicU64] {
        &self.words()[RECORDS + index * RECORD_WORDS..][..RECORD_WORDS]
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        self.slot.record(self.index)[1].store(0, Ordering::Relaxed);
        self.slot
            .word(CALLS_USED)
            .fetch_and(!(1 << self.index), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;

    #[test]
    fn a_call_is_seen_from_its_begin_to_its_end() {
        let slot = Scoreboard::create().unwrap().claim(1).unwrap();
        let call = slot.call_begin(b"abc", b"GET /slow HTTP/1.1", 1).unwrap();
        let long = slot.call_begin(&[b'i'; 100], &[b'l'; 500], 2).unwrap();
        let seen = slot.calls();
        assert_eq!(seen[0].line, b"GET /slow HTTP/1.1");
        assert_eq!(seen[0].request_id, b"abc");
        assert_eq!(
            (seen[1].request_id.len(), seen[1].line.len()),
            (REQUEST_ID, REQUEST_LINE)
        );
        drop(call);
        assert_eq!(slot.calls().len(), 1);
        drop(long);
        assert!(slot.calls().is_empty());
    }

    #[test]
    fn a_record_cut_off_while_it_was_written_is_not_shown() {
        let slot = Scoreboard::create().unwrap().claim(1).unwrap();
        let call = slot.call_begin(b"abc", b"GET / HTTP/1.1", 1).unwrap();
        slot.record(call.index)[0].fetch_add(1, Ordering::Relaxed);
        assert!(slot.calls().is_empty());
    }

    #[test]
    fn calls_beyond_the_records_go_unrecorded() {
        let slot = Scoreboard::create().unwrap().claim(1).unwrap();
        let mut calls: Vec<_> = (0..CALLS)
            .map(|_| slot.call_begin(b"", b"GET / HTTP/1.1", 1).unwrap())
            .collect();
        assert!(slot.call_begin(b"", b"", 1).is_none());
        calls.remove(10);
        assert!(slot.call_begin(b"", b"", 1).is_some());
    }
}
