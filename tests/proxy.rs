//! handlers/proxy in front of real origins: what passes, in which order, and what becomes of an origin that fails.
//!
//! Takes another appserver with the lab, and origins of the test's own that answer byte by byte as they are told;
//! gives what the client sees, and what the origin saw.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{Address, Reply};
use crate::support::modules::module;
use crate::support::server::Server;
use crate::support::wait::{pause, until};

/// A proxy in front of an address; `more` are arguments, `config` what stands beside the mount.
pub(crate) fn proxy(origin: &str, more: &str, config: &str) -> Server {
    let module = module("proxy");
    Server::bare()
        .workers(1)
        .config(&format!(
            "workers = 1\n[[mount]]\npath = \"/\"\nmodule = \"{}\"\nargs = {{ origin = \"http://{origin}\"{more} }}\n{config}",
            module.display()
        ))
        .start()
}

fn authority(server: &Server) -> String {
    let Address::Tcp(address) = server.address() else {
        panic!("the origin listens on TCP")
    };
    address.to_string()
}

/// An origin that gives each connection to `serve`; how many there were.
pub(crate) fn origin(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accepted = Arc::new(AtomicUsize::new(0));
    let (count, serve) = (accepted.clone(), Arc::new(serve));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let number = count.fetch_add(1, Ordering::SeqCst);
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream, number));
        }
    });
    (address, accepted)
}

/// Reads a head; None at the end of the connection.
pub(crate) fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).ok()
}

pub(crate) fn send(server: &Server, request: &str) -> Reply {
    let mut client = server.client();
    client.send(request).unwrap();
    client.reply_to(request.split(' ').next().unwrap()).unwrap()
}

#[test]
fn fields_statuses_reasons_and_methods_pass_as_they_are() {
    let (address, _) = origin(|mut stream, _| {
        while let Some(head) = head(&mut stream) {
            let body = head.clone();
            let answer = format!(
                "HTTP/1.1 299 Rather fine\r\nX-A: 1\r\nSet-Cookie: b=1\r\nX-a: 2\r\nSet-Cookie: a=2\r\nConnection: X-Hop\r\nX-Hop: no\r\n\
                 Keep-Alive: 5\r\nX-Empty:\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let server = proxy(&address, "", "");
    let reply = send(
        &server,
        "PURGE /a%2Fb/../c?x=%20&y HTTP/1.1\r\nHost: shop.example\r\nX-B: 1\r\nX-Hop: no\r\nConnection: X-Hop\r\nx-b: 2\r\nTE: trailers\r\nX-Forwarded-For: 10.1.1.1\r\n\r\n",
    );
    assert_eq!((reply.status, reply.reason.as_str()), (299, "Rather fine"));
    let of = |name: &str| -> Vec<&str> {
        let named = reply
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(of("x-a"), ["1", "2"]);
    assert_eq!(of("set-cookie"), ["b=1", "a=2"]);
    assert_eq!(
        (of("x-empty").len(), of("x-hop").len(), of("keep-alive").len()),
        (1, 0, 0)
    );
    let seen = reply.text().to_ascii_lowercase();
    assert!(seen.starts_with("purge /a%2fb/../c?x=%20&y http/1.1\r\n"), "{seen}");
    for line in [
        "host: shop.example",
        "x-b: 1\r\nx-b: 2",
        "x-forwarded-for: 10.1.1.1\r\nx-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "via: 1.1 appserver",
    ] {
        assert!(seen.contains(&format!("{line}\r\n")), "{line} in {seen}");
    }
    for gone in ["x-hop", "te:", "connection:"] {
        assert!(!seen.contains(&format!("\n{gone}")), "{gone} in {seen}");
    }
    let own = proxy(&address, ", host = \"origin\"", "");
    assert!(own.get("/").text().contains(&format!("host: {address}\r\n")));
}

#[test]
fn bodies_of_any_length_stream_both_ways_in_little_memory() {
    let lab = Server::lab().workers(2).start();
    let server = proxy(&authority(&lab), "", "");
    const LENGTH: usize = 64 << 20;
    let piece = vec![b'x'; 1 << 16];
    let mut client = server.client();
    client
        .send(format!(
            "POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"
        ))
        .unwrap();
    for _ in 0..LENGTH / piece.len() {
        client.send(&piece).unwrap();
    }
    let hash = client.reply().unwrap();
    assert!(hash.text().starts_with(&LENGTH.to_string()), "{hash:?}");
    client
        .send("POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    for _ in 0..LENGTH / piece.len() {
        client.send(format!("{:x}\r\n", piece.len())).unwrap();
        client.send(&piece).unwrap();
        client.send("\r\n").unwrap();
    }
    client.send("0\r\n\r\n").unwrap();
    assert_eq!(client.reply().unwrap().body, hash.body);
    for target in [
        format!("/bytes?n={LENGTH}"),
        format!("/stream?chunks=1024&size={}", LENGTH / 1024),
    ] {
        assert_eq!(client.get(&target).unwrap().body.len(), LENGTH, "{target}");
    }
    // Twice the bodies would be a quarter of a gigabyte.
    assert!(server.memory() < 100 << 20, "{} bytes", server.memory());
}

#[test]
fn a_piece_passes_before_the_next_one_is_made() {
    let lab = Server::lab().workers(1).start();
    let server = proxy(&authority(&lab), "", "");
    let mut client = server.client();
    client
        .send("GET /stream?chunks=3&size=5&delay_ms=700 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let began = Instant::now();
    let mut first = None;
    client.head(true).unwrap();
    client
        .count_chunks(|_| {
            first.get_or_insert(began.elapsed());
        })
        .unwrap();
    assert!(
        first.unwrap() + Duration::from_millis(500) < began.elapsed(),
        "{first:?} of {:?}",
        began.elapsed()
    );
}

#[test]
fn an_origin_that_fails_is_a_502_and_a_slow_one_a_504() {
    let mut gone = Server::lab().workers(1).start();
    let refused = proxy(&authority(&gone), "", "");
    gone.stop(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(refused.get("/").status, 502);

    let (address, _) = origin(|mut stream, _| {
        let head = head(&mut stream).unwrap_or_default();
        match head.split(' ').nth(1) {
            Some("/") => stream
                .write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                .unwrap(),
            Some("/closes") => {}
            Some("/garbage") => stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").unwrap(),
            Some("/half-a-head") => stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").unwrap(),
            Some("/cut") => stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
                .unwrap(),
            Some("/cut-chunks") => stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
                .unwrap(),
            _ => drop(stream.read(&mut [0; 9])),
        }
    });
    let server = proxy(&address, ", timeout = \"400ms\"", "");
    for (target, status) in [
        ("/closes", 502),
        ("/garbage", 502),
        ("/half-a-head", 502),
        ("/never", 504),
    ] {
        assert_eq!(server.get(target).status, status, "{target}");
    }
    for target in ["/cut", "/cut-chunks"] {
        let mut client = server.client();
        // Where the origin was quicker than the head, there is still time for an honest status.
        match client.get(target) {
            Err(_) => {}
            Ok(reply) => assert_eq!(
                reply.status, 500,
                "{target}: the client sees that it is cut off: {reply:?}"
            ),
        }
    }
    assert_eq!(server.get("/closes").status, 502, "and it goes on");
}

#[test]
fn connections_are_used_again_and_a_closed_one_costs_no_request() {
    let (address, accepted) = origin(|mut stream, number| {
        let mut served = 0;
        while head(&mut stream).is_some() {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .unwrap();
            served += 1;
            // The first few connections end as soon as they are idle, without a word before.
            if number < 3 && served == 5 {
                return;
            }
        }
    });
    let server = proxy(&address, "", "");
    let mut client = server.client();
    for round in 0..1000 {
        let reply = client.get("/").unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"), "{round}");
    }
    let accepted = accepted.load(Ordering::SeqCst);
    assert!(
        (4..=8).contains(&accepted),
        "{accepted} connections for a thousand requests one after the other"
    );
}

#[test]
fn a_client_that_leaves_takes_the_question_back() {
    let (address, _) = origin(|mut stream, _| {
        if head(&mut stream).is_some_and(|head| head.starts_with("GET / ")) {
            return stream
                .write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                .unwrap();
        }
        // Until the proxy closes it.
        let ended = stream.read(&mut [0; 1]);
        assert!(matches!(ended, Ok(0) | Err(_)));
        LEFT.store(true, Ordering::SeqCst);
    });
    static LEFT: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    let server = proxy(&address, "", "");
    let mut client = server.client();
    client.send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("it is asked", || client.taken().then_some(()));
    pause(Duration::from_millis(50));
    client.reset();
    until("the origin is told", || LEFT.load(Ordering::SeqCst).then_some(()));
}

#[test]
fn with_the_cache_it_goes_on_when_its_origin_is_gone() {
    let mut lab = Server::lab().workers(1).start();
    let cache = "[cache]\nenabled = true\nsize = \"8MiB\"\nmax-entry = \"512KiB\"\n";
    let server = proxy(&authority(&lab), "", cache);
    let target = "/cache?max_age=0&sie=60&etag=a";
    let first = server.get(target);
    assert!(
        server
            .get("/cache?max_age=60")
            .header("cache-status")
            .unwrap()
            .ends_with("stored")
    );
    let again = server.get(target);
    assert!(
        again.header("cache-status").unwrap().contains("fwd-status=304"),
        "{again:?}"
    );
    lab.stop(nix::sys::signal::Signal::SIGTERM);
    let stale = server.get(target);
    assert_eq!((stale.status, &stale.body), (200, &first.body));
    assert!(stale.header("cache-status").unwrap().contains("stale-if-error"));
    assert!(
        server
            .get("/cache?max_age=60")
            .header("cache-status")
            .unwrap()
            .contains("; hit")
    );
    assert_eq!(server.get("/other").status, 502);
}

#[test]
fn a_bad_argument_is_named_before_anything_is_served() {
    for (args, told) in [
        ("", "it needs an origin"),
        ("origin = \"ftp://a\"", "does not begin with http://"),
        (
            "origin = \"http://a\", timeout = \"soon\"",
            "timeout = \"soon\" is no time",
        ),
        (
            "origin = \"http://a\", colour = \"red\"",
            "there is no argument \"colour\"",
        ),
    ] {
        let config = format!(
            "workers = 1\n[[mount]]\npath = \"/\"\nmodule = \"{}\"\nargs = {{ {args} }}\n",
            module("proxy").display()
        );
        let (code, log) = Server::bare().config(&config).fail();
        assert_eq!(code, Some(5), "{log}");
        assert!(log.contains(told), "{log}");
    }
}
