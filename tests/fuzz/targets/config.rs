//! The configuration: a file's text, variables and flags, whatever they hold.
//!
//! The input is text in parts, divided by a NUL: first the file, then variables (`APPSERVER_WORKERS=2`) and flags
//! (`--workers=2`). It gives findings that can be shown and whose places are in the file, or a configuration; and what
//! --print-config prints of that one is the same configuration again.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::LazyLock;

use appserver::config::{Cli, Config, ConfigError, Loaded, Origin, load_by, print};
use clap::Parser;

/// The file's name; there is none.
const FILE: &str = "a.toml";

pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let mut parts = text.split('\0');
    let text = parts.next().unwrap_or_default();
    let mut flags = Vec::new();
    let mut variables: Vec<(OsString, OsString)> = Vec::new();
    for part in parts.take(8) {
        if part.starts_with("--") {
            flags.push(part);
        } else if let Some((name, value)) = part.split_once('=') {
            variables.push((format!("APPSERVER_{name}").into(), value.into()));
        }
    }
    // No file of that name is read either, but it would replace ours.
    variables.retain(|(name, _)| name != "APPSERVER_CONFIG");
    let Some(cli) = typed(&flags) else { return };
    match loaded(&cli, text, variables) {
        Ok(loaded) => stays(&loaded, text),
        Err(error) => is_told(&error, text),
    }
}

/// A command line that starts a server; none that clap refuses.
fn typed(flags: &[&str]) -> Option<Cli> {
    if flags.is_empty() {
        return Some(PLAIN.clone());
    }
    let mut cli = Cli::try_parse_from([&["appserver"], flags].concat()).ok()?;
    cli.config = Some(FILE.into());
    cli.started_in = PathBuf::from("/");
    cli.verb.is_none().then_some(cli)
}

/// One without flags; clap takes its time.
static PLAIN: LazyLock<Cli> = LazyLock::new(|| typed(&["--config", FILE]).expect("a command line of a server"));

fn loaded(cli: &Cli, text: &str, env: Vec<(OsString, OsString)>) -> Result<Loaded, ConfigError> {
    load_by(cli, env, |path| {
        assert_eq!(path, PathBuf::from("/").join(FILE));
        io::Result::Ok(text.to_owned())
    })
}

/// What is printed says the same.
fn stays(first: &Loaded, text: &str) {
    let printed = print(first);
    let plain = typed(&[]).expect("a command line without flags");
    let second = loaded(&plain, &printed, Vec::new())
        .unwrap_or_else(|error| panic!("what was printed is refused: {error}\n{printed}\nof {text:?}"));
    assert_eq!(second.config, first.config, "printed:\n{printed}\nof {text:?}");
    is_sane(&first.config);
    let again = print(&second);
    let values = |text: &str| -> Vec<String> { text.lines().map(without_origin).collect() };
    assert_eq!(values(&again), values(&printed), "of {text:?}");
}

/// A printed line without the comment that says where its value is from.
fn without_origin(line: &str) -> String {
    line.rsplit_once(" # ")
        .map_or(line, |(value, _)| value)
        .trim_end()
        .to_owned()
}

/// What the rest of the server relies on.
fn is_sane(config: &Config) {
    assert!(!config.listeners.is_empty() && !config.mounts.is_empty());
    assert!((1..=1024).contains(&config.workers) && (1..=1024).contains(&config.threads));
    assert!(config.limits.body_buffer as u64 <= config.limits.body);
    assert!(config.limits.header_field <= config.limits.header_total);
    for (at, mount) in config.mounts.iter().enumerate() {
        assert!(mount.path.is_empty() || mount.path.starts_with('/') && !mount.path.ends_with('/'));
        assert!(
            config.mounts[..at]
                .iter()
                .all(|other| other.path.len() >= mount.path.len() && other.path != mount.path)
        );
        assert!(!mount.module.as_os_str().is_empty());
    }
}

/// There is a finding, each can be read, and points into the file if at any place in it.
fn is_told(error: &ConfigError, text: &str) {
    let ConfigError::Findings(findings) = error else {
        panic!("the file is there: {error}")
    };
    assert!(!findings.is_empty(), "refused without a finding: {text:?}");
    for finding in findings {
        assert!(
            !finding.message.is_empty() && finding.help.as_deref() != Some(""),
            "{finding:?}"
        );
        if let Origin::File(spot) = &finding.origin {
            let line = text.split('\n').nth(spot.line - 1);
            let line = line.unwrap_or_else(|| panic!("line {} of {text:?}", spot.line));
            assert_eq!(spot.text, line.trim_end_matches('\r'), "line {} of {text:?}", spot.line);
            assert!(spot.column >= 1 && spot.width >= 1, "{spot:?} of {text:?}");
        }
    }
    assert!(error.to_string().contains(&findings[0].message));
}
