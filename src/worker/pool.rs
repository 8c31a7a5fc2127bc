//! Threads for handler code that may block: none until one is needed, at most as many as configured.
//!
//! Takes jobs, runs each once, in order, on whichever thread is free. It does not know what a job does to its call.
//! A thread that a handler holds for ever is one thread less; the I/O thread is never among them.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::sys::fault;

/// Something to run.
pub type Job = Box<dyn FnOnce() + Send>;

/// See the module.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    most: usize,
    name: &'static str,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
}

impl Pool {
    /// A pool of at most `most` threads; none is started yet.
    pub fn new(name: &'static str, most: usize) -> Self {
        let shared = Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            most,
            name,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Runs a job soon. Grows the pool when nobody is free; when no thread can be had, those there are will do.
    pub fn run(&self, job: Job) {
        let mut queue = self.shared.lock();
        queue.jobs.push_back(job);
        if queue.jobs.len() <= queue.idle {
            drop(queue);
            self.shared.filled.notify_one();
            return;
        }
        if queue.threads == self.shared.most {
            return;
        }
        queue.threads += 1;
        let alone = queue.threads == 1;
        drop(queue);
        let shared = self.shared.clone();
        let named = thread::Builder::new().name(self.shared.name.to_owned());
        if let Err(error) = named.spawn(move || shared.work()) {
            tracing::error!("no thread for handlers could be started ({error}): calls wait for those there are");
            let mut queue = self.shared.lock();
            queue.threads -= 1;
            let orphan = if alone { queue.jobs.pop_back() } else { None };
            drop(queue);
            if let Some(job) = orphan {
                // Nobody is there to wait for: better slow than never.
                job();
            }
        }
    }

    /// Whether a job runs or waits.
    pub fn is_busy(&self) -> bool {
        let queue = self.shared.lock();
        !queue.jobs.is_empty() || queue.idle < queue.threads
    }

    /// Number of threads started.
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
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = self.lock();
                continue;
            }
            queue.idle += 1;
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn threads_are_started_only_as_needed_and_never_more_than_allowed() {
        let pool = Pool::new("test", 3);
        assert_eq!(pool.threads(), 0);
        let (done, finished) = mpsc::channel();
        let (hold, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        for number in 0..5 {
            let (done, held) = (done.clone(), held.clone());
            pool.run(Box::new(move || {
                let _ = held.lock().expect("not poisoned").recv();
                done.send(number).expect("the test waits");
            }));
        }
        assert_eq!(pool.threads(), 3);
        drop(hold);
        let mut all: Vec<i32> = (0..5).map(|_| finished.recv().expect("every job runs")).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
    }
}
