//! From one generation to the next, or not at all.
//!
//! Takes a wish (HUP, the verbs, the first boot); gives a generation that holds every post, or the old one untouched
//! with the reason why. Whatever fails on the way takes the whole back. Who is started and let go meanwhile is decided
//! by the posts; here is only what they should hold.
#![forbid(unsafe_code)]

use super::check::{Check, Verdict};
use super::control::Ticket;
use super::outcome::{Asked, Verb};
use super::{Master, Phase};
use crate::config::Config;
use crate::exit::Exit;
use crate::generation::Generation;
use crate::handler::image::Image;
use crate::listener::Listener;
use crate::sys::process::{self, Outcome, Pid};
use crate::sys::{privilege, time};
use crate::verbs::Reply;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How far a change is.
#[derive(Debug)]
pub enum Change {
    /// None is asked for.
    None,
    /// The modules of a generation to be are read and probed.
    Checking(Box<Checking>),
    /// Its workers take post after post.
    Rolling(Roll),
}

/// A generation to be, before its modules are accepted.
#[derive(Debug)]
pub struct Checking {
    check: Check,
    asked: Asked,
    listeners: Vec<Arc<Listener>>,
}

/// A generation on trial.
#[derive(Debug)]
pub struct Roll {
    /// What the posts should hold.
    pub to: Rc<Generation>,
    /// Somebody changed the number of workers meanwhile; then a refusal does not change it back.
    pub scaled: bool,
    asked: Asked,
    wanted_before: usize,
}

impl Change {
    /// The check under way.
    pub fn check(&self) -> Option<&Check> {
        match self {
            Self::Checking(checking) => Some(&checking.check),
            _ => None,
        }
    }

    /// Whether this generation is on trial.
    pub fn is_rolling(&self, number: u64) -> bool {
        matches!(self, Self::Rolling(roll) if roll.to.number == number)
    }
}

impl Master {
    /// Reads the configuration anew and tries it. A second wish meanwhile is kept, and all that come meanwhile are one.
    pub(super) fn reload(&mut self, tickets: Vec<Ticket>) {
        self.resume();
        if !matches!(self.change, Change::None) {
            self.reload_again.get_or_insert_default().extend(tickets);
            tracing::info!("a reload is under way; another one follows it");
            return;
        }
        tracing::info!("reloading");
        self.manager.reloading();
        let verb = Verb::Reload;
        let asked = Asked { verb, tickets };
        let loaded = (self.hooks.load)().and_then(|(mut config, only_default_bind)| {
            self.keep_what_stays(&mut config);
            let listeners = self.listeners_for(&config, only_default_bind)?;
            Ok((config, listeners))
        });
        match loaded {
            Err(reason) => self.give_up(asked, &reason),
            Ok((config, listeners)) => self.try_generation(config, listeners, asked),
        }
    }

    /// Goes back to the generation before, as it lies in memory. A change under way is taken back instead: then the
    /// generation before is the one that serves.
    pub(super) fn rollback(&mut self, tickets: Vec<Ticket>) {
        let asked = Asked {
            verb: Verb::Rollback,
            tickets,
        };
        if self.current.is_none() {
            return self.tell_refused(asked, "the first generation is still being started");
        }
        if !matches!(self.change, Change::None) {
            const WHY: &str = "a rollback took it back";
            // One that was to follow is older than the wish to go back.
            self.forget_queued(WHY);
            self.refuse(WHY);
            let serving = self.current.as_ref().map_or(0, |current| current.number);
            self.tell_done(asked, serving);
            return;
        }
        let Some(previous) = self.previous.clone() else {
            return self.tell_refused(asked, "there is no generation before this one");
        };
        self.resume();
        match self.listeners_of(&previous) {
            Err(reason) => self.give_up(asked, &reason),
            Ok(listeners) => {
                self.manager.reloading();
                self.manager.extend(longest_change(&previous.config));
                tracing::info!("rolling back to generation {}", previous.number);
                self.roll(previous.config.clone(), previous.images.clone(), listeners, asked);
            }
        }
    }

    /// Has a child read and probe the modules of a configuration.
    pub(super) fn try_generation(&mut self, config: Config, listeners: Vec<Arc<Listener>>, asked: Asked) {
        self.manager.extend(longest_change(&config));
        match self.check(config) {
            Ok(check) => {
                self.change = Change::Checking(Box::new(Checking {
                    check,
                    asked,
                    listeners,
                }));
            }
            Err(error) => {
                self.give_up(
                    asked,
                    &format!("cannot start the process that loads the modules: {error}"),
                );
            }
        }
    }

    /// The check has said something.
    pub(super) fn hear_check(&mut self) {
        let Change::Checking(checking) = &mut self.change else {
            return;
        };
        match checking.check.hear() {
            // A child that went away is reaped in a moment, and how it ended is the reason.
            Verdict::Pending => {}
            Verdict::Gone => process::kill(checking.check.pid),
            Verdict::Refused(reason) => self.refuse(&reason),
            Verdict::Accepted(images) => self.accept(images),
        }
    }

    /// The child of the check ended; true when it was that.
    pub(super) fn check_ended(&mut self, pid: Pid, outcome: Outcome) -> bool {
        let Change::Checking(checking) = &mut self.change else {
            return false;
        };
        if checking.check.pid != pid {
            return false;
        }
        // Its verdict may still lie in the socket.
        match checking.check.hear() {
            Verdict::Pending | Verdict::Gone => {
                let reason = checking.check.epitaph(outcome);
                self.refuse(&reason);
            }
            Verdict::Refused(reason) => self.refuse(&reason),
            Verdict::Accepted(images) => self.accept(images),
        }
        true
    }

    /// Ends a check that takes too long.
    pub(super) fn check_deadline(&mut self, now: u64) {
        if let Some(check) = self.change.check().filter(|check| check.deadline <= now) {
            let reason = check.too_slow();
            process::kill(check.pid);
            self.refuse(&reason);
        }
    }

    /// The modules load: their generation is tried.
    fn accept(&mut self, images: Vec<Image>) {
        let Change::Checking(checking) = std::mem::replace(&mut self.change, Change::None) else {
            return;
        };
        let Checking {
            check,
            asked,
            listeners,
        } = *checking;
        for image in &images {
            tracing::info!(
                sha256 = image.sha256(),
                build_id = image.build_id(),
                bytes = image.len(),
                generation = self.generations + 1,
                "module {} read",
                image.path().display()
            );
        }
        self.roll(check.config, images, listeners, asked);
    }

    fn roll(&mut self, config: Config, images: Vec<Image>, listeners: Vec<Arc<Listener>>, asked: Asked) {
        self.generations += 1;
        let cache = self.cache_for(&config);
        let to = Rc::new(Generation {
            number: self.generations,
            config,
            images,
            listeners,
            loaded_at: time::unix_seconds(),
            cache,
        });
        let Some(current) = &self.current else {
            self.change = Change::None;
            self.begin_cache(&to);
            self.current = Some(to);
            self.go_on();
            return;
        };
        let wanted_before = self.wanted;
        // TTIN and TTOU outlive a reload that does not change the number itself.
        if to.config.workers != current.config.workers {
            self.wanted = to.config.workers;
        }
        self.change = Change::Rolling(Roll {
            to,
            scaled: false,
            asked,
            wanted_before,
        });
    }

    /// Completes a change once every post holds a ready worker of the new generation; true when that has shut doors,
    /// whose queues those who leave now must empty.
    pub(super) fn complete_if_rolled(&mut self) -> bool {
        let Change::Rolling(roll) = &self.change else {
            return false;
        };
        if self.phase != Phase::Serving || !self.is_held_by(roll.to.number) {
            return false;
        }
        let Change::Rolling(roll) = std::mem::replace(&mut self.change, Change::None) else {
            return false;
        };
        self.workers.forgive();
        self.previous = self.current.replace(roll.to.clone());
        let cache_before = std::mem::replace(&mut self.cache, roll.to.cache.clone());
        self.leave_cache(cache_before);
        let doors_shut = self.shut_doors_but(&roll.to);
        self.show_title();
        self.tell_done(roll.asked, roll.to.number);
        self.go_on();
        doors_shut
    }

    /// Refuses the change under way for this reason and takes back what it began.
    pub(super) fn refuse(&mut self, reason: &str) {
        let (asked, killed) = match std::mem::replace(&mut self.change, Change::None) {
            Change::None => return,
            Change::Checking(checking) => (checking.asked, Some(checking.check.pid)),
            Change::Rolling(roll) => {
                if !roll.scaled {
                    self.wanted = roll.wanted_before;
                }
                self.leave_cache(roll.to.cache.clone());
                (roll.asked, None)
            }
        };
        if let Some(pid) = killed {
            process::kill(pid);
        }
        self.give_up(asked, reason);
    }

    /// A change ends before, or by, its first step that failed. Workers of it that serve already do so until the posts
    /// have replaced them.
    fn give_up(&mut self, asked: Asked, reason: &str) {
        if self.current.is_none() {
            self.decline(reason, Exit::Module);
            return;
        }
        self.forget_doors();
        self.tell_refused(asked, reason);
        self.go_on();
    }

    /// Takes a change back because of something else that was asked for.
    pub(super) fn take_back(&mut self, reason: &str) {
        self.forget_queued(reason);
        if self.current.is_none() {
            // The first boot: nobody is told, and nothing is to be undone but the child.
            if let Change::Checking(checking) = std::mem::replace(&mut self.change, Change::None) {
                process::kill(checking.check.pid);
            }
            return;
        }
        self.refuse(reason);
    }

    /// Refuses the reload that was to follow, to all who asked for it.
    fn forget_queued(&mut self, reason: &str) {
        for ticket in self.reload_again.take().into_iter().flatten() {
            self.reply(ticket, &Reply::refused(reason));
        }
    }

    /// Begins the reload that was asked for meanwhile.
    fn go_on(&mut self) {
        if let Some(tickets) = self.reload_again.take() {
            self.reload(tickets);
        }
    }

    /// Keeps what a reload cannot bring about as it is, and says so.
    fn keep_what_stays(&mut self, config: &mut Config) {
        let before = &self.started_with;
        let stays = [
            ("pidfile", before.pidfile != config.pidfile),
            ("umask", before.umask != config.umask),
            ("chdir", before.chdir != config.chdir),
            ("[log]", before.log != config.log),
            ("[admin]", before.admin != config.admin),
            ("[control]", before.control != config.control),
            (
                "user and group",
                (&before.user, &before.group) != (&config.user, &config.group),
            ),
        ];
        for (name, _) in stays.iter().filter(|(_, changed)| *changed) {
            tracing::warn!("{name}: a change takes effect at the next start or upgrade, not at a reload");
        }
        (config.log, config.user, config.group) = (before.log.clone(), before.user.clone(), before.group.clone());
        // An account that was renamed or renumbered meanwhile is the same one by name.
        if let Ok(identity) = privilege::look_up(before.user.as_deref(), before.group.as_deref()) {
            self.identity = identity;
        }
    }
}

/// How long a change may take: the check and then the workers may need their whole patience, once and more on the way.
fn longest_change(config: &Config) -> Duration {
    config.timeouts.boot * 3
}
