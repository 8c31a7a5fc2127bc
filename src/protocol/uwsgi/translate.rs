//! From the variables of a uwsgi packet back to the request head that a front-end made them from.
//!
//! Takes a packet; gives the text of a head, which goes through the same parser as one that came by HTTP, and a [`Front`] with all that
//! stands in no head. It writes no byte that could end a line or a word before its time: what a variable may hold is otherwise for the
//! parser to say.
#![forbid(unsafe_code)]

use super::packet::Packet;
use crate::gateway::front::Scheme;
use crate::gateway::octets::{self, METHOD, TARGET, TOKEN};
use crate::gateway::request::decode;
use crate::gateway::{Front, forwarded};
use crate::protocol::http::refusal::Refusal;

/// Variables that make uWSGI load code or change its process begin with this; the one that does not follows.
const LOADS: &[u8] = b"UWSGI_";
const SCHEME: &[u8] = b"UWSGI_SCHEME";

/// Fields of the client's that the front-end has dealt with: how it framed its body, and what held for its connection alone. A body comes
/// whole with CONTENT_LENGTH, whatever HTTP_TRANSFER_ENCODING still says.
const DEALT_WITH: [&[u8]; 9] = [
    b"CONTENT_LENGTH",
    b"CONTENT_TYPE",
    b"TRANSFER_ENCODING",
    b"CONNECTION",
    b"KEEP_ALIVE",
    b"TE",
    b"TRAILER",
    b"EXPECT",
    b"UPGRADE",
];
/// CGI programs take HTTP_PROXY for the setting of that name (CVE-2016-5385).
const FORGED: &[u8] = b"PROXY";

/// The variables that make the head. Of one that comes twice the last holds, as in uWSGI, for that is how a `uwsgi_param` behind
/// `include uwsgi_params` overrides one of them; but what frames the request comes once.
#[derive(Default)]
struct Told<'a> {
    method: Option<&'a [u8]>,
    uri: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    query: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
    content_length: Option<&'a [u8]>,
    script_name: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
    https: Option<&'a [u8]>,
    request_scheme: Option<&'a [u8]>,
    upgrade: Option<&'a [u8]>,
}

/// The head of a packet, and what the front-end says beside it.
///
/// # Errors
/// A variable is missing, comes twice, or cannot stand in a head; or it asks for what is never done.
pub fn translate(packet: &Packet<'_>) -> Result<(Vec<u8>, Front), Refusal> {
    let mut told = Told::default();
    let mut front = Front::default();
    let mut fields = Vec::with_capacity(packet.length);
    for (name, value) in packet.pairs() {
        if let Some(field) = name.strip_prefix(b"HTTP_") {
            if spells(field, b"UPGRADE") {
                once(&mut told.upgrade, value)?;
            } else if spells(field, b"X_REQUEST_ID") {
                forwarded::label(value, &mut front);
                write_field(&mut fields, field, value)?;
            } else if !DEALT_WITH.iter().any(|known| spells(field, known)) && !spells(field, FORGED) {
                write_field(&mut fields, field, value)?;
            }
            continue;
        }
        match name {
            b"REQUEST_METHOD" => once(&mut told.method, value)?,
            b"PATH_INFO" => told.path = Some(value),
            b"QUERY_STRING" => told.query = Some(value),
            b"CONTENT_TYPE" => once(&mut told.content_type, value)?,
            b"CONTENT_LENGTH" => once(&mut told.content_length, value)?,
            b"SCRIPT_NAME" => told.script_name = Some(value),
            b"REMOTE_ADDR" => front.remote_addr = Some(text(value)?),
            b"REMOTE_PORT" => front.remote_port = Some(text(value)?),
            b"SERVER_NAME" => front.server_name = Some(value.to_vec()),
            b"SERVER_PORT" => front.server_port = Some(value.to_vec()),
            _ => {
                match name {
                    b"REQUEST_URI" => told.uri = Some(value),
                    b"HTTPS" => told.https = Some(value),
                    b"REQUEST_SCHEME" => told.request_scheme = Some(value),
                    SCHEME => told.scheme = Some(value),
                    _ if name.starts_with(LOADS) => return Err(Refusal::UWSGI_CODE),
                    // What the server itself says of the request, nobody else says.
                    _ if name.starts_with(b"wsgi.") || name.starts_with(b"appserver.") => continue,
                    _ => {}
                }
                front.variables.retain(|(known, _)| known != name);
                front.variables.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    // Empty is what nginx sends where it knows none: then the Host and the listener tell.
    front.server_name = front.server_name.filter(|name| !name.is_empty());
    front.server_port = front.server_port.filter(|port| !port.is_empty());
    front.scheme = scheme(&told)?;
    let prefix = told.script_name.unwrap_or_default();
    let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix);
    // Where the path still begins with it, nobody has taken it off: the mounts do that, or it stays.
    let rest = told.path.unwrap_or_default().strip_prefix(prefix);
    if !rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/'))) {
        front.prefix = prefix.to_vec();
    }
    Ok((head(&told, &fields)?, front))
}

/// Whether a field's name is one of ours. A front-end that leaves a name as its client sent it, in any case or with hyphens, means the same
/// field, and so would the parser.
fn spells(field: &[u8], known: &[u8]) -> bool {
    let capital = |byte: &u8| if *byte == b'-' { b'_' } else { byte.to_ascii_uppercase() };
    field.len() == known.len() && field.iter().map(capital).eq(known.iter().copied())
}

/// Sets what may be told once.
fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::UWSGI_REPEATED),
    }
}

fn text(value: &[u8]) -> Result<String, Refusal> {
    let text = str::from_utf8(value).map_err(|_| Refusal::UWSGI_MALFORMED)?;
    if text.chars().any(char::is_control) {
        return Err(Refusal::UWSGI_MALFORMED);
    }
    Ok(text.to_owned())
}

/// uWSGI's own variable first, then what web servers say.
fn scheme(told: &Told<'_>) -> Result<Option<Scheme>, Refusal> {
    let mut named = [told.scheme, told.request_scheme].into_iter().flatten();
    let https = told.https.filter(|https| !https.is_empty());
    if let Some(https) = https.filter(|_| told.scheme.is_none()) {
        let on = [&b"on"[..], b"1", b"true", b"https"];
        let is_on = on.iter().any(|word| https.eq_ignore_ascii_case(word));
        return Ok(Some(if is_on { Scheme::Https } else { Scheme::Http }));
    }
    match named.find(|scheme| !scheme.is_empty()) {
        None => Ok(None),
        Some(b"http") => Ok(Some(Scheme::Http)),
        Some(b"https") => Ok(Some(Scheme::Https)),
        Some(_) => Err(Refusal::FORWARDED_SCHEME),
    }
}

/// `X_REQUEST_ID` and its value as a field line.
fn write_field(fields: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
    if name.is_empty() || octets::run(TOKEN, name) < name.len() {
        return Err(Refusal::FIELD_NAME);
    }
    if value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Err(Refusal::FIELD_VALUE);
    }
    fields.extend(name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }));
    fields.extend_from_slice(b": ");
    fields.extend_from_slice(value);
    fields.extend_from_slice(b"\r\n");
    Ok(())
}

/// The head: of HTTP/1.0, for the connection is good for one request, and neither chunks nor interim responses are understood.
fn head(told: &Told<'_>, fields: &[u8]) -> Result<Vec<u8>, Refusal> {
    let method = told.method.ok_or(Refusal::UWSGI_MISSING)?;
    if method.is_empty() || octets::run(METHOD, method) < method.len() {
        return Err(Refusal::METHOD);
    }
    let mut head = Vec::with_capacity(fields.len() + 256);
    head.extend_from_slice(method);
    head.push(b' ');
    write_target(&mut head, told)?;
    // Blanks are those of a field (RFC 9110 section 5.6.3); any other byte is for the parser to judge.
    let is_blank = |value: &[u8]| value.iter().all(|byte| matches!(byte, b' ' | b'\t'));
    let upgrade = told.upgrade.filter(|upgrade| !is_blank(upgrade));
    head.extend_from_slice(if upgrade.is_some() {
        b" HTTP/1.1\r\n"
    } else {
        b" HTTP/1.0\r\n"
    });
    head.extend_from_slice(fields);
    let own: [(&[u8], Option<&[u8]>); 3] = [
        (b"Content-Type", told.content_type),
        (b"Content-Length", told.content_length),
        (b"Upgrade", upgrade),
    ];
    for (name, value) in own {
        // Empty is what nginx sends where the client has sent none.
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            write_field(&mut head, name, value)?;
        }
    }
    if upgrade.is_some() {
        head.extend_from_slice(b"Connection: upgrade, close\r\n");
    }
    head.extend_from_slice(b"\r\n");
    Ok(head)
}

/// Path and query. The path as the client encoded it, if that is still what is asked for; else, where the front-end has rewritten it,
/// encoded anew.
fn write_target(head: &mut Vec<u8>, told: &Told<'_>) -> Result<(), Refusal> {
    let uri = told.uri.unwrap_or_default();
    let mut parts = uri.splitn(2, |byte| *byte == b'?');
    let (raw, asked) = (parts.next().unwrap_or_default(), parts.next());
    match told.path.filter(|path| !path.is_empty()) {
        Some(path) if decode(raw) != path => {
            // It would be read as a URI, whose path is another.
            if path[0] != b'/' {
                return Err(Refusal::TARGET_FORM);
            }
            encode(head, path);
        }
        _ if raw.is_empty() => return Err(Refusal::UWSGI_MISSING),
        _ => word(head, raw)?,
    }
    let query = told.query.or(asked).unwrap_or_default();
    if !query.is_empty() {
        head.push(b'?');
        word(head, query)?;
    }
    Ok(())
}

/// Writes what must be one word of the request line.
fn word(head: &mut Vec<u8>, word: &[u8]) -> Result<(), Refusal> {
    if octets::run(TARGET, word) < word.len() {
        return Err(Refusal::TARGET_BYTE);
    }
    head.extend_from_slice(word);
    Ok(())
}

/// Percent-encodes a path (RFC 3986 sections 2.1 and 3.3).
fn encode(head: &mut Vec<u8>, path: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) {
            head.push(byte);
        } else {
            head.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::packet::{packed, parse};
    use super::*;
    use crate::protocol::http::head::{Head, Limits, Progress};

    const LIMITS: Limits = Limits {
        request_line: 8192,
        header_field: 8192,
        header_fields: 100,
        header_total: 65536,
        body: 1 << 30,
    };

    fn of(pairs: &[(&str, &str)]) -> Result<(String, Front), Refusal> {
        let bytes = packed(pairs);
        let packet = parse(&bytes, 1 << 16)?.expect("it is whole");
        let (head, front) = translate(&packet)?;
        // Whatever is written is one head to the parser, or refused by it, and never more.
        let mut parser = Head::default();
        assert_eq!(parser.parse(&head, &LIMITS)?, Progress::Complete);
        assert_eq!(parser.len, head.len());
        Ok((String::from_utf8_lossy(&head).into_owned(), front))
    }

    fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [&[("REQUEST_METHOD", "GET"), ("PATH_INFO", "/a")], more].concat()
    }

    #[test]
    fn what_nginx_sends_becomes_the_head_it_was_made_from() {
        // The stock uwsgi_params, then the client's fields (nginx 1.22).
        let (head, front) = of(&[
            ("QUERY_STRING", "x=%20y"),
            ("REQUEST_METHOD", "POST"),
            ("CONTENT_TYPE", "text/plain"),
            ("CONTENT_LENGTH", "5"),
            ("REQUEST_URI", "/caf%C3%A9%2Fau/lait?x=%20y"),
            ("PATH_INFO", "/café/au/lait"),
            ("DOCUMENT_ROOT", "/var/www"),
            ("SERVER_PROTOCOL", "HTTP/2.0"),
            ("REQUEST_SCHEME", "https"),
            ("HTTPS", "on"),
            ("REMOTE_ADDR", "192.0.2.7"),
            ("REMOTE_PORT", "40000"),
            ("SERVER_PORT", "443"),
            ("SERVER_NAME", ""),
            ("HTTP_HOST", "example.org"),
            ("HTTP_TRANSFER_ENCODING", "chunked"),
            ("HTTP_CONTENT_TYPE", "text/plain"),
            ("HTTP_CONNECTION", "keep-alive"),
            ("HTTP_EXPECT", "100-continue"),
            ("HTTP_PROXY", "evil"),
            ("HTTP_COOKIE", "a=1"),
            ("HTTP_COOKIE", "b=2"),
        ])
        .unwrap();
        let lines: Vec<&str> = head.split("\r\n").collect();
        assert_eq!(
            lines,
            [
                "POST /caf%C3%A9%2Fau/lait?x=%20y HTTP/1.0",
                "HOST: example.org",
                "COOKIE: a=1",
                "COOKIE: b=2",
                "Content-Type: text/plain",
                "Content-Length: 5",
                "",
                ""
            ]
        );
        assert_eq!(front.remote_addr.as_deref(), Some("192.0.2.7"));
        assert_eq!(front.remote_port.as_deref(), Some("40000"));
        assert_eq!(front.scheme, Some(Scheme::Https));
        assert_eq!(
            (front.server_name.as_deref(), front.server_port.as_deref()),
            (None, Some(&b"443"[..]))
        );
        assert_eq!(front.variable(b"DOCUMENT_ROOT"), Some(&b"/var/www"[..]));
        assert_eq!(front.variable(b"SERVER_PROTOCOL"), Some(&b"HTTP/2.0"[..]));
        assert_eq!(front.variable(b"HTTP_PROXY"), None);
    }

    #[test]
    fn a_path_that_was_rewritten_is_encoded_anew_and_any_other_kept_as_it_came() {
        for (path, uri, query, expected) in [
            ("/a b", "/a%20b?q", "q", "/a%20b?q"),
            ("/a b", "/a%20b", "", "/a%20b"),
            ("/new?x#y%", "/old", "", "/new%3Fx%23y%25"),
            ("/é", "", "", "/%C3%A9"),
            ("", "/only/uri?q=1", "q=1", "/only/uri?q=1"),
            ("/a/b", "/a//b", "", "/a/b"),
        ] {
            let (head, _) = of(&[
                ("REQUEST_METHOD", "GET"),
                ("PATH_INFO", path),
                ("REQUEST_URI", uri),
                ("QUERY_STRING", query),
            ])
            .unwrap();
            assert_eq!(
                head.lines().next(),
                Some(&*format!("GET {expected} HTTP/1.0")),
                "{path} {uri}"
            );
        }
    }

    #[test]
    fn of_a_variable_that_comes_twice_the_last_holds() {
        let twice = [
            ("PATH_INFO", "/b"),
            ("REMOTE_ADDR", "a"),
            ("REMOTE_ADDR", "b"),
            ("X", "1"),
            ("X", "2"),
        ];
        let (head, front) = of(&with(&twice)).unwrap();
        assert!(head.starts_with("GET /b "), "{head}");
        assert_eq!(front.remote_addr.as_deref(), Some("b"));
        assert_eq!(front.variables, [(b"X".to_vec(), b"2".to_vec())]);
    }

    #[test]
    fn a_script_name_goes_before_a_path_that_does_not_begin_with_it() {
        for (script, path, expected) in [
            ("/app", "/x", "/app"),
            ("/app/", "/x", "/app"),
            ("/app", "/app/x", ""),
            ("/app", "/app", ""),
            ("/app", "/apple", "/app"),
            ("", "/x", ""),
        ] {
            let pairs = [("REQUEST_METHOD", "GET"), ("PATH_INFO", path), ("SCRIPT_NAME", script)];
            assert_eq!(of(&pairs).unwrap().1.prefix, expected.as_bytes(), "{script} {path}");
        }
    }

    #[test]
    fn a_field_is_dealt_with_however_its_name_is_spelt() {
        let spelt = [
            ("HTTP_content_length", "9"),
            ("HTTP_Content-Length", "9"),
            ("HTTP_TRANSFER-ENCODING", "chunked"),
            ("HTTP_Connection", "keep-alive"),
            // One that names no protocol is none.
            ("HTTP_Upgrade", "\t"),
        ];
        assert_eq!(of(&with(&spelt)).unwrap().0, "GET /a HTTP/1.0\r\n\r\n");
    }

    #[test]
    fn schemes_are_told_in_three_ways() {
        for (pairs, expected) in [
            (&[("HTTPS", "on")][..], Some(Scheme::Https)),
            (&[("HTTPS", "off")], Some(Scheme::Http)),
            (&[("HTTPS", "")], None),
            (&[("REQUEST_SCHEME", "http")], Some(Scheme::Http)),
            (&[("HTTPS", ""), ("REQUEST_SCHEME", "https")], Some(Scheme::Https)),
            (&[("UWSGI_SCHEME", "https"), ("HTTPS", "off")], Some(Scheme::Https)),
            (&[], None),
        ] {
            assert_eq!(of(&with(pairs)).unwrap().1.scheme, expected, "{pairs:?}");
        }
        assert_eq!(
            of(&with(&[("REQUEST_SCHEME", "gopher")])).err(),
            Some(Refusal::FORWARDED_SCHEME)
        );
    }

    #[test]
    fn what_cannot_be_one_request_is_refused() {
        let many = [("HTTP_A", "1"); 101];
        for (pairs, expected) in [
            (&[][..], Refusal::UWSGI_MISSING),
            (&[("REQUEST_METHOD", "GET")], Refusal::UWSGI_MISSING),
            (&[("PATH_INFO", "/")], Refusal::UWSGI_MISSING),
            (
                &[("REQUEST_METHOD", "GET"), ("REQUEST_METHOD", "GET"), ("PATH_INFO", "/")],
                Refusal::UWSGI_REPEATED,
            ),
            (
                &with(&[("CONTENT_LENGTH", "1"), ("CONTENT_LENGTH", "1")]),
                Refusal::UWSGI_REPEATED,
            ),
            (&[("REQUEST_METHOD", ""), ("PATH_INFO", "/")], Refusal::METHOD),
            (
                &[
                    ("REQUEST_METHOD", "GET / HTTP/1.1\r\nA: b\r\n\r\nGET"),
                    ("PATH_INFO", "/"),
                ],
                Refusal::METHOD,
            ),
            (&[("REQUEST_METHOD", "get"), ("PATH_INFO", "/")], Refusal::METHOD),
            (&[("REQUEST_METHOD", "CONNECT"), ("PATH_INFO", "/")], Refusal::CONNECT),
            (&with(&[("QUERY_STRING", "a HTTP/1.1\r\nX: y")]), Refusal::TARGET_BYTE),
            (&with(&[("QUERY_STRING", "a#b")]), Refusal::TARGET_BYTE),
            (
                &[("REQUEST_METHOD", "GET"), ("REQUEST_URI", "/a\r\nX: y")],
                Refusal::TARGET_BYTE,
            ),
            (&[("REQUEST_METHOD", "GET"), ("PATH_INFO", "a")], Refusal::TARGET_FORM),
            (
                &[("REQUEST_METHOD", "GET"), ("PATH_INFO", "http://b/c")],
                Refusal::TARGET_FORM,
            ),
            (&with(&[("CONTENT_LENGTH", "5\r\nX: y")]), Refusal::FIELD_VALUE),
            (&with(&[("CONTENT_LENGTH", "+5")]), Refusal::LENGTH_INVALID),
            (&with(&[("CONTENT_LENGTH", "5, 5")]), Refusal::LENGTH_INVALID),
            (&with(&[("CONTENT_LENGTH", "99999999999")]), Refusal::BODY_TOO_LARGE),
            (&with(&[("CONTENT_TYPE", "a\nb: c")]), Refusal::FIELD_VALUE),
            (&with(&[("HTTP_A", "b\r\nContent-Length: 9")]), Refusal::FIELD_VALUE),
            (&with(&[("HTTP_A", "b\0")]), Refusal::FIELD_VALUE),
            (&with(&[("HTTP_A", "b\u{1}")]), Refusal::FIELD_VALUE),
            (&with(&[("HTTP_A:\r\nB", "c")]), Refusal::FIELD_NAME),
            (&with(&[("HTTP_", "c")]), Refusal::FIELD_NAME),
            (&with(&[("HTTP_A B", "c")]), Refusal::FIELD_NAME),
            (&with(&[("HTTP_HOST", "a"), ("HTTP_HOST", "b")]), Refusal::HOST_REPEATED),
            (&with(&[("HTTP_HOST", "a b")]), Refusal::HOST_INVALID),
            (
                &with(&[("HTTP_HOST", "a"), ("HTTP_UPGRADE", "\u{c}")]),
                Refusal::FIELD_VALUE,
            ),
            (
                &with(&[("HTTP_UPGRADE", "x\r\nContent-Length: 9")]),
                Refusal::FIELD_VALUE,
            ),
            (&with(&[("REMOTE_ADDR", "1.2.3.4\n")]), Refusal::UWSGI_MALFORMED),
            (&with(&[("UWSGI_FILE", "exec:///bin/sh")]), Refusal::UWSGI_CODE),
            (&with(&[("UWSGI_SCRIPT", "x")]), Refusal::UWSGI_CODE),
            (&with(&[("UWSGI_SETENV", "LD_PRELOAD=x")]), Refusal::UWSGI_CODE),
            (&with(&many), Refusal::FIELDS_TOO_MANY),
        ] {
            assert_eq!(of(pairs).err(), Some(expected), "{pairs:?}");
        }
    }

    #[test]
    fn nobody_but_the_server_says_what_is_the_servers() {
        let (_, front) = of(&with(&[
            ("wsgi.url_scheme", "https"),
            ("appserver.worker", "9"),
            ("REMOTE_USER", "ada"),
        ]))
        .unwrap();
        let names: Vec<_> = front.variables.iter().map(|(name, _)| name.as_slice()).collect();
        assert_eq!(names, [b"REMOTE_USER"]);
    }

    #[test]
    fn an_upgrade_and_an_id_pass() {
        let (head, front) = of(&with(&[
            ("HTTP_HOST", "a"),
            ("HTTP_UPGRADE", "websocket"),
            ("HTTP_CONNECTION", "upgrade"),
            ("HTTP_X_REQUEST_ID", "0123456789abcdef00fe00009a0ff0a9"),
            ("SCRIPT_NAME", "/app/"),
        ]))
        .unwrap();
        assert!(head.starts_with("GET /a HTTP/1.1\r\n"), "{head}");
        assert!(
            head.ends_with("Upgrade: websocket\r\nConnection: upgrade, close\r\n\r\n"),
            "{head}"
        );
        assert!(front.id.is_some());
        assert_eq!(front.prefix, b"/app");
    }

    #[test]
    fn a_body_and_what_follows_stay_behind_the_head() {
        let mut bytes = packed(&with(&[("CONTENT_LENGTH", "4")]));
        bytes.extend_from_slice(b"body and more");
        let front = std::cell::RefCell::new(None);
        let mut head = Head::default();
        for cut in 0..bytes.len() - 13 {
            let mut buf = BytesMut::from(&bytes[..cut]);
            let partial = super::super::parse(&mut head, &mut buf, &LIMITS, &front);
            assert_eq!(partial, Ok(Progress::Partial));
        }
        let mut buf = BytesMut::from(&bytes[..]);
        for _ in 0..2 {
            // Asked again where it had to wait for its turn.
            assert_eq!(
                super::super::parse(&mut head, &mut buf, &LIMITS, &front),
                Ok(Progress::Complete)
            );
            assert_eq!(&buf[head.len..], b"body and more");
            assert!(!head.keep_alive && front.borrow().is_some());
        }
    }
}
