//! Parts of a kept response (RFC 9110 section 14).
//!
//! Takes the value of Range and the length of what is kept; gives the part. Several parts in one answer are not made: the whole is sent then,
//! as section 14.2 allows, and no list of many small or overlapping ranges costs more than it (CVE-2011-3192).
#![forbid(unsafe_code)]

/// What of a body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it, with the status it has.
    Whole,
    /// From the first byte to before the second: 206.
    Of(u64, u64),
    /// Nothing: 416.
    None,
}

/// The part that a Range asks for.
pub fn part(range: &[u8], length: u64) -> Part {
    let Some((unit, set)) = range.iter().position(|byte| *byte == b'=').map(|at| range.split_at(at)) else {
        return Part::Whole;
    };
    if !unit.trim_ascii().eq_ignore_ascii_case(b"bytes") {
        return Part::Whole;
    }
    let mut specs = set[1..]
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|spec| !spec.is_empty());
    let (Some(spec), None) = (specs.next(), specs.next()) else {
        return Part::Whole;
    };
    let Some(dash) = spec.iter().position(|byte| *byte == b'-') else {
        return Part::Whole;
    };
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last && first < length => {
            Part::Of(first, last.saturating_add(1).min(length))
        }
        // The last byte before the first is no range at all, and so none was asked for.
        (Some(first), Some(last)) if first > last => Part::Whole,
        (Some(first), None) if last.is_empty() && first < length => Part::Of(first, length),
        // The end of nothing is there, but no Content-Range can tell so.
        (None, Some(most)) if first.is_empty() && most > 0 && length == 0 => Part::Whole,
        (None, Some(most)) if first.is_empty() && most > 0 => Part::Of(length.saturating_sub(most), length),
        (Some(_), Some(_)) => Part::None,
        (Some(_), None) if last.is_empty() => Part::None,
        (None, Some(_)) if first.is_empty() => Part::None,
        _ => Part::Whole,
    }
}

/// Digits as a number; the largest there is for one that is larger.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let sum = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(text.iter().fold(0, sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_is_given_and_all_else_is_the_whole() {
        for (range, expected) in [
            ("bytes=0-0", Part::Of(0, 1)),
            ("bytes=2-5", Part::Of(2, 6)),
            ("Bytes = 2-5", Part::Of(2, 6)),
            ("bytes=2-", Part::Of(2, 10)),
            ("bytes=2-99999999999999999999999", Part::Of(2, 10)),
            ("bytes=-3", Part::Of(7, 10)),
            ("bytes=-30", Part::Of(0, 10)),
            ("bytes=9-9", Part::Of(9, 10)),
            ("bytes=10-", Part::None),
            ("bytes=10-20", Part::None),
            ("bytes=-0", Part::None),
            ("bytes=5-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=,2-5,", Part::Of(2, 6)),
            ("bytes=a-b", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=1", Part::Whole),
            ("bytes=-", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("", Part::Whole),
            ("=0-1", Part::Whole),
            ("bytes", Part::Whole),
            ("bytes=", Part::Whole),
            ("bytes= , ", Part::Whole),
            ("bytes=0-1-2", Part::Whole),
            ("bytes=0 - 1", Part::Whole),
            ("bytes=--1", Part::Whole),
            ("bytes=0-1,", Part::Of(0, 2)),
            ("bytes=9-", Part::Of(9, 10)),
            ("bytes=0-9", Part::Of(0, 10)),
            ("bytes=0-10", Part::Of(0, 10)),
            ("bytes=-99999999999999999999999", Part::Of(0, 10)),
            ("bytes=99999999999999999999999-", Part::None),
            ("bytes=0-,0-,0-,0-,0-,0-", Part::Whole),
        ] {
            assert_eq!(part(range.as_bytes(), 10), expected, "{range}");
        }
        assert_eq!(part(b"bytes=0-", 0), Part::None);
        assert_eq!(part(b"bytes=0-0", 0), Part::None);
        assert_eq!(part(b"bytes=-0", 0), Part::None);
        assert_eq!(part(b"bytes=-1", 0), Part::Whole);
    }
}
