//! What a refused client still gets: the whole answer, an end in good order, and no more of the server's time.
//!
//! Takes clients whose requests do not come to their end, and clients that go on sending behind a refusal; gives status
//! and sentence of each refusal that no golden request can show, and how long and how much the server still listens.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use appserver::protocol::http::refusal::Refusal;

use crate::support::client::{Address, Client};
use crate::support::server::Server;
use crate::support::wait::until;

const REFUSED: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
const MIB: usize = 1 << 20;

/// What no golden request can show, for time, the connection's end or the service decides it, and the test that does.
const ELSEWHERE: [(Refusal, &str); 5] = [
    (Refusal::HEAD_TIMEOUT, "a_head_that_stops_coming_is_a_408"),
    (Refusal::HEAD_TRUNCATED, "a_head_that_ends_too_early_is_a_400"),
    (Refusal::BODY_TIMEOUT, "a_body_that_stops_coming_is_a_408"),
    (Refusal::BODY_TRUNCATED, "a_body_that_ends_too_early_is_a_400"),
    (Refusal::NUL_IN_PATH, "an_encoded_nul_in_a_path_is_a_400"),
];

/// Those of front-ends, by the beginning of their names: the file and the test that shows each by its sentence.
const OF_FRONT_ENDS: [(&str, &str, &str); 3] = [
    (
        "FORWARDED_",
        "forwarded.rs",
        "a_front_end_that_contradicts_itself_is_refused_with_the_reason",
    ),
    (
        "PROXY_",
        "proxy_protocol.rs",
        "a_connection_that_begins_otherwise_is_refused_with_the_reason",
    ),
    (
        "UWSGI_",
        "uwsgi.rs",
        "what_is_no_plain_request_is_refused_with_a_sentence_and_reaches_no_handler",
    ),
];

/// The next answer is this refusal, and behind it the connection ends in good order.
fn is_refused(client: &mut Client, refusal: Refusal) {
    let reply = client.reply().unwrap();
    assert_eq!((reply.status, reply.text()), (refusal.status, refusal.text()));
    assert!(reply.closes());
    assert_eq!(client.rest().unwrap(), b"");
}

#[test]
fn a_head_that_stops_coming_is_a_408() {
    let server = Server::lab().config("[timeouts]\nheader = \"300ms\"\n").start();
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n").unwrap();
    is_refused(&mut client, Refusal::HEAD_TIMEOUT);
}

#[test]
fn a_head_that_ends_too_early_is_a_400() {
    let server = Server::lab().start();
    for begun in ["G", "GET / HTTP/1.1\r", "GET / HTTP/1.1\r\nHost: a\r\n", "\r"] {
        let mut client = server.client();
        client.send(begun).unwrap();
        client.half_close();
        is_refused(&mut client, Refusal::HEAD_TRUNCATED);
    }
}

#[test]
fn a_body_that_stops_coming_is_a_408() {
    let server = Server::lab().config("[timeouts]\nbody = \"300ms\"\n").start();
    for framing in [
        "Content-Length: 5\r\n\r\nhel",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ] {
        let mut client = server.client();
        client
            .send(format!("POST /echo HTTP/1.1\r\nHost: a\r\n{framing}"))
            .unwrap();
        is_refused(&mut client, Refusal::BODY_TIMEOUT);
    }
}

#[test]
fn a_body_that_ends_too_early_is_a_400() {
    let server = Server::lab().start();
    for framing in [
        "Content-Length: 5\r\n\r\nhell",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n",
    ] {
        let mut client = server.client();
        client
            .send(format!("POST /echo HTTP/1.1\r\nHost: a\r\n{framing}"))
            .unwrap();
        client.half_close();
        is_refused(&mut client, Refusal::BODY_TRUNCATED);
    }
}

#[test]
fn an_encoded_nul_in_a_path_is_a_400() {
    let server = Server::lab().start();
    let reply = server.get("/environ/a%00b");
    let refusal = Refusal::NUL_IN_PATH;
    assert_eq!((reply.status, reply.text()), (refusal.status, refusal.text()));
    assert_eq!(server.get("/environ?%00").status, 200, "a query is not decoded");
}

/// A connection without a client's courtesies.
fn connect(server: &Server) -> TcpStream {
    let Address::Tcp(address) = server.address() else {
        panic!("TCP is asked for")
    };
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

#[test]
fn who_sends_a_mebibyte_behind_a_refused_head_reads_the_whole_answer() {
    let server = Server::lab().start();
    let too_large = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999\r\n\r\n";
    for (head, refusal) in [(REFUSED, Refusal::HOST_REPEATED), (too_large, Refusal::BODY_TOO_LARGE)] {
        let mut stream = connect(&server);
        stream.write_all(head).unwrap();
        // Not one byte of the answer is read before all has been sent.
        for _ in 0..16 {
            stream.write_all(&[b'x'; MIB / 16]).unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {} ", refusal.status)), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{}", refusal.text())), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
}

#[test]
fn who_sends_without_end_behind_a_refused_head_is_cut_off() {
    let server = Server::lab().start();
    let mut stream = connect(&server);
    stream.write_all(REFUSED).unwrap();
    let mut sent = 0;
    let error = loop {
        match stream.write(&[b'x'; MIB / 4]) {
            Ok(more) => sent += more,
            Err(error) => break error,
        }
        assert!(sent < 64 * MIB, "the server still reads");
    };
    assert!(
        matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "{error} after {sent} bytes"
    );
    assert!(sent > 2 * MIB, "only {sent} bytes");
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn who_trickles_behind_a_refused_head_is_cut_off_in_time() {
    let server = Server::lab().start();
    let mut stream = connect(&server);
    stream.write_all(REFUSED).unwrap();
    let start = Instant::now();
    until("the server does not read any more", || stream.write_all(b"x").err());
    assert!(
        start.elapsed() > Duration::from_secs(1),
        "the answer had time to arrive"
    );
}

#[test]
fn each_refusal_is_shown_by_a_golden_request_or_by_a_test_in_this_file() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let source = fs::read_to_string(tests.join("cut_off.rs")).unwrap();
    let mut shown = Vec::new();
    for entry in fs::read_dir(tests.join("requests/invalid")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let expectation: toml::Table = toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
            shown.push(expectation["refusal"].as_str().unwrap().to_owned());
        }
    }
    for (name, refusal) in Refusal::NAMES.iter().zip(Refusal::ALL) {
        let by_golden_request = shown.iter().any(|other| other == name);
        let family = OF_FRONT_ENDS.iter().find(|(family, ..)| name.starts_with(family));
        if let Some((_, file, test)) = family.filter(|_| !by_golden_request) {
            let source = fs::read_to_string(tests.join(file)).unwrap();
            let test = source.split(&format!("#[test]\nfn {test}() {{")).nth(1);
            let body = test
                .and_then(|test| test.split("\n}\n").next())
                .expect("the test is there");
            // It names a part of the sentence.
            let mut quoted = body.split('"').filter(|part| part.len() > 2);
            assert!(quoted.any(|part| refusal.why.contains(part)), "{name} is not in {file}");
            continue;
        }
        match ELSEWHERE.iter().find(|(other, _)| other == refusal) {
            None => assert!(
                by_golden_request,
                "no golden request is refused as {name}, and ELSEWHERE names no test"
            ),
            Some((_, test)) => {
                assert!(!by_golden_request, "{name} has a golden request");
                assert!(
                    source.contains(&format!("#[test]\nfn {test}() {{")),
                    "{name}: there is no test {test}"
                );
            }
        }
    }
}

#[test]
fn every_name_in_the_rules_exists() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let rules = fs::read_to_string(tests.join("requests/RULES.md")).unwrap();
    let mut sources = String::new();
    for entry in fs::read_dir(&tests).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            sources += &fs::read_to_string(path).unwrap();
        }
    }
    let names: Vec<&str> = rules.split('`').skip(1).step_by(2).collect();
    assert!(names.len() > 100);
    for name in names {
        let golden = |kind: &str| tests.join("requests").join(kind).join(format!("{name}.http")).exists();
        let test = name.rsplit("::").next().unwrap_or(name);
        let exists = golden("valid") || golden("invalid") || sources.contains(&format!("fn {test}() {{"));
        assert!(exists, "RULES.md names {name}, which is no golden request and no test");
    }
}
