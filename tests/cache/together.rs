//! Many who want the same at once: the handler is asked once, and nobody waits for a worker that has died.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{cached, calls, get, is_hit};
use crate::support::client::Client;
use crate::support::server::Server;
use crate::support::wait::until;

/// Clients that have all asked before any of them looks for its answer.
fn all_ask(server: &Server, count: usize, target: &str) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| server.client()).collect();
    for client in &mut clients {
        client
            .send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"))
            .unwrap();
    }
    clients
}

#[test]
fn a_thousand_who_want_the_same_at_once_cost_one_call() {
    let server = cached(10, "").start();
    let target = "/cache?max_age=60&delay_ms=300&count=stampede";
    let mut clients = all_ask(&server, 1000, target);
    let bodies: std::collections::BTreeSet<_> = clients.iter_mut().map(|client| client.reply().unwrap().body).collect();
    assert_eq!(bodies.len(), 1);
    assert_eq!(calls(&server, "stampede"), 1);
}

#[test]
fn who_waits_for_a_worker_that_dies_asks_again_at_once() {
    let server = cached(4, "wait = \"60s\"\n").start();
    let target = "/cache?max_age=60&delay_ms=1000&count=death";
    let mut first = server.client();
    let maker: i32 = first.get("/pid").unwrap().text().trim().parse().unwrap();
    first
        .send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"))
        .unwrap();
    until("it is being made", || (calls(&server, "death") == 1).then_some(()));
    let mut others: Vec<Client> = all_ask(&server, 200, target);
    kill(Pid::from_raw(maker), Signal::SIGKILL).unwrap();
    let began = Instant::now();
    let mut answered = 0;
    for client in &mut others {
        // Those that the dead worker had taken have died with it.
        answered += u32::from(client.reply().is_ok_and(|reply| reply.status == 200));
    }
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "they waited {:?}",
        began.elapsed()
    );
    assert!(answered >= 50, "{answered}");
    assert_eq!(
        calls(&server, "death"),
        2,
        "one of those who waited asked again, and the others waited for that"
    );
}

#[test]
fn what_is_not_kept_is_not_made_one_after_the_other() {
    let server = cached(2, "").start();
    let target = "/cache?private=1&delay_ms=400&count=alone";
    get(&server, target, "");
    let began = Instant::now();
    let mut clients = all_ask(&server, 8, target);
    clients.iter_mut().for_each(|client| drop(client.reply().unwrap()));
    assert_eq!(calls(&server, "alone"), 9);
    // One after the other would take 3.2 s.
    assert!(began.elapsed() < Duration::from_millis(2800), "{:?}", began.elapsed());
}

#[test]
fn what_has_to_be_asked_about_each_time_is_not_asked_one_after_the_other() {
    let server = cached(2, "").start();
    for (target, fields) in [
        ("/cache?max_age=0&etag=a&delay_ms=400&count=each", ""),
        ("/cache?max_age=0&delay_ms=400&count=useless", ""),
        (
            "/cache?max_age=60&delay_ms=400&count=wanted",
            "Cache-Control: no-cache\r\n",
        ),
    ] {
        get(&server, target, fields);
        let began = Instant::now();
        let mut clients: Vec<Client> = (0..8).map(|_| server.client()).collect();
        for client in &mut clients {
            client
                .send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"))
                .unwrap();
        }
        clients.iter_mut().for_each(|client| drop(client.reply().unwrap()));
        // One after the other would take 3.2 s.
        assert!(
            began.elapsed() < Duration::from_millis(2800),
            "{target}: {:?}",
            began.elapsed()
        );
    }
}

#[test]
fn who_has_waited_long_enough_asks_for_itself() {
    let server = cached(2, "wait = \"200ms\"\n").start();
    let target = "/cache?max_age=60&delay_ms=2000&count=patience";
    let mut clients = all_ask(&server, 4, target);
    clients
        .iter_mut()
        .for_each(|client| assert_eq!(client.reply().unwrap().status, 200));
    assert_eq!(calls(&server, "patience"), 4);
    assert!(is_hit(&get(&server, target, "")));
}
