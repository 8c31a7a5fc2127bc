//! The new master's side of an upgrade: from heir to master.
//!
//! Takes the line to the old master; gives word to it once all workers are ready, or the reason why that will not be. Until
//! then nothing shared is touched: no door is shut, no file removed, no pidfile written. It also gives back the slots of
//! workers whose master went away before it could.
#![forbid(unsafe_code)]

use super::control::Control;
use super::inheritance::Line;
use super::outcome::Verb;
use super::pidfile::Pidfile;
use super::{Master, Phase};
use crate::exit::Exit;
use crate::handler::image::Image;
use crate::listener::Listener;
use crate::scoreboard::{Slot, State};
use crate::status::Outcome;
use crate::sys::path::absolute;
use crate::sys::process::Pid;
use crate::sys::time;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What a master is to the one before it.
#[derive(Debug, Default)]
pub struct Heir {
    line: Option<Rc<Line>>,
    predecessor: Option<Pid>,
    /// The modules that the old master serves; the first generation takes them from here.
    images: Vec<Image>,
    /// Listeners of the old master that our configuration does not ask for.
    unwanted: Vec<Listener>,
    /// Where the verbs are to be heard, once they are ours to hear.
    control: Option<Control>,
    /// The control socket of the old master, as long as nobody has asked for it.
    handed_control: Option<(PathBuf, OwnedFd)>,
    /// `control` is that of the old master.
    control_is_handed: bool,
    taken_over: bool,
    declined: bool,
}

impl Heir {
    /// One that is to take over.
    pub fn of(line: Rc<Line>, predecessor: Pid, images: Vec<Image>, control: Option<(PathBuf, OwnedFd)>) -> Self {
        Self {
            line: Some(line),
            predecessor: Some(predecessor),
            images,
            handed_control: control,
            ..Self::default()
        }
    }

    /// Names the listeners that are given up when we have taken over.
    pub fn leave(&mut self, unwanted: Vec<Listener>) {
        self.unwanted = unwanted;
    }

    /// The old master's control socket, if it is at this path.
    pub fn control_at(&mut self, path: &Path) -> Option<Control> {
        let path = absolute(path);
        let (path, socket) = self.handed_control.take_if(|(handed, _)| *handed == path)?;
        self.control_is_handed = true;
        Some(Control::adopt(socket, path))
    }

    /// Keeps the control socket until we have taken over; gives None in its place.
    pub fn keep(&mut self, control: Option<Control>) -> Option<Control> {
        self.control = control;
        None
    }

    /// Removes what we made and will not use, when we leave before we have taken over.
    pub fn unlink(&self) {
        if let Some(control) = self.control.as_ref().filter(|_| !self.control_is_handed) {
            control.unlink();
        }
    }

    /// Whether another master still has everything that is shared.
    pub fn is_waiting(&self) -> bool {
        self.line.is_some() && !self.taken_over
    }

    /// The modules that were handed over, as long as we have not taken over.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// Where successors tell a shepherd their pids.
    pub fn shepherd(&self) -> Option<BorrowedFd<'_>> {
        self.line.as_ref().and_then(|line| line.shepherd())
    }

    /// In a forked child: closes what is the master's alone.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

/// Slots of workers whose own master has gone.
#[derive(Debug, Default)]
pub struct Orphans {
    /// Whose end is waited for, before its slots are touched.
    of: Option<Pid>,
    next: Option<u64>,
    /// How often none was found that could be given back.
    in_vain: u32,
}

/// How often orphans are looked for. Nothing hangs on it but slots, of which there are many.
const LOOK: Duration = Duration::from_secs(1);
/// Looks after which a slot is left as it is: its process is one that nobody reaps.
const LOOKS: u32 = 600;

impl Orphans {
    /// From now on looks for slots that the master `of` leaves behind; None for one that is gone already.
    pub fn expect(&mut self, of: Option<Pid>, now: u64) {
        *self = Self {
            of,
            next: Some(now),
            in_vain: 0,
        };
    }

    /// When to look next (ns).
    pub fn next(&self) -> Option<u64> {
        self.next
    }
}

impl Master {
    /// Whether doors, socket files and pidfile are ours to shut and remove.
    pub(super) fn owns_what_is_shared(&self) -> bool {
        !self.upgrade.heir.is_waiting() && self.phase != Phase::Handed
    }

    /// The listeners whose doors and files are ours.
    pub(super) fn own_listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        let (owner, handed) = (self.owns_what_is_shared(), self.phase == Phase::Handed);
        let listeners = self.doors.iter().map(|door| &door.listener);
        listeners.filter(move |listener| owner || (!handed && !listener.is_handed()))
    }

    /// Whether others go on serving what our workers leave.
    pub(super) fn others_serve(&self) -> bool {
        self.phase == Phase::Handed || self.upgrade.heir.declined
    }

    /// All workers of the first generation are ready: from now on we are the master.
    pub(super) fn take_over(&mut self, generation: u64) {
        if !self.upgrade.heir.is_waiting() {
            return;
        }
        let heir = &self.upgrade.heir;
        let (Some(line), Some(predecessor)) = (heir.line.clone(), heir.predecessor) else {
            return;
        };
        let pidfile = self.started_with.pidfile.as_deref();
        match pidfile.map(|path| Pidfile::succeed(path, predecessor)).transpose() {
            Ok(pidfile) => self.pidfile = pidfile,
            Err(error) => {
                self.decline(&error.to_string(), Exit::Start);
                return;
            }
        }
        // The old workers accept what is queued behind these doors, when they hear that they are to leave.
        for listener in std::mem::take(&mut self.upgrade.heir.unwanted) {
            listener.close_door();
            listener.unlink();
        }
        self.control = self.upgrade.heir.control.take();
        if let Some((path, socket)) = self.upgrade.heir.handed_control.take() {
            Control::adopt(socket, path).unlink();
        }
        for door in self.doors.iter().filter(|door| door.listener.is_handed()) {
            if let Err(error) = door.listener.adjust(&door.wanted) {
                tracing::error!("{error}");
            }
        }
        line.ready();
        self.upgrade.heir.taken_over = true;
        self.upgrade.heir.images.clear();
        for door in &self.doors {
            self.manager.store(&door.listener);
        }
        let status = self.service_status();
        self.manager.ready(&status);
        self.told.last = Some(Outcome {
            verb: Verb::Upgrade.name().to_owned(),
            outcome: "done".to_owned(),
            reason: None,
            generation,
            at: time::unix_seconds(),
        });
        self.upgrade.orphans.expect(Some(predecessor), time::monotonic_ns());
        tracing::info!("taken over from process {predecessor}");
    }

    /// The first generation will not come up: says why, to the old master too, and leaves. One that has begun to serve
    /// beside the old one finishes what it accepted.
    pub(super) fn decline(&mut self, reason: &str, exit: Exit) {
        tracing::error!("{reason}");
        let waiting = self.upgrade.heir.is_waiting();
        if waiting && let Some(line) = &self.upgrade.heir.line {
            line.refuse(reason);
            self.upgrade.heir.declined = true;
        }
        self.stop(exit, !waiting);
    }

    /// Gives back the slots of workers that died without a master.
    pub(super) fn look_for_orphans(&mut self, now: u64) {
        if self.upgrade.orphans.next.is_none_or(|next| next > now) {
            return;
        }
        self.upgrade.orphans.next = Some(now.saturating_add(time::nanos(LOOK)));
        // As long as it lives it reaps its own workers; a second hand would count them twice.
        if self.upgrade.orphans.of.is_some_and(|of| Pid::parent() == of) {
            return;
        }
        if self.upgrade.orphans.in_vain == 0 {
            // Until its predecessor named it, the service manager did not hear this process.
            self.manager.repeat(self.doors.iter().map(|door| &*door.listener));
        }
        let ours: Vec<usize> = self.workers.iter().map(|worker| worker.slot.index()).collect();
        let (dead, alive): (Vec<Slot>, Vec<Slot>) = self
            .board
            .slots()
            .filter(|slot| slot.state() != State::Empty && !ours.contains(&slot.index()))
            .partition(|slot| !slot.pid().is_alive());
        for slot in &dead {
            if let Some(access) = &self.access {
                access.flush(slot.log());
            }
            slot.bury();
        }
        self.upgrade.orphans.in_vain += 1;
        if alive.is_empty() || self.upgrade.orphans.in_vain > LOOKS {
            self.upgrade.orphans.next = None;
        }
    }
}
