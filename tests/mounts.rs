//! Several modules under one roof: prefixes, arguments, thread classes.
//!
//! Takes C modules that tell who they are; gives which of them answered, what it was told of the path, and whether its
//! calls overlapped.

use std::fs;
use std::thread;

use tempfile::TempDir;

use crate::support::modules::{self, root};
use crate::support::server::Server;

fn source(name: &str) -> String {
    fs::read_to_string(root().join("tests/handlers/c").join(name)).unwrap()
}

/// A server that runs this C module alone.
fn alone(name: &str, source: &str) -> (Server, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let module = modules::c(folder.path(), name, source);
    (Server::with(module).workers(1).start(), folder)
}

/// Three mounts of one file with a name each, and nothing at the root but a mount that is asked for.
fn three(root: bool) -> (Server, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let module = modules::c(folder.path(), "teller", &source("teller.c"));
    let mut config = String::from("workers = 1\n");
    let all = [("/one", "first"), ("/one/two", "second"), ("/", "root")];
    for (path, name) in all.into_iter().take(if root { 3 } else { 2 }) {
        config += &format!("[[mount]]\npath = {path:?}\nmodule = {module:?}\nargs = {{ name = {name:?} }}\n");
    }
    // The start waits for an answer below 500, and a 404 is one.
    (Server::bare().workers(1).config(&config).start(), folder)
}

#[test]
fn one_file_mounted_thrice_has_its_own_arguments_and_state_at_each_mount() {
    let (server, _folder) = three(true);
    assert_eq!(server.get("/one/a").text(), "first 1 [/one] [/a] true");
    assert_eq!(server.get("/one/two/a").text(), "second 1 [/one/two] [/a] true");
    assert_eq!(server.get("/one/b").text(), "first 2 [/one] [/b] true");
    assert_eq!(server.get("/one/two/b").text(), "second 2 [/one/two] [/b] true");
    assert!(
        server.get("/c").text().starts_with("root "),
        "{}",
        server.get("/c").text()
    );
}

#[test]
fn the_longest_prefix_wins_and_ends_at_a_segments_border() {
    let (server, _folder) = three(true);
    for (target, name, script, path) in [
        ("/one", "first", "/one", ""),
        ("/one/", "first", "/one", "/"),
        ("/one?q", "first", "/one", ""),
        ("/one/two", "second", "/one/two", ""),
        ("/one/two/", "second", "/one/two", "/"),
        ("/one/twofold", "first", "/one", "/twofold"),
        ("/oneness", "root", "", "/oneness"),
        ("/one//two", "first", "/one", "//two"),
        ("/", "root", "", "/"),
        ("/ONE", "root", "", "/ONE"),
    ] {
        let text = server.get(target).text();
        assert!(text.starts_with(name), "{target}: {text}");
        assert!(text.contains(&format!("[{script}] [{path}]")), "{target}: {text}");
    }
}

#[test]
fn a_path_under_no_mount_is_a_404_of_the_server() {
    let (server, _folder) = three(false);
    for target in ["/", "/oneness", "/two"] {
        let reply = server.get(target);
        assert_eq!(reply.status, 404, "{target}: {reply:?}");
        assert!(!reply.text().contains("first"), "{target}: no handler was asked");
    }
    assert_eq!(server.get("/one").status, 200);
}

/// What eight requests at the same time are told.
fn eight_at_once(server: &Server) -> Vec<String> {
    thread::scope(|scope| {
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(|| server.get("/").text())).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    })
}

#[test]
fn calls_of_a_module_of_class_one_never_overlap() {
    let (server, _folder) = alone("threads_one", &source("threads_one.c"));
    assert_eq!(eight_at_once(&server), ["1"; 8]);
}

#[test]
fn calls_of_a_module_of_class_many_do_overlap() {
    let many = source("threads_one.c").replace("APPSERVER_THREADS_ONE", "APPSERVER_THREADS_MANY");
    let (server, _folder) = alone("threads_many", &many);
    let greatest = eight_at_once(&server).iter().map(|text| text.parse().unwrap()).max();
    assert!(greatest > Some(1), "eight calls of 50 ms each: {greatest:?}");
}

#[test]
fn every_call_of_a_pinned_module_comes_on_the_thread_of_its_init() {
    let (server, _folder) = alone("threads_pinned", &source("threads_pinned.c"));
    assert_eq!(eight_at_once(&server), ["same"; 8]);
    // Calls that have proved short may be made elsewhere; these may not.
    let mut client = server.client();
    for _ in 0..200 {
        assert_eq!(client.get("/").unwrap().text(), "same");
    }
}

#[test]
fn multithread_is_false_for_the_classes_one_and_pinned() {
    for class in ["ONE", "PINNED"] {
        let text = source("teller.c").replace("THREADS_MANY", &format!("THREADS_{class}"));
        let (server, _folder) = alone("teller", &text);
        assert!(
            server.get("/").text().ends_with(" false"),
            "{class}: {}",
            server.get("/").text()
        );
    }
}
