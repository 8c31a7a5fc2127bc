//! The access log: one line for every accepted request.
//!
//! Takes an [`Entry`], gives a line of the combined or the JSON form in the worker's shared buffer, from where it is written in
//! pieces that end at a line's end; what a killed worker had not written, the master writes. It decides nothing about requests.
#![forbid(unsafe_code)]

mod line;

use std::fs::File;
use std::io::{self, Write};

use line::Clock;

use crate::config::{AccessFormat, AccessTarget, Log};
use crate::scoreboard::LogBuffer;
use crate::sys::fd;

/// What a line says.
#[derive(Debug, Clone, Default)]
pub struct Entry<'a> {
    /// The client's address; empty over a Unix socket.
    pub remote: &'a str,
    /// The method.
    pub method: &'a [u8],
    /// The target as sent.
    pub target: &'a [u8],
    /// `HTTP/1.1`; empty when the request line could not be read.
    pub protocol: &'a [u8],
    /// Status of the answer; 0 when none was sent.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// Microseconds from the whole head to the last byte of the answer.
    pub duration_us: u64,
    /// Microseconds from the whole head to the handler's start.
    pub queue_us: u64,
    /// Microseconds of the handler until its head.
    pub handler_us: u64,
    /// The request's id.
    pub request_id: &'a str,
    /// The Referer field.
    pub referer: &'a [u8],
    /// The User-Agent field.
    pub user_agent: &'a [u8],
    /// How the exchange ended: ok, refused, fault, aborted, killed.
    pub outcome: &'a str,
    /// What the shared cache did for it; empty where it was not asked.
    pub cache: &'a str,
}

/// Bytes that are held back before they are written.
const FLUSH_AT: usize = 32 * 1024;
/// Bytes that a pipe takes in one piece (pipe(7), PIPE_BUF).
const PIECE: usize = 4096;

/// A worker's access log.
pub struct AccessLog {
    target: AccessTarget,
    format: AccessFormat,
    sink: Sink,
    held: &'static LogBuffer,
    line: Vec<u8>,
    /// What `held` holds, for this process to write.
    out: Vec<u8>,
    /// What `held` has flushed in all, as far as this knows.
    flushed: u64,
    clock: Clock,
    worker: String,
}

enum Sink {
    Stdout,
    File(File),
}

impl AccessLog {
    /// Opens the log; `None` when there is to be none. `about` stands in every JSON line. A file that cannot be opened is replaced by
    /// `spare`, if there is one.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(log: &Log, held: &'static LogBuffer, about: String, spare: Option<File>) -> io::Result<Option<Self>> {
        let Some(target) = log.access.clone() else {
            return Ok(None);
        };
        let sink = match (sink(&target), spare) {
            (Err(error), Some(spare)) => {
                tracing::error!("cannot open the access log, the file the master holds open stays in use: {error}");
                Sink::File(spare)
            }
            (opened, _) => opened?,
        };
        Ok(Some(Self {
            sink,
            target,
            format: log.access_format,
            held,
            line: Vec::with_capacity(512),
            out: Vec::new(),
            flushed: held.flushed_so_far(),
            clock: Clock::default(),
            worker: about,
        }))
    }

    /// Writes one line; soon, not at once.
    pub fn write(&mut self, entry: &Entry<'_>) {
        self.catch_up();
        self.line.clear();
        line::push(&mut self.line, self.format, entry, &mut self.clock, &self.worker);
        if self.out.len() + self.line.len() > FLUSH_AT {
            self.flush();
        }
        // Twice: here to be written, there to be found by the master should this worker die first.
        if !self.held.append(&self.line) {
            self.lose();
            self.held.append(&self.line);
        }
        self.out.extend_from_slice(&self.line);
    }

    /// Writes what is held back.
    pub fn flush(&mut self) {
        self.catch_up();
        if self.out.is_empty() {
            return;
        }
        let count = self.sink.send(&self.out).unwrap_or_else(|error| {
            tracing::error!("access log: {} bytes could not be written: {error}", self.out.len());
            // Held back for ever they would block all lines after them.
            self.out.len()
        });
        self.sent(count);
    }

    /// Forgets what nobody has taken, to make room.
    fn lose(&mut self) {
        if !self.out.is_empty() {
            let count = self.out.len();
            tracing::error!("access log: {count} bytes are lost: nobody reads standard output");
            self.sent(count);
        }
    }

    fn sent(&mut self, count: usize) {
        self.held.flushed(count);
        self.flushed = self.held.flushed_so_far();
        self.out.drain(..count);
    }

    /// Opens the file anew, after it was renamed (USR1).
    pub fn reopen(&mut self) {
        self.flush();
        match sink(&self.target) {
            Ok(sink) => self.sink = sink,
            Err(error) => tracing::error!("access log: could not be reopened, writing on to the old file: {error}"),
        }
    }

    /// Another thread may have written what was held back while this one was held up (see [`stand_in`]).
    fn catch_up(&mut self) {
        if self.flushed != self.held.flushed_so_far() {
            self.flushed = self.held.flushed_so_far();
            self.out.clear();
            self.held.copy_pending(&mut self.out);
        }
    }
}

impl Sink {
    /// Writes lines: how many bytes of them. Standard output may be a pipe that nobody reads, and no client waits for that: what
    /// finds no room there is tried again with the next lines.
    fn send(&mut self, lines: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout => Ok(to_stdout(lines)),
            Self::File(file) => file.write_all(lines).map(|()| lines.len()),
        }
    }
}

/// In pieces of whole lines that a pipe takes at once, for other workers write to it too.
fn to_stdout(lines: &[u8]) -> usize {
    let mut done = 0;
    while done < lines.len() {
        let rest = &lines[done..];
        let ends = || (1..=rest.len()).filter(|end| rest[end - 1] == b'\n');
        let most = ends().take_while(|end| *end <= PIECE).last();
        let end = most.or_else(|| ends().next()).unwrap_or(rest.len());
        let written = fd::write_without_blocking(&io::stdout(), &rest[..end]);
        done += written;
        if written < end {
            break;
        }
    }
    done
}

/// Writes a line, and all that the worker's own thread has held back, while that thread is held up in a handler: it may
/// not come back. It must not run meanwhile.
///
/// # Errors
/// The log cannot be opened or written; the lines are left for the master then.
pub fn stand_in(log: &Log, held: &LogBuffer, entry: &Entry<'_>, about: &str) -> io::Result<()> {
    let Some(target) = &log.access else { return Ok(()) };
    held.append(&render(log.access_format, entry, about));
    let mut lines = Vec::new();
    let count = held.copy_pending(&mut lines);
    let sent = sink(target)?.send(&lines)?;
    held.flushed(sent.min(count));
    Ok(())
}

/// The line of a request that nobody else can write any more, in the form the log has.
pub fn render(format: AccessFormat, entry: &Entry<'_>, about: &str) -> Vec<u8> {
    let mut line = Vec::new();
    line::push(&mut line, format, entry, &mut Clock::default(), about);
    line
}

/// What a JSON line says of the worker.
pub fn about(worker: usize, pid: u32, generation: u64) -> String {
    format!("\"worker\":{worker},\"pid\":{pid},\"generation\":{generation}")
}

/// Appending writes of whole lines: several workers share the file (open(2), O_APPEND).
fn sink(target: &AccessTarget) -> io::Result<Sink> {
    Ok(match target {
        AccessTarget::Stdout => Sink::Stdout,
        AccessTarget::File(path) => Sink::File(
            fd::append_to(path)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?,
        ),
    })
}
