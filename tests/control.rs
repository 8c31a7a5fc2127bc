//! The control socket: who may speak over it, how long it is there, and that no caller can hold the master up.
//!
//! Takes the real server and callers that are slow, silent, strangers or talk nonsense; gives what they are told and how the
//! server fared meanwhile. What the verbs do is in verbs.rs.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::modules::{SERVER, module};
use crate::support::process;
use crate::support::server::Server;
use crate::support::verbs::{controlled, socket, told, verb};
use crate::support::wait::{PATIENCE, until};

fn say(server: &Server, bytes: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(socket(server)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    // One that was turned away in the midst of it has its answer all the same.
    let _ = stream.write_all(bytes);
    stream
}

fn answer(stream: UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn the_socket_is_for_its_owner_alone_and_gone_after_the_stop() {
    let mut server = controlled().start();
    let found = fs::symlink_metadata(socket(&server)).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    server.stop(Signal::SIGTERM);
    assert!(!socket(&server).exists());
}

#[test]
fn without_being_told_a_path_a_server_has_no_socket_unless_systemd_made_it_a_folder() {
    let server = Server::lab().start();
    let sockets = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap().flatten();
        entries.filter(|entry| entry.file_type().unwrap().is_socket()).count()
    };
    assert_eq!(sockets(server.folder()), 0);

    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(SERVER)
        .args(["--bind", "127.0.0.1:0", "--workers", "1", "--module"])
        .arg(module("lab"))
        .env("RUNTIME_DIRECTORY", folder.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let path = folder.path().join("control.sock");
    until("the control socket answers", || UnixStream::connect(&path).ok());
    assert_eq!(told(&verb(&path, "stop")).0, Some(0));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn two_who_ask_for_a_reload_at_once_both_hear_of_an_outcome() {
    let server = controlled().start();
    let asking: Vec<UnixStream> = (0..5).map(|_| say(&server, b"{\"verb\":\"reload\"}\n")).collect();
    for stream in asking {
        assert!(answer(stream).contains("\"outcome\":\"done\""), "{}", server.log());
    }
    let stream = say(&server, b"{\"verb\":\"reload\"}\n");
    assert_eq!(told(&verb(&socket(&server), "stop")).0, Some(0));
    assert!(answer(stream).contains("\"outcome\""), "{}", server.log());
}

#[test]
fn a_leftover_socket_is_replaced_and_a_file_of_somebody_else_is_not() {
    let builder = controlled();
    let path = builder.folder().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    let mut server = builder.start();
    assert_eq!(told(&verb(&path, "status")).0, Some(0));
    // Another one's by now: it stays.
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    server.stop(Signal::SIGTERM);
    assert!(path.exists());

    let builder = controlled();
    let path = builder.folder().join("control.sock");
    fs::write(&path, "precious").unwrap();
    let (code, log) = builder.fail();
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("control.sock exists and is no socket"), "{log}");
}

#[test]
fn two_servers_do_not_share_a_control_socket() {
    let server = controlled().start();
    let (code, log) = Server::lab().arg("--control").arg(socket(&server)).fail();
    assert_eq!(code, Some(3), "{log}");
    assert!(
        log.contains("another server answers there") && log.contains("control.sock"),
        "{log}"
    );
    assert_eq!(told(&verb(&socket(&server), "status")).0, Some(0));
    let (code, log) = Server::lab().arg("--control").arg("/nonexistent/c.sock").fail();
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("create the folder first"), "{log}");
}

#[test]
fn nobody_but_root_and_the_servers_account_may_ask_whatever_the_mode_says() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("needs root to become somebody else");
        return;
    }
    let server = controlled().start();
    fs::set_permissions(server.folder(), PermissionsExt::from_mode(0o755)).unwrap();
    let as_nobody = || {
        let mut nobody = Command::new("setpriv");
        // A copy that nobody can reach: the folders of the build may be closed to it.
        let command = server.folder().join("appserver");
        if !command.exists() {
            fs::copy(SERVER, &command).unwrap();
        }
        nobody
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(command);
        nobody.args(["scale", "5", "--control"]).arg(socket(&server));
        told(&nobody.current_dir("/").output().unwrap())
    };
    let (code, _, error) = as_nobody();
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("only root and the server's own account may"), "{error}");

    fs::set_permissions(socket(&server), PermissionsExt::from_mode(0o666)).unwrap();
    let (code, _, error) = as_nobody();
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("user 65534 may not control this server"), "{error}");
    assert_eq!(server.workers().len(), 2);
    server.wait_for_log("65534");
}

#[test]
fn callers_that_say_nothing_or_half_a_line_hold_nobody_up() {
    let server = controlled().start();
    let silent: Vec<UnixStream> = (0..40).map(|_| say(&server, b"")).collect();
    let mut half = say(&server, b"{\"verb\":");
    for _ in 0..5 {
        let start = Instant::now();
        let (code, _, error) = told(&verb(&socket(&server), "status"));
        assert_eq!(code, Some(0), "{error}");
        assert!(
            start.elapsed() < Duration::from_secs(4),
            "before the silent ones lost their time"
        );
        assert_eq!(server.get("/").status, 200);
    }
    // The one half-way through is still heard, or was told why not.
    let _ = half.write_all(b"\"ping\"}\n");
    assert!(answer(half).contains("\"outcome\":"), "{}", server.log());
    // Nobody is kept for ever.
    for stream in silent {
        let said = answer(stream);
        assert!(said.contains("refused") && said.contains("request"), "{said}");
    }
}

#[test]
fn nonsense_is_refused_with_what_was_expected() {
    let server = controlled().start();
    let long = vec![b'x'; 1 << 20];
    for (bytes, expected) in [
        (&b"status\n"[..], "one JSON object on a line"),
        (b"\n", "one JSON object on a line"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "one JSON object on a line"),
        (b"\0\xff\xfe\x01\n", "one JSON object on a line"),
        (b"{\"verb\":\"dance\"}\n", "the verbs are status, reload, rollback"),
        (b"{\"verb\":\"status\",\"protocol\":99}\n", "protocol 99"),
        (b"{\"verb\":\"scale\"}\n", "needs"),
        (&long, "at most 4096 bytes"),
    ] {
        let said = answer(say(&server, bytes));
        assert!(
            said.contains("\"outcome\":\"refused\"") && said.contains(expected),
            "{said}"
        );
    }
    let said = answer(say(&server, b"{\"verb\":\"ping\"}\nmore that nobody wants to know"));
    assert!(said.contains("\"outcome\":\"done\""), "{said}");
    // The end of what is said ends a line too: `printf … | nc` works.
    let stream = say(&server, b"{\"verb\":\"ping\"}");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(answer(stream).contains("\"outcome\":\"done\""));
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn a_caller_that_reads_nothing_or_leaves_costs_nothing() {
    let server = controlled().start();
    let before = process::descriptors(server.master()).len();
    for _ in 0..100 {
        drop(say(&server, b"{\"verb\":\"status\"}\n"));
        drop(say(&server, b"{\"verb\""));
        drop(say(&server, b""));
    }
    let _deaf: Vec<UnixStream> = (0..10).map(|_| say(&server, b"{\"verb\":\"status\"}\n")).collect();
    assert_eq!(told(&verb(&socket(&server), "status")).0, Some(0));
    until("the master has let go of all of them", || {
        (process::descriptors(server.master()).len() <= before).then_some(())
    });
}

#[test]
fn workers_hold_neither_the_socket_nor_a_callers_connection() {
    let server = controlled().start();
    let mut waiting = say(&server, b"{\"verb\":");
    for line in ["scale +2", "reload"] {
        assert_eq!(told(&verb(&socket(&server), line)).0, Some(0));
    }
    server.wait_for_workers("four of them", |pids| pids.len() == 4);
    let _ = waiting.write_all(b"\"ping\"}\n");
    let mut all = String::new();
    // The end comes only once nobody holds the other side any more.
    waiting.read_to_string(&mut all).unwrap();
    assert!(all.contains("done") || all.contains("no request came"), "{all}");
}
