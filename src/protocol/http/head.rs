//! The head of a request: request line and fields, checked to the letter and kept as spans.
//!
//! Takes the bytes received so far, as often as more arrive; gives "partial", a whole head, or the refusal. Each byte
//! is looked at once in the common case, and nothing is allocated but the list of fields, which is reused. It copies
//! no bytes: the spans point into the buffer that was complete, offsets counted from its first byte.

#![forbid(unsafe_code)]

use super::facts::Facts;
use super::field::{self, Field, Line, Span};
use super::framing::Framing;
use super::refusal::Refusal;
use super::target::{self, Form};
use crate::gateway::octets;

/// The longest method that is looked at; the longest one registered with IANA has 17 letters.
const METHOD_MAX: usize = 32;

/// The method whose target is an authority; it is for proxies.
const CONNECT: &[u8] = b"CONNECT";

/// A space, `HTTP/1.1`, CR LF.
const VERSION_AND_END: usize = 11;

/// A line longer than this is not looked at again before its end is there, or its limit reached.
const GLANCE: usize = 256;

/// What a head and its body may measure. Their sum must stay below 4 GiB, the body excepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the request line, its CR LF not counted; more is 414.
    pub request_line: usize,
    /// Bytes of one field line, its CR LF not counted; more is 431.
    pub header_field: usize,
    /// Number of field lines; more is 431. Trailers are counted on their own.
    pub header_fields: usize,
    /// Bytes of all field lines and the blank line behind them; more is 431.
    pub header_total: usize,
    /// Bytes of the decoded body; more is 413.
    pub body: u64,
}

pub use crate::gateway::request::Version;

/// How far a head has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is wrong so far; more bytes are needed.
    Partial,
    /// The head is whole.
    Complete,
}

/// A request's head. Its public fields hold only after [`Head::parse`] said [`Progress::Complete`].
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The method, upper case.
    pub method: Span,
    /// The request target as it was sent.
    pub target: Span,
    /// The target's form.
    pub form: Form,
    /// The version of the client's protocol.
    pub version: Version,
    /// All field lines in their order.
    pub fields: Vec<Field>,
    /// The effective authority: the target's, else the Host field's; HTTP/1.0 may have none.
    pub host: Option<Span>,
    /// How the body is framed.
    pub framing: Framing,
    /// Whether the client would send another request on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for 100 (Continue) before it sends the body.
    pub expect_continue: bool,
    /// Whether the client offers another protocol, named in its Upgrade field.
    pub upgrade: bool,
    /// Bytes of the head, the blank line and a tolerated CR LF before it included: the body begins here.
    pub len: usize,
    stage: Stage,
    facts: Facts,
    /// Where the line begins that has no end yet.
    at: usize,
    /// How many bytes have been looked at.
    seen: usize,
    /// Where the field lines begin.
    section: usize,
}

/// Which line comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// A new head.
    #[default]
    Fresh,
    /// The request line, an empty line before it being behind us or impossible.
    RequestLine,
    /// A field line or the blank one.
    Fields,
}

impl Head {
    /// Looks at `buf`, which begins where this head begins and holds at least what it held at the last call. Bytes
    /// behind the head are left alone. After [`Progress::Complete`] or a refusal the next call begins a new head.
    // Kept out of line, so that the bench's `path` can tell what it costs.
    #[inline(never)]
    pub fn parse(&mut self, buf: &[u8], limits: &Limits) -> Result<Progress, Refusal> {
        let outcome = self.advance(buf, limits);
        self.seen = buf.len();
        if !matches!(outcome, Ok(Progress::Partial)) {
            self.stage = Stage::Fresh;
        }
        outcome
    }

    /// Path and query of the target: empty for `*` and for a URI without either.
    pub fn path_and_query(&self) -> Span {
        match self.form {
            Form::Origin => self.target,
            Form::Absolute { path, .. } => path,
            Form::Asterisk => Span {
                start: self.target.end,
                end: self.target.end,
            },
        }
    }

    fn advance(&mut self, buf: &[u8], limits: &Limits) -> Result<Progress, Refusal> {
        if self.stage == Stage::Fresh {
            if !self.begin(buf)? {
                return Ok(Progress::Partial);
            }
        } else if self.has_no_news(buf, limits) {
            return Ok(Progress::Partial);
        }
        if self.stage == Stage::RequestLine && !self.request_line(buf, limits)? {
            return Ok(Progress::Partial);
        }
        if !self.field_lines(buf, limits)? {
            return Ok(Progress::Partial);
        }
        self.settle(limits)?;
        Ok(Progress::Complete)
    }

    /// Passes over one empty line before the request line (RFC 9112 section 2.2).
    fn begin(&mut self, buf: &[u8]) -> Result<bool, Refusal> {
        self.at = match buf {
            [] | [b'\r'] => return Ok(false),
            [b'\r', b'\n', ..] => 2,
            _ => 0,
        };
        self.facts = Facts::default();
        self.fields.clear();
        self.stage = Stage::RequestLine;
        Ok(true)
    }

    /// Whether the line at hand has neither ended nor reached its limit, so that a client that sends byte by byte
    /// does not make us read a long line again and again.
    fn has_no_news(&self, buf: &[u8], limits: &Limits) -> bool {
        // The last byte seen may be the CR of an end whose LF is new.
        let since = self.seen.saturating_sub(1);
        let limit = match self.stage {
            Stage::Fields => limits
                .header_field
                .min((self.section + limits.header_total).saturating_sub(self.at + 1)),
            _ => limits.request_line,
        };
        since > self.at + GLANCE
            && buf.len() <= self.at + limit
            && !buf[since..].iter().any(|&byte| byte == b'\r' || byte == b'\n')
    }

    #[inline]
    fn request_line(&mut self, buf: &[u8], limits: &Limits) -> Result<bool, Refusal> {
        let line = &buf[self.at..horizon(buf, self.at, limits.request_line)];
        let (method, target, version) = match plain(line) {
            Some((method, target)) => (method, target, Version::Http11),
            None => match split(line)? {
                Some(parts) => parts,
                None if overruns(line, limits.request_line) => return Err(Refusal::REQUEST_LINE_TOO_LONG),
                None => return Ok(false),
            },
        };
        self.version = version;
        self.method = Span::new(self.at, self.at + method);
        self.target = Span::new(self.at + method + 1, self.at + target);
        self.form = if line.get(method + 1) == Some(&b'/') && method != CONNECT.len() {
            Form::Origin
        } else {
            self.other_form(buf)?
        };
        self.at += target + VERSION_AND_END;
        self.section = self.at;
        self.stage = Stage::Fields;
        Ok(true)
    }

    /// What is no path, or may be CONNECT's.
    fn other_form(&self, buf: &[u8]) -> Result<Form, Refusal> {
        let method = self.method.of(buf);
        if method == CONNECT {
            return Err(Refusal::CONNECT);
        }
        target::form(method, buf, self.target)
    }

    #[inline]
    fn field_lines(&mut self, buf: &[u8], limits: &Limits) -> Result<bool, Refusal> {
        // Where all that has come is shorter than one line may be, no line can be too long.
        let is_short = buf.len() < self.section + limits.header_field.min(limits.header_total);
        let mut at = self.at;
        loop {
            let end = if is_short {
                buf.len()
            } else {
                horizon(buf, at, limits.header_field).min(self.section + limits.header_total)
            };
            let rest = &buf[at..end];
            if self.fields.len() >= limits.header_fields && rest.first().is_some_and(|&byte| byte != b'\r') {
                return Err(Refusal::FIELDS_TOO_MANY);
            }
            if rest.starts_with(b"\r\n") {
                self.len = at + 2;
                return Ok(true);
            }
            let (field, next) = match field::plain(rest, at) {
                Some(line) => line,
                None => match field::line(rest, at)? {
                    Line::Field(field, next) => (field, next),
                    Line::Blank(next) => {
                        self.len = next;
                        return Ok(true);
                    }
                    Line::Partial if overruns(rest, limits.header_field) => return Err(Refusal::FIELD_TOO_LONG),
                    Line::Partial if end - self.section >= limits.header_total => {
                        return Err(Refusal::FIELDS_TOO_LARGE);
                    }
                    Line::Partial => {
                        self.at = at;
                        return Ok(false);
                    }
                },
            };
            self.facts.note(field, buf, self.version)?;
            self.fields.push(field);
            at = next;
        }
    }

    /// Draws what follows from all fields together.
    #[inline]
    fn settle(&mut self, limits: &Limits) -> Result<(), Refusal> {
        if self.facts.host.is_none() && self.version == Version::Http11 {
            return Err(Refusal::HOST_MISSING);
        }
        self.host = match self.form {
            Form::Absolute { authority, .. } => Some(authority),
            _ => self.facts.host,
        };
        if self.facts.is_plain() {
            self.framing = Framing::None;
            self.keep_alive = self.version == Version::Http11;
            self.expect_continue = false;
            self.upgrade = false;
            return Ok(());
        }
        self.framing = self.facts.framing(limits.body)?;
        self.keep_alive = self.facts.keeps_alive(self.version);
        self.expect_continue = self.facts.expects_continue(self.framing);
        self.upgrade = self.facts.upgrade(self.version);
        Ok(())
    }
}

/// How much of `buf` is looked at for the line that begins at `at`: what decides whether it is longer than `limit`, and
/// nothing beyond, so that the refusal does not depend on how much has arrived.
#[inline]
fn horizon(buf: &[u8], at: usize, limit: usize) -> usize {
    let full = at + limit;
    match buf.get(full) {
        None => buf.len(),
        Some(b'\r') => buf.len().min(full + 2),
        Some(_) => full + 1,
    }
}

/// Whether a line without an end has more bytes than `limit`, or none that could still be its end.
#[inline]
fn overruns(line: &[u8], limit: usize) -> bool {
    line.get(limit).is_some_and(|&byte| byte != b'\r')
}

/// Where method and target end in a whole line of HTTP/1.1. None says nothing: [`split`] then has to look.
#[inline(always)]
fn plain(line: &[u8]) -> Option<(usize, usize)> {
    let method = if line.starts_with(b"GET ") {
        3
    } else {
        method(line).ok()??
    };
    let behind = line.get(method + 1..)?;
    let length = octets::target_run(behind);
    let ends = length > 0 && behind.get(length..)?.starts_with(b" HTTP/1.1\r\n");
    ends.then_some((method, method + 1 + length))
}

/// Where method and target end, and the version, in a line that has come with its CR LF; none if it has not come so far.
#[inline(never)]
fn split(line: &[u8]) -> Result<Option<(usize, usize, Version)>, Refusal> {
    let Some(method) = method(line)? else {
        return Ok(None);
    };
    let target = method + 1 + octets::target_run(&line[method + 1..]);
    let proxied: [&[u8]; 3] = [b"PROXY TCP4", b"PROXY TCP6", b"PROXY UNKNOWN"];
    match line.get(target) {
        None => return Ok(None),
        Some(b' ' | b'\r') if proxied.contains(&&line[..target]) => return Err(Refusal::PROXY_PROTOCOL),
        Some(b' ') if target > method + 1 => {}
        Some(&byte) => return Err(no_target(byte)),
    }
    match version(&line[target + 1..]) {
        Err(Refusal::VERSION_UNSUPPORTED) if line.starts_with(b"PRI * HTTP/2.0\r\n") => Err(Refusal::HTTP_2),
        version => Ok(version?.map(|version| (method, target, version))),
    }
}

/// Where the method ends, once the space behind it has come.
fn method(line: &[u8]) -> Result<Option<usize>, Refusal> {
    match line.first() {
        None => return Ok(None),
        Some(first) if first.is_ascii_uppercase() => {}
        Some(0x16) => return Err(Refusal::TLS),
        Some(&byte) => return Err(no_method(byte)),
    }
    let method = octets::run(octets::METHOD, line);
    if method > METHOD_MAX {
        return Err(Refusal::METHOD_TOO_LONG);
    }
    match line.get(method) {
        None => Ok(None),
        Some(b' ') => Ok(Some(method)),
        Some(&byte) => Err(no_method(byte)),
    }
}

/// The version in what follows the target, once its CR LF has come: eight visible bytes.
fn version(rest: &[u8]) -> Result<Option<Version>, Refusal> {
    let end = if rest.starts_with(b"HTTP/1.1\r") {
        8
    } else {
        octets::run(octets::TARGET, rest)
    };
    let ended = match rest.get(end) {
        _ if end > 8 => Err(Refusal::VERSION),
        None => Ok(false),
        Some(b'\r') if end == 8 => field::line_feed(rest, 9),
        Some(b'\n') => Err(Refusal::BARE_LF),
        Some(b' ') => Err(Refusal::REQUEST_LINE),
        _ => Err(Refusal::VERSION),
    };
    if !ended? {
        return Ok(None);
    }
    match &rest[..8] {
        b"HTTP/1.1" => Ok(Some(Version::Http11)),
        b"HTTP/1.0" => Ok(Some(Version::Http10)),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(Refusal::VERSION_UNSUPPORTED),
        _ => Err(Refusal::VERSION),
    }
}

#[cold]
fn no_method(byte: u8) -> Refusal {
    match byte {
        b'\n' => Refusal::BARE_LF,
        b'\r' | b' ' => Refusal::REQUEST_LINE,
        _ => Refusal::METHOD,
    }
}

#[cold]
fn no_target(byte: u8) -> Refusal {
    match byte {
        b'#' => Refusal::FRAGMENT,
        b'\n' => Refusal::BARE_LF,
        b' ' | b'\r' => Refusal::REQUEST_LINE,
        _ => Refusal::TARGET_BYTE,
    }
}

#[cfg(test)]
mod tests {
    use super::{Form, Framing, Head, Limits, Progress, Refusal, Version};

    const LIMITS: Limits = Limits {
        request_line: 300,
        header_field: 400,
        header_fields: 5,
        header_total: 1200,
        body: 1000,
    };

    fn whole(text: &[u8]) -> Result<Head, Refusal> {
        let mut head = Head::default();
        match head.parse(text, &LIMITS)? {
            Progress::Complete => Ok(head),
            Progress::Partial => panic!("partial: {}", text.escape_ascii()),
        }
    }

    /// The outcome of a head that arrives byte by byte, and how many bytes it took.
    fn slowly(text: &[u8]) -> (Result<Progress, Refusal>, usize) {
        let mut head = Head::default();
        for end in 0..text.len() {
            match head.parse(&text[..end], &LIMITS) {
                Ok(Progress::Partial) => {}
                outcome => return (outcome, end),
            }
        }
        (head.parse(text, &LIMITS), text.len())
    }

    fn line(line: &str) -> Result<Version, Refusal> {
        Ok(whole(format!("{line}\r\nHost: a\r\n\r\n").as_bytes())?.version)
    }

    fn fields(fields: &str) -> Result<Head, Refusal> {
        whole(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes())
    }

    #[test]
    fn a_whole_head_is_taken_apart_and_what_follows_is_left() {
        let text = b"POST /a?b=c HTTP/1.1\r\nHost: example.org:80\r\nX-One:  1 \r\nContent-Length: 3\r\n\r\nabcGET /";
        let head = whole(text).unwrap();
        assert_eq!(head.method.of(text), b"POST");
        assert_eq!(head.target.of(text), b"/a?b=c");
        assert_eq!(head.path_and_query(), head.target);
        assert_eq!((head.form, head.version), (Form::Origin, Version::Http11));
        assert_eq!(head.host.unwrap().of(text), b"example.org:80");
        assert_eq!(head.framing, Framing::Length(3));
        assert_eq!(head.fields.len(), 3);
        assert_eq!(head.fields[1].value.of(text), b"1");
        assert_eq!(&text[head.len..], b"abcGET /");
        assert!(head.keep_alive && !head.expect_continue && !head.upgrade);
    }

    #[test]
    fn one_head_serves_many_requests() {
        let first = b"GET /1 HTTP/1.0\r\nHost: a\r\nConnection: close\r\n\r\n";
        let second = b"GET /22 HTTP/1.1\r\nHost: b\r\n\r\n";
        let mut head = Head::default();
        assert_eq!(head.parse(first, &LIMITS), Ok(Progress::Complete));
        assert_eq!(head.parse(b"get", &LIMITS), Err(Refusal::METHOD));
        assert_eq!(head.parse(second, &LIMITS), Ok(Progress::Complete));
        assert_eq!(
            (head.fields.len(), head.version, head.keep_alive),
            (1, Version::Http11, true)
        );
        assert_eq!(head.target.of(second), b"/22");
    }

    #[test]
    fn a_head_is_partial_until_its_last_byte_however_it_arrives() {
        let text = b"\r\nGET /path HTTP/1.1\r\nHost: a\r\nLong: ".to_vec();
        let text = [text, vec![b'x'; 390], b"\r\nTabs:\t\t\ta\r\n\r\n".to_vec()].concat();
        assert_eq!(slowly(&text), (Ok(Progress::Complete), text.len()));
        for at in 0..text.len() {
            let mut head = Head::default();
            assert_eq!(head.parse(&text[..at], &LIMITS), Ok(Progress::Partial));
            assert_eq!(head.parse(&text, &LIMITS), Ok(Progress::Complete));
            assert_eq!(
                (head.len, head.fields.len(), head.fields[1].value.of(&text).len()),
                (text.len(), 3, 390)
            );
        }
    }

    #[test]
    fn one_empty_line_before_the_request_line_is_passed_over() {
        let text = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(whole(text).unwrap().len, text.len());
        assert_eq!(
            whole(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").err(),
            Some(Refusal::REQUEST_LINE)
        );
        assert_eq!(
            whole(b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").err(),
            Some(Refusal::BARE_LF)
        );
        assert!(whole(b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n").is_err());
    }

    #[test]
    fn the_request_line_is_three_words_with_one_space_between() {
        assert_eq!(line("GET / HTTP/1.1"), Ok(Version::Http11));
        for text in [
            " GET / HTTP/1.1",
            "GET  / HTTP/1.1",
            "GET /  HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET /",
            "GET",
            "GET / a HTTP/1.1",
        ] {
            assert_eq!(line(text).unwrap_err().status, 400, "{text:?}");
        }
        for text in [
            "GET\t/ HTTP/1.1",
            "GET /\tHTTP/1.1",
            "GET /\u{b}HTTP/1.1",
            "GET / HTTP/1.1\t",
            "GET / HTTP/1.1\0",
        ] {
            assert_eq!(line(text).unwrap_err().status, 400, "{text:?}");
        }
        assert_eq!(whole(b"GET / HTTP/1.1\nHost: a\r\n\r\n").err(), Some(Refusal::BARE_LF));
        assert_eq!(
            whole(b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n").err(),
            Some(Refusal::BARE_CR)
        );
        assert_eq!(
            whole(b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n")
                .err()
                .map(|refusal| refusal.status),
            Some(400)
        );
    }

    #[test]
    fn methods_are_upper_case_words_and_connect_is_not_served() {
        for method in ["GET", "M-SEARCH", "VERSION-CONTROL", "A", "X_Y2"] {
            assert!(line(&format!("{method} / HTTP/1.1")).is_ok(), "{method}");
        }
        for method in [
            "get", "GeT", "-GET", "1GET", "_", "GET:", "GE\"T", "G\u{e9}T", "GE\0T", "G!",
        ] {
            assert_eq!(line(&format!("{method} / HTTP/1.1")), Err(Refusal::METHOD), "{method}");
        }
        assert_eq!(line(&format!("{} / HTTP/1.1", "A".repeat(32))), Ok(Version::Http11));
        assert_eq!(
            line(&format!("{} / HTTP/1.1", "A".repeat(33))),
            Err(Refusal::METHOD_TOO_LONG)
        );
        assert_eq!(line("CONNECT example.org:443 HTTP/1.1"), Err(Refusal::CONNECT));
    }

    #[test]
    fn versions_other_than_1_0_and_1_1_are_unsupported_or_malformed() {
        assert_eq!(line("GET / HTTP/1.0"), Ok(Version::Http10));
        for version in ["HTTP/1.2", "HTTP/1.9", "HTTP/2.0", "HTTP/0.9", "HTTP/3.0"] {
            assert_eq!(
                line(&format!("GET / {version}")),
                Err(Refusal::VERSION_UNSUPPORTED),
                "{version}"
            );
        }
        assert_eq!(line("PRI * HTTP/2.0"), Err(Refusal::HTTP_2));
        for version in [
            "HTTP/1",
            "HTTP/1.",
            "HTTP/11",
            "HTTP/1.11",
            "HTTP/01.1",
            "http/1.1",
            "HTTP/1,1",
            "HTTP/1.x",
            "FTP/1.1",
            "HTTP /1.1",
            "HTTP/+1.1",
            "H",
            "ICY/1.10",
        ] {
            assert_eq!(line(&format!("GET / {version}")).unwrap_err().status, 400, "{version}");
        }
    }

    #[test]
    fn every_byte_of_a_target_is_judged() {
        for byte in 0..=255u8 {
            let text = [b"GET /a", &[byte][..], b"b HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            let allowed = (byte > b' ' && byte != 0x7f && byte != b'#') || byte >= 0x80;
            assert_eq!(whole(&text).is_ok(), allowed, "{byte:#x}");
        }
        assert_eq!(line("GET /a#b HTTP/1.1"), Err(Refusal::FRAGMENT));
        assert_eq!(line("GET /%00%zz% HTTP/1.1"), Ok(Version::Http11));
    }

    #[test]
    fn a_targets_authority_overrides_the_host_field_which_must_be_there_all_the_same() {
        let text = b"GET http://b:81/c HTTP/1.1\r\nHost: a\r\n\r\n";
        let head = whole(text).unwrap();
        assert_eq!(head.host.unwrap().of(text), b"b:81");
        assert_eq!(head.path_and_query().of(text), b"/c");
        assert_eq!(
            whole(b"GET http://b/c HTTP/1.1\r\n\r\n").err(),
            Some(Refusal::HOST_MISSING)
        );
        assert_eq!(whole(b"GET / HTTP/1.1\r\n\r\n").err(), Some(Refusal::HOST_MISSING));
        assert_eq!(whole(b"GET / HTTP/1.0\r\n\r\n").unwrap().host, None);
    }

    #[test]
    fn a_request_line_beyond_its_limit_is_refused_at_the_first_byte_too_many() {
        let of = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length - 14));
        assert!(whole(of(300).as_bytes()).is_ok());
        assert_eq!(whole(of(301).as_bytes()).err(), Some(Refusal::REQUEST_LINE_TOO_LONG));
        assert_eq!(slowly(of(300).as_bytes()).0, Ok(Progress::Complete));
        assert_eq!(slowly(of(500).as_bytes()), (Err(Refusal::REQUEST_LINE_TOO_LONG), 301));
    }

    #[test]
    fn a_field_line_beyond_its_limit_is_refused_at_the_first_byte_too_many() {
        let of = |length: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nLong: {}\r\n\r\n", "x".repeat(length - 6));
        assert!(whole(of(400).as_bytes()).is_ok());
        assert_eq!(whole(of(401).as_bytes()).err(), Some(Refusal::FIELD_TOO_LONG));
        assert_eq!(slowly(of(900).as_bytes()), (Err(Refusal::FIELD_TOO_LONG), 16 + 9 + 401));
        let name = format!("GET / HTTP/1.1\r\nHost: a\r\n{}: x\r\n\r\n", "x".repeat(500));
        assert_eq!(whole(name.as_bytes()).err(), Some(Refusal::FIELD_TOO_LONG));
    }

    #[test]
    fn fields_are_limited_in_number_and_in_total() {
        assert!(fields(&"A: b\r\n".repeat(4)).is_ok());
        assert_eq!(fields(&"A: b\r\n".repeat(5)).err(), Some(Refusal::FIELDS_TOO_MANY));
        // The Host line has 9 bytes and the blank line 2.
        let filled = |last: usize| {
            format!(
                "{}A: {}\r\n",
                format!("A: {}\r\n", "x".repeat(392)).repeat(2),
                "x".repeat(last)
            )
        };
        assert!(fields(&filled(1200 - 9 - 2 - 2 * 397 - 5)).is_ok());
        assert_eq!(
            fields(&filled(1200 - 9 - 2 - 2 * 397 - 4)).err(),
            Some(Refusal::FIELDS_TOO_LARGE)
        );
        // Where both limits are met at one byte, what has come behind it makes no difference.
        let lines = [291, 300, 300, 300].map(|length| format!("A: {}\r\n", "b".repeat(length - 5)));
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{}B: c\r\n\r\n", lines.concat());
        assert_eq!(whole(text.as_bytes()).err(), Some(Refusal::FIELDS_TOO_LARGE));
        assert_eq!(slowly(text.as_bytes()).0, Err(Refusal::FIELDS_TOO_LARGE));
    }

    #[test]
    fn what_cannot_become_a_request_is_refused_at_its_first_byte() {
        let mut head = Head::default();
        assert_eq!(head.parse(b"\x16", &LIMITS), Err(Refusal::TLS));
        for first in [&b"\0"[..], b"\x80", b"g", b" ", b"{", b"\n", b"\t", b"1", b":", b"-"] {
            assert!(head.parse(first, &LIMITS).is_err(), "{}", first.escape_ascii());
        }
        assert_eq!(head.parse(b"", &LIMITS), Ok(Progress::Partial));
        assert_eq!(head.parse(b"\r", &LIMITS), Ok(Progress::Partial));
        assert_eq!(head.parse(b"G", &LIMITS), Ok(Progress::Partial));
    }

    #[test]
    fn every_split_of_a_refused_head_is_refused_alike() {
        let long = "x".repeat(500);
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a\r\n A: b\r\n\r\n".to_owned(),
            format!("GET /{long}\u{1} HTTP/1.1\r\n\r\n"),
            format!("GET /\u{1}{long} HTTP/1.1\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nHost: a\r\nA: \u{1}{long}\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\u{1}{long}\r\n\r\n", &long[..300]),
            format!("GET / HTTP/1.1\r\nHost: a\r\nA: {long}\u{1}\r\n\r\n"),
            "GET / HTTP/1.1\rHost: a\r\n\r\n".to_owned(),
        ] {
            let text = text.as_bytes();
            let expected = Head::default().parse(text, &LIMITS);
            assert!(expected.is_err());
            assert_eq!(slowly(text).0, expected, "{}", text.escape_ascii());
            for at in 0..text.len() {
                let mut head = Head::default();
                let first = head.parse(&text[..at], &LIMITS);
                let outcome = if first == Ok(Progress::Partial) {
                    head.parse(text, &LIMITS)
                } else {
                    first
                };
                assert_eq!(outcome, expected, "{at} {}", text.escape_ascii());
            }
        }
    }

    #[test]
    fn a_long_head_that_arrives_byte_by_byte_is_not_read_again_and_again() {
        let limits = Limits {
            header_field: 1 << 20,
            header_total: 1 << 21,
            ..LIMITS
        };
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "x".repeat((1 << 20) - 3));
        let mut head = Head::default();
        // Read anew for each byte this would be 500 000 million bytes and not end within the patience of a test.
        for end in 0..text.len() {
            assert_eq!(head.parse(&text.as_bytes()[..end], &limits), Ok(Progress::Partial));
        }
        assert_eq!(head.parse(text.as_bytes(), &limits), Ok(Progress::Complete));
    }
}
