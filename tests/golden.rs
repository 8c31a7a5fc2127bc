//! The golden requests over a real socket: whole, byte by byte, half-closed, and pipelined behind a good request.
//!
//! Takes tests/requests: raw bytes and what must come of them; gives every case that came out otherwise, all in one
//! list. Valid ones must reach the lab handler as their expectation says; invalid ones must get one answer with their
//! status and the end of the connection, and must not reach the handler. Text in an expectation is bytes as Latin-1.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use appserver::protocol::http::refusal::Refusal;
use serde::Deserialize;

use crate::support::client::{Client, Failure, Reply};
use crate::support::json;
use crate::support::reader::{self, Asked};
use crate::support::server::Server;

const GOOD: &str = "GET /environ?good HTTP/1.1\r\nHost: good.example\r\n\r\n";

/// How the bytes of a case are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Whole,
    ByteByByte,
    HalfClosed,
    BehindAGoodOne,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectation {
    #[serde(rename = "reason")]
    _reason: String,
    /// Keys of the configuration's `[limits]`.
    #[serde(default)]
    limits: BTreeMap<String, u64>,
    #[serde(rename = "status")]
    _status: Option<u16>,
    /// The constant of `Refusal`.
    refusal: Option<String>,
    #[serde(default)]
    request: Vec<Expected>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    method: String,
    #[serde(rename = "target")]
    _target: String,
    path_info: Option<String>,
    query: String,
    version: String,
    #[serde(default)]
    close: bool,
    body: Option<String>,
    length: Option<usize>,
    sha256: Option<String>,
    /// Seen by handlers that ask for trailers; the paths used here do not.
    #[serde(default, rename = "trailers")]
    _trailers: Vec<(String, String)>,
    #[serde(default)]
    environ: BTreeMap<String, String>,
}

struct Case {
    name: String,
    bytes: Vec<u8>,
    expectation: Expectation,
}

/// The cases of one kind, by the limits that they want the server to have.
fn cases(kind: &str) -> BTreeMap<BTreeMap<String, u64>, Vec<Case>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/requests").join(kind);
    let mut by_limits: BTreeMap<_, Vec<Case>> = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let request = entry.unwrap().path();
        if request.extension().is_none_or(|extension| extension != "http") {
            continue;
        }
        let name = request.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(request.with_extension("toml")).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expectation: Expectation = toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let limits = expectation.limits.clone();
        by_limits.entry(limits).or_default().push(Case {
            name,
            bytes: fs::read(request).unwrap(),
            expectation,
        });
    }
    by_limits
}

/// Sends every case of a kind in one manner, to a server of one worker, so that its calls can be counted.
fn replay(kind: &str, manner: Manner) {
    let mut failures = Vec::new();
    for (limits, mut cases) in cases(kind) {
        cases.sort_by(|one, other| one.name.cmp(&other.name));
        let lines: String = limits.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let server = Server::lab().workers(1).config(&format!("[limits]\n{lines}")).start();
        for case in cases {
            if let Err(what) = replay_one(&server, &case, manner) {
                failures.push(format!("{}: {what}", case.name));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} {kind} cases, {manner:?}:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn replay_one(server: &Server, case: &Case, manner: Manner) -> Result<(), String> {
    let before = calls(server)?;
    let mut client = server.client();
    client.patience(Duration::from_secs(5));
    send(&mut client, &case.bytes, manner);
    if manner == Manner::BehindAGoodOne {
        let reply = next(&mut client, "the good request before it")?;
        same("the good request's status", &reply.status, &200)?;
    }
    let outcome = match &case.expectation.refusal {
        Some(name) => is_refused(
            &mut client,
            Refusal::named(name).ok_or(format!("no refusal is called {name}"))?,
        ),
        None => is_served(&mut client, case, manner),
    };
    outcome?;
    let good = i64::from(manner == Manner::BehindAGoodOne);
    if case.expectation.refusal.is_some() {
        // The two looks at the count are calls themselves: one lies between them.
        same("calls of the handler", &(calls(server)? - before - 1), &good)?;
    }
    Ok(())
}

/// A server that has answered may end the connection while we still send: the answer is what counts.
fn send(client: &mut Client, bytes: &[u8], manner: Manner) {
    let _ = match manner {
        Manner::Whole => client.send(bytes),
        Manner::BehindAGoodOne => client.send([GOOD.as_bytes(), bytes].concat()),
        Manner::HalfClosed => client.send(bytes).map(|()| client.half_close()),
        // The ends of a long case byte by byte and its middle in small pieces, for the sake of time.
        Manner::ByteByByte => {
            let (begin, rest) = bytes.split_at(bytes.len().min(3000));
            let (middle, end) = rest.split_at(rest.len().saturating_sub(300));
            let pieces = begin.chunks(1).chain(middle.chunks(997)).chain(end.chunks(1));
            pieces
                .map(|piece| client.send(piece))
                .find(Result::is_err)
                .unwrap_or(Ok(()))
        }
    };
}

fn is_refused(client: &mut Client, refusal: Refusal) -> Result<(), String> {
    let reply = next(client, "the refusal")?;
    same("status", &reply.status, &refusal.status)?;
    same("body", &reply.text(), &refusal.text())?;
    same("a date", &reply.header("date").is_some(), &true)?;
    same(
        "Connection",
        &reply.header("connection").map(str::to_ascii_lowercase).as_deref(),
        &Some("close"),
    )?;
    if reply.body.is_empty() || reply.body.len() > 300 {
        return Err(format!("a refusal has a short body, not {} bytes", reply.body.len()));
    }
    is_over(client)
}

fn is_served(client: &mut Client, case: &Case, manner: Manner) -> Result<(), String> {
    let requests = &case.expectation.request;
    let (asked, _) = reader::read(&case.bytes);
    same(
        "number of requests, as a simple reader sees it",
        &asked.len(),
        &requests.len(),
    )?;
    for (number, (expected, asked)) in requests.iter().zip(&asked).enumerate() {
        let what = format!("answer {}", number + 1);
        let reply = next(client, &what)?;
        is_as_expected(&reply, expected)
            .and_then(|()| is_as_sent(&reply, expected, asked))
            .map_err(|problem| format!("{what}: {problem}"))?;
    }
    let closes = requests.last().is_some_and(|request| request.close);
    if closes && manner == Manner::ByteByByte {
        // A client that goes on sending behind its own close is not waited for, and what it still sends may be answered by a
        // reset; by anything else never.
        return match client.rest() {
            Err(Failure::Broken(_)) => Ok(()),
            Ok(rest) if rest.is_empty() => Ok(()),
            other => Err(format!("behind the last answer: {other:?}")),
        };
    }
    if closes || manner == Manner::HalfClosed {
        return is_over(client);
    }
    // Whatever more had been answered would stand before this.
    client
        .send("GET /environ?after HTTP/1.1\r\nHost: after.example\r\n\r\n")
        .map_err(|error| error.to_string())?;
    let reply = next(client, "the request after it")?;
    same(
        "the next answer's query",
        &environ(&reply)?.get("QUERY_STRING").map(String::as_str),
        &Some("after"),
    )
}

fn is_as_expected(reply: &Reply, expected: &Expected) -> Result<(), String> {
    let Some(path) = &expected.path_info else {
        return Ok(()); // The target * has no path that the lab knows; one answer is what counts.
    };
    same("status", &reply.status, &200)?;
    match path.as_str() {
        "/echo" => same(
            "body",
            &latin_1(&reply.body),
            expected.body.as_ref().unwrap_or(&String::new()),
        ),
        "/hash" => {
            let (length, hash) = (
                expected.length.unwrap_or(0),
                expected.sha256.clone().unwrap_or_default(),
            );
            let text = reply.text();
            let told = text.contains(&length.to_string()) && text.contains(&hash);
            if told {
                Ok(())
            } else {
                Err(format!("the body's hash: {text:?}, expected {length} and {hash}"))
            }
        }
        _ => {
            let environ = environ(reply)?;
            let named = [
                ("REQUEST_METHOD", &expected.method),
                ("PATH_INFO", path),
                ("QUERY_STRING", &expected.query),
                ("SERVER_PROTOCOL", &expected.version),
            ];
            let others = expected.environ.iter().map(|(key, value)| (key.as_str(), value));
            for (key, value) in named.into_iter().chain(others) {
                same(key, &environ.get(key), &Some(value))?;
            }
            Ok(())
        }
    }
}

/// The handler was told what stands in the bytes, each field included and no other.
fn is_as_sent(reply: &Reply, expected: &Expected, asked: &Asked) -> Result<(), String> {
    match expected.path_info.as_deref() {
        None | Some("/hash") => return Ok(()),
        Some("/echo") => return same("body, as sent", &reply.body, &asked.body),
        Some(_) => {}
    }
    let told = environ(reply)?;
    same(
        "method, as sent",
        &told.get("REQUEST_METHOD"),
        &Some(&latin_1(&asked.method)),
    )?;
    let mut sent: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in asked.fields.iter().filter(|(name, _)| !name.contains(&b'_')) {
        let key = format!("HTTP_{}", latin_1(name).to_ascii_uppercase().replace('-', "_"));
        let value = latin_1(value);
        match sent.get_mut(&key) {
            Some(before) => *before = format!("{before}, {value}"),
            None => drop(sent.insert(key, value)),
        }
    }
    for key in ["TYPE", "LENGTH"] {
        if let Some(value) = sent.remove(&format!("HTTP_CONTENT_{key}")) {
            same(key, &told.get(&format!("CONTENT_{key}")), &Some(&value))?;
        }
    }
    if !asked.target.starts_with(b"/") {
        // The target's authority stands in its place, and the expectation says so.
        sent.insert("HTTP_HOST".into(), told.get("HTTP_HOST").cloned().unwrap_or_default());
    }
    let told: BTreeMap<String, String> = told.into_iter().filter(|(key, _)| key.starts_with("HTTP_")).collect();
    same("fields, as sent", &told, &sent)
}

fn environ(reply: &Reply) -> Result<BTreeMap<String, String>, String> {
    let text = reply.text();
    if text.starts_with('{') {
        Ok(json::object(&text))
    } else {
        Err(format!("no environ: {} {text:?}", reply.status))
    }
}

/// How many calls the one worker has served, this one included or not, but always alike.
fn calls(server: &Server) -> Result<i64, String> {
    let text = server.get("/count").text();
    text.trim().parse().map_err(|_| format!("/count said {text:?}"))
}

fn next(client: &mut Client, what: &str) -> Result<Reply, String> {
    client
        .reply()
        .map_err(|failure| format!("{what} did not come: {failure}"))
}

/// Nothing more comes, and the connection ends in good order.
fn is_over(client: &mut Client) -> Result<(), String> {
    match client.rest() {
        Ok(rest) if rest.is_empty() => Ok(()),
        Ok(rest) => Err(format!("more came: {}", rest.escape_ascii())),
        Err(Failure::Silent) => Err("the connection was not closed".into()),
        Err(failure) => Err(format!("the connection did not end in good order: {failure}")),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, expected: &T) -> Result<(), String> {
    if seen == expected {
        Ok(())
    } else {
        Err(format!("{what}: {seen:?}, expected {expected:?}"))
    }
}

fn latin_1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

#[test]
fn valid_requests_are_served_as_expected() {
    replay("valid", Manner::Whole);
}

#[test]
fn valid_requests_that_come_byte_by_byte_are_served_as_expected() {
    replay("valid", Manner::ByteByByte);
}

#[test]
fn valid_requests_of_a_half_closed_client_are_served_as_expected() {
    replay("valid", Manner::HalfClosed);
}

#[test]
fn valid_requests_behind_a_good_one_are_served_as_expected() {
    replay("valid", Manner::BehindAGoodOne);
}

#[test]
fn invalid_requests_get_one_refusal_and_never_reach_the_handler() {
    replay("invalid", Manner::Whole);
}

#[test]
fn invalid_requests_that_come_byte_by_byte_get_one_refusal_and_never_reach_the_handler() {
    replay("invalid", Manner::ByteByByte);
}

#[test]
fn invalid_requests_of_a_half_closed_client_get_one_refusal_and_never_reach_the_handler() {
    replay("invalid", Manner::HalfClosed);
}

#[test]
fn invalid_requests_behind_a_good_one_get_one_refusal_and_never_reach_the_handler() {
    replay("invalid", Manner::BehindAGoodOne);
}
