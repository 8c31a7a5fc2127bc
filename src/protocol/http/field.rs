//! One field line: its name, its value, and where the next line begins.
//!
//! Takes bytes and the place where a line begins; gives the spans of name and value, or the rule that the line breaks
//! (RFC 9112 section 5, RFC 9110 section 5.5). It does not know what a field means, and it copies nothing. Heads and
//! trailers are both read by it.

#![forbid(unsafe_code)]

use super::refusal::Refusal;
use crate::gateway::octets;

pub use crate::gateway::request::{Field, Span};

/// What stands at the beginning of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Its end has not arrived, and nothing in it is wrong so far.
    Partial,
    /// A field, and where the next line begins.
    Field(Field, usize),
    /// The blank line that ends the section, and where what follows begins.
    Blank(usize),
}

/// A whole field line as nearly everybody sends it, that `rest` begins with and that stands at `at`: the field, and where
/// the next line begins. None says nothing: [`line`] then has to look.
#[inline(always)]
pub(super) fn plain(rest: &[u8], at: usize) -> Option<(Field, usize)> {
    let name = octets::run(octets::TOKEN, rest);
    let [b':', b' ', behind @ ..] = rest.get(name..)? else {
        return None;
    };
    let length = octets::text_run(behind);
    let [b'\r', b'\n', ..] = behind.get(length..)? else {
        return None;
    };
    // Of the bytes a value may have, none but the space is as low as that.
    let trimmed = *behind.first()? > b' ' && *behind.get(length.wrapping_sub(1))? > b' ';
    let start = at + name + 2;
    let field = Field {
        name: Span::new(at, at + name),
        value: Span::new(start, start + length),
    };
    (name > 0 && trimmed).then_some((field, start + length + 2))
}

/// Reads the line that `rest` begins with, and that stands at `at`. What it says depends only on the bytes up to the one it decides on, so that
/// the way a client splits its bytes makes no difference.
#[inline(never)]
pub(super) fn line(rest: &[u8], at: usize) -> Result<Line, Refusal> {
    if rest.starts_with(b"\r\n") {
        return Ok(Line::Blank(at + 2));
    }
    let name = octets::run(octets::TOKEN, rest);
    if name == 0 || rest.get(name) != Some(&b':') {
        return no_field(rest, name);
    }
    // One space, as nearly everybody sends it, or whatever else there is.
    let mut start = name + 1;
    if rest.get(start) == Some(&b' ') {
        start += 1;
    }
    while rest.get(start).is_some_and(|&byte| is_space(byte)) {
        start += 1;
    }
    let mut end = start;
    loop {
        end += octets::text_run(&rest[end..]);
        match rest.get(end) {
            Some(b'\r') => break,
            None => return Ok(Line::Partial),
            Some(b'\t') => end += 1,
            Some(b'\n') => return Err(Refusal::BARE_LF),
            Some(_) => return Err(Refusal::FIELD_VALUE),
        }
    }
    if !line_feed(rest, end + 1)? {
        return Ok(Line::Partial);
    }
    let next = at + end + 2;
    while end > start && is_space(rest[end - 1]) {
        end -= 1;
    }
    let field = Field {
        name: Span::new(at, at + name),
        value: Span::new(at + start, at + end),
    };
    Ok(Line::Field(field, next))
}

/// A line whose first `name` bytes are no name with its colon.
#[cold]
fn no_field(rest: &[u8], name: usize) -> Result<Line, Refusal> {
    match rest.get(name) {
        None => Ok(Line::Partial),
        // The blank line's LF is not the one that has come.
        Some(b'\r') if name == 0 => line_feed(rest, 1).map(|_| Line::Partial),
        Some(&byte) => Err(bad_name(name, byte)),
    }
}

/// Whether the LF behind a CR is there at `at`; false when it has not arrived.
#[inline]
pub(super) fn line_feed(bytes: &[u8], at: usize) -> Result<bool, Refusal> {
    match bytes.get(at) {
        None => Ok(false),
        Some(b'\n') => Ok(true),
        Some(_) => Err(Refusal::BARE_CR),
    }
}

/// OWS is SP and HTAB and nothing else (RFC 9110 section 5.6.3); 0x85 and 0xA0 are spaces in Unicode only.
#[inline]
pub(super) fn is_space(byte: u8) -> bool {
    // Most bytes are above both, which one comparison tells.
    byte <= b' ' && (byte == b' ' || byte == b'\t')
}

/// `bytes` without the OWS around them.
#[inline]
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [byte, rest @ ..] = bytes
        && is_space(*byte)
    {
        bytes = rest;
    }
    while let [rest @ .., byte] = bytes
        && is_space(*byte)
    {
        bytes = rest;
    }
    bytes
}

/// Whether `name`, a token, is `lower`, which has lower-case letters and hyphens only: of all token characters, the
/// added bit turns only the letter's own two forms into it. Half the price of a comparison that knows less.
#[inline]
pub(super) fn named<const N: usize>(name: &[u8], lower: &[u8; N]) -> bool {
    <&[u8; N]>::try_from(name).is_ok_and(|name| name.map(|byte| byte | 0x20) == *lower)
}

/// Whether `name` would be `like` if its underscores were hyphens, and has at least one underscore. Gateways write
/// both as underscores in the environ, where the one could pass for the other.
pub(super) fn imitates(name: &[u8], like: &[u8]) -> bool {
    name.len() == like.len()
        && name.contains(&b'_')
        && name.iter().zip(like).all(|(&a, &b)| {
            if a == b'_' {
                b == b'-'
            } else {
                a.eq_ignore_ascii_case(&b)
            }
        })
}

#[cold]
fn bad_name(name: usize, byte: u8) -> Refusal {
    match byte {
        b' ' | b'\t' if name == 0 => Refusal::FOLDED,
        b' ' | b'\t' => Refusal::SPACE_BEFORE_COLON,
        b'\n' => Refusal::BARE_LF,
        _ => Refusal::FIELD_NAME,
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, Refusal, imitates, line, named, octets, plain, trim};

    fn read(text: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Refusal> {
        match line(text, 0)? {
            Line::Field(field, next) => {
                assert_eq!(next, text.len());
                Ok((field.name.of(text).to_vec(), field.value.of(text).to_vec()))
            }
            other => panic!("{other:?}"),
        }
    }

    fn pair(name: &[u8], value: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Refusal> {
        Ok((name.to_vec(), value.to_vec()))
    }

    #[test]
    fn whitespace_around_a_value_is_trimmed_and_inside_is_kept() {
        assert_eq!(read(b"A: b\r\n"), pair(b"A", b"b"));
        assert_eq!(read(b"A:b\r\n"), pair(b"A", b"b"));
        assert_eq!(read(b"A:\t b \tc\t \r\n"), pair(b"A", b"b \tc"));
        assert_eq!(read(b"A:\r\n"), pair(b"A", b""));
        assert_eq!(read(b"A: \t \r\n"), pair(b"A", b""));
    }

    #[test]
    fn eight_bit_bytes_in_a_value_are_kept_and_are_no_whitespace() {
        assert_eq!(read(b"A: \xa0caf\xe9\x85 \r\n"), pair(b"A", b"\xa0caf\xe9\x85"));
    }

    #[test]
    fn every_byte_that_is_no_text_is_refused_in_a_value() {
        for byte in 0..=255u8 {
            let text = [b"A: long enough to fill a word ", &[byte][..], b" and more\r\n"].concat();
            let expected = match byte {
                b'\t' | b' '..=0x7e | 0x80.. => None,
                b'\r' => Some(Refusal::BARE_CR),
                b'\n' => Some(Refusal::BARE_LF),
                _ => Some(Refusal::FIELD_VALUE),
            };
            assert_eq!(read(&text).err(), expected, "{byte:#x}");
        }
    }

    #[test]
    fn every_byte_that_is_no_token_is_refused_in_a_name() {
        for byte in 0..=255u8 {
            let text = [b"Na", &[byte][..], b"me: value\r\n"].concat();
            let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:".contains(&byte);
            assert_eq!(read(&text).is_ok(), token, "{byte:#x}");
        }
        assert_eq!(read(b": value\r\n"), Err(Refusal::FIELD_NAME));
        assert_eq!(read(b"no colon\r\n"), Err(Refusal::SPACE_BEFORE_COLON));
        assert_eq!(read(b"nocolon\r\n"), Err(Refusal::FIELD_NAME));
    }

    #[test]
    fn a_line_that_is_recognised_as_plain_is_what_the_careful_reading_makes_of_it() {
        let mut recognised = 0;
        for text in [
            &b"Host: example.org:80\r\nA: b\r\n"[..],
            b"A: b\r\n\r\n",
            b"Name: two words\r\n\r\n",
        ] {
            for at in 0..text.len() {
                for byte in 0..=255u8 {
                    let mut text = text.to_vec();
                    text[at] = byte;
                    for text in [&text[..], &text[..at]] {
                        if let Some((field, next)) = plain(text, 7) {
                            assert_eq!(line(text, 7), Ok(Line::Field(field, next)), "{}", text.escape_ascii());
                            recognised += 1;
                        }
                    }
                }
            }
        }
        assert!(recognised > 1000);
    }

    #[test]
    fn whitespace_before_a_colon_or_a_name_is_refused() {
        assert_eq!(read(b"A : b\r\n"), Err(Refusal::SPACE_BEFORE_COLON));
        assert_eq!(read(b"A\t: b\r\n"), Err(Refusal::SPACE_BEFORE_COLON));
        assert_eq!(read(b" A: b\r\n"), Err(Refusal::FOLDED));
        assert_eq!(read(b"\tA: b\r\n"), Err(Refusal::FOLDED));
    }

    #[test]
    fn the_blank_line_is_cr_lf_only() {
        assert_eq!(line(b"\r\n", 0), Ok(Line::Blank(2)));
        assert_eq!(line(b"\r", 0), Ok(Line::Partial));
        assert_eq!(line(b"\n", 0), Err(Refusal::BARE_LF));
        assert_eq!(line(b"\rA", 0), Err(Refusal::BARE_CR));
    }

    #[test]
    fn a_line_is_partial_at_each_of_its_bytes_but_the_last() {
        let text = b"Name: some value\r\n";
        for end in 0..text.len() {
            assert_eq!(line(&text[..end], 0), Ok(Line::Partial), "{end}");
        }
    }

    #[test]
    fn a_name_is_matched_in_any_case_and_no_other_token_passes_for_it() {
        assert!(named(b"Content-Length", b"content-length"));
        assert!(!named(b"Content_Length", b"content-length"));
        assert!(!named(b"Content-Lengt", b"content-length"));
        for byte in 0..=255u8 {
            let token = octets::is(octets::TOKEN, byte);
            assert_eq!(
                token && named(&[byte], b"a"),
                byte.eq_ignore_ascii_case(&b'a'),
                "{byte:#x}"
            );
            assert_eq!(token && named(&[byte], b"-"), byte == b'-', "{byte:#x}");
        }
    }

    #[test]
    fn only_underscores_make_an_imitation() {
        assert!(imitates(b"Content_Length", b"content-length"));
        assert!(!imitates(b"Content-Length", b"content-length"));
        assert!(!imitates(b"Content_Lengths", b"content-length"));
        assert!(!imitates(b"C_ntent-Length", b"content-length"));
    }

    #[test]
    fn trimming_takes_space_and_tab_only() {
        assert_eq!(trim(b" \ta b\t "), b"a b");
        assert_eq!(trim(b" \t"), b"");
        assert_eq!(trim(b"\x85a\xa0"), b"\x85a\xa0");
    }
}
