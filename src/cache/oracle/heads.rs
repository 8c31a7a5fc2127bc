//! Which request a variant is for, and what a 304 changes, held against the other reading.
//!
//! Takes heads drawn at random; gives proof that both find the same. Where we differ on purpose it is said beside.

use std::collections::BTreeMap;

use http_cache_semantics::{AfterResponse, BeforeRequest, CachePolicy};

use super::draw::{NOW, drawn, pairs, plain_date};
use super::{came, seed};
use crate::cache::conditional::{freshen, is_about};
use crate::cache::key::{selecting, variant};
use crate::cache::response::lines;
use crate::cache::tests::Random;

const PAIRS: u64 = 20_000;
const NAMES: &[&str] = &["accept", "accept-language", "x-a"];
/// As short ones as can be, so that many are the same.
const MEMBERS: &[&str] = &["", "a", "a", "b", "\"a , b\"", "\"a,b\""];
const TAGS: &[&str] = &["\"1\"", "\"1\"", "\"2\"", "W/\"1\"", "W/\"2\""];

type Head = Vec<(String, String)>;

/// A request as it is sent, and the members of each of its lists.
fn request(random: &mut Random) -> (Head, BTreeMap<&'static str, Vec<&'static str>>) {
    let (mut fields, mut meant) = (Head::new(), BTreeMap::new());
    for _ in 0..random.below(5) {
        let (name, members) = (random.of(NAMES), random.below(2) + 1);
        let members: Vec<_> = (0..members).map(|_| random.of(MEMBERS)).collect();
        let separator = random.of(&[",", ", ", " ,\t "]);
        fields.push((random.cased(name), members.join(separator)));
        meant.entry(name).or_insert_with(Vec::new).extend(members);
    }
    (fields, meant)
}

#[test]
fn another_reading_of_vary_finds_the_same_variants() {
    let mut found = [0; 2];
    for number in 0..PAIRS {
        let random = &mut drawn(seed(), number);
        let ((kept, kept_meant), (asked, asked_meant)) = (request(random), request(random));
        let listed: Vec<_> = (0..=random.below(3)).map(|_| random.of(NAMES)).collect();
        let vary: Head = listed
            .iter()
            .map(|name| (random.cased("vary"), random.cased(name) + " ,"))
            .collect();
        let names = selecting(pairs(&vary), None).unwrap();
        let key = |fields: &Head| {
            let mut key = Vec::new();
            variant(&names, pairs(fields), &mut key);
            key
        };
        let ours = key(&kept) == key(&asked);
        // Theirs compares the first line of each name as it is (section 4.1 lets both be brought to one form).
        let shown = |meant: &BTreeMap<&str, Vec<&str>>| {
            let request = http::Request::builder().uri("http://e/");
            let add = |request: http::request::Builder, (name, members): (&&str, &Vec<&str>)| {
                request.header(*name, members.join(","))
            };
            meant.iter().fold(request, add).body(()).unwrap()
        };
        let response = http::Response::builder()
            .header("cache-control", "max-age=60")
            .header("vary", listed.join(", "));
        let response = response.body(()).unwrap();
        let policy = CachePolicy::new_options(&shown(&kept_meant), &response, came(), Default::default());
        let theirs = policy.before_request(&shown(&asked_meant), came());
        let theirs = matches!(theirs, BeforeRequest::Fresh(_));
        assert_eq!(
            ours,
            theirs,
            "seed {}, pair {number}: {vary:?} {kept:?} {asked:?}",
            seed()
        );
        found[usize::from(ours)] += 1;
    }
    println!("seed {}: {found:?} were of other variants and of the same", seed());
    assert!(found.iter().all(|times| *times > PAIRS / 10), "{found:?}");
}

/// A head with each name once, as lines; what is of no content may be there.
fn head(random: &mut Random, value: &str) -> Vec<(&'static str, String)> {
    const OTHERS: &[&str] = &["x-a", "x-b", "cache-control", "expires", "content-location", "vary"];
    const OF_CONTENT: &[&str] = &["content-length", "content-encoding", "content-range", "content-type"];
    let mut head = Vec::new();
    for name in OTHERS.iter().chain(OF_CONTENT) {
        if random.one_in(2) {
            head.push((*name, value.to_owned()));
        }
    }
    if random.one_in(2) {
        head.push(("etag", random.of(TAGS).to_owned()));
    }
    if random.one_in(2) {
        head.push(("last-modified", plain_date(NOW - random.below(2))));
    }
    head
}

fn text(head: &[(&str, String)]) -> Vec<u8> {
    let line = |(name, value): &(&str, String)| format!("{name}: {value}\r\n");
    head.iter().map(line).collect::<String>().into_bytes()
}

#[test]
fn another_reading_of_a_304_changes_the_same_fields() {
    let mut found = [0; 3];
    for number in 0..PAIRS {
        let random = &mut drawn(seed() ^ 304, number);
        let (kept, new) = (head(random, "old"), head(random, "new"));
        let has = |head: &[(&str, String)], name| head.iter().any(|(found, _)| *found == name);
        let (old_text, new_text) = (text(&kept), text(&new));
        let about = is_about(lines(&old_text), lines(&new_text));
        let told = || format!("seed {}, pair {number}: {kept:?} {new:?}", seed());
        // Section 4.3.4 lets a 304 without a validator change only what has none either. It answers a question that named one response: it
        // is about that unless it says another; many handlers say nothing. Of two kinds the same kind is compared.
        let is_strong = text(&new).windows(7).any(|line| line == b"etag: \"");
        let both = |name| has(&new, name) && has(&kept, name);
        let says = is_strong || both("etag") || both("last-modified");
        if !says {
            assert!(about, "{}", told());
            found[2] += 1;
        }
        let build = |head: &[(&str, String)], status: u16| {
            let response = http::Response::builder().status(status);
            let add = |response: http::response::Builder, (name, value): &(&str, String)| response.header(*name, value);
            head.iter().fold(response, add).body(()).unwrap()
        };
        let request = http::Request::builder().uri("http://e/").body(()).unwrap();
        let policy = CachePolicy::new_options(&request, &build(&kept, 200), came(), Default::default());
        let theirs = policy.after_response(&request, &build(&new, 304), came());
        let AfterResponse::NotModified(_, theirs) = theirs else {
            assert!(!says || !about, "{}", told());
            found[0] += 1;
            continue;
        };
        assert!(about, "{}", told());
        found[1] += 1;
        let ours = freshen(&old_text, &new_text);
        let ours: BTreeMap<_, _> = lines(&ours).collect();
        for (name, _) in kept.iter().chain(&new) {
            let ours = ours.get(name.as_bytes()).map(|value| String::from_utf8_lossy(value));
            let theirs = theirs.headers.get(*name).map(|value| value.to_str().unwrap());
            if !has(&kept, name) {
                // Section 3.2: it is added; theirs only replaces. But not what is of a content that did not come.
                let of_content = name.starts_with("content-") && *name != "content-location";
                assert_eq!(ours.is_some(), !of_content, "{name}, {}", told());
            } else if *name == "content-type" {
                // Handlers give their 304 the type of an empty page. Theirs takes it.
                assert_eq!(ours.as_deref(), Some("old"), "{}", told());
            } else {
                assert_eq!(ours.as_deref(), theirs, "{name}, {}", told());
            }
        }
    }
    println!(
        "seed {}: {found:?} were of another, were of what is kept, and did not say",
        seed()
    );
    assert!(found.iter().all(|times| *times > PAIRS / 10), "{found:?}");
}
