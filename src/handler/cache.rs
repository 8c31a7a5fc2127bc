//! The shared cache as handlers reach it: the functions behind the table, and which cache they ask.
//!
//! Takes what a plugin passes, on any thread and outside of any call; gives a status. What is kept, and for how long, is decided in `crate::cache`.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use appserver_handler::abi::cache as wire;
use appserver_handler::abi::{self, Chunk, Status, Str};
use bytes::Bytes;

use crate::cache::{Cache, Purge, Refused};

/// The longest name of a cache, and the longest key (bytes).
const LONGEST: (usize, usize) = (64, 1024);

/// The cache of this process: a worker has one, and keeps it.
static CACHE: OnceLock<Arc<Cache>> = OnceLock::new();

/// Says which cache handlers get, before any of them is loaded.
pub fn offer(cache: Arc<Cache>) {
    let _ = CACHE.set(cache);
}

/// The table.
pub(super) static TABLE: wire::Cache = wire::Cache {
    struct_size: size_of::<wire::Cache>(),
    get,
    set,
    add,
    incr,
    delete_: delete,
    purge,
};

/// Whether there is a cache to ask.
pub(super) fn is_there() -> bool {
    CACHE.get().is_some()
}

/// The cache, the name and the key that a plugin passed.
///
/// # Safety
/// Both must be valid for `'a`.
unsafe fn asked<'a>(name: Str, key: Str) -> Result<(&'static Cache, &'a [u8], &'a [u8]), Status> {
    let cache = CACHE.get().ok_or(abi::E_UNSUPPORTED)?;
    if name.ptr.is_null() || key.ptr.is_null() {
        return Err(abi::E_INVALID);
    }
    // SAFETY: promised by the caller.
    let (name, key) = unsafe { (name.bytes(), key.bytes()) };
    if !(1..=LONGEST.0).contains(&name.len()) || !(1..=LONGEST.1).contains(&key.len()) {
        return Err(abi::E_INVALID);
    }
    Ok((cache, name, key))
}

/// A value that a plugin passed.
///
/// # Safety
/// It must be valid for `'a`.
unsafe fn value<'a>(value: Str) -> Result<&'a [u8], Status> {
    if value.ptr.is_null() && value.len > 0 {
        return Err(abi::E_INVALID);
    }
    // SAFETY: promised by the caller.
    Ok(unsafe { value.bytes() })
}

fn time(ttl_ms: u64) -> Option<Duration> {
    (ttl_ms > 0).then(|| Duration::from_millis(ttl_ms))
}

fn status(outcome: Result<bool, Status>) -> Status {
    match outcome {
        Ok(true) => abi::OK,
        Ok(false) => abi::ABSENT,
        Err(status) => status,
    }
}

fn refused(refused: Refused) -> Status {
    match refused {
        Refused::TooLarge => abi::E_TOO_LARGE,
        Refused::Busy => wire::E_BUSY,
        Refused::NotANumber => abi::E_STATE,
    }
}

unsafe extern "C" fn release(owner: *mut c_void) {
    // SAFETY: the owner is the box that `get` made, and comes back once.
    drop(unsafe { Box::from_raw(owner.cast::<Bytes>()) });
}

unsafe extern "C" fn get(name: Str, key: Str, value: *mut Chunk) -> Status {
    // SAFETY: the plugin's promise.
    let found = unsafe { asked(name, key) }.map(|(cache, name, key)| cache.get(name, key));
    match found {
        Ok(_) if value.is_null() => abi::E_INVALID,
        Ok(Some(bytes)) => {
            let owner = Box::new(bytes);
            let chunk = Chunk {
                ptr: owner.as_ptr(),
                len: owner.len(),
                release: Some(release),
                owner: Box::into_raw(owner).cast(),
            };
            // SAFETY: the plugin's promise; it is not null.
            unsafe { value.write(chunk) };
            abi::OK
        }
        Ok(None) => abi::ABSENT,
        Err(status) => status,
    }
}

unsafe extern "C" fn set(name: Str, key: Str, bytes: Str, ttl_ms: u64) -> Status {
    // SAFETY: the plugin's promise.
    let asked = unsafe { asked(name, key).and_then(|asked| Ok((asked, value(bytes)?))) };
    status(asked.and_then(|((cache, name, key), value)| {
        cache
            .set(name, key, value, time(ttl_ms))
            .map(|()| true)
            .map_err(refused)
    }))
}

unsafe extern "C" fn add(name: Str, key: Str, bytes: Str, ttl_ms: u64) -> Status {
    // SAFETY: the plugin's promise.
    let asked = unsafe { asked(name, key).and_then(|asked| Ok((asked, value(bytes)?))) };
    status(asked.and_then(|((cache, name, key), value)| cache.add(name, key, value, time(ttl_ms)).map_err(refused)))
}

unsafe extern "C" fn incr(name: Str, key: Str, by: i64, ttl_ms: u64, sum: *mut i64) -> Status {
    // SAFETY: the plugin's promise.
    let asked = unsafe { asked(name, key) };
    let found = asked.and_then(|(cache, name, key)| cache.incr(name, key, by, time(ttl_ms)).map_err(refused));
    status(found.map(|found| {
        if !sum.is_null() {
            // SAFETY: the plugin's promise.
            unsafe { sum.write(found) };
        }
        true
    }))
}

unsafe extern "C" fn delete(name: Str, key: Str) -> Status {
    // SAFETY: the plugin's promise.
    let asked = unsafe { asked(name, key) };
    status(asked.and_then(|(cache, name, key)| cache.delete(name, key).map_err(refused)))
}

unsafe extern "C" fn purge(what: i32, text: Str, count: *mut u64) -> Status {
    let Some(cache) = CACHE.get() else {
        return abi::E_UNSUPPORTED;
    };
    // SAFETY: the plugin's promise.
    let text = match unsafe { value(text) } {
        Ok(text) if !text.is_empty() => text.to_vec(),
        _ => return abi::E_INVALID,
    };
    let what = match what {
        wire::PURGE_KEY => Purge::Key(text),
        wire::PURGE_PREFIX => Purge::Prefix(text),
        wire::PURGE_TAG => Purge::Tag(text),
        _ => return abi::E_INVALID,
    };
    let gone = cache.purge(&what);
    if !count.is_null() {
        // SAFETY: the plugin's promise.
        unsafe { count.write(gone) };
    }
    abi::OK
}
