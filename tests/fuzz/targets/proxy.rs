//! PROXY headers, versions 1 and 2 ("The PROXY protocol").
//!
//! The input is the first bytes of a connection, and then what a header is made of. Nothing is judged differently when it
//! comes in pieces; what is told is what a second reader finds, and what was written into a header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use appserver::handover::Proxied;
use appserver::protocol::http::refusal::Refusal;
use appserver::protocol::proxy::{Progress, parse};

use super::authority::{is_ipv4, is_ipv6};
use super::grammar::Stop;

/// How version 2 begins (section 2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

pub fn check(input: &[u8]) {
    let whole = parse(input);
    for end in (0..input.len()).filter(|end| *end < 300 || end % 61 == 0) {
        match parse(&input[..end]) {
            Ok(Progress::Partial) => {}
            judged => assert_eq!(judged, whole, "{end} bytes of {}", input.escape_ascii()),
        }
    }
    let read = read(input);
    let agree = match (whole, read) {
        (Ok(Progress::Complete { length, proxied }), Ok(read)) => (length, proxied) == read && length <= input.len(),
        (Ok(Progress::Partial), Err(Stop::Incomplete)) => true,
        (Err(_), Err(_)) => true,
        _ => false,
    };
    assert!(agree, "parsed {whole:?}, read {read:?}: {}", input.escape_ascii());
    written(input);
}

/// A second reader.
fn read(bytes: &[u8]) -> Result<(usize, Proxied), Stop> {
    let begins = |with: &[u8]| bytes.starts_with(&with[..with.len().min(bytes.len())]);
    if begins(SIGNATURE) {
        read_binary(bytes)
    } else if begins(b"PROXY ") {
        read_text(bytes)
    } else {
        Err(Stop::Wrong)
    }
}

/// Version 1 (section 2.1): at most 107 bytes with CR LF.
fn read_text(bytes: &[u8]) -> Result<(usize, Proxied), Stop> {
    let most = &bytes[..bytes.len().min(107)];
    let Some(end) = most.iter().position(|byte| *byte == b'\n') else {
        return Err(if most.len() == 107 {
            Stop::Wrong
        } else {
            Stop::Incomplete
        });
    };
    let line = str::from_utf8(&most[..end])
        .ok()
        .and_then(|line| line.strip_suffix('\r'));
    let words: Vec<&str> = line.ok_or(Stop::Wrong)?.split(' ').collect();
    let number = |word: &str| word.parse::<u16>().ok().filter(|port| port.to_string() == word);
    let proxied = match words[..] {
        ["PROXY", "UNKNOWN", ..] => Proxied::No,
        ["PROXY", family, source, here, source_port, here_port] => {
            let is_address = match family {
                "TCP4" => |word: &str| is_ipv4(word),
                "TCP6" => |word: &str| is_ipv6(word.as_bytes()),
                _ => return Err(Stop::Wrong),
            };
            let end = |word: &str, port: &str| {
                let address: Option<IpAddr> = word.parse().ok().filter(|_| is_address(word));
                Some(SocketAddr::new(address?, number(port)?))
            };
            Proxied::Inet {
                source: end(source, source_port).ok_or(Stop::Wrong)?,
                here: end(here, here_port).ok_or(Stop::Wrong)?,
                tls: false,
            }
        }
        _ => return Err(Stop::Wrong),
    };
    Ok((end + 1, proxied))
}

/// Version 2 (section 2.2), of at most 4096 bytes.
fn read_binary(bytes: &[u8]) -> Result<(usize, Proxied), Stop> {
    let Some((fixed, rest)) = bytes.split_at_checked(16) else {
        return Err(Stop::Incomplete);
    };
    let size = usize::from(fixed[14]) << 8 | usize::from(fixed[15]);
    let addresses = match (fixed[12], fixed[13]) {
        (0x20, _) | (0x21, 0x00) => 0,
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        (0x21, 0x31) => 216,
        _ => return Err(Stop::Wrong),
    };
    if size + 16 > 4096 || size < addresses {
        return Err(Stop::Wrong);
    }
    let rest = rest.get(..size).ok_or(Stop::Incomplete)?;
    let length = 16 + size;
    if fixed[12] == 0x20 || fixed[13] == 0x00 {
        return Ok((length, Proxied::No));
    }
    let mut tls = false;
    let mut extras = &rest[addresses..];
    while !extras.is_empty() {
        let [kind, high, low, behind @ ..] = extras else {
            return Err(Stop::Wrong);
        };
        let size = usize::from(*high) << 8 | usize::from(*low);
        let (value, next) = behind.split_at_checked(size).ok_or(Stop::Wrong)?;
        match kind {
            0x03 => {
                let at = length - next.len() - size;
                let mut header = bytes[..length].to_vec();
                header[at..at + size].fill(0);
                if value != crc32c(&header).to_be_bytes() {
                    return Err(Stop::Wrong);
                }
            }
            0x20 if size < 5 => return Err(Stop::Wrong),
            0x20 => tls |= value[0] % 2 == 1,
            _ => {}
        }
        extras = next;
    }
    let port = |at: usize| u16::from(rest[at]) << 8 | u16::from(rest[at + 1]);
    let four = |at: usize| IpAddr::V4(Ipv4Addr::new(rest[at], rest[at + 1], rest[at + 2], rest[at + 3]));
    let sixteen = |at: usize| {
        let bits = rest[at..at + 16]
            .iter()
            .fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
        IpAddr::V6(Ipv6Addr::from_bits(bits))
    };
    let proxied = match addresses {
        12 => Proxied::Inet {
            source: SocketAddr::new(four(0), port(8)),
            here: SocketAddr::new(four(4), port(10)),
            tls,
        },
        36 => Proxied::Inet {
            source: SocketAddr::new(sixteen(0), port(32)),
            here: SocketAddr::new(sixteen(16), port(34)),
            tls,
        },
        _ => Proxied::Unix { tls },
    };
    Ok((length, proxied))
}

/// CRC-32C by its polynomial (RFC 3720 appendix B.4), the highest bit first.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(byte.reverse_bits()) << 24;
        for _ in 0..8 {
            let out = sum >> 31;
            sum = (sum << 1) ^ (out * 0x1edc_6f41);
        }
    }
    (!sum).reverse_bits()
}

/// Writes a header of what the input holds: it is read as it was written, and with a bit of an address turned over its
/// checksum is wrong.
fn written(input: &[u8]) {
    let mut rest = input.iter().copied();
    let mut byte = || rest.next().unwrap_or_default();
    let (kind, how, turned) = (byte() % 4, byte(), byte());
    let (tls, summed) = (how & 1 == 1, how & 2 == 2);
    let (family, size) = [(0x00, 0), (0x11, 12), (0x21, 36), (0x31, 216)][usize::from(kind)];
    let addresses: Vec<u8> = (0..size).map(|_| byte()).collect();
    let noise: Vec<u8> = rest.take(1000).collect();
    let mut extras = Vec::new();
    let mut extra = |kind: u8, value: &[u8]| {
        extras.push(kind);
        extras.extend_from_slice(&(value.len() as u16).to_be_bytes());
        extras.extend_from_slice(value);
    };
    if summed {
        extra(0x03, &[0; 4]);
    }
    extra(0x04, &noise);
    if tls {
        extra(0x20, &[how | 1, 0, 0, 0, 0]);
    }
    let length = (addresses.len() + extras.len()) as u16;
    let mut header = [SIGNATURE, &[0x21, family], &length.to_be_bytes(), &addresses, &extras].concat();
    if summed {
        let sum = crc32c(&header).to_be_bytes();
        header[16 + size + 3..][..4].copy_from_slice(&sum);
    }
    let length = header.len();
    header.extend_from_slice(b"GET / HTTP/1.1\r\n");
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    let address = |at: usize, size: usize| match size {
        4 => IpAddr::from(<[u8; 4]>::try_from(&addresses[at..at + 4]).expect("four")),
        _ => IpAddr::from(<[u8; 16]>::try_from(&addresses[at..at + 16]).expect("sixteen")),
    };
    let inet = |size: usize| Proxied::Inet {
        source: SocketAddr::new(address(0, size), port(2 * size)),
        here: SocketAddr::new(address(size, size), port(2 * size + 2)),
        tls,
    };
    let proxied = match kind {
        0 => Proxied::No,
        1 => inet(4),
        2 => inet(16),
        _ => Proxied::Unix { tls },
    };
    assert_eq!(
        parse(&header),
        Ok(Progress::Complete { length, proxied }),
        "{}",
        header.escape_ascii()
    );
    if summed && size > 0 {
        header[16 + usize::from(turned) % size] ^= 1 << (turned % 8);
        assert_eq!(
            parse(&header),
            Err(Refusal::PROXY_CHECKSUM),
            "{}",
            header.escape_ascii()
        );
    }
}
