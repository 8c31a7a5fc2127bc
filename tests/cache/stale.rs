//! What is stale: confirmed by the handler, served while it is made anew, or in place of an answer that does not come.

use std::time::{Duration, Instant};

use super::{ask, cached, calls, get, is_hit, set, status};
use crate::support::wait::until;

#[test]
fn what_is_stale_is_confirmed_by_the_handler_and_costs_no_body() {
    let server = cached(1, "").start();
    let target = "/cache?no_cache=1&etag=v1&count=confirm";
    let first = get(&server, target, "");
    for round in 2..5 {
        let reply = get(&server, target, "");
        assert_eq!((reply.status, &reply.body), (200, &first.body));
        assert_eq!(status(&reply), "appserver; fwd=stale; fwd-status=304; stored");
        assert_eq!(reply.header("content-type"), Some("text/plain"));
        assert_eq!(calls(&server, "confirm"), round);
    }
    let reply = get(&server, target, "If-None-Match: \"v1\"\r\n");
    assert_eq!(
        reply.status, 304,
        "the client's own condition is answered from what was confirmed"
    );
}

#[test]
fn stale_is_served_while_one_worker_makes_it_anew() {
    let server = cached(3, "").start();
    let target = "/cache?max_age=1&swr=60&count=swr&delay_ms=100";
    let first = get(&server, target, "");
    until("it is stale", || {
        let asked = Instant::now();
        let reply = get(&server, target, "");
        assert_eq!(reply.body, first.body, "nobody waits");
        assert!(asked.elapsed() < Duration::from_secs(1));
        status(&reply)
            .contains("ttl=-")
            .then_some(())
            .or_else(|| status(&reply).contains("ttl=0").then_some(()))
    });
    let second = until("it is fresh again", || {
        let reply = get(&server, target, "");
        (reply.body != first.body).then_some(reply)
    });
    assert!(is_hit(&second));
    assert_eq!(calls(&server, "swr"), 2, "one worker asked, once");
}

#[test]
fn stale_is_served_when_the_handler_fails_panics_or_hangs() {
    let server = cached(2, "[timeouts]\nrequest = \"1s\"\n").start();
    let target = "/cache?max_age=0&sie=60&etag=x&fail_if=failing";
    let first = get(&server, target, "");
    for how in ["503", "panic", "hang"] {
        set(&server, "failing", how);
        let reply = get(&server, target, "");
        assert_eq!((reply.status, &reply.body), (200, &first.body), "{how}: {reply:?}");
        assert!(status(&reply).contains("detail=stale-if-error"), "{how}: {reply:?}");
    }
    set(&server, "failing", "503");
    for (method, fields) in [("HEAD", ""), ("GET", "Range: bytes=0-3\r\n")] {
        let reply = ask(&mut server.client(), method, target, fields);
        assert_eq!(reply.status, 200, "{method} {fields}: {reply:?}");
    }
    set(&server, "failing", "hang");
    assert_eq!(
        get(&server, "/cache?max_age=0&fail_if=failing&n=1", "").status,
        504,
        "where it may not be, it is not"
    );
}
