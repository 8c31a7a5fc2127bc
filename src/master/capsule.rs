//! The record of a worker that died, or of a call that is stuck in one: one line that tells all there is.
//!
//! Takes a worker, how it ended, its slot and what its fault handler left there; gives the line. Nothing here waits: the
//! addresses of a stack are files and offsets, and `autopsy` has them named before the line is written, where it can.
#![forbid(unsafe_code)]

use super::Master;
use super::workers::{Stage, Worker};
use crate::handler::image::Image;
use crate::handler::symbols::{self, Space};
use crate::scoreboard::{Plea, Tally};
use crate::sys::fault::{Left, Words};
use crate::sys::process::{Outcome, Pid};
use crate::sys::time;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// All that a line tells.
#[derive(Debug)]
pub struct Capsule {
    about: About,
    cause: String,
    why: String,
    worker: usize,
    pid: Pid,
    generation: u64,
    modules: String,
    uptime: Duration,
    requests: u64,
    memory: Option<u64>,
    peak_memory: Option<u64>,
    open_connections: u64,
    calls: Vec<String>,
    fault: Option<String>,
    thread: Option<String>,
    /// The raw stack and what lay where; empty when none was left.
    pub(super) stack: Vec<u64>,
    pub(super) space: Space,
}

/// What the line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// It left as it was told.
    Left,
    /// It was signalled itself, drained and left in good order.
    LeftUnasked,
    /// It was killed before it was ready, for a reason that was told then.
    Killed,
    /// It died.
    Died,
    /// It lives, but a call does not come back.
    Stuck,
}

impl About {
    fn of(worker: &Worker, outcome: Outcome) -> Self {
        match (&worker.stage, outcome) {
            (Stage::Draining { .. }, Outcome::Exited(0)) => Self::Left,
            (Stage::Ready, Outcome::Exited(0)) => Self::LeftUnasked,
            (Stage::Killed { .. }, _) if worker.ready_since.is_none() => Self::Killed,
            _ => Self::Died,
        }
    }
}

impl Master {
    /// What is known of a worker that ended; to be told, and counted, before its slot is given back.
    pub(super) fn capsule(&mut self, worker: &Worker, outcome: Outcome, peak_memory: u64, now: u64) -> Capsule {
        let killed = outcome == Outcome::Killed(SIGKILL);
        let ours = matches!(worker.stage, Stage::Killed { .. });
        // Looked at each time, so that the count is never old.
        let starved = self.oom.has_killed() && killed && !ours;
        self.board.house().count(tally(worker, outcome, starved));
        let cause = match (killed, ours, starved) {
            (true, false, true) => "killed by the kernel for want of memory (oom_kill)".to_owned(),
            (true, false, false) => "killed by SIGKILL from outside".to_owned(),
            _ => outcome.to_string(),
        };
        Capsule {
            peak_memory: Some(peak_memory),
            ..Capsule::of(worker, About::of(worker, outcome), cause, now)
        }
    }

    /// A call is stuck in a worker, which has left the stack of its thread: tells of it.
    pub(super) fn record_stuck(&mut self, pid: Pid) {
        let now = time::monotonic_ns();
        let Some(worker) = self.workers.of(pid) else { return };
        let capsule = Capsule::of(worker, About::Stuck, "a call is stuck".to_owned(), now);
        self.tell_all(capsule);
    }
}

/// SIGKILL, which cannot be caught: whoever dies of it says nothing himself.
const SIGKILL: i32 = 9;

/// What the end of a worker counts as.
fn tally(worker: &Worker, outcome: Outcome, starved: bool) -> Tally {
    match (&worker.stage, outcome) {
        (Stage::Draining { .. }, Outcome::Exited(0)) | (Stage::Killed { .. }, _)
            if worker.slot.plea() == Plea::Stuck =>
        {
            Tally::ExitStuck
        }
        (Stage::Draining { .. }, Outcome::Exited(0)) => Tally::ExitAsked,
        (Stage::Killed { tally, .. }, _) => *tally,
        (_, Outcome::Exited(_)) => Tally::ExitUnasked,
        (_, Outcome::Killed(_)) if starved => Tally::ExitOom,
        (_, Outcome::Killed(_)) => Tally::ExitCrash,
    }
}

/// The module whose code a worker was running before it was ready, for the end of a sentence; empty when it was none.
pub(super) fn at_start_of(worker: &Worker) -> String {
    let busy = Words::over(worker.slot.fault()).and_then(Words::busy_with);
    let module = busy.and_then(|index| worker.images.get(index)).map(Image::path);
    module.map_or_else(String::new, |path: &Path| {
        format!(", in the init of module {}", path.display())
    })
}

impl Capsule {
    fn of(worker: &Worker, about: About, cause: String, now: u64) -> Self {
        let slot = worker.slot;
        let counters = slot.counters();
        let words = Words::over(slot.fault());
        // One that left in good order has nothing to explain.
        let left = words.filter(|_| about != About::Left).and_then(Words::left);
        let places = words.map_or_else(Vec::new, Words::modules);
        let calls = slot.calls().into_iter().map(|call| {
            format!(
                "\"{}\" id={} age={}ms",
                call.line.escape_ascii(),
                call.request_id.escape_ascii(),
                now.saturating_sub(call.started) / 1_000_000
            )
        });
        let why = match &worker.stage {
            Stage::Killed { why, .. } => why.clone(),
            Stage::Draining { why, .. } => (*why).to_owned(),
            Stage::Starting { .. } => format!("it was not ready yet{}", at_start_of(worker)),
            Stage::Ready => String::new(),
        };
        let mut modules: Vec<String> = worker.images.iter().map(symbols::full_name).collect();
        modules.dedup();
        let memory = left.as_ref().map_or(0, |left| left.memory);
        let memory = Some(if memory > 0 { memory } else { worker.memory }).filter(|memory| *memory > 0);
        // The files that were mapped before the fork lie where they lie here.
        let space = left.as_ref().map_or_else(Space::default, |_| {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
            Space::new(&worker.images, &places, &maps)
        });
        Self {
            about,
            cause,
            why,
            worker: worker.post + 1,
            pid: worker.pid,
            generation: worker.generation,
            modules: modules.join(", "),
            uptime: Duration::from_nanos(now.saturating_sub(slot.started())),
            requests: counters.requests.load(Ordering::Relaxed),
            memory,
            peak_memory: None,
            open_connections: counters.open.load(Ordering::Relaxed),
            calls: calls.collect(),
            fault: left.as_ref().filter(|left| left.signal != 0).map(fault),
            thread: left.as_ref().map(|left| format!("{} ({})", left.thread, left.tid)),
            stack: left.map_or_else(Vec::new, |left| left.frames),
            space,
        }
    }

    /// Whether it is worth a process that names the stack.
    pub(super) fn deserves_names(&self) -> bool {
        !self.stack.is_empty() && matches!(self.about, About::Died | About::Stuck)
    }

    /// Writes the line, with the stack as it was named, or else as files and offsets.
    pub(super) fn write(&self, named: Option<String>) {
        let backtrace = named.or_else(|| {
            let raw = (!self.stack.is_empty()).then(|| self.space.places(&self.stack))?;
            Some(raw.join("\n"))
        });
        macro_rules! tell {
            ($level:ident, $message:literal) => {
                tracing::$level!(
                    cause = self.cause,
                    why = (!self.why.is_empty()).then_some(self.why.as_str()),
                    fault = self.fault,
                    worker = self.worker,
                    worker_pid = self.pid.as_raw(),
                    generation = self.generation,
                    modules = self.modules,
                    uptime_ms = self.uptime.as_millis() as u64,
                    requests = self.requests,
                    memory_bytes = self.memory,
                    peak_memory_bytes = self.peak_memory,
                    open_connections = self.open_connections,
                    calls_in_progress = self.calls.len(),
                    calls = (!self.calls.is_empty()).then(|| self.calls.join("; ")),
                    thread = self.thread,
                    backtrace,
                    $message
                )
            };
        }
        match self.about {
            About::Left => tell!(info, "worker left"),
            About::LeftUnasked => tell!(warn, "worker left unasked"),
            About::Killed => tell!(debug, "worker killed"),
            About::Died => tell!(error, "worker died"),
            About::Stuck => tell!(error, "call stuck"),
        }
    }
}

/// A signal in words: which, of what kind and where.
fn fault(left: &Left) -> String {
    let name = Outcome::Killed(left.signal).to_string();
    let name = name.trim_start_matches("killed by ");
    let kind = match (left.signal, left.code) {
        _ if left.is_stack_overflow() => ": the stack overflowed",
        (_, ..=0) => ": raised or sent by a process",
        (SIGSEGV, SI_KERNEL) => ": an address that cannot be",
        (SIGSEGV, 1) => ": address not mapped",
        (SIGSEGV, 2) => ": access not permitted",
        (SIGFPE, 1) => ": integer division by zero",
        (SIGBUS, 2) => ": no such memory (a mapped file was truncated?)",
        _ => "",
    };
    let place = if left.code > 0 && left.code != SI_KERNEL && matches!(left.signal, SIGSEGV | SIGBUS) {
        format!(" at {:#x}", left.address)
    } else {
        String::new()
    };
    format!("{name}{place}{kind}")
}

// Their numbers on the machines Linux runs servers on (signal(7)).
const SIGSEGV: i32 = 11;
const SIGBUS: i32 = 7;
const SIGFPE: i32 = 8;
/// The kernel's own finding, without an address (sigaction(2)).
const SI_KERNEL: i32 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_in_words() {
        let left = |signal, code, address, stack_pointer| Left {
            signal,
            code,
            address,
            tid: 1,
            thread: String::new(),
            stack_pointer,
            memory: 0,
            frames: Vec::new(),
        };
        assert_eq!(
            fault(&left(11, 1, 8, 0x7000_0000)),
            "SIGSEGV at 0x8: address not mapped"
        );
        assert_eq!(
            fault(&left(11, 1, 0x7000_0000, 0x7000_0100)),
            "SIGSEGV at 0x70000000: the stack overflowed"
        );
        assert_eq!(fault(&left(6, -6, 0, 0)), "SIGABRT: raised or sent by a process");
        assert_eq!(fault(&left(8, 1, 0, 0)), "SIGFPE: integer division by zero");
    }
}
