//! The request body as a stream: takes the call, gives `wsgi.input` and `wsgi.errors` as `std::io` knows them.
//!
//! It buffers nothing: the server holds back the client while nobody reads.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::task::{Context, Poll};

use crate::abi::call::CallRef;
use crate::error::Error;

/// `wsgi.input`: the request body, without its transfer coding.
///
/// The end is the end the client announced. A body cut short is an [`io::ErrorKind::UnexpectedEof`], one over
/// `limits.body` a [`FileTooLarge`](io::ErrorKind::FileTooLarge), a client too slow a [`TimedOut`](io::ErrorKind::TimedOut).
pub struct Input {
    call: CallRef,
}

/// `wsgi.errors`: what is written here goes to the server's error log with the id of the request.
pub struct Errors {
    call: CallRef,
}

impl Input {
    pub(crate) fn new(call: CallRef) -> Input {
        Input { call }
    }

    /// Reads without blocking; `Ok(0)` is the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.call.input_poll(cx, buf).map_err(io::Error::from)
    }

    /// Reads the whole body, at most `limit` bytes; a longer one is a [`FileTooLarge`](io::ErrorKind::FileTooLarge).
    pub fn read_all(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        self.by_ref().take(most).read_to_end(&mut bytes)?;
        if bytes.len() > limit {
            return Err(Error::TooLarge.into());
        }
        Ok(bytes)
    }
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.call.input_read(buf)?)
    }
}

impl Errors {
    pub(crate) fn new(call: CallRef) -> Errors {
        Errors { call }
    }
}

impl Write for Errors {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.call.errors_write(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
