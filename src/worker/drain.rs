//! The worker's loop: connections in, commands in, and in the end the drain.
//!
//! Runs the acceptor and takes what the master sends; returns when the last connection is closed, or at once when told to quit. A drain loses
//! nothing: the queue is accepted to its end, calls finish, idle connections go to other workers, or are closed at a stop so that
//! what crosses the close is counted.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::Worker;
use super::accept::Acceptor;
use super::dispatch::Dispatcher;
use crate::exit::Exit;
use crate::listener::Listener;
use crate::scoreboard::{Fact, Plea, Scoreboard, State};
use crate::sys::fd::EventFd;
use crate::sys::process::Pid;

/// How often the worker shows that it is alive and writes out its access log.
const BEAT: Duration = Duration::from_secs(1);
/// How long a master that lives is waited for to say how a worker leaves.
const MASTER_SPEAKS: Duration = Duration::from_secs(2);
/// How long the last answers may take to leave when the drain is over.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// How long handlers that outlived their clients are waited for.
pub(super) const LAST_CALLS: Duration = Duration::from_secs(1);

/// What a worker is born with that only its loop needs.
pub struct Birth {
    /// Readable when the master, or a signal, has said something.
    pub commands: EventFd,
    /// The doors that it may have to shut.
    pub listeners: Vec<Arc<Listener>>,
    /// Whose death is a reason to leave.
    pub master: Pid,
    /// Where it is told which master is in charge.
    pub board: &'static Scoreboard,
    /// Somebody keeps the listeners when all of us are gone.
    pub kept: bool,
}

/// Serves until drained or told to quit.
pub async fn serve(worker: Rc<Worker>, born: Birth, mut acceptor: Acceptor) -> Exit {
    let Birth {
        commands,
        listeners,
        master,
        board,
        kept,
    } = born;
    // Where nobody accepts after us: no service manager, and no other master that took over or goes on.
    let shut = || {
        let in_charge = board.house().fact(Fact::Master) == master.as_raw() as u64;
        let doors = listeners.iter().filter(|_| in_charge && !kept);
        doors.for_each(|listener| listener.close_door());
    };
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
    // Counted since the fork: logs that were rotated while this worker started are the old ones here.
    let mut reopened = 0;
    // Until when the master may say how to leave, once somebody else has said that we should.
    let mut told: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            // Before all else, commands included: nobody but us was woken for what waits there.
            () = acceptor.run(), if !acceptor.is_over() => {}
            ready = commands.readable() => {
                if let Ok(mut ready) = ready {
                    commands.get_ref().clear();
                    ready.clear_ready();
                }
                // The master says so, too, when another worker has died: the kernel may have woken that one alone.
                acceptor.look();
                if told.is_none() && worker.slot.plea() == Plea::Leaving && !worker.slot.commands().drain {
                    told = Some(told_to_leave(&worker, master, shut));
                }
                let asked = worker.slot.commands();
                if asked.reopen != reopened {
                    reopened = asked.reopen;
                    reopen(&worker);
                }
                if asked.quit {
                    break;
                }
                if asked.drain {
                    // Said again when there is a stop while connections were handed over.
                    acceptor.leave(asked.queue, !asked.handover);
                }
                if asked.drain && !worker.draining.get() {
                    begin(&worker, asked.handover);
                    patience = Instant::now() + worker.settings.timeouts.drain;
                } else if asked.drain && worker.handing_over.get() != asked.handover {
                    part(&worker, asked.handover);
                }
            }
            () = worker.drained.notified() => {}
            () = sleep_until(told.unwrap_or(patience)), if told.is_some() && !worker.draining.get() => {
                worker.slot.command_drain_queue();
                acceptor.leave(true, true);
                begin(&worker, false);
                patience = Instant::now() + worker.settings.timeouts.drain;
            }
            () = sleep_until(patience), if worker.draining.get() => {
                if worker.out_of_time.replace(true) {
                    break;
                }
                patience = Instant::now() + LAST_ANSWERS;
                wake_all(&worker);
            }
            _ = beat.tick() => {
                worker.slot.beat();
                flush(&worker);
                acceptor.look();
                worker.mounts.iter().for_each(Dispatcher::look);
            }
        }
        if worker.draining.get() && acceptor.is_over() && worker.connections.borrow().is_empty() {
            break;
        }
    }
    let quick = worker.slot.commands().quit;
    finish(&worker, quick).await;
    Exit::Done
}

fn begin(worker: &Worker, handover: bool) {
    // One that is stuck stays so to the eye.
    if worker.slot.state() != State::Stuck {
        worker.slot.state_set(State::Draining);
    }
    worker.draining.set(true);
    // The rest of the time is for the answers to requests that come on what could not be handed over.
    let until = std::time::Instant::now() + worker.settings.timeouts.drain * 3 / 4;
    worker.give_until.set(Some(until));
    part(worker, handover);
}

/// A signal said that we should leave. A master that lives says how: it may be about to stop, or will have us replaced.
/// If it is dead there is nobody to wait for; gives until when it may speak.
fn told_to_leave(worker: &Worker, master: Pid, shut: impl Fn()) -> Instant {
    let now = Instant::now();
    if Pid::parent() == master {
        worker.call_master();
        return now + MASTER_SPEAKS;
    }
    // Who would call from now on is better refused.
    shut();
    worker.slot.command_drain_queue();
    now
}

/// Has every connection leave once it is idle: to another worker, or closed.
fn part(worker: &Worker, handover: bool) {
    worker.handing_over.set(handover);
    wake_all(worker);
}

fn wake_all(worker: &Worker) {
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
