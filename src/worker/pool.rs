//! Threads for handler code that may block: none until one is needed, at most as many as configured.
//!
//! Takes jobs, runs each once, in order, on whichever thread is free, and lets a thread end that was not needed for a while. It does
//! not know what a job does to its call. A thread that a handler holds for ever is one thread less; the I/O thread is never among them.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::sys::fault;

/// How long a thread stays that nobody needs. Another costs some 50 us, and what a handler keeps per thread; its stack and its share
/// of malloc's arenas cost memory for as long as it is there.
const IDLE: Duration = Duration::from_secs(10);

/// Something to run.
pub type Job = Box<dyn FnOnce() + Send>;

/// See the module.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    most: usize,
    name: &'static str,
    /// How long a thread stays that nobody needs; None is for ever.
    idle: Option<Duration>,
    /// No thread can be had.
    #[cfg(test)]
    broken: std::sync::atomic::AtomicBool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that sleep. The last one is woken first: its stack is still in the caches, and those that are not needed are never
    /// woken, so that they can end.
    idle: Vec<Thread>,
    /// Threads that were woken and have not looked yet.
    waking: usize,
    threads: usize,
}

impl Pool {
    /// A pool of at most `most` threads; none is started yet.
    pub fn new(name: &'static str, most: usize) -> Self {
        Self::of(name, most, Some(IDLE))
    }

    /// A single thread, started with the first job and the same for all.
    pub fn single(name: &'static str) -> Self {
        Self::of(name, 1, None)
    }

    fn of(name: &'static str, most: usize, idle: Option<Duration>) -> Self {
        let shared = Shared {
            queue: Mutex::default(),
            most,
            name,
            idle,
            #[cfg(test)]
            broken: Default::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Runs a job soon. Grows the pool when nobody is free; when no thread can be had, those there are will do, and where there are
    /// none it waits for [`Pool::look`]: this thread may be the one that a handler waits for.
    ///
    /// # Errors
    /// No thread is there, and none can be had now: the job waits.
    pub fn run(&self, job: Job) -> io::Result<()> {
        let mut queue = self.shared.lock();
        queue.jobs.push_back(job);
        if queue.jobs.len() <= queue.waking {
            return Ok(());
        }
        if let Some(sleeper) = queue.idle.pop() {
            queue.waking += 1;
            drop(queue);
            sleeper.unpark();
            return Ok(());
        }
        if queue.threads == self.shared.most {
            return Ok(());
        }
        self.grow(queue)
    }

    /// Tries again to start a thread for jobs that have none.
    pub fn look(&self) {
        let queue = self.shared.lock();
        if queue.threads == 0 && !queue.jobs.is_empty() {
            // It has been told; what waits is bounded by its timeout.
            let _ = self.grow(queue);
        }
    }

    /// One thread more.
    fn grow(&self, mut queue: MutexGuard<'_, Queue>) -> io::Result<()> {
        queue.threads += 1;
        drop(queue);
        let shared = self.shared.clone();
        let named = thread::Builder::new().name(self.shared.name.to_owned());
        #[cfg(test)]
        let named = match self.shared.broken.load(std::sync::atomic::Ordering::Relaxed) {
            // More than there is, on any machine.
            true => named.stack_size(1 << 56),
            false => named,
        };
        let Err(error) = named.spawn(move || shared.work()) else {
            return Ok(());
        };
        tracing::error!("no thread for handlers could be started ({error}): calls wait for those there are");
        let mut queue = self.shared.lock();
        queue.threads -= 1;
        if queue.threads == 0 { Err(error) } else { Ok(()) }
    }

    /// Whether a job runs or waits.
    pub fn is_busy(&self) -> bool {
        let queue = self.shared.lock();
        !queue.jobs.is_empty() || queue.idle.len() < queue.threads
    }

    /// Number of threads there are.
    #[cfg(test)]
    fn threads(&self) -> usize {
        self.shared.lock().threads
    }
}

thread_local! {
    /// This thread's id; asking the kernel for it is a system call.
    static THREAD: Cell<i32> = const { Cell::new(0) };
}

/// The id of the thread that runs a job.
pub fn thread() -> i32 {
    THREAD.with(|known| {
        if known.get() == 0 {
            known.set(fault::tid());
        }
        known.get()
    })
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        // Without it a crash is told without its stack; no reason not to serve.
        let _ = fault::arm_thread();
        let mut queue = self.lock();
        loop {
            while let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = self.lock();
            }
            queue.idle.push(thread::current());
            drop(queue);
            queue = match self.sleep() {
                Some(queue) => queue,
                None => break,
            };
        }
        fault::disarm_thread();
    }

    /// Sleeps until there is a job, or None when there was none for too long: this thread is no longer counted then.
    fn sleep(&self) -> Option<MutexGuard<'_, Queue>> {
        let me = thread::current().id();
        let end = self.idle.map(|idle| Instant::now() + idle);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            match left {
                Some(left) => thread::park_timeout(left),
                None => thread::park(),
            }
            let mut queue = self.lock();
            let Some(place) = queue.idle.iter().position(|thread| thread.id() == me) else {
                // Whoever took it from the list did so to wake it.
                queue.waking -= 1;
                return Some(queue);
            };
            if end.is_some_and(|end| Instant::now() >= end) {
                queue.idle.remove(place);
                queue.threads -= 1;
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, Sender};

    use super::*;

    /// Gives a pool jobs that wait until the sender is gone, and then tell their numbers.
    fn occupy(pool: &Pool, jobs: i32) -> (Sender<()>, Receiver<i32>) {
        let (done, finished) = mpsc::channel();
        let (hold, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        for number in 0..jobs {
            let (done, held) = (done.clone(), held.clone());
            pool.run(Box::new(move || {
                let _ = held.lock().expect("not poisoned").recv();
                done.send(number).expect("the test waits");
            }))
            .expect("a thread");
        }
        (hold, finished)
    }

    fn until(found: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !found() {
            assert!(Instant::now() < end, "waited in vain");
            thread::yield_now();
        }
    }

    #[test]
    fn threads_are_started_only_as_needed_and_never_more_than_allowed() {
        let pool = Pool::new("test", 3);
        assert_eq!(pool.threads(), 0);
        let (hold, finished) = occupy(&pool, 5);
        assert_eq!(pool.threads(), 3);
        drop(hold);
        let mut all: Vec<i32> = finished.iter().collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
        until(|| !pool.is_busy());
    }

    #[test]
    fn a_job_that_finds_no_thread_waits_for_one_and_never_runs_on_the_callers() {
        let pool = Pool::new("test", 3);
        pool.shared.broken.store(true, std::sync::atomic::Ordering::Relaxed);
        let (done, finished) = mpsc::channel();
        let job = move || done.send(thread::current().id()).expect("the test waits");
        pool.run(Box::new(job)).expect_err("there is none");
        pool.look();
        assert!(finished.try_recv().is_err() && pool.is_busy());
        assert_eq!(pool.threads(), 0);
        pool.shared.broken.store(false, std::sync::atomic::Ordering::Relaxed);
        pool.look();
        assert_ne!(finished.recv().expect("it runs"), thread::current().id());
        until(|| !pool.is_busy());
    }

    #[test]
    fn a_job_finds_the_thread_that_is_idle() {
        let pool = Pool::new("test", 3);
        for number in 0..1000 {
            let (hold, finished) = occupy(&pool, 1);
            drop(hold);
            assert_eq!(finished.recv(), Ok(0), "job {number}");
            until(|| !pool.is_busy());
        }
        assert_eq!(pool.threads(), 1);
    }

    #[test]
    fn threads_that_are_not_needed_end_and_others_come_when_they_are() {
        let pool = Pool::of("test", 4, Some(Duration::from_millis(20)));
        for _ in 0..3 {
            let (hold, finished) = occupy(&pool, 4);
            assert_eq!(pool.threads(), 4);
            drop(hold);
            assert_eq!(finished.iter().count(), 4);
            until(|| pool.threads() == 0);
            assert!(!pool.is_busy());
        }
    }

    #[test]
    fn a_thread_that_is_needed_now_and_then_stays_while_the_others_end() {
        let pool = Pool::of("test", 4, Some(Duration::from_millis(400)));
        let (hold, finished) = occupy(&pool, 4);
        drop(hold);
        assert_eq!(finished.iter().count(), 4);
        until(|| {
            // Were the work dealt around, each of them would be needed.
            let (hold, finished) = occupy(&pool, 1);
            drop(hold);
            assert_eq!(finished.recv(), Ok(0));
            until(|| !pool.is_busy());
            pool.threads() == 1
        });
    }

    #[test]
    fn the_thread_of_a_single_one_is_always_the_same() {
        let pool = Pool::single("test");
        let ask = || {
            let (tell, told) = mpsc::channel();
            pool.run(Box::new(move || {
                tell.send(thread::current().id()).expect("the test waits")
            }))
            .expect("a thread");
            told.recv().expect("every job runs")
        };
        let first = ask();
        assert!((0..100).all(|_| ask() == first));
        assert_eq!(pool.threads(), 1);
    }
}
