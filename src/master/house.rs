//! What the master tells of itself and of its generations, for the monitor, the verbs and a later master.
//!
//! Takes the master's state, once a round of the loop; writes the house page of the scoreboard. Numbers are stored as they are;
//! the text is built anew only when one of the things it speaks of has changed.
#![forbid(unsafe_code)]

use super::backoff::EARLY;
use super::reload::Change;
use super::{Master, Phase};
use crate::generation::Generation;
use crate::scoreboard::{Fact, TEXT};
use crate::status::{Facts, GenerationFacts, ModuleFacts, Outcome};
use crate::sys::time;
use std::rc::Rc;

/// What was told last.
#[derive(Debug, Default)]
pub struct Told {
    stamp: Option<Stamp>,
    /// How the last change ended.
    pub last: Option<Outcome>,
}

/// What the text depends on; while it stays the same, so does the text.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    generations: Vec<(u64, &'static str)>,
    last: Option<Outcome>,
    listeners: Vec<String>,
}

impl Master {
    /// Writes down how things are. Comes once a round of the loop; costs a few stores when nothing has changed.
    pub(super) fn tell_house(&mut self) {
        let now = time::monotonic_ns();
        self.tell_looping(now);
        if !self.owns_what_is_shared() {
            return;
        }
        let house = self.board.house();
        if house.fact(Fact::Started) == 0 {
            house.set(Fact::Started, time::unix_seconds());
        }
        let wanted = self.wanted as u64;
        let ready = self.workers.serving() as u64;
        house.set(Fact::Master, self.pid.as_raw() as u64);
        house.set(Fact::Wanted, wanted);
        house.set(Fact::Reached, house.fact(Fact::Reached).max(ready).min(wanted));
        house.set(
            Fact::Generation,
            self.current.as_ref().map_or(0, |current| current.number),
        );
        house.set(Fact::Looping, u64::from(self.looping));
        house.set(
            Fact::Reloading,
            u64::from(self.current.is_some() && !matches!(self.change, Change::None)),
        );
        house.set(
            Fact::Phase,
            match self.phase {
                Phase::Serving if self.announced => 1,
                Phase::Serving => 0,
                Phase::Paused => 2,
                Phase::Stopping { .. } | Phase::Handed => 3,
            },
        );
        house.set(Fact::Alive, now);
        self.tell_cache(now);
        self.tell_facts();
    }

    /// Says once when a generation's workers die one after the other, and once when that is over.
    fn tell_looping(&mut self, now: u64) {
        let looping = self.phase == Phase::Serving && self.is_looping(now);
        if looping == std::mem::replace(&mut self.looping, looping) {
            return;
        }
        let generation = self.current.as_ref().map_or(0, |current| current.number);
        if looping {
            tracing::error!(
                generation,
                "every worker dies early; the server keeps trying, ever more slowly"
            );
        } else {
            tracing::info!(generation, "workers live again");
        }
    }

    fn tell_facts(&mut self) {
        let mut known: Vec<(Rc<Generation>, &'static str)> = Vec::new();
        known.extend(self.current.iter().map(|current| (current.clone(), "serving")));
        if let Change::Rolling(roll) = &self.change {
            known.push((roll.to.clone(), "starting"));
        }
        known.extend(self.previous.iter().map(|previous| (previous.clone(), "previous")));
        let stamp = Stamp {
            generations: known
                .iter()
                .map(|(generation, role)| (generation.number, *role))
                .collect(),
            last: self.told.last.clone(),
            listeners: self
                .doors
                .iter()
                .map(|door| door.listener.address().to_string())
                .collect(),
        };
        if self.told.stamp.as_ref() == Some(&stamp) {
            return;
        }
        let facts = Facts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listeners: stamp.listeners.clone(),
            generations: known
                .iter()
                .map(|(generation, role)| facts_of(generation, role))
                .collect(),
            last: stamp.last.clone(),
        };
        self.board.house().tell(&facts.to_json(TEXT));
        self.told.stamp = Some(stamp);
    }

    /// Whether at every post worker after worker dies early, and none has lived long enough since to be trusted.
    fn is_looping(&mut self, now: u64) -> bool {
        let trusted = |post| {
            let mut of_it = self
                .workers
                .iter()
                .filter(|worker| worker.post == post && worker.is_ready());
            of_it.any(|worker| worker.served(now).is_some_and(|served| served >= EARLY))
        };
        let posts: Vec<usize> = (0..self.wanted).filter(|post| !trusted(*post)).collect();
        posts.len() == self.wanted && posts.into_iter().all(|post| self.workers.backoff(post).is_looping())
    }
}

fn facts_of(generation: &Generation, role: &str) -> GenerationFacts {
    let mounts = generation.config.mounts.iter().zip(&generation.images);
    let modules = mounts.map(|(mount, image)| ModuleFacts {
        mount: mount.path.clone(),
        path: image.path().display().to_string(),
        build_id: image.build_id().to_owned(),
        sha256: image.sha256().to_owned(),
    });
    GenerationFacts {
        number: generation.number,
        role: role.to_owned(),
        loaded_at: generation.loaded_at,
        modules: modules.collect(),
    }
}
