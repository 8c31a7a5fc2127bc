//! Exchanges that go another way than the common one, and must still end as the client was told.
//!
//! Takes handlers that are late, contradict themselves or break off, and clients whose bytes come early, late or in
//! pieces; gives framing and closing as the client sees them. What is left after an exchange is in aftermath.rs.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::client::{Client, Failure, Reply};
use crate::support::modules::module;
use crate::support::server::{Builder, Server};
use crate::support::wait::{pause, until};

/// More than the server reads ahead of the handler.
const LONG: usize = 300_000;

fn probe() -> Builder {
    Server::with(module("probe")).workers(1)
}

/// A call that the server has taken: its request has left the kernel's queue.
fn taken(client: &mut Client, request: impl AsRef<[u8]>) {
    client.send(request).unwrap();
    until("the server has read the request", || client.taken().then_some(()));
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn is_cut(outcome: &Result<Reply, Failure>) -> bool {
    matches!(outcome, Err(Failure::Cut(_) | Failure::Broken(_)))
}

#[test]
fn a_stream_that_is_pending_at_first_is_asked_again_when_it_is_woken() {
    let server = probe().config("[timeouts]\nrequest = \"5s\"\n").start();
    // More often than it takes for the path to run inline.
    for _ in 0..12 {
        let reply = server.get("/woken-later");
        assert_eq!((reply.status, reply.text().as_str()), (200, "chunk\nchunk\n"));
    }
}

#[test]
fn a_wake_that_comes_before_next_has_returned_is_not_lost() {
    let server = probe().config("[timeouts]\nrequest = \"5s\"\n").start();
    let mut client = server.client();
    for _ in 0..100 {
        let reply = client.get("/woken-at-once").unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "chunk\nchunk\n"));
    }
}

/// A server with two files: one of these bytes, and one of 3000 times B.
fn with_files(bytes: &str) -> (Server, String, String) {
    let builder = probe();
    let [one, other] = ["one", "other"].map(|name| builder.folder().join(name));
    fs::write(&one, bytes).unwrap();
    fs::write(&other, "B".repeat(3000)).unwrap();
    let (one, other) = (one.display().to_string(), other.display().to_string());
    (builder.start(), one, other)
}

#[test]
fn a_file_longer_than_declared_leaves_nothing_for_the_next_response() {
    let (server, one, other) = with_files(&"A".repeat(1000));
    for _ in 0..12 {
        let mut client = server.client();
        let first = client.get(&format!("/declared-and-file?{one}"));
        assert_eq!(first.unwrap().text(), format!("ab{}", "A".repeat(8)));
        // An answer that is not as declared may cost the connection, but never its order.
        match client.get(&format!("/file?{other}")) {
            Err(failure) => assert!(matches!(failure, Failure::Closed | Failure::Broken(_)), "{failure}"),
            Ok(second) => assert!(second.text() == "B".repeat(3000), "{second:?}"),
        }
    }
    assert_eq!(server.get(&format!("/file?{other}")).body.len(), 3000);
}

#[test]
fn written_bytes_and_a_file_make_one_body_and_leave_nothing_for_the_next() {
    for bytes in ["A".repeat(1000), String::new()] {
        let (server, one, other) = with_files(&bytes);
        let mut client = server.client();
        for _ in 0..12 {
            let first = client.get(&format!("/written-and-file?{one}")).unwrap();
            assert_eq!(first.text(), format!("ab{bytes}"));
            let second = client.get(&format!("/file?{other}")).unwrap();
            assert!(second.text() == "B".repeat(3000), "{second:?}");
        }
    }
}

#[test]
fn a_stream_that_stops_after_its_first_chunk_is_cut_and_holds_no_stop() {
    let mut server = probe().config("[timeouts]\nrequest = \"500ms\"\n").start();
    let mut client = server.client();
    let outcome = client.get("/stall");
    assert!(is_cut(&outcome), "{outcome:?}");
    // One that is still within its time when the stop comes.
    let mut late = server.client();
    late.send(get("/stall")).unwrap();
    assert_eq!(late.head(true).unwrap().status, 200);
    let start = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_exit(Duration::from_secs(20)).code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "it took {:?}",
        start.elapsed()
    );
}

/// One worker with one call at a time.
fn one_at_a_time() -> Server {
    let config = "[timeouts]\nheader = \"1s\"\n[limits]\nin-flight = 1\n";
    Server::lab().workers(1).config(config).start()
}

#[test]
fn at_the_limit_of_calls_every_waiting_connection_has_its_turn() {
    let server = one_at_a_time();
    for _ in 0..3 {
        let mut busy = server.client();
        let mut kept = server.client();
        assert_eq!(kept.get("/").unwrap().status, 200);
        let mut waiting = [kept, server.client(), server.client()];
        taken(&mut busy, get("/sleep?ms=1300"));
        for client in &mut waiting {
            client.send(get("/bytes?n=7")).unwrap();
        }
        assert_eq!(busy.reply().unwrap().status, 200);
        for client in &mut waiting {
            assert_eq!(client.reply().unwrap().body.len(), 7);
        }
    }
}

#[test]
fn a_head_in_pieces_at_the_limit_of_calls_is_answered_and_no_408() {
    let server = one_at_a_time();
    let mut busy = server.client();
    let mut waiting = [server.client(), server.client(), server.client()];
    // The first has had an answer; the second has begun its head before the limit; the third begins it after.
    assert_eq!(waiting[0].get("/").unwrap().status, 200);
    taken(&mut waiting[1], "GET /bytes?n=7 HT");
    taken(&mut busy, get("/sleep?ms=2500"));
    waiting[0].send("GET /bytes?n=7 HT").unwrap();
    waiting[2].send("GET /bytes?n=7 HT").unwrap();
    pause(Duration::from_millis(100));
    for client in &mut waiting {
        client.send("TP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    assert_eq!(busy.reply().unwrap().status, 200);
    for client in &mut waiting {
        let reply = client.reply().unwrap();
        assert_eq!((reply.status, reply.body.len()), (200, 7), "{reply:?}");
    }
}

#[test]
fn an_answer_before_a_long_body_was_read_says_that_it_closes() {
    let server = Server::lab()
        .workers(1)
        .config("[timeouts]\nrequest = \"300ms\"\n")
        .start();
    for (target, status) in [("/early", 200), ("/nowhere", 404), ("/sleep?ms=5000", 504)] {
        let mut client = server.client();
        let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {LONG}\r\n\r\n");
        client.send([head.as_bytes(), &vec![b'x'; 100_000]].concat()).unwrap();
        let reply = client.reply().unwrap();
        assert_eq!((reply.status, reply.closes()), (status, true), "{target}: {reply:?}");
        // The rest of the body may still come; it is no request.
        let _ = client.send(vec![b'x'; LONG - 100_000]);
        let rest = client.rest().unwrap_or_default();
        assert!(rest.is_empty(), "{target}: {}", String::from_utf8_lossy(&rest));
    }
}

#[test]
fn a_final_answer_to_an_expectation_says_that_it_closes() {
    let server = Server::lab().workers(1).start();
    let mut client = server.client();
    client
        .send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    let reply = client.reply().unwrap();
    assert_eq!((reply.status, reply.interim.as_slice()), (200, &[][..]));
    assert!(reply.closes(), "{reply:?}");
}

#[test]
fn a_handler_that_answers_while_it_reads_keeps_the_connection() {
    let server = Server::lab().workers(1).start();
    let mut client = server.client();
    for _ in 0..3 {
        let body = vec![b'x'; LONG];
        let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {LONG}\r\n\r\n");
        client.send([head.as_bytes(), &body].concat()).unwrap();
        let reply = client.reply().unwrap();
        assert_eq!((reply.status, reply.closes()), (200, false), "{:?}", reply.headers);
        assert!(reply.body == body, "{} bytes came back", reply.body.len());
    }
    assert_eq!(client.get("/bytes?n=3").unwrap().body.len(), 3);
}

#[test]
fn a_connection_whose_answer_left_before_its_body_serves_on() {
    let server = Server::lab().workers(1).start();
    let mut client = server.client();
    for _ in 0..3 {
        // More than is read before the call, and half of it comes when the answer is there.
        let head = format!("POST /taste?n=10 HTTP/1.1\r\nHost: a\r\nContent-Length: {LONG}\r\n\r\n");
        client.send([head.as_bytes(), &vec![b'x'; LONG / 2]].concat()).unwrap();
        let reply = client.reply().unwrap();
        assert_eq!((reply.status, reply.text()), (200, "it tastes well\n".to_owned()));
        if reply.closes() {
            // Said so, it may; then the rest of the body is read and no request is lost.
            let _ = client.send(vec![b'x'; LONG / 2]);
            assert_eq!(client.rest().unwrap_or_default(), b"");
            client = server.client();
            continue;
        }
        client.send(vec![b'x'; LONG / 2]).unwrap();
        assert_eq!(client.get("/bytes?n=3").unwrap().body.len(), 3);
    }
}

#[test]
fn hints_before_a_switch_go_first_and_leave_it_whole() {
    let server = Server::lab().workers(1).start();
    let mut client = server.client();
    client
        .send("GET /upgrade?hints=1 HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: echo\r\n\r\nahead ")
        .unwrap();
    assert_eq!(client.head(true).unwrap().status, 103);
    assert_eq!(client.head(false).unwrap().status, 101);
    client.send("and behind").unwrap();
    client.half_close();
    assert_eq!(client.rest().unwrap(), b"ahead and behind");
}

#[test]
fn half_a_head_takes_nobodys_turn() {
    let config = "[timeouts]\nheader = \"20s\"\n[limits]\nin-flight = 1\n";
    let server = Server::lab().workers(1).config(config).start();
    let (mut busy, mut half, mut whole) = (server.client(), server.client(), server.client());
    taken(&mut busy, get("/sleep?ms=500"));
    taken(&mut half, "GET / HT");
    whole.send(get("/bytes?n=7")).unwrap();
    assert_eq!(busy.reply().unwrap().status, 200);
    whole.patience(Duration::from_secs(10));
    assert_eq!(whole.reply().unwrap().body.len(), 7);
    half.send("TP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(half.reply().unwrap().status, 200);
}

#[test]
fn who_sends_many_requests_ahead_takes_nobodys_turn() {
    let server = one_at_a_time();
    let calls = |client: &mut Client| client.get("/count").unwrap().text().trim().parse::<u32>().unwrap();
    let (mut ahead, mut other) = (server.client(), server.client());
    let before = calls(&mut other);
    ahead.send(get("/sleep?ms=200").repeat(12)).unwrap();
    assert_eq!(ahead.reply().unwrap().status, 200);
    // Eleven are waiting; the other connection gets its turn between two of them.
    let after = calls(&mut other);
    assert!(after - before <= 5, "{} calls went before", after - before);
    for _ in 1..12 {
        assert_eq!(ahead.reply().unwrap().status, 200);
    }
}

#[test]
fn exc_info_after_the_first_byte_never_lets_the_response_end_well() {
    let server = probe().start();
    for _ in 0..12 {
        let outcome = server.client().get("/too-late");
        assert!(is_cut(&outcome), "{outcome:?}");
    }
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn over_http_1_0_a_body_that_breaks_off_ends_in_a_reset() {
    let server = Server::lab().workers(1).start();
    let mut client = server.client();
    client.send("GET /panic-midway HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
    let outcome = client.reply();
    assert!(
        matches!(outcome, Err(Failure::Broken(_))),
        "an end in good order: {outcome:?}"
    );
}

#[test]
fn over_http_1_0_a_body_without_a_length_is_not_promised_to_keep_the_connection() {
    let server = Server::lab().workers(1).start();
    let mut client = server.client();
    client
        .send("GET /stream HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
        .unwrap();
    let reply = client.reply().unwrap();
    assert!(!reply.body.is_empty());
    let said = reply.header("connection").unwrap_or_default().to_lowercase();
    assert!(!said.contains("keep-alive"), "{reply:?}");
}

#[test]
fn no_piece_of_a_response_waits_for_the_client_to_acknowledge_the_one_before() {
    let server = Server::lab().workers(1).start();
    let mut client = server.client();
    let mut times: Vec<Duration> = (0..40)
        .map(|_| {
            let start = Instant::now();
            assert_eq!(client.get("/stream?chunks=3").unwrap().body.len(), 48);
            start.elapsed()
        })
        .collect();
    times.sort();
    // A delayed acknowledgement takes 40 ms (tcp(7), TCP_NODELAY and TCP_QUICKACK).
    assert!(times[20] < Duration::from_millis(30), "{times:?}");
}
