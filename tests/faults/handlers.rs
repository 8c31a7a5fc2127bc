//! Faults of handlers beyond the common ones, by each way a body can be made, and uploads that break off.
//!
//! Takes the lab's broken rules with their parameters; gives the status, the log line and a connection that is never out
//! of step. The plain cases are in start_response.rs.

use crate::support::client::{Client, Failure, Reply};
use crate::support::server::Server;

fn lab() -> Server {
    Server::lab().workers(1).start()
}

fn is_500(server: &Server, target: &str) {
    let reply = server.get(target);
    assert_eq!(reply.status, 500, "{target}: {reply:?}");
    assert!(!reply.text().contains("went through"), "{target}");
}

#[test]
fn every_kind_of_bad_header_is_a_500_and_told_in_the_log() {
    for kind in ["crlf", "nul", "hop", "name", "length"] {
        let server = lab();
        is_500(&server, &format!("/bad-header?kind={kind}"));
        let line = server.wait_for_log("header");
        assert!(
            line.contains("handler") || line.contains("module"),
            "whose fault it is: {line}"
        );
    }
}

#[test]
fn every_kind_of_bad_status_is_a_500_and_told_in_the_log() {
    for status in [
        "2000%20OK",
        "20%20OK",
        "OK",
        "",
        "2x0%20OK",
        "200OK",
        "099%20Low",
        "100%20Continue",
        "101%20Switching",
        "200%20OK%0D%0AX-Injected:%20yes",
        "200%20OK%0AX-Injected:%20yes",
        "200%20a%00b",
    ] {
        let server = lab();
        is_500(&server, &format!("/bad-status?status={status}"));
        server.wait_for_log("status");
    }
}

#[test]
fn an_unusual_status_and_reason_are_sent_as_given() {
    let server = lab();
    for (target, status, reason) in [
        ("/status?code=200&reason=Very%20Well", 200, "Very Well"),
        ("/status?code=799&reason=Unheard", 799, "Unheard"),
        ("/status?code=999&reason=", 999, ""),
        ("/status?code=404&reason=Weg%E4", 404, "Weg\u{fffd}"),
    ] {
        let reply = server.get(target);
        assert_eq!((reply.status, reply.reason.as_str()), (status, reason), "{target}");
    }
}

#[test]
fn a_second_start_response_without_exc_info_is_refused_and_a_500() {
    let server = lab();
    let reply = server.get("/twice");
    assert_ne!(reply.header("x-lab-call"), Some("second"), "{reply:?}");
    assert_eq!(reply.status, 500, "{reply:?}");
    assert!(!reply.text().contains("accepted"), "{}", reply.text());
}

#[test]
fn a_second_start_response_with_exc_info_replaces_the_first_before_the_first_byte() {
    let server = lab();
    let reply = server.get("/twice?exc_info=1");
    assert_eq!(
        (reply.status, reply.header("x-lab-call")),
        (503, Some("second")),
        "{reply:?}"
    );
    assert_eq!(reply.text(), "the second call was accepted\n");
    server.wait_for_log("the lab failed, as asked");
}

#[test]
fn a_second_start_response_with_exc_info_aborts_after_the_first_byte() {
    let server = lab();
    for _ in 0..50 {
        match server.client().get("/twice?exc_info=midway") {
            // Never a close without a word, which would look like that of an idle connection.
            Err(failure) => assert!(matches!(failure, Failure::Cut(_)), "{failure}"),
            // The first byte may not have left yet when the fault is known; then the second response replaces the first.
            Ok(reply) => assert_eq!(reply.status, 500, "{reply:?}"),
        }
    }
    server.wait_for_log("the lab failed midway, as asked");
    assert_eq!(server.get("/").status, 200);
}

/// A body of the wrong length does HEAD no harm.
fn has_a_head(server: &Server, target: &str) {
    let mut head = server.client();
    head.send(format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
    assert!(matches!(head.reply_to("HEAD").unwrap().status, 200 | 500), "{target}");
    in_step_or_closed(&mut head, target);
}

fn in_step_or_closed(client: &mut Client, target: &str) {
    match client.get("/bytes?n=6") {
        Ok(reply) => assert_eq!(reply.text(), "abcdef", "{target}: {reply:?}"),
        Err(failure) => assert!(
            matches!(failure, Failure::Closed | Failure::Broken(_)),
            "{target}: {failure}"
        ),
    }
}

fn failed(outcome: &Result<Reply, Failure>) -> bool {
    match outcome {
        Ok(reply) => reply.status == 500,
        Err(failure) => matches!(failure, Failure::Cut(_) | Failure::Broken(_) | Failure::Closed),
    }
}

#[test]
fn a_body_shorter_than_declared_never_passes_for_whole_however_it_is_made() {
    for how in ["iter", "bytes", "write"] {
        let server = lab();
        let target = format!("/short?how={how}");
        for version in ["1.1", "1.0"] {
            let mut client = server.client();
            client
                .send(format!("GET {target} HTTP/{version}\r\nHost: a\r\nConnection: keep-alive\r\n\r\nGET /bytes?n=500 HTTP/1.1\r\nHost: a\r\n\r\n"))
                .unwrap();
            let outcome = client.reply();
            assert!(failed(&outcome), "{target}, HTTP/{version}: {outcome:?}");
        }
        server.wait_for_log("Content-Length");
        has_a_head(&server, &target);
    }
}

#[test]
fn a_body_longer_than_declared_is_cut_at_its_length_however_it_is_made() {
    for how in ["iter", "bytes", "write"] {
        let server = lab();
        let target = format!("/long?how={how}");
        let mut client = server.client();
        let outcome = client.get(&target);
        if !failed(&outcome) {
            let reply = outcome.unwrap();
            assert_eq!(
                (reply.header("content-length"), reply.body.len()),
                (Some("10"), 10),
                "{target}"
            );
            in_step_or_closed(&mut client, &target);
        }
        server.wait_for_log("Content-Length");
        has_a_head(&server, &target);
    }
}

#[test]
fn a_detached_answer_that_nobody_finishes_is_a_500() {
    let server = lab();
    is_500(&server, "/detach?ms=20&fail=1");
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn an_upload_that_breaks_off_in_its_stream_is_an_error_to_the_handler() {
    for (how, head, body) in [
        ("declared", "Content-Length: 300000", "x".repeat(150_000)),
        (
            "chunked",
            "Transfer-Encoding: chunked",
            format!("{:x}\r\n{}\r\n", 150_000, "x".repeat(150_000)),
        ),
    ] {
        let server = lab();
        let mut client = server.client();
        client
            .send(format!("POST /hash?{how} HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{body}"))
            .unwrap();
        client.half_close();
        let line = server.wait_for_log("could not read the request body");
        assert!(!line.is_empty());
        match client.reply() {
            Ok(reply) => assert_eq!(reply.status, 400, "{how}: {reply:?}"),
            Err(failure) => assert!(matches!(failure, Failure::Closed), "{how}: {failure}"),
        }
    }
}

#[test]
fn a_malformed_chunk_in_the_stream_is_an_error_to_the_handler_and_ends_the_connection() {
    let server = lab();
    let mut client = server.client();
    client
        .send(format!(
            "POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\nzz\r\n\r\nGET /bytes?n=1 HTTP/1.1\r\nHost: a\r\n\r\n",
            150_000,
            "x".repeat(150_000)
        ))
        .unwrap();
    assert_eq!(client.reply().unwrap().status, 400);
    assert_eq!(client.rest().unwrap(), b"", "nothing after it is a request");
}

#[test]
fn an_expectation_is_met_once_for_a_body_of_any_framing_and_not_at_all_for_none() {
    let server = lab();
    for (head, body) in [
        ("Content-Length: 5", "hello"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let mut client = server.client();
        client
            .send(format!(
                "POST /echo HTTP/1.1\r\nHost: a\r\n{head}\r\nExpect: 100-continue\r\n\r\n"
            ))
            .unwrap();
        assert_eq!(client.head(true).unwrap().status, 100, "{head}");
        client.send(body).unwrap();
        let reply = client.reply().unwrap();
        assert_eq!((reply.text().as_str(), reply.interim.len()), ("hello", 0), "{head}");
        assert_eq!(client.get("/bytes?n=2").unwrap().text(), "ab", "{head}");
    }
    let mut early = server.client();
    early
        .send("POST /early?code=417 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    let reply = early.reply().unwrap();
    assert_eq!((reply.status, reply.interim.len()), (417, 0));
    // The client may send the body all the same or the next request: nobody can tell, so the connection ends.
    assert!(reply.closes(), "{reply:?}");
    assert_eq!(early.rest().unwrap(), b"");
    let mut none = server.client();
    none.send("GET /hash HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    assert_eq!(none.reply().unwrap().interim.len(), 0, "there is no body to wait for");
}
