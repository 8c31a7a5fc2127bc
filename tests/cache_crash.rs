//! Writers to the shared cache that die, or are stopped, between any two of their writes to the segment.
//!
//! A program of its own with one thread, for each writer is a forked process. Takes each kind of change and each write in it; gives proof that the
//! others read only what was kept, are held up by nobody, and can write again. In debug builds alone: there a writer can be told where to die.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on stops with the reason"
)]

use std::time::{Duration, Instant};

use appserver::cache::{Cache, Purge, Refused, crash};
use appserver::sys::process;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Nobody may be delayed by more by one who is dead.
const DELAY: Duration = Duration::from_millis(100);
const NAME: &[u8] = b"crash";
/// Keys that are there before.
const KEYS: u32 = 150;
/// One of them that is surely there: it came last.
const LAST: u32 = KEYS - 1;

/// What a writer does, by name. The key is that of the writer.
type Act = fn(&Cache, &[u8]);

const ACTS: [(&str, Act); 6] = [
    ("a new value", |cache, key| {
        let _ = cache.set(NAME, key, &value(key, 1, 120), None);
    }),
    ("a value in place of another", |cache, _| {
        let _ = cache.set(NAME, &key(LAST), &value(&key(LAST), 2, 90), None);
    }),
    ("a large value, for which others give way", |cache, key| {
        let _ = cache.set(NAME, key, &value(key, 1, 9000), None);
    }),
    ("a number", |cache, _| {
        let _ = cache.incr(NAME, b"number", 1, None);
    }),
    ("a deletion", |cache, _| {
        let _ = cache.delete(NAME, &key(LAST));
    }),
    ("a purge", |cache, _| {
        let _ = cache.purge(&Purge::Values(NAME.to_vec()));
    }),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Killed,
    Stopped,
}

fn key(number: u32) -> [u8; 4] {
    number.to_le_bytes()
}

/// Bytes that only this key and version can have.
fn value(key: &[u8], version: u8, length: usize) -> Vec<u8> {
    let mut seed = key.iter().fold(u64::from(version) + 1, |seed, byte| {
        seed.wrapping_mul(257) + u64::from(*byte)
    });
    let mut bytes = vec![version];
    bytes.extend((1..length).map(|_| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    }));
    bytes
}

/// A cache that is full, with entries in both rings.
fn full() -> Cache {
    let cache = Cache::create(1 << 20, 1 << 15).unwrap();
    for round in 0..2 {
        for number in 0..KEYS {
            let key = key(number);
            if cache.get(NAME, &key).is_none() {
                cache.set(NAME, &key, &value(&key, 0, 7000), None).unwrap();
            }
            cache.get(NAME, &key);
        }
        assert!(cache.usage().entries > 60, "round {round}: {:?}", cache.usage());
    }
    cache.incr(NAME, b"number", 41, None).unwrap();
    cache
}

/// Everything that is found is whole, and of its key.
fn check(cache: &Cache, what: &str) {
    let began = Instant::now();
    for number in 0..KEYS {
        let key = key(number);
        if let Some(found) = cache.get(NAME, &key) {
            let version = found[0];
            assert_eq!(found, value(&key, version, found.len()), "{what}: key {number}");
            assert!(
                version == 0 || number == LAST && version == 2,
                "{what}: key {number} has version {version}"
            );
        }
    }
    if let Some(number) = cache.get(NAME, b"number") {
        assert!(&number[..] == b"41" || &number[..] == b"42", "{what}: {number:?}");
    }
    assert!(
        began.elapsed() < DELAY * 10,
        "{what}: reading took {:?}",
        began.elapsed()
    );
}

/// Somebody else writes; how long that took, and what came of it.
fn write(cache: &Cache) -> (Duration, Result<(), Refused>) {
    let began = Instant::now();
    let outcome = cache.set(NAME, b"other", b"\0x", None);
    (began.elapsed(), outcome)
}

/// A process that does `act`, and meets its fate before its `step`-th write; whether it came so far.
fn writer(cache: &Cache, act: Act, step: u32, fate: Fate) -> Option<Pid> {
    let child = process::fork(|mask| {
        drop(mask);
        crash::plan(
            step,
            match fate {
                Fate::Killed => || raise(Signal::SIGKILL).unwrap(),
                Fate::Stopped => || raise(Signal::SIGSTOP).unwrap(),
            },
        );
        act(cache, b"mine");
        // 7: it was done before the step came.
        if crash::unplan() { 7 } else { 0 }
    });
    let child = Pid::from_raw(child.unwrap().as_raw());
    match waitpid(child, Some(WaitPidFlag::WUNTRACED)).unwrap() {
        WaitStatus::Exited(_, 7) => None,
        WaitStatus::Signaled(_, Signal::SIGKILL, _) if fate == Fate::Killed => Some(child),
        WaitStatus::Stopped(_, Signal::SIGSTOP) if fate == Fate::Stopped => Some(child),
        other => panic!("the writer ended otherwise: {other:?}"),
    }
}

/// Each write of each act, and each fate.
fn every_step() {
    for (name, act) in ACTS {
        for fate in [Fate::Killed, Fate::Stopped] {
            let mut steps = 0;
            // The first writes are all tried; of the many that a large value or a purge is made of, some.
            let mut step = 0;
            loop {
                let cache = full();
                let Some(child) = writer(&cache, act, step, fate) else {
                    break;
                };
                let what = format!("{name}, {fate:?} before write {step}");
                check(&cache, &what);
                let (took, outcome) = write(&cache);
                assert!(took < DELAY, "{what}: a writer waited {took:?}");
                if fate == Fate::Stopped {
                    assert!(matches!(outcome, Ok(()) | Err(Refused::Busy)), "{what}: {outcome:?}");
                    kill(child, Signal::SIGCONT).unwrap();
                    let ended = waitpid(child, None).unwrap();
                    assert!(matches!(ended, WaitStatus::Exited(_, 0)), "{what}: {ended:?}");
                    check(&cache, &what);
                } else {
                    assert_eq!(outcome, Ok(()), "{what}");
                }
                again(&cache, &what);
                steps += 1;
                step += if step < 40 { 1 } else { 1 + step / 5 };
            }
            assert!(steps > 0, "{name} writes nothing");
            println!("{name}: {fate:?} at {steps} points");
        }
    }
}

/// After everything, the cache takes and gives as before.
fn again(cache: &Cache, what: &str) {
    // One that was left alone for being stuck is tried again after a tenth of a second.
    let until = Instant::now() + Duration::from_secs(5);
    while cache.set(NAME, b"after", b"\0y", None).is_err() {
        assert!(Instant::now() < until, "{what}: nobody can write any more");
    }
    assert_eq!(cache.get(NAME, b"after").as_deref(), Some(&b"\0y"[..]), "{what}");
    check(cache, what);
}

/// A writer dies; the one that repairs after it dies, too, at any of its writes.
fn repairs_that_die() {
    let mut steps = 0;
    let mut step = 0;
    loop {
        let cache = full();
        writer(&cache, ACTS[2].1, 30, Fate::Killed).expect("it has more writes than that");
        let Some(_) = writer(&cache, ACTS[0].1, step, Fate::Killed) else {
            break;
        };
        let what = format!("a repair, killed before write {step}");
        check(&cache, &what);
        let (took, outcome) = write(&cache);
        assert!(took < DELAY && outcome == Ok(()), "{what}: {took:?}, {outcome:?}");
        again(&cache, &what);
        steps += 1;
        step += if step < 40 { 1 } else { 1 + step / 6 };
    }
    println!("repairs: killed at {steps} points");
}

fn main() {
    // libtest's way of asking what there is.
    if std::env::args().any(|arg| arg == "--list") {
        return;
    }
    let began = Instant::now();
    every_step();
    repairs_that_die();
    println!("test result: ok, in {:.1} s", began.elapsed().as_secs_f64());
}
