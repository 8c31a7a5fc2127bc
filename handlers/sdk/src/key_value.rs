//! Values that all workers of the server share: takes a name and keys, gives what was set under them, if it is still there.
//!
//! The memory is the server's, and so is the decision what gives way; see [`KeyValue`].
#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use crate::abi::cache::{CacheRef, PURGE_KEY, PURGE_PREFIX, PURGE_TAG};
use crate::error::Error;

/// A named cache in the server's shared memory (`[cache]`), from [`Environ::cache`](crate::Environ::cache) or [`Init::cache`](crate::Init::cache).
///
/// Every worker sees what another has set, at once; a value is the old or the new one, never a mixture. **Any value can vanish at any
/// time**, a counter or a lock too: others need its room, a worker died while it wrote, the server was restarted. So keep nothing here that
/// cannot be made again. Names have 1 to 64 bytes, keys 1 to 1024; values may be empty.
///
/// Cache-aside, with a lock so that one alone makes what is missing:
///
/// ```no_run
/// # use std::time::Duration;
/// # use appserver_handler::{Error, KeyValue};
/// # fn compute() -> Vec<u8> { Vec::new() }
/// # fn page(pages: &KeyValue) -> Result<Vec<u8>, Error> {
/// const MINUTE: Option<Duration> = Some(Duration::from_secs(60));
/// if let Some(page) = pages.get("front")? { return Ok(page) }
/// if !pages.add("front.lock", "", Some(Duration::from_secs(5)))? { /* another is at it: wait, or serve what is old */ }
/// let page = compute();
/// let _ = pages.set("front", &page, MINUTE); // kept or not, there is a page
/// # Ok(page)
/// # }
/// ```
///
/// Write-through: `store.write(id, &row)?; rows.set(id, &row, MINUTE).or_else(|_| rows.delete(id).map(drop))?`. A limit of a hundred in a
/// minute: `visits.incr(address, 1, MINUTE).is_ok_and(|visits| visits > 100)` is one too many.
#[derive(Clone)]
pub struct KeyValue {
    cache: CacheRef,
    name: String,
}

/// Which responses [`KeyValue::purge`] throws out of the server's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purge<'a> {
    /// All variants of a URI: `http://host/path?query`, or `/path?query` of any host.
    Key(&'a str),
    /// All whose URI begins with it, in either form.
    Prefix(&'a str),
    /// All that were sent with this tag in `Cache-Tag` or `Surrogate-Key`.
    Tag(&'a str),
}

impl KeyValue {
    pub(crate) fn new(cache: CacheRef, name: &str) -> KeyValue {
        KeyValue {
            cache,
            name: name.to_owned(),
        }
    }

    /// A value, if it is there.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name or key of the wrong length.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.cache.get(&self.name, key.as_ref())
    }

    /// Keeps a value, in place of any other, for `ttl` or until it has to give way.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above `max-entry`; [`Error::Busy`] when it may be tried again; [`Error::Invalid`].
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Option<Duration>) -> Result<(), Error> {
        self.cache.set(&self.name, key.as_ref(), value.as_ref(), ms(ttl))
    }

    /// Keeps a value if there is none; whether it did. Of all who ask at once, one is told true.
    ///
    /// # Errors
    /// As [`set`](KeyValue::set).
    pub fn add(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, ttl: Option<Duration>) -> Result<bool, Error> {
        self.cache.add(&self.name, key.as_ref(), value.as_ref(), ms(ttl))
    }

    /// Adds to a number, in decimal digits as a value, which begins at 0 and then with `ttl`; one that is there keeps its own end. Gives
    /// the sum.
    ///
    /// # Errors
    /// [`Error::State`] when there is a value that is no number, or the sum is beyond 64 bits; else as [`set`](KeyValue::set).
    pub fn incr(&self, key: impl AsRef<[u8]>, by: i64, ttl: Option<Duration>) -> Result<i64, Error> {
        self.cache.incr(&self.name, key.as_ref(), by, ms(ttl))
    }

    /// Throws a value away; whether there was one.
    ///
    /// # Errors
    /// As [`set`](KeyValue::set).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        self.cache.delete(&self.name, key.as_ref())
    }

    /// Throws responses out of the server's cache, of whichever handler; gives how many. It looks at every entry: some milliseconds for a
    /// large cache.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty text.
    pub fn purge(&self, what: Purge<'_>) -> Result<u64, Error> {
        let (what, text) = match what {
            Purge::Key(text) => (PURGE_KEY, text),
            Purge::Prefix(text) => (PURGE_PREFIX, text),
            Purge::Tag(text) => (PURGE_TAG, text),
        };
        self.cache.purge(what, text.as_bytes())
    }
}

/// Milliseconds; what is shorter than one is one, for 0 is for ever.
fn ms(ttl: Option<Duration>) -> u64 {
    ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1))
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyValue").field(&self.name).finish()
    }
}
