//! The worker's loop: connections in, commands in, and in the end the drain.
//!
//! Takes what the acceptor and the master send; returns when the last connection is closed, or at once when told to quit. A drain loses
//! nothing: the queue is accepted to its end, calls finish, idle connections are closed so that what crosses the close is counted.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::accept::Accepted;
use super::dispatch::Dispatcher;
use super::{Worker, connection};
use crate::exit::Exit;
use crate::listener::Address;
use crate::scoreboard::State;
use crate::sys::fd::EventFd;

/// How often the worker shows that it is alive and writes out its access log.
const BEAT: Duration = Duration::from_secs(1);
/// How long handlers that outlived their clients are waited for.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// Serves until drained or told to quit.
pub async fn serve(
    worker: Rc<Worker>,
    commands: EventFd,
    mut accepted: UnboundedReceiver<Accepted>,
    addresses: Vec<Address>,
) -> Exit {
    let commands = match commands.watched() {
        Ok(commands) => commands,
        Err(error) => {
            tracing::error!("the worker cannot hear its master: {error}");
            return Exit::Start;
        }
    };
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut patience = Instant::now();
    let mut number = 0;
    let mut open = true;
    // Counted since the fork: logs that were rotated while this worker started are the old ones here.
    let mut reopened = 0;
    loop {
        tokio::select! {
            biased;
            ready = commands.readable() => {
                if let Ok(mut ready) = ready {
                    commands.get_ref().clear();
                    ready.clear_ready();
                }
                let asked = worker.slot.commands();
                if asked.reopen != reopened {
                    reopened = asked.reopen;
                    reopen(&worker);
                }
                if asked.quit {
                    break;
                }
                if asked.drain && !worker.draining.get() {
                    begin(&worker, asked.queue);
                    patience = Instant::now() + worker.settings.timeouts.drain + LAST_CALLS;
                }
            }
            connection = accepted.recv(), if open => match connection {
                Some(accepted) => {
                    connection::start(&worker, accepted, number, &addresses);
                    number += 1;
                }
                // The acceptor has accepted the queues to their end.
                None => open = false,
            },
            () = worker.drained.notified() => {}
            // The master's patience ends first; this is for a worker that was told to leave by somebody else.
            () = sleep_until(patience), if worker.draining.get() => break,
            _ = beat.tick() => {
                worker.slot.beat();
                flush(&worker);
            }
        }
        if worker.draining.get() && !open && worker.connections.borrow().is_empty() {
            break;
        }
    }
    let quick = worker.slot.commands().quit;
    finish(&worker, quick).await;
    Exit::Done
}

fn begin(worker: &Worker, queue: bool) {
    worker.slot.state_set(State::Draining);
    worker.draining.set(true);
    worker.load.drain(queue);
    for ledger in worker.connections.borrow().values() {
        ledger.wake();
    }
}

fn reopen(worker: &Worker) {
    if let Err(error) = crate::log::reopen() {
        tracing::error!("{error}");
    }
    if let Some(access) = worker.access.borrow_mut().as_mut() {
        access.reopen();
    }
}

fn flush(worker: &Worker) {
    if let Some(access) = worker.access.borrow_mut().as_mut() {
        access.flush();
    }
}

/// The last acts: a line for what is cut off by a quick stop, the modules' own end, the log.
async fn finish(worker: &Rc<Worker>, quick: bool) {
    let cut: Vec<_> = worker.connections.borrow().values().cloned().collect();
    for ledger in cut {
        crate::protocol::http::connection::abandon(&ledger, &**worker);
    }
    // A handler may still be running for a client that is long gone; shutting its module down would pull the floor from under it.
    let patience = Instant::now() + if quick { Duration::ZERO } else { LAST_CALLS };
    while worker.mounts.iter().any(Dispatcher::is_busy) && Instant::now() < patience {
        sleep(LAST_CALLS / 100).await;
    }
    for (mount, place) in worker.mounts.iter().zip(&worker.places) {
        if mount.is_busy() {
            let path = String::from_utf8_lossy(&place.script_name).into_owned();
            tracing::warn!(
                mount = path,
                "a handler is still running: its module's worker_shutdown is left out"
            );
        } else {
            mount.shutdown();
        }
    }
    flush(worker);
}
