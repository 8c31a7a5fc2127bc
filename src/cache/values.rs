//! Handlers' own values, in named caches.
//!
//! Takes names, keys and bytes; gives back what was set, if it is still there: any value can vanish at any time, a counter or a lock too.
//! Every change is one entry that takes the place of another, so a value is the old or the new one, whoever dies when.
#![forbid(unsafe_code)]

use std::time::Duration;

use bytes::Bytes;

use super::record::{Draft, Entry, Kind};
use super::{Cache, Toll};
use crate::sys::time;

/// Why a value could not be kept or changed. Nothing has been changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Key and value are larger than `max-entry`.
    TooLarge,
    /// Whoever writes to that part of the segment does not get on: stopped, or killed just now. Worth trying again.
    Busy,
    /// There is a value, but it is no number in decimal digits, or the sum would be none that 64 bits hold.
    NotANumber,
}

/// A value's key: its cache's name stands before it, with its length.
fn full_key(name: &[u8], key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(1 + name.len() + key.len());
    full.push(name.len() as u8);
    full.extend_from_slice(name);
    full.extend_from_slice(key);
    full
}

/// Whether a full key belongs to a cache.
pub(super) fn is_of(full: &[u8], name: &[u8]) -> bool {
    full.first() == Some(&(name.len() as u8)) && full[1..].starts_with(name)
}

/// When something that begins now is over; at the earliest in a millisecond, for 0 is never.
fn end(ttl: Option<Duration>) -> u64 {
    let in_ms = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
    ttl.map_or(0, |ttl| time::unix_ms().saturating_add(in_ms(ttl)))
}

fn live(entry: &Entry) -> bool {
    !entry.shape.is_over(time::unix_ms())
}

/// What becomes of a value.
enum Change {
    To(Vec<u8>, u64),
    Nothing,
}

impl Cache {
    /// A value of the cache `name`.
    pub fn get(&self, name: &[u8], key: &[u8]) -> Option<Bytes> {
        let key = full_key(name, key);
        let entry = self.find(Kind::Value, self.hash(&key), &key)?;
        live(&entry).then(|| entry.body())
    }

    /// Keeps a value, in place of any other, for `ttl` or until it has to give way.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn set(&self, name: &[u8], key: &[u8], value: &[u8], ttl: Option<Duration>) -> Result<(), Refused> {
        self.change(name, key, |_| Ok((Change::To(value.to_vec(), end(ttl)), ())))
    }

    /// Keeps a value if there is none; whether it did.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn add(&self, name: &[u8], key: &[u8], value: &[u8], ttl: Option<Duration>) -> Result<bool, Refused> {
        self.change(name, key, |old| {
            Ok(match old {
                Some(_) => (Change::Nothing, false),
                None => (Change::To(value.to_vec(), end(ttl)), true),
            })
        })
    }

    /// Adds to a number (decimal digits, as a value), which begins at 0 and then with `ttl`; one that is there keeps its own end. Gives the sum.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn incr(&self, name: &[u8], key: &[u8], by: i64, ttl: Option<Duration>) -> Result<i64, Refused> {
        self.change(name, key, |old| {
            let (number, until) = match old {
                Some(entry) => {
                    let body = entry.body();
                    let number = str::from_utf8(&body).ok().and_then(|text| text.parse::<i64>().ok());
                    (number.ok_or(Refused::NotANumber)?, entry.shape.until)
                }
                None => (0, end(ttl)),
            };
            let sum = number.checked_add(by).ok_or(Refused::NotANumber)?;
            Ok((Change::To(sum.to_string().into_bytes(), until), sum))
        })
    }

    /// Throws a value away; whether there was one.
    ///
    /// # Errors
    /// [`Refused::Busy`]
    pub fn delete(&self, name: &[u8], key: &[u8]) -> Result<bool, Refused> {
        let key = full_key(name, key);
        let hash = self.hash(&key);
        let mut writer = self.write(hash)?;
        let old = writer.find(Kind::Value, hash, &key);
        let gone = writer.remove(Kind::Value, hash, &key);
        self.pay(&Toll {
            evictions: [0; 4],
            ..writer.toll
        });
        Ok(gone && old.as_ref().is_some_and(live))
    }

    /// Reads and writes under one lock.
    fn change<T>(
        &self,
        name: &[u8],
        key: &[u8],
        decide: impl FnOnce(Option<Entry>) -> Result<(Change, T), Refused>,
    ) -> Result<T, Refused> {
        let key = full_key(name, key);
        let hash = self.hash(&key);
        let mut writer = self.write(hash)?;
        let old = writer.find(Kind::Value, hash, &key).filter(live);
        let (change, outcome) = decide(old)?;
        if let Change::To(value, until) = change {
            let draft = Draft {
                kind: Kind::Value,
                hash,
                until,
                key: &key,
                head: &[],
                body: &[Bytes::from(value)],
            };
            if draft.length() > self.max_entry() {
                return Err(Refused::TooLarge);
            }
            let kept = writer.keep(&draft, false, time::unix_ms());
            self.pay(&writer.toll);
            kept.map_err(|super::shard::TooLarge| Refused::TooLarge)?;
        }
        Ok(outcome)
    }
}
