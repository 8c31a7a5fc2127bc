//! Which fields go on to the other side (RFC 9110 section 7.6.1), and what a proxy adds.
//!
//! Takes fields in their order; gives those that are end to end, each as often as it came and in order among those of its name.
#![forbid(unsafe_code)]

use appserver_handler::Environ;
use hyper::HeaderMap;
use hyper::header::{HOST, HeaderName, HeaderValue, VIA};

use crate::settings::Settings;

/// Fields that are for one connection alone, whatever Connection says.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// What a proxy says of the client's wish. The client's own word of it is not passed on: the origin believes this proxy, and the cache would
/// give what one client made the origin say to all. Whom the server trusts it has heard already (`[proxy] trusted`): Host and scheme are theirs.
const OWN: [&str; 5] = [
    "forwarded",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
];

/// The names that stand in Connection.
fn listed<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let members = values.flat_map(|value| value.split(|byte| *byte == b','));
    members
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .collect()
}

fn goes_on(name: &str, listed: &[String]) -> bool {
    !HOP_BY_HOP.contains(&name) && !listed.iter().any(|other| other == name)
}

/// The fields of a request as the origin gets them.
pub fn of_request(environ: &Environ, settings: &Settings) -> HeaderMap {
    let connection = environ
        .fields()
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"connection"));
    let listed = listed(connection.map(|(_, value)| value));
    let mut fields = HeaderMap::new();
    for (name, value) in environ.fields() {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            continue;
        };
        if goes_on(name.as_str(), &listed) && !OWN.contains(&name.as_str()) {
            fields.append(name, value);
        }
    }
    let told = |key: &str| HeaderValue::from_bytes(environ.get(key).unwrap_or_default()).ok();
    let host = told("HTTP_HOST").filter(|host| !host.is_empty());
    let own = HeaderValue::from_str(&settings.authority).ok();
    if let Some(host) = own
        .filter(|_| settings.own_host || host.is_none())
        .or_else(|| host.clone())
    {
        fields.insert(HOST, host);
    }
    if let Some(client) = told("REMOTE_ADDR").filter(|client| !client.is_empty()) {
        fields.append(HeaderName::from_static("x-forwarded-for"), client);
    }
    for (name, value) in [
        ("x-forwarded-proto", told("wsgi.url_scheme")),
        ("x-forwarded-host", host),
    ] {
        if let Some(value) = value {
            fields.insert(HeaderName::from_static(name), value);
        }
    }
    fields.append(VIA, HeaderValue::from_static("1.1 appserver"));
    fields
}

/// The fields of an answer as the client gets them.
pub fn of_answer(fields: &HeaderMap) -> Vec<(&str, &[u8])> {
    let listed = listed(fields.get_all("connection").iter().map(HeaderValue::as_bytes));
    let pairs = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    pairs.filter(|(name, _)| goes_on(name, &listed)).collect()
}
