//! The life of a worker: load the modules, start the runtime, serve, drain.
//!
//! Takes its [`Seat`] from the master and returns how it ended. The runtime is born here, after the fork, and never leaves.
//! Nothing here decides about other workers.
#![forbid(unsafe_code)]

mod accept;
mod account;
mod connection;
mod consult;
mod dispatch;
mod drain;
mod expiry;
mod fill;
mod load;
mod pool;
mod probe;
mod refresh;
mod room;
mod roster;
mod service;
mod shelf;
mod source;
mod stuck;
mod watchdog;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Notify;

use crate::access_log::{self, AccessLog};
use crate::config::{Config, Limits};
use crate::exit::Exit;
use crate::gateway::{Call, Mount};
use crate::generation::{Generation, Seat};
use crate::handler;
use crate::handler::image::Image;
use crate::handler::loader::{Boot, Loaded};
use crate::handover::Handover;
use crate::protocol::http::ledger::Ledger;
use crate::protocol::http::{Settings, head};
use crate::scoreboard::{Scoreboard, Slot, State};
use crate::sys::fault;
use crate::sys::fd::EventFd;
use accept::Acceptor;
use connection::Connections;
use dispatch::Dispatcher;
use drain::Birth;
use load::Load;
use pool::Pool;
pub use probe::probe;
use roster::Clerk;
use shelf::Shelf;
use stuck::Report;
use watchdog::{Watch, Watchdog};

/// What the connections of a worker share.
pub struct Worker {
    slot: Slot,
    settings: Settings,
    limits: Limits,
    mounts: Vec<Dispatcher>,
    places: Vec<Arc<Mount>>,
    nowhere: Arc<Mount>,
    /// The shared cache, where there is one.
    shelf: Option<Shelf>,
    access: RefCell<Option<AccessLog>>,
    load: Load,
    draining: Cell<bool>,
    /// The drain is over: who waits for a handler is told so.
    out_of_time: Cell<bool>,
    /// In the drain idle connections go to other workers.
    handing_over: Cell<bool>,
    /// Until when that is tried; what has not gone by then is closed in good order.
    give_until: Cell<Option<Instant>>,
    /// When it may be told again that idle connections give way (ns).
    room_told: Cell<u64>,
    /// Where the other workers are; a probe has none.
    board: OnceCell<&'static Scoreboard>,
    handover: Arc<Handover>,
    clerk: Clerk,
    in_flight: Cell<usize>,
    /// Places among them that are kept for connections whose turn has come.
    promised: Cell<usize>,
    /// Connections that wait for a call to end before they are read.
    waiting: RefCell<VecDeque<Rc<Ledger>>>,
    connections: RefCell<Connections>,
    /// The number of the next connection.
    arrived: Cell<u64>,
    /// A connection was closed during the drain.
    drained: Notify,
    watch: Arc<Watch>,
    /// Wakes the master; nobody has one to wake in a probe.
    notice: OnceCell<EventFd>,
    /// Number of requests after which the worker asks to be replaced.
    enough: u64,
    seed: u64,
    serial: Cell<u64>,
}

/// Serves until told to leave.
pub fn run(seat: Seat) -> Exit {
    let Seat {
        number,
        slot,
        generation,
        boot,
        commands,
        handover,
        notice,
        master,
        board,
        kept,
        access,
    } = seat;
    // Before any code of a module: what crashes at its start is recorded too.
    if let Err(error) = fault::install(slot.fault()) {
        tracing::warn!("a crash of this worker will be reported without its stack: {error}");
    }
    let listeners = generation.listeners.clone();
    let prepared = prepare(number, slot, &generation, &handover, access).and_then(|worker| {
        // tokio's own threads are never needed: files are sent by the kernel and names are not resolved here.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default());
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        watch(&worker, number, &generation, notice).map_err(|error| format!("no watchdog: {error}"))?;
        // Last of all, and only if the master has not given it up: from here on there are clients who count on it.
        if !slot.state_change(State::Starting, State::Ready) {
            return Ok(None);
        }
        let _ = worker.board.set(board);
        let acceptor = runtime
            .block_on(async { Acceptor::new(worker.clone(), &listeners, &generation.config.listeners, board.house()) });
        let acceptor = acceptor.map_err(|error| format!("no acceptor: {error}"))?;
        Ok(Some((worker, runtime, acceptor)))
    });
    let (worker, runtime, acceptor) = match prepared {
        Ok(Some(prepared)) => prepared,
        Ok(None) => return Exit::Done,
        Err(reason) => {
            boot.failed(&reason);
            return Exit::Module;
        }
    };
    // From here on it is missed when it stands still.
    slot.beat();
    boot.ready();
    let born = Birth {
        commands,
        listeners,
        master,
        board,
        kept,
    };
    runtime.block_on(drain::serve(worker, born, acceptor))
}

/// Starts the thread that acts when this one is stuck in a handler.
fn watch(worker: &Worker, number: usize, generation: &Generation, notice: EventFd) -> io::Result<()> {
    let _ = worker.notice.set(notice.try_clone()?);
    let config = &generation.config;
    Watchdog {
        watch: worker.watch.clone(),
        report: Report {
            slot: worker.slot,
            worker: number,
            notice,
            log: config.log.clone(),
            timeouts: config.timeouts.clone(),
            pleaded: AtomicBool::new(false),
        },
        handover: worker.handover.clone(),
        roster: worker.clerk.roster(),
        thread: fault::tid(),
    }
    .start()
}

/// Loads the modules and builds what connections share. The access log is `spare` if it cannot be opened.
fn prepare(
    number: usize,
    slot: Slot,
    generation: &Generation,
    handover: &Arc<Handover>,
    spare: Option<File>,
) -> Result<Rc<Worker>, String> {
    let config = &generation.config;
    // Before a module is loaded: the handshake tells it.
    if let Some(cache) = &generation.cache {
        handler::cache::offer(cache.clone());
    }
    let pool = Pool::new("handler", config.threads);
    let watch = Arc::new(Watch::new());
    let mut mounts = Vec::new();
    let mut places = Vec::new();
    for (index, (mount, image)) in config.mounts.iter().zip(&generation.images).enumerate() {
        let boot = Boot {
            mount: &mount.path,
            args: &mount.args,
            worker: number as u32,
            workers: config.workers as u32,
            threads: config.threads as u32,
            generation: generation.number,
        };
        fault::busy(Some(index));
        let loaded = load(image, generation.number)?;
        let multithread = loaded.threads == crate::handler::loader::Threads::Many;
        mounts.push(
            Dispatcher::start(loaded, mount.dispatch, &boot, &pool, &watch).map_err(|refusal| refusal.to_string())?,
        );
        places.push(Arc::new(Mount {
            index,
            script_name: mount.path.clone().into_bytes(),
            multithread,
            multiprocess: config.workers > 1,
            proxy_hints: config.proxy_hints,
            worker: number.to_string(),
            generation: generation.number.to_string(),
        }));
    }
    fault::busy(None);
    let about = access_log::about(number, std::process::id(), generation.number);
    let access = AccessLog::open(&config.log, slot.log(), about, spare)
        .map_err(|error| format!("the access log cannot be opened: {error}"))?;
    Ok(Rc::new(Worker {
        slot,
        settings: settings(config),
        limits: config.limits.clone(),
        nowhere: Arc::new(Mount {
            index: mounts.len(),
            ..Mount::default()
        }),
        mounts,
        places,
        shelf: shelf(slot, generation),
        access: RefCell::new(access),
        load: Load::new(config.limits.connections),
        draining: Cell::new(false),
        out_of_time: Cell::new(false),
        handing_over: Cell::new(false),
        give_until: Cell::new(None),
        room_told: Cell::new(0),
        board: OnceCell::new(),
        handover: handover.clone(),
        clerk: Clerk::new(config.limits.connections),
        in_flight: Cell::new(0),
        promised: Cell::new(0),
        waiting: RefCell::default(),
        connections: RefCell::default(),
        arrived: Cell::new(0),
        drained: Notify::new(),
        watch,
        notice: OnceCell::new(),
        enough: enough(&config.limits),
        seed: seed(),
        serial: Cell::new(1),
    }))
}

fn shelf(slot: Slot, generation: &Generation) -> Option<Shelf> {
    let (cache, config) = (generation.cache.as_ref()?, &generation.config.cache);
    cache.count_by(&slot.counters().cache);
    Some(Shelf::new(cache.clone(), config.clone(), generation.number))
}

fn settings(config: &Config) -> Settings {
    let limits = &config.limits;
    Settings {
        limits: head::Limits {
            request_line: limits.request_line,
            header_field: limits.header_field,
            header_fields: limits.header_fields,
            header_total: limits.header_total,
            body: limits.body,
        },
        timeouts: config.timeouts.clone(),
        trusted: config.trusted.clone(),
        body_rate: limits.body_rate,
        write_rate: limits.write_rate,
        body_buffer: limits.body_buffer,
    }
}

fn load(image: &Image, generation: u64) -> Result<Loaded, String> {
    Loaded::open::<Call>(&image.proc_path(), image.path(), generation).map_err(|refusal| refusal.to_string())
}

/// How many requests this worker is to answer; its share of the jitter keeps all from being replaced at once. No count of
/// requests reaches the largest number.
fn enough(limits: &Limits) -> u64 {
    match limits.max_requests as u64 {
        0 => u64::MAX,
        most => most + seed() % (limits.max_requests_jitter as u64 + 1),
    }
}

/// Random bits that tell this worker's request ids from all others'. `RandomState` draws them from the kernel, and was not used
/// before the fork.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    RandomState::new().hash_one((std::process::id(), now))
}
