//! handlers/proxy where messages are odd: answers without bodies, trailers, targets, many fields, and what a client must not put into another's answer.
//!
//! Takes origins of the test's own and a real nginx; gives what each side saw. `proxy` has the plain cases.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::proxy::{head, origin, proxy, send};
use crate::support::nginx::Nginx;

pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers every request of a connection with the same bytes.
fn always(answer: impl Into<Vec<u8>>) -> impl Fn(TcpStream, usize) + Send + Sync + 'static {
    let answer = answer.into();
    move |mut stream, _| {
        while head(&mut stream).is_some() {
            stream.write_all(&answer).unwrap();
        }
    }
}

/// Answers with the head that came.
fn mirror(mut stream: TcpStream, _: usize) {
    while let Some(head) = head(&mut stream) {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
        stream.write_all(answer.as_bytes()).unwrap();
    }
}

/// Reads a chunked body to the end of its trailers. Its data must not look like that.
pub(crate) fn chunked(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let mut piece = [0; 1 << 16];
    while !ended(&seen) {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(count) => seen.extend_from_slice(&piece[..count]),
        }
    }
    String::from_utf8(seen).unwrap()
}

/// Whether the last chunk and the trailers after it are there, which are short here.
fn ended(seen: &[u8]) -> bool {
    let tail = &seen[seen.len().saturating_sub(200)..];
    let last = tail.windows(5).any(|window| window == b"\r\n0\r\n") || seen.starts_with(b"0\r\n");
    last && tail.ends_with(b"\r\n\r\n")
}

/// Whether the other side has ended the connection.
pub(crate) fn ends(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    loop {
        match stream.read(&mut [0; 1 << 16]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn trailers_pass_both_ways() {
    let (address, _) = origin(|mut stream, _| {
        while let Some(head) = head(&mut stream) {
            if head.starts_with("GET ") {
                stream.write_all(OK).unwrap();
                continue;
            }
            let body = chunked(&mut stream);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n{:x}\r\n{body}\r\n0\r\nX-Sum: 7\r\n\r\n",
                body.len()
            );
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let server = proxy(&address, "", "");
    let reply = send(
        &server,
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Check\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Check: 5\r\n\r\n",
    );
    assert!(
        reply.text().to_ascii_lowercase().ends_with("x-check: 5\r\n\r\n"),
        "{reply:?}"
    );
    let sums: Vec<&str> = reply.trailers.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(sums, ["7"], "{reply:?}");
}

#[test]
fn answers_without_a_body_keep_the_fields_of_one_they_stand_for() {
    let (address, accepted) = origin(|mut stream, _| {
        while let Some(head) = head(&mut stream) {
            let answer: &[u8] = match head.split(' ').nth(1).unwrap() {
                "/304" => b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 1234\r\n\r\n",
                "/204" => b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
                "/chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n",
                "/1234" => b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
                _ => OK,
            };
            stream.write_all(answer).unwrap();
        }
    });
    let server = proxy(&address, "", "");
    let mut client = server.client();
    for (method, target, status, length) in [
        ("HEAD", "/1234", 200, Some("1234")),
        ("GET", "/304", 304, None),
        ("GET", "/204", 204, None),
        ("HEAD", "/chunked", 200, None),
        ("HEAD", "/1234", 200, Some("1234")),
    ] {
        client
            .send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .unwrap();
        let reply = client.reply_to(method).unwrap();
        assert_eq!(reply.status, status, "{method} {target}");
        if length.is_some() {
            assert_eq!(reply.header("content-length"), length, "{method} {target}");
        }
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1, "they end where they end");
}

#[test]
fn methods_and_targets_pass_byte_for_byte() {
    let (address, _) = origin(mirror);
    let server = proxy(&address, "", "");
    for (sent, line) in [
        ("PROPFIND /a HTTP/1.1", "PROPFIND /a HTTP/1.1"),
        ("OPTIONS * HTTP/1.1", "OPTIONS * HTTP/1.1"),
        ("GET http://a/x?y HTTP/1.1", "GET /x?y HTTP/1.1"),
        ("GET http://a HTTP/1.1", "GET / HTTP/1.1"),
        (
            "GET //b//c;d?e=%zz&f=|{g}^? HTTP/1.1",
            "GET //b//c;d?e=%zz&f=|{g}^? HTTP/1.1",
        ),
        // A quotation mark in a query is no URI (RFC 3986), and hyper sends nothing else.
        ("GET /a?b=|\"c\"%2f HTTP/1.1", "GET /a?b=|%22c%22%2f HTTP/1.1"),
        (
            "GET /a/./../%2e%2E?u=http://b/ HTTP/1.1",
            "GET /a/./../%2e%2E?u=http://b/ HTTP/1.1",
        ),
    ] {
        let reply = send(&server, &format!("{sent}\r\nHost: a\r\n\r\n"));
        assert_eq!(reply.text().lines().next(), Some(line), "{sent}: {reply:?}");
    }
    let based = proxy(&format!("{address}/base/"), "", "");
    assert!(based.get("/x?y").text().starts_with("GET /base/x?y HTTP/1.1\r\n"));
}

#[test]
fn an_answer_of_many_fields_and_interim_ones_before_it_passes() {
    let many: String = (0..200).map(|n| format!("X-Many: {n}\r\n")).collect();
    let (address, _) = origin(always(format!(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 \r\n{many}Content-Length: 2\r\n\r\nok"
    )));
    let reply = send(&proxy(&address, "", ""), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
    let seen: Vec<&str> = reply
        .headers
        .iter()
        .filter_map(|(name, value)| name.eq_ignore_ascii_case("x-many").then_some(value.as_str()))
        .collect();
    let made: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(seen, made);
}

#[test]
fn an_origin_that_resets_is_a_502_and_one_that_stops_halfway_cuts_the_answer() {
    let (address, _) = origin(|mut stream, _| {
        let head = head(&mut stream).unwrap_or_default();
        match head.split(' ').nth(1) {
            Some("/reset") => {
                let at_once = nix::libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
            }
            Some("/stops") => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
                    .unwrap();
                assert!(ends(&mut stream), "the proxy gives it up");
            }
            Some("/to-the-end") => stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nall of it").unwrap(),
            _ => stream
                .write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                .unwrap(),
        }
    });
    let server = proxy(&address, ", timeout = \"400ms\"", "");
    assert_eq!(server.get("/reset").status, 502);
    assert!(
        server.client().get("/stops").is_err(),
        "the client sees that it is cut off"
    );
    assert_eq!(server.get("/to-the-end").text(), "all of it");
}

#[test]
fn what_a_client_says_of_host_and_scheme_is_not_passed_on_as_the_proxys_word() {
    let (address, _) = origin(|mut stream, _| {
        while let Some(head) = head(&mut stream) {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n{head}",
                head.len()
            );
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let server = proxy(
        &address,
        "",
        "[cache]\nenabled = true\nsize = \"8MiB\"\nmax-entry = \"512KiB\"\n",
    );
    let attack = "GET /page HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: gopher\r\n\r\n";
    assert_eq!(send(&server, attack).status, 200);
    // The next client gets what was kept of it.
    let victim = send(&server, "GET /page HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        .text()
        .to_ascii_lowercase();
    assert!(
        !victim.contains("evil.example") && !victim.contains("gopher"),
        "{victim}"
    );
    assert!(victim.contains("x-forwarded-host: shop.example\r\n"), "{victim}");
    assert!(victim.contains("x-forwarded-proto: http\r\n"), "{victim}");
}

#[test]
fn debians_nginx_is_an_origin_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let big: Vec<u8> = (0..3_000_000u32).map(|n| (n * 7 % 251) as u8).collect();
    std::fs::write(folder.path().join("big"), &big).unwrap();
    // nginx opens every path as root's worker may: the folder has to let it in.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let nginx = Nginx::serving(&format!(
        "server {{ listen 80; keepalive_requests 7; root {};\n\
         location = /gone {{ return 410 \"gone\"; }} location = /empty {{ return 204; }} }}",
        folder.path().display()
    ));
    let socket = nginx.socket();
    let (address, _) = origin(move |tcp, _| join(&tcp, &UnixStream::connect(&socket).unwrap()));
    let server = proxy(&address, "", "");
    let mut client = server.client();
    for round in 0..60 {
        // keepalive_requests ends a connection in good order every seventh time.
        assert_eq!(client.get("/gone").unwrap().text(), "gone", "{round}");
    }
    let whole = client.get("/big").unwrap();
    assert_eq!(whole.body, big);
    let tag = whole.header("etag").unwrap();
    client
        .send(format!("GET /big HTTP/1.1\r\nHost: a\r\nIf-None-Match: {tag}\r\n\r\n"))
        .unwrap();
    assert_eq!(client.reply().unwrap().status, 304);
    client
        .send("GET /big HTTP/1.1\r\nHost: a\r\nRange: bytes=5-9\r\n\r\n")
        .unwrap();
    let part = client.reply().unwrap();
    assert_eq!((part.status, part.body.as_slice()), (206, &big[5..10]));
    client.send("HEAD /big HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(
        client.reply_to("HEAD").unwrap().header("content-length"),
        Some("3000000")
    );
    assert_eq!(client.get("/empty").unwrap().status, 204);
    assert_eq!(client.get("/none").unwrap().status, 404);
}

/// Carries bytes both ways until both sides have ended, so that nginx needs no port.
fn join(tcp: &TcpStream, unix: &UnixStream) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut from, mut to) = (tcp, unix);
            let _ = std::io::copy(&mut from, &mut to);
            let _ = unix.shutdown(Shutdown::Write);
        });
        let (mut from, mut to) = (unix, tcp);
        let _ = std::io::copy(&mut from, &mut to);
        let _ = tcp.shutdown(Shutdown::Write);
    });
}
