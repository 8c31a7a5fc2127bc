//! The verbs of the command line, as they are typed.
//!
//! Takes the arguments after the verb; gives a [`Verb`]. What a verb says to the server and what comes of it is not known
//! here.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::value::{self, Given};

/// Something to be done about a server that runs, or about a module.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Show workers, generations, listeners and how the last reload ended
    Status(Speak),
    /// Read configuration and modules anew and replace the workers; if anything is wrong, say so and change nothing
    ///
    /// The new workers are started beside the old ones and take over one by one, so that no request is lost and there are
    /// never fewer of them. The command waits for the outcome.
    Reload(Speak),
    /// Return to the modules and the configuration from before the last reload, without reading the disk
    Rollback(Speak),
    /// Execute the binary anew and hand everything over to it; if it fails, the running one goes on
    Upgrade(Speak),
    /// Stop gracefully, and wait for the end
    Stop(Speak),
    /// Set the number of workers, or change it: `scale 8`, `scale +1`, `scale -2`
    Scale {
        /// How many workers there should be, or how many more or fewer
        #[arg(value_name = "N|+N|-N", allow_negative_numbers = true, value_parser = workers)]
        workers: String,
        /// How to speak to the server.
        #[command(flatten)]
        speak: Speak,
    },
    /// Look into the shared cache, or throw something out of it
    #[command(subcommand)]
    Cache(CacheVerb),
    /// Load a module in a process of its own and tell what it is, or why a server would refuse it
    Check {
        /// The shared library
        #[arg(value_name = "MODULE.so")]
        module: PathBuf,
        /// Also make a GET for this path, which the module must answer below 400
        #[arg(long, value_name = "PATH", value_parser = target)]
        probe: Option<String>,
        /// Argument for the module, for the probe; may be repeated
        #[arg(long, value_name = "KEY=VALUE", value_parser = super::cli::argument)]
        arg: Vec<(String, String)>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// What is to be done about the shared cache.
#[derive(Debug, Clone, Subcommand)]
pub enum CacheVerb {
    /// Show how full it is and what it did for requests, hit ratio first
    Stats(Speak),
    /// Throw responses away, or the values of one of the handlers' caches
    Purge {
        /// What is meant.
        #[command(flatten)]
        what: PurgeWhat,
        /// How to speak to the server.
        #[command(flatten)]
        speak: Speak,
    },
}

/// One of these.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct PurgeWhat {
    /// All variants of a URI: http://host/path?query, or /path?query of any host
    #[arg(long, value_name = "URI", value_parser = uri)]
    pub key: Option<String>,
    /// All responses whose URI begins with it: http://host/path, or /path of any host
    #[arg(long, value_name = "URI", value_parser = uri)]
    pub prefix: Option<String>,
    /// All responses that were sent with this tag in Cache-Tag or Surrogate-Key
    #[arg(long, value_name = "TAG", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub tag: Option<String>,
    /// All values of one of the handlers' caches
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub values: Option<String>,
    /// All responses
    #[arg(long)]
    pub all: bool,
}

/// Which server is meant, and how its answer is told.
#[derive(Debug, Clone, Default, Args)]
pub struct Speak {
    /// The control socket of the server [default: that of --config, else /run/appserver/control/control.sock]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Look for the control socket in this configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
    /// How long to wait for the outcome [default: 5m; 10s for status]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub timeout: Option<Duration>,
}

impl Verb {
    /// How to speak to the server; none of a verb that speaks to none.
    pub(super) fn speak_mut(&mut self) -> Option<&mut Speak> {
        match self {
            Self::Status(speak)
            | Self::Reload(speak)
            | Self::Rollback(speak)
            | Self::Upgrade(speak)
            | Self::Stop(speak)
            | Self::Cache(CacheVerb::Stats(speak) | CacheVerb::Purge { speak, .. })
            | Self::Scale { speak, .. } => Some(speak),
            Self::Check { .. } => None,
        }
    }
}

/// `4`, `+2` or `-1`; what it means is the server's business.
fn workers(typed: &str) -> Result<String, String> {
    let digits = typed.strip_prefix(['+', '-']).unwrap_or(typed);
    match digits.parse::<u16>() {
        Ok(0) => Err("there is at least one worker; `appserver stop` stops the server".to_owned()),
        Ok(_) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(typed.to_owned()),
        _ => Err("a number is meant, or +N for so many more, -N for so many fewer".to_owned()),
    }
}

/// What a key or its beginning can be.
fn uri(typed: &str) -> Result<String, String> {
    let begins = ["/", "http://", "https://"]
        .iter()
        .any(|start| typed.starts_with(start));
    if begins && !typed.contains(char::is_whitespace) {
        Ok(typed.to_owned())
    } else {
        Err("it begins with http://host/, https://host/, or with a slash for any host".to_owned())
    }
}

fn target(typed: &str) -> Result<String, String> {
    super::setting::probe(Given::Typed(typed)).map_err(|refusal| format!("it {}", refusal.message))
}

fn time(typed: &str) -> Result<Duration, String> {
    value::duration(Given::Typed(typed)).map_err(|refusal| match refusal.help {
        Some(help) => format!("it {}; {help}", refusal.message),
        None => format!("it {}", refusal.message),
    })
}

#[cfg(test)]
mod tests {

    use super::super::Cli;
    use super::*;

    fn typed(line: &str) -> Result<Cli, clap::Error> {
        Cli::read_line(line.split(' '))
    }

    #[test]
    fn a_difference_may_be_typed_without_further_ado() {
        for (line, meant) in [
            ("appserver scale 4", "4"),
            ("appserver scale +2", "+2"),
            ("appserver scale -1", "-1"),
            ("appserver scale --json -1", "-1"),
        ] {
            let Some(Verb::Scale { workers, .. }) = typed(line).unwrap().verb else {
                panic!("{line}");
            };
            assert_eq!(workers, meant);
        }
    }

    #[test]
    fn what_no_verb_means_is_a_bad_command_line() {
        for line in [
            "appserver dance",
            "appserver scale",
            "appserver scale 0",
            "appserver scale -0",
            "appserver scale many",
            "appserver scale 99999999",
            "appserver status now",
            "appserver status --timeout 5",
            "appserver check",
            "appserver check a.so --probe healthz",
            "appserver status --workers 3",
            "appserver --workers 3 status",
            "appserver --check-config reload",
            "appserver cache",
            "appserver cache purge",
            "appserver cache purge --all --tag a",
            "appserver cache purge --key example.com/a",
            "appserver cache purge --tag=",
        ] {
            assert_eq!(typed(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn the_server_may_be_named_before_the_verb_or_after_it() {
        for line in [
            "appserver --config a.toml --control /s status",
            "appserver status --control /s -c a.toml",
        ] {
            let cli = typed(line).unwrap();
            let Some(Verb::Status(speak)) = cli.verb else {
                panic!("{line}")
            };
            assert_eq!(speak.control.as_deref(), Some("/s".as_ref()));
            assert_eq!(speak.config.as_deref(), Some("a.toml".as_ref()));
        }
        let Some(Verb::Reload(speak)) = typed("appserver reload --timeout 90s").unwrap().verb else {
            panic!()
        };
        assert_eq!(speak.timeout, Some(Duration::from_secs(90)));
    }
}
