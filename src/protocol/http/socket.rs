//! A client's connection, TCP or Unix: non-blocking reads, gathered writes, sendfile.
//!
//! Takes an accepted descriptor, gives polled bytes. It knows nothing of what they mean.
#![forbid(unsafe_code)]

use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{TcpStream, UnixStream};

use crate::sys;

/// An accepted connection.
pub enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix stream socket.
    Unix(UnixStream),
}

/// The same expression for both kinds.
macro_rules! each {
    ($socket:expr, $stream:ident => $body:expr) => {
        match $socket {
            Socket::Tcp($stream) => $body,
            Socket::Unix($stream) => $body,
        }
    };
}

impl Socket {
    /// Registers an accepted, non-blocking descriptor with the runtime of this thread.
    ///
    /// # Errors
    /// From epoll_ctl(2).
    pub fn new(fd: OwnedFd, unix: bool) -> io::Result<Self> {
        Ok(if unix {
            Socket::Unix(UnixStream::from_std(fd.into())?)
        } else {
            Socket::Tcp(TcpStream::from_std(fd.into())?)
        })
    }

    /// Appends what has come: how many bytes, 0 at the end. Needs room in `buf`.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        // A fresh future each time: it holds nothing between polls. Unlike try_read_buf it knows that a short read has emptied
        // the socket, which saves the read that would only say so.
        each!(self, stream => pin!(stream.read_buf(buf)).poll(cx))
    }

    /// Waits until there is something to read, or the connection is broken.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        each!(self, stream => stream.poll_read_ready(cx).map(drop))
    }

    /// Sends what fits.
    pub fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        each!(self, stream => loop {
            ready!(stream.poll_write_ready(cx))?;
            let sent = match slices {
                [one] => stream.try_write(one),
                many => stream.try_write_vectored(many),
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        })
    }

    /// Sends a range of a file without copying it through user space (sendfile(2)): how many bytes, 0 at the file's end.
    pub fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
        count: usize,
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => loop {
            ready!(stream.poll_write_ready(cx))?;
            let send = || sys::socket::sendfile(&stream.as_fd(), &file, offset, count);
            match stream.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        })
    }

    /// Makes the close a reset, for a response whose end would else be taken for complete.
    pub fn reset(&self) {
        let _ = sys::socket::reset_on_close(&self.as_fd());
    }

    /// Resets the connection at once, whoever else holds its descriptor.
    pub fn break_off(&self) {
        // A connection that is gone already needs no reset.
        let _ = sys::socket::break_off(&self.as_fd());
    }

    /// Sends our FIN; the client may still send.
    pub fn shut_writing(&self) {
        // A connection that is gone already needs no FIN.
        let _ = sys::socket::shutdown_write(&self.as_fd());
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        each!(self, stream => stream.as_fd())
    }
}
