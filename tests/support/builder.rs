//! What a server is to be started with, and the start itself.
//!
//! Takes a module, flags, a configuration, a kind of listener, and what the process is to be wrapped in; gives a running
//! [`Server`]. It adds no flag that a test did not ask for, but `--module`, `--workers` and where to listen.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::client::{Address, Client};
use crate::support::modules::SERVER;
use crate::support::server::Server;
use crate::support::wait::{PATIENCE, until};

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
    passed: Option<OwnedFd>,
    program: PathBuf,
    wrapped: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Builder {
    /// Two workers on a TCP port, and nothing else.
    pub(super) fn new(module: Option<PathBuf>) -> Self {
        Builder {
            folder: tempfile::tempdir().unwrap(),
            module,
            workers: 2,
            listen: Listen::Tcp,
            args: Vec::new(),
            config: None,
            inherited: None,
            passed: None,
            program: SERVER.into(),
            wrapped: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Another binary than the one just built: a copy of it that a test may spoil.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = path.into();
        self
    }

    /// The words of a command that runs it in other circumstances, such as `prlimit --nofile=64`.
    pub fn wrap(mut self, words: &[&str]) -> Self {
        self.wrapped = words.iter().map(Into::into).collect();
        self
    }

    /// One more environment variable; `DIR` in its value stands for the server's folder.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        let value = value.into().replace("DIR", &self.folder.path().display().to_string());
        self.environment.push((name.into(), value.into()));
        self
    }

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

    /// A listener handed over under a name; where to listen is left to the arguments.
    pub fn pass(mut self, name: &str, listener: OwnedFd) -> Self {
        self.passed = Some(listener);
        self.env("LISTEN_FDNAMES", name).listen(Listen::AsConfigured)
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
        let (workers, wrapped) = (self.workers, !self.wrapped.is_empty());
        let mut server = self.launch();
        server.find_address();
        until(&format!("the server answers; its log:\n{}", server.log()), || {
            assert!(server.exited().is_none(), "the server left at start:\n{}", server.log());
            // An inherited socket takes connections before anybody serves it, so no look may wait long for an answer.
            let mut client = Client::connect(server.address()).ok()?;
            client.patience(Duration::from_secs(1));
            client.get("/").ok().filter(|reply| reply.status < 500)
        });
        if wrapped {
            until("there is one master", || server.find_master());
        }
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

        let words: Vec<OsString> = self.wrapped.into_iter().chain([self.program.into()]).collect();
        let mut command = match inherited.or(self.passed) {
            // The listener travels as standard input and becomes descriptor 3; the shell's own pid is the server's.
            Some(listener) => {
                let mut shell = Command::new("sh");
                shell.args([
                    "-c",
                    "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"",
                    "sh",
                ]);
                shell.args(words);
                shell.stdin(Stdio::from(listener));
                shell
            }
            None => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]).stdin(Stdio::null());
                command
            }
        };
        let child = command
            .args(&args)
            .envs(self.environment)
            .current_dir(folder)
            .stdout(File::create(folder.join("stdout")).unwrap())
            .stderr(File::create(folder.join("stderr")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Server::of(child, address, self.folder)
    }
}
