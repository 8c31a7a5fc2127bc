//! What a handler marks its responses with: tags to purge them by, and the URIs that a change makes worthless.
//!
//! Takes the fields of responses; gives lists of tags (one a line) and paths. Pure.
#![forbid(unsafe_code)]

use super::key::authority;
use super::policy::{Field, values};

/// Most tags of one response; more are forgotten, as is a longer one.
const MOST: usize = 128;
const LONGEST: usize = 256;

/// Whether a field (its name in lower case) is for caches like this one, and not for clients.
pub fn is_tag_field(name: &[u8]) -> bool {
    matches!(name, b"cache-tag" | b"surrogate-key")
}

/// The tags of a response, one a line: those of `Cache-Tag`, which commas part, and of `Surrogate-Key`, which spaces part.
pub fn tags<'a>(fields: impl Iterator<Item = Field<'a>> + Clone) -> Vec<u8> {
    let by_comma = values(fields.clone(), b"cache-tag").flat_map(|value| value.split(|byte| *byte == b','));
    let by_space = values(fields, b"surrogate-key").flat_map(|value| value.split(u8::is_ascii_whitespace));
    let tags = by_comma.chain(by_space).map(<[u8]>::trim_ascii);
    let tags = tags.filter(|tag| !tag.is_empty() && tag.len() <= LONGEST).take(MOST);
    tags.collect::<Vec<_>>().join(&b'\n')
}

/// The path and query of what Location or Content-Location names, if it is of the same host as the request (RFC 9111 section 4.4): a path
/// that begins with a slash, or a whole URI. What is relative otherwise is left alone.
pub fn target_of<'a>(reference: &'a [u8], scheme: &str, host: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let reference = reference
        .split(|byte| *byte == b'#')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    let path = match reference.iter().position(|byte| *byte == b':') {
        _ if reference.starts_with(b"/") && !reference.starts_with(b"//") => reference,
        Some(colon) if reference[..colon].eq_ignore_ascii_case(scheme.as_bytes()) => {
            let rest = reference[colon + 1..].strip_prefix(b"//")?;
            let end = rest
                .iter()
                .position(|byte| matches!(byte, b'/' | b'?'))
                .unwrap_or(rest.len());
            if !authority(scheme, &rest[..end]).eq_ignore_ascii_case(authority(scheme, host)) {
                return None;
            }
            &rest[end..]
        }
        _ => return None,
    };
    let question = path.iter().position(|byte| *byte == b'?');
    Some(question.map_or((path, &[]), |at| (&path[..at], &path[at + 1..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_both_fields() {
        let fields = [
            (&b"Cache-Tag"[..], &b"a, b b ,,c"[..]),
            (b"surrogate-key", b"d  e"),
            (b"x", b"f"),
        ];
        assert_eq!(tags(fields.into_iter()), b"a\nb b\nc\nd\ne");
        let countless = "a ".repeat(3 * MOST);
        let found = tags([(&b"surrogate-key"[..], countless.as_bytes())].into_iter());
        assert_eq!(found.len(), 2 * MOST - 1);
        let nothing = [(&b"cache-tag"[..], &b" , ,"[..]), (b"surrogate-key", b"")];
        assert_eq!(tags(nothing.into_iter()), b"");
        let many = vec![b'x'; 2 * LONGEST];
        assert_eq!(tags([(&b"cache-tag"[..], &many[..])].into_iter()), b"");
    }

    #[test]
    fn what_a_change_names_is_of_the_same_host() {
        let of = |text: &'static str| {
            let (path, query) = target_of(text.as_bytes(), "http", b"e.example:81")?;
            Some((str::from_utf8(path).unwrap(), str::from_utf8(query).unwrap()))
        };
        assert_eq!(of("/a?b=c#d"), Some(("/a", "b=c")));
        assert_eq!(of("HTTP://E.example:81/a"), Some(("/a", "")));
        assert_eq!(of("http://e.example:81?x"), Some(("", "x")));
        assert_eq!(of("http://e.example/a"), None);
        assert_eq!(of("https://e.example:81/a"), None);
        assert_eq!(of("//e.example:81/a"), None);
        assert_eq!(of("a/b"), None);
        assert_eq!(of(" /a "), Some(("/a", "")));
        for nothing in [
            "",
            "#a",
            "?a",
            "http:/a",
            "http:a",
            "http://e.example:81@x/a",
            "http://u@e.example:81/a",
            "://e.example:81/a",
        ] {
            assert_eq!(of(nothing), None, "{nothing}");
        }
        let (scheme, path) = ("http", Some((&b"/a"[..], &b""[..])));
        assert_eq!(target_of(b"http://e:80/a", scheme, b"E"), path);
        assert_eq!(target_of(b"http://e/a", scheme, b"e:80"), path);
        assert_eq!(target_of(b"https://e:80/a", "https", b"e"), None);
    }
}
