//! Behind nginx: what may change something is done once, whatever happens to a server, and what is a stream is passed on as one.
//!
//! Takes POSTs through the shipped configurations while servers are reloaded, stopped and killed, by the access logs of the servers; and
//! streams in both directions, with the times at which their pieces came.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::client::{Address, Client};
use crate::support::modules::module;
use crate::support::nginx::Nginx;
use crate::support::process;
use crate::support::server::{Listen, Server};
use crate::support::wait::{pause, until};

const LOG: &str = "[log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n";

/// A number, and the status it was answered with, if it was.
type Outcome = (u64, Option<u16>);

/// Clients that POST on connections they keep, each with a number of its own.
struct Posts {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<Outcome>>>,
}

impl Posts {
    fn start(address: &Address, page: &'static str) -> Self {
        let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..4).map(|_| {
            let (address, over, sent) = (address.clone(), over.clone(), sent.clone());
            thread::spawn(move || {
                let (mut seen, mut client) = (Vec::new(), Client::connect(&address).unwrap());
                while !over.load(Ordering::Relaxed) {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    let request =
                        format!("POST {page}number={number} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
                    let outcome = client.send(request).ok().and_then(|()| client.reply().ok());
                    if outcome.as_ref().is_none_or(|reply| reply.closes()) {
                        client = Client::connect(&address).unwrap();
                    }
                    seen.push((number, outcome.map(|reply| reply.status)));
                }
                seen
            })
        });
        Posts {
            clients: clients.collect(),
            over,
            sent,
        }
    }

    fn wait(&self, more: u64) {
        let before = self.sent.load(Ordering::Relaxed);
        until("more are sent", || {
            (self.sent.load(Ordering::Relaxed) > before + more).then_some(())
        });
    }

    /// The numbers of those that were answered as they should be, and what became of the others.
    fn end(self) -> (Vec<u64>, Vec<Outcome>) {
        self.over.store(true, Ordering::Relaxed);
        let all = self.clients.into_iter().flat_map(|client| client.join().unwrap());
        let (good, bad): (Vec<_>, Vec<_>) = all.partition(|(_, status)| *status == Some(200));
        (good.into_iter().map(|(number, _)| number).collect(), bad)
    }
}

/// Panics unless each of these has a line in one of the logs, and none has two.
fn each_once(servers: &[&Server], good: &[u64], others: usize) {
    until("each has its line, and only one", || {
        let logs: String = servers.iter().map(|server| server.read("access.log")).collect();
        let lines = logs.lines().filter_map(|line| line.split("number=").nth(1));
        let mut numbers: Vec<u64> = lines
            .map(|rest| rest[..rest.find('"').unwrap()].parse().unwrap())
            .collect();
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "one was done twice");
        (numbers.len() <= good.len() + others && good.iter().all(|one| numbers.binary_search(one).is_ok()))
            .then_some(())
    });
}

#[test]
fn posts_during_reloads_are_each_done_once_and_none_fails() {
    for listen in [Listen::Tcp, Listen::Unix] {
        let server = Server::lab().listen(listen).config(LOG).start();
        let nginx = Nginx::before(server.address());
        let posts = Posts::start(&nginx.address(), "/echo?");
        for _ in 0..5 {
            let before = server.workers();
            server.signal(Signal::SIGHUP);
            server.wait_for_workers("two others", |pids| {
                pids.len() == 2 && pids.iter().all(|pid| !before.contains(pid))
            });
        }
        let (good, bad) = posts.end();
        assert!(
            bad.is_empty() && good.len() > 100,
            "{listen:?}: {bad:?}\n{}",
            nginx.log()
        );
        each_once(&[&server], &good, 0);
    }
}

#[test]
fn posts_to_two_servers_of_which_one_is_gone_are_each_done_once_and_none_fails() {
    for listen in [Listen::Tcp, Listen::Unix] {
        let server = || Server::lab().workers(1).listen(listen).config(LOG).start();
        let (mut one, other) = (server(), server());
        let nginx = Nginx::before_two([one.address(), other.address()]);
        one.stop(Signal::SIGTERM);
        let posts = Posts::start(&nginx.address(), "/echo?");
        posts.wait(100);
        let (good, bad) = posts.end();
        assert!(bad.is_empty(), "{listen:?}: {bad:?}\n{}", nginx.log());
        each_once(&[&one, &other], &good, 0);
    }
}

#[test]
fn posts_that_cross_the_stop_of_one_of_two_servers_get_502_and_were_not_done() {
    for listen in [Listen::Tcp, Listen::Unix] {
        let server = || Server::lab().workers(1).listen(listen).config(LOG).start();
        let (mut one, other) = (server(), server());
        let nginx = Nginx::before_two([one.address(), other.address()]);
        let posts = Posts::start(&nginx.address(), "/echo?");
        posts.wait(100);
        one.stop(Signal::SIGTERM);
        posts.wait(100);
        let (good, bad) = posts.end();
        // A stop closes idle connections, and nginx does not repeat what it has just sent on one of them: at most one of each client.
        assert!(
            bad.len() <= 4 && bad.iter().all(|(_, status)| *status == Some(502)),
            "{listen:?}: {bad:?}\n{}",
            nginx.log()
        );
        each_once(&[&one, &other], &good, 0);
    }
}

#[test]
fn posts_under_way_when_a_worker_is_killed_fail_at_most_and_are_never_done_twice() {
    let server = || Server::lab().workers(1).listen(Listen::Unix).config(LOG).start();
    let (one, other) = (server(), server());
    let nginx = Nginx::before_two([one.address(), other.address()]);
    let posts = Posts::start(&nginx.address(), "/sleep?ms=5&");
    for _ in 0..3 {
        posts.wait(30);
        let killed = one.workers();
        for pid in &killed {
            process::signal(*pid, Signal::SIGKILL);
        }
        one.wait_for_workers("another is there", |pids| pids.len() == 1 && pids != killed);
    }
    let (good, bad) = posts.end();
    // Those that the killed worker had at that moment: no more than there are clients.
    assert!(
        bad.len() <= 12 && bad.iter().all(|(_, status)| *status == Some(502)),
        "{bad:?}\n{}",
        nginx.log()
    );
    each_once(&[&one, &other], &good, bad.len());
}

/// The lab at the root, and at /events once more, with this listener besides.
fn events(more: Option<&str>) -> Server {
    let module = module("lab");
    let mount = |path: &str| format!("[[mount]]\npath = {path:?}\nmodule = {module:?}\n");
    let config = format!("workers = 2\n{}{}{LOG}", mount("/"), mount("/events"));
    let mut builder = Server::bare().workers(2).listen(Listen::Unix).config(&config);
    if let Some(bind) = more {
        let bind = bind.replace("DIR", &builder.folder().display().to_string());
        builder = builder.arg("--bind").arg(bind);
    }
    builder.start()
}

/// How far apart the first and the last piece of a stream of three came.
fn apart(nginx: &Nginx, target: &str) -> Duration {
    let mut client = nginx.client();
    client
        .send(format!(
            "GET {target}chunks=3&size=5&delay_ms=500 HTTP/1.1\r\nHost: a\r\n\r\n"
        ))
        .unwrap();
    assert_eq!(client.head(true).unwrap().status, 200, "{target}");
    let mut came = Vec::new();
    assert_eq!(client.count_chunks(|_| came.push(Instant::now())).unwrap(), 15);
    came[came.len() - 1] - came[0]
}

#[test]
fn a_stream_is_passed_on_as_it_comes_where_its_place_or_its_own_header_says_so() {
    let server = events(Some("uwsgi+unix:DIR/uwsgi.sock"));
    let long = Duration::from_millis(300);
    for nginx in [
        Nginx::before(server.address()),
        Nginx::before_uwsgi(&server.folder().join("uwsgi.sock")),
    ] {
        for target in ["/events/stream?", "/stream?unbuffered=1&"] {
            let apart = apart(&nginx, target);
            assert!(apart > long, "{target}: all came within {apart:?}");
        }
    }
}

#[test]
fn the_handler_is_at_the_clients_pace_only_where_nothing_is_buffered() {
    let server = events(Some("uwsgi+unix:DIR/uwsgi.sock"));
    let targets = ["/stream?chunks", "/stream?unbuffered=1&chunks", "/events/stream?chunks"];
    let ended = |which: usize| {
        server
            .read("access.log")
            .matches(&format!("\"{}=", targets[which]))
            .count()
    };
    for (nginx, times) in [
        (Nginx::before(server.address()), 1),
        (Nginx::before_uwsgi(&server.folder().join("uwsgi.sock")), 2),
    ] {
        let mut clients: Vec<Client> = targets.iter().map(|_| nginx.client()).collect();
        for (client, target) in clients.iter_mut().zip(targets) {
            client
                .send(format!("GET {target}=200&size=50000 HTTP/1.1\r\nHost: a\r\n\r\n"))
                .unwrap();
        }
        until("one call is over, and nothing was read", || {
            (ended(0) == times).then_some(())
        });
        // Access logs are written once a second.
        pause(Duration::from_millis(1300));
        for unbuffered in [1, 2] {
            assert_eq!(ended(unbuffered), times - 1, "{}", targets[unbuffered]);
        }
        for client in &mut clients {
            assert_eq!(client.reply().unwrap().body.len(), 10_000_000);
        }
        until("all are over", || {
            (0..3).all(|which| ended(which) == times).then_some(())
        });
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_upload_is_told_to_the_handler_at_once() {
    let server = events(Some("uwsgi+unix:DIR/uwsgi.sock"));
    for (nginx, times) in [
        (Nginx::before(server.address()), 1),
        (Nginx::before_uwsgi(&server.folder().join("uwsgi.sock")), 2),
    ] {
        let mut client = nginx.client();
        client
            .send("POST /events/read?n=1000 HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n")
            .unwrap();
        client.send(vec![b'x'; 1_000_000]).unwrap();
        // Larger than what is read ahead of a call: the call is under way well before this.
        pause(Duration::from_millis(300));
        drop(client);
        until("the handler is told, and the log says so", || {
            let told = server.log().matches("could not read the request body").count();
            let aborted = server
                .read("access.log")
                .lines()
                .filter(|line| line.contains("/events/read") && line.contains("\"outcome\":\"aborted\""))
                .count();
            (told == times && aborted == times).then_some(())
        });
    }
}

#[test]
fn a_large_body_passes_the_shipped_uwsgi_configuration_in_both_places() {
    const LARGE: usize = 16 << 20;
    let server = events(Some("uwsgi+unix:DIR/uwsgi.sock"));
    let nginx = Nginx::before_uwsgi(&server.folder().join("uwsgi.sock"));
    for place in ["", "/events"] {
        let mut client = nginx.client();
        client
            .send(format!(
                "POST {place}/read?n=1048576 HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"
            ))
            .unwrap();
        client.send(vec![b'x'; LARGE]).unwrap();
        let reply = client.reply().unwrap();
        assert_eq!(reply.text(), format!("{LARGE}\n"), "{place}\n{}", nginx.log());
        assert_eq!(
            client.get(&format!("{place}/bytes?n={LARGE}")).unwrap().body.len(),
            LARGE
        );
    }
}
