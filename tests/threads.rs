//! The handler threads of a worker: how many there are, and when.
//!
//! Takes a worker that was asked nothing, short calls, or slow ones at once; gives the threads that /proc shows, by their names. What
//! a thread is held by stands in dispatch.rs.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::client::Client;
use crate::support::server::Server;
use crate::support::wait::until;

const MOST: usize = 4;

/// One worker that nobody has asked for anything: that of a second generation.
fn fresh() -> (Server, i32) {
    let server = Server::lab().workers(1).arg("--threads").arg(MOST.to_string()).start();
    let first = server.workers()[0];
    server.signal(Signal::SIGHUP);
    server.wait_for_log("(generation 2), reload complete");
    let workers = server.wait_for_workers("the first has left", |pids| pids.len() == 1 && pids[0] != first);
    (server, workers[0])
}

/// Its handler threads.
fn handlers(pid: i32) -> usize {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        panic!("{pid} has gone")
    };
    let names = tasks.flatten().map(|task| fs::read_to_string(task.path().join("comm")));
    names.flatten().filter(|name| name.trim() == "handler").count()
}

fn sleepers(server: &Server, count: usize) -> Vec<Client> {
    let send = |_| {
        let mut client = server.client();
        client.send("GET /sleep?ms=400 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        client
    };
    (0..count).map(send).collect()
}

fn all_slept(clients: &mut [Client]) {
    for client in clients {
        assert_eq!(client.reply().unwrap().text(), "slept 400 ms\n");
    }
}

#[test]
fn handler_threads_are_started_by_slow_calls_alone_and_never_more_than_allowed() {
    let (server, worker) = fresh();
    assert_eq!(handlers(worker), 0, "it was asked nothing");
    let mut two = sleepers(&server, 2);
    until("each call has a thread", || (handlers(worker) == 2).then_some(()));
    let mut more = sleepers(&server, 3 * MOST);
    until("there are as many as allowed", || {
        (handlers(worker) == MOST).then_some(())
    });
    for client in two.iter_mut().chain(&mut more) {
        all_slept(std::slice::from_mut(client));
        assert!(handlers(worker) <= MOST);
    }
}

#[test]
fn short_calls_leave_no_handler_thread_behind_and_slow_ones_neither() {
    let (server, worker) = fresh();
    let mut client = server.client();
    for _ in 0..500 {
        assert_eq!(client.get("/").unwrap().status, 200);
    }
    until("what was needed to see that the path is short has ended", || {
        (handlers(worker) == 0).then_some(())
    });
    all_slept(&mut sleepers(&server, MOST));
    assert_eq!(handlers(worker), MOST);
    until("all have ended", || (handlers(worker) == 0).then_some(()));
    all_slept(&mut sleepers(&server, 1));
}
