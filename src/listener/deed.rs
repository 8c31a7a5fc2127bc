//! What a successor must know of a listener besides its descriptor.
//!
//! Takes where a listener was configured to be and where it comes from; gives a text that crosses to another process and
//! is compared there with what a configuration asks for. Whether a socket is as it says is for the one who takes it over.
#![forbid(unsafe_code)]

use crate::config;
use crate::sys::path::absolute;
use serde::{Deserialize, Serialize};
use std::os::fd::RawFd;
use std::path::PathBuf;

/// What a successor must know of a listener besides its descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// What it was configured as, the path of a Unix socket made absolute.
    pub(super) bind: String,
    pub(super) origin: Origin,
}

/// Where a listener comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Origin {
    /// We bound it; of a Unix socket we made the file at this path, with this device and inode.
    Bound(Option<(PathBuf, Option<(u64, u64)>)>),
    /// Somebody else did, and keeps it when we are gone.
    Inherited,
}

impl Deed {
    /// Of a listener that was configured as `bind`.
    pub(super) fn of(bind: &config::Bind, origin: &Origin) -> Self {
        let bind = match origin {
            // By the path at which we bound it, whatever the working directory is by now.
            Origin::Bound(Some((path, _))) => place(&config::Bind::Unix(path.clone())),
            _ => place(bind),
        };
        let origin = origin.clone();
        Self { bind, origin }
    }

    /// Whether it is the listener that a configuration asks for.
    pub fn is_of(&self, bind: &config::Bind) -> bool {
        self.bind == place(bind)
    }

    /// The number under which a service manager passed it to the first master; None for what we bound ourselves.
    pub fn passed_as(&self) -> Option<RawFd> {
        match (&self.origin, self.bind.parse()) {
            (Origin::Inherited, Ok(config::Bind::Fd(number))) => Some(number),
            _ => None,
        }
    }
}

/// A bind address as text that is the same in every working directory.
fn place(bind: &config::Bind) -> String {
    match bind {
        config::Bind::Unix(path) => config::Bind::Unix(absolute(path)).to_string(),
        other => other.to_string(),
    }
}
