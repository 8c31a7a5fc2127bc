//! What may be kept, for whom and for how long: RFC 9111 and its neighbours, end to end.

use std::time::{Duration, Instant};

use super::{ask, cached, calls, get, is_hit, set, status};
use crate::support::wait::until;

#[test]
fn what_one_worker_keeps_every_worker_serves() {
    let server = cached(3, "").start();
    let first = get(&server, "/cache?max_age=60&etag=a", "");
    assert_eq!(status(&first), "appserver; fwd=uri-miss; stored");
    let mut seen = std::collections::BTreeSet::new();
    until("all workers have answered", || {
        let mut client = server.client();
        let reply = ask(&mut client, "GET", "/cache?max_age=60&etag=a", "");
        assert!(is_hit(&reply), "{reply:?}");
        assert_eq!(reply.body, first.body);
        assert!(reply.header("age").is_some_and(|age| age.parse::<u64>().unwrap() < 60));
        for name in ["content-type", "cache-control", "etag", "date"] {
            assert_eq!(reply.header(name), first.header(name), "{name}");
        }
        seen.insert(client.get("/pid").unwrap().text());
        (seen.len() == 3).then_some(())
    });
    let log = until("the lines", || {
        let log = server.read("access.log");
        (log.contains("\"cache\":\"hit\"") && log.contains("\"cache\":\"miss\"")).then_some(log)
    });
    assert!(
        log.lines()
            .any(|line| line.contains("/pid") && line.contains("\"cache\":\"miss\""))
    );
}

#[test]
fn what_is_for_one_client_alone_is_kept_for_nobody() {
    let server = cached(1, "").start();
    for (target, fields, why) in [
        ("/cache?private=1&max_age=60", "", "private"),
        ("/cache?no_store=1&max_age=60", "", "no-store"),
        ("/cache?max_age=60&cookie=a", "", "set-cookie"),
        ("/cache", "", "no-lifetime"),
        ("/cache?max_age=60&vary=*", "", "vary-any"),
        ("/cache?max_age=60", "Authorization: Basic x\r\n", "authorization"),
    ] {
        let bodies: Vec<_> = (0..2).map(|_| get(&server, target, fields)).collect();
        assert_ne!(bodies[0].body, bodies[1].body, "{target}");
        assert!(
            status(&bodies[1]).ends_with(&format!("detail={why}")),
            "{:?}",
            bodies[1]
        );
    }
    // Against the client's will neither.
    for _ in 0..2 {
        assert!(!is_hit(&get(
            &server,
            "/cache?max_age=60&n=1",
            "Cache-Control: no-store\r\n"
        )));
    }
    let authorized = "Authorization: Basic x\r\n";
    get(&server, "/cache?s_maxage=60", authorized);
    assert!(
        is_hit(&get(&server, "/cache?s_maxage=60", authorized)),
        "s-maxage says that it is for others, too"
    );
}

#[test]
fn head_is_answered_from_get_and_post_never_is() {
    let server = cached(1, "").start();
    let target = "/cache?max_age=60&etag=a";
    let head = ask(&mut server.client(), "HEAD", target, "");
    assert!(!is_hit(&head));
    let kept = get(&server, target, "");
    assert!(!is_hit(&kept), "an answer to HEAD is not kept");
    let head = ask(&mut server.client(), "HEAD", target, "");
    assert!(is_hit(&head));
    assert_eq!(head.header("content-length"), kept.header("content-length"));
    assert_eq!((head.body.len(), head.header("etag")), (0, Some("\"a\"")));
    let post = ask(&mut server.client(), "POST", target, "Content-Length: 0\r\n");
    assert_ne!(post.body, kept.body);
    let after = get(&server, target, "");
    assert!(
        !is_hit(&after),
        "what was kept of a target is worthless after a change of it (RFC 9111 section 4.4)"
    );
    // A change that failed has changed nothing.
    set(&server, "broken", "500");
    get(&server, "/cache?max_age=60&fail_if=broken2", "");
    ask(&mut server.client(), "DELETE", "/status?code=500", "");
    assert!(is_hit(&get(&server, target, "")));
}

#[test]
fn variants_are_told_apart_by_what_vary_names() {
    let server = cached(2, "").start();
    let target = "/cache?max_age=60&vary=accept-language";
    let german = get(&server, target, "Accept-Language: de\r\n");
    let english = get(&server, target, "Accept-Language: en\r\n");
    assert_ne!(german.body, english.body);
    assert_eq!(status(&english), "appserver; fwd=vary-miss; stored");
    for _ in 0..4 {
        assert_eq!(get(&server, target, "accept-LANGUAGE:   de\r\n").body, german.body);
        assert_eq!(
            get(&server, target, "Accept-Language: en\r\nX: y\r\n").body,
            english.body
        );
    }
    let none = get(&server, target, "");
    assert!(!is_hit(&none) && is_hit(&get(&server, target, "")));
    ask(&mut server.client(), "PUT", target, "Content-Length: 0\r\n");
    assert!(
        !is_hit(&get(&server, target, "Accept-Language: de\r\n")),
        "all variants go together"
    );
}

#[test]
fn conditions_and_ranges_are_answered_from_what_is_kept() {
    let server = cached(1, "").start();
    let target = "/cache?max_age=60&etag=a&size=100";
    let whole = get(&server, target, "If-None-Match: \"other\"\r\n");
    assert_eq!(
        (whole.status, whole.body.len()),
        (200, 100),
        "what fills the cache is the whole"
    );
    for tag in ["\"a\"", "W/\"a\"", "\"x\", \"a\"", "*"] {
        let reply = get(&server, target, &format!("If-None-Match: {tag}\r\n"));
        assert_eq!((reply.status, is_hit(&reply)), (304, true), "{tag}");
        assert_eq!(
            (reply.header("etag"), reply.header("content-type")),
            (Some("\"a\""), None)
        );
    }
    let part = get(&server, target, "Range: bytes=10-19\r\n");
    assert_eq!(
        (part.status, part.header("content-range")),
        (206, Some("bytes 10-19/100"))
    );
    assert_eq!(part.body, whole.body[10..20]);
    let beyond = get(&server, target, "Range: bytes=100-\r\n");
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (416, Some("bytes */100"))
    );
    let changed = get(&server, target, "Range: bytes=0-1\r\nIf-Range: \"b\"\r\n");
    assert_eq!((changed.status, changed.body.len()), (200, 100));
    let several = get(&server, target, "Range: bytes=0-1,3-4\r\n");
    assert_eq!((several.status, several.body.len()), (200, 100));
    // A miss whose client has what was just made is told so all the same.
    let fresh = get(&server, "/cache?max_age=60&etag=b&n=1", "If-None-Match: \"b\"\r\n");
    assert_eq!(fresh.status, 304);
    assert!(is_hit(&get(&server, "/cache?max_age=60&etag=b&n=1", "")));
}

#[test]
fn nothing_is_served_a_moment_longer_than_it_may_be() {
    let server = cached(2, "").start();
    let target = "/cache?max_age=1&count=exact";
    let mut client = server.client();
    let mut made = Instant::now();
    let (mut hits, mut body) = (0, Vec::new());
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        let asked = Instant::now();
        let reply = client.get(target).unwrap();
        if is_hit(&reply) {
            hits += 1;
            assert_eq!(reply.body, body);
            // It was made before its answer came, and so is at least as old.
            assert!(asked.duration_since(made) < Duration::from_millis(1001), "{reply:?}");
        } else {
            (made, body) = (Instant::now(), reply.body);
        }
    }
    assert!(hits > 50, "{hits}");
    let made = calls(&server, "exact");
    assert!((3..=9).contains(&made), "a second is a second: {made} calls in four");
}

#[test]
fn a_client_may_want_less_than_is_kept_or_nothing_else() {
    let server = cached(1, "").start();
    let target = "/cache?max_age=60";
    let only = "Cache-Control: only-if-cached\r\n";
    assert_eq!(get(&server, target, only).status, 504);
    get(&server, target, "");
    assert!(is_hit(&get(&server, target, only)));
    for wish in [
        "Cache-Control: no-cache\r\n",
        "Pragma: no-cache\r\n",
        "Cache-Control: max-age=0\r\n",
    ] {
        let reply = get(&server, target, wish);
        // Within the very second that it was made, an age of 0 is no more than 0.
        assert!(wish.contains("max-age") || !is_hit(&reply), "{wish}");
    }
    assert!(!is_hit(&get(&server, target, "Cache-Control: min-fresh=61\r\n")));
}

#[test]
fn a_stream_is_kept_when_it_has_come_to_its_end_and_not_before() {
    let server = cached(2, "").start();
    let target = "/cache?max_age=60&chunks=5&size=50000";
    let first = get(&server, target, "");
    assert_eq!(first.body.len(), 50_000);
    let second = get(&server, target, "");
    assert!(is_hit(&second));
    assert_eq!(second.body, first.body);
    assert_eq!(second.header("content-length"), Some("50000"));

    // A client that leaves in the middle leaves nothing behind but its absence.
    let slow = "/cache?max_age=60&chunks=50&size=50000&pause_ms=20&count=left";
    let mut client = server.client();
    client
        .send(format!("GET {slow} HTTP/1.1\r\nHost: test\r\n\r\n"))
        .unwrap();
    client.head(true).unwrap();
    client.reset();
    let whole = get(&server, slow, "");
    assert_eq!((whole.body.len(), is_hit(&whole)), (50_000, false));
    assert!(is_hit(&get(&server, slow, "")));

    // One that is cut off by its handler is not kept.
    for _ in 0..2 {
        let mut client = server.client();
        client.send("GET /panic-midway HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        assert!(client.reply().is_err());
    }
    let large = "/cache?max_age=60&size=600000";
    assert!(status(&get(&server, large, "")).ends_with("detail=no-room"));
    assert!(!is_hit(&get(&server, large, "")));
}

#[test]
fn rules_say_what_is_kept_and_what_tells_it_apart() {
    let rules = "[[cache.rule]]\npath = \"/cache\"\nhost = \"never.example\"\nbypass = true\n\
                 [[cache.rule]]\npath = \"/cache\"\nhost = \"shop.example\"\nttl = \"60s\"\nquery = [\"id\"]\nheaders = [\"X-Shop\"]\ncookies = [\"user\"]\n\
                 [[cache.rule]]\npath = \"/\"\nignore-query = [\"utm\"]\n";
    let server = cached(1, rules).start();
    let of = |host: &str, target: &str, fields: &str| {
        let mut client = server.client();
        client
            .send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"))
            .unwrap();
        client.reply().unwrap()
    };
    of("never.example", "/cache?max_age=60", "");
    let passed = of("never.example", "/cache?max_age=60", "");
    assert_eq!(status(&passed), "appserver; fwd=bypass");

    let first = of("shop.example", "/cache?id=1&b=2", "");
    assert!(!is_hit(&first));
    assert_eq!(of("SHOP.example", "/cache?a=1&id=1", "").body, first.body);
    // However it is written: else one way of it would not be told apart by cookies.
    assert_eq!(of("shop.example:80", "/%63ache?id=1", "").body, first.body);
    for (target, fields) in [
        ("/cache?id=2", ""),
        ("/cache?id=1", "X-Shop: b\r\n"),
        ("/cache?id=1", "Cookie: user=a\r\n"),
    ] {
        assert!(!is_hit(&of("shop.example", target, fields)), "{target} {fields}");
        assert!(is_hit(&of("shop.example", target, fields)), "{target} {fields}");
    }
    assert!(is_hit(&of("shop.example", "/cache?id=1", "Cookie: other=1\r\n")));

    assert!(!is_hit(&of("test", "/cache?max_age=60&utm=1", "")));
    assert!(is_hit(&of("test", "/cache?max_age=60&utm=2", "")));
    assert!(!is_hit(&of("test", "/cache?max_age=60&other=2", "")));
}
