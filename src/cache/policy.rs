//! What a shared cache may keep, and what it may answer with: RFC 9111, and nothing but it.
//!
//! Takes the heads of a request and a response, or of a request and what was kept, with the time; gives a decision. It is pure: no clock, no
//! memory, no bytes of a body. Under which key something is kept is told in `key`, where it lies in `segment`.
#![forbid(unsafe_code)]

use super::directives::{Directives, Staleness, digits};
use super::targeted;

/// A field as it was sent.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// Seconds since 1970, as HTTP's dates tell.
pub type Seconds = u64;
/// Milliseconds since 1970: a response that is fresh for a second is so for a whole one.
pub type Millis = u64;

/// Statuses that may be kept without being told for how long (RFC 9110 section 15.1), but for 206, whose part of a whole is not kept.
const HEURISTIC: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];
/// The share of the time since Last-Modified for which a response is fresh by guess (RFC 9111 section 4.2.2).
const TENTH: u64 = 10;
/// No guess is longer.
const LONGEST_GUESS: u64 = 24 * 3600;

/// What of a request a cache has to know.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// GET; HEAD is answered from what GET has got, and keeps nothing.
    pub method: Method,
    /// Its directives. Pragma: no-cache stands for no-cache where there is no Cache-Control (RFC 9111 section 5.4).
    pub directives: Directives,
    /// It has Authorization.
    pub authorization: bool,
    /// It asks for a part (RFC 9110 section 14.2).
    pub range: bool,
}

/// What a method means to a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// May be answered and kept.
    #[default]
    Get,
    /// May be answered.
    Head,
    /// Neither, and changes nothing (RFC 9110 section 9.2.1).
    Safe,
    /// Makes what is kept of its target worthless (RFC 9111 section 4.4).
    Unsafe,
}

impl Method {
    /// By its name.
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"OPTIONS" | b"TRACE" | b"QUERY" | b"PROPFIND" | b"REPORT" | b"SEARCH" => Self::Safe,
            _ => Self::Unsafe,
        }
    }
}

impl Asked {
    /// Of a request's method and fields.
    pub fn of<'a>(method: &[u8], fields: impl Iterator<Item = Field<'a>> + Clone) -> Self {
        let mut directives = Directives::of(values(fields.clone(), b"cache-control"));
        if !directives.any {
            let pragma = Directives::of(values(fields.clone(), b"pragma"));
            directives.no_cache = pragma.no_cache;
        }
        Self {
            method: Method::of(method),
            directives,
            authorization: values(fields.clone(), b"authorization").next().is_some(),
            range: values(fields, b"range").next().is_some(),
        }
    }
}

/// How a deployment wants it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wishes {
    /// Fresh for so long where the response does not say, and its status may be kept without being told or it is public.
    pub ttl: Option<u64>,
    /// Guess from Last-Modified where nobody says.
    pub heuristic: bool,
}

/// How long something is fresh, and what holds after that. All that has to be kept beside the response itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifetime {
    /// When it would have been made, had it never been kept: the time it came less its age then.
    pub born: Millis,
    /// Fresh for so long from then (s, as the next ones).
    pub fresh_for: u64,
    /// Asked about each time (no-cache).
    pub always_validate: bool,
    /// Never used stale, whatever happens.
    pub never_stale: bool,
    /// Not used stale because a client takes it so.
    pub strict: bool,
    /// Used for so long after that while it is asked about.
    pub while_revalidate: u64,
    /// Used for so long after that when the origin fails.
    pub if_error: u64,
}

/// Why a response is not kept. What Cache-Status says of it (RFC 9211 section 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotKept {
    /// The method.
    Method,
    /// The request said no-store.
    RequestNoStore,
    /// The response said no-store.
    NoStore,
    /// It is for one user.
    Private,
    /// The request had Authorization, and the response does not say that it is for others too (RFC 9111 section 3.5).
    Authorization,
    /// It sets a cookie: whatever is said of it, that is for one client.
    SetCookie,
    /// It is a part, or an answer to a condition.
    Partial,
    /// The status cannot be kept.
    Status,
    /// Nobody says for how long it is fresh.
    NoLifetime,
    /// It could neither be used nor asked about.
    Useless,
    /// It depends on what no request shows (Vary: *).
    VaryAny,
}

impl NotKept {
    /// As in Cache-Status, `detail`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::RequestNoStore => "request-no-store",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::Authorization => "authorization",
            Self::SetCookie => "set-cookie",
            Self::Partial => "partial",
            Self::Status => "status",
            Self::NoLifetime => "no-lifetime",
            Self::Useless => "useless",
            Self::VaryAny => "vary-any",
        }
    }
}

/// Whether a response may be kept, and for how long (RFC 9111 sections 3 and 4.2). `asked_at` is when the request was sent to the
/// handler, `now` when the response head came back.
///
/// # Errors
/// Why not.
pub fn keep<'a>(
    asked: &Asked,
    status: u16,
    fields: impl Iterator<Item = Field<'a>> + Clone,
    (asked_at, now): (Millis, Millis),
    wishes: Wishes,
) -> Result<Lifetime, NotKept> {
    // RFC 9213 section 2.2: what is said to such caches by name is all that is said to them, Expires included.
    let targeted = targeted::directives(values(fields.clone(), b"cdn-cache-control"));
    let is_targeted = targeted.is_some();
    let said = targeted.unwrap_or_else(|| Directives::of(values(fields.clone(), b"cache-control")));
    // RFC 9111 section 5.2.2.3: no-store is said beside must-understand to those who do not know the status.
    let heuristic = HEURISTIC.contains(&status);
    let no_store = said.no_store && !(said.must_understand && heuristic);
    let refusal = if asked.method != Method::Get {
        Some(NotKept::Method)
    } else if asked.directives.no_store {
        Some(NotKept::RequestNoStore)
    } else if no_store {
        Some(NotKept::NoStore)
    } else if said.private {
        Some(NotKept::Private)
    } else if asked.authorization && !(said.public || said.s_maxage.is_some() || said.must_revalidate) {
        Some(NotKept::Authorization)
    } else if matches!(status, 206 | 304) || asked.range {
        Some(NotKept::Partial)
    } else if !(200..=599).contains(&status) || (said.must_understand && !heuristic) {
        Some(NotKept::Status)
    } else if values(fields.clone(), b"set-cookie").next().is_some() {
        Some(NotKept::SetCookie)
    } else if names(fields.clone(), b"vary").any(|name| name == b"*") {
        Some(NotKept::VaryAny)
    } else {
        None
    };
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    let date = values(fields.clone(), b"date")
        .next()
        .and_then(http_date)
        .unwrap_or(now / 1000);
    let told = || expires(fields.clone(), date).filter(|_| !is_targeted);
    let explicit = said.s_maxage.or(said.max_age).or_else(told);
    // An error that nobody wants kept is not, whatever is wished for the rest.
    let unasked = heuristic || said.public;
    let fresh_for = match explicit.or(wishes.ttl.filter(|_| unasked)) {
        Some(seconds) => seconds,
        None if unasked => guess(&said, fields.clone(), date, wishes)?,
        None => return Err(NotKept::NoLifetime),
    };
    let has = |name| values(fields.clone(), name).next().is_some();
    let can_be_asked_about = has(b"etag") || has(b"last-modified");
    let lifetime = Lifetime {
        born: now.saturating_sub(initial_age(fields.clone(), date, asked_at, now)),
        fresh_for,
        always_validate: said.no_cache,
        never_stale: said.must_revalidate || said.proxy_revalidate,
        // s-maxage means proxy-revalidate as well (RFC 9111 section 5.2.2.10); but where the origin itself says how long stale may be
        // used, and many say both, it has said so.
        strict: said.s_maxage.is_some(),
        while_revalidate: said.stale_while_revalidate.unwrap_or(0),
        if_error: said.stale_if_error.unwrap_or(0),
    };
    if !can_be_asked_about && (lifetime.always_validate || lifetime.useless_after() <= now) {
        return Err(NotKept::Useless);
    }
    Ok(lifetime)
}

/// The lifetime that nobody has given (RFC 9111 section 4.2.2).
fn guess<'a>(
    said: &Directives,
    fields: impl Iterator<Item = Field<'a>> + Clone,
    date: Seconds,
    wishes: Wishes,
) -> Result<u64, NotKept> {
    let modified = values(fields.clone(), b"last-modified").next().and_then(http_date);
    let validator = modified.is_some() || values(fields, b"etag").next().is_some();
    match modified {
        Some(modified) if wishes.heuristic => Ok((date.saturating_sub(modified) / TENTH).min(LONGEST_GUESS)),
        // Never fresh, but worth keeping: asking whether it has changed is cheaper than having it made.
        _ if said.no_cache && validator => Ok(0),
        _ => Err(NotKept::NoLifetime),
    }
}

/// Expires less Date. One that is no date, or comes twice with different values, has expired (RFC 9111 section 5.3).
fn expires<'a>(fields: impl Iterator<Item = Field<'a>>, date: Seconds) -> Option<u64> {
    let mut all = values(fields, b"expires");
    let first = all.next()?;
    let same = all.all(|other| other == first);
    let at = http_date(first).filter(|_| same);
    Some(at.map_or(0, |at| at.saturating_sub(date)))
}

/// How old a response was when it came (ms, RFC 9111 section 4.2.3).
fn initial_age<'a>(fields: impl Iterator<Item = Field<'a>>, date: Seconds, asked_at: Millis, now: Millis) -> u64 {
    // Of several the first, also within a field (section 5.1); one that is no number is none.
    let first = values(fields, b"age")
        .next()
        .and_then(|value| value.split(|byte| *byte == b',').next());
    let told = first.and_then(|age| digits(age.trim_ascii())).unwrap_or(0);
    // A date tells no more than the second: what was made in this one is not old.
    let apparent = (now / 1000).saturating_sub(date) * 1000;
    apparent.max(told * 1000 + now.saturating_sub(asked_at))
}

/// What may be done with what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// It is the answer, with this Age.
    Fresh(u64),
    /// It is the answer, with this Age, and somebody should ask the handler meanwhile.
    Stale(u64),
    /// The handler has to be asked; what is kept may serve should it fail (with this Age).
    Validate {
        /// Age.
        age: u64,
        /// Should the handler fail (RFC 5861 section 4).
        if_error: bool,
    },
}

impl Lifetime {
    /// Age at `now`, in whole seconds (RFC 9111 section 4.2.3).
    pub fn age(&self, now: Millis) -> u64 {
        now.saturating_sub(self.born) / 1000
    }

    /// For how long it is still fresh at `now`, in whole seconds; below zero it was stale for so long (RFC 9211 section 2.4).
    pub fn left(&self, now: Millis) -> i64 {
        self.fresh_for.cast_signed().saturating_sub(self.age(now).cast_signed())
    }

    /// When nothing more can be done with it unasked.
    pub fn useless_after(&self) -> Millis {
        let stale = if self.never_stale {
            0
        } else {
            self.while_revalidate.max(self.if_error)
        };
        let seconds = self.fresh_for.saturating_add(stale);
        self.born.saturating_add(seconds.saturating_mul(1000))
    }

    /// Whether one answer of the handler serves all who wait for it: not if even what is just made has to be asked about.
    pub fn serves_several(&self, asked: &Directives, now: Millis) -> bool {
        let new = Self { born: now, ..*self };
        !matches!(new.reuse(asked, now), Reuse::Validate { .. })
    }

    /// Whether it may answer a request (RFC 9111 sections 4 and 5.2.1).
    pub fn reuse(&self, asked: &Directives, now: Millis) -> Reuse {
        let age = self.age(now);
        let stale_by = age.saturating_sub(self.fresh_for);
        // Fresh is younger than its lifetime, and no older than that: at the very second it is stale.
        let fresh = age < self.fresh_for;
        let young = asked.max_age.is_none_or(|most| age <= most)
            && asked
                .min_fresh
                .is_none_or(|wanted| age.saturating_add(wanted) <= self.fresh_for);
        let may_ask = !asked.no_cache && !self.always_validate;
        let if_error = !self.never_stale && !self.always_validate && stale_by < self.if_error;
        if !may_ask || !young {
            return Reuse::Validate { age, if_error };
        }
        if fresh {
            return Reuse::Fresh(age);
        }
        if self.never_stale {
            return Reuse::Validate { age, if_error };
        }
        if stale_by < self.while_revalidate {
            return Reuse::Stale(age);
        }
        match asked.max_stale {
            Some(Staleness::Any) if !self.strict => Reuse::Fresh(age),
            Some(Staleness::Seconds(most)) if !self.strict && stale_by <= most => Reuse::Fresh(age),
            _ => Reuse::Validate { age, if_error },
        }
    }
}

/// An HTTP date in any of its three forms (RFC 9110 section 5.6.7).
pub fn http_date(text: &[u8]) -> Option<Seconds> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let at = httpdate::parse_http_date(text).ok()?;
    at.duration_since(std::time::UNIX_EPOCH)
        .ok()
        .map(|since| since.as_secs())
}

/// The values of one field, in their order.
pub fn values<'a>(fields: impl Iterator<Item = Field<'a>>, name: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
    fields
        .filter(move |(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// The members of the lists that the fields of one name make together.
pub(super) fn names<'a>(
    fields: impl Iterator<Item = Field<'a>>,
    name: &'static [u8],
) -> impl Iterator<Item = &'a [u8]> {
    let members = |value: &'a [u8]| value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    values(fields, name)
        .flat_map(members)
        .filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Seconds = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    fn parsed(text: &str) -> Fields {
        let split = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.as_bytes().to_vec(), value.as_bytes().to_vec())
        };
        text.split('|').filter(|line| !line.is_empty()).map(split).collect()
    }

    fn pairs(fields: &Fields) -> impl Iterator<Item = Field<'_>> + Clone {
        fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    fn asked(request: &str) -> Asked {
        Asked::of(b"GET", pairs(&parsed(request)))
    }

    fn kept(request: &str, status: u16, response: &str) -> Result<Lifetime, NotKept> {
        let wishes = Wishes {
            heuristic: true,
            ttl: None,
        };
        keep(
            &asked(request),
            status,
            pairs(&parsed(response)),
            (NOW * 1000, NOW * 1000),
            wishes,
        )
    }

    #[test]
    fn what_may_be_kept_and_for_how_long() {
        for (response, expected) in [
            ("cache-control: max-age=60", Ok(60)),
            ("cache-control: max-age=60, s-maxage=5", Ok(5)),
            ("cache-control: max-age=60|cache-control: s-maxage=90", Ok(90)),
            ("cdn-cache-control: max-age=7|cache-control: no-store", Ok(7)),
            (
                "cdn-cache-control: no-store|cache-control: max-age=7",
                Err(NotKept::NoStore),
            ),
            ("cache-control: no-store, max-age=60", Err(NotKept::NoStore)),
            ("cache-control: private, max-age=60", Err(NotKept::Private)),
            ("cache-control: max-age=60|set-cookie: a=b", Err(NotKept::SetCookie)),
            ("cache-control: max-age=60|vary: accept, *", Err(NotKept::VaryAny)),
            ("cache-control: max-age=60|vary: accept", Ok(60)),
            ("cache-control: no-cache|etag: \"1\"", Ok(0)),
            // What is said to such caches by name takes the place of Expires, too.
            (
                "cdn-cache-control: public|expires: Sun, 06 Nov 1994 08:50:37 GMT",
                Err(NotKept::NoLifetime),
            ),
            ("cache-control: must-understand, no-store, max-age=9", Ok(9)),
            // It can neither be used nor asked about.
            ("cache-control: max-age=0", Err(NotKept::Useless)),
            ("cache-control: max-age=60|age: 60", Err(NotKept::Useless)),
            ("cache-control: max-age=60|age: 60, 1", Err(NotKept::Useless)),
            ("cache-control: no-cache, max-age=60", Err(NotKept::Useless)),
            ("cache-control: max-age=0|etag: x", Ok(0)),
            ("cache-control: max-age=0, stale-while-revalidate=5", Ok(0)),
            ("cache-control: no-cache", Err(NotKept::NoLifetime)),
            ("etag: \"1\"", Err(NotKept::NoLifetime)),
            ("", Err(NotKept::NoLifetime)),
            // Expires counts from Date, not from our clock.
            (
                "date: Sun, 06 Nov 1994 08:49:37 GMT|expires: Sun, 06 Nov 1994 08:50:37 GMT",
                Ok(60),
            ),
            (
                "date: Sun, 06 Nov 1994 08:49:07 GMT|expires: Sun, 06 Nov 1994 08:49:37 GMT|etag: x",
                Ok(30),
            ),
            ("expires: Sunday, 06-Nov-94 08:50:37 GMT", Ok(60)),
            ("expires: Sun Nov  6 08:50:37 1994", Ok(60)),
            ("expires: 0|etag: x", Ok(0)),
            ("expires: 0|cache-control: max-age=9", Ok(9)),
            ("expires: Sun, 06 Nov 1994 08:50:37 GMT|expires: 0|etag: x", Ok(0)),
            // A tenth of the time since it changed, a day at most.
            ("last-modified: Sun, 06 Nov 1994 08:39:37 GMT", Ok(60)),
            ("last-modified: Sun, 06 Nov 1960 08:39:37 GMT", Err(NotKept::NoLifetime)),
            ("last-modified: Sun, 06 Nov 1983 08:39:37 GMT", Ok(24 * 3600)),
        ] {
            let found = kept("", 200, response).map(|lifetime| lifetime.fresh_for);
            assert_eq!(found, expected, "{response}");
        }
    }

    #[test]
    fn a_request_decides_too_whether_its_answer_is_kept() {
        let long = "cache-control: max-age=60";
        assert_eq!(kept("cache-control: no-store", 200, long), Err(NotKept::RequestNoStore));
        assert_eq!(kept("range: bytes=0-1", 200, long), Err(NotKept::Partial));
        assert_eq!(kept("authorization: x", 200, long), Err(NotKept::Authorization));
        for shared in ["public, max-age=60", "s-maxage=60", "must-revalidate, max-age=60"] {
            assert!(
                kept("authorization: x", 200, &format!("cache-control: {shared}")).is_ok(),
                "{shared}"
            );
        }
        let head = Asked::of(b"HEAD", pairs(&Vec::new()));
        let fields = parsed(long);
        let found = keep(&head, 200, pairs(&fields), (NOW * 1000, NOW * 1000), Wishes::default());
        assert_eq!(found, Err(NotKept::Method));
    }

    #[test]
    fn statuses() {
        let long = "cache-control: max-age=60";
        for (status, expected) in [(200, true), (302, true), (404, true), (500, true), (599, true)] {
            assert_eq!(kept("", status, long).is_ok(), expected, "{status}");
        }
        for status in [100, 103, 199, 206, 304, 600, 999] {
            assert!(kept("", status, long).is_err(), "{status}");
        }
        let modified = "last-modified: Sun, 06 Nov 1994 08:39:37 GMT";
        for (status, guessed) in [
            (200, true),
            (203, true),
            (204, true),
            (301, true),
            (308, true),
            (404, true),
            (410, true),
            (302, false),
            (500, false),
        ] {
            assert_eq!(kept("", status, modified).is_ok(), guessed, "{status}");
        }
        assert!(kept("", 302, "cache-control: must-understand, max-age=9").is_err());
    }

    #[test]
    fn a_response_is_as_old_as_it_says_or_seems() {
        let keep = |fields: &str, asked_at| {
            let fields = parsed(fields);
            keep(
                &asked(""),
                200,
                pairs(&fields),
                (asked_at * 1000, NOW * 1000),
                Wishes::default(),
            )
            .unwrap()
        };
        let plain = "cache-control: max-age=60";
        assert_eq!(keep(plain, NOW).age(NOW * 1000), 0);
        // The time it took counts (corrected_age_value).
        assert_eq!(keep(plain, NOW - 3).age(NOW * 1000), 3);
        assert_eq!(
            keep("cache-control: max-age=60|age: 10", NOW - 3).age((NOW + 1) * 1000),
            14
        );
        assert_eq!(keep("cache-control: max-age=60|age: x", NOW).age(NOW * 1000), 0);
        assert_eq!(
            keep("cache-control: max-age=60|date: Sun, 06 Nov 1994 08:49:17 GMT", NOW).age(NOW * 1000),
            20
        );
        // A clock ahead of ours makes nothing younger than new.
        assert_eq!(
            keep("cache-control: max-age=60|date: Sun, 06 Nov 1994 09:49:17 GMT", NOW).age(NOW * 1000),
            0
        );
    }

    fn reuse(response: &str, request: &str, later: u64) -> Reuse {
        kept("", 200, response)
            .unwrap()
            .reuse(&asked(request).directives, (NOW + later) * 1000)
    }

    #[test]
    fn freshness_ends_with_its_last_second() {
        let minute = "cache-control: max-age=60";
        assert_eq!(reuse(minute, "", 59), Reuse::Fresh(59));
        let validate = |age| Reuse::Validate { age, if_error: false };
        assert_eq!(reuse(minute, "", 60), validate(60));
        for (request, later, expected) in [
            ("cache-control: max-age=10", 10, Reuse::Fresh(10)),
            ("cache-control: max-age=10", 11, validate(11)),
            ("cache-control: max-age=0", 1, validate(1)),
            ("cache-control: min-fresh=10", 50, Reuse::Fresh(50)),
            ("cache-control: min-fresh=10", 51, validate(51)),
            ("cache-control: no-cache", 1, validate(1)),
            ("pragma: no-cache", 1, validate(1)),
            ("pragma: no-cache|cache-control: max-age=30", 1, Reuse::Fresh(1)),
            ("cache-control: max-stale", 999, Reuse::Fresh(999)),
            ("cache-control: max-stale=5", 65, Reuse::Fresh(65)),
            ("cache-control: max-stale=5", 66, validate(66)),
        ] {
            assert_eq!(reuse(minute, request, later), expected, "{request} after {later} s");
        }
    }

    #[test]
    fn stale_is_used_only_where_the_origin_lets_it() {
        let both = "cache-control: max-age=60, stale-while-revalidate=10, stale-if-error=20";
        assert_eq!(reuse(both, "", 60), Reuse::Stale(60));
        assert_eq!(reuse(both, "", 69), Reuse::Stale(69));
        assert_eq!(
            reuse(both, "", 70),
            Reuse::Validate {
                age: 70,
                if_error: true
            }
        );
        assert_eq!(
            reuse(both, "", 80),
            Reuse::Validate {
                age: 80,
                if_error: false
            }
        );
        assert_eq!(
            reuse(both, "cache-control: no-cache", 1),
            Reuse::Validate { age: 1, if_error: true }
        );
        for never in ["must-revalidate", "proxy-revalidate"] {
            let response = format!("{both}, {never}");
            for request in ["", "cache-control: max-stale"] {
                assert_eq!(
                    reuse(&response, request, 60),
                    Reuse::Validate {
                        age: 60,
                        if_error: false
                    },
                    "{never}"
                );
            }
        }
        let shared = "cache-control: s-maxage=60";
        assert_eq!(
            reuse(shared, "cache-control: max-stale", 60),
            Reuse::Validate {
                age: 60,
                if_error: false
            }
        );
        let always = "cache-control: no-cache, max-age=60|etag: x";
        assert_eq!(
            reuse(always, "cache-control: max-stale", 1),
            Reuse::Validate {
                age: 1,
                if_error: false
            }
        );
    }

    #[test]
    fn what_is_of_no_use_any_more_can_be_thrown_away() {
        let after = |response| kept("", 200, response).unwrap().useless_after() / 1000 - NOW;
        assert_eq!(after("cache-control: max-age=60"), 60);
        assert_eq!(
            after("cache-control: max-age=60, stale-if-error=20, stale-while-revalidate=10"),
            80
        );
        assert_eq!(
            after("cache-control: max-age=60, stale-if-error=20, must-revalidate"),
            60
        );
    }

    #[test]
    fn what_is_wished_counts_for_what_may_be_kept_unasked() {
        let wishes = Wishes {
            ttl: Some(60),
            heuristic: false,
        };
        let times = (NOW * 1000, NOW * 1000);
        let kept = |status, fields: &str| keep(&asked(""), status, pairs(&parsed(fields)), times, wishes);
        for (status, fields, expected) in [
            (200, "", Ok(60)),
            (404, "", Ok(60)),
            (200, "cache-control: max-age=5", Ok(5)),
            (500, "", Err(NotKept::NoLifetime)),
            (302, "", Err(NotKept::NoLifetime)),
            (500, "cache-control: no-cache|etag: x", Err(NotKept::NoLifetime)),
            (302, "cache-control: public", Ok(60)),
            (500, "cache-control: max-age=5", Ok(5)),
            (200, "cache-control: private", Err(NotKept::Private)),
        ] {
            let found = kept(status, fields).map(|lifetime| lifetime.fresh_for);
            assert_eq!(found, expected, "{status} {fields}");
        }
    }

    #[test]
    fn one_answer_serves_several_unless_each_must_be_asked_about() {
        for (response, request, expected) in [
            ("cache-control: max-age=60", "", true),
            ("cache-control: max-age=60", "cache-control: max-age=0", true),
            ("cache-control: max-age=60", "cache-control: no-cache", false),
            ("cache-control: max-age=60", "cache-control: min-fresh=61", false),
            ("cache-control: max-age=60, no-cache|etag: x", "", false),
            ("cache-control: max-age=0|etag: x", "", false),
            ("cache-control: max-age=0, stale-while-revalidate=5", "", true),
        ] {
            let lifetime = kept("", 200, response).unwrap();
            let found = lifetime.serves_several(&asked(request).directives, (NOW + 99) * 1000);
            assert_eq!(found, expected, "{response} to {request}");
        }
    }

    #[test]
    fn methods_that_are_not_known_change_things() {
        for (name, expected) in [
            ("GET", Method::Get),
            ("HEAD", Method::Head),
            ("OPTIONS", Method::Safe),
            ("POST", Method::Unsafe),
            ("DELETE", Method::Unsafe),
            ("WHATEVER", Method::Unsafe),
        ] {
            assert_eq!(Method::of(name.as_bytes()), expected, "{name}");
        }
    }
}
