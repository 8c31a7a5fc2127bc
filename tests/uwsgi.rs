//! The uwsgi protocol, from a real nginx (`uwsgi_pass` with Debian's own uwsgi_params) and from packets made by hand.
//!
//! Takes requests over TCP and Unix sockets; gives what a client behind nginx sees, what the handler was told, and what those get who
//! send something else.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};

use crate::support::json;
use crate::support::nginx::Nginx;
use crate::support::process;
use crate::support::server::Server;
use crate::support::storm::{Habit, Storm};
use crate::support::wait::until;

/// A server that speaks uwsgi beside HTTP, and where.
fn server(workers: usize, config: &str) -> (Server, PathBuf) {
    let builder = Server::lab().workers(workers);
    let socket = builder.folder().join("uwsgi.sock");
    let server = builder
        .config(&format!(
            "[log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n{config}"
        ))
        .arg("--bind")
        .arg(format!("uwsgi+unix:{}", socket.display()))
        .start();
    (server, socket)
}

/// nginx before it, as its own documentation shows it; `more` goes into the location.
fn before(upstream: &str, more: &str) -> Nginx {
    Nginx::serving(&format!(
        "server {{\n listen 80;\n client_max_body_size 1g;\n location / {{\n  include /etc/nginx/uwsgi_params;\n  \
         uwsgi_pass {upstream};\n  {more}\n }}\n}}\n"
    ))
}

/// A packet of these pairs.
fn packet(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        block.extend_from_slice(&(text.len() as u16).to_le_bytes());
        block.extend_from_slice(text.as_bytes());
    }
    let length = (block.len() as u16).to_le_bytes();
    [&[0, length[0], length[1], 0][..], &block].concat()
}

/// A plain GET of a path, and of a query behind it.
fn get(target: &str) -> Vec<u8> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    packet(&[
        ("REQUEST_METHOD", "GET"),
        ("PATH_INFO", path),
        ("QUERY_STRING", query),
        ("REMOTE_ADDR", "192.0.2.7"),
    ])
}

/// All that comes back for these bytes.
fn ask(socket: &PathBuf, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Who is refused may be told so before all was sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn requests_pass_through_nginxs_uwsgi_pass_with_all_that_it_tells() {
    let (server, socket) = server(1, "");
    let tcp = Server::lab().arg("--bind").arg("uwsgi://127.0.0.1:0").start();
    let line = tcp.wait_for_log("(uwsgi)");
    let port = line
        .split("listening on ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    for upstream in [format!("unix:{}", socket.display()), port] {
        let nginx = before(&upstream, "uwsgi_param REMOTE_USER ada; uwsgi_param HTTPS on;");
        let mut client = nginx.client();
        client
            .send(
                "GET /environ/a%2Fb?x=1&y=%20 HTTP/1.1\r\nHost: www.example.org\r\nX-Twice: 1\r\nX-Twice: 2\r\n\
                 Cookie: a=1\r\nCookie: b=2\r\nX-Forwarded-For: 6.6.6.6\r\nProxy: evil\r\n\r\n",
            )
            .unwrap();
        let reply = client.reply().unwrap();
        assert_eq!(reply.status, 200, "{upstream}: {}", reply.text());
        let environ = json::object(&reply.text());
        for (key, expected) in [
            ("REQUEST_METHOD", "GET"),
            ("REQUEST_URI", "/environ/a%2Fb?x=1&y=%20"),
            ("PATH_INFO", "/environ/a/b"),
            ("QUERY_STRING", "x=1&y=%20"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("HTTP_HOST", "www.example.org"),
            ("HTTP_X_TWICE", "1, 2"),
            ("HTTP_COOKIE", "a=1; b=2"),
            ("REMOTE_USER", "ada"),
            ("HTTPS", "on"),
            ("wsgi.url_scheme", "https"),
            // Over a Unix socket nginx knows no address of its client, and says so.
            ("REMOTE_ADDR", "unix:"),
            ("HTTP_X_FORWARDED_FOR", "6.6.6.6"),
        ] {
            assert_eq!(
                environ.get(key).map(String::as_str),
                Some(expected),
                "{upstream}: {key} of {environ:#?}"
            );
        }
        for absent in ["HTTP_PROXY", "HTTP_CONNECTION", "CONTENT_LENGTH", "CONTENT_TYPE"] {
            assert!(!environ.contains_key(absent), "{absent} of {environ:#?}");
        }
    }
    let line = until("its access line", || {
        server
            .read("access.log")
            .lines()
            .find(|line| line.contains("/environ"))
            .map(str::to_owned)
    });
    for part in [
        "\"remote\":\"unix:\"",
        "\"target\":\"/environ/a%2Fb?x=1&y=%20\"",
        "\"protocol\":\"HTTP/1.1\"",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn bodies_pass_whole_in_both_directions() {
    let (_server, socket) = server(2, "");
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 253) as u8).collect();
    let hash: String = Sha256::digest(&large)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    for more in ["", "uwsgi_request_buffering off; uwsgi_buffering off;"] {
        let nginx = before(&format!("unix:{}", socket.display()), more);
        let mut client = nginx.client();
        client
            .send(format!(
                "POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
                large.len()
            ))
            .unwrap();
        client.send(&large).unwrap();
        assert_eq!(
            client.reply().unwrap().text(),
            format!("{} {hash}\n", large.len()),
            "{more}"
        );
        client
            .send(
                "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            )
            .unwrap();
        assert_eq!(client.reply().unwrap().body, b"abcde", "nginx takes the chunks apart");
        client.send("GET /bytes?n=3000000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!(client.reply().unwrap().body.len(), 3_000_000);
        client
            .send("GET /stream?chunks=200&size=5000 HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        assert_eq!(client.reply().unwrap().body.len(), 1_000_000, "no chunk sizes within");
        client.send("HEAD /bytes?n=77 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let reply = client.reply_to("HEAD").unwrap();
        assert_eq!((reply.status, reply.header("content-length")), (200, Some("77")));
        client.send("GET /detach?ms=5 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!(client.reply().unwrap().text(), "answered from another thread\n");
        client.send("GET /hints HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!(
            client.reply().unwrap().text(),
            "after the hints\n",
            "hints are not for nginx"
        );
        for code in [204, 304] {
            client
                .send(format!("GET /status?code={code} HTTP/1.1\r\nHost: a\r\n\r\n"))
                .unwrap();
            assert_eq!(client.reply().unwrap().status, code);
        }
    }
}

#[test]
fn errors_reach_the_client_as_they_are_and_never_as_502() {
    let (_server, socket) = server(
        2,
        "[limits]\nbody = \"10KiB\"\nbody-buffer = \"4KiB\"\n[timeouts]\nrequest = \"3s\"\n",
    );
    let nginx = before(&format!("unix:{}", socket.display()), "uwsgi_request_buffering off;");
    for (request, expected) in [
        ("GET /panic HTTP/1.1\r\n", 500),
        ("GET /none HTTP/1.1\r\n", 500),
        ("GET /no-such-page HTTP/1.1\r\n", 404),
        ("GET /sleep?ms=6000 HTTP/1.1\r\n", 504),
        ("POST /echo HTTP/1.1\r\nContent-Length: 20000\r\n", 413),
        ("POST /early?code=403 HTTP/1.1\r\nContent-Length: 9000\r\n", 403),
    ] {
        let mut client = nginx.client();
        client.send(format!("{request}Host: a\r\n\r\n")).unwrap();
        if request.starts_with("POST") {
            let _ = client.send(vec![b'x'; if expected == 413 { 20_000 } else { 9000 }]);
        }
        assert_eq!(client.reply().unwrap().status, expected, "{request}\n{}", nginx.log());
    }
}

#[test]
fn an_upgrade_becomes_a_raw_stream_through_nginx() {
    let (_server, socket) = server(1, "");
    let nginx = before(&format!("unix:{}", socket.display()), "");
    let mut client = nginx.client();
    client
        .send("GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        .unwrap();
    assert_eq!(client.head(true).unwrap().status, 101);
    client.send("raw bytes").unwrap();
    client.skip(9).unwrap();
}

#[test]
fn reloads_and_killed_workers_cost_what_they_cost_over_http() {
    let (server, socket) = server(2, "");
    let nginx = before(&format!("unix:{}", socket.display()), "");
    let habit = Habit {
        target: "/".to_owned(),
        per_connection: 100,
    };
    let storm = Storm::start(&nginx.address(), 4, &habit);
    for _ in 0..5 {
        let old = server.workers();
        server.signal(Signal::SIGHUP);
        server.wait_for_workers("all are new", |pids| {
            pids.len() == 2 && pids.iter().all(|pid| !old.contains(pid))
        });
    }
    let tally = storm.end();
    assert!(
        tally.lost.is_empty() && tally.refused == 0,
        "{tally:?}\n{}",
        nginx.log()
    );
    assert!(tally.answered > 100 && tally.honest == 0, "{tally:?}");
    // One that is killed takes its calls with it, and the next request is answered.
    let hit = server.workers()[0];
    process::signal(hit, Signal::SIGKILL);
    assert!(ask(&socket, &get("/")).contains(" 200 OK\r\n"));
}

#[test]
fn a_packet_may_come_byte_by_byte_and_its_client_may_be_done_writing() {
    let (_server, socket) = server(1, "");
    let mut stream = UnixStream::connect(&socket).unwrap();
    let body = b"12345";
    let pairs = [
        ("REQUEST_METHOD", "POST"),
        ("PATH_INFO", "/echo"),
        ("CONTENT_LENGTH", "5"),
    ];
    for byte in packet(&pairs).iter().chain(body) {
        stream.write_all(&[*byte]).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\n12345"), "{answer}");
    // What follows a request is no other request.
    let twice = [get("/"), get("/")].concat();
    assert_eq!(ask(&socket, &twice).matches(" 200 OK").count(), 1);
}

#[test]
fn what_is_no_plain_request_is_refused_with_a_sentence_and_reaches_no_handler() {
    let (server, socket) = server(1, "[timeouts]\nheader = \"300ms\"\n");
    let calls = || server.get("/count").text().trim().parse::<u32>().unwrap();
    let before = calls();
    let method = ("REQUEST_METHOD", "GET");
    let path = ("PATH_INFO", "/count");
    for (bytes, status, sentence) in [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 400, "HTTP arrived"),
        (vec![22, 3, 1, 0, 200], 400, "TLS"),
        (vec![173, 0, 0, 0], 501, "modifier 0"),
        (vec![0, 0, 0, 9], 501, "modifier 0"),
        (
            packet(&[method, path, ("UWSGI_FILE", "exec:///bin/sh")]),
            400,
            "never done",
        ),
        (packet(&[method, method, path]), 400, "twice"),
        (packet(&[method]), 400, "no path"),
        (
            packet(&[method, path, ("HTTP_A", "b\r\nContent-Length: 3")]),
            400,
            "control byte",
        ),
        (
            packet(&[method, path, ("CONTENT_LENGTH", "5, 5")]),
            400,
            "Content-Length",
        ),
        (b"\0\x04\0\0\x05\0AB".to_vec(), 400, "malformed"),
        (get("/")[..20].to_vec(), 408, "longer than this server waits"),
    ] {
        let answer = ask(&socket, &bytes);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{}: {answer}",
            bytes.escape_ascii()
        );
        assert!(
            answer.contains(sentence) && answer.contains("connection: close"),
            "{answer}"
        );
    }
    assert_eq!(calls(), before + 1, "no other call was made");
    until("each has its access line", || {
        let lines = server.read("access.log").matches("\"outcome\":\"refused\"").count();
        (lines == 11).then_some(())
    });
}

#[test]
fn a_fresh_connection_outlives_its_worker_and_a_stop_answers_what_was_sent() {
    let (mut server, socket) = server(1, "");
    let mut waiting = UnixStream::connect(&socket).unwrap();
    let old = server.workers();
    server.signal(Signal::SIGHUP);
    server.wait_for_workers("it is another", |pids| pids.len() == 1 && pids != old);
    waiting.write_all(&get("/generation")).unwrap();
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(
        answer.ends_with("\r\n\r\n2\n") || answer.ends_with("\r\n\r\n2"),
        "{answer}"
    );
    let mut slow = UnixStream::connect(&socket).unwrap();
    slow.write_all(&get("/sleep?ms=300")).unwrap();
    let log = || server.log();
    until("it is under way", || {
        (server.get("/count").status == 200)
            .then_some(())
            .or_else(|| panic!("{}", log()))
    });
    server.stop(Signal::SIGTERM);
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 OK\r\n"), "{answer}");
}
