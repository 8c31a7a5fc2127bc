//! What was typed.
//!
//! Takes the arguments of the process; gives them as text under the names of their settings, and the few switches that
//! are no settings. What the text means is decided in `setting`, so that a flag, a variable and a line of the file are
//! held to the same rules. It defines no verbs and no positional arguments, which leaves room for `appserver reload`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Parser;

use super::draft::Draft;
use super::origin::Origin;
use super::setting;
use super::value::Given;

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
        `--print-config` shows what holds and why.",
    after_help = "Exit codes: 0 stopped as asked, 2 bad command line, 3 could not bind or start, \
        4 bad configuration, 5 module refused.\nSee appserver(8) and appserver.toml(5)."
)]
pub struct Cli {
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
fn argument(typed: &str) -> Result<(String, String), String> {
    match typed.split_once('=') {
        Some(("", _)) => Err("the KEY before `=` is missing".to_owned()),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(format!(
            "an argument has the form KEY=VALUE: did you mean {typed}=true?"
        )),
    }
}

impl Cli {
    /// The scalar settings that have a flag: table, key, flag, text.
    fn scalars(&self) -> [(&'static str, &'static str, &'static str, Option<&str>); 17] {
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
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn clap_finds_the_definition_sound() {
        Cli::command().debug_assert();
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
