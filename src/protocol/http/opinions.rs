//! The golden requests and their mutants, read by us and by the simple reader of tests/support: both must read the same.
//!
//! Takes what `golden.rs` replays; gives a failure that shows the bytes of which there are two opinions. Where the
//! reader cannot tell whether more bytes would help, a refusal is as right as waiting.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::golden::{Case, LIMITS, Seen, cases, latin_1, percent_decoded, replay};

#[path = "../../../tests/support/reader.rs"]
mod reader;

/// Mutants of every short golden request: as many as `count` of each, always the same.
fn mutants(count: usize, mut look: impl FnMut(&Case, &[u8])) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below
    };
    let odd = b"\r\n\t \0\x0b\x0c:;,%#/*?=\"\\[]@_-+0123456789abcfxAFGZ\x7f\x80\x85\xa0\xff";
    let (valid, invalid) = (cases("valid"), cases("invalid"));
    for case in valid.iter().chain(&invalid).filter(|case| case.bytes.len() < 600) {
        for _ in 0..count {
            let mut bytes = case.bytes.clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                match random(3) {
                    0 => bytes[at] = odd[random(odd.len())],
                    1 => bytes.insert(at, odd[random(odd.len())]),
                    _ => drop(bytes.drain(at..(at + 1 + random(3)).min(bytes.len() - 1).max(at))),
                }
            }
            look(case, &bytes);
        }
    }
}

#[test]
fn mutated_golden_requests_come_out_the_same_in_every_split() {
    mutants(50, |case, bytes| {
        let whole = replay([bytes].into_iter(), &case.limits);
        let slowly = replay(bytes.chunks(1), &case.limits);
        assert_eq!(slowly, whole, "{}: {}", case.name, bytes.escape_ascii());
        let (begin, end) = bytes.split_at(bytes.len() / 2);
        let halves = replay([begin, end].into_iter(), &case.limits);
        assert_eq!(halves, whole, "{}: {}", case.name, bytes.escape_ascii());
    });
}

/// What the reader of tests/support says of the same bytes, in our words.
fn second_opinion(bytes: &[u8]) -> (Vec<Seen>, reader::End) {
    let (requests, end) = reader::read(bytes);
    let seen = |asked: reader::Asked| {
        let path_and_query = match asked.target.windows(3).position(|three| three == b"://") {
            Some(scheme) if !asked.target.starts_with(b"/") => {
                let rest = &asked.target[scheme + 3..];
                let end = rest.iter().position(|byte| b"/?".contains(byte)).unwrap_or(rest.len());
                (latin_1(&rest[end..]), Some(latin_1(&rest[..end])))
            }
            _ if asked.target == b"*" => (String::new(), None),
            _ => (latin_1(&asked.target), None),
        };
        let (path, query) = path_and_query.0.split_once('?').unwrap_or((&path_and_query.0, ""));
        let mut environ = BTreeMap::new();
        for (name, value) in &asked.fields {
            let name = latin_1(name);
            if !name.contains('_') {
                let upper = name.to_ascii_uppercase().replace('-', "_");
                let prefix = if upper.starts_with("CONTENT_") { "" } else { "HTTP_" };
                environ.insert(format!("{prefix}{upper}"), latin_1(value));
            }
        }
        if let Some(authority) = path_and_query.1 {
            environ.insert("HTTP_HOST".into(), authority);
        }
        let version = if asked.old { "HTTP/1.0" } else { "HTTP/1.1" };
        environ.insert("REQUEST_METHOD".into(), latin_1(&asked.method));
        environ.insert("SERVER_PROTOCOL".into(), version.into());
        Seen {
            method: latin_1(&asked.method),
            target: latin_1(&asked.target),
            path_info: percent_decoded(path),
            query: query.to_owned(),
            version,
            close: asked.close,
            body: asked.body,
            trailers: asked
                .trailers
                .iter()
                .map(|(name, value)| (latin_1(name), latin_1(value)))
                .collect(),
            environ,
        }
    };
    (requests.into_iter().map(seen).collect(), end)
}

/// Both read the same requests, and where one stops the other does.
fn agree(name: &str, bytes: &[u8]) {
    let (ours, outcome) = replay([bytes].into_iter(), &LIMITS);
    let (theirs, end) = second_opinion(bytes);
    assert_eq!(ours, theirs, "{name}: {}", bytes.escape_ascii());
    let right = match end {
        reader::End::All | reader::End::Close => outcome.is_ok(),
        reader::End::Refused => outcome.is_err(),
        reader::End::Unclear => true,
    };
    assert!(right, "{name}: {end:?}, but {outcome:?}: {}", bytes.escape_ascii());
}

#[test]
fn golden_requests_are_read_as_a_simple_reader_reads_them() {
    for case in cases("valid").iter().chain(&cases("invalid")) {
        let is_by_default = case.limits == LIMITS && !case.name.contains("-too-") && !case.name.contains("-above-");
        if is_by_default {
            agree(&case.name, &case.bytes);
        }
    }
}

#[test]
fn mutated_golden_requests_are_read_as_a_simple_reader_reads_them() {
    mutants(150, |case, bytes| agree(&case.name, bytes));
}
