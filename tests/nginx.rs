//! Behind a real nginx with the configuration we ship, over TCP with keep-alive and over a Unix socket.
//!
//! Takes requests through nginx; gives what a browser would see and what the handler was told of the client.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};

use crate::support::json;
use crate::support::modules::module;
use crate::support::nginx::Nginx;
use crate::support::server::{Listen, Server};
use crate::support::storm::{Habit, Storm};
use crate::support::wait::until;

/// What the shipped configurations tell the operator to say.
const TRUSTED: &str = "[proxy]\ntrusted = [\"127.0.0.1\", \"unix\"]\n";

#[test]
fn requests_pass_through_nginx_with_their_clients_address_scheme_host_and_id() {
    for listen in [Listen::Tcp, Listen::Unix] {
        let log = "[log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n";
        let server = Server::lab().listen(listen).config(&format!("{TRUSTED}{log}")).start();
        let nginx = Nginx::before(server.address());
        let mut client = nginx.client();
        // What a client writes itself is seen through: nginx puts what it knows behind it, or takes the field away. It reached nginx over
        // a Unix socket, so the address before that one is the client's.
        client
            .send(
                "GET /environ?x HTTP/1.1\r\nHost: www.example.org:8080\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.9\r\n\
                 X-Forwarded-Proto: https\r\nX-Forwarded-Port: 6\r\nX-Forwarded-Prefix: /evil\r\nForwarded: for=6.6.6.6\r\n\
                 X-Request-Id: evil\r\n\r\n",
            )
            .unwrap();
        let reply = client.reply().unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        let environ = json::object(&reply.text());
        for (key, expected) in [
            ("REMOTE_ADDR", "203.0.113.9"),
            ("wsgi.url_scheme", "http"),
            ("HTTP_HOST", "www.example.org:8080"),
            ("SERVER_NAME", "www.example.org"),
            ("SERVER_PORT", "8080"),
            ("SCRIPT_NAME", ""),
            ("REQUEST_URI", "/environ?x"),
        ] {
            assert_eq!(
                environ.get(key).map(String::as_str),
                Some(expected),
                "{listen:?}: {key} of {environ:#?}"
            );
        }
        let id = environ["appserver.request_id"].clone();
        assert_eq!(
            (id.len(), &id),
            (32, &environ["HTTP_X_REQUEST_ID"]),
            "nginx's id is ours"
        );
        assert!(environ["HTTP_X_REQUEST_START"].starts_with("t=1"), "{environ:#?}");
        for absent in [
            "HTTP_CONNECTION",
            "HTTP_FORWARDED",
            "HTTP_X_FORWARDED_PREFIX",
            "HTTP_X_FORWARDED_PORT",
        ] {
            assert!(!environ.contains_key(absent), "{absent} of {environ:#?}");
        }
        let line = until("its access line", || {
            server
                .read("access.log")
                .lines()
                .find(|line| line.contains("/environ?x"))
                .map(str::to_owned)
        });
        assert!(
            line.contains("\"remote\":\"203.0.113.9\"") && line.contains(&id),
            "{line}"
        );
        // One that knows no Host.
        let mut old = nginx.client();
        old.send("GET /environ HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!(old.reply().unwrap().status, 200);
    }
}

/// As large as an upload gets that people wait for.
const HUGE: usize = 64 << 20;

#[test]
fn bodies_of_64_mib_pass_in_both_directions_with_and_without_buffering() {
    for listen in [Listen::Tcp, Listen::Unix] {
        let server = events(listen);
        let nginx = Nginx::before(server.address());
        let folder = tempfile::tempdir().unwrap();
        let huge = folder.path().join("huge");
        fs::File::create(&huge).unwrap().set_len(HUGE as u64).unwrap();
        for place in ["", "/events"] {
            for framing in ["Transfer-Encoding: chunked", "X-Plain: yes"] {
                let answer = curl(
                    &nginx,
                    &["-H", framing],
                    Some(&huge),
                    &format!("{place}/read?n=1048576"),
                );
                assert_eq!(
                    String::from_utf8_lossy(&answer),
                    format!("{HUGE}\n"),
                    "{listen:?} {place} {framing}"
                );
            }
            for page in [format!("/bytes?n={HUGE}"), format!("/file?path={}", huge.display())] {
                let answer = curl(&nginx, &[], None, &format!("{place}{page}"));
                assert_eq!(answer.len(), HUGE, "{listen:?} {place}{page}");
            }
        }
    }
}

/// The lab at the root, and at /events once more.
fn events(listen: Listen) -> Server {
    let module = module("lab");
    let mount = |path: &str| format!("[[mount]]\npath = {path:?}\nmodule = {module:?}\n");
    let config = format!("workers = 2\n{}{}", mount("/"), mount("/events"));
    Server::bare().workers(2).listen(listen).config(&config).start()
}

#[test]
fn a_hundred_clients_at_once_are_all_answered() {
    for listen in [Listen::Tcp, Listen::Unix] {
        let server = Server::lab().listen(listen).start();
        let nginx = Nginx::before(server.address());
        let habit = Habit {
            target: "/".into(),
            per_connection: 20,
        };
        let storm = Storm::start(&nginx.address(), 100, &habit);
        let calls = || server.get("/count").text().trim().parse::<u64>().unwrap();
        until("each worker has had hundreds of calls", || {
            (calls() > 500 && calls() > 500).then_some(())
        });
        let tally = storm.end();
        assert!(
            tally.lost.is_empty() && tally.refused == 0 && tally.honest == 0,
            "{tally:?}\n{}",
            nginx.log()
        );
    }
}

#[test]
fn reloads_of_nginx_and_of_the_server_at_once_fail_no_request() {
    let server = Server::lab().listen(Listen::Unix).start();
    let nginx = Nginx::before(server.address());
    // nginx closes idle connections of its clients when it is reloaded; so they open one for each request.
    let habit = Habit {
        target: "/".into(),
        per_connection: 1,
    };
    let storm = Storm::start(&nginx.address(), 4, &habit);
    for _ in 0..4 {
        let (ours, its) = (server.workers(), nginx.workers());
        server.signal(Signal::SIGHUP);
        nginx.reload();
        server.wait_for_workers("two others", |pids| {
            pids.len() == 2 && pids.iter().all(|pid| !ours.contains(pid))
        });
        until("nginx has others too", || {
            let now = nginx.workers();
            (!now.is_empty() && now.iter().all(|pid| !its.contains(pid))).then_some(())
        });
    }
    let tally = storm.end();
    assert!(
        tally.lost.is_empty() && tally.refused == 0 && tally.honest == 0 && tally.answered > 100,
        "{tally:?}\n{}",
        nginx.log()
    );
}

#[test]
fn every_kind_of_answer_arrives_as_it_was_given() {
    let config = format!(
        "{TRUSTED}[timeouts]\nrequest = \"3s\"\n[limits]\nbody = \"100KiB\"\nheader-field = \"2KiB\"\nrequest-line = \"2KiB\"\n"
    );
    let server = Server::lab().listen(Listen::Unix).config(&config).start();
    let nginx = Nginx::before(server.address());
    let long = "x".repeat(3000);
    for (request, expected) in [
        ("GET /status?code=204 HTTP/1.1\r\n\r\n".to_owned(), 204),
        (
            "GET /status?code=304 HTTP/1.1\r\nIf-None-Match: \"1\"\r\n\r\n".to_owned(),
            304,
        ),
        ("GET /status?code=404 HTTP/1.1\r\n\r\n".to_owned(), 404),
        ("GET /status?code=503 HTTP/1.1\r\n\r\n".to_owned(), 503),
        ("GET /early?code=207 HTTP/1.1\r\n\r\n".to_owned(), 207),
        ("GET /panic HTTP/1.1\r\n\r\n".to_owned(), 500),
        ("GET /none HTTP/1.1\r\n\r\n".to_owned(), 500),
        ("GET /sleep?ms=9000 HTTP/1.1\r\n\r\n".to_owned(), 504),
        ("GET /segv HTTP/1.1\r\n\r\n".to_owned(), 502),
        // nginx passes on a control byte that is none of ours to take.
        ("GET / HTTP/1.1\r\nX-Control: a\x01b\r\n\r\n".to_owned(), 400),
        (format!("GET /?{long} HTTP/1.1\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nX-Long: {long}\r\n\r\n"), 431),
        (
            "POST /echo HTTP/1.1\r\nContent-Length: 200000\r\n\r\n".to_owned() + &"x".repeat(200_000),
            413,
        ),
        (
            "POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
            200,
        ),
        ("GET /stream?chunks=3&size=4 HTTP/1.1\r\n\r\n".to_owned(), 200),
        ("GET /hints HTTP/1.1\r\n\r\n".to_owned(), 200),
    ] {
        let mut client = nginx.client();
        let _ = client.send(request.replacen("\r\n", "\r\nHost: a\r\n", 1));
        let reply = client
            .reply()
            .unwrap_or_else(|failure| panic!("{failure}: {}", &request[..request.len().min(80)]));
        assert_eq!(
            reply.status,
            expected,
            "{}\n{}",
            &request[..request.len().min(80)],
            nginx.log()
        );
        // What nginx says itself is a page with its name.
        assert_eq!(
            reply.text().contains("<center>nginx"),
            expected == 502,
            "{}",
            reply.text()
        );
    }
    // HEAD has the head of GET and nothing behind it, on a connection that serves on.
    let mut client = nginx.client();
    for target in ["/bytes?n=77", "/stream?chunks=3&size=4"] {
        client
            .send(format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .unwrap();
        assert_eq!(client.reply_to("HEAD").unwrap().status, 200);
    }
    assert_eq!(client.get("/bytes?n=5").unwrap().body.len(), 5);
}

/// A body that no buffer on the way holds whole.
const LARGE: u32 = 10_000_000;

/// nginx sends no more of a request body once it has passed on the head of the answer
/// (ngx_http_upstream_send_request_handler): an echo that streams stands still behind it, whatever the server does. So a
/// large body goes up to be hashed and is answered after its end, and only a small one is echoed.
#[test]
fn uploads_and_downloads_pass_whole() {
    for listen in [Listen::Tcp, Listen::Unix] {
        let server = Server::lab().listen(listen).start();
        let nginx = Nginx::before(server.address());
        let folder = tempfile::tempdir().unwrap();
        let (large, small) = (folder.path().join("large"), folder.path().join("small"));
        let bytes: Vec<u8> = (0..LARGE).map(|n| (n % 253) as u8).collect();
        fs::write(&large, &bytes).unwrap();
        fs::write(&small, &bytes[..10_000]).unwrap();
        let hash: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        for framing in ["Transfer-Encoding: chunked", "X-Plain: yes"] {
            let answer = curl(&nginx, &["-H", framing], Some(&large), "/hash");
            assert_eq!(
                String::from_utf8_lossy(&answer),
                format!("{LARGE} {hash}\n"),
                "{listen:?}, {framing}"
            );
            let answer = curl(&nginx, &["-H", framing], Some(&small), "/echo");
            assert!(
                answer == bytes[..10_000],
                "{listen:?}, {framing}: {} bytes",
                answer.len()
            );
        }
        let answer = curl(&nginx, &[], None, &format!("/bytes?n={LARGE}"));
        assert_eq!(answer.len(), LARGE as usize, "{listen:?}");
    }
}

/// What curl gets from `path` behind nginx, the file `upload` as the request's body.
fn curl(nginx: &Nginx, args: &[&str], upload: Option<&Path>, path: &str) -> Vec<u8> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "30"])
        .args(args);
    if let Some(upload) = upload {
        curl.arg("--data-binary").arg(format!("@{}", upload.display()));
    }
    curl.arg("--unix-socket")
        .arg(nginx.socket())
        .arg(format!("http://localhost{path}"));
    let output = curl.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn connections_from_nginx_are_kept() {
    let server = Server::lab().workers(1).start();
    let nginx = Nginx::before(server.address());
    let mut client = nginx.client();
    let port = |text: String| json::object(&text).get("REMOTE_PORT").cloned();
    let first = port(client.get("/environ").unwrap().text());
    for _ in 0..50 {
        assert_eq!(
            port(client.get("/environ").unwrap().text()),
            first,
            "one connection carries them all"
        );
    }
}

#[test]
fn a_reload_behind_nginx_is_not_seen_in_front() {
    for listen in [Listen::Tcp, Listen::Unix] {
        let server = Server::lab().listen(listen).start();
        let nginx = Nginx::before(server.address());
        let storm = Storm::start(
            &nginx.address(),
            4,
            &Habit {
                target: "/".into(),
                per_connection: 200,
            },
        );
        for _ in 0..5 {
            let before = server.workers();
            server.signal(Signal::SIGHUP);
            server.wait_for_workers("two others", |pids| {
                pids.len() == 2 && pids.iter().all(|p| !before.contains(p))
            });
        }
        let tally = storm.end();
        assert!(
            tally.lost.is_empty() && tally.honest == 0 && tally.answered > 100,
            "{listen:?}: {tally:?}"
        );
    }
}

#[test]
fn a_client_that_leaves_nginx_leaves_no_call_behind() {
    let log = "[log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n";
    let server = Server::lab().workers(1).config(log).start();
    let nginx = Nginx::before(server.address());
    let leavers: Vec<_> = (0..10)
        .map(|_| {
            let mut client = nginx.client();
            thread::spawn(move || {
                client
                    .send("GET /stream?chunks=1000&size=10000&delay_ms=10 HTTP/1.1\r\nHost: a\r\n\r\n")
                    .unwrap();
                client.head(true).unwrap();
            })
        })
        .collect();
    for leaver in leavers {
        leaver.join().unwrap();
    }
    let closed = || server.get("/closed").text().trim().parse::<u64>().unwrap_or(0);
    until("ten bodies were closed", || (closed() >= 10).then_some(()));
    // The access log does not pass them off as answered.
    let log = || server.read("access.log");
    until("ten lines say so", || {
        (log().matches("\"outcome\":\"aborted\"").count() >= 10).then_some(())
    });
}
