//! Why a listener could not be had, in the words that a user reads.
//!
//! Takes what a step failed with; gives the exact sentence, with what to do about it. Nothing is tried again here.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// Why a listener could not be had.
#[derive(Debug)]
pub enum ListenerError {
    /// bind(2) or listen(2) failed.
    Bind(String, io::Error),
    /// Another server has the address and does not share it.
    NotShared(String, io::Error),
    /// The path of a Unix socket belongs to something else.
    NotASocket(PathBuf),
    /// A server answers on the Unix socket.
    InUse(PathBuf),
    /// Mode or owner of a Unix socket could not be set.
    Permissions(PathBuf, String),
    /// An inherited descriptor is not a listening socket.
    Inherited(RawFd, io::Error),
    /// What a predecessor handed over is not a listening socket.
    Handed(String, io::Error),
}

impl fmt::Display for ListenerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(address, error) => {
                write!(f, "cannot listen on {address}: {}", reason(error))?;
                f.write_str(match error.raw_os_error() {
                    Some(libc_code::EADDRINUSE) => "; stop the server that uses it or choose another --bind",
                    Some(libc_code::EADDRNOTAVAIL) => "; no interface of this machine has that address",
                    Some(libc_code::EACCES) => {
                        "; choose a port above 1023 or a folder you may write to, or start as root"
                    }
                    Some(libc_code::ENOENT) => "; create the folder first",
                    _ => "",
                })
            }
            Self::NotShared(address, error) => write!(
                f,
                "cannot listen on {address}: {}; the server that uses it does not share it: both need `reuse-port = true` and the \
                 same user",
                reason(error)
            ),
            Self::NotASocket(path) => {
                write!(
                    f,
                    "cannot listen on unix:{0}: {0} exists and is no socket; move it away",
                    path.display()
                )
            }
            Self::InUse(path) => write!(
                f,
                "cannot listen on unix:{}: another server answers there; stop it or choose another --bind",
                path.display()
            ),
            Self::Permissions(path, why) => write!(f, "cannot set mode or owner of unix:{}: {why}", path.display()),
            Self::Inherited(number, error) => write!(
                f,
                "cannot listen on fd://{number}: {}; pass a listening stream socket under that number",
                reason(error)
            ),
            Self::Handed(address, error) => write!(
                f,
                "cannot take {address} over from the old master: {}; stop the server and start it anew",
                reason(error)
            ),
        }
    }
}

impl std::error::Error for ListenerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind(_, error) | Self::NotShared(_, error) | Self::Inherited(_, error) | Self::Handed(_, error) => {
                Some(error)
            }
            _ => None,
        }
    }
}

/// The errno values whose cure we know (errno(3)); the rest speak for themselves.
pub(super) mod libc_code {
    pub const ENOENT: i32 = 2;
    pub const EACCES: i32 = 13;
    pub const EINVAL: i32 = 22;
    pub const EADDRINUSE: i32 = 98;
    pub const EADDRNOTAVAIL: i32 = 99;
}

/// The text of an error without the number that std adds.
pub(super) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
