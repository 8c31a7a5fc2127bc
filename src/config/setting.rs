//! What a setting is: its name in the file, its variable, how it is read and how it is written; and the words that some take.
//!
//! Takes a table and a key, gives the setting. The settings themselves stand in `rows`.
#![forbid(unsafe_code)]

use super::draft::Draft;
pub use super::rows::{SETTINGS, backlog, octal, probe, quoted};
use super::value::{Given, Read};
use super::{AccessFormat, Config, Dispatch, Format, Level, Protocol};

/// One scalar setting.
pub struct Setting {
    /// Its TOML table; empty at the top level.
    pub table: &'static str,
    /// Its key in that table.
    pub key: &'static str,
    /// Whether the file may hold it under this name.
    pub in_file: bool,
    /// Reads a value into the draft.
    pub set: fn(&mut Draft, Given<'_>) -> Read<()>,
    /// Writes the value as TOML; `None` when it is absent.
    pub show: fn(&Config) -> Option<String>,
}

impl Setting {
    /// The dotted name, for messages and origins.
    pub fn name(&self) -> String {
        match self.table {
            "" => self.key.to_owned(),
            table => format!("{table}.{}", self.key),
        }
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        variable(self.table, self.key)
    }
}

/// The environment variable of a key: table and key joined by `_`, in capitals.
pub fn variable(table: &str, key: &str) -> String {
    let joined = if table.is_empty() {
        key.to_owned()
    } else {
        format!("{table}_{key}")
    };
    format!("{PREFIX}{}", joined.to_ascii_uppercase().replace('-', "_"))
}

/// What every variable of ours begins with.
pub const PREFIX: &str = "APPSERVER_";

/// The setting of a key in a table.
pub fn find(table: &str, key: &str) -> Option<&'static Setting> {
    SETTINGS
        .iter()
        .find(|setting| setting.table == table && setting.key == key)
}

/// Tables that hold scalar settings.
pub const TABLES: &[&str] = &[
    "timeouts", "limits", "proxy", "cache", "log", "admin", "control", "reload",
];

/// Words of `[log] level`.
pub const LEVELS: &[(&str, Level)] = &[
    ("error", Level::Error),
    ("warn", Level::Warn),
    ("info", Level::Info),
    ("debug", Level::Debug),
    ("trace", Level::Trace),
];
/// Words of `[log] format`.
pub const FORMATS: &[(&str, Format)] = &[("human", Format::Human), ("json", Format::Json)];
/// Words of `[log] access-format`.
pub const ACCESS_FORMATS: &[(&str, AccessFormat)] =
    &[("combined", AccessFormat::Combined), ("json", AccessFormat::Json)];
/// Words of a listener's `protocol`.
pub const PROTOCOLS: &[(&str, Protocol)] = &[("http", Protocol::Http), ("uwsgi", Protocol::Uwsgi)];
/// Words of a mount's `dispatch`.
pub const DISPATCHES: &[(&str, Dispatch)] = &[
    ("auto", Dispatch::Auto),
    ("inline", Dispatch::Inline),
    ("pool", Dispatch::Pool),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_settings_share_a_name_or_a_variable() {
        for (at, one) in SETTINGS.iter().enumerate() {
            for other in &SETTINGS[at + 1..] {
                assert_ne!(one.name(), other.name());
                assert_ne!(one.variable(), other.variable());
            }
            assert!(one.table.is_empty() || TABLES.contains(&one.table));
            assert!(!super::super::reserved::is_reserved(one.table, one.key));
        }
    }

    #[test]
    fn the_manual_describes_every_setting_in_its_table() {
        let manual = include_str!("../../packaging/man/appserver.toml.5");
        for setting in SETTINGS.iter().filter(|setting| setting.in_file) {
            let header = match setting.table {
                "" => ".Ss Top level\n".to_owned(),
                table => format!(".Ss [{table}]\n"),
            };
            let (_, section) = manual.split_once(&header).unwrap_or_else(|| panic!("{header}"));
            let section = section.split(".Ss ").next().unwrap_or_default();
            let items = section.lines().filter_map(|line| line.strip_prefix(".It Li "));
            let found = items.flat_map(|items| items.split(" , ")).any(|key| key == setting.key);
            assert!(found, "{}", setting.name());
        }
    }

    #[test]
    fn the_variable_of_a_setting_is_its_table_and_key_in_capitals() {
        assert_eq!(variable("timeouts", "keep-alive"), "APPSERVER_TIMEOUTS_KEEP_ALIVE");
        assert_eq!(variable("", "workers"), "APPSERVER_WORKERS");
    }
}
