//! One request to the origin and its answer to the client.
//!
//! Takes a detached response; gives it the origin's answer piece by piece, or 502 and 504. A client that leaves ends it, and the connection to
//! the origin with it.
#![forbid(unsafe_code)]

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use appserver_handler::{Detached, Environ, Error, Level, State};
use bytes::{Buf, Bytes};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::ext::ReasonPhrase;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, Uri};
use tokio::time::timeout;

use crate::fields;
use crate::inlet::Inlet;
use crate::pool::{Connection, Pool};

/// Why there is no answer.
enum Failure {
    /// The origin cannot be reached, or breaks off.
    Bad(String),
    /// It does not answer in time.
    Late(&'static str),
    /// The client has gone: nobody is left to be told.
    Gone,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad(why) => f.write_str(why),
            Self::Late(what) => write!(f, "the origin did not {what} in time"),
            Self::Gone => f.write_str("the client has gone"),
        }
    }
}

/// Serves one request.
pub async fn run(pool: Rc<Pool>, environ: Environ, response: Detached) {
    let environ = Rc::new(environ);
    let (sender, answer) = match unless_gone(&response, ask(&pool, &environ)).await {
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
    match relay(&pool, &response, body).await {
        Ok(()) => {
            pool.keep(sender);
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
async fn ask(pool: &Pool, environ: &Rc<Environ>) -> Result<(SendRequest<Inlet>, Response<Incoming>), Failure> {
    let mut connection = match pool.take() {
        Some(connection) => connection,
        None => open(pool).await?,
    };
    let mut request = request(pool, environ)?;
    loop {
        let Connection { mut sender, used } = connection;
        let again = request.body().is_empty() && request.method().is_idempotent();
        let asked = timeout(pool.settings.answer, sender.try_send_request(request)).await;
        let mut refused = match asked {
            Ok(Ok(answer)) => return Ok((sender, answer)),
            Ok(Err(refused)) => refused,
            Err(_) => return Err(Failure::Late("answer")),
        };
        // An idle connection may have been closed as it was used: what was not sent, or may be sent twice, is sent anew.
        request = match refused.take_message() {
            Some(unsent) if used => unsent,
            None if used && again => self::request(pool, environ)?,
            _ => return Err(Failure::Bad(format!("the origin broke off: {}", refused.error()))),
        };
        connection = open(pool).await?;
    }
}

async fn open(pool: &Pool) -> Result<Connection, Failure> {
    pool.open().await.map_err(|error| match error.kind() {
        std::io::ErrorKind::TimedOut => Failure::Late("take a connection"),
        _ => Failure::Bad(format!("the origin cannot be reached: {error}")),
    })
}

fn request(pool: &Pool, environ: &Rc<Environ>) -> Result<Request<Inlet>, Failure> {
    let mut request = Request::new(Inlet::of(environ));
    *request.method_mut() =
        Method::from_bytes(environ.method()).map_err(|_| Failure::Bad("the method cannot be passed on".into()))?;
    *request.uri_mut() = target(environ.target(), &pool.settings.base);
    *request.headers_mut() = fields::of_request(environ, &pool.settings);
    Ok(request)
}

/// The target in origin form, byte for byte; what no URI can hold is percent-encoded.
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
    let path = PathAndQuery::try_from(whole.as_slice()).or_else(|_| {
        let mut plain = String::with_capacity(whole.len());
        for byte in whole {
            match byte {
                b'%' | b'/' | b'?' | b'&' | b'=' => plain.push(char::from(byte)),
                _ if byte.is_ascii_alphanumeric() || b"-._~!$'()*+,;:@".contains(&byte) => plain.push(char::from(byte)),
                _ => plain.push_str(&format!("%{byte:02X}")),
            }
        }
        PathAndQuery::try_from(plain)
    });
    path.map(Uri::from).unwrap_or_default()
}

/// Passes the body on, as fast as the client reads.
async fn relay(pool: &Pool, response: &Detached, mut body: Incoming) -> Result<(), Failure> {
    loop {
        let next = timeout(pool.settings.answer, poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)));
        let next = async { next.await.map_err(|_| Failure::Late("go on")) };
        let Some(frame) = unless_gone(response, next).await? else {
            return Ok(());
        };
        let frame = frame.map_err(|error| Failure::Bad(format!("the origin broke off its answer: {error}")))?;
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
    let (status, text) = match failure {
        Failure::Bad(_) => ("502 Bad Gateway", "The origin did not answer.\n"),
        Failure::Late(_) => ("504 Gateway Timeout", "The origin did not answer in time.\n"),
        // Nobody reads it but the access log (nginx's number for the same).
        Failure::Gone => ("499 Client Closed Request", ""),
    };
    if !matches!(failure, Failure::Gone) {
        response.log(Level::Error, failure);
    }
    let length = text.len().to_string();
    let fields = [("Content-Type", "text/plain"), ("Content-Length", length.as_str())];
    let sent = response.start(status, &fields).and_then(|()| response.write(text));
    if sent.is_ok() || matches!(failure, Failure::Gone) {
        let _ = response.finish();
    }
}
