//! Access lines on their way to disk, where a kill cannot take them.
//!
//! Takes whole lines from the worker; gives them, in order, to whoever writes them: the worker itself, or the master
//! once the worker is dead. It opens no file.
#![forbid(unsafe_code)]

use super::LOG;
use super::text::word_of;
use std::sync::atomic::{AtomicU64, Ordering};

/// Access lines that a worker has finished but not written yet: a ring with one writer.
///
/// The worker appends and flushes; once it is dead, the master flushes what is left. Both counts only grow.
#[derive(Debug)]
pub struct LogBuffer {
    committed: &'static AtomicU64,
    flushed: &'static AtomicU64,
    bytes: &'static [AtomicU64],
}

impl LogBuffer {
    pub(super) fn over(
        committed: &'static AtomicU64,
        flushed: &'static AtomicU64,
        bytes: &'static [AtomicU64],
    ) -> Self {
        Self {
            committed,
            flushed,
            bytes,
        }
    }

    /// Adds a whole line, from one thread at a time; false when it does not fit before the next flush.
    pub fn append(&self, line: &[u8]) -> bool {
        let committed = self.committed.load(Ordering::Relaxed);
        if line.len() > LOG - self.pending() {
            return false;
        }
        let mut at = committed;
        let mut rest = line;
        while !rest.is_empty() {
            // Word by word, since words are what is atomic; the bytes around the ends are kept.
            let (word, shift) = self.place(at);
            let count = rest.len().min(8 - shift);
            if count == 8 {
                word.store(word_of(rest), Ordering::Relaxed);
            } else {
                let mut bytes = word.load(Ordering::Relaxed).to_le_bytes();
                bytes[shift..shift + count].copy_from_slice(&rest[..count]);
                word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
            }
            rest = &rest[count..];
            at += count as u64;
        }
        self.committed.store(at, Ordering::Release);
        true
    }

    /// Number of bytes that are committed and not flushed.
    pub fn pending(&self) -> usize {
        let committed = self.committed.load(Ordering::Acquire);
        (committed.saturating_sub(self.flushed.load(Ordering::Relaxed)) as usize).min(LOG)
    }

    /// Number of bytes that were ever flushed.
    pub fn flushed_so_far(&self) -> u64 {
        self.flushed.load(Ordering::Relaxed)
    }

    /// Copies what is pending behind `into`; gives its length, for [`LogBuffer::flushed`] once it is written.
    pub fn copy_pending(&self, into: &mut Vec<u8>) -> usize {
        let count = self.pending();
        let mut at = self.flushed.load(Ordering::Relaxed);
        let end = at + count as u64;
        into.reserve(count);
        while at < end {
            let (word, shift) = self.place(at);
            let take = (8 - shift).min((end - at) as usize);
            into.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes()[shift..shift + take]);
            at += take as u64;
        }
        count
    }

    /// Says that the `count` oldest pending bytes are written.
    pub fn flushed(&self, count: usize) {
        let flushed = self.flushed.load(Ordering::Relaxed);
        self.flushed
            .store(flushed + count.min(self.pending()) as u64, Ordering::Release);
    }

    fn place(&self, at: u64) -> (&'static AtomicU64, usize) {
        let offset = (at % LOG as u64) as usize;
        (&self.bytes[offset / 8], offset % 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;

    #[test]
    fn the_log_ring_keeps_every_byte_across_its_end() {
        let slot = Scoreboard::create().unwrap().claim(1).unwrap();
        let log = slot.log();
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        for round in 0..2000u32 {
            let line = format!("{round} {}\n", "x".repeat(round as usize % 211));
            if !log.append(line.as_bytes()) {
                let count = log.copy_pending(&mut found);
                log.flushed(count);
                assert!(log.append(line.as_bytes()));
            }
            expected.extend_from_slice(line.as_bytes());
        }
        let count = log.copy_pending(&mut found);
        log.flushed(count);
        assert!(
            expected == found,
            "{} bytes expected, {} found",
            expected.len(),
            found.len()
        );
        assert_eq!(log.pending(), 0);
        assert!(!log.append(&[0; LOG + 1]));
        assert!(log.append(&[0; LOG]));
    }
}
