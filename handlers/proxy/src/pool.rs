//! Connections to the origin: those that are idle are used again, the last one first.
//!
//! Takes nothing; gives a connection that was open a moment ago, or a new one. Whether the origin has closed it meanwhile shows when it is used.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::inlet::Inlet;
use crate::settings::Settings;

/// See the module.
pub struct Pool {
    pub settings: Settings,
    idle: RefCell<Vec<(SendRequest<Inlet>, Instant)>>,
}

/// A connection, and whether it was used before.
pub struct Connection {
    pub sender: SendRequest<Inlet>,
    pub used: bool,
}

impl Pool {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            idle: RefCell::default(),
        }
    }

    /// One that is idle.
    pub fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < self.settings.idle_time);
        let at = idle.iter().rposition(|(sender, _)| sender.is_ready())?;
        let (sender, _) = idle.remove(at);
        Some(Connection { sender, used: true })
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
        let (sender, connection) = handshake(Wire(stream)).await.map_err(io::Error::other)?;
        spawn_local(async {
            // What ends it is told to the exchange that is under way on it, if there is one.
            let _ = connection.await;
        });
        Ok(Connection { sender, used: false })
    }

    /// Takes one back once its exchange is over on both sides.
    pub fn keep(self: Rc<Self>, mut sender: SendRequest<Inlet>) {
        spawn_local(async move {
            if sender.ready().await.is_ok() {
                let mut idle = self.idle.borrow_mut();
                if idle.len() < self.settings.idle {
                    idle.push((sender, Instant::now()));
                }
            }
        });
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
