//! The request target: which of its forms it has, and whether its authority is one.
//!
//! Takes a target whose bytes are known to be allowed; gives its form and the spans of its parts (RFC 9112 section
//! 3.2). It does not decode or normalise paths: the environ is built from the bytes as they came.

#![forbid(unsafe_code)]

use std::net::Ipv6Addr;

use super::field::Span;
use super::refusal::Refusal;
use crate::gateway::octets;

/// The form of a request target (RFC 9112 section 3.2); the authority form is CONNECT's, which we refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A path and perhaps a query: `/where?q=now`.
    #[default]
    Origin,
    /// A whole URI: `http://www.example.org/pub?q`.
    Absolute {
        /// `http` or `https`, in any case.
        scheme: Span,
        /// Host and perhaps port; it overrides the Host field (RFC 9112 section 3.2.2).
        authority: Span,
        /// Path and query; empty, or beginning with `?`, where the URI has no path, which then is `/`.
        path: Span,
    },
    /// `*`, for OPTIONS on the server as a whole.
    Asterisk,
}

/// Tells the form of `target`, which is not empty.
#[inline]
pub(super) fn form(method: &[u8], buf: &[u8], target: Span) -> Result<Form, Refusal> {
    let text = target.of(buf);
    if text[0] == b'/' {
        return Ok(Form::Origin);
    }
    if text == b"*" {
        return if method == b"OPTIONS" {
            Ok(Form::Asterisk)
        } else {
            Err(Refusal::ASTERISK)
        };
    }
    absolute(text, target.start as usize)
}

fn absolute(text: &[u8], at: usize) -> Result<Form, Refusal> {
    let scheme = match text.iter().position(|&byte| byte == b':') {
        Some(end) if is_http(&text[..end]) && text[end + 1..].starts_with(b"//") => end,
        _ => return Err(Refusal::TARGET_FORM),
    };
    let begin = scheme + 3;
    let end = text[begin..]
        .iter()
        .position(|byte| b"/?".contains(byte))
        .map_or(text.len(), |length| begin + length);
    authority(&text[begin..end])?;
    Ok(Form::Absolute {
        scheme: Span::new(at, at + scheme),
        authority: Span::new(at + begin, at + end),
        path: Span::new(at + end, at + text.len()),
    })
}

fn is_http(scheme: &[u8]) -> bool {
    scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https")
}

/// Checks `uri-host [ ":" port ]` (RFC 3986 section 3.2). An empty host is refused, for an http URI has none (RFC 9110
/// section 4.2.1); so are user information (section 4.2.4), IPv6 zones, and ports that no socket can have.
pub(super) fn authority(text: &[u8]) -> Result<(), Refusal> {
    let port = if text.first() == Some(&b'[') {
        ip_literal(text)?
    } else {
        registered_name(text)?
    };
    match text[port..] {
        [] => Ok(()),
        [b':', ref digits @ ..] if is_port(digits) => Ok(()),
        _ if text.contains(&b'@') => Err(Refusal::USERINFO),
        _ => Err(Refusal::HOST_INVALID),
    }
}

/// Whether the first `length` bytes are a plain name with or without a port: the authorities of nearly all requests.
/// What follows them is no part of any. False says nothing.
#[inline]
pub(super) fn is_plain_authority(bytes: &[u8], length: usize) -> bool {
    let name = octets::run(octets::REG_NAME, bytes);
    if name == length || name == 0 {
        return name > 0;
    }
    let [b':', port @ ..] = &bytes[name..] else {
        return false;
    };
    let digits = octets::run(octets::DIGIT, port);
    digits < 5 && name + 1 + digits == length
}

/// Where the name ends; IPv4 addresses are names too, as far as their bytes go.
#[inline]
fn registered_name(text: &[u8]) -> Result<usize, Refusal> {
    let mut end = octets::run(octets::REG_NAME, text);
    while text.get(end) == Some(&b'%') {
        match text.get(end + 1..end + 3) {
            Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => end += 3,
            _ => return Err(Refusal::HOST_INVALID),
        }
        end += octets::run(octets::REG_NAME, &text[end..]);
    }
    if end == 0 { Err(Refusal::HOST_INVALID) } else { Ok(end) }
}

fn ip_literal(text: &[u8]) -> Result<usize, Refusal> {
    let end = text
        .iter()
        .position(|&byte| byte == b']')
        .ok_or(Refusal::HOST_INVALID)?;
    let address = str::from_utf8(&text[1..end]).map_err(|_| Refusal::HOST_INVALID)?;
    address.parse::<Ipv6Addr>().map_err(|_| Refusal::HOST_INVALID)?;
    Ok(end + 1)
}

/// Digits, none included (RFC 3986 section 3.2.3), at most five, up to 65535.
#[inline]
fn is_port(digits: &[u8]) -> bool {
    digits.iter().all(u8::is_ascii_digit) && (digits.len() < 5 || digits.len() == 5 && digits <= b"65535".as_slice())
}

#[cfg(test)]
mod tests {
    use super::{Form, Refusal, Span, authority, form, is_plain_authority};

    fn of(method: &[u8], target: &[u8]) -> Result<Form, Refusal> {
        form(method, target, Span::new(0, target.len()))
    }

    #[test]
    fn a_path_is_the_origin_form_whatever_follows_the_slash() {
        for target in [&b"/"[..], b"//", b"/http://x", b"/a?b=c?d", b"/*", b"/caf\xc3\xa9"] {
            assert_eq!(of(b"GET", target), Ok(Form::Origin));
        }
    }

    #[test]
    fn an_absolute_uri_is_taken_apart() {
        let text = b"HTTPS://example.org:8443/a/b?c";
        let Ok(Form::Absolute {
            scheme,
            authority,
            path,
        }) = of(b"GET", text)
        else {
            panic!()
        };
        assert_eq!(scheme.of(text), b"HTTPS");
        assert_eq!(authority.of(text), b"example.org:8443");
        assert_eq!(path.of(text), b"/a/b?c");
        let text = b"http://example.org?q";
        let Ok(Form::Absolute { authority, path, .. }) = of(b"GET", text) else {
            panic!()
        };
        assert_eq!(authority.of(text), b"example.org");
        assert_eq!(path.of(text), b"?q");
    }

    #[test]
    fn the_asterisk_is_for_options_and_stands_alone() {
        assert_eq!(of(b"OPTIONS", b"*"), Ok(Form::Asterisk));
        assert_eq!(of(b"GET", b"*"), Err(Refusal::ASTERISK));
        assert_eq!(of(b"OPTIONS", b"*?a"), Err(Refusal::TARGET_FORM));
    }

    #[test]
    fn other_forms_are_refused() {
        for target in [
            &b"relative"[..],
            b"example.org:80",
            b"ftp://example.org/",
            b"http:/x",
            b"http:",
            b"?q",
            b"://x",
        ] {
            assert_eq!(of(b"GET", target), Err(Refusal::TARGET_FORM), "{target:?}");
        }
        assert_eq!(of(b"GET", b"http:///path"), Err(Refusal::HOST_INVALID));
        assert_eq!(of(b"GET", b"http://user@example.org/"), Err(Refusal::USERINFO));
        assert_eq!(of(b"GET", b"http://user:word@example.org/"), Err(Refusal::USERINFO));
        assert_eq!(of(b"GET", b"http://example.org/user@host").map(|_| ()), Ok(()));
    }

    #[test]
    fn hosts_are_names_addresses_or_bracketed_ipv6_with_a_port_that_exists() {
        for host in [
            &b"a"[..],
            b"example.org",
            b"127.0.0.1:8000",
            b"[::1]",
            b"[::1]:80",
            b"a:",
            b"a:65535",
            b"my_app",
            b"x%41y",
            b"[::ffff:1.2.3.4]:1",
            b"a:0080",
        ] {
            assert_eq!(authority(host), Ok(()), "{}", host.escape_ascii());
            for byte in 0..=255u8 {
                let mut bytes = [host, b"\r\n\r\n"].concat();
                bytes[host.len() / 2] = byte;
                if is_plain_authority(&bytes, host.len()) {
                    assert_eq!(authority(&bytes[..host.len()]), Ok(()), "{}", bytes.escape_ascii());
                }
            }
        }
        for host in [
            &b""[..],
            b":80",
            b"a b",
            b"a:b",
            b"a:65536",
            b"a:99999999999999999999",
            b"a:1:2",
            b"[::1",
            b"[]",
            b"[::1]x",
            b"[1.2.3.4]",
            b"[fe80::1%25eth0]",
            b"::1",
            b"a/b",
            b"a?b",
            b"a\\b",
            b"x%4",
            b"x%zz",
            b"caf\xe9",
            b"a\"b",
            b"a:-1",
            b"a:+1",
            b"a]",
            b"[v1.x]",
        ] {
            assert_eq!(authority(host), Err(Refusal::HOST_INVALID), "{}", host.escape_ascii());
        }
    }
}
