//! Under which key a response lies: the URI it was asked for by, and what else tells it from others of that URI.
//!
//! Takes the parts of a request, what `[[cache.rule]]` says and the names in Vary; gives texts that are the same where the answer may be.
//! Texts are normalised only where RFC 3986 says that the URI stays the same; what is not known to be the same is another.
#![forbid(unsafe_code)]

use super::policy::{Field, names};
use crate::config::cache::{Query, Rule};

/// Most names that may tell the responses to one URI apart.
const MOST_NAMES: usize = 16;
/// What stands before the name of a cookie among those names.
const COOKIE: &[u8] = b"cookie:";

/// The parts of a URI.
#[derive(Debug, Clone, Copy)]
pub struct Uri<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The host, with its port if there is one.
    pub host: &'a [u8],
    /// The encoded path.
    pub path: &'a [u8],
    /// What follows the `?`.
    pub query: &'a [u8],
}

/// The text of a URI (RFC 9111 section 4, RFC 3986 section 6.2): the host in lower case and without the port that goes without saying, no
/// percent-encoding that is not needed; of the query what `which` says.
pub fn primary(uri: Uri<'_>, which: &Query, key: &mut Vec<u8>) {
    key.extend_from_slice(uri.scheme.as_bytes());
    key.extend_from_slice(b"://");
    key.extend(authority(uri.scheme, uri.host).iter().map(u8::to_ascii_lowercase));
    if uri.path.is_empty() {
        key.push(b'/');
    }
    normalise(uri.path, key);
    if uri.query.is_empty() {
        return;
    }
    let start = key.len();
    match which {
        Query::All => {
            key.push(b'?');
            normalise(uri.query, key);
        }
        Query::Only(list) => {
            let counts = |found: &&[u8]| is_listed(found, list) || is_doubtful(found);
            let mut kept: Vec<_> = parameters(uri.query).filter(counts).collect();
            // By name, however it is written; those of one name keep their order, which may mean something.
            kept.sort_by_cached_key(|parameter| name(parameter));
            write_parameters(kept.into_iter(), start, key);
        }
        Query::Without(list) => {
            let kept = parameters(uri.query).filter(|found| !is_listed(found, list) || is_doubtful(found));
            write_parameters(kept, start, key);
        }
    }
}

/// A host without the port that goes without saying.
pub(super) fn authority<'a>(scheme: &str, host: &'a [u8]) -> &'a [u8] {
    let own_port: &[u8] = if scheme == "https" { b":443" } else { b":80" };
    let host = host.strip_suffix(own_port).unwrap_or(host);
    host.strip_suffix(b":").unwrap_or(host)
}

fn parameters(query: &[u8]) -> impl Iterator<Item = &[u8]> {
    query
        .split(|byte| *byte == b'&')
        .filter(|parameter| !parameter.is_empty())
}

/// The name of a parameter, as forms are decoded: an encoded one is the same, whichever characters it has.
fn name(parameter: &[u8]) -> Vec<u8> {
    let end = parameter.iter().position(|byte| *byte == b'=');
    let name = decode(&parameter[..end.unwrap_or(parameter.len())]);
    name.map(|(byte, is_encoded)| if byte == b'+' && !is_encoded { b' ' } else { byte })
        .collect()
}

fn is_listed(parameter: &[u8], list: &[String]) -> bool {
    let name = name(parameter);
    list.iter().any(|listed| listed.as_bytes() == name)
}

/// Some handlers part parameters by semicolons, too, and see others in this one: it counts, whatever it is named, lest it be hidden from the key.
fn is_doubtful(parameter: &[u8]) -> bool {
    parameter.contains(&b';')
}

/// The bytes of an encoded text, and whether each was encoded. A `%` without two digits stands for itself.
fn decode(text: &[u8]) -> impl Iterator<Item = (u8, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (byte, after) = rest.split_first()?;
        let encoded = after.first_chunk::<2>().filter(|_| *byte == b'%').and_then(number);
        rest = if encoded.is_some() { &after[2..] } else { after };
        Some((encoded.unwrap_or(*byte), encoded.is_some()))
    })
}

/// What two hexadecimal digits are.
fn number(digits: &[u8; 2]) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let (high, low) = (digit(digits[0])?, digit(digits[1])?);
    u8::try_from(high * 16 + low).ok()
}

fn write_parameters<'a>(kept: impl Iterator<Item = &'a [u8]>, start: usize, key: &mut Vec<u8>) {
    for parameter in kept {
        key.push(if key.len() == start { b'?' } else { b'&' });
        normalise(parameter, key);
    }
}

/// Writes a text without the percent-encoding of characters that need none, and with the digits of the rest in upper case
/// (RFC 3986 sections 6.2.2.1 and 6.2.2.2).
fn normalise(text: &[u8], key: &mut Vec<u8>) {
    let Some(first) = text.iter().position(|byte| *byte == b'%') else {
        return key.extend_from_slice(text);
    };
    key.extend_from_slice(&text[..first]);
    let mut rest = &text[first..];
    while let [byte, after @ ..] = rest {
        let digits = after.first_chunk::<2>().filter(|_| *byte == b'%');
        rest = match digits.map(|digits| (digits, number(digits))) {
            Some((_, Some(plain))) if plain.is_ascii_alphanumeric() || b"-._~".contains(&plain) => {
                key.push(plain);
                &after[2..]
            }
            Some((digits, Some(_))) => {
                key.push(b'%');
                key.extend(digits.iter().map(u8::to_ascii_uppercase));
                &after[2..]
            }
            _ => {
                key.push(*byte);
                after
            }
        };
    }
}

/// The rule that counts for a request: the first that fits. URIs of one key have one rule, however they are written: else a response would be kept
/// by the rule of one and found by another.
pub fn rule<'a>(rules: &'a [Rule], uri: Uri<'_>, method: &[u8]) -> Option<&'a Rule> {
    let host = authority(uri.scheme, uri.host);
    rules.iter().find(|rule| {
        let of_host = |wanted: &String| host.eq_ignore_ascii_case(authority(uri.scheme, wanted.as_bytes()));
        let of_method = |wanted: &String| wanted.as_bytes() == method;
        is_under(&rule.path, uri.path)
            && rule.host.as_ref().is_none_or(of_host)
            && rule.method.as_ref().is_none_or(of_method)
    })
}

/// Whether an encoded path lies under a prefix, segment by segment. An encoded slash ends none.
fn is_under(prefix: &str, path: &[u8]) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let mut path = decode(path);
    let is_next = |wanted| {
        path.next()
            .is_some_and(|(byte, is_encoded)| byte == wanted && !(byte == b'/' && is_encoded))
    };
    let begins = prefix.bytes().all(is_next);
    begins && matches!(path.next(), None | Some((b'/', false)))
}

/// The names that tell a response from others of its URI, one a line: those in its Vary (RFC 9110 section 12.5.5) and those of its rule; None when
/// there are more than can be told apart.
pub fn selecting<'a>(fields: impl Iterator<Item = Field<'a>>, rule: Option<&Rule>) -> Option<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = names(fields, b"vary").map(<[u8]>::to_ascii_lowercase).collect();
    if let Some(rule) = rule {
        found.extend(rule.headers.iter().map(|name| name.to_ascii_lowercase().into_bytes()));
        found.extend(rule.cookies.iter().map(|name| [COOKIE, name.as_bytes()].concat()));
    }
    found.sort();
    found.dedup();
    (found.len() <= MOST_NAMES).then(|| found.join(&b'\n'))
}

/// Appends what a request says under each of the `listed` names: a line for each. White space around the members of a list makes no difference,
/// nor does a list in one field or in several (RFC 9111 section 4.1); a field that is not there differs from one that is empty.
pub fn variant<'a>(listed: &[u8], fields: impl Iterator<Item = Field<'a>> + Clone, key: &mut Vec<u8>) {
    for name in super::response::listed(listed) {
        key.push(b'\n');
        key.extend_from_slice(name);
        if let Some(cookie) = name.strip_prefix(COOKIE) {
            for value in cookies(fields.clone(), cookie) {
                // No value has one.
                key.push(b';');
                key.extend_from_slice(value);
            }
            continue;
        }
        let values = fields.clone().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        for (number, (_, value)) in values.enumerate() {
            key.push(if number == 0 { b':' } else { b',' });
            write_members(value, key);
        }
    }
}

/// Writes a list without the white space around its members. What stands between quotes is left as it is.
fn write_members(list: &[u8], key: &mut Vec<u8>) {
    let (mut quoted, mut escaped) = (false, false);
    let ends = |byte: &u8| {
        let ends = *byte == b',' && !quoted;
        quoted ^= *byte == b'"' && !escaped;
        escaped = quoted && *byte == b'\\' && !escaped;
        ends
    };
    for (number, member) in list.split(ends).enumerate() {
        if number > 0 {
            key.push(b',');
        }
        key.extend_from_slice(member.trim_ascii());
    }
}

/// The values of a cookie (RFC 6265 section 4.2.1).
fn cookies<'a>(fields: impl Iterator<Item = Field<'a>>, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    fields
        .filter(|(found, _)| found.eq_ignore_ascii_case(b"cookie"))
        .flat_map(|(_, value)| value.split(|byte| *byte == b';'))
        .filter_map(move |pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri<'_> {
        let (scheme, rest) = text.split_once("://").unwrap();
        let slash = rest.find('/').unwrap_or(rest.len());
        let (path, query) = rest[slash..].split_once('?').unwrap_or((&rest[slash..], ""));
        Uri {
            scheme,
            host: &rest.as_bytes()[..slash],
            path: path.as_bytes(),
            query: query.as_bytes(),
        }
    }

    fn text(of: &str, which: &Query) -> String {
        let mut key = Vec::new();
        primary(uri(of), which, &mut key);
        String::from_utf8(key).unwrap()
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn uris_that_are_the_same_have_the_same_key() {
        for (of, expected) in [
            ("http://Example.COM/a", "http://example.com/a"),
            ("http://example.com:80/a", "http://example.com/a"),
            ("https://example.com:443", "https://example.com/"),
            ("http://example.com:443/a", "http://example.com:443/a"),
            ("http://example.com:8080/A?B=c", "http://example.com:8080/A?B=c"),
            ("http://e/%7euser/%2f%c3%a4?x=%41", "http://e/~user/%2F%C3%A4?x=A"),
            ("http://e/%zz/%4", "http://e/%zz/%4"),
            ("http://e/a/../b//c", "http://e/a/../b//c"),
        ] {
            assert_eq!(text(of, &Query::All), expected, "{of}");
        }
    }

    #[test]
    fn a_rule_says_which_parameters_count() {
        let only = Query::Only(list(&["page", "sort"]));
        assert_eq!(
            text("http://e/a?sort=up&utm=1&page=2&page=1", &only),
            "http://e/a?page=2&page=1&sort=up"
        );
        assert_eq!(text("http://e/a?%70age=2", &only), "http://e/a?page=2");
        assert_eq!(text("http://e/a?utm=1", &only), "http://e/a");
        assert_eq!(text("http://e/a?pagex=1&xpage", &only), "http://e/a");
        let without = Query::Without(list(&["utm"]));
        assert_eq!(text("http://e/a?b=1&utm=2&a=3", &without), "http://e/a?b=1&a=3");
        assert_eq!(text("http://e/a?utm", &without), "http://e/a");
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let of = |path: &str, host: Option<&str>, method: Option<&str>| Rule {
            path: path.into(),
            host: host.map(Into::into),
            method: method.map(Into::into),
            ..Rule::default()
        };
        let rules = [
            of("/a/b", None, None),
            of("/a", Some("x.example"), None),
            of("/", None, Some("HEAD")),
            of("/a/", None, None),
        ];
        let found = |path: &str, host: &str, method: &str| {
            let asked = format!("http://{host}{path}");
            let found = rule(&rules, uri(&asked), method.as_bytes())?;
            rules.iter().position(|rule| std::ptr::eq(rule, found))
        };
        assert_eq!(found("/a/b/c", "e", "GET"), Some(0));
        assert_eq!(found("/a/bc", "X.example", "GET"), Some(1));
        assert_eq!(found("/a/bc", "e", "HEAD"), Some(2));
        assert_eq!(found("/a", "e", "GET"), Some(3));
        assert_eq!(found("/ab", "e", "GET"), None);
        assert_eq!(found("/a%2fb", "e", "GET"), None);
        assert_eq!(found("/a%zz", "e", "GET"), None);
    }

    #[test]
    fn uris_of_one_key_have_one_rule() {
        let rules = [Rule {
            path: "/a b/~c".into(),
            host: Some("x.example".into()),
            ..Rule::default()
        }];
        for same in [
            "http://x.example/a%20b/~c",
            "http://x.example:80/a%20b/~c",
            "http://X.example:/%61%20b/%7e%63/d",
        ] {
            assert!(rule(&rules, uri(same), b"GET").is_some(), "{same}");
        }
        for other in [
            "http://x.example:443/a%20b/~c",
            "http://x.example/a%20b%2f~c",
            "http://x.example/a%20b/~cd",
        ] {
            assert!(rule(&rules, uri(other), b"GET").is_none(), "{other}");
        }
    }

    #[test]
    fn no_parameter_is_hidden_from_the_key_by_how_it_is_written() {
        let only = Query::Only(list(&["page", "by[name]", "my tag"]));
        for (query, expected) in [
            ("by%5Bname%5D=1", "?by%5Bname%5D=1"),
            ("by[name]=1", "?by[name]=1"),
            ("my+tag=1&x", "?my+tag=1"),
            ("my%20tag=1&x", "?my%20tag=1"),
            ("my%2Btag=1", ""),
            // Those that part by semicolons see a page here.
            ("x=1;page=2", "?x=1;page=2"),
            // Of one name, in the order in which they were sent.
            ("page=1&%70age=2", "?page=1&page=2"),
            ("x=%26page=2", ""),
            ("=2&page", "?page"),
        ] {
            assert_eq!(
                text(&format!("http://e/?{query}"), &only),
                format!("http://e/{expected}"),
                "{query}"
            );
        }
        let without = Query::Without(list(&["utm"]));
        assert_eq!(text("http://e/?utm=1;page=2", &without), "http://e/?utm=1;page=2");
        assert_eq!(text("http://e/?%75tm=1&b", &without), "http://e/?b");
    }

    #[test]
    fn variants_differ_by_what_is_named_and_by_nothing_else() {
        let fields = |text: &'static str| {
            text.split('|').filter_map(|line| {
                let (name, value) = line.split_once('=')?;
                Some((name.as_bytes(), value.as_bytes()))
            })
        };
        let of = |names: &str, request: &'static str| {
            let mut key = Vec::new();
            variant(names.as_bytes(), fields(request), &mut key);
            String::from_utf8(key).unwrap()
        };
        assert_eq!(of("accept", "Accept=a, b|x=1"), of("accept", "accept=a|ACCEPT=b"));
        assert_ne!(of("accept", "accept=a"), of("accept", "accept=b"));
        assert_ne!(of("accept", ""), of("accept", "accept="));
        assert_ne!(of("a\nb", "a=1"), of("a\nb", "b=1"));
        let cookie = "cookie:user";
        assert_eq!(of(cookie, "cookie=user=a; x=1"), of(cookie, "cookie=y=2; user=a"));
        assert_ne!(of(cookie, "cookie=user=a"), of(cookie, "cookie=user=b"));
        assert_ne!(of(cookie, "cookie=user="), of(cookie, "cookie=x=1"));
        assert_eq!(of(cookie, "cookie=usera=b"), of(cookie, "x=1"));
        assert_ne!(of(cookie, "cookie=user=a=b"), of(cookie, "cookie=user=a; user=b"));
        assert_eq!(of("x", "x=\"a , b\" , c"), of("x", "x=\"a , b\",c"));
        assert_ne!(of("x", "x=\"a , b\""), of("x", "x=\"a,b\""));
        assert_ne!(of("x", "x=\"a\\\" , b\""), of("x", "x=\"a\\\",b\""));
        assert_ne!(of("x", "x=a,"), of("x", "x=a"));
        let rule = Rule {
            headers: list(&["X-Shop"]),
            cookies: list(&["User"]),
            ..Rule::default()
        };
        let names = selecting(fields("vary=Accept, x-shop|Vary=accept"), Some(&rule));
        assert_eq!(names.as_deref(), Some(&b"accept\ncookie:User\nx-shop"[..]));
        let many: String = (0..17).map(|number| format!("x{number},")).collect();
        assert_eq!(selecting([(&b"vary"[..], many.as_bytes())].into_iter(), None), None);
    }
}
