//! The body of a request on its way to the call.
//!
//! Takes frames from hyper and pushes them into a call's input while it has room; or reads a short body as a whole before the call is
//! made. A body that ends early ends in an error the handler sees.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use appserver_handler::abi;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Incoming};
use hyper::header::HeaderMap;

use super::ledger::Ledger;
use super::refusal::Refusal;
use crate::gateway::Call;

/// The body of a request as the connection brings it.
pub enum Upload {
    /// All of it is here: mostly nothing.
    Whole(Bytes),
    /// It has still to come.
    Coming(Incoming),
}

/// What was read before the call.
pub enum Early {
    /// All of it.
    Whole(Bytes, Option<HeaderMap>),
    /// The first bytes of a longer body.
    Partial(Bytes, Incoming),
}

/// Reads up to `most` bytes.
///
/// # Errors
/// Why the body ended early.
pub async fn read_early(mut body: Incoming, most: usize, ledger: &Ledger) -> Result<Early, Refusal> {
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| fault(ledger))?;
        match frame.into_data() {
            Ok(data) if first.is_empty() && joined.is_empty() => first = data,
            Ok(data) => {
                if joined.is_empty() {
                    joined.extend_from_slice(&std::mem::take(&mut first));
                }
                joined.extend_from_slice(&data);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        if first.len() + joined.len() > most {
            return Ok(Early::Partial(
                if joined.is_empty() { first } else { joined.freeze() },
                body,
            ));
        }
    }
    Ok(Early::Whole(
        if joined.is_empty() { first } else { joined.freeze() },
        trailers,
    ))
}

/// Streams the (rest of the) body into a call until it ends or the call does.
pub async fn pump(mut body: Incoming, call: Arc<Call>, ledger: Rc<Ledger>) {
    let mut trailers = None;
    while poll_fn(|cx| call.poll_wants_input(cx)).await.is_some() {
        match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => call.push_input(data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            // Its exchange is over: what becomes of the rest of the body is no fault of the next request.
            Some(Err(_)) if call.is_gone() => return,
            Some(Err(_)) => return call.finish_input(Err(status(&fault(&ledger)))),
            None => return call.finish_input(Ok(trailers)),
        }
    }
}

/// What the guard said, or that the client left.
fn fault(ledger: &Ledger) -> Refusal {
    let fault = ledger.body_fault.take().unwrap_or(Refusal::BODY_TRUNCATED);
    ledger.body_fault.set(Some(fault));
    fault
}

fn status(refusal: &Refusal) -> abi::Status {
    match refusal.status {
        408 => abi::E_TIMEOUT,
        413 => abi::E_TOO_LARGE,
        _ => abi::E_TRUNCATED,
    }
}
