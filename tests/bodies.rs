//! Every kind of body in every framing: HTTP/1.1, HEAD, HTTP/1.0 with and without keep-alive.
//!
//! Takes the lab's bodies (a buffer, an iterator with a length and without, a file, the write callable, a detached
//! answer); gives the same bytes each time, none to HEAD, and a connection in step or at its end.

use crate::support::server::Server;

/// Target and whether the handler gives a length.
fn kinds(server: &Server) -> Vec<(String, bool)> {
    let file = server.folder().join("file.bin");
    std::fs::write(&file, "0123456789".repeat(20_000)).unwrap();
    vec![
        ("/bytes?n=1000".into(), true),
        ("/bytes?n=0".into(), true),
        ("/bytes?n=200000".into(), true),
        ("/stream?chunks=3&size=50000".into(), false),
        ("/stream?chunks=0".into(), false),
        (format!("/file?path={}", file.display()), true),
        (format!("/file?path={}&offset=5&length=7", file.display()), true),
        ("/write?chunks=3&size=1000".into(), false),
        ("/detach?ms=20".into(), false),
    ]
}

#[test]
fn head_gives_the_fields_of_get_and_no_byte_of_any_kind_of_body() {
    let server = Server::lab().workers(1).start();
    for (target, _) in kinds(&server) {
        let mut client = server.client();
        let get = client.get(&target).unwrap();
        assert_eq!(get.status, 200, "{target}");
        client
            .send(format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .unwrap();
        let head = client.reply_to("HEAD").unwrap();
        assert_eq!(head.status, 200, "{target}");
        // RFC 9110 section 9.3.2: fields that only the making of the body gives may be left out, but may not differ.
        if let Some(length) = head.header("content-length") {
            assert_eq!(length, get.body.len().to_string(), "{target}");
        }
        assert_eq!(head.header("content-type"), get.header("content-type"), "{target}");
        assert_eq!(client.get("/bytes?n=3").unwrap().text(), "abc", "{target}: in step");
    }
}

#[test]
fn a_client_of_http_1_0_gets_every_kind_of_body_whole_and_unchunked() {
    let server = Server::lab().workers(1).start();
    for (target, _) in kinds(&server) {
        let body = server.get(&target).body;
        let mut client = server.client();
        client.send(format!("GET {target} HTTP/1.0\r\n\r\n")).unwrap();
        let reply = client.reply().unwrap();
        assert_eq!(reply.header("transfer-encoding"), None, "{target}");
        assert!(
            reply.body == body,
            "{target}: {} of {} bytes",
            reply.body.len(),
            body.len()
        );
        assert_eq!(client.rest().unwrap(), b"", "{target}: and then the end");
    }
}

#[test]
fn a_client_of_http_1_0_keeps_its_connection_when_it_asks_and_the_length_is_known() {
    let server = Server::lab().workers(1).start();
    for (target, has_length) in kinds(&server) {
        let body = server.get(&target).body;
        let mut client = server.client();
        let request = format!("GET {target} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        client.send(&request).unwrap();
        let reply = client.reply().unwrap();
        assert!(
            reply.body == body,
            "{target}: {} of {} bytes",
            reply.body.len(),
            body.len()
        );
        if has_length {
            assert_eq!(
                reply.header("connection").map(str::to_ascii_lowercase).as_deref(),
                Some("keep-alive"),
                "{target}: {:?}",
                reply.headers
            );
            client.send(&request).unwrap();
            assert!(client.reply().unwrap().body == body, "{target}: the second time");
        } else if reply.header("content-length").is_none() {
            assert_eq!(
                client.rest().unwrap(),
                b"",
                "{target}: its end is that of the connection"
            );
        }
    }
}

#[test]
fn a_file_is_sent_by_range_and_an_answer_after_it_is_in_step() {
    let server = Server::lab().workers(1).start();
    let targets = kinds(&server);
    let requests: String = targets
        .iter()
        .map(|(target, _)| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    let bodies: Vec<Vec<u8>> = targets.iter().map(|(target, _)| server.get(target).body).collect();
    let mut client = server.client();
    client.send(requests).unwrap();
    for ((target, _), body) in targets.iter().zip(bodies) {
        assert!(client.reply().unwrap().body == body, "{target} in a pipeline");
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_sent_cuts_the_response() {
    let server = Server::lab().workers(1).start();
    let path = server.folder().join("shrinks");
    std::fs::write(&path, vec![b'x'; 50_000_000]).unwrap();
    let mut client = server.client();
    client
        .send(format!("GET /file?path={} HTTP/1.1\r\nHost: a\r\n\r\n", path.display()))
        .unwrap();
    assert_eq!(client.head(true).unwrap().status, 200);
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1000)
        .unwrap();
    assert!(client.skip(50_000_000).is_err(), "never filled up with anything else");
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn an_answer_of_the_servers_own_to_head_has_no_body_either() {
    let server = Server::lab().workers(1).start();
    for (request, status) in [
        ("HEAD /panic HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 500),
        ("HEAD / HTTP/1.1\r\n\r\n", 400),
        ("HEAD /a%00b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400),
        ("HEAD / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (
            "HEAD /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
    ] {
        let mut client = server.client();
        client.send(request).unwrap();
        let reply = client.reply_to("HEAD").unwrap();
        assert_eq!(reply.status, status, "{request}: {reply:?}");
        assert_ne!(reply.header("content-length"), Some("0"), "{request}: as GET would say");
        assert_eq!(client.rest().unwrap(), b"", "{request}");
    }
}
