//! What the environment says.
//!
//! Takes the variables as an iterator, so that tests need not change the process; gives the values of those named
//! `APPSERVER_…` to the draft. An unknown one is a finding, for a misspelt variable that nobody heeds is a bad night. An
//! empty one counts as not set, because that is the only way to unset one in many deployment tools.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::draft::Draft;
use super::origin::Origin;
use super::reserved;
use super::setting::{self, PREFIX, SETTINGS};
use super::value::{Given, nearest};

/// Names the configuration file, as `--config` does.
const CONFIG: &str = "APPSERVER_CONFIG";
/// Bind addresses, separated by commas.
const BIND: &str = "APPSERVER_BIND";

/// Picks our variables out of all.
pub fn collect(draft: &mut Draft, all: impl IntoIterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
    let mut ours = BTreeMap::new();
    for (name, value) in all {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        match value.into_string() {
            Ok(value) if value.is_empty() => {}
            Ok(value) => {
                ours.insert(name.to_owned(), value);
            }
            Err(_) => draft.find(
                Origin::Env(name.to_owned()),
                format!("`{name}` is not UTF-8 text"),
                None,
            ),
        }
    }
    ours
}

/// The configuration file, if the environment names it.
pub fn config_file(ours: &BTreeMap<String, String>) -> Option<PathBuf> {
    ours.get(CONFIG).map(PathBuf::from)
}

/// Reads our variables into the draft.
pub fn read(draft: &mut Draft, ours: &BTreeMap<String, String>) {
    for (name, value) in ours {
        let origin = Origin::Env(name.clone());
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == *name) {
            draft.set(setting, Given::Typed(value), origin);
        } else if name == BIND {
            draft.bind(
                value.split(',').map(str::trim).filter(|address| !address.is_empty()),
                &origin,
            );
        } else if name != CONFIG && !is_service_link(name) {
            unknown(draft, name, origin);
        }
    }
}

/// Kubernetes gives every pod the address of every service of its namespace; one called `appserver` yields
/// APPSERVER_SERVICE_HOST, APPSERVER_PORT_8000_TCP_ADDR and so on. They are not meant for us.
fn is_service_link(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    rest == "PORT"
        || ["SERVICE_HOST", "SERVICE_PORT", "PORT_"]
            .iter()
            .any(|link| rest.starts_with(link))
}

fn unknown(draft: &mut Draft, name: &str, origin: Origin) {
    let later = reserved::KEYS
        .iter()
        .any(|(table, key)| setting::variable(table, key) == name)
        || reserved::TABLES
            .iter()
            .any(|table| name.starts_with(&setting::variable(table, "")));
    if later {
        return draft.find(
            origin,
            format!("`{name}` is reserved for a later version"),
            Some("unset it".to_owned()),
        );
    }
    let known: Vec<String> = SETTINGS.iter().map(setting::Setting::variable).collect();
    // Compared without the prefix, which they share and which would make all of them look alike.
    let bare = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    let known: Vec<String> = known
        .iter()
        .map(String::as_str)
        .chain([CONFIG, BIND])
        .map(bare)
        .collect();
    let help = nearest(&bare(name), known.iter().map(String::as_str)).map_or_else(
        || "appserver --print-config shows every setting".to_owned(),
        |word| format!("did you mean `{PREFIX}{word}`?"),
    );
    draft.find(origin, format!("unknown environment variable `{name}`"), Some(help));
}
