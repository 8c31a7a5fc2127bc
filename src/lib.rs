//! appserver: a preforking application server for native handlers. This page is the map.
//!
//! # Processes
//!
//! One **master** ([`master`]), a single thread without a runtime, binds the sockets ([`listener`]), reads each module
//! once into sealed memory ([`handler::image`]) and forks N **workers** ([`worker`]). Whatever may block, such as reading
//! and probing a module, happens in a short-lived child. A configuration with its images is a [`generation`]. Master
//! and workers meet on the [`scoreboard`]: plain atomics in shared memory, so that nobody's death breaks anything.
//!
//! # The way of a request
//!
//! A worker accepts from the one shared listener, the guard in `protocol` validates the bytes, `gateway` turns the
//! request into an environ and an input, `handler` crosses into the plugin, and the answer goes back the same way. Its
//! line waits in the worker's part of the scoreboard, from where the master flushes it if the worker dies first.
//!
//! # The way of a signal
//!
//! A handler counts it and wakes the loop (`sys::signal`); `master::event` turns it into an `Event`; one `match` in
//! [`master`] acts. A command to a worker is a bit in its slot and a wake-up of its eventfd. A TERM sent to a worker
//! takes the same road: it sets its own drain bit.
//!
//! # What may know what
//!
//! A file imports only downward: main > lib > master | worker (never each other) > protocol > gateway > generation >
//! listener scoreboard log handler > config > exit > sys. This file is where master and worker are introduced.

pub mod access_log;
pub mod config;
pub mod exit;
pub mod gateway;
pub mod generation;
pub mod handler;
pub mod listener;
pub mod log;
pub mod master;
pub mod protocol;
pub mod scoreboard;
pub mod sys;
pub mod worker;

use config::{Cli, Config, Loaded, Origin};
use exit::Exit;
use master::{Hooks, Master};

/// Serves until told to stop.
pub fn serve(cli: &Cli, loaded: Loaded) -> Exit {
    let only_default_bind = *loaded.origins.of("listener.0.bind") == Origin::Default;
    let config = loaded.config;
    let again = cli.clone();
    let hooks = Hooks {
        serve: worker::run,
        probe: worker::probe,
        load: Box::new(move || {
            config::load(&again, std::env::vars_os())
                .map(|loaded| loaded.config)
                .map_err(|error| error.to_string())
        }),
    };
    // Directory and mask come first: the log file is created under them.
    if let Err(error) = master::settle(&config) {
        eprintln!("{error}");
        return Exit::Start;
    }
    if let Err(error) = log::init(&config.log) {
        eprintln!("{error}");
        return Exit::Start;
    }
    log::set_role("master");
    match Master::start(config, only_default_bind, &|name| std::env::var(name).ok(), hooks) {
        Ok(master) => master.run(),
        Err(error) => {
            tracing::error!("{error}");
            Exit::Start
        }
    }
}

/// Reports everything that is wrong with a configuration, its modules included, without serving.
pub fn check(loaded: &Loaded) -> Exit {
    let findings = config::check::machine(
        loaded,
        |user| sys::privilege::look_up(Some(user), None).is_ok(),
        |group| sys::privilege::look_up(None, Some(group)).is_ok(),
    );
    for finding in &findings {
        eprintln!("{finding}");
    }
    if let Some(path) = &loaded.config.chdir
        && std::env::set_current_dir(path).is_err()
    {
        return Exit::Config;
    }
    // Each module in a child of its own, so that one that crashes hides none of the others. A missing file was found above.
    let mounts = &loaded.config.mounts;
    let first = |index: &usize| {
        let module = &mounts[*index].module;
        module.is_file() && mounts[..*index].iter().all(|other| other.module != *module)
    };
    let mut refused = false;
    for index in (0..mounts.len()).filter(first) {
        let alone = Config {
            mounts: vec![mounts[index].clone()],
            ..loaded.config.clone()
        };
        if let Err(reason) = master::check_and_wait(&alone, worker::probe) {
            eprintln!("{reason}");
            refused = true;
        }
    }
    if !findings.is_empty() {
        return Exit::Config;
    }
    if refused {
        return Exit::Module;
    }
    println!("configuration OK: its modules load");
    Exit::Done
}
