//! How many workers there should be.
//!
//! Takes TTIN, TTOU, WINCH and the verb `scale`; sets the number wanted, and the posts do the rest. The number outlives
//! reloads that do not change it themselves.
#![forbid(unsafe_code)]

use super::control::Ticket;
use super::reload::Change;
use super::{Master, Phase};
use crate::config::MOST_WORKERS;
use crate::sys::{process, time};
use crate::verbs::{Reply, Scale};

/// Who asked for a number of workers over the control socket and waits for them.
#[derive(Debug)]
pub struct Asking {
    ticket: Ticket,
    /// Until when (ns).
    deadline: u64,
}

impl Master {
    /// The verb `scale`: answered when every worker wanted is ready.
    pub(super) fn scale(&mut self, scale: Scale, ticket: Ticket) {
        self.scale_to(scale.from(self.wanted, MOST_WORKERS));
        // As long as they may take, and as those that follow the first to fail.
        let boot = self.current.as_ref().map(|current| current.config.timeouts.boot);
        let patience = boot.unwrap_or_default().saturating_mul(2);
        self.asking.push(Asking {
            ticket,
            deadline: time::monotonic_ns().saturating_add(time::nanos(patience)),
        });
    }

    /// Answers those who asked for a number of workers, once these are ready or their patience is over.
    pub(super) fn tell_scaled(&mut self, now: u64) {
        if self.asking.is_empty() {
            return;
        }
        let wanted = self.wanted;
        let held = self
            .workers
            .posts(wanted)
            .iter()
            .filter(|post| post.serving.is_some())
            .count();
        let reply = if self.phase != Phase::Serving {
            Reply::refused("the server stops its workers")
        } else if held == wanted {
            Reply::done(format!("{wanted} workers serve"))
        } else {
            Reply::refused(format!(
                "{held} of {wanted} workers are ready so far, the others are tried again; the log tells why"
            ))
        };
        let settled = self.phase != Phase::Serving || held == wanted;
        for asking in self
            .asking
            .extract_if(.., |asking| settled || asking.deadline <= now)
            .collect::<Vec<_>>()
        {
            self.reply(asking.ticket, &reply);
        }
    }

    /// When to look again whether patience is over (ns).
    pub(super) fn scaled_deadline(&self) -> Option<u64> {
        self.asking.iter().map(|asking| asking.deadline).min()
    }

    /// TTIN and TTOU: some workers more or fewer, never fewer than one.
    pub(super) fn scale_by(&mut self, by: isize) {
        // Asking for more after WINCH is asking for workers at all.
        if self.phase == Phase::Paused {
            self.resume();
            return;
        }
        let to = self.wanted.saturating_add_signed(by).clamp(1, MOST_WORKERS);
        self.scale_to(to);
    }

    /// Wants this many workers from now on.
    pub(super) fn scale_to(&mut self, wanted: usize) {
        self.resume();
        self.wanted = wanted.clamp(1, MOST_WORKERS);
        if let Change::Rolling(roll) = &mut self.change {
            roll.scaled = true;
        }
        tracing::info!("{} workers wanted", self.wanted);
        self.show_title();
        let status = self.service_status();
        self.manager.status(&status);
        // One worker fewer may be all that a change, or the first generation, was waiting for.
        self.complete_if_rolled();
        if let Some(number) = self.current.as_ref().map(|current| current.number) {
            self.announce(number);
        }
    }

    /// WINCH: the workers leave, the master stays.
    pub(super) fn pause(&mut self) {
        // A terminal sends WINCH to its foreground when its window changes: nobody asked for anything.
        if self.phase != Phase::Serving || self.current.is_none() || process::is_in_foreground() {
            return;
        }
        self.phase = Phase::Paused;
        self.take_back("WINCH stopped the workers");
        tracing::info!("workers stopped by WINCH; HUP or TTIN brings them back");
        self.manager.status("workers stopped by WINCH");
        self.drain_all("stopped by WINCH");
    }

    pub(super) fn resume(&mut self) {
        if self.phase == Phase::Paused {
            self.phase = Phase::Serving;
            tracing::info!("workers wanted again");
            let status = self.service_status();
            self.manager.status(&status);
        }
    }
}
