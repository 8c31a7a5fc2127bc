//! HUP with something changed, something broken, or asked for twice; and the image that survives its file.
//!
//! Takes a configuration file and a module that are rewritten between reloads; gives who serves afterwards. That calls in
//! flight finish is in signals.rs.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::modules::{self, module, root};
use crate::support::process;
use crate::support::server::Server;
use crate::support::wait::until;

const ARGS: &str = "first";

fn teller() -> String {
    fs::read_to_string(root().join("tests/handlers/c/teller.c")).unwrap()
}

fn config(workers: usize, module: &Path, name: &str) -> String {
    format!("workers = {workers}\n[[mount]]\npath = \"/\"\nmodule = {module:?}\nargs = {{ name = {name:?} }}\n")
}

/// A server that reads everything from its file, and the module it serves.
fn told_by_file(workers: usize) -> (Server, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let module = modules::c(folder.path(), "teller", &teller());
    let text = config(workers, &module, ARGS);
    (Server::bare().workers(workers).config(&text).start(), folder)
}

fn rewrite(server: &Server, text: &str) {
    fs::write(server.folder().join("appserver.toml"), text).unwrap();
}

/// Waits until none of the old workers is left and `wanted` new ones are there.
fn replaced(server: &Server, old: &[i32], wanted: usize) -> Vec<i32> {
    server.wait_for_workers("all are new", |pids| {
        pids.len() == wanted && pids.iter().all(|pid| !old.contains(pid))
    })
}

#[test]
fn a_changed_number_of_workers_is_taken_over() {
    let (server, folder) = told_by_file(2);
    for wanted in [4, 1] {
        let old = server.workers();
        rewrite(&server, &config(wanted, &folder.path().join("teller.so"), ARGS));
        server.signal(Signal::SIGHUP);
        replaced(&server, &old, wanted);
        assert_eq!(server.get("/").status, 200);
    }
}

#[test]
fn changed_arguments_are_taken_over() {
    let (server, folder) = told_by_file(2);
    let old = server.workers();
    rewrite(&server, &config(2, &folder.path().join("teller.so"), "second"));
    server.signal(Signal::SIGHUP);
    replaced(&server, &old, 2);
    assert!(server.get("/").text().starts_with("second 1 "));
}

#[test]
fn another_module_and_a_new_version_of_one_are_taken_over() {
    let (server, folder) = told_by_file(2);
    let old = server.workers();
    let changed = teller().replace("\"%s %d [", "\"changed %s %d [");
    modules::c(folder.path(), "next", &changed);
    fs::rename(folder.path().join("next.so"), folder.path().join("teller.so")).unwrap();
    server.signal(Signal::SIGHUP);
    let old = replaced(&server, &old, 2);
    assert!(
        server.get("/").text().starts_with("changed first "),
        "{}",
        server.get("/").text()
    );

    rewrite(&server, &config(2, &module("hello"), ARGS));
    server.signal(Signal::SIGHUP);
    replaced(&server, &old, 2);
    assert_eq!(server.get("/").text(), "Hello, world!\n");
}

#[test]
fn a_broken_configuration_leaves_the_old_workers_serving_and_is_told() {
    let (server, folder) = told_by_file(2);
    let module = folder.path().join("teller.so");
    let old = server.workers();
    for (broken, told) in [
        ("workers = \n".to_owned(), "appserver.toml"),
        (format!("wokers = 3\n{}", config(2, &module, ARGS)), "wokers"),
        (config(2, &folder.path().join("absent.so"), ARGS), "absent.so"),
    ] {
        rewrite(&server, &broken);
        server.signal(Signal::SIGHUP);
        server.wait_for_log(told);
        assert_eq!(server.get("/").status, 200);
        assert_eq!(server.workers(), old, "{told}");
    }
    rewrite(&server, &config(2, &module, "mended"));
    server.signal(Signal::SIGHUP);
    replaced(&server, &old, 2);
    assert!(server.get("/").text().starts_with("mended "));
}

#[test]
fn a_module_whose_new_workers_cannot_start_leaves_the_old_ones_serving() {
    for how in ["fail", "panic", "segv", "exit", "hang"] {
        let lab = module("lab");
        let text = |boot: &str| {
            format!(
                "workers = 2\n[timeouts]\nboot = \"2s\"\n[[mount]]\npath = \"/\"\nmodule = {lab:?}\nargs = {{ {boot} }}\n"
            )
        };
        let server = Server::bare().workers(2).config(&text("")).start();
        let old = server.workers();
        rewrite(&server, &text(&format!("boot = {how:?}")));
        server.signal(Signal::SIGHUP);
        server.wait_for_log("reload");
        until(&format!("boot={how}: the attempt is called off"), || {
            (server.log().contains("refused") || server.log().contains("keep")).then_some(())
        });
        server.wait_for_workers("only the old ones are left", |pids| pids == old);
        assert_eq!(server.get("/").status, 200, "boot={how}");
        rewrite(&server, &text(""));
        server.signal(Signal::SIGHUP);
        replaced(&server, &old, 2);
    }
}

#[test]
fn a_second_hup_during_a_reload_is_done_after_it() {
    let lab = module("lab");
    let text = |name: &str| {
        format!(
            "workers = 2\n[[mount]]\npath = \"/\"\nmodule = {lab:?}\nargs = {{ boot = \"slow:300\", name = {name:?} }}\n"
        )
    };
    let server = Server::bare().workers(2).config(&text("a")).start();
    let old = server.workers();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("reloading");
    rewrite(&server, &text("b"));
    server.signal(Signal::SIGHUP);
    until("the third generation serves", || {
        server.try_get("/generation").filter(|reply| reply.text().trim() == "3")
    });
    replaced(&server, &old, 2);
}

#[test]
fn a_killed_worker_comes_back_from_memory_when_the_file_is_overwritten_or_deleted() {
    let (server, folder) = told_by_file(2);
    let path = folder.path().join("teller.so");
    for change in ["overwritten", "deleted"] {
        match change {
            "overwritten" => fs::write(&path, vec![0; 100_000]).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        let old = server.workers();
        for &pid in &old {
            process::signal(pid, Signal::SIGKILL);
        }
        replaced(&server, &old, 2);
        until("the old bytes serve", || {
            server.try_get("/").filter(|reply| reply.text().starts_with("first "))
        });
    }
}

#[test]
fn a_generation_whose_workers_die_before_all_are_ready_is_refused() {
    let (server, folder) = told_by_file(3);
    let source = fs::read_to_string(root().join("tests/handlers/c/dies_soon.c")).unwrap();
    let doomed = modules::c(folder.path(), "dies_soon", &source);
    rewrite(&server, &config(3, &doomed, ARGS));
    server.signal(Signal::SIGHUP);
    server.wait_for_log("before all were ready");
    // Those that had made room already are replaced by others of their own generation.
    server.wait_for_workers("the old generation alone", |pids| {
        let old = |pid: &i32| process::title(*pid).ends_with("gen 1");
        pids.len() == 3 && pids.iter().all(old)
    });
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn the_probe_request_decides_whether_a_generation_is_taken() {
    let lab = module("lab");
    let text = |probe: &str, name: &str| {
        format!(
            "workers = 2\n[reload]\nprobe = {probe:?}\n[[mount]]\npath = \"/\"\nmodule = {lab:?}\nargs = {{ name = {name:?} }}\n"
        )
    };
    let server = Server::bare().workers(2).config(&text("/?first", "a")).start();
    for (probe, told) in [
        ("/status?code=503", "answered 503"),
        ("/panic", "answered 500"),
        ("/none", "answered 500"),
        ("/segv", "killed by SIGSEGV"),
        ("/exit?code=0", "exited with code 0"),
    ] {
        rewrite(&server, &text(probe, "b"));
        server.signal(Signal::SIGHUP);
        let line = server.wait_for_log(told);
        assert!(line.contains("reload refused"), "{line}");
        assert_eq!(server.get("/generation").text().trim(), "1", "{probe}");
    }
    rewrite(&server, &text("/status?code=204", "c"));
    server.signal(Signal::SIGHUP);
    server.wait_for_log("reload complete");
    assert_eq!(server.get("/generation").text().trim(), "2");
}

#[test]
fn a_probe_that_hangs_is_refused_in_time() {
    let lab = module("lab");
    let text = |probe: &str| {
        format!(
            "workers = 1\nmodule = {lab:?}\n[timeouts]\nboot = \"1s\"\nrequest = \"1s\"\n[reload]\nprobe = {probe:?}\n"
        )
    };
    let server = Server::bare().workers(1).config(&text("/")).start();
    rewrite(&server, &text("/hang"));
    server.signal(Signal::SIGHUP);
    server.wait_for_log("reload refused");
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn a_rolling_reload_never_has_more_than_a_quarter_of_successors_starting() {
    let lab = module("lab");
    let text = |name: &str| {
        format!(
            "workers = 8\n[[mount]]\npath = \"/\"\nmodule = {lab:?}\nargs = {{ boot = \"slow:100\", name = {name:?} }}\n"
        )
    };
    let server = Server::bare().workers(8).config(&text("a")).start();
    rewrite(&server, &text("b"));
    server.signal(Signal::SIGHUP);
    let mut most = 0;
    until("the new generation holds every post", || {
        let titles: Vec<String> = server.workers().into_iter().map(process::title).collect();
        let workers = titles.iter().filter(|title| title.contains("worker")).count();
        most = most.max(workers);
        server.log().contains("reload complete").then_some(())
    });
    assert!(
        (9..=8 + 2 + 2).contains(&most),
        "{most} workers at once, those that leave included"
    );
}

#[test]
fn a_configuration_that_became_a_pipe_holds_the_master_up_for_nothing() {
    let (mut server, _folder) = told_by_file(1);
    let file = server.folder().join("appserver.toml");
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("it is no regular file");
    assert_eq!(server.get("/").status, 200);
    server.stop(Signal::SIGTERM);
}
