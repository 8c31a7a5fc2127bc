//! The shared cache as it crosses: the server's table of functions, and safe calls of them.
//!
//! Takes names, keys and bytes; gives statuses, and values as the SDK's own bytes. It belongs to no call: any thread may ask at any time.
#![allow(unsafe_code)]

use std::ptr::null_mut;

use super::{ABSENT, Chunk, E_UNSUPPORTED, Host, OK, Status, Str};
use crate::error::Error;

/// Whoever writes there does not get on: worth trying again.
pub const E_BUSY: Status = -10;
/// Feature bit: the shared cache; there only where one is configured.
pub const FEATURE_CACHE: u64 = 1 << 6;
/// `purge`: all variants of one URI.
pub const PURGE_KEY: i32 = 0;
/// `purge`: all URIs that begin with it.
pub const PURGE_PREFIX: i32 = 1;
/// `purge`: all responses with that tag.
pub const PURGE_TAG: i32 = 2;

/// The functions of the shared cache.
#[repr(C)]
pub struct Cache {
    /// `sizeof(appserver_cache)` of the server.
    pub struct_size: usize,
    /// A value. [`OK`] and bytes whose `release` you call once; [`ABSENT`].
    pub get: unsafe extern "C" fn(name: Str, key: Str, value: *mut Chunk) -> Status,
    /// Keeps a value for so many milliseconds; 0 is until it has to give way.
    pub set: unsafe extern "C" fn(name: Str, key: Str, value: Str, ttl_ms: u64) -> Status,
    /// The same if there is none: [`OK`], or [`ABSENT`] when there is one and nothing was kept.
    pub add: unsafe extern "C" fn(name: Str, key: Str, value: Str, ttl_ms: u64) -> Status,
    /// Adds to a number.
    pub incr: unsafe extern "C" fn(name: Str, key: Str, by: i64, ttl_ms: u64, sum: *mut i64) -> Status,
    /// Throws a value away: [`OK`], or [`ABSENT`] when there was none.
    pub delete_: unsafe extern "C" fn(name: Str, key: Str) -> Status,
    /// Throws responses away, by `PURGE_*`.
    pub purge: unsafe extern "C" fn(what: i32, text: Str, count: *mut u64) -> Status,
}

/// The server's cache.
#[derive(Clone, Copy)]
pub(crate) struct CacheRef(&'static Cache);

impl CacheRef {
    /// That of a host, if it has one.
    pub(crate) fn of(host: &'static Host) -> Option<CacheRef> {
        // SAFETY: the table, where there is one, lives as long as the process and is as the header says.
        unsafe { host.cache.as_ref() }.map(CacheRef)
    }

    pub(crate) fn get(self, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut chunk = Chunk {
            ptr: std::ptr::null(),
            len: 0,
            release: None,
            owner: null_mut(),
        };
        // SAFETY: the arguments are valid until it returns, and `chunk` may be written.
        match unsafe { (self.0.get)(Str::of(name.as_bytes()), Str::of(key), &mut chunk) } {
            OK => {
                let bytes = Str {
                    ptr: chunk.ptr,
                    len: chunk.len,
                };
                // SAFETY: the bytes are valid until they are released, which happens once, below.
                let value = unsafe { bytes.bytes() }.to_vec();
                if let Some(release) = chunk.release {
                    // SAFETY: as above.
                    unsafe { release(chunk.owner) };
                }
                Ok(Some(value))
            }
            ABSENT => Ok(None),
            status => Err(Error::of(status)),
        }
    }

    pub(crate) fn set(self, name: &str, key: &[u8], value: &[u8], ttl_ms: u64) -> Result<(), Error> {
        // SAFETY: the arguments are valid until it returns.
        Error::check(unsafe { (self.0.set)(Str::of(name.as_bytes()), Str::of(key), Str::of(value), ttl_ms) })
    }

    pub(crate) fn add(self, name: &str, key: &[u8], value: &[u8], ttl_ms: u64) -> Result<bool, Error> {
        // SAFETY: the arguments are valid until it returns.
        done(unsafe { (self.0.add)(Str::of(name.as_bytes()), Str::of(key), Str::of(value), ttl_ms) })
    }

    pub(crate) fn incr(self, name: &str, key: &[u8], by: i64, ttl_ms: u64) -> Result<i64, Error> {
        let mut sum = 0;
        // SAFETY: the arguments are valid until it returns, and `sum` may be written.
        Error::check(unsafe { (self.0.incr)(Str::of(name.as_bytes()), Str::of(key), by, ttl_ms, &mut sum) })?;
        Ok(sum)
    }

    pub(crate) fn delete(self, name: &str, key: &[u8]) -> Result<bool, Error> {
        // SAFETY: the arguments are valid until it returns.
        done(unsafe { (self.0.delete_)(Str::of(name.as_bytes()), Str::of(key)) })
    }

    pub(crate) fn purge(self, what: i32, text: &[u8]) -> Result<u64, Error> {
        let mut count = 0;
        // SAFETY: the arguments are valid until it returns, and `count` may be written.
        Error::check(unsafe { (self.0.purge)(what, Str::of(text), &mut count) })?;
        Ok(count)
    }
}

/// Whether it was done, or there was no occasion.
fn done(status: Status) -> Result<bool, Error> {
    match status {
        OK => Ok(true),
        ABSENT => Ok(false),
        E_UNSUPPORTED => Err(Error::Unsupported),
        status => Err(Error::of(status)),
    }
}
