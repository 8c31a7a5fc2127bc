//! The monitor: what it tells, that it tells it whatever hangs, and that its death costs nothing.
//!
//! Takes a server with `[admin] bind`; gives its pages, read strictly, while workers work, hang, die and leave.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::admin::{admin, ask, metrics, monitor, status, wait_for_readyz};
use crate::support::client::{Address, Client};
use crate::support::metrics::Metrics;
use crate::support::process;
use crate::support::server::{Builder, Listen, Server};
use crate::support::wait::{PATIENCE, until, within};

const TCP: &str = "[admin]\nbind = \"127.0.0.1:0\"\n";
const UNIX: &str = "[admin]\nbind = \"unix:DIR/admin.sock\"\n";
const PAGES: [&str; 4] = ["/healthz", "/readyz", "/status", "/metrics"];

fn with(config: &str) -> Builder {
    Server::lab().config(config)
}

/// The metrics once the request that every start makes is over and counted.
fn settled(address: &Address) -> Metrics {
    until("the first connections are closed", || {
        let now = metrics(address);
        let over = now.value("appserver_connections") == 0.0 && now.sum("appserver_requests_total") >= 1.0;
        over.then_some(now)
    })
}

#[test]
fn all_pages_are_there_over_tcp_and_over_unix() {
    for (config, listen) in [(TCP, Listen::Tcp), (UNIX, Listen::Unix)] {
        let mut server = with(config).listen(listen).start();
        let address = admin(&server);
        wait_for_readyz(&address, 200);
        assert_eq!(ask(&address, "/healthz").text(), "ok\n");
        assert_eq!(ask(&address, "/readyz").text(), "ok\n");
        let told = status(&address);
        assert_eq!(told["phase"], "serving");
        assert_eq!(told["master_pid"], server.master());
        assert_eq!(told["workers"].as_array().unwrap().len(), 2);
        assert_eq!(told["generations"][0]["role"], "serving");
        assert_eq!(
            told["generations"][0]["modules"][0]["sha256"].as_str().unwrap().len(),
            64
        );
        let (numbers, pids): (Vec<u64>, Vec<i64>) = told["workers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|worker| (worker["worker"].as_u64().unwrap(), worker["pid"].as_i64().unwrap()))
            .unzip();
        assert_eq!(numbers, [1, 2]);
        assert!(pids.iter().all(|pid| server.workers().contains(&(*pid as i32))));
        assert_eq!(metrics(&address).value("appserver_workers{state=\"ready\"}"), 2.0);

        assert_eq!(ask(&address, "/").status, 404);
        let mut client = Client::connect(&address).unwrap();
        client.send("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let head = client.reply_to("HEAD").unwrap();
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert!(head.header("content-length").is_some_and(|length| length != "0"));
        client
            .send("POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        let refused = client.reply().unwrap();
        assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));

        let monitor = monitor(&server);
        server.stop(Signal::SIGTERM);
        assert!(!process::alive(monitor), "the monitor outlived its master");
        assert!(!server.folder().join("admin.sock").exists());
    }
}

#[test]
fn what_clients_did_is_counted() {
    let server = with(TCP).start();
    let address = admin(&server);
    let before = settled(&address);
    for target in ["/", "/status?code=404", "/status?code=503", "/sleep?ms=30", "/panic"] {
        server.get(target);
    }
    let after = until("all are counted", || {
        let now = metrics(&address);
        now.check_grown_since(&before);
        (now.sum("appserver_requests_total") >= before.sum("appserver_requests_total") + 5.0).then_some(now)
    });
    let grew = |name: &str| after.value(name) - before.value(name);
    assert_eq!(grew("appserver_requests_total{status=\"2xx\"}"), 2.0);
    assert_eq!(grew("appserver_requests_total{status=\"4xx\"}"), 1.0);
    assert_eq!(grew("appserver_requests_total{status=\"5xx\"}"), 2.0);
    assert_eq!(grew("appserver_handler_panics_total"), 1.0);
    assert_eq!(grew("appserver_request_duration_seconds_count"), 5.0);
    assert!(grew("appserver_request_duration_seconds_sum") >= 0.03);
    assert!(grew("appserver_sent_bytes_total") > 0.0);
    assert!(after.sum("appserver_accepts_total") >= 5.0);
    assert!(after.value("appserver_worker_memory_bytes{worker=\"1\"}") > 1e6);
    assert_eq!(after.value("appserver_workers_spawned_total"), 2.0);
}

#[test]
fn no_count_goes_backwards_over_twenty_deaths_and_a_reload() {
    let server = with(TCP).start();
    let address = admin(&server);
    let mut last = settled(&address);
    let mut look = |what: &str, wanted: f64| {
        until(what, || {
            let now = metrics(&address);
            now.check_grown_since(&last);
            last = now;
            (last.sum("appserver_requests_total") >= wanted).then_some(())
        });
        last.clone()
    };
    let first = look("at first", 0.0).sum("appserver_requests_total");
    for round in 1..=20_u32 {
        let pid: i32 = server.get("/pid").text().trim().parse().unwrap();
        let counted = first + f64::from(round);
        look("the request is counted", counted);
        process::signal(pid, Signal::SIGKILL);
        server.wait_for_workers("the dead one is replaced", |pids| {
            pids.len() == 2 && !pids.contains(&pid)
        });
        look("the sums are as before", counted);
        until("one serves", || {
            look("none goes back meanwhile", counted);
            (status(&address)["ready"].as_u64() >= Some(1)).then_some(())
        });
    }
    let workers = server.workers();
    server.signal(Signal::SIGHUP);
    until("the reload is through", || {
        look("none goes back in a reload", first + 20.0);
        let now = server.workers();
        (now.len() == 2 && now.iter().all(|pid| !workers.contains(pid))).then_some(())
    });
    let after = look("after it all", first + 20.0);
    assert_eq!(after.sum("appserver_requests_total"), first + 20.0);
    assert_eq!(after.value("appserver_reloads_total{outcome=\"done\"}"), 1.0);
    assert_eq!(after.value("appserver_generation"), 2.0);
}

#[test]
fn a_reload_that_is_refused_is_told_with_its_reason() {
    let builder = Server::bare().listen(Listen::Tcp);
    let module = builder.folder().join("app.so");
    std::fs::copy(crate::support::modules::module("lab"), &module).unwrap();
    let server = builder
        .config(&format!(
            "workers = 2\n[[mount]]\npath = \"/\"\nmodule = {module:?}\n{TCP}"
        ))
        .start();
    let address = admin(&server);
    wait_for_readyz(&address, 200);
    std::fs::remove_file(&module).unwrap();
    server.signal(Signal::SIGHUP);
    let told = until("the outcome is told", || {
        Some(status(&address)).filter(|told| !told["last"].is_null())
    });
    assert_eq!(
        (&told["last"]["verb"], &told["last"]["outcome"]),
        (&"reload".into(), &"refused".into())
    );
    assert!(told["last"]["reason"].as_str().unwrap().contains("app.so"), "{told}");
    assert_eq!(told["generation"], 1);
    assert_eq!(
        metrics(&address).value("appserver_reloads_total{outcome=\"refused\"}"),
        1.0
    );
    wait_for_readyz(&address, 200);
}

#[test]
fn a_server_is_ready_only_once_its_workers_are() {
    let server = with(TCP).arg("--arg").arg("boot=slow:1500").launch();
    let address = admin(&server);
    let early = ask(&address, "/readyz");
    assert_eq!(early.status, 503);
    assert!(early.text().starts_with("starting"), "{}", early.text());
    assert_eq!(ask(&address, "/healthz").status, 200);
    wait_for_readyz(&address, 200);
    assert_eq!(status(&address)["ready"], 2);
}

#[test]
fn a_server_whose_workers_keep_dying_is_not_ready() {
    let server = with(TCP).start();
    let address = admin(&server);
    wait_for_readyz(&address, 200);
    until("it is found out", || {
        for pid in server.workers() {
            process::signal(pid, Signal::SIGKILL);
        }
        let reply = ask(&address, "/readyz");
        (reply.status == 503 && reply.text().starts_with("workers keep dying")).then_some(())
    });
    assert_eq!(status(&address)["looping"], true);
    // Once they live long enough to be trusted, it is over.
    wait_for_readyz(&address, 200);
}

#[test]
fn it_answers_while_every_handler_thread_hangs_and_names_the_calls() {
    let server = with(TCP).arg("--threads").arg("1").start();
    let address = admin(&server);
    let hanging: Vec<Client> = (0..8)
        .map(|_| {
            let mut client = server.client();
            client.send("GET /hang HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            client
        })
        .collect();
    let told = until("the calls are told", || {
        let told = status(&address);
        let workers = told["workers"].as_array().unwrap().clone();
        let calls: Vec<Value> = workers
            .iter()
            .flat_map(|worker| worker["calls"].as_array().unwrap().clone())
            .collect();
        // The record of the request that the start waited for may be there a moment longer than its answer takes.
        (!calls.is_empty() && calls.iter().all(|call| call["line"] == "GET /hang")).then_some(calls)
    });
    assert!(
        told.iter()
            .all(|call| call["request_id"].as_str().is_some_and(|id| !id.is_empty()))
    );
    for page in PAGES {
        assert!([200, 503].contains(&ask(&address, page).status), "{page}");
    }
    drop(hanging);
}

#[test]
fn it_answers_while_every_worker_is_stopped_and_says_that_none_serves() {
    let server = with(TCP).start();
    let address = admin(&server);
    wait_for_readyz(&address, 200);
    let workers = server.workers();
    workers
        .iter()
        .for_each(|pid| assert!(process::signal(*pid, Signal::SIGSTOP)));
    for page in PAGES {
        assert!([200, 503].contains(&ask(&address, page).status), "{page}");
    }
    wait_for_readyz(&address, 503);
    assert_eq!(ask(&address, "/healthz").status, 200, "the master is well");
    for pid in workers {
        process::signal(pid, Signal::SIGCONT);
    }
    wait_for_readyz(&address, 200);
}

#[test]
fn its_death_costs_nothing_and_it_comes_back() {
    let server = with(TCP).start();
    let address = admin(&server);
    let (workers, mut client) = (server.workers(), server.client());
    assert_eq!(client.get("/").unwrap().status, 200);
    let mut counted = metrics(&address).sum("appserver_requests_total");
    for (round, signal) in [(1, Signal::SIGKILL), (2, Signal::SIGTERM)] {
        let old = monitor(&server);
        process::signal(old, signal);
        assert_eq!(client.get("/").unwrap().status, 200, "the connection is none of its");
        let fresh = until("another one is there", || {
            Some(monitor(&server)).filter(|pid| *pid != old)
        });
        let now = metrics(&address);
        assert!(now.sum("appserver_requests_total") >= counted, "it forgets nothing");
        counted = now.sum("appserver_requests_total");
        assert_eq!(now.value("appserver_monitor_restarts_total"), f64::from(round));
        assert!(fresh != old);
    }
    assert_eq!(server.workers(), workers);
}

#[test]
fn a_monitor_that_dies_again_and_again_is_held_back_and_the_site_serves_on() {
    let server = with(TCP).start();
    let line = within(PATIENCE, || {
        process::signal(monitor(&server), Signal::SIGKILL);
        server.get("/");
        server
            .log()
            .lines()
            .find(|line| line.contains("the monitor") && line.contains("starts in"))
            .map(str::to_owned)
    });
    assert!(line.is_some(), "{}", server.log());
    monitor(&server);
}

#[test]
fn it_answers_until_the_last_worker_has_left() {
    let mut server = with(TCP).start();
    let address = admin(&server);
    wait_for_readyz(&address, 200);
    let mut slow = server.client();
    slow.send("GET /sleep?ms=1500 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    until("the call is under way", || {
        (metrics(&address).value("appserver_in_flight") >= 1.0).then_some(())
    });
    server.signal(Signal::SIGTERM);
    assert_eq!(wait_for_readyz(&address, 503).text(), "stopping\n");
    assert_eq!(ask(&address, "/healthz").status, 200);
    assert_eq!(slow.reply().unwrap().status, 200);
    assert_eq!(server.wait_for_exit(PATIENCE).code(), Some(0));
}

#[test]
fn it_opens_its_log_anew_when_the_others_do() {
    let server = with(&format!("[log]\nfile = \"DIR/error.log\"\n{TCP}"));
    let (log, old) = (server.folder().join("error.log"), server.folder().join("error.log.1"));
    let server = server.listen(Listen::Unix).start();
    let monitor = monitor(&server);
    let held = |path: &std::path::Path| process::descriptors(monitor).contains(&path.display().to_string());
    until("it has the log", || held(&log).then_some(()));
    std::fs::rename(&log, &old).unwrap();
    server.signal(Signal::SIGUSR1);
    until("it has the new log and not the old one", || {
        (held(&log) && !held(&old)).then_some(())
    });
}

#[test]
fn it_goes_with_a_master_that_is_killed_even_when_it_is_stopped() {
    let mut server = with(TCP).start();
    let monitor = monitor(&server);
    process::signal(monitor, Signal::SIGSTOP);
    process::signal(server.master(), Signal::SIGKILL);
    server.wait_for_exit(Duration::from_secs(10));
    until("the monitor has gone", || (!process::alive(monitor)).then_some(()));
}

#[test]
fn it_has_no_privileges_and_no_listener_of_the_clients() {
    let server = with(TCP).start();
    let monitor = monitor(&server);
    assert_eq!(process::threads(monitor), 1);
    assert_eq!(process::threads(server.master()), 1);
    // Its admin listener under two numbers, and tokio's own pair: the clients' listener is none of them.
    let listener = process::descriptors(server.workers()[0]);
    let its = process::descriptors(monitor);
    let clients: Vec<&String> = listener.iter().filter(|name| name.starts_with("socket:")).collect();
    let shared: Vec<&&String> = clients.iter().filter(|name| its.contains(name)).collect();
    assert!(shared.len() < clients.len(), "{shared:?} of {clients:?}");
    if nix::unistd::geteuid().is_root() {
        let server = with(&format!("user = \"nobody\"\n{TCP}")).start();
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        let uid = until("it has become nobody", || {
            let text = std::fs::read_to_string(format!("/proc/{}/status", self::monitor(&server))).ok()?;
            let line = text.lines().find(|line| line.starts_with("Uid:"))?.to_owned();
            Some(line.split_whitespace().nth(1)?.to_owned())
        });
        assert_eq!(uid, nobody.uid.to_string());
    }
}

#[test]
fn an_admin_address_that_is_taken_ends_the_start_with_the_reason() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (code, log) = with(&format!("[admin]\nbind = \"{address}\"\n"))
        .listen(Listen::Unix)
        .fail();
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains(&format!("admin: cannot listen on {address}")), "{log}");
    assert!(log.contains("change `[admin] bind`"), "{log}");
}

#[test]
fn slow_and_silent_clients_of_it_keep_nobody_waiting() {
    let server = with(TCP).start();
    let address = admin(&server);
    let mut silent: Vec<Client> = (0..63).map(|_| Client::connect(&address).unwrap()).collect();
    silent[0].send("GET /metr").unwrap();
    assert_eq!(ask(&address, "/healthz").status, 200);
    // One more than there are places for waits in the queue until the first of the silent ones is shown the door.
    silent.extend((0..2).map(|_| Client::connect(&address).unwrap()));
    assert_eq!(ask(&address, "/healthz").status, 200);
}
