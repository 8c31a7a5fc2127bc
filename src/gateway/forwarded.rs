//! The forwarding fields of a trusted front-end: who the client is and what it asked for.
//!
//! Takes the fields of a request whose peer is trusted; gives a [`Front`], or why they cannot be believed. Whether the peer is
//! trusted, and what becomes of a request in doubt, is the caller's; a peer that is not must not come here, for all of it could be
//! its own invention.
//!
//! The fields are X-Forwarded-For, -Proto, -Host, -Port and -Prefix, Forwarded (RFC 7239) and X-Request-Id. A front-end has to set or
//! to remove each of them: one that it lets through is the client's word in its mouth.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::forwarded_element::{Element, elements};
use super::front::{Front, Scheme};
use super::hop::{self, Client, Hop, Walk};
use super::request::{Id, decode_at};
use crate::config::Trusted;

/// Longest request id that is taken from a front-end (bytes): it is to be whole in the record of a crash too.
const LONGEST_ID: usize = crate::scoreboard::REQUEST_ID;

/// Why the fields cannot be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// A trusted hop names its client by what is no address.
    Address,
    /// Forwarded does not follow RFC 7239 section 4.
    Forwarded,
    /// A scheme that is none of http, https, ws and wss.
    Scheme,
    /// A host that is malformed.
    Host,
    /// A port that is no number from 1 to 65535.
    Port,
    /// A prefix that is no plain path.
    Prefix,
    /// Two fields name different clients.
    Clients,
    /// Two fields name different schemes.
    Schemes,
    /// Two fields name different hosts.
    Hosts,
    /// Two fields name different ports.
    Ports,
    /// Two fields name different prefixes.
    Prefixes,
}

/// The fields as they came, each list in the order sent. Most requests have one of each at most.
#[derive(Default)]
struct Sent<'a> {
    forwarded: Vec<&'a [u8]>,
    client: Vec<&'a [u8]>,
    scheme: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
    port: Option<&'a [u8]>,
    prefix: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
    id_is_doubtful: bool,
}

/// What the fields of a trusted peer say; None when it sent none. `host` is the Host of the request.
///
/// # Errors
/// A trusted front-end contradicts itself, or says what cannot be understood.
pub fn told<'a>(
    trusted: &Trusted,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    host: &[u8],
) -> Result<Option<Front>, Doubt> {
    match Sent::of(fields)? {
        Some(sent) => sent.front(trusted, host).map(Some),
        None => Ok(None),
    }
}

impl<'a> Sent<'a> {
    fn of(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<Option<Self>, Doubt> {
        let mut sent = Sent::default();
        let mut any = false;
        for (name, value) in fields {
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            // All of them begin so, and few others do.
            if !matches!(name.first(), Some(b'X' | b'x' | b'F' | b'f')) || value.is_empty() {
                continue;
            }
            if is("x-forwarded-for") {
                sent.client.push(value);
            } else if is("forwarded") {
                sent.forwarded.push(value);
            } else if is("x-forwarded-proto") {
                once(&mut sent.scheme, value, Doubt::Schemes)?;
            } else if is("x-forwarded-host") {
                once(&mut sent.host, value, Doubt::Hosts)?;
            } else if is("x-forwarded-port") {
                once(&mut sent.port, value, Doubt::Ports)?;
            } else if is("x-forwarded-prefix") {
                once(&mut sent.prefix, value, Doubt::Prefixes)?;
            } else if is("x-request-id") {
                sent.id_is_doubtful |= sent.id.replace(value).is_some_and(|before| before != value);
            } else {
                continue;
            }
            any = true;
        }
        Ok(any.then_some(sent))
    }

    fn front(&self, trusted: &Trusted, host: &[u8]) -> Result<Front, Doubt> {
        let listed = self.client.iter().flat_map(|list| entries(list));
        let mut walk = Walk::new(trusted);
        for entry in listed.rev() {
            if !walk.goes_on(Hop::listed(entry)?) {
                break;
            }
        }
        let (element, named) = self.element(trusted)?;
        let client = agree(walk.client, named, Client::agrees, Doubt::Clients)?;
        let scheme = agree(
            self.scheme.map(|list| scheme(last(list))).transpose()?,
            element.scheme.as_deref().map(scheme).transpose()?,
            |one, other| one == other,
            Doubt::Schemes,
        )?;
        let named = agree(
            self.host.map(last),
            element.host.as_deref(),
            |one, other| one.eq_ignore_ascii_case(other),
            Doubt::Hosts,
        )?;
        let place = named.map(authority).transpose()?;
        let port = self.port.map(|list| port(last(list))).transpose()?;
        let mut front = Front {
            scheme,
            prefix: self.prefix.map(prefix).transpose()?.unwrap_or_default(),
            ..Front::default()
        };
        if let Some(client) = client {
            front.remote_addr = Some(client.address.map(|address| address.to_string()).unwrap_or_default());
            // The connection's port would be the front-end's.
            front.remote_port = Some(client.port.map(|port| port.to_string()).unwrap_or_default());
        }
        let usual = scheme.unwrap_or(Scheme::Http).port();
        if let Some((name, own)) = place {
            if let (Some(own), Some(port)) = (own, port)
                && own != port
            {
                return Err(Doubt::Ports);
            }
            front.server_name = Some(name.to_vec());
            front.server_port = Some(match own.or(port) {
                Some(port) => port.to_string().into_bytes(),
                None => usual.into(),
            });
        } else if let Some(port) = port {
            front.server_port = Some(port.to_string().into_bytes());
        }
        // What PEP 3333 has URLs built from comes first from HTTP_HOST: it is the host that the client asked for, with its port.
        let shown = named.or(Some(host).filter(|host| !host.is_empty()));
        if let (Some(shown), Some(port)) = (shown, port)
            && port.to_string() != usual
            && matches!(authority(shown), Ok((_, None)))
        {
            front.host = Some([shown, b":", port.to_string().as_bytes()].concat());
        } else {
            front.host = named.map(<[u8]>::to_vec);
        }
        if let Some(id) = self.id.filter(|_| !self.id_is_doubtful) {
            label(id, &mut front);
        }
        Ok(front)
    }

    /// The element of Forwarded that speaks of the client, and what it says of its address. One without any of `Forwarded` is
    /// empty.
    fn element(&self, trusted: &Trusted) -> Result<(Element, Option<Client>), Doubt> {
        let mut all = Vec::new();
        for list in &self.forwarded {
            elements(list, &mut all).ok_or(Doubt::Forwarded)?;
        }
        let mut walk = Walk::new(trusted);
        let mut element = None;
        for next in all.into_iter().rev() {
            let hop = match &next.client {
                Some(node) => Some(Hop::named(node)?),
                None => None,
            };
            element = Some(next);
            // A hop that says nothing of its client is where the trace ends; the one before it is known.
            let Some(hop) = hop else { break };
            if !walk.goes_on(hop) {
                break;
            }
        }
        Ok((element.unwrap_or_default(), walk.client))
    }
}

/// Takes the id that a front-end has given a request, if it can be shown as it is in logs and environ. It is a label: one that cannot is
/// nothing to refuse for.
pub fn label(id: &[u8], front: &mut Front) {
    let safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=:@".contains(byte);
    if id.is_empty() || id.len() > LONGEST_ID || !id.iter().all(safe) {
        return;
    }
    match Id::of_hex(id) {
        Some(id) => front.id = Some(id),
        None => front.request_id = String::from_utf8(id.to_vec()).ok(),
    }
}

/// Keeps the value of a field that may be repeated only with the same one.
fn once<'a>(place: &mut Option<&'a [u8]>, value: &'a [u8], doubt: Doubt) -> Result<(), Doubt> {
    match place.replace(value) {
        Some(before) if before != value => Err(doubt),
        _ => Ok(()),
    }
}

/// What two sources say, unless they disagree.
fn agree<T>(one: Option<T>, other: Option<T>, same: fn(&T, &T) -> bool, doubt: Doubt) -> Result<Option<T>, Doubt> {
    match (&one, &other) {
        (Some(this), Some(that)) if !same(this, that) => Err(doubt),
        _ => Ok(one.or(other)),
    }
}

/// The entries of a comma-separated list that are not empty (RFC 9110 section 5.6.1.2).
fn entries(list: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    list.split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|entry| !entry.is_empty())
}

/// The entry of the hop next to us, who adds its own at the end.
fn last(list: &[u8]) -> &[u8] {
    entries(list).next_back().unwrap_or_default()
}

fn scheme(name: &[u8]) -> Result<Scheme, Doubt> {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    if is("http") || is("ws") {
        Ok(Scheme::Http)
    } else if is("https") || is("wss") {
        Ok(Scheme::Https)
    } else {
        Err(Doubt::Scheme)
    }
}

fn port(digits: &[u8]) -> Result<u16, Doubt> {
    hop::port(digits).filter(|port| *port > 0).ok_or(Doubt::Port)
}

/// Name and port of a host (RFC 3986 section 3.2), as strict as a Host field has to be, and without an empty port.
fn authority(text: &[u8]) -> Result<(&[u8], Option<u16>), Doubt> {
    let end = if text.first() == Some(&b'[') {
        let end = text.iter().position(|byte| *byte == b']').ok_or(Doubt::Host)?;
        match hop::address(&text[1..end]) {
            Some(IpAddr::V6(_)) => end + 1,
            _ => return Err(Doubt::Host),
        }
    } else {
        let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(byte);
        text.iter().take_while(|byte| of_name(byte)).count()
    };
    let (name, rest) = text.split_at(end);
    let escapes = name.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    let whole = |at: usize| {
        name.get(at + 1..at + 3)
            .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    };
    if name.is_empty() || !escapes.into_iter().all(|(at, _)| whole(at)) {
        return Err(Doubt::Host);
    }
    match rest {
        [] => Ok((name, None)),
        [b':', digits @ ..] => Ok((name, Some(port(digits).map_err(|_| Doubt::Host)?))),
        _ => Err(Doubt::Host),
    }
}

/// A path, decoded, without its trailing slash. A comma would leave open whether it is a list; an encoded slash, which path it is.
fn prefix(path: &[u8]) -> Result<Vec<u8>, Doubt> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some((byte, step)) = decode_at(path, at) {
        let bad = match byte {
            b'/' => step == 3,
            // One that is encoded would be decoded again by whoever builds URLs of it.
            b'%' => true,
            b',' | b'?' | b'#' => step == 1,
            other => other.is_ascii_control() || other == b'\\' || (other == b' ' && step == 1),
        };
        if bad {
            return Err(Doubt::Prefix);
        }
        decoded.push(byte);
        at += step;
    }
    let mut segments = decoded.split(|byte| *byte == b'/');
    let rooted = segments.next() == Some(b"");
    if rooted && segments.all(|segment| !matches!(segment, b"" | b"." | b"..")) {
        Ok(decoded)
    } else {
        Err(Doubt::Prefix)
    }
}

#[cfg(test)]
#[path = "forwarded_tests.rs"]
mod tests;
