//! How workers are let go, one or all.
//!
//! Takes whom and why; sends commands and sets deadlines, and kills what outlived them. A graceful stop shuts the door
//! first, so that the queue behind it can be accepted to its end.
#![forbid(unsafe_code)]

use super::workers::Stage;
use super::{Master, Phase};
use crate::exit::Exit;
use crate::sys::process::{self, Pid};
use crate::sys::time;
use std::time::Duration;

/// How long workers may take over a quick stop.
const QUICK: Duration = Duration::from_secs(2);

impl Master {
    /// Stops the server, gracefully or quickly; a quick stop overtakes a graceful one.
    pub(super) fn stop(&mut self, exit: Exit, quick: bool) {
        let exit = match self.phase {
            Phase::Stopping { quick: true, .. } => return,
            Phase::Stopping { exit, .. } => exit,
            _ => exit,
        };
        tracing::info!("stopping {}", if quick { "quickly" } else { "gracefully" });
        self.phase = Phase::Stopping { exit, quick };
        self.reload_again = false;
        self.abandon_reload();
        for listener in &self.listeners {
            if let Err(error) = listener.close_door() {
                tracing::warn!("cannot shut the door of {}: {error}", listener.address());
            }
        }
        if quick {
            self.quit_all();
        } else {
            self.drain_all("the server stops");
        }
    }

    /// Lets all workers finish.
    pub(super) fn drain_all(&mut self, why: &'static str) {
        let all: Vec<Pid> = self
            .workers
            .iter()
            .filter(|worker| worker.holds_post())
            .map(|worker| worker.pid)
            .collect();
        all.into_iter().for_each(|pid| self.drain(pid, why));
    }

    /// Lets one worker finish what it has begun; one that never was ready has begun nothing.
    pub(super) fn drain(&mut self, pid: Pid, why: &'static str) {
        let patience = self
            .current
            .as_ref()
            .map_or(&self.started_with, |current| &current.config)
            .timeouts
            .drain;
        let Some(worker) = self.workers.of(pid) else { return };
        match worker.stage {
            Stage::Starting { .. } => self.kill(pid, why.to_owned()),
            Stage::Ready => {
                let deadline = time::monotonic_ns().saturating_add(time::nanos(patience));
                worker.stage = Stage::Draining { deadline, why };
                if matches!(self.phase, Phase::Stopping { .. }) {
                    worker.slot.command_drain_queue();
                } else {
                    worker.slot.command_drain();
                }
                worker.commands.wake();
            }
            Stage::Draining { .. } | Stage::Killed { .. } => {}
        }
    }

    fn quit_all(&mut self) {
        let deadline = time::monotonic_ns().saturating_add(time::nanos(QUICK));
        const WHY: &str = "the server stops quickly";
        for worker in self.workers.iter_mut() {
            match worker.stage {
                Stage::Killed { .. } => {}
                Stage::Starting { .. } => {
                    process::kill(worker.pid);
                    worker.stage = Stage::Killed { why: WHY.to_owned() };
                }
                Stage::Ready | Stage::Draining { .. } => {
                    worker.stage = Stage::Draining { deadline, why: WHY };
                    worker.slot.command_quit();
                    worker.commands.wake();
                }
            }
        }
    }

    /// A worker's deadline has passed.
    pub(super) fn out_of_patience(&mut self, pid: Pid) {
        let Some(worker) = self.workers.of(pid) else { return };
        match worker.stage {
            Stage::Starting { patience, .. } => {
                let advice = "raise timeouts.boot if it needs longer";
                self.start_failed(pid, format!("a worker was not ready within {patience:?}; {advice}"));
            }
            Stage::Draining { why, .. } => {
                self.kill(pid, format!("it had not finished by its deadline ({why})"));
            }
            Stage::Ready | Stage::Killed { .. } => {}
        }
    }

    /// Kills a worker; its end is heard of later.
    pub(super) fn kill(&mut self, pid: Pid, why: String) {
        if let Some(worker) = self.workers.of(pid) {
            process::kill(pid);
            worker.stage = Stage::Killed { why };
        }
    }
}
