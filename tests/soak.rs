//! Everything that an operator and bad luck do to a server, at random and for long, under load.
//!
//! Takes SOAK_SECONDS (10 unless told) and SOAK_SEED (printed, to repeat a run); gives lost requests outside killed
//! workers, which must be none, and the master's memory, descriptors and zombies, which must stay flat. `make soak` runs
//! it for ten minutes.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::faults::crashes::CROWD;
use crate::faults::fault::Fault;
use crate::faults::scene::Scene;
use crate::support::process;
use crate::support::wait::{until, within};

const WORKERS: usize = 4;
/// How long after a kill a request may be found lost.
const SHADOW: Duration = Duration::from_millis(500);
/// What the master's memory may grow by from the first half of a long run, which has warmed it up, to the second.
const GROWTH: i64 = 1 << 20;
/// Below this a run is too short to tell growth from warming up.
const LONG: Duration = Duration::from_secs(120);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// splitmix64: every seed, zero included, gives a good sequence.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// How the master stands at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    seconds: f64,
    /// Its own, in bytes.
    memory: u64,
    /// Without one for each worker.
    descriptors: usize,
    zombies: usize,
}

struct Soak {
    scene: Scene,
    dice: Dice,
    kills: Vec<Instant>,
    done: BTreeMap<&'static str, u64>,
    samples: Vec<Sample>,
    start: Instant,
}

#[test]
fn a_soak_at_random_loses_nothing_outside_killed_workers() {
    let time = Duration::from_secs(number("SOAK_SECONDS").unwrap_or(10));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let seed = number("SOAK_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    println!("soak of {} s; SOAK_SEED={seed} repeats it", time.as_secs());
    let fault = Fault::new(|_| ()).workers(WORKERS).control().own_binary();
    let mut soak = Soak {
        scene: Scene::open(&fault),
        dice: Dice(seed),
        kills: Vec::new(),
        done: BTreeMap::new(),
        samples: Vec::new(),
        start: Instant::now(),
    };
    let pause = (time / 4).min(Duration::from_secs(10));
    let mut next = pause;
    while soak.start.elapsed() < time {
        let action = soak.act();
        *soak.done.entry(action).or_default() += 1;
        let answers = soak.dice.below(200);
        soak.scene.work(answers);
        if soak.start.elapsed() >= next {
            soak.look();
            next += pause;
        }
    }
    soak.end(time);
}

impl Soak {
    /// Does one thing; gives its name.
    fn act(&mut self) -> &'static str {
        match self.dice.below(100) {
            0..25 => {
                self.scene.server.signal(Signal::SIGHUP);
                "reload"
            }
            25..35 => self.reload_badly(),
            35..50 => self.scale(Signal::SIGTTIN),
            50..65 => self.scale(Signal::SIGTTOU),
            65..83 => self.end_worker(Signal::SIGTERM, "recycle"),
            83..89 => self.end_worker(Signal::SIGKILL, "kill"),
            89..97 => {
                // There may be nothing to return to, or a reload that it takes back: either is an answer.
                let (code, said) = self.scene.verb(&["rollback"]);
                assert!(matches!(code, Some(0 | 1)), "{code:?}: {said}");
                "rollback"
            }
            _ => self.upgrade(),
        }
    }

    fn reload_badly(&mut self) -> &'static str {
        let (app, good) = (self.scene.app(), self.scene.path("good.so"));
        fs::rename(&app, &good).unwrap();
        fs::write(&app, "not a library").unwrap();
        let (code, said) = self.scene.verb(&["reload"]);
        assert_eq!(code, Some(1), "{said}");
        fs::remove_file(&app).unwrap();
        fs::rename(&good, &app).unwrap();
        "bad reload"
    }

    fn scale(&mut self, signal: Signal) -> &'static str {
        let (to, name) = match (signal, self.scene.wanted) {
            (Signal::SIGTTIN, 0..8) => (self.scene.wanted + 1, "one more"),
            (Signal::SIGTTOU, 2..) => (self.scene.wanted - 1, "one fewer"),
            _ => return "no more, no fewer",
        };
        self.scene.server.signal(signal);
        self.wanted_is(to);
        name
    }

    /// A reload or a rollback under way may change the number once more.
    fn wanted_is(&mut self, wanted: usize) {
        let told = format!("[{wanted} workers]");
        let heard = within(Duration::from_secs(5), || {
            process::title(self.scene.server.master()).contains(&told).then_some(())
        });
        assert!(
            heard.is_some(),
            "{wanted} workers are wanted:\n{}",
            self.scene.server.log()
        );
        self.scene.wanted = wanted;
    }

    fn end_worker(&mut self, signal: Signal, name: &'static str) -> &'static str {
        let workers = self.scene.workers();
        let Some(&pid) = workers.get(self.dice.below(workers.len().max(1) as u64) as usize) else {
            return "nobody there";
        };
        if signal == Signal::SIGKILL {
            self.kills.push(Instant::now());
        }
        process::signal(pid, signal);
        name
    }

    fn upgrade(&mut self) -> &'static str {
        let old = self.scene.server.master();
        let refusals = self.scene.told("upgrade refused");
        self.scene.server.signal(Signal::SIGUSR2);
        let new = until(
            &format!("the upgrade ends; log:\n{}", self.scene.server.log()),
            || match self.scene.server.masters()[..] {
                [master] if master != old => Some(Some(master)),
                // While a reload is under way it may say no.
                [_] if self.scene.told("upgrade refused") > refusals => Some(None),
                _ => None,
            },
        );
        let Some(new) = new else { return "refused upgrade" };
        self.scene.server.follow(new);
        "upgrade"
    }

    /// Notes how the master stands, and prints it.
    fn look(&mut self) {
        let master = self.scene.server.master();
        let descriptors = process::descriptors(master);
        let sample = Sample {
            seconds: self.start.elapsed().as_secs_f64(),
            memory: process::resident(master),
            descriptors: descriptors.len().saturating_sub(self.scene.wanted),
            zombies: process::zombies(master).len(),
        };
        println!(
            "{:4.0} s: {} answers, {} workers, master's own memory {} KiB, {} descriptors, {} zombies; {:?}",
            sample.seconds,
            self.scene.answered(),
            self.scene.wanted,
            sample.memory / 1024,
            sample.descriptors,
            sample.zombies,
            self.done
        );
        self.samples.push(sample);
    }

    fn end(mut self, time: Duration) {
        self.scene.stands_as_before();
        self.look();
        let account = self.scene.disperse();
        let tally = &account.tally;
        println!(
            "answered {}, refused {}, honest {}, raced {}, lost {} in {} kills",
            tally.answered,
            tally.refused,
            tally.honest,
            tally.raced,
            tally.lost.len(),
            self.kills.len()
        );
        println!(
            "master: memory {:+.1} KiB a minute, descriptors {:+.2} a minute",
            slope(&self.samples, |sample| sample.memory as f64 / 1024.0),
            slope(&self.samples, |sample| sample.descriptors as f64)
        );
        let log = self.scene.server.log();
        for (lost, (_, at)) in tally.lost.iter().zip(&account.broke_in) {
            let near = self.kills.iter().any(|kill| *at >= *kill && *at - *kill < SHADOW);
            assert!(near, "lost, and nobody was killed: {lost}\n{log}");
        }
        assert!(tally.lost.len() <= self.kills.len() * CROWD, "{account:?}\n{log}");
        assert_eq!((tally.refused, tally.honest), (0, 0), "{account:?}\n{log}");
        // What is being replaced this moment needs some too; at the end there are no more than at the start.
        let most = self.samples.iter().map(|sample| sample.descriptors).max().unwrap_or(0);
        assert!(most < 60, "{:?}", self.samples);
        if time >= LONG {
            // Greatest of each half: an upgrade begins with a small master, which tells nothing.
            let (first, second) = self.samples.split_at(self.samples.len() / 2);
            let greatest = |half: &[Sample]| half.iter().map(|sample| sample.memory as i64).max().unwrap_or(0);
            let growth = greatest(second) - greatest(first);
            assert!(growth < GROWTH, "the master grew by {growth} bytes: {:?}", self.samples);
        }
    }
}

/// Least squares: by how much `of` grows in a minute.
fn slope(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let count = samples.len() as f64;
    let time = |sample: &Sample| sample.seconds / 60.0;
    let (mean_time, mean) = (
        samples.iter().map(time).sum::<f64>() / count,
        samples.iter().map(&of).sum::<f64>() / count,
    );
    let (mut over, mut under) = (0.0, 0.0);
    for sample in samples {
        over += (time(sample) - mean_time) * (of(sample) - mean);
        under += (time(sample) - mean_time).powi(2);
    }
    if under == 0.0 { 0.0 } else { over / under }
}
