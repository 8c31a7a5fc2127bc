//! Response bodies of every make: takes sizes and delays, gives bytes in a pattern that a test can check.
//!
//! Large bodies are made as they are sent, so that the lab's memory stays flat.
#![forbid(unsafe_code)]

use std::fs::File;
use std::time::Duration;

use appserver_handler::{Body, Environ, StartResponse};

use crate::answer::text;
use crate::{Lab, query::Query};

const BLOCK: u64 = 64 * 1024;

/// `length` bytes of the lab's pattern from `offset`: the alphabet, over and over.
pub fn pattern(offset: u64, length: u64) -> Vec<u8> {
    (offset..offset + length).map(|at| b'a' + (at % 26) as u8).collect()
}

/// `n` bytes, in one piece up to 64 KiB and block by block above.
fn sized(n: u64) -> Body {
    if n <= BLOCK {
        return Body::from(pattern(0, n));
    }
    let starts = (0..n).step_by(BLOCK as usize);
    Body::iter(starts.map(move |start| pattern(start, BLOCK.min(n - start))))
}

/// `?n=`
pub fn bytes(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    let n = query.number("n", 0);
    let length = n.to_string();
    start_response(
        "200 OK",
        &[
            ("Content-Type", "application/octet-stream"),
            ("Content-Length", &length),
        ],
    );
    sized(n)
}

/// `?chunks=&size=&delay_ms=`: the shape that several pages share.
struct Shape {
    chunks: u64,
    size: u64,
    delay: Duration,
}

impl Shape {
    fn of(query: &Query) -> Shape {
        Shape {
            chunks: query.number("chunks", 3),
            size: query.number("size", 16),
            delay: Duration::from_millis(query.number("delay_ms", 0)),
        }
    }

    /// Waits before every chunk but the first.
    fn into_chunks(self) -> impl Iterator<Item = Vec<u8>> + Send {
        (0..self.chunks).map(move |index| {
            if index > 0 && !self.delay.is_zero() {
                std::thread::sleep(self.delay);
            }
            pattern(index * self.size, self.size)
        })
    }
}

/// With `?unbuffered` it asks the front-end to pass each chunk on as it comes.
pub fn stream(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    let kind = ("Content-Type", "application/octet-stream");
    if query.text("unbuffered").is_some() {
        start_response("200 OK", &[kind, ("X-Accel-Buffering", "no")]);
    } else {
        start_response("200 OK", &[kind]);
    }
    Body::iter(Shape::of(query).into_chunks())
}

/// The same by the write callable.
pub fn write(_: &Lab, environ: Environ, query: &Query, start_response: StartResponse) -> Body {
    let writer = start_response("200 OK", &[("Content-Type", "application/octet-stream")]);
    for chunk in Shape::of(query).into_chunks() {
        if let Err(error) = writer.write(chunk) {
            environ.log(appserver_handler::Level::Warn, format_args!("/write stopped: {error}"));
            break;
        }
    }
    Body::empty()
}

/// `?path=&offset=&length=`; without `length` to the end of the file.
pub fn file(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    let path = query.text("path").unwrap_or_default();
    let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
    let (size, file) = match opened {
        Ok((metadata, file)) if metadata.is_file() => (metadata.len(), file),
        Ok(_) => {
            return text(
                &start_response,
                "404 Not Found",
                format!("{path}: not a regular file\n"),
            );
        }
        Err(error) => return text(&start_response, "404 Not Found", format!("{path}: {error}\n")),
    };
    let offset = query.number("offset", 0).min(size);
    let length = query.number("length", u64::MAX).min(size - offset);
    let announced = length.to_string();
    start_response(
        "200 OK",
        &[
            ("Content-Type", "application/octet-stream"),
            ("Content-Length", &announced),
        ],
    );
    Body::file_range(file, offset, length)
}

/// Declares 100 bytes and sends 10; `?how=iter|bytes|write`.
pub fn short(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    mismatch(query, &start_response, "100", 10)
}

/// Declares 10 bytes and sends 100; `?how=iter|bytes|write`.
pub fn long(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    mismatch(query, &start_response, "10", 100)
}

fn mismatch(query: &Query, start_response: &StartResponse, declared: &str, sent: u64) -> Body {
    let writer = start_response(
        "200 OK",
        &[("Content-Type", "text/plain"), ("Content-Length", declared)],
    );
    match query.bytes("how") {
        Some(b"bytes") => Body::from(pattern(0, sent)),
        Some(b"write") => {
            // A refusal is what the page is for.
            let _ = writer.write(pattern(0, sent));
            Body::empty()
        }
        _ => Body::iter((0..sent / 5).map(|index| pattern(index * 5, 5))),
    }
}
