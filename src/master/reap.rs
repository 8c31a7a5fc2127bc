//! The end of a worker: what it was doing, what it had not written yet, and who takes its place.
//!
//! Takes a process that ended; gives one log line with its calls in progress, its access lines on disk and its slot
//! back. Orphans that became ours (as process 1, or as a subreaper) are nobody's business.
#![forbid(unsafe_code)]

use super::workers::{Stage, Worker};
use super::{Master, Phase};
use crate::access_log::{self, Entry};
use crate::config::{AccessFormat, AccessTarget};
use crate::scoreboard::{LogBuffer, State};
use crate::sys::process::{Outcome, Pid};
use crate::sys::{fd, privilege::Identity, time};
use std::fs::{File, OpenOptions};
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Master {
    /// A child ended and is reaped.
    pub(super) fn ended(&mut self, pid: Pid, outcome: Outcome) {
        if self.check_ended(pid, outcome) {
            return;
        }
        let Some(worker) = self.workers.take(pid) else { return };
        let now = time::monotonic_ns();
        worker.slot.state_set(State::Dead);
        let expected = matches!(worker.stage, Stage::Draining { .. }) && outcome == Outcome::Exited(0);
        report(&worker, outcome, expected, now);
        if let Some(access) = &self.access {
            access.flush(worker.slot.log());
            access.mourn(&worker, now);
        }
        worker.slot.release();
        match worker.stage {
            Stage::Starting { .. } => {
                let reason = format!("worker {} {} before it was ready", worker.post + 1, outcome.told());
                self.delay(&worker, now);
                self.generation_failed(worker.generation, &reason, &reason);
            }
            // Workers that serve for a moment and die would be refilled for ever: that generation is not the one to go to.
            Stage::Ready if self.reload.is_starting(worker.generation) => {
                let reason = format!("worker {} {} before all were ready", worker.post + 1, outcome.told());
                self.refuse_reload(&reason);
            }
            Stage::Ready => self.delay(&worker, now),
            // Killed while it started: a failure of its own making; any other was told to go.
            Stage::Killed { .. } if worker.ready_since.is_none() => self.delay(&worker, now),
            Stage::Draining { .. } | Stage::Killed { .. } => {}
        }
    }

    fn delay(&mut self, worker: &Worker, now: u64) {
        // A generation that was refused says nothing about the one that serves.
        if self
            .current
            .as_ref()
            .is_none_or(|current| current.number != worker.generation)
        {
            return;
        }
        let delay = self.workers.backoff(worker.post).died(now, worker.served(now));
        if !delay.is_zero() && self.phase == Phase::Serving {
            tracing::warn!(worker = worker.post + 1, "died early again; next start in {delay:?}");
        }
    }
}

/// One line about the end of a worker.
fn report(worker: &Worker, outcome: Outcome, expected: bool, now: u64) {
    let counters = worker.slot.counters();
    let calls: Vec<String> = worker
        .slot
        .calls()
        .iter()
        .map(|call| {
            format!(
                "\"{}\" id={} age={}ms",
                call.line.escape_ascii(),
                call.request_id.escape_ascii(),
                now.saturating_sub(call.started) / 1_000_000
            )
        })
        .collect();
    let why = match &worker.stage {
        Stage::Killed { why } => why.as_str(),
        Stage::Draining { why, .. } => why,
        Stage::Starting { .. } => "it was not ready yet",
        Stage::Ready => "",
    };
    let uptime = Duration::from_nanos(now.saturating_sub(worker.slot.started()));
    macro_rules! tell {
        ($level:ident, $message:literal) => {
            tracing::$level!(
                cause = %outcome,
                why,
                worker = worker.post + 1,
                pid = worker.pid.as_raw(),
                generation = worker.generation,
                uptime_ms = uptime.as_millis() as u64,
                requests = counters.requests.load(Ordering::Relaxed),
                open_connections = counters.open.load(Ordering::Relaxed),
                calls_in_progress = calls.len(),
                calls = calls.join("; "),
                $message
            )
        };
    }
    match (expected, &worker.stage, outcome) {
        (true, ..) => tell!(info, "worker left"),
        // It was signalled itself, drained and left in good order.
        (_, Stage::Ready, Outcome::Exited(0)) => tell!(warn, "worker left unasked"),
        // Why it was given up before it was ready has been told.
        (_, Stage::Killed { .. }, _) if worker.ready_since.is_none() => tell!(debug, "worker killed"),
        _ => tell!(error, "worker died"),
    }
}

/// Where access lines go that a worker could not write any more.
#[derive(Debug)]
pub struct AccessFile {
    target: AccessTarget,
    format: AccessFormat,
    file: File,
}

impl AccessFile {
    /// A line for each call that died with its worker. Who asked is not on the scoreboard, so that is not told.
    fn mourn(&self, worker: &Worker, now: u64) {
        let about = access_log::about(worker.post + 1, worker.pid.as_raw() as u32, worker.generation);
        for call in worker.slot.calls() {
            let (method, target) = match call.line.iter().position(|byte| *byte == b' ') {
                Some(at) => (&call.line[..at], &call.line[at + 1..]),
                None => (&call.line[..], &b""[..]),
            };
            let entry = Entry {
                method,
                target,
                duration_us: now.saturating_sub(call.started) / 1000,
                request_id: std::str::from_utf8(&call.request_id).unwrap_or_default(),
                outcome: "killed",
                ..Entry::default()
            };
            fd::write_without_blocking(&self.file, &access_log::render(self.format, &entry, &about));
        }
    }

    /// Opens the target for appending and, when workers have another account, makes it theirs: they reopen it
    /// themselves.
    pub fn open(target: &AccessTarget, format: AccessFormat, workers: &Identity) -> io::Result<Self> {
        let file = match target {
            AccessTarget::Stdout => {
                use std::os::fd::AsFd;
                File::from(io::stdout().as_fd().try_clone_to_owned()?)
            }
            AccessTarget::File(path) => {
                let file = OpenOptions::new().append(true).create(true).open(path)?;
                // Without the right to, the account is our own or the administrator has seen to it.
                let _ = workers.own_file(path);
                file
            }
        };
        Ok(Self {
            target: target.clone(),
            format,
            file,
        })
    }

    /// Opens it anew, after a rotation; keeps the old one when that fails.
    pub fn reopen(&mut self, workers: &Identity) {
        match Self::open(&self.target, self.format, workers) {
            Ok(fresh) => *self = fresh,
            Err(error) => tracing::error!("cannot reopen the access log, the old file stays in use: {error}"),
        }
    }

    /// Writes what a dead worker had not.
    fn flush(&self, log: &LogBuffer) {
        let mut lines = Vec::new();
        let count = log.copy_pending(&mut lines);
        let written = fd::write_without_blocking(&self.file, &lines);
        log.flushed(written);
        if written < count {
            let lost = lines[written..].iter().filter(|byte| **byte == b'\n').count();
            tracing::warn!(lost, "access lines of a dead worker could not be written");
        }
    }
}
