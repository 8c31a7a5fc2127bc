//! The real server, started in a folder of its own and gone when the test is.
//!
//! Takes a module, flags, a configuration and a kind of listener; gives a running server whose workers have answered,
//! its log, its processes and clients to it. It adds no flag that a test did not ask for, but `--module`, `--workers`
//! and where to listen.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::client::{Address, Client, Reply};
use crate::support::modules::{SERVER, module};
use crate::support::process;
use crate::support::wait::{self, PATIENCE, until};

/// Who binds the socket, and of what kind it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// The server, on a TCP port of the kernel's choice.
    Tcp,
    /// The server, on a Unix socket in the folder.
    Unix,
    /// The test, on TCP, handed over by LISTEN_FDS as systemd does.
    InheritedTcp,
    /// The test, on a Unix socket, handed over likewise.
    InheritedUnix,
    /// Whatever flags and configuration say; the address is read from the log.
    AsConfigured,
}

/// What a server is to be started with.
pub struct Builder {
    folder: TempDir,
    module: Option<PathBuf>,
    workers: usize,
    listen: Listen,
    args: Vec<OsString>,
    config: Option<String>,
    inherited: Option<(Address, OwnedFd)>,
}

impl Builder {
    /// Number of workers; 2 unless told.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// The listener; TCP unless told.
    pub fn listen(mut self, listen: Listen) -> Self {
        self.listen = listen;
        self
    }

    /// A TCP listener of the test's own, handed over by LISTEN_FDS.
    pub fn inherit(mut self, listener: TcpListener) -> Self {
        let address = Address::Tcp(listener.local_addr().unwrap());
        self.inherited = Some((address, listener.into()));
        self.listen(Listen::InheritedTcp)
    }

    /// One more command-line argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// The configuration file's text; `DIR` in it stands for the server's folder.
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.replace("DIR", &self.folder.path().display().to_string()));
        self
    }

    /// The folder that the server runs in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it and waits until all its workers are there and one has answered.
    pub fn start(self) -> Server {
        let workers = self.workers;
        let mut server = self.launch();
        let address = server.find_address();
        server.address = Some(address);
        until(&format!("the server answers; its log:\n{}", server.log()), || {
            assert!(server.exited().is_none(), "the server left at start:\n{}", server.log());
            // An inherited socket takes connections before anybody serves it, so no look may wait long for an answer.
            let mut client = Client::connect(server.address()).ok()?;
            client.patience(Duration::from_secs(1));
            client.get("/").ok().filter(|reply| reply.status < 500)
        });
        until("all workers are there", || {
            (server.workers().len() == workers).then_some(())
        });
        server
    }

    /// Starts one that is expected to leave by itself; gives its exit code and its log.
    pub fn fail(self) -> (Option<i32>, String) {
        let mut server = self.launch();
        let status = server.wait_for_exit(PATIENCE);
        (status.code(), server.log())
    }

    /// Starts it and waits for nothing.
    pub fn launch(mut self) -> Server {
        let folder = self.folder.path();
        let socket = folder.join("app.sock");
        let mut args: Vec<OsString> = Vec::new();
        if let Some(module) = &self.module {
            args.extend([
                "--module".into(),
                module.into(),
                "--workers".into(),
                self.workers.to_string().into(),
            ]);
        }
        if let Some(text) = &self.config {
            let path = folder.join("appserver.toml");
            fs::write(&path, text).unwrap();
            args.extend(["--config".into(), path.into()]);
        }
        let mut address = None;
        match self.listen {
            Listen::Tcp => args.extend(["--bind".into(), "127.0.0.1:0".into()]),
            Listen::Unix => {
                args.extend(["--bind".into(), format!("unix:{}", socket.display()).into()]);
                address = Some(Address::Unix(socket));
            }
            Listen::InheritedTcp if self.inherited.is_none() => {
                return self.inherit(TcpListener::bind("127.0.0.1:0").unwrap()).launch();
            }
            Listen::InheritedUnix => {
                let listener = UnixListener::bind(&socket).unwrap();
                self.inherited = Some((Address::Unix(socket), listener.into()));
            }
            Listen::InheritedTcp | Listen::AsConfigured => {}
        }
        let inherited = self.inherited.map(|(of, listener)| {
            address = Some(of);
            args.extend(["--bind".into(), "fd://3".into()]);
            listener
        });
        args.append(&mut self.args);

        let mut command = match inherited {
            // The listener travels as standard input and becomes descriptor 3; the shell's own pid is the server's.
            Some(listener) => {
                let mut shell = Command::new("sh");
                shell.args([
                    "-c",
                    "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"",
                    "sh",
                    SERVER,
                ]);
                shell.stdin(Stdio::from(listener));
                shell
            }
            None => {
                let mut command = Command::new(SERVER);
                command.stdin(Stdio::null());
                command
            }
        };
        let child = command
            .args(&args)
            .current_dir(folder)
            .stdout(File::create(folder.join("stdout")).unwrap())
            .stderr(File::create(folder.join("stderr")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{SERVER}: {error}"));
        Server {
            child,
            address,
            folder: self.folder,
            status: None,
        }
    }
}

/// A running server.
pub struct Server {
    child: Child,
    address: Option<Address>,
    folder: TempDir,
    status: Option<ExitStatus>,
}

impl Server {
    /// One that runs this module.
    pub fn with(module: impl Into<PathBuf>) -> Builder {
        let module = Some(module.into());
        Builder {
            module,
            ..Server::bare()
        }
    }

    /// One that runs the lab handler, which does on request what a test needs.
    pub fn lab() -> Builder {
        Server::with(module("lab"))
    }

    /// One that is told nothing: module and workers come from its configuration.
    pub fn bare() -> Builder {
        Builder {
            folder: tempfile::tempdir().unwrap(),
            module: None,
            workers: 2,
            listen: Listen::Tcp,
            args: Vec::new(),
            config: None,
            inherited: None,
        }
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
        self.child.id() as i32
    }

    /// The master's live children.
    pub fn workers(&self) -> Vec<i32> {
        process::children(self.master())
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

    fn find_address(&mut self) -> Address {
        if let Some(address) = &self.address {
            return address.clone();
        }
        until("the log tells where it listens", || {
            assert!(self.exited().is_none(), "the server left at start:\n{}", self.log());
            self.log().lines().find_map(listening)
        })
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
        if self.exited().is_none() {
            let workers = self.workers();
            // The master first: else it would replace what is killed.
            let _ = self.child.kill();
            let _ = self.child.wait();
            for pid in workers {
                process::signal(pid, Signal::SIGKILL);
            }
        }
    }
}
