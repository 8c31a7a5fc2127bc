//! What a handler may and may not answer, and that its faults stay its own.
//!
//! Takes the lab's misbehaving paths; gives what the client and the log see. Every test ends by asking the same worker
//! again: a fault of one call never leaves a connection or a worker out of step.

use crate::support::client::{Client, Failure, Reply};
use crate::support::server::Server;

fn lab() -> Server {
    Server::lab().workers(1).start()
}

/// The faults that must become a 500, with the log telling whose fault it is and the client nothing.
fn is_the_handlers_fault(target: &str) -> Server {
    let server = lab();
    let worker = server.workers();
    let reply = server.get(target);
    assert_eq!(reply.status, 500, "{target}: {reply:?}");
    assert!(reply.body.len() < 1000, "{target}: a short body");
    assert_eq!(server.get("/bytes?n=3").body.len(), 3);
    assert_eq!(server.workers(), worker, "{target}: the worker lives");
    server
}

#[test]
fn any_three_digit_status_is_sent_with_its_reason() {
    let server = lab();
    for code in [200, 201, 299, 404, 418, 451, 499, 503, 599] {
        let reply = server.get(&format!("/status?code={code}"));
        assert_eq!(reply.status, code);
    }
    assert_eq!(server.get("/").reason, "OK");
}

#[test]
fn fields_are_sent_as_the_handler_gave_them_repeats_included() {
    let reply = lab().get("/headers?X-One=1&X-Two=a%20b&Set-Cookie=a%3D1&Set-Cookie=b%3D2");
    assert_eq!((reply.header("x-one"), reply.header("x-two")), (Some("1"), Some("a b")));
    let cookies: Vec<&str> = values(&reply, "set-cookie");
    assert_eq!(cookies, ["a=1", "b=2"]);
}

fn values<'a>(reply: &'a Reply, name: &str) -> Vec<&'a str> {
    let same = reply
        .headers
        .iter()
        .filter(|(other, _)| other.eq_ignore_ascii_case(name));
    same.map(|(_, value)| value.as_str()).collect()
}

#[test]
fn a_line_break_in_a_field_is_a_500_and_no_injected_byte() {
    for target in [
        "/bad-header",
        "/headers?X-A=1%0D%0AX-Injected:%20yes",
        "/headers?X-A=1%0AX-Injected:%20yes",
    ] {
        let server = is_the_handlers_fault(target);
        assert_eq!(server.get(target).header("x-injected"), None, "{target}");
    }
}

#[test]
fn a_hop_by_hop_field_is_the_handlers_fault() {
    for name in [
        "Connection",
        "Keep-Alive",
        "Proxy-Authenticate",
        "TE",
        "Transfer-Encoding",
        "Upgrade",
    ] {
        let server = is_the_handlers_fault(&format!("/headers?{name}=close"));
        assert!(
            server.log().to_lowercase().contains(&name.to_lowercase()),
            "the log names {name}:\n{}",
            server.log()
        );
    }
}

#[test]
fn a_malformed_status_is_the_handlers_fault() {
    is_the_handlers_fault("/bad-status");
}

#[test]
fn a_handler_that_never_calls_start_response_is_a_500() {
    is_the_handlers_fault("/none");
}

#[test]
fn a_panic_is_a_500_whose_message_is_in_the_log_alone() {
    let server = is_the_handlers_fault("/panic");
    let reply = server.get("/panic");
    assert!(server.wait_for_log("panic").len() > "panic".len());
    assert!(
        !reply.text().contains("src/"),
        "no source place in the answer: {}",
        reply.text()
    );
}

#[test]
fn a_second_start_response_without_exc_info_changes_nothing() {
    let server = lab();
    let mut client = server.client();
    let reply = client.get("/twice").unwrap();
    assert!(matches!(reply.status, 200 | 500), "{reply:?}");
    assert_eq!(client.get("/bytes?n=5").unwrap().body.len(), 5);
}

#[test]
fn a_panic_in_the_middle_of_a_body_cuts_the_response_and_never_ends_it_well() {
    let server = lab();
    let worker = server.workers();
    let outcome = server.client().get("/panic-midway");
    assert!(
        matches!(outcome, Err(Failure::Cut(_) | Failure::Broken(_))),
        "{outcome:?}"
    );
    assert_eq!(server.get("/").status, 200);
    assert_eq!(server.workers(), worker);
}

#[test]
fn too_few_bytes_end_the_connection_before_anything_else_is_read_as_body() {
    let server = lab();
    let mut client = server.client();
    let both = "GET /short HTTP/1.1\r\nHost: a\r\n\r\nGET /bytes?n=100000 HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(both).unwrap();
    let outcome = client.reply();
    assert!(
        matches!(outcome, Err(Failure::Cut(_) | Failure::Broken(_))) || is_500(&outcome),
        "{outcome:?}"
    );
    server.wait_for_log("Content-Length");
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn too_many_bytes_are_cut_at_the_declared_length() {
    let server = lab();
    let mut client = server.client();
    let outcome = client.get("/long");
    if !is_500(&outcome) {
        let reply = outcome.unwrap();
        assert_eq!(
            reply.header("content-length"),
            Some(reply.body.len().to_string().as_str())
        );
        in_step_or_closed(&mut client);
    }
    server.wait_for_log("Content-Length");
    assert_eq!(server.get("/").status, 200);
}

fn is_500(outcome: &Result<Reply, Failure>) -> bool {
    outcome.as_ref().is_ok_and(|reply| reply.status == 500)
}

fn in_step_or_closed(client: &mut Client) {
    match client.get("/bytes?n=6") {
        Ok(reply) => assert_eq!(reply.text().len(), 6, "{reply:?}"),
        Err(failure) => assert!(matches!(failure, Failure::Closed | Failure::Broken(_)), "{failure}"),
    }
}

#[test]
fn the_write_callable_and_a_detached_answer_arrive_whole() {
    let server = lab();
    let mut client = server.client();
    for target in ["/write", "/detach?ms=50"] {
        let reply = client.get(target).unwrap();
        assert_eq!(reply.status, 200, "{target}");
        assert!(!reply.body.is_empty(), "{target}");
    }
    assert_eq!(client.get("/bytes?n=2").unwrap().body.len(), 2);
}

#[test]
fn an_early_hint_comes_before_the_answer() {
    let reply = lab().get("/hints");
    assert_eq!((reply.interim.as_slice(), reply.status), (&[103][..], 200));
}

#[test]
fn trailers_follow_a_chunked_body() {
    let server = lab();
    let mut client = server.client();
    client
        .send("GET /trailers HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
        .unwrap();
    let reply = client.reply().unwrap();
    assert_eq!(reply.status, 200);
    assert!(!reply.trailers.is_empty(), "{reply:?}");
}

#[test]
fn an_upgraded_connection_moves_raw_bytes_both_ways() {
    let server = lab();
    let mut client = server.client();
    client
        .send("GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        .unwrap();
    assert_eq!(client.reply().unwrap().status, 101);
    client.send("raw \x00 bytes").unwrap();
    client.half_close();
    assert_eq!(client.rest().unwrap(), b"raw \x00 bytes");
}

#[test]
fn an_answer_before_the_body_was_read_keeps_or_closes_the_connection_in_step() {
    let server = lab();
    let mut client = server.client();
    client
        .send("POST /early?code=403 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789")
        .unwrap();
    let reply = client.reply().unwrap();
    assert_eq!(reply.status, 403);
    if !reply.closes() {
        in_step_or_closed(&mut client);
    }
}
