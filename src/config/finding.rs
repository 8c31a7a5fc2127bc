//! What is wrong with a configuration, in the form a user reads.
//!
//! Takes a sentence, the place it is about and a suggestion; gives the report with file, line and caret. It does not
//! decide what is wrong.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::origin::Origin;
use crate::exit::Exit;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it was said; [`Origin::Default`] when it was said nowhere (something is missing).
    pub origin: Origin,
    /// What is wrong: one sentence.
    pub message: String,
    /// What to do instead.
    pub help: Option<String>,
}

impl Finding {
    pub(super) fn new(origin: Origin, message: impl Into<String>) -> Self {
        Self {
            origin,
            message: message.into(),
            help: None,
        }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }

    /// The file's findings in the order of its lines, then the others.
    pub(super) fn order(&self) -> (usize, usize, usize) {
        match &self.origin {
            Origin::File(spot) => (0, spot.line, spot.column),
            Origin::Env(_) => (1, 0, 0),
            Origin::Flag(_) => (2, 0, 0),
            Origin::Default => (3, 0, 0),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        let mut margin = 2;
        match &self.origin {
            Origin::Default => {}
            Origin::File(spot) => {
                let number = spot.line.to_string();
                margin = number.len() + 1;
                let gap = " ".repeat(margin);
                // Tabs stay tabs in the indent, so that the caret stands under its word at any tab width.
                let indent: String = spot
                    .text
                    .chars()
                    .take(spot.column - 1)
                    .map(|c| if c == '\t' { '\t' } else { ' ' })
                    .collect();
                write!(
                    f,
                    "\n{}--> {}:{}:{}",
                    " ".repeat(number.len()),
                    spot.file.display(),
                    spot.line,
                    spot.column
                )?;
                write!(
                    f,
                    "\n{gap}|\n{number} | {}\n{gap}| {indent}{}",
                    spot.text,
                    "^".repeat(spot.width)
                )?;
            }
            said @ (Origin::Env(_) | Origin::Flag(_)) => write!(f, "\n --> {said}")?,
        }
        match &self.help {
            Some(help) => write!(f, "\n{}= help: {help}", " ".repeat(margin)),
            None => Ok(()),
        }
    }
}

/// Why there is no valid configuration. Its Display is the whole report, ready for standard error.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Read {
        /// As the user named it.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file was read, or there is none, and this is wrong; never empty.
    Findings(Vec<Finding>),
}

impl ConfigError {
    /// With what to leave: a fault of the command line alone is 2, every other is 4.
    pub fn exit(&self) -> Exit {
        match self {
            // What is missing stands nowhere, so it speaks for neither.
            Self::Findings(all)
                if all.iter().any(|finding| matches!(finding.origin, Origin::Flag(_)))
                    && all
                        .iter()
                        .all(|finding| matches!(finding.origin, Origin::Flag(_) | Origin::Default)) =>
            {
                Exit::CommandLine
            }
            _ => Exit::Config,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => {
                write!(
                    f,
                    "error: cannot read the configuration file {}: {source}",
                    path.display()
                )?;
                match source.kind() {
                    io::ErrorKind::NotFound => write!(f, "\n  = help: name it with --config FILE or APPSERVER_CONFIG"),
                    io::ErrorKind::InvalidData => write!(f, "\n  = help: TOML is UTF-8 text"),
                    _ => Ok(()),
                }
            }
            Self::Findings(all) => {
                for finding in all {
                    write!(f, "{finding}\n\n")?;
                }
                match all.len() {
                    1 => write!(f, "1 error in the configuration"),
                    n => write!(f, "{n} errors in the configuration"),
                }
            }
        }
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Findings(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::origin::Spot;
    use super::*;

    #[test]
    fn a_finding_shows_its_line_with_a_caret_under_the_word() {
        let source = "# one\nworkers = 0\n";
        let spot = Spot::of(Path::new("a.toml"), source, 16..17);
        let text = Finding::new(Origin::File(spot), "`workers` must not be 0")
            .help("leave it out")
            .to_string();
        assert_eq!(
            text,
            "error: `workers` must not be 0\n --> a.toml:2:11\n  |\n2 | workers = 0\n  |           ^\n  = help: leave it out"
        );
    }

    #[test]
    fn only_a_fault_of_the_command_line_alone_leaves_with_two() {
        let flag = Finding::new(Origin::Flag("--workers"), "x");
        let missing = Finding::new(Origin::Default, "y");
        let file = Finding::new(Origin::File(Spot::of(Path::new("a.toml"), "workers = 0\n", 0..7)), "z");
        assert_eq!(ConfigError::Findings(vec![flag.clone()]).exit(), Exit::CommandLine);
        assert_eq!(
            ConfigError::Findings(vec![flag.clone(), missing.clone()]).exit(),
            Exit::CommandLine
        );
        assert_eq!(ConfigError::Findings(vec![missing]).exit(), Exit::Config);
        assert_eq!(ConfigError::Findings(vec![flag, file]).exit(), Exit::Config);
    }
}
