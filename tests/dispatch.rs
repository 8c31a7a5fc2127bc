//! What holds a handler thread and what does not, on workers that have few.
//!
//! Takes slow uploads, slow readers, detached and hung calls; gives the answers that others get meanwhile. Every wait has
//! the patience of a test, so an answer that needs the held thread does not come.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::client::{Address, Client, Failure};
use crate::support::server::Server;
use crate::support::wait::{PATIENCE, pause, until};

/// A worker with one handler thread, and paths that no call has proved short.
fn single() -> Server {
    Server::lab().workers(1).arg("--threads").arg("1").start()
}

fn send(server: &Server, request: impl AsRef<[u8]>) -> Client {
    let mut client = server.client();
    client.send(request).unwrap();
    client
}

fn get(server: &Server, target: &str) -> Client {
    send(server, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
}

/// A call that needs a thread and is too long to be made anywhere else.
fn gets_a_thread(server: &Server) {
    let start = Instant::now();
    assert_eq!(server.get("/sleep?ms=5").status, 200);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        start.elapsed()
    );
}

#[test]
fn a_small_body_is_read_before_a_thread_is_taken() {
    let server = single();
    let mut slow = send(
        &server,
        "POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234",
    );
    until("its beginning is read", || slow.taken().then_some(()));
    gets_a_thread(&server);
    slow.send("56789").unwrap();
    assert!(slow.reply().unwrap().text().starts_with("10 "));
}

#[test]
fn a_client_that_does_not_read_holds_no_thread() {
    let server = single();
    let mut slow = get(&server, "/stream?chunks=4000&size=65536");
    assert_eq!(slow.head(true).unwrap().status, 200);
    gets_a_thread(&server);
    assert_eq!(slow.count_chunks(|_| ()).unwrap(), 4000 * 65536);
}

#[test]
fn a_detached_answer_holds_no_thread() {
    let server = single();
    let mut later = get(&server, "/detach?ms=1500");
    until("it is taken", || later.taken().then_some(()));
    gets_a_thread(&server);
    later.patience(Duration::from_secs(10));
    assert_eq!(later.reply().unwrap().text(), "answered from another thread\n");
}

#[test]
fn a_file_and_a_client_that_does_not_read_it_hold_no_thread() {
    let server = single();
    let path = server.folder().join("large");
    std::fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    let before = server.memory();
    let mut slow = get(&server, &format!("/file?path={}", path.display()));
    assert_eq!(slow.head(true).unwrap().status, 200);
    gets_a_thread(&server);
    slow.skip(1 << 30).unwrap();
    let after = server.memory();
    assert!(
        after < before + (32 << 20),
        "memory grew from {before} to {after} bytes"
    );
}

#[test]
fn with_every_thread_stuck_refusals_and_deadlines_go_on() {
    let server = Server::lab()
        .workers(1)
        .config("threads = 1\n[timeouts]\nrequest = \"1s\"\n")
        .start();
    let mut hung = get(&server, "/hang");
    until("it is taken", || hung.taken().then_some(()));
    let mut queued = get(&server, "/sleep?ms=1");
    let mut bad = send(&server, "GET / HTTP/1.1\r\n\r\n");
    assert_eq!(bad.reply().unwrap().status, 400);
    assert_eq!(hung.reply().unwrap().status, 504);
    assert_eq!(queued.reply().unwrap().status, 504, "it found no thread in its time");
}

/// Sends a request until its handler is given the I/O thread, which the lab tells. A call that the machine interrupts has taken long,
/// and costs it the proof.
fn prove(client: &mut Client, request: &str) {
    let end = Instant::now() + PATIENCE;
    let mut proved = 0;
    while proved < 5 {
        assert!(Instant::now() < end, "{request:?} is not inline");
        client.send(request).unwrap();
        let inline = client.reply().unwrap().text() == "inline\n";
        proved = if inline { proved + 1 } else { 0 };
    }
}

/// Two threads that hang, and calls that wait for them.
#[test]
fn with_every_thread_stuck_short_paths_slow_bodies_and_timeouts_go_on() {
    let server = Server::lab()
        .workers(1)
        .config("threads = 2\n[timeouts]\nrequest = \"10s\"\nheader = \"500ms\"\nkeep-alive = \"2s\"\n")
        .start();
    let short: Vec<String> = (0..5)
        .map(|number| format!("GET /paced/{number} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    let upload = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n");
    let uploads: Vec<String> = (0..5).map(|number| upload(&format!("/paced/{number}"))).collect();
    let mut client = server.client();
    short.iter().for_each(|request| prove(&mut client, request));
    uploads
        .iter()
        .for_each(|head| prove(&mut client, &format!("{head}0123456789")));
    let mut idle = server.client();
    idle.send(&short[0]).unwrap();
    assert_eq!(idle.reply().unwrap().status, 200);
    let mut held: Vec<Client> = ["/hang", "/hang", "/sleep?ms=1", "/read?n=1"]
        .iter()
        .map(|target| get(&server, target))
        .collect();
    until("all are taken", || held.iter().all(Client::taken).then_some(()));

    let prompt = |client: &mut Client| {
        client.patience(Duration::from_secs(2));
        client.reply().is_ok_and(|reply| reply.text() == "inline\n")
    };
    // A path may lose its proof by an interruption of the last call before, but hardly three of them.
    let mut fast: Vec<Client> = short.iter().map(|request| send(&server, request)).collect();
    let served = fast
        .iter_mut()
        .filter_map(|client| prompt(client).then_some(()))
        .count();
    assert!(served >= 3, "{served} of 5 short paths were served");
    let mut slow: Vec<Client> = uploads.iter().map(|head| send(&server, head)).collect();
    let mut unproved = send(&server, upload("/none"));
    for byte in "0123456789".chars() {
        for client in slow.iter_mut().chain([&mut unproved]) {
            client.send(byte.to_string()).unwrap();
        }
        pause(Duration::from_millis(20));
    }
    until("all of them are read", || {
        slow.iter().chain([&unproved]).all(Client::taken).then_some(())
    });
    let served = slow
        .iter_mut()
        .filter_map(|client| prompt(client).then_some(()))
        .count();
    assert!(served >= 3, "{served} of 5 slow uploads were served");
    let mut half = send(&server, "GET / HT");
    assert_eq!(half.reply().unwrap().status, 408);
    assert_eq!(idle.rest().unwrap(), b"", "its time to be idle is over");
    for client in held.iter_mut().chain([&mut unproved]) {
        client.patience(Duration::from_millis(10));
        assert!(
            matches!(client.reply(), Err(Failure::Silent)),
            "all that before its deadline"
        );
        client.patience(PATIENCE);
    }
    for client in held.iter_mut().chain([&mut unproved]) {
        assert_eq!(client.reply().unwrap().status, 504);
    }
}

#[test]
fn a_body_that_streams_is_not_read_faster_than_the_handler_reads_it() {
    let server = single();
    let before = server.memory();
    let Address::Tcp(address) = server.address() else {
        unreachable!("a TCP listener was asked for")
    };
    let mut client = TcpStream::connect(address).unwrap();
    client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    client
        .write_all(b"POST /read?n=1024&delay_ms=50 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
        .unwrap();
    let piece = vec![b'x'; 1 << 20];
    let taken = (0..1000).take_while(|_| client.write_all(&piece).is_ok()).count();
    assert!(taken < 100, "the kernel's buffers are all that fills: {taken} MiB went");
    let after = server.memory();
    assert!(
        after < before + (32 << 20),
        "memory grew from {before} to {after} bytes"
    );
}

#[test]
fn a_refused_upload_is_read_on_for_a_while_so_that_the_answer_arrives() {
    let server = Server::lab().workers(1).config("[limits]\nbody = \"64KiB\"\n").start();
    for round in 0..5 {
        let mut client = server.client();
        client
            .send("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n")
            .unwrap();
        client.send(vec![b'x'; 400_000]).unwrap();
        assert_eq!(
            client.reply().unwrap().status,
            413,
            "round {round}: no reset overtakes it"
        );
        assert_eq!(client.rest().unwrap(), b"");
    }
}
