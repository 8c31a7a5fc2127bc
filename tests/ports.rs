//! Several servers on one TCP port, by `reuse-port`.
//!
//! Takes two servers whose listeners have the same address; gives who answers there, what the logs warn of, what becomes of the
//! callers when one of the two stops, and the findings where it cannot be. How the kernel deals them out is its own business.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};

use nix::sys::signal::Signal;

use crate::support::builder::Builder;
use crate::support::client::Address;
use crate::support::modules::module;
use crate::support::server::{Listen, Server};
use crate::support::wait::until;

/// Connections of which each of two servers gets some: that one gets none comes to pass once in 2^59 times.
const ENOUGH: usize = 60;
const WARNING: &str = "other servers of the same user may listen on";

fn text(address: SocketAddr, more: &str) -> String {
    let lab = module("lab");
    format!("workers = 2\nmodule = {lab:?}\n[[listener]]\nbind = \"{address}\"\n{more}\n")
}

fn on(address: SocketAddr, more: &str) -> Builder {
    Server::bare().listen(Listen::AsConfigured).config(&text(address, more))
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn address(server: &Server) -> SocketAddr {
    match server.address() {
        Address::Tcp(address) => *address,
        Address::Unix(_) => unreachable!("it listens on TCP"),
    }
}

/// Who answers there, over so many connections.
fn answering(server: &Server) -> BTreeSet<i32> {
    let pids = (0..ENOUGH).map(|_| server.get("/pid").text().trim().parse().unwrap());
    pids.collect()
}

fn serves(server: &Server, answering: &BTreeSet<i32>) -> bool {
    server.workers().iter().any(|pid| answering.contains(pid))
}

/// What a configuration is said to be: exit code and text.
fn check(config: &str, how: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("appserver.toml");
    let text = format!("module = {:?}\n{config}", module("hello"));
    fs::write(&file, text).unwrap();
    let output = Server::run(&[how, "--config", file.to_str().unwrap()]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn two_servers_that_both_want_it_share_a_port_and_each_warns_of_it() {
    let first = on(any(), "reuse-port = true").start();
    let second = on(address(&first), "reuse-port = true").start();
    for server in [&first, &second] {
        let line = server.wait_for_log(WARNING);
        assert!(
            line.contains("WARN") && line.contains(&address(&first).to_string()),
            "{line}"
        );
    }
    let answering = answering(&first);
    assert!(
        serves(&first, &answering) && serves(&second, &answering),
        "{answering:?}: {:?} and {:?}",
        first.workers(),
        second.workers()
    );
}

#[test]
fn callers_of_a_shared_port_are_all_answered_when_one_of_the_servers_stops() {
    let mut first = on(any(), "reuse-port = true").start();
    let second = on(address(&first), "reuse-port = true").start();
    let mut open: Vec<_> = (0..ENOUGH).map(|_| second.client()).collect();
    first.signal(Signal::SIGTERM);
    for client in &mut open {
        assert_eq!(client.get("/").unwrap().status, 200);
    }
    // Whom the kernel still deals to the one that stops hears nothing until it has left, and tries again.
    for _ in 0..ENOUGH {
        assert_eq!(second.get("/").status, 200);
    }
    drop(open);
    assert_eq!(first.wait_for_exit(crate::support::wait::PATIENCE).code(), Some(0));
    assert!(answering(&second).iter().all(|pid| second.workers().contains(pid)));
}

#[test]
fn a_port_is_refused_to_a_second_server_unless_both_share_it() {
    let alone = on(any(), "").start();
    let taken = address(&alone);
    let (code, log) = on(taken, "").fail();
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("address already in use; stop the server"), "{log}");
    let (code, log) = on(taken, "reuse-port = true").fail();
    assert_eq!(code, Some(3), "{log}");
    assert!(
        log.contains("address already in use") && log.contains("both need `reuse-port = true`"),
        "{log}"
    );
    assert!(!alone.log().contains("reuse-port"), "{}", alone.log());
    let shares = on(any(), "reuse-port = true").start();
    let (code, log) = on(address(&shares), "").fail();
    assert_eq!(code, Some(3), "{log}");
}

#[test]
fn a_reload_that_changes_it_says_that_the_open_listener_stays_as_it_is() {
    for (before, after) in [("", "reuse-port = true"), ("reuse-port = true", "")] {
        let server = on(any(), before).start();
        fs::write(server.folder().join("appserver.toml"), text(any(), after)).unwrap();
        server.signal(Signal::SIGHUP);
        server.wait_for_log("(generation 2), reload complete");
        let line = server.wait_for_log("takes effect on");
        let wanted = format!("reuse-port = {}", !after.is_empty());
        assert!(
            line.contains("WARN") && line.contains(&wanted) && line.contains("stopped and started"),
            "{line}"
        );
        assert_eq!(server.get("/").status, 200);
    }
}

#[test]
fn a_listener_that_a_reload_adds_may_be_shared() {
    let server = on(any(), "").start();
    let other = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let added = format!("[[listener]]\nbind = \"{other}\"\nreuse-port = true");
    fs::write(server.folder().join("appserver.toml"), text(any(), &added)).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("(generation 2), reload complete");
    let line = server.wait_for_log(WARNING);
    assert!(line.contains(&other.to_string()), "{line}");
    let beside = on(other, "reuse-port = true").start();
    until("both answer", || {
        let answering = answering(&beside);
        (serves(&server, &answering) && serves(&beside, &answering)).then_some(())
    });
}

#[test]
fn a_socket_of_the_service_manager_is_not_shared_by_our_flag() {
    let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = theirs.local_addr().unwrap();
    let server = on(address, "reuse-port = true").pass("web", theirs.into()).start();
    let line = server.wait_for_log("reuse-port has no effect on");
    assert!(
        line.contains("WARN") && line.contains("write ReusePort=yes in its .socket unit"),
        "{line}"
    );
    assert!(!server.log().contains(WARNING), "{}", server.log());
}

#[test]
fn a_port_can_be_shared_by_a_listener_that_we_bind_and_by_no_other() {
    let check = |lines: &str| check(&format!("[[listener]]\n{lines}\n"), "--check-config");
    assert_eq!(check("bind = \"127.0.0.1:0\"\nreuse-port = true").0, Some(0));
    for (lines, line, said) in [
        (
            "bind = \"unix:app.sock\"\nreuse-port = true",
            4,
            ["`reuse-port` has no meaning for unix:app.sock", "leave the key out"],
        ),
        (
            "bind = \"fd://3\"\nreuse-port = true",
            4,
            ["`reuse-port` has no meaning for fd://3", "ReusePort=yes"],
        ),
        (
            "bind = \"127.0.0.1:0\"\nreuse-port = \"true\"",
            4,
            ["must be true or false, not \"true\"", "without quotes: true"],
        ),
        (
            "bind = \"127.0.0.1:0\"\nreuse_port = true",
            4,
            ["`reuse_port`", "`reuse-port`"],
        ),
        (
            "reuseport = true\nbind = \"127.0.0.1:0\"",
            3,
            ["`reuseport`", "`reuse-port`"],
        ),
    ] {
        let (code, all) = check(lines);
        assert_eq!(code, Some(4), "{all}");
        assert!(all.contains(&format!("appserver.toml:{line}:")), "{all}");
        for part in said {
            assert!(all.contains(part), "{part} in {all}");
        }
    }
    // It means nothing for them to be told that they are not.
    assert_eq!(check("bind = \"unix:app.sock\"\nreuse-port = false").0, Some(0));
}

#[test]
fn whether_a_port_is_shared_is_printed_with_its_origin() {
    let lines = "[[listener]]\nbind = \"127.0.0.1:1\"\nreuse-port = true\n[[listener]]\nbind = \"127.0.0.1:2\"\n";
    let (_, all) = check(lines, "--print-config");
    let printed: Vec<&str> = all.lines().filter(|line| line.starts_with("reuse-port")).collect();
    assert!(
        printed.len() == 2
            && printed[0].starts_with("reuse-port = true ")
            && printed[0].contains("appserver.toml:4")
            && printed[1].starts_with("reuse-port = false ")
            && printed[1].ends_with("# default"),
        "{printed:?}"
    );
}
