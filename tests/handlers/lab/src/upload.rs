//! Request bodies: takes what the client sends, gives it back, hashed, or read at a snail's pace.
//!
//! An error of the input becomes an answer that names it; whether it can still be sent is the server's affair.
#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::time::Duration;

use appserver_handler::{Body, Environ, Level, StartResponse};
use sha2::{Digest, Sha256};

use crate::answer::text;
use crate::{Lab, query::Query};

/// As it comes, with the type and the length that it came with.
pub fn echo(_: &Lab, environ: Environ, _: &Query, start_response: StartResponse) -> Body {
    let kind = environ.get("CONTENT_TYPE").filter(|kind| !kind.is_empty());
    let mut headers = vec![("Content-Type", kind.unwrap_or(b"application/octet-stream"))];
    if let Some(length) = environ.get("CONTENT_LENGTH").filter(|length| !length.is_empty()) {
        headers.push(("Content-Length", length));
    }
    start_response.raw("200 OK", &headers);
    Body::reader(environ.input())
}

/// `LENGTH SHA256`
pub fn hash(_: &Lab, environ: Environ, _: &Query, start_response: StartResponse) -> Body {
    let mut hash = Sha256::new();
    match each_chunk(&environ, 64 * 1024, |chunk| hash.update(chunk)) {
        Ok(length) => {
            let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            text(&start_response, "200 OK", format!("{length} {hex}\n"))
        }
        Err(error) => failed(&environ, &start_response, &error),
    }
}

/// `?n=&delay_ms=`: at most `n` bytes at a time, with a pause after each.
pub fn read(_: &Lab, environ: Environ, query: &Query, start_response: StartResponse) -> Body {
    let n = usize::try_from(query.number("n", 1024)).unwrap_or(1024).max(1);
    let delay = Duration::from_millis(query.number("delay_ms", 0));
    match each_chunk(&environ, n, |_| std::thread::sleep(delay)) {
        Ok(length) => text(&start_response, "200 OK", format!("{length}\n")),
        Err(error) => failed(&environ, &start_response, &error),
    }
}

/// `?n=`: reads so many bytes, then answers in chunks and leaves the rest unread.
pub fn taste(_: &Lab, environ: Environ, query: &Query, start_response: StartResponse) -> Body {
    let mut taken = vec![0; usize::try_from(query.number("n", 10)).unwrap_or(10)];
    match environ.input().read_exact(&mut taken) {
        Ok(()) => {
            start_response("200 OK", &[("Content-Type", "text/plain")]);
            Body::iter(["it ", "tastes ", "well\n"].map(Vec::from))
        }
        Err(error) => failed(&environ, &start_response, &error),
    }
}

/// `?code=`: answers and leaves the body unread.
pub fn early(_: &Lab, _: Environ, query: &Query, start_response: StartResponse) -> Body {
    text(
        &start_response,
        &format!("{} Early", query.number("code", 200)),
        "the body was not read\n",
    )
}

fn each_chunk(environ: &Environ, most: usize, mut see: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut input = environ.input();
    let mut buf = vec![0; most];
    let mut length = 0;
    loop {
        let got = input.read(&mut buf)?;
        if got == 0 {
            return Ok(length);
        }
        length += got as u64;
        see(&buf[..got]);
    }
}

fn failed(environ: &Environ, start_response: &StartResponse, error: &io::Error) -> Body {
    environ.log(
        Level::Warn,
        format_args!("the lab could not read the request body: {error}"),
    );
    let status = match error.kind() {
        io::ErrorKind::UnexpectedEof => "400 Bad Request",
        io::ErrorKind::TimedOut => "408 Request Timeout",
        io::ErrorKind::FileTooLarge => "413 Content Too Large",
        _ => "500 Internal Server Error",
    };
    text(start_response, status, format!("{error}\n"))
}
