//! A second opinion on what a stream of bytes asks for: HTTP/1.1 read as simply and as strictly as it can be.
//!
//! Takes all the bytes that a client sends; gives the requests among them and why there are no more. It cuts whole lines
//! out of a whole buffer and shares no code and no idea with the server, so that both being wrong alike is unlikely. It
//! knows no limits but those that the server has by default, and has no time for speed.

use std::net::Ipv6Addr;

/// One request, as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub old: bool,
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
    pub close: bool,
}

/// Why the reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All bytes belong to the requests.
    All,
    /// The last request asked for the end.
    Close,
    /// What follows is no request.
    Refused,
    /// What follows may become one, or be refused already.
    Unclear,
}

/// A message that must be refused, or one that is not whole.
enum Stop {
    Refused,
    Unclear,
}

/// All requests in `bytes`.
pub fn read(mut bytes: &[u8]) -> (Vec<Asked>, End) {
    let mut requests = Vec::new();
    while !bytes.is_empty() {
        match request(bytes) {
            Ok((request, rest)) => {
                requests.push(request);
                bytes = rest;
                if requests.last().is_some_and(|last| last.close) {
                    return (requests, End::Close);
                }
            }
            Err(Stop::Refused) => return (requests, End::Refused),
            Err(Stop::Unclear) => return (requests, End::Unclear),
        }
    }
    (requests, End::All)
}

fn is(right: bool) -> Result<(), Stop> {
    if right { Ok(()) } else { Err(Stop::Refused) }
}

/// The line at the beginning, and what follows its CR LF.
fn line(bytes: &[u8]) -> Result<(&[u8], &[u8]), Stop> {
    let at = bytes.windows(2).position(|two| two == b"\r\n").ok_or(Stop::Unclear)?;
    let line = &bytes[..at];
    is(line.iter().all(|byte| *byte == b'\t' || *byte >= 32 && *byte != 127))?;
    Ok((line, &bytes[at + 2..]))
}

fn is_token(text: &[u8]) -> bool {
    const OTHERS: &[u8] = b"!#$%&'*+-.^_`|~";
    !text.is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || OTHERS.contains(byte))
}

fn trimmed(text: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| *byte != b' ' && *byte != b'\t';
    match (text.iter().position(is_text), text.iter().rposition(is_text)) {
        (Some(first), Some(last)) => &text[first..=last],
        _ => b"",
    }
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Lines up to the blank one.
fn fields(mut bytes: &[u8], most: usize) -> Result<(Fields, &[u8]), Stop> {
    let mut fields = Fields::new();
    loop {
        let (line, rest) = line(bytes)?;
        if line.is_empty() {
            return Ok((fields, rest));
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Stop::Refused)?;
        is(is_token(&line[..colon]) && line.len() <= 8192 && fields.len() < most)?;
        fields.push((line[..colon].to_vec(), trimmed(&line[colon + 1..]).to_vec()));
        bytes = rest;
    }
}

/// The values of a field, by its lower-case name.
fn values<'a>(fields: &'a Fields, name: &str) -> Vec<&'a [u8]> {
    let same = fields
        .iter()
        .filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
    same.map(|(_, value)| &value[..]).collect()
}

fn request(bytes: &[u8]) -> Result<(Asked, &[u8]), Stop> {
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let (first, rest) = line(bytes)?;
    let words: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else {
        return Err(Stop::Refused);
    };
    is(first.len() <= 8192 && version.starts_with(b"HTTP/1.") && matches!(version[7..], [b'0' | b'1']))?;
    let old = version.ends_with(b"0");
    let is_of_method = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"-_".contains(byte);
    is(method.len() <= 32 && method.first().is_some_and(u8::is_ascii_uppercase) && method.iter().all(is_of_method))?;
    is(method != b"CONNECT" && is_target(target, method))?;
    let (fields, rest) = fields(rest, 100)?;

    let hosts = values(&fields, "host");
    is(hosts.len() == 1 || hosts.is_empty() && old)?;
    is(hosts.iter().all(|host| is_authority(host)))?;
    is(values(&fields, "content-type").len() <= 1)?;
    for (name, _) in &fields {
        is(!is_lookalike(name))?;
    }
    if !old {
        let expected = values(&fields, "expect");
        is(expected.iter().all(|value| value.eq_ignore_ascii_case(b"100-continue")))?;
    }
    let connection = values(&fields, "connection");
    let options: Vec<String> = connection
        .iter()
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(|option| String::from_utf8_lossy(trimmed(option)).to_ascii_lowercase())
        .collect();
    let says = |option: &str| options.iter().any(|other| other == option);

    let (lengths, codings) = (values(&fields, "content-length"), values(&fields, "transfer-encoding"));
    let (body, trailers, rest) = match (&lengths[..], &codings[..]) {
        ([], []) => (Vec::new(), Fields::new(), rest),
        ([length], []) => {
            let length = decimal(length)?;
            let body = rest.get(..length).ok_or(Stop::Unclear)?;
            (body.to_vec(), Fields::new(), &rest[length..])
        }
        ([], [coding]) if !old && coding.eq_ignore_ascii_case(b"chunked") => chunks(rest)?,
        _ => return Err(Stop::Refused),
    };
    let request = Asked {
        method: method.to_vec(),
        target: target.to_vec(),
        old,
        fields,
        body,
        trailers,
        close: says("close") || old && !says("keep-alive"),
    };
    Ok((request, rest))
}

/// Names that are framing fields to whoever turns hyphens into underscores.
fn is_lookalike(name: &[u8]) -> bool {
    let plain = String::from_utf8_lossy(name).to_ascii_lowercase();
    let name = plain.replace('_', "-");
    plain != name && (name == "content-length" || name == "transfer-encoding")
}

fn is_target(target: &[u8], method: &[u8]) -> bool {
    let text = String::from_utf8_lossy(target).to_ascii_lowercase();
    let bytes = target.iter().all(|byte| *byte > 32 && *byte != 127 && *byte != b'#');
    let scheme = if text.starts_with("https://") { 8 } else { 7 };
    let form = if text.starts_with('/') {
        true
    } else if text.starts_with("http://") || text.starts_with("https://") {
        let rest = &target[scheme..];
        let end = rest.iter().position(|byte| b"/?".contains(byte)).unwrap_or(rest.len());
        is_authority(&rest[..end])
    } else {
        text == "*" && method == b"OPTIONS"
    };
    bytes && form
}

fn is_authority(text: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(text) else {
        return false;
    };
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<Ipv6Addr>().is_err() || !rest.is_empty() && !rest.starts_with(':') {
                return false;
            }
            ("v6", rest.strip_prefix(':').unwrap_or(""))
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit()) && port.len() <= 5;
    digits && port.parse::<u32>().unwrap_or(0) < 65536 && is_name(host.as_bytes())
}

fn is_name(host: &[u8]) -> bool {
    let mut rest = host;
    while let [first, behind @ ..] = rest {
        rest = match behind {
            [a, b, behind @ ..] if *first == b'%' && a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => behind,
            _ if first.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(first) => behind,
            _ => return false,
        };
    }
    !host.is_empty()
}

/// A length, at most a GiB.
fn decimal(text: &[u8]) -> Result<usize, Stop> {
    is(!text.is_empty() && text.iter().all(u8::is_ascii_digit))?;
    let text = str::from_utf8(text).map_err(|_| Stop::Refused)?.trim_start_matches('0');
    let length = if text.is_empty() { Some(0) } else { text.parse().ok() };
    length.filter(|length| *length <= 1 << 30).ok_or(Stop::Refused)
}

type Chunked<'a> = (Vec<u8>, Fields, &'a [u8]);

fn chunks(mut bytes: &[u8]) -> Result<Chunked<'_>, Stop> {
    let mut body = Vec::new();
    loop {
        let (line, rest) = line(bytes)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        is((1..=16).contains(&digits) && are_extensions(&line[digits..]))?;
        let text = str::from_utf8(&line[..digits]).map_err(|_| Stop::Refused)?;
        let size = usize::from_str_radix(text, 16).map_err(|_| Stop::Refused)?;
        is(size <= (1 << 30) - body.len())?;
        if size == 0 {
            let (trailers, rest) = fields(rest, 100)?;
            is(trailers.iter().all(|(name, _)| may_trail(name)))?;
            return Ok((body, trailers, rest));
        }
        body.extend_from_slice(rest.get(..size).ok_or(Stop::Unclear)?);
        let behind = &rest[size..];
        is(b"\r\n".starts_with(&behind[..behind.len().min(2)]))?;
        bytes = behind.get(2..).ok_or(Stop::Unclear)?;
    }
}

/// `;name`, `;name=token` or `;name="anything"`, whitespace around semicolon and equals sign but not before the first.
fn are_extensions(text: &[u8]) -> bool {
    let text: String = text.iter().copied().map(char::from).collect();
    let is_space = |letter: char| letter == ' ' || letter == '\t';
    let token = |text: &str| text.find(|letter: char| !letter.is_ascii() || !is_token(&[letter as u8]));
    let mut rest = &text[..];
    while let Some(behind) = rest.strip_prefix(';') {
        let name = behind.trim_start_matches(is_space);
        let end = token(name).unwrap_or(name.len());
        if end == 0 {
            return false;
        }
        rest = &name[end..];
        if let Some(value) = rest.trim_start_matches(is_space).strip_prefix('=') {
            let value = value.trim_start_matches(is_space);
            let end = match value.strip_prefix('"') {
                Some(quoted) => match closing_quote(quoted) {
                    Some(end) => end + 2,
                    None => return false,
                },
                None => token(value).unwrap_or(value.len()),
            };
            if end == 0 {
                return false;
            }
            rest = &value[end..];
        }
        if rest.trim_start_matches(is_space).starts_with(';') {
            rest = rest.trim_start_matches(is_space);
        }
    }
    rest.is_empty()
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some(at),
            '\\' => drop(letters.next()?),
            _ => {}
        }
    }
    None
}

fn may_trail(name: &[u8]) -> bool {
    const NOT: &str = " authorization cache-control connection content-encoding content-length content-range \
        content-type cookie expect forwarded host if-match if-modified-since if-none-match if-range \
        if-unmodified-since keep-alive max-forwards pragma proxy-authorization proxy-connection range set-cookie te \
        trailer transfer-encoding upgrade via ";
    let lower = String::from_utf8_lossy(name).to_ascii_lowercase();
    !NOT.contains(&format!(" {lower} ")) && !is_lookalike(name)
}
