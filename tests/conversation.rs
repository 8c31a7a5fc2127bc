//! What passes between client and handler beside head and body: trailers, interim responses, the client's state, raw bytes.
//!
//! Takes the lab's pages for them; gives what each side sees, for clients of HTTP/1.0 too, which know none of it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::support::client::{Address, Client};
use crate::support::server::Server;
use crate::support::wait::until;

fn lab() -> Server {
    Server::lab().workers(1).start()
}

fn send(server: &Server, request: &str) -> Client {
    let mut client = server.client();
    client.send(request).unwrap();
    client
}

#[test]
fn request_trailers_reach_the_handler_after_the_body_and_not_the_environ() {
    let server = lab();
    let mut client = send(
        &server,
        "POST /trailers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 42\r\nX-Sum: 43\r\n\r\n",
    );
    let text = client.reply().unwrap().text().to_lowercase();
    assert!(text.contains("x-sum: 42\nx-sum: 43\n"), "{text}");
    assert_eq!(client.get("/bytes?n=1").unwrap().text(), "a");
    let mut client = send(
        &server,
        "POST /environ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Late: 1\r\n\r\n",
    );
    let text = client.reply().unwrap().text();
    assert!(!text.contains("HTTP_X_LATE"), "{text}");
}

#[test]
fn response_trailers_are_left_out_where_there_is_no_room_for_them() {
    let server = lab();
    let mut old = send(&server, "GET /trailers HTTP/1.0\r\n\r\n");
    let reply = old.reply().unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "end\n"), "{reply:?}");
}

#[test]
fn interim_responses_are_not_sent_to_a_client_of_http_1_0() {
    let server = lab();
    let mut old = send(&server, "GET /hints HTTP/1.0\r\n\r\n");
    let reply = old.reply().unwrap();
    assert_eq!((reply.status, reply.interim.len()), (200, 0), "{reply:?}");
}

#[test]
fn an_interim_response_has_its_fields_and_keeps_the_connection_in_step() {
    let server = lab();
    let mut client = send(&server, "GET /hints HTTP/1.1\r\nHost: a\r\n\r\n");
    let interim = client.head(true).unwrap();
    assert_eq!(interim.status, 103);
    assert!(
        interim.header("link").is_some_and(|link| link.contains("/style.css")),
        "{interim:?}"
    );
    assert_eq!(client.reply().unwrap().status, 200);
    assert_eq!(client.get("/bytes?n=1").unwrap().text(), "a");
}

#[test]
fn a_handler_learns_that_its_client_has_half_closed_and_can_still_answer() {
    let server = lab();
    let mut here = send(&server, "GET /state HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(here.reply().unwrap().text(), "here\n");
    let mut half = send(&server, "GET /state?ms=10000 HTTP/1.1\r\nHost: a\r\n\r\n");
    half.half_close();
    assert_eq!(
        half.reply().unwrap().text(),
        "half-closed\n",
        "a FIN alone never cancels"
    );
}

#[test]
fn a_handler_learns_that_its_client_is_gone() {
    let server = lab();
    let Address::Tcp(address) = server.address() else {
        unreachable!("a TCP listener was asked for")
    };
    let mut client = TcpStream::connect(address).unwrap();
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // Closed with a linger time of 0 the connection is reset (socket(7)).
    setsockopt(&client, sockopt::Linger, &linger).unwrap();
    let calls = || server.get("/count").text().trim().parse::<u64>().unwrap();
    let before = calls();
    client
        .write_all(b"GET /state?ms=15000 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut asked = 0;
    until("the call runs", || {
        asked += 1;
        (calls() > before + asked).then_some(())
    });
    drop(client);
    until("the handler has seen it", || {
        (server.get("/state?last=1").text() == "gone\n").then_some(())
    });
}

#[test]
fn an_upgrade_that_was_not_asked_for_is_the_handlers_to_answer() {
    let server = lab();
    let mut client = send(&server, "GET /upgrade HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().unwrap().status, 426);
    assert_eq!(client.get("/bytes?n=1").unwrap().text(), "a");
    let mut old = send(
        &server,
        "GET /upgrade HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
    );
    assert_eq!(old.reply().unwrap().status, 426);
}

#[test]
fn raw_bytes_flow_both_ways_those_sent_with_the_request_included() {
    let server = lab();
    let Address::Tcp(address) = server.address() else {
        unreachable!("a TCP listener was asked for")
    };
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client
        .write_all(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly GET / HTTP/1.1\r\n\r\n")
        .unwrap();
    let large: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut writer, sent) = (client.try_clone().unwrap(), large.clone());
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    writing.join().unwrap();
    let head = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(all.starts_with(b"HTTP/1.1 101 "));
    let expected = [&b"early GET / HTTP/1.1\r\n\r\n"[..], &large].concat();
    assert!(
        all[head..] == expected,
        "{} of {} bytes",
        all.len() - head,
        expected.len()
    );
    assert_eq!(server.get("/").status, 200);
}
