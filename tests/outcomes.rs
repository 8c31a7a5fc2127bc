//! The JSON access log to the letter, and one request followed through every log by its id.
//!
//! Takes requests that end in each of the ways there are; gives lines with exactly the keys of the manual and the outcome
//! of each. Escapes and completeness are in logs.rs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::json;
use crate::support::modules::{self, root};
use crate::support::server::{Listen, Server};
use crate::support::wait::until;

const KEYS: [&str; 18] = [
    "time",
    "remote",
    "method",
    "target",
    "protocol",
    "status",
    "bytes",
    "duration_us",
    "queue_us",
    "handler_us",
    "worker",
    "pid",
    "generation",
    "request_id",
    "cache",
    "referer",
    "user_agent",
    "outcome",
];

const ACCESS: &str = "[log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n";

fn server() -> Server {
    let config = format!("{ACCESS}[timeouts]\nrequest = \"2s\"\n");
    Server::lab().workers(1).config(&config).start()
}

/// The one line whose target holds `mark`.
fn line(server: &Server, mark: &str) -> BTreeMap<String, String> {
    let found = || -> Vec<String> {
        let text = server.read("access.log");
        text.lines()
            .filter(|line| line.contains(mark))
            .map(str::to_owned)
            .collect()
    };
    until(&format!("the access line of {mark}"), || {
        (!found().is_empty()).then_some(())
    });
    let lines = found();
    assert_eq!(lines.len(), 1, "one line for each request: {lines:#?}");
    json::object(&lines[0])
}

#[test]
fn a_json_line_has_the_keys_of_the_manual_and_no_other() {
    let server = server();
    server.get("/?keys");
    let line = line(&server, "/?keys");
    let keys: BTreeSet<&str> = line.keys().map(String::as_str).collect();
    assert_eq!(keys, KEYS.into_iter().collect::<BTreeSet<_>>());
    for number in [
        "status",
        "bytes",
        "duration_us",
        "queue_us",
        "handler_us",
        "worker",
        "pid",
        "generation",
    ] {
        assert!(line[number].parse::<u64>().is_ok(), "{number} in {line:#?}");
    }
    assert_eq!((line["worker"].as_str(), line["generation"].as_str()), ("1", "1"));
    assert_eq!(line["remote"], "127.0.0.1");
}

#[test]
fn every_line_parses_whatever_the_client_sent() {
    let server = server();
    let mut client = server.client();
    client
        .send(&b"GET /?odd=\"\\%00 HTTP/1.1\r\nHost: a\r\nUser-Agent: \xff\xfe \"\\\x80\r\nReferer: \tx\ty\r\n\r\n"[..])
        .unwrap();
    let _ = client.reply();
    let mut refused = server.client();
    refused.send(&b"G\x01T\xff \"nonsense\"\r\n\r\n"[..]).unwrap();
    let _ = refused.reply();
    server.get("/?last");
    line(&server, "/?last");
    for line in server.read("access.log").lines() {
        json::object(line);
    }
}

#[test]
fn each_end_of_a_request_has_its_outcome() {
    let server = server();
    let send = |request: &str| {
        let mut client = server.client();
        client.send(request).unwrap();
        client
    };
    let get = |target: &str| send(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let expect = |mark: &str, outcome: &str, status: &str| {
        let line = line(&server, mark);
        assert_eq!(
            (line["outcome"].as_str(), line["status"].as_str()),
            (outcome, status),
            "{line:#?}"
        );
    };
    let _ = get("/?fine").reply();
    expect("/?fine", "ok", "200");
    let _ = get("/absent?missing").reply();
    expect("missing", "ok", "404");
    let _ = send("GET /?refused HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").reply();
    expect("/?refused", "refused", "400");
    let _ = get("/panic?fault").reply();
    expect("/panic?fault", "fault", "500");
    let _ = get("/panic-midway?fault").reply();
    expect("/panic-midway?fault", "fault", "200");
    let _ = get("/short?fault").reply();
    expect("/short?fault", "fault", "200");
    let _ = get("/sleep?ms=6000&late").reply();
    expect("&late", "timeout", "504");
    let _ = get("/stream?chunks=2&delay_ms=6000&midway").reply();
    expect("&midway", "timeout", "200");
    let mut leaver = get("/stream?chunks=100000&size=65536&left");
    leaver.head(true).unwrap();
    drop(leaver);
    expect("&left", "aborted", "200");
}

#[test]
fn a_killed_workers_calls_have_their_line_and_outcome_too() {
    let server = server();
    let mut client = server.client();
    let _ = client.get("/segv?killed");
    let line = line(&server, "/segv?killed");
    assert_eq!(line["outcome"], "killed", "{line:#?}");
    assert!(!line["request_id"].is_empty());
    let report = server.wait_for_log(&line["request_id"]);
    assert!(report.contains("/segv"), "the master names the request: {report}");
}

#[test]
fn what_a_handler_writes_to_wsgi_errors_bears_the_id_of_its_access_line_and_environ() {
    let folder = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(root().join("tests/handlers/c/teller.c")).unwrap();
    let module = modules::c(folder.path(), "teller", &source);
    let mut server = Server::with(module).config(ACCESS).start();
    let reply = server.get("/?the-first-line");
    let id = reply.header("x-id").expect("the environ has it").to_owned();
    assert_eq!(line(&server, "/?the-first-line")["request_id"], id);
    for text in ["the-first-line", "the second line"] {
        let line = server.wait_for_log(text);
        assert!(line.contains(&id), "{text:?} bears the id {id}: {line}");
    }
    let other = server.get("/?other").header("x-id").unwrap().to_owned();
    assert_ne!(other, id, "each request has its own");
    server.stop(Signal::SIGTERM);
}

#[test]
fn refused_requests_have_ids_of_their_own() {
    let server = server();
    for number in 0..3 {
        let mut client = server.client();
        client.send(format!("GET /?bad{number} HTTP/1.1\r\n\r\n")).unwrap();
        assert_eq!(client.reply().unwrap().status, 400);
    }
    let ids: BTreeSet<String> = (0..3)
        .map(|number| line(&server, &format!("/?bad{number}"))["request_id"].clone())
        .collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
}

#[test]
fn a_client_that_sends_nothing_has_no_line_and_one_that_sends_half_a_head_has_one() {
    let server = server();
    drop(server.client());
    let mut half = server.client();
    half.send("GET /?half HTTP/1.1\r\nHost").unwrap();
    half.half_close();
    half.patience(Duration::from_secs(5));
    let _ = half.rest();
    line(&server, "/?half");
    server.get("/?last");
    line(&server, "/?last");
    // The start's own question, the half one and the last.
    let lines = server.read("access.log");
    assert!(lines.lines().all(|line| line.contains("\"target\":\"/")), "{lines}");
}

#[test]
fn after_a_rotation_workers_and_master_write_to_the_new_error_log() {
    let server = Server::lab()
        .workers(2)
        .config("[log]\nfile = \"DIR/error.log\"\naccess = \"DIR/access.log\"\n")
        .listen(Listen::Unix)
        .start();
    for name in ["error.log", "access.log"] {
        fs::rename(server.folder().join(name), server.folder().join(format!("{name}.1"))).unwrap();
    }
    server.signal(Signal::SIGUSR1);
    until("the master's line is in the new file", || {
        server.read("error.log").contains("logs reopened").then_some(())
    });
    until("a worker's line is in the new file", || {
        let _ = server.get("/none?rotated");
        server.read("error.log").contains("worker ").then_some(())
    });
    // Both workers reopen by themselves, so the old file must come to rest, and then stay so.
    until("nobody writes to the old files", || {
        let old = |name: &str| server.read(&format!("{name}.1")).len();
        let before = (old("error.log"), old("access.log"));
        let new = server.read("access.log").matches("/none?probe").count();
        (0..20).for_each(|_| drop(server.get("/none?probe")));
        until("their lines are written", || {
            (server.read("access.log").matches("/none?probe").count() > new).then_some(())
        });
        ((old("error.log"), old("access.log")) == before).then_some(())
    });
}
