//! Status and headers: takes `(status, headers)` in the shape of PEP 3333, gives the write callable.
//!
//! It checks nothing itself: the server does, logs what is wrong and answers 500 in the handler's place.
#![forbid(unsafe_code)]

use std::io;
use std::ops::Deref;
use std::sync::Arc;

use crate::abi::call::CallRef;
use crate::detached::{Detached, Duplex};
use crate::error::Error;

/// The call syntax: `start_response("200 OK", &[("Content-Type", "text/plain")])`.
pub type StartFn<'a> = dyn Fn(&str, &[(&str, &str)]) -> Writer<'a> + 'a;

/// The second argument of a handler. Call it like a function; it has other forms as methods.
pub struct StartResponse<'a> {
    /// Lives in the frame that calls the handler, so that no call allocates.
    text: &'a StartFn<'a>,
    responder: &'a Responder,
}

/// The write callable, and what became of `start_response`. Ignoring it is fine: the server has logged a refusal.
pub struct Writer<'a> {
    call: &'a CallRef,
    outcome: Result<(), Error>,
}

/// An owned [`StartResponse`], for a body that starts the response at its first chunk or sets trailers at its end.
#[derive(Clone)]
pub struct Responder {
    call: CallRef,
    edit: Option<Arc<Edit>>,
}

/// Status and headers on their way through [`StartResponse::intercept`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `200 OK`
    pub status: Vec<u8>,
    /// Names and values, in order.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
}

type Edit = dyn Fn(&mut Head) + Send + Sync;

impl<'a> Deref for StartResponse<'a> {
    type Target = StartFn<'a>;

    fn deref(&self) -> &StartFn<'a> {
        self.text
    }
}

impl<'a> StartResponse<'a> {
    pub(crate) fn scope<R>(responder: &Responder, then: impl FnOnce(StartResponse<'_>) -> R) -> R {
        let text = |status: &str, headers: &[(&str, &str)]| Writer {
            call: &responder.call,
            outcome: responder.start(status, headers),
        };
        then(StartResponse { text: &text, responder })
    }

    /// As the call itself, for statuses and headers of any kind of bytes: `String`s, `&[u8]`s, …
    pub fn raw<N: AsRef<[u8]>, V: AsRef<[u8]>>(&self, status: impl AsRef<[u8]>, headers: &[(N, V)]) -> Writer<'a> {
        Writer {
            call: &self.responder.call,
            outcome: self.responder.start(status, headers),
        }
    }

    /// `exc_info`: replaces status and headers before the first byte of the body, aborts the response after it. The
    /// message goes to the error log, never to the client.
    pub fn with_exc_info(&self, status: &str, headers: &[(&str, &str)], message: &str) -> Writer<'a> {
        Writer {
            call: &self.responder.call,
            outcome: self.responder.start_with_exc_info(status, headers, message),
        }
    }

    /// Sends an interim response at once: `informational(103, &[("Link", "…")])`. Not 101.
    pub fn informational<N: AsRef<[u8]>, V: AsRef<[u8]>>(&self, status: u16, headers: &[(N, V)]) -> Result<(), Error> {
        self.responder.informational(status, headers)
    }

    /// Sets the trailers of the response; before its body ends.
    pub fn trailers<N: AsRef<[u8]>, V: AsRef<[u8]>>(&self, trailers: &[(N, V)]) -> Result<(), Error> {
        self.responder.trailers(trailers)
    }

    /// Takes the response out of this call: it is finished later, from any thread. Return [`Body::empty`](crate::Body::empty).
    pub fn detach(self) -> Detached {
        Detached::new(self.responder.clone(), self.responder.call.detach())
    }

    /// Answers 101 with these headers and gives the raw connection. Return [`Body::empty`](crate::Body::empty). After an
    /// error (the client asked for no upgrade) any other answer can still be given.
    pub fn upgrade<N: AsRef<[u8]>, V: AsRef<[u8]>>(&self, headers: &[(N, V)]) -> Result<Duplex, Error> {
        self.responder.call.upgrade(headers)?;
        Ok(Duplex::new(self.responder.call.clone()))
    }

    /// An owned form that a body can carry along.
    pub fn responder(&self) -> Responder {
        self.responder.clone()
    }

    /// For middleware: calls `then` with a `start_response` whose status and headers pass through `edit` first.
    pub fn intercept<R>(
        self,
        edit: impl Fn(&mut Head) + Send + Sync + 'static,
        then: impl FnOnce(StartResponse<'_>) -> R,
    ) -> R {
        let outer = self.responder.edit.clone();
        let chained = move |head: &mut Head| {
            edit(head);
            if let Some(outer) = &outer {
                outer(head);
            }
        };
        let responder = Responder {
            call: self.responder.call.clone(),
            edit: Some(Arc::new(chained)),
        };
        StartResponse::scope(&responder, then)
    }
}

impl Writer<'_> {
    /// Whether the response was started: an error when status or headers were refused.
    pub fn started(&self) -> Result<(), Error> {
        self.outcome
    }

    /// Appends to the body; blocks while the client does not read.
    pub fn write(&self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        self.outcome?;
        self.call.write(bytes.as_ref())
    }
}

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Writer::write(self, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Responder {
    pub(crate) fn new(call: CallRef) -> Responder {
        Responder { call, edit: None }
    }

    pub(crate) fn call(&self) -> &CallRef {
        &self.call
    }

    /// Sets status and headers.
    pub fn start<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        status: impl AsRef<[u8]>,
        headers: &[(N, V)],
    ) -> Result<(), Error> {
        self.start_edited(status.as_ref(), headers, None)
    }

    /// See [`StartResponse::with_exc_info`].
    pub fn start_with_exc_info<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        status: impl AsRef<[u8]>,
        headers: &[(N, V)],
        message: &str,
    ) -> Result<(), Error> {
        self.start_edited(status.as_ref(), headers, Some(message))
    }

    /// See [`StartResponse::informational`].
    pub fn informational<N: AsRef<[u8]>, V: AsRef<[u8]>>(&self, status: u16, headers: &[(N, V)]) -> Result<(), Error> {
        self.call.informational(status, headers)
    }

    /// See [`StartResponse::trailers`].
    pub fn trailers<N: AsRef<[u8]>, V: AsRef<[u8]>>(&self, trailers: &[(N, V)]) -> Result<(), Error> {
        self.call.trailers(trailers)
    }

    fn start_edited<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        status: &[u8],
        headers: &[(N, V)],
        exc_info: Option<&str>,
    ) -> Result<(), Error> {
        let Some(edit) = &self.edit else {
            return self.call.start_response(status, headers, exc_info);
        };
        let bytes = |(name, value): &(N, V)| (name.as_ref().to_vec(), value.as_ref().to_vec());
        let mut head = Head {
            status: status.to_vec(),
            headers: headers.iter().map(bytes).collect(),
        };
        edit(&mut head);
        self.call.start_response(&head.status, &head.headers, exc_info)
    }
}

impl Head {
    /// The first header of this name, in any case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let mut headers = self.headers.iter();
        headers
            .find(|(sent, _)| sent.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_slice())
    }

    /// Adds a header, also if there is one of this name.
    pub fn push(&mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.headers.push((name.into(), value.into()));
    }

    /// Removes all headers of this name.
    pub fn remove(&mut self, name: &str) {
        self.headers
            .retain(|(sent, _)| !sent.eq_ignore_ascii_case(name.as_bytes()));
    }
}
