//! The head of an answer, whatever a handler passes: it is one head or a fault, never two heads or two framings.
//!
//! The input is what the handler passes: a byte of flags, a status, and fields, each text behind a byte with its length.

use std::rc::Rc;

use appserver::gateway::fields::Fields;
use appserver::gateway::start_response::{Head, interim};
use appserver::protocol::http::answer::switch;
use appserver::protocol::http::body::ResponseBody;
use appserver::protocol::http::ledger::Ledger;
use appserver::protocol::http::reply::{Asked, Reply, write};

use super::grammar::{self, Pair};

// The flags of an input.
const TO_HEAD: u8 = 1;
const OLD: u8 = 2;
const KEEP_ALIVE: u8 = 4;
const CLOSING: u8 = 8;
const WITH_BODY: u8 = 16;

pub fn check(input: &[u8]) {
    let [flags, rest @ ..] = input else { return };
    let mut texts = Texts(rest);
    let status = texts.next().unwrap_or_default();
    let mut fields: Vec<(&[u8], &[u8])> = Vec::new();
    while let Some(name) = texts.next() {
        fields.push((name, texts.next().unwrap_or_default()));
    }
    if let Ok(head) = Head::build(status, &mut fields.iter().copied()) {
        answers(*flags, head, &fields);
    }
    if let Ok(head) = Head::switching(&mut fields.iter().copied()) {
        let (line, sent) = taken_apart(&switch(&head, &Ledger::default()));
        assert_eq!(line, b"HTTP/1.1 101 Switching Protocols");
        assert_eq!(count(&sent, "upgrade"), 1);
        assert_eq!(count(&sent, "connection"), 1);
        assert_eq!(count(&sent, "transfer-encoding") + count(&sent, "content-length"), 0);
    }
    let number = 100 + u16::from(*flags) % 100;
    if let Ok(head) = interim(number, &mut fields.iter().copied()) {
        let (line, sent) = taken_apart(&head);
        assert!(line.starts_with(format!("HTTP/1.1 {number} ").as_bytes()));
        // RFC 9110 section 8.6: none in an interim response.
        assert_eq!(count(&sent, "transfer-encoding") + count(&sent, "content-length"), 0);
        is_as_passed(&sent, &fields, |name| name != b"content-length");
    }
}

/// Texts behind a byte with their length.
struct Texts<'a>(&'a [u8]);

impl<'a> Iterator for Texts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first()?;
        let (text, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        self.0 = rest;
        Some(text)
    }
}

/// An answer that the handler began so, with the body that the server allows with it.
fn answers(flags: u8, head: Head, passed: &[(&[u8], &[u8])]) {
    let has = |flag| flags & flag != 0;
    let asked = Asked {
        to_head: has(TO_HEAD),
        old: has(OLD),
        keep_alive: has(KEEP_ALIVE) && !has(CLOSING),
    };
    let bodiless = head.bodiless();
    let Head {
        status,
        reason,
        mut fields,
        declared,
    } = head;
    assert!((200..=999).contains(&status.as_u16()));
    agrees_with_hyper(&fields);
    if bodiless && status != 304 {
        fields.remove("content-length");
    }
    let length = match declared {
        _ if bodiless || asked.to_head => None,
        Some(0) => None,
        Some(length) => Some(length),
        None => has(WITH_BODY).then_some(5),
    };
    if has(CLOSING) {
        fields.set("connection", b"close");
    }
    let reply = Reply {
        status,
        reason,
        fields,
        old: has(CLOSING) && has(OLD),
        body: ResponseBody::empty(Rc::new(Ledger::default())),
    };
    let mut out = b"before".to_vec();
    write(&mut out, &reply, asked, length);
    let (line, sent) = taken_apart(out.strip_prefix(b"before").expect("it appends"));
    let version = if has(OLD) { "HTTP/1.0" } else { "HTTP/1.1" };
    assert!(
        line.starts_with(format!("{version} {} ", status.as_u16()).as_bytes()),
        "{}",
        line.escape_ascii()
    );
    assert_eq!(count(&sent, "transfer-encoding"), 0);
    let lengths = count(&sent, "content-length");
    assert!(lengths <= 1, "{sent:?}");
    if bodiless && status != 304 {
        assert_eq!(lengths, 0, "{sent:?}");
    } else if !bodiless && !asked.to_head {
        assert_eq!(lengths, 1, "{sent:?}");
        let told = sent.iter().find(|(name, _)| name == b"content-length");
        let told: u64 = told
            .and_then(|(_, value)| str::from_utf8(value).ok()?.parse().ok())
            .expect("a number");
        assert_eq!(told, length.unwrap_or(0), "{sent:?}");
    }
    assert!(count(&sent, "date") >= 1 && count(&sent, "connection") <= 1, "{sent:?}");
    // In HTTP/1.0 the end needs no word.
    if has(CLOSING) || !asked.keep_alive && !asked.old {
        assert_eq!(count(&sent, "connection"), 1, "{sent:?}");
    }
    is_as_passed(&sent, passed, |name| {
        !["content-length", "trailer"].iter().any(|own| own.as_bytes() == name)
    });
    reply.fields.give_back();
}

/// hyper sends the answers that stream: a field that it does not take would be missing there.
fn agrees_with_hyper(fields: &Fields) {
    let lines: Vec<u8> = fields
        .to_map()
        .iter()
        .flat_map(|(name, value)| [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat())
        .collect();
    assert_eq!(
        lines.escape_ascii().to_string(),
        fields.text().escape_ascii().to_string()
    );
    let iterated: Vec<u8> = fields.iter().flat_map(|(_, _, line)| line.to_vec()).collect();
    assert_eq!(iterated, fields.text());
}

/// Status line and fields of one head and nothing behind it, as a strict client reads them.
fn taken_apart(head: &[u8]) -> (Vec<u8>, Vec<Pair>) {
    let text = head.strip_suffix(b"\r\n\r\n").expect("a blank line ends it");
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    for line in &lines {
        let sound = line.iter().all(|byte| *byte == b'\t' || *byte >= 0x20 && *byte != 0x7f);
        assert!(sound && !line.is_empty(), "{}", head.escape_ascii());
    }
    let status = lines.remove(0).to_vec();
    let apart = |line: &&[u8]| {
        let colon = line.iter().position(|byte| *byte == b':').expect("a colon");
        let (name, value) = line.split_at(colon);
        assert!(grammar::is_token(name), "{}", head.escape_ascii());
        (name.to_ascii_lowercase(), grammar::trimmed(&value[1..]).to_vec())
    };
    let fields = lines.iter().map(apart).collect();
    (status, fields)
}

fn count(fields: &[Pair], name: &str) -> usize {
    fields.iter().filter(|(other, _)| other == name.as_bytes()).count()
}

/// What was passed is sent: each name with its values in their order.
fn is_as_passed(sent: &[Pair], passed: &[(&[u8], &[u8])], counts: impl Fn(&[u8]) -> bool) {
    for (name, _) in passed {
        let name = name.to_ascii_lowercase();
        if !counts(&name) {
            continue;
        }
        let there: Vec<&[u8]> = sent
            .iter()
            .filter(|(other, _)| *other == name)
            .map(|(_, value)| &value[..])
            .collect();
        let wanted = passed.iter().filter(|(other, _)| other.eq_ignore_ascii_case(&name));
        let wanted: Vec<&[u8]> = wanted.map(|(_, value)| grammar::trimmed(value)).collect();
        assert_eq!(there, wanted, "{}", name.escape_ascii());
    }
}
