//! What never ends: calls, clients, a worker that stands still.
//!
//! Takes the lab's `/hang`, slow clients and SIGSTOP; gives a 504 or 408 to whoever is late, and everybody else is served.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::faults::crashes::CROWD;
use crate::faults::fault::{Fault, faults};
use crate::faults::scene::{SOON, Scene};
use crate::support::client::Client;
use crate::support::process;
use crate::support::wait::until;

faults! {
    a_hung_call_is_a_504_and_its_worker_is_replaced => hang(one_hangs);
    a_hang_in_every_worker_at_once_holds_nobody_up => hang(all_hang);
    every_thread_of_a_worker_hung_holds_nobody_up => hang(threads_hang).set("", "threads", "2").honest();
    a_hang_with_one_thread_a_worker_holds_nobody_up => hang(only_thread_hangs).set("", "threads", "1").honest();
    a_hung_call_on_the_loop_itself_is_a_504 => hang(only_thread_hangs).set("mount", "dispatch", "\"inline\"").loses(CROWD).honest();
    a_hang_holds_no_reload_up => Fault::new(hang_and_hup).set("timeouts", "drain", "\"1s\"");
    a_stuck_call_is_told_with_its_request => hang(told);
    a_worker_that_stands_still_holds_only_its_own => Fault::new(stands_still);
    thirty_half_sent_heads_hold_nobody_up => Fault::new(half_heads).set("timeouts", "header", "\"500ms\"");
    thirty_half_sent_bodies_hold_nobody_up => Fault::new(half_bodies).set("timeouts", "body", "\"500ms\"");
    ten_clients_that_do_not_read_hold_nobody_up => Fault::new(unread)
        .set("log", "access", "\"DIR/access.log\"").set("log", "access-format", "\"json\"").set("timeouts", "write", "\"500ms\"");
}

/// A call may take half a second, and its worker a second more to finish the others.
fn hang(act: fn(&mut Scene)) -> Fault {
    let fault = Fault::new(act).set("timeouts", "request", "\"500ms\"");
    fault.set("timeouts", "drain", "\"1s\"")
}

/// An ordinary call is answered quickly, whoever hangs.
fn quick(scene: &Scene) {
    let start = Instant::now();
    assert_eq!(scene.server.get("/").status, 200);
    assert!(start.elapsed() < SOON / 5, "it took {:?}", start.elapsed());
}

/// The same where a call may have to wait behind one that hangs: it is told so, and the next is served.
fn soon(scene: &Scene) {
    let start = Instant::now();
    until("an ordinary call is answered", || {
        let reply = scene.server.get("/");
        assert!(matches!(reply.status, 200 | 503 | 504), "{reply:?}");
        (reply.status == 200).then_some(())
    });
    assert!(start.elapsed() < SOON / 5, "it took {:?}", start.elapsed());
}

fn only_thread_hangs(scene: &mut Scene) {
    let worker = scene.workers()[0];
    let mut client = scene.call_in(worker, "/hang");
    soon(scene);
    assert_eq!(client.reply().unwrap().status, 504);
    scene.replaced(worker);
}

fn one_hangs(scene: &mut Scene) {
    let worker = scene.workers()[0];
    let mut client = scene.call_in(worker, "/hang");
    quick(scene);
    assert_eq!(client.reply().unwrap().status, 504);
    scene.replaced(worker);
}

fn all_hang(scene: &mut Scene) {
    let workers = scene.workers();
    let mut hung: Vec<Client> = workers.iter().map(|&pid| scene.call_in(pid, "/hang")).collect();
    quick(scene);
    scene.work(100);
    for client in &mut hung {
        assert_eq!(client.reply().unwrap().status, 504);
    }
    workers.iter().for_each(|&pid| scene.replaced(pid));
}

fn threads_hang(scene: &mut Scene) {
    let worker = scene.workers()[0];
    // Connected before any hangs: a worker without a free thread need not answer another.
    let mut hung: Vec<Client> = (0..2).map(|_| scene.client_of(worker)).collect();
    for client in &mut hung {
        client.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        until("the server has read the request", || client.taken().then_some(()));
    }
    soon(scene);
    for client in &mut hung {
        assert_eq!(client.reply().unwrap().status, 504);
    }
    scene.replaced(worker);
}

fn hang_and_hup(scene: &mut Scene) {
    let worker = scene.workers()[0];
    let mut client = scene.call_in(worker, "/hang");
    let start = Instant::now();
    scene.server.signal(Signal::SIGHUP);
    until("the new generation serves", || {
        (scene.generations().iter().filter(|&&it| it == 2).count() == 2).then_some(())
    });
    assert!(start.elapsed() < SOON / 5, "it took {:?}", start.elapsed());
    scene.replaced(worker);
    assert_eq!(client.reply().unwrap().status, 503, "its drain has an end");
}

fn told(scene: &mut Scene) {
    let worker = scene.workers()[0];
    let mut client = scene.call_in(worker, "/hang");
    assert_eq!(client.reply().unwrap().status, 504);
    scene.replaced(worker);
    let expired = scene.server.wait_for_log("timeouts.request (500ms) expired");
    let stuck = scene.server.wait_for_log("a call is stuck");
    for line in [expired, stuck] {
        for word in ["GET", "/hang", "request_id="] {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
}

fn stands_still(scene: &mut Scene) {
    let worker = scene.workers()[0];
    process::signal(worker, Signal::SIGSTOP);
    until("it stands", || (process::state(worker) == Some('T')).then_some(()));
    // Whoever is connected to it waits; the other worker takes the rest.
    until("the other worker answers", || {
        let mut client = scene.server.client();
        client.patience(Duration::from_millis(200));
        client.get("/").ok()
    });
    process::signal(worker, Signal::SIGCONT);
    scene.work(100);
    assert!(process::alive(worker), "it goes on where it stood");
}

fn half_heads(scene: &mut Scene) {
    let late: Vec<Client> = (0..30)
        .map(|_| {
            let mut client = scene.server.client();
            client.send("GET / HTTP/1.1\r\nHos").unwrap();
            client
        })
        .collect();
    quick(scene);
    all_get(408, late);
}

fn half_bodies(scene: &mut Scene) {
    let late: Vec<Client> = (0..30)
        .map(|_| {
            let mut client = scene.server.client();
            client
                .send("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123")
                .unwrap();
            client
        })
        .collect();
    quick(scene);
    all_get(408, late);
}

fn all_get(status: u16, mut clients: Vec<Client>) {
    for client in &mut clients {
        assert_eq!(client.reply().unwrap().status, status);
    }
}

fn unread(scene: &mut Scene) {
    let late: Vec<Client> = (0..10)
        .map(|_| {
            let mut client = scene.server.client();
            client
                .send("GET /stream?chunks=100000&size=65536 HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap();
            client
        })
        .collect();
    quick(scene);
    until("all are given up, and told", || {
        let log = scene.server.read("access.log");
        let given_up = log
            .lines()
            .filter(|line| line.contains("/stream") && line.contains("aborted"));
        (given_up.count() == 10).then_some(())
    });
    for mut client in late {
        assert!(client.reply().is_err(), "it is never passed for whole");
    }
}
