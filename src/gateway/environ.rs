//! The environ: a request as PEP 3333 and RFC 3875 name its parts, built key by key as the handler asks.
//!
//! Takes a [`Request`], gives byte strings. Fields whose name holds an underscore are left out: `A_B` and `A-B` would both be
//! `HTTP_A_B`, and a proxy that sets one could be spoofed by the other. Raw access (`field_at`) still shows them.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use super::Front;
use super::request::{Request, decode};

/// The lazily built values of one request.
#[derive(Debug, Default)]
pub struct Environ {
    path_info: OnceLock<Vec<u8>>,
    script_name: OnceLock<Vec<u8>>,
    request_id: OnceLock<[u8; 32]>,
    all: OnceLock<Vec<(Vec<u8>, Vec<u8>)>>,
}

/// Keys that are not header fields, in the order they are listed.
const KEYS: &[&str] = &[
    "GATEWAY_INTERFACE",
    "REQUEST_METHOD",
    "REQUEST_URI",
    "SCRIPT_NAME",
    "PATH_INFO",
    "QUERY_STRING",
    "CONTENT_TYPE",
    "CONTENT_LENGTH",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "SERVER_SOFTWARE",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "wsgi.version",
    "wsgi.url_scheme",
    "wsgi.multithread",
    "wsgi.multiprocess",
    "wsgi.run_once",
    "wsgi.input_terminated",
    "appserver.request_id",
    "appserver.worker",
    "appserver.generation",
];

impl Environ {
    /// The value of one key.
    pub fn get<'a>(&'a self, request: &'a Request, key: &[u8]) -> Option<&'a [u8]> {
        if let Some(told) = request.front.as_ref().and_then(|front| told(front, key)) {
            return Some(told);
        }
        match key.strip_prefix(b"HTTP_") {
            Some(name) => self.header(request, key, name),
            None => self.variable(request, key),
        }
    }

    /// The key and value at an index: the variables that have a value, then the header fields.
    pub fn at<'a>(&'a self, request: &'a Request, index: usize) -> Option<(&'a [u8], &'a [u8])> {
        self.all(request)
            .get(index)
            .map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    fn variable<'a>(&'a self, request: &'a Request, key: &[u8]) -> Option<&'a [u8]> {
        let truth = |value: bool| if value { b"true".as_slice() } else { b"false" };
        Some(match key {
            b"REQUEST_METHOD" => request.method(),
            b"SCRIPT_NAME" => match &request.front {
                Some(front) if !front.prefix.is_empty() => self
                    .script_name
                    .get_or_init(|| [&front.prefix[..], &request.mount.script_name].concat()),
                _ => &request.mount.script_name,
            },
            b"PATH_INFO" => {
                let raw = request.part(request.path_info);
                if raw.contains(&b'%') {
                    self.path_info.get_or_init(|| decode(raw))
                } else {
                    raw
                }
            }
            b"QUERY_STRING" => request.part(request.query),
            b"REQUEST_URI" | b"RAW_URI" => request.part(request.target),
            b"CONTENT_TYPE" => return request.field(b"content-type"),
            b"CONTENT_LENGTH" => return request.field(b"content-length"),
            b"SERVER_NAME" => server_name(request),
            b"SERVER_PORT" => server_port(request),
            b"SERVER_PROTOCOL" => request.version.name().as_bytes(),
            b"SERVER_SOFTWARE" => crate::handler::SERVER.as_bytes(),
            b"GATEWAY_INTERFACE" => b"CGI/1.1",
            b"REMOTE_ADDR" => request.peer.remote_addr.as_bytes(),
            b"REMOTE_PORT" => request.peer.remote_port.as_bytes(),
            b"wsgi.version" => b"1.0",
            b"wsgi.url_scheme" => request.scheme().name().as_bytes(),
            b"wsgi.multithread" => truth(request.mount.multithread),
            b"wsgi.multiprocess" => truth(request.mount.multiprocess),
            b"wsgi.run_once" => b"false",
            b"wsgi.input_terminated" => b"true",
            b"appserver.request_id" => self.request_id.get_or_init(|| request.id.hex()),
            b"appserver.worker" => request.mount.worker.as_bytes(),
            b"appserver.generation" => request.mount.generation.as_bytes(),
            _ => return None,
        })
    }

    /// `HTTP_…`: the field itself when it came once, the joined values when it was repeated.
    fn header<'a>(&'a self, request: &'a Request, key: &[u8], name: &[u8]) -> Option<&'a [u8]> {
        if name == b"HOST"
            && let Some(authority) = request.authority
        {
            return Some(request.part(authority));
        }
        let mut found = request
            .fields()
            .filter(|(field, _)| spells(name, field))
            .map(|(_, value)| value);
        let first = found.next()?;
        if found.next().is_none() {
            return Some(first);
        }
        self.all(request)
            .iter()
            .find(|(listed, _)| listed == key)
            .map(|(_, value)| value.as_slice())
    }

    fn all(&self, request: &Request) -> &[(Vec<u8>, Vec<u8>)] {
        self.all.get_or_init(|| {
            let front = request.front.as_deref();
            let mut list: Vec<(Vec<u8>, Vec<u8>)> = KEYS
                .iter()
                .filter_map(|key| {
                    let key = key.as_bytes();
                    let said = front.and_then(|front| told(front, key));
                    Some((key.to_vec(), said.or_else(|| self.variable(request, key))?.to_vec()))
                })
                .collect();
            let variables = list.len();
            for (name, value) in request.fields() {
                let Some(key) = variable_name(name) else { continue };
                match list[variables..].iter_mut().find(|(listed, _)| *listed == key) {
                    Some((_, joined)) => {
                        // RFC 9110 section 5.3 joins with a comma; cookies have their own list syntax (RFC 6265 section 4.2.1).
                        joined.extend_from_slice(if key == b"HTTP_COOKIE" { b"; " } else { b", " });
                        joined.extend_from_slice(value);
                    }
                    None => list.push((key, value.to_vec())),
                }
            }
            let mut set = |key: &[u8], value: &[u8]| {
                list.retain(|(known, _)| known != key);
                list.push((key.to_vec(), value.to_vec()));
            };
            if let Some(authority) = request.authority {
                set(b"HTTP_HOST", request.part(authority));
            }
            if let Some(front) = front {
                front.variables.iter().for_each(|(key, value)| set(key, value));
                if let Some(host) = &front.host {
                    set(b"HTTP_HOST", host);
                }
            }
            list
        })
    }
}

/// What a front-end says of a key.
fn told<'a>(front: &'a Front, key: &[u8]) -> Option<&'a [u8]> {
    let text = |text: &'a Option<String>| text.as_ref().map(String::as_bytes);
    let said = match key {
        b"REMOTE_ADDR" => text(&front.remote_addr),
        b"REMOTE_PORT" => text(&front.remote_port),
        b"wsgi.url_scheme" => front.scheme.map(|scheme| scheme.name().as_bytes()),
        b"HTTP_HOST" => front.host.as_deref(),
        b"SERVER_NAME" => front.server_name.as_deref(),
        b"SERVER_PORT" => front.server_port.as_deref(),
        b"appserver.request_id" => text(&front.request_id),
        _ => None,
    };
    said.or_else(|| front.variable(key))
}

/// CGI programs take HTTP_PROXY for the setting of that name, and a client could set it (CVE-2016-5385).
const FORGED: &[u8] = b"PROXY";

/// Whether a field's name is the one an `HTTP_` key asks for. Content-Type and Content-Length have keys of their own.
fn spells(key: &[u8], field: &[u8]) -> bool {
    key.len() == field.len()
        && key.iter().zip(field).all(|(wanted, found)| match found {
            b'-' => *wanted == b'_',
            b'_' => false,
            other => *wanted == other.to_ascii_uppercase(),
        })
        && key != b"CONTENT_TYPE"
        && key != b"CONTENT_LENGTH"
        && key != FORGED
}

fn variable_name(field: &[u8]) -> Option<Vec<u8>> {
    if field.contains(&b'_')
        || field.eq_ignore_ascii_case(FORGED)
        || field.eq_ignore_ascii_case(b"content-type")
        || field.eq_ignore_ascii_case(b"content-length")
    {
        return None;
    }
    let upper = field
        .iter()
        .map(|byte| if *byte == b'-' { b'_' } else { byte.to_ascii_uppercase() });
    Some(b"HTTP_".iter().copied().chain(upper).collect())
}

/// Host without its port, for connections that have no address of their own.
fn host(request: &Request) -> (&[u8], &[u8]) {
    let whole = request
        .authority
        .map(|span| request.part(span))
        .or_else(|| request.field(b"host"))
        .unwrap_or_default();
    let colon = whole.iter().rposition(|byte| *byte == b':');
    match colon {
        Some(at) if !whole[at..].contains(&b']') => (&whole[..at], &whole[at + 1..]),
        _ => (whole, b""),
    }
}

fn server_name(request: &Request) -> &[u8] {
    if !request.peer.server_name.is_empty() {
        return request.peer.server_name.as_bytes();
    }
    match host(request).0 {
        // PEP 3333: SERVER_NAME can never be empty.
        b"" => b"localhost",
        name => name,
    }
}

fn server_port(request: &Request) -> &[u8] {
    if !request.peer.server_port.is_empty() {
        return request.peer.server_port.as_bytes();
    }
    match host(request).1 {
        b"" => request.scheme().port().as_bytes(),
        port => port,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::gateway::Mount;
    use crate::gateway::front::Scheme;
    use crate::gateway::request::{Field, Span};

    fn request(path: &str, fields: &[(&str, &str)]) -> Request {
        let mut bytes = Vec::new();
        let mut add = |text: &str| {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(text.as_bytes());
            Span {
                start,
                end: bytes.len() as u32,
            }
        };
        let path = add(path);
        let fields = fields
            .iter()
            .map(|(name, value)| Field {
                name: add(name),
                value: add(value),
            })
            .collect();
        Request {
            path,
            path_info: path,
            target: path,
            fields,
            bytes: Bytes::from(bytes),
            ..Request::default()
        }
    }

    fn get(request: &Request, key: &str) -> Option<String> {
        Environ::default()
            .get(request, key.as_bytes())
            .map(|value| String::from_utf8_lossy(value).into_owned())
    }

    #[test]
    fn repeated_fields_are_joined_and_cookies_in_their_own_way() {
        let request = request(
            "/",
            &[
                ("X-A", "1"),
                ("x-a", "2"),
                ("Cookie", "a=1"),
                ("Cookie", "b=2"),
                ("X-B", "3"),
            ],
        );
        assert_eq!(get(&request, "HTTP_X_A").as_deref(), Some("1, 2"));
        assert_eq!(get(&request, "HTTP_COOKIE").as_deref(), Some("a=1; b=2"));
        assert_eq!(get(&request, "HTTP_X_B").as_deref(), Some("3"));
        assert_eq!(get(&request, "HTTP_X_C"), None);
    }

    #[test]
    fn what_a_front_end_says_goes_before_what_the_connection_shows() {
        let mut request = request("/a", &[("Host", "inner")]);
        request.mount = Mount {
            script_name: b"/shop".to_vec(),
            ..Mount::default()
        }
        .into();
        request.front = Some(Box::new(Front {
            remote_addr: Some("192.0.2.7".to_owned()),
            scheme: Some(Scheme::Https),
            host: Some(b"outer".to_vec()),
            server_name: Some(b"outer".to_vec()),
            server_port: Some(b"443".to_vec()),
            prefix: b"/app".to_vec(),
            variables: vec![
                (b"REMOTE_USER".to_vec(), b"ada".to_vec()),
                (b"REQUEST_URI".to_vec(), b"/before/rewriting".to_vec()),
            ],
            ..Front::default()
        }));
        let environ = Environ::default();
        let listed: Vec<_> = (0..).map_while(|index| environ.at(&request, index)).collect();
        for (key, expected) in [
            ("REMOTE_ADDR", "192.0.2.7"),
            ("REMOTE_PORT", ""),
            ("wsgi.url_scheme", "https"),
            ("HTTP_HOST", "outer"),
            ("SERVER_NAME", "outer"),
            ("SERVER_PORT", "443"),
            ("SCRIPT_NAME", "/app/shop"),
            ("REMOTE_USER", "ada"),
            ("REQUEST_URI", "/before/rewriting"),
        ] {
            assert_eq!(get(&request, key).as_deref(), Some(expected), "{key}");
            let pair = (key.as_bytes(), expected.as_bytes());
            let found: Vec<_> = listed.iter().filter(|(listed, _)| *listed == pair.0).collect();
            assert_eq!(found, [&pair], "{key}");
        }
    }

    #[test]
    fn names_with_underscores_are_dropped() {
        let request = request("/", &[("X_A", "spoofed"), ("X-B", "1"), ("X_B", "spoofed")]);
        assert_eq!(get(&request, "HTTP_X_A"), None);
        assert_eq!(get(&request, "HTTP_X_B").as_deref(), Some("1"));
    }

    #[test]
    fn content_type_and_length_have_no_http_prefix() {
        let request = request("/", &[("Content-Type", "text/x"), ("Content-Length", "3")]);
        assert_eq!(get(&request, "CONTENT_TYPE").as_deref(), Some("text/x"));
        assert_eq!(get(&request, "CONTENT_LENGTH").as_deref(), Some("3"));
        assert_eq!(get(&request, "HTTP_CONTENT_TYPE"), None);
        assert_eq!(get(&request, "HTTP_CONTENT_LENGTH"), None);
    }

    #[test]
    fn path_info_is_decoded_and_the_listing_agrees_with_get() {
        let request = request("/a%2Fb%20c", &[("Host", "x:81"), ("X-A", "1"), ("X-A", "2")]);
        assert_eq!(get(&request, "PATH_INFO").as_deref(), Some("/a/b c"));
        assert_eq!(get(&request, "SERVER_NAME").as_deref(), Some("x"));
        assert_eq!(get(&request, "SERVER_PORT").as_deref(), Some("81"));
        let environ = Environ::default();
        let mut index = 0;
        while let Some((key, value)) = environ.at(&request, index) {
            assert_eq!(
                environ.get(&request, key),
                Some(value),
                "{}",
                String::from_utf8_lossy(key)
            );
            index += 1;
        }
        assert!(index > 15);
    }
}
