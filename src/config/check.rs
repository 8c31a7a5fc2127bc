//! What values must be to each other, and to the machine.
//!
//! Takes the merged draft, in which each value is fine by itself; gives a finding for each pair that is not. The second
//! part, [`machine`], looks at files and accounts and is meant for `--check-config`: a start finds the same things out
//! by doing them. No module is opened here.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::bind::UNIX_PATH_MAX;
use super::draft::{Draft, Loaded};
use super::finding::Finding;
use super::origin::Origin;
use super::value::bytes_text;
use super::{AccessTarget, Bind};

/// Checks values against each other.
pub fn values(draft: &mut Draft) {
    mounts(draft);
    listeners(draft);
    beside_listeners(draft);
    limits(draft);
    recycling(draft);
    cache(draft);
}

/// An entry must leave room for others: new ones pass through a tenth of the memory.
fn cache(draft: &mut Draft) {
    let cache = &draft.config.cache;
    if cache.enabled && cache.max_entry > cache.size / 10 {
        let (entry, size) = (bytes_text(cache.max_entry), bytes_text(cache.size));
        let message = format!("`cache.max-entry` ({entry}) must be at most a tenth of `cache.size` ({size})");
        let at = draft.origins.of("cache.max-entry").clone();
        let at = if at == Origin::Default {
            draft.origins.of("cache.size").clone()
        } else {
            at
        };
        let most = bytes_text(cache.size / 10);
        draft.find(
            at,
            message,
            Some(format!("set `max-entry` to {most:?} or less, or make the cache larger")),
        );
    }
}

fn mounts(draft: &mut Draft) {
    if draft.mounts.is_empty() && !draft.mount_named {
        let help = "write --module handlers/hello.so, set APPSERVER_MODULE, or put `module = \"...\"` into a file for --config";
        draft.find(
            Origin::Default,
            "no module is named: there is nothing to serve",
            Some(help.to_owned()),
        );
    }
    if !draft.args.is_empty() && !draft.mounts.is_empty() {
        let help = "write them into the mount: args = { key = \"value\" }";
        draft.find(
            Origin::Flag("--arg"),
            "`--arg` goes with --module, not with [[mount]] tables",
            Some(help.to_owned()),
        );
    }
    let mut findings = Vec::new();
    for (at, mount) in draft.mounts.iter().enumerate() {
        if let Some(first) = draft.mounts[..at]
            .iter()
            .find(|first| first.value.path == mount.value.path)
        {
            let path = if mount.value.path.is_empty() {
                "/"
            } else {
                &mount.value.path
            };
            let message = format!("two mounts have the path {path:?}");
            findings.push(
                Finding::new(mount.origin("path"), message).help(format!("the first is at {}", first.origin("path"))),
            );
        }
    }
    draft.findings.append(&mut findings);
}

fn listeners(draft: &mut Draft) {
    let mut findings = Vec::new();
    for (at, listener) in draft.listeners.iter().enumerate() {
        let bind = &listener.value.bind;
        // Port 0 asks for any free port, each time another.
        let any = matches!(bind, Bind::Tcp(address) if address.port() == 0);
        if let Some(first) = draft.listeners[..at]
            .iter()
            .find(|first| !any && first.value.bind == *bind)
        {
            let message = format!("two listeners have the address {bind}");
            findings.push(
                Finding::new(listener.origin("bind"), message)
                    .help(format!("the first is at {}", first.origin("bind"))),
            );
        }
        if listener.value.reuse_port
            && let Some(help) = why_not_shared(bind)
        {
            let message = format!("`reuse-port` has no meaning for {bind}");
            findings.push(Finding::new(listener.origin("reuse-port"), message).help(help));
        }
        if matches!(bind, Bind::Unix(_)) {
            continue;
        }
        for (key, set) in [
            ("mode", listener.value.mode.is_some()),
            ("owner", listener.value.owner.is_some()),
            ("group", listener.value.group.is_some()),
        ] {
            if set {
                let message = format!("`{key}` has no meaning for {bind}");
                findings.push(
                    Finding::new(listener.origin(key), message).help("only a Unix socket has an owner and permissions"),
                );
            }
        }
    }
    draft.findings.append(&mut findings);
}

/// What to do instead of sharing an address that we cannot share.
fn why_not_shared(bind: &Bind) -> Option<&'static str> {
    match bind {
        Bind::Tcp(_) => None,
        Bind::Unix(_) => Some("only a TCP address can be shared by several servers; leave the key out"),
        Bind::Fd(_) => Some(
            "who binds the socket has to say so: in systemd's .socket unit write ReusePort=yes, and leave the key out here",
        ),
    }
}

/// The monitor and the control socket have addresses of their own.
fn beside_listeners(draft: &mut Draft) {
    let same = |one: &Bind, other: &Bind| {
        // Port 0 asks for any free port, each time another.
        one == other && !matches!(one, Bind::Tcp(address) if address.port() == 0)
    };
    let taken = |draft: &Draft, bind: &Bind| {
        let listener = draft
            .listeners
            .iter()
            .find(|listener| same(&listener.value.bind, bind))?;
        Some(listener.origin("bind"))
    };
    if let Some(admin) = draft.config.admin.clone()
        && let Some(first) = taken(draft, &admin)
    {
        let origin = draft.origins.of("admin.bind").clone();
        let help = format!("the listener is at {first}; the admin pages need another port or path");
        draft.find(
            origin,
            format!("[admin] bind and a listener have the address {admin}"),
            Some(help),
        );
    }
    let Some(control) = draft.config.control.clone() else {
        return;
    };
    let origin = draft.origins.of("control.socket").clone();
    let length = control.as_os_str().len();
    if length > UNIX_PATH_MAX {
        let message = format!(
            "`control.socket` is too long for a Unix socket: {length} bytes, the kernel takes {UNIX_PATH_MAX} (unix(7))"
        );
        draft.find(origin.clone(), message, None);
    }
    let control = Bind::Unix(control);
    let also = if draft.config.admin.as_ref() == Some(&control) {
        Some(draft.origins.of("admin.bind").clone())
    } else {
        taken(draft, &control)
    };
    if let Some(first) = also {
        let message = format!("the control socket has the address {control}, which is taken");
        draft.find(origin, message, Some(format!("the first is at {first}")));
    }
}

/// Numbers that mean nothing without another.
fn recycling(draft: &mut Draft) {
    let limits = &draft.config.limits;
    if limits.max_requests_jitter > 0 && limits.max_requests == 0 {
        let origin = draft.origins.of("limits.max-requests-jitter").clone();
        let help = "set `max-requests` too, or leave the jitter out";
        draft.find(
            origin,
            "`limits.max-requests-jitter` has no meaning without `limits.max-requests`",
            Some(help.to_owned()),
        );
    }
}

fn limits(draft: &mut Draft) {
    let limits = draft.config.limits.clone();
    let unlimited = |limit: u64| if limit == 0 { u64::MAX } else { limit };
    let pairs = [
        (
            "memory-soft",
            limits.memory_soft,
            "memory-hard",
            unlimited(limits.memory_hard),
        ),
        ("body-buffer", limits.body_buffer as u64, "body", limits.body),
        (
            "request-line",
            limits.request_line as u64,
            "header-total",
            limits.header_total as u64,
        ),
        (
            "header-field",
            limits.header_field as u64,
            "header-total",
            limits.header_total as u64,
        ),
    ];
    for (part, size, whole, most) in pairs {
        if size > most {
            // The one that somebody set is the one to point at.
            let said = |key: &str| draft.origins.of(&format!("limits.{key}")).clone();
            let origin = match said(part) {
                Origin::Default => said(whole),
                said => said,
            };
            let message = format!(
                "`limits.{part}` ({}) must not be more than `limits.{whole}` ({})",
                bytes_text(size),
                bytes_text(most)
            );
            draft.find(origin, message, Some(format!("lower `{part}` or raise `{whole}`")));
        }
    }
}

/// Checks the configuration against this machine: files, directories and accounts.
///
/// `user_exists` and `group_exists` answer for a name, since only `sys` may ask the account database.
#[must_use]
pub fn machine(
    loaded: &Loaded,
    user_exists: impl Fn(&str) -> bool,
    group_exists: impl Fn(&str) -> bool,
) -> Vec<Finding> {
    let mut look = Look {
        loaded,
        findings: Vec::new(),
    };
    let config = &loaded.config;
    if let Some(dir) = &config.chdir
        && !dir.is_dir()
    {
        look.find("chdir", format!("the directory {} does not exist", dir.display()));
    }
    for (index, mount) in config.mounts.iter().enumerate() {
        let path = look.resolve(&mount.module);
        if !path.is_file() {
            look.find(
                &format!("mount.{index}.module"),
                format!("there is no module file {}", path.display()),
            );
        }
    }
    look.account("user", config.user.as_deref(), "user", &user_exists);
    look.account("group", config.group.as_deref(), "group", &group_exists);
    look.parent("pidfile", config.pidfile.as_deref());
    look.parent("log.file", config.log.file.as_deref());
    if let Some(AccessTarget::File(path)) = &config.log.access {
        look.parent("log.access", Some(path));
    }
    look.parent("control.socket", config.control.as_deref());
    if let Some(Bind::Unix(path)) = &config.admin {
        look.parent("admin.bind", Some(path));
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        if let Bind::Unix(path) = &listener.bind {
            look.parent(&format!("listener.{index}.bind"), Some(path));
        }
        look.account(
            &format!("listener.{index}.owner"),
            listener.owner.as_deref(),
            "user",
            &user_exists,
        );
        look.account(
            &format!("listener.{index}.group"),
            listener.group.as_deref(),
            "group",
            &group_exists,
        );
    }
    look.findings.sort_by_key(Finding::order);
    look.findings
}

struct Look<'a> {
    loaded: &'a Loaded,
    findings: Vec<Finding>,
}

impl Look<'_> {
    fn find(&mut self, name: &str, message: String) {
        self.findings
            .push(Finding::new(self.loaded.origins.of(name).clone(), message));
    }

    /// What a path will mean once the server has entered its directory.
    fn resolve(&self, path: &Path) -> PathBuf {
        self.loaded
            .config
            .chdir
            .as_ref()
            .map_or_else(|| path.to_owned(), |dir| dir.join(path))
    }

    fn account(&mut self, name: &str, account: Option<&str>, kind: &str, exists: &dyn Fn(&str) -> bool) {
        if let Some(account) = account.filter(|account| !exists(account)) {
            self.find(name, format!("there is no {kind} {account:?} on this machine"));
        }
    }

    /// A file that the server creates needs a directory that is there.
    fn parent(&mut self, name: &str, path: Option<&Path>) {
        let Some(path) = path.map(|path| self.resolve(path)) else {
            return;
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()) {
            self.find(name, format!("the directory {} does not exist", dir.display()));
        }
    }
}
