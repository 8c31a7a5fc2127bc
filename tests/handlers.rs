//! Modules of every kind: served when they are sound, refused by name when they are not.
//!
//! Takes C sources built with plain gcc and damaged copies of good modules; gives the exit code and the sentence that
//! the user reads.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::modules::{self, module, root};
use crate::support::server::Server;

/// Starts the server with a module that must be refused; gives what it said.
fn refused(path: impl Into<PathBuf>) -> String {
    let path = path.into();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let (code, log) = Server::with(path).fail();
    assert_eq!(code, Some(5), "{log}");
    assert!(log.contains(&name), "the log names {name}:\n{log}");
    log
}

fn damaged(folder: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = fs::read(module("hello")).unwrap();
    change(&mut bytes);
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn the_c_handler_built_with_plain_gcc_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(root().join("handlers/hello.c")).unwrap();
    let server = Server::with(modules::c(folder.path(), "hello-c", &source)).start();
    let reply = server.get("/");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/plain")));
    assert!(reply.text().starts_with("Hello"), "{}", reply.text());
}

#[test]
fn the_example_handlers_are_served() {
    let echo = Server::with(module("echo")).start();
    let mut client = echo.client();
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nback")
        .unwrap();
    assert!(client.reply().unwrap().text().contains("back"));

    let environ = Server::with(module("environ")).start();
    let reply = environ.get("/<script>".replace('<', "%3C").replace('>', "%3E").as_str());
    assert!(
        reply
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("text/html")),
        "{reply:?}"
    );
    assert!(reply.text().contains("REQUEST_METHOD"), "{}", reply.text());
    assert!(!reply.text().contains("<script>"), "the page escapes what it shows");
}

#[test]
fn a_module_of_another_abi_major_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = "
#include <string.h>
#include \"appserver.h\"
static appserver_status handle(void *m, void *w, appserver_call *c) { (void)m; (void)w; (void)c; return 0; }
const appserver_module *appserver_module_v1(void);
const appserver_module *appserver_module_v1(void) {
    static appserver_module it;
    it.struct_size = sizeof it;
    memcpy(&it.magic, \"APPSERVR\", 8);
    it.abi_major = 2;
    it.handle = handle;
    return &it;
}
";
    let log = refused(modules::c(folder.path(), "tomorrow", source));
    assert!(log.contains("ABI") && log.contains('2'), "{log}");
}

#[test]
fn a_library_without_the_symbol_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = refused(modules::c(folder.path(), "plain", "int nothing_of_ours = 1;\n"));
    assert!(log.contains("appserver_module_v1"), "{log}");
}

#[test]
fn a_module_for_another_architecture_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    // e_machine, bytes 18 and 19 of an ELF header: 183 is AArch64, 62 x86-64 (elf(5)).
    let (other, name) = if cfg!(target_arch = "aarch64") {
        (62, "x86")
    } else {
        (183, "aarch64")
    };
    let log = refused(damaged(folder.path(), "foreign.so", |bytes| bytes[18] = other));
    assert!(log.to_lowercase().contains(name), "{log}");
}

#[test]
fn a_truncated_module_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, keep) in [("half.so", 2), ("stub.so", 1000)] {
        let path = damaged(folder.path(), name, |bytes| bytes.truncate(bytes.len() / keep));
        assert!(refused(path).contains("truncated"), "{name}");
    }
}

#[test]
fn a_file_that_is_no_library_at_all_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.so");
    fs::write(&text, "these are my notes\n").unwrap();
    assert!(refused(text).contains("ELF"));
    let empty = folder.path().join("empty.so");
    fs::write(&empty, "").unwrap();
    refused(empty);
    refused(folder.path().join("absent.so"));
    fs::create_dir(folder.path().join("folder.so")).unwrap();
    refused(folder.path().join("folder.so"));
}

#[test]
fn a_module_that_needs_a_library_nobody_has_is_refused_by_that_librarys_name() {
    let folder = tempfile::tempdir().unwrap();
    modules::c(
        folder.path(),
        "libgone",
        "int gone(void);\nint gone(void) { return 1; }\n",
    );
    let source = folder.path().join("needy.c");
    fs::write(
        &source,
        "int gone(void);\nint need(void);\nint need(void) { return gone(); }\n",
    )
    .unwrap();
    let path = folder.path().join("needy.so");
    let mut gcc = std::process::Command::new("gcc");
    gcc.args(["-fPIC", "-shared", "-o"])
        .arg(&path)
        .arg(&source)
        .arg(folder.path().join("libgone.so"));
    modules::run(&mut gcc);
    fs::remove_file(folder.path().join("libgone.so")).unwrap();
    assert!(refused(path).contains("libgone.so"));
}

#[test]
fn a_module_whose_worker_cannot_start_stops_the_first_boot_with_the_reason() {
    for how in ["fail", "panic", "segv", "exit"] {
        let (code, log) = Server::lab().arg("--arg").arg(format!("boot={how}")).fail();
        assert_eq!(code, Some(5), "boot={how}:\n{log}");
    }
}

#[test]
fn a_module_that_hangs_at_start_is_given_up_after_the_boot_timeout() {
    let (code, log) = Server::lab()
        .arg("--arg")
        .arg("boot=hang")
        .config("[timeouts]\nboot = \"500ms\"\n")
        .fail();
    assert_eq!(code, Some(5), "{log}");
    assert!(log.contains("boot"), "the log names the timeout:\n{log}");
}

#[test]
fn overwriting_the_module_file_does_not_hurt_a_running_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = damaged(folder.path(), "hello.so", |_| {});
    let server = Server::with(&path).start();
    fs::write(&path, "gone").unwrap();
    let old = server.workers();
    crate::support::process::signal(old[0], nix::sys::signal::Signal::SIGKILL);
    server.wait_for_workers("the killed worker is replaced from memory", |pids| {
        pids.len() == 2 && pids != old
    });
    for _ in 0..20 {
        assert_eq!(server.get("/").text(), "Hello, world!\n");
    }
}
