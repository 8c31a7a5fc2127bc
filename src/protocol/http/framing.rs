//! Where a message body ends, whatever the pieces it arrives in.
//!
//! Takes body bytes as they come; gives how many of them belong to the message, and refuses the first byte that breaks
//! the chunked framing (RFC 9112 section 7.1) or a limit. Data is passed over in bulk. It neither decodes nor keeps the
//! body; of the trailers it keeps a copy, for they have to be checked as whole lines.

#![forbid(unsafe_code)]

use super::facts;
use super::field::{self, Field, Line};
use super::head::Limits;
use super::refusal::Refusal;
use crate::gateway::octets;

/// How the end of a request's body is found (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    #[default]
    None,
    /// So many bytes follow the head.
    Length(u64),
    /// Chunks follow, and perhaps trailers.
    Chunked,
}

/// What the chunk extensions of one message may measure in all, bytes. Nobody sends any; a reader that skips them
/// without a limit can be made to read for ever at no progress (RFC 9112 section 7.1.1).
const EXTENSIONS_MAX: usize = 16 * 1024;

/// What all trailer lines of one message may measure in all, and how many there may be, whatever a head may have: hyper,
/// which decodes what was followed here, takes no more (`TRAILER_LIMIT`, of which it wants one byte to spare).
const TRAILERS_TOTAL: usize = 16 * 1024 - 1;
const TRAILERS_MAX: usize = 100;

/// Hexadecimal digits of a chunk size: what 64 bits hold.
const SIZE_DIGITS: u8 = 16;

/// Fields that frame, route, authenticate or modify a request, which are read before the body and must not change
/// behind it (RFC 9110 section 6.5.1).
const NOT_IN_TRAILERS: [&[u8]; 28] = [
    b"authorization",
    b"cache-control",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"keep-alive",
    b"max-forwards",
    b"pragma",
    b"proxy-authorization",
    b"proxy-connection",
    b"range",
    b"set-cookie",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"via",
];

/// What the next byte must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Body data, of which `left` bytes are missing.
    Data,
    /// The CR behind a chunk's data.
    DataCr,
    /// The LF behind it.
    DataLf,
    /// The first digit of a chunk size.
    Size,
    /// A further digit, an extension, or the end of the line.
    Digits(u8),
    /// A chunk extension.
    Extension(Extension),
    /// The LF that ends a chunk-size line.
    SizeLf,
    /// A trailer line or the blank line at the end.
    Trailers,
    /// Nothing: the message is over.
    Done,
}

/// Where in a chunk extension the next byte stands: `*( BWS ";" BWS name [ BWS "=" BWS value ] )`, the value a token or a
/// quoted string (RFC 9112 section 7.1.1). Nobody reads what it says, but where it ends must not be a matter of opinion:
/// a quote that is open at the end of its line is open beyond it for some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// Behind a semicolon.
    Begin,
    Name,
    /// Whitespace behind a name.
    Named,
    /// Behind an equals sign.
    Equals,
    Token,
    Quoted,
    /// Behind a backslash in quotes.
    Escaped,
    /// Behind the closing quote.
    Closed,
    /// Whitespace behind a value.
    Valued,
}

impl Extension {
    /// What `byte` leads to; none where it has no place.
    fn next(self, byte: u8) -> Option<Extension> {
        use Extension::{Begin, Closed, Equals, Escaped, Name, Named, Quoted, Token, Valued};
        let is_token = octets::is(octets::TOKEN, byte);
        Some(match (self, byte) {
            (Quoted, b'"') => Closed,
            (Quoted, b'\\') => Escaped,
            (Quoted | Escaped, _) if byte == b'\t' || octets::is(octets::TEXT, byte) => Quoted,
            (Begin | Name, _) if is_token => Name,
            (Equals | Token, _) if is_token => Token,
            (Equals, b'"') => Quoted,
            (Begin | Named | Equals | Valued, b' ' | b'\t') => self,
            (Name, b' ' | b'\t') => Named,
            (Token | Closed, b' ' | b'\t') => Valued,
            (Name | Named, b'=') => Equals,
            (Name | Named | Token | Closed | Valued, b';') => Begin,
            _ => return None,
        })
    }

    /// Whether the line may end here.
    fn may_end(self) -> bool {
        matches!(self, Extension::Name | Extension::Token | Extension::Closed)
    }
}

/// Follows one message body over any split of its bytes.
#[derive(Clone, Debug)]
pub struct Follower {
    state: State,
    chunked: bool,
    /// Bytes missing of the chunk, or of the whole body where its length was declared.
    left: u64,
    data: u64,
    extensions: usize,
    limits: Limits,
    /// The trailer section as far as it came.
    section: Vec<u8>,
    /// Where its last line begins.
    at: usize,
    trailers: Vec<Field>,
}

impl Follower {
    /// A follower for a body framed so. Of `limits` it holds the body to `body`, and the trailers to what is allowed
    /// to field lines in a head, or less.
    pub fn new(framing: Framing, limits: &Limits) -> Follower {
        let (state, left) = match framing {
            Framing::None | Framing::Length(0) => (State::Done, 0),
            Framing::Length(length) => (State::Data, length),
            Framing::Chunked => (State::Size, 0),
        };
        Follower {
            state,
            chunked: framing == Framing::Chunked,
            left,
            data: 0,
            extensions: 0,
            limits: Limits {
                header_fields: limits.header_fields.min(TRAILERS_MAX),
                header_total: limits.header_total.min(TRAILERS_TOTAL),
                ..*limits
            },
            section: Vec::new(),
            at: 0,
            trailers: Vec::new(),
        }
    }

    /// Looks at the next bytes and tells how many of them, from the first on, belong to this message: all of them, or
    /// fewer when its end is among them.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            at += match self.state {
                State::Data => self.skip_data(&bytes[at..])?,
                State::Trailers => self.take_trailers(&bytes[at..])?,
                _ => self.step(bytes[at])?,
            };
        }
        Ok(at)
    }

    /// Whether the message is over.
    pub fn done(&self) -> bool {
        self.state == State::Done
    }

    /// Decoded bytes of the body so far.
    pub fn data(&self) -> u64 {
        self.data
    }

    /// Names and values of the trailers so far, in their order.
    pub fn trailers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.trailers
            .iter()
            .map(|field| (field.name.of(&self.section), field.value.of(&self.section)))
    }

    fn skip_data(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let skipped = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.left -= skipped as u64;
        self.data += skipped as u64;
        // A chunk was held to the limit by its size, a declared length by the head that declared it.
        if self.left == 0 {
            self.state = if self.chunked { State::DataCr } else { State::Done };
        }
        Ok(skipped)
    }

    /// One byte of what stands between the data of two chunks.
    fn step(&mut self, byte: u8) -> Result<usize, Refusal> {
        self.state = match (self.state, byte) {
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::DataCr | State::DataLf, _) => return Err(Refusal::CHUNK_END),
            (State::Size, _) if byte.is_ascii_hexdigit() => self.digit(0, byte),
            (State::Digits(count), _) if byte.is_ascii_hexdigit() && count < SIZE_DIGITS => self.digit(count, byte),
            (State::Digits(_), b';') => self.extension(Extension::Begin)?,
            (State::Digits(_), b'\r') => State::SizeLf,
            (State::Extension(at), b'\r') if at.may_end() => State::SizeLf,
            (State::Size | State::Digits(_) | State::Extension(_), b'\n') => return Err(Refusal::BARE_LF),
            (State::Size | State::Digits(_), _) => return Err(Refusal::CHUNK_SIZE),
            (State::Extension(at), _) => self.extension(at.next(byte).ok_or(Refusal::CHUNK_EXTENSION)?)?,
            (State::SizeLf, b'\n') => self.size_line_ended()?,
            (State::SizeLf, _) => return Err(Refusal::BARE_CR),
            (State::Data | State::Trailers | State::Done, _) => unreachable!("follow() handles these by themselves"),
        };
        Ok(1)
    }

    fn digit(&mut self, count: u8, byte: u8) -> State {
        let value = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => (byte | 0x20) - b'a' + 10,
        };
        self.left = self.left << 4 | u64::from(value);
        State::Digits(count + 1)
    }

    fn extension(&mut self, at: Extension) -> Result<State, Refusal> {
        self.extensions += 1;
        if self.extensions > EXTENSIONS_MAX {
            Err(Refusal::CHUNK_EXTENSIONS_TOO_LARGE)
        } else {
            Ok(State::Extension(at))
        }
    }

    fn size_line_ended(&self) -> Result<State, Refusal> {
        if self.left == 0 {
            Ok(State::Trailers)
        } else if self.left > self.limits.body.saturating_sub(self.data) {
            Err(Refusal::BODY_TOO_LARGE)
        } else {
            Ok(State::Data)
        }
    }

    /// Takes bytes up to the end of the current trailer line, and reads the line once it is whole.
    fn take_trailers(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        if self.section.is_empty() && bytes.starts_with(b"\r\n") {
            self.state = State::Done;
            return Ok(2);
        }
        let line_end = bytes
            .iter()
            .position(|&byte| byte == b'\n')
            .map_or(bytes.len(), |lf| lf + 1);
        // Of a line that is too long no more is taken than shows it.
        let room = (self.at + self.limits.header_field + 2).min(self.limits.header_total) - self.section.len();
        let taken = line_end.min(room);
        let since = self.section.len().saturating_sub(1).max(self.at);
        self.section.extend_from_slice(&bytes[..taken]);
        // Nothing is read before its end is there, lest a line that comes byte by byte be read again and again; but a bare
        // CR, for hyper takes offence at it too, and would be the first.
        let goes_on = |two: &[u8]| two[0] != b'\r' || two[1] == b'\n';
        if taken < room && !bytes[..taken].ends_with(b"\n") && self.section[since..].windows(2).all(goes_on) {
            return Ok(taken);
        }
        match field::line(&self.section[self.at..], self.at)? {
            Line::Field(field, next) => {
                self.check_trailer(field)?;
                self.trailers.push(field);
                self.at = next;
            }
            Line::Blank(_) => self.state = State::Done,
            Line::Partial if taken == room => return Err(self.trailers_too_large()),
            Line::Partial => {}
        }
        Ok(taken)
    }

    fn check_trailer(&self, field: Field) -> Result<(), Refusal> {
        let name = field.name.of(&self.section);
        if facts::imitates_framing(name) {
            return Err(Refusal::FRAMING_LOOKALIKE);
        }
        if NOT_IN_TRAILERS
            .iter()
            .any(|forbidden| name.eq_ignore_ascii_case(forbidden))
        {
            return Err(Refusal::TRAILER_FORBIDDEN);
        }
        if self.trailers.len() >= self.limits.header_fields {
            return Err(Refusal::FIELDS_TOO_MANY);
        }
        Ok(())
    }

    fn trailers_too_large(&self) -> Refusal {
        if self.section.len() >= self.limits.header_total {
            Refusal::FIELDS_TOO_LARGE
        } else {
            Refusal::FIELD_TOO_LONG
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EXTENSIONS_MAX, Follower, Framing, Limits, Refusal};

    const LIMITS: Limits = Limits {
        request_line: 100,
        header_field: 40,
        header_fields: 3,
        header_total: 100,
        body: 1000,
    };

    /// The outcome of a chunked body: how much of the input it took and its decoded size, which must be the same fed
    /// whole, byte by byte, and cut at every place.
    fn chunked(text: &[u8]) -> Result<(usize, u64), Refusal> {
        let expected = fed(&[text]);
        assert_eq!(
            fed(&text.chunks(1).collect::<Vec<_>>()),
            expected,
            "{}",
            text.escape_ascii()
        );
        if text.len() < 1000 {
            for at in 0..text.len() {
                assert_eq!(
                    fed(&[&text[..at], &text[at..]]),
                    expected,
                    "{at} {}",
                    text.escape_ascii()
                );
            }
        }
        expected
    }

    fn fed(pieces: &[&[u8]]) -> Result<(usize, u64), Refusal> {
        let mut follower = Follower::new(Framing::Chunked, &LIMITS);
        let mut taken = 0;
        for piece in pieces {
            taken += follower.follow(piece)?;
        }
        assert!(follower.done(), "not over: {pieces:?}");
        Ok((taken, follower.data()))
    }

    #[test]
    fn what_hyper_would_refuse_in_a_trailer_is_refused_before_hyper_sees_it() {
        for (begun, byte) in [
            ("X-Sum: 1\r", "X"),
            ("X-Sum: 1\r\n\r", "G"),
            ("\r", "G"),
            ("X-Sum: 1\r", "\r"),
        ] {
            let mut follower = Follower::new(Framing::Chunked, &LIMITS);
            for piece in [b"0\r\n", begun.as_bytes()].concat().chunks(1) {
                assert_eq!(follower.follow(piece), Ok(1));
            }
            assert_eq!(follower.follow(byte.as_bytes()), Err(Refusal::BARE_CR), "{begun:?}");
        }
    }

    #[test]
    fn a_declared_length_takes_so_many_bytes_and_no_more() {
        let mut follower = Follower::new(Framing::Length(5), &LIMITS);
        assert_eq!(follower.follow(b"abc"), Ok(3));
        assert!(!follower.done());
        assert_eq!(follower.follow(b"deGET /"), Ok(2));
        assert!(follower.done());
        assert_eq!(follower.follow(b"GET /"), Ok(0));
        assert_eq!(follower.data(), 5);
    }

    #[test]
    fn no_body_and_an_empty_one_are_over_at_once() {
        for framing in [Framing::None, Framing::Length(0)] {
            let mut follower = Follower::new(framing, &LIMITS);
            assert!(follower.done());
            assert_eq!(follower.follow(b"GET /"), Ok(0));
        }
    }

    #[test]
    fn chunks_are_followed_to_the_end_of_the_message() {
        assert_eq!(chunked(b"0\r\n\r\nGET /"), Ok((5, 0)));
        assert_eq!(
            chunked(b"3\r\nabc\r\n00a\r\n0123456789\r\n0000\r\n\r\nGET"),
            Ok((33, 13))
        );
        assert_eq!(chunked(b"A\r\n0123456789\r\n0\r\n\r\n"), Ok((20, 10)));
        assert_eq!(chunked(b"5\r\n\r\n0\r\n\r\n0\r\n\r\n"), Ok((15, 5)));
        assert_eq!(
            chunked(b"0000000000000001\r\na\r\n0;x=\"y \xff\";\tz\r\n\r\n").map(|(_, data)| data),
            Ok(1)
        );
    }

    #[test]
    fn a_chunk_size_is_hexadecimal_digits_and_nothing_else() {
        for size in [
            &b""[..],
            b"+3",
            b"-3",
            b"0x3",
            b"0X3",
            b"3_0",
            b"3 ",
            b" 3",
            b"\t3",
            b"3\t",
            b"g",
            b"3h",
            b"\xd9\xa3",
            b"3,3",
            b"00000000000000003",
            b"fffffffffffffffff",
            b"\"3\"",
            b"3\0",
        ] {
            let text = [size, b"\r\nabc\r\n0\r\n\r\n"].concat();
            assert_eq!(chunked(&text), Err(Refusal::CHUNK_SIZE), "{}", size.escape_ascii());
        }
        assert_eq!(chunked(b"3 ;a=b\r\nabc\r\n0\r\n\r\n"), Err(Refusal::CHUNK_SIZE));
        assert_eq!(chunked(b";a=b\r\nabc\r\n0\r\n\r\n"), Err(Refusal::CHUNK_SIZE));
    }

    #[test]
    fn lines_between_chunks_end_with_cr_lf_only() {
        assert_eq!(chunked(b"3\nabc\r\n0\r\n\r\n"), Err(Refusal::BARE_LF));
        assert_eq!(chunked(b"3\rabc\r\n0\r\n\r\n"), Err(Refusal::BARE_CR));
        assert_eq!(chunked(b"3\r\r\nabc\r\n0\r\n\r\n"), Err(Refusal::BARE_CR));
        assert_eq!(chunked(b"3;a\nabc\r\n0\r\n\r\n"), Err(Refusal::BARE_LF));
        assert_eq!(chunked(b"3;a\rb\r\nabc\r\n0\r\n\r\n"), Err(Refusal::BARE_CR));
        assert_eq!(chunked(b"3\r\nabc\n0\r\n\r\n"), Err(Refusal::CHUNK_END));
        assert_eq!(chunked(b"3\r\nabc\rx0\r\n\r\n"), Err(Refusal::CHUNK_END));
        assert_eq!(chunked(b"3\r\nabcd\r\n0\r\n\r\n"), Err(Refusal::CHUNK_END));
        assert_eq!(chunked(b"0\r\n\n"), Err(Refusal::BARE_LF));
        assert_eq!(chunked(b"0\n\r\n"), Err(Refusal::BARE_LF));
    }

    #[test]
    fn chunk_extensions_hold_no_control_bytes_and_are_limited_in_total() {
        assert_eq!(chunked(b"3;a\0b\r\nabc\r\n0\r\n\r\n"), Err(Refusal::CHUNK_EXTENSION));
        assert_eq!(chunked(b"3;a\x7f\r\nabc\r\n0\r\n\r\n"), Err(Refusal::CHUNK_EXTENSION));
        let extension = |length: usize| [b";", &b"x".repeat(length - 1)[..]].concat();
        let half = extension(EXTENSIONS_MAX / 2);
        let two = [b"1", &half[..], b"\r\na\r\n0", &half, b"\r\n\r\n"].concat();
        assert_eq!(chunked(&two).map(|(_, data)| data), Ok(1));
        let more = [b"1", &half[..], b"\r\na\r\n1", &half, b"\r\na\r\n0;\r\n\r\n"].concat();
        assert_eq!(chunked(&more), Err(Refusal::CHUNK_EXTENSIONS_TOO_LARGE));
    }

    #[test]
    fn the_decoded_size_is_limited_before_the_data_comes() {
        let full = [b"3e7\r\n", &[b'x'; 999][..], b"\r\n"].concat();
        assert_eq!(
            chunked(&[&full[..], b"1\r\nx\r\n0\r\n\r\n"].concat()).map(|(_, data)| data),
            Ok(1000)
        );
        assert_eq!(chunked(&[&full[..], b"2\r\n"].concat()), Err(Refusal::BODY_TOO_LARGE));
        assert_eq!(chunked(b"ffffffffffffffff\r\n"), Err(Refusal::BODY_TOO_LARGE));
    }

    #[test]
    fn trailers_are_read_and_kept() {
        let mut follower = Follower::new(Framing::Chunked, &LIMITS);
        let text = b"1\r\na\r\n0\r\nX-Sum: abc \r\nEmpty:\r\n\r\nGET";
        assert_eq!(follower.follow(text), Ok(text.len() - 3));
        assert!(follower.done());
        assert_eq!(
            follower.trailers().collect::<Vec<_>>(),
            [(&b"X-Sum"[..], &b"abc"[..]), (b"Empty", b"")]
        );
        assert_eq!(chunked(text), Ok((text.len() - 3, 1)));
    }

    #[test]
    fn trailers_are_field_lines_that_belong_there() {
        let refused = |line: &str| chunked(format!("0\r\n{line}\r\n\r\n").as_bytes()).err();
        for name in [
            "Content-Length",
            "transfer-encoding",
            "HOST",
            "Trailer",
            "Authorization",
            "TE",
            "Cookie",
        ] {
            assert_eq!(
                refused(&format!("{name}: 1")),
                Some(Refusal::TRAILER_FORBIDDEN),
                "{name}"
            );
        }
        assert_eq!(refused("Content_Length: 1"), Some(Refusal::FRAMING_LOOKALIKE));
        assert_eq!(refused("A : b"), Some(Refusal::SPACE_BEFORE_COLON));
        assert_eq!(refused(" A: b"), Some(Refusal::FOLDED));
        assert_eq!(refused("A"), Some(Refusal::FIELD_NAME));
        assert_eq!(refused("A: \u{1}"), Some(Refusal::FIELD_VALUE));
        assert_eq!(refused("A: b\nB: c"), Some(Refusal::BARE_LF));
        assert_eq!(refused("A: b\rB: c"), Some(Refusal::BARE_CR));
    }

    #[test]
    fn trailers_are_limited_like_field_lines_of_a_head() {
        let of = |lines: &str| chunked(format!("0\r\n{lines}\r\n").as_bytes());
        let line = |length: usize| format!("A: {}\r\n", "x".repeat(length - 3));
        assert!(of(&line(40)).is_ok());
        assert_eq!(of(&line(41)), Err(Refusal::FIELD_TOO_LONG));
        assert_eq!(of(&line(500)), Err(Refusal::FIELD_TOO_LONG));
        assert!(of(&line(5).repeat(3)).is_ok());
        assert_eq!(of(&line(5).repeat(4)), Err(Refusal::FIELDS_TOO_MANY));
        assert!(of(&[line(40), line(40), line(12)].concat()).is_ok());
        assert_eq!(
            of(&[line(40), line(40), line(13)].concat()),
            Err(Refusal::FIELDS_TOO_LARGE)
        );
    }

    #[test]
    fn a_body_that_is_cut_off_is_not_over() {
        for text in [
            &b"3\r\nab"[..],
            b"3\r\nabc",
            b"3\r\nabc\r\n",
            b"3\r\nabc\r\n0\r\n",
            b"0\r\nA: b\r\n",
            b"0\r\n\r",
        ] {
            let mut follower = Follower::new(Framing::Chunked, &LIMITS);
            assert_eq!(follower.follow(text), Ok(text.len()));
            assert!(!follower.done(), "{}", text.escape_ascii());
        }
    }
}
