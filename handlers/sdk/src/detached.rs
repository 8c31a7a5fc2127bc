//! Responses that outlive their handler: takes a detached or upgraded call, gives something to write to from any thread.
//!
//! It starts no thread and has no runtime: the handler brings what drives it.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Read, Write};
use std::task::{Context, Poll};

use crate::abi::{self, call::CallRef};
use crate::environ::{Level, State};
use crate::error::Error;
use crate::start_response::Responder;

/// A response that is finished later. Dropped without [`finish`](Detached::finish) it has failed: a 500, or a cut.
#[must_use = "a detached response that is dropped has failed"]
pub struct Detached {
    responder: Responder,
    refused: Result<(), Error>,
    finished: bool,
}

/// The raw connection after an [`upgrade`](crate::StartResponse::upgrade); dropping it closes the connection.
///
/// `&Duplex` reads and writes too, so that one thread can read while another writes.
pub struct Duplex {
    call: CallRef,
}

impl Detached {
    pub(crate) fn new(responder: Responder, refused: Result<(), Error>) -> Detached {
        Detached {
            responder,
            refused,
            finished: false,
        }
    }

    /// Sets status and headers, unless `start_response` was called before the detach.
    pub fn start<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        status: impl AsRef<[u8]>,
        headers: &[(N, V)],
    ) -> Result<(), Error> {
        self.refused?;
        self.responder.start(status, headers)
    }

    /// Appends to the body; blocks while the client does not read.
    pub fn write(&self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        self.refused?;
        self.responder.call().write(bytes.as_ref())
    }

    /// Appends what can be taken without blocking; gives how many bytes that was.
    pub fn write_poll(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Error>> {
        self.refused?;
        self.responder.call().write_poll(cx, bytes)
    }

    /// Sends an interim response at once; before status and headers are sent.
    pub fn informational<N: AsRef<[u8]>, V: AsRef<[u8]>>(&self, status: u16, headers: &[(N, V)]) -> Result<(), Error> {
        self.refused?;
        self.responder.informational(status, headers)
    }

    /// Sets the trailers; before [`finish`](Detached::finish).
    pub fn trailers<N: AsRef<[u8]>, V: AsRef<[u8]>>(&self, trailers: &[(N, V)]) -> Result<(), Error> {
        self.refused?;
        self.responder.trailers(trailers)
    }

    /// Whether the client is still there.
    pub fn state(&self) -> State {
        State::of(self.responder.call().state())
    }

    /// Ready when the state has changed, or the client is gone already.
    pub fn state_poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.responder.call().state_poll(cx)
    }

    /// Writes a line with the id of the request to the error log.
    pub fn log(&self, level: Level, message: impl fmt::Display) {
        self.responder.call().log(level.number(), &message.to_string());
    }

    /// Ends the response.
    pub fn finish(self) -> Result<(), Error> {
        self.end(Ok(()))
    }

    /// Gives the response up: a 500 if nothing was sent, else it is cut. The reason goes to the error log.
    pub fn fail(self, reason: impl fmt::Display) -> Result<(), Error> {
        self.log(Level::Error, reason);
        self.end(Err(Error::Failed))
    }

    fn end(mut self, outcome: Result<(), Error>) -> Result<(), Error> {
        self.refused?;
        self.finished = true;
        self.responder
            .call()
            .finish(outcome.map_or_else(Error::status, |()| abi::OK))
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        if !self.finished && self.refused.is_ok() {
            // Not left to the last owner of the call: the environ may live on elsewhere.
            let _ = self.responder.call().finish(abi::E_FAILED);
        }
    }
}

impl Write for Detached {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Detached::write(self, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Duplex {
    pub(crate) fn new(call: CallRef) -> Duplex {
        Duplex { call }
    }

    /// Reads without blocking; `Ok(0)` is the end.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.call.input_poll(cx, buf).map_err(io::Error::from)
    }

    /// Writes what can be taken without blocking; gives how many bytes that was.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.call.write_poll(cx, bytes).map_err(io::Error::from)
    }

    /// Whether the client is still there.
    pub fn state(&self) -> State {
        State::of(self.call.state())
    }
}

impl Drop for Duplex {
    fn drop(&mut self) {
        // Fails only when the connection is gone, which is what was asked for.
        let _ = self.call.finish(abi::OK);
    }
}

impl Read for &Duplex {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.call.input_read(buf)?)
    }
}

impl Write for &Duplex {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.call.write(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Duplex {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }
}

impl Write for Duplex {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
