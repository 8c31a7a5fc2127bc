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

use tokio::sync::mpsc::UnboundedSender;

use crate::listener::{Address, Listener};
use crate::sys::epoll::{Epoll, Interest, Ready};
use crate::sys::fd::EventFd;

/// How long nothing is accepted after the process ran out of descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the queue has to stay empty at a stop: a handshake that was under way when the door was shut may still end in it,
/// and on a busy machine the kernel's own thread (ksoftirqd) waits for its turn like any other.
const QUIET: Duration = Duration::from_millis(50);
/// Between two looks at the queues.
const LOOK: Duration = Duration::from_millis(5);
/// How long queues are accepted at the longest, should a door not be shut after all.
const LONGEST: Duration = Duration::from_secs(2);
/// The token of the command eventfd in the epoll set.
const COMMAND: u64 = u64::MAX;

/// An accepted connection.
pub struct Accepted {
    /// The socket: non-blocking, close-on-exec.
    pub socket: OwnedFd,
    /// Who connected.
    pub remote: Address,
    /// Index of the listener.
    pub listener: usize,
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

    /// Accept no more and leave; `queue` says that the doors are shut, and what is queued is to be accepted first.
    pub fn drain(&self, queue: bool) {
        self.queue.store(queue, Ordering::Relaxed);
        self.draining.store(true, Ordering::SeqCst);
        self.command.wake();
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

/// Starts accepting; the channel closes when the queues were accepted to their end after [`Load::drain`].
///
/// # Errors
/// When the epoll set or the thread cannot be had.
pub fn start(listeners: Vec<Arc<Listener>>, load: Arc<Load>, accepted: UnboundedSender<Accepted>) -> io::Result<()> {
    let epoll = Epoll::new()?;
    epoll.add(&load.command, COMMAND, Interest::Read)?;
    for (index, listener) in listeners.iter().enumerate() {
        epoll.add(&**listener, index as u64, Interest::ReadExclusive)?;
    }
    let acceptor = Acceptor {
        listeners,
        load,
        accepted,
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
    accepted: UnboundedSender<Accepted>,
    epoll: Epoll,
    /// The listeners are in the epoll set.
    listening: bool,
}

impl Acceptor {
    fn run(mut self) {
        let mut ready: Vec<Ready> = Vec::new();
        let mut pause = None;
        while !self.load.draining.load(Ordering::SeqCst) {
            let wanted = pause.is_none() && !self.load.full();
            self.load.paused.store(!wanted, Ordering::SeqCst);
            // Between the look and the store the load may have eased; the second look closes that gap.
            let wanted = wanted || (pause.is_none() && !self.load.full());
            if let Err(error) = self
                .listen(wanted)
                .and_then(|()| self.epoll.wait(&mut ready, pause.take()))
            {
                tracing::error!("accepting paused: epoll failed: {error}");
                pause = Some(PAUSE);
                continue;
            }
            for event in &ready {
                if event.token == COMMAND {
                    self.load.command.clear();
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
        self.listening = wanted;
        Ok(())
    }

    /// Accepts one connection and goes to the end of the kernel's line of waiters: without that the last to wait is the first
    /// to be woken, and one worker gets most connections.
    fn accept_one(&self, index: usize) -> io::Result<()> {
        let listener = &self.listeners[index];
        if let Some((socket, remote)) = listener.accept()? {
            self.hand_over(socket, remote, index);
        }
        let _ = self.epoll.delete(&**listener);
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
        // The runtime outlives this thread; were it gone, so would be the worker.
        let _ = self.accepted.send(Accepted {
            socket,
            remote,
            listener,
        });
    }

    /// Accepts what is queued, past every limit: these clients were let in before the door was shut.
    fn accept_queues(&self) {
        let began = Instant::now();
        let mut quiet_since = began;
        let mut ready = Vec::new();
        // An empty set is a sleep; the listeners' own would not wait on a shut door.
        let Ok(epoll) = Epoll::new() else { return };
        while quiet_since.elapsed() < QUIET && began.elapsed() < LONGEST {
            // While the worker stays for those it has, the queue can as well be looked at again.
            if self.load.connections() > 0 {
                quiet_since = Instant::now();
            }
            for (index, listener) in self
                .listeners
                .iter()
                .enumerate()
                .filter(|(_, listener)| listener.has_door())
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
            let _ = epoll.wait(&mut ready, Some(LOOK));
        }
    }
}
