//! Takes connections from the shared queues, on a thread of its own.
//!
//! Waits in its own epoll set (mio cannot wait exclusively: with ten workers every connection would wake all ten), accepts one at a
//! time and hands it to the runtime. While the worker is at a limit it does not accept, so the kernel's one queue feeds whoever is less
//! busy. It knows nothing of what is said on a connection.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::arrivals::Arrivals;
use super::watchdog::{self, Watch};
use crate::handover::{Handover, Passing};
use crate::listener::{Address, Listener};
use crate::scoreboard::Slot;
use crate::sys;
use crate::sys::epoll::{Epoll, Interest, Ready};
use crate::sys::fd::EventFd;

/// How long nothing is accepted after the process ran out of descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the queue has to stay empty at a stop: a handshake that was under way when the door was shut may still end in it,
/// and on a busy machine the kernel's own thread (ksoftirqd) waits for its turn like any other.
const QUIET: Duration = Duration::from_millis(50);
/// Between two looks at the queues.
const LOOK: Duration = Duration::from_millis(5);
/// Between two looks whether the runtime has come back from a handler.
const HELD_UP: Duration = Duration::from_millis(5);
/// How long queues are accepted at the longest, should a door not be shut after all.
const LONGEST: Duration = Duration::from_secs(2);
/// The token of the command eventfd in the epoll set.
const COMMAND: u64 = u64::MAX;
/// The token of the connections that other workers hand over.
const HANDOVER: u64 = u64::MAX - 1;

/// A connection that came from a listener or from another worker.
pub struct Accepted {
    /// The socket: non-blocking, close-on-exec.
    pub socket: OwnedFd,
    /// Who connected.
    pub remote: Address,
    /// Index of the listener; None when another worker accepted it.
    pub listener: Option<usize>,
    /// What is known of it.
    pub passing: Passing,
}

/// How busy the worker is, as the acceptor sees it; and the way to wake it.
///
/// One side stores the load and then looks whether the other is paused, the other says that it pauses and then looks at the load: only
/// a single order of all four (SeqCst) makes sure that one of them sees the other.
pub struct Load {
    connections: AtomicUsize,
    /// The worker has all the calls it may have.
    calls_full: AtomicBool,
    draining: AtomicBool,
    queue: AtomicBool,
    /// Nobody else is left to take the connections that are on their way between workers.
    last: AtomicBool,
    paused: AtomicBool,
    most_connections: usize,
    command: EventFd,
}

impl Load {
    /// No load, with the limits at which accepting stops.
    ///
    /// # Errors
    /// When no eventfd can be had.
    pub fn new(most_connections: usize) -> io::Result<Self> {
        Ok(Self {
            connections: AtomicUsize::new(0),
            calls_full: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            queue: AtomicBool::new(false),
            last: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            most_connections,
            command: EventFd::new()?,
        })
    }

    /// Number of open connections, those handed over and not yet taken included.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// A connection was closed.
    pub fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::SeqCst);
        self.eased();
    }

    /// The limit of calls in flight was reached, or left.
    pub fn set_calls_full(&self, full: bool) {
        self.calls_full.store(full, Ordering::SeqCst);
        self.eased();
    }

    /// Accept no more and leave; `queue` says that the doors are shut, and what is queued is to be accepted first; `last` that
    /// what is on its way between workers is, too.
    pub fn drain(&self, queue: bool, last: bool) {
        self.last.store(last, Ordering::Relaxed);
        self.queue.store(queue, Ordering::Relaxed);
        self.draining.store(true, Ordering::SeqCst);
        self.command.wake();
    }

    /// Takes a connection over from another worker, if there is one and it may: one in which a call is stuck may not.
    pub fn take_over(&self, handover: &Handover) -> Option<Accepted> {
        if self.full() || self.draining.load(Ordering::SeqCst) {
            return None;
        }
        self.take_any(handover).unwrap_or_else(|error| {
            tracing::error!("no connection can be taken over: {error}");
            None
        })
    }

    fn take_any(&self, handover: &Handover) -> io::Result<Option<Accepted>> {
        // A connection that finds no free descriptor when it is received is closed by the kernel.
        drop(self.command.try_clone()?);
        let Some((socket, passing)) = handover.take()? else {
            return Ok(None);
        };
        let remote = match sys::socket::peer(&socket) {
            _ if passing.unix => Address::Unix(None),
            Ok(remote) => remote,
            // Reset by its client on the way.
            Err(_) => return Ok(None),
        };
        self.connections.fetch_add(1, Ordering::SeqCst);
        Ok(Some(Accepted {
            socket,
            remote,
            listener: None,
            passing,
        }))
    }

    fn eased(&self) {
        if self.paused.load(Ordering::SeqCst) && !self.full() {
            self.command.wake();
        }
    }

    fn full(&self) -> bool {
        self.connections() >= self.most_connections || self.calls_full.load(Ordering::SeqCst)
    }
}

/// Where accepted connections go.
pub struct Way {
    /// To the runtime.
    pub arrivals: Arc<Arrivals>,
    /// Tells when that is held up.
    pub watch: Arc<Watch>,
    /// To another worker then.
    pub handover: Arc<Handover>,
    /// Counts those.
    pub slot: Slot,
}

/// Starts accepting; arrivals end when the queues were accepted to their end after [`Load::drain`].
///
/// # Errors
/// When the epoll set or the thread cannot be had.
pub fn start(listeners: Vec<Arc<Listener>>, load: Arc<Load>, way: Way) -> io::Result<()> {
    let epoll = Epoll::new()?;
    epoll.add(&load.command, COMMAND, Interest::Read)?;
    epoll.add(&*way.handover, HANDOVER, Interest::ReadExclusive)?;
    for (index, listener) in listeners.iter().enumerate() {
        epoll.add(&**listener, index as u64, Interest::ReadExclusive)?;
    }
    let acceptor = Acceptor {
        listeners,
        load,
        way,
        epoll,
        listening: true,
    };
    thread::Builder::new()
        .name("acceptor".into())
        .spawn(move || acceptor.run())?;
    Ok(())
}

struct Acceptor {
    listeners: Vec<Arc<Listener>>,
    load: Arc<Load>,
    way: Way,
    epoll: Epoll,
    /// The listeners are in the epoll set.
    listening: bool,
}

impl Acceptor {
    fn run(mut self) {
        let mut ready: Vec<Ready> = Vec::new();
        let mut pause = None;
        while !self.load.draining.load(Ordering::SeqCst) {
            // A connection must not wait behind a handler while other workers are free: the kernel shall wake those.
            let held_up = self.way.watch.is_busy();
            if held_up {
                self.pass_on();
            }
            let wanted = pause.is_none() && !held_up && !self.load.full();
            self.load.paused.store(!wanted, Ordering::SeqCst);
            // Between the look and the store the load may have eased; the second look closes that gap.
            let wanted = wanted || (pause.is_none() && !held_up && !self.load.full());
            if let Err(error) = self
                .listen(wanted)
                .and_then(|()| self.epoll.wait(&mut ready, self.patience(held_up, pause.take())))
            {
                tracing::error!("accepting paused: epoll failed: {error}");
                pause = Some(PAUSE);
                continue;
            }
            for event in &ready {
                if event.token == COMMAND {
                    self.load.command.clear();
                } else if event.token == HANDOVER {
                    if let Err(error) = self.take_one() {
                        tracing::error!("taking over paused for {} ms: {error}", PAUSE.as_millis());
                        pause = Some(PAUSE);
                    }
                } else if let Err(error) = self.accept_one(event.token as usize) {
                    tracing::error!("accepting paused for {} ms: {error}", PAUSE.as_millis());
                    pause = Some(PAUSE);
                }
            }
        }
        // In a reload other workers accept from the same queues: nothing waits for this one.
        if self.load.queue.load(Ordering::Relaxed) {
            self.accept_queues();
        }
        for listener in &self.listeners {
            listener.close();
        }
        self.way.arrivals.end();
    }

    /// How long nothing may happen: while connections wait for the runtime, or all of us do, not long.
    fn patience(&self, held_up: bool, pause: Option<Duration>) -> Option<Duration> {
        if held_up || !self.way.arrivals.is_empty() {
            return Some(HELD_UP);
        }
        pause
    }

    /// Gives another worker what waits for a runtime that is held up in a handler.
    fn pass_on(&self) {
        watchdog::pass_on(&self.way.arrivals, &self.way.handover, &self.load, self.way.slot);
    }

    /// Whether the runtime is held up. If so this worker stops listening first: what it passes on must not come back to it.
    fn steps_aside(&mut self) -> io::Result<bool> {
        let held_up = self.way.watch.is_busy();
        if held_up {
            self.listen(false)?;
        }
        Ok(held_up)
    }

    /// Puts the listeners into the set, or takes them out.
    fn listen(&mut self, wanted: bool) -> io::Result<()> {
        if wanted == self.listening {
            return Ok(());
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            if wanted {
                self.watch(index)?;
            } else {
                let _ = self.epoll.delete(&**listener);
            }
        }
        let _ = self.epoll.delete(&*self.way.handover);
        if wanted {
            self.epoll.add(&*self.way.handover, HANDOVER, Interest::ReadExclusive)?;
        }
        self.listening = wanted;
        Ok(())
    }

    /// Takes one connection over from another worker, and goes to the end of the line as in [`Acceptor::accept_one`].
    fn take_one(&mut self) -> io::Result<()> {
        if let Some(accepted) = self.load.take_any(&self.way.handover)? {
            self.way.arrivals.push(accepted);
        }
        if self.steps_aside()? {
            self.pass_on();
            return Ok(());
        }
        let _ = self.epoll.delete(&*self.way.handover);
        self.epoll.add(&*self.way.handover, HANDOVER, Interest::ReadExclusive)
    }

    /// Accepts one connection and goes to the end of the kernel's line of waiters: without that the last to wait is the first
    /// to be woken, and one worker gets most connections.
    fn accept_one(&mut self, index: usize) -> io::Result<()> {
        let listener = self.listeners[index].clone();
        // Even for a runtime that is held up: we are the one that the kernel woke for it, and it wakes nobody else.
        if let Some((socket, remote)) = listener.accept()? {
            self.hand_over(socket, remote, index);
        }
        if self.steps_aside()? {
            self.pass_on();
            return Ok(());
        }
        let _ = self.epoll.delete(&*listener);
        self.watch(index)
    }

    /// Puts a listener into the set; it may be there already, if taking it out failed.
    fn watch(&self, index: usize) -> io::Result<()> {
        match self
            .epoll
            .add(&*self.listeners[index], index as u64, Interest::ReadExclusive)
        {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    fn hand_over(&self, socket: OwnedFd, remote: Address, listener: usize) {
        self.load.connections.fetch_add(1, Ordering::SeqCst);
        self.way.arrivals.push(Accepted {
            socket,
            remote,
            listener: Some(listener),
            passing: Passing {
                fresh: true,
                ..Passing::default()
            },
        });
    }

    /// Accepts what is queued, past every limit: these clients were let in before the door was shut.
    fn accept_queues(&self) {
        let began = Instant::now();
        let mut quiet_since = began;
        let mut ready = Vec::new();
        // An empty set is a sleep; the listeners' own would not wait on a shut door.
        let Ok(epoll) = Epoll::new() else { return };
        loop {
            // Asked before the look, so that the last look comes after the wait: on a busy machine this thread may not run for longer
            // than that between two of them.
            let over = quiet_since.elapsed() >= QUIET || began.elapsed() >= LONGEST;
            // While the worker stays for those it has, the queue can as well be looked at again.
            if self.load.connections() > 0 {
                quiet_since = Instant::now();
            }
            // Where others serve on, only what is behind a door that was shut is ours to empty.
            let last = self.load.last.load(Ordering::Relaxed);
            for (index, listener) in self
                .listeners
                .iter()
                .enumerate()
                .filter(|(_, listener)| listener.has_door() && (last || listener.is_shut()))
            {
                loop {
                    match listener.accept() {
                        Ok(Some((socket, remote))) => {
                            quiet_since = Instant::now();
                            self.hand_over(socket, remote, index);
                        }
                        Ok(None) => break,
                        Err(error) => {
                            // Out of descriptors: connections that end give some back before the drain's deadline.
                            tracing::error!("accepting the rest of the queue: {error}");
                            quiet_since = Instant::now();
                            break;
                        }
                    }
                }
            }
            // Were another worker still there to serve them, it would have taken them by now.
            if last && began.elapsed() > QUIET / 2 {
                while let Ok(Some(accepted)) = self.load.take_any(&self.way.handover) {
                    self.way.arrivals.push(accepted);
                }
            }
            if over && (quiet_since.elapsed() >= QUIET || began.elapsed() >= LONGEST) {
                break;
            }
            let _ = epoll.wait(&mut ready, Some(LOOK));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_worker_that_accepts_no_more_takes_no_connection_over() {
        let handover = Handover::new().unwrap();
        let (_client, server) = UnixStream::pair().unwrap();
        let passing = Passing {
            unix: true,
            ..Passing::default()
        };
        handover.give(server.as_fd(), &passing).unwrap();
        let stuck = Load::new(1).unwrap();
        stuck.drain(false, false);
        assert!(stuck.take_over(&handover).is_none());
        let another = Load::new(1).unwrap();
        assert!(another.take_over(&handover).is_some());
        assert_eq!(another.connections(), 1);
    }
}
