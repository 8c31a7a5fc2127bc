//! The main job: requests in, answers out, over every kind of listener and with every kind of client.
//!
//! Takes the hello and lab handlers; gives what curl, Python, wrk, h2load and a raw socket see. Bodies that do not fit
//! into memory are in streaming.rs.

use std::process::Command;

use crate::support::client::Address;
use crate::support::modules::{module, run};
use crate::support::process;
use crate::support::server::{Listen, Server};
use crate::support::wait::until;

const EVERY_LISTENER: [Listen; 4] = [Listen::Tcp, Listen::Unix, Listen::InheritedTcp, Listen::InheritedUnix];

#[test]
fn hello_is_served_to_curl_over_every_kind_of_listener() {
    for listen in EVERY_LISTENER {
        let mut server = Server::with(module("hello")).listen(listen).start();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-i", "--max-time", "10"]);
        if let Address::Unix(path) = server.address() {
            curl.arg("--unix-socket").arg(path);
        }
        let answer = run(curl.arg(server.address().url("/")));
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{listen:?}: {answer}");
        assert!(
            answer.to_lowercase().contains("\r\ncontent-type: text/plain\r\n"),
            "{listen:?}: {answer}"
        );
        assert!(
            answer.to_lowercase().contains("\r\ncontent-length: 14\r\n"),
            "{listen:?}: {answer}"
        );
        assert!(answer.ends_with("\r\n\r\nHello, world!\n"), "{listen:?}: {answer}");
        server.stop(nix::sys::signal::Signal::SIGTERM);
    }
}

#[test]
fn ten_workers_run_as_children_of_a_master_with_one_thread() {
    let server = Server::with(module("hello")).workers(10).start();
    let workers = server.wait_for_workers("ten workers", |pids| pids.len() == 10);
    assert_eq!(process::threads(server.master()), 1, "no thread exists in the master");
    for pid in workers {
        let title = process::title(pid);
        assert!(
            title.contains("appserver") && title.contains("worker"),
            "ps shows {title:?}"
        );
    }
    assert!(process::title(server.master()).contains("appserver"));
}

#[test]
fn pythons_http_client_keeps_its_connection_and_sends_chunks() {
    let server = Server::lab().start();
    let Address::Tcp(address) = server.address() else {
        unreachable!("a TCP listener was asked for")
    };
    let script = "
import http.client, sys
c = http.client.HTTPConnection(sys.argv[1], timeout=10)
c.connect(); port = c.sock.getsockname()[1]
for n in (0, 1, 1000, 100000):
    c.request('GET', f'/bytes?n={n}'); r = c.getresponse(); assert r.status == 200 and len(r.read()) == n, n
c.request('POST', '/echo', body=iter([b'one ', b'two ', b'three']), headers={'Content-Type': 'text/x-test'}, encode_chunked=True)
r = c.getresponse(); assert r.read() == b'one two three', r
assert r.headers['Content-Type'] == 'text/x-test', r.headers
c.request('HEAD', '/bytes?n=5'); r = c.getresponse(); assert r.headers['Content-Length'] == '5' and r.read() == b''
c.request('GET', '/stream?chunks=3&size=7'); r = c.getresponse(); assert len(r.read()) == 21
assert c.sock.getsockname()[1] == port
print('well')
";
    let output = run(Command::new("python3").args(["-c", script, &address.to_string()]));
    assert_eq!(output, "well\n");
}

#[test]
fn h2load_in_http_1_mode_finds_no_failure() {
    let server = Server::with(module("hello")).start();
    let url = server.address().url("/");
    let output = run(Command::new("h2load").args(["--h1", "-n", "5000", "-c", "20", "-m", "4", &url]));
    assert!(
        output.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"),
        "{output}"
    );
}

#[test]
fn wrk_finds_no_failure() {
    let server = Server::with(module("hello")).start();
    let output = run(Command::new("wrk").args(["-t", "1", "-c", "32", "-d", "1s", &server.address().url("/")]));
    assert!(output.contains("Requests/sec"), "{output}");
    assert!(
        !output.contains("Socket errors") && !output.contains("Non-2xx"),
        "{output}"
    );
}

#[test]
fn a_connection_is_kept_for_many_requests_and_closed_when_asked() {
    for listen in [Listen::Tcp, Listen::Unix] {
        let server = Server::lab().listen(listen).start();
        let mut client = server.client();
        for _ in 0..100 {
            let reply = client.get("/").unwrap();
            assert_eq!((reply.status, reply.closes()), (200, false));
        }
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .unwrap();
        assert!(client.reply().unwrap().closes());
        assert_eq!(client.rest().unwrap(), b"");
    }
}

#[test]
fn what_comes_with_the_last_request_is_read_so_that_no_reset_takes_the_answer() {
    let server = Server::lab().start();
    let mut client = server.client();
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    assert!(client.reply().unwrap().closes());
    until("the server has ended its side", || client.ended().then_some(()));
    client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("the server has read it", || client.taken().then_some(()));
    assert_eq!(client.rest().unwrap(), b"", "a good end and no second answer");
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let server = Server::lab().start();
    let mut client = server.client();
    let requests: String = (0..20)
        .map(|n| format!("GET /bytes?n={n} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    client.send(requests).unwrap();
    for n in 0..20 {
        assert_eq!(client.reply().unwrap().body.len(), n);
    }
}

#[test]
fn a_slow_call_in_front_does_not_disorder_a_pipeline() {
    let server = Server::lab().start();
    let mut client = server.client();
    client
        .send("GET /sleep?ms=200 HTTP/1.1\r\nHost: a\r\n\r\nGET /bytes?n=3 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    assert_eq!(client.reply().unwrap().status, 200);
    assert_eq!(client.reply().unwrap().body.len(), 3);
}

#[test]
fn a_slow_call_does_not_keep_others_of_its_worker_waiting() {
    let server = Server::lab().workers(1).start();
    let mut slow = server.client();
    slow.send("GET /sleep?ms=3000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let start = std::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(server.get("/").status, 200);
    }
    assert!(
        start.elapsed().as_millis() < 2000,
        "the others took {:?}",
        start.elapsed()
    );
    assert_eq!(slow.reply().unwrap().status, 200);
}

#[test]
fn a_chunked_request_reaches_the_handler_whole() {
    let server = Server::lab().start();
    let mut client = server.client();
    client
        .send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: text/x-a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    client
        .send("4\r\nchun\r\n3;ext=1\r\nked\r\n0\r\nX-After: all\r\n\r\n")
        .unwrap();
    let reply = client.reply().unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "chunked"));
    assert_eq!(reply.header("content-type"), Some("text/x-a"));
    assert_eq!(client.get("/bytes?n=1").unwrap().body.len(), 1);
}

#[test]
fn a_body_of_unknown_length_is_chunked_and_the_connection_goes_on() {
    let server = Server::lab().start();
    let mut client = server.client();
    let reply = client.get("/stream?chunks=5&size=1000").unwrap();
    assert_eq!(reply.header("transfer-encoding"), Some("chunked"));
    assert_eq!((reply.body.len(), reply.header("content-length")), (5000, None));
    assert_eq!(client.get("/bytes?n=2").unwrap().body.len(), 2);
}

#[test]
fn an_http_1_0_client_gets_a_body_that_ends_with_the_connection() {
    let server = Server::lab().start();
    let mut client = server.client();
    client.send("GET /stream?chunks=5&size=1000 HTTP/1.0\r\n\r\n").unwrap();
    let reply = client.reply().unwrap();
    assert_eq!(reply.header("transfer-encoding"), None);
    assert_eq!(reply.body.len(), 5000);
}

#[test]
fn head_gives_the_fields_of_get_and_no_body() {
    let server = Server::lab().start();
    let mut client = server.client();
    for target in ["/bytes?n=1234", "/stream?chunks=2&size=10", "/"] {
        let get = client.get(target).unwrap();
        client
            .send(format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .unwrap();
        let head = client.reply_to("HEAD").unwrap();
        assert_eq!(head.status, get.status, "{target}");
        assert_eq!(head.header("content-length"), get.header("content-length"), "{target}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{target}");
    }
    assert_eq!(
        client.get("/bytes?n=3").unwrap().body.len(),
        3,
        "the connection is in step"
    );
}

#[test]
fn a_204_and_a_304_have_no_body_and_leave_the_connection_in_step() {
    let server = Server::lab().start();
    let mut client = server.client();
    for code in [204, 304] {
        let reply = client.get(&format!("/status?code={code}")).unwrap();
        assert_eq!(reply.status, code);
        assert_eq!(reply.header("transfer-encoding"), None, "{code}");
        if code == 204 {
            assert_eq!(reply.header("content-length"), None, "RFC 9110 section 8.6");
        }
        assert_eq!(client.get("/bytes?n=7").unwrap().body.len(), 7);
    }
}

#[test]
fn expect_100_continue_is_answered_when_the_body_is_read_and_not_before() {
    let server = Server::lab().start();
    let mut client = server.client();
    let head = "HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.send(format!("POST /echo {head}")).unwrap();
    assert_eq!(client.head(true).unwrap().status, 100);
    client.send("hello").unwrap();
    assert_eq!(client.reply().unwrap().text(), "hello");

    let mut early = server.client();
    early.send(format!("POST /early?code=403 {head}")).unwrap();
    let reply = early.reply().unwrap();
    assert_eq!(
        (reply.status, reply.interim.len()),
        (403, 0),
        "a body that nobody reads is not asked for"
    );
}

#[test]
fn a_second_listener_is_served_like_the_first() {
    let builder = Server::lab();
    let path = builder.folder().join("second.sock");
    let server = builder.arg("--bind").arg(format!("unix:{}", path.display())).start();
    let mut client = crate::support::client::Client::connect(&Address::Unix(path)).unwrap();
    assert_eq!(client.get("/").unwrap().status, 200);
    assert_eq!(server.get("/").status, 200);
}
