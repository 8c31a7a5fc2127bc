//! One request to the origin and its answer to the client.
//!
//! Takes a detached response; gives it the origin's answer piece by piece, or 502 and 504. A client that leaves ends it, and the connection to
//! the origin with it.
#![forbid(unsafe_code)]

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use appserver_handler::{Detached, Environ, Error, Level, State};
use bytes::{Buf, Bytes};
use hyper::body::{Body, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, Uri};
use tokio::time::{Instant, timeout_at};

use crate::fields;
use crate::inlet::{Inlet, Upload};
use crate::pool::{Connection, Pool};

/// Why there is no answer.
enum Failure {
    /// The origin cannot be reached, or breaks off.
    Bad(String),
    /// It does not answer in time.
    Late(&'static str),
    /// The client does not send what it began to.
    Spoilt(io::ErrorKind),
    /// The client has gone: nobody is left to be told.
    Gone,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad(why) => f.write_str(why),
            Self::Late(what) => write!(f, "the origin did not {what} in time"),
            Self::Spoilt(kind) => write!(f, "the request's body did not arrive: {kind}"),
            Self::Gone => f.write_str("the client has gone"),
        }
    }
}

/// Serves one request.
pub async fn run(pool: Rc<Pool>, environ: Environ, response: Detached) {
    let environ = Rc::new(environ);
    let upload = Rc::new(Upload::new());
    let (connection, answer) = match unless_gone(&response, ask(&pool, &environ, &upload)).await {
        Ok(asked) => asked,
        Err(failure) => return refuse(response, &failure),
    };
    let (head, body) = answer.into_parts();
    let reason = head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
    let usual = head.status.canonical_reason().unwrap_or_default().as_bytes();
    let status = [head.status.as_str().as_bytes(), b" ", reason.unwrap_or(usual)].concat();
    if response.start(&status, &fields::of_answer(&head.headers)).is_err() {
        return refuse(response, &Failure::Bad("the origin's head cannot be passed on".into()));
    }
    match relay(&pool, &response, &upload, body).await {
        Ok(()) => {
            // An origin that has answered without the end of the question gets no other over the same connection.
            if upload.is_over() {
                pool.keep(connection);
            }
            let _ = response.finish();
        }
        Err(Failure::Gone) => {
            let _ = response.finish();
        }
        // What has left cannot be taken back: the client sees that it is cut off.
        Err(failure) => {
            let _ = response.fail(failure);
        }
    }
}

/// The head of the answer, and the connection it comes on.
async fn ask(
    pool: &Pool,
    environ: &Rc<Environ>,
    upload: &Rc<Upload>,
) -> Result<(Connection, Response<Incoming>), Failure> {
    let mut connection = match pool.take() {
        Some(connection) => connection,
        None => open(pool).await?,
    };
    let mut request = request(pool, environ, upload)?;
    loop {
        let used = connection.used;
        let again = request.body().is_empty() && request.method().is_idempotent();
        let asked = in_time(pool, upload, "answer", connection.sender.try_send_request(request)).await?;
        let mut refused = match asked {
            Ok(answer) => return Ok((connection, answer)),
            Err(refused) => refused,
        };
        if let Some(kind) = upload.spoilt() {
            return Err(Failure::Spoilt(kind));
        }
        // An idle connection may have been closed as it was used: what was not sent, or may be sent twice, is sent anew.
        request = match refused.take_message() {
            Some(unsent) if used => unsent,
            None if used && again => self::request(pool, environ, upload)?,
            _ => return Err(Failure::Bad(format!("the origin broke off: {}", refused.error()))),
        };
        connection = open(pool).await?;
    }
}

/// What `work` gives, if the origin does not keep silent for too long.
async fn in_time<T>(
    pool: &Pool,
    upload: &Upload,
    what: &'static str,
    work: impl Future<Output = T>,
) -> Result<T, Failure> {
    let began = Instant::now();
    let mut work = pin!(work);
    loop {
        let deadline = upload.deadline(began, pool.settings.answer);
        if let Ok(done) = timeout_at(deadline, work.as_mut()).await {
            return Ok(done);
        }
        if upload.deadline(began, pool.settings.answer) <= Instant::now() {
            return Err(Failure::Late(what));
        }
    }
}

async fn open(pool: &Pool) -> Result<Connection, Failure> {
    pool.open().await.map_err(|error| match error.kind() {
        std::io::ErrorKind::TimedOut => Failure::Late("take a connection"),
        _ => Failure::Bad(format!("the origin cannot be reached: {error}")),
    })
}

fn request(pool: &Pool, environ: &Rc<Environ>, upload: &Rc<Upload>) -> Result<Request<Inlet>, Failure> {
    let mut request = Request::new(Inlet::of(environ, upload));
    *request.method_mut() =
        Method::from_bytes(environ.method()).map_err(|_| Failure::Bad("the method cannot be passed on".into()))?;
    *request.uri_mut() = target(environ.target(), &pool.settings.base);
    *request.headers_mut() = fields::of_request(environ, &pool.settings);
    Ok(request)
}

/// The target in origin form, byte for byte; a byte that no URI can hold is percent-encoded.
fn target(raw: &[u8], base: &str) -> Uri {
    // An absolute target names a host; that is in Host already.
    let after_scheme = raw
        .windows(3)
        .position(|three| three == b"://")
        .filter(|_| !raw.starts_with(b"/"));
    let raw = match after_scheme {
        Some(at) => {
            let rest = &raw[at + 3..];
            let path = rest
                .iter()
                .position(|byte| matches!(byte, b'/' | b'?'))
                .unwrap_or(rest.len());
            &rest[path..]
        }
        None => raw,
    };
    let whole = if raw.starts_with(b"*") {
        raw.to_vec()
    } else {
        [base.as_bytes(), raw].concat()
    };
    let path = exact(&whole).or_else(|| {
        let mut plain = Vec::with_capacity(whole.len());
        let mut part: &[u8] = b"/";
        for byte in whole {
            if byte.is_ascii() && exact(&[part, &[byte]].concat()).is_some() {
                plain.push(byte);
            } else {
                plain.extend_from_slice(format!("%{byte:02X}").as_bytes());
            }
            if byte == b'?' {
                part = b"/?";
            }
        }
        exact(&plain)
    });
    path.map(Uri::from).unwrap_or_default()
}

/// These very bytes, if a URI can hold them; a fragment would be cut off.
fn exact(bytes: &[u8]) -> Option<PathAndQuery> {
    let path = PathAndQuery::try_from(bytes).ok();
    path.filter(|path| path.as_str().len() == bytes.len())
}

/// Passes the body on, as fast as the client reads.
async fn relay(pool: &Pool, response: &Detached, upload: &Upload, mut body: Incoming) -> Result<(), Failure> {
    loop {
        let next = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let next = in_time(pool, upload, "go on", next);
        let Some(frame) = unless_gone(response, next).await? else {
            return Ok(());
        };
        let frame = frame.map_err(|error| match upload.spoilt() {
            Some(kind) => Failure::Spoilt(kind),
            None => Failure::Bad(format!("the origin broke off its answer: {error}")),
        })?;
        match frame.into_data() {
            Ok(piece) => write(response, piece).await?,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    // Those that the server refuses are named in its log.
                    let _ = response.trailers(&fields::of_answer(&trailers));
                }
            }
        }
    }
}

async fn write(response: &Detached, mut piece: Bytes) -> Result<(), Failure> {
    while !piece.is_empty() {
        match poll_fn(|cx| response.write_poll(cx, &piece)).await {
            Ok(count) => piece.advance(count),
            Err(Error::Gone) => return Err(Failure::Gone),
            Err(error) => return Err(Failure::Bad(format!("the answer was refused: {error}"))),
        }
    }
    Ok(())
}

/// What `work` gives, if the client is still there to get it.
async fn unless_gone<T>(response: &Detached, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        // A client that has ended its side alone still reads.
        while response.state_poll(cx).is_ready() {
            if response.state() == State::Gone {
                return Poll::Ready(Err(Failure::Gone));
            }
        }
        Poll::Pending
    })
    .await
}

/// Nothing has been sent yet: an honest status.
fn refuse(response: Detached, failure: &Failure) {
    // Whoever leaves breaks off a body, too.
    let failure = if response.state() == State::Gone {
        &Failure::Gone
    } else {
        failure
    };
    let (status, text) = match failure {
        Failure::Bad(_) => ("502 Bad Gateway", "The origin did not answer.\n"),
        Failure::Late(_) => ("504 Gateway Timeout", "The origin did not answer in time.\n"),
        Failure::Spoilt(io::ErrorKind::FileTooLarge) => {
            ("413 Content Too Large", "The body of the request is too large.\n")
        }
        Failure::Spoilt(io::ErrorKind::TimedOut) => (
            "408 Request Timeout",
            "The body of the request did not arrive in time.\n",
        ),
        Failure::Spoilt(_) => ("400 Bad Request", "The body of the request did not arrive.\n"),
        // Nobody reads it but the access log (nginx's number for the same).
        Failure::Gone => ("499 Client Closed Request", ""),
    };
    match failure {
        Failure::Bad(_) | Failure::Late(_) => response.log(Level::Error, failure),
        Failure::Spoilt(_) => response.log(Level::Info, failure),
        Failure::Gone => {}
    }
    let length = text.len().to_string();
    let fields = [("Content-Type", "text/plain"), ("Content-Length", length.as_str())];
    let sent = response.start(status, &fields).and_then(|()| response.write(text));
    if sent.is_ok() || matches!(failure, Failure::Gone) {
        let _ = response.finish();
    }
}
