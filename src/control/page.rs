//! The status document as a person reads it.
//!
//! Takes the document as JSON, from a server that may be older or newer than this command; gives a page of text. What it
//! does not know it leaves out, what is missing shows as a dash.
#![forbid(unsafe_code)]

use crate::status::UNRESPONSIVE_MS;
use serde_json::Value;
use std::fmt::Write;

/// Calls that have been running for so long (ms) are shown.
const LONG_MS: u64 = 1_000;

/// The whole page; `now` in seconds since 1970.
pub fn status(status: &Value, now: u64) -> String {
    let mut page = String::new();
    summary(&mut page, status);
    workers(&mut page, list(status, "workers"));
    long_calls(&mut page, list(status, "workers"));
    generations(&mut page, list(status, "generations"), now);
    if let Some(last) = status.get("last").filter(|last| last.is_object()) {
        last_change(&mut page, last, now);
    }
    if let Some(counted) = status.get("totals").filter(|totals| totals.is_object()) {
        totals(&mut page, counted);
    }
    if let Some(shared) = status.get("cache").filter(|cache| cache.is_object()) {
        let size_of = number(shared, "size").map_or_else(dash, size);
        let bytes = number(shared, "bytes").map_or_else(dash, size);
        let _ = writeln!(
            page,
            "cache: {} of requests answered, {bytes} of {size_of} taken",
            ratio(shared)
        );
    }
    page
}

fn summary(page: &mut String, status: &Value) {
    let (version, master) = (text(status, "version"), text(status, "master_pid"));
    let _ = write!(page, "appserver {version}, master {master}");
    if let Some(uptime) = number(status, "uptime_seconds") {
        let _ = write!(page, ", up {}", duration(uptime));
    }
    let (ready, wanted) = (text(status, "ready"), text(status, "wanted"));
    let _ = write!(page, ": {ready} of {wanted} workers ready");
    let is = |name: &str| status.get(name).and_then(Value::as_bool) == Some(true);
    match status.get("phase").and_then(Value::as_str) {
        None | Some("serving") => {}
        Some(phase) => drop(write!(page, ", {}", plain(phase))),
    }
    if is("reloading") {
        page.push_str(", reloading");
    }
    if is("looping") {
        page.push_str("; its workers keep dying, the log tells why");
    }
    page.push('\n');
    let listeners: Vec<String> = list(status, "listeners")
        .iter()
        .filter_map(|each| each.as_str().map(plain))
        .collect();
    if !listeners.is_empty() {
        let _ = writeln!(page, "listening on {}", listeners.join(", "));
    }
}

fn workers(page: &mut String, workers: &[Value]) {
    if workers.is_empty() {
        return;
    }
    let mut rows = vec![
        [
            "WORKER",
            "PID",
            "STATE",
            "GENERATION",
            "UPTIME",
            "REQUESTS",
            "IN FLIGHT",
            "CONNECTIONS",
            "MEMORY",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for worker in workers {
        rows.push(vec![
            text(worker, "worker"),
            text(worker, "pid"),
            state(worker),
            text(worker, "generation"),
            number(worker, "uptime_seconds").map_or_else(dash, duration),
            text(worker, "requests"),
            text(worker, "in_flight"),
            text(worker, "connections"),
            number(worker, "memory_bytes").map_or_else(dash, size),
        ]);
    }
    table(page, &rows, &[2]);
}

/// A ready worker whose loop has not come round lately is not.
fn state(worker: &Value) -> String {
    let silent = number(worker, "heartbeat_age_ms").filter(|age| *age >= UNRESPONSIVE_MS);
    match silent {
        Some(age) => format!("{}, silent {}", text(worker, "state"), duration(age / 1000)),
        None => text(worker, "state"),
    }
}

/// Calls that take long, by which a hang is seen before its timeout.
fn long_calls(page: &mut String, workers: &[Value]) {
    let mut rows = vec![
        ["IN PROGRESS", "WORKER", "REQUEST ID", "REQUEST"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for worker in workers {
        for call in list(worker, "calls") {
            if let Some(age) = number(call, "age_ms").filter(|age| *age >= LONG_MS) {
                let (number, id, line) = (text(worker, "worker"), text(call, "request_id"), text(call, "line"));
                rows.push(vec![duration(age / 1000), number, id, line]);
            }
        }
    }
    if rows.len() > 1 {
        table(page, &rows, &[2, 3]);
    }
}

/// What was counted since the start.
fn totals(page: &mut String, totals: &Value) {
    let _ = write!(page, "\nsince the start: {} requests", text(totals, "requests"));
    let _ = write!(page, "{}", counts(totals, "status"));
    for (name, word) in [
        ("lost", "lost"),
        ("raced", "raced with the stop"),
        ("aborted", "left by their client"),
        ("panics", "panics"),
    ] {
        if let Some(count) = number(totals, name).filter(|count| *count > 0 || name == "lost") {
            let _ = write!(page, ", {count} {word}");
        }
    }
    page.push('\n');
    for (name, word) in [
        ("timeouts", "timeouts"),
        ("exits", "workers that ended"),
        ("recycled", "recycled"),
    ] {
        let counts = counts(totals, name);
        if !counts.is_empty() {
            let _ = writeln!(page, "{word}:{}", counts.replace(['(', ')'], ""));
        }
    }
}

/// What the cache did, the share of hits first: of all requests that it could have answered, those that it did.
pub fn cache(cache: &Value) -> String {
    let mut page = String::new();
    let _ = writeln!(page, "{} of requests answered", ratio(cache));
    let (bytes, size_of) = (number(cache, "bytes"), number(cache, "size"));
    let (bytes, size_of) = (bytes.map_or_else(dash, size), size_of.map_or_else(dash, size));
    let _ = writeln!(page, "{bytes} of {size_of} taken by {} entries", text(cache, "entries"));
    for name in [
        "hits",
        "stale",
        "misses",
        "revalidated",
        "bypassed",
        "coalesced",
        "stores",
        "busy",
        "retries",
        "wiped",
    ] {
        let _ = writeln!(page, "{name:<12} {:>12}", text(cache, name));
    }
    let evictions = counts(cache, "evictions");
    let all: u64 = cache
        .get("evictions")
        .and_then(Value::as_object)
        .map_or(0, |causes| causes.values().filter_map(Value::as_u64).sum());
    let _ = writeln!(page, "{:<12} {all:>12}{evictions}", "evictions");
    page
}

/// The share of requests that the cache has answered.
fn ratio(cache: &Value) -> String {
    let of = |name| number(cache, name).unwrap_or(0);
    let answered = of("hits") + of("stale");
    let all = answered + of("misses");
    if all == 0 {
        return "none".to_owned();
    }
    format!("{}.{} %", answered * 100 / all, answered * 1000 / all % 10)
}

/// The members of an object of counts that are not zero: ` (2xx 12, 5xx 1)`.
fn counts(of: &Value, name: &str) -> String {
    let Some(members) = of.get(name).and_then(Value::as_object) else {
        return String::new();
    };
    let counted = members.iter().filter(|(_, count)| count.as_u64() != Some(0));
    let words: Vec<String> = counted
        .map(|(name, count)| format!("{} {count}", plain(name)))
        .collect();
    if words.is_empty() {
        String::new()
    } else {
        format!(" ({})", words.join(", "))
    }
}

fn generations(page: &mut String, generations: &[Value], now: u64) {
    if generations.is_empty() {
        return;
    }
    let mut rows = vec![
        ["GENERATION", "ROLE", "LOADED", "MOUNT", "BUILD ID", "MODULE"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for generation in generations {
        let mut first = vec![
            text(generation, "number"),
            text(generation, "role"),
            number(generation, "loaded_at").map_or_else(dash, |at| ago(at, now)),
        ];
        for module in list(generation, "modules") {
            let mount = text(module, "mount");
            let mut row = std::mem::replace(&mut first, vec![String::new(); 3]);
            // A build id is told from another by its beginning; a module without one by that of its hash.
            let build = Some(text(module, "build_id")).filter(|id| !id.is_empty() && *id != dash());
            let build = build.unwrap_or_else(|| format!("sha256:{}", text(module, "sha256")));
            row.extend([
                if mount.is_empty() { "/".to_owned() } else { mount },
                build.chars().take(19).collect(),
                text(module, "path"),
            ]);
            rows.push(row);
        }
    }
    table(page, &rows, &[1, 2, 3, 4, 5]);
}

fn last_change(page: &mut String, last: &Value, now: u64) {
    let at = number(last, "at").map_or_else(dash, |at| ago(at, now));
    let _ = write!(
        page,
        "\nlast {}: {}, {at}; generation {} serves",
        text(last, "verb"),
        text(last, "outcome"),
        text(last, "generation")
    );
    if let Some(reason) = last.get("reason").and_then(Value::as_str) {
        let _ = write!(page, "\n    {}", plain(reason).replace('\n', "\n    "));
    }
    page.push('\n');
}

/// Columns as wide as their widest cell; those of `left` hold words and stand to the left.
fn table(page: &mut String, rows: &[Vec<String>], left: &[usize]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    page.push('\n');
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let _ = if left.contains(&column) {
                write!(line, "{gap}{cell:<width$}")
            } else {
                write!(line, "{gap}{cell:>width$}")
            };
        }
        page.push_str(line.trim_end());
        page.push('\n');
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(of: &Value, name: &str) -> Option<u64> {
    let value = of.get(name)?;
    value.as_u64().or_else(|| Some(value.as_f64()?.max(0.0) as u64))
}

/// Text of which nothing speaks to the terminal.
pub fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { '?' } else { c };
    text.chars().map(shown).collect()
}

/// A cell, without what would break the table or speak to the terminal.
fn text(of: &Value, name: &str) -> String {
    match of.get(name) {
        None | Some(Value::Null) => dash(),
        Some(Value::String(text)) => text.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        Some(other) => other.to_string(),
    }
}

/// The two largest units: `12s`, `3m 5s`, `2d 4h`.
fn duration(seconds: u64) -> String {
    let (m, h, d) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (d, h, m) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, m) => format!("{m}m {}s", seconds % 60),
        (0, h, m) => format!("{h}h {}m", m % 60),
        (d, h, _) => format!("{d}d {}h", h % 24),
    }
}

fn ago(at: u64, now: u64) -> String {
    match now.saturating_sub(at) {
        0 => "just now".to_owned(),
        seconds => format!("{} ago", duration(seconds)),
    }
}

fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b < 1024.0 * 1024.0 => format!("{:.0} KiB", b / 1024.0),
        b if b < 1024.0 * 1024.0 * 1024.0 => format!("{:.1} MiB", b / 1024.0 / 1024.0),
        b => format!("{:.1} GiB", b / 1024.0 / 1024.0 / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_shows_workers_generations_and_the_last_reload_in_columns() {
        let document = json!({
            "version": "0.1.0", "master_pid": 4711, "wanted": 2, "ready": 2, "listeners": ["127.0.0.1:8000", "unix:/a"],
            "workers": [
                {"worker": 1, "pid": 4712, "state": "ready", "generation": 2, "uptime_seconds": 7265, "requests": 12345,
                 "in_flight": 0, "connections": 4, "memory_bytes": 12_897_484},
                {"worker": 12, "pid": 99, "state": "draining", "generation": 1, "uptime_seconds": 3, "requests": 0,
                 "in_flight": 1, "connections": 1, "memory_bytes": null, "heartbeat_age_ms": 7100,
                 "calls": [{"line": "GET /hang", "request_id": "a1", "age_ms": 61_000}, {"line": "GET /", "request_id": "a2", "age_ms": 9}]},
            ],
            "generations": [
                {"number": 2, "role": "serving", "loaded_at": 100, "modules": [
                    {"mount": "/shop", "path": "shop.so", "build_id": "", "sha256": "0123456789abcdef0123"},
                    {"mount": "", "path": "hello.so", "build_id": "fedcba98765432100123", "sha256": "x"}]},
            ],
            "last": {"verb": "reload", "outcome": "refused", "reason": "module a.so refused:\nno ELF", "generation": 2, "at": 130},
            "totals": {"requests": 12345, "status": {"2xx": 12340, "4xx": 0, "5xx": 5}, "lost": 0, "raced": 0, "panics": 2,
                       "exits": {"asked": 1, "crash": 1, "oom": 0}, "timeouts": {"request": 0}},
            "phase": "paused", "reloading": true,
        });
        assert_eq!(
            status(&document, 160),
            "\
appserver 0.1.0, master 4711: 2 of 2 workers ready, paused, reloading
listening on 127.0.0.1:8000, unix:/a

WORKER   PID  STATE                GENERATION  UPTIME  REQUESTS  IN FLIGHT  CONNECTIONS    MEMORY
     1  4712  ready                         2   2h 1m     12345          0            4  12.3 MiB
    12    99  draining, silent 7s           1      3s         0          1            1         -

IN PROGRESS  WORKER  REQUEST ID  REQUEST
      1m 1s      12  a1          GET /hang

GENERATION  ROLE     LOADED     MOUNT  BUILD ID             MODULE
         2  serving  1m 0s ago  /shop  sha256:0123456789ab  shop.so
                                /      fedcba9876543210012  hello.so

last reload: refused, 30s ago; generation 2 serves
    module a.so refused:
    no ELF

since the start: 12345 requests (2xx 12340, 5xx 5), 0 lost, 2 panics
workers that ended: asked 1, crash 1
"
        );
    }

    #[test]
    fn a_document_of_another_time_breaks_nothing() {
        for odd in [
            json!(null),
            json!([]),
            json!({"workers": 3}),
            json!({"workers": [1, {"pid": {"x": "\u{1b}[2J"}}]}),
        ] {
            assert!(!status(&odd, 0).contains('\u{1b}'));
        }
    }
}
