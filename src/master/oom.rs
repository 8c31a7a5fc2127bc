//! Whether the kernel has killed for want of memory.
//!
//! Takes the kernel's own count, of our control group where there is one, else of the whole machine; gives whether it
//! grew since the last look. A killed process does not say who killed it: this is all there is to tell by.
#![forbid(unsafe_code)]

use crate::sys::time;
use std::path::PathBuf;
use std::time::Duration;

/// Killings come in bursts, and the first death that is looked at has seen the count of all.
const BURST: Duration = Duration::from_secs(5);

/// The count and when it last grew.
#[derive(Debug)]
pub struct Oom {
    source: PathBuf,
    count: u64,
    grew: Option<u64>,
}

impl Oom {
    /// Begins to watch.
    pub fn watch() -> Self {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let group = own_group(&groups).map(|group| PathBuf::from(format!("/sys/fs/cgroup{group}/memory.events")));
        let source = group
            .filter(|path| path.is_file())
            .unwrap_or_else(|| "/proc/vmstat".into());
        let mut oom = Self {
            source,
            count: 0,
            grew: None,
        };
        oom.count = oom.read();
        oom
    }

    /// Whether it has killed since the last look, or a moment before.
    pub fn has_killed(&mut self) -> bool {
        self.look();
        let now = time::monotonic_ns();
        self.grew
            .is_some_and(|grew| now.saturating_sub(grew) < time::nanos(BURST))
    }

    /// Takes note of the count, so that what it killed elsewhere is not taken for ours later.
    pub fn look(&mut self) {
        let count = self.read();
        if count > self.count {
            self.grew = Some(time::monotonic_ns());
        }
        self.count = count;
    }

    fn read(&self) -> u64 {
        count(&std::fs::read_to_string(&self.source).unwrap_or_default())
    }
}

/// The path of our group in the unified hierarchy (cgroups(7)).
fn own_group(groups: &str) -> Option<&str> {
    groups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(|path| path.trim_end_matches('/'))
}

/// The line `oom_kill N` of /proc/vmstat and of memory.events.
fn count(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_grew_is_noticed_once_and_for_a_moment() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("memory.events");
        std::fs::write(&source, "low 0\noom 3\noom_kill 2\noom_group_kill 0\n").unwrap();
        let mut oom = Oom {
            source: source.clone(),
            count: 2,
            grew: None,
        };
        assert!(!oom.has_killed());
        std::fs::write(&source, "oom_kill 4\n").unwrap();
        assert!(oom.has_killed() && oom.has_killed(), "both of a burst");
        oom.grew = Some(1);
        assert!(!oom.has_killed());
        assert_eq!(
            own_group("1:cpu:/x\n0::/system.slice/a.service\n"),
            Some("/system.slice/a.service")
        );
        assert_eq!(own_group("0::/\n"), Some(""));
        assert_eq!(count(""), 0);
        let _ = Oom::watch();
    }
}
