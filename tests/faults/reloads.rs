//! Reloads under every circumstance: again and again, during others, and while the module's file is spoilt.
//!
//! Takes HUP and changed files; gives a new generation, never fewer ready workers than wanted, and clients that notice
//! nothing.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::faults::crashes::CROWD;
use crate::faults::fault::{Fault, faults};
use crate::faults::scene::{REFUSED, Scene};
use crate::faults::watch::Watch;
use crate::support::client::{Address, Client};
use crate::support::modules::{self, module};
use crate::support::process;
use crate::support::wait::{pause, until};

faults! {
    hup_every_200_ms_loses_nothing => Fault::new(again_and_again);
    hup_every_200_ms_on_a_unix_socket_loses_nothing => Fault::new(again_and_again).unix();
    never_fewer_workers_than_wanted_are_ready_during_a_reload => Fault::new(never_fewer).workers(5).watched();
    never_fewer_workers_than_wanted_are_ready_while_they_are_recycled => Fault::new(recycled).workers(3).watched()
        .set("limits", "max-requests", "100");
    two_hups_at_once_end_in_one_generation => Fault::new(twice).argument("boot", "slow:100");
    a_hup_during_a_reload_takes_what_was_written_last => Fault::new(changed_meanwhile).argument("boot", "slow:200");
    idle_connections_outlive_ten_reloads => Fault::new(idle_outlive);
    requests_half_sent_outlive_a_reload => Fault::new(half_sent);
    answers_half_read_outlive_a_reload => Fault::new(half_read);
    a_module_overwritten_while_it_serves_hurts_nobody => Fault::new(|scene| {
        fs::write(scene.app(), vec![0; 100_000]).unwrap();
        respawn(scene);
    }).loses(CROWD);
    a_module_truncated_while_it_serves_hurts_nobody => Fault::new(|scene| {
        OpenOptions::new().write(true).open(scene.app()).unwrap().set_len(4096).unwrap();
        respawn(scene);
    }).loses(CROWD);
    a_module_deleted_while_it_serves_hurts_nobody => Fault::new(|scene| {
        fs::remove_file(scene.app()).unwrap();
        respawn(scene);
    }).loses(CROWD);
    a_module_that_only_the_master_may_read_is_served => Fault::new(private).loses(CROWD);
    a_listener_is_added_and_removed_under_load => Fault::new(listeners).own_listeners();
    a_worker_killed_during_a_reload_does_not_stop_it => Fault::new(kill_old).argument("boot", "slow:300").loses(CROWD);
    a_killed_check_ends_the_reload_and_nothing_else => Fault::new(kill_check);
    a_reload_that_is_taken_back_twenty_times_leaves_nothing => Fault::new(refused_often);
    a_rollback_undoes_a_deploy_that_loads_and_is_wrong => Fault::new(rollback).control();
    a_rollback_needs_no_disk => Fault::new(rollback_without_disk).control();
    a_reload_verb_answers_with_the_reason_of_its_refusal => Fault::new(reload_verb).control();
}

/// As long as a test repeats something; FAULTS_SECONDS makes it longer.
pub fn a_while() -> Duration {
    let seconds = std::env::var("FAULTS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

fn again_and_again(scene: &mut Scene) {
    let first = scene.generation();
    let end = Instant::now() + a_while();
    while Instant::now() < end {
        scene.server.signal(Signal::SIGHUP);
        pause(Duration::from_millis(200));
    }
    let last = scene.generation_after(first);
    assert!(last >= first + 3, "reloads were done: {last}");
}

fn never_fewer(scene: &mut Scene) {
    let watch = Watch::begin(scene);
    (0..3).for_each(|_| scene.hup());
    assert!(watch.fewest() >= scene.wanted, "{}", scene.server.log());
}

fn recycled(scene: &mut Scene) {
    let watch = Watch::begin(scene);
    scene.work(1_000);
    assert!(watch.fewest() >= scene.wanted, "{}", scene.server.log());
}

fn twice(scene: &mut Scene) {
    scene.server.signal(Signal::SIGHUP);
    scene.server.wait_for_log("reloading");
    scene.server.signal(Signal::SIGHUP);
    scene.generation_after(2);
}

fn changed_meanwhile(scene: &mut Scene) {
    scene.server.signal(Signal::SIGHUP);
    scene.server.wait_for_log("reloading");
    scene.site.set("", "workers", "3");
    scene.rewrite();
    scene.server.signal(Signal::SIGHUP);
    scene.wanted = 3;
    scene.generation_after(2);
}

fn idle_outlive(scene: &mut Scene) {
    let mut idle = scene.idle(20);
    for _ in 0..10 {
        scene.hup();
        for client in &mut idle {
            let reply = client.get("/").unwrap();
            assert!(reply.status == 200 && !reply.closes(), "{reply:?}");
        }
    }
}

fn half_sent(scene: &mut Scene) {
    let mut late: Vec<Client> = (0..10).map(|_| scene.server.client()).collect();
    for client in &mut late {
        client.send("POST /echo HTTP/1.1\r\nHos").unwrap();
    }
    let mut upload = scene.call("/pid");
    upload.reply().unwrap();
    upload
        .send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n12")
        .unwrap();
    scene.server.signal(Signal::SIGHUP);
    until("the new generation serves", || {
        (scene.generations().iter().filter(|&&it| it == 2).count() == 2).then_some(())
    });
    for client in &mut late {
        client.send("t: a\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!(client.reply().unwrap().text(), "hi");
    }
    upload.send("34").unwrap();
    assert_eq!(upload.reply().unwrap().text(), "1234");
    drop((late, upload));
    scene.generation_after(1);
}

fn half_read(scene: &mut Scene) {
    let mut slow = scene.call("/stream?chunks=20&size=1000&delay_ms=40");
    assert_eq!(slow.head(true).unwrap().status, 200);
    scene.hup();
    assert_eq!(slow.count_chunks(|_| ()).unwrap(), 20_000);
}

/// A worker that dies comes back from the sealed bytes.
fn respawn(scene: &mut Scene) {
    scene.work(100);
    let victim = scene.workers()[0];
    scene.kill(victim);
    scene.replaced(victim);
    assert_eq!(scene.server.get("/generation").text().trim(), "1");
}

/// The check reads it before it takes the workers' account, and workers never read it.
fn private(scene: &mut Scene) {
    fs::set_permissions(scene.app(), fs::Permissions::from_mode(0o600)).unwrap();
    if nix::unistd::geteuid().is_root() {
        scene.site.set("", "user", "\"nobody\"");
        scene.rewrite();
    }
    scene.hup();
    let victim = scene.workers()[0];
    scene.kill(victim);
    scene.replaced(victim);
}

fn listeners(scene: &mut Scene) {
    let first = "unix:DIR/app.sock".to_owned();
    let second = scene.path("second.sock");
    for _ in 0..3 {
        let both = [first.clone(), "unix:DIR/second.sock".to_owned()];
        scene.site.listeners(&both);
        scene.rewrite();
        scene.hup();
        let mut client = Client::connect(&Address::Unix(second.clone())).expect("it listens");
        assert_eq!(client.get("/").unwrap().status, 200);
        scene.site.listeners(&both[..1]);
        scene.rewrite();
        scene.hup();
        assert!(
            Client::connect(&Address::Unix(second.clone())).is_err(),
            "nobody listens"
        );
        assert!(!second.exists(), "its file went with it");
        assert_eq!(client.get("/").unwrap().status, 200, "who was connected is served");
    }
    // A rollback would return to the second listener, which is kept for it until another reload is done.
    scene.hup();
}

fn kill_old(scene: &mut Scene) {
    let old = scene.workers();
    scene.server.signal(Signal::SIGHUP);
    scene.server.wait_for_log("reloading");
    scene.kill(old[0]);
    scene.generation_after(1);
}

fn kill_check(scene: &mut Scene) {
    let good = scene.path("good.so");
    fs::rename(scene.app(), &good).unwrap();
    // Loading it takes long, so the check is there to be killed.
    let build = tempfile::tempdir().unwrap();
    let slow = "#include <unistd.h>\n__attribute__((constructor)) static void wait(void) { sleep(5); }\n";
    fs::copy(modules::c(build.path(), "slow", slow), scene.app()).unwrap();
    let before = scene.told(REFUSED);
    let workers = scene.workers();
    scene.server.signal(Signal::SIGHUP);
    let check = until("the check is under way", || {
        let children = process::children(scene.server.master()).into_iter();
        let mut checks = children.filter(|&pid| process::title(pid).starts_with("appserver: module check"));
        checks.next()
    });
    scene.kill(check);
    scene.refused_after(before);
    assert_eq!(scene.workers(), workers);
    fs::rename(good, scene.app()).unwrap();
    scene.hup();
}

fn refused_often(scene: &mut Scene) {
    let good = scene.path("good.so");
    fs::rename(scene.app(), &good).unwrap();
    File::create(scene.app()).unwrap();
    let workers = scene.workers();
    for _ in 0..20 {
        scene.hup_is_refused();
    }
    assert_eq!(scene.workers(), workers);
    fs::rename(good, scene.app()).unwrap();
    scene.hup();
}

/// A second version of the lab: the one whose every answer is an error.
fn wrong(scene: &mut Scene) {
    let first = scene.generation();
    scene.site.module(&module("hello"));
    scene.rewrite();
    let (code, said) = scene.verb(&["reload"]);
    assert_eq!(code, Some(0), "{said}");
    scene.generation_after(first);
    assert_eq!(scene.server.get("/pid").text(), "Hello, world!\n");
}

/// Rolls back to the lab and waits until it serves.
fn go_back(scene: &mut Scene) {
    let bad = scene.generation();
    let (code, said) = scene.verb(&["rollback"]);
    assert_eq!(code, Some(0), "{said}");
    until("the lab is back", || {
        let titles = scene.generations();
        (titles.len() == 2 && !titles.contains(&bad)).then_some(())
    });
    assert_ne!(scene.server.get("/pid").text(), "Hello, world!\n");
}

fn rollback(scene: &mut Scene) {
    wrong(scene);
    go_back(scene);
}

fn rollback_without_disk(scene: &mut Scene) {
    wrong(scene);
    fs::remove_file(scene.app()).unwrap();
    fs::write(scene.path("appserver.toml"), "workers = ").unwrap();
    go_back(scene);
}

fn reload_verb(scene: &mut Scene) {
    fs::write(scene.app(), "not a library").unwrap();
    let (code, said) = scene.verb(&["reload"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("ELF"), "it says why: {said}");
    assert_eq!(scene.generation(), 1);
}
