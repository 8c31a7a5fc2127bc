//! What a `[[cache.rule]]` says.
//!
//! Takes one table of the file; gives the rule to the draft, or a finding for each thing that is wrong with it. Which rule counts for a request
//! is decided in `crate::cache::key`.
#![forbid(unsafe_code)]

use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::cache::{Query, Rule};
use super::file::{Reader, Value, mount_path};
use super::value::{self, Given, Read, Refusal};

const KEYS: &[&str] = &[
    "path",
    "host",
    "method",
    "bypass",
    "ttl",
    "query",
    "ignore-query",
    "headers",
    "cookies",
];
/// Words of `method`.
const METHODS: &[(&str, &str)] = &[("GET", "GET"), ("HEAD", "HEAD")];

impl Reader<'_> {
    pub(super) fn rule(&mut self, table: &Value<'_>, keys: &DeTable<'_>) {
        let mut rule = Rule::default();
        let mut origins = Vec::new();
        for (key, given) in keys {
            let name = key.get_ref().as_ref();
            let read = Given::Toml(given.get_ref());
            let taken = match name {
                "path" => mount_path(read).map(|path| rule.path = path),
                "host" => value::text(read).map(|host| rule.host = Some(host.to_ascii_lowercase())),
                "method" => value::choice(read, METHODS).map(|method| rule.method = Some(method.to_owned())),
                "bypass" => value::truth(read).map(|bypass| rule.bypass = bypass),
                "ttl" => seconds(read).map(|ttl| rule.ttl = Some(ttl)),
                "query" => names(given, |_| true).map(|names| rule.query = Query::Only(names)),
                "ignore-query" => names(given, |_| true).map(|names| rule.query = Query::Without(names)),
                "headers" => names(given, is_token).map(|names| {
                    rule.headers = names.iter().map(|name| name.to_ascii_lowercase()).collect();
                }),
                "cookies" => names(given, is_token).map(|names| rule.cookies = names),
                _ => {
                    self.unknown_in("[[cache.rule]]", key, KEYS);
                    continue;
                }
            };
            self.taken(taken, name, given, &mut origins);
        }
        if keys.contains_key("query") && keys.contains_key("ignore-query") {
            let help = "say either which parameters count (`query`), or which do not (`ignore-query`)".to_owned();
            self.wrong(table, "`query` and `ignore-query` cannot both be said".to_owned(), help);
        }
        let others = KEYS
            .iter()
            .filter(|key| !matches!(**key, "path" | "host" | "method" | "bypass"));
        let kept: Vec<_> = others
            .filter(|key| keys.contains_key(**key))
            .map(|key| format!("`{key}`"))
            .collect();
        if rule.bypass && !kept.is_empty() {
            let help = "leave out one or the other: what is passed by is kept under no key".to_owned();
            self.wrong(
                table,
                format!("`bypass` leaves no meaning to {}", kept.join(", ")),
                help,
            );
        }
        let before = self
            .draft
            .config
            .cache
            .rules
            .iter()
            .find(|before| covers(before, &rule));
        if let Some(before) = before {
            let path = if before.path.is_empty() { "/" } else { &before.path };
            let help = "the first rule that fits a request counts: put the narrower one first".to_owned();
            let message = format!("this rule is never reached: the one for {path:?} before it fits all that it fits");
            self.wrong(table, message, help);
        }
        self.draft.config.cache.rules.push(rule);
    }
}

/// Whether every request that fits `later` fits `first`.
fn covers(first: &Rule, later: &Rule) -> bool {
    let under = later
        .path
        .strip_prefix(&first.path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    under
        && (first.host.is_none() || first.host == later.host)
        && (first.method.is_none() || first.method == later.method)
}

/// HTTP knows no shorter time.
fn seconds(given: Given<'_>) -> Read<Duration> {
    let time = value::duration(given)?;
    if time.subsec_nanos() > 0 {
        return Err(Refusal::of("must be whole seconds").help("\"1s\""));
    }
    Ok(time)
}

/// A list of names.
fn names(given: &Value<'_>, may_be: fn(&str) -> bool) -> Read<Vec<String>> {
    let wrong = || Refusal::of("must be a list of names").help("[\"name\", \"other\"]");
    let DeValue::Array(list) = given.get_ref() else {
        return Err(wrong());
    };
    let name = |item: &Value<'_>| match item.get_ref() {
        DeValue::String(name) if !name.is_empty() && !name.chars().any(char::is_control) => {
            if may_be(name) {
                Ok(name.to_string())
            } else {
                Err(Refusal::of(format!(
                    "holds {name:?}, which is no name (RFC 9110 section 5.6.2)"
                )))
            }
        }
        _ => Err(wrong()),
    };
    list.iter().map(name).collect()
}

/// RFC 9110 section 5.6.2
fn is_token(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
