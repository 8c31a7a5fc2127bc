//! The error log: what the server says to the people who run it.
//!
//! Takes tracing's events; gives one line each, for people or as JSON, to standard error or to a file. The master calls
//! [`init`] before it forks and every child inherits the result: the file is open for appending and each line is one
//! write(2), so the lines of many processes never mix. There is no thread and no queue, hence nothing to lose at a
//! crash. Access lines are not its business.
#![forbid(unsafe_code)]

mod line;

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::DefaultFields;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use line::Line;

use crate::config::{self, Format};
use crate::sys::fd;

/// How events are written at the moment. A lock and not an atomic, since a line needs all of it at once; it is held for
/// writing by the process's only thread in the master, and at a reopening for an instant in a worker.
static SINK: RwLock<Sink> = RwLock::new(Sink {
    file: None,
    format: Format::Human,
    level: LevelFilter::INFO,
    colour: false,
    role: String::new(),
});

struct Sink {
    /// The file and its absolute path; standard error when absent.
    file: Option<(File, PathBuf)>,
    format: Format,
    level: LevelFilter,
    colour: bool,
    /// What this process is: "master", "worker 3".
    role: String,
}

/// Why there is no error log.
#[derive(Debug)]
pub enum LogError {
    /// The file cannot be opened for appending.
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The process already has a log of another making.
    Taken,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, source } => write!(
                f,
                "cannot open the log file {}: {source}; create its directory or change `[log] file`",
                path.display()
            ),
            Self::Taken => f.write_str("the error log was started twice in one process"),
        }
    }
}

impl Error for LogError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Open { source, .. } => Some(source),
            Self::Taken => None,
        }
    }
}

/// Starts the log of this process and of all that it forks.
///
/// # Errors
/// The file cannot be opened, or the log was started before.
pub fn init(log: &config::Log) -> Result<(), LogError> {
    set(log)?;
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Line)
        .fmt_fields(DefaultFields::new())
        .with_writer(Output)
        .log_internal_errors(false);
    tracing_subscriber::registry()
        .with(Threshold)
        .with(lines)
        .try_init()
        .map_err(|_| LogError::Taken)
}

/// Changes level, form and file in place, as a reload does; on an error everything stays as it was.
///
/// # Errors
/// The file cannot be opened.
pub fn set(log: &config::Log) -> Result<(), LogError> {
    let file = match &log.file {
        // Absolute, so that reopening means the same file after a chdir.
        Some(path) => {
            let path = std::path::absolute(path).map_err(|source| LogError::Open {
                path: path.clone(),
                source,
            })?;
            Some((open(&path)?, path))
        }
        None => None,
    };
    let colour =
        file.is_none() && io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let mut sink = SINK.write().unwrap_or_else(PoisonError::into_inner);
    sink.file = file;
    sink.format = log.format;
    sink.colour = colour && log.format == Format::Human;
    sink.level = match log.level {
        config::Level::Error => LevelFilter::ERROR,
        config::Level::Warn => LevelFilter::WARN,
        config::Level::Info => LevelFilter::INFO,
        config::Level::Debug => LevelFilter::DEBUG,
        config::Level::Trace => LevelFilter::TRACE,
    };
    drop(sink);
    tracing::callsite::rebuild_interest_cache();
    Ok(())
}

/// Opens the file anew, for USR1 after a rotation; each process does it for itself. Without a file nothing happens.
///
/// # Errors
/// The file cannot be opened; the old one stays in use.
pub fn reopen() -> Result<(), LogError> {
    let Some(path) = sink().file.as_ref().map(|(_, path)| path.clone()) else {
        return Ok(());
    };
    let file = open(&path)?;
    SINK.write().unwrap_or_else(PoisonError::into_inner).file = Some((file, path));
    Ok(())
}

/// Names this process in its lines: "master", "worker 3". A child says it first of all.
pub fn set_role(role: impl Into<String>) {
    SINK.write().unwrap_or_else(PoisonError::into_inner).role = role.into();
}

fn sink() -> RwLockReadGuard<'static, Sink> {
    SINK.read().unwrap_or_else(PoisonError::into_inner)
}

fn open(path: &Path) -> Result<File, LogError> {
    let file = fd::append_to(path);
    file.map_err(|source| LogError::Open {
        path: path.to_owned(),
        source,
    })
}

/// Lets pass what is severe enough; the level may change while we run.
struct Threshold;

impl<S: Subscriber> Layer<S> for Threshold {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= sink().level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(sink().level)
    }
}

/// Where a finished line goes. The layer hands it over whole.
struct Output;

impl<'a> MakeWriter<'a> for Output {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl io::Write for Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &sink().file {
            Some((file, _)) => (&*file).write(line),
            None => {
                to_stderr(line);
                Ok(line.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to standard error, which may be a pipe that nobody reads: neither the master nor a worker's I/O waits for that. What is lost
/// is counted, and told with the next line that leaves.
fn to_stderr(line: &[u8]) {
    static LOST: AtomicU64 = AtomicU64::new(0);
    let lost = LOST.swap(0, Ordering::Relaxed);
    if lost > 0 {
        let note = format!("{lost} lines of the log were lost: nobody read standard error\n");
        if fd::write_without_blocking(&io::stderr(), note.as_bytes()) < note.len() {
            LOST.fetch_add(lost + 1, Ordering::Relaxed);
            return;
        }
    }
    if fd::write_without_blocking(&io::stderr(), line) < line.len() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    // One test, because a process has one log.
    #[test]
    fn the_log_is_written_reopened_and_changed_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("error.log");
        let mut log = config::Log {
            file: Some(path.clone()),
            ..config::Log::default()
        };
        init(&log).unwrap();
        set_role("worker 3");
        tracing::debug!("hidden");
        tracing::info!(count = 3, name = "a b", "hello");
        let moved = dir.path().join("error.log.1");
        fs::rename(&path, &moved).unwrap();
        tracing::warn!("still the old file");
        reopen().unwrap();
        log.level = config::Level::Debug;
        log.format = Format::Json;
        set(&log).unwrap();
        tracing::debug!(count = 3, name = "a\"b", yes = true, "new\nfile");

        let old = fs::read_to_string(&moved).unwrap();
        let lines: Vec<&str> = old.lines().collect();
        assert_eq!(lines.len(), 2, "{old}");
        let pid = std::process::id();
        assert!(
            lines[0].ends_with(&format!("Z INFO  [{pid} worker 3] hello count=3 name=\"a b\"")),
            "{old}"
        );
        assert!(lines[1].contains("WARN") && !old.contains('\x1b'));
        let new = fs::read_to_string(&path).unwrap();
        let tail = format!(
            "\"level\":\"debug\",\"pid\":{pid},\"role\":\"worker 3\",\"message\":\"new\\nfile\",\"count\":3,\"name\":\"a\\\"b\",\"yes\":true}}\n"
        );
        assert!(
            new.starts_with("{\"time\":\"2") && new.ends_with(&tail) && new.lines().count() == 1,
            "{new}"
        );
        assert!(matches!(init(&log), Err(LogError::Taken)));

        log.file = Some(dir.path().join("missing/error.log"));
        assert!(set(&log).unwrap_err().to_string().contains("missing/error.log"));
        tracing::info!("the old file stays in use after a failure");
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
    }
}
