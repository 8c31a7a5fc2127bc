//! A server whose binary can be replaced under it, and whose masters follow one another.
//!
//! Takes a configuration; gives the server in a session of its own, so that all that belongs to it can be found and ended, and a
//! terminal of the tester's makes no shepherd of it. Its first process is what the test started, or what stands before it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::client::{Address, Client};
use crate::support::modules::{SERVER, module, run};
use crate::support::process;
use crate::support::wait::{PATIENCE, within};

/// A server that can be given another binary.
pub struct Ship {
    pub folder: TempDir,
    /// What was started: the first master, or what stands between it and us.
    pub child: Child,
    pub tcp: Address,
}

/// The listeners of [`config`].
pub const LISTENERS: &str = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[listener]]\nbind = \"unix:app.sock\"\n";

/// A configuration of so many workers; `boot` is how the lab boots.
pub fn config(workers: usize, boot: &str) -> String {
    format!(
        "workers = {workers}\npidfile = \"pid\"\n{LISTENERS}[[mount]]\npath = \"/\"\nmodule = \"lab.so\"\n\
         args = {{ boot = {boot:?} }}\n[timeouts]\nboot = \"5s\"\ndrain = \"10s\"\n"
    )
}

impl Ship {
    /// Starts one by this configuration, its first word being what runs it.
    pub fn start(before: &[&str], text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fs::write(at.join("c.toml"), text).unwrap();
        fs::copy(module("lab"), at.join("lab.so")).unwrap();
        replace(at, Path::new(SERVER));
        let mut words = before.to_vec();
        words.extend(["./appserver", "--config", "c.toml"]);
        let mut command = Command::new("setsid");
        command
            .args(words)
            .current_dir(at)
            .stdin(Stdio::null())
            .stdout(File::create(at.join("stdout")).unwrap())
            .stderr(File::create(at.join("stderr")).unwrap());
        // The leader of a group cannot begin a session, and setsid(1) would fork.
        let child = command.process_group(nix::unistd::getpgrp().as_raw()).spawn().unwrap();
        let mut ship = Self {
            folder,
            child,
            tcp: Address::Unix("".into()),
        };
        ship.wait_for_log("ready: ");
        let log = ship.log();
        let address = log.split("listening on 127.0.0.1:").nth(1).unwrap();
        let port: u16 = address.split_whitespace().next().unwrap().parse().unwrap();
        ship.tcp = Address::Tcp(([127, 0, 0, 1], port).into());
        ship
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub fn unix(&self) -> Address {
        Address::Unix(self.path("app.sock"))
    }

    /// The pid in the pidfile; none when there is no such file.
    pub fn master(&self) -> Option<i32> {
        fs::read_to_string(self.path("pid")).ok()?.trim().parse().ok()
    }

    pub fn workers(&self) -> Vec<i32> {
        self.master().map(process::children).unwrap_or_default()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    pub fn wait_for_log(&self, text: &str) {
        self.wait_for_logs(text, 1);
    }

    /// Waits for so many lines that hold `text`.
    pub fn wait_for_logs(&self, text: &str, count: usize) {
        let found = within(PATIENCE, || (self.log().matches(text).count() >= count).then_some(()));
        assert!(found.is_some(), "no {count} log lines hold {text:?}:\n{}", self.log());
    }

    pub fn configure(&self, text: &str) {
        fs::write(self.path("c.toml"), text).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let master = self.master().expect("there is a pidfile");
        assert!(process::signal(master, signal), "the master has gone:\n{}", self.log());
    }

    /// Sends USR2 and waits until another master serves with so many workers and the old one has gone.
    pub fn upgrade(&mut self, workers: usize) -> i32 {
        let old = self.master().unwrap();
        self.signal(Signal::SIGUSR2);
        let done = within(PATIENCE, || {
            // The first master is our child, and a zombie until it is waited for.
            let _ = self.child.try_wait();
            let new = self.master().filter(|new| *new != old && !process::alive(old))?;
            (self.workers().len() == workers).then_some(new)
        });
        done.unwrap_or_else(|| panic!("no upgrade; workers {:?}\n{}", self.workers(), self.log()))
    }

    pub fn get(&self, target: &str) -> u16 {
        for address in [self.unix(), self.tcp.clone()] {
            let reply = Client::connect(&address).unwrap().get(target);
            let status = reply
                .unwrap_or_else(|failure| panic!("{failure}\n{}", self.log()))
                .status;
            assert_eq!(status, 200, "{}", self.log());
        }
        200
    }

    /// Processes of the session that live; that of the server and nothing else.
    pub fn crew(&self) -> Vec<i32> {
        let session = self.child.id().to_string();
        let of_it = |pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // Behind the name: state, parent, group, session (proc_pid_stat(5)).
            let fields = stat
                .rsplit_once(')')
                .map(|(_, rest)| rest.to_owned())
                .unwrap_or_default();
            let mut fields = fields.split_whitespace();
            let state = fields.next();
            state.is_some_and(|state| state != "Z" && state != "X") && fields.nth(2) == Some(&session)
        };
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(of_it).collect()
    }

    /// Waits until nothing of it is left.
    pub fn wait_for_end(&mut self) {
        let end = within(PATIENCE, || {
            let _ = self.child.try_wait();
            self.crew().is_empty().then_some(())
        });
        assert!(end.is_some(), "still there: {:?}\n{}", self.crew(), self.log());
        assert!(
            !self.path("app.sock").exists() && !self.path("pid").exists(),
            "{}",
            self.log()
        );
    }
}

impl Drop for Ship {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log:\n{}---", self.log());
        }
        // Masters first would leave workers that drain; all at once leaves nobody.
        for pid in self.crew() {
            process::signal(pid, Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Puts another binary in place, by rename as a package does. It is copied by cp(1), for a file that this process has
/// open for writing at the moment another test forks cannot be executed.
pub fn replace(folder: &Path, binary: &Path) {
    run(Command::new("cp").arg(binary).arg(folder.join("next")));
    fs::rename(folder.join("next"), folder.join("appserver")).unwrap();
}

pub fn replace_by_text(folder: &Path, text: &str) {
    fs::write(folder.join("text"), text).unwrap();
    fs::set_permissions(folder.join("text"), PermissionsExt::from_mode(0o755)).unwrap();
    replace(folder, &folder.join("text"));
}
