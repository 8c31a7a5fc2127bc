//! The request as PEP 3333 tells it: takes the call, gives keys and values, the raw request and its input.
//!
//! Lazy: the server builds a value when it is asked for. What `set` and `insert` add stays in the handler and is seen by
//! whoever the environ is passed on to; nothing of it crosses to the server.
#![forbid(unsafe_code)]

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::fmt;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::abi::{self, call::CallRef, call::Pair};
use crate::error::Error;
use crate::input::{Errors, Input};
use crate::key_value::KeyValue;

/// The environ of one request.
pub struct Environ {
    call: CallRef,
    /// Written over the server's: a few keys, looked through one by one; `None` hides one.
    changed: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    extensions: Vec<(TypeId, Box<dyn Any + Send + Sync>)>,
}

/// Whether the client is still there. A FIN alone cancels nothing: a client may half-close and read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Connected, and may still send.
    Here,
    /// It has sent a FIN; it may still read.
    HalfClosed,
    /// Nothing can be delivered any more.
    Gone,
}

/// Severity of a line in the error log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The PEP 3333 side.
impl Environ {
    pub(crate) fn new(call: CallRef) -> Environ {
        Environ {
            call,
            changed: Vec::new(),
            extensions: Vec::new(),
        }
    }

    /// The value of `key`: `REQUEST_METHOD`, `PATH_INFO`, `HTTP_HOST`, `wsgi.url_scheme`, … Values are bytes.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<&[u8]> {
        let key = key.as_ref();
        match self.changed.iter().find(|(name, _)| name == key) {
            Some((_, value)) => value.as_deref(),
            None => self.call.environ_get(key),
        }
    }

    /// As [`get`](Environ::get), if the value is UTF-8.
    pub fn get_str(&self, key: impl AsRef<[u8]>) -> Option<&str> {
        std::str::from_utf8(self.get(key)?).ok()
    }

    /// As [`get`](Environ::get), with U+FFFD for what is not UTF-8 and empty if there is no such key.
    pub fn get_lossy(&self, key: impl AsRef<[u8]>) -> Cow<'_, str> {
        String::from_utf8_lossy(self.get(key).unwrap_or_default())
    }

    /// Sets a key for whoever this environ is passed on to.
    pub fn set(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.change(key.into(), Some(value.into()));
    }

    /// Hides a key from whoever this environ is passed on to.
    pub fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.change(key.into(), None);
    }

    /// All keys and values: the server's in its order, then those that were added.
    pub fn iter(&self) -> impl Iterator<Item = Pair<'_>> {
        let theirs = (0..).map_while(|index| self.call.environ_at(index));
        let theirs = theirs.filter(|(key, _)| !self.changed.iter().any(|(changed, _)| changed == key));
        let ours = self
            .changed
            .iter()
            .filter_map(|(key, value)| Some((key.as_slice(), value.as_deref()?)));
        theirs.chain(ours)
    }

    /// `wsgi.input`: the request body.
    pub fn input(&self) -> Input {
        Input::new(self.call.clone())
    }

    /// `wsgi.errors`: the error log.
    pub fn errors(&self) -> Errors {
        Errors::new(self.call.clone())
    }

    /// Keeps a value of any type for whoever this environ is passed on to; gives the one of that type it replaces.
    pub fn insert<T: Any + Send + Sync>(&mut self, value: T) -> Option<T> {
        let id = TypeId::of::<T>();
        let before = self.extensions.iter().position(|(kind, _)| *kind == id);
        let before = before.map(|index| self.extensions.swap_remove(index).1);
        self.extensions.push((id, Box::new(value)));
        before.and_then(|value| value.downcast().ok()).map(|value| *value)
    }

    /// The value of a type that [`insert`](Environ::insert) kept.
    pub fn extension<T: Any + Send + Sync>(&self) -> Option<&T> {
        let id = TypeId::of::<T>();
        let (_, value) = self.extensions.iter().find(|(kind, _)| *kind == id)?;
        value.downcast_ref()
    }

    fn change(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        match self.changed.iter_mut().find(|(name, _)| *name == key) {
            Some(place) => place.1 = value,
            None => self.changed.push((key, value)),
        }
    }
}

/// The request as it was sent, beside the environ.
impl Environ {
    /// The method as sent.
    pub fn method(&self) -> &[u8] {
        self.call.method()
    }

    /// The request target as sent.
    pub fn target(&self) -> &[u8] {
        self.call.target()
    }

    /// One request field, counted from 0 in the order sent.
    pub fn field(&self, index: usize) -> Option<Pair<'_>> {
        self.call.field_at(index)
    }

    /// The request fields in the order sent, repeats included.
    pub fn fields(&self) -> impl Iterator<Item = Pair<'_>> {
        (0..).map_while(|index| self.call.field_at(index))
    }

    /// The first field of this name, in any case.
    pub fn header(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        let mut fields = self.fields();
        fields
            .find(|(sent, _)| sent.eq_ignore_ascii_case(name.as_ref()))
            .map(|(_, value)| value)
    }

    /// The request trailers; [`Error::State`] before the input was read to its end.
    pub fn trailers(&self) -> Result<Vec<Pair<'_>>, Error> {
        let mut trailers = Vec::new();
        while let Some(trailer) = self.call.trailer_at(trailers.len())? {
            trailers.push(trailer);
        }
        Ok(trailers)
    }

    /// When the call must have answered; `None` when nothing bounds it.
    pub fn deadline(&self) -> Option<Instant> {
        match self.call.deadline() {
            0 => None,
            at => Some(Instant::now() + Duration::from_nanos(at.saturating_sub(abi::clock::monotonic_ns()))),
        }
    }

    /// Whether the client is still there.
    pub fn state(&self) -> State {
        State::of(self.call.state())
    }

    /// Ready when the state has become another than it was at the first poll, or the client is gone already. Wakes may
    /// be spurious: look at [`state`](Environ::state).
    pub fn poll_state(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.call.state_poll(cx)
    }

    /// Writes a line with the id of the request to the error log.
    pub fn log(&self, level: Level, message: impl fmt::Display) {
        self.call.log(level.number(), &message.to_string());
    }

    /// Name and version of the server, as in its `Server` header.
    pub fn server(&self) -> &'static str {
        abi::export::server(self.call.host())
    }

    /// A named cache in the memory that all workers share; None where the server has none.
    pub fn cache(&self, name: &str) -> Option<KeyValue> {
        self.call.cache().map(|cache| KeyValue::new(cache, name))
    }
}

impl State {
    pub(crate) fn of(state: abi::Status) -> State {
        match state {
            abi::STATE_HERE => State::Here,
            abi::STATE_HALF_CLOSED => State::HalfClosed,
            _ => State::Gone,
        }
    }
}

impl Level {
    pub(crate) fn number(self) -> i32 {
        match self {
            Level::Error => abi::LOG_ERROR,
            Level::Warn => abi::LOG_WARN,
            Level::Info => abi::LOG_INFO,
            Level::Debug => abi::LOG_DEBUG,
            Level::Trace => abi::LOG_TRACE,
        }
    }
}

impl fmt::Debug for Environ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes);
        f.debug_map()
            .entries(self.iter().map(|(key, value)| (text(key), text(value))))
            .finish()
    }
}
