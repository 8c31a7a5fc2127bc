//! What `[cache]` says: the size of the shared cache, and the rules of what it keeps under which key.
//!
//! Takes the values of the draft; gives them in their final types. What HTTP says of caching is decided in `crate::cache::policy`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

/// Words of `scope`.
pub const SCOPES: &[(&str, Scope)] = &[("server", Scope::Server), ("generation", Scope::Generation)];

/// `[cache]`
#[derive(Debug, Clone, PartialEq)]
pub struct Cache {
    /// Whether there is one.
    pub enabled: bool,
    /// Bytes of memory, all told.
    pub size: u64,
    /// Responses and values with more bytes are not kept.
    pub max_entry: u64,
    /// Where it is kept across a stop.
    pub store: Option<PathBuf>,
    /// Whose responses they are.
    pub scope: Scope,
    /// Guess from Last-Modified how long a response is fresh that does not say (RFC 9111 section 4.2.2).
    pub heuristic: bool,
    /// How long a request waits for the answer to another one that is the same, before it asks the handler itself.
    pub wait: Duration,
    /// The first one that fits a request counts.
    pub rules: Vec<Rule>,
}

/// Who finds what was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All generations of the server: a deploy goes on with what there is.
    Server,
    /// Those of its own alone: a deploy starts with nothing.
    Generation,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            enabled: false,
            size: 64 << 20,
            max_entry: 1 << 20,
            store: None,
            scope: Scope::Server,
            heuristic: false,
            wait: Duration::from_secs(5),
            rules: Vec::new(),
        }
    }
}

/// `[[cache.rule]]`
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rule {
    /// Paths that begin with it, segment by segment, as `path` of a mount; empty is all.
    pub path: String,
    /// This Host alone, in lower case, with its port if the client names one.
    pub host: Option<String>,
    /// This method alone: GET or HEAD.
    pub method: Option<String>,
    /// Neither looked for nor kept.
    pub bypass: bool,
    /// Fresh for so long where the response does not say.
    pub ttl: Option<Duration>,
    /// Which parameters of the query tell responses apart.
    pub query: Query,
    /// Request fields that tell them apart beside what Vary names, in lower case.
    pub headers: Vec<String>,
    /// Cookies that do.
    pub cookies: Vec<String>,
}

/// Which parameters of a query belong to the key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Query {
    /// All, as they were sent.
    #[default]
    All,
    /// These alone, sorted by name (`query = ["page"]`; `[]` is none).
    Only(Vec<String>),
    /// All but these (`ignore-query = ["utm_source"]`).
    Without(Vec<String>),
}
