//! Who a worker is: its account, its groups.
//!
//! Takes names of the configuration; gives up root for good, and proves it. Masters keep their own identity.
#![forbid(unsafe_code)]

use nix::unistd::{Gid, Group, Uid, User, initgroups, setgroups, setresgid, setresuid};
use std::ffi::CString;
use std::fmt;
use std::path::Path;

/// Why an identity could not be taken on.
#[derive(Debug)]
pub enum PrivilegeError {
    /// There is no such user.
    NoUser(String),
    /// There is no such group.
    NoGroup(String),
    /// The user database could not be read.
    Lookup(String, nix::errno::Errno),
    /// A system call of the change failed.
    Change(&'static str, nix::errno::Errno),
    /// The change went through, but root could be had back.
    Reversible,
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUser(name) => write!(f, "there is no user {name:?}; create it or change `user`"),
            Self::NoGroup(name) => write!(f, "there is no group {name:?}; create it or change `group`"),
            Self::Lookup(name, error) => write!(f, "cannot look up account {name:?}: {}", error.desc()),
            Self::Change(call, nix::errno::Errno::EPERM) => {
                write!(
                    f,
                    "{call} is not permitted; start the server as root or leave out `user` and `group`"
                )
            }
            Self::Change(call, error) => write!(f, "{call} failed: {}", error.desc()),
            Self::Reversible => f.write_str("root could be regained after giving it up; refusing to serve"),
        }
    }
}

impl std::error::Error for PrivilegeError {}

/// An account, looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    user: Option<(String, Uid)>,
    group: Option<Gid>,
}

/// Looks up names or numbers; the group of `user` is its primary one unless `group` names another.
pub fn look_up(user: Option<&str>, group: Option<&str>) -> Result<Identity, PrivilegeError> {
    let named_group = group.map(find_group).transpose()?;
    let user = user.map(find_user).transpose()?;
    let group = named_group.or(user.as_ref().map(|user| user.gid));
    Ok(Identity {
        user: user.map(|user| (user.name, user.uid)),
        group,
    })
}

fn find_user(name: &str) -> Result<User, PrivilegeError> {
    let found = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(name),
    };
    found
        .map_err(|error| PrivilegeError::Lookup(name.to_owned(), error))?
        .ok_or(PrivilegeError::NoUser(name.to_owned()))
}

fn find_group(name: &str) -> Result<Gid, PrivilegeError> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    let found = Group::from_name(name).map_err(|error| PrivilegeError::Lookup(name.to_owned(), error))?;
    found
        .map(|group| group.gid)
        .ok_or(PrivilegeError::NoGroup(name.to_owned()))
}

impl Identity {
    /// Becomes this account for good. What is the case already is left alone, so that it works without root.
    pub fn assume(&self) -> Result<(), PrivilegeError> {
        let changes_user = self.user.as_ref().is_some_and(|(_, uid)| *uid != Uid::effective());
        let changes_group = self.group.is_some_and(|gid| gid != Gid::effective());
        if changes_user || changes_group {
            if let Some(gid) = self.group {
                match &self.user {
                    Some((name, _)) => {
                        let name = CString::new(name.as_str()).map_err(|_| PrivilegeError::NoUser(name.clone()))?;
                        initgroups(&name, gid).map_err(|error| PrivilegeError::Change("initgroups", error))?;
                    }
                    None => setgroups(&[gid]).map_err(|error| PrivilegeError::Change("setgroups", error))?,
                }
                setresgid(gid, gid, gid).map_err(|error| PrivilegeError::Change("setresgid", error))?;
            }
            if let Some((_, uid)) = &self.user {
                setresuid(*uid, *uid, *uid).map_err(|error| PrivilegeError::Change("setresuid", error))?;
                if !uid.is_root() && nix::unistd::setuid(Uid::from_raw(0)).is_ok() {
                    return Err(PrivilegeError::Reversible);
                }
            }
        }
        Ok(())
    }

    /// Gives a file to this account; a no-op for an identity without names.
    pub fn own(&self, path: &Path) -> std::io::Result<()> {
        Ok(nix::unistd::chown(
            path,
            self.user.as_ref().map(|(_, uid)| *uid),
            self.group,
        )?)
    }

    /// Gives a regular file to it: never what a link points at, for the folder may belong to the account that is given the file.
    pub fn own_file(&self, path: &Path) -> std::io::Result<()> {
        use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        let found = file.metadata()?;
        if !found.is_file() || found.nlink() != 1 {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        Ok(nix::unistd::fchown(
            &file,
            self.user.as_ref().map(|(_, uid)| *uid),
            self.group,
        )?)
    }
}

/// The account under which this process acts (geteuid(2)).
pub fn effective_user() -> u32 {
    Uid::effective().as_raw()
}

/// Sets the file mode creation mask; gives the one before.
pub fn umask(mask: u32) -> u32 {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask)).bits()
}
