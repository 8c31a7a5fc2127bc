//! What was typed.
//!
//! Takes the arguments of the process; gives them as text under the names of their settings, and the few switches that
//! are no settings. What the text means is decided in `setting`, so that a flag, a variable and a line of the file are
//! held to the same rules. The verbs are in `verb`; without one the process is a server.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser};

use super::draft::Draft;
use super::origin::Origin;
use super::setting;
use super::value::Given;
use super::verb::Verb;

/// A preforking application server for native handlers.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "appserver",
    version,
    about,
    long_about = "A preforking application server for native handlers.\n\n\
        One master supervises N workers that accept from one shared socket and call the handler in a shared library. \
        A setting is taken from its flag, else from its environment variable (APPSERVER_WORKERS, \
        APPSERVER_TIMEOUTS_KEEP_ALIVE, ...), else from the file, else it has its default. \
        `--print-config` shows what holds and why.\n\n\
        Without a verb a server is started. The verbs speak to a running one over its control socket, wait for the \
        outcome and tell it.",
    after_help = "Exit codes: 0 stopped as asked, 2 bad command line, 3 could not bind or start, \
        4 bad configuration, 5 module refused.\nOf a verb: 0 done, 1 refused or failed, 2 bad command line, \
        6 no server there.\nSee appserver(8) and appserver.toml(5).",
    override_usage = "appserver [OPTIONS]\n       appserver <VERB> [OPTIONS]",
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs, for a server that runs (`appserver help VERB` tells more)"
)]
pub struct Cli {
    /// What to do about a running server; without one the process becomes a server.
    #[command(subcommand)]
    pub verb: Option<Verb>,

    /// Read the settings from this TOML file
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Serve this shared library at /
    #[arg(short, long, value_name = "PATH")]
    pub module: Option<String>,
    /// Number of worker processes, or `auto` for one per CPU [default: auto]
    #[arg(short, long, value_name = "N|auto")]
    pub workers: Option<String>,
    /// Listen on `127.0.0.1:8000`, `[::1]:8000`, `unix:/path` or `fd://3`; may be repeated [default: 127.0.0.1:8000]
    #[arg(short, long, value_name = "ADDR")]
    pub bind: Vec<String>,
    /// Most handler threads of a worker [default: 32]
    #[arg(long, value_name = "N")]
    pub threads: Option<String>,
    /// Argument for the module named by --module; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = argument)]
    pub arg: Vec<(String, String)>,
    /// Check the configuration and the modules, report every finding, and leave
    #[arg(long)]
    pub check_config: bool,
    /// Print the effective value of every setting and where it comes from, and leave
    #[arg(long)]
    pub print_config: bool,

    /// Write the master's process id to this file
    #[arg(long, visible_alias = "pid", value_name = "FILE", help_heading = "Process")]
    pub pidfile: Option<String>,
    /// Run the workers as this user
    #[arg(long, value_name = "NAME", help_heading = "Process")]
    pub user: Option<String>,
    /// Run the workers as this group [default: the user's]
    #[arg(long, value_name = "NAME", help_heading = "Process")]
    pub group: Option<String>,
    /// File mode creation mask, in octal
    #[arg(long, value_name = "MODE", help_heading = "Process")]
    pub umask: Option<String>,
    /// Work in this directory; relative paths of the settings start there
    #[arg(long, value_name = "DIR", help_heading = "Process")]
    pub chdir: Option<String>,
    /// Hear the verbs at this Unix socket [default: none; under systemd, control.sock in the RuntimeDirectory]
    #[arg(long, value_name = "PATH", help_heading = "Process")]
    pub control: Option<String>,
    /// Length of the accept queue of every listener [default: 2048]
    #[arg(long, value_name = "N", help_heading = "Process")]
    pub backlog: Option<String>,

    /// Longest wait for a handler's response, and between its chunks [default: 60s]
    #[arg(long, visible_alias = "timeout", value_name = "TIME", help_heading = "Timeouts")]
    pub request_timeout: Option<String>,
    /// Longest idle time of a kept-alive connection [default: 75s]
    #[arg(long, value_name = "TIME", help_heading = "Timeouts")]
    pub keep_alive: Option<String>,
    /// Longest wait for calls in flight at a stop [default: 30s]
    #[arg(
        long,
        visible_alias = "graceful-timeout",
        value_name = "TIME",
        help_heading = "Timeouts"
    )]
    pub drain_timeout: Option<String>,

    /// Least severity in the error log: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Logs")]
    pub log_level: Option<String>,
    /// Form of the error log: human or json [default: human]
    #[arg(long, value_name = "FORM", help_heading = "Logs")]
    pub log_format: Option<String>,
    /// Write the error log to this file [default: standard error]
    #[arg(long, visible_aliases = ["error-logfile", "error-log"], value_name = "FILE", help_heading = "Logs")]
    pub log_file: Option<String>,
    /// Write the access log to this file, or `-` for standard output [default: none]
    #[arg(long, visible_alias = "access-logfile", value_name = "FILE", help_heading = "Logs")]
    pub access_log: Option<String>,
    /// Form of the access log: combined or json [default: combined]
    #[arg(long, value_name = "FORM", help_heading = "Logs")]
    pub access_log_format: Option<String>,

    /// Where the command line was parsed: what a relative --config means at a reload too, after a chdir.
    #[arg(skip = std::env::current_dir().unwrap_or_default())]
    pub started_in: PathBuf,
}

/// Splits `KEY=VALUE`; the value may be empty and may hold further signs.
pub(super) fn argument(typed: &str) -> Result<(String, String), String> {
    match typed.split_once('=') {
        Some(("", _)) => Err("the KEY before `=` is missing".to_owned()),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(format!(
            "an argument has the form KEY=VALUE: did you mean {typed}=true?"
        )),
    }
}

impl Cli {
    /// Reads the command line of this process; a bad one ends it, as do --help and --version.
    #[must_use]
    pub fn typed() -> Self {
        Self::read_line(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads a command line, the name of the command first.
    pub(super) fn read_line<T: Into<OsString> + Clone>(line: impl IntoIterator<Item = T>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(line)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        let Some(verb) = &mut cli.verb else { return Ok(cli) };
        // Of the server's options a verb heeds those that tell which server is meant; of the others nothing would come.
        let is_stray = |id: &&clap::Id| {
            let typed = matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
            typed && !["config", "control"].contains(&id.as_str())
        };
        let stray = command.get_arguments().map(clap::Arg::get_id).find(is_stray).cloned();
        if let Some(id) = stray {
            let option = id.as_str().replace('_', "-");
            let message = format!("--{option} is an option of the server: it cannot stand before a verb");
            return Err(command.error(ErrorKind::ArgumentConflict, message));
        }
        if let Some(speak) = verb.speak_mut() {
            speak.config = speak.config.take().or_else(|| cli.config.clone());
            speak.control = speak.control.take().or_else(|| cli.control.clone().map(PathBuf::from));
        }
        Ok(cli)
    }

    /// The scalar settings that have a flag: table, key, flag, text.
    fn scalars(&self) -> [(&'static str, &'static str, &'static str, Option<&str>); 18] {
        [
            ("", "module", "--module", self.module.as_deref()),
            ("", "workers", "--workers", self.workers.as_deref()),
            ("", "threads", "--threads", self.threads.as_deref()),
            ("", "pidfile", "--pidfile", self.pidfile.as_deref()),
            ("", "user", "--user", self.user.as_deref()),
            ("", "group", "--group", self.group.as_deref()),
            ("", "umask", "--umask", self.umask.as_deref()),
            ("", "chdir", "--chdir", self.chdir.as_deref()),
            ("", "backlog", "--backlog", self.backlog.as_deref()),
            ("control", "socket", "--control", self.control.as_deref()),
            (
                "timeouts",
                "request",
                "--request-timeout",
                self.request_timeout.as_deref(),
            ),
            ("timeouts", "keep-alive", "--keep-alive", self.keep_alive.as_deref()),
            ("timeouts", "drain", "--drain-timeout", self.drain_timeout.as_deref()),
            ("log", "level", "--log-level", self.log_level.as_deref()),
            ("log", "format", "--log-format", self.log_format.as_deref()),
            ("log", "file", "--log-file", self.log_file.as_deref()),
            ("log", "access", "--access-log", self.access_log.as_deref()),
            (
                "log",
                "access-format",
                "--access-log-format",
                self.access_log_format.as_deref(),
            ),
        ]
    }

    /// Reads what was typed into the draft.
    pub(super) fn read(&self, draft: &mut Draft) {
        for (table, key, flag, text) in self.scalars() {
            if let (Some(setting), Some(text)) = (setting::find(table, key), text) {
                draft.set(setting, Given::Typed(text), Origin::Flag(flag));
            }
        }
        if !self.bind.is_empty() {
            draft.bind(self.bind.iter().map(String::as_str), &Origin::Flag("--bind"));
        }
        draft.args = self.arg.iter().cloned().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_the_definition_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_manual_names_every_option_and_every_verb() {
        let manual = include_str!("../../packaging/man/appserver.8");
        let command = Cli::command();
        let named = |arg: &clap::Arg| {
            let Some(long) = arg.get_long() else { return true };
            ["help", "version"].contains(&long) || manual.contains(&format!("Fl Fl {long}"))
        };
        for arg in command.get_arguments() {
            assert!(named(arg), "{}", arg.get_id());
        }
        for verb in command.get_subcommands() {
            assert!(
                manual.contains(&format!(".It Cm {}", verb.get_name())),
                "{}",
                verb.get_name()
            );
            for arg in verb.get_arguments() {
                assert!(named(arg), "{} {}", verb.get_name(), arg.get_id());
            }
        }
    }

    #[test]
    fn every_flag_names_a_setting_and_an_option_that_exist() {
        let cli = Cli::parse_from(["appserver"]);
        let command = Cli::command();
        for (table, key, flag, _) in cli.scalars() {
            assert!(setting::find(table, key).is_some(), "{table}.{key}");
            assert!(
                command
                    .get_arguments()
                    .any(|arg| arg.get_long() == flag.strip_prefix("--")),
                "{flag}"
            );
        }
    }

    #[test]
    fn a_bad_command_line_leaves_with_two_and_help_with_none() {
        for (typed, code) in [
            ("--wrokers=2", 2),
            ("--arg=novalue", 2),
            ("stray", 2),
            ("--help", 0),
            ("--version", 0),
        ] {
            assert_eq!(
                Cli::try_parse_from(["appserver", typed]).unwrap_err().exit_code(),
                code,
                "{typed}"
            );
        }
    }

    #[test]
    fn short_options_exist_for_the_four_most_used() {
        let cli = Cli::parse_from([
            "appserver",
            "-c",
            "f",
            "-m",
            "a.so",
            "-w",
            "3",
            "-b",
            "fd://3",
            "-b",
            "[::1]:1",
        ]);
        assert_eq!((cli.workers.as_deref(), cli.bind.len()), (Some("3"), 2));
        let cli = Cli::parse_from(["appserver", "--arg", "a=b=c", "--arg", "e="]);
        assert_eq!(cli.arg, [("a".into(), "b=c".into()), ("e".into(), String::new())]);
    }
}
