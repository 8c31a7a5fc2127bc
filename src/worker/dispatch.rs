//! Where a call runs: inline on the I/O thread once its path has proved short, else on the pool.
//!
//! Takes calls of one mount, gives each its thread, and learns from how long it took. A path proves itself with `PROOFS` calls under
//! `SHORT`; one long call sends it back to the pool, and then it needs many more. What a call means is not known here.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::pool::{self, Pool};
use super::watchdog::Watch;
use crate::config::Dispatch;
use crate::gateway::{Call, call};
use crate::handler::loader::{Boot, Loaded, Module, Refusal, Threads};

/// A call that takes longer does not belong on the I/O thread.
const SHORT: Duration = Duration::from_micros(200);
/// Short calls in a row before a path runs inline.
const PROOFS: u16 = 8;
/// Each strike doubles the proofs, up to `PROOFS << MOST_STRIKES`: a path that is long now and then soon stays on the pool, and one
/// whose thread was only preempted is back at once.
const MOST_STRIKES: u8 = 10;
/// A call this much over [`SHORT`] was not preempted, it was long: it counts as several strikes.
const CLEARLY_LONG: u32 = 20;
/// Short inline calls that make up for a strike.
const FORGIVEN_AFTER: u16 = 4096;
/// How long a module's end is waited for.
const SHUTDOWN: Duration = Duration::from_secs(1);
/// Paths remembered at once, one a place; a collision forgets the older.
const PLACES: usize = 1024;

/// Gives the calls of one mount their threads.
pub struct Dispatcher {
    module: Arc<Module>,
    mode: Dispatch,
    pool: Pool,
    /// The pool is the module's own single thread.
    alone: bool,
    watch: Arc<Watch>,
    learned: RefCell<Vec<Path>>,
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
    fn learn(&mut self, took: Duration) {
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
                let pool = Pool::new("handler-alone", 1);
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

    /// Runs the handler for a call whose body is `here` (or still has to be waited for). When it ran inline: until when.
    pub fn call(&self, call: &Arc<Call>, here: bool, now: Instant) -> Option<Instant> {
        let inline = here
            && match self.mode {
                Dispatch::Inline => true,
                Dispatch::Pool => false,
                Dispatch::Auto => self.path(call).missing == 0,
            };
        call.set_inline(inline);
        if inline {
            let work = || call::inline(|| run(&self.module, call, now));
            Some(self.watch.inline(call, now, work))
        } else {
            let (module, call) = (self.module.clone(), call.clone());
            self.pool.run(Box::new(move || {
                // The client may have gone while the call waited for a thread.
                if !call.is_gone() {
                    call.on_thread(pool::thread(), || {
                        run(&module, &call, Instant::now());
                    });
                }
            }));
            None
        }
    }

    /// Asks a call's iterator for its next chunk, or closes it, where its handler ran.
    pub fn advance(&self, call: &Arc<Call>) {
        if call.is_inline() {
            let began = Instant::now();
            self.watch.inline(call, began, || call::inline(|| call.advance()));
            if began.elapsed() > SHORT && self.mode == Dispatch::Auto {
                call.set_inline(false);
                call.add_time(SHORT * 2);
            }
        } else {
            let call = call.clone();
            self.pool
                .run(Box::new(move || call.on_thread(pool::thread(), || call.advance())));
        }
    }

    /// Learns from a call that is over.
    pub fn learn(&self, call: &Call) {
        if self.mode != Dispatch::Auto {
            return;
        }
        let took = call.time();
        if took.is_zero() {
            return;
        }
        let mut path = self.path(call);
        path.learn(took);
        let mut learned = self.learned.borrow_mut();
        if learned.is_empty() {
            learned.resize(PLACES, Path::default());
        }
        learned[path.tag as usize % PLACES] = path;
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
        self.pool.run(Box::new(move || {
            module.shutdown();
            let _ = done.send(());
        }));
        // A module that hangs in its shutdown is ended with the process.
        let _ = ended.recv_timeout(SHUTDOWN);
    }

    fn path(&self, call: &Call) -> Path {
        let tag = call.request.tag;
        let known = self.learned.borrow().get(tag as usize % PLACES).copied();
        known.filter(|path| path.tag == tag).unwrap_or(Path {
            tag,
            missing: PROOFS,
            ..Path::default()
        })
    }
}

/// The handler, from its call to its return.
fn run(module: &Module, call: &Arc<Call>, began: Instant) -> Instant {
    let status = module.handle(call);
    let ended = Instant::now();
    call.add_time(ended.duration_since(began));
    call.returned(status);
    ended
}

/// Runs worker_init on the one thread that will run everything else of the module.
fn start_on(pool: &Pool, loaded: Loaded, boot: &Boot<'_>) -> Result<Module, Refusal> {
    let (answer, result) = mpsc::channel();
    let boot = boot.to_owned_boot();
    pool.run(Box::new(move || {
        let _ = answer.send(loaded.start::<Call>(&boot.as_boot()));
    }));
    result.recv().expect("the pool runs every job, and start returns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_long_now_and_then_stays_on_the_pool() {
        let mut path = Path {
            missing: PROOFS,
            ..Path::default()
        };
        let mut inline_and_long = 0;
        for call in 0..100_000 {
            let long = call % 100 == 99;
            inline_and_long += u32::from(long && path.missing == 0);
            path.learn(if long {
                Duration::from_millis(50)
            } else {
                Duration::from_micros(3)
            });
        }
        assert!(inline_and_long <= 2, "{inline_and_long}");
    }

    #[test]
    fn a_path_that_was_preempted_once_is_soon_inline_again() {
        let mut path = Path::default();
        path.learn(SHORT * 3);
        assert_eq!(path.missing, 16);
        for _ in 0..16 {
            path.learn(Duration::from_micros(3));
        }
        assert_eq!(path.missing, 0);
    }
}
