//! A worker's place on the board: who it is, where it is in its life, what it was asked and what it asks.
//!
//! Takes and gives single words, each of which one side writes; the counters, the calls and the log of the worker hang
//! on it. It decides nothing.
#![forbid(unsafe_code)]

use super::counters::COUNTER_WORDS;
use super::{CALLS, Counters, HEADER, LOG, LogBuffer, Scoreboard};
use crate::sys::process::Pid;
use crate::sys::{fault, time};
use std::sync::atomic::{AtomicU64, Ordering, fence};

// Offsets are in words of eight bytes; each group starts a cache line of eight words. The first line of a slot is the
// master's, the second and those behind it the worker's, so that neither slows the other.
const PID: usize = 0;
pub(super) const GENERATION: usize = 1;
pub(super) const STARTED: usize = 2;
const COMMANDS: usize = 3;
const NUMBER: usize = 4;
pub(super) const STATE: usize = 8;
const HEARTBEAT: usize = 9;
pub(super) const CALLS_USED: usize = 10;
const LOG_COMMITTED: usize = 11;
const LOG_FLUSHED: usize = 12;
const PLEA: usize = 13;
const COUNTERS: usize = 16;
const FAULT: usize = COUNTERS + COUNTER_WORDS;
/// Words for what a fault handler leaves behind; their meaning is `sys::fault`'s.
const FAULT_WORDS: usize = fault::WORDS;
pub(super) const RECORDS: usize = FAULT + FAULT_WORDS;
pub(super) const RECORD_WORDS: usize = 32;
const LOG_BYTES: usize = RECORDS + CALLS * RECORD_WORDS;
pub(super) const SLOT_WORDS: usize = LOG_BYTES + LOG / 8;

const DRAIN: u64 = 1;
const QUEUE: u64 = 4;
const QUIT: u64 = 2;
const HANDOVER: u64 = 8;
const REOPEN: u64 = 1 << 32;

/// The words of one slot under their names; built when a process first asks for them.
#[derive(Debug)]
pub(super) struct Views {
    counters: Counters,
    log: LogBuffer,
}

/// A worker's place on the board.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    pub(super) board: &'static Scoreboard,
    pub(super) index: usize,
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

/// Why a worker asks to be replaced; it serves on until it is told to drain, unless it is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plea {
    /// It asks for nothing.
    None,
    /// It has answered as many requests as it may.
    Requests,
    /// A call is stuck in it: it has stopped accepting and handed its idle connections over.
    Stuck,
    /// It was told to leave by somebody else than its master, and drains.
    Leaving,
}

/// What the master has asked of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Commands {
    /// Finish what is under way, accept the queue to its end if the door is shut, and leave.
    pub drain: bool,
    /// The doors are shut: accept what is queued before leaving.
    pub queue: bool,
    /// Others serve on: hand idle connections over instead of closing them.
    pub handover: bool,
    /// Leave at once.
    pub quit: bool,
    /// How often the logs were to be reopened; a change is a command.
    pub reopen: u32,
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

    /// The worker's number, counted from 1, as in its title and in the logs; zero while it has none.
    pub fn number(self) -> usize {
        self.word(NUMBER).load(Ordering::Relaxed) as usize
    }

    /// Gives the worker its number.
    pub fn number_set(self, number: usize) {
        self.word(NUMBER).store(number as u64, Ordering::Relaxed);
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

    /// Takes it from one state to another; false when it was not in the first. Of two who try, one succeeds.
    pub fn state_change(self, from: State, to: State) -> bool {
        self.word(STATE)
            .compare_exchange(from as u64, to as u64, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Says that the worker's loop is alive.
    pub fn beat(self) {
        self.word(HEARTBEAT).store(time::monotonic_ns(), Ordering::Relaxed);
    }

    /// When the worker's loop last was alive (ns, CLOCK_MONOTONIC); zero before the first beat.
    pub fn heartbeat(self) -> u64 {
        self.word(HEARTBEAT).load(Ordering::Relaxed)
    }

    /// What the worker asks for.
    pub fn plea(self) -> Plea {
        match self.word(PLEA).load(Ordering::Acquire) {
            1 => Plea::Requests,
            2 => Plea::Stuck,
            3 => Plea::Leaving,
            _ => Plea::None,
        }
    }

    /// Asks for something; the caller then wakes the master by the seat's `notice`. Async-signal-safe.
    pub fn plead(self, plea: Plea) {
        self.word(PLEA).store(plea as u64, Ordering::Release);
    }

    /// Where the fault handler of the worker writes.
    pub fn fault(self) -> &'static [AtomicU64] {
        &self.words()[FAULT..FAULT + FAULT_WORDS]
    }

    /// What the master has asked for.
    pub fn commands(self) -> Commands {
        let word = self.word(COMMANDS).load(Ordering::Acquire);
        Commands {
            drain: word & DRAIN != 0,
            queue: word & QUEUE != 0,
            handover: word & HANDOVER != 0,
            quit: word & QUIT != 0,
            reopen: (word >> 32) as u32,
        }
    }

    /// Asks the worker to drain. Async-signal-safe, as its own TERM does the same.
    pub fn command_drain(self) {
        self.word(COMMANDS).fetch_or(DRAIN, Ordering::Release);
    }

    /// Asks the worker to accept what is queued behind the shut doors, drain and leave. One that was handing its connections
    /// over ends them now: nobody is left to take them. Async-signal-safe.
    pub fn command_drain_queue(self) {
        self.word(COMMANDS).fetch_and(!HANDOVER, Ordering::Release);
        self.word(COMMANDS).fetch_or(DRAIN | QUEUE, Ordering::Release);
    }

    /// Asks the worker to hand its idle connections to others, finish and leave; `queue` as in
    /// [`Slot::command_drain_queue`], of the listeners whose door is shut.
    pub fn command_hand_over(self, queue: bool) {
        let queue = if queue { QUEUE } else { 0 };
        self.word(COMMANDS)
            .fetch_or(DRAIN | HANDOVER | queue, Ordering::Release);
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

    /// Zeroes the slot and gives it back. The master's, once the worker is reaped and its log flushed.
    pub fn release(self) {
        self.clear_but_state();
        self.state_set(State::Empty);
    }

    /// Adds the counters of a worker that is gone to the house's sums and gives its slot back; a reader finds them in one of the
    /// two places ([`House::between_burials`](super::House::between_burials)). The master's, in place of [`Slot::release`], for a
    /// worker that lived.
    pub fn bury(self) {
        let house = self.board.house();
        house.burial_begins();
        house.keep(self.counters());
        house.keep_accepts(self.number(), self.counters().accepts.load(Ordering::Relaxed));
        self.release();
        house.burial_ends();
    }

    pub(super) fn clear_but_state(self) {
        for (offset, word) in self.words().iter().enumerate() {
            // Reading first keeps untouched pages of the sparse mapping untouched by writes.
            if offset != STATE && word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
        fence(Ordering::Release);
    }

    pub(super) fn words(self) -> &'static [AtomicU64] {
        let start = HEADER + self.index * SLOT_WORDS;
        &self.board.words[start..start + SLOT_WORDS]
    }

    pub(super) fn word(self, offset: usize) -> &'static AtomicU64 {
        &self.words()[offset]
    }

    fn views(self) -> &'static Views {
        self.board.views[self.index].get_or_init(|| {
            let words = self.words();
            Box::new(Views {
                counters: Counters::over(&words[COUNTERS..FAULT]),
                log: LogBuffer::over(
                    &words[LOG_COMMITTED],
                    &words[LOG_FLUSHED],
                    &words[LOG_BYTES..LOG_BYTES + LOG / 8],
                ),
            })
        })
    }
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
                handover: false,
                quit: false,
                reopen: 2
            }
        );
    }
}
