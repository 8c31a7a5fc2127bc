//! Bodies that do not fit into memory, and clients that are slow or gone.
//!
//! Takes the lab handler; gives the proportional memory of the whole server while a GiB goes in or out.

use std::time::Duration;

use crate::support::client::Failure;
use crate::support::server::Server;
use crate::support::wait::{pause, until};

const GIB: u64 = 1 << 30;
const PIECE: usize = 1 << 20;

/// What a transfer may add to the server's memory: buffers of two directions, a worker's new pages, allocator slack.
const FLAT: u64 = 48 << 20;

#[test]
fn an_upload_of_one_gib_takes_no_memory() {
    let server = Server::lab().workers(1).start();
    let before = server.memory();
    let mut most = 0;
    let mut client = server.client();
    client
        .send(format!(
            "POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: {GIB}\r\n\r\n"
        ))
        .unwrap();
    let piece = vec![b'x'; PIECE];
    for number in 0..GIB / PIECE as u64 {
        client.send(&piece).unwrap();
        if number % 64 == 0 {
            most = most.max(server.memory());
        }
    }
    let reply = client.reply().unwrap();
    assert!(reply.text().contains(&GIB.to_string()), "{}", reply.text());
    assert!(most < before + FLAT, "memory grew from {before} to {most} bytes");
}

#[test]
fn a_response_of_one_gib_takes_no_memory() {
    let server = Server::lab().workers(1).start();
    let before = server.memory();
    let mut client = server.client();
    client
        .send(format!(
            "GET /stream?chunks=1024&size={PIECE} HTTP/1.1\r\nHost: a\r\n\r\n"
        ))
        .unwrap();
    assert_eq!(client.head(true).unwrap().status, 200);
    // A client that does not read for a while: what the server would buffer, it buffers now.
    pause(Duration::from_millis(500));
    let mut most = server.memory();
    let total = client.count_chunks(|seen| {
        if seen % (64 << 20) == 0 {
            most = most.max(server.memory());
        }
    });
    assert_eq!(total.unwrap(), GIB);
    assert!(most < before + FLAT, "memory grew from {before} to {most} bytes");
}

#[test]
fn a_file_is_sent_whole_and_in_step() {
    let builder = Server::lab();
    let path = builder.folder().join("file.bin");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let server = builder.start();
    let mut client = server.client();
    for _ in 0..2 {
        let reply = client.get(&format!("/file?path={}", path.display())).unwrap();
        assert_eq!(reply.status, 200);
        assert!(reply.body == bytes, "{} bytes came", reply.body.len());
    }
    assert_eq!(client.get("/bytes?n=4").unwrap().body.len(), 4);
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_response_has_its_body_closed() {
    let server = Server::lab().workers(1).start();
    let closed = || server.get("/closed").text().trim().parse::<u64>().unwrap();
    let before = closed();
    let mut client = server.client();
    client
        .send(format!(
            "GET /stream?chunks=1024&size={PIECE} HTTP/1.1\r\nHost: a\r\n\r\n"
        ))
        .unwrap();
    client.head(true).unwrap();
    drop(client);
    until("close() ran once for the body that was left", || {
        (closed() > before).then_some(())
    });
    assert_eq!(closed(), before + 1);
}

#[test]
fn an_upload_that_breaks_off_is_an_error_to_the_handler_and_no_end_of_input() {
    let server = Server::lab().workers(1).start();
    let mut client = server.client();
    client
        .send("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nonly this")
        .unwrap();
    client.half_close();
    match client.reply() {
        Ok(reply) => assert!(reply.status >= 400, "{} {}", reply.status, reply.text()),
        Err(failure) => assert!(matches!(failure, Failure::Closed), "{failure}"),
    }
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn a_body_over_the_limit_is_refused_with_413() {
    let server = Server::lab().config("[limits]\nbody = \"1MiB\"\n").start();
    let mut declared = server.client();
    declared
        .send("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n")
        .unwrap();
    assert_eq!(declared.reply().unwrap().status, 413);

    let mut chunked = server.client();
    chunked
        .send("POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let chunk = [&b"40000\r\n"[..], &vec![b'x'; 0x40000], b"\r\n"].concat();
    for _ in 0..5 {
        // The server may stop reading once it knows.
        if chunked.send(&chunk).is_err() {
            break;
        }
    }
    assert_eq!(chunked.reply().unwrap().status, 413);
}

#[test]
fn a_silent_client_is_let_go_after_the_header_timeout() {
    let server = Server::lab().config("[timeouts]\nheader = \"300ms\"\n").start();
    let mut client = server.client();
    client.send("GET / HTTP/1.1\r\nHost:").unwrap();
    assert_eq!(client.reply().unwrap().status, 408);
    assert_eq!(client.rest().unwrap(), b"");
}

#[test]
fn an_idle_connection_is_closed_in_good_order_after_the_keep_alive_timeout() {
    let server = Server::lab().config("[timeouts]\nkeep-alive = \"300ms\"\n").start();
    let mut client = server.client();
    assert_eq!(client.get("/").unwrap().status, 200);
    assert_eq!(client.rest().unwrap(), b"", "no answer to a question nobody asked");
}

#[test]
fn a_call_over_its_deadline_is_a_504() {
    let server = Server::lab()
        .workers(1)
        .config("[timeouts]\nrequest = \"300ms\"\n")
        .start();
    assert_eq!(server.get("/sleep?ms=5000").status, 504);
    assert_eq!(server.get("/").status, 200);
}
