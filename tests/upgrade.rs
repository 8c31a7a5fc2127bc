//! USR2: another binary takes over, or does not, and no client notices either.
//!
//! Takes a server whose binary lies in its folder and is replaced by good and bad ones; gives who serves afterwards, what
//! became of every request, and what is left of those that failed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::client::{Address, Client};
use crate::support::modules::SERVER;
use crate::support::process;
use crate::support::ship::{LISTENERS, Ship, config, replace, replace_by_text};
use crate::support::storm::{Habit, Storm, Tally};
use crate::support::wait::until;

#[test]
fn upgrades_under_load_lose_and_refuse_nothing() {
    let mut ship = Ship::start(&[], &config(3, ""));
    let habit = |target: &str, per_connection| Habit {
        target: target.to_owned(),
        per_connection,
    };
    let storms = [
        Storm::start(&ship.tcp, 4, &habit("/", 1)),
        Storm::start(&ship.tcp, 4, &habit("/sleep?ms=5", 20)),
        Storm::start(&ship.unix(), 4, &habit("/", 1)),
        Storm::start(&ship.unix(), 4, &habit("/sleep?ms=5", 20)),
    ];
    let mut masters = vec![ship.master().unwrap()];
    for round in 0..3 {
        replace(ship.folder.path(), Path::new(SERVER));
        if round == 1 {
            fs::remove_file(ship.path("lab.so")).unwrap();
        }
        let new = ship.upgrade(3);
        let (runs, lies) = (format!("/proc/{new}/exe"), ship.path("appserver"));
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(
            inode(Path::new(&runs)),
            inode(&lies),
            "the file that lies there now runs"
        );
        masters.push(new);
    }
    let mut all = Tally::default();
    storms.into_iter().for_each(|storm| all.add(storm.end()));
    println!("{} upgrades: {all:?}", masters.len() - 1);
    assert!(all.lost.is_empty() && all.refused == 0 && all.honest == 0, "{all:?}");
    assert!(all.answered > 100, "{all:?}");
    masters.dedup();
    assert_eq!(masters.len(), 4);
    let generation = Client::connect(&ship.unix())
        .unwrap()
        .get("/generation")
        .unwrap()
        .text();
    assert_eq!(generation.trim(), "4", "numbers of generations go on");
    ship.signal(Signal::SIGTERM);
    ship.wait_for_end();
}

#[test]
fn idle_connections_survive_upgrades() {
    let mut ship = Ship::start(&[], &config(2, ""));
    let mut clients: Vec<Client> = Vec::new();
    for address in [ship.tcp.clone(), ship.unix()] {
        clients.extend((0..20).map(|_| Client::connect(&address).unwrap()));
    }
    for client in &mut clients {
        assert_eq!(client.get("/").unwrap().status, 200);
    }
    for generation in ["2", "3"] {
        ship.upgrade(2);
        for client in &mut clients {
            let reply = client.get("/generation").unwrap_or_else(|failure| panic!("{failure}"));
            assert_eq!(reply.text().trim(), generation);
        }
    }
}

/// Whether the old master has none but its workers, and has reaped who has ended.
fn is_alone_with(ship: &Ship, workers: &[i32]) -> bool {
    ship.workers() == workers && ship.master().is_some_and(|master| process::zombies(master).is_empty())
}

#[test]
fn a_new_binary_that_is_none_leaves_the_old_one_serving() {
    let mut ship = Ship::start(&[], &config(2, "").replace("boot = \"5s\"", "boot = \"500ms\""));
    let (master, workers) = (ship.master(), ship.workers());
    let broken: [(&str, &str); 4] = [
        (
            "#!/bin/sh\nexit 7\n",
            "the new master exited with code 7 before it was ready",
        ),
        ("no program\n", "cannot execute"),
        ("#!/bin/sh\nexec sleep 1000\n", "was not ready within 1s"),
        ("#!/bin/sh\nkill -9 $$\n", "was killed by SIGKILL before it was ready"),
    ];
    for (text, reason) in broken {
        replace_by_text(ship.folder.path(), text);
        ship.signal(Signal::SIGUSR2);
        ship.wait_for_log(reason);
        until("it has gone", || is_alone_with(&ship, &workers).then_some(()));
        assert_eq!(ship.master(), master, "the pidfile is as it was");
        ship.get("/");
    }
    ship.wait_for_logs("goes on serving", broken.len());
    replace(ship.folder.path(), Path::new(SERVER));
    ship.upgrade(2);
    ship.get("/");
}

#[test]
fn a_new_binary_that_cannot_start_here_says_why_and_leaves_the_old_one_serving() {
    let mut ship = Ship::start(&[], &config(2, ""));
    let (master, workers) = (ship.master(), ship.workers());
    let good = config(2, "");
    let broken = [
        ("wrokers = 3\n".to_owned() + &good, "upgrade refused: ", "wrokers"),
        (
            good.replace("lab.so", "nowhere.so"),
            "upgrade refused: ",
            "no such file",
        ),
        (config(2, "fail"), "upgrade refused: ", "the lab refuses to start"),
        (config(2, "segv"), "upgrade refused: ", "SIGSEGV"),
        (
            good.replace(LISTENERS, &format!("{LISTENERS}[[listener]]\nbind = \"unix:c.toml\"\n")),
            "upgrade refused: cannot listen on",
            "is no socket",
        ),
        (
            good.replace("pidfile = \"pid\"", "pidfile = \"nowhere/pid\""),
            "upgrade refused: cannot write pidfile",
            "nowhere",
        ),
    ];
    for (index, (text, line, reason)) in broken.iter().enumerate() {
        ship.configure(text);
        ship.signal(Signal::SIGUSR2);
        ship.wait_for_logs("goes on serving", index + 1);
        let log = ship.log();
        let said = log.split(line).last().unwrap();
        assert!(said.contains(reason), "{reason}:\n{log}");
        until("it has gone", || is_alone_with(&ship, &workers).then_some(()));
        assert_eq!(ship.master(), master, "the pidfile is as it was");
        ship.get("/");
    }
    ship.configure(&good);
    ship.upgrade(2);
    ship.get("/");
}

#[test]
fn the_number_of_workers_that_signals_asked_for_is_kept() {
    let mut ship = Ship::start(&[], &config(2, ""));
    ship.signal(Signal::SIGTTIN);
    until("there are three", || (ship.workers().len() == 3).then_some(()));
    ship.upgrade(3);
    ship.signal(Signal::SIGTTOU);
    until("there are two", || (ship.workers().len() == 2).then_some(()));
    ship.configure(&config(4, ""));
    ship.upgrade(4);
}

#[test]
fn until_the_new_master_is_ready_the_old_one_looks_after_everything() {
    let mut ship = Ship::start(&[], &config(2, ""));
    let old = ship.workers();
    ship.configure(&config(2, "slow:4000"));
    ship.signal(Signal::SIGUSR2);
    let new = new_master(&ship, &old);
    until("its workers are there", || {
        (process::children(new).len() == 2).then_some(())
    });
    ship.signal(Signal::SIGUSR2);
    ship.wait_for_log("another one is under way");
    ship.signal(Signal::SIGHUP);
    ship.wait_for_log("is heeded after it");
    process::signal(old[0], Signal::SIGKILL);
    until("the killed worker is replaced", || {
        let workers = ship.workers();
        (workers.len() == 3 && !workers.contains(&old[0])).then_some(())
    });
    ship.get("/");
    ship.configure(&config(2, ""));
    assert!(process::signal(new, Signal::SIGKILL));
    ship.wait_for_log("the new master was killed by SIGKILL before it was ready");
    ship.wait_for_log("reload complete");
    until("nothing of it is left", || (ship.crew().len() == 3).then_some(()));
    ship.get("/");
    ship.upgrade(2);
}

/// The new master, as soon as it is there.
fn new_master(ship: &Ship, others: &[i32]) -> i32 {
    until("a new master is there", || {
        let mut pids = ship.workers().into_iter();
        pids.find(|pid| !others.contains(pid) && process::title(*pid).starts_with("appserver: master"))
    })
}

#[test]
fn a_stop_during_an_upgrade_stops_both() {
    for signal in [Signal::SIGTERM, Signal::SIGQUIT] {
        let mut ship = Ship::start(&[], &config(2, ""));
        let old = ship.workers();
        ship.configure(&config(2, "slow:4000"));
        ship.signal(Signal::SIGUSR2);
        new_master(&ship, &old);
        ship.signal(signal);
        ship.wait_for_end();
        assert_eq!(ship.child.wait().unwrap().code(), Some(0), "{}", ship.log());
    }
}

#[test]
fn a_stop_right_after_usr2_stops_the_server_whoever_hears_it() {
    for milliseconds in [0, 2, 4, 6, 8, 10, 15, 20] {
        let mut ship = Ship::start(&[], &config(1, ""));
        let old = ship.master().unwrap();
        ship.signal(Signal::SIGUSR2);
        crate::support::wait::pause(Duration::from_millis(milliseconds));
        let told = process::signal(old, Signal::SIGTERM);
        until(
            "somebody has heard it, or the old one has left without hearing any more",
            || {
                let left = ship.child.try_wait().unwrap().is_some();
                (left || ship.log().contains("stopping gracefully")).then_some(())
            },
        );
        // In its last moment a process that leaves hears nothing; then it is told to the one who has taken over.
        if !told || (!ship.log().contains("stopping gracefully") && ship.master().is_some_and(process::alive)) {
            let _ = ship.master().map(|master| process::signal(master, Signal::SIGTERM));
        }
        ship.wait_for_end();
    }
}

#[test]
fn listeners_that_the_new_configuration_adds_and_drops_come_and_go() {
    let mut ship = Ship::start(&[], &config(1, ""));
    let added = LISTENERS.replace("app.sock", "new.sock");
    ship.configure(&config(1, "").replace(LISTENERS, &added));
    let storm = Storm::start(
        &ship.tcp,
        4,
        &Habit {
            target: "/".into(),
            per_connection: 2,
        },
    );
    ship.upgrade(1);
    let tally = storm.end();
    assert!(tally.lost.is_empty() && tally.refused == 0, "{tally:?}");
    let mut client = Client::connect(&Address::Unix(ship.path("new.sock"))).unwrap();
    assert_eq!(client.get("/").unwrap().status, 200);
    assert!(
        !ship.path("app.sock").exists(),
        "what nobody serves any more is no file"
    );
    ship.signal(Signal::SIGTERM);
    ship.wait_for_end();
    assert!(!ship.path("new.sock").exists());
}

#[test]
fn verbs_and_monitor_are_answered_across_an_upgrade_that_a_verb_asked_for() {
    let text = config(2, "") + "[control]\nsocket = \"control.sock\"\n[admin]\nbind = \"unix:admin.sock\"\n";
    let mut ship = Ship::start(&[], &text);
    let verb = |ship: &Ship, words: &[&str]| {
        let socket = ship.path("control.sock");
        let output = std::process::Command::new(SERVER)
            .args(words)
            .arg("--control")
            .arg(socket)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    let ready = |ship: &Ship| {
        let mut client = Client::connect(&Address::Unix(ship.path("admin.sock"))).ok()?;
        client
            .get("/readyz")
            .ok()
            .filter(|reply| reply.status == 200)
            .map(|_| ())
    };
    until("the monitor is there", || ready(&ship));
    for round in 2..=3 {
        let old = ship.master().unwrap();
        let (code, said) = verb(&ship, &["upgrade"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&format!("generation {round} serves")), "{said}");
        let new = ship.master().unwrap();
        assert_ne!(new, old, "the pidfile is the new one's before the verb is answered");
        until("the old one has left", || {
            let _ = ship.child.try_wait();
            (!process::alive(old)).then_some(())
        });
        until("the monitor is there", || ready(&ship));
        let (code, said) = verb(&ship, &["status", "--json"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&new.to_string()), "{said}");
    }
    replace_by_text(ship.folder.path(), "no program\n");
    let (code, said) = verb(&ship, &["upgrade"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot execute"), "{said}");
    assert_eq!(verb(&ship, &["stop"]).0, Some(0));
    ship.wait_for_end();
    assert!(!ship.path("control.sock").exists() && !ship.path("admin.sock").exists());
}

#[test]
fn sockets_of_a_service_manager_are_passed_on() {
    let script = "exec 3</dev/null; exec python3 -c '\nimport os, socket, sys\n\
        s = socket.create_server((\"127.0.0.1\", 0)); print(s.getsockname(), flush=True)\n\
        os.dup2(s.fileno(), 3); os.environ.update(LISTEN_FDS=\"1\", LISTEN_PID=str(os.getpid()))\n\
        os.execv(sys.argv[1], sys.argv[1:])' \"$@\"";
    let text = config(2, "").replace(LISTENERS, "");
    let mut ship = Ship::start(&["sh", "-c", script, "sh"], &text);
    for _ in 0..2 {
        ship.upgrade(2);
        let mut client = Client::connect(&ship.tcp).unwrap();
        assert_eq!(client.get("/").unwrap().status, 200);
    }
    ship.signal(Signal::SIGTERM);
    ship.wait_for_end();
}

#[test]
fn as_process_1_the_old_master_stays_as_shepherd_of_all_that_follow() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can make a pid namespace");
        return;
    }
    let mut ship = Ship::start(&["unshare", "--pid", "--fork", "--mount-proc"], &config(2, ""));
    // As we see it; in its namespace it is process 1.
    let first = until("unshare has forked", || {
        process::children(ship.child.id() as i32).first().copied()
    });
    let is_master = |pid: &i32| process::title(*pid).starts_with("appserver: master");
    let mut before = first;
    for round in 1..=3 {
        process::signal(before, Signal::SIGUSR2);
        ship.wait_for_logs("upgrade complete", round);
        before = until("one new master is left, and its workers", || {
            let children = process::children(first);
            let [new] = children[..] else { return None };
            (new != before && is_master(&new) && process::children(new).len() == 2).then_some(new)
        });
        ship.get("/");
    }
    process::signal(first, Signal::SIGTTIN);
    until("it passes signals on", || {
        (process::children(before).len() == 3).then_some(())
    });
    process::signal(first, Signal::SIGTERM);
    ship.wait_for_end();
    assert_eq!(ship.child.wait().unwrap().code(), Some(0), "{}", ship.log());
}
