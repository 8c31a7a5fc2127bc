//! What every process can know about every worker, whoever dies when: counters, calls in progress, commands, log.
//!
//! Takes one shared mapping; gives [`Slot`]s, one a worker. A slot is written by its worker alone (the master clears
//! it, names it and commands it) and readable by anyone. There is no lock: a reader copies and checks, so a `kill -9`
//! at any instruction breaks nothing. Nothing here decides anything.
#![forbid(unsafe_code)]

mod counters;
mod log_buffer;

pub use counters::{Counters, Histogram, LATENCY_BOUNDS};
pub use log_buffer::LogBuffer;

use crate::sys::process::Pid;
use crate::sys::{shm, time};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Version of the layout; a master that is handed a board of another version starts a fresh one.
pub const LAYOUT: u64 = 1;
/// Number of slots: two generations of the most workers a configuration may ask for, and some that drain.
pub const SLOTS: usize = 2112;
/// Most calls in progress that a slot remembers; further calls go unrecorded.
pub const CALLS: usize = 64;
/// Bytes of a request id that are kept.
pub const REQUEST_ID: usize = 64;
/// Bytes of a request line that are kept.
pub const REQUEST_LINE: usize = 160;
/// Bytes of access log that a worker may hold back.
pub const LOG: usize = 64 * 1024;

const MAGIC: u64 = u64::from_be_bytes(*b"appsrvr\0");
// Offsets are in words of eight bytes; each group starts a cache line of eight words. The first line of a slot is the
// master's, the second and those behind it the worker's, so that neither slows the other.
const HEADER: usize = 8;
const PID: usize = 0;
const GENERATION: usize = 1;
const STARTED: usize = 2;
const COMMANDS: usize = 3;
const STATE: usize = 8;
const HEARTBEAT: usize = 9;
const CALLS_USED: usize = 10;
const LOG_COMMITTED: usize = 11;
const LOG_FLUSHED: usize = 12;
const COUNTERS: usize = 16;
const COUNTER_WORDS: usize = 40;
const RECORDS: usize = COUNTERS + COUNTER_WORDS;
const RECORD_WORDS: usize = 32;
const LOG_BYTES: usize = RECORDS + CALLS * RECORD_WORDS;
const SLOT_WORDS: usize = LOG_BYTES + LOG / 8;
const ID_WORDS: usize = REQUEST_ID / 8;

const DRAIN: u64 = 1;
const QUEUE: u64 = 4;
const QUIT: u64 = 2;
const REOPEN: u64 = 1 << 32;

/// All slots.
#[derive(Debug)]
pub struct Scoreboard {
    words: &'static [AtomicU64],
    views: Vec<OnceLock<Box<Views>>>,
    _memory: std::os::fd::OwnedFd,
}

/// The words of one slot under their names; built when a process first asks for them.
#[derive(Debug)]
struct Views {
    counters: Counters,
    log: LogBuffer,
}

/// A worker's place on the board.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    board: &'static Scoreboard,
    index: usize,
}

/// Where a worker is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum State {
    Empty,
    Starting,
    Ready,
    Draining,
    Stuck,
    Dead,
}

/// What the master has asked of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Commands {
    /// Finish what is under way, accept the queue to its end if the door is shut, and leave.
    pub drain: bool,
    /// The doors are shut: accept what is queued before leaving.
    pub queue: bool,
    /// Leave at once.
    pub quit: bool,
    /// How often the logs were to be reopened; a change is a command.
    pub reopen: u32,
}

/// A call that a reader found in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// When it began (ns, CLOCK_MONOTONIC).
    pub started: u64,
    /// Its request id.
    pub request_id: Vec<u8>,
    /// Its request line.
    pub line: Vec<u8>,
}

/// A record of a call in progress; dropping it ends the call.
#[derive(Debug)]
pub struct CallRecord {
    slot: Slot,
    index: usize,
}

impl Scoreboard {
    /// A fresh board that lives as long as the process.
    pub fn create() -> io::Result<&'static Self> {
        let shared = shm::create("appserver-scoreboard", HEADER + SLOTS * SLOT_WORDS)?;
        shared.words[0].store(MAGIC, Ordering::Relaxed);
        shared.words[1].store(LAYOUT, Ordering::Relaxed);
        shared.words[2].store(SLOTS as u64, Ordering::Relaxed);
        shared.words[3].store(SLOT_WORDS as u64, Ordering::Relaxed);
        let views = (0..SLOTS).map(|_| OnceLock::new()).collect();
        Ok(Box::leak(Box::new(Self {
            words: shared.words,
            views,
            _memory: shared.fd,
        })))
    }

    /// All slots, used or not.
    pub fn slots(&'static self) -> impl Iterator<Item = Slot> {
        (0..SLOTS).map(move |index| Slot { board: self, index })
    }

    /// Takes an empty slot for a worker about to be forked: zeroed, in state Starting. None when all are taken.
    pub fn claim(&'static self, generation: u64) -> Option<Slot> {
        let slot = self.slots().find(|slot| slot.state() == State::Empty)?;
        slot.clear();
        slot.word(GENERATION).store(generation, Ordering::Relaxed);
        slot.word(STARTED).store(time::monotonic_ns(), Ordering::Relaxed);
        slot.state_set(State::Starting);
        Some(slot)
    }
}

impl Slot {
    /// Its number on the board.
    pub fn index(self) -> usize {
        self.index
    }

    /// The worker's process; zero while it is not forked.
    pub fn pid(self) -> Pid {
        Pid::from_raw(self.word(PID).load(Ordering::Relaxed) as i32)
    }

    /// Names the process the slot belongs to.
    pub fn pid_set(self, pid: Pid) {
        self.word(PID).store(pid.as_raw() as u64, Ordering::Relaxed);
    }

    /// The generation its worker serves.
    pub fn generation(self) -> u64 {
        self.word(GENERATION).load(Ordering::Relaxed)
    }

    /// When it was claimed (ns, CLOCK_MONOTONIC).
    pub fn started(self) -> u64 {
        self.word(STARTED).load(Ordering::Relaxed)
    }

    /// Where its worker is in its life.
    pub fn state(self) -> State {
        match self.word(STATE).load(Ordering::Acquire) {
            1 => State::Starting,
            2 => State::Ready,
            3 => State::Draining,
            4 => State::Stuck,
            5 => State::Dead,
            _ => State::Empty,
        }
    }

    /// Says where the worker is.
    pub fn state_set(self, state: State) {
        self.word(STATE).store(state as u64, Ordering::Release);
    }

    /// Says that the worker's loop is alive.
    pub fn beat(self) {
        self.word(HEARTBEAT).store(time::monotonic_ns(), Ordering::Relaxed);
    }

    /// When the worker's loop last was alive (ns, CLOCK_MONOTONIC); zero before the first beat.
    pub fn heartbeat(self) -> u64 {
        self.word(HEARTBEAT).load(Ordering::Relaxed)
    }

    /// What the master has asked for.
    pub fn commands(self) -> Commands {
        let word = self.word(COMMANDS).load(Ordering::Acquire);
        Commands {
            drain: word & DRAIN != 0,
            queue: word & QUEUE != 0,
            quit: word & QUIT != 0,
            reopen: (word >> 32) as u32,
        }
    }

    /// Asks the worker to drain. Async-signal-safe, as its own TERM does the same.
    pub fn command_drain(self) {
        self.word(COMMANDS).fetch_or(DRAIN, Ordering::Release);
    }

    /// Asks the worker to accept what is queued behind the shut doors, drain and leave.
    pub fn command_drain_queue(self) {
        self.word(COMMANDS).fetch_or(DRAIN | QUEUE, Ordering::Release);
    }

    /// Asks the worker to leave at once.
    pub fn command_quit(self) {
        self.word(COMMANDS).fetch_or(QUIT, Ordering::Release);
    }

    /// Asks the worker to reopen its logs.
    pub fn command_reopen(self) {
        self.word(COMMANDS).fetch_add(REOPEN, Ordering::Release);
    }

    /// The worker's counters.
    pub fn counters(self) -> &'static Counters {
        &self.views().counters
    }

    /// The worker's held-back access lines.
    pub fn log(self) -> &'static LogBuffer {
        &self.views().log
    }

    /// Records a call; None when [`CALLS`] are in progress already. Both texts are cut to what fits.
    pub fn call_begin(self, request_id: &[u8], line: &[u8]) -> Option<CallRecord> {
        let index = self.take_record()?;
        let record = self.record(index);
        let id = &request_id[..request_id.len().min(REQUEST_ID)];
        let line = &line[..line.len().min(REQUEST_LINE)];
        // Odd while it is written: a reader that meets an odd or a changed sequence looks again.
        let sequence = record[0].load(Ordering::Relaxed) | 1;
        record[0].store(sequence, Ordering::Relaxed);
        fence(Ordering::Release);
        record[1].store(time::monotonic_ns(), Ordering::Relaxed);
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

    /// Zeroes the slot and gives it back. The master's, once the worker is reaped and its log flushed.
    pub fn release(self) {
        self.clear();
    }

    fn call(self, index: usize) -> Option<Call> {
        let record = self.record(index);
        // A worker that is stopped mid-write would have us wait for ever; a few looks tell the two apart.
        for _ in 0..8 {
            let before = record[0].load(Ordering::Acquire);
            let started = record[1].load(Ordering::Relaxed);
            let lengths = record[2].load(Ordering::Relaxed);
            let request_id = text_load(&record[3..], (lengths as u32 as usize).min(REQUEST_ID));
            let line = text_load(&record[3 + ID_WORDS..], ((lengths >> 32) as usize).min(REQUEST_LINE));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && before == record[0].load(Ordering::Relaxed) {
                return (started != 0).then_some(Call {
                    started,
                    request_id,
                    line,
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

    fn clear(self) {
        for word in self.words() {
            // Reading first keeps untouched pages of the sparse mapping untouched by writes.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
        fence(Ordering::Release);
    }

    fn words(self) -> &'static [AtomicU64] {
        let start = HEADER + self.index * SLOT_WORDS;
        &self.board.words[start..start + SLOT_WORDS]
    }

    fn word(self, offset: usize) -> &'static AtomicU64 {
        &self.words()[offset]
    }

    fn record(self, index: usize) -> &'static [AtomicU64] {
        &self.words()[RECORDS + index * RECORD_WORDS..][..RECORD_WORDS]
    }

    fn views(self) -> &'static Views {
        self.board.views[self.index].get_or_init(|| {
            let words = self.words();
            Box::new(Views {
                counters: Counters::over(&words[COUNTERS..RECORDS]),
                log: LogBuffer::over(
                    &words[LOG_COMMITTED],
                    &words[LOG_FLUSHED],
                    &words[LOG_BYTES..LOG_BYTES + LOG / 8],
                ),
            })
        })
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

fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    let count = bytes.len().min(8);
    word[..count].copy_from_slice(&bytes[..count]);
    u64::from_le_bytes(word)
}

fn text_store(words: &[AtomicU64], text: &[u8]) {
    for (word, bytes) in words.iter().zip(text.chunks(8)) {
        word.store(word_of(bytes), Ordering::Relaxed);
    }
}

fn text_load(words: &[AtomicU64], len: usize) -> Vec<u8> {
    let mut text: Vec<u8> = words
        .iter()
        .take(len.div_ceil(8))
        .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
        .collect();
    text.truncate(len);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_slot_is_named_and_comes_back_clean() {
        let board = Scoreboard::create().unwrap();
        let slot = board.claim(7).unwrap();
        assert_eq!((slot.state(), slot.generation()), (State::Starting, 7));
        slot.pid_set(Pid::from_raw(42));
        slot.counters().requests.fetch_add(3, Ordering::Relaxed);
        slot.counters().latency.record(70);
        assert_eq!(slot.counters().latency.buckets[1].load(Ordering::Relaxed), 1);
        assert_ne!(board.claim(7).unwrap().index(), slot.index());
        slot.release();
        assert_eq!((slot.state(), slot.pid().as_raw()), (State::Empty, 0));
        assert_eq!(slot.counters().requests.load(Ordering::Relaxed), 0);
        assert_eq!(board.claim(8).unwrap().index(), slot.index());
    }

    #[test]
    fn a_call_is_seen_from_its_begin_to_its_end() {
        let slot = Scoreboard::create().unwrap().claim(1).unwrap();
        let call = slot.call_begin(b"abc", b"GET /slow HTTP/1.1").unwrap();
        let long = slot.call_begin(&[b'i'; 100], &[b'l'; 500]).unwrap();
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
        let call = slot.call_begin(b"abc", b"GET / HTTP/1.1").unwrap();
        slot.record(call.index)[0].fetch_add(1, Ordering::Relaxed);
        assert!(slot.calls().is_empty());
    }

    #[test]
    fn calls_beyond_the_records_go_unrecorded() {
        let slot = Scoreboard::create().unwrap().claim(1).unwrap();
        let mut calls: Vec<_> = (0..CALLS)
            .map(|_| slot.call_begin(b"", b"GET / HTTP/1.1").unwrap())
            .collect();
        assert!(slot.call_begin(b"", b"").is_none());
        calls.remove(10);
        assert!(slot.call_begin(b"", b"").is_some());
    }

    #[test]
    fn commands_reach_the_worker() {
        let slot = Scoreboard::create().unwrap().claim(1).unwrap();
        assert_eq!(slot.commands(), Commands::default());
        slot.command_reopen();
        slot.command_reopen();
        slot.command_drain();
        assert_eq!(
            slot.commands(),
            Commands {
                drain: true,
                queue: false,
                quit: false,
                reopen: 2
            }
        );
    }
}
