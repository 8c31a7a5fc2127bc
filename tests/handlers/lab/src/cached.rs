//! A response that caches may keep: takes the directives to send, gives a body that differs at each call.
//!
//! It answers a conditional request with 304 when `etag` was asked for.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use appserver_handler::{Body, Environ, StartResponse};

use crate::{Lab, query::Query};

static CALLS: AtomicU64 = AtomicU64::new(0);

/// `?max_age=&s_maxage=&vary=&etag=&swr=&sie=&private=&cookie=`
pub fn cache(_: &Lab, environ: Environ, query: &Query, start_response: StartResponse) -> Body {
    let mut headers = vec![("Content-Type", "text/plain".to_owned())];
    let directives = directives(query);
    if !directives.is_empty() {
        headers.push(("Cache-Control", directives));
    }
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
    let body = format!("{}-{}\n", std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed) + 1);
    headers.push(("Content-Length", body.len().to_string()));
    start_response.raw("200 OK", &headers);
    Body::from(body)
}

fn directives(query: &Query) -> String {
    let mut directives: Vec<String> = Vec::new();
    if query.flag("private") {
        directives.push("private".to_owned());
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
