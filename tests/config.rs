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

/// The new keys of supervision, each with a sound value, a wrong one and what is said to it.
const SUPERVISION: [(&str, &str, &str, &str, &str); 8] = [
    ("limits", "max-requests", "50", "-1", "a number from 0"),
    ("limits", "max-lifetime", "\"3600s\"", "\"forever\"", "a duration like"),
    ("limits", "memory-soft", "\"64MiB\"", "\"64m\"", "write 64MiB"),
    ("limits", "memory-hard", "\"1GiB\"", "true", "a size like"),
    (
        "admin",
        "bind",
        "\"127.0.0.1:9000\"",
        "\"9000\"",
        "must be an address like",
    ),
    (
        "control",
        "socket",
        "\"/run/appserver/control.sock\"",
        "3",
        "must be a string",
    ),
    (
        "reload",
        "probe",
        "\"/healthz\"",
        "\"healthz\"",
        "the path of a request",
    ),
    (
        "limits",
        "max-requests-jitter",
        "5",
        "\"5\"",
        "numbers stand without quotes",
    ),
];

#[test]
fn the_keys_of_supervision_are_printed_with_their_origin_and_wrong_values_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("appserver.toml");
    for (table, key, good, bad, told) in SUPERVISION {
        let also = if key == "max-requests-jitter" {
            "max-requests = 1\n"
        } else {
            ""
        };
        fs::write(&file, format!("{}[{table}]\n{also}{key} = {good}\n", sound())).unwrap();
        let output = Server::run(&["--print-config", "--config", file.to_str().unwrap()]);
        let page = text(&output);
        assert_eq!(output.status.code(), Some(0), "{key}: {page}");
        let line = page.lines().find(|line| line.starts_with(&format!("{key} = {good}")));
        assert!(
            line.is_some_and(|line| line.contains("appserver.toml:")),
            "{key}: {page}"
        );

        let (code, said) = check(&format!("{}[{table}]\n{also}{key} = {bad}\n", sound()));
        assert_eq!(code, Some(4), "{key}: {said}");
        assert!(
            said.contains(&format!("{table}.{key}")) && said.contains(told),
            "{said}"
        );
    }
}

#[test]
fn the_keys_of_supervision_have_their_variables_and_are_off_unless_set() {
    let hello = module("hello");
    let output = Server::run(&["--print-config", "--module", hello.to_str().unwrap()]);
    let page = text(&output);
    for line in [
        "max-requests = 0",
        "max-requests-jitter = 0",
        "max-lifetime = \"0s\"",
        "memory-soft = 0",
        "memory-hard = 0",
        "#bind = (not set)",
        "#socket = (not set)",
        "#probe = (not set)",
    ] {
        let found = page.lines().find(|each| each.starts_with(line));
        assert!(found.is_some_and(|each| each.ends_with("# default")), "{line}: {page}");
    }
    let output = Command::new(SERVER)
        .args(["--print-config", "--module"])
        .arg(&hello)
        .args(["--control", "/a"])
        .env("APPSERVER_CONTROL_SOCKET", "/b")
        .env("APPSERVER_RELOAD_PROBE", "/up")
        .env("APPSERVER_LIMITS_MEMORY_HARD", "1GiB")
        .output()
        .unwrap();
    let page = text(&output);
    for (line, origin) in [
        ("socket = \"/a\"", "flag --control"),
        ("probe = \"/up\"", "environment variable APPSERVER_RELOAD_PROBE"),
        (
            "memory-hard = \"1GiB\"",
            "environment variable APPSERVER_LIMITS_MEMORY_HARD",
        ),
    ] {
        let found = page.lines().find(|each| each.starts_with(line));
        assert!(found.is_some_and(|each| each.ends_with(origin)), "{line}: {page}");
    }
}

#[test]
fn settings_of_supervision_that_contradict_each_other_are_found() {
    for (lines, told, help) in [
        (
            "[limits]\nmax-requests-jitter = 5\n",
            "no meaning without `limits.max-requests`",
            "set `max-requests` too",
        ),
        (
            "[limits]\nmemory-soft = \"2GiB\"\nmemory-hard = \"1GiB\"\n",
            "`limits.memory-soft` (2GiB) must not be more than `limits.memory-hard` (1GiB)",
            "lower `memory-soft`",
        ),
        (
            "[admin]\nbind = \"127.0.0.1:8000\"\n",
            "[admin] bind and a listener have the address 127.0.0.1:8000",
            "another port",
        ),
        (
            "[control]\nsocket = \"/tmp/a.sock\"\n[[listener]]\nbind = \"unix:/tmp/a.sock\"\n",
            "the control socket has the address unix:/tmp/a.sock",
            "the first is at",
        ),
        (
            "[control]\nsocket = \"/tmp/a.sock\"\n[admin]\nbind = \"unix:/tmp/a.sock\"\n",
            "the control socket has the address unix:/tmp/a.sock",
            "the first is at",
        ),
        (
            "[control]\nsocket = \"/nonexistent/a.sock\"\n",
            "the directory /nonexistent does not exist",
            "",
        ),
    ] {
        let (code, said) = check(&format!("{}{lines}", sound()));
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains(told) && said.contains(help), "{said}");
        assert_eq!(said.matches("error: ").count(), 1, "{said}");
    }
    let long = format!("{}[control]\nsocket = \"/tmp/{}\"\n", sound(), "a".repeat(120));
    assert!(check(&long).1.contains("too long for a Unix socket"));
    let any = "[admin]\nbind = \"127.0.0.1:0\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n";
    assert_eq!(check(&format!("{}{any}", sound())).0, Some(0));
}

#[test]
fn what_comes_later_is_refused_by_name() {
    for lines in [
        "[limits]\nqueue-age = \"1s\"\n",
        "[reload]\ncanary = 1\n",
        "[scaling]\nmost = 3\n",
        "[quarantine]\nafter = 3\n",
    ] {
        let (code, said) = check(&format!("{}{lines}", sound()));
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("reserved for a later version"), "{said}");
    }
    let (code, said) = check(&format!("preload = true\n{}", sound()));
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("reserved for a later version"), "{said}");
}
