//! What serves requests: takes a function or a type with state, gives the traits behind `handler!`.
//!
//! The macro itself is in `export.rs`; nothing here crosses the boundary.
#![forbid(unsafe_code)]

use crate::{Body, Environ, Init, StartResponse};

/// How many calls of one worker may run at once, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// Calls never overlap; `wsgi.multithread` is false.
    One,
    /// Calls may run on any threads at once.
    #[default]
    Many,
    /// Every call runs on one and the same thread, the one that ran `init`.
    Pinned,
}

/// Anything that answers a request; every function of the right shape does. Middleware wraps one and is one.
pub trait App: Send + Sync + 'static {
    /// Answers one request.
    fn call(&self, environ: Environ, start_response: StartResponse<'_>) -> Body;
}

impl<F> App for F
where
    F: Fn(Environ, StartResponse<'_>) -> Body + Send + Sync + 'static,
{
    fn call(&self, environ: Environ, start_response: StartResponse<'_>) -> Body {
        self(environ, start_response)
    }
}

/// A handler with state: one value per worker and mount, built after the fork.
pub trait Handler: Sized + Send + Sync + 'static {
    /// What the handler asks of the server's threads.
    const THREADS: Threads = Threads::Many;

    /// Builds the state from the mount's arguments; an error is shown to whoever starts or reloads the server.
    fn init(init: &Init<'_>) -> Result<Self, String>;

    /// Answers one request.
    fn call(&self, environ: Environ, start_response: StartResponse<'_>) -> Body;

    /// Runs when the worker has answered its last request.
    fn shutdown(&self) {}
}
