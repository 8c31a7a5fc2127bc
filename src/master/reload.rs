//! From one generation to the next.
//!
//! Takes a HUP (or the start); gives a generation whose workers are all ready and only then lets the old one go.
//! Whatever fails on the way ends the attempt, says why and leaves the running generation as it was.
#![forbid(unsafe_code)]

use super::check::{Check, Verdict};
use super::workers::Stage;
use super::{MOST_WORKERS, Master, Phase};
use crate::config::Config;
use crate::exit::Exit;
use crate::generation::Generation;
use crate::sys::privilege;
use crate::sys::process::{self, Outcome, Pid};
use std::rc::Rc;

/// How far the next generation is.
#[derive(Debug)]
pub enum Reload {
    /// None is asked for.
    None,
    /// Its modules are read and probed.
    Checking(Box<Check>),
    /// Its workers are started beside the old ones.
    Starting {
        /// What they serve.
        generation: Rc<Generation>,
        /// How many of them must be ready.
        wanted: usize,
    },
}

impl Reload {
    /// The check under way.
    pub fn check(&self) -> Option<&Check> {
        match self {
            Self::Checking(check) => Some(check),
            _ => None,
        }
    }

    /// Whether workers of this generation are being started beside others.
    pub fn is_starting(&self, number: u64) -> bool {
        matches!(self, Self::Starting { generation, .. } if generation.number == number)
    }

    /// One worker more or fewer.
    pub fn scale(&mut self, by: isize) {
        if let Self::Starting { wanted, .. } = self {
            *wanted = wanted.saturating_add_signed(by).clamp(1, MOST_WORKERS);
        }
    }
}

impl Master {
    /// HUP: reads the configuration anew and tries it. A second one meanwhile is kept for afterwards.
    pub(super) fn start_reload(&mut self) {
        self.resume();
        if !matches!(self.reload, Reload::None) {
            self.reload_again = true;
            tracing::info!("a reload is under way; another one follows it");
            return;
        }
        match (self.hooks.load)() {
            Err(reason) => self.refuse_reload(&reason),
            Ok(mut config) => {
                tracing::info!("reloading");
                self.warn_of_what_stays(&config);
                // What a reload does not change, it does not change for new workers either.
                let stays = &self.started_with;
                (config.log, config.user, config.group) = (stays.log.clone(), stays.user.clone(), stays.group.clone());
                self.try_generation(config);
            }
        }
    }

    /// Has a child read and probe the modules of a configuration.
    pub(super) fn try_generation(&mut self, config: Config) {
        match self.check(config) {
            Ok(check) => self.reload = Reload::Checking(Box::new(check)),
            Err(error) => self.check_failed(&format!("cannot start the process that loads the modules: {error}")),
        }
    }

    /// The check has said something.
    pub(super) fn hear_check(&mut self) {
        let Reload::Checking(check) = &mut self.reload else {
            return;
        };
        match check.hear() {
            // A child that went away is reaped in a moment, and how it ended is the reason.
            Verdict::Pending => {}
            Verdict::Gone => process::kill(check.pid),
            Verdict::Refused(reason) => self.check_failed(&reason),
            Verdict::Accepted(images) => {
                self.generations += 1;
                let generation = Rc::new(Generation {
                    number: self.generations,
                    config: check.config.clone(),
                    images,
                });
                for image in &generation.images {
                    tracing::info!(
                        sha256 = image.sha256(),
                        build_id = image.build_id(),
                        bytes = image.len(),
                        generation = generation.number,
                        "module {} read",
                        image.path().display()
                    );
                }
                self.accept(generation);
            }
        }
    }

    fn accept(&mut self, generation: Rc<Generation>) {
        let Some(current) = &self.current else {
            self.reload = Reload::None;
            self.current = Some(generation);
            if std::mem::take(&mut self.reload_again) {
                self.start_reload();
            }
            return;
        };
        // TTIN and TTOU outlive a reload that does not change the number itself.
        let asked = generation.config.workers;
        let wanted = if asked == current.config.workers {
            self.wanted
        } else {
            asked
        };
        self.reload = Reload::Starting { generation, wanted };
    }

    /// The child of the check ended; true when it was that.
    pub(super) fn check_ended(&mut self, pid: Pid, outcome: Outcome) -> bool {
        let Reload::Checking(check) = &mut self.reload else {
            return false;
        };
        if check.pid != pid {
            return false;
        }
        // Its verdict may still lie in the socket.
        match check.hear() {
            Verdict::Pending | Verdict::Gone => {
                let reason = check.epitaph(outcome);
                self.check_failed(&reason);
            }
            Verdict::Refused(reason) => self.check_failed(&reason),
            Verdict::Accepted(_) => {}
        }
        true
    }

    /// Ends a check that takes too long.
    pub(super) fn check_deadline(&mut self, now: u64) {
        if let Reload::Checking(check) = &self.reload
            && check.deadline <= now
        {
            let reason = check.too_slow();
            process::kill(check.pid);
            self.check_failed(&reason);
        }
    }

    fn check_failed(&mut self, reason: &str) {
        if self.current.is_some() {
            self.refuse_reload(reason);
        } else {
            self.reload = Reload::None;
            tracing::error!("{reason}");
            self.stop(Exit::Module, true);
        }
    }

    /// Ends a reload that cannot be completed and undoes what it began.
    pub(super) fn refuse_reload(&mut self, reason: &str) {
        let serving = self.current.as_ref().map_or(0, |current| current.number);
        tracing::error!("reload refused: {reason}; generation {serving} goes on serving");
        self.abandon_reload();
        if std::mem::take(&mut self.reload_again) {
            self.start_reload();
        }
    }

    /// Takes back a reload: its check and its workers go, whoever served before serves on.
    pub(super) fn abandon_reload(&mut self) {
        match std::mem::replace(&mut self.reload, Reload::None) {
            Reload::None => {}
            Reload::Checking(check) => process::kill(check.pid),
            Reload::Starting { generation, .. } => {
                let (mut young, mut serving) = (Vec::new(), Vec::new());
                for worker in self
                    .workers
                    .iter()
                    .filter(|worker| worker.generation == generation.number)
                {
                    match worker.stage {
                        Stage::Starting { .. } => young.push(worker.pid),
                        // Ready ones may have accepted connections, which they finish.
                        Stage::Ready => serving.push(worker.pid),
                        Stage::Draining { .. } | Stage::Killed { .. } => {}
                    }
                }
                young
                    .into_iter()
                    .for_each(|pid| self.kill(pid, "its generation was refused".to_owned()));
                serving
                    .into_iter()
                    .for_each(|pid| self.drain(pid, "its generation was refused"));
            }
        }
    }

    /// Completes a reload once every worker of the next generation is ready.
    pub(super) fn advance_reload(&mut self) {
        let Reload::Starting { generation, wanted } = &self.reload else {
            return;
        };
        if self.phase != Phase::Serving || self.workers.ready(generation.number) < *wanted {
            return;
        }
        let (generation, wanted) = (generation.clone(), *wanted);
        self.reload = Reload::None;
        self.wanted = wanted;
        self.workers.forgive();
        tracing::info!(
            "ready: {wanted} workers (generation {}), reload complete",
            generation.number
        );
        let old: Vec<Pid> = self
            .workers
            .iter()
            .filter(|worker| worker.generation != generation.number && worker.holds_post())
            .map(|worker| worker.pid)
            .collect();
        self.current = Some(generation);
        old.into_iter().for_each(|pid| self.drain(pid, "replaced by a reload"));
        self.show_title();
        if std::mem::take(&mut self.reload_again) {
            self.start_reload();
        }
    }

    /// Says which parts of a new configuration a reload cannot bring about.
    fn warn_of_what_stays(&mut self, config: &Config) {
        let before = &self.started_with;
        let stays = [
            ("listeners", before.listeners != config.listeners),
            ("pidfile", before.pidfile != config.pidfile),
            ("umask", before.umask != config.umask),
            ("chdir", before.chdir != config.chdir),
            ("[log]", before.log != config.log),
            (
                "user and group",
                (&before.user, &before.group) != (&config.user, &config.group),
            ),
        ];
        for (name, _) in stays.iter().filter(|(_, changed)| *changed) {
            tracing::warn!("{name} differ from what the server was started with; a restart is needed for that");
        }
        // An account that was renamed or renumbered meanwhile is the same one by name.
        if let Ok(identity) = privilege::look_up(before.user.as_deref(), before.group.as_deref()) {
            self.identity = identity;
        }
    }
}
