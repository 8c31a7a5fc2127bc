//! A control group with a limit of memory, for what the kernel does when it is reached.
//!
//! Takes a limit; gives the words that run a command in the group. It removes the group, not what runs in it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::wait::within;

/// The group; empty when it goes.
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// None where this machine lets nobody limit memory: no root, or no such controller (cgroups(7)).
    pub fn new(bytes: u64) -> Option<Self> {
        let name = format!("appserver-test-{}", std::process::id());
        let (parent, limit) = if Path::new("/sys/fs/cgroup/memory/cgroup.procs").exists() {
            (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")
        } else {
            let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
            (Path::new("/sys/fs/cgroup"), "memory.max")
        };
        let group = Self(parent.join(name));
        fs::create_dir(&group.0).ok()?;
        // Where there is no swap there is nothing to limit about it.
        let _ = fs::write(group.0.join("memory.swap.max"), "0");
        fs::write(group.0.join(limit), bytes.to_string()).ok()?;
        Some(group)
    }

    /// For [`Builder::wrap`](crate::support::builder::Builder::wrap).
    pub fn words(&self) -> [String; 4] {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        ["sh".into(), "-c".into(), enter, "sh".into()]
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let gone = within(std::time::Duration::from_secs(5), || fs::remove_dir(&self.0).ok());
        if gone.is_none() && !std::thread::panicking() {
            panic!("{} is still in use", self.0.display());
        }
    }
}
