//! An answer, and its head as it is sent where hyper need not: status line, fields, length, date.
//!
//! Takes an answer whose body is whole and what was asked; gives the bytes that hyper would send for it, and there is a test that says so.
//! What may stand in an answer was decided before.
#![forbid(unsafe_code)]

use std::cell::Cell;

use bytes::Bytes;
use hyper::Response;
use hyper::ext::ReasonPhrase;
use hyper::http::StatusCode;

use super::body::ResponseBody;
use crate::gateway::fields::Fields;
use crate::sys::time;

/// What the service answers.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The reason phrase when it is not the usual one.
    pub reason: Option<Bytes>,
    /// The fields.
    pub fields: Fields,
    /// It is given as HTTP/1.0 whatever the client speaks.
    pub old: bool,
    /// The body.
    pub body: ResponseBody,
}

impl Reply {
    /// As hyper takes it.
    pub fn into_response(self) -> Response<ResponseBody> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.fields.to_map();
        if self.old {
            *response.version_mut() = hyper::Version::HTTP_10;
        }
        if let Some(reason) = self.reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
            response.extensions_mut().insert(reason);
        }
        self.fields.give_back();
        response
    }
}

/// What the form of an answer depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The method is HEAD.
    pub to_head: bool,
    /// The client speaks HTTP/1.0.
    pub old: bool,
    /// The client may send another request on this connection.
    pub keep_alive: bool,
}

/// Appends the head of an answer. `length` is that of its body; None when there is none.
pub fn write(out: &mut Vec<u8>, reply: &Reply, asked: Asked, length: Option<u64>) {
    status_line(out, reply, asked);
    let bodiless = matches!(reply.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let (mut measured, mut dated, mut closing) = (false, false, false);
    for (name, _, line) in reply.fields.iter() {
        match name {
            // Of a body that is not there the length is told in answers to HEAD alone.
            b"content-length" if length.is_none() && !asked.to_head => continue,
            b"content-length" => measured = true,
            b"date" => dated = true,
            b"connection" => closing = true,
            // Trailers come with chunks alone.
            b"trailer" if asked.to_head || asked.old || bodiless => continue,
            _ => {}
        }
        out.extend_from_slice(line);
    }
    match (closing, asked.old, asked.keep_alive) {
        (false, false, false) => field(out, "connection", b"close"),
        (false, true, true) => field(out, "connection", b"keep-alive"),
        _ => {}
    }
    if !measured && !bodiless && (length.is_some() || !asked.to_head) {
        decimal(out, length.unwrap_or(0));
    }
    if !dated {
        out.extend_from_slice(&date());
    }
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, reply: &Reply, asked: Asked) {
    let old = asked.old || reply.old;
    out.extend_from_slice(if old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(reply.status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    match &reply.reason {
        Some(reason) => out.extend_from_slice(reason),
        // A reason that is not known is left out, its space is not (RFC 9112 section 4).
        None => out.extend_from_slice(reply.status.canonical_reason().unwrap_or("<none>").as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The Content-Length.
fn decimal(out: &mut Vec<u8>, mut length: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (length % 10) as u8;
        length /= 10;
        if length == 0 {
            break;
        }
    }
    field(out, "content-length", &digits[at..]);
}

/// The Date field, with the length of each.
const DATE: [u8; 37] = *b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

thread_local! {
    /// The second it is, and how it is written (RFC 9110 section 5.6.7).
    static TODAY: Cell<(u64, [u8; DATE.len()])> = const { Cell::new((0, DATE)) };
}

/// Now; written anew once a second.
fn date() -> [u8; DATE.len()] {
    let now = time::unix_seconds_coarse();
    let (second, mut line) = TODAY.get();
    if second != now {
        let moment = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now);
        line[6..35].copy_from_slice(httpdate::fmt_http_date(moment).as_bytes());
        TODAY.set((now, line));
    }
    line
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::convert::Infallible;
    use std::future::Future;
    use std::io;
    use std::pin::{Pin, pin};
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

    use bytes::Bytes;
    use hyper::Response;
    use hyper::rt::{Read, ReadBufCursor, Write};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;

    use super::super::body::ResponseBody;
    use super::super::framing::Framing;
    use super::super::ledger::Ledger;
    use super::super::shown::Shown;
    use super::*;

    /// One request in, whatever is answered out.
    struct Wire(Bytes, Rc<RefCell<Vec<u8>>>);

    impl Read for Wire {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            mut cursor: ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            // The end of the input would be the client leaving.
            if self.0.is_empty() {
                return Poll::Pending;
            }
            cursor.put_slice(&std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    impl Write for Wire {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.1.borrow_mut().extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What hyper sends to a client that has asked so.
    fn by_hyper(answer: Response<ResponseBody>, asked: Asked) -> Vec<u8> {
        let shown = Shown {
            asked,
            framing: Framing::None,
            expects: false,
            trailers: false,
        };
        let sent = Rc::new(RefCell::new(Vec::new()));
        let answer = RefCell::new(Some(answer));
        let front = service_fn(|_| {
            let answer = answer.take().expect("one request");
            async move { Ok::<_, Infallible>(answer) }
        });
        let wire = Wire(shown.head().into(), sent.clone());
        let mut http = pin!(http1::Builder::new().serve_connection(wire, front));
        let mut cx = Context::from_waker(Waker::noop());
        let _ = http.as_mut().poll(&mut cx);
        sent.take()
    }

    fn by_us(mut answer: Reply, asked: Asked) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, &answer, asked, answer.body.length());
        out.extend_from_slice(&answer.body.take());
        out
    }

    /// The date may have changed between the two.
    fn undated(sent: &[u8]) -> String {
        let text = String::from_utf8(sent.to_vec()).expect("ASCII");
        let today = |line: &str| line.starts_with("date: ") && line.ends_with(" GMT") && line.len() == DATE.len() - 2;
        let lines = text
            .split("\r\n")
            .map(|line| if today(line) { "date: today" } else { line });
        lines.collect::<Vec<_>>().join("\r\n")
    }

    type List = &'static [(&'static str, &'static str)];

    const FIELDS: &[List] = &[
        &[],
        &[
            ("content-type", "text/plain"),
            ("x-a", "1"),
            ("set-cookie", "a"),
            ("x-b", ""),
            ("set-cookie", "b"),
        ],
        &[("content-length", "3"), ("content-type", "text/plain")],
        &[("date", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("x-a", "1"), ("connection", "close")],
        &[("trailer", "x-end")],
    ];

    fn answer(status: u16, reason: Option<&'static [u8]>, list: List, body: &'static str, asked: Asked) -> Reply {
        let ledger = Rc::new(Ledger::default());
        let mut fields = Fields::default();
        for (name, value) in list {
            // Not by `append`, which refuses what is the server's own.
            if fields.contains(name) {
                fields.append(name.as_bytes(), value.as_bytes()).expect("valid");
            } else {
                fields.set(name, value.as_bytes());
            }
        }
        Reply {
            status: StatusCode::from_u16(status).expect("a status"),
            reason: reason.map(Bytes::from_static),
            old: asked.old && fields.contains("connection"),
            fields,
            body: ResponseBody::full(Bytes::from_static(body.as_bytes()), ledger),
        }
    }

    #[test]
    fn it_is_what_hyper_would_send() {
        let mut compared = 0;
        for bits in 0..8 {
            let asked = Asked {
                to_head: bits & 1 != 0,
                old: bits & 2 != 0,
                keep_alive: bits & 4 != 0,
            };
            for (status, reason) in [
                (200, None),
                (200, Some(b"Fine".as_slice())),
                (404, None),
                (204, None),
                (304, None),
                (299, None),
                (599, Some(b"")),
            ] {
                for fields in FIELDS {
                    // Where no body may be none is given (see `answer::assemble`).
                    let bodiless = asked.to_head || matches!(status, 204 | 304);
                    let length = fields.iter().any(|(name, _)| *name == "content-length");
                    for body in if bodiless {
                        &[""][..]
                    } else if length {
                        &["abc"][..]
                    } else {
                        &["", "abc"]
                    } {
                        let case = || answer(status, reason, fields, body, asked);
                        let (theirs, ours) = (by_hyper(case().into_response(), asked), by_us(case(), asked));
                        assert_eq!(
                            undated(&ours),
                            undated(&theirs),
                            "{status} {reason:?} {fields:?} {body:?} {asked:?}"
                        );
                        compared += 1;
                    }
                }
            }
        }
        assert!(compared > 400, "{compared}");
    }
}
