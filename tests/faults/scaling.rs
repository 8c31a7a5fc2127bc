//! More workers and fewer, at any time.
//!
//! Takes TTIN, TTOU and the scale verb, during reloads and with a spoilt module; gives the number that was asked for, and
//! clients that notice nothing.

use std::fs;

use nix::sys::signal::Signal;

use crate::faults::fault::{Fault, faults};
use crate::faults::scene::Scene;
use crate::support::process;
use crate::support::wait::{pause, until};

faults! {
    a_worker_less_hands_its_idle_connections_over => Fault::new(fewer).workers(3);
    a_worker_less_finishes_its_calls => Fault::new(finish).workers(3);
    a_worker_more_is_born_from_memory_when_the_module_is_broken => Fault::new(from_memory);
    the_number_asked_for_outlives_a_reload => Fault::new(outlives);
    a_storm_of_ttin_and_ttou_during_reloads_loses_nothing => Fault::new(storm).workers(3);
    ttin_during_a_reload_counts => Fault::new(during).argument("boot", "slow:200");
    ttou_during_a_reload_that_is_refused_counts => Fault::new(refused).workers(3);
    scaling_to_ten_and_back_loses_nothing => Fault::new(verb).control();
}

fn one(scene: &mut Scene, signal: Signal) {
    let (worker, told) = (scene.wanted, format!("[{} workers]", scene.wanted));
    let wanted = if signal == Signal::SIGTTIN {
        worker + 1
    } else {
        worker - 1
    };
    assert!(process::title(scene.server.master()).contains(&told), "{told}");
    scene.server.signal(signal);
    scene.wanted = wanted;
    until("the master has heard it", || {
        process::title(scene.server.master())
            .contains(&format!("[{wanted} workers]"))
            .then_some(())
    });
}

fn fewer(scene: &mut Scene) {
    let mut idle = scene.idle(20);
    for wanted in [2, 1] {
        one(scene, Signal::SIGTTOU);
        scene.workers_are(wanted);
        for client in &mut idle {
            assert_eq!(client.get("/").unwrap().status, 200);
        }
    }
    for _ in 0..2 {
        one(scene, Signal::SIGTTIN);
    }
    scene.workers_are(3);
}

fn finish(scene: &mut Scene) {
    let mut held: Vec<_> = scene
        .workers()
        .into_iter()
        .map(|pid| scene.call_in(pid, "/sleep?ms=400"))
        .collect();
    one(scene, Signal::SIGTTOU);
    one(scene, Signal::SIGTTOU);
    for client in &mut held {
        assert_eq!(client.reply().unwrap().status, 200);
    }
    scene.workers_are(1);
    one(scene, Signal::SIGTTIN);
    one(scene, Signal::SIGTTIN);
    scene.workers_are(3);
}

fn from_memory(scene: &mut Scene) {
    fs::remove_file(scene.app()).unwrap();
    one(scene, Signal::SIGTTIN);
    scene.workers_are(3);
    one(scene, Signal::SIGTTOU);
    scene.workers_are(2);
}

fn outlives(scene: &mut Scene) {
    one(scene, Signal::SIGTTIN);
    scene.workers_are(3);
    scene.hup();
    scene.workers_are(3);
    one(scene, Signal::SIGTTOU);
    scene.workers_are(2);
}

fn storm(scene: &mut Scene) {
    for round in 0..30 {
        let signal = match round % 3 {
            0 => Signal::SIGTTIN,
            1 => Signal::SIGTTOU,
            _ => Signal::SIGHUP,
        };
        scene.server.signal(signal);
        pause(std::time::Duration::from_millis(30));
    }
    // Signals that are pending at once merge (signal(7)), so the title tells what came of them.
    let wanted = || {
        let title = process::title(scene.server.master());
        let number = title.split_once('[')?.1.split(' ').next()?;
        number.parse::<usize>().ok()
    };
    let found = until("as many workers as the master says", || {
        wanted().filter(|&number| scene.workers().len() == number)
    });
    scene.wanted = found;
    while scene.wanted > 3 {
        one(scene, Signal::SIGTTOU);
    }
    while scene.wanted < 3 {
        one(scene, Signal::SIGTTIN);
    }
    scene.hup();
}

fn during(scene: &mut Scene) {
    scene.server.signal(Signal::SIGHUP);
    scene.server.wait_for_log("reloading");
    one(scene, Signal::SIGTTIN);
    scene.generation_after(1);
    scene.workers_are(3);
    one(scene, Signal::SIGTTOU);
    scene.workers_are(2);
}

fn refused(scene: &mut Scene) {
    scene.site.argument("boot", "slow:200").argument("unused", "x");
    scene.rewrite();
    scene.server.signal(Signal::SIGHUP);
    scene.server.wait_for_log("reloading");
    one(scene, Signal::SIGTTOU);
    scene.site.raw("workers = ");
    scene.rewrite();
    let before = scene.told(crate::faults::scene::REFUSED);
    scene.server.signal(Signal::SIGHUP);
    scene.refused_after(before);
    scene.workers_are(2);
    one(scene, Signal::SIGTTIN);
    scene.workers_are(3);
}

fn verb(scene: &mut Scene) {
    for (word, wanted) in [("10", 10), ("-7", 3), ("+1", 4), ("2", 2)] {
        let (code, said) = scene.verb(&["scale", word]);
        assert_eq!(code, Some(0), "{said}");
        scene.workers_are(wanted);
    }
}
