//! A lock between processes that survives whoever holds it.
//!
//! Takes words of shared memory; gives a mutex (pthread_mutexattr_setrobust(3)) that waits for a bounded time and tells its next holder
//! when the last one died with it. A holder that is stopped keeps it: whoever comes then does without.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, align_of, size_of};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::time;

/// Words that a lock takes: a cache line.
pub const WORDS: usize = 8;

const _: () = assert!(size_of::<libc::pthread_mutex_t>() <= WORDS * 8);
const _: () = assert!(align_of::<libc::pthread_mutex_t>() <= align_of::<AtomicU64>());

unsafe extern "C" {
    /// pthread_mutex_clocklock(3), glibc 2.30: against a clock that nobody sets back.
    fn pthread_mutex_clocklock(
        mutex: *mut libc::pthread_mutex_t,
        clock: libc::clockid_t,
        until: *const libc::timespec,
    ) -> libc::c_int;
}

/// The lock.
#[derive(Debug, Clone, Copy)]
pub struct Robust(&'static [AtomicU64]);

/// Holds it until it is dropped.
#[derive(Debug)]
pub struct Held {
    lock: Robust,
    /// A mutex is given back by the thread that took it.
    _here: PhantomData<*const ()>,
}

/// The lock could not be had in time: its holder is busy, or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuck;

impl Robust {
    /// Makes a lock of words that nobody else uses yet.
    ///
    /// # Errors
    /// The C library knows no such lock.
    pub fn make(words: &'static [AtomicU64]) -> io::Result<Self> {
        let lock = Self::over(words);
        let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        let of = attributes.as_mut_ptr();
        // SAFETY: `of` points to room for attributes, which the first call initialises for the others; the mutex lies in shared
        // memory of the right size and alignment (see the assertions) that is never unmapped, and no other process has it yet.
        let outcome = unsafe {
            [
                libc::pthread_mutexattr_init(of),
                libc::pthread_mutexattr_setpshared(of, libc::PTHREAD_PROCESS_SHARED),
                libc::pthread_mutexattr_setrobust(of, libc::PTHREAD_MUTEX_ROBUST),
                libc::pthread_mutex_init(lock.raw(), of),
                libc::pthread_mutexattr_destroy(of),
            ]
        };
        match outcome.into_iter().find(|code| *code != 0) {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Ok(lock),
        }
    }

    /// The lock that [`Robust::make`] made of these words, in whichever process.
    pub fn over(words: &'static [AtomicU64]) -> Self {
        assert!(words.len() >= WORDS, "a lock needs {WORDS} words");
        Self(words)
    }

    /// Takes the lock. If its last holder died with it, `repair` runs first; should this process die in that, the next one repairs.
    ///
    /// # Errors
    /// [`Stuck`] after `patience`.
    pub fn lock(self, patience: Duration, repair: impl FnOnce()) -> Result<Held, Stuck> {
        // SAFETY: an initialised mutex that is never moved or unmapped.
        let mut code = unsafe { libc::pthread_mutex_trylock(self.raw()) };
        if code == libc::EBUSY && !patience.is_zero() {
            let until = time::monotonic_ns().saturating_add(time::nanos(patience));
            let until = libc::timespec {
                tv_sec: (until / 1_000_000_000) as libc::time_t,
                tv_nsec: (until % 1_000_000_000) as libc::c_long,
            };
            // SAFETY: as above; `until` is a valid time that is only read.
            code = unsafe { pthread_mutex_clocklock(self.raw(), libc::CLOCK_MONOTONIC, &until) };
        }
        let held = Held {
            lock: self,
            _here: PhantomData,
        };
        match code {
            0 => Ok(held),
            libc::EOWNERDEAD => {
                repair();
                // SAFETY: this thread holds the mutex, whose state the death of its holder made inconsistent.
                unsafe { libc::pthread_mutex_consistent(self.raw()) };
                Ok(held)
            }
            _ => {
                std::mem::forget(held);
                Err(Stuck)
            }
        }
    }

    fn raw(self) -> *mut libc::pthread_mutex_t {
        self.0.as_ptr().cast::<libc::pthread_mutex_t>().cast_mut()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: this thread holds the mutex: there is no other way to a `Held`, and it is not `Send`.
        unsafe { libc::pthread_mutex_unlock(self.lock.raw()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::shm;

    fn lock() -> Robust {
        let shared = shm::create("robust-test", WORDS).unwrap();
        Robust::make(shared.words).unwrap()
    }

    #[test]
    fn who_waits_longer_than_its_patience_does_without() {
        let lock = lock();
        let held = lock.lock(Duration::ZERO, || unreachable!()).unwrap();
        let other = std::thread::spawn(move || lock.lock(Duration::from_millis(1), || unreachable!()).is_err());
        assert!(other.join().unwrap());
        drop(held);
        assert!(lock.lock(Duration::ZERO, || unreachable!()).is_ok());
    }

    #[test]
    fn a_holder_that_dies_is_told_to_the_next_one() {
        let lock = lock();
        // A thread that ends with a lock is a holder that died, as a process is.
        std::thread::spawn(move || std::mem::forget(lock.lock(Duration::ZERO, || unreachable!()).unwrap()))
            .join()
            .unwrap();
        let mut repaired = 0;
        drop(lock.lock(Duration::from_secs(1), || repaired += 1).unwrap());
        drop(lock.lock(Duration::from_secs(1), || repaired += 1).unwrap());
        assert_eq!(repaired, 1);
    }
}
