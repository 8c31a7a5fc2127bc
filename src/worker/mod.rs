//! The life of a worker: load the modules, start the runtime, serve, drain.
//!
//! Takes its [`Seat`] from the master and returns how it ended. The runtime is born here, after the fork, and never leaves.
//! Nothing here decides about other workers.

pub mod accept;
mod account;
pub mod connection;
pub mod dispatch;
pub mod drain;
pub mod pool;
pub mod service;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc};

use crate::access_log::AccessLog;
use crate::config::{Config, Limits};
use crate::exit::Exit;
use crate::gateway::{Call, Mount};
use crate::generation::{Generation, Seat};
use crate::handler::image::Image;
use crate::handler::loader::{Boot, Loaded};
use crate::protocol::http::ledger::Ledger;
use crate::protocol::http::{Settings, head};
use crate::scoreboard::{Slot, State};
use accept::Load;
use dispatch::Dispatcher;
use pool::Pool;

/// What the connections of a worker share.
pub struct Worker {
    slot: Slot,
    settings: Settings,
    limits: Limits,
    mounts: Vec<Dispatcher>,
    places: Vec<Arc<Mount>>,
    nowhere: Arc<Mount>,
    access: RefCell<Option<AccessLog>>,
    load: Arc<Load>,
    draining: Cell<bool>,
    in_flight: Cell<usize>,
    /// Connections that wait for a call to end before they are read.
    waiting: RefCell<VecDeque<Rc<Ledger>>>,
    connections: RefCell<HashMap<u64, Rc<Ledger>>>,
    /// A connection was closed during the drain.
    drained: Notify,
    seed: u64,
    serial: Cell<u64>,
}

/// Serves until told to leave.
pub fn run(seat: Seat) -> Exit {
    let Seat {
        number,
        slot,
        generation,
        listeners,
        boot,
        commands,
        ..
    } = seat;
    let prepared = prepare(number, slot, &generation).and_then(|worker| {
        // tokio's own threads are never needed: files are sent by the kernel and names are not resolved here.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default());
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        let (sender, accepted) = mpsc::unbounded_channel();
        accept::start(listeners.clone(), worker.load.clone(), sender)
            .map_err(|error| format!("no acceptor: {error}"))?;
        Ok((worker, runtime, accepted))
    });
    let (worker, runtime, accepted) = match prepared {
        Ok(prepared) => prepared,
        Err(reason) => {
            boot.failed(&reason);
            return Exit::Module;
        }
    };
    slot.state_set(State::Ready);
    boot.ready();
    let addresses = listeners.iter().map(|listener| listener.address().clone()).collect();
    runtime.block_on(drain::serve(worker, commands, accepted, addresses))
}

/// Loads the modules and builds what connections share.
fn prepare(number: usize, slot: Slot, generation: &Generation) -> Result<Rc<Worker>, String> {
    let config = &generation.config;
    let pool = Pool::new("handler", config.threads);
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
        let loaded = load(image, generation.number)?;
        let multithread = loaded.threads == crate::handler::loader::Threads::Many;
        mounts.push(Dispatcher::start(loaded, mount.dispatch, &boot, &pool).map_err(|refusal| refusal.to_string())?);
        places.push(Arc::new(Mount {
            index,
            script_name: mount.path.clone().into_bytes(),
            multithread,
            multiprocess: config.workers > 1,
            worker: number.to_string(),
            generation: generation.number.to_string(),
        }));
    }
    let access = AccessLog::open(&config.log, slot.log(), number, generation.number)
        .map_err(|error| format!("the access log cannot be opened: {error}"))?;
    let load = Load::new(config.limits.connections).map_err(|error| format!("no eventfd: {error}"))?;
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
        access: RefCell::new(access),
        load: Arc::new(load),
        draining: Cell::new(false),
        in_flight: Cell::new(0),
        waiting: RefCell::default(),
        connections: RefCell::default(),
        drained: Notify::new(),
        seed: seed(),
        serial: Cell::new(1),
    }))
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
        body_buffer: limits.body_buffer,
    }
}

/// Opens and checks the modules of a configuration, in a process that may die of it.
///
/// # Errors
/// The first refusal, as a sentence.
pub fn probe(_config: &Config, images: &[Image]) -> Result<(), String> {
    for image in images {
        let loaded = load(image, 0)?;
        tracing::debug!("module {} is {}", image.path().display(), loaded.provenance());
    }
    Ok(())
}

fn load(image: &Image, generation: u64) -> Result<Loaded, String> {
    Loaded::open::<Call>(&image.proc_path(), image.path(), generation).map_err(|refusal| refusal.to_string())
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
