//! Workers that crash, leave or are killed: each costs what it held and nothing else.
//!
//! Takes the lab's crashing paths and `kill -9`; gives the workers that come after, the master's log and descriptors,
//! and an account of every request of clients that were there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::client::{Address, Client};
use crate::support::modules::module;
use crate::support::process;
use crate::support::server::{Listen, Server};
use crate::support::wait::{pause, until};

#[test]
fn a_worker_that_crashes_is_replaced_and_named() {
    let server = Server::lab().workers(2).start();
    for target in ["/segv", "/abort", "/exit?code=0", "/exit?code=3", "/exit?code=5"] {
        let before = server.workers();
        let _ = server.client().get(target);
        let after = server.wait_for_workers(target, |pids| pids.len() == 2 && pids != before);
        let dead = before.iter().find(|pid| !after.contains(pid)).expect("one has gone");
        server.wait_for_log(&dead.to_string());
        until("the server answers", || {
            server.try_get("/").filter(|reply| reply.status == 200)
        });
    }
}

#[test]
fn a_worker_killed_by_a_real_time_signal_is_replaced_like_any_other() {
    let server = Server::lab().workers(2).start();
    let before = server.workers();
    // 34 is SIGRTMIN for programs (signal(7)); the typed names of signals end below it.
    let killed = std::process::Command::new("kill")
        .args(["-34", &before[0].to_string()])
        .status();
    assert!(killed.unwrap().success());
    server.wait_for_workers("two again", |pids| pids.len() == 2 && !pids.contains(&before[0]));
    server.wait_for_log("killed by signal 34");
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn a_killed_worker_is_replaced_at_once() {
    let server = Server::lab().workers(3).start();
    let before = server.workers();
    let start = Instant::now();
    process::signal(before[1], Signal::SIGKILL);
    server.wait_for_workers("three again", |pids| pids.len() == 3 && !pids.contains(&before[1]));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "it took {:?}",
        start.elapsed()
    );
    assert_eq!(
        server.workers().iter().filter(|pid| before.contains(pid)).count(),
        2,
        "the others were left alone"
    );
}

#[test]
fn a_module_that_crashes_at_every_start_is_retried_ever_more_slowly() {
    let server = Server::lab().workers(1).start();
    let start = Instant::now();
    let mut deaths = 0;
    while start.elapsed() < Duration::from_secs(4) {
        if let Some(&pid) = server.workers().first() {
            process::signal(pid, Signal::SIGKILL);
            until("it is gone", || (!process::alive(pid)).then_some(()));
            deaths += 1;
        }
        pause(Duration::from_millis(1));
    }
    assert!(
        (3..200).contains(&deaths),
        "{deaths} starts in 4 s: back-off after three short lives"
    );
    until("it serves again when left alone", || {
        server.try_get("/").filter(|reply| reply.status == 200)
    });
}

#[test]
fn no_worker_outlives_a_killed_master() {
    let mut server = Server::lab().workers(3).start();
    let workers = server.workers();
    server.signal(Signal::SIGKILL);
    server.wait_for_exit(Duration::from_secs(10));
    until("the workers noticed", || {
        workers.iter().all(|&pid| !process::alive(pid)).then_some(())
    });
}

#[test]
fn a_stopped_worker_does_not_stop_the_others() {
    let server = Server::lab().workers(2).start();
    let stopped = server.workers()[0];
    process::signal(stopped, Signal::SIGSTOP);
    // Its share of the connections waits in it, which issue 2 does not yet cure; a new one finds the other worker.
    until("the other worker answers", || {
        let mut client = Client::connect(server.address()).ok()?;
        client.patience(Duration::from_millis(300));
        client.get("/").ok()
    });
    process::signal(stopped, Signal::SIGCONT);
}

/// Life of a worker before it may be killed: shorter lives count towards the back-off.
const RIPE: Duration = Duration::from_millis(1_100);
const WORKERS: usize = 10;
const KILLS: usize = 200;

/// One client's count, and the pid that each failed connection had last heard from.
#[derive(Default)]
struct Account {
    answered: u64,
    failed_in: Vec<Option<i32>>,
}

fn keep_asking(address: &Address, over: &AtomicBool) -> Account {
    let mut account = Account::default();
    while !over.load(Ordering::Relaxed) {
        let mut client = Client::connect(address).expect("the master holds the listener all the time");
        let mut pid = None;
        for _ in 0..50 {
            match client.get("/pid") {
                Ok(reply) => {
                    account.answered += 1;
                    pid = reply.text().trim().parse().ok();
                }
                Err(_) => {
                    account.failed_in.push(pid);
                    break;
                }
            }
        }
    }
    account
}

#[test]
fn killing_workers_under_load_costs_only_what_they_held() {
    let server = Server::lab()
        .workers(WORKERS)
        .config("[log]\naccess = \"DIR/access.log\"\naccess-format = \"json\"\n")
        .start();
    let descriptors = process::descriptors(server.master()).len();
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (address, over) = (server.address().clone(), over.clone());
            thread::spawn(move || keep_asking(&address, &over))
        })
        .collect();

    let start = Instant::now();
    let mut born: BTreeMap<i32, Instant> = BTreeMap::new();
    let mut killed = BTreeSet::new();
    while killed.len() < KILLS || start.elapsed() < Duration::from_secs(30) {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "only {} kills; workers do not come back",
            killed.len()
        );
        let now = server.workers();
        born.retain(|pid, _| now.contains(pid));
        for &pid in &now {
            born.entry(pid).or_insert_with(Instant::now);
        }
        let ripe = born
            .iter()
            .filter(|(_, since)| since.elapsed() > RIPE)
            .min_by_key(|(_, since)| **since);
        if let Some((&pid, _)) = ripe
            && process::signal(pid, Signal::SIGKILL)
        {
            born.remove(&pid);
            killed.insert(pid);
            until("it is reaped", || process::state(pid).is_none().then_some(()));
        }
        pause(Duration::from_millis(2));
    }
    server.wait_for_workers("all workers are back", |pids| pids.len() == WORKERS);
    over.store(true, Ordering::Relaxed);
    let accounts: Vec<Account> = clients.into_iter().map(|client| client.join().unwrap()).collect();

    let answered: u64 = accounts.iter().map(|account| account.answered).sum();
    let failed: Vec<Option<i32>> = accounts.into_iter().flat_map(|account| account.failed_in).collect();
    assert!(answered > 10_000, "there was load: {answered}");
    for pid in failed.iter().flatten() {
        assert!(
            killed.contains(pid),
            "a connection broke in worker {pid}, which nobody killed"
        );
    }
    // A kill can break what one worker held: at most every client's one connection.
    assert!(
        failed.len() <= killed.len() * 4,
        "{} failures in {} kills",
        failed.len(),
        killed.len()
    );
    assert_eq!(process::zombies(server.master()), [0; 0]);
    until("the master holds no descriptor of the dead", || {
        (process::descriptors(server.master()).len() <= descriptors).then_some(())
    });
    let log = server.log();
    for pid in &killed {
        assert!(log.contains(&pid.to_string()), "the master reports the death of {pid}");
    }
    // A worker may die between the last byte of an answer and its line: one call each, as many as it had in hand.
    let lines = || {
        server
            .read("access.log")
            .lines()
            .filter(|line| line.contains("/pid"))
            .count() as u64
    };
    until("the lines of finished calls are all there", || {
        (lines() + killed.len() as u64 >= answered).then_some(())
    });
}

#[test]
fn a_generation_that_is_too_big_from_the_start_is_refused() {
    let limits = |text: &str| format!("module = {:?}\nworkers = 2\n[limits]\n{text}\n", module("lab"));
    let server = Server::bare().config(&limits("")).listen(Listen::Tcp).start();
    let old = server.workers();
    fs::write(server.folder().join("appserver.toml"), limits("memory-hard = \"1MiB\"")).unwrap();
    server.signal(Signal::SIGHUP);
    let log = server.wait_for_log("reload refused");
    assert!(log.contains("too big when it has just started"), "{log}");
    server.wait_for_workers("the old ones serve", |pids| {
        pids.len() == 2 && pids.iter().any(|pid| old.contains(pid))
    });
    assert_eq!(server.get("/generation").text().trim(), "1");

    let (code, log) = Server::bare()
        .config(&limits("memory-hard = \"1MiB\""))
        .listen(Listen::Tcp)
        .fail();
    assert_eq!(code, Some(5), "{log}");
}

#[test]
fn a_soft_limit_below_what_a_worker_begins_with_does_not_have_it_replaced_for_ever() {
    let text = format!(
        "module = {:?}\nworkers = 2\n[limits]\nmemory-soft = \"1MiB\"\n",
        module("lab")
    );
    let server = Server::bare().config(&text).listen(Listen::Tcp).start();
    server.wait_for_log("more than limits.memory-soft; it is replaced above");
    let mut client = server.client();
    let leaky: i32 = client.get("/pid").unwrap().text().trim().parse().unwrap();
    let other = server.workers().into_iter().find(|pid| *pid != leaky).unwrap();
    assert_eq!(client.get("/leak?mib=64").unwrap().status, 200);
    let now = server.wait_for_workers("the one that grew is replaced", |pids| !pids.contains(&leaky));
    assert!(now.contains(&other), "{}", server.log());
}

#[test]
fn a_start_that_was_called_off_is_no_early_death() {
    let server = Server::lab().workers(1).arg("--arg").arg("boot=slow:1000").start();
    for round in 1..=4 {
        server.signal(Signal::SIGTTIN);
        server.wait_for_workers("a second one starts", |pids| pids.len() == 2);
        server.signal(Signal::SIGTTOU);
        server.wait_for_workers("it is called off", |pids| pids.len() == 1);
        assert!(!server.log().contains("died early"), "round {round}: {}", server.log());
    }
}

#[test]
fn the_server_is_ready_when_the_worker_that_does_not_come_up_is_no_longer_wanted() {
    let server = Server::lab().workers(2).arg("--arg").arg("boot=slow:1000").launch();
    let second = until("the second worker starts", || {
        let workers = server.workers();
        workers
            .into_iter()
            .find(|pid| process::title(*pid).contains("worker 2"))
    });
    process::signal(second, Signal::SIGSTOP);
    server.wait_for_workers("the first one is ready", |pids| {
        pids.iter().any(|pid| *pid != second && process::threads(*pid) > 1)
    });
    server.signal(Signal::SIGTTOU);
    server.wait_for_log("ready: 1 workers (generation 1)");
}

#[test]
fn a_server_that_was_frozen_as_a_whole_keeps_its_workers() {
    let text = format!(
        "module = {:?}\nworkers = 2\n[timeouts]\nrequest = \"1s\"\n",
        module("lab")
    );
    let server = Server::bare().config(&text).listen(Listen::Tcp).start();
    let before = server.workers();
    let all = || {
        before
            .iter()
            .chain([server.master()].iter())
            .copied()
            .collect::<Vec<_>>()
    };
    all()
        .into_iter()
        .for_each(|pid| assert!(process::signal(pid, Signal::SIGSTOP)));
    // Longer than a worker may be silent: the limit of a request and ten seconds.
    pause(Duration::from_secs(12));
    // The master first, which has the workers look as silent as can be.
    all()
        .into_iter()
        .rev()
        .for_each(|pid| assert!(process::signal(pid, Signal::SIGCONT)));
    server.signal(Signal::SIGTTIN);
    let after = server.wait_for_workers("there is one more", |pids| pids.len() == 3);
    assert!(before.iter().all(|pid| after.contains(pid)), "{}", server.log());
    assert!(!server.log().contains("silent"), "{}", server.log());
}
