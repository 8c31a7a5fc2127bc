//! Our reading of RFC 9111 held against another author's: the crate `http-cache-semantics`, told to be a shared cache.
//!
//! Takes pairs of a request and a response drawn at random, and a later request; gives proof that both decide the same: what is kept, for how
//! long it is fresh, how old it is, what it answers, and when it may be stale. Ours gets the fields as careless origins write them, theirs what they
//! mean; so our parsing is tried as well. Where we differ on purpose it is said here, with the reason: in `REFUSED` what we do not keep, in
//! `shown`, `request` and `expected` what theirs is told instead. `ORACLE_SEED` draws others.

mod draw;
mod heads;
mod targeted;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy};

use super::policy::{Asked, Lifetime, NotKept, Reuse, keep};
use draw::{Asking, Draw, NOW, Said, drawn, pairs, plain_date};

const PAIRS: u64 = 20_000;
/// Later requests for each response that is kept.
const LATER: usize = 4;

type Refusal = (&'static str, fn(&Draw) -> bool);

/// What we do not keep though it might be, RFC 9111 section 3 saying only what must not be.
const REFUSED: &[Refusal] = &[
    // HEAD is answered from what GET has got; a POST's answer would be one to GET, and only with Content-Location (RFC 9110 section 9.3.3).
    ("a method other than GET", |draw| draw.method != "GET"),
    // The answer may be a part, whatever its status says; parts are not put together (section 3.3).
    ("a request for a part", |draw| draw.range),
    // Section 7.3: what sets a cookie is for one client, whatever is said of it; theirs keeps it, and uses it when it is public or immutable.
    ("a cookie", |draw| draw.set_cookie),
    // Section 4.1: never fits a request again; theirs keeps it and does not use it.
    ("Vary: *", |draw| draw.vary_any),
    // Section 5.2.2.3, which theirs does not know.
    ("a status that must be understood", |draw| {
        draw.said().has("must-understand") && !draw.is_heuristic()
    }),
    // Section 4.2.2: theirs keeps what is never fresh. Without a lifetime, given or guessed, there is nothing to answer with; it is worth keeping to
    // ask about only where the origin says so by no-cache, and has given a validator.
    ("no lifetime", |draw| {
        draw.lifetime_text().is_none()
            && !(draw.may_guess() && draw.modified.is_some())
            && !(draw.said().has("no-cache") && (draw.modified.is_some() || draw.etag))
    }),
    // Nor what is stale when it comes, and cannot be asked about: each request would be made to wait for another, for nothing.
    ("no use", |draw| {
        !draw.has_validator
            && (draw.said().has("no-cache")
                || draw
                    .life()
                    .is_some_and(|life| draw.initial_age() >= (life + draw.stale_for()) * 1000))
    }),
];

impl Draw {
    fn ours(&self) -> Result<Lifetime, NotKept> {
        let asked = Asked::of(self.method.as_bytes(), pairs(&self.asked.fields));
        keep(&asked, self.status, pairs(&self.response), self.times, self.wishes)
    }

    /// What theirs makes of it. `life` takes the place of what the response says. What is kept is `used` under conditions that theirs does not know;
    /// they are shown by others, which would change what is kept.
    fn shown(&self, age: u64, life: Option<u64>, used: bool) -> CachePolicy {
        let mut said = self.said().clone();
        // Section 5.2.2.3: where the status is understood, no-store is said to the others.
        if said.0.remove("must-understand").is_some() && self.is_heuristic() {
            said.0.remove("no-store");
        }
        if used {
            // Section 5.2.2.8: only once it is stale. For theirs it is never fresh then.
            let proxies = said.0.remove("proxy-revalidate").is_some();
            // Section 5.2.2.10: s-maxage means the same. Section 5.2.2.4: no-cache holds for clients that take stale ones, too.
            if proxies || said.has("s-maxage") || said.has("no-cache") {
                said.note("must-revalidate", None);
            }
        }
        match life {
            Some(life) => {
                said.0.insert("s-maxage", Some(life));
            }
            None if self.lifetime_text() == Some("ttl") => said.note("max-age", self.wishes.ttl),
            None => {}
        }
        let date = self.date.unwrap_or(NOW);
        let mut response = http::Response::builder()
            // RFC 9111 section 3 lets any final status be kept with a lifetime; RFC 7234, which theirs reads, those that the cache understands.
            .status(if self.is_heuristic() || matches!(self.status, 206 | 304) {
                self.status
            } else {
                302
            })
            .header("cache-control", said.text())
            .header("date", plain_date(date))
            .header("age", age);
        if let Some(expires) = self.expires() {
            response = response.header("expires", expires.map_or("0".into(), plain_date));
        }
        if let Some(modified) = self.modified {
            // A guess of a day is the longest.
            response = response.header("last-modified", plain_date(modified.max(date - 864_000)));
        }
        let flags = [(self.set_cookie, "set-cookie", "a=b"), (self.vary_any, "vary", "*")];
        for (_, name, value) in flags.iter().filter(|(is, ..)| *is) {
            response = response.header(*name, *value);
        }
        let mut request = request(self.method, &self.asked.said, self.asked.pragma);
        if self.authorization && !used {
            request
                .headers_mut()
                .insert("authorization", http::HeaderValue::from_static("x"));
        }
        let options = CacheOptions {
            shared: true,
            cache_heuristic: if self.may_guess() { 0.1 } else { 0.0 },
            ..CacheOptions::default()
        };
        CachePolicy::new_options(&request, &response.body(()).unwrap(), came(), options)
    }
}

/// A request as theirs sees it.
fn request(method: &str, asked: &Said, pragma: bool) -> http::Request<()> {
    let mut asked = asked.clone();
    // Section 5.2.1.2: by no more than; theirs: by less than.
    if let Some(Some(most)) = asked.0.get_mut("max-stale") {
        *most += 1;
    }
    let mut request = http::Request::builder().method(method).uri("http://e/");
    if !asked.0.is_empty() {
        request = request.header("cache-control", asked.text());
    }
    if pragma {
        request = request.header("pragma", "no-cache");
    }
    request.body(()).unwrap()
}

/// When theirs got the response. It counts ages in fractions of a second, ours shows whole ones: it is told the time in such.
fn came() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// What theirs says of a later request at an age, section 4.2.4 and RFC 5861 section 3 being put together of its answers to simpler ones.
fn expected(draw: &Draw, asking: &Asking, ours: &Lifetime, age: u64) -> Reuse {
    let said = draw.said();
    let never = ["must-revalidate", "proxy-revalidate", "no-cache"]
        .iter()
        .any(|name| said.has(name));
    let answers = |life: Option<u64>, asked: &Said| {
        let (request, policy) = (request("GET", asked, asking.pragma), draw.shown(0, life, true));
        let now = came() + Duration::from_secs(age);
        matches!(policy.before_request(&request, now), BeforeRequest::Fresh(_))
    };
    let mut strict = asking.said.clone();
    strict.0.remove("max-stale");
    let longer = |by: &str| {
        said.number(by)
            .filter(|by| *by > 0 && !never)
            .map(|by| ours.fresh_for + by)
    };
    // Section 5.2.1.3: what is stale is not fresh for any time more. Theirs knows no lifetime left below zero, nor what is longer than we say it is.
    let too_old = strict
        .number("min-fresh")
        .is_some_and(|wanted| age + wanted > ours.fresh_for);
    let meanwhile = longer("stale-while-revalidate").filter(|_| !too_old);
    if answers(None, &strict) {
        Reuse::Fresh(age)
    } else if meanwhile.is_some_and(|life| answers(Some(life), &strict)) {
        Reuse::Stale(age)
    } else if !too_old && answers(None, &asking.said) {
        Reuse::Fresh(age)
    } else {
        let if_error = longer("stale-if-error").is_some_and(|life| age < life);
        Reuse::Validate { age, if_error }
    }
}

/// What all is drawn by.
fn seed() -> u64 {
    std::env::var("ORACLE_SEED").map_or(9111, |seed| seed.parse().unwrap())
}

#[test]
fn another_reading_of_rfc_9111_decides_the_same() {
    let seed = seed();
    let mut refused = vec![(0, 0); REFUSED.len()];
    let mut kept = [0; 2];
    let mut reused = [0; 3];
    for number in 0..PAIRS {
        let mut random = drawn(seed, number);
        let draw = Draw::new(&mut random);
        let told = || format!("seed {seed}, pair {number}: {draw:#?}");
        let ours = draw.ours();
        let age = draw.initial_age() / 1000;
        let theirs = draw.shown(age, None, false);
        let mut is_refused = false;
        for ((reason, is), (times, needed)) in REFUSED.iter().zip(&mut refused) {
            if is(&draw) {
                assert!(ours.is_err(), "kept in spite of {reason}, {}", told());
                *times += 1;
                *needed += u64::from(theirs.is_storable());
                is_refused = true;
            }
        }
        if is_refused {
            continue;
        }
        assert_eq!(ours.is_ok(), theirs.is_storable(), "kept ({ours:?}), {}", told());
        kept[usize::from(ours.is_ok())] += 1;
        let Ok(ours) = ours else { continue };
        if !draw.said().has("no-cache") {
            let theirs = draw.shown(0, None, true).time_to_live(came()).as_secs();
            assert_eq!(ours.fresh_for, theirs, "fresh for, {}", told());
        }
        for _ in 0..LATER {
            let asking = Asking::new(&mut random, 2);
            // Around the end of each span, and anywhere.
            let taken = asking.said.number("max-stale").unwrap_or(0);
            let ends = [0, 0, ours.while_revalidate, ours.if_error, taken];
            let end = (ours.fresh_for + random.of(&ends)).saturating_sub(age) * 1000;
            let near = (end + 2000).saturating_sub(random.below(4001));
            let after = if random.one_in(3) { random.below(end + 1) } else { near };
            let told = || format!("after {after} ms: {asking:#?}, {}", told());
            let later = draw.times.1 + after;
            let age = (draw.initial_age() + after) / 1000;
            assert_eq!(ours.age(later), age, "age, {}", told());
            let found = ours.reuse(&Asked::of(b"GET", pairs(&asking.fields)).directives, later);
            assert_eq!(found, expected(&draw, &asking, &ours, age), "reuse, {}", told());
            reused[match found {
                Reuse::Fresh(_) => 0,
                Reuse::Stale(_) => 1,
                Reuse::Validate { .. } => 2,
            }] += 1;
        }
    }
    println!(
        "seed {seed}: of {PAIRS} pairs {kept:?} were not kept and kept; {reused:?} times they were fresh, stale and asked about"
    );
    for ((reason, _), (times, needed)) in REFUSED.iter().zip(&refused) {
        println!("{reason}: {times}, theirs keeps {needed}");
        assert!(*needed > 0, "both refuse {reason}");
    }
    let enough = PAIRS / 50;
    assert!(
        kept.iter().chain(&reused).all(|times| *times > enough),
        "{kept:?} {reused:?}"
    );
}
