//! Workers that crash, exit or are killed, in any state: each costs what it held, and its place is filled.
//!
//! Takes the lab's crashing paths and `kill -9`; gives workers that come back. Requests of the crowd that were inside
//! a killed process may be lost, as many as the crowd has clients, and no other.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::faults::fault::{Fault, faults};
use crate::faults::scene::Scene;
use crate::support::process;
use crate::support::wait::{pause, until};

/// Clients of the crowd: so many requests can be inside one process at most.
pub const CROWD: usize = 11;

faults! {
    a_killed_worker_is_replaced_and_the_others_serve => Fault::new(kill_one).loses(CROWD);
    all_workers_killed_at_once_come_back => Fault::new(kill_all).workers(3).loses(CROWD);
    a_worker_killed_while_it_starts_is_replaced => Fault::new(kill_starting).argument("boot", "slow:300").loses(CROWD);
    a_worker_killed_while_it_drains_costs_its_own_calls => Fault::new(kill_draining).loses(CROWD);
    a_worker_that_crashes_while_it_drains_costs_its_own_calls => Fault::new(crash_draining).loses(CROWD);
    a_worker_ended_by_a_real_time_signal_is_replaced => Fault::new(real_time_signal).loses(CROWD);
    a_segmentation_fault_costs_one_worker => crash("/segv");
    an_abort_costs_one_worker => crash("/abort");
    a_handler_that_exits_with_0_costs_one_worker => crash("/exit?code=0");
    a_handler_that_exits_with_our_own_code_costs_one_worker => crash("/exit?code=5");
    a_handler_that_exits_as_no_boot_does_costs_one_worker => crash("/exit?code=3");
    two_hundred_panics_cost_no_worker => Fault::new(panics);
    a_panic_in_the_middle_of_a_body_costs_no_worker => Fault::new(panics_midway);
    a_storm_of_crashes_is_survived => Fault::new(crash_storm).loses(CROWD * 12);
    a_crash_loop_turns_readyz_red_and_ends_by_itself => Fault::new(crash_loop).watched().loses(CROWD * 40);
    a_killed_monitor_comes_back_and_nobody_notices => Fault::new(kill_monitor).watched();
    a_crash_is_told_with_the_request_that_was_served => Fault::new(told).loses(CROWD);
}

fn kill_one(scene: &mut Scene) {
    let victim = scene.workers()[0];
    scene.kill(victim);
    scene.replaced(victim);
}

fn kill_all(scene: &mut Scene) {
    let victims = scene.workers();
    for &pid in &victims {
        process::signal(pid, Signal::SIGKILL);
    }
    victims.iter().for_each(|&pid| scene.replaced(pid));
}

fn kill_starting(scene: &mut Scene) {
    let before = scene.workers();
    scene.kill(before[0]);
    let starting = until("its successor is there, and starting", || {
        scene.workers().into_iter().find(|pid| !before.contains(pid))
    });
    scene.kill(starting);
    scene.replaced(starting);
}

fn kill_draining(scene: &mut Scene) {
    let worker = scene.workers()[0];
    let mut held = scene.call_in(worker, "/sleep?ms=5000");
    process::signal(worker, Signal::SIGTERM);
    until("its successor is there, and it still drains", || {
        (scene.workers().len() == 3).then_some(())
    });
    scene.work(40);
    scene.kill(worker);
    assert!(held.reply().is_err(), "its call died with it");
    scene.replaced(worker);
}

fn crash_draining(scene: &mut Scene) {
    let worker = scene.workers()[0];
    let mut client = scene.client_of(worker);
    // A short body is read before the handler is called: the call comes when the worker drains already.
    client
        .send("POST /segv HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n12")
        .unwrap();
    until("the server has read the head", || client.taken().then_some(()));
    process::signal(worker, Signal::SIGTERM);
    until("its successor is there, and it still drains", || {
        (scene.workers().len() == 3).then_some(())
    });
    client.send("34").unwrap();
    assert!(client.reply().is_err(), "its call died with it");
    scene.replaced(worker);
}

fn real_time_signal(scene: &mut Scene) {
    let victim = scene.workers()[0];
    // 40 is one that neither libc nor the server uses (signal(7)).
    let killed = std::process::Command::new("kill")
        .args(["-40", &victim.to_string()])
        .status();
    assert!(killed.unwrap().success());
    scene.replaced(victim);
}

fn crash(target: &'static str) -> Fault {
    Fault::new(move |scene| {
        let victim = scene.workers()[0];
        let mut client = scene.call_in(victim, target);
        assert!(client.reply().is_err(), "the call died with its worker");
        scene.replaced(victim);
        assert_eq!(scene.server.exited(), None, "the master is never ended by a worker");
    })
    .loses(CROWD)
}

fn told(scene: &mut Scene) {
    let victim = scene.workers()[0];
    let mut client = scene.call_in(victim, "/segv?told=by-its-name");
    assert!(client.reply().is_err());
    scene.replaced(victim);
    scene.server.wait_for_log("/segv?told=by-its-name");
    scene.server.wait_for_log("SIGSEGV");
}

fn panics(scene: &mut Scene) {
    let before = scene.workers();
    let mut client = scene.server.client();
    for _ in 0..200 {
        assert_eq!(client.get("/panic").unwrap().status, 500);
    }
    assert_eq!(scene.workers(), before);
}

fn panics_midway(scene: &mut Scene) {
    let before = scene.workers();
    for _ in 0..20 {
        assert!(
            scene.server.client().get("/panic-midway").is_err(),
            "it is never passed for whole"
        );
    }
    assert_eq!(scene.workers(), before);
}

fn crash_storm(scene: &mut Scene) {
    for _ in 0..12 {
        let _ = scene.server.client().get("/segv");
    }
    scene.workers_are(2);
}

/// Kills every worker as soon as it is there, until starts are held back.
fn crash_loop(scene: &mut Scene) {
    let status = |target: &str| scene.admin(target).map(|reply| reply.status);
    until("it is ready at first", || {
        (status("/readyz") == Some(200)).then_some(())
    });
    let start = Instant::now();
    let red = until("readyz turns red", || {
        for pid in scene.workers() {
            process::signal(pid, Signal::SIGKILL);
        }
        (status("/readyz") == Some(503)).then(|| start.elapsed())
    });
    assert_eq!(status("/healthz"), Some(200), "the master is well");
    assert!(red < Duration::from_secs(5), "it took {red:?}");
    let mut deaths = 0;
    let end = Instant::now() + Duration::from_millis(1_500);
    while Instant::now() < end {
        for pid in scene.workers() {
            deaths += usize::from(process::signal(pid, Signal::SIGKILL));
            until("it is gone", || (!process::alive(pid)).then_some(()));
        }
        pause(Duration::from_millis(2));
    }
    assert!(deaths < 40, "starts are held back: {deaths} deaths in 1.5 s");
    until("it is ready again, left alone", || {
        (status("/readyz") == Some(200)).then_some(())
    });
}

fn kill_monitor(scene: &mut Scene) {
    let monitor = || {
        let all = process::children(scene.server.master()).into_iter();
        let mut monitors = all.filter(|&pid| process::title(pid).starts_with("appserver: monitor"));
        monitors.next()
    };
    let old = until("there is a monitor", monitor);
    scene.kill(old);
    until("there is another", || monitor().filter(|&pid| pid != old));
    until("it answers", || {
        scene.admin("/healthz").filter(|reply| reply.status == 200)
    });
}
