//! The throw-away child that gives the addresses of a stack their names.
//!
//! Takes a record; sees to it that its line is written exactly once. Naming reads whole files and may be slow, crash or hang, so a
//! child does it and leaves the text in memory that both hold; when the child has ended, the master writes the line, with the names if
//! they are whole and with files and offsets if not. A child whose master has gone meanwhile writes the line itself.
#![forbid(unsafe_code)]

use super::Master;
use super::capsule::Capsule;
use crate::sys::privilege::Identity;
use crate::sys::process::{self, Outcome, Pid};
use crate::sys::{poll, shm, time, title};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// How long naming may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the end of the server waits for it.
const AT_THE_END: Duration = Duration::from_secs(2);
/// Most at once: where workers crash by the dozen, the stack of each is the same.
const MOST: usize = 4;
/// Bytes of text that are read back.
const LONGEST: usize = 64 * 1024;

/// Those under way.
#[derive(Debug, Default)]
pub struct Autopsies(Vec<Autopsy>);

#[derive(Debug)]
struct Autopsy {
    pid: Pid,
    text: File,
    deadline: u64,
    capsule: Capsule,
}

impl Autopsies {
    /// When [`Master::autopsies_due`] has something to do (ns).
    pub fn deadline(&self) -> Option<u64> {
        self.0.iter().map(|autopsy| autopsy.deadline).min()
    }
}

impl Master {
    /// Writes the line of a record: at once, or when its stack has names.
    pub(super) fn tell_all(&mut self, capsule: Capsule) {
        if !capsule.deserves_names() || self.autopsies.0.len() >= MOST {
            return capsule.write(None);
        }
        match self.begin_autopsy(&capsule) {
            Ok((pid, text)) => self.autopsies.0.push(Autopsy {
                pid,
                text,
                deadline: time::monotonic_ns().saturating_add(time::nanos(PATIENCE)),
                capsule,
            }),
            Err(_) => capsule.write(None),
        }
    }

    fn begin_autopsy(&mut self, capsule: &Capsule) -> io::Result<(Pid, File)> {
        let text = shm::scratch("appserver-backtrace")?;
        let (master, identity) = (self.pid, self.identity.clone());
        let pid = process::fork(|mask| {
            // Deaf to everything but a kill: it has nothing to put in order.
            let code = {
                self.forget();
                live(capsule, &text, master, &identity)
            };
            drop(mask);
            code
        })?;
        Ok((pid, text))
    }

    /// Whether this child was one of them; then its record is written.
    pub(super) fn autopsy_ended(&mut self, pid: Pid, outcome: Outcome) -> bool {
        let Some(index) = self.autopsies.0.iter().position(|autopsy| autopsy.pid == pid) else {
            return false;
        };
        let autopsy = self.autopsies.0.remove(index);
        let whole = outcome == Outcome::Exited(0);
        autopsy.capsule.write(if whole { read(&autopsy.text) } else { None });
        true
    }

    /// Kills those that take too long; their end is heard of later.
    pub(super) fn autopsies_due(&mut self, now: u64) {
        for autopsy in self.autopsies.0.iter_mut().filter(|autopsy| autopsy.deadline <= now) {
            process::kill(autopsy.pid);
            autopsy.deadline = u64::MAX;
        }
    }

    /// At the end of the server: waits a moment for those under way, and writes what is left as it is.
    pub(super) fn close_autopsies(&mut self) {
        let deadline = time::monotonic_ns().saturating_add(time::nanos(AT_THE_END));
        while !self.autopsies.0.is_empty() && time::monotonic_ns() < deadline {
            // A stop that is asked for once more changes nothing now, but its signal must not keep the set readable.
            if poll::readable(&[self.ear.as_fd()], Some(deadline)).is_err() {
                break;
            }
            self.ear.take();
            while let Ok(Some((pid, outcome))) = process::look() {
                process::reap(pid);
                self.autopsy_ended(pid, outcome);
            }
        }
        for autopsy in std::mem::take(&mut self.autopsies.0) {
            process::kill(autopsy.pid);
            autopsy.capsule.write(None);
        }
    }
}

/// The child's life.
fn live(capsule: &Capsule, mut text: &File, master: Pid, identity: &Identity) -> i32 {
    let _ = title::set("appserver: crash report");
    // It reads what the author of a module wrote: not as root. And whoever serves comes first.
    if identity.assume().is_err() {
        return FAILED;
    }
    process::be_nice();
    let named = capsule.space.names(&capsule.stack).join("\n");
    if Pid::parent() != master {
        capsule.write(Some(named));
        return 0;
    }
    match text.write_all(named.as_bytes()) {
        Ok(()) => 0,
        Err(_) => FAILED,
    }
}

const FAILED: i32 = 1;

fn read(text: &File) -> Option<String> {
    let length = usize::try_from(text.metadata().ok()?.len()).ok()?.min(LONGEST);
    let mut bytes = vec![0; length];
    text.read_exact_at(&mut bytes, 0).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty())
}
