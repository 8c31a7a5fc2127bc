//! The access log of workers that are dead.
//!
//! Takes the lines a worker had not written yet, and the calls that died with it; puts them where the workers put theirs.
//! It never waits for a reader that is slow: what finds no room is lost. Living workers write for themselves.
#![forbid(unsafe_code)]

use super::workers::Worker;
use crate::access_log::{self, Entry};
use crate::config::{AccessFormat, AccessTarget};
use crate::scoreboard::LogBuffer;
use crate::sys::{fd, privilege::Identity};
use std::fs::File;
use std::io;

/// Where access lines go that a worker could not write any more.
#[derive(Debug)]
pub struct AccessFile {
    target: AccessTarget,
    format: AccessFormat,
    file: File,
}

impl AccessFile {
    /// Opens the target for appending and, when workers have another account, makes it theirs: they reopen it
    /// themselves.
    pub fn open(target: &AccessTarget, format: AccessFormat, workers: &Identity) -> io::Result<Self> {
        let file = match target {
            AccessTarget::Stdout => {
                use std::os::fd::AsFd;
                File::from(io::stdout().as_fd().try_clone_to_owned()?)
            }
            AccessTarget::File(path) => {
                let file = fd::append_to(path)?;
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

    /// The open file, for a worker that cannot open its own.
    pub fn spare(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Opens it anew, after a rotation; keeps the old one when that fails.
    pub fn reopen(&mut self, workers: &Identity) {
        match Self::open(&self.target, self.format, workers) {
            Ok(fresh) => *self = fresh,
            Err(error) => tracing::error!("cannot reopen the access log, the old file stays in use: {error}"),
        }
    }

    /// Writes what a dead worker had not.
    pub fn flush(&self, log: &LogBuffer) {
        let mut lines = Vec::new();
        let count = log.copy_pending(&mut lines);
        let written = fd::write_without_blocking(&self.file, &lines);
        log.flushed(written);
        if written < count {
            let lost = lines[written..].iter().filter(|byte| **byte == b'\n').count();
            tracing::warn!(lost, "access lines of a dead worker could not be written");
        }
    }

    /// A line for each call that died with its worker. Who asked is not on the scoreboard, so that is not told.
    pub fn mourn(&self, worker: &Worker, now: u64) {
        let about = access_log::about(worker.post + 1, worker.pid.as_raw() as u32, worker.generation);
        for call in worker.slot.calls().into_iter().filter(|call| !call.logged) {
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
}
