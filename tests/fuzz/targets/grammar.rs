//! A second reading of HTTP/1.1, from the grammar of RFC 9112 and RFC 9110: whole lines out of a whole buffer.
//!
//! Takes all bytes there are; gives the request or the body they begin with, or that they can never become one. It shares
//! no code with the server and has no time for speed. What the server refuses though the grammar has it (CONNECT, user
//! information, fields that imitate others) is refused here too, each with a word on it.

use std::borrow::Cow;

use appserver::protocol::http::head::Limits;

use super::authority::is_authority;

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// More bytes may make it one.
    Incomplete,
    /// None will.
    Wrong,
}

use Stop::{Incomplete, Wrong};

pub type Pair = (Vec<u8>, Vec<u8>);

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    None,
    Length(u64),
    Chunked,
}

/// A request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub length: usize,
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub path_and_query: Vec<u8>,
    pub old: bool,
    pub fields: Vec<Pair>,
    pub host: Option<Vec<u8>>,
    pub body: Body,
    pub keep_alive: bool,
    pub waits: bool,
    pub upgrade: bool,
}

/// A chunked body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    pub length: usize,
    pub data: Vec<u8>,
    pub trailers: Vec<Pair>,
}

/// The bytes not read yet.
struct Text<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Text<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.all[self.at..]
    }

    /// The next line without its CR LF, of at most `most` bytes.
    fn line(&mut self, most: usize) -> Result<&'a [u8], Stop> {
        let rest = self.rest();
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            // The last byte may be the CR of its end.
            return Err(if rest.len() > most.saturating_add(1) {
                Wrong
            } else {
                Incomplete
            });
        };
        let line = &rest[..end];
        require(end <= most && !line.contains(&b'\r') && !line.contains(&b'\n'))?;
        self.at += end + 2;
        Ok(line)
    }
}

fn require(right: bool) -> Result<(), Stop> {
    if right { Ok(()) } else { Err(Wrong) }
}

/// The request that `bytes` begin with.
pub fn head(bytes: &[u8], limits: &Limits) -> Result<Head, Stop> {
    let mut text = Text { all: bytes, at: 0 };
    // RFC 9112 section 2.2: an empty line before the request line; we take one.
    match bytes {
        [] | [b'\r'] => return Err(Incomplete),
        [b'\r', b'\n', ..] => text.at = 2,
        _ => {}
    }
    let line = text.line(limits.request_line)?;
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else {
        return Err(Wrong);
    };
    let of_method = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"-_".contains(byte);
    require(method.first().is_some_and(u8::is_ascii_uppercase) && method.iter().all(of_method))?;
    require(method.len() <= 32 && method != b"CONNECT")?;
    let old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ => return Err(Wrong),
    };
    require(
        target
            .iter()
            .all(|byte| (0x21..0x7f).contains(byte) && *byte != b'#' || *byte >= 0x80),
    )?;
    let (named, path_and_query) = form(method, target)?;
    let fields = fields(
        &mut text,
        limits.header_field,
        limits.header_fields,
        limits.header_total,
    )?;
    let one = |name: &str| -> Result<Option<&[u8]>, Stop> {
        let mut found = values(&fields, name);
        let first = found.next();
        require(found.next().is_none())?;
        Ok(first)
    };
    let host = one("host")?;
    require(host.is_some() || old)?;
    require(host.is_none_or(is_authority))?;
    one("content-type")?;
    let length = one("content-length")?.map(decimal).transpose()?;
    let coding = one("transfer-encoding")?;
    require(coding.is_none_or(|coding| !old && coding.eq_ignore_ascii_case(b"chunked")))?;
    let body = match (length, coding) {
        (None, None) => Body::None,
        (Some(length), None) => Body::Length(length),
        (None, Some(_)) => Body::Chunked,
        _ => return Err(Wrong),
    };
    require(length.is_none_or(|length| length <= limits.body))?;
    require(fields.iter().all(|(name, _)| !imitates_framing(name)))?;
    let expects = !old && values(&fields, "expect").next().is_some();
    require(old || values(&fields, "expect").all(|value| value.eq_ignore_ascii_case(b"100-continue")))?;
    let options: Vec<Vec<u8>> = values(&fields, "connection")
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(|option| trimmed(option).to_ascii_lowercase())
        .collect();
    let has = |option: &str| options.iter().any(|other| other == option.as_bytes());
    Ok(Head {
        length: text.at,
        method: method.to_vec(),
        target: target.to_vec(),
        path_and_query: path_and_query.to_vec(),
        old,
        host: named.or(host).map(<[u8]>::to_vec),
        body,
        keep_alive: !has("close") && (!old || has("keep-alive")),
        waits: expects && !matches!(body, Body::None | Body::Length(0)),
        upgrade: !old && has("upgrade") && values(&fields, "upgrade").any(|value| !value.is_empty()),
        fields,
    })
}

/// The authority that a target names, and its path with the query (RFC 9112 section 3.2).
fn form<'a>(method: &[u8], target: &'a [u8]) -> Result<(Option<&'a [u8]>, &'a [u8]), Stop> {
    if target.starts_with(b"/") {
        return Ok((None, target));
    }
    if target == b"*" {
        require(method == b"OPTIONS")?;
        return Ok((None, b""));
    }
    let lower = target.to_ascii_lowercase();
    let begin = ["http://", "https://"]
        .iter()
        .find(|scheme| lower.starts_with(scheme.as_bytes()));
    let rest = &target[begin.ok_or(Wrong)?.len()..];
    let end = rest
        .iter()
        .position(|byte| *byte == b'/' || *byte == b'?')
        .unwrap_or(rest.len());
    require(is_authority(&rest[..end]))?;
    Ok((Some(&rest[..end]), &rest[end..]))
}

/// Field lines up to the blank one (RFC 9112 section 5), which counts among the `total` bytes.
fn fields(text: &mut Text<'_>, longest: usize, most: usize, total: usize) -> Result<Vec<Pair>, Stop> {
    let begin = text.at;
    let mut fields = Vec::new();
    loop {
        let line = text.line(longest);
        let seen = match line {
            Ok(_) => text.at - begin,
            Err(_) => text.all.len() - begin,
        };
        require(seen <= total)?;
        let line = line?;
        if line.is_empty() {
            return Ok(fields);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Wrong)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        require(is_token(name))?;
        require(
            value
                .iter()
                .all(|byte| *byte == b'\t' || *byte >= 0x20 && *byte != 0x7f),
        )?;
        fields.push((name.to_vec(), trimmed(value).to_vec()));
        require(fields.len() <= most)?;
    }
}

fn values<'a>(fields: &'a [Pair], wanted: &str) -> impl Iterator<Item = &'a [u8]> {
    let wanted = wanted.as_bytes().to_vec();
    fields
        .iter()
        .filter(move |(name, _)| name.eq_ignore_ascii_case(&wanted))
        .map(|(_, value)| &value[..])
}

/// token (RFC 9110 section 5.6.2).
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Without the OWS around it (RFC 9110 section 5.6.3).
pub fn trimmed(text: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| *byte != b' ' && *byte != b'\t';
    let Some(begin) = text.iter().position(is_text) else {
        return b"";
    };
    let end = text.iter().rposition(is_text).map_or(begin, |last| last + 1);
    &text[begin..end]
}

/// `1*DIGIT`; what no number holds is more than any.
fn decimal(digits: &[u8]) -> Result<u64, Stop> {
    require(!digits.is_empty() && digits.iter().all(u8::is_ascii_digit))?;
    Ok(String::from_utf8_lossy(digits).parse().unwrap_or(u64::MAX))
}

/// Content_Length and its like: underscores and hyphens are one in the environ.
fn imitates_framing(name: &[u8]) -> bool {
    let hyphens = String::from_utf8_lossy(name).to_ascii_lowercase().replace('_', "-");
    name.contains(&b'_') && ["content-length", "transfer-encoding"].contains(&hyphens.as_str())
}

/// The chunked body that `bytes` begin with (RFC 9112 section 7.1).
pub fn chunks(bytes: &[u8], limits: &Limits) -> Result<Chunks, Stop> {
    let mut text = Text { all: bytes, at: 0 };
    let mut data = Vec::new();
    let mut extensions = 0;
    loop {
        let line = text.line(usize::MAX)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        require((1..=16).contains(&digits))?;
        let size = u64::from_str_radix(&String::from_utf8_lossy(&line[..digits]), 16).map_err(|_| Wrong)?;
        require(is_extension(&line[digits..]))?;
        extensions += line.len() - digits;
        require(extensions <= 16 << 10)?;
        if size == 0 {
            break;
        }
        require(size <= limits.body - data.len() as u64)?;
        let rest = text.rest();
        let size = usize::try_from(size).map_err(|_| Wrong)?;
        let Some(chunk) = rest.get(..size) else {
            return Err(Incomplete);
        };
        data.extend_from_slice(chunk);
        match rest[size..] {
            [] | [b'\r'] => return Err(Incomplete),
            [b'\r', b'\n', ..] => text.at += size + 2,
            _ => return Err(Wrong),
        }
    }
    // What decodes the body takes no more than these.
    let (most, total) = (limits.header_fields.min(100), limits.header_total.min(16 << 10));
    let trailers = fields(&mut text, limits.header_field, most, total)?;
    require(trailers.iter().all(|(name, _)| may_trail(name)))?;
    Ok(Chunks {
        length: text.at,
        data,
        trailers,
    })
}

/// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112 section 7.1.1), no space before the first.
fn is_extension(text: &[u8]) -> bool {
    let mut rest = Cow::Borrowed(text);
    let mut first = true;
    while !rest.is_empty() {
        let Some(behind) = (if first { &rest[..] } else { spaces(&rest) }).strip_prefix(b";") else {
            return false;
        };
        let behind = spaces(behind);
        let name = behind.iter().take_while(|byte| is_token(&[**byte])).count();
        if name == 0 {
            return false;
        }
        let mut next = &behind[name..];
        if let Some(value) = spaces(next).strip_prefix(b"=") {
            let value = spaces(value);
            let length = match value.first() {
                Some(b'"') => quoted(value),
                _ => Some(value.iter().take_while(|byte| is_token(&[**byte])).count()).filter(|length| *length > 0),
            };
            let Some(length) = length else { return false };
            next = &value[length..];
        }
        rest = Cow::Owned(next.to_vec());
        first = false;
    }
    true
}

fn spaces(text: &[u8]) -> &[u8] {
    let count = text.iter().take_while(|byte| **byte == b' ' || **byte == b'\t').count();
    &text[count..]
}

/// Length of the quoted-string at the beginning (RFC 9110 section 5.6.4).
pub fn quoted(text: &[u8]) -> Option<usize> {
    let is_text = |byte: u8| byte == b'\t' || byte >= 0x20 && byte != 0x7f;
    let mut at = 1;
    loop {
        at += match (text.get(at)?, text.get(at + 1)) {
            (b'"', _) => return Some(at + 1),
            (b'\\', Some(escaped)) if is_text(*escaped) => 2,
            (b'\\', _) => return None,
            (byte, _) if is_text(*byte) => 1,
            _ => return None,
        };
    }
}

/// Whether a field may stand behind the body (RFC 9110 section 6.5.1): not one that frames, routes, authenticates or
/// modifies the request, nor says what the content is.
fn may_trail(name: &[u8]) -> bool {
    const NOT: &str = "authorization cache-control connection content-encoding content-length content-range content-type \
        cookie expect forwarded host if-match if-modified-since if-none-match if-range if-unmodified-since keep-alive \
        max-forwards pragma proxy-authorization proxy-connection range set-cookie te trailer transfer-encoding upgrade via";
    let lower = String::from_utf8_lossy(name).to_ascii_lowercase();
    !NOT.split_whitespace().any(|other| other == lower) && !imitates_framing(name)
}
