//! The master itself: killed, stopped, made PID 1, or exchanged for another binary.
//!
//! Takes `kill -9`, namespaces and spoilt binaries; gives workers that finish what they hold, or a master that serves on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::faults::fault::{Ends, Fault, faults};
use crate::faults::scene::{Scene, copy};
use crate::support::modules::{self, SERVER};
use crate::support::process;
use crate::support::wait::until;

faults! {
    workers_of_a_killed_master_finish_what_tcp_brought => Fault::new(kill_master).ends(Ends::Killed);
    workers_of_a_killed_master_finish_what_a_unix_socket_brought => Fault::new(kill_master).unix().ends(Ends::Killed);
    workers_serve_on_while_the_master_stands_still => Fault::new(stop_master);
    orphans_that_pid_1_adopts_are_reaped_and_end_nothing => Fault::new(adopt)
        .wrap(&["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    an_upgrade_of_the_binary_loses_nothing => Fault::new(upgrade).own_binary();
    two_upgrades_in_a_row_lose_nothing => Fault::new(|scene| (0..2).for_each(|_| upgrade(scene))).own_binary();
    an_upgrade_on_a_unix_socket_loses_nothing => Fault::new(upgrade).own_binary().unix();
    an_upgrade_to_a_text_file_leaves_the_old_master => broken("these are my notes\n");
    an_upgrade_to_a_binary_that_fails_leaves_the_old_master => broken("#!/bin/sh\nexit 1\n");
    an_upgrade_to_a_binary_that_leaves_with_0_leaves_the_old_master => broken("#!/bin/sh\nexit 0\n");
    an_upgrade_to_a_binary_that_hangs_leaves_the_old_master => broken("#!/bin/sh\nexec sleep 1000\n");
    an_upgrade_to_a_binary_that_crashes_leaves_the_old_master => broken("#!/bin/sh\nkill -SEGV $$\n");
    an_upgrade_without_a_binary_leaves_the_old_master => Fault::new(without_binary).own_binary();
    an_upgrade_with_a_broken_module_on_the_disk_serves_the_sealed_one => Fault::new(sealed_upgrade).own_binary();
    a_killed_successor_leaves_the_old_master => Fault::new(kill_successor).own_binary()
        .set("timeouts", "boot", "\"2s\"");
}

fn kill_master(scene: &mut Scene) {
    let mut held = scene.server.client();
    held.send("GET /sleep?ms=500 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    scene.work(60);
    process::signal(scene.server.master(), Signal::SIGKILL);
    assert_eq!(held.reply().unwrap().status, 200, "a call in flight is finished");
}

fn stop_master(scene: &mut Scene) {
    let master = scene.server.master();
    process::signal(master, Signal::SIGSTOP);
    until("it stands", || (process::state(master) == Some('T')).then_some(()));
    scene.work(500);
    process::signal(master, Signal::SIGCONT);
    scene.hup();
}

/// Leaves orphans in the master's namespace: they become children of its PID 1.
fn adopt(scene: &mut Scene) {
    let master = scene.server.master().to_string();
    let before = scene.workers();
    for code in [0, 3, 4, 5] {
        let mut enter = Command::new("nsenter");
        enter.args(["--target", &master, "--pid", "--mount", "sh", "-c"]);
        enter.arg(format!("(sleep 0.1; exit {code}) & exit 0"));
        modules::run(&mut enter);
    }
    until("they are reaped", || {
        let children = process::children(scene.server.master());
        (children.len() == before.len()).then_some(())
    });
    scene.work(100);
    assert_eq!(scene.workers(), before);
    scene.hup();
}

fn upgrade(scene: &mut Scene) {
    let old = scene.server.master();
    let workers = scene.workers();
    let mut idle = scene.idle(10);
    scene.server.signal(Signal::SIGUSR2);
    scene.new_master(old);
    until(
        &format!("the old master has left; log:\n{}", scene.server.log()),
        || (!process::alive(old)).then_some(()),
    );
    scene.workers_are(scene.wanted);
    assert!(workers.iter().all(|&pid| !process::alive(pid)), "its workers too");
    for client in &mut idle {
        assert_eq!(
            client.get("/").unwrap().status,
            200,
            "idle connections outlive the upgrade"
        );
    }
    let written = scene.server.read("app.pid");
    assert_eq!(written.trim(), scene.server.master().to_string(), "the pidfile follows");
}

fn spoil(scene: &Scene, text: &str) {
    let path = scene.path("appserver.new");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(path, scene.path("appserver")).unwrap();
}

fn refused(scene: &mut Scene) {
    let before = (scene.server.master(), scene.workers());
    scene.server.signal(Signal::SIGUSR2);
    scene.server.wait_for_log("upgrade refused");
    scene.work(60);
    assert_eq!((scene.server.master(), scene.workers()), before);
    // It goes on as a master: it reloads, and upgrades when the binary is mended.
    scene.hup();
    copy(SERVER.as_ref(), &scene.path("appserver.new"));
    fs::rename(scene.path("appserver.new"), scene.path("appserver")).unwrap();
    upgrade(scene);
}

fn broken(text: &'static str) -> Fault {
    let fault = Fault::new(move |scene| {
        spoil(scene, text);
        refused(scene);
    });
    fault.own_binary().set("timeouts", "boot", "\"1s\"")
}

fn without_binary(scene: &mut Scene) {
    fs::remove_file(scene.path("appserver")).unwrap();
    refused(scene);
}

fn sealed_upgrade(scene: &mut Scene) {
    fs::write(scene.app(), "not a library").unwrap();
    upgrade(scene);
    assert_eq!(scene.server.get("/").status, 200);
}

fn kill_successor(scene: &mut Scene) {
    let old = scene.server.master();
    let workers = scene.workers();
    // A successor that waits for ever is there to be killed.
    spoil(scene, "#!/bin/sh\nexec sleep 1000\n");
    scene.server.signal(Signal::SIGUSR2);
    let successor = until(&format!("a successor; log:\n{}", scene.server.log()), || {
        let children = process::children(old).into_iter();
        let mut others = children.filter(|pid| process::title(*pid).starts_with("sleep"));
        others.next()
    });
    scene.kill(successor);
    scene.server.wait_for_log("upgrade refused");
    scene.work(60);
    assert_eq!(scene.workers(), workers);
}
