//! Takes connections from the shared queues, on the runtime thread, in its own epoll set.
//!
//! The kernel wakes one worker for a connection, and passes over those that are not waiting: a worker that computes gets none. Each time
//! it is woken it takes one connection of each queue and goes to the end of the kernel's line. While the worker is at a limit it stands
//! in no line. At a stop it accepts the queues to their end. It knows nothing of what is said on a connection.
#![forbid(unsafe_code)]

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep};

use super::Worker;
use super::connection::{self, Here, here};
use crate::handover::{Handover, Passing};
use crate::listener::{Address, Listener};
use crate::scoreboard::{Fact, House};
use crate::sys;
use crate::sys::epoll::Shared;

/// How long nothing is accepted after the process ran out of descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the queue has to stay empty at a stop: a handshake that was under way when the door was shut may still end in it,
/// and on a busy machine the kernel's own thread (ksoftirqd) waits for its turn like any other.
const QUIET: Duration = Duration::from_millis(50);
/// Between two looks at the queues.
const LOOK: Duration = Duration::from_millis(5);
/// How long queues are accepted at the longest, should a door not be shut after all.
const LONGEST: Duration = Duration::from_secs(2);

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

/// Where connections come from.
struct Source {
    /// With its number; absent for what other workers hand over.
    listener: Option<(usize, Arc<Listener>)>,
    queue: Shared,
}

impl Source {
    /// Whether it is a door, and shut.
    fn is_shut(&self) -> bool {
        let listener = self.listener.as_ref();
        listener.is_some_and(|(_, listener)| listener.has_door() && listener.is_shut())
    }
}

/// The one who accepts.
pub struct Acceptor {
    worker: Rc<Worker>,
    house: &'static House,
    sources: Vec<Source>,
    heres: Vec<Option<Here>>,
    /// It stands in the lines.
    listening: bool,
    pause: Option<Pin<Box<Sleep>>>,
    stage: Stage,
}

/// Where it is in its life.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    /// It accepts what is queued behind the doors that are shut; and where nobody serves on (`last`), all that is queued anywhere.
    Emptying {
        last: bool,
        began: Instant,
        quiet_since: Instant,
    },
    /// It accepts nothing.
    Over,
}

impl Acceptor {
    /// Joins the lines.
    ///
    /// # Errors
    /// When a listener cannot be watched.
    pub fn new(worker: Rc<Worker>, listeners: &[Arc<Listener>], house: &'static House) -> io::Result<Self> {
        let mut sources = Vec::new();
        for (index, listener) in listeners.iter().enumerate() {
            sources.push(Source {
                queue: Shared::watch(&**listener)?,
                listener: Some((index, listener.clone())),
            });
        }
        sources.push(Source {
            queue: Shared::watch(&*worker.handover)?,
            listener: None,
        });
        if !sources.iter().all(|source| source.queue.is_exclusive()) {
            tracing::warn!(
                "each new connection wakes all idle workers, for /proc/self/fdinfo does not tell of this worker's epoll set; mount /proc"
            );
        }
        Ok(Self {
            worker,
            house,
            sources,
            heres: listeners.iter().map(|listener| here(listener.address())).collect(),
            listening: true,
            pause: None,
            stage: Stage::Serving,
        })
    }

    /// Accepts for as long as it is polled; ready when all is accepted that was to be after [`Acceptor::leave`]. Nothing is lost when this
    /// is dropped half-way.
    pub async fn run(&mut self) {
        loop {
            match self.stage {
                Stage::Serving => poll_fn(|cx| self.poll_serving(cx)).await,
                Stage::Emptying {
                    last,
                    began,
                    quiet_since,
                } => {
                    if self.empty(last, began, quiet_since) {
                        self.stage = Stage::Over;
                        self.close(last);
                    } else {
                        sleep(LOOK).await;
                    }
                }
                Stage::Over => return,
            }
        }
    }

    /// Whether [`Acceptor::run`] has nothing to do any more.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Accepts no more; `queue` says that doors are shut, and what is queued behind them is to be accepted first; `last` that
    /// nobody serves on, so all that is queued is, and what is on its way between workers. May be said again, with more.
    pub fn leave(&mut self, queue: bool, last: bool) {
        self.step_out();
        let asked = match self.stage {
            Stage::Emptying { last: before, .. } => last && !before,
            Stage::Over => queue && self.holds(last),
            Stage::Serving => queue,
        };
        if asked {
            let now = Instant::now();
            self.stage = Stage::Emptying {
                last,
                began: now,
                quiet_since: now,
            };
        } else if self.stage == Stage::Serving {
            self.stage = Stage::Over;
        }
    }

    /// Whether there is a listener left that has to be emptied.
    fn holds(&self, last: bool) -> bool {
        let mut listeners = self.sources.iter().filter(|source| source.listener.is_some());
        listeners.any(|source| last || source.is_shut())
    }

    /// A look now and then: whom the kernel has woken may have been stopped or killed before it took what it was woken for. And who has
    /// left while others served on keeps its listeners, lest one that turns out to be the last has none; so it has to find out when a
    /// door was shut after it.
    pub fn look(&mut self) {
        match self.stage {
            Stage::Serving if self.pause.is_none() => {
                for source in &self.sources {
                    while !self.worker.load.is_full()
                        && let Ok(Some(accepted)) = take(&self.worker.handover, source.listener.as_ref())
                    {
                        self.start(accepted);
                    }
                }
            }
            Stage::Over if self.holds(false) => self.leave(true, false),
            _ => {}
        }
    }

    /// Never ready but when told to leave meanwhile.
    fn poll_serving(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.worker.load.wakes(cx.waker());
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            if self.worker.load.is_full() {
                self.step_out();
                return Poll::Pending;
            }
            let Err(error) = self.step_in().and_then(|()| self.serve(cx)) else {
                return Poll::Pending;
            };
            tracing::error!("accepting paused for {} ms: {error}", PAUSE.as_millis());
            self.step_out();
            self.pause = Some(Box::pin(sleep(PAUSE)));
        }
    }

    /// Takes a connection from each source that has one. The one that it was woken for is among them, and nobody else was woken for it.
    fn serve(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        for index in 0..self.sources.len() {
            loop {
                let Source { listener, queue } = &mut self.sources[index];
                let handover = &self.worker.handover;
                let Poll::Ready(taken) = queue.poll_take(cx, || take(handover, listener.as_ref())) else {
                    break;
                };
                let Some(accepted) = taken? else {
                    let source = &mut self.sources[index];
                    // A Unix socket that is shut is readable for ever.
                    if source.is_shut() {
                        source.queue.leave();
                    }
                    continue;
                };
                self.start(accepted);
                if self.worker.load.is_full() {
                    self.step_out();
                    return Ok(());
                }
                // Without that the first in the line is woken again and again, and gets most connections.
                if self.house.fact(Fact::Wanted) > 1 {
                    self.sources[index].queue.step_back()?;
                }
            }
        }
        Ok(())
    }

    fn step_in(&mut self) -> io::Result<()> {
        if !self.listening {
            for source in &mut self.sources {
                source.queue.join()?;
            }
            self.listening = true;
        }
        Ok(())
    }

    fn step_out(&mut self) {
        self.sources.iter_mut().for_each(|source| source.queue.leave());
        self.listening = false;
    }

    fn start(&self, accepted: Accepted) {
        connection::start(&self.worker, accepted, &self.heres);
    }

    /// Accepts what is queued, past every limit: these clients were let in before the door was shut. Tells whether that was the last
    /// look.
    fn empty(&mut self, last: bool, began: Instant, mut quiet_since: Instant) -> bool {
        // Asked before the look, so that the last look comes after the wait: on a busy machine this thread may not run for longer
        // than that between two of them.
        let over = quiet_since.elapsed() >= QUIET || began.elapsed() >= LONGEST;
        // While the worker stays for those it has, the queue can as well be looked at again.
        if self.worker.load.connections() > 0 {
            quiet_since = Instant::now();
        }
        for source in &self.sources {
            let due = match &source.listener {
                // Where others serve on, only what is behind a door that was shut is ours to empty.
                Some((_, listener)) => listener.has_door() && (last || listener.is_shut()),
                // Were another worker still there to serve them, it would have taken them by now.
                None => last && began.elapsed() > QUIET / 2,
            };
            if !due {
                continue;
            }
            loop {
                match take(&self.worker.handover, source.listener.as_ref()) {
                    Ok(Some(accepted)) => {
                        quiet_since = Instant::now();
                        self.start(accepted);
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
        self.stage = Stage::Emptying {
            last,
            began,
            quiet_since,
        };
        over && (quiet_since.elapsed() >= QUIET || began.elapsed() >= LONGEST)
    }

    /// Gives up what was emptied, so that nobody queues where nobody accepts and the address is free.
    fn close(&mut self, last: bool) {
        let emptied = |source: &mut Source| source.is_shut() || (last && source.listener.is_some());
        for Source { listener, queue } in self.sources.extract_if(.., emptied) {
            drop(queue);
            if let Some((_, listener)) = listener {
                listener.close();
            }
        }
    }
}

fn take(handover: &Handover, listener: Option<&(usize, Arc<Listener>)>) -> io::Result<Option<Accepted>> {
    let Some((index, listener)) = listener else {
        return take_over(handover);
    };
    Ok(listener.accept()?.map(|(socket, remote)| Accepted {
        socket,
        remote,
        listener: Some(*index),
        passing: Passing {
            fresh: true,
            ..Passing::default()
        },
    }))
}

/// Takes a connection over from another worker, if there is one.
fn take_over(handover: &Handover) -> io::Result<Option<Accepted>> {
    // A connection that finds no free descriptor when it is received is closed by the kernel.
    drop(handover.as_fd().try_clone_to_owned()?);
    let Some((socket, passing)) = handover.take()? else {
        return Ok(None);
    };
    let remote = match sys::socket::peer(&socket) {
        _ if passing.unix => Address::Unix(None),
        Ok(remote) => remote,
        // Reset by its client on the way.
        Err(_) => return Ok(None),
    };
    Ok(Some(Accepted {
        socket,
        remote,
        listener: None,
        passing,
    }))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::Ordering;

    use tokio::runtime::{Builder, LocalOptions};
    use tokio::time::timeout;

    use super::*;
    use crate::config::{self, Bind, Config};
    use crate::generation::Generation;
    use crate::scoreboard::Scoreboard;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A worker without modules, that may have so many connections, its one listener and where that is.
    struct Scene {
        worker: Rc<Worker>,
        listener: Arc<Listener>,
        at: std::net::SocketAddr,
        house: &'static House,
    }

    /// Plays in a runtime like that of a worker.
    fn play<F: Future<Output = ()>>(connections: usize, scenes: impl FnOnce(Scene) -> F) {
        let bind = Bind::Tcp("127.0.0.1:0".parse().unwrap());
        let listener = Arc::new(Listener::open(&config::Listener::new(bind)).unwrap());
        let Address::Tcp(at) = *listener.address() else {
            panic!()
        };
        let mut config = Config::for_module("none");
        config.limits.connections = connections;
        let generation = Generation {
            number: 1,
            config,
            images: Vec::new(),
            listeners: Vec::new(),
            loaded_at: 0,
        };
        let board: &'static Scoreboard = Scoreboard::create().unwrap();
        let handover = Arc::new(Handover::new().unwrap());
        let worker = super::super::prepare(1, board.claim(1).unwrap(), &generation, &handover).unwrap();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .unwrap();
        runtime.block_on(scenes(Scene {
            worker,
            listener,
            at,
            house: board.house(),
        }));
    }

    impl Scene {
        fn acceptor(&self) -> Acceptor {
            Acceptor::new(self.worker.clone(), std::slice::from_ref(&self.listener), self.house).unwrap()
        }

        /// Accepted and taken over.
        fn came(&self) -> (u64, u64) {
            let counters = self.worker.slot.counters();
            let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            (count(counters.accepts), count(counters.taken_over))
        }

        fn give(&self) {
            let (_client, server) = UnixStream::pair().unwrap();
            server.set_nonblocking(true).unwrap();
            let passing = Passing {
                unix: true,
                ..Passing::default()
            };
            self.worker.handover.give(server.as_fd(), &passing).unwrap();
        }
    }

    #[test]
    fn a_worker_that_has_left_takes_nothing_until_it_hears_that_nobody_serves_on() {
        play(9, |scene| async move {
            let mut acceptor = scene.acceptor();
            drop(TcpStream::connect(scene.at).unwrap());
            scene.give();
            acceptor.leave(false, false);
            timeout(PATIENCE, acceptor.run()).await.unwrap();
            acceptor.look();
            assert_eq!((acceptor.is_over(), scene.came()), (true, (0, 0)));
            acceptor.leave(true, true);
            assert!(!acceptor.is_over());
            timeout(PATIENCE, acceptor.run()).await.unwrap();
            assert_eq!((acceptor.is_over(), scene.came()), (true, (1, 1)));
            acceptor.leave(true, true);
            assert!(acceptor.is_over(), "there is nothing left");
        });
    }

    #[test]
    fn a_door_that_is_shut_after_the_worker_has_left_is_found_and_its_queue_emptied() {
        play(9, |scene| async move {
            let mut acceptor = scene.acceptor();
            acceptor.leave(false, false);
            drop(TcpStream::connect(scene.at).unwrap());
            scene.listener.close_door();
            acceptor.look();
            timeout(PATIENCE, acceptor.run()).await.unwrap();
            assert_eq!(scene.came(), (1, 0));
        });
    }

    #[test]
    fn at_its_limit_a_worker_leaves_the_queue_to_others_and_comes_back() {
        play(1, |scene| async move {
            let mut acceptor = scene.acceptor();
            let first = TcpStream::connect(scene.at).unwrap();
            let _second = TcpStream::connect(scene.at).unwrap();
            let soon = Duration::from_millis(100);
            assert!(timeout(soon, acceptor.run()).await.is_err());
            assert_eq!((scene.came(), acceptor.listening), ((1, 0), false));
            drop(first);
            let came_back = async {
                while scene.came() != (2, 0) {
                    sleep(LOOK).await;
                }
            };
            tokio::select! {
                () = acceptor.run() => unreachable!("it was not told to leave"),
                came = timeout(PATIENCE, came_back) => came.unwrap(),
            }
            assert_eq!(scene.worker.load.connections(), 1);
        });
    }

    #[test]
    fn who_was_woken_may_have_died_so_the_others_look_now_and_then() {
        play(9, |scene| async move {
            let mut acceptor = scene.acceptor();
            let _client = TcpStream::connect(scene.at).unwrap();
            scene.give();
            acceptor.look();
            assert_eq!(scene.came(), (1, 1));
        });
    }
}
