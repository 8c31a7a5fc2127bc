//! The named timeouts: what the client gets, and the line that names the setting.
//!
//! Takes clients that stop half way, and handlers that take longer than they may; gives a status and a line each. Handlers
//! that never come back are in watchdog.rs.

use nix::sys::signal::Signal;

use crate::support::client::Failure;
use crate::support::server::Server;
use crate::support::wait::until;

/// One worker with one thread.
fn timed(timeouts: &str) -> Server {
    Server::lab()
        .workers(1)
        .config(&format!(
            "threads = 1\n[log]\nlevel = \"debug\"\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n\
             [timeouts]\n{timeouts}\n"
        ))
        .start()
}

#[test]
fn the_header_timeout_is_named_when_it_expires() {
    let server = timed("header = \"300ms\"");
    let mut client = server.client();
    client.send("GET / HT").unwrap();
    assert_eq!(client.reply().unwrap().status, 408);
    let line = server.wait_for_log("timeouts.header (300ms) expired");
    assert!(
        line.contains("timeout=header") && line.contains("remote=127.0.0.1"),
        "{line}"
    );
}

#[test]
fn the_body_timeout_is_named_when_it_expires() {
    let server = timed("body = \"300ms\"");
    for (path, length, sent) in [("/hash?short", 10, 3), ("/hash?long", 300_000, 100_000)] {
        let mut client = server.client();
        let body = "x".repeat(sent);
        client
            .send(format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
            ))
            .unwrap();
        assert_eq!(client.reply().unwrap().status, 408);
    }
    server.wait_for_log("timeouts.body (300ms) expired");
    let log = server.log();
    let named: Vec<&str> = log.lines().filter(|line| line.contains("timeouts.body")).collect();
    assert_eq!(named.len(), 2, "{named:?}");
    for line in named {
        assert!(line.contains("method=POST path=/hash"), "{line}");
    }
}

#[test]
fn the_request_timeout_is_named_when_it_expires() {
    let server = timed("request = \"300ms\"");
    assert_eq!(server.get("/sleep?ms=600").status, 504);
    let line = server.wait_for_log("timeouts.request (300ms) expired");
    assert!(
        line.contains("ERROR") && line.contains("path=/sleep") && line.contains("request_id="),
        "{line}"
    );
    // The thread of the first one sleeps on: another server has one that is free.
    let server = timed("request = \"300ms\"");
    let outcome = server.client().get("/stream?chunks=2&size=5&delay_ms=900");
    assert!(outcome.is_err(), "{outcome:?}");
    let line = server.wait_for_log("timeouts.request (300ms) expired");
    assert!(line.contains("path=/stream"), "the next chunk's too: {line}");
}

#[test]
fn the_write_timeout_is_named_when_it_expires() {
    let server = timed("write = \"300ms\"");
    let mut client = server.client();
    client
        .send("GET /bytes?n=100000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let line = server.wait_for_log("timeouts.write (300ms) expired");
    assert!(
        line.contains("path=/bytes") && line.contains("remote=127.0.0.1"),
        "{line}"
    );
    let line = access_line(&server, "/bytes?n=100000000");
    assert!(line.contains("\"outcome\":\"aborted\""), "{line}");
    let outcome = client.reply();
    assert!(
        matches!(outcome, Err(Failure::Broken(_) | Failure::Cut(_))),
        "{outcome:?}"
    );
}

#[test]
fn the_keep_alive_timeout_is_named_for_who_debugs() {
    let server = timed("keep-alive = \"300ms\"");
    let mut client = server.client();
    assert_eq!(client.get("/").unwrap().status, 200);
    assert_eq!(client.rest().unwrap(), b"", "a quiet close");
    let line = server.wait_for_log("timeouts.keep-alive (300ms) expired");
    assert!(line.contains("DEBUG"), "{line}");
}

#[test]
fn at_the_end_of_the_drain_who_waits_is_told_so() {
    for signal in [Signal::SIGHUP, Signal::SIGTERM] {
        let server = timed("drain = \"300ms\"\nrequest = \"60s\"");
        let mut client = server.client();
        client.send("GET /sleep?ms=4000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        until("it is taken", || client.taken().then_some(()));
        server.signal(signal);
        let reply = client.reply().unwrap();
        assert_eq!(reply.status, 503, "{}", reply.text());
        if signal == Signal::SIGHUP {
            assert_eq!(client.get("/").unwrap().status, 200, "its connection lives on");
        } else {
            assert!(client.rest().unwrap().is_empty(), "closed in good order");
        }
        let line = server.wait_for_log("timeouts.drain (300ms) expired");
        assert!(line.contains("path=/sleep") && line.contains("request_id="), "{line}");
        let line = access_line(&server, "/sleep?ms=4000");
        assert!(
            line.contains("\"status\":503") && line.contains("\"outcome\":\"timeout\""),
            "{line}"
        );
    }
}

/// The access line of a target.
fn access_line(server: &Server, target: &str) -> String {
    let target = format!("\"target\":\"{target}\"");
    until("its access line", || {
        let log = server.read("access.log");
        log.lines().find(|line| line.contains(&target)).map(str::to_owned)
    })
}
