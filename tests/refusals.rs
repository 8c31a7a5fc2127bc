//! Modules whose descriptor this server cannot accept, each refused by name and with what to do.
//!
//! Takes tests/handlers/c; gives exit code 5 and the sentence that the user reads, at the start and from --check-config.

use std::fs;

use crate::support::modules::{self, root};
use crate::support::server::Server;

fn refused(name: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(root().join("tests/handlers/c").join(format!("{name}.c"))).unwrap();
    let module = modules::c(folder.path(), name, &source);
    let checked = Server::run(&["--check-config", "--module", module.to_str().unwrap()]);
    assert!(!checked.status.success(), "--check-config accepts {name}");
    let (code, log) = Server::with(module).fail();
    assert_eq!(code, Some(5), "{log}");
    assert!(log.contains(&format!("{name}.so")), "the log names the file:\n{log}");
    log
}

#[test]
fn a_module_that_requires_an_unknown_feature_is_refused() {
    let log = refused("unknown_feature");
    assert!(log.contains("feature") && log.contains("0x8000000000000000"), "{log}");
}

#[test]
fn a_module_for_a_later_minor_of_the_abi_is_refused_with_that_minor() {
    let log = refused("min_host_minor");
    assert!(log.contains("1.999"), "{log}");
}

#[test]
fn a_module_of_the_next_major_is_refused() {
    assert!(refused("wrong_major").contains("ABI"));
}

#[test]
fn a_module_with_nothing_to_call_is_refused() {
    assert!(refused("no_handle").contains("handle"));
}

#[test]
fn a_module_that_gives_no_descriptor_is_refused() {
    assert!(refused("null_descriptor").contains("descriptor"));
}

#[test]
fn a_module_without_the_symbol_is_refused() {
    assert!(refused("no_symbol").contains("appserver_module_v1"));
}

#[test]
fn a_module_that_says_why_it_cannot_start_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(root().join("tests/handlers/c/init_fails.c")).unwrap();
    let (code, log) = Server::with(modules::c(folder.path(), "init_fails", &source)).fail();
    assert_eq!(code, Some(5), "{log}");
    assert!(log.contains("the database is away"), "{log}");
}

#[test]
fn a_check_names_every_module_that_will_not_do_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let crash = "#include <stdlib.h>\n__attribute__((constructor)) static void crash(void) { abort(); }\n";
    let crashes = modules::c(folder.path(), "crashes", crash);
    let plain = modules::c(folder.path(), "plain", "int nothing_of_ours = 1;\n");
    let text = folder.path().join("notes.so");
    fs::write(&text, "these are my notes\n").unwrap();
    let absent = folder.path().join("absent.so");
    let mounts = [&absent, &crashes, &text, &plain, &text].into_iter().enumerate();
    let config: String = mounts
        .map(|(number, module)| format!("[[mount]]\npath = \"/{number}\"\nmodule = {module:?}\n"))
        .collect();
    let file = folder.path().join("appserver.toml");
    fs::write(&file, config).unwrap();
    let output = Server::run(&["--check-config", "--config", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    for part in [
        "absent.so",
        "crashes.so",
        "SIGABRT",
        "notes.so",
        "ELF",
        "plain.so",
        "appserver_module_v1",
    ] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
    assert_eq!(
        said.matches("notes.so refused").count(),
        1,
        "once for each file:\n{said}"
    );
}
