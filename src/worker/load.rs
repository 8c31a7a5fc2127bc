//! How much a worker has, against what it may have.
//!
//! Takes each connection that comes and goes, and the limit of calls being reached or left; tells the acceptor, which steps out of the
//! line at a limit so that the kernel's one queue feeds whoever is less busy. It refuses nothing itself.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::task::Waker;

/// See the module. The runtime thread's own.
#[derive(Debug)]
pub struct Load {
    connections: Cell<usize>,
    most_connections: usize,
    /// The worker has all the calls it may have.
    calls_full: Cell<bool>,
    /// Who wants to know when that changes.
    acceptor: RefCell<Option<Waker>>,
}

impl Load {
    /// No load, and the number of connections at which accepting stops.
    pub fn new(most_connections: usize) -> Self {
        Self {
            connections: Cell::new(0),
            most_connections,
            calls_full: Cell::new(false),
            acceptor: RefCell::default(),
        }
    }

    /// Number of open connections.
    pub fn connections(&self) -> usize {
        self.connections.get()
    }

    /// A connection has come.
    pub fn opened(&self) {
        self.connections.set(self.connections.get() + 1);
    }

    /// A connection was closed.
    pub fn closed(&self) {
        let full = self.is_full();
        self.connections.set(self.connections.get() - 1);
        self.changed(full);
    }

    /// The limit of calls in flight was reached, or left.
    pub fn set_calls_full(&self, calls_full: bool) {
        let full = self.is_full();
        self.calls_full.set(calls_full);
        self.changed(full);
    }

    /// Whether nothing more may come.
    pub fn is_full(&self) -> bool {
        self.connections.get() >= self.most_connections || self.calls_full.get()
    }

    /// Whether it is by its connections that nothing more may come.
    pub fn holds_its_most(&self) -> bool {
        self.connections.get() >= self.most_connections && !self.calls_full.get()
    }

    /// Has the acceptor woken when the worker becomes full, or is so no more, other than by what the acceptor brings.
    pub fn wakes(&self, acceptor: &Waker) {
        let mut known = self.acceptor.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(acceptor)) {
            *known = Some(acceptor.clone());
        }
    }

    fn changed(&self, was_full: bool) {
        if self.is_full() != was_full
            && let Some(acceptor) = self.acceptor.borrow().as_ref()
        {
            acceptor.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_acceptor_is_woken_when_a_limit_is_reached_or_left_and_only_then() {
        let woken = Arc::new(Count::default());
        let load = Load::new(2);
        load.wakes(&woken.clone().into());
        load.opened();
        load.opened();
        assert!(load.is_full(), "the acceptor itself has brought it there");
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        load.closed();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        load.set_calls_full(true);
        assert!(load.is_full());
        load.closed();
        assert_eq!(woken.0.load(Ordering::Relaxed), 2, "full is full");
        load.set_calls_full(false);
        assert_eq!((woken.0.load(Ordering::Relaxed), load.connections()), (3, 0));
        assert!(!load.is_full());
    }
}
