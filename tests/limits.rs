//! `[limits]` and `[timeouts]`, one by one: what is over is refused with its own status, what is below is served.
//!
//! Takes the lab handler under tight bounds; gives statuses, and for the bounds on connections and calls the order in
//! which clients are served. Sizes of bodies are in streaming.rs too.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::client::{Address, Client, Failure};
use crate::support::process;
use crate::support::server::Server;
use crate::support::wait::{PATIENCE, pause, until};

fn limited(setting: &str) -> Server {
    Server::lab()
        .workers(1)
        .config(&format!("[limits]\n{setting}\n"))
        .start()
}

fn status(server: &Server, request: &str) -> u16 {
    let mut client = server.client();
    client.send(request).unwrap();
    client.reply().unwrap().status
}

fn with_fields(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn a_request_line_over_its_limit_is_a_414() {
    let server = limited("request-line = \"1KiB\"");
    let line = |length: usize| format!("GET /?{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length));
    assert_eq!(status(&server, &line(900)), 200);
    assert_eq!(status(&server, &line(1100)), 414);
}

#[test]
fn a_header_line_over_its_limit_is_a_431() {
    let server = limited("header-field = \"1KiB\"");
    let field = |length: usize| with_fields(&format!("X-Long: {}\r\n", "x".repeat(length)));
    assert_eq!(status(&server, &field(900)), 200);
    assert_eq!(status(&server, &field(1100)), 431);
}

#[test]
fn more_header_lines_than_the_limit_are_a_431() {
    let server = limited("header-fields = 10");
    let fields = |count: usize| with_fields(&"X-Many: 1\r\n".repeat(count - 1));
    assert_eq!(status(&server, &fields(10)), 200);
    assert_eq!(status(&server, &fields(11)), 431);
}

#[test]
fn a_head_over_its_total_limit_is_a_431() {
    let server = limited("request-line = \"1KiB\"\nheader-field = \"1KiB\"\nheader-total = \"2KiB\"");
    let head = |count: usize| with_fields(&format!("X-Part: {}\r\n", "x".repeat(490)).repeat(count));
    assert_eq!(status(&server, &head(3)), 200);
    assert_eq!(status(&server, &head(5)), 431);
}

#[test]
fn a_body_at_its_limit_is_served_and_a_byte_more_is_a_413_whatever_the_framing() {
    let server = limited("body = \"1KiB\"\nbody-buffer = \"1KiB\"");
    for (length, expected) in [(1024, 200), (1025, 413)] {
        let body = "x".repeat(length);
        let declared = format!("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
        assert_eq!(status(&server, &declared), expected, "declared, {length} bytes");
        let chunked = format!(
            "POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n200\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
            &body[..512],
            length - 512,
            &body[512..]
        );
        assert_eq!(status(&server, &chunked), expected, "chunked, {length} bytes");
    }
}

#[test]
fn connections_over_the_limit_wait_in_the_backlog_and_are_served_when_there_is_room() {
    let server = limited("connections = 2");
    // Idle ones would make room.
    let mut held: Vec<Client> = (0..2).map(|_| server.client()).collect();
    for client in &mut held {
        client.send("GET / HTTP/1.1\r\nHost:").unwrap();
        until("it is taken", || client.taken().then_some(()));
    }
    let mut third = server.client();
    third.patience(Duration::from_millis(400));
    assert!(
        matches!(third.get("/pid"), Err(Failure::Silent)),
        "it waits and is not refused"
    );
    drop(held.pop());
    third.patience(PATIENCE);
    assert_eq!(third.reply().unwrap().status, 200);
    held[0].send(" a\r\n\r\n").unwrap();
    assert_eq!(
        held[0].reply().unwrap().status,
        200,
        "the one that stayed is still served"
    );
}

#[test]
fn calls_over_the_in_flight_limit_wait_on_kept_and_on_new_connections() {
    let server = limited("in-flight = 1");
    let mut kept = server.client();
    assert_eq!(kept.get("/").unwrap().status, 200);
    let mut slow = server.client();
    slow.send("GET /sleep?ms=700 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("the slow call is taken", || slow.taken().then_some(()));
    let mut new = server.client();
    for client in [&mut kept, &mut new] {
        client.send("GET /bytes?n=2 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    for client in [&mut kept, &mut new] {
        assert_eq!(client.reply().unwrap().body.len(), 2);
        // The slow call ended before either was begun, so its answer lies there already.
        slow.patience(Duration::from_millis(300));
    }
    assert_eq!(slow.reply().unwrap().status, 200);
}

fn timed(config: &str) -> Server {
    Server::lab()
        .workers(1)
        .config(&format!(
            "[log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n[timeouts]\n{config}\n"
        ))
        .start()
}

#[test]
fn a_head_that_trickles_in_has_one_deadline_from_its_first_byte() {
    let server = timed("header = \"500ms\"");
    let mut client = server.client();
    let start = Instant::now();
    // What is read between two bytes is also the pace at which they are sent.
    client.patience(Duration::from_millis(20));
    let mut line = format!("GET / HTTP/1.1\r\nX-Slow: {}", "x".repeat(1000))
        .into_bytes()
        .into_iter();
    let reply = loop {
        client
            .send([line.next().expect("some byte is the last in time")])
            .unwrap();
        match client.reply() {
            Err(Failure::Silent) => assert!(start.elapsed() < Duration::from_secs(4), "its bytes prolonged it"),
            outcome => break outcome.unwrap(),
        }
    };
    assert_eq!(reply.status, 408);
}

#[test]
fn a_body_that_stops_coming_is_a_408_below_and_above_what_is_buffered() {
    let server = timed("body = \"300ms\"");
    for (length, sent) in [(10, 3), (300_000, 100_000)] {
        let mut client = server.client();
        client
            .send(format!(
                "POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{}",
                "x".repeat(sent)
            ))
            .unwrap();
        assert_eq!(client.reply().unwrap().status, 408, "{sent} of {length} bytes");
    }
}

#[test]
fn a_body_that_comes_slowly_but_steadily_is_served() {
    let server = timed("body = \"500ms\"\n[limits]\nbody-rate = 10");
    let mut client = server.client();
    client
        .send("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n")
        .unwrap();
    for _ in 0..20 {
        client.send("x").unwrap();
        pause(Duration::from_millis(50));
    }
    let reply = client.reply().unwrap();
    assert!(reply.status == 200 && reply.text().starts_with("20 "), "{reply:?}");
}

#[test]
fn a_body_whose_next_chunk_is_late_is_cut_and_its_line_says_timeout() {
    let server = timed("request = \"400ms\"");
    let mut client = server.client();
    let outcome = client.get("/stream?chunks=2&size=5&delay_ms=4000");
    assert!(
        matches!(outcome, Err(Failure::Cut(_) | Failure::Broken(_))),
        "{outcome:?}"
    );
    let line = until("its access line", || {
        Some(
            server
                .read("access.log")
                .lines()
                .find(|line| line.contains("/stream"))?
                .to_owned(),
        )
    });
    assert!(line.contains("\"outcome\":\"timeout\""), "{line}");
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn a_client_that_never_reads_is_cut_after_the_write_timeout() {
    let server = timed("write = \"300ms\"");
    for target in ["/stream?chunks=100000&size=65536", "/bytes?n=1000000000"] {
        let mut client = server.client();
        client
            .send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .unwrap();
        let line = until("its access line", || {
            Some(
                server
                    .read("access.log")
                    .lines()
                    .find(|line| line.contains(target))?
                    .to_owned(),
            )
        });
        assert!(line.contains("\"outcome\":\"aborted\""), "{line}");
        drop(client);
    }
}

#[test]
fn a_client_that_reads_slowly_but_steadily_is_not_cut() {
    let server = timed("write = \"1s\"");
    let mut client = server.client();
    client
        .send("GET /bytes?n=20000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    client.head(true).unwrap();
    for _ in 0..20 {
        client.skip(1_000_000).unwrap();
        pause(Duration::from_millis(100));
    }
    assert_eq!(client.get("/").unwrap().status, 200);
}

/// What a stopped process did not see in time came in time.
#[test]
fn a_client_that_has_read_while_its_worker_was_stopped_gets_the_rest() {
    const LENGTH: usize = 20_000_000;
    let server = timed("write = \"1s\"");
    let Address::Tcp(address) = server.address() else {
        unreachable!("the lab listens on TCP")
    };
    let mut client = TcpStream::connect(address).unwrap();
    client
        .write_all(format!("GET /bytes?n={LENGTH} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())
        .unwrap();
    // It writes until nothing more fits, and has done so once the worker is asleep at it.
    let worker = server.workers()[0];
    client.peek(&mut [0]).unwrap();
    until("the worker waits", || {
        (0..10)
            .all(|_| {
                pause(Duration::from_millis(10));
                process::state(worker) == Some('S')
            })
            .then_some(())
    });
    process::signal(worker, Signal::SIGSTOP);
    pause(Duration::from_millis(1200));
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut seen = 0;
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count) = client.read(&mut buffer) {
        seen += count;
    }
    assert!(seen < LENGTH, "it fits into the kernel's buffers");
    process::signal(worker, Signal::SIGCONT);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert!(seen + rest.len() > LENGTH, "{} of {LENGTH}", seen + rest.len());
}

#[test]
fn a_kill_after_the_drain_timeout_spares_the_calls_that_end_in_time() {
    let mut server = timed("drain = \"1500ms\"");
    let mut ends = server.client();
    ends.send("GET /sleep?ms=500 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut hangs = server.client();
    hangs.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("both are taken", || (ends.taken() && hangs.taken()).then_some(()));
    let workers = server.workers();
    server.signal(Signal::SIGTERM);
    assert_eq!(ends.reply().unwrap().status, 200);
    server.wait_for_exit(Duration::from_secs(8));
    assert!(workers.iter().all(|&pid| !process::alive(pid)));
}
