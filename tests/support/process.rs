//! A process seen from outside: what /proc tells of it.
//!
//! Takes a pid; gives its children, state, descriptors and memory. A process that has gone has none of these, which is
//! an answer and not an error.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sends a signal; false when the process has gone.
pub fn signal(pid: i32, signal: Signal) -> bool {
    kill(Pid::from_raw(pid), signal).is_ok()
}

/// The children, zombies left out.
pub fn children(pid: i32) -> Vec<i32> {
    all_children(pid)
        .into_iter()
        .filter(|&child| state(child).is_some_and(|state| state != 'Z'))
        .collect()
}

/// The workers among the children of a master. A child that is new shows its master's title, one that is at its end none; others check modules,
/// watch or look after the cache.
pub fn workers(master: i32) -> Vec<i32> {
    let all = children(master).into_iter();
    all.filter(|&pid| title(pid).starts_with("appserver: worker")).collect()
}

/// Children that have ended and were not reaped.
pub fn zombies(pid: i32) -> Vec<i32> {
    all_children(pid)
        .into_iter()
        .filter(|&child| state(child) == Some('Z'))
        .collect()
}

fn all_children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The state letter of proc_pid_stat(5); none when there is no such process.
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, so what follows is counted from the last of them.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// True while the process runs or sleeps.
pub fn alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// Every live process whose working directory this is: those of one server, whoever is their parent now.
pub fn inside(folder: &Path) -> Vec<i32> {
    let Ok(folder) = folder.canonicalize() else {
        return Vec::new();
    };
    let processes = fs::read_dir("/proc").expect("Linux has it").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder))
        .collect()
}

/// Number of threads.
pub fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |tasks| tasks.count())
}

/// What `ps` shows as the command.
pub fn title(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

/// What the open descriptors point to, sorted.
pub fn descriptors(pid: i32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let mut found: Vec<String> = links.map(|link| link.display().to_string()).collect();
    found.sort();
    found
}

/// Proportional set size of one process in bytes (smaps_rollup of proc_pid_smaps(5)).
pub fn memory(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib: u64 = line
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    kib * 1024
}

/// Resident memory that is its own alone, in bytes (RssAnon of proc_pid_status(5)).
pub fn resident(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: Option<u64> = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) * 1024
}
