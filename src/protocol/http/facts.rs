//! What the fields of one head claim about host, framing, persistence and expectation.
//!
//! Takes field by field; gives the facts once the head is whole, or the rule that the fields break together. It looks
//! only at fields that decide how bytes are read; all others belong to the handler.

#![forbid(unsafe_code)]

use super::field::{self, Span};
use super::framing::Framing;
use super::head::Version;
use super::refusal::Refusal;
use super::target;

/// The claims gathered so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    pub(super) host: Option<Span>,
    /// The declared length; one that no number can hold is larger than any limit.
    length: Option<u64>,
    chunked: bool,
    content_type: bool,
    close: bool,
    keep_alive: bool,
    upgrade_option: bool,
    upgrade_field: bool,
    expect: bool,
}

impl Facts {
    /// Takes note of one field. Most names are told apart by their length alone.
    #[inline]
    pub(super) fn note(&mut self, name: &[u8], value: Span, buf: &[u8], version: Version) -> Result<(), Refusal> {
        let text = value.of(buf);
        match name.len() {
            4 if field::named(name, b"host") => {
                first(self.host.replace(value).is_none(), Refusal::HOST_REPEATED)?;
                target::authority(text).map_err(|_| Refusal::HOST_INVALID)?;
            }
            6 if field::named(name, b"expect") && version == Version::Http11 => {
                if !text.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::EXPECTATION);
                }
                self.expect = true;
            }
            7 if field::named(name, b"upgrade") => self.upgrade_field |= !text.is_empty(),
            10 if field::named(name, b"connection") => self.connection(text),
            12 if field::named(name, b"content-type") => {
                first(
                    !std::mem::replace(&mut self.content_type, true),
                    Refusal::CONTENT_TYPE_REPEATED,
                )?;
            }
            14 if field::named(name, b"content-length") => {
                first(
                    self.length.replace(content_length(text)?).is_none(),
                    Refusal::LENGTH_REPEATED,
                )?;
            }
            17 if field::named(name, b"transfer-encoding") => self.transfer_encoding(text, version)?,
            14 | 17 if imitates_framing(name) => return Err(Refusal::FRAMING_LOOKALIKE),
            _ => {}
        }
        Ok(())
    }

    /// The options of all Connection fields together (RFC 9110 section 7.6.1); empty elements are passed over
    /// (section 5.6.1), unknown options are none of ours.
    fn connection(&mut self, text: &[u8]) {
        for option in text.split(|&byte| byte == b',').map(field::trim) {
            match option.len() {
                5 => self.close |= option.eq_ignore_ascii_case(b"close"),
                7 => self.upgrade_option |= option.eq_ignore_ascii_case(b"upgrade"),
                10 => self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive"),
                _ => {}
            }
        }
    }

    /// One field, one coding, chunked (RFC 9112 sections 6.1 and 6.3). Where chunked is not the last coding the end of
    /// the body would be a guess, and section 6.3 wants 400; where it is the last but not the only one, the coding
    /// before it is one that we do not know, and section 6.1 wants 501.
    fn transfer_encoding(&mut self, text: &[u8], version: Version) -> Result<(), Refusal> {
        if version == Version::Http10 {
            return Err(Refusal::CODING_IN_HTTP_10);
        }
        first(!std::mem::replace(&mut self.chunked, true), Refusal::CODING_REPEATED)?;
        let is_chunked = |coding: &[u8]| field::trim(coding).eq_ignore_ascii_case(b"chunked");
        let mut codings = text.rsplit(|&byte| byte == b',');
        if !codings.next().is_some_and(is_chunked) {
            return Err(Refusal::CODING_NOT_FINAL);
        }
        let mut others = 0;
        for coding in codings {
            if is_chunked(coding) || field::trim(coding).is_empty() {
                return Err(Refusal::CODING_NOT_FINAL);
            }
            others += 1;
        }
        if others == 0 {
            Ok(())
        } else {
            Err(Refusal::CODING_UNKNOWN)
        }
    }

    /// How the body is framed, `limit` being the largest declared length that is accepted.
    #[inline]
    pub(super) fn framing(&self, limit: u64) -> Result<Framing, Refusal> {
        match (self.length, self.chunked) {
            (None, false) => Ok(Framing::None),
            (Some(_), true) => Err(Refusal::LENGTH_AND_CODING),
            (None, true) => Ok(Framing::Chunked),
            (Some(length), false) if length <= limit => Ok(Framing::Length(length)),
            _ => Err(Refusal::BODY_TOO_LARGE),
        }
    }

    /// Whether the connection may serve another request (RFC 9112 section 9.3); close overrides keep-alive.
    #[inline]
    pub(super) fn keeps_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    /// Whether the client offers another protocol (RFC 9110 section 7.8); HTTP/1.0 cannot.
    #[inline]
    pub(super) fn upgrade(&self, version: Version) -> bool {
        self.upgrade_option && self.upgrade_field && version == Version::Http11
    }

    /// Whether the client waits for 100 before it sends what `framing` announces (RFC 9110 section 10.1.1).
    #[inline]
    pub(super) fn expects_continue(&self, framing: Framing) -> bool {
        self.expect && !matches!(framing, Framing::None | Framing::Length(0))
    }
}

/// Refuses a field that is not the first of its name.
#[inline]
fn first(is_first: bool, otherwise: Refusal) -> Result<(), Refusal> {
    if is_first { Ok(()) } else { Err(otherwise) }
}

/// Whether `name` is Content-Length or Transfer-Encoding spelt with underscores.
pub(super) fn imitates_framing(name: &[u8]) -> bool {
    field::imitates(name, b"content-length") || field::imitates(name, b"transfer-encoding")
}

/// `1*DIGIT` (RFC 9110 section 8.6). A number too large for 64 bits is a number still: it saturates, above any limit.
fn content_length(text: &[u8]) -> Result<u64, Refusal> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::LENGTH_INVALID);
    }
    let length = |sum: u64, &byte: &u8| sum.checked_mul(10)?.checked_add(u64::from(byte - b'0'));
    Ok(text.iter().try_fold(0, length).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::{Facts, Framing, Refusal, Span, Version};

    fn facts(version: Version, fields: &[(&str, &str)]) -> Result<Facts, Refusal> {
        let mut facts = Facts::default();
        for (name, value) in fields {
            facts.note(name.as_bytes(), Span::new(0, value.len()), value.as_bytes(), version)?;
        }
        Ok(facts)
    }

    fn framing(fields: &[(&str, &str)]) -> Result<Framing, Refusal> {
        facts(Version::Http11, fields)?.framing(1000)
    }

    #[test]
    fn a_length_is_digits_and_nothing_else() {
        assert_eq!(framing(&[("Content-Length", "0")]), Ok(Framing::Length(0)));
        assert_eq!(
            framing(&[("CONTENT-LENGTH", "0000000000000000000000000012")]),
            Ok(Framing::Length(12))
        );
        for value in [
            "", "+1", "-1", "1 2", "0x1", "1_0", "1,1", "1, 1", "1.0", "one", "\u{661}", "1;",
        ] {
            assert_eq!(
                framing(&[("Content-Length", value)]),
                Err(Refusal::LENGTH_INVALID),
                "{value:?}"
            );
        }
    }

    #[test]
    fn a_length_beyond_the_limit_or_beyond_any_number_is_too_large() {
        assert_eq!(framing(&[("Content-Length", "1000")]), Ok(Framing::Length(1000)));
        for value in [
            "1001",
            "18446744073709551615",
            "18446744073709551616",
            "99999999999999999999999999999",
        ] {
            assert_eq!(
                framing(&[("Content-Length", value)]),
                Err(Refusal::BODY_TOO_LARGE),
                "{value}"
            );
        }
    }

    #[test]
    fn framing_fields_come_once_and_exclude_each_other() {
        let length = ("Content-Length", "5");
        let chunked = ("Transfer-Encoding", "chunked");
        assert_eq!(framing(&[length, length]), Err(Refusal::LENGTH_REPEATED));
        assert_eq!(framing(&[chunked, chunked]), Err(Refusal::CODING_REPEATED));
        assert_eq!(framing(&[length, chunked]), Err(Refusal::LENGTH_AND_CODING));
        assert_eq!(framing(&[chunked, length]), Err(Refusal::LENGTH_AND_CODING));
        assert_eq!(framing(&[("Content_Length", "5")]), Err(Refusal::FRAMING_LOOKALIKE));
        assert_eq!(framing(&[("transfer_encoding", "x")]), Err(Refusal::FRAMING_LOOKALIKE));
    }

    #[test]
    fn the_only_transfer_coding_is_chunked() {
        assert_eq!(framing(&[("Transfer-Encoding", "chunked")]), Ok(Framing::Chunked));
        assert_eq!(framing(&[("transfer-encoding", "ChUnKeD")]), Ok(Framing::Chunked));
        for value in [
            "gzip, chunked",
            "identity,chunked",
            "gzip\t,\tdeflate , chunked",
            "\u{85}, chunked",
        ] {
            assert_eq!(
                framing(&[("Transfer-Encoding", value)]),
                Err(Refusal::CODING_UNKNOWN),
                "{value:?}"
            );
        }
        for value in [
            "",
            "gzip",
            "identity",
            "xchunked",
            "chunked, gzip",
            "chunked, chunked",
            ", chunked",
            "chunked,",
            "chunked;a=b",
            "\"chunked\"",
            "\u{a0}chunked",
            "chunked\u{85}",
            "chunked, identity, chunked",
            "chunked gzip",
        ] {
            assert_eq!(
                framing(&[("Transfer-Encoding", value)]),
                Err(Refusal::CODING_NOT_FINAL),
                "{value:?}"
            );
        }
        let old = facts(Version::Http10, &[("Transfer-Encoding", "chunked")]);
        assert_eq!(old.err(), Some(Refusal::CODING_IN_HTTP_10));
    }

    #[test]
    fn close_overrides_keep_alive_over_several_fields() {
        let keeps = |version, fields: &[(&str, &str)]| facts(version, fields).unwrap().keeps_alive(version);
        assert!(keeps(Version::Http11, &[]));
        assert!(!keeps(Version::Http10, &[]));
        assert!(keeps(Version::Http10, &[("Connection", "Keep-Alive")]));
        assert!(!keeps(Version::Http11, &[("Connection", "keep-alive, close")]));
        assert!(!keeps(Version::Http11, &[("Connection", ",, \t CLOSE ,")]));
        assert!(!keeps(
            Version::Http11,
            &[("Connection", "keep-alive"), ("connection", "close")]
        ));
        assert!(keeps(Version::Http11, &[("Connection", "closed, not-close")]));
    }

    #[test]
    fn an_upgrade_needs_both_fields_and_http_11() {
        let both = [("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket")];
        assert!(facts(Version::Http11, &both).unwrap().upgrade(Version::Http11));
        assert!(!facts(Version::Http10, &both).unwrap().upgrade(Version::Http10));
        assert!(!facts(Version::Http11, &both[..1]).unwrap().upgrade(Version::Http11));
        assert!(!facts(Version::Http11, &both[1..]).unwrap().upgrade(Version::Http11));
    }

    #[test]
    fn the_only_expectation_is_100_continue_and_http_10_has_none() {
        let facts = |version, value| facts(version, &[("Expect", value)]);
        assert!(
            facts(Version::Http11, "100-Continue")
                .unwrap()
                .expects_continue(Framing::Chunked)
        );
        assert!(
            !facts(Version::Http11, "100-continue")
                .unwrap()
                .expects_continue(Framing::Length(0))
        );
        assert!(
            !facts(Version::Http10, "100-continue")
                .unwrap()
                .expects_continue(Framing::Length(9))
        );
        assert!(facts(Version::Http10, "miracles").is_ok());
        for value in ["", "miracles", "100-continue, x", "200-ok"] {
            assert_eq!(
                facts(Version::Http11, value).err(),
                Some(Refusal::EXPECTATION),
                "{value:?}"
            );
        }
    }

    #[test]
    fn host_and_content_type_come_once_in_every_version() {
        for version in [Version::Http10, Version::Http11] {
            let twice = facts(version, &[("Host", "a"), ("host", "a")]);
            assert_eq!(twice.err(), Some(Refusal::HOST_REPEATED));
            let twice = facts(version, &[("Content-Type", "a/b"), ("content-type", "a/b")]);
            assert_eq!(twice.err(), Some(Refusal::CONTENT_TYPE_REPEATED));
            assert_eq!(facts(version, &[("Host", "")]).err(), Some(Refusal::HOST_INVALID));
            assert_eq!(facts(version, &[("Host", "user@a")]).err(), Some(Refusal::HOST_INVALID));
        }
    }
}
