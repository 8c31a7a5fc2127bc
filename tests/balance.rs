//! How connections are spread over the workers, and what a worker at its limit leaves to the others.
//!
//! Takes connections opened one by one and held; gives the worker that serves each, by its process id. What an accepted connection
//! costs is for the bench.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::support::admin::{admin, status};
use crate::support::client::{Client, Reply};
use crate::support::server::{Listen, Server};
use crate::support::wait::until;

const WORKERS: usize = 10;
const HELD: usize = 100;
/// Connections beyond what one worker may hold.
const FURTHER: usize = 20;

fn pid(reply: &Reply) -> i32 {
    reply.text().trim().parse().unwrap()
}

/// A new connection and the worker that serves it.
fn open(server: &Server) -> (Client, i32) {
    let mut client = server.client();
    let pid = pid(&client.get("/pid").unwrap());
    (client, pid)
}

/// Connections that one worker serves, as many as wanted; those that another took are closed.
fn all_at_one(server: &Server, wanted: usize) -> (Vec<Client>, i32) {
    let (first, worker) = open(server);
    let mut held = vec![first];
    until("one worker has them all", || {
        if held.len() < wanted {
            let (client, other) = open(server);
            held.extend((other == worker).then_some(client));
        }
        (held.len() == wanted).then_some(())
    });
    (held, worker)
}

/// Jain's index of fairness: 1 when all have the same, 1/n when one has all (Jain, Chiu and Hawe 1984).
fn jain(counts: &[usize]) -> f64 {
    let sum: usize = counts.iter().sum();
    let squares: usize = counts.iter().map(|count| count * count).sum();
    (sum * sum) as f64 / (counts.len() * squares) as f64
}

fn spreads_evenly(listen: Listen) {
    let server = Server::lab().workers(WORKERS).listen(listen).start();
    server.wait_for_log(&format!("ready: {WORKERS} workers"));
    let held: Vec<(Client, i32)> = (0..HELD).map(|_| open(&server)).collect();
    let mut counts: BTreeMap<i32, usize> = server.workers().into_iter().map(|pid| (pid, 0)).collect();
    for (_, pid) in &held {
        *counts.get_mut(pid).expect("it is a worker") += 1;
    }
    let counts: Vec<usize> = counts.into_values().collect();
    assert_eq!(counts.len(), WORKERS);
    assert!(jain(&counts) >= 0.95, "{:.3}: {counts:?}", jain(&counts));
}

#[test]
fn a_hundred_held_connections_are_spread_evenly_over_ten_workers() {
    spreads_evenly(Listen::Tcp);
}

#[test]
fn a_hundred_held_connections_on_a_unix_socket_are_spread_evenly_over_ten_workers() {
    spreads_evenly(Listen::Unix);
}

/// All of these are promptly served, and not by `full`.
fn others_serve(server: &Server, full: i32) {
    for further in 0..FURTHER {
        let began = Instant::now();
        let (client, other) = open(server);
        let took = began.elapsed();
        assert_ne!(other, full, "connection {further}");
        assert!(took < Duration::from_secs(3), "connection {further} took {took:?}");
        drop(client);
    }
}

#[test]
fn a_worker_with_all_the_connections_it_may_have_leaves_new_ones_to_the_others() {
    for listen in [Listen::Tcp, Listen::Unix] {
        let server = Server::lab()
            .workers(2)
            .listen(listen)
            .config("[limits]\nconnections = 5\n")
            .start();
        let (mut held, full) = all_at_one(&server, 5);
        others_serve(&server, full);
        // It takes its turn again once it has room.
        held.truncate(4);
        until("the one that was full serves again", || {
            (open(&server).1 == full).then_some(())
        });
        for client in &mut held {
            assert_eq!(pid(&client.get("/pid").unwrap()), full);
        }
    }
}

#[test]
fn a_worker_with_all_the_calls_it_may_have_leaves_new_connections_to_the_others() {
    let server = Server::lab()
        .workers(2)
        .config("[limits]\nin-flight = 3\n[admin]\nbind = \"127.0.0.1:0\"\n")
        .start();
    let admin = admin(&server);
    let (mut busy, full) = all_at_one(&server, 3);
    // Long enough for whoever accepts to have gone to sleep before the calls come.
    for client in &mut busy {
        assert_eq!(client.get("/sleep?ms=20").unwrap().status, 200);
    }
    for client in &mut busy {
        client.send("GET /sleep?ms=4000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    until("its calls have begun", || {
        let status = status(&admin);
        let workers = status["workers"].as_array().expect("they are listed");
        workers.iter().any(|worker| worker["in_flight"] == 3).then_some(())
    });
    others_serve(&server, full);
    for client in &mut busy {
        client.patience(Duration::from_secs(20));
        assert_eq!(client.reply().unwrap().text(), "slept 4000 ms\n");
    }
    until("the one that was full serves again", || {
        (open(&server).1 == full).then_some(())
    });
}
