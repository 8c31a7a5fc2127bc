//! What slow calls do to the fast ones beside them on the same worker.
//!
//! Takes one worker, connections that say hello as fast as they are answered, and paths that are slow, turn slow or are slow only in
//! their bodies; gives how long hello waits and which calls were given the I/O thread. How long it is to the microsecond is for the bench.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::server::Server;
use crate::support::wait::{PATIENCE, pause};

/// One worker with eight handler threads, that knows hello.
fn single() -> Server {
    let server = Server::lab().workers(1).arg("--threads").arg("8").start();
    let mut client = server.client();
    for _ in 0..100 {
        hello(&mut client);
    }
    server
}

/// Says hello; gives how long the answer took, which must be right.
fn hello(client: &mut Client) -> Duration {
    let began = Instant::now();
    let reply = client.get("/").unwrap();
    let took = began.elapsed();
    assert!(
        reply.status == 200 && reply.text().starts_with("Hello, world!"),
        "{reply:?}"
    );
    took
}

fn ask(client: &mut Client, target: &str) {
    client
        .send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .unwrap();
}

/// Says hello on so many connections while `beside` goes on; gives how long each answer took.
fn hello_beside(server: &Server, connections: usize, beside: impl FnOnce()) -> Vec<Duration> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let talks: Vec<_> = (0..connections)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = server.client();
                    let mut took = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        took.push(hello(&mut client));
                    }
                    took
                })
            })
            .collect();
        // Ends the others also when it fails.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(beside));
        over.store(true, Ordering::Relaxed);
        let took = talks
            .into_iter()
            .flat_map(|talk| talk.join().expect("every hello is answered"));
        let took = took.collect();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        took
    })
}

/// The share of a hundred that took longest, the shortest of it.
fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() - 1 - took.len() / 100]
}

/// The lab's `/paced` and `/paced-chunks` take so long from now on.
fn pace(server: &Server, ms: u64) {
    assert_eq!(server.get(&format!("/pace?ms={ms}")).text(), format!("{ms} ms\n"));
}

/// Calls a path until it is given the I/O thread, several times in a row.
fn prove(server: &Server, target: &str) {
    pace(server, 0);
    let mut client = server.client();
    let mut proved = 0;
    // A call that the machine interrupted has taken long, and costs it the proof.
    let end = Instant::now() + PATIENCE;
    while proved < 5 {
        assert!(Instant::now() < end, "{target} is not inline");
        let text = client.get(target).unwrap().text();
        let inline = text.lines().all(|line| line == "inline");
        proved = if inline { proved + 1 } else { 0 };
    }
}

/// Lets a path that is inline turn slow under four calls at once, and calls it four times more. Gives how often its handler code
/// was given the I/O thread, and how long those took who said hello meanwhile.
fn turn_slow(server: &Server, target: &str, ms: u64) -> (usize, Vec<Duration>) {
    prove(server, target);
    let mut clients: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for client in &mut clients {
        hello(client);
    }
    pace(server, ms);
    let mut inline = 0;
    let took = hello_beside(server, 1, || {
        for _ in 0..2 {
            clients.iter_mut().for_each(|client| ask(client, target));
            for client in &mut clients {
                let text = client.reply().unwrap().text();
                assert!(text.ends_with("pool\n") || text.ends_with("inline\n"), "{text}");
                inline += text.matches("inline").count();
            }
        }
    });
    (inline, took)
}

#[test]
fn hello_on_61_connections_does_not_wait_for_3_calls_of_50_ms() {
    let server = single();
    // Were the three made on the I/O thread, hello would wait for 150 ms in every round. A busy machine makes it wait too, in whatever
    // company.
    let rounds = (0..5).map(|_| {
        let alone = p99(hello_beside(&server, 61, || pause(Duration::from_millis(300))));
        let took = hello_beside(&server, 61, || {
            let end = Instant::now() + Duration::from_millis(700);
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        let mut client = server.client();
                        while Instant::now() < end {
                            assert_eq!(client.get("/sleep?ms=50").unwrap().text(), "slept 50 ms\n");
                        }
                    });
                }
            });
        });
        assert!(took.len() > 61);
        (p99(took), alone)
    });
    let mut seen = Vec::new();
    for (among, alone) in rounds {
        if among < Duration::from_millis(50).max(alone * 2) {
            return;
        }
        seen.push((among, alone));
    }
    panic!("p99 of hello in that company and alone, in every round: {seen:?}");
}

/// A path that has turned slow takes the I/O thread once, and so hurts one hello once. How it is asked stays the same.
fn hurts_once(target: &str) {
    const SLOW: u64 = 600;
    let server = single();
    // Interrupted by the machine just before, it is on the pool already and shows nothing: then once more.
    let shown = (0..10).any(|_| {
        let (inline, took) = turn_slow(&server, target, SLOW);
        assert!(inline <= 1, "slow code was given the I/O thread {inline} times");
        // Who says hello all the time waits for nearly the whole of it.
        let long: Vec<_> = took.iter().filter(|took| took.as_millis() > 450).collect();
        assert!(long.len() <= inline, "said hello and waited: {long:?}");
        inline == 1
    });
    assert!(shown, "{target} was never inline when it turned slow");
}

#[test]
fn a_path_that_turns_slow_hurts_its_neighbours_once_and_not_twice() {
    hurts_once("/paced");
}

#[test]
fn a_body_that_turns_slow_hurts_its_neighbours_once_and_not_twice() {
    hurts_once("/paced-chunks?chunks=2");
}

#[test]
fn a_handler_that_returns_at_once_and_makes_its_chunks_slowly_never_proves_short() {
    let server = single();
    pace(&server, 5);
    let mut client = server.client();
    for call in 0..50 {
        let text = client.get("/paced-chunks?chunks=2").unwrap().text();
        assert_eq!(text, "pool\npool\n", "call {call}");
    }
}
