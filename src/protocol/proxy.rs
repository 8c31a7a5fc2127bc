//! The PROXY header that a front-end begins a connection with ("The PROXY protocol", versions 1 and 2, by HAProxy's author).
//!
//! Takes the first bytes of a connection; gives the length of the header and the ends it tells of, or why it is none. Who may send
//! one is decided where the connection is known.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::http::refusal::Refusal;
use crate::handover::Proxied;

/// Longest header of version 1, with its CR LF (section 2.1).
const LONGEST_TEXT: usize = 107;
/// Longest header of version 2 that is accepted. What the addresses leave is for TLVs; a certificate's name is the longest of them.
const LONGEST_BINARY: usize = 4096;
/// How version 2 begins (section 2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// How version 1 begins (section 2.1).
const WORD: &[u8] = b"PROXY ";

/// Signature, version and command, family and transport, length (section 2.2).
const FIXED: usize = 16;
/// Two addresses of a Unix socket, 108 bytes each (section 2.2).
const UNIX_ADDRESSES: usize = 216;

// Types of TLVs (section 2.2.2 and on).
const TLV_CHECKSUM: u8 = 0x03;
const TLV_TLS: u8 = 0x20;
/// In the TLV about TLS: the client connected over it.
const CLIENT_TLS: u8 = 0x01;

/// How far a header got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All is well so far.
    Partial,
    /// It is whole.
    Complete {
        /// How many bytes it has.
        length: usize,
        /// What it tells; [`Proxied::No`] when it leaves the connection's own ends as they are.
        proxied: Proxied,
    },
}

/// Looks at the first bytes of a connection.
///
/// # Errors
/// They are no header, or one that is malformed.
pub fn parse(bytes: &[u8]) -> Result<Progress, Refusal> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(one, other)| one == other);
    if begins(WORD) {
        if bytes.len() < WORD.len() {
            Ok(Progress::Partial)
        } else {
            text(bytes)
        }
    } else if begins(SIGNATURE) {
        if bytes.len() < SIGNATURE.len() {
            Ok(Progress::Partial)
        } else {
            binary(bytes)
        }
    } else {
        Err(Refusal::PROXY_MISSING)
    }
}

/// Version 1: `PROXY TCP4 source destination port port` and CR LF.
fn text(bytes: &[u8]) -> Result<Progress, Refusal> {
    let seen = &bytes[..bytes.len().min(LONGEST_TEXT)];
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        return if seen.len() < LONGEST_TEXT {
            Ok(Progress::Partial)
        } else {
            Err(Refusal::PROXY_TOO_LONG)
        };
    };
    let line = seen[..end].strip_suffix(b"\r").ok_or(Refusal::PROXY_MALFORMED)?;
    let line = str::from_utf8(&line[WORD.len()..]).map_err(|_| Refusal::PROXY_MALFORMED)?;
    let mut words = line.split(' ');
    let family = words.next();
    let proxied = match family {
        // What follows is to be ignored.
        Some("UNKNOWN") => Proxied::No,
        Some("TCP4" | "TCP6") => {
            let mut word = || words.next().ok_or(Refusal::PROXY_MALFORMED);
            let (source, here) = (word()?, word()?);
            let (source_port, here_port) = (word()?, word()?);
            if words.next().is_some() {
                return Err(Refusal::PROXY_MALFORMED);
            }
            let end = |address: &str, port: &str| {
                let address = if family == Some("TCP4") {
                    address.parse::<Ipv4Addr>().map(IpAddr::V4).ok()
                } else {
                    address.parse::<Ipv6Addr>().map(IpAddr::V6).ok()
                };
                Some(SocketAddr::new(address?, decimal(port)?))
            };
            match (end(source, source_port), end(here, here_port)) {
                (Some(source), Some(here)) => Proxied::Inet {
                    source,
                    here,
                    tls: false,
                },
                _ => return Err(Refusal::PROXY_MALFORMED),
            }
        }
        _ => return Err(Refusal::PROXY_MALFORMED),
    };
    Ok(Progress::Complete {
        length: end + 1,
        proxied,
    })
}

/// A port as version 1 writes it: decimal, without a leading zero.
fn decimal(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Progress, Refusal> {
    // Each byte is judged as it comes: what cannot become a header is not waited for.
    let command = match bytes.get(12) {
        None => return Ok(Progress::Partial),
        Some(byte @ (0x20 | 0x21)) => byte & 0x0f,
        Some(_) => return Err(Refusal::PROXY_MALFORMED),
    };
    let kind = match bytes.get(13) {
        None => return Ok(Progress::Partial),
        Some(kind) => *kind,
    };
    let addresses = match (command, kind) {
        // A connection of the front-end's own, such as its health check; the addresses are to be passed over.
        (0, _) => 0,
        // Not known.
        (_, 0x00) => 0,
        (_, 0x11) => 12,
        (_, 0x21) => 36,
        (_, 0x31) => UNIX_ADDRESSES,
        (_, 0x12 | 0x22 | 0x32) => return Err(Refusal::PROXY_DATAGRAMS),
        _ => return Err(Refusal::PROXY_MALFORMED),
    };
    let Some(&[high, low]) = bytes.get(14..FIXED) else {
        return Ok(Progress::Partial);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST_BINARY {
        return Err(Refusal::PROXY_TOO_LONG);
    }
    if length < FIXED + addresses {
        return Err(Refusal::PROXY_MALFORMED);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(Progress::Partial);
    };
    let rest = &header[FIXED..];
    if command == 0 || kind == 0x00 {
        // What such a header holds is not even said to be TLVs (section 2.2).
        return Ok(Progress::Complete {
            length,
            proxied: Proxied::No,
        });
    }
    let tls = extras(header, FIXED + addresses)?;
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    let proxied = match kind {
        0x11 => Proxied::Inet {
            source: SocketAddr::new(four(&rest[..4]), port(8)),
            here: SocketAddr::new(four(&rest[4..8]), port(10)),
            tls,
        },
        0x21 => Proxied::Inet {
            source: SocketAddr::new(sixteen(&rest[..16]), port(32)),
            here: SocketAddr::new(sixteen(&rest[16..32]), port(34)),
            tls,
        },
        _ => Proxied::Unix { tls },
    };
    Ok(Progress::Complete { length, proxied })
}

fn four(octets: &[u8]) -> IpAddr {
    let octets: [u8; 4] = octets.try_into().expect("the caller cuts four");
    IpAddr::V4(octets.into())
}

fn sixteen(octets: &[u8]) -> IpAddr {
    let octets: [u8; 16] = octets.try_into().expect("the caller cuts sixteen");
    IpAddr::V6(octets.into())
}

/// Follows the TLVs from `at` to the header's end; tells whether the client connected over TLS.
fn extras(header: &[u8], mut at: usize) -> Result<bool, Refusal> {
    let mut tls = false;
    while at < header.len() {
        let Some(&[kind, high, low]) = header.get(at..at + 3) else {
            return Err(Refusal::PROXY_MALFORMED);
        };
        let begin = at + 3;
        at = begin + usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(begin..at).ok_or(Refusal::PROXY_MALFORMED)?;
        match kind {
            TLV_CHECKSUM => {
                let told = value.try_into().map_err(|_| Refusal::PROXY_MALFORMED)?;
                if crc32c(header, begin..at) != u32::from_be_bytes(told) {
                    return Err(Refusal::PROXY_CHECKSUM);
                }
            }
            // One byte of what is known of the client, four of the outcome of its verification.
            TLV_TLS if value.len() >= 5 => tls |= value[0] & CLIENT_TLS != 0,
            TLV_TLS => return Err(Refusal::PROXY_MALFORMED),
            _ => {}
        }
    }
    Ok(tls)
}

/// CRC-32C (RFC 3720 appendix B.4) of a header in which the sum itself, at `hole`, counts as zeros. Bit by bit: headers are short and
/// few of them have one.
fn crc32c(header: &[u8], hole: std::ops::Range<usize>) -> u32 {
    let mut sum = u32::MAX;
    for (at, byte) in header.iter().enumerate() {
        sum ^= if hole.contains(&at) { 0 } else { u32::from(*byte) };
        for _ in 0..8 {
            sum = sum >> 1 ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !sum
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
