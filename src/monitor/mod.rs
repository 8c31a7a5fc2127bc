//! The monitor: a process of its own that tells the world how the server is.
//!
//! Takes its [`MonitorSeat`]; answers HTTP on the admin listener from the scoreboard until it is told to leave. It asks neither
//! master nor workers anything, so it answers whoever hangs; and since nobody needs it for serving, its death costs a
//! respawn. It never sees a client's byte.
#![forbid(unsafe_code)]

mod page;
mod stream;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::exit::Exit;
use crate::generation::MonitorSeat;
use crate::log;
use crate::scoreboard::Scoreboard;
use crate::sys::fd::{self, EventFd};
use crate::sys::process::Pid;
use page::Page;
use stream::{Clock, Stream};

/// Most connections at a time; more wait in the accept queue.
const CONNECTIONS: usize = 64;
/// From the first wait for a request head to its end: for a slow client and for one that keeps its connection alive.
const HEAD: Duration = Duration::from_secs(10);
/// Longest life of a connection, so that one that does not read its answer cannot keep its place.
const LIFE: Duration = Duration::from_secs(300);
/// Most bytes of a request head.
const HEAD_BYTES: usize = 16 * 1024;
/// Pause after accept(2) failed for a reason that lasts (EMFILE and its like).
const RETRY: Duration = Duration::from_millis(100);

/// Answers until told to leave.
pub fn run(seat: MonitorSeat) -> Exit {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("the monitor has no runtime: {error}");
            return Exit::Start;
        }
    };
    match runtime.block_on(live(seat)) {
        Ok(()) => Exit::Done,
        Err(error) => {
            tracing::error!("the monitor cannot answer: {error}");
            Exit::Start
        }
    }
}

async fn live(seat: MonitorSeat) -> io::Result<()> {
    let mut told = pin!(until_told(seat.commands, seat.leaving));
    let mut answering = pin!(answer(seat.listener, seat.board, seat.master));
    // By hand: which of the two comes first is all there is to choose.
    poll_fn(|cx| match told.as_mut().poll(cx) {
        Poll::Ready(told) => Poll::Ready(told),
        Poll::Pending => answering.as_mut().poll(cx),
    })
    .await
}

/// Returns when TERM came; reopens the log when asked. Answers under way are cut off: they are made in an instant.
async fn until_told(commands: EventFd, leaving: &AtomicBool) -> io::Result<()> {
    let commands = commands.watched()?;
    loop {
        let mut ready = commands.readable().await?;
        commands.get_ref().clear();
        ready.clear_ready();
        if leaving.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Err(error) = log::reopen() {
            tracing::error!("{error}");
        }
    }
}

/// Accepts and answers; returns only when it cannot.
async fn answer(listener: Arc<crate::listener::Listener>, board: &'static Scoreboard, master: Pid) -> io::Result<()> {
    let queue = fd::watch(&*listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return Ok(());
        };
        let accepted = loop {
            let mut callers = queue.readable().await?;
            match listener.accept() {
                Ok(Some((accepted, _))) => break accepted,
                Ok(None) => callers.clear_ready(),
                Err(error) => {
                    tracing::warn!("the monitor cannot accept: {error}");
                    sleep(RETRY).await;
                }
            }
        };
        let Ok(stream) = Stream::new(accepted, listener.is_tcp()) else {
            continue;
        };
        tokio::spawn(async move {
            converse(stream, board, master).await;
            drop(place);
        });
    }
}

async fn converse(stream: Stream, board: &'static Scoreboard, master: Pid) {
    let service = service_fn(move |request: Request<Incoming>| async move {
        let page = Page::of(request.method(), request.uri().path(), board, master);
        Ok::<Response<String>, std::convert::Infallible>(page.response())
    });
    let mut http = http1::Builder::new();
    http.timer(Clock).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    // A client that goes away or is too slow is no news.
    let _ = timeout(LIFE, http.serve_connection(stream, service)).await;
}
