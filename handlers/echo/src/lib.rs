//! Sends the request body back: takes any request, gives its body and its Content-Type. It streams and keeps nothing.
#![forbid(unsafe_code)]

use appserver_handler::{Body, Environ, StartResponse, handler};

fn app(environ: Environ, start_response: StartResponse) -> Body {
    let kind = match environ.get("CONTENT_TYPE") {
        Some(kind) if !kind.is_empty() => kind,
        _ => b"application/octet-stream",
    };
    match environ.get("CONTENT_LENGTH") {
        Some(length) if !length.is_empty() => {
            start_response.raw("200 OK", &[("Content-Type", kind), ("Content-Length", length)])
        }
        _ => start_response.raw("200 OK", &[("Content-Type", kind)]),
    };
    Body::reader(environ.input())
}
handler!(app);
