//! Hostile clients: slow ones, silent ones and many of them, and what an innocent client notices meanwhile.
//!
//! Takes the lab handler under tight bounds; gives what becomes of the hostile, and the latency and memory of a server that holds many
//! of them. `make floods` plays the same at full size.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::client::{Client, Failure};
use crate::support::modules::SERVER;
use crate::support::process;
use crate::support::server::Server;
use crate::support::wait::{PATIENCE, pause, until};

/// One worker under these settings, with an access log.
fn bounded(settings: &str) -> Server {
    Server::lab()
        .workers(1)
        .config(&format!(
            "[log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n{settings}\n"
        ))
        .start()
}

/// The access line of a target.
fn access_line(server: &Server, target: &str) -> String {
    let target = format!("\"target\":\"{target}\"");
    until("its access line", || {
        let log = server.read("access.log");
        log.lines().find(|line| line.contains(&target)).map(str::to_owned)
    })
}

/// Sends byte after byte until there is an answer, and tells how long that took.
fn trickle(client: &mut Client, head: &str, every: Duration) -> (Result<u16, Failure>, Duration) {
    client.send(head).unwrap();
    let began = Instant::now();
    client.patience(every);
    loop {
        match client.reply() {
            Err(Failure::Silent) => assert!(began.elapsed() < PATIENCE, "its bytes prolong it for ever"),
            outcome => return (outcome.map(|reply| reply.status), began.elapsed()),
        }
        let _ = client.send("x");
    }
}

#[test]
fn a_body_below_its_rate_is_a_408_although_no_pause_is_too_long() {
    let server = bounded("[timeouts]\nbody = \"400ms\"\n[limits]\nbody-rate = 1000\nbody-buffer = 1000");
    for (target, length) in [("/hash?read-first", 900), ("/hash?streamed", 100_000)] {
        let mut client = server.client();
        let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        let (outcome, took) = trickle(&mut client, &head, Duration::from_millis(20));
        assert_eq!(outcome.unwrap(), 408, "{target}");
        assert!(took < Duration::from_secs(4), "{took:?}");
        assert!(access_line(&server, target).contains("\"status\":408"));
    }
    let line = server.wait_for_log("timeouts.body (400ms) expired");
    assert!(line.contains("timeout=body") && line.contains("path=/hash"), "{line}");
}

#[test]
fn a_body_that_its_handler_is_slow_to_read_is_not_its_clients_fault() {
    let server = bounded("[timeouts]\nbody = \"300ms\"\n[limits]\nbody-rate = \"1MiB\"\nbody-buffer = 1000");
    let mut client = server.client();
    // More than lies in buffers; the handler takes a second before it reads on.
    let body = "x".repeat(400_000);
    client
        .send(format!(
            "POST /read?n=100000&delay_ms=400 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .unwrap();
    assert_eq!(client.reply().unwrap().status, 200);
}

#[test]
fn an_answer_read_below_its_rate_is_cut_and_one_read_in_time_is_not() {
    let server = bounded("[timeouts]\nwrite = \"500ms\"\n[limits]\nwrite-rate = \"64MiB\"");
    let mut slow = server.client();
    slow.send("GET /bytes?n=100000000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let began = Instant::now();
    // It never pauses for as long as `write`.
    let outcome = until("it is cut", || {
        pause(Duration::from_millis(20));
        slow.skip(200_000).err()
    });
    assert!(began.elapsed() > Duration::from_millis(500), "{outcome:?}");
    let line = server.wait_for_log("timeouts.write (500ms) expired");
    assert!(line.contains("path=/bytes"), "{line}");
    assert!(access_line(&server, "/bytes?n=100000000").contains("\"outcome\":\"aborted\""));
}

/// Of a server that is full.
fn full(workers: usize, connections: usize, settings: &str) -> Server {
    Server::lab()
        .workers(workers)
        .config(&format!("[limits]\nconnections = {connections}\n{settings}\n"))
        .start()
}

/// So many connections that have served a request and are kept.
fn kept(server: &Server, count: usize) -> Vec<Client> {
    let open = |_| {
        let mut client = server.client();
        assert_eq!(client.get("/").unwrap().status, 200);
        client
    };
    (0..count).map(open).collect()
}

#[test]
fn idle_connections_make_room_when_every_worker_is_full_and_the_oldest_go_first() {
    let server = full(2, 8, "");
    let mut held = kept(&server, 16);
    for _ in 0..3 {
        assert_eq!(server.get("/").status, 200);
    }
    server.wait_for_log("every worker has limits.connections (8)");
    let ended = until("some have gone", || {
        let ended: Vec<usize> = (0..16).filter(|&index| held[index].ended()).collect();
        (!ended.is_empty()).then_some(ended)
    });
    assert!(ended.len() <= 4 && ended.iter().all(|&index| index < 12), "{ended:?}");
    assert_eq!(held[15].get("/").unwrap().status, 200, "the youngest stays");
}

#[test]
fn silent_connections_make_room_too_and_busy_ones_do_not() {
    let server = full(1, 4, "");
    let _silent: Vec<Client> = (0..2).map(|_| server.client()).collect();
    let mut busy: Vec<Client> = (0..2).map(|_| server.client()).collect();
    for client in &mut busy {
        client.send("GET /sleep?ms=1500 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    until("they are taken", || busy.iter().all(Client::taken).then_some(()));
    let began = Instant::now();
    assert_eq!(server.get("/").status, 200);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    for client in &mut busy {
        assert_eq!(client.reply().unwrap().status, 200);
    }
}

#[test]
fn a_worker_out_of_descriptors_does_not_spin_and_says_so_once() {
    let server = Server::lab().workers(1).start();
    let worker = server.workers()[0];
    let used = process::descriptors(worker).len();
    let limit = format!("--nofile={}:4096", used + 20);
    let limited = Command::new("prlimit")
        .args(["--pid", &worker.to_string(), &limit])
        .status();
    assert!(limited.unwrap().success());
    let mut held: Vec<Client> = (0..40).map(|_| server.client()).collect();
    server.wait_for_log("accepting paused");
    let before = ticks(worker);
    pause(Duration::from_millis(1500));
    let spent = ticks(worker) - before;
    assert!(spent <= 15, "{spent} ticks of 10 ms in 1.5 s of waiting");
    assert_eq!(server.log().matches("accepting paused").count(), 1, "{}", server.log());
    held.drain(..30);
    server.wait_for_log("accepting goes on");
    assert_eq!(held.last_mut().unwrap().get("/").unwrap().status, 200);
    assert_eq!(server.get("/").status, 200);
}

/// CPU time of a process in ticks of 10 ms (proc_pid_stat(5)).
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Plays these with 400 clients each; an innocent client must not fail, nor wait for long on a machine that runs other tests too.
fn flood(names: &[&str]) {
    let run = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/floods/run");
    let bin = Path::new(SERVER).parent().unwrap();
    let mut command = Command::new(run);
    command.arg("--bin").arg(bin);
    command.args([
        "--connections",
        "400",
        "--kept",
        "1000",
        "--seconds",
        "2",
        "--most",
        "1000",
    ]);
    names.iter().for_each(|name| {
        command.args(["--only", name]);
    });
    let played = command.output().unwrap();
    let told = String::from_utf8_lossy(&played.stderr);
    assert!(
        played.status.success(),
        "{}{told}",
        String::from_utf8_lossy(&played.stdout)
    );
}

#[test]
fn slow_clients_and_zero_windows_hold_nobody_up() {
    flood(&["slow headers", "slow bodies", "slow readers", "zero windows"]);
}

#[test]
fn idle_and_silent_clients_hold_nobody_up() {
    flood(&["silent", "idle, kept", "half-closed"]);
}

#[test]
fn clients_that_never_stop_sending_hold_nobody_up() {
    flood(&["endless fields", "endless line", "pipelining"]);
}

#[test]
fn clients_that_come_and_go_hold_nobody_up() {
    flood(&["connect and close", "connect and reset"]);
}

#[test]
fn slowhttptest_in_its_four_modes_holds_nobody_up() {
    flood(&[
        "slowhttptest -H",
        "slowhttptest -B",
        "slowhttptest -R",
        "slowhttptest -X",
    ]);
}
