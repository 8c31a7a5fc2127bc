//! Kept-alive connections outlive their worker: at reload and scale-down they go to another one, and no client notices.
//!
//! Takes idle, busy, half-sent and pipelining clients that never connect twice; gives the answers to what they send next on the same
//! connection, from a worker that was not there before. What a stop does to idle connections is in drain.rs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::client::{Client, Failure};
use crate::support::server::{Listen, Server};
use crate::support::storm::Tally;
use crate::support::wait::{pause, until};

/// Clients that have had one answer each on the connection they keep.
fn idle(server: &Server, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| server.client()).collect();
    for client in &mut clients {
        assert!(!client.get("/").unwrap().closes());
    }
    clients
}

/// Reloads, and waits until none of the old workers is left; gives the new ones.
fn reload(server: &Server) -> Vec<i32> {
    let old = server.workers();
    server.signal(Signal::SIGHUP);
    server.wait_for_workers("all are new", |pids| {
        pids.len() == old.len() && pids.iter().all(|pid| !old.contains(pid))
    })
}

fn text(client: &mut Client, target: &str) -> String {
    let reply = client
        .get(target)
        .unwrap_or_else(|failure| panic!("{target}: {failure}"));
    assert_eq!(reply.status, 200);
    assert!(!reply.closes(), "{reply:?}");
    reply.text().trim().to_owned()
}

fn pid(client: &mut Client) -> i32 {
    text(client, "/pid").parse().unwrap()
}

#[test]
fn idle_connections_are_answered_by_the_next_generation() {
    for listen in [Listen::Tcp, Listen::Unix] {
        let server = Server::lab().workers(3).listen(listen).start();
        let mut clients = idle(&server, 20);
        for generation in ["2", "3"] {
            let new = reload(&server);
            for client in &mut clients {
                assert_eq!(text(client, "/generation"), generation, "{listen:?}");
                assert!(new.contains(&pid(client)));
            }
        }
    }
}

#[test]
fn a_client_keeps_its_address_and_the_one_it_called() {
    let server = Server::lab().workers(1).start();
    let mut client = server.client();
    let told = |client: &mut Client| {
        let environ = text(client, "/environ");
        let lines = environ.lines().map(str::to_owned);
        let mut kept: Vec<String> = lines
            .filter(|line| {
                ["REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT"]
                    .iter()
                    .any(|key| line.contains(key))
            })
            .collect();
        kept.sort();
        kept
    };
    let before = told(&mut client);
    assert!(before.len() >= 4, "{before:?}");
    reload(&server);
    assert_eq!(told(&mut client), before);
}

#[test]
fn more_idle_connections_than_fit_in_the_channel_are_all_handed_over() {
    let server = Server::lab().workers(2).start();
    let mut clients = idle(&server, 500);
    let new = reload(&server);
    for client in &mut clients {
        assert!(new.contains(&pid(client)));
    }
}

#[test]
fn a_connection_that_has_not_spoken_yet_is_handed_over() {
    for listen in [Listen::Tcp, Listen::Unix] {
        let server = Server::lab().workers(2).listen(listen).start();
        let mut silent: Vec<Client> = (0..20).map(|_| server.client()).collect();
        let new = reload(&server);
        for client in &mut silent {
            assert!(new.contains(&pid(client)), "{listen:?}");
        }
    }
}

#[test]
fn a_head_sent_in_halves_across_a_reload_is_answered() {
    let server = Server::lab().workers(2).start();
    let mut clients = idle(&server, 10);
    clients.extend((0..10).map(|_| server.client()));
    for client in &mut clients {
        client.send("GET /generation HTTP/1.1\r\nHost: a\r\nX-Half:").unwrap();
    }
    for client in &clients {
        until("the server has read the first half", || client.taken().then_some(()));
    }
    reload(&server);
    for client in &mut clients {
        client.send(" yes\r\n\r\n").unwrap();
        assert_eq!(client.reply().unwrap().text().trim(), "2");
        assert_eq!(text(client, "/generation"), "2");
    }
}

#[test]
fn pipelined_requests_across_a_reload_are_answered_in_their_order() {
    let server = Server::lab().workers(2).start();
    let mut client = server.client();
    let request = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let more: String = ["/status?code=201", "/generation", "/status?code=202"]
        .map(request)
        .concat();
    client.send(request("/sleep?ms=1500") + &more).unwrap();
    until("the server has read all of them", || client.taken().then_some(()));
    server.signal(Signal::SIGHUP);
    let replies: Vec<_> = (0..4).map(|_| client.reply().unwrap()).collect();
    assert!(replies.iter().all(|reply| !reply.closes()), "{replies:?}");
    assert_eq!(replies[0].text(), "slept 1500 ms\n");
    assert_eq!([replies[1].status, replies[3].status], [201, 202]);
    assert_eq!(replies[2].text().trim(), "2", "handed over with what was read ahead");
}

#[test]
fn a_busy_connection_is_handed_over_after_its_answer() {
    let server = Server::lab().workers(2).start();
    let mut sleeper = server.client();
    let mut uploader = server.client();
    sleeper.send("GET /sleep?ms=1500 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    uploader
        .send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
        .unwrap();
    for client in [&sleeper, &uploader] {
        until("the server has read the request", || client.taken().then_some(()));
    }
    let old = server.workers();
    server.signal(Signal::SIGHUP);
    server.wait_for_workers("two are new", |pids| {
        pids.iter().filter(|pid| !old.contains(pid)).count() == 2
    });
    // The old ones are told to leave when the new ones are ready, which is later than that they are there.
    server.wait_for_log("ready: 2 workers (generation 2)");
    uploader.send("world").unwrap();
    for (client, answer) in [(&mut sleeper, "slept 1500 ms\n"), (&mut uploader, "helloworld")] {
        let reply = client.reply().unwrap();
        assert_eq!((reply.text().as_str(), reply.closes()), (answer, false));
        assert_eq!(text(client, "/generation"), "2");
    }
}

#[test]
fn a_client_that_asks_for_the_close_gets_it() {
    let server = Server::lab().workers(1).start();
    let mut client = server.client();
    client
        .send("GET /sleep?ms=800 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    until("the server has read the request", || client.taken().then_some(()));
    server.signal(Signal::SIGHUP);
    assert!(client.reply().unwrap().closes());
    assert_eq!(client.rest().unwrap(), b"");
}

#[test]
fn a_raw_stream_stays_with_its_worker_until_it_ends() {
    let server = Server::lab().workers(1).start();
    let old = server.workers();
    let mut client = server.client();
    client
        .send("GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        .unwrap();
    assert_eq!(client.reply().unwrap().status, 101);
    server.signal(Signal::SIGHUP);
    server.wait_for_workers("the new one serves", |pids| pids.iter().any(|pid| !old.contains(pid)));
    server.wait_for_log("reload complete");
    client.send("still here").unwrap();
    client.half_close();
    assert_eq!(client.rest().unwrap(), b"still here");
}

#[test]
fn a_scale_down_hands_connections_to_those_that_stay() {
    let server = Server::lab().workers(3).start();
    let mut clients = idle(&server, 30);
    for wanted in [2, 1] {
        server.signal(Signal::SIGTTOU);
        let left = server.wait_for_workers("one fewer", |pids| pids.len() == wanted);
        for client in &mut clients {
            assert!(left.contains(&pid(client)));
        }
    }
}

#[test]
fn clients_that_never_reconnect_notice_nothing_of_a_reload_every_200_ms() {
    for listen in [Listen::Tcp, Listen::Unix] {
        let server = Server::lab().workers(2).listen(listen).start();
        let over = Arc::new(AtomicBool::new(false));
        let talk = |number: usize| {
            let (mut client, over) = (server.client(), over.clone());
            thread::spawn(move || {
                let target = ["/", "/sleep?ms=5", "/bytes?n=100000"][number % 3];
                let mut tally = Tally::default();
                while !over.load(Ordering::Relaxed) {
                    if tally.count(target, client.get(target), false).is_none() {
                        tally.lost.push(format!("{target}: its connection was closed"));
                        break;
                    }
                    if number.is_multiple_of(2) {
                        pause(Duration::from_millis(1));
                    }
                }
                tally
            })
        };
        let clients: Vec<_> = (0..6).map(talk).collect();
        for _ in 0..15 {
            server.signal(Signal::SIGHUP);
            pause(Duration::from_millis(200));
        }
        until("several reloads are complete", || {
            (server.log().matches("reload complete").count() > 3).then_some(())
        });
        over.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        clients.into_iter().for_each(|client| all.add(client.join().unwrap()));
        println!("{listen:?}: {all:?}");
        assert_eq!(
            (all.lost.as_slice(), all.raced, all.refused, all.honest),
            (&[][..], 0, 0, 0)
        );
        assert!(all.answered > 100, "{all:?}");
    }
}

#[test]
fn a_stop_in_the_middle_of_a_reload_ends_what_is_on_its_way_in_good_order() {
    for round in 0..8 {
        let mut server = Server::lab().workers(2).start();
        let mut clients = idle(&server, 40);
        server.signal(Signal::SIGHUP);
        server.wait_for_log("reloading");
        pause(Duration::from_millis(round * 20));
        server.signal(Signal::SIGTERM);
        for client in &mut clients {
            if client.ended() {
                continue;
            }
            match client.get("/") {
                Ok(_) | Err(Failure::Closed) => {}
                Err(failure) => panic!("round {round}: {failure}\n{}", server.log()),
            }
        }
        drop(clients);
        assert!(server.wait_for_exit(Duration::from_secs(20)).success());
    }
}

#[test]
fn connections_that_nobody_can_take_yet_are_served_where_they_are() {
    // More than the channel has room for, and a next generation that takes two.
    const CLIENTS: usize = 420;
    let config = |connections: usize| format!("workers = 1\n[limits]\nconnections = {connections}\n");
    let server = Server::lab()
        .workers(1)
        .listen(Listen::Unix)
        .config(&config(1024))
        .start();
    let mut clients = idle(&server, CLIENTS);
    let old = server.workers()[0];
    let file = server.folder().join("appserver.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("connections = 1024", "connections = 2")).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_workers("one is new", |pids| pids.iter().any(|pid| *pid != old));
    server.wait_for_log("reload complete");
    for client in &mut clients {
        client.patience(Duration::from_millis(1));
        client.send("GET /pid HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    let mut by_the_old = 0;
    until("the old worker serves those whom it could not give away", || {
        clients.retain_mut(|client| match client.reply() {
            Ok(reply) => {
                by_the_old += i32::from(reply.text().trim() == old.to_string());
                false
            }
            Err(_) => true,
        });
        (by_the_old > 50).then_some(())
    });
}
