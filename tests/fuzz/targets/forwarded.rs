//! What a trusted front-end says of a request: X-Forwarded-* and Forwarded (RFC 7239).
//!
//! The input is text: on its first line whom to trust, then fields. What is believed can be shown as it is, and client
//! and scheme are those that a second reader finds, who refuses what is refused.

use std::net::IpAddr;

use appserver::config::Trusted;
use appserver::gateway::forwarded::{Doubt, told};
use appserver::gateway::front::{Front, Scheme};

use super::authority::{is_authority, is_ipv4, is_ipv6};
use super::grammar::{Pair, is_token, quoted, trimmed};

pub fn check(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let Ok(whom) = str::from_utf8(lines.next().unwrap_or_default()) else {
        return;
    };
    let Ok(trusted) = whom.parse::<Trusted>() else { return };
    let mut fields: Vec<Pair> = Vec::new();
    for line in lines.take(20) {
        // As they come out of a head.
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], trimmed(&line[colon + 1..]));
        if is_token(name)
            && value
                .iter()
                .all(|byte| *byte == b'\t' || *byte >= 0x20 && *byte != 0x7f)
        {
            fields.push((name.to_vec(), value.to_vec()));
        }
    }
    let host = of(&fields, "host")
        .next()
        .filter(|host| is_authority(host))
        .unwrap_or_default();
    let said = told(
        &trusted,
        fields.iter().map(|(name, value)| (&name[..], &value[..])),
        host,
    );
    let read = read(&trusted, &fields);
    match (&said, &read) {
        (Ok(None), Ok(read)) => assert_eq!(*read, Read::default(), "{}", input.escape_ascii()),
        (Ok(Some(front)), Ok(read)) => {
            is_fit_to_be_shown(front);
            let port = front.remote_port.as_deref();
            let seen = Read {
                client: front
                    .remote_addr
                    .as_deref()
                    .map(|address| (address.to_owned(), port.unwrap_or("-").to_owned())),
                scheme: front.scheme,
            };
            assert_eq!(seen, *read, "{}", input.escape_ascii());
        }
        // Hosts, ports and prefixes are not read a second time.
        (Err(Doubt::Host | Doubt::Port | Doubt::Prefix | Doubt::Hosts | Doubt::Ports | Doubt::Prefixes), _) => {}
        (Err(_), Err(())) => {}
        _ => panic!("told {said:?}, read {read:?}: {}", input.escape_ascii()),
    }
}

/// The client's address and port, as REMOTE_ADDR and REMOTE_PORT have them, and the scheme.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    client: Option<(String, String)>,
    scheme: Option<Scheme>,
}

/// One that a front-end got the request from: None is a hidden one.
type Hop = Option<(Option<IpAddr>, Option<u16>)>;

fn of<'a>(fields: &'a [Pair], name: &str) -> impl Iterator<Item = &'a [u8]> {
    let name = name.as_bytes().to_vec();
    let found = fields
        .iter()
        .filter(move |(other, value)| other.eq_ignore_ascii_case(&name) && !value.is_empty());
    found.map(|(_, value)| &value[..])
}

fn read(trusted: &Trusted, fields: &[Pair]) -> Result<Read, ()> {
    // The parts of all fields in a row are the list; each front-end has added the one it got the request from.
    let listed: Vec<&[u8]> = of(fields, "x-forwarded-for").flat_map(parts).collect();
    let mut listed_client = None;
    for entry in listed.iter().rev() {
        let hop = bare(entry).map_or_else(|| node(entry).ok_or(()), Ok)?;
        listed_client = Some(hop);
        if !believed(trusted, hop) {
            break;
        }
    }
    let mut elements = Vec::new();
    for field in of(fields, "forwarded") {
        elements.extend(forwarded(field).ok_or(())?);
    }
    let (mut named_client, mut named_scheme) = (None, None);
    for element in elements.iter().rev() {
        let value = |name: &str| {
            element
                .iter()
                .find(|(other, _)| other == name.as_bytes())
                .map(|(_, value)| &value[..])
        };
        named_scheme = value("proto");
        let Some(client) = value("for") else { break };
        let hop = node(client).ok_or(())?;
        named_client = Some(hop);
        if !believed(trusted, hop) {
            break;
        }
    }
    let shown = |hop: Hop| {
        let (address, port) = hop.unwrap_or_default();
        (
            address.map(|address| address.to_string()).unwrap_or_default(),
            port.map(|port| port.to_string()).unwrap_or_default(),
        )
    };
    let client = match (listed_client.map(shown), named_client.map(shown)) {
        (Some(one), Some(other)) => {
            let agree = one.0 == other.0 && (one.1 == other.1 || one.1.is_empty() || other.1.is_empty());
            if !agree {
                return Err(());
            }
            Some(one)
        }
        (one, other) => one.or(other),
    };
    let mut protos = of(fields, "x-forwarded-proto");
    let proto = protos.next();
    if protos.any(|other| Some(other) != proto) {
        return Err(());
    }
    let proto = proto
        .map(|list| parts(list).last().unwrap_or_default())
        .map(scheme)
        .transpose()?;
    let named_scheme = named_scheme.map(scheme).transpose()?;
    if proto.is_some() && named_scheme.is_some() && proto != named_scheme {
        return Err(());
    }
    Ok(Read {
        client,
        scheme: proto.or(named_scheme),
    })
}

fn parts(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',')
        .map(trimmed)
        .filter(|part| !part.is_empty())
}

fn scheme(name: &[u8]) -> Result<Scheme, ()> {
    match name.to_ascii_lowercase().as_slice() {
        b"http" | b"ws" => Ok(Scheme::Http),
        b"https" | b"wss" => Ok(Scheme::Https),
        _ => Err(()),
    }
}

fn believed(trusted: &Trusted, hop: Hop) -> bool {
    hop.is_some_and(|(address, _)| trusted.holds(address))
}

/// An address as it is, of either kind.
fn bare(entry: &[u8]) -> Option<Hop> {
    let text = str::from_utf8(entry).ok()?;
    if !is_ipv4(text) && !is_ipv6(entry) {
        return None;
    }
    let address: IpAddr = text.parse().ok()?;
    Some(Some((Some(address.to_canonical()), None)))
}

/// `node = nodename [ ":" node-port ]` (RFC 7239 section 6), and nginx's word for a Unix socket.
fn node(text: &[u8]) -> Option<Hop> {
    if text == b"unix:" {
        return Some(Some((None, None)));
    }
    let text = str::from_utf8(text).ok()?;
    let (name, port) = match text.strip_prefix('[') {
        Some(inner) => {
            let (address, behind) = inner.split_once(']')?;
            if !is_ipv6(address.as_bytes()) {
                return None;
            }
            let port = if behind.is_empty() {
                None
            } else {
                Some(behind.strip_prefix(':')?)
            };
            (address, port)
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let obscure = |text: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        text.strip_prefix('_')
            .is_some_and(|rest| !rest.is_empty() && rest.chars().all(allowed))
    };
    let port = match port {
        None => None,
        Some(port) if obscure(port) => None,
        Some(port) if (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(port.parse().ok()?)
        }
        Some(_) => return None,
    };
    if !text.starts_with('[') {
        if name.eq_ignore_ascii_case("unknown") || obscure(name) {
            return Some(None);
        }
        if !is_ipv4(name) {
            return None;
        }
    }
    let address: IpAddr = name.parse().ok()?;
    Some(Some((Some(address.to_canonical()), port)))
}

/// The elements of a field by cutting it: at commas, then at semicolons, none of them in quotes. Names in lower case.
fn forwarded(field: &[u8]) -> Option<Vec<Vec<Pair>>> {
    let mut elements = Vec::new();
    for element in cut(field, b',')? {
        if element.is_empty() {
            continue;
        }
        let mut pairs: Vec<Pair> = Vec::new();
        for pair in cut(element, b';')?.into_iter().filter(|pair| !pair.is_empty()) {
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (pair[..equals].to_ascii_lowercase(), &pair[equals + 1..]);
            let value = match value {
                [b'"', inner @ .., b'"'] if quoted(value) == Some(value.len()) => unescaped(inner),
                token if is_token(token) => token.to_vec(),
                _ => return None,
            };
            // A front-end has four to say, and extensions; more than sixteen are refused.
            if pairs.len() == 16 || !is_token(&name) || pairs.iter().any(|(other, _)| *other == name) {
                return None;
            }
            pairs.push((name, value));
        }
        elements.push(pairs);
    }
    Some(elements)
}

/// The parts between separators that stand outside quotes; None when a quote is not closed.
fn cut(text: &[u8], separator: u8) -> Option<Vec<&[u8]>> {
    let mut parts = Vec::new();
    let (mut begin, mut in_quotes, mut escaped) = (0, false, false);
    for (at, byte) in text.iter().enumerate() {
        match *byte {
            _ if escaped => escaped = false,
            b'\\' if in_quotes => escaped = true,
            b'"' => in_quotes = !in_quotes,
            other if other == separator && !in_quotes => {
                parts.push(trimmed(&text[begin..at]));
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(trimmed(&text[begin..]));
    (!in_quotes).then_some(parts)
}

fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        out.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
    }
    out
}

/// What is believed goes into the environ and the logs.
fn is_fit_to_be_shown(front: &Front) {
    if let Some(address) = front.remote_addr.as_deref().filter(|address| !address.is_empty()) {
        assert_eq!(
            address.parse::<IpAddr>().map(|address| address.to_string()).as_deref(),
            Ok(address)
        );
    }
    assert_eq!(front.remote_addr.is_some(), front.remote_port.is_some());
    if let Some(port) = front.remote_port.as_deref().filter(|port| !port.is_empty()) {
        assert!(port.parse::<u16>().is_ok(), "{port}");
    }
    let port = front.server_port.as_deref();
    assert!(
        port.is_none_or(|port| str::from_utf8(port).is_ok_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0)))
    );
    for host in [&front.host, &front.server_name].into_iter().flatten() {
        assert!(is_authority(host), "{}", host.escape_ascii());
    }
    assert!(front.prefix.is_empty() || front.prefix.starts_with(b"/") && !front.prefix.ends_with(b"/"));
    assert!(
        !front.prefix.iter().any(|byte| byte.is_ascii_control()),
        "{}",
        front.prefix.escape_ascii()
    );
    let segments = front.prefix.split(|byte| *byte == b'/').skip(1);
    assert!(
        segments
            .into_iter()
            .all(|segment| ![&b""[..], b".", b".."].contains(&segment))
    );
    let id = front.request_id.as_deref();
    assert!(id.is_none_or(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"')));
}
