//! Purges: what is to be thrown out of the shared cache is looked for by a short-lived child, for that takes time.
//!
//! Takes what is meant and who asked; gives the count to whoever asked once the child has ended. Which entries fit is decided in `crate::cache`.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::atomic::Ordering;

use super::Master;
use super::control::Ticket;
use crate::cache::Purge;
use crate::scoreboard::Eviction;
use crate::sys::process::{self, Outcome, Pid};
use crate::sys::{shm, title};
use crate::verbs::{Reply, Target};

/// Most of them at once.
const MOST: usize = 8;

/// One under way.
#[derive(Debug)]
pub struct Purging {
    pid: Pid,
    ticket: Ticket,
    /// Where the child writes how many entries it has thrown away.
    count: File,
}

impl Master {
    /// Begins one; the reply, if it is known already.
    pub(super) fn purge(&mut self, target: &Target, ticket: Ticket) -> Option<Reply> {
        if self.caches().is_empty() {
            return Some(Reply::refused(
                "there is no cache: it is enabled by `enabled = true` under [cache], and a reload",
            ));
        }
        if self.cache_reader.is_some() {
            return Some(Reply::refused(
                "what was stored is still being read; try again when workers are ready",
            ));
        }
        if self.purges.len() >= MOST {
            return Some(Reply::refused(format!(
                "{MOST} purges are under way; try again when they are done"
            )));
        }
        let meant = match target {
            Target::Key(uri) => Purge::Key(uri.as_bytes().to_vec()),
            Target::Prefix(text) => Purge::Prefix(text.as_bytes().to_vec()),
            Target::Tag(tag) => Purge::Tag(tag.as_bytes().to_vec()),
            Target::Values(name) => Purge::Values(name.as_bytes().to_vec()),
            Target::All => Purge::Responses,
        };
        match self.begin_purge(&meant) {
            Ok((pid, count)) => {
                self.purges.push(Purging { pid, ticket, count });
                None
            }
            Err(error) => Some(Reply::refused(format!("there is no process for it: {error}"))),
        }
    }

    fn begin_purge(&mut self, meant: &Purge) -> io::Result<(Pid, File)> {
        let caches = self.caches();
        let mut count = shm::scratch("appserver-purge")?;
        let master = self.pid;
        let pid = process::fork(|mask| {
            self.forget();
            let _ = title::set("appserver: purge");
            let lives = process::kill_when_parent_ends(master).unwrap_or(false);
            drop(mask);
            if !lives {
                return 1;
            }
            let gone: u64 = caches.iter().map(|cache| cache.purge(meant)).sum();
            i32::from(count.write_all(&gone.to_le_bytes()).is_err())
        })?;
        Ok((pid, count))
    }

    /// Whether this child was one of them; then whoever asked is answered.
    pub(super) fn purge_ended(&mut self, pid: Pid, outcome: Outcome) -> bool {
        let Some(index) = self.purges.iter().position(|purging| purging.pid == pid) else {
            return false;
        };
        let mut purging = self.purges.remove(index);
        let mut count = [0; 8];
        let read = purging
            .count
            .rewind()
            .and_then(|()| purging.count.read_exact(&mut count));
        let reply = match (outcome, read) {
            (Outcome::Exited(0), Ok(())) => {
                let count = u64::from_le_bytes(count);
                self.board.house().kept().cache.evictions[Eviction::Purged as usize]
                    .fetch_add(count, Ordering::Relaxed);
                Reply::purged(count)
            }
            (outcome, _) => Reply::refused(format!("the process that did it {}; try again", outcome.told())),
        };
        self.reply(purging.ticket, &reply);
        true
    }
}
