//! How a change ended, told to everyone who wants to know.
//!
//! Takes the end of a reload, rollback or upgrade; gives it to the log, the house page, the service manager and those
//! who asked over the control socket. It changes nothing.
#![forbid(unsafe_code)]

use super::Master;
use super::control::Ticket;
use super::reload::Change;
use super::workers::Stage;
use crate::scoreboard::{State, Tally};
use crate::status::Outcome;
use crate::sys::time;
use crate::verbs::Reply;
use std::time::Duration;

/// A change that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Read everything anew.
    Reload,
    /// Return to the generation before.
    Rollback,
    /// Hand over to a new binary.
    Upgrade,
}

impl Verb {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Rollback => "rollback",
            Self::Upgrade => "upgrade",
        }
    }
}

/// A change and those who wait for its end.
#[derive(Debug)]
pub struct Asked {
    /// What was asked for.
    pub verb: Verb,
    /// Who waits.
    pub tickets: Vec<Ticket>,
}

/// How soon it is looked at again whether a change can be seen.
const LOOK: Duration = Duration::from_millis(2);
/// How long a worker that does not run can hold a reply back.
const UNSEEN: Duration = Duration::from_secs(1);

impl Master {
    /// A change is complete; `generation` serves.
    pub(super) fn tell_done(&mut self, asked: Asked, generation: u64) {
        self.board.house().count(match asked.verb {
            Verb::Reload => Tally::ReloadsDone,
            Verb::Rollback => Tally::Rollbacks,
            Verb::Upgrade => Tally::UpgradesDone,
        });
        tracing::info!(
            "ready: {} workers (generation {generation}), {} complete",
            self.wanted,
            asked.verb.name()
        );
        self.tell(asked, generation, None);
    }

    /// A change was refused for `reason`; what served before serves on.
    pub(super) fn tell_refused(&mut self, asked: Asked, reason: &str) {
        let serving = self.current.as_ref().map_or(0, |current| current.number);
        self.board.house().count(match asked.verb {
            Verb::Reload => Tally::ReloadsRefused,
            Verb::Rollback => Tally::RollbacksRefused,
            Verb::Upgrade => Tally::UpgradesRefused,
        });
        tracing::error!(
            "{} refused: {reason}; generation {serving} goes on serving",
            asked.verb.name()
        );
        self.tell(asked, serving, Some(reason.to_owned()));
    }

    fn tell(&mut self, asked: Asked, generation: u64, reason: Option<String>) {
        let status = match &reason {
            None => self.service_status(),
            Some(reason) => format!(
                "{} refused: {reason}; generation {generation} serves on",
                asked.verb.name()
            ),
        };
        // What is refused because of a change under way does not end that change.
        if matches!(self.change, Change::None) {
            self.manager.reloaded(&status);
        } else {
            self.manager.status(&status);
        }
        self.told.last = Some(Outcome {
            verb: asked.verb.name().to_owned(),
            outcome: if reason.is_none() { "done" } else { "refused" }.to_owned(),
            reason: reason.clone(),
            generation,
            at: time::unix_seconds(),
        });
        let reply = match reason {
            None => Reply::done(format!(
                "{} complete: generation {generation} serves",
                asked.verb.name()
            )),
            Some(reason) => Reply::refused(format!("{reason}; generation {generation} goes on serving")),
        };
        let at_latest = time::monotonic_ns().saturating_add(time::nanos(UNSEEN));
        self.replies.extend(
            asked
                .tickets
                .into_iter()
                .map(|ticket| (ticket, reply.clone(), at_latest)),
        );
    }

    /// Answers those who asked for a change, once it can be seen from outside: a worker that was told to go may accept a
    /// last connection before it has read so.
    pub(super) fn reply_when_seen(&mut self, now: u64) {
        if self.replies.is_empty() {
            return;
        }
        let seen = !self.an_old_worker_accepts();
        for (ticket, reply, _) in self
            .replies
            .extract_if(.., |(_, _, at_latest)| seen || *at_latest <= now)
            .collect::<Vec<_>>()
        {
            self.reply(ticket, &reply);
        }
    }

    /// When to look again whether replies can be sent (ns).
    pub(super) fn replies_deadline(&self) -> Option<u64> {
        (!self.replies.is_empty()).then(|| time::monotonic_ns().saturating_add(time::nanos(LOOK)))
    }

    fn an_old_worker_accepts(&self) -> bool {
        let told_to_go = self
            .workers
            .iter()
            .filter(|worker| matches!(worker.stage, Stage::Draining { .. }));
        told_to_go.into_iter().any(|worker| worker.slot.state() == State::Ready)
    }
}
