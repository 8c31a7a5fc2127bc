//! The server that a fault is done to, with a crowd at work, and the means to do it.
//!
//! Takes a fault's server; gives reloads, kills and waiting by condition, and at the end the assertions that hold after
//! every fault: it serves, its workers are all back, nothing was left behind, and its master is the only one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::faults::fault::{Ends, Fault};
use crate::faults::site::Site;
use crate::support::client::{Address, Client, Reply};
use crate::support::crowd::{Account, Crowd};
use crate::support::modules::{self, SERVER, module};
use crate::support::process;
use crate::support::server::Server;
use crate::support::wait::{PATIENCE, until};

/// A fault's server under load.
pub struct Scene {
    /// The server.
    pub server: Server,
    /// Its configuration; [`Scene::rewrite`] writes it.
    pub site: Site,
    /// Number of workers there should be.
    pub wanted: usize,
    crowd: Option<Crowd>,
    wanted_at_first: usize,
    descriptors: usize,
    files: BTreeSet<String>,
}

impl Scene {
    /// Starts the server and its load.
    pub fn open(fault: &Fault) -> Self {
        let mut builder = Server::bare().workers(fault.workers).listen(fault.listen);
        let folder = builder.folder().to_owned();
        let app = folder.join("app.so");
        fs::copy(module("lab"), &app).unwrap();
        let mut site = fault.site(&app);
        if fault.listen == crate::support::server::Listen::AsConfigured {
            site.listeners(&["unix:DIR/app.sock".to_owned()]);
        }
        builder = builder.config(&site.text()).wrap(&fault.wrapped);
        for (name, value) in &fault.environment {
            builder = builder.env(name, value);
        }
        if fault.own_binary {
            let binary = folder.join("appserver");
            copy(Path::new(SERVER), &binary);
            builder = builder.program(binary);
        }
        let server = builder.start();
        let mut scene = Scene {
            site,
            wanted: fault.workers,
            wanted_at_first: fault.workers,
            crowd: None,
            descriptors: 0,
            files: BTreeSet::new(),
            server,
        };
        scene.workers_are(fault.workers);
        scene.descriptors = scene.descriptors_now();
        scene.files = scene.files_now();
        scene.crowd = Some(Crowd::gather(scene.server.address()));
        scene.work(60);
        scene
    }

    /// A path in the server's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.server.folder().join(name)
    }

    /// The module's file.
    pub fn app(&self) -> PathBuf {
        self.path("app.so")
    }

    /// Answers that the crowd got so far.
    pub fn answered(&self) -> u64 {
        self.crowd.as_ref().map_or(0, Crowd::answered)
    }

    /// Waits until the crowd got this many answers more.
    pub fn work(&self, answers: u64) {
        let Some(crowd) = &self.crowd else { return };
        let goal = crowd.answered() + answers;
        until(
            &format!("the clients get {answers} more answers; log:\n{}", self.server.log()),
            || (crowd.answered() >= goal).then_some(()),
        );
    }

    /// Writes the configuration as it is now.
    pub fn rewrite(&self) {
        let text = self
            .site
            .text()
            .replace("DIR", &self.server.folder().display().to_string());
        fs::write(self.path("appserver.toml"), text).unwrap();
    }

    /// How many lines of the log hold this.
    pub fn told(&self, text: &str) -> usize {
        self.server.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Asks for a reload that must be refused; gives the line that says so.
    pub fn hup_is_refused(&self) -> String {
        let before = self.told(REFUSED);
        self.server.signal(Signal::SIGHUP);
        self.refused_after(before)
    }

    /// Waits for the first refusal after the `before` ones.
    pub fn refused_after(&self, before: usize) -> String {
        until(&format!("the reload is refused; log:\n{}", self.server.log()), || {
            let log = self.server.log();
            log.lines()
                .filter(|line| line.contains(REFUSED))
                .nth(before)
                .map(str::to_owned)
        })
    }

    /// Asks for a reload and waits until only workers of the new generation are left.
    pub fn hup(&mut self) {
        let old = self.generation();
        self.server.signal(Signal::SIGHUP);
        self.generation_after(old);
    }

    /// Waits until only workers of one later generation are there, as many as wanted.
    pub fn generation_after(&self, old: u64) -> u64 {
        until(
            &format!("a generation after {old} serves alone; log:\n{}", self.server.log()),
            || {
                let found = self.generations();
                let first = *found.first()?;
                (first > old && found.len() == self.wanted && found.iter().all(|&it| it == first)).then_some(first)
            },
        )
    }

    /// The generations of the workers that are there.
    pub fn generations(&self) -> Vec<u64> {
        let titles = self.server.workers().into_iter().map(process::title);
        titles.filter_map(|title| generation_in(&title)).collect()
    }

    /// The youngest generation that has workers.
    pub fn generation(&self) -> u64 {
        self.generations().into_iter().max().unwrap_or(0)
    }

    /// The workers, those that still bear their master's title left out.
    pub fn workers(&self) -> Vec<i32> {
        let all = self.server.workers().into_iter();
        all.filter(|&pid| generation_in(&process::title(pid)).is_some())
            .collect()
    }

    /// Waits until there are this many workers; gives them.
    pub fn workers_are(&self, wanted: usize) -> Vec<i32> {
        until(
            &format!(
                "{wanted} workers; there are {:?}; log:\n{}",
                self.workers(),
                self.server.log()
            ),
            || Some(self.workers()).filter(|pids| pids.len() == wanted),
        )
    }

    /// Waits until this process is gone and reaped, and all workers wanted are there.
    pub fn replaced(&self, old: i32) {
        until(&format!("{old} is reaped; log:\n{}", self.server.log()), || {
            process::state(old).is_none().then_some(())
        });
        self.workers_are(self.wanted);
    }

    /// Kills a process at once and waits for its end.
    pub fn kill(&self, pid: i32) {
        process::signal(pid, Signal::SIGKILL);
        until("it is gone", || (!process::alive(pid)).then_some(()));
    }

    /// A client whose request the server has taken, on a connection of its own.
    pub fn call(&self, target: &str) -> Client {
        let mut client = self.server.client();
        client
            .send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .unwrap();
        until("the server has read the request", || client.taken().then_some(()));
        client
    }

    /// The same in this worker.
    pub fn call_in(&self, worker: i32, target: &str) -> Client {
        let mut client = self.client_of(worker);
        client
            .send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .unwrap();
        until("the server has read the request", || client.taken().then_some(()));
        client
    }

    /// An idle client whose connection this worker has accepted.
    pub fn client_of(&self, worker: i32) -> Client {
        until(
            &format!("{worker} takes a connection; log:\n{}", self.server.log()),
            || {
                let mut client = self.server.client();
                let pid = client.get("/pid").ok()?.text().trim().parse::<i32>();
                (pid == Ok(worker)).then_some(client)
            },
        )
    }

    /// A GET to the admin address of a fault that has one.
    pub fn admin(&self, target: &str) -> Option<Reply> {
        let address = Address::Unix(self.path("admin.sock"));
        Client::connect(&address).ok()?.get(target).ok()
    }

    /// What a verb of the command line answers a fault with a control socket: its exit code, and what it printed.
    pub fn verb(&self, words: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(SERVER);
        let output = command
            .args(words)
            .arg("--control")
            .arg(self.path("control.sock"))
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Idle clients, each with one answer behind it.
    pub fn idle(&self, clients: usize) -> Vec<Client> {
        let mut idle: Vec<Client> = (0..clients).map(|_| self.server.client()).collect();
        for client in &mut idle {
            assert_eq!(client.get("/").unwrap().status, 200);
        }
        idle
    }

    /// The process that the wrapping command started is to be looked at from now on.
    pub fn new_master(&self, old: i32) -> i32 {
        let new = until(&format!("another master; log:\n{}", self.server.log()), || {
            self.server.masters().into_iter().find(|&pid| pid != old)
        });
        self.server.follow(new);
        new
    }

    /// From now on more files than at the start are no surprise.
    pub fn expect_file(&mut self, name: &str) {
        self.files.insert(name.to_owned());
    }

    /// Tells the clients to stop and gives what they counted.
    pub fn disperse(&mut self) -> Account {
        self.crowd.take().map(Crowd::disperse).unwrap_or_default()
    }

    /// Asserts what must hold after a fault that leaves the server serving.
    pub fn stands_as_before(&self) {
        let log = || self.server.log();
        self.work(60);
        assert_eq!(self.server.get("/").status, 200, "{}", log());
        self.workers_are(self.wanted);
        let master = self.server.master();
        until(&format!("one master; there are {:?}", self.server.masters()), || {
            (self.server.masters() == [master]).then_some(())
        });
        until(&format!("no zombie is left; log:\n{}", log()), || {
            process::zombies(master).is_empty().then_some(())
        });
        let more = self.wanted.saturating_sub(self.wanted_at_first) * FOR_A_WORKER;
        until(
            &format!(
                "the master holds {} descriptors as at its start: {:#?}",
                self.descriptors + more,
                process::descriptors(master)
            ),
            || (self.descriptors_now() <= self.descriptors + more).then_some(()),
        );
        until(
            &format!(
                "the files as at the start, {:?}, not {:?}",
                self.files,
                self.files_now()
            ),
            || self.files_now().is_subset(&self.files).then_some(()),
        );
    }

    /// Asserts what must hold after a fault that ends the server.
    pub fn has_gone(&mut self, ends: Ends) {
        let status = self.server.wait_for_exit(PATIENCE);
        if ends == Ends::Stopped {
            assert_eq!(status.code(), Some(0), "{}", self.server.log());
        }
        until(&format!("nobody is left; log:\n{}", self.server.log()), || {
            process::inside(self.server.folder()).is_empty().then_some(())
        });
        if ends == Ends::Stopped {
            let left = self.files_now();
            assert!(
                !left.contains("app.pid") && !left.contains("app.sock"),
                "left behind: {left:?}"
            );
        }
    }

    /// Open descriptors of the master by what they are. Images are counted apart: those of the generation that a
    /// rollback returns to are kept.
    fn descriptors_now(&self) -> usize {
        let all = process::descriptors(self.server.master());
        all.iter().filter(|name| !name.contains("memfd:")).count()
    }

    fn files_now(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.server.folder()).unwrap().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

/// Copies a file that is to be executed. Not by this process: whatever it forks meanwhile would hold the copy open for
/// writing, and such a file cannot be executed (ETXTBSY of execve(2)).
pub fn copy(from: &Path, to: &Path) {
    modules::run(Command::new("cp").arg(from).arg(to));
}

/// Descriptors that the master holds for a worker.
const FOR_A_WORKER: usize = 4;

/// What the log says of a reload that was undone.
pub const REFUSED: &str = "reload refused";

/// As long as a test waits for something quick.
pub const SOON: Duration = Duration::from_secs(10);

/// The generation in a worker's title, `appserver: worker 1 gen 2`.
fn generation_in(title: &str) -> Option<u64> {
    let rest = title.strip_prefix("appserver: worker ")?;
    rest.split_once(" gen ")?.1.split_whitespace().next()?.parse().ok()
}
