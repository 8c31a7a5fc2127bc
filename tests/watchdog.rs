//! Handlers that do not come back.
//!
//! Takes the lab's hangs and sleeps, on the I/O thread and on the pool; gives what the caller gets, what the others on
//! the same worker get, and what the logs say. Every worker that hangs is replaced and in the end gone.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::admin;
use crate::support::client::{Client, Failure, Reply};
use crate::support::modules::module;
use crate::support::process;
use crate::support::server::Server;
use crate::support::wait::{PATIENCE, until};

/// Every call runs on the I/O thread.
fn inline(workers: usize, timeouts: &str) -> Server {
    Server::bare()
        .workers(workers)
        .config(&format!(
            "workers = {workers}\n[[mount]]\npath = \"/\"\nmodule = {:?}\ndispatch = \"inline\"\n\
             [log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n[timeouts]\n{timeouts}\n",
            module("lab")
        ))
        .start()
}

/// Every call runs on the one thread of the pool.
fn pooled(config: &str) -> Server {
    Server::lab()
        .workers(1)
        .config(&format!(
            "threads = 1\n[log]\nlevel = \"debug\"\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n{config}\n"
        ))
        .start()
}

fn ask(client: &mut Client, target: &str) {
    client
        .send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .unwrap();
}

fn pid(reply: &Reply) -> i32 {
    reply.text().trim().parse().unwrap()
}

/// The access lines of a target.
fn lines(server: &Server, target: &str) -> Vec<String> {
    let log = server.read("access.log");
    log.lines()
        .filter(|line| line.contains(&format!("\"target\":\"{target}\"")))
        .map(str::to_owned)
        .collect()
}

/// Two kept connections to one worker, and its pid.
fn neighbours(server: &Server) -> (Client, Client, i32) {
    let mut known: Vec<(i32, Client)> = Vec::new();
    loop {
        let mut client = server.client();
        let pid = pid(&client.get("/pid").unwrap());
        if let Some(at) = known.iter().position(|(other, _)| *other == pid) {
            return (known.swap_remove(at).1, client, pid);
        }
        known.push((pid, client));
    }
}

fn gone(server: &Server, pid: i32) {
    until(&format!("{pid} is gone:\n{}", server.log()), || {
        (!process::alive(pid)).then_some(())
    });
}

#[test]
fn a_hang_on_the_io_thread_is_a_504_in_time_with_one_access_line_and_a_record() {
    let server = inline(2, "request = \"1s\"\ndrain = \"2s\"");
    let mut client = server.client();
    let hung = pid(&client.get("/pid").unwrap());
    let began = Instant::now();
    ask(&mut client, "/hang?first");
    let reply = client.reply().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!((reply.status, reply.closes()), (504, true));
    assert_eq!(reply.text(), "The handler did not answer in time.\n");
    assert_eq!(client.rest().unwrap(), b"");

    let record = server.wait_for_log("a call is stuck");
    for part in [
        "method=GET",
        "path=/hang",
        "request_id=",
        "age_ms=",
        "worker=",
        "generation=1",
        "thread=runtime",
        &format!("tid={hung}"),
        "ERROR",
    ] {
        assert!(record.contains(part), "{part} in {record}");
    }
    let line = server.wait_for_log("timeouts.request (1s) expired");
    for part in ["timeout=request", "remote=127.0.0.1", "request_id=", "path=/hang"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let line = until("its access line", || lines(&server, "/hang?first").pop());
    assert!(
        line.contains("\"status\":504") && line.contains("\"outcome\":\"timeout\""),
        "{line}"
    );

    gone(&server, hung);
    server.wait_for_workers("the worker was replaced", |pids| pids.len() == 2);
    assert_eq!(server.get("/").status, 200);
    let all = lines(&server, "/hang?first");
    assert_eq!(all.len(), 1, "{all:?}");
}

#[test]
fn a_504_to_head_has_no_body() {
    let server = inline(1, "request = \"300ms\"\ndrain = \"1s\"");
    let mut client = server.client();
    client.send("HEAD /hang HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let reply = client.reply_to("HEAD").unwrap();
    assert_eq!(reply.status, 504);
    assert_eq!(client.rest().unwrap(), b"");
}

#[test]
fn idle_connections_of_a_worker_that_hangs_are_served_by_another() {
    let server = inline(2, "request = \"1s\"\ndrain = \"4s\"");
    let (mut hangs, mut idle, hung) = neighbours(&server);
    ask(&mut hangs, "/hang");
    until("it is taken", || hangs.taken().then_some(()));
    // Sent while the worker hangs already: its bytes wait in the socket and go along.
    ask(&mut idle, "/pid");
    let reply = idle.reply().unwrap();
    assert_ne!(pid(&reply), hung);
    assert!(process::alive(hung), "it was not killed to get there");
    assert_eq!(hangs.reply().unwrap().status, 504);
    for _ in 0..3 {
        assert_ne!(pid(&idle.get("/pid").unwrap()), hung);
    }
    gone(&server, hung);
    assert_eq!(
        idle.get("/").unwrap().status,
        200,
        "the end of the old worker does not reach it"
    );
}

/// The runtime takes several at a time, and the first of them never lets it look at the others.
#[test]
fn a_worker_that_hangs_is_told_to_leave_and_neither_its_neighbours_nor_its_client_wait_for_the_kill() {
    let server = inline(2, "request = \"60s\"\ndrain = \"3s\"\n[admin]\nbind = \"127.0.0.1:0\"");
    let (mut hanging, mut idle, hung) = neighbours(&server);
    ask(&mut hanging, "/hang");
    let monitor = admin::admin(&server);
    until("its call is under way", || {
        admin::status(&monitor).to_string().contains("/hang").then_some(())
    });
    server.signal(Signal::SIGHUP);
    // While its worker still has three seconds, and the handler a minute.
    let other = pid(&idle.get("/pid").unwrap());
    assert_ne!(other, hung);
    assert!(process::alive(hung), "the connection did not wait for its worker's end");
    let reply = hanging.reply().unwrap();
    assert_eq!((reply.status, reply.closes()), (503, true));
    assert!(reply.text().contains("restarted or stopped"), "{}", reply.text());
    gone(&server, hung);
    let lines = until("its access line", || {
        Some(lines(&server, "/hang")).filter(|lines| !lines.is_empty())
    });
    assert!(lines.len() == 1 && lines[0].contains("\"status\":503"), "{lines:?}");
    server.wait_for_log("timeouts.drain (3s) expired");
}

#[test]
fn connections_that_come_with_the_one_that_hangs_are_served_by_another() {
    let server = inline(1, "request = \"300ms\"\ndrain = \"1s\"");
    // Which of them are taken together is for the kernel to say: some in most rounds, while another call keeps the runtime busy.
    for _ in 0..6 {
        let mut busy = server.client();
        busy.get("/pid").unwrap();
        ask(&mut busy, "/spin?ms=3");
        let come = |target| {
            let mut client = server.client();
            ask(&mut client, target);
            client
        };
        let mut hangs = come("/hang");
        let mut others: Vec<Client> = (0..30).map(|_| come("/pid")).collect();
        assert_eq!(hangs.reply().unwrap().status, 504);
        for client in &mut others {
            assert_eq!(client.reply().unwrap().status, 200);
        }
    }
}

#[test]
fn new_connections_do_not_wait_behind_a_worker_that_hangs() {
    let server = inline(2, "request = \"8s\"\ndrain = \"1s\"");
    let mut client = server.client();
    let hung = pid(&client.get("/pid").unwrap());
    ask(&mut client, "/hang");
    until("it is taken", || client.taken().then_some(()));
    for _ in 0..40 {
        assert_ne!(pid(&server.get("/pid")), hung);
    }
    client.patience(Duration::from_millis(50));
    assert!(
        matches!(client.reply(), Err(Failure::Silent)),
        "all that was before its deadline"
    );
}

#[test]
fn with_every_worker_hanging_a_request_is_answered_by_their_successors() {
    let server = inline(2, "request = \"1s\"\ndrain = \"2s\"");
    let before = server.workers();
    let mut hanging: Vec<Client> = Vec::new();
    let mut held: Vec<i32> = Vec::new();
    while held.len() < 2 {
        let mut client = server.client();
        let pid = pid(&client.get("/pid").unwrap());
        if !held.contains(&pid) {
            held.push(pid);
            hanging.push(client);
        }
    }
    for client in &mut hanging {
        ask(client, "/hang");
    }
    until("both hang", || hanging.iter().all(Client::taken).then_some(()));
    let reply = server.get("/pid");
    assert!(!before.contains(&pid(&reply)));
    for client in &mut hanging {
        assert_eq!(client.reply().unwrap().status, 504);
    }
}

#[test]
fn a_handler_that_comes_back_too_late_is_not_answered_twice_and_its_worker_leaves_in_peace() {
    let server = inline(2, "request = \"500ms\"\ndrain = \"20s\"");
    let (mut late, mut idle, pid_of) = neighbours(&server);
    ask(&mut late, "/sleep?ms=2500");
    let reply = late.reply().unwrap();
    assert_eq!(reply.status, 504);
    assert_eq!(late.rest().unwrap(), b"", "no second answer");
    drop(late);
    assert_ne!(pid(&idle.get("/pid").unwrap()), pid_of);
    gone(&server, pid_of);
    server.wait_for_workers("the worker was replaced", |pids| pids.len() == 2);
    assert_eq!(idle.get("/").unwrap().status, 200);
    let log = server.log();
    assert!(!log.contains("worker died") && !log.contains("killed"), "{log}");
    let all = lines(&server, "/sleep?ms=2500");
    assert!(all.len() == 1 && all[0].contains("\"status\":504"), "{all:?}");
    // What the worker logged before and after its absence is there, once.
    let pids = server.read("access.log").matches(&format!("\"pid\":{pid_of},")).count();
    assert!(pids >= 3, "{}", server.read("access.log"));
}

#[test]
fn a_hang_behind_the_first_chunk_on_the_io_thread_breaks_the_connection_off() {
    let server = inline(2, "request = \"500ms\"\ndrain = \"20s\"");
    let mut client = server.client();
    let outcome = client.get("/stream?chunks=3&size=5&delay_ms=2000");
    assert!(
        matches!(outcome, Err(Failure::Cut(_) | Failure::Broken(_))),
        "{outcome:?}"
    );
    server.wait_for_log("a call is stuck");
    let target = "/stream?chunks=3&size=5&delay_ms=2000";
    let line = until("its access line", || lines(&server, target).pop());
    assert!(line.contains("\"outcome\":\"timeout\""), "{line}");
    server.wait_for_log("worker left");
    assert_eq!(lines(&server, target).len(), 1);
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn a_hang_on_the_pool_has_its_worker_replaced_and_hand_its_connections_over() {
    let server = pooled("[timeouts]\nrequest = \"500ms\"\ndrain = \"2s\"");
    let mut idle = server.client();
    let hung = pid(&idle.get("/pid").unwrap());
    let mut client = server.client();
    ask(&mut client, "/hang");
    assert_eq!(client.reply().unwrap().status, 504);
    let record = server.wait_for_log("a call is stuck");
    for part in ["method=GET", "path=/hang", "request_id=", "thread=handler", "tid="] {
        assert!(record.contains(part), "{part} in {record}");
    }
    assert!(
        !record.contains(&format!("tid={hung} ")),
        "a thread of the pool: {record}"
    );
    let next = until("another worker answers", || {
        let reply = server.try_get("/pid").filter(|reply| reply.status == 200)?;
        Some(pid(&reply)).filter(|pid| *pid != hung)
    });
    idle.patience(PATIENCE);
    assert_eq!(pid(&idle.get("/pid").unwrap()), next, "its connection was handed over");
    gone(&server, hung);
    let all = lines(&server, "/hang");
    assert!(all.len() == 1 && all[0].contains("\"outcome\":\"timeout\""), "{all:?}");
}

#[test]
fn a_call_that_ends_soon_after_its_504_costs_no_worker() {
    let server = pooled("[timeouts]\nrequest = \"1500ms\"");
    let before = server.workers();
    assert_eq!(server.get("/sleep?ms=1800").status, 504);
    // Together longer than a worker is given before it counts as stuck.
    for _ in 0..3 {
        assert_eq!(server.get("/sleep?ms=500").status, 200);
    }
    assert_eq!(server.workers(), before);
    assert!(!server.log().contains("stuck"), "{}", server.log());
}

#[test]
fn a_worker_is_replaced_after_its_number_of_requests_and_no_client_notices() {
    let server = Server::lab()
        .workers(2)
        .config("[limits]\nmax-requests = 50\nmax-requests-jitter = 20\n")
        .start();
    let before = server.workers();
    let mut client = server.client();
    until("both were replaced", || {
        assert_eq!(client.get("/").unwrap().status, 200);
        assert_eq!(server.get("/").status, 200);
        server.workers().iter().all(|pid| !before.contains(pid)).then_some(())
    });
    assert!(server.log().contains("limits.max-requests"), "{}", server.log());
}

#[test]
fn a_worker_told_to_leave_by_somebody_else_is_replaced_before_it_has_left() {
    let server = Server::lab().workers(1).config("[timeouts]\ndrain = \"20s\"\n").start();
    let old = server.workers()[0];
    let mut slow = server.client();
    ask(&mut slow, "/sleep?ms=3000");
    until("it is taken", || slow.taken().then_some(()));
    process::signal(old, Signal::SIGTERM);
    // It answers on until it has heard of it.
    until("another answers", || {
        let reply = server.try_get("/pid").filter(|reply| reply.status == 200)?;
        (pid(&reply) != old).then_some(())
    });
    assert!(process::alive(old));
    assert_eq!(slow.reply().unwrap().status, 200);
    gone(&server, old);
}
