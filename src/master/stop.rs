//! How workers are let go, one or all.
//!
//! Takes whom and why; sends commands and sets deadlines, and kills what outlived them. A graceful stop shuts the door
//! first, so that the queue behind it can be accepted to its end.
#![forbid(unsafe_code)]

use super::workers::Stage;
use super::{Master, Phase};
use crate::exit::Exit;
use crate::scoreboard::{Slot, State, Tally};
use crate::sys::process::{self, Pid};
use crate::sys::time;
use std::time::Duration;

/// How long workers may take over a quick stop.
const QUICK: Duration = Duration::from_secs(2);
/// How much longer than its drain a worker lives that does not end it itself.
const GRACE: Duration = Duration::from_secs(2);

impl Master {
    /// Stops the server, gracefully or quickly; a quick stop overtakes a graceful one.
    pub(super) fn stop(&mut self, exit: Exit, quick: bool) {
        let exit = match self.phase {
            Phase::Stopping { quick: true, .. } => return,
            Phase::Stopping { exit, .. } => exit,
            _ => exit,
        };
        tracing::info!("stopping {}", if quick { "quickly" } else { "gracefully" });
        let paused = self.phase == Phase::Paused;
        self.phase = Phase::Stopping { exit, quick };
        self.take_back("the server stops");
        // Whoever sees that workers leave must be able to see why.
        self.tell_house();
        self.manager.stopping(if quick {
            "stopping quickly"
        } else {
            "stopping gracefully"
        });
        self.manager.extend(if quick { QUICK } else { self.patience() });
        self.stop_successor(quick);
        let own: Vec<_> = self.own_listeners().cloned().collect();
        for listener in own {
            // A Unix socket whose door was shut stays shut: no later master may be given it.
            self.manager.remove(&listener);
            listener.close_door();
        }
        if quick {
            self.quit_all();
        } else if paused {
            self.spawn_for_queue();
        } else {
            self.drain_all("the server stops");
            // Those that hand their connections to others learn that there are none any more.
            for worker in self.workers.iter() {
                if matches!(worker.stage, Stage::Draining { .. }) {
                    worker.slot.command_drain_queue();
                    worker.commands.wake();
                }
            }
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

    /// Lets one worker finish and leave where nobody serves after it: its idle connections are closed in good order.
    pub(super) fn drain(&mut self, pid: Pid, why: &'static str) {
        if self.others_serve() {
            let doors_shut = self.doors.iter().any(|door| door.listener.is_shut());
            return self.let_go(pid, why, doors_shut);
        }
        // Behind doors that are not ours others accept what is queued.
        let stopping = matches!(self.phase, Phase::Stopping { .. }) && self.owns_what_is_shared();
        self.dismiss(pid, why, |slot| {
            if stopping {
                slot.command_drain_queue();
            } else {
                slot.command_drain();
            }
        });
    }

    /// Lets one worker finish and leave while others serve: its idle connections go to them. `doors_shut` says that
    /// there are queues behind shut doors for it to empty first.
    pub(super) fn let_go(&mut self, pid: Pid, why: &'static str, doors_shut: bool) {
        self.dismiss(pid, why, |slot| slot.command_hand_over(doors_shut));
    }

    /// Commands a worker to leave and sets its deadline; one that never was ready has begun nothing.
    fn dismiss(&mut self, pid: Pid, why: &'static str, command: impl FnOnce(Slot)) {
        let patience = self.patience();
        let Some(worker) = self.workers.of(pid) else { return };
        match worker.stage {
            // Until it is asked it may go on: whoever changes the state first decides whether it accepts.
            Stage::Starting { .. } if worker.slot.state_change(State::Starting, State::Dead) => {
                self.kill(pid, why.to_owned(), Tally::ExitAsked);
            }
            // It accepts already, and has not been heard yet.
            Stage::Starting { .. } | Stage::Ready => {
                worker.ready_since.get_or_insert_with(time::monotonic_ns);
                let deadline = time::monotonic_ns().saturating_add(time::nanos(patience));
                worker.stage = Stage::Draining { deadline, why };
                command(worker.slot);
                worker.commands.wake();
            }
            Stage::Draining { .. } | Stage::Killed { .. } => {}
        }
    }

    /// How long workers may take to finish. They see to the end of their drain themselves, and tell those who wait; one
    /// that cannot is killed.
    pub(super) fn patience(&self) -> Duration {
        let config = self.current.as_ref().map(|current| &current.config);
        config
            .unwrap_or(&self.started_with)
            .timeouts
            .drain
            .saturating_add(GRACE)
    }

    pub(super) fn quit_all(&mut self) {
        let deadline = time::monotonic_ns().saturating_add(time::nanos(QUICK));
        const WHY: &str = "the server stops quickly";
        for worker in self.workers.iter_mut() {
            match worker.stage {
                Stage::Killed { .. } => {}
                Stage::Starting { .. } => {
                    process::kill(worker.pid);
                    worker.stage = Stage::Killed {
                        why: WHY.to_owned(),
                        tally: Tally::ExitAsked,
                    };
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
                self.board.house().count(Tally::BootExpired);
                let advice = "raise timeouts.boot if it needs longer";
                self.start_failed(pid, format!("a worker was not ready within {patience:?}; {advice}"));
            }
            Stage::Draining { why, .. } => {
                self.kill(
                    pid,
                    format!("it had not finished by its deadline ({why})"),
                    Tally::ExitDrain,
                );
            }
            Stage::Ready | Stage::Killed { .. } => {}
        }
    }

    /// Kills a worker; its end is heard of later.
    pub(super) fn kill(&mut self, pid: Pid, why: String, tally: Tally) {
        if let Some(worker) = self.workers.of(pid) {
            process::kill(pid);
            worker.stage = Stage::Killed { why, tally };
        }
    }
}
