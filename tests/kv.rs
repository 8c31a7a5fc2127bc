//! The key-value cache of handlers: what one worker sets, every worker has, for as long as it may.
//!
//! Takes the lab's `/kv`, the example handler and a C module; gives what they find.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::client::Reply;
use crate::support::modules::{self, module};
use crate::support::server::Server;
use crate::support::wait::until;

const CACHE: &str = "[cache]\nenabled = true\nsize = \"8MiB\"\nmax-entry = \"64KiB\"\n";

fn lab(workers: usize) -> Server {
    Server::lab().workers(workers).config(CACHE).start()
}

fn kv(server: &Server, what: &str) -> Reply {
    server.get(&format!("/kv?{what}"))
}

#[test]
fn what_one_worker_sets_every_worker_finds() {
    let server = lab(3);
    assert_eq!(kv(&server, "op=set&key=a%00%FF&value=%00b%FF").status, 200);
    let mut seen = std::collections::BTreeSet::new();
    until("all workers have looked", || {
        let mut client = server.client();
        assert_eq!(client.get("/kv?op=get&key=a%00%FF").unwrap().body, b"\0b\xff");
        seen.insert(client.get("/pid").unwrap().text());
        (seen.len() == 3).then_some(())
    });
    assert_eq!(
        kv(&server, "op=get&key=a%00%FF&name=other").status,
        404,
        "names part them"
    );
    assert_eq!(kv(&server, "op=set&key=empty&value=").status, 200);
    let empty = kv(&server, "op=get&key=empty");
    assert_eq!((empty.status, empty.body.len()), (200, 0), "an empty value is one");
    assert_eq!(kv(&server, "op=delete&key=empty").status, 200);
    assert_eq!(kv(&server, "op=delete&key=empty").status, 404);
}

#[test]
fn a_value_ends_when_it_was_said_to() {
    let server = lab(2);
    let mut client = server.client();
    for _ in 0..3 {
        let set = Instant::now();
        client.get("/kv?op=set&key=short&value=1&ttl_ms=200").unwrap();
        let latest = Instant::now() + Duration::from_millis(200);
        loop {
            let asked = Instant::now();
            let reply = client.get("/kv?op=get&key=short").unwrap();
            if reply.status == 404 {
                assert!(set.elapsed() >= Duration::from_millis(199), "it ended early");
                break;
            }
            assert!(asked <= latest + Duration::from_millis(1), "it was found after its end");
        }
    }
}

#[test]
fn no_count_is_lost_and_a_lock_is_had_by_one() {
    let server = lab(4);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = server.client();
                for _ in 0..250 {
                    // Another writer may hold the lock for longer than it is waited for, on a machine that is busy.
                    while client.get("/kv?op=incr&key=sum").unwrap().status == 503 {}
                }
            });
        }
    });
    assert_eq!(kv(&server, "op=get&key=sum").text(), "2000");
    assert_eq!(kv(&server, "op=incr&key=sum&by=-2001").text(), "-1");
    for round in 0..20 {
        let had = std::thread::scope(|scope| {
            let asked = (0..8).map(|_| {
                scope.spawn(|| {
                    loop {
                        match kv(&server, &format!("op=add&key=lock{round}&value=x")).status {
                            503 => {}
                            status => return status,
                        }
                    }
                })
            });
            let asked: Vec<_> = asked.collect();
            asked
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .filter(|status| *status == 200)
                .count()
        });
        assert_eq!(had, 1, "round {round}");
    }
}

#[test]
fn what_cannot_be_kept_is_told_by_its_reason() {
    let server = lab(1);
    let long = "x".repeat(1100);
    for (what, status) in [
        ("op=set&key=", 400),
        (&*format!("op=get&key={long}"), 400),
        (&*format!("op=set&name={long}&key=a"), 400),
        ("op=set&key=a&value=words", 200),
        ("op=incr&key=a", 422),
        ("op=set&key=a&value=9223372036854775807", 200),
        ("op=incr&key=a", 422),
        ("op=incr&key=a&by=-1", 200),
        ("op=purge&key=", 400),
    ] {
        assert_eq!(kv(&server, what).status, status, "{what}");
    }
    let small = Server::lab()
        .config("[cache]\nenabled = true\nsize = \"1MiB\"\nmax-entry = \"1KiB\"\n")
        .start();
    assert_eq!(kv(&small, &format!("op=set&key=a&value={long}")).status, 413);
    let none = Server::lab().start();
    assert_eq!(kv(&none, "op=get&key=a").status, 501);
}

#[test]
fn workers_killed_while_they_write_break_nothing_for_the_others() {
    let server = lab(4);
    let over = std::sync::atomic::AtomicBool::new(false);
    let going = || !over.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let going = &going;
            let server = &server;
            scope.spawn(move || {
                let mut round = 0u64;
                while going() {
                    round += 1;
                    let value = format!("{number}-{}-", round % 50).repeat(200);
                    let _ = server.try_get(&format!("/kv?op=set&key={number}.{}&value={value}", round % 50));
                    if let Some(found) = server
                        .try_get(&format!("/kv?op=get&key={number}.{}", round % 50))
                        .filter(|reply| reply.status == 200)
                    {
                        assert_eq!(found.text(), value);
                    }
                }
            });
        }
        for _ in 0..15 {
            let workers = server.wait_for_workers("all there", |now| now.len() == 4);
            kill(Pid::from_raw(workers[0]), Signal::SIGKILL).unwrap();
            server.wait_for_workers("it has gone", |now| !now.contains(&workers[0]));
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(kv(&server, "op=set&key=after&value=1").status, 200);
    assert_eq!(kv(&server, "op=get&key=after").text(), "1");
}

#[test]
fn the_example_shows_each_recipe() {
    let server = Server::with(module("keyvalue")).workers(2).config(CACHE).start();
    // Each page has a number of its own. One is not kept if another writer had the lock for too long, which a busy machine brings about.
    until("a page that is kept", || {
        (server.get("/").text() == server.get("/").text()).then_some(())
    });
    let makers = |round: usize| {
        let target = format!("/busy{round}");
        let pages: std::collections::BTreeSet<_> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| server.get(&target).text())).collect();
            asked.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        pages.len()
    };
    assert!(
        (0..5).any(|round| makers(round) == 1),
        "one makes a page for all who wait"
    );
    let mut client = server.client();
    client
        .send("PUT /note HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        .unwrap();
    assert_eq!(client.reply().unwrap().text(), "hello");
    assert_eq!(server.get("/note").text(), "hello");
    until("the limit of visits", || {
        (server.get("/nothing").status == 429).then_some(())
    });
}

#[test]
fn a_c_module_uses_it_and_one_that_needs_it_is_refused_without() {
    let folder = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(modules::root().join("tests/handlers/c/counter.c")).unwrap();
    let counter = modules::c(folder.path(), "counter", &source);
    let server = Server::with(&counter).workers(2).config(CACHE).start();
    let first: u64 = server.get("/").text().trim().parse().unwrap();
    let second: u64 = server.get("/").text().trim().parse().unwrap();
    assert_eq!(second, first + 1);
    let (code, log) = Server::with(&counter).fail();
    assert_eq!(code, Some(5), "{log}");
    assert!(log.contains("it needs the shared cache"), "{log}");
}
