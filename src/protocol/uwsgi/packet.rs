//! The layout of a uwsgi packet.
//!
//! Takes the first bytes of a connection; gives the names and values in it. What they mean is told in `translate`.
//!
//! Four bytes (modifier 1, the length of what follows as a 16-bit number, low byte first, modifier 2), then pairs: the length of the
//! name in 16 bits, the name, the length of the value in 16 bits, the value.
#![forbid(unsafe_code)]

use crate::protocol::http::refusal::Refusal;

/// Bytes before the variables.
const HEADER: usize = 4;
/// The modifier of a plain request.
const REQUEST: u8 = 0;

/// A whole packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    pairs: &'a [u8],
    /// Bytes of it all.
    pub length: usize,
}

/// Looks at the first bytes of a connection: the packet when it is whole. `most` bytes of variables are accepted.
///
/// # Errors
/// They are no packet, or not one of a plain request.
pub fn parse(bytes: &[u8], most: usize) -> Result<Option<Packet<'_>>, Refusal> {
    match bytes.first() {
        None | Some(&REQUEST) => {}
        Some(0x16) => return Err(Refusal::UWSGI_TLS),
        Some(b'A'..=b'Z') if bytes[1..].iter().take(3).all(|byte| matches!(byte, b'A'..=b'Z' | b' ')) => {
            // Some modifiers are letters too, but none that is followed by more of them.
            return if bytes.len() < HEADER {
                Ok(None)
            } else {
                Err(Refusal::UWSGI_HTTP)
            };
        }
        Some(_) => return Err(Refusal::UWSGI_MODIFIER),
    }
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_le_bytes([header[1], header[2]]));
    if header[3] != 0 {
        return Err(Refusal::UWSGI_MODIFIER);
    }
    if length > most {
        return Err(Refusal::FIELDS_TOO_LARGE);
    }
    let Some(pairs) = rest.get(..length) else {
        return Ok(None);
    };
    let mut left = pairs;
    while !left.is_empty() {
        take_pair(&mut left).ok_or(Refusal::UWSGI_MALFORMED)?;
    }
    Ok(Some(Packet {
        pairs,
        length: HEADER + length,
    }))
}

impl<'a> Packet<'a> {
    /// Names and values in their order.
    pub fn pairs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let mut left = self.pairs;
        std::iter::from_fn(move || take_pair(&mut left))
    }
}

/// The next pair; None where there is no whole one.
fn take_pair<'a>(left: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let name = take_text(left).filter(|name| !name.is_empty())?;
    Some((name, take_text(left)?))
}

fn take_text<'a>(left: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = left.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *left = rest;
    Some(text)
}

/// A packet of these pairs, for tests.
#[cfg(test)]
pub(super) fn packed(pairs: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat();
    let block: Vec<u8> = pairs
        .iter()
        .flat_map(|(name, value)| [text(name), text(value)].concat())
        .collect();
    let length = (block.len() as u16).to_le_bytes();
    [&[0, length[0], length[1], 0][..], &block].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_found_once_it_is_whole_and_what_follows_is_left_alone() {
        let mut bytes = packed(&[("A", "1"), ("EMPTY", ""), ("A", "2")]);
        let length = bytes.len();
        for cut in 0..length {
            assert_eq!(parse(&bytes[..cut], 1000), Ok(None), "{cut} bytes");
        }
        bytes.extend_from_slice(b"body");
        let packet = parse(&bytes, 1000).unwrap().unwrap();
        assert_eq!(packet.length, length);
        let pairs: Vec<_> = packet.pairs().collect();
        let expected: [(&[u8], &[u8]); 3] = [(b"A", b"1"), (b"EMPTY", b""), (b"A", b"2")];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn what_is_no_packet_is_told_apart_from_its_first_bytes() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Refusal::UWSGI_HTTP),
            (b"POST /", Refusal::UWSGI_HTTP),
            (b"\x16\x03\x01\x02", Refusal::UWSGI_TLS),
            (b"\x05\0\0\0", Refusal::UWSGI_MODIFIER), // PSGI
            (b"\x09\0\0\0", Refusal::UWSGI_MODIFIER), // CGI
            (b"\x11", Refusal::UWSGI_MODIFIER),       // spooler
            (b"\x12\0\0\0", Refusal::UWSGI_MODIFIER), // symcall
            (b"\x16\0\0\0", Refusal::UWSGI_TLS),      // eval, which no TLS client sends; refused all the same
            (b"\x64\0\0\0", Refusal::UWSGI_MODIFIER), // ping
            (b"\x6f\0\0\0", Refusal::UWSGI_MODIFIER), // cache
            (b"\xad\0\0\0", Refusal::UWSGI_MODIFIER), // RPC
            (b"H\0\0\0", Refusal::UWSGI_MODIFIER),
            (b"\0\0\0\x01", Refusal::UWSGI_MODIFIER),
            (b"\0\xe9\x03\0", Refusal::FIELDS_TOO_LARGE),
            (b"\0\x01\0\0A", Refusal::UWSGI_MALFORMED),
            (b"\0\x04\0\0\x05\0AB", Refusal::UWSGI_MALFORMED),
            (b"\0\x04\0\0\0\0\0\0", Refusal::UWSGI_MALFORMED),
            (b"\0\x05\0\0\x01\0A\x01\0", Refusal::UWSGI_MALFORMED),
        ] {
            assert_eq!(parse(bytes, 1000), Err(expected), "{}", bytes.escape_ascii());
        }
        for partial in ["G", "GET", "P"] {
            assert_eq!(parse(partial.as_bytes(), 1000), Ok(None), "{partial}");
        }
    }
}
