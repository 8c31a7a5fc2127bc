//! What was asked: the bytes of a request head and where its parts stand in them.
//!
//! Takes spans from a protocol's parser, gives slices. It checks nothing: the parser did.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;

use super::Front;
use super::front::Scheme;
use crate::handover::Proxied;

/// A range of the head's bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// Index of the first byte.
    pub start: u32,
    /// Index after the last.
    pub end: u32,
}

impl Span {
    /// From offsets, which the limits on heads keep far below 4 GiB.
    pub fn new(start: usize, end: usize) -> Self {
        Span {
            start: start as u32,
            end: end as u32,
        }
    }

    /// The bytes it stands for.
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// A header field as sent, the value without the white space around it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: Span,
    /// Its value.
    pub value: Span,
}

/// The protocol version of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
}

impl Version {
    /// As in SERVER_PROTOCOL.
    pub fn name(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        }
    }
}

/// Both ends of a connection, in the form environ shows them.
#[derive(Debug, Default)]
pub struct Peer {
    /// REMOTE_ADDR; empty over a Unix socket.
    pub remote_addr: String,
    /// REMOTE_PORT; empty over a Unix socket.
    pub remote_port: String,
    /// SERVER_NAME: the address the connection came in on; empty over a Unix socket (then the Host tells).
    pub server_name: String,
    /// SERVER_PORT, likewise.
    pub server_port: String,
    /// A PROXY header said that the client speaks TLS, to the front-end.
    pub tls: bool,
}

impl Peer {
    /// The ends that a PROXY header tells of; None when the connection's own count.
    pub fn proxied(proxied: &Proxied) -> Option<Self> {
        match proxied {
            Proxied::No | Proxied::Awaited => None,
            Proxied::Unix { tls } => Some(Self {
                tls: *tls,
                ..Self::default()
            }),
            Proxied::Inet { source, here, tls } => Some(Self {
                remote_addr: source.ip().to_canonical().to_string(),
                remote_port: source.port().to_string(),
                server_name: here.ip().to_canonical().to_string(),
                server_port: here.port().to_string(),
                tls: *tls,
            }),
        }
    }
}

/// What all requests of a mount share.
#[derive(Debug, Default)]
pub struct Mount {
    /// Its place among the mounts.
    pub index: usize,
    /// SCRIPT_NAME: the mount's prefix, decoded, without a trailing slash.
    pub script_name: Vec<u8>,
    /// wsgi.multithread
    pub multithread: bool,
    /// wsgi.multiprocess
    pub multiprocess: bool,
    /// Whether front-ends take interim responses.
    pub proxy_hints: bool,
    /// Number of the worker, as text.
    pub worker: String,
    /// Number of the generation, as text.
    pub generation: String,
}

/// One request.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The head as the client sent it.
    pub bytes: Bytes,
    /// The method.
    pub method: Span,
    /// The target, in whichever form it was sent.
    pub target: Span,
    /// The path of the target, still encoded; empty for `*`.
    pub path: Span,
    /// What follows the `?`.
    pub query: Span,
    /// The authority of an absolute target; it overrides Host (RFC 9112 section 3.2.2).
    pub authority: Option<Span>,
    /// The fields in the order sent.
    pub fields: Vec<Field>,
    /// The version.
    pub version: Version,
    /// The client asked for another protocol, by Upgrade and Connection.
    pub upgrade: bool,
    /// Both ends.
    pub peer: Arc<Peer>,
    /// What a trusted front-end says of the client; it goes before what the connection shows.
    pub front: Option<Box<Front>>,
    /// Where it was mounted.
    pub mount: Arc<Mount>,
    /// The encoded path after the mount's prefix.
    pub path_info: Span,
    /// A hash of method and path, for what is learned of them.
    pub tag: u64,
    /// Identifies the request in logs and records.
    pub id: Id,
}

/// A request id: unique across workers and restarts, written as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Id {
    /// Drawn at random by each worker.
    pub worker: u64,
    /// Counts the worker's requests.
    pub serial: u64,
}

impl Id {
    /// One written in the form of ours; None for any other text.
    pub fn of_hex(text: &[u8]) -> Option<Self> {
        let plain = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.iter().all(plain) {
            return None;
        }
        let number = |digits: &[u8]| u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok();
        Some(Self {
            worker: number(&text[..16])?,
            serial: number(&text[16..])?,
        })
    }

    /// As text. By hand, for every request needs it.
    pub fn hex(self) -> [u8; 32] {
        let mut text = [0; 32];
        let numbers = [self.worker >> 32, self.worker, self.serial >> 32, self.serial];
        for (place, number) in text.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&digits(number as u32));
        }
        text
    }
}

/// Eight hexadecimal digits, all at once: a byte of a word for each.
#[inline]
fn digits(number: u32) -> [u8; 8] {
    let mut word = u64::from(number);
    word = (word | word << 16) & 0x0000_ffff_0000_ffff;
    word = (word | word << 8) & 0x00ff_00ff_00ff_00ff;
    word = (word | word << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = (word + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    (word + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

/// A request id as text: ours, or a front-end's.
#[derive(Debug, Clone, Copy)]
pub enum ShownId<'a> {
    /// In the form of [`Id::hex`].
    Own([u8; 32]),
    /// In any other.
    Told(&'a str),
}

impl ShownId<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            ShownId::Own(hex) => str::from_utf8(hex).unwrap_or_default(),
            ShownId::Told(told) => told,
        }
    }
}

impl std::fmt::Display for ShownId<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.hex()))
    }
}

impl Request {
    /// The client's address as it is to be shown: REMOTE_ADDR.
    pub fn remote_addr(&self) -> &str {
        let told = self.front.as_ref().and_then(|front| front.remote_addr.as_deref());
        told.unwrap_or(&self.peer.remote_addr)
    }

    /// The request's id as it is to be shown.
    pub fn shown_id(&self) -> ShownId<'_> {
        match self.front.as_ref().and_then(|front| front.request_id.as_deref()) {
            Some(told) => ShownId::Told(told),
            None => ShownId::Own(self.id.hex()),
        }
    }

    /// The scheme that the client used.
    pub fn scheme(&self) -> Scheme {
        let told = self.front.as_ref().and_then(|front| front.scheme);
        told.unwrap_or(if self.peer.tls { Scheme::Https } else { Scheme::Http })
    }

    /// The host that the client asked for, with its port if it named one: that of an absolute target, else Host; a front-end's word goes first.
    pub fn host(&self) -> &[u8] {
        let told = self.front.as_ref().and_then(|front| front.host.as_deref());
        told.or_else(|| self.authority.map(|span| self.part(span)))
            .or_else(|| self.field(b"host"))
            .unwrap_or_default()
    }

    /// The protocol version as it is to be shown: the client's, where a front-end tells of it.
    pub fn protocol(&self) -> &[u8] {
        let told = self.front.as_ref().and_then(|front| front.variable(b"SERVER_PROTOCOL"));
        told.unwrap_or(self.version.name().as_bytes())
    }

    /// The target as it is to be shown: the client's, where a front-end may have rewritten it.
    pub fn shown_target(&self) -> &[u8] {
        let told = self.front.as_ref().and_then(|front| front.variable(b"REQUEST_URI"));
        told.unwrap_or(self.part(self.target))
    }

    /// A part of the head.
    pub fn part(&self, span: Span) -> &[u8] {
        span.of(&self.bytes)
    }

    /// The method's bytes.
    pub fn method(&self) -> &[u8] {
        self.part(self.method)
    }

    /// The fields as bytes.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.fields
            .iter()
            .map(|field| (self.part(field.name), self.part(field.value)))
    }

    /// The first field of that name (any case).
    pub fn field(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// How far `prefix` reaches into an encoded path: the index where PATH_INFO begins, when the path lies under the prefix.
///
/// The path is decoded as it is compared; an encoded slash never ends a segment of the prefix.
pub fn under(prefix: &[u8], path: &[u8]) -> Option<usize> {
    let mut at = 0;
    for &wanted in prefix {
        let (byte, step) = decode_at(path, at)?;
        if byte != wanted || (byte == b'/' && step == 3) {
            return None;
        }
        at += step;
    }
    match path.get(at) {
        None | Some(b'/') => Some(at),
        Some(_) => None,
    }
}

/// The byte that stands at `at` and how many encoded bytes it takes. A `%` without two digits stands for itself.
pub fn decode_at(path: &[u8], at: usize) -> Option<(u8, usize)> {
    let byte = *path.get(at)?;
    if byte == b'%'
        && let (Some(high), Some(low)) = (path.get(at + 1).and_then(hex), path.get(at + 2).and_then(hex))
    {
        return Some((high << 4 | low, 3));
    }
    Some((byte, 1))
}

fn hex(digit: &u8) -> Option<u8> {
    char::from(*digit).to_digit(16).map(|value| value as u8)
}

/// Decodes an encoded path, bytes preserved.
pub fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some((byte, step)) = decode_at(path, at) {
        decoded.push(byte);
        at += step;
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lies_under_a_prefix_at_segment_borders_only() {
        assert_eq!(under(b"", b"/x"), Some(0));
        assert_eq!(under(b"/shop", b"/shop"), Some(5));
        assert_eq!(under(b"/shop", b"/shop/x"), Some(5));
        assert_eq!(under(b"/shop", b"/shopping"), None);
        assert_eq!(under(b"/shop", b"/%73hop/x"), Some(7));
        assert_eq!(under(b"/a/b", b"/a%2Fb"), None);
        assert_eq!(under(b"/a", b"/a%2Fb"), None);
    }

    #[test]
    fn an_id_is_written_as_thirty_two_digits() {
        let id = Id {
            worker: 0x0123_4567_89ab_cdef,
            serial: 0x00fe_0000_9a0f_f0a9,
        };
        assert_eq!(id.to_string(), "0123456789abcdef00fe00009a0ff0a9");
    }

    #[test]
    fn decoding_keeps_bytes_and_broken_escapes() {
        assert_eq!(decode(b"/a%2Fb%C3%A9%zz%4"), b"/a/b\xc3\xa9%zz%4");
        assert_eq!(decode(b"%00"), b"\0");
    }
}
