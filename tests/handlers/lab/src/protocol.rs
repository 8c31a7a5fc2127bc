//! The edges of HTTP and of PEP 3333: takes a path, gives trailers, hints, an upgrade, or a broken rule.
//!
//! What the server should make of a broken rule is the test's to say.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};

use appserver_handler::{Body, Environ, Level, StartResponse};

use crate::answer::text;
use crate::{Lab, query::Query};

/// Tells the request's trailers, one a line, and sends one of its own.
pub fn trailers(_: &Lab, environ: Environ, _: &Query, start_response: StartResponse) -> Body {
    let mut lines = Vec::new();
    if let Err(error) = io::copy(&mut environ.input(), &mut io::sink()) {
        return text(&start_response, "400 Bad Request", format!("{error}\n"));
    }
    for (name, value) in environ.trailers().unwrap_or_default() {
        lines.push([name, b": ", value, b"\n"].concat());
    }
    lines.push(b"end\n".to_vec());
    start_response(
        "200 OK",
        &[("Content-Type", "text/plain"), ("Trailer", "X-Lab-Trailer")],
    );
    if let Err(error) = start_response.trailers(&[("X-Lab-Trailer", "done")]) {
        environ.log(Level::Info, format_args!("no trailers to this client: {error}"));
    }
    Body::iter(lines)
}

/// A 103 with a Link, then the answer.
pub fn hints(_: &Lab, environ: Environ, _: &Query, start_response: StartResponse) -> Body {
    if let Err(error) = start_response.informational(103, &[("Link", "</style.css>; rel=preload; as=style")]) {
        environ.log(Level::Info, format_args!("no hints to this client: {error}"));
    }
    text(&start_response, "200 OK", "after the hints\n")
}

/// Switches to a protocol of raw bytes and echoes them; `?hints=1` sends hints first.
pub fn upgrade(_: &Lab, environ: Environ, query: &Query, start_response: StartResponse) -> Body {
    if query.number("hints", 0) > 0 {
        let _ = start_response.informational(103, &[("Link", "</style.css>; rel=preload; as=style")]);
    }
    let protocol = environ.header("Upgrade").unwrap_or(b"echo");
    match start_response.upgrade(&[("Upgrade", protocol)]) {
        Ok(mut stream) => {
            std::thread::spawn(move || {
                let mut buf = [0; 16 * 1024];
                while let Ok(got @ 1..) = stream.read(&mut buf) {
                    if stream.write_all(&buf[..got]).is_err() {
                        break;
                    }
                }
            });
            Body::empty()
        }
        Err(error) => text(&start_response, "426 Upgrade Required", format!("{error}\n")),
    }
}

/// `?kind=crlf|nul|hop|name|length`
pub fn bad_header(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    let header = match query.bytes("kind") {
        Some(b"nul") => ("X-Bad", "a\0b"),
        Some(b"hop") => ("Connection", "keep-alive"),
        Some(b"name") => ("X Bad", "a space in the name"),
        Some(b"length") => ("Content-Length", "ten"),
        _ => ("X-Bad", "a\r\nX-Injected: yes"),
    };
    start_response("200 OK", &[("Content-Type", "text/plain"), header]);
    Body::from("a bad header went through\n")
}

/// `?status=`
pub fn bad_status(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    let status = query.bytes("status").unwrap_or(b"fine OK");
    start_response.raw(status, &[("Content-Type", "text/plain")]);
    Body::from("a bad status went through\n")
}

/// Calls start_response a second time: as it is, with `?exc_info=1` before the body, with `?exc_info=midway` within.
pub fn twice(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    let plain = [("Content-Type", "text/plain"), ("X-Lab-Call", "first")];
    let again = [("Content-Type", "text/plain"), ("X-Lab-Call", "second")];
    let writer = start_response("200 OK", &plain);
    let second = match query.bytes("exc_info") {
        None => start_response("201 Created", &again),
        Some(b"midway") => {
            // Whether it can be written shows in the answer.
            let _ = writer.write("the beginning\n");
            start_response.with_exc_info("500 Internal Server Error", &again, "the lab failed midway, as asked")
        }
        Some(_) => start_response.with_exc_info("503 Service Unavailable", &again, "the lab failed, as asked"),
    };
    match second.started() {
        Ok(()) => Body::from("the second call was accepted\n"),
        Err(_) => Body::from("the second call was refused\n"),
    }
}

/// Returns a body and never calls start_response.
pub fn none(_: &Lab, _: Environ, _: &Query, _start_response: StartResponse) -> Body {
    Body::from("start_response was never called\n")
}
