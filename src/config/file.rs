//! What the TOML says.
//!
//! Takes the text of the configuration file; gives its values to the draft, each with its line, and a finding for each
//! key that is unknown, reserved or of the wrong type. It walks the parsed document by hand rather than through serde,
//! because a derived reader stops at the first mistake and every mistake should be told at once. It does not compare
//! values with each other.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::bind::Place;
use super::draft::{Draft, Placed};
use super::origin::{Origin, Spot};
use super::reserved;
use super::setting::{self, DISPATCHES, PROTOCOLS, SETTINGS, TABLES};
use super::value::{self, Given, Read, Refusal, nearest};
use super::{Bind, Dispatch, Listener, Mount};

/// Keys of `[[listener]]`, and those that a later version will have.
const LISTENER: &[&str] = &[
    "bind",
    "protocol",
    "proxy-protocol",
    "backlog",
    "reuse-port",
    "mode",
    "owner",
    "group",
];
const LISTENER_RESERVED: &[&str] = &["tls"];
/// Keys of `[[mount]]`.
const MOUNT: &[&str] = &["path", "module", "args", "dispatch"];

pub(super) type Key<'i> = Spanned<DeString<'i>>;
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// Reads `text`, which stands in `file`, into the draft.
pub fn read(draft: &mut Draft, file: &Path, text: &str) {
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        Reader { draft, file, text }.document(document.get_ref());
        return;
    }
    // What could be recovered of a broken document would only lead to findings that are none, and so would the second
    // complaint about one line.
    let mut last = 0;
    for error in errors {
        let spot = Spot::of(file, text, error.span().unwrap_or(0..0));
        if spot.line > last {
            last = spot.line;
            draft.find(
                Origin::File(spot),
                format!("this is not TOML: {}", error.message()),
                None,
            );
        }
    }
    draft.mount_named = true;
}

/// The control socket that a file names, whatever else is wrong with the file: a verb looks for its server here, and
/// the server is the one to say what is wrong. A relative path starts at the file's `chdir`.
///
/// # Errors
/// The file cannot be read.
pub fn control_socket(file: &Path) -> io::Result<Option<PathBuf>> {
    let text = fs::read_to_string(file)?;
    let (document, _) = DeTable::parse_recoverable(&text);
    let document = document.get_ref();
    let path = |value: Option<&Value<'_>>| value?.get_ref().as_str().map(PathBuf::from);
    let control = document.get("control").and_then(|table| table.get_ref().as_table());
    let Some(socket) = path(control.and_then(|control| control.get("socket"))) else {
        return Ok(None);
    };
    Ok(Some(
        path(document.get("chdir")).map_or(socket.clone(), |folder| folder.join(&socket)),
    ))
}

pub(super) struct Reader<'a> {
    pub(super) draft: &'a mut Draft,
    file: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    pub(super) fn origin<T>(&self, part: &Spanned<T>) -> Origin {
        Origin::File(Spot::of(self.file, self.text, part.span()))
    }

    fn document(&mut self, document: &DeTable<'_>) {
        for (key, value) in document {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("listener", DeValue::Array(tables)) => {
                    for table in tables {
                        self.part("listener", table, Self::listener);
                    }
                }
                ("mount", DeValue::Array(tables)) => {
                    for table in tables {
                        self.draft.mount_named = true;
                        self.part("mount", table, Self::mount);
                    }
                }
                (name @ ("listener" | "mount"), _) => {
                    self.draft.mount_named |= name == "mount";
                    self.two_brackets(key, name);
                }
                (name, DeValue::Table(keys)) if TABLES.contains(&name) => {
                    for (key, value) in keys {
                        match (name, key.get_ref().as_ref(), value.get_ref()) {
                            ("cache", "rule", DeValue::Array(rules)) => {
                                for rule in rules {
                                    self.part("cache.rule", rule, Self::rule);
                                }
                            }
                            ("cache", "rule", _) => self.two_brackets(key, "cache.rule"),
                            _ => self.scalar(name, key, value),
                        }
                    }
                }
                (name, _) if TABLES.contains(&name) => {
                    self.wrong(
                        key,
                        format!("`{name}` is a table"),
                        format!("write [{name}] on a line of its own"),
                    );
                }
                (name, _) if reserved::is_reserved(name, "") => self.reserved(key, &format!("[{name}]")),
                _ => self.scalar("", key, value),
            }
        }
    }

    fn two_brackets(&mut self, key: &Key<'_>, name: &str) {
        self.wrong(
            key,
            format!("`{name}` may stand several times: its header has two brackets"),
            format!("write [[{name}]]"),
        );
    }

    /// A key of the top level or of a plain table.
    fn scalar(&mut self, table: &str, key: &Key<'_>, value: &Value<'_>) {
        let name = key.get_ref().as_ref();
        match setting::find(table, name) {
            Some(setting) if setting.in_file => {
                let origin = self.origin(value);
                self.draft.set(setting, Given::Toml(value.get_ref()), origin);
            }
            _ if reserved::is_reserved(table, name) => self.reserved(key, name),
            _ => self.unknown(table, key),
        }
    }

    /// One table of a list.
    fn part(&mut self, name: &str, table: &Value<'_>, read: fn(&mut Self, &Value<'_>, &DeTable<'_>)) {
        match table.get_ref() {
            DeValue::Table(keys) => read(self, table, keys),
            _ => self.wrong(
                table,
                format!("`{name}` holds tables"),
                format!("write [[{name}]] on a line of its own"),
            ),
        }
    }

    fn listener(&mut self, table: &Value<'_>, keys: &DeTable<'_>) {
        let mut value = Listener::new(Bind::default());
        let mut origins = Vec::new();
        // By the address, by the key.
        let (mut told, mut said) = (None, None);
        for (key, given) in keys {
            let name = key.get_ref().as_ref();
            let read = Given::Toml(given.get_ref());
            let taken = match name {
                "bind" => place(read).map(|place| {
                    value.bind = place.bind;
                    told = place.protocol;
                }),
                "protocol" => value::choice(read, PROTOCOLS).map(|protocol| said = Some(protocol)),
                "proxy-protocol" => value::truth(read).map(|told| value.proxy_protocol = told),
                "backlog" => setting::backlog(read).map(|backlog| value.backlog = backlog),
                "reuse-port" => value::truth(read).map(|shared| value.reuse_port = shared),
                "mode" => value::octal(read).map(|mode| value.mode = Some(mode)),
                "owner" => value::text(read).map(|owner| value.owner = Some(owner)),
                "group" => value::text(read).map(|group| value.group = Some(group)),
                _ if LISTENER_RESERVED.contains(&name) => {
                    self.reserved(key, name);
                    continue;
                }
                _ => {
                    self.unknown_in("[[listener]]", key, LISTENER);
                    continue;
                }
            };
            self.taken(taken, name, given, &mut origins);
        }
        value.protocol = told.or(said).unwrap_or_default();
        if let (Some(told), Some(said)) = (told, said)
            && told != said
        {
            let help = "say it once: leave the key out, or the address without a protocol".to_owned();
            self.wrong(table, "`bind` and `protocol` name different protocols".to_owned(), help);
        }
        if !keys.contains_key("bind") {
            let help = format!("name the address, for instance bind = \"{}\"", Bind::default());
            self.wrong(table, "this [[listener]] has no `bind`".to_owned(), help);
        }
        if refused(keys, &origins, "bind") {
            return;
        }
        let at = self.origin(table);
        self.draft.listeners.push(Placed { value, at, origins });
    }

    fn mount(&mut self, table: &Value<'_>, keys: &DeTable<'_>) {
        let mut value = Mount {
            path: String::new(),
            module: String::new().into(),
            args: BTreeMap::new(),
            dispatch: Dispatch::Auto,
        };
        let mut origins = Vec::new();
        for (key, given) in keys {
            let name = key.get_ref().as_ref();
            let read = Given::Toml(given.get_ref());
            let taken = match name {
                "path" => mount_path(read).map(|path| value.path = path),
                "module" => value::path(read).map(|module| value.module = module),
                "dispatch" => value::choice(read, DISPATCHES).map(|dispatch| value.dispatch = dispatch),
                "args" => {
                    self.args(given, &mut value.args, &mut origins);
                    continue;
                }
                _ => {
                    self.unknown_in("[[mount]]", key, MOUNT);
                    continue;
                }
            };
            self.taken(taken, name, given, &mut origins);
        }
        if !keys.contains_key("module") {
            let help = "name the shared library, for instance module = \"handlers/hello.so\"".to_owned();
            self.wrong(table, "this [[mount]] has no `module`".to_owned(), help);
        }
        if refused(keys, &origins, "path") {
            return;
        }
        let at = self.origin(table);
        self.draft.mounts.push(Placed { value, at, origins });
    }

    fn args(&mut self, given: &Value<'_>, args: &mut BTreeMap<String, String>, origins: &mut Vec<(String, Origin)>) {
        let DeValue::Table(table) = given.get_ref() else {
            return self.wrong(
                given,
                "`args` must be a table of strings".to_owned(),
                "args = { key = \"value\" }".to_owned(),
            );
        };
        for (key, given) in table {
            let name = format!("args.{}", key.get_ref());
            match value::any_text(Given::Toml(given.get_ref())) {
                Ok(_) if key.get_ref().contains('\0') => {
                    self.wrong(
                        key,
                        "the name of an argument must not contain a NUL byte".to_owned(),
                        "rename it".to_owned(),
                    );
                }
                Ok(text) => {
                    args.insert(key.get_ref().to_string(), text);
                    origins.push((name, self.origin(given)));
                }
                refused => self.taken(refused.map(drop), &name, given, origins),
            }
        }
    }

    /// Notes where a value of a list stands, or why it was refused.
    pub(super) fn taken(
        &mut self,
        taken: Read<()>,
        name: &str,
        given: &Value<'_>,
        origins: &mut Vec<(String, Origin)>,
    ) {
        let origin = self.origin(given);
        match taken {
            Ok(()) => origins.push((name.to_owned(), origin)),
            Err(refusal) => self.draft.refuse(origin, name, refusal),
        }
    }

    pub(super) fn wrong<T>(&mut self, part: &Spanned<T>, message: String, help: String) {
        let origin = self.origin(part);
        self.draft.find(origin, message, Some(help));
    }

    fn reserved(&mut self, key: &Key<'_>, name: &str) {
        self.wrong(
            key,
            format!("`{name}` is reserved for a later version"),
            "leave it out: nothing would heed it".to_owned(),
        );
    }

    /// An unknown key: the same table first, then a known key of another table, then a slip of the finger.
    fn unknown(&mut self, table: &str, key: &Key<'_>) {
        let name = key.get_ref().as_ref();
        let known = SETTINGS.iter().filter(|setting| setting.in_file);
        let here = known
            .clone()
            .filter(|setting| setting.table == table)
            .map(|setting| setting.key);
        let tables = TABLES
            .iter()
            .copied()
            .chain(["listener", "mount"])
            .filter(|_| table.is_empty());
        let elsewhere = known
            .clone()
            // `bind` is that of a listener first, although [admin] has one too.
            .find(|setting| {
                setting.table != table && setting.key == name && (table.is_empty(), name) != (true, "bind")
            });
        let help = if let Some(setting) = elsewhere {
            match setting.table {
                "" => Some(format!("`{name}` stands at the top, before the first [table]")),
                table => Some(format!("`{name}` stands in [{table}]")),
            }
        } else if LISTENER.contains(&name) {
            Some(format!("`{name}` stands in [[listener]]"))
        } else if MOUNT.contains(&name) {
            Some(format!("`{name}` stands in [[mount]]"))
        } else {
            nearest(name, here.chain(tables)).map(|word| format!("did you mean `{word}`?"))
        };
        let place = if table.is_empty() {
            String::new()
        } else {
            format!(" in [{table}]")
        };
        let origin = self.origin(key);
        self.draft.find(origin, format!("unknown key `{name}`{place}"), help);
    }

    pub(super) fn unknown_in(&mut self, place: &str, key: &Key<'_>, known: &[&str]) {
        let name = key.get_ref().as_ref();
        let help = match nearest(name, known.iter().copied()) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("the keys are {}", known.join(", ")),
        };
        self.wrong(key, format!("unknown key `{name}` in {place}"), help);
    }
}

/// Whether a key was given and not taken: its default would lead to findings that are none.
fn refused(keys: &DeTable<'_>, origins: &[(String, Origin)], key: &str) -> bool {
    keys.contains_key(key) && !origins.iter().any(|(name, _)| name == key)
}

fn place(given: Given<'_>) -> Read<Place> {
    value::text(given)?.parse()
}

/// A URL prefix, without its trailing slash; `/` is the root.
pub(super) fn mount_path(given: Given<'_>) -> Read<String> {
    let path = value::any_text(given)?;
    let prefix = path.trim_end_matches('/');
    if !path.is_empty() && !path.starts_with('/') {
        return Err(Refusal::of(format!("must begin with a slash, not {path:?}")).help(format!("\"/{prefix}\"")));
    }
    if prefix
        .split('/')
        .skip(1)
        .any(|segment| matches!(segment, "" | "." | ".."))
    {
        return Err(Refusal::of(format!("must not have an empty or dot segment: {path:?}")));
    }
    if prefix.chars().any(char::is_control) {
        return Err(Refusal::of("must not contain control characters"));
    }
    Ok(prefix.to_owned())
}
