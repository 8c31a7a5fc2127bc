//! The table of settings: each scalar once, with its name, how it is read and how it is written.
//!
//! Takes nothing; gives [`SETTINGS`], from which the file, the environment, the flags and `--print-config` all work, so
//! that none of them can know a setting the others do not. Listeners, mounts and rules of the cache are no scalars: `file` reads them.
#![forbid(unsafe_code)]

use super::cache;
use super::setting::{ACCESS_FORMATS, FORMATS, LEVELS, Setting};
use super::trusted;
use super::value::{self, Given, Read};
use super::{AccessTarget, Bind};

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
    row!("limits", "body", limits.body, large, |bytes| Some(quoted_size(*bytes))),
    row!("limits", "body-rate", limits.body_rate, rate, |rate| Some(quoted_size(
        *rate
    ))),
    row!("limits", "write-rate", limits.write_rate, rate, |rate| Some(
        quoted_size(*rate)
    )),
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
        "limits",
        "max-requests",
        limits.max_requests,
        |given| value::count(given, 0..=usize::MAX >> 1),
        number
    ),
    row!(
        "limits",
        "max-requests-jitter",
        limits.max_requests_jitter,
        |given| value::count(given, 0..=usize::MAX >> 1),
        number
    ),
    row!("limits", "max-lifetime", limits.max_lifetime, value::lifetime, duration),
    row!("limits", "memory-soft", limits.memory_soft, large, |bytes| Some(
        quoted_size(*bytes)
    )),
    row!("limits", "memory-hard", limits.memory_hard, large, |bytes| Some(
        quoted_size(*bytes)
    )),
    row!("proxy", "trusted", trusted, trusted::read, trusted::show),
    row!("proxy", "early-hints", proxy_hints, value::truth, number),
    row!("cache", "enabled", cache.enabled, value::truth, number),
    row!(
        "cache",
        "size",
        cache.size,
        |given| value::size(given, MIB..=1 << 44),
        |bytes| Some(quoted_size(*bytes))
    ),
    row!(
        "cache",
        "max-entry",
        cache.max_entry,
        |given| value::size(given, 1024..=1 << 40),
        |bytes| Some(quoted_size(*bytes))
    ),
    row!(
        "cache",
        "store",
        cache.store,
        |given| value::path(given).map(Some),
        optional_path
    ),
    row!(
        "cache",
        "scope",
        cache.scope,
        |given| value::choice(given, cache::SCOPES),
        |scope| Some(quoted(value::word(*scope, cache::SCOPES)))
    ),
    row!("cache", "heuristic", cache.heuristic, value::truth, number),
    row!("cache", "wait", cache.wait, value::duration_or_zero, duration),
    row!(
        "admin",
        "bind",
        admin,
        |given| bind(given).map(Some),
        |bind: &Option<Bind>| { bind.as_ref().map(|bind| quoted(&bind.to_string())) }
    ),
    row!(
        "control",
        "socket",
        control,
        |given| value::path(given).map(Some),
        optional_path
    ),
    row!("reload", "probe", probe, |given| probe(given).map(Some), optional_text),
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

/// An address to listen on.
fn bind(given: Given<'_>) -> Read<Bind> {
    value::text(given)?.parse()
}

/// The target of the probe request: what a GET may ask for in origin form (RFC 9112 section 3.2.1).
pub fn probe(given: Given<'_>) -> Read<String> {
    let target = value::text(given)?;
    if target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(target)
    } else {
        Err(value::Refusal::of(format!(
            "must be the path of a request like \"/healthz\", not {target:?}"
        )))
    }
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

/// Bytes that are never all in memory.
fn large(given: Given<'_>) -> Read<u64> {
    value::size(given, 0..=i64::MAX as u64)
}

/// Bytes a second.
fn rate(given: Given<'_>) -> Read<u64> {
    value::size(given, 0..=1 << 30)
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
fn number(number: &impl ToString) -> Option<String> {
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
