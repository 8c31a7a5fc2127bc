//! The table of settings: each scalar once, with its name, how it is read and how it is written.
//!
//! Takes nothing; gives [`SETTINGS`], from which the file, the environment, the flags and `--print-config` all work, so
//! that none of them can know a setting the others do not. Listeners and mounts are no scalars: `file` reads them.
#![forbid(unsafe_code)]

use super::draft::Draft;
use super::value::{self, Given, Read};
use super::{AccessFormat, AccessTarget, Config, Dispatch, Format, Level};

/// One scalar setting.
pub struct Setting {
    /// Its TOML table; empty at the top level.
    pub table: &'static str,
    /// Its key in that table.
    pub key: &'static str,
    /// Whether the file may hold it under this name.
    pub in_file: bool,
    /// Reads a value into the draft.
    pub set: fn(&mut Draft, Given<'_>) -> Read<()>,
    /// Writes the value as TOML; `None` when it is absent.
    pub show: fn(&Config) -> Option<String>,
}

impl Setting {
    /// The dotted name, for messages and origins.
    pub fn name(&self) -> String {
        match self.table {
            "" => self.key.to_owned(),
            table => format!("{table}.{}", self.key),
        }
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        variable(self.table, self.key)
    }
}

/// The environment variable of a key: table and key joined by `_`, in capitals.
pub fn variable(table: &str, key: &str) -> String {
    let joined = if table.is_empty() {
        key.to_owned()
    } else {
        format!("{table}_{key}")
    };
    format!("{PREFIX}{}", joined.to_ascii_uppercase().replace('-', "_"))
}

/// What every variable of ours begins with.
pub const PREFIX: &str = "APPSERVER_";

/// The setting of a key in a table.
pub fn find(table: &str, key: &str) -> Option<&'static Setting> {
    SETTINGS
        .iter()
        .find(|setting| setting.table == table && setting.key == key)
}

/// Tables that hold scalar settings.
pub const TABLES: &[&str] = &["timeouts", "limits", "log"];

/// Keys that have a meaning in a later version: refused by name, so that nobody believes they work.
pub const RESERVED: &[(&str, &str)] = &[
    ("", "preload"),
    ("limits", "queue-age"),
    ("limits", "max-requests"),
    ("limits", "max-requests-jitter"),
    ("limits", "max-lifetime"),
    ("limits", "memory-soft"),
    ("limits", "memory-hard"),
];

/// Tables that have a meaning in a later version.
pub const RESERVED_TABLES: &[&str] = &["scaling", "quarantine", "proxy", "cache", "admin", "control", "reload"];

/// Whether the key, or its whole table, is reserved.
pub fn is_reserved(table: &str, key: &str) -> bool {
    RESERVED.contains(&(table, key)) || RESERVED_TABLES.contains(&table)
}

/// Words of `[log] level`.
pub const LEVELS: &[(&str, Level)] = &[
    ("error", Level::Error),
    ("warn", Level::Warn),
    ("info", Level::Info),
    ("debug", Level::Debug),
    ("trace", Level::Trace),
];
/// Words of `[log] format`.
pub const FORMATS: &[(&str, Format)] = &[("human", Format::Human), ("json", Format::Json)];
/// Words of `[log] access-format`.
pub const ACCESS_FORMATS: &[(&str, AccessFormat)] =
    &[("combined", AccessFormat::Combined), ("json", AccessFormat::Json)];
/// Words of a mount's `dispatch`.
pub const DISPATCHES: &[(&str, Dispatch)] = &[
    ("auto", Dispatch::Auto),
    ("inline", Dispatch::Inline),
    ("pool", Dispatch::Pool),
];

/// A row whose value stands in the `Config`: table, key, field, how to read it, how to write it.
macro_rules! row {
    ($table:literal, $key:literal, $($field:ident).+, $read:expr, $show:expr) => {
        Setting {
            table: $table,
            key: $key,
            in_file: true,
            set: |draft, given| {
                let read: fn(Given<'_>) -> Read<_> = $read;
                draft.config.$($field).+ = read(given)?;
                Ok(())
            },
            show: |config| {
                let show: fn(&_) -> Option<String> = $show;
                show(&config.$($field).+)
            },
        }
    };
}

/// Every scalar setting, in the order in which `--print-config` prints them.
pub static SETTINGS: &[Setting] = &[
    Setting {
        table: "",
        key: "module",
        in_file: true,
        set: |draft, given| {
            draft.module = Some(value::path(given)?);
            Ok(())
        },
        // Printed as the [[mount]] it becomes.
        show: |_| None,
    },
    Setting {
        table: "",
        key: "backlog",
        in_file: false,
        set: |draft, given| {
            draft.backlog = Some(backlog(given)?);
            Ok(())
        },
        // Printed with each [[listener]].
        show: |_| None,
    },
    row!("", "workers", workers, value::workers, number),
    row!("", "threads", threads, |given| value::count(given, 1..=1024), number),
    row!(
        "",
        "pidfile",
        pidfile,
        |given| value::path(given).map(Some),
        optional_path
    ),
    row!("", "user", user, |given| value::text(given).map(Some), optional_text),
    row!("", "group", group, |given| value::text(given).map(Some), optional_text),
    row!(
        "",
        "umask",
        umask,
        |given| value::octal(given).map(Some),
        |bits: &Option<u32>| bits.map(octal)
    ),
    row!("", "chdir", chdir, |given| value::path(given).map(Some), optional_path),
    row!("timeouts", "boot", timeouts.boot, value::duration, duration),
    row!("timeouts", "header", timeouts.header, value::duration, duration),
    row!("timeouts", "body", timeouts.body, value::duration, duration),
    row!("timeouts", "request", timeouts.request, value::duration, duration),
    row!("timeouts", "write", timeouts.write, value::duration, duration),
    row!(
        "timeouts",
        "keep-alive",
        timeouts.keep_alive,
        value::duration_or_zero,
        duration
    ),
    row!("timeouts", "drain", timeouts.drain, value::duration_or_zero, duration),
    row!(
        "limits",
        "request-line",
        limits.request_line,
        |given| bytes(given, 64, MIB),
        size
    ),
    row!(
        "limits",
        "header-field",
        limits.header_field,
        |given| bytes(given, 64, MIB),
        size
    ),
    row!(
        "limits",
        "header-fields",
        limits.header_fields,
        |given| value::count(given, 1..=10_000),
        number
    ),
    row!(
        "limits",
        "header-total",
        limits.header_total,
        |given| bytes(given, 128, 16 * MIB),
        size
    ),
    row!(
        "limits",
        "body",
        limits.body,
        |given| value::size(given, 0..=i64::MAX as u64),
        |bytes| { Some(quoted_size(*bytes)) }
    ),
    row!(
        "limits",
        "body-buffer",
        limits.body_buffer,
        |given| bytes(given, 0, 64 * MIB),
        size
    ),
    row!(
        "limits",
        "connections",
        limits.connections,
        |given| value::count(given, 1..=1_000_000),
        number
    ),
    row!(
        "limits",
        "in-flight",
        limits.in_flight,
        |given| value::count(given, 1..=65_536),
        number
    ),
    row!(
        "log",
        "level",
        log.level,
        |given| value::choice(given, LEVELS),
        |level| { Some(quoted(value::word(*level, LEVELS))) }
    ),
    row!(
        "log",
        "format",
        log.format,
        |given| value::choice(given, FORMATS),
        |format| { Some(quoted(value::word(*format, FORMATS))) }
    ),
    row!("log", "file", log.file, log_file, optional_path),
    row!("log", "access", log.access, access, |target: &Option<AccessTarget>| {
        target.as_ref().map(|target| match target {
            AccessTarget::Stdout => quoted("-"),
            AccessTarget::File(path) => quoted(&path.to_string_lossy()),
        })
    }),
    row!(
        "log",
        "access-format",
        log.access_format,
        |given| value::choice(given, ACCESS_FORMATS),
        |format| { Some(quoted(value::word(*format, ACCESS_FORMATS))) }
    ),
];

const MIB: u64 = 1 << 20;

/// Length of an accept queue.
pub fn backlog(given: Given<'_>) -> Read<u32> {
    let number = value::count(given, 1..=65_535)?;
    Ok(u32::try_from(number).expect("the range above fits"))
}

fn bytes(given: Given<'_>, least: u64, most: u64) -> Read<usize> {
    let bytes = value::size(given, least..=most)?;
    Ok(usize::try_from(bytes).expect("the ranges in the table fit every address space"))
}

/// `-` is standard error, as in Gunicorn; that is also what absence means.
fn log_file(given: Given<'_>) -> Read<Option<std::path::PathBuf>> {
    let path = value::path(given)?;
    Ok((path.as_os_str() != "-").then_some(path))
}

fn access(given: Given<'_>) -> Read<Option<AccessTarget>> {
    let path = value::path(given)?;
    Ok(Some(if path.as_os_str() == "-" {
        AccessTarget::Stdout
    } else {
        AccessTarget::File(path)
    }))
}

/// Text as a TOML basic string, on one line whatever it holds.
pub fn quoted(text: &str) -> String {
    let mut toml = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => toml.extend(['\\', c]),
            c if c.is_control() => toml.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => toml.push(c),
        }
    }
    toml.push('"');
    toml
}

/// Permission bits as a TOML string.
pub fn octal(bits: u32) -> String {
    format!("\"{bits:04o}\"")
}

fn quoted_size(bytes: u64) -> String {
    let text = value::bytes_text(bytes);
    if text.ends_with('B') { quoted(&text) } else { text }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    clippy::unnecessary_wraps,
    reason = "the shape that the table wants"
)]
fn number(number: &usize) -> Option<String> {
    Some(number.to_string())
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    clippy::unnecessary_wraps,
    reason = "the shape that the table wants"
)]
fn size(bytes: &usize) -> Option<String> {
    Some(quoted_size(*bytes as u64))
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    clippy::unnecessary_wraps,
    reason = "the shape that the table wants"
)]
fn duration(time: &std::time::Duration) -> Option<String> {
    Some(quoted(&value::duration_text(*time)))
}

fn optional_path(path: &Option<std::path::PathBuf>) -> Option<String> {
    path.as_ref().map(|path| quoted(&path.to_string_lossy()))
}

fn optional_text(text: &Option<String>) -> Option<String> {
    text.as_deref().map(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_settings_share_a_name_or_a_variable() {
        for (at, one) in SETTINGS.iter().enumerate() {
            for other in &SETTINGS[at + 1..] {
                assert_ne!(one.name(), other.name());
                assert_ne!(one.variable(), other.variable());
            }
            assert!(one.table.is_empty() || TABLES.contains(&one.table));
            assert!(!is_reserved(one.table, one.key));
        }
    }

    #[test]
    fn the_variable_of_a_setting_is_its_table_and_key_in_capitals() {
        assert_eq!(variable("timeouts", "keep-alive"), "APPSERVER_TIMEOUTS_KEEP_ALIVE");
        assert_eq!(variable("", "workers"), "APPSERVER_WORKERS");
    }
}
