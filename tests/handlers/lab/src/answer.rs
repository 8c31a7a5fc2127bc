//! Short answers about the request and the process: takes the request, gives text that a test can compare.
//!
//! It waits for nothing and reads no body.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use appserver_handler::{Body, Environ, StartResponse};

use crate::query::Query;
use crate::{CLOSED, COUNT, Lab, VERSION};

/// Text with its length.
pub fn text(start_response: &StartResponse<'_>, status: &str, text: impl Into<String>) -> Body {
    let text = text.into();
    let length = text.len().to_string();
    start_response(
        status,
        &[
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", &length),
        ],
    );
    Body::from(text)
}

pub fn hello(_: &Lab, _: Environ, _: &Query, start_response: StartResponse) -> Body {
    let page = format!("Hello, world! (lab {VERSION})\n");
    let length = page.len().to_string();
    let headers = [
        ("Content-Type", "text/plain"),
        ("Content-Length", &length),
        ("X-Lab-Version", VERSION),
    ];
    start_response("200 OK", &headers);
    Body::from(page)
}

pub fn version(_: &Lab, _: Environ, _: &Query, start_response: StartResponse) -> Body {
    text(&start_response, "200 OK", format!("{VERSION}\n"))
}

pub fn pid(_: &Lab, _: Environ, _: &Query, start_response: StartResponse) -> Body {
    text(&start_response, "200 OK", format!("{}\n", std::process::id()))
}

pub fn generation(lab: &Lab, _: Environ, _: &Query, start_response: StartResponse) -> Body {
    text(&start_response, "200 OK", format!("{}\n", lab.generation))
}

pub fn count(_: &Lab, _: Environ, _: &Query, start_response: StartResponse) -> Body {
    text(
        &start_response,
        "200 OK",
        format!("{}\n", COUNT.load(Ordering::Relaxed)),
    )
}

pub fn closed(_: &Lab, _: Environ, _: &Query, start_response: StartResponse) -> Body {
    text(
        &start_response,
        "200 OK",
        format!("{}\n", CLOSED.load(Ordering::Relaxed)),
    )
}

/// `?code=&reason=`
pub fn status(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    let code = query.text("code").unwrap_or_else(|| "200".to_owned());
    let reason = query.text("reason").unwrap_or_else(|| reason(&code).to_owned());
    let status = format!("{code} {reason}");
    if matches!(code.as_str(), "204" | "304") {
        start_response(&status, &[]);
        return Body::empty();
    }
    text(&start_response, &status, format!("{status}\n"))
}

fn reason(code: &str) -> &'static str {
    match code {
        "200" => "OK",
        "201" => "Created",
        "202" => "Accepted",
        "204" => "No Content",
        "301" => "Moved Permanently",
        "302" => "Found",
        "304" => "Not Modified",
        "400" => "Bad Request",
        "403" => "Forbidden",
        "404" => "Not Found",
        "410" => "Gone",
        "418" => "I'm a teapot",
        "500" => "Internal Server Error",
        "502" => "Bad Gateway",
        "503" => "Service Unavailable",
        _ => "As Asked",
    }
}

/// `?NAME=VALUE…`
pub fn headers(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    let mut headers = query.pairs().to_vec();
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case(b"content-type"))
    {
        headers.push((b"Content-Type".to_vec(), b"text/plain".to_vec()));
    }
    start_response.raw("200 OK", &headers);
    Body::from("headers as asked\n")
}

pub fn environ(_: &Lab, environ: Environ, _: &Query, start_response: StartResponse) -> Body {
    let mut json = String::from("{");
    for (index, (key, value)) in environ.iter().enumerate() {
        json.push_str(if index == 0 { "\n  " } else { ",\n  " });
        quote(&mut json, key);
        json.push_str(": ");
        quote(&mut json, value);
    }
    json.push_str("\n}\n");
    let length = json.len().to_string();
    start_response(
        "200 OK",
        &[("Content-Type", "application/json"), ("Content-Length", &length)],
    );
    Body::from(json)
}

/// Every byte is the character of its number (Latin-1), as in WSGI's native strings, so that none gets lost.
fn quote(json: &mut String, bytes: &[u8]) {
    json.push('"');
    for character in bytes.iter().map(|byte| char::from(*byte)) {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            control if (control as u32) < 0x20 => json.push_str(&format!("\\u{:04x}", control as u32)),
            other => json.push(other),
        }
    }
    json.push('"');
}
