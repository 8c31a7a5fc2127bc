//! The head of an answer: what a handler may say in start_response, and what it may not.
//!
//! Takes the bytes a handler passed, gives a [`Head`] that can be sent as it is, or the handler's [`Fault`] as a sentence.
//! The rules are PEP 3333's ("The start_response() Callable"), RFC 9110's for field syntax and RFC 9112's for framing.
#![forbid(unsafe_code)]

use std::fmt;

use bytes::Bytes;
use hyper::header::HeaderValue;
use hyper::http::StatusCode;

use super::fields::Fields;

/// What a handler did wrong; it goes to the log, never to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(pub String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Status, reason and fields of an answer.
#[derive(Debug, Clone)]
pub struct Head {
    /// 200 to 999, or 101 after an upgrade.
    pub status: StatusCode,
    /// The handler's own reason phrase when it is not the usual one.
    pub reason: Option<Bytes>,
    /// The fields.
    pub fields: Fields,
    /// The Content-Length the handler declared.
    pub declared: Option<u64>,
}

impl Head {
    /// A head from what a handler passed to start_response.
    ///
    /// # Errors
    /// The handler's fault.
    pub fn build(status: &[u8], fields: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Result<Self, Fault> {
        let (status, reason) = parse_status(status)?;
        let mut head = Head {
            status,
            reason,
            fields: Fields::take(),
            declared: None,
        };
        for (name, value) in fields {
            if head.fields.append(name, value)? == b"content-length" {
                let length = parse_length(value)?;
                if head.declared.replace(length).is_some() {
                    return Err(Fault("it set Content-Length twice".into()));
                }
            }
        }
        Ok(head)
    }

    /// The head of a 101. Upgrade belongs to the connection, and here the handler speaks for it.
    ///
    /// # Errors
    /// The handler's fault.
    pub fn switching(fields: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Result<Self, Fault> {
        let mut protocol = None;
        let mut others = fields.filter_map(|(name, value)| {
            let own = name.eq_ignore_ascii_case(b"upgrade");
            if own {
                protocol = Some(value.to_vec());
            }
            (!own).then_some((name, value))
        });
        let mut fields = without_length(&mut others)?;
        match protocol {
            Some(protocol) if HeaderValue::from_bytes(&protocol).is_ok() => fields.set("upgrade", &protocol),
            _ => return Err(Fault("it names no protocol in Upgrade".into())),
        }
        Ok(Head {
            status: StatusCode::SWITCHING_PROTOCOLS,
            reason: None,
            fields,
            declared: None,
        })
    }

    /// Whether the status forbids a body (RFC 9110 section 6.4.1).
    pub fn bodiless(&self) -> bool {
        matches!(self.status.as_u16(), 100..=199 | 204 | 304)
    }
}

/// `"404 Not Found"`: three digits, a space, a reason.
fn parse_status(status: &[u8]) -> Result<(StatusCode, Option<Bytes>), Fault> {
    let wrong = |why: &str| Fault(format!("its status {:?} {why}", String::from_utf8_lossy(status)));
    let (code, reason) = status
        .split_at_checked(3)
        .ok_or_else(|| wrong("is not three digits and a reason"))?;
    if !code.iter().all(u8::is_ascii_digit) {
        return Err(wrong("does not begin with three digits"));
    }
    let code = StatusCode::from_bytes(code).map_err(|_| wrong("is out of range"))?;
    if code.as_u16() < 200 {
        return Err(wrong("is interim: send 1xx with informational, 101 with upgrade"));
    }
    let reason = match reason {
        [] => return Ok((code, None)),
        [b' ', reason @ ..] => reason,
        _ => return Err(wrong("needs a space after the three digits")),
    };
    if reason
        .iter()
        .any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f)
    {
        return Err(wrong("holds a control character"));
    }
    let usual = code.canonical_reason().is_some_and(|usual| usual.as_bytes() == reason);
    Ok((code, (!usual).then(|| Bytes::copy_from_slice(reason))))
}

/// An interim response as it is sent (RFC 9110 section 15.2).
///
/// # Errors
/// The handler's fault.
pub fn interim(status: u16, fields: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Result<Bytes, Fault> {
    let reason = StatusCode::from_u16(status)
        .ok()
        .and_then(|code| code.canonical_reason())
        .unwrap_or_default();
    let mut head = format!("HTTP/1.1 {status} {reason}\r\n").into_bytes();
    head.extend_from_slice(without_length(fields)?.text());
    head.extend_from_slice(b"\r\n");
    Ok(Bytes::from(head))
}

/// The fields of an answer below 200, in which a Content-Length must not stand (RFC 9110 section 8.6).
fn without_length(fields: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Result<Fields, Fault> {
    let mut fields = Fields::read(fields)?;
    fields.remove("content-length");
    Ok(fields)
}

fn parse_length(value: &[u8]) -> Result<u64, Fault> {
    let text = std::str::from_utf8(value)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).ok_or_else(|| {
        Fault(format!(
            "its Content-Length {:?} is not a number of bytes",
            String::from_utf8_lossy(value)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(status: &str, fields: &[(&str, &str)]) -> Result<Head, Fault> {
        Head::build(
            status.as_bytes(),
            &mut fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())),
        )
    }

    #[test]
    fn a_usual_reason_needs_no_copy_and_an_odd_one_is_kept() {
        assert_eq!(build("200 OK", &[]).expect("valid").reason, None);
        assert_eq!(
            build("200 Fine", &[]).expect("valid").reason.as_deref(),
            Some(b"Fine".as_slice())
        );
        assert_eq!(
            build("599 ", &[]).expect("valid").reason.as_deref(),
            Some(b"".as_slice())
        );
        assert_eq!(build("299", &[]).expect("valid").status.as_u16(), 299);
    }

    #[test]
    fn what_would_inject_or_confuse_is_refused() {
        for status in [
            "",
            "20",
            "abc OK",
            "200OK",
            "200 O\r\nX: y",
            "101 Switching",
            "099 Low",
            "2000 OK",
            "+20 OK",
        ] {
            assert!(build(status, &[]).is_err(), "{status:?}");
        }
        for field in [
            ("X A", "1"),
            ("", "1"),
            ("X-A", "1\r\nX-B: 2"),
            ("X-A", "1\0"),
            ("X-A", "1\n"),
            ("Connection", "close"),
            ("Transfer-Encoding", "chunked"),
            ("Keep-Alive", "1"),
            ("Content-Length", "1x"),
            ("Content-Length", "-1"),
            ("Content-Length", ""),
            ("Content-Length", "+1"),
        ] {
            assert!(build("200 OK", &[field]).is_err(), "{field:?}");
        }
        assert!(build("200 OK", &[("Content-Length", "1"), ("content-length", "1")]).is_err());
    }

    #[test]
    fn no_length_stands_in_an_answer_below_two_hundred() {
        let passed = [("Content-Length", "5"), ("Link", "</a>"), ("Upgrade", "x")];
        let mut fields = passed.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let switching = Head::switching(&mut fields).expect("valid");
        assert_eq!(switching.fields.text(), b"link: </a>\r\nupgrade: x\r\n");
        let mut fields = passed[..2]
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let early = interim(103, &mut fields).expect("valid");
        assert_eq!(early, b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".as_slice());
    }
}
