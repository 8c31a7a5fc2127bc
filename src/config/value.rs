//! The values a setting can have, as they are written.
//!
//! Takes one value, typed at a shell or found in TOML; gives it in its final type, or the sentence that says what was
//! expected. It knows neither the names of settings nor where a value stands.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

/// One value as somebody gave it.
#[derive(Debug, Clone, Copy)]
pub enum Given<'a> {
    /// From a flag or an environment variable: text, whatever it means.
    Typed(&'a str),
    /// From the file.
    Toml(&'a DeValue<'a>),
}

/// Why a value is not taken; the message goes on after the name of the setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For instance "must be a number from 1 to 1024, not 0".
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl Refusal {
    pub(super) fn of(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
        }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }
}

/// The outcome of reading one value.
pub type Read<T> = Result<T, Refusal>;

/// A day: beyond it a timeout is surely a slip of the unit.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl<'a> Given<'a> {
    /// How a message quotes it.
    fn shown(self) -> String {
        match self {
            Self::Typed(text) => format!("{text:?}"),
            Self::Toml(DeValue::String(text)) => format!("{text:?}"),
            Self::Toml(DeValue::Integer(number)) => number.as_str().to_owned(),
            Self::Toml(DeValue::Float(number)) => number.as_str().to_owned(),
            Self::Toml(DeValue::Boolean(yes)) => yes.to_string(),
            Self::Toml(DeValue::Datetime(when)) => when.to_string(),
            Self::Toml(DeValue::Array(_)) => "an array".to_owned(),
            Self::Toml(DeValue::Table(_)) => "a table".to_owned(),
        }
    }

    fn str(self) -> Option<&'a str> {
        match self {
            Self::Typed(text) => Some(text),
            Self::Toml(DeValue::String(text)) => Some(text),
            Self::Toml(_) => None,
        }
    }

    fn integer(self) -> Option<i128> {
        match self {
            Self::Typed(text) => text.trim().parse().ok(),
            Self::Toml(DeValue::Integer(number)) => {
                i128::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
            }
            Self::Toml(_) => None,
        }
    }

    fn refuse(self, expected: impl std::fmt::Display) -> Refusal {
        Refusal::of(format!("must be {expected}, not {}", self.shown()))
    }
}

/// A count within a range.
pub fn count(given: Given<'_>, range: RangeInclusive<usize>) -> Read<usize> {
    match given.integer().and_then(|number| usize::try_from(number).ok()) {
        Some(number) if range.contains(&number) => Ok(number),
        _ => {
            let refusal = given.refuse(format_args!("a number from {} to {}", range.start(), range.end()));
            match given {
                Given::Toml(DeValue::String(text)) if text.parse::<usize>().is_ok() => {
                    Err(refusal.help(format!("numbers stand without quotes: {text}")))
                }
                _ => Err(refusal),
            }
        }
    }
}

/// A number of processes, or `auto` for one per CPU.
pub fn workers(given: Given<'_>) -> Read<usize> {
    if given.str() == Some("auto") {
        return Ok(super::available_cpus());
    }
    count(given, 1..=super::MOST_WORKERS).map_err(|refusal| {
        let help = refusal
            .help
            .unwrap_or_else(|| "\"auto\" gives one worker per CPU".to_owned());
        Refusal::of(refusal.message).help(help)
    })
}

/// A duration from a millisecond to a day.
pub fn duration(given: Given<'_>) -> Read<Duration> {
    match duration_or_zero(given)? {
        Duration::ZERO => Err(Refusal::of("must be longer than nothing")),
        some => Ok(some),
    }
}

/// A duration up to a day; zero means "at once".
pub fn duration_or_zero(given: Given<'_>) -> Read<Duration> {
    match time(given)? {
        time if time <= LONGEST => Ok(time),
        _ => Err(given.refuse("at most 24h")),
    }
}

/// How long something may live, up to a year; zero means "for ever".
pub fn lifetime(given: Given<'_>) -> Read<Duration> {
    match time(given)? {
        time if time <= LONGEST * 366 => Ok(time),
        _ => Err(given.refuse("at most 8784h, a year")),
    }
}

fn time(given: Given<'_>) -> Read<Duration> {
    const FORM: &str = "a duration like \"30s\", \"500ms\", \"2m\" or \"1h\"";
    let Some(text) = given.str() else {
        let refusal = given.refuse(FORM);
        return Err(match given.integer() {
            Some(number) => refusal.help(format!("a duration needs a unit: \"{number}s\"")),
            None => refusal,
        });
    };
    let (digits, unit) = split(text);
    let number = digits.parse::<u64>().map_err(|_| given.refuse(FORM))?;
    let scale = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(given.refuse(FORM).help(format!("a duration needs a unit: {number}s"))),
        _ => return Err(given.refuse(FORM).help("the units are ms, s, m and h")),
    };
    Ok(Duration::from_millis(number.saturating_mul(scale)))
}

/// A size in bytes within a range: `64KiB`, `10MB`, or a plain number of bytes.
pub fn size(given: Given<'_>, range: RangeInclusive<u64>) -> Read<u64> {
    const FORM: &str = "a size like \"64KiB\", \"10MB\", \"1GiB\" or a number of bytes";
    let bytes = match given {
        Given::Toml(DeValue::Integer(_)) => given.integer().and_then(|number| u64::try_from(number).ok()),
        _ => {
            let text = given.str().ok_or_else(|| given.refuse(FORM))?;
            let (digits, unit) = split(text);
            let number = digits.parse::<u64>().map_err(|_| given.refuse(FORM))?;
            let scale: u64 = match unit {
                "" | "B" => 1,
                "KiB" => 1 << 10,
                "MiB" => 1 << 20,
                "GiB" => 1 << 30,
                "KB" | "kB" => 1_000,
                "MB" => 1_000_000,
                "GB" => 1_000_000_000,
                _ => return Err(unit_help(given.refuse(FORM), number, unit)),
            };
            number.checked_mul(scale)
        }
    };
    match bytes {
        Some(bytes) if range.contains(&bytes) => Ok(bytes),
        _ => Err(given.refuse(format_args!(
            "from {} to {}",
            bytes_text(*range.start()),
            bytes_text(*range.end())
        ))),
    }
}

/// nginx writes `64k` and `1m`; the letter tells which unit was meant.
fn unit_help(refusal: Refusal, number: u64, unit: &str) -> Refusal {
    match unit.chars().next().map(|letter| letter.to_ascii_lowercase()) {
        Some('k') => refusal.help(format!("write {number}KiB")),
        Some('m') => refusal.help(format!("write {number}MiB")),
        Some('g') => refusal.help(format!("write {number}GiB")),
        _ => refusal.help("the units are KiB, MiB, GiB, KB, MB and GB"),
    }
}

/// Number and unit; a space between them is welcome.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// Permission bits: octal digits in a string, since TOML would take 0660 for a mistake and 660 for decimal.
pub fn octal(given: Given<'_>) -> Read<u32> {
    const FORM: &str = "an octal string like \"0660\"";
    let Some(text) = given.str() else {
        let refusal = given.refuse(FORM);
        return Err(match given {
            Given::Toml(DeValue::Integer(number)) => {
                refusal.help(format!("write it in quotes: \"0{}\"", number.as_str()))
            }
            _ => refusal,
        });
    };
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(bits) if bits <= 0o777 && !digits.starts_with('+') => Ok(bits),
        _ => Err(given.refuse(FORM)),
    }
}

/// Text that is not empty and holds no NUL, which no C string could carry.
pub fn text(given: Given<'_>) -> Read<String> {
    match given.str() {
        None => Err(given.refuse("a string").help("strings stand in double quotes")),
        Some("") => Err(Refusal::of("must not be empty").help("leave it out instead")),
        Some(text) if text.contains('\0') => Err(Refusal::of("must not contain a NUL byte")),
        Some(text) => Ok(text.to_owned()),
    }
}

/// Text that may be empty: the value of a module's argument.
pub fn any_text(given: Given<'_>) -> Read<String> {
    match given.str() {
        None => {
            let shown = given.shown();
            Err(given
                .refuse("a string")
                .help(format!("arguments are strings: \"{shown}\"")))
        }
        Some(text) if text.contains('\0') => Err(Refusal::of("must not contain a NUL byte")),
        Some(text) => Ok(text.to_owned()),
    }
}

/// A path, which nobody has looked at yet.
pub fn path(given: Given<'_>) -> Read<PathBuf> {
    text(given).map(PathBuf::from)
}

/// One of a few words.
pub fn choice<T: Copy>(given: Given<'_>, words: &[(&str, T)]) -> Read<T> {
    let typed = given.str().unwrap_or_default();
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == typed) {
        return Ok(*value);
    }
    let list: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let refusal = given.refuse(format_args!("one of {}", list.join(", ")));
    Err(match nearest(typed, words.iter().map(|(word, _)| *word)) {
        Some(word) => refusal.help(format!("did you mean \"{word}\"?")),
        None => refusal,
    })
}

/// The word of the table that stands for a value.
pub fn word<T: Copy + PartialEq>(value: T, words: &[(&'static str, T)]) -> &'static str {
    words
        .iter()
        .find(|(_, each)| *each == value)
        .map_or("", |(word, _)| word)
}

/// `true` or `false`.
pub fn truth(given: Given<'_>) -> Read<bool> {
    match given {
        Given::Toml(DeValue::Boolean(truth)) => Ok(*truth),
        Given::Typed("true") => Ok(true),
        Given::Typed("false") => Ok(false),
        other => {
            let refusal = Refusal::of(format!("must be true or false, not {}", other.shown()));
            Err(match other {
                Given::Toml(DeValue::String(text)) if ["true", "false"].contains(&text.as_ref()) => {
                    refusal.help(format!("without quotes: {text}"))
                }
                _ => refusal,
            })
        }
    }
}

/// A duration in the form that [`duration`] reads.
pub fn duration_text(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_millis()),
    }
}

/// A size in the form that [`size`] reads, in the largest unit that loses nothing.
pub fn bytes_text(bytes: u64) -> String {
    for (scale, unit) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes != 0 && bytes.is_multiple_of(scale) {
            return format!("{}{unit}", bytes / scale);
        }
    }
    bytes.to_string()
}

/// The candidate a slip of the finger away from `typed`, if there is one.
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase().replace('_', "-");
    candidates
        .into_iter()
        .map(|candidate| {
            (
                distance(&typed, &candidate.to_ascii_lowercase().replace('_', "-")),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len() / 3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edit distance with transpositions counted once (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 1..=from.len() {
        let mut row = vec![i; to.len() + 1];
        for j in 1..=to.len() {
            let change = usize::from(from[i - 1] != to[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + change);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed<T>(read: impl Fn(Given<'_>) -> Read<T>, text: &str) -> Read<T> {
        read(Given::Typed(text))
    }

    #[test]
    fn durations_and_sizes_are_read_and_written_back() {
        for (text, ms) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("2 s", 2_000),
        ] {
            assert_eq!(typed(duration, text).unwrap(), Duration::from_millis(ms));
        }
        for (text, bytes) in [
            ("64KiB", 65_536),
            ("10MB", 10_000_000),
            ("1GiB", 1 << 30),
            ("17", 17),
            ("1B", 1),
        ] {
            assert_eq!(typed(|given| size(given, 0..=u64::MAX), text).unwrap(), bytes);
        }
        assert_eq!(duration_text(Duration::from_millis(1500)), "1500ms");
        assert_eq!(duration_text(Duration::from_secs(75)), "75s");
        assert_eq!(
            (bytes_text(65_536), bytes_text(1_000), bytes_text(0)),
            ("64KiB".into(), "1000".into(), "0".into())
        );
    }

    #[test]
    fn a_wrong_unit_is_answered_with_the_right_one() {
        assert_eq!(
            typed(duration, "30").unwrap_err().help.unwrap(),
            "a duration needs a unit: 30s"
        );
        assert_eq!(
            typed(|given| size(given, 0..=u64::MAX), "64k")
                .unwrap_err()
                .help
                .unwrap(),
            "write 64KiB"
        );
        assert!(typed(duration, "0s").is_err() && typed(duration_or_zero, "0s").is_ok());
        assert!(typed(duration, "25h").is_err() && typed(duration, "18446744073709551615h").is_err());
        assert!(typed(|given| size(given, 0..=u64::MAX), "99999999999GiB").is_err());
    }

    #[test]
    fn octal_modes_have_no_digit_above_seven_and_no_bit_above_the_ninth() {
        assert_eq!(typed(octal, "0660").unwrap(), 0o660);
        assert!(typed(octal, "0689").is_err() && typed(octal, "1777").is_err() && typed(octal, "+7").is_err());
    }

    #[test]
    fn a_slip_of_the_finger_finds_its_word_and_nonsense_finds_none() {
        let words = ["workers", "threads", "keep-alive"];
        for (typed, word) in [
            ("worker", "workers"),
            ("wrokers", "workers"),
            ("keepalive", "keep-alive"),
            ("keep_alive", "keep-alive"),
        ] {
            assert_eq!(nearest(typed, words), Some(word));
        }
        assert_eq!(nearest("database", words), None);
    }
}
