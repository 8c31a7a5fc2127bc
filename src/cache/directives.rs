//! The directives of Cache-Control (RFC 9111 section 5.2).
//!
//! Takes the values of all fields of that name in a message; gives what they say together. What contradicts itself, and numbers that are
//! none, are read in the way that keeps less: a cache may always ask again. What follows from it is decided in `policy`.
#![forbid(unsafe_code)]

/// What the largest number of seconds is taken as (RFC 9111 section 1.2.2).
const LONGEST: u64 = 1 << 31;

/// How stale an answer the client still takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staleness {
    /// Of any age.
    Any,
    /// By so many seconds.
    Seconds(u64),
}

/// The directives of one message, a request or a response. Seconds throughout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    /// Neither the request nor its response is kept.
    pub no_store: bool,
    /// Not used again without asking the origin. The form that names fields counts as this one.
    pub no_cache: bool,
    /// For one user only. The form that names fields counts as this one.
    pub private: bool,
    /// May be kept by anybody.
    pub public: bool,
    /// Not used once stale.
    pub must_revalidate: bool,
    /// The same, of shared caches.
    pub proxy_revalidate: bool,
    /// Kept only by a cache that knows its status.
    pub must_understand: bool,
    /// Answered from the cache or not at all.
    pub only_if_cached: bool,
    /// Fresh for so long; of a request: no older than that.
    pub max_age: Option<u64>,
    /// Fresh for so long in a shared cache.
    pub s_maxage: Option<u64>,
    /// Fresh for so much longer.
    pub min_fresh: Option<u64>,
    /// Stale is taken, too.
    pub max_stale: Option<Staleness>,
    /// While asking the origin (RFC 5861 section 3).
    pub stale_while_revalidate: Option<u64>,
    /// When the origin fails (RFC 5861 section 4).
    pub stale_if_error: Option<u64>,
    /// There was one at all.
    pub any: bool,
}

impl Directives {
    /// Of all values of the field, in their order.
    pub fn of<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut directives = Self::default();
        for value in values {
            for item in Items(value) {
                directives.note(item);
            }
        }
        directives
    }

    /// Adds a directive.
    pub(super) fn note(&mut self, (name, argument): (&[u8], Option<&[u8]>)) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        self.any = true;
        match name.len() {
            6 if is("public") => self.public = true,
            7 if is("private") => self.private = true,
            7 if is("max-age") => shorter(&mut self.max_age, seconds(argument)),
            8 if is("no-store") => self.no_store = true,
            8 if is("no-cache") => self.no_cache = true,
            8 if is("s-maxage") => shorter(&mut self.s_maxage, seconds(argument)),
            9 if is("min-fresh") => {
                // Read in the stricter way: as nothing being fresh enough.
                let wanted = argument.map_or(LONGEST, |text| digits(text).unwrap_or(LONGEST));
                self.min_fresh = Some(self.min_fresh.unwrap_or(0).max(wanted));
            }
            9 if is("max-stale") => {
                let taken = match argument {
                    None => Staleness::Any,
                    Some(text) => Staleness::Seconds(digits(text).unwrap_or(0)),
                };
                self.max_stale = Some(match (self.max_stale, taken) {
                    (Some(Staleness::Seconds(one)), Staleness::Seconds(other)) => Staleness::Seconds(one.min(other)),
                    (Some(Staleness::Seconds(one)), Staleness::Any) => Staleness::Seconds(one),
                    (_, taken) => taken,
                });
            }
            14 if is("only-if-cached") => self.only_if_cached = true,
            14 if is("stale-if-error") => shorter(&mut self.stale_if_error, seconds(argument)),
            15 if is("must-revalidate") => self.must_revalidate = true,
            15 if is("must-understand") => self.must_understand = true,
            16 if is("proxy-revalidate") => self.proxy_revalidate = true,
            22 if is("stale-while-revalidate") => shorter(&mut self.stale_while_revalidate, seconds(argument)),
            _ => {}
        }
    }
}

/// The shortest of several (RFC 9111 section 4.2.1: the first, or stale; the shortest is never fresher than either).
fn shorter(held: &mut Option<u64>, found: u64) {
    *held = Some(held.map_or(found, |held| held.min(found)));
}

/// Seconds of an argument; what is no number makes the response stale (RFC 9111 section 4.2.1).
fn seconds(argument: Option<&[u8]>) -> u64 {
    argument.and_then(digits).unwrap_or(0)
}

/// `1*DIGIT` (RFC 9111 section 1.2.2); the largest known stands for those that are larger.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let sum = |sum: u64, digit: &u8| (sum * 10 + u64::from(digit - b'0')).min(LONGEST);
    Some(text.iter().fold(0, sum))
}

/// The items of a list: name and argument, quotes taken off, commas inside quotes passed over.
struct Items<'a>(&'a [u8]);

impl<'a> Iterator for Items<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.0.is_empty() {
                return None;
            }
            let end = end_of_item(self.0);
            let item = self.0[..end].trim_ascii();
            self.0 = self.0.get(end + 1..).unwrap_or_default();
            if item.is_empty() {
                continue;
            }
            let Some(equals) = item.iter().position(|byte| *byte == b'=') else {
                return Some((item, None));
            };
            let (name, argument) = (item[..equals].trim_ascii_end(), item[equals + 1..].trim_ascii_start());
            let unquoted = argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
            return Some((name, Some(unquoted.unwrap_or(argument))));
        }
    }
}

/// Where the comma is that ends the first item, or the end of the list. A quote that is never closed is none, lest it hide a directive.
fn end_of_item(list: &[u8]) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in list.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    let plain = list.iter().position(|byte| *byte == b',');
    if quoted {
        plain.unwrap_or(list.len())
    } else {
        list.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Directives {
        Directives::of([value.as_bytes()])
    }

    #[test]
    fn directives_are_found_in_any_case_and_between_empty_items() {
        let found = of(" ,Max-Age=60 , PUBLIC,,s-maxage=\"7\", unknown=\"a, no-store\", must-revalidate ");
        let expected = Directives {
            public: true,
            must_revalidate: true,
            max_age: Some(60),
            s_maxage: Some(7),
            any: true,
            ..Directives::default()
        };
        assert_eq!(found, expected);
        assert_eq!(of(""), Directives::default());
    }

    #[test]
    fn what_names_fields_counts_for_the_whole() {
        assert!(of("no-cache=\"set-cookie\"").no_cache);
        assert!(of("private=\"x-user, x-name\"").private);
        assert!(!of("private=\"x, no-store\"").no_store);
    }

    #[test]
    fn numbers_that_are_none_make_stale_and_large_ones_are_bounded() {
        for (value, expected) in [
            ("max-age=0", 0),
            ("max-age=-1", 0),
            ("max-age=1.5", 0),
            ("max-age=+5", 0),
            ("max-age", 0),
            ("max-age=", 0),
            ("max-age=\"60\"", 60),
            ("max-age=99999999999999999999999999", LONGEST),
            ("max-age=60, max-age=10", 10),
            ("max-age=60, max-age=x", 0),
        ] {
            assert_eq!(of(value).max_age, Some(expected), "{value}");
        }
        let both = Directives::of([b"max-age=5".as_slice(), b"s-maxage=9"]);
        assert_eq!((both.max_age, both.s_maxage), (Some(5), Some(9)));
    }

    #[test]
    fn what_a_client_takes_is_read_strictly() {
        assert_eq!(of("max-stale").max_stale, Some(Staleness::Any));
        assert_eq!(of("max-stale=5").max_stale, Some(Staleness::Seconds(5)));
        assert_eq!(of("max-stale=5, max-stale").max_stale, Some(Staleness::Seconds(5)));
        assert_eq!(of("max-stale, max-stale=5").max_stale, Some(Staleness::Seconds(5)));
        assert_eq!(of("max-stale=x").max_stale, Some(Staleness::Seconds(0)));
        assert_eq!(of("min-fresh=5").min_fresh, Some(5));
        assert_eq!(of("min-fresh=x").min_fresh, Some(LONGEST));
    }

    #[test]
    fn an_open_quote_hides_no_directive() {
        assert!(of("x=\"a, no-store").no_store);
        assert!(of("x=\"a\\\", b\", no-store").no_store);
    }
}
