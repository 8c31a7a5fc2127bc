//! The form of a line of the access log.
//!
//! Takes an [`Entry`]; gives its line, combined or as JSON. Values come from clients, so each is escaped: combined as nginx does it
//! (`\x22`), JSON by RFC 8259 section 7. Where the line goes is told in the module above.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use super::Entry;
use crate::config::AccessFormat;

/// The current second as text, made once a second.
#[derive(Default)]
pub(super) struct Clock {
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

/// Appends the line of an entry, its end included. `about` says what a JSON line tells of the worker.
pub(super) fn push(line: &mut Vec<u8>, format: AccessFormat, entry: &Entry<'_>, clock: &mut Clock, about: &str) {
    let now = SystemTime::now();
    match format {
        AccessFormat::Combined => combined(line, entry, clock.at(now)),
        AccessFormat::Json => json(line, entry, clock.at(now), now, about),
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
