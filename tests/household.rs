//! What the server leaves in the system while it runs: pidfile, account, masks, modes, directories, titles.
//!
//! Takes the settings of the top level; gives files and /proc as an administrator would look at them. What needs root is
//! only tried by root, as CI is.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::client::{Address, Client};
use crate::support::modules::{SERVER, module};
use crate::support::process;
use crate::support::server::{Listen, Server};
use crate::support::wait::until;

/// A line of /proc/PID/status.
fn status(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':')
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_pidfile_names_the_master_and_goes_with_it() {
    let mut server = Server::lab().config("pidfile = \"DIR/app.pid\"\n").start();
    assert_eq!(server.read("app.pid").trim(), server.master().to_string());
    server.signal(Signal::SIGHUP);
    server.wait_for_log("generation 2");
    assert_eq!(server.read("app.pid").trim(), server.master().to_string());
    server.stop(Signal::SIGTERM);
    assert!(!server.folder().join("app.pid").exists());
}

#[test]
fn a_pidfile_of_a_running_server_is_refused_and_left_alone_and_a_stale_one_replaced() {
    let first = Server::lab().config("pidfile = \"DIR/app.pid\"\n").start();
    let pidfile = first.folder().join("app.pid");
    let setting = format!("pidfile = {pidfile:?}\n");
    let (code, log) = Server::lab().config(&setting).fail();
    assert_eq!(code, Some(3), "{log}");
    assert!(
        log.contains("app.pid") && log.contains(&first.master().to_string()),
        "{log}"
    );
    assert_eq!(first.read("app.pid").trim(), first.master().to_string());

    let stale = Server::lab().config("pidfile = \"DIR/app.pid\"\n");
    fs::write(stale.folder().join("app.pid"), "999999999\n").unwrap();
    let stale = stale.start();
    assert_eq!(stale.read("app.pid").trim(), stale.master().to_string());
}

#[test]
fn workers_run_under_the_named_account_and_the_master_keeps_its_own() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let builder = Server::lab()
        .workers(2)
        .config("user = \"nobody\"\n[log]\nfile = \"DIR/error.log\"\naccess = \"DIR/access.log\"\n");
    // Workers open the logs anew at USR1, so they must be able to reach them.
    fs::set_permissions(builder.folder(), fs::Permissions::from_mode(0o777)).unwrap();
    let server = builder.listen(Listen::Unix).start();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
    for pid in server.workers() {
        assert_eq!(status(pid, "Uid"), format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(status(pid, "Gid"), format!("{gid} {gid} {gid} {gid}"));
        assert!(
            !status(pid, "Groups").split(' ').any(|group| group == "0"),
            "{}",
            status(pid, "Groups")
        );
        assert_eq!(status(pid, "CapEff"), "0000000000000000");
    }
    assert_eq!(status(server.master(), "Uid"), "0 0 0 0");

    fs::rename(server.folder().join("access.log"), server.folder().join("access.log.1")).unwrap();
    server.signal(Signal::SIGUSR1);
    until("the workers write the new file", || {
        server.get("/?after");
        server.read("access.log").contains("/?after").then_some(())
    });
    // Killed before the check of its parent: it was armed after the account changed, for setuid(2) clears it.
    let workers = server.workers();
    process::signal(server.master(), Signal::SIGKILL);
    until("the workers noticed", || {
        workers.iter().all(|&pid| !process::alive(pid)).then_some(())
    });
}

#[test]
fn the_group_may_be_named_alone_or_beside_the_user() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let daemon = nix::unistd::Group::from_name("daemon")
        .unwrap()
        .unwrap()
        .gid
        .to_string();
    for (setting, uid) in [
        ("group = \"daemon\"\n", "0"),
        ("user = \"nobody\"\ngroup = \"daemon\"\n", "65534"),
    ] {
        let server = Server::lab().workers(1).config(setting).start();
        let worker = server.workers()[0];
        assert_eq!(
            status(worker, "Gid"),
            format!("{daemon} {daemon} {daemon} {daemon}"),
            "{setting}"
        );
        assert_eq!(status(worker, "Uid"), format!("{uid} {uid} {uid} {uid}"), "{setting}");
    }
}

#[test]
fn an_account_that_does_not_exist_is_named_and_nothing_starts() {
    let (code, log) = Server::lab().config("user = \"nobody-at-all\"\n").fail();
    assert!(matches!(code, Some(3 | 4)), "{code:?}: {log}");
    assert!(log.contains("nobody-at-all"), "{log}");
}

#[test]
fn the_umask_takes_rights_from_what_is_created() {
    let server = Server::lab()
        .config("umask = \"027\"\npidfile = \"DIR/app.pid\"\n[log]\naccess = \"DIR/access.log\"\n")
        .listen(Listen::Unix)
        .start();
    assert_eq!(mode(&server.folder().join("app.pid")), 0o640);
    assert_eq!(mode(&server.folder().join("access.log")), 0o640);
    assert_eq!(mode(&server.folder().join("app.sock")) & 0o027, 0);
    assert_eq!(status(server.workers()[0], "Umask"), "0027");
}

#[test]
fn a_unix_socket_has_the_mode_and_group_that_are_asked_for_whatever_the_umask() {
    let builder = Server::lab();
    let socket = builder.folder().join("own.sock");
    let group = if nix::unistd::geteuid().is_root() {
        "group = \"daemon\"\n"
    } else {
        ""
    };
    // The server reads its address from the log, since no --bind is given.
    let config = format!(
        "umask = \"077\"\n[[listener]]\nbind = \"unix:{}\"\nmode = \"0660\"\n{group}",
        socket.display()
    );
    let server = builder.listen(Listen::AsConfigured).config(&config).start();
    assert_eq!(mode(&socket), 0o660);
    if !group.is_empty() {
        let daemon = nix::unistd::Group::from_name("daemon").unwrap().unwrap();
        assert_eq!(fs::metadata(&socket).unwrap().gid(), daemon.gid.as_raw());
    }
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn the_directory_is_entered_before_relative_paths_are_read() {
    let builder = Server::lab().config("chdir = \"DIR/sub\"\npidfile = \"app.pid\"\n[log]\naccess = \"access.log\"\n");
    fs::create_dir(builder.folder().join("sub")).unwrap();
    let server = builder.start();
    let sub = server.folder().join("sub").canonicalize().unwrap();
    assert!(sub.join("app.pid").exists() && sub.join("access.log").exists());
    for pid in server.workers().into_iter().chain([server.master()]) {
        assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), sub);
    }
}

#[test]
fn every_process_can_be_told_apart_in_ps() {
    let server = Server::lab().workers(2).start();
    let ps = |pid: i32| {
        let output = Command::new("ps")
            .args(["-o", "args=", "-p", &pid.to_string()])
            .output();
        output.map_or_else(
            |_| process::title(pid),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
    };
    assert!(
        ps(server.master()).starts_with("appserver: master"),
        "{}",
        ps(server.master())
    );
    let mut titles: Vec<String> = server.workers().into_iter().map(ps).collect();
    titles.sort();
    assert!(titles[0].starts_with("appserver: worker 1"), "{titles:?}");
    assert!(titles[1].starts_with("appserver: worker 2"), "{titles:?}");
    server.signal(Signal::SIGTTIN);
    until("the master's title tells the number wanted", || {
        process::title(server.master()).contains('3').then_some(())
    });
}

#[test]
fn sockets_from_the_service_manager_are_taken_without_being_named() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [folder.path().join("one.sock"), folder.path().join("two.sock")];
    let [one, two] = paths.each_ref().map(|path| UnixListener::bind(path).unwrap());
    // Standard input and output carry the sockets to the shell, which passes them on as 3 and 4 (sd_listen_fds(3)).
    let mut server = Command::new("sh")
        .args([
            "-c",
            "exec 3<&0 4<&1 </dev/null >&2; LISTEN_FDS=2 LISTEN_PID=$$ exec \"$@\"",
            "sh",
            SERVER,
        ])
        .args(["--workers", "1", "--module"])
        .arg(module("hello"))
        .current_dir(folder.path())
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(one)))
        .stdout(Stdio::from(std::os::fd::OwnedFd::from(two)))
        .stderr(fs::File::create(folder.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    for path in &paths {
        let mut client = Client::connect(&Address::Unix(path.clone())).unwrap();
        assert_eq!(client.get("/").unwrap().text(), "Hello, world!\n");
    }
    process::signal(server.id() as i32, Signal::SIGTERM);
    let status = crate::support::wait::within(Duration::from_secs(20), || server.try_wait().unwrap());
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{log}");
    assert!(
        paths.iter().all(|path| path.exists()),
        "they belong to the service manager"
    );
}
