//! Configuration as users meet it: the shipped files, the messages, the precedence, the exit codes.
//!
//! Takes files, flags and environment variables; gives exit codes and the text that is printed.

use std::fs;
use std::process::{Command, Output};

use crate::support::modules::{SERVER, module, root};
use crate::support::server::{Listen, Server};

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Checks a configuration text; gives the exit code and what was printed.
fn check(config: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("appserver.toml");
    fs::write(&file, config).unwrap();
    let output = Server::run(&["--check-config", "--config", file.to_str().unwrap()]);
    (output.status.code(), text(&output))
}

fn sound() -> String {
    format!("module = {:?}\n", module("hello"))
}

#[test]
fn the_shipped_files_are_sound() {
    for name in ["appserver.toml", "development.toml"] {
        let file = root().join("config").join(name);
        let hello = module("hello");
        let args = [
            "--check-config",
            "--config",
            file.to_str().unwrap(),
            "--module",
            hello.to_str().unwrap(),
        ];
        let output = Server::run(&args);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output));
    }
}

#[test]
fn a_sound_configuration_is_said_to_be_so() {
    let (code, said) = check(&sound());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.to_lowercase().contains("ok"), "{said}");
}

#[test]
fn an_unknown_key_is_shown_with_its_line_and_the_key_that_was_meant() {
    let (code, said) = check(&format!("{}\nworker = 3\n", sound()));
    assert_eq!(code, Some(4), "{said}");
    for part in ["appserver.toml", "3", "^", "worker = 3", "`workers`"] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
}

#[test]
fn all_findings_are_told_at_once() {
    let (code, said) = check(&format!(
        "{}workers = 0\nthreads = 0\n[timeouts]\nheader = \"soon\"\n",
        sound()
    ));
    assert_eq!(code, Some(4), "{said}");
    for part in ["workers", "threads"] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
}

#[test]
fn a_check_loads_the_module_and_says_why_it_will_not_do() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.so");
    fs::write(&bad, "text").unwrap();
    let (code, said) = check(&format!("module = {bad:?}\n"));
    assert!(matches!(code, Some(4 | 5)), "{said}");
    assert!(said.contains("bad.so") && said.contains("ELF"), "{said}");
}

#[test]
fn a_missing_file_or_module_is_a_bad_configuration() {
    let output = Server::run(&["--config", "/nonexistent/appserver.toml"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(
        text(&output).contains("/nonexistent/appserver.toml"),
        "{}",
        text(&output)
    );
    let output = Command::new(SERVER).current_dir("/").output().unwrap();
    assert!(
        matches!(output.status.code(), Some(2 | 4)),
        "no module was named: {}",
        text(&output)
    );
    assert!(text(&output).contains("module"), "{}", text(&output));
}

#[test]
fn a_bad_command_line_is_exit_2() {
    for args in [&["--wrokers", "3"][..], &["--workers", "many"], &["--bind"]] {
        let output = Server::run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output));
    }
}

#[test]
fn an_address_in_use_is_exit_3_and_named() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let builder = Server::with(module("hello"))
        .listen(Listen::AsConfigured)
        .arg("--bind")
        .arg(&address);
    let (code, log) = builder.fail();
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains(&address), "{log}");
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("appserver.toml");
    fs::write(&file, format!("{}workers = 3\nthreads = 5\n", sound())).unwrap();
    let workers = |env: Option<&str>, flag: Option<&str>| {
        let mut print = Command::new(SERVER);
        print
            .arg("--print-config")
            .arg("--config")
            .arg(&file)
            .env_remove("APPSERVER_WORKERS");
        if let Some(value) = env {
            print.env("APPSERVER_WORKERS", value);
        }
        if let Some(value) = flag {
            print.args(["--workers", value]);
        }
        let output = print.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let all = text(&output);
        let line = all.lines().find(|line| line.trim_start().starts_with("workers"));
        line.unwrap_or_else(|| panic!("no workers in:\n{all}")).to_owned()
    };
    for (env, flag, value, origin) in [
        (None, None, "3", "appserver.toml"),
        (Some("4"), None, "4", "APPSERVER_WORKERS"),
        (Some("4"), Some("6"), "6", "--workers"),
    ] {
        let line = workers(env, flag);
        assert!(
            line.contains(value) && line.contains(origin),
            "{value} from {origin}: {line}"
        );
    }
}

#[test]
fn a_printed_configuration_can_be_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let hello = module("hello");
    let output = Server::run(&["--print-config", "--workers", "7", "--module", hello.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let file = folder.path().join("printed.toml");
    fs::write(&file, &output.stdout).unwrap();
    let again = Server::run(&["--check-config", "--config", file.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(0), "{}\n{}", text(&output), text(&again));
}

#[test]
fn help_and_version_are_exit_0() {
    for flag in ["--help", "--version"] {
        let output = Server::run(&[flag]);
        assert_eq!(output.status.code(), Some(0), "{flag}");
        assert!(text(&output).contains("appserver"), "{}", text(&output));
    }
}
