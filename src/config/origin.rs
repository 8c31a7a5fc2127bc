//! Where a value comes from.
//!
//! Takes the layer that set a value; gives what `--print-config` and every message say about its source. Holds no
//! values: those are in the `Config` alone.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The layer that a value was taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A place in the configuration file.
    File(Spot),
    /// An environment variable, by name.
    Env(String),
    /// A command-line flag, by its long name with the dashes.
    Flag(&'static str),
}

/// A place in the configuration file, with what is needed to show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The file as the user named it.
    pub file: PathBuf,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// Characters to underline, at least 1, on this line only.
    pub width: usize,
    /// The line itself.
    pub text: String,
}

impl Spot {
    /// The place of a byte range of `source`.
    pub(super) fn of(file: &Path, source: &str, span: Range<usize>) -> Self {
        let start = floor(source, span.start);
        let end = floor(source, span.end).max(start);
        let line_start = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = source[start..].find('\n').map_or(source.len(), |at| start + at);
        Self {
            file: file.to_owned(),
            line: source[..start].matches('\n').count() + 1,
            column: source[line_start..start].chars().count() + 1,
            width: source[start..end.min(line_end).max(start)].chars().count().max(1),
            text: source[line_start..line_end].trim_end_matches('\r').to_owned(),
        }
    }
}

/// The nearest character boundary at or before `at`.
fn floor(source: &str, at: usize) -> usize {
    let mut at = at.min(source.len());
    while !source.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(spot) => write!(f, "{}:{}", spot.file.display(), spot.line),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// The origin of each value, by its dotted name: `workers`, `timeouts.keep-alive`, `listener.0.bind`,
/// `mount.1.args.key`. Indexes are those of the vectors in the `Config`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where the named value comes from; the default when no layer set it.
    pub fn of(&self, name: &str) -> &Origin {
        self.0.get(name).unwrap_or(&Origin::Default)
    }

    pub(super) fn insert(&mut self, name: impl Into<String>, origin: Origin) {
        self.0.insert(name.into(), origin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spot_counts_lines_and_characters_not_bytes() {
        let source = "a = 1\nö = \"ü\" # x\r\n";
        let at = source.find("\"ü\"").unwrap();
        let spot = Spot::of(Path::new("f"), source, at..at + 4);
        assert_eq!(
            (spot.line, spot.column, spot.width, spot.text.as_str()),
            (2, 5, 3, "ö = \"ü\" # x")
        );
    }

    #[test]
    fn a_span_beyond_the_end_does_not_panic() {
        let spot = Spot::of(Path::new("f"), "é", 1..99);
        assert_eq!((spot.line, spot.column), (1, 1));
    }
}
