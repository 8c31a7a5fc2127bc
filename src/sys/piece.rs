//! A piece of work that another thread may take from under the one that does it.
//!
//! Takes, from the thread that works, a subject for the time of its work; lends it to a second thread once the work has
//! taken too long. Whoever changes the one state first has it: the worker by ending in time, the other by taking. It
//! costs a store and a compare-exchange. What is done with what was taken is decided above.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// No piece is under way.
const IDLE: u64 = 0;
/// It was taken.
const TAKEN: u64 = 1;
/// It was taken, and who took it is done with it.
const DONE: u64 = 2;
/// Between two looks of a worker that waits for who took its piece.
const LOOK: Duration = Duration::from_millis(1);

/// Where one thread shows what it is working at.
#[derive(Debug)]
pub struct Bench<T> {
    /// One of the states above; else the piece is under way since then (ns).
    state: AtomicU64,
    subject: AtomicPtr<T>,
    /// The worker has come back and waits.
    awaited: AtomicBool,
}

impl<T: Sync> Bench<T> {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            state: AtomicU64::new(IDLE),
            subject: AtomicPtr::new(std::ptr::null_mut()),
            awaited: AtomicBool::new(false),
        }
    }

    /// Does a piece of work that began at `now` (ns); `subject` may be taken meanwhile, and then this waits until it is given
    /// back. One thread only, one piece at a time.
    pub fn work<R>(&self, subject: &T, now: u64, work: impl FnOnce() -> R) -> R {
        self.subject
            .store(std::ptr::from_ref(subject).cast_mut(), Ordering::Relaxed);
        let since = now.max(DONE + 1);
        self.state.store(since, Ordering::Release);
        // In a destructor, so that an unwinding takes the subject back too.
        let _shown = Shown { bench: self, since };
        work()
    }

    /// Since when a piece is under way (ns).
    pub fn since(&self) -> Option<u64> {
        Some(self.state.load(Ordering::Relaxed)).filter(|since| *since > DONE)
    }

    /// Takes the piece under way if it began at `since`; None when it has ended.
    pub fn take<R>(&self, since: u64, with: impl FnOnce(&T) -> R) -> Option<R> {
        // A later piece began later, so the same moment is the same piece.
        if since <= DONE
            || self
                .state
                .compare_exchange(since, TAKEN, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
        {
            return None;
        }
        let subject = self.subject.load(Ordering::Relaxed);
        // SAFETY: the pointer was stored before the state that was just exchanged (release, acquire). `work`, which
        // borrows the subject, returns only by exchanging `since` for IDLE, which fails from now on, or after DONE, which is
        // stored below when this borrow is over. T is Sync, so it may be looked at from here.
        let result = with(unsafe { &*subject });
        self.state.store(DONE, Ordering::Release);
        Some(result)
    }

    /// Holds the worker up, should it come back meanwhile, and leaves it its piece; None when that has ended.
    pub fn hold<R>(&self, since: u64, with: impl FnOnce() -> R) -> Option<R> {
        if since <= DONE {
            return None;
        }
        let held = self
            .state
            .compare_exchange(since, TAKEN, Ordering::AcqRel, Ordering::Relaxed);
        held.ok()?;
        let result = with();
        self.state.store(since, Ordering::Release);
        Some(result)
    }

    /// Whether the worker waits for what was taken.
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed)
    }
}

impl<T: Sync> Default for Bench<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A piece that is shown until it is dropped.
struct Shown<'a, T: Sync> {
    bench: &'a Bench<T>,
    since: u64,
}

impl<T: Sync> Drop for Shown<'_, T> {
    fn drop(&mut self) {
        let Self { bench, since } = self;
        let end = || {
            bench
                .state
                .compare_exchange(*since, IDLE, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        };
        if end() {
            return;
        }
        bench.awaited.store(true, Ordering::Relaxed);
        while bench.state.load(Ordering::Acquire) != DONE {
            // What was only held is given back.
            if end() {
                bench.awaited.store(false, Ordering::Relaxed);
                return;
            }
            thread::park_timeout(LOOK);
        }
        bench.awaited.store(false, Ordering::Relaxed);
        bench.state.store(IDLE, Ordering::Release);
    }
}

/// The number of a connection's descriptor, for a thread that does not own the connection.
#[derive(Debug)]
pub struct Wire(AtomicI32);

impl Wire {
    /// No connection.
    pub const fn cut() -> Self {
        Self(AtomicI32::new(-1))
    }

    /// Names a connection; whoever does so calls [`Wire::forget`] before it is closed.
    pub fn name(&self, number: RawFd) {
        self.0.store(number, Ordering::Relaxed);
    }

    /// The connection is about to go.
    pub fn forget(&self) {
        self.0.store(-1, Ordering::Relaxed);
    }

    /// The connection, for one who has taken the piece of work (see [`Bench::take`]) of the thread that owns it: that
    /// thread cannot close it meanwhile.
    pub fn lend<R>(&self, to: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
        let number = self.0.load(Ordering::Relaxed);
        if number < 0 {
            return None;
        }
        // SAFETY: the connection is owned by the thread that named it here, which forgets it before it closes it and, by the
        // contract of this function, is held up in `Bench::work` until the borrow is over.
        Some(to(unsafe { BorrowedFd::borrow_raw(number) }))
    }
}

/// The number to [`Wire::name`] a connection by.
pub fn number_of(connection: &impl AsFd) -> RawFd {
    connection.as_fd().as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_piece_that_ends_in_time_cannot_be_taken() {
        let bench = Bench::new();
        assert_eq!(bench.work(&7, 100, || bench.since()), Some(100));
        assert_eq!(bench.since(), None);
        assert!(bench.take(100, |_| ()).is_none());
    }

    #[test]
    fn a_worker_that_is_held_up_has_its_piece_again() {
        let bench = Bench::new();
        let (working, started) = mpsc::channel();
        let (held, go_on) = mpsc::channel();
        thread::scope(|scope| {
            let bench = &bench;
            let worker = scope.spawn(move || {
                bench.work(&7, 100, || {
                    working.send(()).unwrap();
                    go_on.recv().unwrap();
                });
            });
            started.recv().unwrap();
            assert!(bench.hold(99, || ()).is_none(), "that was another piece");
            bench
                .hold(100, || assert_eq!(bench.since(), None))
                .expect("it is under way");
            assert_eq!(bench.since(), Some(100));
            bench
                .hold(100, || {
                    held.send(()).unwrap();
                    while !bench.is_awaited() {
                        thread::yield_now();
                    }
                    assert!(!worker.is_finished());
                })
                .expect("it is under way");
            worker.join().unwrap();
            assert!(bench.since().is_none() && !bench.is_awaited());
            assert!(bench.hold(100, || ()).is_none());
        });
    }

    #[test]
    fn the_worker_waits_until_what_was_taken_is_given_back() {
        let bench = Bench::new();
        let (working, started) = mpsc::channel();
        let (taken, go_on) = mpsc::channel();
        thread::scope(|scope| {
            let bench = &bench;
            let worker = scope.spawn(move || {
                bench.work(&String::from("the subject"), 100, || {
                    working.send(()).unwrap();
                    go_on.recv().unwrap();
                });
                bench.since()
            });
            started.recv().unwrap();
            assert!(bench.take(99, |_| ()).is_none(), "that was another piece");
            bench
                .take(100, |subject| {
                    taken.send(()).unwrap();
                    while !bench.is_awaited() {
                        thread::yield_now();
                    }
                    assert!(!worker.is_finished());
                    assert_eq!(subject, "the subject");
                })
                .expect("it is under way");
            assert_eq!(worker.join().unwrap(), None);
        });
        assert_eq!(
            bench.work(&String::new(), 200, || bench.since()),
            Some(200),
            "it is as new"
        );
    }
}
