//! Packets of the uwsgi protocol, and the heads that they are translated to.
//!
//! The first byte of the input tells whether the others are a connection's bytes or pairs to make a packet of, each text
//! behind a byte with its length. Nothing in a variable begins another line, and what the head says is what a naive
//! reader finds in the packet.

use std::cell::RefCell;

use appserver::gateway::front::Front;
use appserver::protocol::http::head::{Head, Progress};
use appserver::protocol::http::refusal::Refusal;
use appserver::protocol::uwsgi;
use bytes::BytesMut;

use super::grammar::{self, Body, Pair, trimmed};
use super::request::{self, naively_decoded};

/// Fields that the front-end has dealt with, those that have variables of their own, and what CGI programs take for a
/// setting.
const DROPPED: &str =
    "connection content-length content-type expect keep-alive proxy te trailer transfer-encoding upgrade";

/// What stands in the place of a packet, with what follows it, and what the front-end says.
type Parsed = (Vec<u8>, Front);

pub fn check(input: &[u8]) {
    let [how, rest @ ..] = input else { return };
    let bytes = if *how < 0x80 { packet(rest) } else { rest.to_vec() };
    let whole = parsed(&bytes);
    for end in (0..bytes.len()).filter(|end| *end < 100 || end % 61 == 0) {
        match parsed(&bytes[..end]) {
            Ok(None) => {}
            Ok(Some((head, front))) => {
                let Ok(Some((all, same))) = &whole else {
                    panic!("{whole:?}: {}", bytes.escape_ascii())
                };
                assert!(all.starts_with(&head) && front == *same, "{}", bytes.escape_ascii());
            }
            Err(refusal) => assert_eq!(Err(refusal), whole, "{end} bytes of {}", bytes.escape_ascii()),
        }
    }
    match whole {
        Ok(Some((text, front))) => {
            assert!(bytes[0] == 0 && bytes[3] == 0);
            let pairs = pairs(&bytes).unwrap_or_else(|| panic!("no packet: {}", bytes.escape_ascii()));
            let head = text
                .strip_suffix(&bytes[4 + size(&bytes)..])
                .expect("what follows the packet is left alone");
            is_what_the_packet_says(head, &front, &pairs);
        }
        // Not whole yet.
        Ok(None) => assert!(
            bytes.len() < 4 || bytes.len() < 4 + size(&bytes),
            "{}",
            bytes.escape_ascii()
        ),
        Err(refusal) => {
            let right = pairs(&bytes).is_some_and(|pairs| bytes[0] == 0 && bytes[3] == 0 && is_plain(&pairs));
            assert!(!right, "{refusal}: {}", bytes.escape_ascii());
        }
    }
}

fn parsed(bytes: &[u8]) -> Result<Option<Parsed>, Refusal> {
    let mut head = Head::default();
    let mut buf = BytesMut::from(bytes);
    let front = RefCell::new(None);
    let progress = uwsgi::parse(&mut head, &mut buf, request::limits(0), &front)?;
    assert_eq!(
        progress == Progress::Complete,
        front.borrow().is_some(),
        "{}",
        bytes.escape_ascii()
    );
    assert!(progress == Progress::Partial || !head.keep_alive && !head.expect_continue);
    Ok(front.take().map(|front| (buf.to_vec(), *front)))
}

fn size(bytes: &[u8]) -> usize {
    usize::from(bytes[1]) + 256 * usize::from(bytes[2])
}

/// A packet of the input's pairs.
fn packet(mut rest: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    while let [length, behind @ ..] = rest {
        let (text, behind) = behind.split_at(behind.len().min(usize::from(*length)));
        block.extend_from_slice(&(text.len() as u16).to_le_bytes());
        block.extend_from_slice(text);
        rest = behind;
    }
    block.truncate(usize::from(u16::MAX));
    let size = (block.len() as u16).to_le_bytes();
    [&[0, size[0], size[1], 0], &block[..]].concat()
}

/// The pairs of a packet that is whole.
fn pairs(bytes: &[u8]) -> Option<Vec<Pair>> {
    let mut rest = bytes.get(4..4 + size(bytes.get(..4)?))?;
    let mut texts = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(*rest.first()?) + 256 * usize::from(*rest.get(1)?);
        texts.push(rest.get(2..2 + length)?.to_vec());
        rest = &rest[2 + length..];
    }
    let mut pairs = Vec::new();
    let mut texts = texts.into_iter();
    while let Some(name) = texts.next() {
        pairs.push((name, texts.next()?));
    }
    Some(pairs)
}

fn last<'a>(pairs: &'a [Pair], name: &str) -> Option<&'a [u8]> {
    pairs
        .iter()
        .rev()
        .find(|(other, _)| other == name.as_bytes())
        .map(|(_, value)| &value[..])
}

/// What nobody may refuse: a method, a path and harmless variables.
fn is_plain(pairs: &[Pair]) -> bool {
    const OTHERS: [&[u8]; 5] = [
        b"PATH_INFO",
        b"QUERY_STRING",
        b"REMOTE_ADDR",
        b"SERVER_PROTOCOL",
        b"DOCUMENT_ROOT",
    ];
    let methods = pairs.iter().filter(|(name, _)| name == b"REQUEST_METHOD");
    let is_word = |(_, value): &Pair| {
        (1..=32).contains(&value.len()) && value != b"CONNECT" && value.iter().all(u8::is_ascii_uppercase)
    };
    let is_harmless = |(name, value): &Pair| {
        let known = name == b"REQUEST_METHOD" || OTHERS.contains(&&name[..]) || name.starts_with(b"HTTP_X_");
        known
            && name.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'_')
            && value.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#')
    };
    let path = last(pairs, "PATH_INFO");
    methods.clone().count() == 1
        && methods.clone().all(is_word)
        && path.is_some_and(|path| path.first() == Some(&b'/'))
        && pairs.len() < 50
        && pairs.iter().all(is_harmless)
}

/// The head is one head and nothing behind it, and has what the variables say.
fn is_what_the_packet_says(text: &[u8], front: &Front, pairs: &[Pair]) {
    let head = grammar::head(text, request::limits(0));
    let head = head.unwrap_or_else(|stop| panic!("{stop:?}: {}", text.escape_ascii()));
    assert_eq!(head.length, text.len(), "{}", text.escape_ascii());
    assert_eq!(Some(&head.method[..]), last(pairs, "REQUEST_METHOD"));
    assert!(
        !head.keep_alive && !head.waits && head.old != head.upgrade,
        "{}",
        text.escape_ascii()
    );
    let length = last(pairs, "CONTENT_LENGTH").filter(|length| !length.is_empty());
    let length = length.map(|digits| String::from_utf8_lossy(trimmed(digits)).parse().unwrap_or(u64::MAX));
    assert_eq!(
        head.body,
        length.map_or(Body::None, Body::Length),
        "{}",
        text.escape_ascii()
    );
    if let Some(path) = last(pairs, "PATH_INFO").filter(|path| !path.is_empty()) {
        let mark = head
            .path_and_query
            .iter()
            .position(|byte| *byte == b'?')
            .unwrap_or(head.path_and_query.len());
        let shown = naively_decoded(&head.path_and_query[..mark]);
        // A URI that has no path of its own was passed on as it came.
        assert!(
            shown == path || last(pairs, "REQUEST_URI") == Some(&head.target[..]),
            "{}",
            text.escape_ascii()
        );
        assert!(path[0] != b'/' || shown == path, "{}", text.escape_ascii());
    }
    let lower = head
        .fields
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    assert_eq!(
        lower.collect::<Vec<_>>(),
        fields(pairs, head.upgrade),
        "{}",
        text.escape_ascii()
    );
    for (name, _) in &front.variables {
        let own = [&b"HTTP_"[..], b"wsgi.", b"appserver."]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        assert!(!own && !name.is_empty(), "{}", name.escape_ascii());
        assert_eq!(front.variables.iter().filter(|(other, _)| other == name).count(), 1);
        let given = pairs
            .iter()
            .rev()
            .find(|(other, _)| other == name)
            .map(|(_, value)| &value[..]);
        assert_eq!(front.variable(name), given);
    }
    let addresses = [&front.remote_addr, &front.remote_port].into_iter().flatten();
    assert!(addresses.into_iter().all(|text| !text.chars().any(char::is_control)));
}

/// The fields of the head: the client's, then those that have variables of their own. Names in lower case.
fn fields(pairs: &[Pair], upgrades: bool) -> Vec<Pair> {
    let mut fields: Vec<Pair> = Vec::new();
    let mut upgrade = None;
    for (name, value) in pairs {
        let Some(name) = name.strip_prefix(b"HTTP_") else {
            continue;
        };
        let name = String::from_utf8_lossy(name).to_ascii_lowercase().replace('_', "-");
        if !DROPPED.split_whitespace().any(|other| other == name) {
            fields.push((name.into_bytes(), trimmed(value).to_vec()));
        } else if name == "upgrade" {
            upgrade = Some(trimmed(value));
        }
    }
    let (kind, length) = (last(pairs, "CONTENT_TYPE"), last(pairs, "CONTENT_LENGTH"));
    for (name, value) in [("content-type", kind), ("content-length", length), ("upgrade", upgrade)] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            fields.push((name.into(), trimmed(value).to_vec()));
        }
    }
    if upgrades {
        fields.push((b"connection".to_vec(), b"upgrade, close".to_vec()));
    }
    fields
}
