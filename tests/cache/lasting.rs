//! What the cache outlives: workers, reloads, upgrades of the binary and, with a file, stops.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{ask, cached, get, is_hit};
use crate::support::client::Client;
use crate::support::modules::{self, SERVER, module, root};
use crate::support::process;
use crate::support::server::Server;
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

/// All that a server is told, but where it listens.
fn text(server: &Path, module: &Path, args: &str, cache: &str) -> String {
    let store = server.join("stored");
    format!(
        "workers = 2\n[[mount]]\npath = \"/\"\nmodule = {module:?}\nargs = {{ {args} }}\n[cache]\nmax-entry = \"512KiB\"\nstore = {store:?}\n{cache}\n"
    )
}

#[test]
fn a_reload_that_is_refused_leaves_it_in_the_hands_of_the_verbs() {
    let folder = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(root().join("tests/handlers/c/dies_soon.c")).unwrap();
    let doomed = modules::c(folder.path(), "dies_soon", &source);
    for other in [LARGE, "enabled = false"] {
        let mut server = by_file(SMALL);
        get(&server, TARGET, "");
        rewrite(&server, &doomed, "", other);
        assert_eq!(told(&verb(&socket(&server), "reload")).0, Some(1), "{other}");
        server.wait_for_workers("the old generation alone", |pids| {
            pids.len() == 2 && pids.iter().all(|pid| process::title(*pid).ends_with("gen 1"))
        });
        assert!(is_hit(&get(&server, TARGET, "")), "{other}");
        let (_, said, why) = told(&verb(&socket(&server), "cache purge --all"));
        assert_eq!(said, "1 entry thrown away\n", "{other}: {why}");
        assert!(!is_hit(&get(&server, TARGET, "")), "{other}");
        let (_, stats, _) = told(&verb(&socket(&server), "cache stats --json"));
        assert!(stats.contains("\"size\": 8"), "{other}: {stats}");
        server.stop(Signal::SIGTERM);
        assert!(
            server.log().contains("1 entries of the cache stored"),
            "{other}: {}",
            server.log()
        );
    }
}

/// A server whose file says so, and the folder where it is.
fn by_file(cache: &str) -> Server {
    let builder = Server::bare().workers(2);
    let control = builder.folder().join("control.sock");
    let text = text(builder.folder(), &module("lab"), "", cache);
    builder.arg("--control").arg(control).config(&text).start()
}

fn rewrite(server: &Server, module: &Path, args: &str, cache: &str) {
    let text = text(server.folder(), module, args, cache);
    fs::write(server.folder().join("appserver.toml"), text).unwrap();
}

const SMALL: &str = "enabled = true\nsize = \"8MiB\"";
const LARGE: &str = "enabled = true\nsize = \"16MiB\"";

#[test]
fn a_purge_reaches_the_caches_of_all_generations_that_serve() {
    let server = by_file(SMALL);
    get(&server, TARGET, "");
    rewrite(&server, &module("lab"), "boot = \"slow:3000\"", LARGE);
    std::thread::scope(|scope| {
        let reloaded = scope.spawn(|| verb(&socket(&server), "reload"));
        server.wait_for_log("the cache starts empty");
        assert!(is_hit(&get(&server, TARGET, "")), "nobody of the new generation serves");
        assert_eq!(
            told(&verb(&socket(&server), "cache purge --all")).1,
            "1 entry thrown away\n"
        );
        let titles = || server.workers().into_iter().map(process::title);
        assert_eq!(
            titles().filter(|title| title.ends_with("gen 1")).count(),
            2,
            "all that serve are old"
        );
        assert!(!is_hit(&get(&server, TARGET, "")));
        assert_eq!(told(&reloaded.join().unwrap()).0, Some(0));
    });
}

#[test]
fn what_was_purged_does_not_come_back_from_the_file_at_a_reload() {
    let mut server = by_file(SMALL);
    get(&server, TARGET, "");
    server.stop(Signal::SIGTERM);
    let stored = fs::read(server.folder().join("stored")).unwrap();

    let server = by_file("enabled = true\nsize = \"8MiB\"\nwait = \"4s\"");
    assert!(!is_hit(&get(&server, TARGET, "")));
    assert_eq!(
        told(&verb(&socket(&server), "cache purge --all")).1,
        "1 entry thrown away\n"
    );
    fs::write(server.folder().join("stored"), stored).unwrap();
    rewrite(&server, &module("lab"), "", LARGE);
    assert_eq!(told(&verb(&socket(&server), "reload")).0, Some(0));
    let first = get(&server, TARGET, "");
    assert!(!is_hit(&first), "{}", server.log());
    server.wait_for_log("the cache starts empty");
    // A stop that is answered has reaped whoever would have read it.
    assert_eq!(told(&verb(&socket(&server), "stop")).0, Some(0));
    assert!(!server.log().contains("taken back"), "{}", server.log());
}

#[test]
fn a_cache_that_is_out_of_use_takes_no_memory() {
    let server = by_file(SMALL);
    // KiB of each such memory that the master maps.
    let held = || -> Vec<u64> {
        let maps = fs::read_to_string(format!("/proc/{}/smaps", server.master())).unwrap();
        let of_caches = maps.split("VmFlags").filter(|map| map.contains("appserver-cache"));
        let sizes = of_caches.filter_map(|map| map.lines().find(|line| line.starts_with("Rss:")));
        sizes
            .map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
            .collect()
    };
    for cache in [LARGE, SMALL, "enabled = false", SMALL] {
        rewrite(&server, &module("lab"), "", cache);
        assert_eq!(told(&verb(&socket(&server), "reload")).0, Some(0));
    }
    assert_eq!(held().len(), 4, "{:?}", held());
    until("that of all but one is given back", || {
        (held().iter().filter(|size| **size > 0).count() == 1).then_some(())
    });
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
    let log = server.log();
    let taken_back = log.find("taken back").unwrap();
    assert!(log.find("ready").is_none_or(|ready| taken_back < ready), "{log}");
    assert!(
        !file.exists(),
        "after a crash it would bring back what is purged from now on"
    );
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
