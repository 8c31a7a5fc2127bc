//! A stop under load loses no request.
//!
//! Takes a storm of new connections, a backlog of 200 that no worker has seen, and idle kept-alive clients; stops the
//! server in the middle and accounts for every request in the terms of design.md. `lost` must be 0, every time.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::client::Client;
use crate::support::process;
use crate::support::server::{Listen, Server};
use crate::support::storm::{Habit, Storm, Tally};
use crate::support::wait::{pause, until};

const ROUNDS: usize = 60;
const BACKLOG: usize = 200;
const IDLE: usize = 20;
const EARLY: u32 = 36;

#[test]
fn sixty_stops_over_tcp_lose_nothing() {
    stop_again_and_again(Listen::Tcp);
}

#[test]
fn sixty_stops_over_a_unix_socket_lose_nothing() {
    stop_again_and_again(Listen::Unix);
}

/// As when a process group is told to stop and the workers hear of it first. They ask their master how to leave, who does not know yet
/// why they do; the word that the queues are to be emptied comes later.
#[test]
fn workers_that_are_told_before_their_master_lose_nothing() {
    let mut all = Tally::default();
    for round in 0..EARLY {
        let early = Duration::from_millis(u64::from(round / 2 % 12));
        let listen = if round % 2 == 0 { Listen::Tcp } else { Listen::Unix };
        let tally = one_stop(listen, "/", Some(early));
        assert!(tally.lost.is_empty(), "round {round}, {early:?} early: {tally:?}");
        all.add(tally);
    }
    println!("{EARLY} stops: {all:?}");
}

fn stop_again_and_again(listen: Listen) {
    let mut all = Tally::default();
    for round in 0..ROUNDS {
        // Every other round asks for calls that take a moment, so that some are in flight on the pool.
        let target = if round % 2 == 0 { "/" } else { "/sleep?ms=5" };
        let tally = one_stop(listen, target, None);
        assert!(tally.lost.is_empty(), "round {round}: {tally:?}");
        all.add(tally);
    }
    println!("{ROUNDS} stops, {listen:?}: {all:?}");
    assert!(
        all.answered as usize > ROUNDS * BACKLOG,
        "the backlog was answered: {all:?}"
    );
}

/// `early` is how much earlier than their master the workers are told, if at all.
fn one_stop(listen: Listen, target: &str, early: Option<Duration>) -> Tally {
    let mut server = Server::lab().workers(2).listen(listen).start();
    let mut idle: Vec<Client> = (0..IDLE).map(|_| server.client()).collect();
    for client in &mut idle {
        assert_eq!(client.get("/").unwrap().status, 200);
    }
    let one_each = Storm::start(
        server.address(),
        4,
        &Habit {
            target: target.into(),
            per_connection: 1,
        },
    );
    let kept = Storm::start(
        server.address(),
        2,
        &Habit {
            target: target.into(),
            per_connection: 100,
        },
    );

    // Stopped workers accept nothing, so these wait in the kernel's queue when the stop begins.
    let workers = server.workers();
    for &pid in &workers {
        process::signal(pid, Signal::SIGSTOP);
        until("the worker stands", || (process::state(pid) == Some('T')).then_some(()));
    }
    let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut queued: Vec<Client> = (0..BACKLOG).map(|_| server.client()).collect();
    for client in &mut queued {
        client.send(&request).unwrap();
    }
    let tell = |signal| {
        for &pid in &workers {
            process::signal(pid, signal);
        }
    };
    match early {
        None => {
            server.signal(Signal::SIGTERM);
            tell(Signal::SIGCONT);
        }
        Some(early) => {
            tell(Signal::SIGTERM);
            tell(Signal::SIGCONT);
            // Not for luck: this is what is varied.
            pause(early);
            server.signal(Signal::SIGTERM);
        }
    }

    let mut tally = Tally::default();
    for client in &mut queued {
        tally.count("queued", client.reply(), false);
    }
    // What an idle client sends now crosses the server's close, unless it can see the close already.
    for client in &mut idle {
        if !client.ended() {
            tally.count("idle", client.get("/"), true);
        }
    }
    drop((idle, queued));
    let status = server.wait_for_exit(Duration::from_secs(20));
    assert_eq!(status.code(), Some(0), "{}", server.log());
    tally.add(one_each.end());
    tally.add(kept.end());
    tally
}

#[test]
fn a_listener_from_systemd_is_left_open_and_its_queue_waits_for_the_next_start() {
    // The test holds the listening socket as systemd does: a second server takes over where the first one stopped.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = crate::support::client::Address::Tcp(listener.local_addr().unwrap());
    let mut first = Server::lab().inherit(listener.try_clone().unwrap()).start();
    first.stop(Signal::SIGTERM);
    let mut waiting = Client::connect(&address).expect("the socket is still there");
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let _second = Server::lab().inherit(listener).start();
    assert_eq!(waiting.reply().unwrap().status, 200);
}
