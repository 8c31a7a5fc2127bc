//! The protocol's side of a call: the answer and its body out, the request's body in.
//!
//! Takes polls of the worker's I/O thread, gives what the handler has said so far. It runs no handler code: an iterator is asked
//! elsewhere ([`Call::advance`]), where its handler runs.
#![forbid(unsafe_code)]

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use appserver_handler::abi;
use bytes::Bytes;
use hyper::header::HeaderMap;

use super::call::{Call, Stage};
use super::output::Source;
use super::request::Field;
use super::start_response::{Fault, Head};
use crate::handler::call::FileRange;

/// What the protocol has to send.
pub enum Answer {
    /// A head and its body.
    Response(Head, Body),
    /// The handler failed before its first byte; the reason was logged.
    Failed,
}

/// The body of an answer.
pub enum Body {
    /// All of it.
    Full(Bytes),
    /// A range of a file.
    File(FileRange),
    /// Piece by piece: see [`Call::poll_output`].
    Stream,
    /// Raw bytes both ways after a 101.
    Upgrade,
}

/// What the next piece of a streamed body is.
pub enum Piece {
    /// Bytes.
    Bytes(Bytes),
    /// Ask the iterator: run [`Call::advance`] where its handler runs, then poll again.
    Ask,
    /// A file, to the end of the body.
    File(FileRange),
    /// The end, with trailers.
    End(Option<HeaderMap>),
    /// The handler failed in the middle.
    Failed,
}

impl Call {
    /// The answer, once its head cannot change any more.
    pub fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut state = self.lock();
        let ready = match (&state.head, &state.source, state.stage) {
            (_, _, Stage::Failed) => {
                state.committed = true;
                return Poll::Ready(Answer::Failed);
            }
            (Some(_), Source::Bytes(_) | Source::File(_), _) => true,
            (Some(_), _, stage) => stage == Stage::Done || !state.output.is_empty() || state.upgraded,
            (None, Source::Bytes(_) | Source::File(_), _) | (None, _, Stage::Done) => {
                self.fail(&mut state, &Fault("it returned without calling start_response".into()));
                state.committed = true;
                return Poll::Ready(Answer::Failed);
            }
            (None, ..) => false,
        };
        if !ready {
            state.io = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.committed = true;
        let head = state.head.take().expect("ready only with a head");
        self.status.store(head.status.as_u16(), Ordering::Relaxed);
        let written = !state.output.is_empty();
        let body = match std::mem::take(&mut state.source) {
            _ if state.upgraded => Body::Upgrade,
            Source::Bytes(bytes) if !written && state.trailers.is_none() => Body::Full(bytes),
            Source::File(file) if !written && state.trailers.is_none() => Body::File(file),
            Source::Written if !written && state.stage == Stage::Done && state.trailers.is_none() => {
                Body::Full(Bytes::new())
            }
            Source::Ended if !written && state.trailers.is_none() => Body::Full(Bytes::new()),
            source => {
                state.source = source;
                Body::Stream
            }
        };
        Poll::Ready(Answer::Response(head, body))
    }

    /// Whether the iterator has to be asked before there is an answer: its first chunk was not ready, and now it may be.
    pub fn wants_asking(&self) -> bool {
        let mut state = self.lock();
        let idle = matches!(state.source, Source::Idle(_)) && state.stage == Stage::Returned && state.output.is_empty();
        idle && !state.committed && !std::mem::replace(&mut state.asking, true)
    }

    /// Names of the trailers set so far, for the Trailer field.
    pub fn trailer_names(&self) -> Option<String> {
        let state = self.lock();
        let names: Vec<_> = state
            .trailers
            .as_ref()?
            .keys()
            .map(|name| name.as_str().to_owned())
            .collect();
        Some(names.join(", "))
    }

    /// The next piece of a streamed body.
    pub fn poll_output(&self, cx: &mut Context<'_>) -> Poll<Piece> {
        let mut state = self.lock();
        if state.stage == Stage::Failed {
            let left = state.output.take_all();
            drop(state);
            drop(left);
            return Poll::Ready(Piece::Failed);
        }
        if let Some(bytes) = state.output.pop() {
            let waiting = state.output.waiting.take();
            self.wake_sleepers(state);
            drop(waiting);
            self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            return Poll::Ready(Piece::Bytes(bytes));
        }
        match std::mem::take(&mut state.source) {
            Source::Bytes(bytes) => {
                state.source = Source::Ended;
                return Poll::Ready(Piece::Bytes(bytes));
            }
            Source::File(file) => {
                state.source = Source::Ended;
                return Poll::Ready(Piece::File(file));
            }
            source => state.source = source,
        }
        match (&state.source, state.stage) {
            (Source::Idle(_), _) if !state.asking => {
                state.asking = true;
                Poll::Ready(Piece::Ask)
            }
            (Source::Ended | Source::Written, Stage::Done) => {
                Poll::Ready(Piece::End(state.trailers.take().map(|trailers| *trailers)))
            }
            _ => {
                state.io = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Interim responses the handler wants sent, each as a whole head.
    pub fn take_interim(&self) -> Vec<Bytes> {
        if !self.has_interim.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut state = self.lock();
        self.has_interim.store(false, Ordering::Release);
        self.spoke.store(true, Ordering::Release);
        std::mem::take(&mut state.interim)
    }

    /// Whether the handler has asked for the request's body.
    pub fn has_read(&self) -> bool {
        self.lock().input.wanted
    }

    /// Appends to the request body.
    pub fn push_input(&self, bytes: Bytes) {
        let mut state = self.lock();
        state.input.push(bytes);
        let waiting = state.input.waiting.take();
        self.wake_sleepers(state);
        drop(waiting);
    }

    /// Ends the request body.
    pub fn finish_input(&self, outcome: Result<Option<HeaderMap>, abi::Status>) {
        let outcome = outcome.map(|trailers| {
            let listed = trailers.iter().flat_map(|map| map.iter());
            let listed = listed
                .map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec()))
                .collect();
            let _ = self.trailers_in.set(listed);
        });
        let mut state = self.lock();
        state.input.finish(outcome);
        let waiting = state.input.waiting.take();
        self.wake_sleepers(state);
        drop(waiting);
    }

    /// Whether the protocol should read more of the request body: wanted, and with room. `None` when the call needs no more.
    pub fn poll_wants_input(&self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        let mut state = self.lock();
        if matches!(state.stage, Stage::Failed) || state.client == abi::STATE_GONE {
            return Poll::Ready(None);
        }
        if state.input.wanted && state.input.has_room() {
            return Poll::Ready(Some(()));
        }
        state.input.pump = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The client's state changed; whoever waits is told. `STATE_GONE` ends the exchange for the handler too: true when an iterator
    /// is left that [`Call::advance`] must close.
    pub fn set_client(&self, client: abi::Status) -> bool {
        let mut state = self.lock();
        if state.client != client && state.client != abi::STATE_GONE {
            state.client = client;
            let watching = state.watching.take();
            let mut wakings = None;
            let mut pump = None;
            if client == abi::STATE_GONE {
                state.input.discard();
                let left = state.output.take_all();
                wakings = Some((state.input.waiting.take(), state.output.waiting.take(), left));
                pump = state.input.pump.take();
            }
            let open = matches!(state.source, Source::Idle(_) | Source::Waiting(_));
            self.wake_sleepers(state);
            if let Some(pump) = pump {
                pump.wake();
            }
            drop((watching, wakings));
            return open;
        }
        matches!(state.source, Source::Idle(_) | Source::Waiting(_))
    }

    /// The list of the request's fields, for one who alone holds a call that is over; none when an iterator is left that
    /// [`Call::advance`] must close.
    pub fn strip(&mut self) -> Option<Vec<Field>> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let open = matches!(state.source, Source::Idle(_) | Source::Waiting(_));
        (!open).then(|| std::mem::take(&mut self.request.fields))
    }

    /// Takes [`Piece::Ask`] back: it will be said again at the next poll.
    pub fn ask_later(&self) {
        self.lock().asking = false;
    }
}
