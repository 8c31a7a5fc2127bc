//! One conversation with a running server.
//!
//! Takes the path of its control socket, a request and a moment at which patience ends; gives the reply. The process that
//! waits here is a command: it may block, but never longer than it was told.
#![forbid(unsafe_code)]

use crate::exit::Exit;
use crate::sys::process::Pid;
use crate::sys::{poll, socket, time};
use crate::verbs::{Reply, Request};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The pause between two tries of what cannot be waited for.
const PAUSE: Duration = Duration::from_millis(10);
/// How long the process of a server that closed its socket is waited for: it has nothing left to do.
const LAST: Duration = Duration::from_secs(2);

/// Why no answer was had.
#[derive(Debug)]
pub enum CallError {
    /// The configuration file that should name the socket cannot be read.
    Config(PathBuf, io::Error),
    /// Nobody listens there.
    NoServer(PathBuf, io::Error),
    /// The socket is not for us, or the kernel refuses something.
    Socket(PathBuf, io::Error),
    /// Somebody listens and says nothing.
    Silent(PathBuf),
    /// The server has begun and was not done in time: what, and how long was waited.
    UnderWay(PathBuf, &'static str, Duration),
    /// The connection ended before the answer.
    Closed(PathBuf),
    /// What answered is no appserver, or one of another time.
    Nonsense(PathBuf, String),
}

impl CallError {
    /// What the command ends with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoServer(..) => Exit::NoServer,
            _ => Exit::Refused,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(path, error) => write!(
                f,
                "cannot read {}: {error}; name the server's control socket with --control",
                path.display()
            ),
            Self::NoServer(path, error) => write!(
                f,
                "no server answers at {}: {}; start one with `[control] socket` or --control, or tell with --control \
                 where it listens",
                path.display(),
                match error.kind() {
                    ErrorKind::NotFound => "there is no such socket",
                    _ => "the socket is there and nobody listens",
                }
            ),
            Self::Socket(path, error) => {
                write!(f, "cannot speak to the server at {}: {error}", path.display())?;
                match error.kind() {
                    ErrorKind::PermissionDenied => f.write_str("; only root and the server's own account may"),
                    _ => Ok(()),
                }
            }
            Self::Silent(path) => write!(
                f,
                "the server at {} did not answer in time; try again with a longer --timeout, or look at its log",
                path.display()
            ),
            Self::UnderWay(path, verb, patience) => write!(
                f,
                "{verb} is still under way at {} after {patience:?}; `appserver status` and the log tell how it ends",
                path.display()
            ),
            Self::Closed(path) => write!(
                f,
                "the server at {} closed the connection before it had answered; its log tells why",
                path.display()
            ),
            Self::Nonsense(path, why) => write!(f, "what listens at {} is no appserver: {why}", path.display()),
        }
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(_, error) | Self::NoServer(_, error) | Self::Socket(_, error) => Some(error),
            _ => None,
        }
    }
}

/// A connection to a server.
#[derive(Debug)]
pub struct Call {
    path: PathBuf,
    stream: UnixStream,
}

impl Call {
    /// Connects; a server whose queue is full is waited for until the moment given.
    pub fn to(path: &Path, until: Instant) -> Result<Self, CallError> {
        let failed = |error| CallError::Socket(path.to_owned(), error);
        loop {
            match socket::connect_unix(path) {
                Ok(stream) => {
                    let stream = UnixStream::from(stream);
                    stream.set_nonblocking(false).map_err(failed)?;
                    let path = path.to_owned();
                    return Ok(Self { path, stream });
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    return Err(CallError::NoServer(path.to_owned(), error));
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    if Instant::now() >= until {
                        return Err(CallError::Silent(path.to_owned()));
                    }
                    pause();
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Asks, and waits for the reply.
    pub fn ask(&mut self, request: &Request, until: Instant) -> Result<Reply, CallError> {
        // A server that turned us away has closed its end already, and its reply is there to be read.
        match self.stream.write_all(request.line().as_bytes()) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                return Err(CallError::Socket(self.path.clone(), error));
            }
            _ => {}
        }
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            if self.read_some(&mut line, until)? == 0 {
                return Err(CallError::Closed(self.path.clone()));
            }
        }
        Reply::read(&line).map_err(|why| CallError::Nonsense(self.path.clone(), why))
    }

    /// Waits until the server that began to stop has ended.
    pub fn wait_for_the_end(&mut self, master: Option<i32>, until: Instant) -> Result<(), CallError> {
        while self.read_some(&mut Vec::new(), until)? > 0 {}
        // It closes its sockets a moment before it is gone, and whoever starts the next one relies on the difference.
        let until = until.min(Instant::now() + LAST);
        while master.is_some_and(|pid| Pid::from_raw(pid).runs()) && Instant::now() < until {
            pause();
        }
        Ok(())
    }

    fn read_some(&mut self, into: &mut Vec<u8>, until: Instant) -> Result<usize, CallError> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(CallError::Silent(self.path.clone()));
            }
            let read = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(&mut buffer));
            match read {
                Ok(count) => {
                    into.extend_from_slice(&buffer[..count]);
                    return Ok(count);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                // It ended without having read all we said.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(0),
                Err(error) => return Err(CallError::Socket(self.path.clone(), error)),
            }
        }
    }
}

fn pause() {
    // Nothing to listen to: only the time passes.
    let _ = poll::readable(&[], Some(time::monotonic_ns().saturating_add(time::nanos(PAUSE))));
}
