//! The birth of a worker.
//!
//! Takes a generation and a post; gives a child that has its account, its signals and its title, and none of the
//! master's descriptors, and hands it over to `serve`. When and whom to spawn is decided by the loop.
#![forbid(unsafe_code)]

use super::Master;
use super::autopsy::Autopsies;
use super::notify::ServiceManager;
use super::reload::Change;
use super::workers::{Stage, Worker};
use crate::exit::Exit;
use crate::generation::{Generation, Seat};
use crate::log;
use crate::scoreboard::{Plea, Tally};
use crate::sys::fd::EventFd;
use crate::sys::process::{self, Pid};
use crate::sys::signal::{self, Blocked};
use crate::sys::{boot, notify, time, title};
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// What made a fork fail takes a while to pass.
pub const RETRY: Duration = Duration::from_millis(500);

impl Master {
    /// Starts a worker at a post.
    pub(super) fn fill(&mut self, generation: &Rc<Generation>, post: usize, now: u64) {
        if let Err(error) = self.spawn(generation, post) {
            let delay = self.workers.backoff(post).died(now, None).max(RETRY);
            self.workers.backoff(post).hold(now, delay);
            let reason = format!("cannot start a worker: {error}");
            if self.change.is_rolling(generation.number) {
                self.refuse(&reason);
            } else {
                tracing::error!("{reason}; next try in {delay:?}");
            }
        }
    }

    /// Starts one worker for those who queued while none was wanted; it leaves when it has answered them.
    pub(super) fn spawn_for_queue(&mut self) {
        if let Some(current) = self.current.clone()
            && let Err(error) = self.spawn(&current, 0)
        {
            tracing::error!("cannot start a worker for those who wait: {error}");
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
        slot.number_set(post + 1);
        let seat = Seat {
            number: post + 1,
            slot,
            generation: generation.clone(),
            boot: sender,
            commands: theirs,
            handover: self.handover.clone(),
            notice: self.notice.try_clone()?,
            master: self.pid,
            board: self.board,
            kept: self.manager.is_there(),
            // One on trial is refused instead: who asked for it can mend that.
            access: self
                .access
                .as_ref()
                .filter(|_| !self.is_unproven(generation.number))
                .and_then(|access| access.spare().ok()),
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
                self.board.house().count(Tally::Spawned);
                let patience = generation.config.timeouts.boot;
                let deadline = time::monotonic_ns().saturating_add(time::nanos(patience));
                self.workers.add(Worker {
                    slot,
                    post,
                    pid,
                    generation: generation.number,
                    cache: generation.cache.clone(),
                    images: generation.images.clone(),
                    commands,
                    ready_since: None,
                    memory: 0,
                    memory_at_first: 0,
                    retiring: None,
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
        log::set_role(format!("worker {}", post + 1));
        let slot = seat.slot;
        slot.pid_set(Pid::this());
        let set_up = || -> Result<bool, String> {
            signal::ignore_group_signals().map_err(|error| format!("cannot ignore signals: {error}"))?;
            // How to leave is the master's to say, if it lives.
            signal::on_stop(move || slot.plead(Plea::Leaving), &seat.commands)
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
        self.autopsies = Autopsies::default();
        self.change = Change::None;
        self.current = None;
        self.previous = None;
        self.cache = None;
        self.idle_caches.clear();
        self.purges.clear();
        self.upgrade.forget();
        self.doors.clear();
        self.shut.clear();
        self.access = None;
        self.pidfile = None;
        self.control = None;
        self.monitor.forget();
        self.manager = ServiceManager::default();
        notify::forget_environment();
    }
}
