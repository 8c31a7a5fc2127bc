//! The form of a line of the error log.
//!
//! Takes one event of tracing; gives its line, for people or as JSON, in which nothing that a client or a handler says
//! can break out of its place. Where the line goes is told in the module above.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::sink;
use crate::config::Format;

/// The form of a line.
pub(super) struct Line;

impl<S> FormatEvent<S, DefaultFields> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, DefaultFields>,
        out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut spans = String::new();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span
                .extensions()
                .get::<FormattedFields<DefaultFields>>()
                .filter(|f| !f.fields.is_empty())
            {
                spans.push(' ');
                spans.push_str(&fields.fields);
            }
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        // Locked only now: the Debug of a field may log something itself.
        let sink = sink();
        let head = Head {
            time: SystemTime::now(),
            level: *event.metadata().level(),
            role: &sink.role,
        };
        match sink.format {
            Format::Human => human(out, &head, &fields, &spans, sink.colour),
            Format::Json => json(out, &head, &fields, &spans),
        }
    }
}

/// What every line begins with.
struct Head<'a> {
    time: SystemTime,
    level: Level,
    role: &'a str,
}

fn human(mut out: Writer<'_>, head: &Head<'_>, fields: &Fields, spans: &str, colour: bool) -> fmt::Result {
    let (paint, plain) = match (colour, head.level) {
        (false, _) => ("", ""),
        (true, Level::ERROR) => ("\x1b[31m", "\x1b[0m"),
        (true, Level::WARN) => ("\x1b[33m", "\x1b[0m"),
        (true, Level::INFO) => ("\x1b[32m", "\x1b[0m"),
        (true, _) => ("\x1b[2m", "\x1b[0m"),
    };
    write!(
        out,
        "{} {paint}{:5}{plain} [{}",
        Rfc3339(head.time),
        head.level.as_str(),
        std::process::id()
    )?;
    if !head.role.is_empty() {
        write!(out, " {}", head.role)?;
    }
    out.write_char(']')?;
    if let Some(message) = &fields.message {
        write!(out, " {}", Plain(message))?;
    }
    for (name, value) in &fields.others {
        let text = value.as_text();
        // What a space or a quote would make ambiguous stands in quotes.
        if text.is_empty() || text.contains([' ', '"', '=']) || text.contains(char::is_control) {
            write!(out, " {name}={text:?}")?;
        } else {
            write!(out, " {name}={text}")?;
        }
    }
    writeln!(out, "{}", Plain(spans))
}

fn json(mut out: Writer<'_>, head: &Head<'_>, fields: &Fields, spans: &str) -> fmt::Result {
    let level = head.level.as_str().to_ascii_lowercase();
    write!(
        out,
        "{{\"time\":\"{}\",\"level\":\"{level}\",\"pid\":{}",
        Rfc3339(head.time),
        std::process::id()
    )?;
    if !head.role.is_empty() {
        write!(out, ",\"role\":{}", Quoted(head.role))?;
    }
    write!(
        out,
        ",\"message\":{}",
        Quoted(fields.message.as_deref().unwrap_or_default())
    )?;
    if !spans.is_empty() {
        write!(out, ",\"span\":{}", Quoted(spans.trim_start()))?;
    }
    for (name, value) in &fields.others {
        write!(out, ",{}:", Quoted(name))?;
        match value {
            Value::Text(text) => write!(out, "{}", Quoted(text))?,
            Value::Bare(number) => out.write_str(number)?,
        }
    }
    writeln!(out, "}}")
}

/// The fields of one event.
#[derive(Default)]
struct Fields {
    message: Option<String>,
    others: Vec<(&'static str, Value)>,
}

enum Value {
    Text(String),
    /// A number or a boolean, which JSON takes without quotes.
    Bare(String),
}

impl Value {
    fn as_text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Bare(text) => text,
        }
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text)) => self.message = Some(text),
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::Text(format!("{value:?}")));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::Text(value.to_owned()));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Bare(value.to_string()));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Bare(value.to_string()));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Bare(value.to_string()));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for infinity.
        let text = value.to_string();
        self.put(
            field,
            if value.is_finite() {
                Value::Bare(text)
            } else {
                Value::Text(text)
            },
        );
    }
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, Value::Text(value.to_string()));
    }
}

/// Text on one line: a client or a handler must not be able to forge a line or to drive the terminal.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| {
            if c.is_control() {
                write!(f, "{}", c.escape_default())
            } else {
                write!(f, "{c}")
            }
        })
    }
}

/// A JSON string (RFC 8259 section 7).
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

/// A time in UTC with milliseconds (RFC 3339).
struct Rfc3339(SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        // Years counted from March, so that the leap day is the last of its year; 146 097 days are 400 years.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let milli = since.subsec_millis();
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_with_milliseconds() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z"),
        ] {
            assert_eq!(Rfc3339(UNIX_EPOCH + Duration::from_millis(millis)).to_string(), text);
        }
    }

    #[test]
    fn a_line_break_in_a_message_cannot_forge_a_line() {
        assert_eq!(Plain("a\nb\x1b[31m").to_string(), "a\\nb\\u{1b}[31m");
        assert_eq!(Quoted("a\"b\\\n\u{1}ü").to_string(), "\"a\\\"b\\\\\\n\\u0001ü\"");
    }
}
