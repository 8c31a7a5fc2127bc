//! The verbs: `appserver status`, `reload`, `rollback`, `upgrade`, `stop`, `scale` and `cache`.
//!
//! Takes what was typed and the environment; finds the server, asks it, waits for the outcome, tells it and gives the exit
//! code: 0 done, 1 refused or failed, 6 no server there. It decides nothing about the server; what the words mean is in
//! `verbs`, and `check` needs no server and is not here.
#![forbid(unsafe_code)]

mod call;
mod page;

use crate::config::{self, CacheVerb, PurgeWhat, Speak, Verb};
use crate::exit::Exit;
use crate::sys::time;
use crate::verbs::{Outcome, Reply, Request, SYSTEM_SOCKET, Scale, Target};
use call::{Call, CallError};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the outcome of what takes time is waited for.
const LONG: Duration = Duration::from_secs(5 * 60);
/// How long the answer to a mere question is.
const SHORT: Duration = Duration::from_secs(10);

/// Does what a verb says. None for a verb that speaks to no server.
pub fn run(verb: &Verb, env: &dyn Fn(&str) -> Option<String>) -> Option<Exit> {
    let (request, speak) = match verb {
        Verb::Status(speak) => (Request::Status, speak),
        Verb::Reload(speak) => (Request::Reload, speak),
        Verb::Rollback(speak) => (Request::Rollback, speak),
        Verb::Upgrade(speak) => (Request::Upgrade, speak),
        Verb::Stop(speak) => (Request::Stop, speak),
        Verb::Scale { workers, speak } => match Scale::read(workers) {
            Some(scale) => (Request::Scale(scale), speak),
            // The command line was read by the same rule.
            None => return Some(Exit::CommandLine),
        },
        Verb::Cache(CacheVerb::Stats(speak)) => (Request::Status, speak),
        Verb::Cache(CacheVerb::Purge { what, speak }) => (Request::Purge(target(what)), speak),
        Verb::Check { .. } => return None,
    };
    let name = match verb {
        Verb::Cache(CacheVerb::Stats(_)) => "cache stats",
        Verb::Cache(CacheVerb::Purge { .. }) => "cache purge",
        _ => request.verb(),
    };
    Some(match ask(&request, speak, env) {
        Ok(reply) if name == "cache stats" => stats(speak, &reply),
        Ok(reply) => tell(name, &request, speak, &reply),
        Err(error) => {
            complain(name, &error.to_string());
            error.exit()
        }
    })
}

fn ask(request: &Request, speak: &Speak, env: &dyn Fn(&str) -> Option<String>) -> Result<Reply, CallError> {
    let patience = speak.timeout.unwrap_or(match request {
        Request::Status | Request::Ping => SHORT,
        _ => LONG,
    });
    let until = Instant::now() + patience;
    let mut call = Call::to(&socket(speak, env)?, until)?;
    let unanswered = |error| match error {
        CallError::Silent(path) if *request != Request::Status => CallError::UnderWay(path, request.verb(), patience),
        error => error,
    };
    let reply = call.ask(request, until).map_err(unanswered)?;
    if *request == Request::Stop && reply.outcome == Outcome::Done {
        call.wait_for_the_end(reply.master_pid, until).map_err(unanswered)?;
    }
    Ok(reply)
}

/// Where the server is: what was typed, else the environment, else the configuration file, else where systemd puts it.
fn socket(speak: &Speak, env: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, CallError> {
    let variable = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = speak.control.clone().or_else(|| variable("APPSERVER_CONTROL_SOCKET")) {
        return Ok(path);
    }
    let named = match speak.config.clone().or_else(|| variable("APPSERVER_CONFIG")) {
        None => None,
        Some(file) => config::control_socket(&file).map_err(|error| CallError::Config(file, error))?,
    };
    Ok(named.unwrap_or_else(|| PathBuf::from(SYSTEM_SOCKET)))
}

fn tell(name: &str, request: &Request, speak: &Speak, reply: &Reply) -> Exit {
    let text = match (&reply.status, speak.json) {
        (Some(status), true) => format!("{status:#}\n"),
        (Some(status), false) => page::status(status, time::unix_seconds()),
        (None, true) => reply.line(),
        (None, false) => match (reply.outcome, request) {
            (Outcome::Refused, _) => String::new(),
            (Outcome::Done, Request::Stop) => "stopped\n".to_owned(),
            (Outcome::Done, _) => format!("{}\n", reply.note.as_deref().unwrap_or("done")),
        },
    };
    print(&text);
    match reply.outcome {
        Outcome::Done => Exit::Done,
        Outcome::Refused => {
            complain(name, reply.reason.as_deref().unwrap_or("the server gave no reason"));
            Exit::Refused
        }
    }
}

/// What of the status is about the cache.
fn stats(speak: &Speak, reply: &Reply) -> Exit {
    let cache = reply.status.as_ref().and_then(|status| status.get("cache"));
    let Some(cache) = cache.filter(|cache| cache.is_object()) else {
        complain(
            "cache stats",
            "there is no cache: it is enabled by `enabled = true` under [cache], and a reload",
        );
        return Exit::Refused;
    };
    print(&if speak.json {
        format!("{cache:#}\n")
    } else {
        page::cache(cache)
    });
    Exit::Done
}

fn target(what: &PurgeWhat) -> Target {
    let PurgeWhat {
        key,
        prefix,
        tag,
        values,
        ..
    } = what.clone();
    let key = key.map(Target::Key).or(prefix.map(Target::Prefix));
    key.or(tag.map(Target::Tag))
        .or(values.map(Target::Values))
        .unwrap_or(Target::All)
}

fn print(text: &str) {
    // Whoever closed our output wants no more of it; the outcome is the same.
    let _ = io::stdout()
        .write_all(text.as_bytes())
        .and_then(|()| io::stdout().flush());
}

/// Says why on standard error, where a reason may hold what a module said: nothing in it speaks to the terminal.
fn complain(name: &str, reason: &str) {
    // As for our output, so for this one: `eprintln!` would panic.
    let _ = writeln!(io::stderr(), "appserver {name}: {}", page::plain(reason));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn found(control: Option<&str>, config: Option<&Path>, env: &[(&str, &str)]) -> String {
        let speak = Speak {
            control: control.map(PathBuf::from),
            config: config.map(Path::to_owned),
            ..Speak::default()
        };
        let env: Vec<(String, String)> = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let look = move |name: &str| Some(env.iter().find(|(found, _)| found == name)?.1.clone());
        match socket(&speak, &look) {
            Ok(path) => path.display().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_server_is_looked_for_where_it_was_said_last() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        // A file that no server would take says where its server is all the same.
        std::fs::write(&file, "wrokers = 3\nchdir = \"/srv\"\n[control]\nsocket = \"c.sock\"\n").unwrap();
        let env = [("APPSERVER_CONTROL_SOCKET", "/e"), ("APPSERVER_CONFIG", "/nowhere")];
        assert_eq!(found(Some("/t"), Some(&file), &env), "/t");
        assert_eq!(found(None, Some(&file), &env), "/e");
        assert_eq!(
            found(None, Some(&file), &[("APPSERVER_CONTROL_SOCKET", "")]),
            "/srv/c.sock"
        );
        assert_eq!(
            found(None, None, &[("APPSERVER_CONFIG", file.to_str().unwrap())]),
            "/srv/c.sock"
        );
        assert_eq!(found(None, None, &[]), SYSTEM_SOCKET);
        std::fs::write(&file, "workers = 3\n").unwrap();
        assert_eq!(found(None, Some(&file), &[]), SYSTEM_SOCKET);
        assert!(found(None, None, &env[1..]).contains("/nowhere"));
    }
}
