//! Requests and responses drawn at random, with what they mean.
//!
//! Takes random numbers; gives fields as they are sent, by careless origins too, and beside them what RFC 9111 and its kin make of each. What
//! follows for a cache is not known here.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use super::targeted::targeted;
use crate::cache::policy::{Field, Millis, Seconds, Wishes};
use crate::cache::tests::Random;

/// Mon, 21 Sep 2026 13:33:20 GMT.
pub(super) const NOW: Seconds = 1_790_000_000;
/// RFC 9111 section 1.2.2.
const LONGEST: u64 = 1 << 31;
/// RFC 9110 section 15.1.
const HEURISTIC: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

/// Directives of a response, the frequent ones more often; `x` stands for those that nobody knows.
const OF_RESPONSE: &str = "max-age max-age max-age s-maxage s-maxage no-store no-cache private public public must-revalidate \
    proxy-revalidate must-understand stale-while-revalidate stale-while-revalidate stale-if-error \
    stale-if-error x x";
const OF_REQUEST: &str = "no-cache no-store max-age max-age max-age min-fresh min-fresh max-stale max-stale max-stale \
    max-stale only-if-cached x";
const UNKNOWN: &[&str] = &[
    "x",
    "x=1",
    "x=\"no-store, max-age=0\"",
    "immutable",
    "no-transform",
    "x=\"a\\\", private\"",
];
const NO_NUMBER: &[&str] = &["", "-1", "1.5", "x", "+5", "'60'", "\"\"", "60a"];
const NUMBERS: &[u64] = &[0, 1, 5, 10, 30, 60, 60, 90, 120, 3600];
const STATUSES: &[u16] = &[
    200, 200, 200, 200, 200, 200, 200, 200, 203, 204, 206, 300, 301, 302, 303, 304, 307, 308, 404, 405, 410, 414, 418,
    451, 500, 501, 503,
];
const METHODS: &[&str] = &["HEAD", "POST", "OPTIONS", "PUT"];

/// What directives mean, by name: the number of those that have one.
#[derive(Debug, Clone, Default)]
pub(super) struct Said(pub(super) BTreeMap<&'static str, Option<u64>>);

impl Said {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied().flatten()
    }

    /// Of several the one that keeps less (section 4.2.1: "either the first or stale"): the shortest, but the longest wait to be still fresh.
    pub(super) fn note(&mut self, name: &'static str, number: Option<u64>) {
        let held = self.0.get(name).copied();
        let both = match (held, number) {
            (None | Some(None), number) => number,
            (Some(held), None) => held,
            (Some(Some(held)), Some(number)) if name == "min-fresh" => Some(held.max(number)),
            (Some(Some(held)), Some(number)) => Some(held.min(number)),
        };
        self.0.insert(name, both);
    }

    pub(super) fn text(&self) -> String {
        let item = |(name, number): (&&str, &Option<u64>)| match number {
            Some(number) => format!("{name}={number}"),
            None => name.to_string(),
        };
        self.0.iter().map(item).collect::<Vec<_>>().join(", ")
    }
}

impl Random {
    pub(super) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    pub(super) fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }

    pub(super) fn cased(&mut self, text: &str) -> String {
        let flip = self.one_in(3);
        let case = |letter: char| {
            if flip && self.one_in(2) {
                letter.to_ascii_uppercase()
            } else {
                letter
            }
        };
        text.chars().map(case).collect()
    }

    /// A directive: its name, what it means, and how it is written.
    fn directive(&mut self, names: &'static str) -> (&'static str, Option<u64>, String) {
        let name = self.of(&names.split(' ').collect::<Vec<_>>());
        let written = self.cased(name);
        if name == "x" {
            return (name, None, self.of(UNKNOWN).into());
        }
        if !(name.contains("age") || name.contains("stale-") || name.contains("-stale") || name == "min-fresh") {
            // The form that names fields counts as the other (sections 5.2.2.4 and 5.2.2.7).
            let names_fields = matches!(name, "private" | "no-cache") && self.one_in(4);
            let fields = if names_fields { "=\"set-cookie, max-age=1\"" } else { "" };
            return (name, None, written + fields);
        }
        let wrong = if name == "min-fresh" { LONGEST } else { 0 };
        let number = self.of(NUMBERS);
        match self.below(16) {
            0 => (name, Some(wrong), format!("{written}={}", self.of(NO_NUMBER))),
            1 => (name, (name != "max-stale").then_some(wrong), written),
            2 => (name, Some(LONGEST), format!("{written}=99999999999999999999999")),
            3 => (name, Some(number), format!("{written}=00{number}")),
            4 => (name, Some(number), format!("{written}=\"{number}\"")),
            5 => (name, Some(number), format!("{written} =\t{number}")),
            _ => (name, Some(number), format!("{written}={number}")),
        }
    }

    /// Up to `most` directives in one field or more.
    fn directives(&mut self, names: &'static str, most: u64) -> (Vec<String>, Said) {
        let mut said = Said::default();
        let mut fields: Vec<String> = Vec::new();
        for _ in 0..self.below(most + 1) {
            let (name, number, written) = self.directive(names);
            said.note(name, number);
            let separator = self.of(&[", ", ",", " ,\t", ", ,,"]);
            let anew = self.one_in(4);
            match fields.last_mut().filter(|_| !anew) {
                Some(field) => *field += &(separator.to_string() + &written),
                None => fields.push(written),
            }
        }
        (fields, said)
    }

    /// A date in one of its three forms (RFC 9110 section 5.6.7).
    fn date(&mut self, at: Seconds) -> String {
        let text = plain_date(at);
        let part = |from: usize, to: usize| &text[from..to];
        let (day, month, year, clock) = (part(5, 7), part(8, 11), part(12, 16), part(17, 25));
        match self.below(4) {
            0 => format!(
                "{} {month} {:>2} {clock} {year}",
                part(0, 3),
                day.trim_start_matches('0')
            ),
            1 => {
                let rest = match part(0, 3) {
                    "Tue" => "sday",
                    "Wed" => "nesday",
                    "Thu" => "rsday",
                    "Sat" => "urday",
                    _ => "day",
                };
                format!("{}{rest}, {day}-{month}-{} {clock} GMT", part(0, 3), &year[2..])
            }
            _ => text,
        }
    }
}

pub(super) fn plain_date(at: Seconds) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at))
}

/// What the pair of a number is drawn by.
pub(super) fn drawn(seed: u64, number: u64) -> Random {
    Random((seed ^ number << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
}

/// What a request says to caches, and what that means.
#[derive(Debug, Default)]
pub(super) struct Asking {
    pub(super) fields: Vec<(String, String)>,
    pub(super) said: Said,
    /// Pragma: no-cache counts only for those who know nothing else (section 5.4); theirs heeds it beside Cache-Control, too.
    pub(super) pragma: bool,
}

impl Asking {
    pub(super) fn new(random: &mut Random, most: u64) -> Self {
        let (values, said) = random.directives(OF_REQUEST, most);
        let named = |value| (random.cased("cache-control"), value);
        let mut fields: Vec<_> = values.into_iter().map(named).collect();
        let pragma = random.one_in(16);
        if pragma {
            fields.push((random.cased("pragma"), random.cased("no-cache")));
        }
        Self {
            pragma: pragma && said.0.is_empty(),
            fields,
            said,
        }
    }
}

/// A pair, and what it means.
#[derive(Debug, Default)]
pub(super) struct Draw {
    pub(super) method: &'static str,
    pub(super) status: u16,
    pub(super) response: Vec<(String, String)>,
    pub(super) asked: Asking,
    pub(super) own: Said,
    pub(super) targeted: Option<Said>,
    pub(super) authorization: bool,
    pub(super) range: bool,
    pub(super) set_cookie: bool,
    pub(super) vary_any: bool,
    pub(super) etag: bool,
    pub(super) date: Option<Seconds>,
    /// None of the inner kind is no date.
    pub(super) expires: Option<Option<Seconds>>,
    pub(super) modified: Option<Seconds>,
    /// What is no date is one, too: it can be given back to who gave it.
    pub(super) has_validator: bool,
    pub(super) age: u64,
    pub(super) times: (Millis, Millis),
    pub(super) wishes: Wishes,
}

impl Draw {
    pub(super) fn new(random: &mut Random) -> Self {
        let now = NOW * 1000 + random.below(1000);
        let mut draw = Self {
            method: if random.one_in(12) { random.of(METHODS) } else { "GET" },
            status: random.of(STATUSES),
            times: (now - random.of(&[0, 0, 1, 999, 2500]), now),
            wishes: Wishes {
                ttl: random.one_in(6).then(|| random.of(NUMBERS)),
                heuristic: random.one_in(2),
            },
            ..Self::default()
        };
        draw.draw_request(random);
        draw.draw_response(random);
        draw
    }

    fn draw_request(&mut self, random: &mut Random) {
        let most = if random.one_in(4) { 2 } else { 0 };
        self.asked = Asking::new(random, most);
        self.authorization = random.one_in(5);
        self.range = random.one_in(20);
        let own = [
            (self.authorization, ("Authorization", "x")),
            (self.range, ("Range", "bytes=0-1")),
        ];
        let own = own.iter().filter(|(is, _)| *is);
        let own = own.map(|(_, (name, value))| (random.cased(name), value.to_string()));
        self.asked.fields.extend(own);
    }

    fn draw_response(&mut self, random: &mut Random) {
        let mut fields: Vec<(&str, String)> = Vec::new();
        let (values, said) = random.directives(OF_RESPONSE, 4);
        fields.extend(values.into_iter().map(|value| ("cache-control", value)));
        self.own = said;
        if random.one_in(8) {
            let (values, said) = targeted(random);
            fields.extend(values.into_iter().map(|value| ("cdn-cache-control", value)));
            self.targeted = said;
        }
        match random.below(8) {
            0 => {}
            1 => fields.push(("date", "soon".into())),
            _ => {
                let at = NOW + 5 - random.below(45);
                self.date = Some(at);
                fields.push(("date", random.date(at)));
            }
        }
        let date = self.date.unwrap_or(NOW);
        if random.one_in(3) {
            let at = date - 10 + random.below(130);
            let (expires, texts) = match random.below(8) {
                0 => (None, vec![random.of(&["0", "-1", "", "never"]).to_string()]),
                // Section 5.3 does not let it come twice; section 4.2.1 of such things: stale.
                1 => (None, vec![plain_date(at), plain_date(at + 1)]),
                2 => (Some(at), vec![plain_date(at), plain_date(at)]),
                _ => (Some(at), vec![random.date(at)]),
            };
            self.expires = Some(expires);
            fields.extend(texts.into_iter().map(|text| ("expires", text)));
        }
        if random.one_in(3) {
            let at = (date + 10).saturating_sub(random.of(&[0, 10, 15, 110, 610, 100_010, 864_010, 2_000_000]));
            self.modified = (!random.one_in(8)).then_some(at);
            let text = self.modified.map_or("once".into(), |at| random.date(at));
            fields.push(("last-modified", text));
            self.has_validator = true;
        }
        self.etag = random.one_in(4);
        self.has_validator |= self.etag;
        self.set_cookie = random.one_in(20);
        self.vary_any = random.one_in(20);
        let others = [
            (self.etag, ("etag", "\"1\"")),
            (self.set_cookie, ("set-cookie", "a=b")),
            (self.vary_any, ("vary", random.of(&["*", "accept, *", ",*"]))),
            (random.one_in(10), ("vary", "accept")),
            // It means nothing in a response (section 5.4); theirs takes it for no-cache.
            (random.one_in(10), ("pragma", "no-cache")),
        ];
        fields.extend(
            others
                .iter()
                .filter(|(is, _)| *is)
                .map(|(_, (name, value))| (*name, value.to_string())),
        );
        if random.one_in(4) {
            let age = random.of(NUMBERS);
            // Section 5.1: the first of several counts, and what is no number is ignored.
            let (age, texts) = match random.below(8) {
                0 => (0, vec![random.of(NO_NUMBER).to_string()]),
                1 => (age, vec![format!("{age}, 7")]),
                2 => (age, vec![age.to_string(), "9999".into()]),
                _ => (age, vec![age.to_string()]),
            };
            self.age = age;
            fields.extend(texts.into_iter().map(|text| ("age", text)));
        }
        self.response = fields
            .into_iter()
            .map(|(name, value)| (random.cased(name), value))
            .collect();
    }

    /// RFC 9213 section 2.2: what is said to such caches by name takes the place of Cache-Control and of Expires. Theirs knows no such field.
    pub(super) fn said(&self) -> &Said {
        self.targeted.as_ref().unwrap_or(&self.own)
    }

    pub(super) fn expires(&self) -> Option<Option<Seconds>> {
        self.expires.filter(|_| self.targeted.is_none())
    }

    pub(super) fn is_heuristic(&self) -> bool {
        HEURISTIC.contains(&self.status)
    }

    /// Section 4.2.2, and only where the configuration wants it.
    pub(super) fn may_guess(&self) -> bool {
        self.wishes.heuristic && (self.is_heuristic() || self.said().has("public"))
    }

    /// Who gives the lifetime, if anybody does. The wish of the configuration counts for what may be kept without being told (section 4.2.2).
    pub(super) fn lifetime_text(&self) -> Option<&'static str> {
        let said = self.said();
        let known = ["s-maxage", "max-age"].into_iter().find(|name| said.has(name));
        let wished = self.wishes.ttl.is_some() && (self.is_heuristic() || said.has("public"));
        known.or(self.expires().map(|_| "expires")).or(wished.then_some("ttl"))
    }

    /// How long it is fresh, if somebody gives it.
    pub(super) fn life(&self) -> Option<u64> {
        let date = self.date.unwrap_or(NOW);
        match self.lifetime_text()? {
            "expires" => Some(self.expires()?.map_or(0, |at| at.saturating_sub(date))),
            "ttl" => self.wishes.ttl,
            name => self.said().number(name),
        }
    }

    /// How long it may be used after that.
    pub(super) fn stale_for(&self) -> u64 {
        let said = self.said();
        let never = said.has("must-revalidate") || said.has("proxy-revalidate");
        let longest = said.number("stale-while-revalidate").max(said.number("stale-if-error"));
        longest.filter(|_| !never).unwrap_or(0)
    }

    /// How old it was when it came (ms), by section 4.2.3. Theirs leaves it to its caller to know how long the answer took, and Date to the origin's good
    /// clock.
    pub(super) fn initial_age(&self) -> Millis {
        let (asked_at, now) = self.times;
        let apparent = NOW.saturating_sub(self.date.unwrap_or(NOW)) * 1000;
        apparent.max(self.age * 1000 + (now - asked_at))
    }
}

pub(super) fn pairs(fields: &[(String, String)]) -> impl Iterator<Item = Field<'_>> + Clone {
    fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))
}
