//! A response that caches may keep: takes the directives to send, gives a body that differs at each call.
//!
//! It answers a conditional request with 304 when `etag` was asked for. What it is to count, and whether it is to fail, it finds in the
//! key-value cache under `lab`, so that a test can tell over all workers.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use appserver_handler::{Body, Environ, StartResponse};

use crate::{Lab, query::Query};

static CALLS: AtomicU64 = AtomicU64::new(0);

/// `?max_age=&s_maxage=&vary=&etag=&swr=&sie=&private=&no_store=&cookie=&tag=&delay_ms=&size=&text=&chunks=&count=KEY&fail_if=KEY`
pub fn cache(_: &Lab, environ: Environ, query: &Query, start_response: StartResponse) -> Body {
    let shared = environ.cache("lab");
    if let (Some(shared), Some(key)) = (&shared, query.text("count")) {
        let _ = shared.incr(key, 1, None);
    }
    std::thread::sleep(Duration::from_millis(query.number("delay_ms", 0)));
    let failing = query.text("fail_if").and_then(|key| shared.as_ref()?.get(key).ok()?);
    match failing.as_deref() {
        Some(b"panic") => panic!("the lab was asked to fail"),
        Some(b"hang") => std::thread::sleep(Duration::from_secs(3600)),
        Some(_) => {
            start_response("503 Service Unavailable", &[]);
            return Body::from("failed\n");
        }
        None => {}
    }
    let mut headers = vec![("Content-Type", "text/plain".to_owned())];
    let directives = directives(query);
    if !directives.is_empty() {
        headers.push(("Cache-Control", directives));
    }
    headers.extend(query.text("tag").map(|tag| ("Cache-Tag", tag)));
    headers.extend(query.text("vary").map(|vary| ("Vary", vary)));
    headers.extend(
        query
            .text("cookie")
            .map(|cookie| ("Set-Cookie", format!("lab={cookie}"))),
    );

    let etag = query.text("etag").map(|etag| format!("\"{etag}\""));
    let asked = environ.get("HTTP_IF_NONE_MATCH");
    let unchanged = etag.as_ref().is_some_and(|etag| asked == Some(etag.as_bytes()));
    headers.extend(etag.map(|etag| ("ETag", etag)));
    if unchanged {
        start_response.raw("304 Not Modified", &headers[1..]);
        return Body::empty();
    }
    let size = query.number("size", 0) as usize;
    let body = match query.text("text") {
        // A body that follows from what was asked.
        Some(text) => text.chars().cycle().take(size).collect(),
        None => {
            let mut body = format!("{}-{}\n", std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed) + 1);
            body.extend(std::iter::repeat_n('x', size.saturating_sub(body.len())));
            body
        }
    };
    let chunks = query.number("chunks", 0) as usize;
    if chunks > 0 {
        start_response.raw("200 OK", &headers);
        let length = body.len().div_ceil(chunks);
        let pieces: Vec<Vec<u8>> = body.as_bytes().chunks(length).map(<[u8]>::to_vec).collect();
        let pause = Duration::from_millis(query.number("pause_ms", 0));
        let slowly = move |piece: Vec<u8>| {
            std::thread::sleep(pause);
            piece
        };
        return Body::iter(pieces.into_iter().map(slowly));
    }
    headers.push(("Content-Length", body.len().to_string()));
    start_response.raw("200 OK", &headers);
    Body::from(body)
}

fn directives(query: &Query) -> String {
    let mut directives: Vec<String> = Vec::new();
    for (parameter, directive) in [
        ("private", "private"),
        ("no_store", "no-store"),
        ("no_cache", "no-cache"),
    ] {
        if query.flag(parameter) {
            directives.push(directive.to_owned());
        }
    }
    for (parameter, directive) in [
        ("max_age", "max-age"),
        ("s_maxage", "s-maxage"),
        ("swr", "stale-while-revalidate"),
        ("sie", "stale-if-error"),
    ] {
        directives.extend(query.text(parameter).map(|seconds| format!("{directive}={seconds}")));
    }
    directives.join(", ")
}
