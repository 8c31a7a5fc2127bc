//! close() exactly once, whatever becomes of the response.
//!
//! Takes tests/handlers/c/closing.c, whose bodies count their closes through the plain C ABI; gives, for every way a
//! response can end, one close for each body that was opened, none twice and no `next` after it.

use std::fs;
use std::io::Write;
use std::net::TcpStream;

use nix::sys::socket::{setsockopt, sockopt};
use tempfile::TempDir;

use crate::support::client::{Address, Client};
use crate::support::modules::{self, root};
use crate::support::server::Server;
use crate::support::wait::until;

fn closing(config: &str) -> (Server, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(root().join("tests/handlers/c/closing.c")).unwrap();
    let module = modules::c(folder.path(), "closing", &source);
    let server = Server::with(module).workers(1).config(config).start();
    (server, folder)
}

/// Bodies opened, bodies closed, closes or chunks that should not have been.
fn counts(server: &Server) -> [u32; 3] {
    let text = server.get("/count").text();
    let mut words = text.split(' ').map(|word| word.parse().unwrap());
    [words.next().unwrap(), words.next().unwrap(), words.next().unwrap()]
}

/// Sends a request and lets `end` do with the response what it likes; then one more body must be closed.
fn closes_once(server: &Server, request: &str, end: impl FnOnce(Client)) {
    let [before, ..] = counts(server);
    let mut client = server.client();
    client.send(request).unwrap();
    end(client);
    until(
        &format!("one more body is closed: {request:?} ({:?})", counts(server)),
        || (counts(server) == [before + 1, before + 1, 0]).then_some(()),
    );
    assert_eq!(counts(server), [before + 1, before + 1, 0], "{request:?}");
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

/// Reads until the server ends the connection, however it does.
fn read_to_the_end(mut client: Client) {
    let _ = client.rest();
}

#[test]
fn a_body_of_each_kind_is_closed_once_when_it_was_sent() {
    let (server, _folder) = closing("");
    for kind in ["iter", "descriptor", "owned"] {
        closes_once(&server, &get(&format!("/?{kind}")), read_to_the_end);
    }
}

#[test]
fn a_body_that_may_not_be_sent_is_closed_once() {
    let (server, _folder) = closing("");
    for kind in ["iter", "endless", "descriptor", "owned"] {
        let head = get(&format!("/?{kind}")).replace("GET", "HEAD");
        closes_once(&server, &head, read_to_the_end);
        for status in [204, 304] {
            closes_once(&server, &get(&format!("/?{kind}&status={status}")), read_to_the_end);
        }
    }
}

#[test]
fn a_body_is_closed_once_when_the_client_leaves_before_during_or_between_its_chunks() {
    let (server, _folder) = closing("");
    for kind in ["endless", "descriptor"] {
        closes_once(&server, &get(&format!("/?{kind}")), drop);
    }
    for kind in ["endless", "descriptor"] {
        closes_once(&server, &get(&format!("/?{kind}")), |mut client| {
            client.head(true).unwrap();
        });
    }
}

#[test]
fn a_body_that_fails_at_its_first_or_a_later_chunk_is_closed_once() {
    let (server, _folder) = closing("");
    for kind in ["panic", "fail"] {
        closes_once(&server, &get(&format!("/?{kind}")), read_to_the_end);
    }
}

#[test]
fn a_body_that_was_never_begun_since_the_handler_failed_after_it_is_closed_once() {
    let (server, _folder) = closing("");
    for kind in ["after", "begun"] {
        closes_once(&server, &get(&format!("/?{kind}")), read_to_the_end);
    }
}

#[test]
fn a_body_that_never_goes_on_is_closed_once_when_its_time_is_over() {
    let (server, _folder) = closing("[timeouts]\nrequest = \"300ms\"\n");
    closes_once(&server, &get("/?waiting"), read_to_the_end);
}

#[test]
fn a_body_nobody_reads_is_closed_once_when_the_write_timeout_is_over() {
    let (server, _folder) = closing("[timeouts]\nwrite = \"300ms\"\n");
    let mut held = None;
    closes_once(&server, &get("/?endless"), |client| held = Some(client));
    drop(held);
}

#[test]
fn a_body_that_waits_for_its_first_chunk_is_closed_once_when_the_connection_is_reset() {
    let (server, _folder) = closing("");
    let Address::Tcp(address) = server.address() else {
        unreachable!("a TCP listener was asked for")
    };
    let mut client = TcpStream::connect(address).unwrap();
    // A FIN alone never cancels; closed with a linger time of 0 the connection is reset (socket(7)).
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&client, sockopt::Linger, &linger).unwrap();
    client.write_all(get("/?waiting").as_bytes()).unwrap();
    until("the body is opened", || (counts(&server) == [1, 0, 0]).then_some(()));
    drop(client);
    until("the body is closed", || (counts(&server) == [1, 1, 0]).then_some(()));
    assert_eq!(counts(&server), [1, 1, 0]);
}
