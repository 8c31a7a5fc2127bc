//! Stops: graceful ones that lose nothing, and those that wait for nobody.
//!
//! Takes TERM, QUIT and WINCH at the worst moment; gives an exit with code 0, nobody left behind, and an account in
//! which nothing is lost that the kernel had accepted.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::faults::crashes::CROWD;
use crate::faults::fault::{Ends, Fault, faults};
use crate::faults::scene::Scene;
use crate::support::client::{Client, Failure};
use crate::support::process;
use crate::support::wait::{PATIENCE, until};

faults! {
    term_under_load_loses_nothing => stop(|scene| scene.work(100));
    term_under_load_on_a_unix_socket_loses_nothing => stop(|scene| scene.work(100)).unix();
    term_with_a_full_backlog_answers_all_of_it => Fault::new(backlog).ends(Ends::Stopped);
    term_with_a_full_backlog_on_a_unix_socket_answers_all_of_it => Fault::new(backlog).unix().ends(Ends::Stopped);
    idle_connections_at_term_are_told_by_an_orderly_end => Fault::new(idle).ends(Ends::Stopped);
    term_during_a_reload_acts_at_once => stop(|scene| {
        scene.site.argument("boot", "slow:2000");
        begin_reload(scene);
    });
    term_during_a_reload_that_hangs_acts_at_once => stop(|scene| {
        scene.site.argument("boot", "hang").set("timeouts", "boot", "\"60s\"");
        begin_reload(scene);
    });
    term_to_the_whole_group_loses_nothing => Fault::new(group).ends(Ends::Stopped);
    term_while_a_worker_stands_still_ends_it_at_the_drain => stop(|scene| {
        process::signal(scene.workers()[0], Signal::SIGSTOP);
    }).loses(CROWD).set("timeouts", "drain", "\"1s\"");
    term_while_a_call_hangs_ends_it_at_the_drain => Fault::new(hung).ends(Ends::Stopped)
        .set("timeouts", "drain", "\"1s\"");
    a_second_term_does_not_wait => Fault::new(second_term).loses(CROWD).honest().ends(Ends::Stopped);
    quit_does_not_wait => Fault::new(quit).loses(CROWD).honest().ends(Ends::Stopped);
    term_in_a_crash_loop_acts_at_once => stop(crash_loop).loses(CROWD * 10);
    term_to_a_worker_drains_and_replaces_it => Fault::new(term_worker);
    quit_to_a_worker_drains_and_replaces_it => Fault::new(quit_worker);
    winch_and_hup_pause_the_service_and_lose_nothing => Fault::new(winch).closes();
    winch_and_term_stop_it => stop(|scene| {
        scene.server.signal(Signal::SIGWINCH);
        scene.workers_are(0);
    });
}

/// After `before`, TERM must end the server long before its drain is over.
fn stop(before: impl Fn(&mut Scene) + 'static) -> Fault {
    let fault = Fault::new(move |scene| {
        before(scene);
        let start = Instant::now();
        scene.server.signal(Signal::SIGTERM);
        scene.server.wait_for_exit(PATIENCE);
        let took = start.elapsed();
        assert!(
            took < Duration::from_secs(6),
            "it took {took:?}:\n{}",
            scene.server.log()
        );
    });
    fault.ends(Ends::Stopped)
}

fn begin_reload(scene: &Scene) {
    scene.rewrite();
    scene.server.signal(Signal::SIGHUP);
    scene.server.wait_for_log("reloading");
}

fn backlog(scene: &mut Scene) {
    let workers = scene.workers();
    for &pid in &workers {
        process::signal(pid, Signal::SIGSTOP);
        until("the worker stands", || (process::state(pid) == Some('T')).then_some(()));
    }
    let mut queued: Vec<Client> = (0..200).map(|_| scene.server.client()).collect();
    for client in &mut queued {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    scene.server.signal(Signal::SIGTERM);
    for &pid in &workers {
        process::signal(pid, Signal::SIGCONT);
    }
    for client in &mut queued {
        assert_eq!(client.reply().unwrap().status, 200, "what waited is answered");
    }
}

fn idle(scene: &mut Scene) {
    let mut idle = scene.idle(30);
    scene.server.signal(Signal::SIGTERM);
    for client in &mut idle {
        let end = client.reply();
        assert!(matches!(end, Err(Failure::Closed)), "{end:?}");
    }
}

/// As a terminal or systemd's KillMode=control-group do it.
fn group(scene: &mut Scene) {
    let mut held = scene.call("/sleep?ms=500");
    let master = scene.server.master();
    for pid in scene.workers().into_iter().chain([master]) {
        process::signal(pid, Signal::SIGTERM);
    }
    assert_eq!(held.reply().unwrap().status, 200);
}

fn hung(scene: &mut Scene) {
    let mut held = scene.call("/hang");
    scene.server.signal(Signal::SIGTERM);
    assert_eq!(held.reply().unwrap().status, 503, "its client is told");
}

fn second_term(scene: &mut Scene) {
    let _held = scene.call("/hang");
    let start = Instant::now();
    // Two that are pending at once are one (signal(7)).
    until("it leaves", || {
        process::signal(scene.server.master(), Signal::SIGTERM);
        scene.server.exited()
    });
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        start.elapsed()
    );
}

fn quit(scene: &mut Scene) {
    let _held = scene.call("/hang");
    let start = Instant::now();
    scene.server.signal(Signal::SIGQUIT);
    scene.server.wait_for_exit(PATIENCE);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        start.elapsed()
    );
}

fn crash_loop(scene: &mut Scene) {
    for _ in 0..5 {
        let workers = scene.workers();
        for &pid in &workers {
            process::signal(pid, Signal::SIGKILL);
        }
        until("they are gone", || {
            workers.iter().all(|&pid| !process::alive(pid)).then_some(())
        });
    }
}

fn term_worker(scene: &mut Scene) {
    end_worker(scene, Signal::SIGTERM);
}

fn quit_worker(scene: &mut Scene) {
    end_worker(scene, Signal::SIGQUIT);
}

fn end_worker(scene: &mut Scene, signal: Signal) {
    let worker = scene.workers()[0];
    let mut held = scene.call_in(worker, "/sleep?ms=300");
    let mut idle = scene.client_of(worker);
    process::signal(worker, signal);
    assert_eq!(held.reply().unwrap().status, 200);
    scene.replaced(worker);
    assert_eq!(
        idle.get("/").unwrap().status,
        200,
        "its idle connections are handed over"
    );
}

fn winch(scene: &mut Scene) {
    scene.server.signal(Signal::SIGWINCH);
    scene.workers_are(0);
    // The listener stays, so whoever comes now waits.
    let mut waiting = scene.server.client();
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    scene.server.signal(Signal::SIGHUP);
    assert_eq!(waiting.reply().unwrap().status, 200);
    scene.workers_are(2);
}
