//! What the fields of one head claim about host, framing, persistence and expectation.
//!
//! Takes field by field; gives the facts once the head is whole, or the rule that the fields break together. It looks
//! only at fields that decide how bytes are read; all others belong to the handler.

#![forbid(unsafe_code)]

use super::field::{self, Field, Span};
use super::framing::Framing;
use super::head::Version;
use super::refusal::Refusal;
use super::target;

/// The claims gathered so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    pub(super) host: Option<Span>,
    /// The declared length; one that no number can hold is larger than any limit.
    length: u64,
    /// What was said, one bit each: most heads say nothing of all this, and that is one comparison.
    said: u8,
}

const LENGTH: u8 = 1;
const CHUNKED: u8 = 2;
const CONTENT_TYPE: u8 = 4;
const CLOSE: u8 = 8;
const KEEP_ALIVE: u8 = 16;
const UPGRADE_OPTION: u8 = 32;
const UPGRADE_FIELD: u8 = 64;
const EXPECT: u8 = 128;

impl Facts {
    /// Takes note of one field. Most names are told apart by their length alone.
    #[inline]
    pub(super) fn note(&mut self, field: Field, buf: &[u8], version: Version) -> Result<(), Refusal> {
        let (name, text) = (field.name.of(buf), field.value.of(buf));
        match name.len() {
            4 if field::named(name, b"host") => {
                if self.host.replace(field.value).is_some() {
                    return Err(Refusal::HOST_REPEATED);
                }
                if target::is_plain_authority(&buf[field.value.start as usize..], text.len())
                    || target::authority(text).is_ok()
                {
                    Ok(())
                } else {
                    Err(Refusal::HOST_INVALID)
                }
            }
            6 | 7 | 10 | 12 | 14 | 17 => self.note_rarer(name, text, version),
            _ => Ok(()),
        }
    }

    /// The fields that not every request has.
    #[inline(never)]
    fn note_rarer(&mut self, name: &[u8], text: &[u8], version: Version) -> Result<(), Refusal> {
        match name.len() {
            6 if field::named(name, b"expect") && version == Version::Http11 => {
                if !text.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::EXPECTATION);
                }
                self.said |= EXPECT;
            }
            7 if field::named(name, b"upgrade") => self.say(UPGRADE_FIELD, !text.is_empty()),
            10 if field::named(name, b"connection") => self.connection(text),
            12 if field::named(name, b"content-type") => self.once(CONTENT_TYPE, Refusal::CONTENT_TYPE_REPEATED)?,
            14 if field::named(name, b"content-length") => {
                self.length = content_length(text)?;
                self.once(LENGTH, Refusal::LENGTH_REPEATED)?;
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
                5 => self.say(CLOSE, option.eq_ignore_ascii_case(b"close")),
                7 => self.say(UPGRADE_OPTION, option.eq_ignore_ascii_case(b"upgrade")),
                10 => self.say(KEEP_ALIVE, option.eq_ignore_ascii_case(b"keep-alive")),
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
        self.once(CHUNKED, Refusal::CODING_REPEATED)?;
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

    /// Whether no field said anything of framing, persistence, expectation or upgrade.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.said & !CONTENT_TYPE == 0
    }

    fn has_said(&self, what: u8) -> bool {
        self.said & what != 0
    }

    fn say(&mut self, what: u8, said: bool) {
        self.said |= if said { what } else { 0 };
    }

    /// Refuses a field that is not the first of its name.
    fn once(&mut self, what: u8, otherwise: Refusal) -> Result<(), Refusal> {
        if self.has_said(what) {
            return Err(otherwise);
        }
        self.said |= what;
        Ok(())
    }

    /// How the body is framed, `limit` being the largest declared length that is accepted.
    #[inline]
    pub(super) fn framing(&self, limit: u64) -> Result<Framing, Refusal> {
        match self.said & (LENGTH | CHUNKED) {
            0 => Ok(Framing::None),
            CHUNKED => Ok(Framing::Chunked),
            LENGTH if self.length <= limit => Ok(Framing::Length(self.length)),
            LENGTH => Err(Refusal::BODY_TOO_LARGE),
            _ => Err(Refusal::LENGTH_AND_CODING),
        }
    }

    /// Whether the connection may serve another request (RFC 9112 section 9.3); close overrides keep-alive.
    #[inline]
    pub(super) fn keeps_alive(&self, version: Version) -> bool {
        !self.has_said(CLOSE) && (version == Version::Http11 || self.has_said(KEEP_ALIVE))
    }

    /// Whether the client offers another protocol (RFC 9110 section 7.8); HTTP/1.0 cannot.
    #[inline]
    pub(super) fn upgrade(&self, version: Version) -> bool {
        self.has_said(UPGRADE_OPTION) && self.has_said(UPGRADE_FIELD) && version == Version::Http11
    }

    /// Whether the client waits for 100 before it sends what `framing` announces (RFC 9110 section 10.1.1).
    #[inline]
    pub(super) fn expects_continue(&self, framing: Framing) -> bool {
        self.has_said(EXPECT) && !matches!(framing, Framing::None | Framing::Length(0))
    }
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
    use super::{Facts, Field, Framing, Refusal, Span, Version};

    fn facts(version: Version, fields: &[(&str, &str)]) -> Result<Facts, Refusal> {
        let mut facts = Facts::default();
        for (name, value) in fields {
            let line = format!("{name}:{value}\r\n");
            let field = Field {
                name: Span::new(0, name.len()),
                value: Span::new(name.len() + 1, name.len() + 1 + value.len()),
            };
            facts.note(field, line.as_bytes(), version)?;
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
