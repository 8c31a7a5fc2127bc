//! The access log: one line for every accepted request.
//!
//! Takes an [`Entry`], gives a line of the combined or the JSON form in the worker's shared buffer, from where it is written in
//! pieces that end at a line's end; what a killed worker had not written, the master writes. It decides nothing about requests.
//!
//! Values come from clients, so each is escaped: combined as nginx does it (`\x22`), JSON by RFC 8259 section 7.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

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
    /// Opens the log; `None` when there is to be none. `worker`, pid and generation stand in every JSON line.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(log: &Log, held: &'static LogBuffer, worker: usize, generation: u64) -> io::Result<Option<Self>> {
        let Some(target) = log.access.clone() else {
            return Ok(None);
        };
        Ok(Some(Self {
            sink: sink(&target)?,
            target,
            format: log.access_format,
            held,
            line: Vec::with_capacity(512),
            out: Vec::new(),
            flushed: held.flushed_so_far(),
            clock: Clock::default(),
            worker: about(worker, std::process::id(), generation),
        }))
    }

    /// Writes one line; soon, not at once.
    pub fn write(&mut self, entry: &Entry<'_>) {
        self.catch_up();
        self.line.clear();
        let now = SystemTime::now();
        match self.format {
            AccessFormat::Combined => combined(&mut self.line, entry, self.clock.at(now)),
            AccessFormat::Json => json(&mut self.line, entry, self.clock.at(now), now, &self.worker),
        }
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
    let mut clock = Clock::default();
    let now = SystemTime::now();
    match format {
        AccessFormat::Combined => combined(&mut line, entry, clock.at(now)),
        AccessFormat::Json => json(&mut line, entry, clock.at(now), now, about),
    }
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

/// The current second as text, made once a second.
#[derive(Default)]
struct Clock {
    second: u64,
    combined: String,
    json: String,
}

impl Clock {
    fn at(&mut self, now: SystemTime) -> &Self {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second || self.combined.is_empty() {
            self.second = second;
            // `Sun, 06 Nov 1994 08:49:37 GMT`: the parts stand at fixed places (RFC 9110 section 5.6.7).
            let date = httpdate::fmt_http_date(now);
            let (day, month, year, time) = (&date[5..7], &date[8..11], &date[12..16], &date[17..25]);
            self.combined = format!("{day}/{month}/{year}:{time} +0000");
            let number = 1 + "JanFebMarAprMayJunJulAugSepOctNovDec".find(month).unwrap_or(0) / 3;
            self.json = format!("{year}-{number:02}-{day}T{time}");
        }
        self
    }
}

fn combined(line: &mut Vec<u8>, entry: &Entry<'_>, clock: &Clock) {
    line.extend_from_slice(dash(entry.remote.as_bytes()));
    line.extend_from_slice(b" - - [");
    line.extend_from_slice(clock.combined.as_bytes());
    line.extend_from_slice(b"] \"");
    escape(line, entry.method);
    if !entry.target.is_empty() {
        line.push(b' ');
        escape(line, entry.target);
    }
    if !entry.protocol.is_empty() {
        line.push(b' ');
        escape(line, entry.protocol);
    }
    line.extend_from_slice(b"\" ");
    number(line, u64::from(entry.status));
    line.push(b' ');
    number(line, entry.bytes);
    line.extend_from_slice(b" \"");
    escape(line, dash(entry.referer));
    line.extend_from_slice(b"\" \"");
    escape(line, dash(entry.user_agent));
    line.extend_from_slice(b"\"\n");
}

fn dash(value: &[u8]) -> &[u8] {
    if value.is_empty() { b"-" } else { value }
}

/// Bytes that stand for themselves in a quoted value of either form: printable ASCII without `"` and `\\`.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        plain[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    plain
};

/// Appends what needs no escape in one piece: how many bytes that were. Nearly always it is all.
fn plain(line: &mut Vec<u8>, value: &[u8]) -> usize {
    let count = value
        .iter()
        .position(|byte| !PLAIN[usize::from(*byte)])
        .unwrap_or(value.len());
    line.extend_from_slice(&value[..count]);
    count
}

/// Escapes what could end the quoted value or the line.
fn escape(line: &mut Vec<u8>, value: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut rest = &value[plain(line, value)..];
    while let [byte, after @ ..] = rest {
        line.extend_from_slice(&[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        rest = &after[plain(line, after)..];
    }
}

fn json(line: &mut Vec<u8>, entry: &Entry<'_>, clock: &Clock, now: SystemTime, worker: &str) {
    let millis = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_millis());
    line.extend_from_slice(b"{\"time\":\"");
    line.extend_from_slice(clock.json.as_bytes());
    line.extend_from_slice(&[
        b'.',
        b'0' + (millis / 100) as u8,
        b'0' + (millis / 10 % 10) as u8,
        b'0' + (millis % 10) as u8,
        b'Z',
        b'"',
    ]);
    for (key, value) in [
        (b",\"remote\":\"".as_slice(), entry.remote.as_bytes()),
        (b",\"method\":\"".as_slice(), entry.method),
        (b",\"target\":\"".as_slice(), entry.target),
        (b",\"protocol\":\"".as_slice(), entry.protocol),
    ] {
        text(line, key, value);
    }
    for (key, value) in [
        (b",\"status\":".as_slice(), u64::from(entry.status)),
        (b",\"bytes\":".as_slice(), entry.bytes),
        (b",\"duration_us\":".as_slice(), entry.duration_us),
        (b",\"queue_us\":".as_slice(), entry.queue_us),
        (b",\"handler_us\":".as_slice(), entry.handler_us),
    ] {
        line.extend_from_slice(key);
        number(line, value);
    }
    line.push(b',');
    line.extend_from_slice(worker.as_bytes());
    for (key, value) in [
        (b",\"request_id\":\"".as_slice(), entry.request_id.as_bytes()),
        (b",\"cache\":\"".as_slice(), dash(entry.cache.as_bytes())),
        (b",\"referer\":\"".as_slice(), entry.referer),
        (b",\"user_agent\":\"".as_slice(), entry.user_agent),
        (b",\"outcome\":\"".as_slice(), entry.outcome.as_bytes()),
    ] {
        text(line, key, value);
    }
    line.extend_from_slice(b"}\n");
}

/// A quoted value behind its key, which is given as it stands in the line.
fn text(line: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    line.extend_from_slice(key);
    let rest = &value[plain(line, value)..];
    for chunk in rest.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            match byte {
                b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
                0..=0x1f | 0x7f => line.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
                _ => line.push(byte),
            }
        }
        // Bytes that are not UTF-8 stay readable, and the line stays JSON.
        for byte in chunk.invalid() {
            line.extend_from_slice(format!("\\\\x{byte:02X}").as_bytes());
        }
    }
    line.push(b'"');
}

fn number(line: &mut Vec<u8>, value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + std::time::Duration::from_millis(seconds * 1000 + 42)
    }

    #[test]
    fn a_combined_line_reads_as_nginx_writes_it() {
        let mut line = Vec::new();
        let entry = Entry {
            remote: "127.0.0.1",
            method: b"GET",
            target: b"/a\"b\n?x=\xff",
            protocol: b"HTTP/1.1",
            status: 200,
            bytes: 14,
            user_agent: b"curl/8 \"x\"",
            ..Entry::default()
        };
        combined(&mut line, &entry, Clock::default().at(at(784_111_777)));
        assert_eq!(
            String::from_utf8(line).expect("escaped lines are ASCII"),
            "127.0.0.1 - - [06/Nov/1994:08:49:37 +0000] \"GET /a\\x22b\\x0A?x=\\xFF HTTP/1.1\" 200 14 \"-\" \"curl/8 \\x22x\\x22\"\n"
        );
    }

    #[test]
    fn a_json_line_is_json_whatever_the_client_sent() {
        let mut line = Vec::new();
        let entry = Entry {
            method: b"GET",
            target: b"/\"\\\n\xff\x00",
            outcome: "ok",
            ..Entry::default()
        };
        json(
            &mut line,
            &entry,
            Clock::default().at(at(784_111_777)),
            at(784_111_777),
            "\"worker\":0",
        );
        let line = String::from_utf8(line).expect("UTF-8");
        assert!(line.starts_with("{\"time\":\"1994-11-06T08:49:37.042Z\",\"remote\":\"\",\"method\":\"GET\",\"target\":\"/\\\"\\\\\\u000a\\\\xFF\\u0000\""), "{line}");
        assert!(line.ends_with("\"outcome\":\"ok\"}\n"));
    }
}
