//! The hops that a request has come through, from the nearest to the client.
//!
//! Takes the names that front-ends give to whom they got the request from; gives the one that is the client: the first from the
//! right that is not trusted, for what stands left of it is that client's own claim. It reads no lists.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::forwarded::Doubt;
use crate::config::Trusted;

/// Whom a front-end got the request from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// Somebody with an address, perhaps a port.
    Inet(IpAddr, Option<u16>),
    /// A client of a Unix socket, which nginx names `unix:`.
    Unix,
    /// Somebody who is not to be known (RFC 7239 sections 6.2 and 6.3).
    Hidden,
}

/// Who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// None when it is not known.
    pub address: Option<IpAddr>,
    /// None when it was not told.
    pub port: Option<u16>,
}

impl Client {
    /// Whether two may be the same.
    pub fn agrees(&self, other: &Self) -> bool {
        let ports = self.port.is_none() || other.port.is_none() || self.port == other.port;
        self.address == other.address && ports
    }
}

/// The way back, from the right to the left.
pub struct Walk<'a> {
    trusted: &'a Trusted,
    /// The last one that was met.
    pub client: Option<Client>,
}

impl<'a> Walk<'a> {
    /// At its start.
    pub fn new(trusted: &'a Trusted) -> Self {
        Self { trusted, client: None }
    }

    /// Meets the next hop; tells whether it is trusted, and so its word about the one before it.
    pub fn goes_on(&mut self, hop: Hop) -> bool {
        let (address, port) = match hop {
            Hop::Inet(address, port) => (Some(address), port),
            Hop::Unix | Hop::Hidden => (None, None),
        };
        self.client = Some(Client { address, port });
        hop != Hop::Hidden && self.trusted.holds(address)
    }
}

impl Hop {
    /// An entry of X-Forwarded-For: an address, in brackets or not, perhaps with a port.
    ///
    /// # Errors
    /// It is neither that nor one that hides somebody.
    pub fn listed(entry: &[u8]) -> Result<Self, Doubt> {
        match address(entry) {
            Some(address) => Ok(Hop::Inet(address, None)),
            None => Self::named(entry),
        }
    }

    /// A node of Forwarded (RFC 7239 section 6), where an address of IPv6 stands in brackets.
    ///
    /// # Errors
    /// It is none.
    pub fn named(node: &[u8]) -> Result<Self, Doubt> {
        if node == b"unix:" {
            return Ok(Hop::Unix);
        }
        let end = match node.first() {
            Some(b'[') => node.iter().position(|byte| *byte == b']').map_or(0, |end| end + 1),
            _ => node.iter().position(|byte| *byte == b':').unwrap_or(node.len()),
        };
        let (name, rest) = node.split_at(end);
        let port = match rest {
            [] => None,
            [b':', hidden @ ..] if is_obfuscated(hidden) => None,
            [b':', digits @ ..] => Some(port(digits).ok_or(Doubt::Address)?),
            _ => return Err(Doubt::Address),
        };
        if name.eq_ignore_ascii_case(b"unknown") || is_obfuscated(name) {
            return Ok(Hop::Hidden);
        }
        let found = match name {
            [b'[', inner @ .., b']'] => address(inner).filter(|_| inner.contains(&b':')),
            plain => address(plain),
        };
        found.map(|address| Hop::Inet(address, port)).ok_or(Doubt::Address)
    }
}

fn is_obfuscated(name: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    matches!(name, [b'_', rest @ ..] if !rest.is_empty() && rest.iter().all(allowed))
}

/// An address as text; one of IPv4 mapped into IPv6 is one of IPv4.
pub fn address(text: &[u8]) -> Option<IpAddr> {
    let address: IpAddr = str::from_utf8(text).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

/// A port in one to five digits.
pub fn port(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}
