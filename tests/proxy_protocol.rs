//! Connections that begin with a PROXY header, of version 1 and 2.
//!
//! Takes headers built by hand and those of curl, whole and in pieces; gives whose address the handler and the log see, and what
//! becomes of connections that begin otherwise. What a header may look like is tested where it is read (src/protocol/proxy.rs).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::client::{Address, Client, Reply};
use crate::support::json;
use crate::support::modules::module;
use crate::support::neighbour::connect_from;
use crate::support::process;
use crate::support::server::{Listen, Server};
use crate::support::wait::{pause, until};

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// 203.0.113.7:4711 to 192.0.2.1:443.
const ENDS: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0x12, 0x67, 0x01, 0xbb];

fn v2(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, kind], &length, rest].concat()
}

fn with(workers: usize, bind: &str, more: &str) -> Server {
    Server::bare()
        .workers(workers)
        .listen(Listen::AsConfigured)
        .config(&format!(
            "workers = {workers}\n[[mount]]\npath = \"/\"\nmodule = {:?}\ndispatch = \"inline\"\n\
             [[listener]]\nbind = \"{bind}\"\nproxy-protocol = true\n\
             [log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n{more}\n",
            module("lab")
        ))
        .start()
}

fn server() -> Server {
    with(1, "127.0.0.1:0", "")
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn environ(reply: &Reply) -> BTreeMap<String, String> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    json::object(&reply.text())
}

fn ends(environ: &BTreeMap<String, String>) -> [&str; 4] {
    ["REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT"].map(|key| environ[key].as_str())
}

const TOLD: [&str; 4] = ["203.0.113.7", "4711", "192.0.2.1", "443"];

/// Sends a header and a request behind it at once.
fn ask(server: &Server, header: &[u8], target: &str) -> Reply {
    let mut client = server.client();
    client.send([header, get(target).as_bytes()].concat()).unwrap();
    client.reply().unwrap()
}

fn line(server: &Server, mark: &str) -> BTreeMap<String, String> {
    json::object(&until(&format!("the access line of {mark}"), || {
        let log = server.read("access.log");
        Some(log.lines().find(|line| line.contains(mark))?.to_owned())
    }))
}

fn reload(server: &Server) {
    let old = server.workers();
    server.signal(Signal::SIGHUP);
    server.wait_for_workers("all are new", |pids| {
        pids.len() == old.len() && pids.iter().all(|pid| !old.contains(pid))
    });
}

#[test]
fn both_versions_tell_the_ends_of_every_request_of_the_connection() {
    for bind in ["127.0.0.1:0", "unix:DIR/app.sock"] {
        let server = with(1, bind, "");
        for header in [V1.to_vec(), v2(0x21, 0x11, &ENDS)] {
            let mut client = server.client();
            // With a pipelined pair behind it, and more on the connection that is kept.
            let pair = [get("/environ?first"), get("/environ?second")].concat();
            client.send([&header[..], pair.as_bytes()].concat()).unwrap();
            for _ in 0..2 {
                let seen = environ(&client.reply().unwrap());
                assert_eq!(ends(&seen), TOLD, "{bind}");
                assert_eq!(seen["wsgi.url_scheme"], "http");
            }
            assert_eq!(ends(&environ(&client.get("/environ?third").unwrap())), TOLD);
        }
        for mark in ["?first", "?second", "?third"] {
            assert_eq!(line(&server, mark)["remote"], "203.0.113.7", "{bind}");
        }
    }
}

#[test]
fn addresses_of_ipv6_and_tls_are_told_too() {
    let server = server();
    let seen = environ(&ask(&server, b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n", "/environ"));
    assert_eq!(ends(&seen), ["2001:db8::7", "1", "::1", "2"]);
    let tls = [&ENDS[..], &[0x20, 0, 5, 1, 0, 0, 0, 0]].concat();
    let seen = environ(&ask(&server, &v2(0x21, 0x11, &tls), "/environ"));
    assert_eq!(ends(&seen), TOLD);
    assert_eq!(seen["wsgi.url_scheme"], "https");
    let seen = environ(&ask(&server, &v2(0x21, 0x31, &[0; 216]), "/environ"));
    assert_eq!(
        ends(&seen),
        ["", "", "a", "80"],
        "from a Unix socket of the front-end's"
    );
}

#[test]
fn a_header_may_come_byte_by_byte() {
    let server = server();
    for header in [V1.to_vec(), v2(0x21, 0x11, &ENDS)] {
        let mut client = server.client();
        for byte in &header {
            client.send([*byte]).unwrap();
            pause(Duration::from_millis(2));
        }
        assert_eq!(ends(&environ(&client.get("/environ").unwrap())), TOLD);
    }
}

#[test]
fn health_checks_and_unknown_clients_keep_the_connections_own_ends() {
    let server = server();
    let Address::Tcp(here) = server.address() else { panic!() };
    let own = ["127.0.0.1", &here.port().to_string()].map(str::to_owned);
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 1.2.3.4 and so on\r\n".to_vec(),
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, &ENDS),
        v2(0x21, 0x00, b""),
    ] {
        let seen = environ(&ask(&server, &header, "/environ"));
        assert_eq!(seen["REMOTE_ADDR"], "127.0.0.1", "{}", header.escape_ascii());
        assert_eq!([&seen["SERVER_NAME"], &seen["SERVER_PORT"]], [&own[0], &own[1]]);
    }
    // HAProxy's check: LOCAL and nothing else, or no byte at all. Nobody is told off for it.
    for header in [v2(0x20, 0x00, b""), Vec::new()] {
        let mut client = server.client();
        client.send(&header).unwrap();
        client.half_close();
        assert_eq!(client.rest().unwrap(), b"", "closed without a word");
    }
}

#[test]
fn a_connection_that_begins_otherwise_is_refused_with_the_reason() {
    let server = server();
    let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    let mut torn = v2(0x21, 0x11, &[&ENDS[..], &[3, 0, 4, 0, 0, 0, 0]].concat());
    for (bytes, why, mark) in [
        (get("/missing").into_bytes(), "must come first", "/missing"),
        (b"POST /other HTTP/1.1\r\n".to_vec(), "must come first", "/other"),
        (b"PROXY TCP4 one two 1 2\r\n".to_vec(), "malformed", "TCP4"),
        (long, "longer than", "UNKNOWN"),
        (v2(0x21, 0x12, &ENDS), "datagrams", ""),
        (std::mem::take(&mut torn), "checksum", ""),
    ] {
        let mut client = server.client();
        client.send(&bytes).unwrap();
        let reply = client.reply().unwrap();
        assert_eq!(reply.status, 400, "{why}");
        assert!(reply.text().contains(why) && reply.closes(), "{why}: {}", reply.text());
        assert_eq!(client.rest().unwrap(), b"");
        let line = line(&server, mark);
        assert_eq!(
            (line["status"].as_str(), line["remote"].as_str()),
            ("400", "127.0.0.1"),
            "{line:#?}"
        );
    }
    let mut client = server.client();
    client.send(&V1[..20]).unwrap();
    client.half_close();
    let reply = client.reply().unwrap();
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("ended before"), "{}", reply.text());
    // Only the first bytes of a connection can be a header.
    let mut client = server.client();
    client.send(V1).unwrap();
    assert_eq!(client.get("/").unwrap().status, 200);
    client.send(V1).unwrap();
    assert_eq!(client.reply().unwrap().status, 400);
}

#[test]
fn a_header_has_the_time_of_a_head() {
    let server = with(1, "127.0.0.1:0", "[timeouts]\nheader = \"300ms\"");
    let mut client = server.client();
    client.send(&V1[..20]).unwrap();
    assert_eq!(client.reply().unwrap().status, 408);
    // The time of the head counts from the connection's start, as without a header.
    let mut client = server.client();
    client.send(V1).unwrap();
    assert_eq!(client.rest().unwrap(), b"", "nothing was begun, so nothing is said");
}

#[test]
fn a_listener_without_the_option_takes_a_header_for_a_bad_request() {
    let server = Server::lab().start();
    for header in [V1.to_vec(), v2(0x21, 0x11, &ENDS)] {
        assert_eq!(ask(&server, &header, "/").status, 400);
    }
}

#[test]
fn forwarding_fields_are_judged_by_the_headers_source() {
    let server = with(1, "127.0.0.1:0", "[proxy]\ntrusted = [\"127.0.0.2\", \"10.0.0.0/8\"]");
    let from = |peer: [u8; 4], source: &str| {
        let mut client = connect_from(Ipv4Addr::from(peer), server.address());
        let header = format!("PROXY TCP4 {source} 192.0.2.1 4711 443\r\n");
        let request = "GET /environ HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.9\r\n\r\n";
        client.send([header.as_str(), request].concat()).unwrap();
        let seen = environ(&client.reply().unwrap());
        seen["REMOTE_ADDR"].clone()
    };
    assert_eq!(
        from([127, 0, 0, 2], "10.0.0.1"),
        "198.51.100.9",
        "a proxy behind a balancer"
    );
    assert_eq!(
        from([127, 0, 0, 2], "203.0.113.7"),
        "203.0.113.7",
        "a client of the balancer's"
    );
    assert_eq!(
        from([127, 0, 0, 9], "10.0.0.1"),
        "127.0.0.9",
        "one who is not trusted is not believed"
    );
    let untold = with(1, "127.0.0.1:0", "");
    let mut client = untold.client();
    client
        .send(
            [
                V1,
                b"GET /environ HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.9\r\n\r\n",
            ]
            .concat(),
        )
        .unwrap();
    assert_eq!(
        ends(&environ(&client.reply().unwrap())),
        TOLD,
        "the option alone trusts the header alone"
    );
}

#[test]
fn a_reload_keeps_what_the_header_has_told() {
    for bind in ["127.0.0.1:0", "unix:DIR/app.sock"] {
        let server = with(2, bind, "");
        let mut idle: Vec<Client> = (0..10).map(|_| server.client()).collect();
        for client in &mut idle {
            client.send([V1, get("/environ").as_bytes()].concat()).unwrap();
            assert_eq!(ends(&environ(&client.reply().unwrap())), TOLD);
        }
        for _ in 0..2 {
            reload(&server);
            for client in &mut idle {
                assert_eq!(ends(&environ(&client.get("/environ").unwrap())), TOLD, "{bind}");
            }
        }
    }
}

#[test]
fn a_header_sent_in_halves_across_a_reload_is_read() {
    let server = with(2, "127.0.0.1:0", "");
    let v2 = v2(0x21, 0x11, &ENDS);
    let begin = |header: &[u8]| {
        let mut client = server.client();
        client.send(header).unwrap();
        until("it is taken", || client.taken().then_some(()));
        client
    };
    let mut halves = [begin(&V1[..20]), begin(&v2[..20])];
    let (mut silent, mut whole) = (begin(b""), begin(V1));
    let mut more = begin(&[V1, b"GET /env"].concat());
    reload(&server);
    for (client, header) in halves.iter_mut().zip([V1, &v2]) {
        client
            .send([&header[20..], get("/environ").as_bytes()].concat())
            .unwrap();
        assert_eq!(ends(&environ(&client.reply().unwrap())), TOLD);
    }
    silent.send([V1, get("/environ").as_bytes()].concat()).unwrap();
    assert_eq!(ends(&environ(&silent.reply().unwrap())), TOLD);
    assert_eq!(ends(&environ(&whole.get("/environ").unwrap())), TOLD);
    more.send("iron HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(ends(&environ(&more.reply().unwrap())), TOLD);
}

#[test]
fn a_worker_that_hangs_gives_its_connections_away_with_what_their_headers_told() {
    let server = with(2, "127.0.0.1:0", "[timeouts]\nrequest = \"1s\"\ndrain = \"4s\"");
    let pid = |client: &mut Client| -> i32 { client.get("/pid").unwrap().text().trim().parse().unwrap() };
    let open = || {
        let mut client = server.client();
        client.send(V1).unwrap();
        client
    };
    let mut hangs = open();
    let hung = pid(&mut hangs);
    let mut idle = until("another connection of the same worker", || {
        let mut client = open();
        (pid(&mut client) == hung).then_some(client)
    });
    hangs.send(get("/hang")).unwrap();
    until("it is taken", || hangs.taken().then_some(()));
    idle.send(get("/environ")).unwrap();
    assert_eq!(ends(&environ(&idle.reply().unwrap())), TOLD);
    assert!(process::alive(hung));
    assert_ne!(pid(&mut idle), hung);
    assert_eq!(hangs.reply().unwrap().status, 504);
}

#[test]
fn curl_is_understood() {
    let server = server();
    let Address::Tcp(to) = server.address() else { panic!() };
    let output = Command::new("curl")
        .args([
            "-sS",
            "--haproxy-protocol",
            "--interface",
            "127.0.0.5",
            "--max-time",
            "20",
        ])
        .arg(format!("http://{to}/environ"))
        .arg(format!("http://{to}/environ"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.matches("\"127.0.0.5\"").count(), 2, "{text}");
}

#[test]
fn a_front_ends_patience_is_not_ours() {
    // A connection that is opened ahead and says nothing is as idle as any.
    let server = with(1, "127.0.0.1:0", "[timeouts]\nheader = \"300ms\"");
    let mut silent = server.client();
    silent.patience(Duration::from_secs(20));
    assert_eq!(silent.rest().unwrap(), b"");
}
