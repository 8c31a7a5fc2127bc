//! What goes on after a handler has returned, its client has left or its worker has gone.
//!
//! Takes detached answers, tunnels, clients that reset or fall silent, and killed workers; gives memory, order and the
//! lines that the access log must still have. The exchange itself is in exchange.rs.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::client::{Client, Failure};
use crate::support::json;
use crate::support::modules::{self, module, root};
use crate::support::process;
use crate::support::server::{Builder, Server};
use crate::support::wait::{PATIENCE, until, within};

const UPGRADE: &str = "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";

fn probe() -> Builder {
    Server::with(module("probe")).workers(1)
}

/// Every call of this module runs on the I/O thread.
fn inline(name: &str) -> Server {
    let config = format!(
        "workers = 1\n[[mount]]\npath = \"/\"\nmodule = {:?}\ndispatch = \"inline\"\n",
        module(name)
    );
    Server::bare().workers(1).config(&config).start()
}

fn json_log(settings: &str) -> Server {
    let config = format!("{settings}\n[log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n");
    Server::lab().workers(1).config(&config).start()
}

/// A client whose request the server has read.
fn taken(server: &Server, request: impl AsRef<[u8]>) -> Client {
    let mut client = server.client();
    client.send(request).unwrap();
    until("the server has read the request", || client.taken().then_some(()));
    client
}

/// The JSON line that holds `mark`.
fn line(server: &Server, mark: &str) -> BTreeMap<String, String> {
    let find = || {
        let log = server.read("access.log");
        log.lines().find(|line| line.contains(mark)).map(str::to_owned)
    };
    json::object(&until(&format!("the access line of {mark}"), find))
}

fn echoes_in_every_tunnel(server: &Server) {
    for number in 1..=20 {
        let mut client = taken(server, UPGRADE);
        assert_eq!(client.reply().unwrap().status, 101, "tunnel {number}");
        client.send("raw bytes").unwrap();
        client.half_close();
        assert_eq!(client.rest().unwrap(), b"raw bytes", "tunnel {number}");
    }
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn a_tunnel_works_on_the_twentieth_connection_too() {
    echoes_in_every_tunnel(&Server::lab().workers(1).start());
}

#[test]
fn a_tunnel_works_when_its_call_ran_inline() {
    echoes_in_every_tunnel(&inline("lab"));
}

#[test]
fn a_detached_writer_is_held_back_by_a_client_that_does_not_read() {
    let server = inline("probe");
    let worker = server.workers()[0];
    let _client = taken(&server, "GET /flood HTTP/1.1\r\nHost: a\r\n\r\n");
    let written = || server.get("/written").text().parse::<u64>().unwrap();
    let (mut seen, mut since) = (0, Instant::now());
    until("the writer stands still", || {
        let memory = process::memory(worker) >> 20;
        assert!(memory < 100, "{memory} MiB in the worker after {seen} MiB written");
        let now = written();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(1)).then_some(())
    });
    assert!(seen < 100, "{seen} MiB were taken from the writer");
}

/// A call that lives for `ms` in the handler and whose client has reset the connection.
fn lingering(server: &Server, ms: u64) {
    let client = taken(server, format!("GET /linger?{ms} HTTP/1.1\r\nHost: a\r\n\r\n"));
    server.wait_for_log("probe: lingering");
    client.reset();
}

#[test]
fn worker_shutdown_is_left_out_when_a_call_outlives_the_stop() {
    let mut server = probe().start();
    lingering(&server, 60_000);
    server.stop(Signal::SIGTERM);
    let log = server.log();
    assert!(!log.contains("beside worker_shutdown"), "{log}");
    assert!(!log.contains("probe: worker_shutdown"), "{log}");
    server.wait_for_log("worker_shutdown is left out");
}

#[test]
fn worker_shutdown_comes_after_a_call_that_outlives_its_client() {
    let mut server = probe().start();
    lingering(&server, 400);
    server.stop(Signal::SIGTERM);
    let log = server.log();
    assert!(!log.contains("beside worker_shutdown"), "{log}");
    assert!(
        log.contains("probe: worker_shutdown") || log.contains("left out"),
        "{log}"
    );
}

#[test]
fn a_reload_does_not_shut_a_module_down_beside_its_call() {
    let server = probe().start();
    let old = server.workers()[0];
    lingering(&server, 60_000);
    server.signal(Signal::SIGHUP);
    server.wait_for_workers("another worker alone", |pids| pids.len() == 1 && pids[0] != old);
    assert!(!server.log().contains("beside worker_shutdown"), "{}", server.log());
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn a_pinned_module_is_shut_down_on_the_thread_that_began_it() {
    let folder = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(root().join("tests/handlers/c/pinned_shutdown.c")).unwrap();
    let mut server = Server::with(modules::c(folder.path(), "pinned", &source))
        .workers(1)
        .start();
    assert_eq!(server.get("/").status, 200);
    server.stop(Signal::SIGTERM);
    assert!(server.log().contains("shut down at home"), "{}", server.log());
    assert!(!server.log().contains("strange thread"), "{}", server.log());
}

#[test]
fn a_release_callback_may_ask_about_its_call_and_let_go_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(root().join("tests/handlers/c/release_calls_back.c")).unwrap();
    let mut server = Server::with(modules::c(folder.path(), "release", &source))
        .workers(1)
        .start();
    let mut client = server.client();
    for _ in 0..12 {
        assert_eq!(client.get("/").unwrap().text(), "chunk\n");
        assert_eq!(client.get("/iter").unwrap().text(), "chunk\nchunk\nchunk\n");
        assert_ne!(client.get("/replaced").unwrap().text(), "");
    }
    for _ in 0..3 {
        let late = server.client().get("/late");
        assert!(matches!(late, Err(Failure::Cut(_) | Failure::Broken(_))), "{late:?}");
    }
    // Clients that leave at once: the chunks of these are released unsent.
    for target in ["/", "/iter"] {
        taken(&server, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).reset();
    }
    assert_eq!(server.get("/").text(), "chunk\n");
    server.stop(Signal::SIGTERM);
}

#[test]
fn a_tunnel_whose_client_never_reads_is_cut_after_the_write_timeout() {
    let server = Server::lab()
        .workers(1)
        .config("[timeouts]\nwrite = \"500ms\"\n")
        .start();
    let mut client = taken(&server, UPGRADE);
    assert_eq!(client.reply().unwrap().status, 101);
    let piece = vec![b'z'; 64 * 1024];
    let start = Instant::now();
    // Sending stops when the buffers of both directions are full; from then on only the cut can end it.
    let error = within(PATIENCE, || client.send(&piece).err());
    let kind = error.expect("the server cuts the tunnel").kind();
    assert!(
        matches!(
            kind,
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
        ),
        "{kind:?} after {:?}",
        start.elapsed()
    );
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn a_finished_tunnel_is_ok_in_the_access_log_with_its_bytes() {
    let server = json_log("");
    for number in 0..20 {
        let mut client = taken(&server, UPGRADE.replace("/upgrade", &format!("/upgrade?n={number}.")));
        assert_eq!(client.reply().unwrap().status, 101);
        client.send("twelve bytes").unwrap();
        client.half_close();
        assert_eq!(client.rest().unwrap(), b"twelve bytes");
    }
    for number in 0..20 {
        let line = line(&server, &format!("/upgrade?n={number}."));
        let told = (
            line["status"].as_str(),
            line["outcome"].as_str(),
            line["bytes"].as_str(),
        );
        assert_eq!(told, ("101", "ok", "12"), "{line:#?}");
    }
}

#[test]
fn an_upgrade_that_was_not_asked_for_in_full_is_refused() {
    let server = Server::lab().workers(1).start();
    let without = ["", "Connection: close\r\n", "Connection: keep-alive\r\n"];
    for field in without {
        let mut client = server.client();
        client
            .send(format!(
                "GET /upgrade HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\n{field}\r\n"
            ))
            .unwrap();
        assert_eq!(client.reply().unwrap().status, 426, "{field:?}");
    }
    for length in [5, 300_000] {
        let mut client = server.client();
        let head = UPGRADE.replace("GET", "POST");
        let head = head.replace("\r\n\r\n", &format!("\r\nContent-Length: {length}\r\n\r\n"));
        // The server may answer and close before all of it went.
        let _ = client.send([head.as_bytes(), &vec![b'x'; length]].concat());
        match client.reply() {
            Ok(reply) => assert_ne!(reply.status, 101, "a body of {length} bytes"),
            Err(failure) => assert!(matches!(failure, Failure::Broken(_)), "{failure}"),
        }
    }
}

#[test]
fn a_client_that_breaks_off_in_its_body_leaves_a_line_with_its_request() {
    let server = json_log("");
    for (length, part) in [(100, 10), (300_000, 100_000)] {
        for (way, leave) in [("reset", Client::reset as fn(Client)), ("end", drop)] {
            let target = format!("/hash?{length}-{way}");
            let mut request =
                format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").into_bytes();
            request.resize(request.len() + part, b'x');
            leave(taken(&server, request));
            let line = line(&server, &target);
            assert_eq!(
                (line["method"].as_str(), line["target"].as_str()),
                ("POST", target.as_str())
            );
            // One that only ended its side early may still be told so, which is an answer.
            let told = way == "end" && line["status"].starts_with('4');
            assert!(told || line["outcome"] != "ok", "{line:#?}");
        }
    }
}

#[test]
fn a_quick_stop_in_a_body_leaves_a_line_with_its_request() {
    let mut server = json_log("");
    let clients = [(100, 10), (300_000, 100_000)].map(|(length, part)| {
        let head = format!("POST /hash?cut={length}. HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        taken(&server, [head.as_bytes(), &vec![b'x'; part]].concat())
    });
    server.stop(Signal::SIGINT);
    for target in ["/hash?cut=100.", "/hash?cut=300000."] {
        let line = line(&server, target);
        assert_eq!(
            (line["method"].as_str(), line["target"].as_str()),
            ("POST", target),
            "{line:#?}"
        );
        assert_ne!(line["outcome"], "ok", "{line:#?}");
    }
    drop(clients);
}

#[test]
fn the_calls_of_a_killed_worker_have_their_lines() {
    let server = json_log("");
    let worker = server.workers()[0];
    let clients = ["/hang?first", "/sleep?ms=60000"]
        .map(|target| taken(&server, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")));
    // The one worker answers in the order it reads, so those calls have begun.
    assert_eq!(server.get("/").status, 200);
    process::signal(worker, Signal::SIGKILL);
    for target in ["/hang?first", "/sleep?ms=60000"] {
        let line = line(&server, target);
        assert_eq!(
            (
                line["method"].as_str(),
                line["target"].as_str(),
                line["outcome"].as_str()
            ),
            ("GET", target, "killed"),
            "{line:#?}"
        );
        assert_eq!(line["pid"], worker.to_string());
    }
    drop(clients);
}

#[test]
fn a_worker_has_one_number_in_ps_in_the_log_and_in_the_environ() {
    let config = "[log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n";
    let server = Server::lab().workers(3).config(config).start();
    let mut numbers = BTreeMap::new();
    until("every worker has answered", || {
        let target = format!("/environ?ask={}.", numbers.len());
        let environ = json::object(&server.get(&target).text());
        let number = environ["appserver.worker"].clone();
        numbers.insert(number, environ["appserver.request_id"].clone());
        (numbers.len() == 3).then_some(())
    });
    for (number, id) in &numbers {
        let line = line(&server, id);
        assert_eq!(&line["worker"], number, "{line:#?}");
        let title = process::title(line["pid"].parse().unwrap());
        assert!(title.starts_with(&format!("appserver: worker {number} ")), "{title}");
    }
    let numbers: Vec<&str> = numbers.keys().map(String::as_str).collect();
    assert_eq!(numbers, ["1", "2", "3"]);
}
