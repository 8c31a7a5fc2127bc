//! The birth of a worker.
//!
//! Takes a generation and a post; gives a child that has its account, its signals and its title, and none of the
//! master's descriptors, and hands it over to `serve`. When and whom to spawn is decided by the loop.
#![forbid(unsafe_code)]

use super::Master;
use super::reload::Reload;
use super::workers::{Stage, Worker};
use crate::exit::Exit;
use crate::generation::{Generation, Seat};
use crate::log;
use crate::sys::fd::EventFd;
use crate::sys::process::{self, Pid};
use crate::sys::signal::{self, Blocked};
use crate::sys::{boot, time, title};
use std::io;
use std::rc::Rc;

impl Master {
    /// Fills the vacant posts of the generation that serves and, in a reload, of the one that is to follow.
    pub(super) fn fill_posts(&mut self, now: u64) {
        if let Some(current) = self.current.clone() {
            for post in self.workers.vacant(current.number, self.wanted) {
                if self.workers.vacant_until(post) <= now {
                    self.fill(&current, post, now);
                }
            }
        }
        if let Reload::Starting { generation, wanted } = &self.reload {
            let (next, wanted) = (generation.clone(), *wanted);
            for post in self.workers.vacant(next.number, wanted) {
                // One that failed has ended the reload, so a post is vacant only before its first worker.
                if self.reload.is_starting(next.number) {
                    self.fill(&next, post, now);
                }
            }
        }
    }

    fn fill(&mut self, generation: &Rc<Generation>, post: usize, now: u64) {
        if let Err(error) = self.spawn(generation, post) {
            let delay = self.workers.backoff(post).died(now, None).max(RETRY);
            self.workers.backoff(post).hold(now, delay);
            let reason = format!("cannot start a worker: {error}");
            if self.reload.is_starting(generation.number) {
                self.refuse_reload(&reason);
            } else {
                tracing::error!("{reason}; next try in {delay:?}");
            }
        }
    }

    fn spawn(&mut self, generation: &Rc<Generation>, post: usize) -> io::Result<()> {
        let (receiver, sender) = boot::channel()?;
        let commands = EventFd::new()?;
        let theirs = commands.try_clone()?;
        let slot = self
            .board
            .claim(generation.number)
            .ok_or_else(|| io::Error::other("the scoreboard is full"))?;
        let seat = Seat {
            number: post + 1,
            slot,
            generation: generation.clone(),
            listeners: self.listeners.clone(),
            boot: sender,
            commands: theirs,
            master: self.pid,
        };
        // In an Option, so that the child can close its copies although they live in this frame.
        let mut ours = Some((receiver, commands));
        let born = process::fork(|mask| {
            ours = None;
            i32::from(self.be_born(seat, post, mask).code())
        });
        match born {
            Ok(pid) => {
                let (boot, commands) = ours.expect("only the child closes them");
                slot.pid_set(pid);
                let patience = generation.config.timeouts.boot;
                let deadline = time::monotonic_ns().saturating_add(time::nanos(patience));
                self.workers.add(Worker {
                    slot,
                    post,
                    pid,
                    generation: generation.number,
                    commands,
                    ready_since: None,
                    stage: Stage::Starting {
                        boot,
                        deadline,
                        patience,
                    },
                });
                Ok(())
            }
            Err(error) => {
                slot.release();
                Err(error)
            }
        }
    }

    /// In the child: from a copy of the master to a worker.
    fn be_born(&mut self, seat: Seat, post: usize, mask: Blocked) -> Exit {
        let identity = self.identity.clone();
        let serve = self.hooks.serve;
        self.forget();
        self.listeners.clear();
        log::set_role(format!("worker {}", post + 1));
        let slot = seat.slot;
        slot.pid_set(Pid::this());
        let set_up = || -> Result<bool, String> {
            signal::ignore_group_signals().map_err(|error| format!("cannot ignore signals: {error}"))?;
            // It may have been sent to the whole group, the master included: then nobody else accepts what is queued.
            signal::on_stop(move || slot.command_drain_queue(), &seat.commands)
                .map_err(|error| format!("cannot listen to signals: {error}"))?;
            drop(mask);
            identity.assume().map_err(|error| error.to_string())?;
            // After the change of user, which clears it.
            process::term_when_parent_ends(seat.master).map_err(|error| format!("cannot watch the master: {error}"))
        };
        match set_up() {
            Ok(true) => {}
            // The master ended before we could ask to be told.
            Ok(false) => return Exit::Done,
            Err(reason) => {
                seat.boot.failed(&reason);
                return Exit::Start;
            }
        }
        let _ = title::set(&format!(
            "appserver: worker {} gen {}",
            post + 1,
            seat.generation.number
        ));
        serve(seat)
    }

    /// In a child: closes what is the master's alone. Nothing is removed or told; only descriptors go.
    pub(super) fn forget(&mut self) {
        self.ear.close();
        self.workers.forget();
        self.reload = Reload::None;
        self.current = None;
        self.access = None;
        self.pidfile = None;
    }
}

/// What made a fork fail takes a while to pass.
const RETRY: std::time::Duration = std::time::Duration::from_millis(500);
