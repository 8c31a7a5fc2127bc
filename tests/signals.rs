//! Gunicorn's signals, and what each does to requests in flight.
//!
//! Takes signals to the master and to workers; gives exit codes, pids before and after, and the answers of calls that
//! were running. A stop under a storm of connections is in drain.rs.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::client::Client;
use crate::support::modules::module;
use crate::support::process;
use crate::support::server::{Listen, Server};
use crate::support::wait::until;

/// Far below the 30 s that a drain may take.
const QUICK: Duration = Duration::from_secs(8);

/// A call that the server has taken: its request has left the kernel's queue.
fn call(server: &Server, target: &str) -> Client {
    let mut client = server.client();
    client
        .send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .unwrap();
    until("the server has read the request", || client.taken().then_some(()));
    client
}

#[test]
fn term_int_and_quit_stop_the_server_with_code_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        for listen in [Listen::Tcp, Listen::Unix] {
            Server::lab().listen(listen).start().stop(signal);
        }
    }
}

#[test]
fn an_old_server_leaves_the_socket_file_of_its_successor_alone() {
    let folder = tempfile::tempdir().unwrap();
    let bind = format!("unix:{}", folder.path().join("app.sock").display());
    let start = || {
        Server::lab()
            .workers(1)
            .listen(Listen::AsConfigured)
            .arg("--bind")
            .arg(&bind)
            .start()
    };
    let mut old = start();
    let mut held = old.client();
    held.send("GET /sleep?ms=1500 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    old.signal(Signal::SIGTERM);
    old.wait_for_log("stopping gracefully");
    let new = start();
    assert_eq!(held.reply().unwrap().status, 200);
    assert!(old.wait_for_exit(Duration::from_secs(10)).success());
    assert_eq!(new.get("/").status, 200);
}

#[test]
fn the_socket_file_goes_with_the_server() {
    let mut server = Server::lab().listen(Listen::Unix).start();
    let path = server.folder().join("app.sock");
    assert!(path.exists());
    server.stop(Signal::SIGTERM);
    assert!(!path.exists());
}

#[test]
fn term_waits_for_the_call_in_flight() {
    let mut server = Server::lab().start();
    let mut client = call(&server, "/sleep?ms=3000");
    server.signal(Signal::SIGTERM);
    let reply = client.reply().unwrap();
    assert_eq!((reply.status, reply.closes()), (200, true));
    assert_eq!(server.wait_for_exit(Duration::from_secs(10)).code(), Some(0));
}

#[test]
fn idle_connections_hold_no_stop() {
    let mut server = Server::lab().start();
    let mut idle: Vec<Client> = (0..20).map(|_| server.client()).collect();
    for client in &mut idle {
        client.get("/").unwrap();
    }
    let silent = server.client();
    let start = Instant::now();
    server.stop(Signal::SIGTERM);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        start.elapsed()
    );
    drop((idle, silent));
}

#[test]
fn int_and_quit_do_not_wait_for_a_call_that_hangs() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let mut server = Server::lab().start();
        let _client = call(&server, "/hang");
        server.signal(signal);
        server.wait_for_exit(QUICK);
    }
}

#[test]
fn a_second_term_does_not_wait_either() {
    let mut server = Server::lab().start();
    let _client = call(&server, "/hang");
    let start = Instant::now();
    // Two signals that are pending at once are one (signal(7)), so it is asked until it goes.
    until("the server leaves", || {
        process::signal(server.master(), Signal::SIGTERM);
        server.exited()
    });
    assert!(start.elapsed() < QUICK, "it took {:?}", start.elapsed());
}

#[test]
fn a_drain_is_bounded_by_its_timeout() {
    let mut server = Server::lab().config("[timeouts]\ndrain = \"500ms\"\n").start();
    let _client = call(&server, "/hang");
    server.signal(Signal::SIGTERM);
    server.wait_for_exit(QUICK);
}

#[test]
fn ttin_and_ttou_change_the_number_of_workers_and_leave_the_last() {
    let server = Server::lab().workers(2).start();
    for wanted in [3, 4] {
        server.signal(Signal::SIGTTIN);
        server.wait_for_workers("one more", |pids| pids.len() == wanted);
    }
    for wanted in [3, 2, 1] {
        server.signal(Signal::SIGTTOU);
        server.wait_for_workers("one fewer", |pids| pids.len() == wanted);
    }
    server.signal(Signal::SIGTTOU);
    // Two signals that are pending at once have no order (signal(7)), so this one must have had its effect first.
    until("the last one was asked to stay", || {
        (server.log().matches(" 1 workers wanted").count() == 2).then_some(())
    });
    server.signal(Signal::SIGTTIN);
    server.wait_for_workers("the last one stayed", |pids| pids.len() == 2);
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn ttou_finishes_the_calls_of_the_worker_that_leaves() {
    let server = Server::lab().workers(2).start();
    let mut clients: Vec<Client> = (0..6).map(|_| call(&server, "/sleep?ms=1000")).collect();
    server.signal(Signal::SIGTTOU);
    for client in &mut clients {
        assert_eq!(client.reply().unwrap().status, 200);
    }
    server.wait_for_workers("one has left", |pids| pids.len() == 1);
}

#[test]
fn usr1_reopens_the_logs() {
    let server = Server::lab()
        .config("[log]\nfile = \"DIR/error.log\"\naccess = \"DIR/access.log\"\n")
        .listen(Listen::Unix)
        .start();
    let (access, moved) = (server.folder().join("access.log"), server.folder().join("access.log.1"));
    server.get("/?before");
    until("the first line", || {
        server.read("access.log").contains("/?before").then_some(())
    });
    fs::rename(&access, &moved).unwrap();
    fs::rename(server.folder().join("error.log"), server.folder().join("error.log.1")).unwrap();
    server.signal(Signal::SIGUSR1);
    until("new files", || {
        (access.exists() && server.folder().join("error.log").exists()).then_some(())
    });
    until("a line in the new file", || {
        server.get("/?after");
        server.read("access.log").contains("/?after").then_some(())
    });
    assert!(!server.read("access.log").contains("/?before"));
}

#[test]
fn hup_replaces_every_worker_and_drops_no_call() {
    let server = Server::lab().workers(3).start();
    let before = server.workers();
    let mut client = call(&server, "/sleep?ms=800");
    server.signal(Signal::SIGHUP);
    assert_eq!(client.reply().unwrap().status, 200);
    server.wait_for_workers("three others", |pids| {
        pids.len() == 3 && pids.iter().all(|pid| !before.contains(pid))
    });
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn hup_with_a_module_that_does_not_load_keeps_the_old_workers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.so");
    fs::copy(module("lab"), &path).unwrap();
    let server = Server::with(&path).start();
    let before = server.workers();
    fs::write(&path, "not a library").unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("ELF");
    for _ in 0..20 {
        assert_eq!(server.get("/").status, 200);
    }
    assert_eq!(server.workers(), before);

    fs::copy(module("lab"), &path).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_workers("the next try works", |pids| {
        pids.len() == 2 && pids.iter().all(|p| !before.contains(p))
    });
}

#[test]
fn workers_ignore_what_a_terminal_sends_to_the_group() {
    let server = Server::lab().workers(2).start();
    let before = server.workers();
    for &pid in &before {
        for signal in ["INT", "HUP", "USR1", "USR2", "WINCH", "TTIN", "TTOU"] {
            process::signal(pid, format!("SIG{signal}").parse().unwrap());
        }
    }
    for _ in 0..20 {
        assert_eq!(server.get("/").status, 200);
    }
    assert_eq!(server.workers(), before);
}

#[test]
fn term_to_a_worker_drains_and_replaces_it() {
    let server = Server::lab().workers(1).start();
    let old = server.workers()[0];
    let mut client = call(&server, "/sleep?ms=600");
    process::signal(old, Signal::SIGTERM);
    assert_eq!(client.reply().unwrap().status, 200);
    server.wait_for_workers("a new one", |pids| pids.len() == 1 && pids[0] != old);
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn a_term_during_the_first_boot_acts_at_once() {
    let mut server = Server::lab().arg("--arg").arg("boot=slow:20000").launch();
    server.wait_for_workers("the boot has begun", |pids| !pids.is_empty());
    let start = Instant::now();
    server.signal(Signal::SIGTERM);
    server.wait_for_exit(Duration::from_secs(10));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        start.elapsed()
    );
}
