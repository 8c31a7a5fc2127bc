//! Why a request is refused: the status to answer with and the sentence that goes with it.
//!
//! Takes nothing; gives one constant per rule that a client can break, so that every refusal has one place, one status
//! and one wording. It does not write the answer: whoever owns the socket does.

#![forbid(unsafe_code)]

use std::fmt;

/// A request that is not served: the answer's status, and a sentence for its body and for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status code of the answer (RFC 9110 section 15).
    pub status: u16,
    /// What was wrong, as a plain sentence that never repeats the client's bytes.
    pub why: &'static str,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $status:literal $why:literal;)*) => {
        impl Refusal {
            $($(#[$doc])* pub const $name: Refusal = Refusal { status: $status, why: $why };)*

            /// Every refusal there is, for tests and for documentation.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$name),*];

            /// The constants' names, in the order of [`Refusal::ALL`].
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];
        }
    };
}

refusals! {
    /// RFC 9112 section 2.2.
    BARE_CR = 400 "A carriage return must be followed by a line feed.";
    /// RFC 9112 section 2.2: we do not use the leave to accept it.
    BARE_LF = 400 "A line must end with CR LF, not with a line feed alone.";
    /// A TLS record where a request line should be.
    TLS = 400 "This port speaks plain HTTP, and a TLS handshake arrived.";
    /// PROXY protocol section 2.1, where it is not configured.
    PROXY_PROTOCOL = 400 "A line of the PROXY protocol arrived, and this listener is not told to expect one.";
    /// RFC 9112 section 3.
    REQUEST_LINE = 400 "The request line is not: method, one space, target, one space, version.";
    /// RFC 9110 section 9.1; we take upper-case letters, digits, hyphen and underscore.
    METHOD = 400 "The method is not an upper-case word.";
    /// RFC 9112 section 3: a method longer than any we know.
    METHOD_TOO_LONG = 501 "The method is longer than any known one.";
    /// RFC 9110 section 9.3.6: for proxies.
    CONNECT = 501 "CONNECT is for proxies, and this is not one.";
    /// RFC 9112 section 3.2.
    TARGET_BYTE = 400 "The request target holds a byte that must be percent-encoded.";
    /// RFC 9112 section 3.2: a fragment is never sent.
    FRAGMENT = 400 "The request target holds a fragment.";
    /// RFC 9112 section 3.2.1 to 3.2.4.
    TARGET_FORM = 400 "The request target is neither a path nor an http or https URI.";
    /// RFC 9112 section 3.2.4.
    ASTERISK = 400 "The target * belongs to OPTIONS only.";
    /// RFC 9110 section 4.2.4.
    USERINFO = 400 "The request target holds user information.";
    /// RFC 9112 section 3.
    REQUEST_LINE_TOO_LONG = 414 "The request line is longer than this server accepts.";
    /// RFC 9112 section 2.3.
    VERSION = 400 "The protocol version is malformed.";
    /// RFC 9110 section 15.6.6.
    VERSION_UNSUPPORTED = 505 "This server speaks HTTP/1.0 and HTTP/1.1.";
    /// RFC 9113 section 3.4.
    HTTP_2 = 505 "The preface of HTTP/2 arrived, and this server speaks HTTP/1.0 and HTTP/1.1.";
    /// RFC 9112 section 5, RFC 9110 section 5.1.
    FIELD_NAME = 400 "A field name is missing or holds a byte that is not allowed.";
    /// RFC 9112 section 5.1.
    SPACE_BEFORE_COLON = 400 "Whitespace stands between a field name and its colon.";
    /// RFC 9112 section 5.2.
    FOLDED = 400 "A field line begins with whitespace; folded lines are obsolete.";
    /// RFC 9110 section 5.5.
    FIELD_VALUE = 400 "A field value holds a control byte.";
    /// RFC 6585 section 5.
    FIELD_TOO_LONG = 431 "A field line is longer than this server accepts.";
    /// RFC 6585 section 5.
    FIELDS_TOO_MANY = 431 "There are more field lines than this server accepts.";
    /// RFC 6585 section 5.
    FIELDS_TOO_LARGE = 431 "The field lines are larger in total than this server accepts.";
    /// RFC 9112 section 3.2.
    HOST_MISSING = 400 "An HTTP/1.1 request needs a Host field.";
    /// RFC 9112 section 3.2.
    HOST_REPEATED = 400 "There is more than one Host field.";
    /// RFC 9112 section 3.2; RFC 9110 section 4.2.1 for the empty one.
    HOST_INVALID = 400 "The host is empty or malformed.";
    /// RFC 9110 section 8.3: a single value.
    CONTENT_TYPE_REPEATED = 400 "There is more than one Content-Type field.";
    /// RFC 9110 section 8.6.
    LENGTH_INVALID = 400 "The Content-Length is not one decimal number.";
    /// RFC 9112 section 6.3; we do not use the leave to merge equal ones.
    LENGTH_REPEATED = 400 "There is more than one Content-Length field.";
    /// RFC 9112 section 6.1.
    LENGTH_AND_CODING = 400 "Content-Length and Transfer-Encoding exclude each other.";
    /// RFC 9112 section 6.1.
    CODING_IN_HTTP_10 = 400 "HTTP/1.0 has no Transfer-Encoding.";
    /// RFC 9112 section 6.3: the body's end would be a guess.
    CODING_NOT_FINAL = 400 "The transfer coding must be chunked, once and last.";
    /// RFC 9112 section 6.1.
    CODING_REPEATED = 400 "There is more than one Transfer-Encoding field.";
    /// RFC 9112 section 6.1.
    CODING_UNKNOWN = 501 "A transfer coding other than chunked is not supported.";
    /// Gateways that turn hyphens into underscores would read it as a framing field.
    FRAMING_LOOKALIKE = 400 "A field name imitates Content-Length or Transfer-Encoding.";
    /// RFC 9110 section 10.1.1.
    EXPECTATION = 417 "The only expectation that can be met is 100-continue.";
    /// RFC 9110 section 15.5.14.
    BODY_TOO_LARGE = 413 "The request body is larger than this server accepts.";
    /// RFC 9112 section 7.1.
    CHUNK_SIZE = 400 "A chunk size is not a plain hexadecimal number.";
    /// RFC 9112 section 7.1.1.
    CHUNK_EXTENSION = 400 "A chunk extension is malformed.";
    /// RFC 9112 section 7.1.1: a reasonable limit on their total.
    CHUNK_EXTENSIONS_TOO_LARGE = 413 "The chunk extensions are larger in total than this server accepts.";
    /// RFC 9112 section 7.1.
    CHUNK_END = 400 "A chunk is longer than its size says.";
    /// RFC 9110 section 15.5.9.
    HEAD_TIMEOUT = 408 "The request head took longer than this server waits.";
    /// RFC 9112 section 8.
    HEAD_TRUNCATED = 400 "The request head ended before its blank line.";
    /// RFC 9110 section 15.5.9.
    BODY_TIMEOUT = 408 "The request body paused for longer than this server waits.";
    /// RFC 9112 section 8.
    BODY_TRUNCATED = 400 "The request body ended before its announced end.";
    /// A file system or a C program would take it for the path's end.
    NUL_IN_PATH = 400 "The path holds an encoded NUL.";
    /// gateway/hop: RFC 7239 section 6.
    FORWARDED_ADDRESS = 400 "The front-end names its client by what is no address.";
    /// RFC 7239 section 4.
    FORWARDED_SYNTAX = 400 "The Forwarded field of the front-end is malformed.";
    /// gateway/forwarded.
    FORWARDED_SCHEME = 400 "The front-end names a scheme other than http, https, ws and wss.";
    /// gateway/forwarded.
    FORWARDED_HOST = 400 "The front-end names a host that is malformed.";
    /// gateway/forwarded.
    FORWARDED_PORT = 400 "The front-end names a port that is no number from 1 to 65535.";
    /// gateway/forwarded.
    FORWARDED_PREFIX = 400 "The front-end names a prefix that is no plain path.";
    /// gateway/forwarded.
    FORWARDED_CLIENTS = 400 "The forwarding fields of the front-end name different clients.";
    /// gateway/forwarded.
    FORWARDED_SCHEMES = 400 "The forwarding fields of the front-end name different schemes.";
    /// gateway/forwarded.
    FORWARDED_HOSTS = 400 "The forwarding fields of the front-end name different hosts.";
    /// gateway/forwarded.
    FORWARDED_PORTS = 400 "The forwarding fields of the front-end name different ports.";
    /// gateway/forwarded.
    FORWARDED_PREFIXES = 400 "The forwarding fields of the front-end name different prefixes.";
    /// The uwsgi protocol: a packet of names and values.
    UWSGI_MALFORMED = 400 "The uwsgi packet is malformed.";
    /// The uwsgi protocol: REQUEST_METHOD, and PATH_INFO or REQUEST_URI.
    UWSGI_MISSING = 400 "The uwsgi packet names no method or no path: include uwsgi_params in nginx.";
    /// Two of them, and which is meant would be a guess.
    UWSGI_REPEATED = 400 "The uwsgi packet holds a variable twice that frames the request.";
    /// Whoever reaches the port could have code of his own run: it is the way that uWSGI was broken into most often.
    UWSGI_CODE = 400 "The uwsgi packet asks to load code or to change the process (UWSGI_ variables), which is never done.";
    /// The uwsgi protocol: modifiers for other plugins, for evaluation, remote calls, signals and the cache.
    UWSGI_MODIFIER = 501 "The uwsgi packet is no plain request (modifier 0): nothing else is done for who asks.";
    /// A client of another protocol.
    UWSGI_HTTP = 400 "This port speaks the uwsgi protocol, and HTTP arrived: use uwsgi_pass in nginx, or an http listener.";
    /// A client of another protocol.
    UWSGI_TLS = 400 "This port speaks the uwsgi protocol, and a TLS handshake arrived.";
    /// PROXY protocol section 2: it is there or it is not, and is not guessed.
    PROXY_MISSING = 400 "This listener is for front-ends, and a PROXY header must come first.";
    /// PROXY protocol sections 2.1 and 2.2.
    PROXY_MALFORMED = 400 "The PROXY header of the front-end is malformed.";
    /// PROXY protocol section 2.1; 4 KiB in version 2.
    PROXY_TOO_LONG = 400 "The PROXY header of the front-end is longer than this server accepts.";
    /// PROXY protocol section 2.2.
    PROXY_DATAGRAMS = 400 "The PROXY header of the front-end tells of datagrams, and this is a stream.";
    /// PROXY protocol section 2.2.3.
    PROXY_CHECKSUM = 400 "The checksum in the PROXY header of the front-end is wrong.";
    /// PROXY protocol section 2.
    PROXY_TRUNCATED = 400 "The PROXY header of the front-end ended before its end.";
    /// RFC 9110 section 6.5.1.
    TRAILER_FORBIDDEN = 400 "A trailer holds a field that belongs in the head.";
}

impl Refusal {
    /// The constant called `name`.
    pub fn named(name: &str) -> Option<Refusal> {
        let at = Refusal::NAMES.iter().position(|other| *other == name)?;
        Some(Refusal::ALL[at])
    }

    /// The body of the answer: one line of text.
    pub fn text(&self) -> String {
        format!("{}\n", self.why)
    }

    /// The reason phrase that belongs to the status (RFC 9110 section 15, RFC 6585 section 5).
    pub const fn reason(&self) -> &'static str {
        match self.status {
            408 => "Request Timeout",
            413 => "Content Too Large",
            414 => "URI Too Long",
            417 => "Expectation Failed",
            431 => "Request Header Fields Too Large",
            501 => "Not Implemented",
            505 => "HTTP Version Not Supported",
            _ => "Bad Request",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}: {}", self.status, self.reason(), self.why)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::Refusal;

    #[test]
    fn every_refusal_has_a_status_of_ours_and_a_sentence() {
        for refusal in Refusal::ALL {
            assert!(
                matches!(refusal.status, 400 | 408 | 413 | 414 | 417 | 431 | 501 | 505),
                "{refusal}"
            );
            assert!(refusal.why.ends_with('.') && refusal.why.is_ascii(), "{refusal}");
            assert_eq!(refusal.status == 400, refusal.reason() == "Bad Request", "{refusal}");
        }
    }
}
