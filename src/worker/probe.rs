//! The trial of a generation before anything of it serves: its modules are loaded and, if asked for, one request is
//! answered, in a process that may die of it.
//!
//! Takes a configuration and its images; gives the reason why they will not do. The request takes the very road that a
//! client's takes, over a socket pair; only the listener, the access log and the master are missing.
#![forbid(unsafe_code)]

use std::os::unix::net::UnixStream as Pair;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::{sleep, timeout};

use super::dispatch::Dispatcher;
use super::drain::LAST_CALLS;
use super::source::Accepted;
use super::{connection, load, prepare};
use crate::cache::Cache;
use crate::config::Config;
use crate::generation::Generation;
use crate::handler;
use crate::handler::image::Image;
use crate::handover::{Handover, Passing};
use crate::listener::Address;
use crate::scoreboard::Scoreboard;

/// Bytes of an answer that are looked at.
const LONGEST: usize = 64 * 1024;

/// Opens and checks the modules of a configuration, and makes its probe request.
///
/// # Errors
/// The first refusal, as a sentence.
pub fn probe(config: &Config, images: &[Image]) -> Result<(), String> {
    let cache = trial_cache(config);
    cache.iter().for_each(|cache| handler::cache::offer(cache.clone()));
    let Some(target) = &config.probe else {
        for image in images {
            let loaded = load(image, 0)?;
            tracing::debug!("module {} is {}", image.path().display(), loaded.provenance());
        }
        return Ok(());
    };
    let failed = |why: String| format!("the probe request GET {target} failed: {why}");
    let answer = ask(config, images, target, cache)?.map_err(failed)?;
    let status = answer
        .split(|byte| *byte == b' ')
        .nth(1)
        .and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    match status {
        Some(100..400) => Ok(()),
        Some(code) => Err(failed(format!(
            "it was answered {code}, and [reload] probe wants less than 400"
        ))),
        None => Err(failed("the answer has no status".to_owned())),
    }
}

/// A cache of the trial's own: nothing that a new module does there is to be seen by those that serve.
fn trial_cache(config: &Config) -> Option<Arc<Cache>> {
    let wanted = config.cache.enabled.then_some(&config.cache)?;
    Cache::create(wanted.size, wanted.max_entry).ok().map(Arc::new)
}

/// The first bytes of the answer; the outer error is the module's, the inner one the request's.
fn ask(
    config: &Config,
    images: &[Image],
    target: &str,
    cache: Option<Arc<Cache>>,
) -> Result<Result<Vec<u8>, String>, String> {
    let slot = Scoreboard::create().ok().and_then(|board| board.claim(0));
    let slot = slot.ok_or("no memory for the probe")?;
    let mut config = config.clone();
    config.log.access = None;
    let patience = config.timeouts.request;
    let generation = Generation {
        number: 0,
        config,
        images: images.to_vec(),
        listeners: Vec::new(),
        loaded_at: 0,
        cache,
    };
    let handover = Handover::new().map_err(|error| format!("no channel for the probe: {error}"))?;
    let worker = prepare(1, slot, &generation, &Arc::new(handover), None)?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let asked = runtime.block_on(async {
        let (ours, theirs) = Pair::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let accepted = Accepted {
            socket: theirs.into(),
            remote: Address::Unix(None),
            here: None,
            taken_over: false,
            passing: Passing {
                unix: true,
                fresh: true,
                ..Passing::default()
            },
        };
        connection::start(&worker, accepted);
        let mut client = UnixStream::from_std(ours)?;
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: appserver-probe\r\nConnection: close\r\n\r\n"
        );
        client.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        let mut rest = client.take(LONGEST as u64);
        match timeout(patience, rest.read_to_end(&mut answer)).await {
            Ok(read) => read.map(|_| answer),
            Err(_) => Err(std::io::Error::other(format!(
                "there was no answer within {patience:?}"
            ))),
        }
    });
    // What has answered may still be running, and what has not may run for ever: its module is not pulled away from under it.
    runtime.block_on(async {
        let patience = Instant::now() + LAST_CALLS;
        while worker.mounts.iter().any(Dispatcher::is_busy) && Instant::now() < patience {
            sleep(LAST_CALLS / 100).await;
        }
    });
    let rested = worker.mounts.iter().filter(|mount| !mount.is_busy());
    rested.for_each(Dispatcher::shutdown);
    Ok(asked.map_err(|error| error.to_string()))
}
