//! The memory of the cache under load: what it gives is what was kept, however much is thrown away around it.
//!
//! Takes caches of little memory and many keys; gives proof that no entry is another's, that hot ones stay, and that bytes are bounded.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Cache, Purge, Refused};

const MIB: u64 = 1 << 20;

/// xorshift64*: the same numbers each time.
pub(super) struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

fn cache(size: u64) -> Cache {
    Cache::create(size, size / 16).unwrap()
}

/// A value that only this key can have: its bytes follow from the key and a number.
fn value(key: u64, version: u64, length: usize) -> Vec<u8> {
    let mut random = Random(key << 20 | version << 1 | 1);
    let mut bytes = [key.to_le_bytes(), version.to_le_bytes()].concat();
    while bytes.len() < length {
        bytes.extend_from_slice(&random.below(u64::MAX).to_le_bytes());
    }
    bytes.truncate(length.max(16));
    bytes
}

fn check(key: u64, found: &[u8]) -> u64 {
    let version = u64::from_le_bytes(found[8..16].try_into().unwrap());
    assert!(
        found == value(key, version, found.len()),
        "key {key} has bytes that are not its own"
    );
    version
}

#[test]
fn a_value_is_what_was_set_last_and_no_longer_than_it_may() {
    let cache = cache(MIB);
    assert_eq!(cache.get(b"a", b"k"), None);
    cache.set(b"a", b"k", b"one", None).unwrap();
    cache.set(b"a", b"k", b"", None).unwrap();
    assert_eq!(cache.get(b"a", b"k").as_deref(), Some(&b""[..]));
    assert_eq!(cache.get(b"b", b"k"), None);
    cache.set(b"a", b"k", b"two", Some(Duration::from_millis(30))).unwrap();
    let began = Instant::now();
    while cache.get(b"a", b"k").is_some() {
        assert!(
            began.elapsed() < Duration::from_millis(300),
            "it is over and still there"
        );
    }
    assert!(began.elapsed() >= Duration::from_millis(28));
    assert!(
        cache.add(b"a", b"k", b"three", None).unwrap(),
        "what is over is not there"
    );
    assert!(!cache.add(b"a", b"k", b"four", None).unwrap());
    assert!(cache.delete(b"a", b"k").unwrap());
    assert!(!cache.delete(b"a", b"k").unwrap());
    assert_eq!(cache.incr(b"a", b"n", 5, None), Ok(5));
    assert_eq!(cache.incr(b"a", b"n", -7, None), Ok(-2));
    assert_eq!(cache.get(b"a", b"n").as_deref(), Some(&b"-2"[..]));
    cache.set(b"a", b"n", b"x", None).unwrap();
    assert_eq!(cache.incr(b"a", b"n", 1, None), Err(Refused::NotANumber));
    cache.set(b"a", b"n", i64::MAX.to_string().as_bytes(), None).unwrap();
    assert_eq!(cache.incr(b"a", b"n", 1, None), Err(Refused::NotANumber));
    assert_eq!(
        cache.set(b"a", b"k", &vec![0; MIB as usize / 16], None),
        Err(Refused::TooLarge)
    );
    assert_eq!(cache.purge(&Purge::Values(b"a".to_vec())), 1);
    assert_eq!(cache.get(b"a", b"n"), None);
}

#[test]
fn the_largest_entry_that_may_be_has_room_and_others_do_not_lose_theirs_to_a_larger_one() {
    for size in [MIB, 3 * MIB + 4096, 64 * MIB] {
        let cache = Cache::create(size, size / 16).unwrap();
        let length = (size / 16) as usize - 3;
        for key in 0..64u64 {
            let bytes = value(key, 1, length);
            cache.set(b"", &key.to_le_bytes()[..2], &bytes, None).unwrap();
            let found = cache.get(b"", &key.to_le_bytes()[..2]);
            assert_eq!(found.as_deref(), Some(&bytes[..]), "{key} of {size}");
        }
        assert!(cache.usage().bytes <= size);
        assert!(cache.usage().entries >= 8, "{:?}", cache.usage());
    }
}

#[test]
fn whatever_is_thrown_away_what_is_found_is_what_was_set_last() {
    for seed in 1..=3 {
        let cache = cache(MIB);
        let mut random = Random(seed);
        let mut last: HashMap<u64, u64> = HashMap::new();
        let (mut found, mut looked) = (0, 0);
        for version in 1..=60_000 {
            let key = random.below(3000);
            match random.below(10) {
                0..4 => {
                    let length = match random.below(50) {
                        0 => 20_000,
                        n => 16 + n as usize * 20,
                    };
                    cache
                        .set(b"m", &key.to_le_bytes(), &value(key, version, length), None)
                        .unwrap();
                    last.insert(key, version);
                }
                4 => {
                    cache.delete(b"m", &key.to_le_bytes()).unwrap();
                    last.remove(&key);
                }
                _ => {
                    looked += 1;
                    if let Some(bytes) = cache.get(b"m", &key.to_le_bytes()) {
                        found += 1;
                        assert_eq!(Some(&check(key, &bytes)), last.get(&key), "seed {seed}, key {key}");
                    }
                }
            }
        }
        assert!(found * 6 > looked, "of {looked} only {found} were found");
        assert!(cache.usage().bytes <= MIB);
    }
}

#[test]
fn readers_and_writers_at_once_see_only_whole_entries_of_their_own_keys() {
    let cache = Arc::new(cache(MIB));
    let over = Arc::new(AtomicBool::new(false));
    let found = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..6)
        .map(|number| {
            let (cache, over, found) = (cache.clone(), over.clone(), found.clone());
            std::thread::spawn(move || {
                let mut random = Random(number + 77);
                let mut version = 0;
                while !over.load(Ordering::Relaxed) {
                    // A few are hot, so that they move from ring to ring.
                    let key = random.below(40) * random.below(60);
                    version += 1;
                    if number < 3 {
                        let length = 16 + random.below(3000) as usize;
                        let _ = cache.set(b"c", &key.to_le_bytes(), &value(key, version, length), None);
                    } else if let Some(bytes) = cache.get(b"c", &key.to_le_bytes()) {
                        check(key, &bytes);
                        found.fetch_add(1, Ordering::Relaxed);
                    }
                    if random.below(5000) == 0 {
                        cache.purge(&Purge::Values(b"c".to_vec()));
                    }
                }
            })
        })
        .collect();
    let end = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < end {
        std::thread::yield_now();
    }
    over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
    assert!(found.load(Ordering::Relaxed) > 1000);
}

#[test]
fn many_who_count_at_once_lose_no_count() {
    let cache = Arc::new(cache(MIB));
    let counted: Vec<_> = (0..4)
        .map(|_| {
            let cache = cache.clone();
            std::thread::spawn(move || {
                let mut done = 0;
                for _ in 0..20_000 {
                    done += u64::from(cache.incr(b"n", b"hits", 1, None).is_ok());
                }
                done
            })
        })
        .collect();
    let done: u64 = counted.into_iter().map(|thread| thread.join().unwrap()).sum();
    let found = cache.get(b"n", b"hits").unwrap();
    assert_eq!(str::from_utf8(&found).unwrap(), done.to_string());
}

#[test]
fn small_entries_that_are_asked_for_survive_a_scan() {
    let cache = cache(4 * MIB);
    let hot = 500u64;
    for round in 0..3 {
        for key in 0..hot {
            if cache.get(b"s", &key.to_le_bytes()).is_none() {
                cache
                    .set(b"s", &key.to_le_bytes(), &value(key, round, 512), None)
                    .unwrap();
            }
        }
    }
    // Ten times what there is room for, each asked for once; the hot ones go on being asked for.
    for cold in 0..80_000u64 {
        cache
            .set(b"s", &(cold + 1_000_000).to_le_bytes(), &[1; 512], None)
            .unwrap();
        cache.get(b"s", &(cold % hot).to_le_bytes());
    }
    let stayed = (0..hot)
        .filter(|key| cache.get(b"s", &key.to_le_bytes()).is_some())
        .count();
    assert!(stayed as u64 * 100 >= hot * 95, "{stayed} of {hot}");
}
