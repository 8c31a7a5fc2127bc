//! handlers/proxy and its connections: what is not sent twice, how long is waited for whom, who is to blame, and what does not stay open.
//!
//! Takes origins of the test's own; gives what each side saw. `proxy` has the plain cases.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{Backlog, listen};

use crate::proxy::{head, origin, proxy, send};
use crate::proxy_edges::{OK, chunked, ends};
use crate::support::client::{Address, Client};
use crate::support::modules::module;
use crate::support::server::Server;
use crate::support::wait::{pause, until};

#[test]
fn only_what_may_be_sent_twice_is() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    // Each connection answers once, and takes a second request without an answer.
    let (address, _) = origin(move |mut stream, _| {
        for answers in [true, false] {
            let Some(head) = head(&mut stream) else { return };
            noted.lock().unwrap().push(head.split(' ').nth(1).unwrap().to_owned());
            if answers {
                stream.write_all(OK).unwrap();
            }
        }
    });
    let server = proxy(&address, "", "");
    for (request, status, times) in [
        ("GET /get HTTP/1.1\r\nHost: a\r\n\r\n", 200, 2),
        ("DELETE /delete HTTP/1.1\r\nHost: a\r\n\r\n", 200, 2),
        ("POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", 502, 1),
        ("POST /bare HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 502, 1),
        ("PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", 502, 1),
    ] {
        // The connection that is idle now has answered once.
        assert_eq!(send(&server, request).status, status, "{request}");
        let target = request.split(' ').nth(1).unwrap();
        let count = asked.lock().unwrap().iter().filter(|at| *at == target).count();
        assert_eq!(count, times, "{request}");
        if status == 502 {
            assert_eq!(server.get("/another").status, 200);
        }
    }
}

#[test]
fn an_origin_that_takes_no_connection_is_a_504() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It serves the look at the start, and then nobody empties its queue of one: the kernel lets further ones wait.
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        head(&mut stream).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
            .unwrap();
        listener
    });
    let server = proxy(&address.to_string(), ", connect-timeout = \"300ms\"", "");
    let _listener = served.join().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queue.push(stream);
        assert!(queue.len() < 100, "the queue never fills");
    }
    let reply = server.get("/");
    assert_eq!(reply.status, 504, "{reply:?}");
    assert!(
        server.log().contains("did not take a connection in time"),
        "{}",
        server.log()
    );
}

#[test]
fn the_time_for_an_answer_begins_when_the_question_is_whole() {
    let (address, _) = origin(|mut stream, _| {
        while let Some(head) = head(&mut stream) {
            if head.starts_with("POST") {
                chunked(&mut stream);
            }
            stream.write_all(OK).unwrap();
        }
    });
    let server = proxy(&address, ", timeout = \"500ms\"", "");
    let mut client = server.client();
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    // More than may stay in memory, so that the handler is called with the first of it.
    let piece = vec![b'x'; 1 << 17];
    for _ in 0..6 {
        client.send(format!("{:x}\r\n", piece.len())).unwrap();
        client.send(&piece).unwrap();
        client.send("\r\n").unwrap();
        pause(Duration::from_millis(200));
    }
    client.send("0\r\n\r\n").unwrap();
    let reply = client.reply().unwrap();
    assert_eq!(reply.status, 200, "{reply:?}\n{}", server.log());
}

#[test]
fn a_body_that_the_client_spoils_is_not_the_origins_fault() {
    let (address, _) = origin(|mut stream, _| {
        while let Some(head) = head(&mut stream) {
            if head.starts_with("POST") && !chunked(&mut stream).ends_with("0\r\n\r\n") {
                return;
            }
            stream.write_all(OK).unwrap();
        }
    });
    let server = proxy(&address, "", "[limits]\nbody = \"256KiB\"\n");
    let mut client = server.client();
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let piece = vec![b'x'; 1 << 16];
    for _ in 0..8 {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
        if client.send(chunk).is_err() {
            break;
        }
    }
    let reply = client.reply().unwrap();
    assert_eq!(reply.status, 413, "{reply:?}");
    assert!(!server.log().contains("the origin broke off"), "{}", server.log());
}

#[test]
fn a_connection_that_stays_idle_is_closed_without_a_further_request() {
    let (address, _) = origin(|mut stream, _| {
        while let Some(head) = head(&mut stream) {
            stream.write_all(OK).unwrap();
            if head.starts_with("GET /last ") {
                assert!(ends(&mut stream));
                ENDED.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
    });
    static ENDED: AtomicUsize = AtomicUsize::new(0);
    let server = proxy(&address, ", idle-time = \"300ms\"", "");
    assert_eq!(server.get("/last").status, 200);
    until("it is closed", || (ENDED.load(Ordering::SeqCst) == 1).then_some(()));
}

#[test]
fn no_more_connections_stay_than_are_told() {
    static OPEN: AtomicUsize = AtomicUsize::new(0);
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let (address, _) = origin(|mut stream, _| {
        OPEN.fetch_add(1, Ordering::SeqCst);
        while let Some(head) = head(&mut stream) {
            if head.starts_with("GET /together ") {
                ASKED.fetch_add(1, Ordering::SeqCst);
                until("all ten are here", || {
                    (ASKED.load(Ordering::SeqCst) == 10).then_some(())
                });
            }
            stream.write_all(OK).unwrap();
        }
        OPEN.fetch_sub(1, Ordering::SeqCst);
    });
    // One thread of the server: none of it waits for an origin.
    let server = Server::bare()
        .workers(1)
        .config(&format!(
            "workers = 1\nthreads = 1\n[[mount]]\npath = \"/\"\nmodule = \"{}\"\nargs = {{ origin = \"http://{address}\", idle = \"2\" }}\n",
            module("proxy").display()
        ))
        .start();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| assert_eq!(server.get("/together").status, 200));
        }
    });
    until("eight of them are closed", || {
        (OPEN.load(Ordering::SeqCst) == 2).then_some(())
    });
}

#[test]
fn an_answer_before_the_end_of_the_question_passes_and_its_connection_goes() {
    static ENDED: AtomicUsize = AtomicUsize::new(0);
    static SENT: AtomicUsize = AtomicUsize::new(0);
    let (address, _) = origin(|mut stream, _| {
        while let Some(head) = head(&mut stream) {
            if head.starts_with("POST ") {
                // It reads none of the body, and answers when all buffers on the way are full.
                let mut last = (0, Instant::now());
                until("the upload is stuck", || {
                    let sent = SENT.load(Ordering::SeqCst);
                    if sent != last.0 {
                        last = (sent, Instant::now());
                    }
                    (sent > 0 && last.1.elapsed() > Duration::from_millis(500)).then_some(())
                });
                stream
                    .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
                    .unwrap();
                until("the proxy lets go", || let_go(&stream).then_some(()));
                ENDED.fetch_add(1, Ordering::SeqCst);
                return;
            }
            stream.write_all(OK).unwrap();
        }
    });
    let server = proxy(&address, "", "");
    let Address::Tcp(place) = server.address() else {
        unreachable!("it listens on TCP")
    };
    let stream = TcpStream::connect(place).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut client = Client::over(stream).unwrap();
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            256 << 20
        ))
        .unwrap();
    let upload = std::thread::spawn(move || {
        while writer.write_all(&[b'x'; 1 << 16]).is_ok() {
            SENT.fetch_add(1, Ordering::SeqCst);
        }
    });
    let reply = client.reply().unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (403, "no"));
    until("its connection is closed", || {
        (ENDED.load(Ordering::SeqCst) == 1).then_some(())
    });
    client.reset();
    drop(upload);
    assert_eq!(server.get("/").status, 200, "and it goes on");
}

/// Whether the peer has let go of the connection. Its end does not get through while it waits behind what is not read, so the kernel is asked
/// (proc(5); 1 is ESTABLISHED, 8 CLOSE_WAIT).
fn let_go(stream: &TcpStream) -> bool {
    let (peer, own) = (stream.peer_addr().unwrap().port(), stream.local_addr().unwrap().port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    !table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, state) = (fields.next(), fields.next(), fields.next());
        let is = |address: Option<&str>, port: u16| {
            address.is_some_and(|address| address.ends_with(&format!(":{port:04X}")))
        };
        is(local, peer) && is(remote, own) && matches!(state, Some("01" | "08"))
    })
}

#[test]
fn what_is_under_way_is_finished_before_the_server_stops() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let (address, _) = origin(|mut stream, _| {
        while let Some(head) = head(&mut stream) {
            if head.starts_with("GET /slow ") {
                ASKED.fetch_add(1, Ordering::SeqCst);
                pause(Duration::from_millis(700));
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
                    .unwrap();
                pause(Duration::from_millis(700));
                stream.write_all(b"lf").unwrap();
            } else {
                stream.write_all(OK).unwrap();
            }
        }
    });
    let mut server = proxy(&address, "", "");
    let mut client = server.client();
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("it is asked", || (ASKED.load(Ordering::SeqCst) == 1).then_some(()));
    server.signal(Signal::SIGTERM);
    assert_eq!(client.reply().unwrap().text(), "half");
    server.wait_for_exit(Duration::from_secs(10));
}
