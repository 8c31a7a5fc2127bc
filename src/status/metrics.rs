//! The status as Prometheus reads it: text format 0.0.4, base units, names that are a promise.
//!
//! Takes a [`Status`]; gives the text of `/metrics`. It counts nothing itself, and label values are ours alone: nothing that a
//! client sends can make a series.
#![forbid(unsafe_code)]

use super::{CacheStatus, Status, ready};
use crate::scoreboard::LATENCY_BOUNDS;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// What the Content-Type field of the answer says.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const STATES: [&str; 4] = ["starting", "ready", "draining", "stuck"];

/// The text.
pub fn render(status: &Status) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    server(&mut page, status);
    requests(&mut page, status);
    workers(&mut page, status);
    changes(&mut page, status);
    if let Some(shared) = &status.cache {
        cache(&mut page, shared);
    }
    page.0
}

/// The server as a whole.
fn server(page: &mut Page, status: &Status) {
    page.family("build_info", "gauge", "The version of the master's binary; always 1.");
    page.labelled("build_info", "version", &status.version, 1);
    page.gauge(
        "ready",
        "1 while /readyz answers 200.",
        u64::from(ready(status).is_ok()),
    );
    page.gauge(
        "uptime_seconds",
        "Time since the server was started.",
        status.uptime_seconds,
    );
    page.gauge("generation", "The generation that serves.", status.generation);
}

/// What clients asked for, and what they got.
fn requests(page: &mut Page, status: &Status) {
    let totals = &status.totals;
    page.by_name(
        "requests_total",
        "status",
        "Requests answered, by class of status.",
        &totals.status,
    );
    histogram(page, status);
    let in_flight = status.workers.iter().map(|worker| worker.in_flight).sum();
    page.gauge("in_flight", "Requests in progress.", in_flight);
    let connections = status.workers.iter().map(|worker| worker.connections).sum();
    page.gauge("connections", "Open connections.", connections);
    page.by_name(
        "accepts_total",
        "worker",
        "Connections accepted, by number of the worker.",
        &totals.accepts_by_worker,
    );
    page.counter(
        "dropped_requests_total",
        "Requests that died with their worker: accepted, and not answered.",
        totals.lost,
    );
    page.counter(
        "raced_requests_total",
        "Requests whose bytes crossed our close at a stop.",
        totals.raced,
    );
    page.counter(
        "aborted_requests_total",
        "Requests whose client went away first.",
        totals.aborted,
    );
    page.by_name(
        "timeouts_total",
        "name",
        "Timeouts that expired, by name as in [timeouts].",
        &totals.timeouts,
    );
    page.counter("handler_panics_total", "Panics caught in handlers.", totals.panics);
    page.counter("sent_bytes_total", "Bytes sent to clients.", totals.bytes_out);
    page.counter(
        "connections_handed_over_total",
        "Kept-alive connections that a leaving worker handed to another.",
        totals.handed_over,
    );
    page.counter(
        "connections_taken_over_total",
        "Kept-alive connections that a worker took over from another.",
        totals.taken_over,
    );
}

fn histogram(page: &mut Page, status: &Status) {
    let totals = &status.totals;
    page.family(
        "request_duration_seconds",
        "histogram",
        "From the first byte of a request to the last of its answer.",
    );
    let mut count = 0;
    let mut buckets = totals.latency_buckets.iter();
    for (bound, bucket) in LATENCY_BOUNDS.iter().zip(&mut buckets) {
        count += bucket;
        page.labelled("request_duration_seconds_bucket", "le", seconds(*bound), count);
    }
    count += buckets.sum::<u64>();
    page.labelled("request_duration_seconds_bucket", "le", "+Inf", count);
    page.plain("request_duration_seconds_sum", seconds(totals.latency_sum_us));
    page.plain("request_duration_seconds_count", count);
}

/// The processes.
fn workers(page: &mut Page, status: &Status) {
    page.family("workers", "gauge", "Worker processes, by where they are in their life.");
    for state in STATES {
        let count = status.workers.iter().filter(|worker| worker.state == state).count();
        page.labelled("workers", "state", state, count);
    }
    page.gauge("workers_wanted", "Workers there should be.", status.wanted);
    let mut memory: BTreeMap<u64, u64> = BTreeMap::new();
    for worker in status.workers.iter().filter(|worker| worker.worker != 0) {
        if let Some(bytes) = worker.memory_bytes {
            *memory.entry(worker.worker).or_default() += bytes;
        }
    }
    page.family(
        "worker_memory_bytes",
        "gauge",
        "Resident memory, by number of the worker; of both processes while one is replaced.",
    );
    for (worker, bytes) in memory {
        page.labelled("worker_memory_bytes", "worker", worker, bytes);
    }
    let totals = &status.totals;
    page.counter("workers_spawned_total", "Workers started.", totals.spawned);
    page.by_name(
        "worker_exits_total",
        "cause",
        "Workers that ended, by cause.",
        &totals.exits,
    );
    page.by_name(
        "recycled_total",
        "reason",
        "Workers replaced by plan, by reason.",
        &totals.recycled,
    );
    page.counter(
        "monitor_restarts_total",
        "Monitors that ended and were started again.",
        totals.monitor_exits,
    );
}

/// What was deployed.
fn changes(page: &mut Page, status: &Status) {
    let totals = &status.totals;
    page.by_name("reloads_total", "outcome", "Reloads, by outcome.", &totals.reloads);
    page.by_name(
        "rollbacks_total",
        "outcome",
        "Rollbacks, by outcome.",
        &totals.rollbacks,
    );
    page.by_name(
        "upgrades_total",
        "outcome",
        "Upgrades of the binary, by outcome.",
        &totals.upgrades,
    );
}

/// The shared cache.
fn cache(page: &mut Page, cache: &CacheStatus) {
    for (name, help, count) in [
        (
            "cache_hits_total",
            "Requests answered from the cache with what was fresh.",
            cache.hits,
        ),
        (
            "cache_misses_total",
            "Requests that the cache could have answered and did not.",
            cache.misses,
        ),
        (
            "cache_stale_total",
            "Requests answered from the cache with what was stale.",
            cache.stale,
        ),
        (
            "cache_revalidated_total",
            "Misses for which the handler confirmed what was kept.",
            cache.revalidated,
        ),
        (
            "cache_bypassed_total",
            "Requests that the cache was not asked about.",
            cache.bypassed,
        ),
        ("cache_stores_total", "Responses kept.", cache.stores),
        (
            "cache_coalesced_total",
            "Requests that waited for another one's answer.",
            cache.coalesced,
        ),
        (
            "cache_busy_total",
            "Writes left undone because another writer did not get on.",
            cache.busy,
        ),
        (
            "cache_retries_total",
            "Reads begun again because the entry moved.",
            cache.retries,
        ),
        (
            "cache_wiped_total",
            "Parts of the cache emptied because a writer had died in them.",
            cache.wiped,
        ),
    ] {
        page.counter(name, help, count);
    }
    page.by_name(
        "cache_evictions_total",
        "cause",
        "Entries thrown away, by cause.",
        &cache.evictions,
    );
    page.gauge("cache_bytes", "Bytes of the cache that are taken.", cache.bytes);
    page.gauge("cache_entries", "Entries in the cache.", cache.entries);
    page.gauge("cache_size_bytes", "Bytes that the cache has.", cache.size);
}

/// Microseconds as seconds, exactly.
fn seconds(microseconds: u64) -> String {
    let text = format!("{}.{:06}", microseconds / 1_000_000, microseconds % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP appserver_{name} {help}\n# TYPE appserver_{name} {kind}");
    }

    fn plain(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.0, "appserver_{name} {value}");
    }

    fn labelled(&mut self, name: &str, label: &str, text: impl Display, value: impl Display) {
        let text = text.to_string();
        let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        let _ = writeln!(self.0, "appserver_{name}{{{label}=\"{text}\"}} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.plain(name, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.plain(name, value);
    }

    fn by_name<K: Display>(&mut self, name: &str, label: &str, help: &str, counts: &BTreeMap<K, u64>) {
        self.family(name, "counter", help);
        for (text, count) in counts {
            self.labelled(name, label, text, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_seconds_exactly() {
        let told = [0, 50, 1_000, 1_500_000, 60_000_000].map(seconds);
        assert_eq!(told, ["0", "0.00005", "0.001", "1.5", "60"]);
    }

    #[test]
    fn buckets_add_up_to_the_count() {
        let mut status = Status::default();
        status.totals.latency_buckets = vec![1; LATENCY_BOUNDS.len() + 1];
        status.totals.latency_sum_us = 1_234_567;
        let text = render(&status);
        assert!(text.contains("appserver_request_duration_seconds_bucket{le=\"0.0001\"} 2\n"));
        assert!(text.contains("appserver_request_duration_seconds_bucket{le=\"60\"} 19\n"));
        assert!(text.contains("appserver_request_duration_seconds_bucket{le=\"+Inf\"} 20\n"));
        assert!(text.contains("appserver_request_duration_seconds_sum 1.234567\n"));
        assert!(text.contains("appserver_request_duration_seconds_count 20\n"));
    }

    #[test]
    fn a_label_cannot_break_its_line() {
        let status = Status {
            version: "a\"b\\c\nd".to_owned(),
            ..Status::default()
        };
        assert!(render(&status).contains("appserver_build_info{version=\"a\\\"b\\\\c\\nd\"} 1\n"));
    }
}
