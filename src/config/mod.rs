//! The merged, valid configuration: the only form the rest of the server sees.
//!
//! Takes what was typed ([`cli`]), the environment and what the file says ([`file`]); gives one [`Config`] in which
//! every value is present, in range and of its final type. Precedence, told once: flag > environment > file > default.
//! Reading it touches nothing but the file: no socket is bound and no module is opened here.
#![forbid(unsafe_code)]

mod bind;
pub mod cache;
pub mod check;
pub mod cli;
mod draft;
mod environment;
mod file;
mod finding;
mod origin;
mod print;
mod reserved;
mod rows;
mod rule;
mod setting;
mod trusted;
mod value;
mod verb;

pub use cli::Cli;
pub use draft::{Loaded, load, load_by};
pub use file::control_socket;
pub use finding::{ConfigError, Finding};
pub use origin::{Origin, Origins, Spot};
pub use print::print;
pub use trusted::Trusted;
pub use verb::{CacheVerb, PurgeWhat, Speak, Verb};

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Most workers there may be.
pub const MOST_WORKERS: usize = 1024;

/// Everything the server needs to know, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file it was read from, for messages and reloads.
    pub file: Option<PathBuf>,
    /// Number of worker processes (1 to [`MOST_WORKERS`]).
    pub workers: usize,
    /// Most threads of a worker's handler pool (1 to 1024).
    pub threads: usize,
    /// Where the master writes its pid.
    pub pidfile: Option<PathBuf>,
    /// Account the workers run under; the master keeps its own.
    pub user: Option<String>,
    /// Group the workers run under; the user's primary group when absent.
    pub group: Option<String>,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// Working directory, entered after the configuration was read.
    pub chdir: Option<PathBuf>,
    /// Sockets to accept from; never empty.
    pub listeners: Vec<Listener>,
    /// Modules and the URL prefixes they answer for; never empty, longest prefix first.
    pub mounts: Vec<Mount>,
    /// `[timeouts]`
    pub timeouts: Timeouts,
    /// `[limits]`
    pub limits: Limits,
    /// `[log]`
    pub log: Log,
    /// `[admin] bind`: where the monitor answers; nowhere when absent.
    pub admin: Option<Bind>,
    /// `[proxy] trusted`: the front-ends whose word about a client is taken.
    pub trusted: Trusted,
    /// `[proxy] early-hints`: whether those front-ends take interim responses (RFC 8297).
    pub proxy_hints: bool,
    /// `[cache]`: the shared cache.
    pub cache: cache::Cache,
    /// `[control] socket`: where the verbs are answered; nowhere when absent.
    pub control: Option<PathBuf>,
    /// `[reload] probe`: the target of a GET that each new generation must answer below 400 in a throw-away child.
    pub probe: Option<String>,
}

/// Most threads of a handler pool unless told otherwise. They are started on demand, so an idle worker has none.
const THREADS: usize = 32;

impl Config {
    /// The defaults with one module at the root and the default listener.
    pub fn for_module(module: impl Into<PathBuf>) -> Self {
        let mount = Mount {
            path: String::new(),
            module: module.into(),
            args: BTreeMap::new(),
            dispatch: Dispatch::Auto,
        };
        Self {
            listeners: vec![Listener::new(Bind::default())],
            mounts: vec![mount],
            ..Self::unbound()
        }
    }

    /// The defaults without a listener and without a mount: what the layers are laid upon.
    fn unbound() -> Self {
        Self {
            file: None,
            workers: available_cpus(),
            threads: THREADS,
            pidfile: None,
            user: None,
            group: None,
            umask: None,
            chdir: None,
            listeners: Vec::new(),
            mounts: Vec::new(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            log: Log::default(),
            admin: None,
            trusted: Trusted::default(),
            proxy_hints: false,
            cache: cache::Cache::default(),
            control: None,
            probe: None,
        }
    }
}

/// What `workers = "auto"` means: the CPUs this process may run on (affinity and cgroup quota respected).
fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get())
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1 (RFC 9112).
    #[default]
    Http,
    /// The uwsgi protocol, as nginx's `uwsgi_pass` speaks it.
    Uwsgi,
}

impl fmt::Display for Protocol {
    /// As it stands behind an address in the log: HTTP goes without saying.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => Ok(()),
            Self::Uwsgi => f.write_str(" (uwsgi)"),
        }
    }
}

/// One `[[listener]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Where it listens.
    pub bind: Bind,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Whether each connection begins with a PROXY header that tells whom it is for.
    pub proxy_protocol: bool,
    /// Length of the accept queue, capped by net.core.somaxconn (listen(2)).
    pub backlog: u32,
    /// Whether other servers may listen on the same TCP address beside this one (SO_REUSEPORT, socket(7)).
    pub reuse_port: bool,
    /// Permission bits of a Unix socket.
    pub mode: Option<u32>,
    /// Owner of a Unix socket.
    pub owner: Option<String>,
    /// Group of a Unix socket.
    pub group: Option<String>,
}

impl Listener {
    /// Queue length unless told otherwise; Gunicorn's.
    pub const BACKLOG: u32 = 2048;

    /// A listener with the default queue and permissions.
    pub fn new(bind: Bind) -> Self {
        Self {
            bind,
            protocol: Protocol::Http,
            proxy_protocol: false,
            backlog: Self::BACKLOG,
            reuse_port: false,
            mode: None,
            owner: None,
            group: None,
        }
    }
}

/// A bind address: `127.0.0.1:8000`, `[::1]:8000`, `unix:/run/app.sock`, `fd://3`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Bind {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix stream socket.
    Unix(PathBuf),
    /// A descriptor that was inherited (systemd socket activation and the like).
    Fd(i32),
}

/// One `[[mount]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mount {
    /// URL prefix without a trailing slash; empty for the root. Becomes SCRIPT_NAME.
    pub path: String,
    /// The shared library.
    pub module: PathBuf,
    /// Arguments handed to the module's worker_init.
    pub args: BTreeMap<String, String>,
    /// Where its calls run.
    pub dispatch: Dispatch,
}

/// Where the calls of a mount run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dispatch {
    /// Inline once its path has proved short, else on the pool.
    #[default]
    Auto,
    /// Always on the worker's I/O thread.
    Inline,
    /// Always on the pool.
    Pool,
}

/// `[timeouts]`: each bounds one named phase.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeouts {
    /// From a worker's fork to its ready message.
    pub boot: Duration,
    /// From the first byte of a request head to its last.
    pub header: Duration,
    /// Longest pause between two reads of a request body.
    pub body: Duration,
    /// From the call of the handler to its response head, and then to each next chunk.
    pub request: Duration,
    /// Longest pause of a client that does not read its response.
    pub write: Duration,
    /// Longest idle time of a kept-alive connection.
    pub keep_alive: Duration,
    /// From a stop to the last moment of what has not finished.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            boot: Duration::from_secs(30),
            header: Duration::from_secs(10),
            body: Duration::from_secs(30),
            request: Duration::from_secs(60),
            write: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            drain: Duration::from_secs(30),
        }
    }
}

/// `[limits]`: sizes in bytes unless said otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Longest request line; above it 414.
    pub request_line: usize,
    /// Longest single header field line; above it 431.
    pub header_field: usize,
    /// Most header fields (count); above it 431.
    pub header_fields: usize,
    /// Longest request head; above it 431.
    pub header_total: usize,
    /// Longest request body; above it 413.
    pub body: u64,
    /// Fewest bytes a second of a request body while it is waited for; below it 408. 0 is no limit.
    pub body_rate: u64,
    /// Fewest bytes a second that a client reads of its answer while it is waited for; below it the connection is reset. 0 is no limit.
    pub write_rate: u64,
    /// Most open connections of one worker (count); above it the worker does not accept.
    pub connections: usize,
    /// Most calls in flight in one worker (count); above it connections are not read.
    pub in_flight: usize,
    /// Bodies up to this are read before a handler thread is taken.
    pub body_buffer: usize,
    /// A worker that has answered this many requests is replaced; 0 is never.
    pub max_requests: usize,
    /// Up to this many requests more, drawn by each worker, so that not all are replaced together.
    pub max_requests_jitter: usize,
    /// A worker that has lived this long is replaced; zero is never.
    pub max_lifetime: Duration,
    /// A worker with more resident memory (bytes) is replaced; 0 is no limit.
    pub memory_soft: u64,
    /// A worker with more resident memory (bytes) is killed; 0 is no limit.
    pub memory_hard: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_line: 8 * 1024,
            header_field: 8 * 1024,
            header_fields: 100,
            header_total: 64 * 1024,
            body: 1024 * 1024 * 1024,
            body_rate: 500,
            write_rate: 500,
            connections: 1024,
            in_flight: 256,
            body_buffer: 64 * 1024,
            max_requests: 0,
            max_requests_jitter: 0,
            max_lifetime: Duration::ZERO,
            memory_soft: 0,
            memory_hard: 0,
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// Least severity that is written.
    pub level: Level,
    /// Form of the error log.
    pub format: Format,
    /// Where the error log goes; standard error when absent.
    pub file: Option<PathBuf>,
    /// Where the access log goes; none when absent.
    pub access: Option<AccessTarget>,
    /// Form of an access line.
    pub access_format: AccessFormat,
}

/// Severity of the error log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Form of the error log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Where access lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessTarget {
    /// Standard output, named `-`.
    Stdout,
    /// A file opened for appending, reopened on USR1.
    File(PathBuf),
}

/// Form of an access line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessFormat {
    /// The combined log format, escaped.
    #[default]
    Combined,
    /// One JSON object a line.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: Level::Info,
            format: Format::Human,
            file: None,
            access: None,
            access_format: AccessFormat::Combined,
        }
    }
}
