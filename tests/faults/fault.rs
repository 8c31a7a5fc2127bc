//! One fault: the server it is done to, what may be lost by it, and how the server must stand afterwards.
//!
//! Takes the words of a scenario; plays it with a crowd of clients at work all the time and asserts what holds for
//! every fault. What is done is the scenario's own.

use std::time::Instant;

use crate::faults::row::Row;
use crate::faults::scene::Scene;
use crate::faults::site::Site;
use crate::support::crowd::Account;
use crate::support::process;
use crate::support::server::Listen;

/// How the server must stand when the fault is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// It serves, with as many workers as wanted, and nothing was left behind.
    Serving,
    /// It left with code 0, as it was asked to; nothing was left behind.
    Stopped,
    /// Its master was killed: nobody is left, and files may be.
    Killed,
}

/// What the clients may have seen beside answers.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// Requests in flight inside processes that the fault kills.
    pub lost: usize,
    /// Honest errors: 500 and above.
    pub honest: bool,
    /// Bytes that crossed a close at a stop.
    pub raced: bool,
    /// Idle connections that end, because nobody is there to take them.
    pub closed: bool,
}

type Setting = (&'static str, &'static str, &'static str);
type Act = Box<dyn FnOnce(&mut Scene)>;

/// A scenario.
pub struct Fault {
    pub(super) workers: usize,
    pub(super) listen: Listen,
    pub(super) settings: Vec<Setting>,
    pub(super) arguments: Vec<(&'static str, &'static str)>,
    pub(super) wrapped: Vec<&'static str>,
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) own_binary: bool,
    allowed: Allowed,
    ends: Ends,
    act: Act,
}

impl Fault {
    /// Done to two workers with the lab on a TCP port, under load; nothing may be lost, and the server serves on.
    pub fn new(act: impl FnOnce(&mut Scene) + 'static) -> Self {
        Fault {
            workers: 2,
            listen: Listen::Tcp,
            settings: Vec::new(),
            arguments: Vec::new(),
            wrapped: Vec::new(),
            environment: Vec::new(),
            own_binary: false,
            allowed: Allowed::default(),
            ends: Ends::Serving,
            act: Box::new(act),
        }
    }

    /// Number of workers.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// On a Unix socket.
    pub fn unix(mut self) -> Self {
        self.listen = Listen::Unix;
        self
    }

    /// With an admin address, `admin.sock` in its folder.
    pub fn watched(self) -> Self {
        self.set("admin", "bind", "\"unix:DIR/admin.sock\"")
    }

    /// With a control socket, `control.sock` in its folder.
    pub fn control(self) -> Self {
        self.set("control", "socket", "\"DIR/control.sock\"")
    }

    /// Listens where the site says.
    pub fn own_listeners(mut self) -> Self {
        self.listen = Listen::AsConfigured;
        self
    }

    /// One more setting: table, key, TOML value; `DIR` stands for the server's folder.
    pub fn set(mut self, table: &'static str, key: &'static str, value: &'static str) -> Self {
        self.settings.push((table, key, value));
        self
    }

    /// One more argument of the module.
    pub fn argument(mut self, name: &'static str, value: &'static str) -> Self {
        self.arguments.push((name, value));
        self
    }

    /// Started by this command.
    pub fn wrap(mut self, words: &[&'static str]) -> Self {
        self.wrapped = words.to_vec();
        self
    }

    /// With this in its environment.
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// From a copy of the binary in its folder, which the scenario may replace.
    pub fn own_binary(mut self) -> Self {
        self.own_binary = true;
        self
    }

    /// At most this many requests, all in flight inside processes that the fault kills.
    pub fn loses(mut self, at_most: usize) -> Self {
        self.allowed.lost = at_most;
        self.allowed.raced = true;
        self.allowed.closed = true;
        self
    }

    /// Idle connections end, for a while there is nobody to take them over.
    pub fn closes(mut self) -> Self {
        self.allowed.raced = true;
        self.allowed.closed = true;
        self
    }

    /// Answers of 500 and above are no surprise.
    pub fn honest(mut self) -> Self {
        self.allowed.honest = true;
        self
    }

    /// How the server must stand afterwards, if not serving.
    pub fn ends(mut self, ends: Ends) -> Self {
        self.ends = ends;
        self.allowed.raced |= ends != Ends::Serving;
        self
    }

    /// Does it, and asserts what holds for every fault.
    pub fn play(mut self, name: &str) {
        let mut row = Row::of(name);
        let act = std::mem::replace(&mut self.act, Box::new(|_| ()));
        let mut scene = Scene::open(&self);
        let start = Instant::now();
        act(&mut scene);
        let account = match self.ends {
            Ends::Serving => {
                scene.stands_as_before();
                scene.disperse()
            }
            Ends::Stopped | Ends::Killed => {
                scene.has_gone(self.ends);
                scene.disperse()
            }
        };
        row.fill(&account.tally, start.elapsed());
        self.judge(&scene, &account);
        row.pass();
    }

    fn judge(&self, scene: &Scene, account: &Account) {
        let tally = &account.tally;
        let told = || format!("{account:#?}\n{}", scene.server.log());
        assert!(tally.answered > 0, "there was load: {}", told());
        assert!(tally.lost.len() <= self.allowed.lost, "requests were lost: {}", told());
        for worker in account.broke_in.iter().filter_map(|(worker, _)| worker.as_ref()) {
            assert!(
                !process::alive(*worker),
                "a connection broke in worker {worker}, which lives: {}",
                told()
            );
        }
        assert!(tally.honest == 0 || self.allowed.honest, "errors: {}", told());
        assert!(
            tally.raced == 0 || self.allowed.raced,
            "closed while in use: {}",
            told()
        );
        if self.ends == Ends::Serving {
            assert_eq!(tally.refused, 0, "connections were refused: {}", told());
            if !self.allowed.closed {
                assert_eq!(account.closed, 0, "idle connections were closed: {}", told());
            }
        }
    }

    /// The configuration it begins with.
    pub(super) fn site(&self, module: &std::path::Path) -> Site {
        let mut site = Site::of(module);
        site.set("", "workers", &self.workers.to_string());
        site.set("", "pidfile", "\"DIR/app.pid\"");
        site.set("timeouts", "boot", "\"3s\"");
        site.set("timeouts", "drain", "\"8s\"");
        site.set("log", "level", "\"debug\"");
        for (table, key, value) in &self.settings {
            site.set(table, key, value);
        }
        for (name, value) in &self.arguments {
            site.argument(name, value);
        }
        site
    }
}

/// Makes a test of each line, `sentence => fault`, and a list of their names.
macro_rules! faults {
    ($($name:ident => $fault:expr;)*) => {
        /// The sentences of this family.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                $fault.play(stringify!($name));
            }
        )*
    };
}
pub(crate) use faults;
