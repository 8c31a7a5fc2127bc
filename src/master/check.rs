//! The throw-away child that reads, seals and probes the modules of a generation to be.
//!
//! Takes a configuration; gives the sealed images, or the reason why they are refused. The child may block, crash or
//! hang without hurting anybody. The first boot, a reload and `--check-config` all go this way.
#![forbid(unsafe_code)]

use super::Master;
use super::inheritance::image_of;
use crate::config::Config;
use crate::exit::Exit;
use crate::handler::image::{Facts, Image};
use crate::sys::process::{self, Outcome, Pid};
use crate::sys::signal::Blocked;
use crate::sys::{fd, privilege, time, title};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A check under way.
#[derive(Debug)]
pub struct Check {
    /// What is checked.
    pub config: Config,
    /// The child.
    pub pid: Pid,
    /// When we lose patience (ns).
    pub deadline: u64,
    socket: OwnedFd,
    images: Vec<Image>,
    probing: bool,
}

/// Bytes of a reason that are passed on.
const LONGEST: usize = 8000;

/// What a check has come to.
#[derive(Debug)]
pub enum Verdict {
    /// Nothing yet.
    Pending,
    /// The modules load; these are their images.
    Accepted(Vec<Image>),
    /// They do not, for this reason.
    Refused(String),
    /// The child went away without a verdict; how it ended tells why.
    Gone,
}

impl Master {
    /// Starts to check `config`.
    pub(super) fn check(&mut self, config: Config) -> io::Result<Check> {
        let (ours, theirs) = fd::packet_pair()?;
        fd::set_nonblocking(&ours, true)?;
        let deadline = time::monotonic_ns().saturating_add(time::nanos(config.timeouts.boot));
        let (master, probe) = (self.pid, self.hooks.probe);
        let mut ours = Some(ours);
        let pid = process::fork(|mask| {
            ours = None;
            let handed = self.upgrade.heir.images().to_vec();
            self.forget();
            live(&config, &handed, probe, &theirs, master, mask)
        })?;
        let socket = ours.expect("only the child closes it");
        Ok(Check {
            config,
            pid,
            deadline,
            socket,
            images: Vec::new(),
            probing: false,
        })
    }
}

/// The child's life.
fn live(config: &Config, handed: &[Image], probe: Probe, socket: &OwnedFd, master: Pid, mask: Blocked) -> i32 {
    drop(mask);
    let _ = title::set("appserver: module check");
    // Nobody waits for a verdict that the master cannot hear.
    let verdict = match examine(config, handed, probe, socket, master) {
        Ok(()) => "ok".to_owned(),
        Err(reason) => format!(
            "refused\n{}",
            String::from_utf8_lossy(&reason.as_bytes()[..reason.len().min(LONGEST)])
        ),
    };
    let _ = fd::send(socket, verdict.as_bytes(), None);
    i32::from(Exit::Done.code())
}

/// Loads modules and shakes hands with them, in a process that may die of it.
pub type Probe = fn(&Config, &[Image]) -> Result<(), String>;

fn examine(config: &Config, handed: &[Image], probe: Probe, socket: &OwnedFd, master: Pid) -> Result<(), String> {
    let cannot = |error: io::Error| format!("cannot report to the master: {error}");
    let mut images: Vec<Image> = Vec::with_capacity(config.mounts.len());
    for mount in &config.mounts {
        if let Some(index) = images.iter().position(|image| image.path() == mount.module) {
            fd::send(socket, format!("same\n{index}").as_bytes(), None).map_err(cannot)?;
            images.push(images[index].clone());
            continue;
        }
        // What an old master serves is taken from it: the file may be gone, or be another one that nobody asked for yet.
        let image = match image_of(handed, &mount.module) {
            Some(image) => image.under(&mount.module),
            None => Image::read(&mount.module)
                .map_err(|error| format!("module {} refused: {error}", mount.module.display()))?,
        };
        let facts = image.facts();
        let message = format!("image\n{}\n{}\n{}", facts.sha256, facts.build_id, facts.len);
        fd::send(socket, message.as_bytes(), Some(image.as_fd())).map_err(cannot)?;
        images.push(image);
    }
    // Loading runs the module's constructors, so it happens under the account of the workers. Reading came before:
    // the file may be the master's alone.
    privilege::look_up(config.user.as_deref(), config.group.as_deref())
        .and_then(|identity| identity.assume())
        .map_err(|error| error.to_string())?;
    if !process::kill_when_parent_ends(master).unwrap_or(true) {
        process::end(i32::from(Exit::Done.code()));
    }
    fd::send(socket, b"probing", None).map_err(cannot)?;
    probe(config, &images)
}

impl Check {
    /// Hears what the child has to say; never blocks.
    pub fn hear(&mut self) -> Verdict {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let (len, passed) = match fd::receive(&self.socket, &mut buffer) {
                Ok((0, _)) => return Verdict::Gone,
                Ok(message) => message,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Verdict::Pending,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Verdict::Gone,
            };
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            let (kind, rest) = text.split_once('\n').unwrap_or((&text, ""));
            match kind {
                "image" => match self.received(rest, passed) {
                    Ok(image) => self.images.push(image),
                    Err(error) => return Verdict::Refused(format!("cannot keep the image of a module: {error}")),
                },
                "same" => match rest.parse::<usize>().ok().and_then(|index| self.images.get(index)) {
                    Some(image) => self.images.push(image.clone()),
                    None => return Verdict::Gone,
                },
                "probing" => self.probing = true,
                "ok" if self.images.len() == self.config.mounts.len() => {
                    return Verdict::Accepted(std::mem::take(&mut self.images));
                }
                "refused" => return Verdict::Refused(rest.to_owned()),
                _ => return Verdict::Gone,
            }
        }
    }

    fn received(&self, facts: &str, passed: Option<OwnedFd>) -> io::Result<Image> {
        let mut lines = facts.lines();
        let mut next = || lines.next().unwrap_or_default().to_owned();
        let facts = Facts {
            sha256: next(),
            build_id: next(),
            len: next().parse().unwrap_or(0),
        };
        let fd = passed.ok_or_else(|| io::Error::other("its descriptor is missing"))?;
        let mount = self.config.mounts.get(self.images.len());
        let mount = mount.ok_or_else(|| io::Error::other("there are more images than mounts"))?;
        Image::received(&mount.module, fd, facts)
    }

    /// Why a check failed whose child ended like this without a verdict.
    pub fn epitaph(&self, outcome: Outcome) -> String {
        format!(
            "{} refused: the process that {} it {}",
            self.modules(),
            self.doing(),
            outcome.told()
        )
    }

    /// Why a check failed that took too long.
    pub fn too_slow(&self) -> String {
        let boot = self.config.timeouts.boot;
        format!(
            "{} refused: the process that {} it was not done within {boot:?}",
            self.modules(),
            self.doing()
        )
    }

    fn doing(&self) -> String {
        match (&self.config.probe, self.probing) {
            (_, false) => "read".to_owned(),
            (None, true) => "loaded".to_owned(),
            (Some(target), true) => format!("loaded it and made the probe request GET {target} to"),
        }
    }

    fn modules(&self) -> String {
        let mut paths: Vec<String> = self
            .config
            .mounts
            .iter()
            .map(|mount| mount.module.display().to_string())
            .collect();
        paths.dedup();
        format!("module {}", paths.join(", "))
    }
}

impl AsFd for Check {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Checks a configuration and waits for the verdict, for `--check-config`; no master runs.
pub fn check_and_wait(config: &Config, probe: Probe) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot start the process that loads the modules: {error}");
    let (ours, theirs) = fd::packet_pair().map_err(failed)?;
    fd::set_nonblocking(&ours, true).map_err(failed)?;
    let deadline = time::monotonic_ns().saturating_add(time::nanos(config.timeouts.boot));
    let this = Pid::this();
    let pid = process::fork(|mask| live(config, &[], probe, &theirs, this, mask)).map_err(failed)?;
    drop(theirs);
    let mut check = Check {
        config: config.clone(),
        pid,
        deadline,
        socket: ours,
        images: Vec::new(),
        probing: false,
    };
    loop {
        let heard = crate::sys::poll::readable(&[check.as_fd()], Some(deadline)).map_err(failed)?;
        match check.hear() {
            Verdict::Pending if heard.is_empty() && time::monotonic_ns() >= deadline => {
                process::kill(pid);
                return Err(check.too_slow());
            }
            Verdict::Pending => {}
            Verdict::Accepted(_) => return Ok(()),
            Verdict::Refused(reason) => return Err(reason),
            Verdict::Gone => loop {
                // Its socket closes a moment before it can be reaped.
                if let Some((ended, outcome)) = process::look().map_err(failed)? {
                    process::reap(ended);
                    if ended == pid {
                        return Err(check.epitaph(outcome));
                    }
                }
                // Nobody reaps for us where SIGCHLD was inherited as ignored, or where it lives on without its socket.
                if time::monotonic_ns() >= deadline {
                    process::kill(pid);
                    return Err(check.too_slow());
                }
                let soon = time::monotonic_ns() + 1_000_000;
                crate::sys::poll::readable(&[], Some(soon)).map_err(failed)?;
            },
        }
    }
}
