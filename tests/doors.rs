//! Listeners that a reload adds, removes or changes.
//!
//! Takes a configuration whose [[listener]] tables are rewritten under load; gives who can connect where afterwards,
//! and that nobody on a listener that stays noticed.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::support::client::{Address, Client};
use crate::support::modules::module;
use crate::support::server::{Listen, Server};
use crate::support::storm::{Habit, Storm};
use crate::support::wait::until;

fn text(listeners: &str) -> String {
    let lab = module("lab");
    format!("workers = 2\nmodule = {lab:?}\n[control]\nsocket = \"DIR/control.sock\"\n{listeners}")
}

fn unix(name: &str) -> String {
    format!("[[listener]]\nbind = \"unix:DIR/{name}\"\n")
}

fn rewrite(server: &Server, listeners: &str) {
    let folder = server.folder().display().to_string();
    let text = text(listeners).replace("DIR", &folder);
    fs::write(server.folder().join("appserver.toml"), text).unwrap();
}

fn reload(server: &Server, generation: u64) {
    server.signal(Signal::SIGHUP);
    server.wait_for_log(&format!("(generation {generation}), reload complete"));
}

fn start(listeners: &str) -> Server {
    Server::bare()
        .workers(2)
        .listen(Listen::AsConfigured)
        .config(&text(listeners))
        .start()
}

#[test]
fn a_listener_added_and_removed_by_reloads_costs_no_request_on_the_one_that_stays() {
    let server = start(&unix("stays"));
    let stays = server.address().clone();
    let habits = [1, 1000].map(|per_connection| Habit {
        target: "/".into(),
        per_connection,
    });
    let storms = habits.map(|habit| Storm::start(&stays, 3, &habit));
    let comes = Address::Unix(server.folder().join("comes"));
    for round in 0..3 {
        rewrite(&server, &(unix("stays") + &unix("comes")));
        reload(&server, 2 + 2 * round);
        assert_eq!(Client::connect(&comes).unwrap().get("/").unwrap().status, 200);
        // Its last callers are served although the door is about to close.
        let idle = Client::connect(&comes).unwrap();
        rewrite(&server, &unix("stays"));
        reload(&server, 3 + 2 * round);
        until("the removed socket is gone", || {
            Client::connect(&comes)
                .err()
                .filter(|error| error.kind() == ErrorKind::NotFound)
        });
        drop(idle);
    }
    for tally in storms.map(Storm::end) {
        assert!(tally.answered > 0);
        assert_eq!(
            (tally.refused, tally.honest, tally.lost.len()),
            (0, 0, 0),
            "{:?}",
            tally.lost
        );
    }
}

#[test]
fn callers_queued_on_a_listener_that_a_reload_removes_are_served() {
    let server = start(&(unix("stays") + &unix("goes")));
    let goes = Address::Unix(server.folder().join("goes"));
    let storm = Storm::start(
        &goes,
        8,
        &Habit {
            target: "/sleep?ms=5".into(),
            per_connection: 1,
        },
    );
    until("the storm blows", || {
        server.try_get("/count").filter(|reply| reply.text().trim() != "0")
    });
    rewrite(&server, &unix("stays"));
    reload(&server, 2);
    let tally = storm.end();
    assert!(tally.answered > 0);
    assert_eq!((tally.honest, tally.lost.len()), (0, 0), "{:?}", tally.lost);
}

#[test]
fn a_reload_whose_new_listener_cannot_be_had_is_refused_and_leaves_nothing() {
    let server = start(&unix("stays"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    rewrite(
        &server,
        &(unix("stays") + &unix("first") + &format!("[[listener]]\nbind = \"{address}\"\n")),
    );
    server.signal(Signal::SIGHUP);
    server.wait_for_log("reload refused: cannot listen on");
    assert!(!server.folder().join("first").exists());
    assert_eq!(server.get("/generation").text().trim(), "1");
}

#[test]
fn a_refused_generation_takes_its_listener_with_it() {
    let server = start(&unix("stays"));
    rewrite(
        &server,
        &(unix("stays") + &unix("comes") + "[limits]\nbody = \"many\"\n"),
    );
    server.signal(Signal::SIGHUP);
    server.wait_for_log("reload refused");
    let mut doomed = text(&(unix("stays") + &unix("comes"))).replace("DIR", &server.folder().display().to_string());
    doomed = doomed.replace("module =", "#").to_owned()
        + &format!(
            "[[mount]]\npath = \"/\"\nmodule = {:?}\nargs = {{ boot = \"fail\" }}\n",
            module("lab")
        );
    fs::write(server.folder().join("appserver.toml"), doomed).unwrap();
    server.signal(Signal::SIGHUP);
    until("the second reload is refused", || {
        (server.log().matches("reload refused").count() == 2).then_some(())
    });
    assert!(!server.folder().join("comes").exists());
    assert_eq!(server.get("/generation").text().trim(), "1");
}

#[test]
fn mode_and_backlog_of_an_open_listener_are_changed_by_a_reload() {
    let server = start(&unix("stays"));
    let path = server.folder().join("stays");
    rewrite(&server, &(unix("stays") + "mode = \"0600\"\nbacklog = 7\n"));
    reload(&server, 2);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn a_tcp_listener_that_a_reload_removes_is_free_again_and_a_rollback_returns_to_it() {
    let [first, second] = free_ports();
    let tcp = |port: u16| format!("[[listener]]\nbind = \"127.0.0.1:{port}\"\n");
    let server = start(&tcp(first));
    let serves = |port: u16| {
        let address = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
        let reply = Client::connect(&address)
            .ok()
            .and_then(|mut client| client.get("/").ok());
        reply.is_some_and(|reply| reply.status == 200)
    };
    let refuses = |port: u16| {
        let refused = TcpStream::connect(("127.0.0.1", port)).err();
        refused.filter(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    rewrite(&server, &tcp(second));
    reload(&server, 2);
    assert!(serves(second));
    until("the first port is closed", || refuses(first));
    server.signal(Signal::SIGHUP);
    server.wait_for_log("(generation 3), reload complete");
    // Back by the file, and back again by memory.
    rewrite(&server, &tcp(first));
    reload(&server, 4);
    assert!(serves(first));
    until("the second port is closed", || refuses(second));
    let socket = server.folder().join("control.sock");
    let back = Server::run(&["rollback", "--control", socket.to_str().unwrap()]);
    assert!(back.status.success(), "{}", server.log());
    assert!(serves(second), "{}", server.log());
    until("the first port is closed again", || refuses(first));
}

#[test]
fn a_rollback_keeps_the_sockets_of_the_service_manager() {
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::lab()
        .inherit(ours)
        .config("[control]\nsocket = \"DIR/control.sock\"\n")
        .start();
    let socket = server.folder().join("control.sock");
    for verb in ["reload", "rollback", "rollback"] {
        let done = Server::run(&[verb, "--control", socket.to_str().unwrap()]);
        assert!(done.status.success(), "{verb}: {}", server.log());
        assert_eq!(server.get("/").status, 200, "{verb}: {}", server.log());
    }
    assert!(!server.log().contains("no longer listening"), "{}", server.log());
}

/// Two ports that nobody listens on.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
