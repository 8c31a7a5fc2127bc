//! What a front-end that is trusted says of the request: who the client is, and what it asked for.
//!
//! Takes what a protocol or the forwarding fields told; gives it to the environ and to the access log, where it goes before what
//! the connection itself shows. Whether anybody is trusted is decided by whoever fills it.
#![forbid(unsafe_code)]

use super::request::Id;

/// Each part is `None` where the front-end said nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Front {
    /// REMOTE_ADDR: the client's address as text, empty when it is not known.
    pub remote_addr: Option<String>,
    /// REMOTE_PORT.
    pub remote_port: Option<String>,
    /// wsgi.url_scheme: `http` or `https`.
    pub scheme: Option<Scheme>,
    /// HTTP_HOST, as the client sent it to the front-end.
    pub host: Option<Vec<u8>>,
    /// SERVER_NAME.
    pub server_name: Option<Vec<u8>>,
    /// SERVER_PORT.
    pub server_port: Option<Vec<u8>>,
    /// What goes before the mount's prefix in SCRIPT_NAME, decoded, without a trailing slash; the front-end has taken it off the path.
    pub prefix: Vec<u8>,
    /// Other variables by their names, as the uwsgi protocol sends them; one goes before a value of ours of that name.
    pub variables: Vec<(Vec<u8>, Vec<u8>)>,
    /// The request's id, if it has the form of ours.
    pub id: Option<Id>,
    /// The request's id in any other form.
    pub request_id: Option<String>,
}

/// A scheme of RFC 9110 section 4.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// As in wsgi.url_scheme.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// The port that goes without saying (RFC 9110 sections 4.2.1 and 4.2.2).
    pub fn port(self) -> &'static str {
        match self {
            Scheme::Http => "80",
            Scheme::Https => "443",
        }
    }
}

impl Front {
    /// A variable by its name.
    pub fn variable(&self, name: &[u8]) -> Option<&[u8]> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_slice())
    }
}
