//! What the cache outlives: workers, reloads, upgrades of the binary and, with a file, stops.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{ask, cached, get, is_hit};
use crate::support::client::Client;
use crate::support::modules::SERVER;
use crate::support::ship::{Ship, config, replace};
use crate::support::verbs::{socket, told, verb};
use crate::support::wait::until;

const TARGET: &str = "/cache?max_age=3600&etag=kept";

#[test]
fn a_killed_worker_takes_nothing_with_it() {
    let server = cached(2, "").start();
    let first = get(&server, TARGET, "");
    let old = server.workers();
    for worker in &old {
        kill(Pid::from_raw(*worker), Signal::SIGKILL).unwrap();
    }
    server.wait_for_workers("two new ones", |now| {
        now.len() == 2 && now.iter().all(|pid| !old.contains(pid))
    });
    assert_eq!(until("an answer", || server.try_get(TARGET)).body, first.body);
}

#[test]
fn a_reload_keeps_it_unless_each_generation_has_its_own() {
    for (scope, kept) in [("server", true), ("generation", false)] {
        let server = cached(2, &format!("scope = \"{scope}\"\n")).start();
        let first = get(&server, TARGET, "");
        assert!(is_hit(&get(&server, TARGET, "")));
        let (code, _, error) = told(&verb(&socket(&server), "reload"));
        assert_eq!(code, Some(0), "{error}");
        let after = get(&server, TARGET, "");
        assert_eq!((is_hit(&after), after.body == first.body), (kept, kept), "{scope}");
    }
}

#[test]
fn a_new_binary_goes_on_with_it() {
    let more = "[cache]\nenabled = true\nsize = \"8MiB\"\nmax-entry = \"512KiB\"\n";
    let mut ship = Ship::start(&[], &format!("{}{more}", config(2, "")));
    let get = |ship: &Ship| ask(&mut Client::connect(&ship.tcp).unwrap(), "GET", TARGET, "");
    let first = get(&ship);
    replace(ship.folder.path(), Path::new(SERVER));
    ship.upgrade(2);
    let after = get(&ship);
    assert!(is_hit(&after));
    assert_eq!(after.body, first.body);
}

#[test]
fn a_stop_keeps_it_in_a_file_and_a_damaged_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stored");
    let start = || cached(2, &format!("store = \"{}\"\n", file.display())).start();
    let mut server = start();
    let first = get(&server, TARGET, "");
    get(&server, "/cache?max_age=3600&vary=x", "X: 1\r\n");
    assert_eq!(server.get("/kv?op=set&key=a&value=1").status, 200);
    server.stop(Signal::SIGTERM);
    assert!(server.log().contains("entries of the cache stored"), "{}", server.log());

    let mut server = start();
    server.wait_for_log("entries of the cache taken back");
    assert_eq!(get(&server, TARGET, "").body, first.body);
    assert!(is_hit(&get(&server, "/cache?max_age=3600&vary=x", "X: 1\r\n")));
    assert_eq!(server.get("/kv?op=get&key=a").text(), "1");
    // What is set now is what counts, whatever was restored (uWSGI gave another key's bytes).
    assert_eq!(server.get("/kv?op=set&key=a&value=2").status, 200);
    assert_eq!(server.get("/kv?op=get&key=a").text(), "2");
    server.stop(Signal::SIGTERM);

    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let mut server = start();
    server.wait_for_log("is damaged at byte");
    assert!(!is_hit(&get(&server, TARGET, "")));
    server.stop(Signal::SIGTERM);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no other file is left");
}
