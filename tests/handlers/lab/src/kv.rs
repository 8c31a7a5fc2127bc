//! The key-value cache: takes an operation by query parameters, gives its outcome as a status and a text.
//!
//! `/kv?op=get|set|add|incr|delete|purge&name=&key=&value=&ttl_ms=&by=&what=`. It keeps nothing itself.
#![forbid(unsafe_code)]

use std::time::Duration;

use appserver_handler::{Body, Environ, Error, Purge, StartResponse};

use crate::{Lab, answer, query::Query};

pub fn kv(_: &Lab, environ: Environ, query: &Query, start_response: StartResponse) -> Body {
    let name = query.text("name").unwrap_or_else(|| "lab".to_owned());
    let Some(cache) = environ.cache(&name) else {
        return answer::text(&start_response, "501 Not Implemented", "the server has no cache\n");
    };
    let key = query.bytes("key").unwrap_or_default();
    let value = query.bytes("value").unwrap_or_default();
    let ttl = Some(query.number("ttl_ms", 0))
        .filter(|ms| *ms > 0)
        .map(Duration::from_millis);
    let by = query.text("by").and_then(|by| by.parse().ok()).unwrap_or(1);
    let text = String::from_utf8_lossy(key);
    let outcome = match query.text("op").as_deref() {
        Some("get") => match cache.get(key) {
            Ok(Some(value)) => {
                start_response("200 OK", &[("Content-Type", "application/octet-stream")]);
                return Body::from(value);
            }
            Ok(None) => Err("404 Not Found"),
            Err(error) => Err(status(error)),
        },
        Some("set") => cache.set(key, value, ttl).map(|()| "set".to_owned()).map_err(status),
        Some("add") => match cache.add(key, value, ttl) {
            Ok(true) => Ok("added".to_owned()),
            Ok(false) => Err("409 Conflict"),
            Err(error) => Err(status(error)),
        },
        Some("incr") => cache.incr(key, by, ttl).map(|sum| sum.to_string()).map_err(status),
        Some("delete") => match cache.delete(key) {
            Ok(true) => Ok("deleted".to_owned()),
            Ok(false) => Err("404 Not Found"),
            Err(error) => Err(status(error)),
        },
        Some("purge") => {
            let what = match query.text("what").as_deref() {
                Some("prefix") => Purge::Prefix(&text),
                Some("tag") => Purge::Tag(&text),
                _ => Purge::Key(&text),
            };
            cache.purge(what).map(|count| count.to_string()).map_err(status)
        }
        _ => Err("400 Bad Request"),
    };
    match outcome {
        Ok(text) => answer::text(&start_response, "200 OK", text),
        Err(status) => answer::text(&start_response, status, format!("{status}\n")),
    }
}

fn status(error: Error) -> &'static str {
    match error {
        Error::TooLarge => "413 Content Too Large",
        Error::Busy => "503 Service Unavailable",
        Error::State => "422 Unprocessable Content",
        Error::Invalid => "400 Bad Request",
        _ => "500 Internal Server Error",
    }
}
