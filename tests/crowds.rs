//! What becomes of a crowd that means no good: each of it is told so and cut off, and nothing of it is left in the server.
//!
//! Takes two workers and hundreds of idle, slow, deaf or fleeting clients beside an innocent one; gives the statuses they got, and the
//! workers' sockets and memory. How long the innocent waits beside a flood of any kind is floods.rs and `make floods`.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use crate::support::admin::{admin, ask};
use crate::support::client::{Address, Client};
use crate::support::innocent::Innocent;
use crate::support::process;
use crate::support::server::Server;
use crate::support::wait::{PATIENCE, pause, until, within};

const HELLO: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
/// Connections that the innocent may have open at any moment, and a little.
const INNOCENT: usize = 4;

/// Two workers with room for the crowd, and these timeouts.
fn roomy(timeouts: &str) -> Server {
    // The crowd stands in this process.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft < 8192 {
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(8192), hard).unwrap();
    }
    Server::lab()
        .workers(2)
        .config(&format!("[limits]\nconnections = 4096\n[timeouts]\n{timeouts}\n"))
        .start()
}

fn crowd(server: &Server, count: usize, words: &str) -> Vec<Client> {
    let mut all: Vec<Client> = (0..count).map(|_| server.client()).collect();
    all.iter_mut().for_each(|client| client.send(words).unwrap());
    all
}

/// Sockets that the workers hold.
fn sockets(server: &Server) -> usize {
    let all = server.workers().into_iter().flat_map(process::descriptors);
    all.filter(|name| name.starts_with("socket:")).count()
}

/// Waits until no more is left than before the crowd came, and what the innocent may hold.
fn wait_for_sockets(server: &Server, before: usize) {
    let left = within(PATIENCE, || (sockets(server) <= before + INNOCENT).then_some(()));
    assert!(left.is_some(), "{} sockets are left of {before}", sockets(server));
}

fn memory(server: &Server) -> u64 {
    server.workers().into_iter().map(process::memory).sum()
}

#[test]
fn a_thousand_idle_connections_are_held_while_others_are_served() {
    let server = roomy("");
    let (workers, before) = (server.workers(), memory(&server));
    let innocent = Innocent::beside(&server);
    let mut idle = crowd(&server, 1000, HELLO);
    for client in &mut idle {
        assert_eq!(client.reply().unwrap().status, 200);
    }
    innocent.wait(50);
    let each = memory(&server).saturating_sub(before) / 1000;
    assert!(each < 32 << 10, "{each} bytes for each");
    for client in &mut idle {
        assert_eq!(client.get("/").unwrap().status, 200, "it was kept");
    }
    innocent.end();
    assert_eq!(server.workers(), workers);
}

#[test]
fn hundreds_of_half_heads_are_told_408_at_their_deadline_and_cut_off() {
    let server = roomy("header = \"2s\"");
    let before = sockets(&server);
    let innocent = Innocent::beside(&server);
    for client in &mut crowd(&server, 300, "GET / HTTP/1.1\r\nHost: a\r\nX-Half: ") {
        assert_eq!(client.reply().unwrap().status, 408);
    }
    innocent.end();
    wait_for_sockets(&server, before);
}

#[test]
fn hundreds_of_half_bodies_are_told_408_at_their_deadline_and_cut_off() {
    let server = roomy("body = \"2s\"");
    let before = sockets(&server);
    let innocent = Innocent::beside(&server);
    let words = "POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n0123456789";
    for client in &mut crowd(&server, 300, words) {
        assert_eq!(client.reply().unwrap().status, 408);
    }
    innocent.end();
    wait_for_sockets(&server, before);
}

#[test]
fn clients_that_never_read_are_cut_off_at_their_deadline() {
    let server = roomy("write = \"2s\"");
    let (before, memory_before) = (sockets(&server), memory(&server));
    let innocent = Innocent::beside(&server);
    // More than the buffers of the kernel take.
    let deaf = crowd(
        &server,
        50,
        "GET /stream?chunks=256&size=65536 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    until("all are taken", || (sockets(&server) >= before + 50).then_some(()));
    innocent.wait(50);
    let grown = memory(&server).saturating_sub(memory_before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    wait_for_sockets(&server, before);
    innocent.end();
    drop(deaf);
}

#[test]
fn a_pipeline_of_20_000_requests_waits_without_memory_and_is_answered_in_full_when_it_is_read() {
    let server = roomy("");
    let Address::Tcp(address) = server.address() else {
        panic!("TCP is asked for")
    };
    let before = memory(&server);
    let innocent = Innocent::beside(&server);
    let stream = TcpStream::connect(address).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut client = Client::over(stream).unwrap();
    let sending = thread::spawn(move || writer.write_all(HELLO.repeat(20_000).as_bytes()));
    innocent.wait(150);
    let grown = memory(&server).saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    for number in 0..20_000 {
        let reply = client
            .reply()
            .unwrap_or_else(|failure| panic!("answer {number}: {failure}"));
        assert_eq!(reply.status, 200);
    }
    sending.join().unwrap().unwrap();
    innocent.end();
}

#[test]
fn connections_that_are_closed_or_reset_at_once_leave_nothing_behind() {
    let server = roomy("");
    let (workers, before) = (server.workers(), sockets(&server));
    let innocent = Innocent::beside(&server);
    for turn in 0..2000 {
        // A second of it, for the innocent to notice.
        if turn % 10 == 0 {
            pause(Duration::from_millis(5));
        }
        let mut client = server.client();
        // Some have sent a request that they will not see answered.
        if turn % 4 > 1 {
            let _ = client.send(HELLO);
        }
        if turn % 2 == 0 {
            client.reset();
        }
    }
    innocent.wait(50);
    innocent.end();
    wait_for_sockets(&server, before);
    assert_eq!(server.workers(), workers);
}

/// Sends `first` and then `more` without an end; gives the status it was answered with once it is cut off.
fn endless(server: &Server, first: &str, more: &str) -> u16 {
    let Address::Tcp(address) = server.address() else {
        panic!("TCP is asked for")
    };
    let stream = TcpStream::connect(address).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut client = Client::over(stream).unwrap();
    writer.write_all(first.as_bytes()).unwrap();
    let more = more.repeat(1000);
    let sending = thread::spawn(move || {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if writer.write_all(more.as_bytes()).is_err() {
                return true;
            }
            pause(Duration::from_millis(1));
        }
        false
    });
    let status = client.reply().unwrap().status;
    assert!(sending.join().unwrap(), "what it sends is taken for ever");
    status
}

#[test]
fn an_endless_head_is_refused_and_cut_off() {
    let server = roomy("");
    let innocent = Innocent::beside(&server);
    assert_eq!(endless(&server, "GET / HTTP/1.1\r\nHost: a\r\n", "X-More: 1\r\n"), 431);
    assert_eq!(
        endless(&server, "GET / HTTP/1.1\r\nHost: a\r\nX-Long: ", "xxxxxxxxxx"),
        431
    );
    assert_eq!(endless(&server, "GET /", "xxxxxxxxxx"), 414);
    innocent.end();
}

/// User and system time of a process (proc_pid_stat(5), in ticks of 10 ms on every Linux of today).
fn cpu(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').expect("the name stands in parentheses");
    let ticks = |at: usize| -> u64 { fields.split_whitespace().nth(at).unwrap().parse().unwrap() };
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Changes the soft limit of open files of a running process.
fn limit_files(pid: i32, soft: usize) {
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={soft}:")])
        .status()
        .unwrap();
    assert!(status.success(), "prlimit of {pid} to {soft}");
}

/// The soft limit under which a process can open only so many files more: it bounds their numbers, not how many there are.
fn room_for(pid: i32, more: usize) -> usize {
    let open: Vec<usize> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let mut free = (0..).filter(|number| !open.contains(number));
    free.nth(more).expect("numbers do not end")
}

/// Those that have an answer by now leave the crowd.
fn answered(crowd: &mut Vec<Client>) -> Vec<Client> {
    let mut served = Vec::new();
    for mut client in std::mem::take(crowd) {
        client.patience(Duration::from_millis(2));
        match client.reply() {
            Ok(reply) => {
                assert_eq!(reply.status, 200);
                client.patience(PATIENCE);
                served.push(client);
            }
            Err(_) => crowd.push(client),
        }
    }
    served
}

#[test]
fn without_free_descriptors_accepting_pauses_and_goes_on_when_there_are_some_and_nothing_spins() {
    let server = Server::lab()
        .workers(2)
        .config("[limits]\nconnections = 4096\n[admin]\nbind = \"unix:DIR/admin.sock\"\n")
        .start();
    let (workers, master, watch) = (server.workers(), server.master(), admin(&server));
    assert_eq!(ask(&watch, "/healthz").status, 200);
    for &worker in &workers {
        limit_files(worker, room_for(worker, 20));
    }
    let mut waiting = crowd(&server, 100, HELLO);
    server.wait_for_log("accepting paused");
    let mut served = Vec::new();
    until("as many are served as fit", || {
        served.append(&mut answered(&mut waiting));
        (served.len() >= 30).then_some(())
    });
    let lines = |server: &Server| server.log().matches("accepting paused").count();
    let (spent, told) = (workers.iter().map(|&pid| cpu(pid)).collect::<Vec<_>>(), lines(&server));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        for client in &mut served {
            assert_eq!(client.get("/").unwrap().status, 200, "who has a connection is served");
        }
        pause(Duration::from_millis(100));
    }
    for (&worker, before) in workers.iter().zip(spent) {
        let spent = cpu(worker) - before;
        assert!(spent < Duration::from_millis(500), "{spent:?} of processor time in 2 s");
    }
    assert!(
        lines(&server) <= 4 && lines(&server) == told,
        "{told} and then {} lines",
        lines(&server)
    );
    served.append(&mut answered(&mut waiting));
    assert!(served.len() <= 42, "{} fit into two times 20 descriptors", served.len());
    assert_eq!(ask(&watch, "/healthz").status, 200, "the monitor answers");

    // Room by connections that close, and then by a higher limit.
    let served_first = served.len();
    drop(served);
    let mut next = Vec::new();
    until("others take the places of those that left", || {
        next.append(&mut answered(&mut waiting));
        (next.len() >= served_first.min(30)).then_some(())
    });
    for &worker in &workers {
        limit_files(worker, 1000);
    }
    until("all are served", || {
        next.append(&mut answered(&mut waiting));
        waiting.is_empty().then_some(())
    });
    assert_eq!((server.workers(), server.master()), (workers, master));
    assert_eq!(ask(&watch, "/readyz").status, 200);
    let mut server = server;
    server.stop(Signal::SIGTERM);
}
#[test]
fn a_deadline_that_passes_while_the_worker_is_stopped_still_comes_once_it_goes_on() {
    let server = Server::lab()
        .workers(1)
        .config("[timeouts]\nbody = \"1s\"\nwrite = \"1s\"\n")
        .start();
    let worker = server.workers()[0];
    let before = sockets(&server);
    let mut half = server.client();
    half.send("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n0123456789")
        .unwrap();
    let mut deaf = server.client();
    deaf.send("GET /stream?chunks=256&size=65536 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    until("both are taken", || (half.taken() && deaf.taken()).then_some(()));
    pause(Duration::from_millis(300));
    process::signal(worker, Signal::SIGSTOP);
    pause(Duration::from_millis(1500));
    process::signal(worker, Signal::SIGCONT);
    half.patience(Duration::from_secs(5));
    assert_eq!(half.reply().unwrap().status, 408);
    drop(half);
    wait_for_sockets(&server, before);
}
