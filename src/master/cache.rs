//! The shared cache in the master's hands: made before the workers that share it, handed on to later generations and masters, kept in a file
//! across a stop.
//!
//! Takes what a generation is configured with; gives it a cache. What lies in the cache, and what is done with it, is the workers' business:
//! the master looks into it only to tell how full it is.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::Master;
use crate::cache::Cache;
use crate::config::Config;
use crate::config::cache::Cache as Wanted;
use crate::generation::Generation;
use crate::scoreboard::Fact;
use crate::sys::fd::EventFd;
use crate::sys::process::{self, Outcome, Pid};
use crate::sys::title;

/// How often it is told how full the cache is (ns).
const TELL: u64 = 1_000_000_000;

impl Master {
    /// The cache for a generation: the one there is, if it is as that one wants it. Which one that is changes only once that generation
    /// serves.
    pub(super) fn cache_for(&self, config: &Config) -> Option<Arc<Cache>> {
        let wanted = &config.cache;
        if !wanted.enabled {
            return None;
        }
        if let Some(cache) = self.cache.as_ref().filter(|cache| fits(cache, wanted)) {
            return Some(cache.clone());
        }
        if self.cache.is_some() {
            tracing::info!("the cache starts empty: its size has changed");
        }
        // Serving without it is slower; not serving is worse.
        Cache::create(wanted.size, wanted.max_entry)
            .inspect_err(|error| tracing::error!("there is no cache: its memory cannot be had: {error}"))
            .map(Arc::new)
            .ok()
    }

    /// The first generation of this master has its cache.
    pub(super) fn begin_cache(&mut self, first: &Generation) {
        let before = std::mem::replace(&mut self.cache, first.cache.clone());
        self.leave_cache(before);
        // Later, what was stored is older than the purges since.
        if first.number == 1 {
            self.fill_cache(&first.config.cache);
        }
    }

    /// A generation is over; its cache is, too, if no other one has it.
    pub(super) fn leave_cache(&mut self, cache: Option<Arc<Cache>>) {
        // Whoever asks now is told of the one there is now.
        self.cache_told = 0;
        let Some(cache) = cache else { return };
        if !self.cache.iter().any(|other| Arc::ptr_eq(other, &cache)) {
            self.idle_caches.push(cache);
        }
    }

    /// All that somebody serves from: while one generation follows another there can be two.
    pub(super) fn caches(&self) -> Vec<Arc<Cache>> {
        let mut caches: Vec<Arc<Cache>> = self.cache.iter().cloned().collect();
        for cache in self.workers.iter().filter_map(|worker| worker.cache.as_ref()) {
            if !caches.iter().any(|other| Arc::ptr_eq(other, cache)) {
                caches.push(cache.clone());
            }
        }
        caches
    }

    /// Gives back the memory of those that nobody serves from any more.
    fn release_caches(&mut self) {
        // Those who read or purge may have begun while it was in use.
        if self.cache_reader.is_some() || !self.purges.is_empty() {
            return;
        }
        let workers = &self.workers;
        self.idle_caches.retain(|cache| {
            let mut used = workers.iter().filter_map(|worker| worker.cache.as_ref());
            let is_used = used.any(|other| Arc::ptr_eq(other, cache));
            if !is_used && let Err(error) = cache.release() {
                tracing::warn!("the memory of a cache that is out of use cannot be given back: {error}");
            }
            is_used
        });
    }

    /// Has a child read what was stored; workers start when it has.
    fn fill_cache(&mut self, wanted: &Wanted) {
        let (Some(cache), Some(path)) = (self.cache.clone(), wanted.store.clone()) else {
            return;
        };
        let master = self.pid;
        let born = process::fork(|mask| {
            self.forget();
            let _ = title::set("appserver: cache");
            let lives = process::kill_when_parent_ends(master).unwrap_or(false);
            drop(mask);
            i32::from(!(lives && read(&cache, &path)))
        });
        match born {
            Ok(pid) => self.cache_reader = Some(pid),
            Err(error) => tracing::warn!("the stored cache is not read: no process for it: {error}"),
        }
    }

    /// Whether this child was the one that read what was stored.
    pub(super) fn cache_reader_ended(&mut self, pid: Pid, outcome: Outcome) -> bool {
        if self.cache_reader.take_if(|reader| *reader == pid).is_none() {
            return false;
        }
        let store = self
            .current
            .as_ref()
            .and_then(|current| current.config.cache.store.as_ref());
        match (outcome, store) {
            // After a crash it would bring back what will have been purged or replaced by then.
            (Outcome::Exited(0), Some(path)) => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(
                        "the stored cache {} was read and cannot be removed: {error}",
                        path.display()
                    );
                }
                _ => {}
            },
            // It has said why it did not take it.
            (Outcome::Exited(_), _) => {}
            (outcome, _) => tracing::warn!("the process that read the stored cache {}", outcome.told()),
        }
        true
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
        for cache in self.caches() {
            cache.bury(pid.as_raw().cast_unsigned());
        }
    }

    /// Says how full it is, once a second.
    pub(super) fn tell_cache(&mut self, now: u64) {
        if now < self.cache_told.saturating_add(TELL) {
            return;
        }
        self.cache_told = now;
        self.release_caches();
        let usage = self.cache.as_ref().map(|cache| cache.usage()).unwrap_or_default();
        let house = self.board.house();
        house.set(Fact::CacheBytes, usage.bytes);
        house.set(Fact::CacheEntries, usage.entries);
        house.set(Fact::CacheSize, usage.size);
    }
}

/// True when the file is of no use any more.
fn read(cache: &Cache, path: &Path) -> bool {
    match cache.load(path) {
        Ok(Some(count)) => tracing::info!("{count} entries of the cache taken back from {}", path.display()),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!("{error}");
            return false;
        }
    }
    true
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
