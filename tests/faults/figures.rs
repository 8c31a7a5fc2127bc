//! How fast: a crash to its replacement, a bad deploy to its refusal, the slowest request of a reload.
//!
//! Takes FAULTS_ROUNDS rounds (3 unless told); gives medians. `make faults` prints those of 20; here ten times what is
//! expected is asserted, for the machine may be busy with other tests.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::faults::row::Row;
use crate::faults::scene::REFUSED;
use crate::support::crowd::Crowd;
use crate::support::modules::module;
use crate::support::process;
use crate::support::server::Server;
use crate::support::wait::{pause, until, within};

/// A worker that dies younger than this counts towards the back-off.
const RIPE: Duration = Duration::from_millis(1_100);

fn rounds() -> usize {
    let told = std::env::var("FAULTS_ROUNDS").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// Prints the median of all rounds and holds it to ten times what is expected.
fn median(name: &str, expected: Duration, mut round: impl FnMut() -> Duration) {
    let mut row = Row::of(name);
    let mut times: Vec<Duration> = (0..rounds()).map(|_| round()).collect();
    times.sort();
    let median = times[times.len() / 2];
    let told = format!(
        "median {:.1} ms of {}, {:.1} to {:.1} ms, expected under {} ms",
        millis(median),
        times.len(),
        millis(times[0]),
        millis(times[times.len() - 1]),
        expected.as_millis()
    );
    println!("{name}: {told}");
    row.measure(&told);
    assert!(median < expected * 10, "{told}");
    row.pass();
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[test]
fn from_a_crash_to_the_answer_of_its_replacement() {
    let server = Server::lab().workers(1).start();
    median(
        "a crash to the answer of its replacement",
        Duration::from_millis(100),
        || {
            let old = server.workers();
            let start = Instant::now();
            while start.elapsed() < RIPE {
                pause(Duration::from_millis(20));
            }
            let start = Instant::now();
            process::signal(old[0], Signal::SIGKILL);
            // The one worker is gone, so whoever connects now waits for the next.
            until("it is gone", || (!process::alive(old[0])).then_some(()));
            assert_eq!(server.get("/").status, 200);
            let took = start.elapsed();
            server.wait_for_workers("one", |pids| pids.len() == 1 && pids != old);
            took
        },
    );
}

#[test]
fn from_a_bad_deploy_to_its_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let app = folder.path().join("app.so");
    fs::copy(module("lab"), &app).unwrap();
    let server = Server::with(&app).start();
    fs::write(&app, "not a library").unwrap();
    let refusals = || server.log().matches(REFUSED).count();
    median("a bad deploy to its refusal", Duration::from_secs(1), || {
        let before = refusals();
        let start = Instant::now();
        server.signal(Signal::SIGHUP);
        until("it is refused", || (refusals() > before).then_some(()));
        start.elapsed()
    });
}

#[test]
fn the_slowest_request_while_ten_workers_are_reloaded() {
    let server = Server::lab().workers(10).start();
    median(
        "the slowest request of a reload of 10",
        Duration::from_millis(20),
        || {
            let old = server.workers();
            let crowd = Crowd::gather(server.address());
            until("there is load", || (crowd.answered() > 50).then_some(()));
            server.signal(Signal::SIGHUP);
            server.wait_for_workers("ten others", |pids| {
                pids.len() == 10 && pids.iter().all(|pid| !old.contains(pid))
            });
            let goal = crowd.answered() + 50;
            let worked = within(Duration::from_secs(10), || (crowd.answered() >= goal).then_some(()));
            assert!(worked.is_some(), "{}", server.log());
            let account = crowd.disperse();
            assert!(account.tally.lost.is_empty(), "{account:?}");
            account.slowest
        },
    );
}
