//! The real server, started in a folder of its own and gone when the test is.
//!
//! Takes a module, flags, a configuration and a kind of listener; gives a running server whose workers have answered,
//! its log, its processes and clients to it. It adds no flag that a test did not ask for, but `--module`, `--workers`
//! and where to listen.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

pub use crate::support::builder::{Builder, Listen};
use crate::support::client::{Address, Client, Reply};
use crate::support::modules::{SERVER, module};
use crate::support::process;
use crate::support::wait::{self, PATIENCE, until};

/// No process has this pid.
const NOBODY: i32 = 0;
/// A running server.
pub struct Server {
    child: Child,
    address: Option<Address>,
    folder: TempDir,
    status: Option<ExitStatus>,
    leader: AtomicI32,
}

impl Server {
    pub(super) fn of(child: Child, address: Option<Address>, folder: TempDir) -> Self {
        Server {
            child,
            address,
            folder,
            status: None,
            leader: AtomicI32::new(NOBODY),
        }
    }

    /// One that runs this module.
    pub fn with(module: impl Into<PathBuf>) -> Builder {
        Builder::new(Some(module.into()))
    }

    /// One that runs the lab handler, which does on request what a test needs.
    pub fn lab() -> Builder {
        Server::with(module("lab"))
    }

    /// One that is told nothing: module and workers come from its configuration.
    pub fn bare() -> Builder {
        Builder::new(None)
    }

    /// Runs the server to its end in a scratch folder: for the flags that only print.
    pub fn run(args: &[&str]) -> Output {
        Command::new(SERVER).args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        self.address.as_ref().expect("known since the start")
    }

    /// The folder it runs in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The master's pid.
    pub fn master(&self) -> i32 {
        match self.leader.load(Ordering::Relaxed) {
            NOBODY => self.child.id() as i32,
            leader => leader,
        }
    }

    /// Every process of this server that is its master, by its title: more than one during an upgrade of the binary.
    pub fn masters(&self) -> Vec<i32> {
        let all = process::inside(self.folder()).into_iter();
        all.filter(|&pid| process::title(pid).starts_with("appserver: master"))
            .collect()
    }

    /// From now on the master is this process: after an upgrade, or where what was started only wraps it.
    pub fn follow(&self, master: i32) {
        self.leader.store(master, Ordering::Relaxed);
    }

    /// Follows the one master there is, which what was started may only wrap.
    pub(super) fn find_master(&self) -> Option<()> {
        // A child that has no title yet shows its master's.
        let [master] = self.masters()[..] else { return None };
        self.follow(master);
        Some(())
    }

    /// The master's live workers.
    pub fn workers(&self) -> Vec<i32> {
        process::workers(self.master())
    }

    /// Memory of master and workers, shared pages counted once, in bytes.
    pub fn memory(&self) -> u64 {
        let pids = self.workers().into_iter().chain([self.master()]);
        pids.map(process::memory).sum()
    }

    /// A new connection.
    pub fn client(&self) -> Client {
        Client::connect(self.address()).unwrap_or_else(|error| panic!("{:?}: {error}\n{}", self.address(), self.log()))
    }

    /// A GET on a new connection, which must be answered.
    pub fn get(&self, target: &str) -> Reply {
        self.client()
            .get(target)
            .unwrap_or_else(|failure| panic!("GET {target}: {failure}\n{}", self.log()))
    }

    /// A GET on a new connection, answered or not.
    pub fn try_get(&self, target: &str) -> Option<Reply> {
        Client::connect(self.address()).ok()?.get(target).ok()
    }

    /// Sends a signal to the master.
    pub fn signal(&self, signal: Signal) {
        assert!(
            process::signal(self.master(), signal),
            "the master has gone:\n{}",
            self.log()
        );
    }

    /// Everything written to standard error so far.
    pub fn log(&self) -> String {
        self.read("stderr")
    }

    /// Everything written to standard output so far: the access log, when it is `-`.
    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// A file of its folder; empty when there is none.
    pub fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.folder().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for a log line that holds `text`.
    pub fn wait_for_log(&self, text: &str) -> String {
        let line = wait::within(PATIENCE, || {
            Some(self.log().lines().find(|line| line.contains(text))?.to_owned())
        });
        line.unwrap_or_else(|| panic!("no log line holds {text:?}:\n{}", self.log()))
    }

    /// Waits until the workers' pids satisfy `good`; gives them.
    pub fn wait_for_workers(&self, what: &str, good: impl Fn(&[i32]) -> bool) -> Vec<i32> {
        wait::within(PATIENCE, || Some(self.workers()).filter(|pids| good(pids)))
            .unwrap_or_else(|| panic!("in vain: {what}; workers {:?}\n{}", self.workers(), self.log()))
    }

    /// The status it left with, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("the child is ours");
        }
        self.status
    }

    /// Waits for its end.
    pub fn wait_for_exit(&mut self, patience: Duration) -> ExitStatus {
        let status = wait::within(patience, || self.exited());
        status.unwrap_or_else(|| {
            panic!(
                "still there after {patience:?}; workers {:?}\n{}",
                self.workers(),
                self.log()
            )
        })
    }

    /// Asks it to stop with this signal and waits; it must leave with code 0 and no child behind.
    pub fn stop(&mut self, signal: Signal) {
        let workers = self.workers();
        self.signal(signal);
        let status = self.wait_for_exit(PATIENCE);
        assert_eq!(
            (status.code(), status.signal()),
            (Some(0), None),
            "after {signal}:\n{}",
            self.log()
        );
        until("no worker outlives its master", || {
            workers.iter().all(|&pid| !process::alive(pid)).then_some(())
        });
    }

    /// Reads from the log where it listens, unless that is known.
    pub(super) fn find_address(&mut self) {
        if self.address.is_some() {
            return;
        }
        self.address = Some(until("the log tells where it listens", || {
            assert!(self.exited().is_none(), "the server left at start:\n{}", self.log());
            self.log().lines().find_map(listening)
        }));
    }
}

/// The address in a line that holds `listening on 127.0.0.1:8000` or `listening on unix:/path`.
fn listening(line: &str) -> Option<Address> {
    let (_, rest) = line.split_once("listening on ")?;
    let name = rest
        .split_whitespace()
        .next()?
        .trim_matches(|letter| "\",}".contains(letter));
    match name.strip_prefix("unix:") {
        Some(path) => Some(Address::Unix(path.into())),
        None => name.parse::<SocketAddr>().ok().map(Address::Tcp),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log:\n{}---", self.log());
        }
        // The masters first: else they would replace what is killed.
        self.masters().into_iter().for_each(|pid| {
            process::signal(pid, Signal::SIGKILL);
        });
        if self.exited().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        for pid in process::inside(self.folder()) {
            process::signal(pid, Signal::SIGKILL);
        }
    }
}
