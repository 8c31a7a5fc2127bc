//! Answers that come early, and clients that have said their last word, or have gone.
//!
//! Takes handlers that answer without reading, and clients that shut their side, wait for 100 or leave with a reset; gives what
//! they are answered and what the handler and the access log are told.

use std::time::Duration;

use crate::support::client::Client;
use crate::support::server::Server;
use crate::support::wait::until;

fn lab() -> Server {
    Server::lab()
        .workers(1)
        .config("[log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n")
        .start()
}

fn send(client: &mut Client, line: &str, fields: &str, body: &str) {
    client.send(format!("{line}\r\nHost: a\r\n{fields}\r\n{body}")).unwrap();
}

/// The access line of a target.
fn line(server: &Server, target: &str) -> String {
    until(&format!("the access line of {target}"), || {
        let log = server.read("access.log");
        let mut lines = log
            .lines()
            .filter(|line| line.contains(&format!("\"target\":\"{target}\"")));
        lines.next().map(str::to_owned)
    })
}

#[test]
fn a_body_that_its_handler_leaves_unread_costs_no_connection_when_it_has_come() {
    let server = lab();
    let mut client = server.client();
    for (fields, body) in [
        ("Content-Length: 5\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"),
        ("Content-Length: 0\r\n", ""),
    ] {
        send(&mut client, "POST /early?code=403 HTTP/1.1", fields, body);
        let reply = client.reply().unwrap();
        assert_eq!((reply.status, reply.closes()), (403, false), "{fields}");
    }
    assert_eq!(client.get("/bytes?n=3").unwrap().body.len(), 3);
}

#[test]
fn a_client_that_waits_for_100_is_told_so_when_its_body_is_wanted_and_not_otherwise() {
    let server = lab();
    let expect = "Expect: 100-continue\r\nContent-Length: 5\r\n";
    let mut client = server.client();
    send(&mut client, "POST /echo HTTP/1.1", expect, "");
    assert_eq!(client.head(true).unwrap().status, 100);
    client.send("hello").unwrap();
    assert_eq!(client.reply().unwrap().text(), "hello");

    // Part of it, or all of it, has come already.
    for at_once in ["he", "hello"] {
        send(&mut client, "POST /echo HTTP/1.1", expect, at_once);
        client.send(&"hello"[at_once.len()..]).unwrap();
        let head = client.head(true).unwrap();
        assert_eq!(head.status, 200, "{at_once}");
        client.skip(5).unwrap();
    }

    // Not wanted: the answer comes instead, and the connection cannot tell a body from a request any more.
    send(&mut client, "POST /early?code=403 HTTP/1.1", expect, "");
    let reply = client.reply().unwrap();
    assert_eq!((reply.status, reply.closes()), (403, true));

    let mut client = server.client();
    send(
        &mut client,
        "POST /echo HTTP/1.1",
        "Expect: wonders\r\nContent-Length: 5\r\n",
        "",
    );
    let reply = client.reply().unwrap();
    assert_eq!((reply.status, reply.closes()), (417, true));

    let mut old = server.client();
    send(&mut old, "POST /echo HTTP/1.0", expect, "hello");
    assert_eq!(old.head(true).unwrap().status, 200, "HTTP/1.0 knows no 100");
}

#[test]
fn who_has_shut_its_side_gets_every_kind_of_answer_whole() {
    let server = lab();
    for (target, length) in [
        ("/", 26),
        ("/sleep?ms=200", 13),
        ("/bytes?n=3000000", 3_000_000),
        ("/stream?chunks=4&size=5&delay_ms=50", 20),
        ("/write?chunks=3&size=4", 12),
        ("/detach?ms=200", 29),
        ("/paced?chunks=2", 0),
    ] {
        let mut client = server.client();
        send(&mut client, &format!("GET {target} HTTP/1.1"), "", "");
        client.half_close();
        let reply = client.reply().unwrap_or_else(|failure| panic!("{target}: {failure}"));
        assert_eq!(reply.status, 200, "{target}");
        assert!(
            length == 0 || reply.body.len() == length,
            "{target}: {} bytes",
            reply.body.len()
        );
        assert_eq!(client.rest().unwrap(), b"", "{target}");
        assert!(line(&server, target).contains("\"outcome\":\"ok\""), "{target}");
    }
}

#[test]
fn a_detached_response_is_told_that_its_client_is_gone() {
    let server = lab();
    let mut client = server.client();
    send(&mut client, "GET /detach?ms=700&tell=1 HTTP/1.1", "", "");
    server.wait_for_log("the lab has detached its response");
    client.reset();
    let told = server.wait_for_log("/detach: ");
    assert!(told.contains("gone"), "{told}");
    let line = line(&server, "/detach?ms=700&tell=1");
    assert!(line.contains("\"outcome\":\"aborted\""), "{line}");
}

#[test]
fn hints_go_before_each_kind_of_answer_and_in_step() {
    let server = lab();
    let mut client = server.client();
    client.patience(Duration::from_secs(20));
    let get = |method: &str| format!("{method} /hints HTTP/1.1\r\nHost: a\r\n\r\n");
    client
        .send([get("GET"), get("GET"), get("HEAD"), get("GET")].concat())
        .unwrap();
    for method in ["GET", "GET", "HEAD", "GET"] {
        assert_eq!(client.head(true).unwrap().status, 103, "{method}");
        let reply = client.head(false).unwrap();
        assert_eq!(
            (reply.status, reply.header("content-length")),
            (200, Some("16")),
            "{method}"
        );
        if method == "GET" {
            client.skip(16).unwrap();
        }
    }
}
