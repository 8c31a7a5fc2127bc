//! Where a call runs: inline on the I/O thread once its path has proved short, else on the pool.
//!
//! Takes calls of one mount, gives each its thread, and learns from how long it took. A path proves itself with `PROOFS` calls under
//! `SHORT`; one long call sends it back to the pool, and then it needs many more. What a call means is not known here.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use super::pool::{self, Pool};
use super::watchdog::Watch;
use crate::config::Dispatch;
use crate::gateway::{Call, call};
use crate::handler::loader::{Boot, Loaded, Module, Refusal, Threads};
use crate::sys::time;

/// A call that takes longer (ns) does not belong on the I/O thread.
const SHORT: u64 = 200_000;
/// Short calls in a row before a path runs inline.
const PROOFS: u16 = 8;
/// Each strike doubles the proofs, up to `PROOFS << MOST_STRIKES`: a path that is long now and then soon stays on the pool, and one
/// whose thread was only preempted is back at once.
const MOST_STRIKES: u8 = 10;
/// A call this much over [`SHORT`] was not preempted, it was long: it counts as several strikes.
const CLEARLY_LONG: u64 = 20;
/// Short inline calls that make up for a strike.
const FORGIVEN_AFTER: u16 = 4096;
/// How long a module's end is waited for.
const SHUTDOWN: Duration = Duration::from_secs(1);
/// Paths remembered at once are those of all sets.
const SETS: usize = 256;
/// Places in a set, which together have the size of a cache line.
const WAYS: usize = 4;

/// Gives the calls of one mount their threads.
pub struct Dispatcher {
    module: Arc<Module>,
    mode: Dispatch,
    pool: Pool,
    /// The pool is the module's own single thread.
    alone: bool,
    watch: Arc<Watch>,
    learned: RefCell<Learned>,
}

/// What is known of paths. Each belongs to one set, and the one that was called last stands first in it; a new one takes the place
/// of the one that was called longest ago. So those that are called often stay, and never forget each other in turn.
#[derive(Default)]
struct Learned(Vec<[Path; WAYS]>);

impl Learned {
    fn of(&self, tag: u64) -> Path {
        let set = self.0.get(tag as usize % SETS);
        let known = set.and_then(|set| set.iter().find(|path| path.tag == tag));
        known.copied().unwrap_or(Path::unknown(tag))
    }

    fn learn(&mut self, tag: u64, took: u64) {
        if self.0.is_empty() {
            self.0.resize(SETS, [Path::default(); WAYS]);
        }
        let set = &mut self.0[tag as usize % SETS];
        let at = set.iter().position(|path| path.tag == tag).unwrap_or_else(|| {
            set[WAYS - 1] = Path::unknown(tag);
            WAYS - 1
        });
        set[at].learn(took);
        set[..=at].rotate_right(1);
    }
}

/// What is known of a path.
#[derive(Clone, Copy, Default)]
struct Path {
    tag: u64,
    /// Short calls still needed; 0 means inline.
    missing: u16,
    strikes: u8,
    /// Short inline calls since the last strike.
    good: u16,
}

impl Path {
    fn unknown(tag: u64) -> Self {
        Self {
            tag,
            missing: PROOFS,
            ..Self::default()
        }
    }

    fn learn(&mut self, took: u64) {
        if took > SHORT {
            if self.missing == 0 {
                let more = if took > SHORT * CLEARLY_LONG { 4 } else { 1 };
                self.strikes = (self.strikes + more).min(MOST_STRIKES);
            }
            self.missing = PROOFS << self.strikes;
            self.good = 0;
        } else if self.missing > 0 {
            self.missing -= 1;
        } else if self.strikes > 0 {
            self.good += 1;
            if self.good == FORGIVEN_AFTER {
                self.good = 0;
                self.strikes -= 1;
            }
        }
    }
}

impl Dispatcher {
    /// Starts a module under a mount. `pool` serves the modules that may be called by many threads at once.
    ///
    /// # Errors
    /// The module's own reason.
    pub fn start(
        loaded: Loaded,
        mode: Dispatch,
        boot: &Boot<'_>,
        pool: &Pool,
        watch: &Arc<Watch>,
    ) -> Result<Self, Refusal> {
        let alone = loaded.threads != Threads::Many;
        let (module, mode, pool) = match loaded.threads {
            Threads::Many => (loaded.start::<Call>(boot)?, mode, pool.clone()),
            // One thread keeps the promise of both: calls never overlap, and it is always the same thread.
            Threads::One | Threads::Pinned => {
                let pool = Pool::single("handler-alone");
                (start_on(&pool, loaded, boot)?, Dispatch::Pool, pool)
            }
        };
        Ok(Self {
            module: Arc::new(module),
            mode,
            pool,
            alone,
            watch: watch.clone(),
            learned: RefCell::default(),
        })
    }

    /// Runs the handler for a call whose body is `here` (or still has to be waited for). When it ran inline: until when (ns).
    pub fn call(&self, call: &Arc<Call>, here: bool, now: u64) -> Option<u64> {
        let inline = here
            && match self.mode {
                Dispatch::Inline => true,
                Dispatch::Pool => false,
                Dispatch::Auto => self.path(call).missing == 0,
            };
        call.set_inline(inline);
        if inline {
            let work = || call::inline(|| run(&self.module, call, now));
            let ended = self.watch.inline(call, now, work);
            // Not when its answer has left: others that ask for the same wait already, and none may hurt the neighbours again.
            self.heed(call);
            Some(ended)
        } else {
            let (module, call) = (self.module.clone(), call.clone());
            // Where no thread can be had it waits for one, and its time runs.
            let _ = self.pool.run(Box::new(move || {
                // The client may have gone while the call waited for a thread.
                if !call.is_gone() {
                    call.on_thread(pool::thread(), || {
                        run(&module, &call, time::monotonic_ns());
                    });
                }
            }));
            None
        }
    }

    /// Asks a call's iterator for its next chunk, or closes it, where its handler ran.
    pub fn advance(&self, call: &Arc<Call>) {
        // One that began inline goes on there only while its path may: another body of it may have turned slow meanwhile.
        if call.is_inline() && (self.mode == Dispatch::Inline || self.path(call).missing == 0) {
            let began = time::monotonic_ns();
            self.watch.inline(call, began, || call::inline(|| call.advance()));
            self.heed(call);
        } else {
            call.set_inline(false);
            let call = call.clone();
            let _ = self
                .pool
                .run(Box::new(move || call.on_thread(pool::thread(), || call.advance())));
        }
    }

    /// Learns from a call that is over.
    pub fn learn(&self, call: &Call) {
        if self.mode != Dispatch::Auto {
            return;
        }
        let took = call.time();
        if took > 0 {
            self.note(call, took);
        }
    }

    /// Sends a path back to the pool whose call was long just now, on the I/O thread.
    fn heed(&self, call: &Call) {
        let took = call.time();
        if took > SHORT && self.mode == Dispatch::Auto {
            self.note(call, took);
        }
    }

    fn note(&self, call: &Call, took: u64) {
        self.learned.borrow_mut().learn(call.request.tag, took);
    }

    /// A look now and then: what waits for a thread that could not be had.
    pub fn look(&self) {
        self.pool.look();
    }

    /// Whether handler code runs on the pool, or waits to.
    pub fn is_busy(&self) -> bool {
        self.pool.is_busy()
    }

    /// Ends the module, on the thread that began it; no call is running.
    pub fn shutdown(&self) {
        if !self.alone {
            return self.module.shutdown();
        }
        let (done, ended) = mpsc::channel();
        let module = self.module.clone();
        let _ = self.pool.run(Box::new(move || {
            module.shutdown();
            let _ = done.send(());
        }));
        // A module that hangs in its shutdown is ended with the process.
        let _ = ended.recv_timeout(SHUTDOWN);
    }

    fn path(&self, call: &Call) -> Path {
        self.learned.borrow().of(call.request.tag)
    }
}

/// The handler, from its call to its return.
fn run(module: &Module, call: &Arc<Call>, began: u64) -> u64 {
    let status = module.handle(call);
    let ended = time::monotonic_ns();
    call.add_time(ended.saturating_sub(began));
    call.returned(status);
    ended
}

/// Runs worker_init on the one thread that will run everything else of the module.
fn start_on(pool: &Pool, loaded: Loaded, boot: &Boot<'_>) -> Result<Module, Refusal> {
    let (answer, result) = mpsc::channel();
    let boot = boot.to_owned_boot();
    let refuse = loaded.refusal();
    let started = pool.run(Box::new(move || {
        let _ = answer.send(loaded.start::<Call>(&boot.as_boot()));
    }));
    if let Err(error) = started {
        return Err(refuse(format!("there is no thread for it: {error}")));
    }
    result.recv().expect("the pool runs every job, and start returns")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A short call (ns).
    const SHORTLY: u64 = 3_000;

    #[test]
    fn a_path_that_is_long_now_and_then_stays_on_the_pool() {
        let mut path = Path::unknown(1);
        let mut inline_and_long = 0;
        for call in 0..100_000 {
            let long = call % 100 == 99;
            inline_and_long += u32::from(long && path.missing == 0);
            path.learn(if long { 50_000_000 } else { SHORTLY });
        }
        assert!(inline_and_long <= 2, "{inline_and_long}");
    }

    #[test]
    fn a_path_that_was_preempted_once_is_soon_inline_again() {
        let mut path = Path::default();
        path.learn(SHORT * 3);
        assert_eq!(path.missing, 16);
        for _ in 0..16 {
            path.learn(SHORTLY);
        }
        assert_eq!(path.missing, 0);
    }

    #[test]
    fn paths_that_are_called_often_stay_known_whatever_else_is_called_once() {
        // All of one set.
        let tag = |number: u64| 1 + number * SETS as u64;
        let mut learned = Learned::default();
        for round in 0..1000 {
            for hot in 0..WAYS as u64 - 1 {
                learned.learn(tag(hot), SHORTLY);
                assert!(
                    round + 1 < PROOFS.into() || learned.of(tag(hot)).missing == 0,
                    "{hot} in round {round}"
                );
            }
            learned.learn(tag(1000 + round), SHORTLY);
        }
        assert_eq!(learned.of(tag(5000)).missing, PROOFS);
    }

    #[test]
    fn two_paths_of_one_set_that_are_called_in_turn_both_prove_short() {
        let tag = |number: u64| 1 + number * SETS as u64;
        let mut learned = Learned::default();
        // Those that were called often, and are no more.
        for _ in 0..100 {
            (0..WAYS as u64).for_each(|old| learned.learn(tag(old), SHORTLY));
        }
        for _ in 0..PROOFS {
            learned.learn(tag(10), SHORTLY);
            learned.learn(tag(11), SHORTLY);
        }
        assert_eq!([10, 11].map(|new| learned.of(tag(new)).missing), [0, 0]);
    }
}
