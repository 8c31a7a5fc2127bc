//! Replays the golden requests against head and follower, in every way their bytes can arrive.
//!
//! Takes tests/requests; gives a failure that names the case and the split. What the I/O around the parser does with
//! the same files is the integration tests' part.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::framing::{Follower, Framing};
use super::head::{Head, Limits, Progress, Version};
use super::refusal::Refusal;

/// What the configuration has by default.
pub(super) const LIMITS: Limits = Limits {
    request_line: 8 << 10,
    header_field: 8 << 10,
    header_fields: 100,
    header_total: 64 << 10,
    body: 1 << 30,
};

/// What an expectation file says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectation {
    reason: String,
    #[serde(default)]
    limits: LimitOverrides,
    status: Option<u16>,
    /// The constant of [`Refusal`].
    refusal: Option<String>,
    #[serde(default)]
    request: Vec<Expected>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LimitOverrides {
    request_line: Option<usize>,
    header_field: Option<usize>,
    header_fields: Option<usize>,
    header_total: Option<usize>,
    body: Option<u64>,
    /// For the server alone, which wants it below `body`.
    #[serde(rename = "body-buffer")]
    _body_buffer: Option<u64>,
}

/// One request as it must arrive; text is bytes as Latin-1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    method: String,
    target: String,
    path_info: Option<String>,
    query: String,
    version: String,
    #[serde(default)]
    close: bool,
    body: Option<String>,
    length: Option<usize>,
    sha256: Option<String>,
    #[serde(default)]
    trailers: Vec<(String, String)>,
    #[serde(default)]
    environ: BTreeMap<String, String>,
}

pub(super) struct Case {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    expectation: Expectation,
    pub(super) limits: Limits,
}

/// One request as it arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) path_info: String,
    pub(super) query: String,
    pub(super) version: &'static str,
    pub(super) close: bool,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<(String, String)>,
    pub(super) environ: BTreeMap<String, String>,
}

pub(super) fn cases(kind: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/requests").join(kind);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let (texts, requests): (Vec<_>, Vec<_>) = paths
        .into_iter()
        .partition(|path| path.extension().is_some_and(|extension| extension == "toml"));
    assert_eq!(texts.len(), requests.len(), "each .http file needs its .toml file");
    texts
        .iter()
        .zip(requests)
        .map(|(text, request)| case(text, &request))
        .collect()
}

fn case(text: &Path, request: &Path) -> Case {
    assert_eq!(text.with_extension("http"), request);
    let name = request.file_stem().unwrap().to_string_lossy().into_owned();
    let expectation: Expectation =
        toml::from_str(&fs::read_to_string(text).unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let low = &expectation.limits;
    let limits = Limits {
        request_line: low.request_line.unwrap_or(LIMITS.request_line),
        header_field: low.header_field.unwrap_or(LIMITS.header_field),
        header_fields: low.header_fields.unwrap_or(LIMITS.header_fields),
        header_total: low.header_total.unwrap_or(LIMITS.header_total),
        body: low.body.unwrap_or(LIMITS.body),
    };
    Case {
        name,
        bytes: fs::read(request).unwrap(),
        expectation,
        limits,
    }
}

/// Does what the owner of a socket does with the pieces it reads: the requests that were whole, and how it ended.
pub(super) fn replay<'a>(pieces: impl Iterator<Item = &'a [u8]>, limits: &Limits) -> (Vec<Seen>, Result<(), Refusal>) {
    let mut seen = Vec::new();
    let outcome = serve(pieces, limits, &mut seen);
    (seen, outcome)
}

fn serve<'a>(pieces: impl Iterator<Item = &'a [u8]>, limits: &Limits, seen: &mut Vec<Seen>) -> Result<(), Refusal> {
    let mut head = Head::default();
    let mut received = Vec::new();
    let mut body: Option<(Follower, usize)> = None;
    for piece in pieces {
        received.extend_from_slice(piece);
        loop {
            let Some((follower, taken)) = &mut body else {
                if received.is_empty() || head.parse(&received, limits)? == Progress::Partial {
                    break;
                }
                body = Some((Follower::new(head.framing, limits), head.len));
                continue;
            };
            *taken += follower.follow(&received[*taken..])?;
            if !follower.done() {
                break;
            }
            let end = *taken;
            seen.push(request(&head, &received[..end], follower));
            if !head.keep_alive {
                return Ok(());
            }
            received.drain(..end);
            body = None;
        }
    }
    Ok(())
}

fn request(head: &Head, bytes: &[u8], follower: &Follower) -> Seen {
    let path_and_query = latin_1(head.path_and_query().of(bytes));
    let (path, query) = path_and_query.split_once('?').unwrap_or((&path_and_query, ""));
    let raw = &bytes[head.len..];
    let body = if head.framing == Framing::Chunked {
        decoded(raw)
    } else {
        raw.to_vec()
    };
    assert_eq!(body.len() as u64, follower.data());
    Seen {
        method: latin_1(head.method.of(bytes)),
        target: latin_1(head.target.of(bytes)),
        path_info: percent_decoded(path),
        query: query.to_owned(),
        version: match head.version {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        },
        close: !head.keep_alive,
        body,
        trailers: follower
            .trailers()
            .map(|(name, value)| (latin_1(name), latin_1(value)))
            .collect(),
        environ: environ(head, bytes),
    }
}

/// As much of an environ as the cases ask for.
fn environ(head: &Head, bytes: &[u8]) -> BTreeMap<String, String> {
    let mut environ = BTreeMap::new();
    for field in &head.fields {
        let name = latin_1(field.name.of(bytes));
        if name.contains('_') {
            continue;
        }
        let name = name.to_ascii_uppercase().replace('-', "_");
        let key = if name.starts_with("CONTENT_") {
            name
        } else {
            format!("HTTP_{name}")
        };
        environ.insert(key, latin_1(field.value.of(bytes)));
    }
    if let Some(host) = head.host {
        environ.insert("HTTP_HOST".into(), latin_1(host.of(bytes)));
    }
    environ.insert("REQUEST_METHOD".into(), latin_1(head.method.of(bytes)));
    let version = if head.version == Version::Http10 {
        "HTTP/1.0"
    } else {
        "HTTP/1.1"
    };
    environ.insert("SERVER_PROTOCOL".into(), version.into());
    environ
}

pub(super) fn latin_1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

pub(super) fn percent_decoded(path: &str) -> String {
    let hex = |at: usize| {
        path.get(at..at + 2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
    };
    let mut out = String::new();
    let mut at = 0;
    while let Some(letter) = path[at..].chars().next() {
        match hex(at + 1) {
            Some(byte) if letter == '%' => {
                out.push(char::from(byte));
                at += 3;
            }
            _ => {
                out.push(letter);
                at += letter.len_utf8();
            }
        }
    }
    out
}

/// The data of a chunked body whose framing is known to be right.
fn decoded(mut raw: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let end = raw.iter().position(|&byte| !byte.is_ascii_hexdigit()).unwrap();
        let size = usize::from_str_radix(str::from_utf8(&raw[..end]).unwrap(), 16).unwrap();
        let line = raw.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        if size == 0 {
            return data;
        }
        data.extend_from_slice(&raw[line..line + size]);
        raw = &raw[line + size + 2..];
    }
}

fn check(case: &Case, expected: &Expected, seen: &Seen) {
    let name = &case.name;
    assert_eq!(seen.method, expected.method, "{name}");
    assert_eq!(seen.target, expected.target, "{name}");
    if let Some(path) = &expected.path_info {
        assert_eq!(&seen.path_info, path, "{name}");
    }
    assert_eq!(seen.query, expected.query, "{name}");
    assert_eq!(seen.version, expected.version, "{name}");
    assert_eq!(seen.close, expected.close, "{name}");
    assert_eq!(seen.trailers, expected.trailers, "{name}");
    match (&expected.body, expected.length, &expected.sha256) {
        (Some(body), None, None) => assert_eq!(latin_1(&seen.body), *body, "{name}"),
        (None, Some(length), Some(hash)) => {
            let digest: String = Sha256::digest(&seen.body)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!((seen.body.len(), &digest), (length, hash), "{name}");
        }
        (None, None, None) => assert!(seen.body.is_empty(), "{name}"),
        _ => panic!("{name}: body, or length and sha256"),
    }
    for (key, value) in &expected.environ {
        assert_eq!(seen.environ.get(key), Some(value), "{name}: {key}");
    }
}

/// Every place to cut a short case, and for a long one the ends and a sample between.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    (1..length).filter(move |&at| length < 1500 || at < 300 || at + 100 > length || at % (length / 50) == 0)
}

/// Whatever the pieces, the outcome is that of the whole.
fn is_the_same_in_pieces(case: &Case, whole: &(Vec<Seen>, Result<(), Refusal>)) {
    let bytes = &case.bytes;
    let check = |how: &str, pieces: Vec<&[u8]>| {
        assert_eq!(&replay(pieces.into_iter(), &case.limits), whole, "{} {how}", case.name);
    };
    check("byte by byte", bytes.chunks(1).collect());
    check("in threes", bytes.chunks(3).collect());
    for at in cuts(bytes.len()) {
        check(&format!("cut at {at}"), vec![&bytes[..at], &bytes[at..]]);
    }
}

#[test]
fn valid_golden_requests_arrive_as_expected_in_every_split() {
    for case in cases("valid") {
        let whole = replay([&case.bytes[..]].into_iter(), &case.limits);
        assert_eq!(whole.1, Ok(()), "{}", case.name);
        assert_eq!(whole.0.len(), case.expectation.request.len(), "{}", case.name);
        for (expected, seen) in case.expectation.request.iter().zip(&whole.0) {
            check(&case, expected, seen);
        }
        is_the_same_in_pieces(&case, &whole);
    }
}

#[test]
fn invalid_golden_requests_are_refused_as_expected_in_every_split() {
    for case in cases("invalid") {
        let whole = replay([&case.bytes[..]].into_iter(), &case.limits);
        let named = case.expectation.refusal.as_deref();
        let expected = named.map(|name| Refusal::named(name).unwrap_or_else(|| panic!("{}: {name}?", case.name)));
        assert_eq!(whole.1.err(), expected, "{}", case.name);
        assert_eq!(
            expected.map(|refusal| refusal.status),
            case.expectation.status,
            "{}",
            case.name
        );
        assert!(whole.0.is_empty(), "{} yielded a request", case.name);
        is_the_same_in_pieces(&case, &whole);
    }
}

#[test]
fn there_are_many_golden_requests_and_each_shows_something_else() {
    let (valid, invalid) = (cases("valid"), cases("invalid"));
    assert!(valid.len() + invalid.len() >= 250);
    let mut seen = BTreeMap::new();
    for case in valid.iter().chain(&invalid) {
        let same = seen.insert((&case.bytes, format!("{:?}", case.limits)), &case.name);
        assert_eq!(same, None, "{} has the same bytes", case.name);
    }
}

#[test]
fn each_golden_request_names_its_reason() {
    for case in cases("valid").iter().chain(&cases("invalid")) {
        let reason = &case.expectation.reason;
        let behind = |word: &str| reason.split_once(word).and_then(|(_, rest)| rest.bytes().next());
        let names_its_source = behind("RFC ").is_some_and(|byte| byte.is_ascii_digit())
            || behind("CVE-").is_some_and(|byte| byte.is_ascii_digit())
            || reason.starts_with("ours: ");
        assert!(
            names_its_source && reason.len() > 20,
            "{}: name an RFC's section, a CVE, or begin with `ours: `: {reason}",
            case.name
        );
    }
}
