//! Two servers behind one nginx, and a uwsgi listener behind another, with the configurations that we ship.
//!
//! Takes one server away, or a worker, in the middle of requests; gives what the clients of nginx see, and how often a handler was called.

use nix::sys::signal::Signal;

use crate::support::json;
use crate::support::nginx::Nginx;
use crate::support::process;
use crate::support::server::{Listen, Server};
use crate::support::storm::{Habit, Storm};
use crate::support::wait::until;

fn two() -> (Server, Server, Nginx) {
    let server = || Server::lab().workers(1).listen(Listen::Unix).start();
    let (one, other) = (server(), server());
    let nginx = Nginx::before_two([one.address(), other.address()]);
    (one, other, nginx)
}

fn calls(server: &Server) -> u64 {
    server.get("/count").text().trim().parse().unwrap()
}

/// Requests by many clients, one a connection.
fn storm(nginx: &Nginx, target: &str) -> Storm {
    let habit = Habit {
        target: target.into(),
        per_connection: 1,
    };
    Storm::start(&nginx.address(), 4, &habit)
}

#[test]
fn either_of_two_servers_may_be_stopped_and_started_again() {
    let (mut one, other, nginx) = two();
    let storm = storm(&nginx, "/");
    until("both are asked", || {
        (calls(&one) > 20 && calls(&other) > 20).then_some(())
    });
    one.stop(Signal::SIGTERM);
    let before = calls(&other);
    until("the other serves on", || (calls(&other) > before + 100).then_some(()));
    let tally = storm.end();
    assert!(
        tally.lost.is_empty() && tally.refused == 0 && tally.honest == 0,
        "{tally:?}\n{}",
        nginx.log()
    );
}

#[test]
fn a_killed_worker_fails_no_get() {
    let (one, other, nginx) = two();
    let storm = storm(&nginx, "/sleep?ms=5");
    for _ in 0..4 {
        let (before, killed) = (calls(&other), one.workers());
        until("requests are under way", || (calls(&other) > before + 5).then_some(()));
        for pid in &killed {
            process::signal(*pid, Signal::SIGKILL);
        }
        one.wait_for_workers("another is there", |pids| {
            pids.len() == 1 && pids.iter().all(|pid| !killed.contains(pid))
        });
    }
    let tally = storm.end();
    assert!(
        tally.lost.is_empty() && tally.refused == 0 && tally.honest == 0,
        "{tally:?}\n{}",
        nginx.log()
    );
}

#[test]
fn what_may_change_something_is_not_asked_for_twice_and_what_may_not_is() {
    let (one, other, nginx) = two();
    let all = || calls(&one) + calls(&other);
    let mut client = nginx.client();
    for (method, times) in [("POST", 1), ("GET", 2)] {
        // The two that ask how many there were count themselves.
        let before = all();
        client
            .send(format!(
                "{method} /status?code=503 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
            ))
            .unwrap();
        assert_eq!(client.reply().unwrap().status, 503, "{method}\n{}", nginx.log());
        assert_eq!(all() - before - 2, times, "{method}");
        // Each that has answered 503 is left out for five seconds; where both are, nginx asks all the same.
    }
    let mut client = nginx.client();
    client
        .send("POST /segv HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    assert_eq!(client.reply().unwrap().status, 502);
    let deaths = || [&one, &other].map(|server| server.log().matches("worker died").count());
    until("one worker has died", || {
        (deaths().iter().sum::<usize>() > 0).then_some(())
    });
    assert_eq!(deaths().iter().sum::<usize>(), 1, "and not one of each");
}

#[test]
fn the_shipped_uwsgi_configuration_tells_all_there_is() {
    let builder = Server::lab().workers(1);
    let socket = builder.folder().join("uwsgi.sock");
    let _server = builder
        .arg("--bind")
        .arg(format!("uwsgi+unix:{}", socket.display()))
        .start();
    let nginx = Nginx::before_uwsgi(&socket);
    let mut client = nginx.client();
    client
        .send(
            "POST /environ?x=1 HTTP/1.1\r\nHost: www.example.org\r\nX-Request-Id: evil\r\nContent-Length: 3\r\n\r\nabc",
        )
        .unwrap();
    let reply = client.reply().unwrap();
    assert_eq!(reply.status, 200, "{}\n{}", reply.text(), nginx.log());
    let environ = json::object(&reply.text());
    for (key, expected) in [
        ("REQUEST_URI", "/environ?x=1"),
        ("HTTP_HOST", "www.example.org"),
        ("CONTENT_LENGTH", "3"),
        ("REQUEST_SCHEME", "http"),
        ("wsgi.url_scheme", "http"),
    ] {
        assert_eq!(
            environ.get(key).map(String::as_str),
            Some(expected),
            "{key} of {environ:#?}"
        );
    }
    let id = &environ["appserver.request_id"];
    assert_eq!(
        (id.len(), id),
        (32, &environ["HTTP_X_REQUEST_ID"]),
        "nginx's id is ours"
    );
    assert!(environ["HTTP_X_REQUEST_START"].starts_with("t=1"), "{environ:#?}");
}
