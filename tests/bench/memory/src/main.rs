//! The memory of the shared cache by itself, without a server around it: how readers get on beside each other and beside a storm of stores,
//! and how much of a trace is found again.
//!
//! Takes nothing; prints one line of JSON. Two readers are pinned to two cores; the ratios of each are of one moment, so a noisy one falls on both.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use appserver::cache::Cache;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Of one measurement.
const TIME: Duration = Duration::from_millis(600);
const ROUNDS: usize = 7;
const NAME: &[u8] = b"bench";
const KEYS: u64 = 10_000;
const SIZE: usize = 1024;
/// Stores a second beside a reader.
const STORM: u64 = 10_000;

/// splitmix64
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// Keys as they are asked for: few often, most seldom (Zipf's law with an exponent of 0.9).
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(keys: u64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=keys).map(|rank| {
            sum += 1.0 / (rank as f64).powf(0.9);
            sum
        });
        let sums: Vec<f64> = weights.collect();
        Self(sums.iter().map(|each| each / sum).collect())
    }

    fn draw(&self, dice: &mut Dice) -> u64 {
        let point = (dice.next() >> 11) as f64 / (1u64 << 53) as f64;
        self.0.partition_point(|sum| *sum < point) as u64
    }
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    let _ = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
}

fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .unwrap_or_default()
}

fn full() -> Cache {
    let cache = Cache::create(64 << 20, 1 << 20).expect("64 MiB of memory");
    for key in 0..KEYS {
        let _ = cache.set(NAME, &key.to_le_bytes(), &[key as u8; SIZE], None);
    }
    cache
}

/// Reads until the time is over: how often, and nanoseconds of CPU each.
fn read(cache: &Cache, zipf: &Zipf, seed: u64, core: usize) -> (u64, f64) {
    pin(core);
    let mut dice = Dice(seed);
    let keys: Vec<[u8; 8]> = (0..4096).map(|_| zipf.draw(&mut dice).to_le_bytes()).collect();
    let (began, before) = (Instant::now(), cpu());
    let mut count = 0;
    while began.elapsed() < TIME {
        for key in &keys {
            std::hint::black_box(cache.get(NAME, key));
        }
        count += keys.len() as u64;
    }
    (count, (cpu() - before).as_nanos() as f64 / count as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How many times as much two readers read together as one does: of one cache, and each of its own, which is what two cores of this machine can
/// do at all. And nanoseconds of a hit.
fn scaling(cache: &Cache, zipf: &Zipf) -> (f64, f64, f64) {
    let other = full();
    let (mut shared, mut apart, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        let (alone, cost) =
            std::thread::scope(|scope| scope.spawn(|| read(cache, zipf, round, 0)).join().expect("it reads"));
        let both = |second: &Cache| {
            let read_both = || {
                std::thread::scope(|scope| {
                    let first = scope.spawn(|| read(cache, zipf, round, 0).0);
                    let second = scope.spawn(|| read(second, zipf, round + 1, 1).0);
                    first.join().expect("it reads") + second.join().expect("it reads")
                })
            };
            read_both() as f64 / alone as f64
        };
        shared.push(both(cache));
        apart.push(both(&other));
        costs.push(cost);
    }
    (median(shared), median(apart), median(costs))
}

/// CPU of a hit beside stores, against that without.
fn storm(cache: &Cache, zipf: &Zipf) -> f64 {
    let mut ratios = Vec::new();
    for round in 0..ROUNDS as u64 {
        let reader =
            |seed| std::thread::scope(|scope| scope.spawn(|| read(cache, zipf, seed, 0).1).join().expect("it reads"));
        let calm = reader(round);
        let over = AtomicBool::new(false);
        let stormy = std::thread::scope(|scope| {
            scope.spawn(|| {
                pin(1);
                let (began, mut stored, mut dice) = (Instant::now(), 0, Dice(round));
                while !over.load(Ordering::Relaxed) {
                    let due = began.elapsed().as_micros() as u64 * STORM / 1_000_000;
                    while stored < due {
                        let key = KEYS + dice.next() % KEYS;
                        let _ = cache.set(NAME, &key.to_le_bytes(), &[1; SIZE], None);
                        stored += 1;
                    }
                    std::hint::spin_loop();
                }
            });
            let stormy = reader(round);
            over.store(true, Ordering::Relaxed);
            stormy
        });
        ratios.push(stormy / calm);
    }
    median(ratios)
}

/// What is used least goes first, in as many bytes.
#[derive(Default)]
struct Lru {
    used: BTreeMap<u64, u64>,
    when: HashMap<u64, u64>,
    clock: u64,
}

impl Lru {
    /// Whether the key was there; it is now, among at most `most`.
    fn ask(&mut self, key: u64, most: usize) -> bool {
        self.clock += 1;
        let before = self.when.insert(key, self.clock);
        if let Some(before) = before {
            self.used.remove(&before);
        }
        self.used.insert(self.clock, key);
        if self.used.len() > most
            && let Some((_, gone)) = self.used.pop_first()
        {
            self.when.remove(&gone);
        }
        before.is_some()
    }
}

/// The share of a trace that is found, in the cache and in one that throws away what was used least lately, of as many entries.
fn found(scan: bool) -> (f64, f64) {
    let cache = Cache::create(16 << 20, 1 << 20).expect("16 MiB of memory");
    let (keys, asks) = (100_000, 1_000_000u64);
    let (zipf, mut dice) = (Zipf::new(keys), Dice(7));
    // As many as the cache holds of that size, so that the bytes beside them count as well.
    let trial = Cache::create(16 << 20, 1 << 20).expect("16 MiB of memory");
    for key in 0..keys {
        let _ = trial.set(NAME, &key.to_le_bytes(), &[0; SIZE], None);
        trial.get(NAME, &key.to_le_bytes());
    }
    let most = trial.usage().entries as usize;
    let (mut lru, mut ours, mut theirs) = (Lru::default(), 0, 0);
    for number in 0..asks {
        // Somebody reads everything once, beside the others, for a fifth of the time.
        let scans = scan && number % 100_000 > 50_000 && number % 5 < 2;
        let key = if scans { keys + number } else { zipf.draw(&mut dice) };
        let bytes = key.to_le_bytes();
        match cache.get(NAME, &bytes) {
            Some(_) => ours += 1,
            None => drop(cache.set(NAME, &bytes, &[0; SIZE], None).is_ok()),
        }
        theirs += u64::from(lru.ask(key, most));
    }
    (ours as f64 / asks as f64, theirs as f64 / asks as f64)
}

fn main() {
    let (cache, zipf) = (full(), Zipf::new(KEYS));
    let (two, apart, cost) = scaling(&cache, &zipf);
    let storm = storm(&cache, &zipf);
    let (plain, scanned) = (found(false), found(true));
    println!(
        "{{\"two_readers\": {two:.3}, \"two_apart\": {apart:.3}, \"hit_ns\": {cost:.1}, \"storm\": {storm:.3}, \"zipf\": {:.4}, \"zipf_lru\": {:.4}, \"scan\": {:.4}, \"scan_lru\": {:.4}}}",
        plain.0, plain.1, scanned.0, scanned.1
    );
}
