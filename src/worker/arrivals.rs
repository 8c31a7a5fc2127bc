//! Accepted connections on their way from the acceptor to the runtime.
//!
//! Takes connections on the acceptor's thread, gives them to the runtime one by one; or all at once to whoever passes them on
//! while the runtime is held up. It serves none.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::accept::Accepted;

/// See the module.
#[derive(Default)]
pub struct Arrivals {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Accepted>,
    ended: bool,
}

impl Arrivals {
    /// Adds one.
    pub fn push(&self, accepted: Accepted) {
        self.lock().waiting.push_back(accepted);
        self.changed.notify_one();
    }

    /// No more will come.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_one();
    }

    /// The next one; None when no more will come. Nothing is lost when this is dropped half-way.
    pub async fn recv(&self) -> Option<Accepted> {
        loop {
            {
                let mut queue = self.lock();
                if let Some(next) = queue.waiting.pop_front() {
                    return Some(next);
                }
                if queue.ended {
                    return None;
                }
            }
            // Whoever adds one after the look has left a permit.
            self.changed.notified().await;
        }
    }

    /// Takes the one that has waited longest, from any thread.
    pub fn take(&self) -> Option<Accepted> {
        self.lock().waiting.pop_front()
    }

    /// Gives one back that could not be passed on.
    pub fn put_back(&self, accepted: Accepted) {
        self.lock().waiting.push_front(accepted);
        self.changed.notify_one();
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A panic under this lock is a bug of ours; the queue stays usable.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
