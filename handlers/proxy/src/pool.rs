//! Connections to the origin: those that are idle are used again, the last one first.
//!
//! Takes nothing; gives a connection that was open a moment ago, or a new one. Whether the origin has closed it meanwhile shows when it is used.
//! Whoever drops a connection closes it at once, whatever is still on its way.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep_until, timeout};

use crate::inlet::Inlet;
use crate::settings::Settings;

/// Most fields of an answer's head: more than hyper's own hundred, for an application that sets many cookies.
const MOST_FIELDS: usize = 500;

/// See the module.
pub struct Pool {
    pub settings: Settings,
    /// Those that wait, the last one at the end.
    idle: RefCell<Vec<(Connection, Instant)>>,
    /// Whether somebody closes those that wait for too long.
    is_swept: Cell<bool>,
}

/// A connection, and whether it was used before.
pub struct Connection {
    pub sender: SendRequest<Inlet>,
    pub used: bool,
    _life: Life,
}

/// What drives a connection. hyper would go on with a body that the origin does not read, long after everybody has gone.
struct Life(JoinHandle<()>);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pool {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            idle: RefCell::default(),
            is_swept: Cell::new(false),
        }
    }

    /// One that is idle.
    pub fn take(&self) -> Option<Connection> {
        self.sweep();
        let mut idle = self.idle.borrow_mut();
        let at = idle.iter().rposition(|(connection, _)| connection.sender.is_ready())?;
        let (connection, _) = idle.remove(at);
        Some(Connection {
            used: true,
            ..connection
        })
    }

    /// A new one.
    pub async fn open(&self) -> io::Result<Connection> {
        let Settings {
            host, port, connect, ..
        } = &self.settings;
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let stream = timeout(*connect, TcpStream::connect((host.as_str(), *port)))
            .await
            .map_err(late)??;
        stream.set_nodelay(true)?;
        let (sender, connection) = Builder::new()
            .max_headers(MOST_FIELDS)
            .handshake(Wire(stream))
            .await
            .map_err(io::Error::other)?;
        let life = spawn_local(async {
            // What ends it is told to the exchange that is under way on it, if there is one.
            let _ = connection.await;
        });
        Ok(Connection {
            sender,
            used: false,
            _life: Life(life),
        })
    }

    /// Takes one back once its exchange is over on both sides.
    pub fn keep(self: Rc<Self>, mut connection: Connection) {
        spawn_local(async move {
            if connection.sender.ready().await.is_err() {
                return;
            }
            self.sweep();
            {
                let mut idle = self.idle.borrow_mut();
                if idle.len() >= self.settings.idle {
                    return;
                }
                idle.push((connection, Instant::now()));
            }
            if !self.is_swept.replace(true) {
                while let Some(end) = self.next_end() {
                    sleep_until(end).await;
                    self.sweep();
                }
                self.is_swept.set(false);
            }
        });
    }

    /// When the one that has waited longest is to be closed.
    fn next_end(&self) -> Option<Instant> {
        let idle = self.idle.borrow();
        idle.first().map(|(_, since)| *since + self.settings.idle_time)
    }

    /// Closes those that have waited for too long, and forgets those that the origin has closed.
    fn sweep(&self) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(connection, since)| !connection.sender.is_closed() && since.elapsed() < self.settings.idle_time);
    }
}

/// tokio's stream as hyper reads and writes it.
struct Wire(TcpStream);

impl Read for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut to: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut buffer = [0; 16 * 1024];
        let most = buffer.len().min(to.remaining());
        let mut read = ReadBuf::new(&mut buffer[..most]);
        let outcome = Pin::new(&mut self.0).poll_read(cx, &mut read);
        to.put_slice(read.filled());
        outcome
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }
}
