//! appserver: a preforking application server for native handlers. This page is the map.
//!
//! # Processes
//!
//! One **master** ([`master`]), a single thread without a runtime, binds the sockets ([`listener`]), reads each module
//! once into sealed memory ([`handler::image`]) and forks N **workers** ([`worker`]). Whatever may block, such as reading
//! and probing a module, happens in a short-lived child. A configuration with its images is a [`generation`]. Master
//! and workers meet on the [`scoreboard`]: plain atomics in shared memory, so that nobody's death breaks anything.
//!
//! A **monitor** ([`monitor`]), a child like a worker, tells over HTTP how the server is. All it knows it reads from the
//! scoreboard ([`mod@status`]), so it answers whoever hangs, and its death costs a respawn.
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
//! # The way of a verb
//!
//! `appserver reload` is a process of its own: [`control`] finds the socket of the running server and says a line of
//! [`verbs`]; `master::control` hears it without ever waiting for it, the master acts, and the reply goes back with the outcome.
//!
//! # What may know what
//!
//! A file imports only downward: main > lib > master | worker | monitor | control (never each other) > protocol > gateway > generation >
//! listener scoreboard log handler verbs > config > exit > sys. This file is where master and worker are introduced.

pub mod access_log;
pub mod cache;
pub mod config;
pub mod control;
pub mod exit;
pub mod gateway;
pub mod generation;
pub mod handler;
pub mod handover;
pub mod listener;
pub mod log;
pub mod master;
pub mod monitor;
pub mod protocol;
pub mod scoreboard;
pub mod status;
pub mod sys;
pub mod verbs;
pub mod worker;

use config::{Cli, Config, Loaded, Origin, Verb};
use exit::Exit;
use handler::image::Image;
use handler::loader::Provenance;
use master::{Hooks, Inheritance, Master};
use std::io::{self, Write};
use sys::process::Program;

/// Does what a verb says, and leaves.
pub fn obey(verb: &Verb) -> Exit {
    if let Verb::Check {
        module,
        probe,
        arg,
        json,
    } = verb
    {
        let mut config = Config::for_module(module);
        config.probe = probe.clone();
        config.mounts[0].args = arg.iter().cloned().collect();
        return check_module(&config, *json);
    }
    let env = |name: &str| std::env::var(name).ok();
    control::run(verb, &env).expect("every verb but `check` speaks to a server")
}

/// Serves until told to stop; in place of the master from which it inherits, if it does.
pub fn serve(cli: &Cli, loaded: Loaded, inheritance: Option<Inheritance>) -> Exit {
    let line = inheritance.as_ref().map(|inheritance| inheritance.line.clone());
    let refuse = |reason: String| {
        if let Some(line) = &line {
            line.refuse(&reason);
        }
        reason
    };
    let only_default_bind = *loaded.origins.of("listener.0.bind") == Origin::Default;
    let config = loaded.config;
    let again = cli.clone();
    let file = config.file.clone();
    let program = match Program::this(&cli.started_in) {
        Ok(program) => program,
        Err(error) => {
            eprintln!("{}", refuse(format!("cannot find the file of this program: {error}")));
            return Exit::Start;
        }
    };
    let hooks = Hooks {
        program,
        serve: worker::run,
        monitor: monitor::run,
        probe: worker::probe,
        load: Box::new(move || {
            // From a pipe or a terminal there is nothing to be read twice, and the master waits for nobody.
            if let Some(file) = &file
                && std::fs::metadata(file).is_ok_and(|found| !found.is_file())
            {
                return Err(format!("cannot read {}: it is no regular file", file.display()));
            }
            config::load(&again, std::env::vars_os())
                .map(|loaded| {
                    let only_default_bind = *loaded.origins.of("listener.0.bind") == Origin::Default;
                    (loaded.config, only_default_bind)
                })
                .map_err(|error| error.to_string())
        }),
    };
    // Directory and mask come first: the log file is created under them.
    if let Err(error) = master::settle(&config) {
        eprintln!("{}", refuse(error.to_string()));
        return Exit::Start;
    }
    if let Err(error) = log::init(&config.log) {
        eprintln!("{}", refuse(error.to_string()));
        return Exit::Start;
    }
    log::set_role("master");
    match Master::start(
        config,
        only_default_bind,
        &|name| std::env::var(name).ok(),
        hooks,
        inheritance,
    ) {
        Ok(master) => master.run(),
        Err(error) => {
            tracing::error!("{}", refuse(error.to_string()));
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

/// Loads one module in a process of its own and tells what it is, or why no server would take it.
fn check_module(config: &Config, json: bool) -> Exit {
    let told = if json { tell_in_json } else { tell };
    // In two processes, so that the module is initialised once in each, as in a worker.
    let probed = match config.probe {
        Some(_) => master::check_and_wait(config, worker::probe),
        None => Ok(()),
    };
    match probed.and_then(|()| master::check_and_wait(config, told)) {
        Ok(()) => Exit::Done,
        Err(reason) => {
            let _ = writeln!(io::stderr(), "appserver check: {reason}");
            Exit::Refused
        }
    }
}

/// In the child: what a module says of itself, once it is loaded.
fn introduce(image: &Image) -> Result<Provenance, String> {
    let loaded = handler::loader::Loaded::open::<gateway::call::Call>(&image.proc_path(), image.path(), 0);
    Ok(loaded.map_err(|refusal| refusal.to_string())?.provenance())
}

/// In the child: loads a module and tells a person of it.
fn tell(config: &Config, images: &[Image]) -> Result<(), String> {
    for image in images {
        let of = introduce(image)?;
        let mut text = format!(
            "module    {} loads\nname      {}\nversion   {}\nabi       {}.{}\nsdk       {}\ncompiler  {}\nbuild id  {}\n\
             sha256    {}\nsize      {} bytes\n",
            image.path().display(),
            of.name,
            of.version,
            of.abi.0,
            of.abi.1,
            of.sdk,
            of.compiler,
            image.build_id(),
            image.sha256(),
            image.len(),
        );
        if let Some(target) = &config.probe {
            text.push_str(&format!("probe     GET {target} is answered\n"));
        }
        // A reader that went away changes nothing about the module.
        let _ = io::stdout().write_all(text.as_bytes());
    }
    Ok(())
}

/// As [`tell`], for a program.
fn tell_in_json(config: &Config, images: &[Image]) -> Result<(), String> {
    for image in images {
        let of = introduce(image)?;
        let object = serde_json::json!({
            "path": image.path().display().to_string(),
            "name": of.name,
            "version": of.version,
            "abi": format!("{}.{}", of.abi.0, of.abi.1),
            "sdk": of.sdk,
            "compiler": of.compiler,
            "build_id": image.build_id(),
            "sha256": image.sha256(),
            "bytes": image.len(),
            "probe": config.probe,
        });
        let _ = writeln!(io::stdout(), "{object}");
    }
    Ok(())
}
