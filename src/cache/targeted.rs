//! What is said to caches near the origin by name: CDN-Cache-Control (RFC 9213).
//!
//! Takes the values of all fields of that name; gives the directives. It is no list of Cache-Control's but a Dictionary (RFC 8941 section 3.2):
//! what is not written as one is as if it were not there, and Cache-Control counts. What follows from it is decided in `policy`.
#![forbid(unsafe_code)]

use super::directives::Directives;

/// Directives that are numbers.
const NUMBERS: [&[u8]; 4] = [b"max-age", b"s-maxage", b"stale-while-revalidate", b"stale-if-error"];
/// Digits of an Integer (RFC 8941 section 3.3.1).
const MOST_DIGITS: usize = 15;

/// A value, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Number(u64),
    Flag(bool),
    Other,
}

/// The directives; None when there are none, or when they are not written as they must be (RFC 9213 section 2.1).
pub fn directives<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<Directives> {
    let text = values.collect::<Vec<_>>().join(&b","[..]);
    if text.is_empty() {
        return None;
    }
    let members = dictionary(&text)?;
    let mut directives = Directives::default();
    for (number, (name, value)) in members.iter().enumerate() {
        let is_last = members[number + 1..].iter().all(|(other, _)| other != name);
        match value {
            _ if !is_last => {}
            Value::Number(seconds) => directives.note((name, Some(seconds.to_string().as_bytes()))),
            _ if NUMBERS.contains(name) => return None,
            Value::Flag(false) => {}
            Value::Flag(true) | Value::Other => directives.note((name, None)),
        }
    }
    directives.any = true;
    Some(directives)
}

/// The members (RFC 8941 section 4.2.2).
fn dictionary(text: &[u8]) -> Option<Vec<(&[u8], Value)>> {
    let mut rest = text;
    let mut members = Vec::new();
    skip(&mut rest, b" ");
    loop {
        let name = key(&mut rest)?;
        let value = if take(&mut rest, b'=') {
            value(&mut rest)?
        } else {
            Value::Flag(true)
        };
        parameters(&mut rest)?;
        members.push((name, value));
        skip(&mut rest, b" \t");
        if rest.is_empty() {
            return Some(members);
        }
        if !take(&mut rest, b',') {
            return None;
        }
        skip(&mut rest, b" \t");
    }
}

fn skip(rest: &mut &[u8], bytes: &[u8]) {
    run(rest, |byte| bytes.contains(byte));
}

fn take(rest: &mut &[u8], byte: u8) -> bool {
    let after = rest.strip_prefix(&[byte]);
    *rest = after.unwrap_or(rest);
    after.is_some()
}

/// The bytes that `is` holds for.
fn run<'a>(rest: &mut &'a [u8], is: impl Fn(&u8) -> bool) -> &'a [u8] {
    let end = rest.iter().position(|byte| !is(byte)).unwrap_or(rest.len());
    let (run, after) = rest.split_at(end);
    *rest = after;
    run
}

fn key<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let first = rest.first()?;
    (first.is_ascii_lowercase() || *first == b'*').then(|| {
        run(rest, |byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(byte)
        })
    })
}

fn parameters(rest: &mut &[u8]) -> Option<()> {
    while take(rest, b';') {
        skip(rest, b" ");
        key(rest)?;
        if take(rest, b'=') {
            item(rest)?;
        }
    }
    Some(())
}

/// An item or an inner list.
fn value(rest: &mut &[u8]) -> Option<Value> {
    if !take(rest, b'(') {
        return item(rest);
    }
    loop {
        skip(rest, b" ");
        if take(rest, b')') {
            return Some(Value::Other);
        }
        item(rest)?;
        parameters(rest)?;
        if !matches!(rest.first(), Some(b' ' | b')')) {
            return None;
        }
    }
}

/// An item without its parameters (RFC 8941 section 4.2.3.1).
fn item(rest: &mut &[u8]) -> Option<Value> {
    match *rest.first()? {
        b'-' | b'0'..=b'9' => number(rest),
        b'"' => string(rest),
        b'*' | b'A'..=b'Z' | b'a'..=b'z' => {
            run(rest, |byte| {
                byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(byte)
            });
            Some(Value::Other)
        }
        b':' => {
            *rest = &rest[1..];
            run(rest, |byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte));
            take(rest, b':').then_some(Value::Other)
        }
        b'?' => {
            let flag = *rest.get(1)?;
            *rest = &rest[2..];
            matches!(flag, b'0' | b'1').then_some(Value::Flag(flag == b'1'))
        }
        _ => None,
    }
}

fn number(rest: &mut &[u8]) -> Option<Value> {
    let negative = take(rest, b'-');
    let whole = run(rest, u8::is_ascii_digit);
    if take(rest, b'.') {
        let fraction = run(rest, u8::is_ascii_digit);
        let is_decimal = (1..=MOST_DIGITS - 3).contains(&whole.len()) && (1..=3).contains(&fraction.len());
        return is_decimal.then_some(Value::Other);
    }
    if !(1..=MOST_DIGITS).contains(&whole.len()) {
        return None;
    }
    let number = whole.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    // No time is shorter than none.
    Some(Value::Number(if negative { 0 } else { number }))
}

fn string(rest: &mut &[u8]) -> Option<Value> {
    *rest = &rest[1..];
    loop {
        run(rest, |byte| matches!(byte, b' '..=b'~') && !b"\"\\".contains(byte));
        if take(rest, b'"') {
            return Some(Value::Other);
        }
        if !take(rest, b'\\') || !take(rest, b'"') && !take(rest, b'\\') {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Option<Directives> {
        directives([value.as_bytes()].into_iter())
    }

    #[test]
    fn what_is_a_dictionary_counts() {
        for (value, max_age, no_store) in [
            ("max-age=60", Some(60), false),
            (" max-age=60 \t,\tno-store ", Some(60), true),
            ("no-store=?1", None, true),
            ("no-store=?0", None, false),
            (
                "max-age=60;x;y=\"a, no-store\", foo=(a \"b\";q=1 :aGk=:), bar=1.5",
                Some(60),
                false,
            ),
            ("max-age=5, max-age=60", Some(60), false),
            ("max-age=\"5\", max-age=60", Some(60), false),
            ("max-age=-1", Some(0), false),
            ("max-age=99999999999", Some(1 << 31), false),
            ("*x, foo=bar:/b, no-store", None, true),
        ] {
            let found = of(value).unwrap_or_else(|| panic!("{value} is none"));
            assert_eq!((found.max_age, found.no_store), (max_age, no_store), "{value}");
            assert!(found.any, "{value}");
        }
        let two = directives([&b"max-age=60"[..], b"no-store"].into_iter()).unwrap();
        assert!(two.no_store && two.max_age == Some(60));
    }

    #[test]
    fn what_is_none_is_as_if_it_were_not_there() {
        for value in [
            "",
            " ",
            ",",
            "max-age=60,",
            "max-age=60,,no-store",
            "max-age=60, &&&&&",
            "Max-Age=60",
            "max-age =60",
            "max-age= 60",
            "max-age=\"60\"",
            "max-age",
            "max-age=60.0",
            "max-age=60.1234",
            "max-age=1234567890123456",
            "max-age=-",
            "max-age=60 no-store",
            "max-age=60, x=\"a",
            "max-age=60, x=\"\\a\"",
            "max-age=60, x=(a",
            "max-age=60, x=(a\"b\")",
            "max-age=60, x=:a",
            "max-age=60, x=?",
            "max-age=60, x=?2",
            "max-age=60;",
            "\tmax-age=60",
            "max-age=60, x=\"\u{e4}\"",
        ] {
            assert_eq!(of(value), None, "{value}");
        }
        assert_eq!(directives(std::iter::empty()), None);
    }
}
