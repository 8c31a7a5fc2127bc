//! Requests as a connection brings them, one behind the other: head, body, and what the environ shows of them.
//!
//! The first byte of the input chooses the limits, the second the pieces, the others are the connection's bytes. Fed whole
//! and in pieces they come to the same, which is what the grammar says of them; nothing is refused that more bytes could
//! have made right.

use std::collections::BTreeMap;

use appserver::gateway::environ::Environ;
use appserver::gateway::request::{Request, Span, Version, decode, under};
use appserver::protocol::http::framing::{Follower, Framing};
use appserver::protocol::http::head::{Head, Limits, Progress};
use appserver::protocol::http::refusal::Refusal;
use appserver::protocol::http::target::Form;
use bytes::Bytes;

use super::grammar::{self, Body, Chunks, Pair, Stop};
use super::pieces;

/// What a server has by default.
const LIMITS: Limits = Limits {
    request_line: 8 << 10,
    header_field: 8 << 10,
    header_fields: 100,
    header_total: 64 << 10,
    body: 1 << 30,
};

/// So low that short inputs come to them.
const LOW: Limits = Limits {
    request_line: 40,
    header_field: 30,
    header_fields: 4,
    header_total: 80,
    body: 20,
};

/// One request, and how many bytes it took.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    head: grammar::Head,
    body: u64,
    trailers: Vec<Pair>,
    length: usize,
}

/// How a connection's bytes end.
#[derive(Debug, PartialEq, Eq)]
enum End<R> {
    /// More may come.
    Open,
    /// The last request was to be the last.
    Closed,
    /// What follows is none.
    Refused(R),
}

/// What the input's first byte stands for.
pub fn limits(byte: u8) -> &'static Limits {
    if byte.is_multiple_of(2) { &LIMITS } else { &LOW }
}

pub fn check(input: &[u8]) {
    let [limits_, how, bytes @ ..] = input else { return };
    let limits = limits(*limits_);
    let whole = served(bytes, &[bytes.len()], limits);
    let mut ends = pieces::ends(*how, bytes.len());
    let mut in_pieces = served(bytes, &ends, limits);
    if in_pieces.1 == End::Open && matches!(whole.1, End::Refused(_)) {
        // A long line that came in pieces is not looked at again before it ends.
        ends.push(bytes.len() + 4);
        in_pieces = served(&[bytes, b"\r\n\r\n"].concat(), &ends, limits);
    }
    assert_eq!(in_pieces, whole, "in pieces and whole: {}", bytes.escape_ascii());
    let (read, end) = read(bytes, limits);
    let (seen, ended) = whole;
    assert_eq!(seen, read, "seen and read: {}", bytes.escape_ascii());
    let agree = match (&ended, &end) {
        (End::Open, End::Open) | (End::Closed, End::Closed) | (End::Refused(_), End::Refused(())) => true,
        (End::Refused(_), End::Open) => !could_be_right(bytes, limits, read.len()),
        _ => false,
    };
    assert!(agree, "ended {ended:?}, read {end:?}: {}", bytes.escape_ascii());
}

/// Whether one of the likely continuations completes a request behind the first `count`.
fn could_be_right(bytes: &[u8], limits: &Limits, count: usize) -> bool {
    const MORE: [&[u8]; 9] = [
        b"\r\n\r\n",
        b"\n\r\n",
        b"\r\n",
        b"\n",
        b"\r\nHost:a\r\n\r\n",
        b" HTTP/1.1\r\nHost:a\r\n\r\n",
        b":a\r\n\r\n",
        b"0\r\n\r\n",
        b"\r\n0\r\n\r\n",
    ];
    let completes = |more: &&[u8]| read(&[bytes, more].concat(), limits).0.len() > count;
    MORE.iter().any(completes)
}

/// Does what the owner of a socket does with the pieces it reads.
fn served(bytes: &[u8], ends: &[usize], limits: &Limits) -> (Vec<Seen>, End<Refusal>) {
    let mut seen = Vec::new();
    let end = match serve(bytes, ends, limits, &mut seen) {
        Ok(true) => End::Closed,
        Ok(false) => End::Open,
        Err(refusal) => End::Refused(refusal),
    };
    (seen, end)
}

fn serve(bytes: &[u8], ends: &[usize], limits: &Limits, seen: &mut Vec<Seen>) -> Result<bool, Refusal> {
    let mut head = Head::default();
    let mut begin = 0;
    let mut body: Option<(Follower, usize)> = None;
    for end in ends {
        loop {
            let received = &bytes[begin..*end];
            let Some((follower, taken)) = &mut body else {
                if received.is_empty() || head.parse(received, limits)? == Progress::Partial {
                    break;
                }
                assert!(head.len <= received.len());
                body = Some((Follower::new(head.framing, limits), head.len));
                continue;
            };
            let more = follower.follow(&received[*taken..])?;
            assert!(follower.data() <= limits.body, "a body above its limit");
            *taken += more;
            if !follower.done() {
                assert_eq!(*taken, received.len(), "bytes left over by a body that is not whole");
                break;
            }
            seen.push(saw(&head, &received[..*taken], follower));
            if !head.keep_alive {
                return Ok(true);
            }
            begin += *taken;
            body = None;
        }
    }
    Ok(false)
}

fn saw(head: &Head, bytes: &[u8], follower: &Follower) -> Seen {
    let of = |span: Span| span.of(bytes).to_vec();
    let owned = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
    shows_what_was_sent(head, bytes);
    Seen {
        head: grammar::Head {
            length: head.len,
            method: of(head.method),
            target: of(head.target),
            path_and_query: of(head.path_and_query()),
            old: head.version == Version::Http10,
            fields: head
                .fields
                .iter()
                .map(|field| (of(field.name), of(field.value)))
                .collect(),
            host: head.host.map(of),
            body: match head.framing {
                Framing::None => Body::None,
                Framing::Length(length) => Body::Length(length),
                Framing::Chunked => Body::Chunked,
            },
            keep_alive: head.keep_alive,
            waits: head.expect_continue,
            upgrade: head.upgrade,
        },
        body: follower.data(),
        trailers: follower.trailers().map(owned).collect(),
        length: bytes.len(),
    }
}

/// The same by the grammar.
fn read(mut bytes: &[u8], limits: &Limits) -> (Vec<Seen>, End<()>) {
    let mut seen: Vec<Seen> = Vec::new();
    let end = loop {
        if seen.last().is_some_and(|last| !last.head.keep_alive) {
            break End::Closed;
        }
        let next = grammar::head(bytes, limits).and_then(|head| {
            let rest = &bytes[head.length..];
            let body = match head.body {
                Body::None => plain(rest, 0),
                Body::Length(length) => plain(rest, length),
                Body::Chunked => grammar::chunks(rest, limits),
            };
            body.map(|body| (head, body))
        });
        match next {
            Ok((head, body)) => {
                let length = head.length + body.length;
                let size = if head.body == Body::Chunked {
                    body.data.len()
                } else {
                    body.length
                };
                bytes = &bytes[length..];
                seen.push(Seen {
                    head,
                    body: size as u64,
                    trailers: body.trailers,
                    length,
                });
            }
            Err(Stop::Incomplete) => break End::Open,
            Err(Stop::Wrong) => break End::Refused(()),
        }
    };
    (seen, end)
}

fn plain(rest: &[u8], length: u64) -> Result<Chunks, Stop> {
    let length = usize::try_from(length).map_err(|_| Stop::Incomplete)?;
    match rest.get(..length) {
        None => Err(Stop::Incomplete),
        Some(_) => Ok(Chunks {
            length,
            data: Vec::new(),
            trailers: Vec::new(),
        }),
    }
}

/// The environ has each field once, and path and query as a naive reader finds them.
fn shows_what_was_sent(head: &Head, bytes: &[u8]) {
    let span = head.path_and_query();
    let (begin, text) = (span.start as usize, span.of(bytes));
    let mark = text.iter().position(|byte| *byte == b'?');
    let (path, query) = match mark {
        Some(at) => (
            Span::new(begin, begin + at),
            Span::new(begin + at + 1, span.end as usize),
        ),
        None => (span, Span::new(span.end as usize, span.end as usize)),
    };
    let request = Request {
        bytes: Bytes::copy_from_slice(&bytes[..head.len]),
        method: head.method,
        target: head.target,
        path,
        query,
        path_info: path,
        authority: match head.form {
            Form::Absolute { authority, .. } => Some(authority),
            _ => None,
        },
        fields: head.fields.clone(),
        version: head.version,
        ..Request::default()
    };
    let environ = Environ::default();
    let encoded = path.of(bytes);
    let decoded = naively_decoded(encoded);
    assert_eq!(decode(encoded), decoded, "{}", encoded.escape_ascii());
    assert_eq!(environ.get(&request, b"PATH_INFO"), Some(&decoded[..]));
    assert_eq!(environ.get(&request, b"QUERY_STRING"), Some(query.of(bytes)));
    assert_eq!(environ.get(&request, b"REQUEST_METHOD"), Some(head.method.of(bytes)));
    assert!(
        environ
            .get(&request, b"SERVER_NAME")
            .is_some_and(|name| !name.is_empty())
    );
    let mut expected: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (name, value) in request.fields() {
        let key = String::from_utf8_lossy(name).to_ascii_uppercase().replace('-', "_");
        if name.contains(&b'_') || ["CONTENT_TYPE", "CONTENT_LENGTH", "PROXY"].contains(&key.as_str()) {
            continue;
        }
        let glue: &[u8] = if key == "COOKIE" { b"; " } else { b", " };
        let key = format!("HTTP_{key}").into_bytes();
        expected
            .entry(key)
            .and_modify(|joined| *joined = [joined, glue, value].concat())
            .or_insert_with(|| value.to_vec());
    }
    if let Some(authority) = request.authority {
        expected.insert(b"HTTP_HOST".to_vec(), authority.of(bytes).to_vec());
    }
    for (key, value) in &expected {
        assert_eq!(environ.get(&request, key), Some(&value[..]), "{}", key.escape_ascii());
    }
    let mut listed = 0;
    while let Some((key, value)) = environ.at(&request, listed) {
        assert_eq!(environ.get(&request, key), Some(value), "{}", key.escape_ascii());
        if key.starts_with(b"HTTP_") {
            assert_eq!(
                expected.get(key).map(Vec::as_slice),
                Some(value),
                "{}",
                key.escape_ascii()
            );
            expected.remove(key);
        }
        listed += 1;
    }
    assert!(expected.is_empty(), "not listed: {expected:?}");
    lies_under(encoded);
}

/// `%` and two digits stand for a byte, a `%` without them for itself.
pub fn naively_decoded(mut path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    while let [byte, rest @ ..] = path {
        let escape = rest
            .get(..2)
            .filter(|digits| *byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let digits = escape.and_then(|digits| str::from_utf8(digits).ok());
        path = match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                &rest[2..]
            }
            None => {
                decoded.push(*byte);
                rest
            }
        };
    }
    decoded
}

/// A path lies under a prefix where a segment ends, decoded, and no slash of it was encoded.
fn lies_under(path: &[u8]) {
    let slashes = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'/').count();
    let search = |prefix: &[u8]| {
        (0..=path.len()).find(|at| {
            let (before, behind) = path.split_at(*at);
            let border = behind.first().is_none_or(|byte| *byte == b'/');
            border && naively_decoded(before) == prefix && slashes(before) == slashes(prefix)
        })
    };
    let short = path.len().min(40);
    for end in 0..=short {
        let prefix = naively_decoded(&path[..end]);
        assert_eq!(
            under(&prefix, path),
            search(&prefix),
            "{} under {}",
            path.escape_ascii(),
            prefix.escape_ascii()
        );
    }
}
