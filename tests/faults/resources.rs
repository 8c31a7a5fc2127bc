//! What runs out or goes wrong around the server: memory, descriptors, disk, time, and a worker's own span.
//!
//! Takes limits, full devices and a clock that jumps; gives workers that are replaced before they are missed, and
//! clients that notice nothing.

use std::fs;
use std::sync::OnceLock;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::faults::crashes::CROWD;
use crate::faults::fault::{Fault, faults};
use crate::faults::scene::Scene;
use crate::support::client::Client;
use crate::support::modules::{self, root};
use crate::support::wait::until;

faults! {
    max_requests_of_50_with_kept_alive_clients_loses_nothing => Fault::new(recycle)
        .set("limits", "max-requests", "50").set("limits", "max-requests-jitter", "20");
    max_requests_of_one_worker_alone_loses_nothing => Fault::new(recycle).workers(1)
        .set("limits", "max-requests", "50");
    max_requests_on_a_unix_socket_loses_nothing => Fault::new(recycle).unix()
        .set("limits", "max-requests", "50");
    max_lifetime_loses_nothing => Fault::new(lifetime).set("limits", "max-lifetime", "\"1s\"");
    a_leak_beyond_the_soft_limit_is_replaced_first => Fault::new(soft).set("limits", "memory-soft", "\"160MiB\"");
    a_leak_beyond_the_hard_limit_is_killed => Fault::new(hard).loses(CROWD)
        .set("limits", "memory-hard", "\"160MiB\"");
    a_full_disk_for_the_access_log_loses_no_request => Fault::new(serve_and_reload)
        .set("log", "access", "\"/dev/full\"");
    a_full_disk_for_the_error_log_loses_no_request => Fault::new(serve_full).unix().set("log", "file", "\"/dev/full\"");
    a_disk_that_fills_up_loses_no_request => Fault::new(fill_up)
        .set("log", "access", "\"DIR/small/access.log\"").wrap(&SMALL_DISK);
    too_few_descriptors_hold_nobody_up_for_good => Fault::new(descriptors)
        .wrap(&["prlimit", "--nofile=48:48"]).honest();
    a_clock_that_jumps_changes_nothing => Fault::new(clock).env("LD_PRELOAD", clock_library())
        .env("CLOCK_STEP_FILE", "DIR/step");
}

/// Runs the server in mounts of its own, where a disk of 64 KiB is in its folder.
const SMALL_DISK: [&str; 8] = [
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "sh",
    "-c",
    "mkdir small && mount -t tmpfs -o size=64k none small && exec \"$@\"",
    "sh",
];

fn retired(scene: &Scene) -> usize {
    scene.told("is to be replaced")
}

fn recycle(scene: &mut Scene) {
    let mut idle = scene.idle(10);
    scene.work(1_000);
    let times = retired(scene);
    assert!(times >= 5, "workers were recycled: {times}\n{}", scene.server.log());
    for client in &mut idle {
        assert_eq!(client.get("/").unwrap().status, 200, "idle connections outlive them");
    }
}

fn lifetime(scene: &mut Scene) {
    until("every worker was recycled", || (retired(scene) >= 2).then_some(()));
    scene.work(100);
}

fn soft(scene: &mut Scene) {
    let worker = scene.workers()[0];
    let mut client = scene.call_in(worker, "/leak?mib=200");
    assert_eq!(client.reply().unwrap().status, 200);
    scene.replaced(worker);
    assert_eq!(client.get("/").unwrap().status, 200, "its connection outlives it");
}

fn hard(scene: &mut Scene) {
    let worker = scene.workers()[0];
    // Its worker may be killed before it has answered.
    let _ = scene.call_in(worker, "/leak?mib=200").reply();
    scene.replaced(worker);
    scene.server.wait_for_log("memory-hard");
}

fn serve_and_reload(scene: &mut Scene) {
    scene.work(200);
    scene.hup();
    scene.work(200);
}

/// The log tells nothing here, so the workers must.
fn serve_full(scene: &mut Scene) {
    scene.work(200);
    scene.hup();
    for (signal, wanted) in [(Signal::SIGTTIN, 3), (Signal::SIGTTOU, 2)] {
        scene.server.signal(signal);
        scene.workers_are(wanted);
    }
}

fn fill_up(scene: &mut Scene) {
    scene.expect_file("small");
    // A line has some 100 bytes: the disk is full after 700 of them.
    scene.work(1_200);
    scene.hup();
    scene.work(200);
}

/// More connections than both workers have descriptors for; when they go, everybody is served.
fn descriptors(scene: &mut Scene) {
    let held: Vec<Client> = (0..120).map(|_| scene.server.client()).collect();
    scene.server.wait_for_log("accepting paused");
    drop(held);
    scene.work(200);
    scene.hup();
}

fn clock(scene: &mut Scene) {
    let before = scene.workers();
    let mut idle = scene.idle(5);
    for step in ["86400", "-172800", "31536000", "0"] {
        fs::write(scene.path("step"), step).unwrap();
        scene.work(150);
        for client in &mut idle {
            assert_eq!(
                client.get("/").unwrap().status,
                200,
                "no timeout is told by the wall clock"
            );
        }
        assert_eq!(scene.workers(), before, "nor is any worker late");
    }
    fs::write(scene.path("step"), "-86400").unwrap();
    scene.hup();
    scene.expect_file("step");
}

/// Builds the library that sets the server's clock, once a run.
fn clock_library() -> String {
    static BUILT: OnceLock<TempDir> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = fs::read_to_string(root().join("tests/faults/clock.c")).unwrap();
        modules::c(folder.path(), "clock", &source);
        folder
    });
    folder.path().join("clock.so").display().to_string()
}
