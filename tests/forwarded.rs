//! What a front-end says of its client in X-Forwarded-*, Forwarded and X-Request-Id, and who is believed.
//!
//! Takes requests from addresses that are trusted and from others, over TCP and Unix sockets; gives the environ, the access log and
//! the refusals. The rules one by one are tested where they are written (src/gateway/forwarded.rs), PROXY headers in proxy_protocol.rs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;

use crate::support::client::{Client, Reply};
use crate::support::json;
use crate::support::modules::module;
use crate::support::neighbour::connect_from;
use crate::support::server::{Listen, Server};
use crate::support::wait::until;

const FRONT_END: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// The lab at a prefix, trusting whom `trusted` lists, with an access log.
fn server(trusted: &str, listen: Listen) -> Server {
    let lab = module("lab");
    Server::bare()
        .workers(1)
        .listen(listen)
        .config(&format!(
            "workers = 1\n[proxy]\ntrusted = [{trusted}]\n[log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n\
             [[mount]]\npath = \"/\"\nmodule = {lab:?}\n[[mount]]\npath = \"/lab\"\nmodule = {lab:?}\n"
        ))
        .start()
}

fn ask(mut client: Client, target: &str, fields: &str) -> Reply {
    let request = format!("GET {target} HTTP/1.1\r\nHost: inner.example\r\n{fields}\r\n");
    client.send(&request).unwrap();
    client.reply().unwrap_or_else(|failure| panic!("{request}: {failure}"))
}

fn environ(client: Client, target: &str, fields: &str) -> BTreeMap<String, String> {
    let reply = ask(client, target, fields);
    assert_eq!(reply.status, 200, "{fields}: {}", reply.text());
    json::object(&reply.text())
}

fn from(source: Ipv4Addr, server: &Server) -> Client {
    connect_from(source, server.address())
}

fn is(seen: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(seen.get(*key).map(String::as_str), Some(*value), "{key} in {seen:#?}");
    }
}

/// The access line whose target holds `mark`.
fn line(server: &Server, mark: &str) -> BTreeMap<String, String> {
    json::object(&until(&format!("the access line of {mark}"), || {
        let log = server.read("access.log");
        Some(log.lines().find(|line| line.contains(mark))?.to_owned())
    }))
}

const ALL: &str = "X-Forwarded-For: 6.6.6.6, 203.0.113.7:4711, 127.0.0.3\r\nX-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: shop.example\r\nX-Forwarded-Port: 8443\r\nX-Forwarded-Prefix: /outer/\r\n";

#[test]
fn a_trusted_front_end_tells_who_the_client_is_and_what_it_asked_for() {
    let server = server("\"127.0.0.2\", \"127.0.0.3\"", Listen::Tcp);
    let seen = environ(from(FRONT_END, &server), "/lab/environ?all", ALL);
    is(
        &seen,
        &[
            ("REMOTE_ADDR", "203.0.113.7"),
            ("REMOTE_PORT", "4711"),
            ("wsgi.url_scheme", "https"),
            ("HTTP_HOST", "shop.example:8443"),
            ("SERVER_NAME", "shop.example"),
            ("SERVER_PORT", "8443"),
            ("SCRIPT_NAME", "/outer/lab"),
            ("PATH_INFO", "/environ"),
            ("HTTP_X_FORWARDED_HOST", "shop.example"),
        ],
    );
    assert_eq!(line(&server, "?all")["remote"], "203.0.113.7");
    let element = "Forwarded: for=6.6.6.6;proto=http, for=\"[2001:db8::7]:99\";proto=https;host=\"a.example:444\";by=_me, for=127.0.0.3\r\n";
    let seen = environ(from(FRONT_END, &server), "/environ?one", element);
    is(
        &seen,
        &[
            ("REMOTE_ADDR", "2001:db8::7"),
            ("REMOTE_PORT", "99"),
            ("wsgi.url_scheme", "https"),
            ("HTTP_HOST", "a.example:444"),
            ("SERVER_NAME", "a.example"),
            ("SERVER_PORT", "444"),
            ("SCRIPT_NAME", ""),
        ],
    );
    assert_eq!(line(&server, "?one")["remote"], "2001:db8::7");
    let hidden = environ(from(FRONT_END, &server), "/environ", "X-Forwarded-For: unknown\r\n");
    is(&hidden, &[("REMOTE_ADDR", ""), ("REMOTE_PORT", "")]);
}

#[test]
fn nobody_else_is_believed_and_the_fields_are_shown_as_they_came() {
    for (trusted, source) in [("", FRONT_END), ("\"127.0.0.2\", \"10.0.0.0/8\", \"unix\"", OTHER)] {
        let server = server(trusted, Listen::Tcp);
        let fields = format!("{ALL}Forwarded: nonsense\r\nX-Forwarded-Proto: both\r\nX-Request-Id: mine\r\n");
        let seen = environ(from(source, &server), "/lab/environ?none", &fields);
        is(
            &seen,
            &[
                ("REMOTE_ADDR", &source.to_string()),
                ("wsgi.url_scheme", "http"),
                ("HTTP_HOST", "inner.example"),
                ("SERVER_NAME", "127.0.0.1"),
                ("SCRIPT_NAME", "/lab"),
                ("HTTP_X_FORWARDED_FOR", "6.6.6.6, 203.0.113.7:4711, 127.0.0.3"),
                ("HTTP_FORWARDED", "nonsense"),
            ],
        );
        assert_ne!(seen["REMOTE_PORT"], "4711");
        assert_eq!(seen["appserver.request_id"].len(), 32);
        assert_eq!(line(&server, "?none")["remote"], source.to_string());
    }
}

#[test]
fn over_a_unix_socket_whoever_can_connect_is_trusted_if_that_is_said() {
    let believing = server("\"unix\"", Listen::Unix);
    let seen = environ(
        believing.client(),
        "/environ",
        "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n",
    );
    is(
        &seen,
        &[
            ("REMOTE_ADDR", "203.0.113.7"),
            ("REMOTE_PORT", ""),
            ("wsgi.url_scheme", "https"),
            ("HTTP_HOST", "inner.example"),
            ("SERVER_NAME", "inner.example"),
            ("SERVER_PORT", "443"),
        ],
    );
    let doubting = server("\"127.0.0.1\"", Listen::Unix);
    let seen = environ(doubting.client(), "/environ", "X-Forwarded-For: 203.0.113.7\r\n");
    is(&seen, &[("REMOTE_ADDR", ""), ("SERVER_PORT", "80")]);
}

#[test]
fn a_front_end_that_contradicts_itself_is_refused_with_the_reason() {
    let server = server("\"127.0.0.0/8\"", Listen::Tcp);
    for (fields, why) in [
        ("X-Forwarded-For: nonsense\r\n", "no address"),
        ("Forwarded: for=\"\r\n", "Forwarded field"),
        ("X-Forwarded-Proto: gopher\r\n", "scheme other than"),
        ("X-Forwarded-Host: a b\r\n", "host that is malformed"),
        ("X-Forwarded-Port: 0\r\n", "1 to 65535"),
        ("X-Forwarded-Prefix: /a/../b\r\n", "no plain path"),
        (
            "Forwarded: for=1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n",
            "different clients",
        ),
        (
            "X-Forwarded-Proto: http\r\nX-Forwarded-Proto: https\r\n",
            "different schemes",
        ),
        ("X-Forwarded-Host: a\r\nX-Forwarded-Host: b\r\n", "different hosts"),
        ("X-Forwarded-Host: a:81\r\nX-Forwarded-Port: 82\r\n", "different ports"),
        (
            "X-Forwarded-Prefix: /a\r\nX-Forwarded-Prefix: /b\r\n",
            "different prefixes",
        ),
    ] {
        let mark = format!("/environ?{}", why.replace(' ', "-"));
        let reply = ask(server.client(), &mark, fields);
        assert_eq!(reply.status, 400, "{fields}");
        assert!(
            reply.text().contains(why) && reply.closes(),
            "{fields}: {}",
            reply.text()
        );
        let line = line(&server, &mark);
        assert_eq!(
            (line["status"].as_str(), line["outcome"].as_str()),
            ("400", "refused"),
            "{line:#?}"
        );
    }
    // The connection's requests are judged each by itself.
    let mut client = server.client();
    let request = |fields: &str| format!("GET /environ HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    client
        .send([request("X-Forwarded-For: 203.0.113.7\r\n"), request("")].concat())
        .unwrap();
    let told = json::object(&client.reply().unwrap().text());
    assert_eq!(told["REMOTE_ADDR"], "203.0.113.7");
    let untold = json::object(&client.reply().unwrap().text());
    assert_eq!(
        untold["REMOTE_ADDR"], "127.0.0.1",
        "what one request said is not the next one's"
    );
}

#[test]
fn an_upload_that_breaks_off_is_logged_with_its_client() {
    let server = server("\"127.0.0.2\"", Listen::Tcp);
    let mut client = from(FRONT_END, &server);
    let head = "POST /echo?broken HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\nContent-Length: 100\r\n\r\n";
    client.send(head).unwrap();
    client.send("short").unwrap();
    client.half_close();
    assert_eq!(client.reply().unwrap().status, 400);
    assert_eq!(line(&server, "?broken")["remote"], "203.0.113.7");
}

#[test]
fn the_request_id_of_a_trusted_front_end_is_the_requests_everywhere() {
    let server = server("\"127.0.0.2\"", Listen::Tcp);
    for id in [
        "0123456789abcdef00fe00009a0ff0a9",
        "7b0ba1b2-5d4c-4a0e-9a53-c2d8f1a0e001",
        "a.b_c~d+e/f=g:h@i",
    ] {
        let mark = format!("/environ?{}", id.len());
        let seen = environ(from(FRONT_END, &server), &mark, &format!("X-Request-Id: {id}\r\n"));
        is(&seen, &[("appserver.request_id", id), ("HTTP_X_REQUEST_ID", id)]);
        assert_eq!(line(&server, &mark)["request_id"], id);
    }
    let seen = environ(from(FRONT_END, &server), "/environ", "X-Request-Id: not \"safe\"\r\n");
    assert_eq!(
        seen["appserver.request_id"].len(),
        32,
        "one that cannot be shown is not taken"
    );
    // What a handler logs, and the record of a call that kills its worker.
    let reply = ask(from(FRONT_END, &server), "/panic", "X-Request-Id: the-panic\r\n");
    assert_eq!(reply.status, 500);
    server.wait_for_log("the-panic");
    let mut client = from(FRONT_END, &server);
    client
        .send("GET /segv HTTP/1.1\r\nHost: a\r\nX-Request-Id: the-crash\r\n\r\n")
        .unwrap();
    let _ = client.reply();
    assert_eq!(line(&server, "/segv")["request_id"], "the-crash");
    server.wait_for_log("the-crash");
}

#[test]
fn a_reload_takes_over_whom_to_trust() {
    let server = server("\"127.0.0.2\"", Listen::Tcp);
    let mut kept = from(OTHER, &server);
    let remote = |client: &mut Client| {
        client
            .send("GET /environ HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n")
            .unwrap();
        json::object(&client.reply().unwrap().text())["REMOTE_ADDR"].clone()
    };
    assert_eq!(remote(&mut kept), OTHER.to_string());
    let file = server.folder().join("appserver.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[\"127.0.0.2\"]", "[\"127.0.0.9\"]")).unwrap();
    let old = server.workers();
    server.signal(nix::sys::signal::Signal::SIGHUP);
    server.wait_for_workers("all are new", |pids| pids.len() == 1 && pids != old);
    assert_eq!(remote(&mut kept), "203.0.113.7", "an open connection is judged anew");
    assert_eq!(remote(&mut from(FRONT_END, &server)), FRONT_END.to_string());
}

#[test]
fn whom_to_trust_is_checked_printed_and_read_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("appserver.toml");
    let check = |list: &str, verb: &str| {
        let text = format!("module = {:?}\n[proxy]\ntrusted = {list}\n", module("lab"));
        std::fs::write(&file, text).unwrap();
        let output = Server::run(&[verb, "--config", file.to_str().unwrap()]);
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let (code, said) = check("[\n \"10.1.2.3/8\",\n]", "--check-config");
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("appserver.toml:3"), "the line is told: {said}");
    assert!(said.contains("did you mean \"10.0.0.0/8\" or \"10.1.2.3\"?"), "{said}");
    for list in ["[\"*\"]", "[1]", "\"unix\"", "true", "[\"localhost\"]"] {
        assert_eq!(check(list, "--check-config").0, Some(4), "{list}");
    }
    let (_, printed) = check("[\"unix\", \"::1\"]", "--print-config");
    assert!(printed.contains("trusted = [\"::1\", \"unix\"]"), "{printed}");
    let mut command = Command::new(crate::support::modules::SERVER);
    let output = command
        .args(["--print-config", "--module", module("lab").to_str().unwrap()])
        .env("APPSERVER_PROXY_TRUSTED", "10.0.0.0/8, unix")
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let line = printed.lines().find(|line| line.starts_with("trusted")).unwrap();
    assert!(
        line.contains("[\"10.0.0.0/8\", \"unix\"]") && line.contains("APPSERVER_PROXY_TRUSTED"),
        "{line}"
    );
}

#[test]
fn interim_responses_go_to_a_front_end_only_if_it_is_said_to_take_them() {
    for (told, expected) in [("", 200), ("early-hints = true\n", 103)] {
        let config = format!("[proxy]\ntrusted = [\"127.0.0.1\"]\n{told}");
        let server = Server::lab().config(&config).start();
        let hints = |fields: &str| {
            let mut client = server.client();
            client
                .send(format!("GET /hints HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
                .unwrap();
            client.head(true).unwrap().status
        };
        assert_eq!(hints("X-Forwarded-For: 203.0.113.7\r\n"), expected);
        assert_eq!(hints(""), 103, "a client that is none");
    }
}
