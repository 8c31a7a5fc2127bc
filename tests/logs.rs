//! The access log, one line for every request, and the error log.
//!
//! Takes requests good, bad and cut off; gives their lines. Reopening is in signals.rs, killed workers are in
//! supervision.rs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};

use nix::sys::signal::Signal;

use crate::support::server::{Listen, Server};
use crate::support::wait::until;
use crate::support::{json, process};

const KEYS: [&str; 16] = [
    "time",
    "remote",
    "method",
    "target",
    "protocol",
    "status",
    "bytes",
    "duration_us",
    "queue_us",
    "handler_us",
    "worker",
    "pid",
    "generation",
    "request_id",
    "referer",
    "user_agent",
];

fn json_server() -> Server {
    Server::lab()
        .config("[log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n")
        .start()
}

/// The JSON line whose target holds `mark`.
fn line(server: &Server, mark: &str) -> BTreeMap<String, String> {
    let text = until(&format!("the access line of {mark}"), || {
        Some(
            server
                .read("access.log")
                .lines()
                .find(|line| line.contains(mark))?
                .to_owned(),
        )
    });
    json::object(&text)
}

#[test]
fn a_json_line_has_every_key() {
    let server = json_server();
    let mut client = server.client();
    client
        .send("GET /bytes?n=321 HTTP/1.1\r\nHost: a\r\nReferer: http://r/\r\nUser-Agent: \"probe\"\t1\r\n\r\n")
        .unwrap();
    client.reply().unwrap();
    let line = line(&server, "/bytes?n=321");
    for key in KEYS {
        assert!(line.contains_key(key), "{key} is missing in {line:#?}");
    }
    assert_eq!((line["method"].as_str(), line["status"].as_str()), ("GET", "200"));
    assert_eq!((line["bytes"].as_str(), line["protocol"].as_str()), ("321", "HTTP/1.1"));
    assert_eq!(
        (line["referer"].as_str(), line["user_agent"].as_str()),
        ("http://r/", "\"probe\"\t1")
    );
    assert!(server.workers().contains(&line["pid"].parse().unwrap()), "{line:#?}");
}

#[test]
fn a_combined_line_is_escaped() {
    let server = Server::lab().config("[log]\naccess = \"-\"\n").start();
    let mut client = server.client();
    client
        .send("GET /?combined HTTP/1.1\r\nHost: a\r\nUser-Agent: \"x\" \\ y\r\n\r\n")
        .unwrap();
    client.reply().unwrap();
    let line = until("the line", || {
        Some(
            server
                .stdout()
                .lines()
                .find(|line| line.contains("/?combined"))?
                .to_owned(),
        )
    });
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(line.contains("] \"GET /?combined HTTP/1.1\" 200 "), "{line}");
    assert!(
        !line.contains("\"\"x\""),
        "a quote inside a quoted value is escaped: {line}"
    );
}

#[test]
fn refused_and_unfinished_requests_have_their_line_too() {
    let server = json_server();
    let mut bad = server.client();
    bad.send("GET /?bad HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").unwrap();
    assert_eq!(bad.reply().unwrap().status, 400);
    assert_eq!(line(&server, "/?bad")["status"], "400");

    let mut cut = server.client();
    cut.send("POST /hash?cut HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        .unwrap();
    drop(cut);
    assert_ne!(line(&server, "/hash?cut")["outcome"], "");
}

#[test]
fn the_request_id_of_a_request_is_in_its_line_and_in_its_environ() {
    let server = json_server();
    let environ = json::object(&server.get("/environ?id").text());
    assert_eq!(
        line(&server, "/environ?id")["request_id"],
        environ["appserver.request_id"]
    );
}

#[test]
fn a_panic_is_in_the_error_log_with_the_id_of_its_request() {
    let server = json_server();
    assert_eq!(server.get("/panic?id").status, 500);
    let id = line(&server, "/panic?id")["request_id"].clone();
    assert!(!id.is_empty());
    server.wait_for_log(&id);
}

#[test]
fn the_error_log_is_json_when_asked_and_ends_with_a_stop() {
    let mut server = Server::lab().config("[log]\nformat = \"json\"\n").start();
    server.stop(Signal::SIGTERM);
    for line in server.log().lines() {
        assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    }
}

#[test]
fn no_line_of_a_stop_is_lost() {
    let mut server = json_server();
    let mut client = server.client();
    for number in 0..500 {
        client.get(&format!("/?number={number}.")).unwrap();
    }
    server.stop(Signal::SIGTERM);
    let log = server.read("access.log");
    for number in 0..500 {
        assert!(
            log.contains(&format!("/?number={number}.")),
            "line {number} of 500 is missing"
        );
    }
}

#[test]
fn a_pipe_as_log_that_nobody_reads_any_more_holds_nobody_up() {
    let server = Server::lab();
    let pipes = ["access", "error"].map(|name| server.folder().join(name));
    for pipe in &pipes {
        nix::unistd::mkfifo(pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let readers = pipes.each_ref().map(|pipe| {
        let mut options = std::fs::File::options();
        // For writing too, so that the opening waits for nobody.
        options.read(true).write(true).open(pipe).unwrap()
    });
    let text = "[log]\nfile = \"DIR/error\"\naccess = \"DIR/access\"\n[control]\nsocket = \"DIR/control.sock\"\n";
    let mut server = server.config(text).listen(Listen::Unix).start();
    drop(readers);
    server.signal(Signal::SIGUSR1);
    server.signal(Signal::SIGTTIN);
    server.wait_for_workers("the master goes on", |pids| pids.len() == 3);
    assert_eq!(server.get("/").status, 200);
    server.stop(Signal::SIGTERM);
}

#[test]
fn a_worker_that_cannot_open_the_access_log_writes_to_the_file_that_is_open() {
    let lab = Server::lab().workers(1).config("[log]\naccess = \"DIR/logs/access\"\n");
    let [logs, moved] = ["logs", "moved"].map(|name| lab.folder().join(name));
    std::fs::create_dir(&logs).unwrap();
    let server = lab.start();
    std::fs::rename(&logs, &moved).unwrap();
    let old = server.workers()[0];
    process::signal(old, Signal::SIGKILL);
    server.wait_for_workers("a new worker", |pids| pids.len() == 1 && pids[0] != old);
    assert_eq!(server.get("/?after").status, 200);
    until("the line in the moved file", || {
        server.read("moved/access").contains("/?after").then_some(())
    });
    server.wait_for_log("the file the master holds open stays in use");
}

#[test]
fn no_client_waits_for_who_does_not_read_the_access_log_on_standard_output() {
    let lab = Server::lab().workers(1).config("[log]\naccess = \"-\"\n");
    let pipe = lab.folder().join("pipe");
    // Opened for both ways it needs no reader, and has none.
    let script = format!("mkfifo {0} && exec \"$0\" \"$@\" 1<>{0}", pipe.display());
    let mut server = lab.wrap(&["sh", "-c", &script]).start();
    let mut client = server.client();
    let long = "x".repeat(1000);
    for number in 0..400 {
        assert_eq!(client.get(&format!("/?{long}&{number}")).unwrap().status, 200);
    }
    // Lines are whole, and those it is not too late for come once somebody reads.
    server.wait_for_log("nobody reads standard output");
    let mut lines = BufReader::new(File::open(&pipe).unwrap()).lines();
    until("the last line", || {
        let line = lines.next().unwrap().unwrap();
        assert!(line.contains("] \"GET /") && line.ends_with('"'), "{line}");
        line.contains("&399 ").then_some(())
    });
    server.stop(Signal::SIGTERM);
}
