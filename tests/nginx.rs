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
use crate::support::nginx::Nginx;
use crate::support::server::{Listen, Server};
use crate::support::storm::{Habit, Storm};
use crate::support::wait::until;

#[test]
fn requests_pass_through_nginx_with_their_clients_address_and_id() {
    for listen in [Listen::Tcp, Listen::Unix] {
        let server = Server::lab().listen(listen).start();
        let nginx = Nginx::before(server.address());
        let mut client = nginx.client();
        client
            .send("GET /environ?x HTTP/1.1\r\nHost: www.example.org\r\n\r\n")
            .unwrap();
        let environ = json::object(&client.reply().unwrap().text());
        assert_eq!(environ["HTTP_HOST"], "www.example.org");
        assert_eq!(environ["HTTP_X_FORWARDED_PROTO"], "http");
        assert_eq!(environ["HTTP_X_REQUEST_ID"].len(), 32, "{environ:#?}");
        assert!(environ.contains_key("HTTP_X_FORWARDED_FOR"));
        assert!(
            !environ.contains_key("HTTP_CONNECTION"),
            "nginx keeps its connections to us: {environ:#?}"
        );
    }
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
    let server = Server::lab().workers(1).start();
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
}
