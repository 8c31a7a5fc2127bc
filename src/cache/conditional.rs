//! Conditions: which requests a kept response answers with 304, how the handler is asked whether it has changed, and what its 304 changes.
//!
//! Takes the fields of requests and responses; gives decisions and fields (RFC 9110 section 13, RFC 9111 sections 3.2 and 4.3). Pure.
#![forbid(unsafe_code)]

use super::policy::{Field, http_date, values};

/// Whether a request's conditions say that its client has what `status` and `fields` are the head of (RFC 9110 section 13.2.2). If-None-Match
/// goes before If-Modified-Since; both count for a 200 alone.
pub fn is_not_modified<'a, 'b>(
    request: impl Iterator<Item = Field<'a>> + Clone,
    status: u16,
    fields: impl Iterator<Item = Field<'b>> + Clone,
) -> bool {
    if status != 200 {
        return false;
    }
    let mut asked = values(request.clone(), b"if-none-match").peekable();
    if asked.peek().is_some() {
        let own = values(fields, b"etag").next();
        return asked.any(|list| matches(list, own));
    }
    let mut since = values(request, b"if-modified-since");
    let (Some(since), None) = (since.next(), since.next()) else {
        return false;
    };
    let modified = values(fields.clone(), b"last-modified")
        .next()
        .or_else(|| values(fields, b"date").next());
    match (http_date(since), modified.and_then(http_date)) {
        (Some(since), Some(modified)) => modified <= since,
        _ => false,
    }
}

/// Whether a list of entity tags has one (weak comparison, RFC 9110 section 8.8.3.2).
fn matches(list: &[u8], own: Option<&[u8]>) -> bool {
    if list.trim_ascii() == b"*" {
        return true;
    }
    let Some(own) = own.and_then(opaque) else {
        return false;
    };
    let mut rest = list;
    loop {
        while let [b' ' | b'\t' | b',', after @ ..] = rest {
            rest = after;
        }
        let tag = rest.strip_prefix(b"W/").unwrap_or(rest);
        let Some(tag) = tag.strip_prefix(b"\"") else {
            return false;
        };
        // A comma may stand within the quotes.
        let Some(end) = tag.iter().position(|byte| *byte == b'"') else {
            return false;
        };
        if &tag[..end] == own {
            return true;
        }
        rest = &tag[end + 1..];
        if rest.is_empty() {
            return false;
        }
    }
}

/// What stands between the quotes of a tag, weak or strong.
fn opaque(tag: &[u8]) -> Option<&[u8]> {
    let tag = tag.trim_ascii();
    let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
    tag.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// Whether a range is to be given of what is kept (RFC 9110 section 13.1.5): If-Range names it exactly, or is not there. Tags compare
/// strongly, dates exactly.
pub fn is_same<'a>(if_range: Option<&[u8]>, fields: impl Iterator<Item = Field<'a>> + Clone) -> bool {
    let Some(wanted) = if_range.map(<[u8]>::trim_ascii) else {
        return true;
    };
    if wanted.starts_with(b"\"") || wanted.starts_with(b"W/") {
        return !wanted.starts_with(b"W/") && values(fields, b"etag").next() == Some(wanted);
    }
    let wanted = http_date(wanted);
    let modified = values(fields.clone(), b"last-modified").next().and_then(http_date);
    // A date is a strong validator only if there was a second for nothing else to happen in (section 8.8.2.2).
    let date = values(fields, b"date").next().and_then(http_date);
    wanted.is_some() && wanted == modified && date.is_some_and(|date| modified.is_some_and(|modified| modified < date))
}

/// Whether a request's field is a condition that is the cache's to answer, and not passed on with a request that fills it.
pub fn is_own(name: &[u8]) -> bool {
    let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
    is(b"if-none-match") || is(b"if-modified-since")
}

/// Whether a request has conditions that only the handler can answer (RFC 9111 section 4.3.2), for they are about its state.
pub fn is_beyond(name: &[u8]) -> bool {
    let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
    is(b"if-match") || is(b"if-unmodified-since")
}

/// The fields that ask the handler whether a kept response has changed (RFC 9111 section 4.3.1); none when it cannot be asked.
pub fn validators<'a>(fields: impl Iterator<Item = Field<'a>> + Clone) -> Vec<(&'static str, &'a [u8])> {
    let tag = values(fields.clone(), b"etag").next();
    let modified = values(fields, b"last-modified").next();
    let tag = tag.map(|tag| ("If-None-Match", tag));
    tag.into_iter()
        .chain(modified.map(|date| ("If-Modified-Since", date)))
        .collect()
}

/// Whether a 304 is about what is kept (RFC 9111 section 4.3.4): a validator that it names is that of the kept response, in the weak comparison
/// that the question was asked with. One that names none is about what it was asked of, as many handlers leave that to be understood.
pub fn is_about<'a, 'b>(
    kept: impl Iterator<Item = Field<'a>> + Clone,
    answer: impl Iterator<Item = Field<'b>> + Clone,
) -> bool {
    let tags = (
        values(answer.clone(), b"etag").next(),
        values(kept.clone(), b"etag").next(),
    );
    match tags {
        (Some(tag), Some(own)) => return opaque(own).is_some() && opaque(own) == opaque(tag),
        (Some(tag), None) if !tag.starts_with(b"W/") => return false,
        _ => {}
    }
    let modified = values(answer, b"last-modified").next();
    let own = values(kept, b"last-modified").next();
    match (modified, own) {
        (Some(modified), Some(own)) => {
            modified == own || http_date(modified).is_some_and(|at| http_date(own) == Some(at))
        }
        _ => true,
    }
}

/// Whether a field (its name in lower case) is left out of a 304 (RFC 9110 section 15.4.5): what describes a content that is not sent.
pub fn is_of_content(name: &[u8]) -> bool {
    matches!(
        name,
        b"content-length" | b"content-type" | b"content-encoding" | b"content-language" | b"content-range"
    )
}

/// The fields of a kept response after a 304 (RFC 9111 section 3.2): those that it has replace those of their names, but for what belongs to
/// the content that was kept. `kept` and `new` are lines as they are sent, names in lower case.
pub fn freshen(kept: &[u8], new: &[u8]) -> Vec<u8> {
    let replaces = |name: &[u8]| {
        !matches!(
            name,
            b"content-length" | b"content-encoding" | b"content-range" | b"content-type"
        )
    };
    let name = |line: &[u8]| {
        let end = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        line[..end].to_vec()
    };
    let new: Vec<_> = split(new)
        .map(|line| (name(line), line))
        .filter(|(name, _)| replaces(name))
        .collect();
    let stays = split(kept).filter(|line| {
        !new.iter()
            .any(|(name, _)| line.starts_with(name) && line.get(name.len()) == Some(&b':'))
    });
    let mut fields = stays.collect::<Vec<_>>().concat();
    new.iter().for_each(|(_, line)| fields.extend_from_slice(line));
    fields
}

fn split(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    lines
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.len() > 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &'static str) -> impl Iterator<Item = Field<'static>> + Clone {
        text.split('|').filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.as_bytes(), value.as_bytes()))
        })
    }

    const TAGGED: &str =
        "etag: \"a,b\"|last-modified: Sun, 06 Nov 1994 08:49:37 GMT|date: Sun, 06 Nov 1994 09:00:00 GMT";

    #[test]
    fn a_client_that_has_it_is_told_so() {
        for (request, expected) in [
            ("if-none-match: \"a,b\"", true),
            ("if-none-match: W/\"a,b\"", true),
            ("if-none-match: \"x\", \"a,b\"", true),
            ("if-none-match: \"x\" , ,W/\"a,b\"", true),
            ("if-none-match: \"x\"|if-none-match: \"a,b\"", true),
            ("if-none-match: *", true),
            ("if-none-match: \"a\"", false),
            ("if-none-match: a,b", false),
            ("if-none-match: \"a,b", false),
            // A tag goes before a date.
            (
                "if-none-match: \"x\"|if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT",
                false,
            ),
            ("if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT", true),
            ("if-modified-since: Sun, 06 Nov 1994 08:49:36 GMT", false),
            ("if-modified-since: Sat, 06 Nov 2094 08:49:36 GMT", true),
            ("if-modified-since: yesterday", false),
            ("", false),
        ] {
            assert_eq!(
                is_not_modified(fields(request), 200, fields(TAGGED)),
                expected,
                "{request}"
            );
        }
        assert!(!is_not_modified(fields("if-none-match: *"), 404, fields(TAGGED)));
        let since = "if-modified-since: Sun, 06 Nov 1994 09:00:00 GMT";
        assert!(is_not_modified(
            fields(since),
            200,
            fields("date: Sun, 06 Nov 1994 09:00:00 GMT")
        ));
    }

    #[test]
    fn a_range_is_of_exactly_what_the_client_has_a_part_of() {
        for (if_range, expected) in [
            (None, true),
            (Some("\"a,b\""), true),
            (Some("W/\"a,b\""), false),
            (Some("\"x\""), false),
            (Some("Sun, 06 Nov 1994 08:49:37 GMT"), true),
            (Some("Sun, 06 Nov 1994 08:49:38 GMT"), false),
            (Some("soon"), false),
        ] {
            assert_eq!(
                is_same(if_range.map(str::as_bytes), fields(TAGGED)),
                expected,
                "{if_range:?}"
            );
        }
        assert!(!is_same(Some(b"W/\"w\""), fields("etag: W/\"w\"")));
    }

    #[test]
    fn a_304_changes_the_fields_and_never_what_they_say_of_the_content() {
        let kept = b"etag: \"1\"\r\ncontent-type: text/plain\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 5\r\ndate: old\r\n";
        let new = b"date: new\r\nx-a: 3\r\ncontent-length: 0\r\ncontent-type: text/html\r\nx-b: 4\r\n";
        let expected =
            "etag: \"1\"\r\ncontent-type: text/plain\r\ncontent-length: 5\r\ndate: new\r\nx-a: 3\r\nx-b: 4\r\n";
        assert_eq!(String::from_utf8(freshen(kept, new)).unwrap(), expected);
    }

    #[test]
    fn a_304_of_something_else_changes_nothing() {
        let dated = "last-modified: Sun, 06 Nov 1994 08:49:37 GMT";
        for (kept, answer, expected) in [
            (TAGGED, "", true),
            (TAGGED, "etag: \"a,b\"", true),
            (TAGGED, "etag: W/\"a,b\"", true),
            ("etag: W/\"1\"", "etag: \"1\"", true),
            (TAGGED, "etag: \"x\"", false),
            (TAGGED, "etag: a,b", false),
            ("etag: a", "etag: a", false),
            (dated, "etag: \"x\"", false),
            (dated, "etag: W/\"x\"", true),
            ("last-modified: once", "etag: W/\"x\"|last-modified: twice", false),
            (TAGGED, dated, true),
            (dated, "last-modified: Sunday, 06-Nov-94 08:49:37 GMT", true),
            (dated, "last-modified: Sun, 06 Nov 1994 08:49:38 GMT", false),
            ("last-modified: once", "last-modified: once", true),
            ("etag: \"1\"", dated, true),
            ("", "", true),
        ] {
            assert_eq!(is_about(fields(kept), fields(answer)), expected, "{kept} and {answer}");
        }
    }

    #[test]
    fn conditions_are_read_strictly() {
        for (request, expected) in [
            ("if-none-match: \"x\" \"a,b\"", true),
            ("if-none-match: w/\"a,b\"", false),
            ("if-none-match: \"x\"; \"a,b\"", false),
            ("if-none-match: ", false),
            // A tag that fits none is said, so the date does not count.
            (
                "if-none-match: |if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT",
                false,
            ),
            ("if-modified-since: Sunday, 06-Nov-94 08:49:37 GMT", true),
            ("if-modified-since: Sun Nov  6 08:49:37 1994", true),
            (
                "if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT|if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT",
                false,
            ),
        ] {
            assert_eq!(
                is_not_modified(fields(request), 200, fields(TAGGED)),
                expected,
                "{request}"
            );
        }
        // Neither a tag nor a date is there to compare with.
        assert!(!is_not_modified(fields("if-none-match: \"a\""), 200, fields("x: y")));
        let since = "if-modified-since: Sun, 06 Nov 1994 09:00:00 GMT";
        assert!(!is_not_modified(fields(since), 200, fields("x: y")));
        assert!(!is_not_modified(
            fields(since),
            200,
            fields("last-modified: once|date: Sun, 06 Nov 1994 08:00:00 GMT")
        ));
        for status in [203, 204, 301, 404, 500] {
            assert!(
                !is_not_modified(fields("if-none-match: *"), status, fields(TAGGED)),
                "{status}"
            );
        }
    }

    #[test]
    fn a_date_is_exact_only_if_nothing_else_could_happen_in_its_second() {
        let modified = "last-modified: Sun, 06 Nov 1994 08:49:37 GMT";
        let wanted = Some(&b"Sun, 06 Nov 1994 08:49:37 GMT"[..]);
        for (date, expected) in [
            ("", false),
            ("|date: Sun, 06 Nov 1994 08:49:37 GMT", false),
            ("|date: Sun, 06 Nov 1994 08:49:38 GMT", true),
        ] {
            let kept = format!("{modified}{date}").leak();
            assert_eq!(is_same(wanted, fields(kept)), expected, "{date}");
        }
    }

    #[test]
    fn names_that_begin_alike_are_not_taken_for_each_other() {
        let found = freshen(b"x: 1\r\nx-a: 2\r\nxx: 3\r\n", b"x: 4\r\n");
        assert_eq!(found, b"x-a: 2\r\nxx: 3\r\nx: 4\r\n");
        assert_eq!(freshen(b"a: 1\r\n", b""), b"a: 1\r\n");
        assert_eq!(freshen(b"", b"a: 1\r\na: 2\r\n"), b"a: 1\r\na: 2\r\n");
    }

    #[test]
    fn the_handler_is_asked_by_what_it_gave() {
        let found = validators(fields(TAGGED));
        assert_eq!(found[0], ("If-None-Match", &b"\"a,b\""[..]));
        assert_eq!(found[1].0, "If-Modified-Since");
        assert!(validators(fields("x: y")).is_empty());
    }
}
