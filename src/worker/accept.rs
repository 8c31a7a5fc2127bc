//! Takes connections from the shared queues, on the runtime thread, in its own epoll set.
//!
//! The kernel wakes one worker for a connection, and passes over those that are not waiting: a worker that computes gets none. Each time
//! it is woken it takes one connection of each queue and goes to the end of the kernel's line. While the worker is at a limit it stands
//! in no line, unless all are at theirs and some of its connections only wait: then those make room (`room`). At a stop it accepts the queues to their end. It knows nothing of what is said on a connection.
#![forbid(unsafe_code)]

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep};

use super::connection;
use super::source::{Door, Source, take};
use super::{Worker, room};
use crate::config;
use crate::listener::Listener;
use crate::scoreboard::{Fact, House};
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

/// The one who accepts.
pub struct Acceptor {
    worker: Rc<Worker>,
    house: &'static House,
    sources: Vec<Source>,
    /// The source that is asked first: at a limit there is room for one connection, and no source may be the last each time.
    first: usize,
    /// It stands in the lines.
    listening: bool,
    pause: Option<Pin<Box<Sleep>>>,
    /// Since when accepting has failed.
    starved: Option<Instant>,
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
    /// Joins the lines; `wanted` is how the listeners are configured.
    ///
    /// # Errors
    /// When a listener cannot be watched.
    pub fn new(
        worker: Rc<Worker>,
        listeners: &[Arc<Listener>],
        wanted: &[config::Listener],
        house: &'static House,
    ) -> io::Result<Self> {
        let mut sources = Vec::new();
        for (index, listener) in listeners.iter().enumerate() {
            room::spare_the_kernel(listener);
            sources.push(Source {
                queue: Shared::watch(&**listener)?,
                // What a service manager handed over instead of the default listener is spoken to as that would be.
                door: Some(Door::new(listener, wanted.get(index).or(wanted.first()))),
            });
        }
        sources.push(Source {
            queue: Shared::watch(&*worker.handover)?,
            door: None,
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
            first: 0,
            listening: true,
            pause: None,
            starved: None,
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
        let mut listeners = self.sources.iter().filter(|source| source.door.is_some());
        listeners.any(|source| last || source.is_shut())
    }

    /// A look now and then: whom the kernel has woken may have been stopped or killed before it took what it was woken for. And who has
    /// left while others served on keeps its listeners, lest one that turns out to be the last has none; so it has to find out when a
    /// door was shut after it.
    pub fn look(&mut self) {
        match self.stage {
            Stage::Serving if self.pause.is_none() => {
                for source in &mut self.sources {
                    // The kernel tells again what is there, and it is taken by turns as ever.
                    if source.queue.is_exclusive() {
                        if self.listening
                            && let Err(error) = source.queue.step_back()
                        {
                            tracing::error!("a queue cannot be watched: {error}");
                        }
                        continue;
                    }
                    while !self.worker.load.is_full()
                        && let Ok(Some(accepted)) = take(&self.worker.handover, source.door.as_ref())
                    {
                        connection::start(&self.worker, accepted);
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
            let full = self.worker.load.is_full();
            if full && !self.worker.could_make_room() {
                self.step_out();
                return Poll::Pending;
            }
            let look = if full { Self::make_room } else { Self::serve };
            match self.step_in().and_then(|()| look(self, cx)) {
                // What it has brought may have filled the worker.
                Ok(()) if !full && self.worker.load.is_full() => {}
                Ok(()) if self.pause.is_some() => {}
                Ok(()) => return Poll::Pending,
                Err(error) => self.starve(&error),
            }
        }
    }

    /// Out of descriptors, mostly. It is tried again and again, and told once.
    fn starve(&mut self, error: &io::Error) {
        if self.starved.is_none() {
            self.starved = Some(Instant::now());
            tracing::error!("accepting paused, and is tried every {} ms: {error}", PAUSE.as_millis());
        }
        self.step_out();
        self.pause = Some(Box::pin(sleep(PAUSE)));
    }

    /// Nobody has room, and somebody knocks: who has waited longest gives way, and wakes this task by its end.
    fn make_room(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        for index in 0..self.sources.len() {
            let source = &mut self.sources[index];
            let Poll::Ready(knocked) = source.queue.poll_take(cx, || Ok(None::<()>)) else {
                continue;
            };
            knocked?;
            if source.is_shut() {
                source.queue.leave();
                continue;
            }
            self.step_out();
            if self.worker.make_room() == 0 {
                self.pause = Some(Box::pin(sleep(PAUSE)));
            }
            return Ok(());
        }
        Ok(())
    }

    /// Takes a connection from each source that has one. The one that it was woken for is among them, and nobody else was woken for it.
    fn serve(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.first = (self.first + 1) % self.sources.len();
        for turn in 0..self.sources.len() {
            let index = (self.first + turn) % self.sources.len();
            loop {
                let Source { door, queue } = &mut self.sources[index];
                let handover = &self.worker.handover;
                let Poll::Ready(taken) = queue.poll_take(cx, || take(handover, door.as_ref())) else {
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
                connection::start(&self.worker, accepted);
                if let Some(since) = self.starved.take() {
                    tracing::info!("accepting goes on after {} ms", since.elapsed().as_millis());
                }
                if self.worker.load.is_full() {
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
            let due = match &source.door {
                // Where others serve on, only what is behind a door that was shut is ours to empty.
                Some(Door { listener, .. }) => listener.has_door() && (last || listener.is_shut()),
                // Were another worker still there to serve them, it would have taken them by now.
                None => last && began.elapsed() > QUIET / 2,
            };
            if !due {
                continue;
            }
            loop {
                match take(&self.worker.handover, source.door.as_ref()) {
                    Ok(Some(accepted)) => {
                        quiet_since = Instant::now();
                        connection::start(&self.worker, accepted);
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
        let emptied = |source: &mut Source| source.is_shut() || (last && source.door.is_some());
        for Source { door, queue } in self.sources.extract_if(.., emptied) {
            drop(queue);
            if let Some(door) = door {
                door.listener.close();
            }
        }
    }
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
    use crate::handover::{Handover, Passing};
    use crate::listener::Address;
    use crate::scoreboard::Scoreboard;
    use std::os::fd::AsFd;

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
            cache: None,
        };
        let board: &'static Scoreboard = Scoreboard::create().unwrap();
        let handover = Arc::new(Handover::new().unwrap());
        let worker = super::super::prepare(1, board.claim(1).unwrap(), &generation, &handover, None).unwrap();
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
            Acceptor::new(
                self.worker.clone(),
                std::slice::from_ref(&self.listener),
                &[],
                self.house,
            )
            .unwrap()
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
            let _clients: Vec<_> = (0..3).map(|_| TcpStream::connect(scene.at).unwrap()).collect();
            scene.give();
            acceptor.look();
            // The kernel tells it again what there is; it takes its turns as ever, and leaves the rest to others.
            assert_eq!(scene.came(), (0, 0));
            let all_came = async {
                while scene.came() != (3, 1) {
                    sleep(LOOK).await;
                }
            };
            tokio::select! {
                () = acceptor.run() => unreachable!("it was not told to leave"),
                came = timeout(PATIENCE, all_came) => came.unwrap(),
            }
        });
    }
}
