//! The shared cache in the master's hands: made before the workers that share it, handed on to later generations and masters, kept in a file
//! across a stop.
//!
//! Takes what a generation is configured with; gives it a cache. What lies in the cache, and what is done with it, is the workers' business:
//! the master looks into it only to tell how full it is.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::Master;
use crate::cache::Cache;
use crate::config::Config;
use crate::config::cache::Cache as Wanted;
use crate::scoreboard::Fact;
use crate::sys::fd::EventFd;
use crate::sys::process::{self, Pid};
use crate::sys::title;

/// How often it is told how full the cache is (ns).
const TELL: u64 = 1_000_000_000;

impl Master {
    /// The cache for a generation: the one there is, if it is as that one wants it.
    pub(super) fn cache_for(&mut self, config: &Config) -> Option<Arc<Cache>> {
        let wanted = &config.cache;
        if !wanted.enabled {
            self.cache = None;
            return None;
        }
        if let Some(cache) = self.cache.as_ref().filter(|cache| fits(cache, wanted)) {
            return Some(cache.clone());
        }
        if self.cache.is_some() {
            tracing::info!("the cache starts empty: its size has changed");
        }
        match Cache::create(wanted.size, wanted.max_entry) {
            Ok(cache) => {
                self.cache = Some(Arc::new(cache));
                self.fill_cache(wanted);
            }
            Err(error) => {
                // Serving without it is slower; not serving is worse.
                tracing::error!("there is no cache: its memory cannot be had: {error}");
                self.cache = None;
            }
        }
        self.cache.clone()
    }

    /// Has a child read what was stored: workers need not wait for that.
    fn fill_cache(&mut self, wanted: &Wanted) {
        let (Some(cache), Some(path)) = (self.cache.clone(), wanted.store.clone()) else {
            return;
        };
        let master = self.pid;
        let born = process::fork(|mask| {
            self.forget();
            let _ = title::set("appserver: cache");
            if process::kill_when_parent_ends(master).unwrap_or(false) {
                drop(mask);
                read(&cache, &path);
            }
            0
        });
        match born {
            Ok(pid) => self.cache_reader = Some(pid),
            Err(error) => tracing::warn!("the stored cache is not read: no process for it: {error}"),
        }
    }

    /// The last thing that a stop does: nobody changes the cache any more, and nobody waits for the master.
    pub(super) fn keep_cache(&self) {
        let Some(current) = &self.current else { return };
        let (Some(cache), Some(path)) = (&self.cache, &current.config.cache.store) else {
            return;
        };
        if let Some(reader) = self.cache_reader {
            // What it has not taken back would be lost.
            process::kill(reader);
            return tracing::info!("the cache is not stored: what was stored before had not been read to its end");
        }
        match cache.save(path) {
            Ok(count) => tracing::info!("{count} entries of the cache stored in {}", path.display()),
            Err(error) => tracing::error!("the cache cannot be stored in {}: {error}", path.display()),
        }
    }

    /// A process has ended: what it was making for others is given up.
    pub(super) fn free_waiting(&mut self, pid: Pid) {
        self.cache_reader.take_if(|reader| *reader == pid);
        if let Some(cache) = &self.cache {
            cache.bury(pid.as_raw().cast_unsigned());
        }
    }

    /// Says how full it is, once a second.
    pub(super) fn tell_cache(&mut self, now: u64) {
        if now < self.cache_told.saturating_add(TELL) {
            return;
        }
        self.cache_told = now;
        let usage = self.cache.as_ref().map(|cache| cache.usage()).unwrap_or_default();
        let house = self.board.house();
        house.set(Fact::CacheBytes, usage.bytes);
        house.set(Fact::CacheEntries, usage.entries);
        house.set(Fact::CacheSize, usage.size);
    }
}

fn read(cache: &Cache, path: &Path) {
    match cache.load(path) {
        Ok(Some(count)) => tracing::info!("{count} entries of the cache taken back from {}", path.display()),
        Ok(None) => {}
        Err(error) => tracing::warn!("{error}"),
    }
}

/// Whether a cache is of the size that is wanted.
pub(super) fn fits(cache: &Cache, wanted: &Wanted) -> bool {
    (cache.size(), cache.max_entry()) == (wanted.size / 8 * 8, wanted.max_entry)
}

/// The cache that an earlier master has handed over, memory first, if it is as it is wanted now.
pub(super) fn taken_over(descriptors: Vec<OwnedFd>, wanted: &Wanted) -> Option<Arc<Cache>> {
    let mut descriptors = descriptors.into_iter();
    let memory = descriptors.next().filter(|_| wanted.enabled)?;
    let bells = descriptors.map(EventFd::of).collect();
    match Cache::open(memory, bells, wanted.size, wanted.max_entry) {
        Ok(Some(cache)) => Some(Arc::new(cache)),
        Ok(None) => {
            tracing::info!("the cache starts empty: the one there was is of another size or version");
            None
        }
        Err(error) => {
            tracing::warn!("the cache starts empty: the one there was cannot be mapped: {error}");
            None
        }
    }
}
