//! A configuration while its layers are laid upon each other.
//!
//! Takes file, environment and flags, the weakest first; gives a [`Loaded`] or all findings at once. What a single
//! value must look like is told in `setting` and `value`, what values must be to each other in `check`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::bind::Place;
use super::cli::Cli;
use super::finding::{ConfigError, Finding};
use super::origin::{Origin, Origins};
use super::setting::Setting;
use super::value::{Given, Refusal};
use super::{Bind, Config, Dispatch, Listener, Mount, check, environment, file};

/// A valid configuration and where each of its values comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Their sources.
    pub origins: Origins,
}

/// A part of a list, with the origins of its keys.
#[derive(Debug)]
pub(super) struct Placed<T> {
    pub value: T,
    /// Where its table starts.
    pub at: Origin,
    pub origins: Vec<(String, Origin)>,
}

impl<T> Placed<T> {
    /// Where a key of it was said, else where it starts.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins
            .iter()
            .find(|(name, _)| name == key)
            .map_or_else(|| self.at.clone(), |(_, origin)| origin.clone())
    }
}

/// What has been said so far.
#[derive(Debug)]
pub struct Draft {
    pub(super) config: Config,
    pub(super) origins: Origins,
    pub(super) findings: Vec<Finding>,
    /// `module`, before it becomes a mount.
    pub(super) module: Option<PathBuf>,
    /// `--backlog`, which goes for every listener.
    pub(super) backlog: Option<u32>,
    /// `--arg`, with where the first was said.
    pub(super) args: BTreeMap<String, String>,
    pub(super) listeners: Vec<Placed<Listener>>,
    pub(super) mounts: Vec<Placed<Mount>>,
    /// Whether a mount was named at all, be it a refused one.
    pub(super) mount_named: bool,
}

/// Reads every layer and checks the whole.
///
/// May be called again with the same command line, which is how a reload reads the file anew: a relative path of the
/// file and a relative `chdir` are taken from the directory in which the command line was parsed. All other relative
/// paths stay as they are and mean the working directory of the server, that is `chdir` where it is given.
///
/// # Errors
/// The file cannot be read, or at least one thing is wrong; then all of them are told.
pub fn load(cli: &Cli, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Loaded, ConfigError> {
    load_by(cli, env, |path| fs::read_to_string(path))
}

/// The same, with the file's text from wherever `read` has it.
///
/// # Errors
/// See [`load`].
pub fn load_by(
    cli: &Cli,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    read: impl FnOnce(&Path) -> io::Result<String>,
) -> Result<Loaded, ConfigError> {
    let mut draft = Draft::new();
    let env = environment::collect(&mut draft, env);
    if let Some(named) = cli.config.clone().or_else(|| environment::config_file(&env)) {
        let path = cli.started_in.join(&named);
        let text = read(&path).map_err(|source| ConfigError::Read {
            path: named.clone(),
            source,
        })?;
        draft.config.file = Some(path);
        file::read(&mut draft, &named, &text);
    }
    environment::read(&mut draft, &env);
    cli.read(&mut draft);
    draft.finish(&cli.started_in)
}

impl Draft {
    pub(super) fn new() -> Self {
        Self {
            config: Config::unbound(),
            origins: Origins::default(),
            findings: Vec::new(),
            module: None,
            backlog: None,
            args: BTreeMap::new(),
            listeners: Vec::new(),
            mounts: Vec::new(),
            mount_named: false,
        }
    }

    /// Notes something wrong.
    pub(super) fn find(&mut self, origin: Origin, message: impl Into<String>, help: Option<String>) {
        self.findings.push(Finding {
            origin,
            message: message.into(),
            help,
        });
    }

    /// Notes a value that was not taken.
    pub(super) fn refuse(&mut self, origin: Origin, name: &str, refusal: Refusal) {
        self.find(origin, format!("`{name}` {}", refusal.message), refusal.help);
    }

    /// Sets one scalar; a stronger layer calls later.
    pub(super) fn set(&mut self, setting: &Setting, given: Given<'_>, origin: Origin) {
        match (setting.set)(self, given) {
            Ok(()) => self.origins.insert(setting.name(), origin),
            Err(refusal) => {
                // A refused module was named all the same: "no module" must not be said on top.
                self.mount_named |= setting.key == "module";
                self.refuse(origin, &setting.name(), refusal);
            }
        }
    }

    /// Replaces all listeners of a weaker layer by those of `--bind` or its variable.
    pub(super) fn bind<'a>(&mut self, addresses: impl Iterator<Item = &'a str>, origin: &Origin) {
        self.listeners.clear();
        for address in addresses {
            match address.parse::<Place>() {
                Ok(place) => self.listeners.push(Placed {
                    value: Listener {
                        protocol: place.protocol.unwrap_or_default(),
                        ..Listener::new(place.bind)
                    },
                    at: origin.clone(),
                    origins: vec![("bind".to_owned(), origin.clone())],
                }),
                Err(refusal) => self.refuse(origin.clone(), "bind", refusal),
            }
        }
    }

    fn finish(mut self, started_in: &Path) -> Result<Loaded, ConfigError> {
        if let Some(chdir) = &mut self.config.chdir {
            *chdir = started_in.join(&*chdir);
        }
        self.finish_listeners();
        self.finish_mounts();
        check::values(&mut self);
        if !self.findings.is_empty() {
            self.findings.sort_by_key(Finding::order);
            return Err(ConfigError::Findings(self.findings));
        }
        for (index, listener) in self.listeners.into_iter().enumerate() {
            self.config.listeners.push(listener.value);
            for (key, origin) in listener.origins {
                self.origins.insert(format!("listener.{index}.{key}"), origin);
            }
        }
        // The first match is then the right one.
        self.mounts
            .sort_by_key(|mount| std::cmp::Reverse(mount.value.path.len()));
        for (index, mount) in self.mounts.into_iter().enumerate() {
            self.config.mounts.push(mount.value);
            for (key, origin) in mount.origins {
                self.origins.insert(format!("mount.{index}.{key}"), origin);
            }
        }
        Ok(Loaded {
            config: self.config,
            origins: self.origins,
        })
    }

    fn finish_listeners(&mut self) {
        if self.listeners.is_empty() {
            let value = Listener::new(Bind::default());
            self.listeners.push(Placed {
                value,
                at: Origin::Default,
                origins: Vec::new(),
            });
        }
        let Some(backlog) = self.backlog else { return };
        let origin = self.origins.of("backlog").clone();
        for listener in &mut self.listeners {
            listener.value.backlog = backlog;
            listener.origins.retain(|(key, _)| key != "backlog");
            listener.origins.push(("backlog".to_owned(), origin.clone()));
        }
    }

    fn finish_mounts(&mut self) {
        let Some(module) = self.module.take() else { return };
        let said = self.origins.of("module").clone();
        if let Some(mount) = self.mounts.first() {
            let message = format!("`module` ({said}) and [[mount]] tables exclude each other");
            let origin = if matches!(said, Origin::File(_)) {
                said
            } else {
                mount.at.clone()
            };
            self.find(
                origin,
                message,
                Some("give the module a [[mount]] with path = \"/\" of its own".to_owned()),
            );
            return;
        }
        let mut origins = vec![("module".to_owned(), said.clone())];
        origins.extend(
            self.args
                .keys()
                .map(|key| (format!("args.{key}"), Origin::Flag("--arg"))),
        );
        let args = std::mem::take(&mut self.args);
        let value = Mount {
            path: String::new(),
            module,
            args,
            dispatch: Dispatch::Auto,
        };
        self.mounts.push(Placed {
            value,
            at: said,
            origins,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::super::{AccessTarget, Level, Protocol, print};
    use super::*;
    use crate::exit::Exit;

    /// Loads a file's text with flags and variables, in a folder of its own.
    fn load_with(text: &str, flags: &[&str], env: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let mut cli = Cli::parse_from(["appserver"].iter().chain(flags));
        cli.started_in = dir.path().to_owned();
        if !text.is_empty() {
            fs::write(dir.path().join("a.toml"), text).unwrap();
            cli.config = Some("a.toml".into());
        }
        load(&cli, env.iter().map(|(name, value)| (name.into(), value.into())))
    }

    fn findings(text: &str, flags: &[&str], env: &[(&str, &str)]) -> Vec<Finding> {
        match load_with(text, flags, env) {
            Err(ConfigError::Findings(all)) => all,
            other => panic!("expected findings, got {other:?}"),
        }
    }

    /// The one finding of a file with a module, as a user reads it.
    fn finding(text: &str) -> String {
        let all = findings(&format!("module = \"a.so\"\n{text}"), &[], &[]);
        assert_eq!(all.len(), 1, "{all:#?}");
        all[0].to_string()
    }

    #[test]
    fn a_module_alone_is_a_configuration() {
        let loaded = load_with("", &["--module", "a.so", "--arg", "k=v"], &[]).unwrap();
        let mut expected = Config::for_module("a.so");
        expected.mounts[0].args.insert("k".into(), "v".into());
        assert_eq!(loaded.config, expected);
        assert_eq!(loaded.config.listeners[0].bind.to_string(), "127.0.0.1:8000");
        assert_eq!(*loaded.origins.of("mount.0.module"), Origin::Flag("--module"));
        assert_eq!(*loaded.origins.of("mount.0.args.k"), Origin::Flag("--arg"));
    }

    #[test]
    fn a_listener_speaks_the_protocol_of_its_address_or_of_its_key() {
        let text = "module = \"a.so\"\n[[listener]]\nbind = \"uwsgi://127.0.0.1:3031\"\n\
                    [[listener]]\nbind = \"unix:/a\"\nprotocol = \"uwsgi\"\n\
                    [[listener]]\nbind = \"http+unix:/b\"\nprotocol = \"http\"\n[[listener]]\nbind = \"[::1]:1\"\n";
        let spoken = |loaded: &Loaded| -> Vec<(String, Protocol)> {
            let listeners = loaded.config.listeners.iter();
            listeners
                .map(|listener| (listener.bind.to_string(), listener.protocol))
                .collect()
        };
        let expected = [
            ("127.0.0.1:3031", Protocol::Uwsgi),
            ("unix:/a", Protocol::Uwsgi),
            ("unix:/b", Protocol::Http),
            ("[::1]:1", Protocol::Http),
        ];
        let expected = expected.map(|(bind, protocol)| (bind.to_owned(), protocol));
        let loaded = load_with(text, &[], &[]).unwrap();
        assert_eq!(spoken(&loaded), expected);
        assert_eq!(spoken(&load_with(&print::print(&loaded), &[], &[]).unwrap()), expected);
        let flags = ["-m", "a.so", "-b", "uwsgi+unix:/run/a.sock", "-b", "127.0.0.1:1"];
        let typed = spoken(&load_with("", &flags, &[]).unwrap());
        assert_eq!(typed[0], ("unix:/run/a.sock".to_owned(), Protocol::Uwsgi));
        assert_eq!(typed[1].1, Protocol::Http);
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
        let text = "module = \"a.so\"\nworkers = 2\nthreads = 2\n[timeouts]\nkeep-alive = \"2s\"\n";
        let env = [
            ("APPSERVER_WORKERS", "3"),
            ("APPSERVER_THREADS", "3"),
            ("UNRELATED", "x"),
        ];
        let Loaded { config, origins } = load_with(text, &["--workers", "4"], &env).unwrap();
        assert_eq!((config.workers, config.threads), (4, 3));
        assert_eq!(config.timeouts.keep_alive, Duration::from_secs(2));
        assert_eq!(origins.of("workers").to_string(), "flag --workers");
        assert_eq!(
            origins.of("threads").to_string(),
            "environment variable APPSERVER_THREADS"
        );
        assert_eq!(origins.of("timeouts.keep-alive").to_string(), "a.toml:5");
        assert_eq!(origins.of("timeouts.body").to_string(), "default");
    }

    #[test]
    fn every_scalar_has_its_variable_and_an_empty_one_counts_as_not_set() {
        let env = [
            ("APPSERVER_MODULE", "a.so"),
            ("APPSERVER_BIND", "127.0.0.1:1, unix:/a"),
            ("APPSERVER_TIMEOUTS_KEEP_ALIVE", "75s"),
            ("APPSERVER_LOG_LEVEL", "debug"),
            ("APPSERVER_LOG_ACCESS", "-"),
            ("APPSERVER_LIMITS_BODY", "1MiB"),
            ("APPSERVER_BACKLOG", "17"),
            ("APPSERVER_USER", ""),
            ("APPSERVER_SERVICE_HOST", "10.0.0.1"),
            ("APPSERVER_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ];
        let config = load_with("", &[], &env).unwrap().config;
        assert_eq!(config.listeners.len(), 2);
        assert!(config.listeners.iter().all(|listener| listener.backlog == 17));
        assert_eq!((config.limits.body, config.log.level), (1 << 20, Level::Debug));
        assert_eq!((config.log.access, config.user), (Some(AccessTarget::Stdout), None));
    }

    #[test]
    fn an_unknown_variable_is_refused_with_the_right_name() {
        let all = findings(
            "",
            &["-m", "a.so"],
            &[
                ("APPSERVER_WORKER", "3"),
                ("APPSERVER_FOO", "1"),
                ("APPSERVER_SCALING_MOST", "1"),
            ],
        );
        assert_eq!(all.len(), 3, "{all:#?}");
        assert!(all[0].help.as_ref().unwrap().contains("--print-config"));
        assert!(all[1].message.contains("reserved for a later version"));
        assert_eq!(all[2].help.as_deref(), Some("did you mean `APPSERVER_WORKERS`?"));
    }

    #[test]
    fn all_findings_come_at_once_in_the_order_of_their_lines() {
        let text = "wrokers = 3\nthreads = \"4\"\npreload = true\n[timeouts]\nbody = 30\n[limits]\nbody = \"64k\"\n[[listener]]\nbind = \":80\"\ntls = {}\n[[mount]]\npath = \"x\"\n[scaling]\n";
        let all = findings(text, &["--umask", "9"], &[]);
        let lines: Vec<usize> = all
            .iter()
            .filter_map(|finding| {
                if let Origin::File(spot) = &finding.origin {
                    Some(spot.line)
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(lines, [1, 2, 3, 5, 7, 9, 10, 11, 12, 13], "{all:#?}");
        assert_eq!(all.last().unwrap().origin, Origin::Flag("--umask"));
    }

    #[test]
    fn an_unknown_key_shows_its_line_a_caret_and_the_key_that_was_meant() {
        assert_eq!(
            finding("worker = 4"),
            "error: unknown key `worker`\n --> a.toml:2:1\n  |\n2 | worker = 4\n  | ^^^^^^\n  = help: did you mean `workers`?"
        );
        assert!(finding("keep-alive = \"3s\"").contains("`keep-alive` stands in [timeouts]"));
        assert!(finding("[log]\nuser = \"x\"").contains("before the first [table]"));
        assert!(finding("bind = \"127.0.0.1:1\"").contains("stands in [[listener]]"));
        assert!(finding("[[listener]]\nbind = \"fd://3\"\nmoed = \"0660\"").contains("did you mean `mode`?"));
        assert!(finding("[listener]\nbind = \"fd://3\"").contains("write [[listener]]"));
        assert!(finding("timeouts = 3").contains("write [timeouts]"));
    }

    #[test]
    fn what_the_cache_is_told_is_checked_by_name() {
        let cache = |text: &str| finding(&format!("[cache]\nenabled = true\n{text}"));
        for (text, told) in [
            (
                "size = \"4MiB\"",
                "`cache.max-entry` (1MiB) must be at most a tenth of `cache.size` (4MiB)",
            ),
            ("size = \"4\"", "`cache.size`"),
            ("scope = \"world\"", "`cache.scope`"),
            ("sise = \"64MiB\"", "did you mean `size`?"),
            ("[cache.rule]\nttl = \"5s\"", "write [[cache.rule]]"),
            ("[[cache.rule]]\ntttl = \"5s\"", "did you mean `ttl`?"),
            ("[[cache.rule]]\nttl = \"500ms\"", "whole seconds"),
            ("[[cache.rule]]\npath = \"news\"", "must begin with a slash"),
            ("[[cache.rule]]\nmethod = \"POST\"", "`method`"),
            ("[[cache.rule]]\nquery = \"a\"", "must be a list of names"),
            ("[[cache.rule]]\nheaders = [\"a b\"]", "which is no name"),
            (
                "[[cache.rule]]\nquery = []\nignore-query = [\"a\"]",
                "cannot both be said",
            ),
            (
                "[[cache.rule]]\nbypass = true\nttl = \"5s\"",
                "leaves no meaning to `ttl`",
            ),
            (
                "[[cache.rule]]\npath = \"/a\"\n[[cache.rule]]\npath = \"/a/b\"",
                "is never reached",
            ),
        ] {
            let found = cache(text);
            assert!(found.contains(told), "{text}: {found}");
        }
    }

    #[test]
    fn a_wrong_value_says_what_was_expected() {
        assert!(finding("workers = 0").contains("`workers` must be a number from 1 to 1024, not 0"));
        assert!(finding("[timeouts]\nbody = 30").contains("a duration needs a unit: \"30s\""));
        assert!(finding("[log]\nlevel = \"inof\"").contains("did you mean \"info\"?"));
        assert!(finding("umask = 22").contains("\"022\""));
        assert!(finding("[[listener]]\nbind = \"fd://3\"\nprotocol = \"fcgi\"").contains("uwsgi"));
        let both = "[[listener]]\nbind = \"uwsgi://127.0.0.1:1\"\nprotocol = \"http\"";
        assert!(finding(both).contains("`bind` and `protocol` name different protocols"));
        assert!(finding("workers = 3 4").contains("this is not TOML"));
        assert_eq!(findings("workers = 3 4\nthreads = \n", &[], &[]).len(), 2);
        assert!(finding("workers = 3\nworkers = 4").contains("a.toml:3:"));
    }

    #[test]
    fn values_that_contradict_each_other_are_found() {
        let same = "[[listener]]\nbind = \"unix:/a\"\n[[listener]]\nbind = \"unix:///a\"";
        assert!(finding(same).contains("two listeners have the address unix:/a"));
        assert!(finding("[[listener]]\nbind = \"fd://3\"\nmode = \"0660\"").contains("no meaning"));
        assert!(
            finding("[limits]\nbody = 1").contains("`limits.body-buffer` (64KiB) must not be more than `limits.body`")
        );
        assert!(finding("[[mount]]\npath = \"/\"\nmodule = \"b.so\"").contains("exclude each other"));
        let two = "[[mount]]\npath = \"/a\"\nmodule = \"b.so\"\n[[mount]]\npath = \"/a/\"\nmodule = \"b.so\"\n";
        assert!(
            findings(two, &[], &[])[0]
                .message
                .contains("two mounts have the path \"/a\"")
        );
        let all = findings(&two.replace("/a/", "/b"), &["--arg", "a=b"], &[]);
        assert!(all[0].message.contains("`--arg` goes with --module"));
        assert!(load_with("", &["-m", "a", "-b", "127.0.0.1:0", "-b", "127.0.0.1:0"], &[]).is_ok());
    }

    #[test]
    fn nothing_to_serve_is_told_with_how_to_name_a_module() {
        let error = load_with("", &[], &[]).unwrap_err();
        assert!(error.to_string().contains("--module handlers/hello.so"));
        assert_eq!(error.exit(), Exit::Config);
        assert_eq!(
            load_with("", &["-m", "a", "-w", "x"], &[]).unwrap_err().exit(),
            Exit::CommandLine
        );
        let error = load_with("", &["-c", "none.toml"], &[]).unwrap_err();
        assert!(matches!(&error, ConfigError::Read { .. }) && error.to_string().contains("none.toml"));
    }

    #[test]
    fn mounts_are_ordered_longest_first_and_keep_their_origins() {
        let text =
            "[[mount]]\nmodule = \"r.so\"\n[[mount]]\npath = \"/a/b/\"\nmodule = \"ab.so\"\nargs = { x = \"1\" }\n";
        let Loaded { config, origins } = load_with(text, &[], &[]).unwrap();
        let paths: Vec<&str> = config.mounts.iter().map(|mount| mount.path.as_str()).collect();
        assert_eq!(paths, ["/a/b", ""]);
        assert_eq!(origins.of("mount.0.args.x").to_string(), "a.toml:6");
        assert_eq!(origins.of("mount.1.module").to_string(), "a.toml:2");
    }

    #[test]
    fn the_printed_configuration_can_be_fed_back() {
        let text = "pidfile = \"a \\\" \\n b\"\numask = \"027\"\n[limits]\nbody = 1000001\n[log]\naccess = \"-\"\n\
            [[listener]]\nbind = \"unix:/a\"\nmode = \"0660\"\nowner = \"www\"\n\
            [[mount]]\nmodule = \"r.so\"\ndispatch = \"pool\"\nargs = { \"a b\" = \"1\\n2\", c = \"\" }\n";
        let first = load_with(text, &["--backlog", "5"], &[]).unwrap();
        let page = print(&first);
        let second = load_with(&page, &[], &[]).unwrap_or_else(|error| panic!("{error}\n{page}"));
        assert_eq!(
            Config {
                file: None,
                ..first.config.clone()
            },
            Config {
                file: None,
                ..second.config.clone()
            }
        );
        let line = |key: &str| {
            page.lines()
                .find(|line| line.starts_with(key))
                .unwrap_or_else(|| panic!("{page}"))
        };
        assert!(line("backlog").ends_with("# flag --backlog"));
        assert!(line("mode").ends_with("# a.toml:9"));
        assert!(line("#user").ends_with("# default"));
        assert!(line("args.\"a b\" = \"1\\u000A2\"").ends_with("# a.toml:14"));
    }

    #[test]
    fn a_relative_chdir_means_the_same_at_every_reload() {
        let loaded = load_with("", &["-m", "a.so", "--chdir", "sub"], &[]).unwrap();
        let dir = loaded.config.chdir.clone().unwrap();
        assert!(dir.is_absolute() && dir.ends_with("sub"));
        let all = check::machine(&loaded, |_| false, |_| false);
        assert_eq!(all.len(), 2, "{all:#?}");
        assert!(all[0].message.contains("sub") && all[1].message.contains("sub/a.so"));
    }

    #[test]
    fn every_shipped_configuration_is_valid() {
        for name in ["appserver.toml", "development.toml"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
            let cli = Cli::parse_from(["appserver".as_ref(), "--config".as_ref(), path.as_os_str()]);
            load(&cli, []).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn the_annotated_file_names_every_setting_with_its_true_default() {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/appserver.toml")).unwrap();
        for setting in super::super::setting::SETTINGS.iter().filter(|setting| setting.in_file) {
            let start = format!("{} = ", setting.key);
            let lines: Vec<&str> = text
                .lines()
                .map(|line| line.trim_start_matches('#'))
                .filter(|line| line.starts_with(&start))
                .collect();
            assert!(!lines.is_empty(), "{} is missing", setting.name());
        }
        let cli = Cli::parse_from([
            "appserver",
            "--config",
            concat!(env!("CARGO_MANIFEST_DIR"), "/config/appserver.toml"),
        ]);
        let config = load(&cli, []).unwrap().config;
        assert_eq!(
            (&config.timeouts, &config.limits),
            (&super::super::Timeouts::default(), &super::super::Limits::default())
        );
    }
}
