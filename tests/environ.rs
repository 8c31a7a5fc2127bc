//! The environ of PEP 3333, key by key, as a handler sees it.
//!
//! Takes raw requests; gives the lab's `/environ`: the whole environ as one JSON object of strings.

use std::collections::BTreeMap;

use crate::support::client::Address;
use crate::support::json;
use crate::support::modules::module;
use crate::support::server::{Listen, Server};

fn environ(server: &Server, request: &str) -> BTreeMap<String, String> {
    let mut client = server.client();
    client.send(request).unwrap();
    let reply = client
        .reply()
        .unwrap_or_else(|failure| panic!("{request}: {failure}\n{}", server.log()));
    assert_eq!(reply.status, 200, "{request}: {}", reply.text());
    json::object(&reply.text())
}

fn get(server: &Server, target: &str, fields: &str) -> BTreeMap<String, String> {
    environ(
        server,
        &format!("GET {target} HTTP/1.1\r\nHost: www.example.org\r\n{fields}\r\n"),
    )
}

#[test]
fn every_required_key_is_there() {
    let server = Server::lab().start();
    let Address::Tcp(address) = server.address() else {
        unreachable!("a TCP listener was asked for")
    };
    let port = address.port().to_string();
    let seen = get(&server, "/environ?a=b%20c&d", "");
    for (key, value) in [
        ("REQUEST_METHOD", "GET"),
        ("SCRIPT_NAME", ""),
        ("PATH_INFO", "/environ"),
        ("QUERY_STRING", "a=b%20c&d"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_PORT", &port),
        ("HTTP_HOST", "www.example.org"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("wsgi.url_scheme", "http"),
    ] {
        assert_eq!(seen.get(key).map(String::as_str), Some(value), "{key} in {seen:#?}");
    }
    for key in [
        "SERVER_NAME",
        "wsgi.version",
        "wsgi.multithread",
        "wsgi.multiprocess",
        "wsgi.run_once",
    ] {
        assert!(
            seen.get(key).is_some_and(|value| !value.is_empty()),
            "{key} in {seen:#?}"
        );
    }
    assert!(
        seen.get("appserver.request_id").is_some_and(|id| !id.is_empty()),
        "{seen:#?}"
    );
}

#[test]
fn the_path_is_decoded_once_and_the_query_never() {
    let server = Server::lab().start();
    for (target, path, query) in [
        ("/environ", "/environ", ""),
        ("/environ?", "/environ", ""),
        ("/environ?x=%2F%20&y=?", "/environ", "x=%2F%20&y=?"),
        ("/%65nviron?q", "/environ", "q"),
    ] {
        let seen = get(&server, target, "");
        assert_eq!(
            (seen["PATH_INFO"].as_str(), seen["QUERY_STRING"].as_str()),
            (path, query),
            "{target}"
        );
    }
}

#[test]
fn a_mount_takes_its_prefix_as_script_name() {
    let lab = module("lab");
    let config = format!(
        "[[mount]]\npath = \"/one\"\nmodule = {lab:?}\nargs = {{ name = \"first\" }}\n\n\
         [[mount]]\npath = \"/one/two\"\nmodule = {lab:?}\nargs = {{ name = \"second\" }}\n\n\
         [[mount]]\npath = \"/\"\nmodule = {lab:?}\n"
    );
    let server = Server::bare().config(&config).arg("--workers").arg("2").start();
    for (target, script, path) in [
        ("/one/environ", "/one", "/environ"),
        ("/one/two/environ", "/one/two", "/environ"),
        ("/environ", "", "/environ"),
    ] {
        let seen = get(&server, target, "");
        assert_eq!(
            (seen["SCRIPT_NAME"].as_str(), seen["PATH_INFO"].as_str()),
            (script, path),
            "{target}"
        );
    }
    assert_eq!(
        server.get("/oneness/environ").status,
        404,
        "a prefix ends at a slash; the lab knows no such path"
    );
}

#[test]
fn content_fields_stand_without_http_and_only_when_sent() {
    let server = Server::lab().start();
    let request = "POST /environ HTTP/1.1\r\nHost: a\r\nContent-Type: text/x-a\r\nContent-Length: 3\r\n\r\nabc";
    let seen = environ(&server, request);
    assert_eq!(
        (seen["CONTENT_TYPE"].as_str(), seen["CONTENT_LENGTH"].as_str()),
        ("text/x-a", "3")
    );
    assert!(
        !seen.contains_key("HTTP_CONTENT_TYPE") && !seen.contains_key("HTTP_CONTENT_LENGTH"),
        "{seen:#?}"
    );
    let seen = get(&server, "/environ", "");
    assert!(seen.get("CONTENT_LENGTH").is_none_or(String::is_empty), "{seen:#?}");
}

#[test]
fn repeated_fields_are_joined_in_order() {
    let server = Server::lab().start();
    let seen = get(
        &server,
        "/environ",
        "X-Many: one\r\nAccept: */*\r\nx-many: two\r\nX-Many: three\r\nCookie: a=1\r\nCookie: b=2\r\n",
    );
    assert_eq!(seen["HTTP_X_MANY"].replace(", ", ","), "one,two,three");
    assert_eq!(
        seen["HTTP_COOKIE"], "a=1; b=2",
        "RFC 9113 section 8.2.3 names the only joint that cookies know"
    );
}

#[test]
fn a_field_with_an_underscore_cannot_pass_for_another() {
    let server = Server::lab().start();
    let seen = get(
        &server,
        "/environ",
        "X_Forwarded_For: 6.6.6.6\r\nX-Forwarded-For: 1.1.1.1\r\nRemote_User: root\r\n",
    );
    assert_eq!(seen["HTTP_X_FORWARDED_FOR"], "1.1.1.1");
    assert!(!seen.contains_key("HTTP_REMOTE_USER"), "{seen:#?}");
}

#[test]
fn no_proxy_can_be_set_from_outside() {
    let server = Server::lab().start();
    let seen = get(&server, "/environ", "Proxy: http://evil.example\r\n");
    assert!(
        !seen.contains_key("HTTP_PROXY"),
        "CGI programs read HTTP_PROXY as a setting: {seen:#?}"
    );
}

#[test]
fn the_concurrency_keys_tell_the_truth() {
    let truth = |value: &str| matches!(value.to_ascii_lowercase().as_str(), "true" | "1");
    let many = Server::lab().workers(2).start();
    let seen = get(&many, "/environ", "");
    assert!(
        truth(&seen["wsgi.multiprocess"]) && !truth(&seen["wsgi.run_once"]),
        "{seen:#?}"
    );
    let one = Server::lab().workers(1).start();
    assert!(!truth(&get(&one, "/environ", "")["wsgi.multiprocess"]));
}

#[test]
fn a_unix_socket_has_no_remote_address() {
    let server = Server::lab().listen(Listen::Unix).start();
    let seen = get(&server, "/environ", "");
    assert!(
        seen.get("REMOTE_ADDR")
            .is_none_or(|value| value.is_empty() || value == "unix:"),
        "{seen:#?}"
    );
    assert!(
        seen.contains_key("SERVER_NAME") && seen.contains_key("SERVER_PORT"),
        "PEP 3333 asks for both: {seen:#?}"
    );
}

#[test]
fn the_method_is_passed_as_sent() {
    let server = Server::lab().start();
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"] {
        let seen = environ(
            &server,
            &format!("{method} /environ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"),
        );
        assert_eq!(seen["REQUEST_METHOD"], method);
    }
}

#[test]
fn escapes_are_decoded_to_bytes_and_slashes_among_them_are_slashes() {
    let server = Server::lab().start();
    // The lab shows each byte as the character of its number.
    for (target, path) in [
        ("/environ/a%2Fb", "/environ/a/b"),
        ("/environ/%E4%C3%A4", "/environ/\u{e4}\u{c3}\u{a4}"),
        ("/environ/%2525", "/environ/%25"),
        ("/environ/a+b;c=d", "/environ/a+b;c=d"),
        ("/environ/../x/./", "/environ/../x/./"),
        ("/environ//two", "/environ//two"),
    ] {
        assert_eq!(get(&server, target, "")["PATH_INFO"], path, "{target}");
    }
}
