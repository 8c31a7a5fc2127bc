//! The effective configuration as text.
//!
//! Takes what was loaded; gives TOML that can be fed back, each value with a comment that says where it comes from. An
//! absent value stands there as a comment, so that the list is complete. It prints what holds, not what was written:
//! `--module` shows as the [[mount]] it became, `auto` as a number.
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::cache::{Query, Rule};
use super::draft::Loaded;
use super::setting::{self, DISPATCHES, PROTOCOLS, SETTINGS, TABLES, quoted};
use super::value::{duration_text, word};

/// Column in which the comments begin, unless a value reaches beyond it.
const COMMENT: usize = 40;

/// Prints everything.
#[must_use]
pub fn print(loaded: &Loaded) -> String {
    let mut page = Page {
        loaded,
        text: String::new(),
    };
    page.scalars("");
    for table in TABLES {
        page.header(&format!("[{table}]"));
        page.scalars(table);
    }
    for rule in &loaded.config.cache.rules {
        page.rule(rule);
    }
    for (index, listener) in loaded.config.listeners.iter().enumerate() {
        page.header("[[listener]]");
        let name = |key: &str| format!("listener.{index}.{key}");
        page.value("bind", Some(quoted(&listener.bind.to_string())), &name("bind"));
        page.value(
            "proxy-protocol",
            Some(listener.proxy_protocol.to_string()),
            &name("proxy-protocol"),
        );
        page.value(
            "protocol",
            Some(quoted(word(listener.protocol, PROTOCOLS))),
            &name("protocol"),
        );
        page.value("backlog", Some(listener.backlog.to_string()), &name("backlog"));
        page.value("reuse-port", Some(listener.reuse_port.to_string()), &name("reuse-port"));
        page.value("mode", listener.mode.map(setting::octal), &name("mode"));
        page.value("owner", listener.owner.as_deref().map(quoted), &name("owner"));
        page.value("group", listener.group.as_deref().map(quoted), &name("group"));
    }
    for (index, mount) in loaded.config.mounts.iter().enumerate() {
        page.header("[[mount]]");
        let name = |key: &str| format!("mount.{index}.{key}");
        let path = if mount.path.is_empty() { "/" } else { &mount.path };
        page.value("path", Some(quoted(path)), &name("path"));
        page.value("module", Some(quoted(&mount.module.to_string_lossy())), &name("module"));
        page.value(
            "dispatch",
            Some(quoted(word(mount.dispatch, DISPATCHES))),
            &name("dispatch"),
        );
        for (key, text) in &mount.args {
            page.value(
                &format!("args.{}", bare_or_quoted(key)),
                Some(quoted(text)),
                &name(&format!("args.{key}")),
            );
        }
    }
    page.text
}

struct Page<'a> {
    loaded: &'a Loaded,
    text: String,
}

impl Page<'_> {
    fn header(&mut self, header: &str) {
        let _ = write!(self.text, "\n{header}\n");
    }

    fn rule(&mut self, rule: &Rule) {
        self.header("[[cache.rule]]");
        let list = |names: &[String]| {
            let names: Vec<_> = names.iter().map(|name| quoted(name)).collect();
            format!("[{}]", names.join(", "))
        };
        let some = |names: &[String]| (!names.is_empty()).then(|| list(names));
        let (only, without) = match &rule.query {
            Query::All => (None, None),
            Query::Only(names) => (Some(list(names)), None),
            Query::Without(names) => (None, Some(list(names))),
        };
        let path = if rule.path.is_empty() { "/" } else { &rule.path };
        let values = [
            ("path", Some(quoted(path))),
            ("host", rule.host.as_deref().map(quoted)),
            ("method", rule.method.as_deref().map(quoted)),
            ("bypass", rule.bypass.then(|| "true".to_owned())),
            ("ttl", rule.ttl.map(|ttl| quoted(&duration_text(ttl)))),
            ("query", only),
            ("ignore-query", without),
            ("headers", some(&rule.headers)),
            ("cookies", some(&rule.cookies)),
        ];
        for (key, value) in values {
            if let Some(value) = value {
                let _ = writeln!(self.text, "{key} = {value}");
            }
        }
    }

    fn scalars(&mut self, table: &str) {
        let printed =
            |setting: &&setting::Setting| setting.table == table && !["module", "backlog"].contains(&setting.key);
        for setting in SETTINGS.iter().filter(printed) {
            self.value(setting.key, (setting.show)(&self.loaded.config), &setting.name());
        }
    }

    fn value(&mut self, key: &str, value: Option<String>, name: &str) {
        let line = match value {
            Some(value) => format!("{key} = {value}"),
            None => format!("#{key} = (not set)"),
        };
        let origin = self.loaded.origins.of(name).to_string();
        // A file name may hold a line break; a comment must not.
        let origin: String = origin.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let _ = writeln!(self.text, "{line:COMMENT$} # {origin}");
    }
}

/// A key as TOML takes it: bare where it may be.
fn bare_or_quoted(key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if bare { key.to_owned() } else { quoted(key) }
}
