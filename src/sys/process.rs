//! Processes: forking, looking after children, ending.
//!
//! Takes closures and pids; gives typed outcomes. Whom to fork and when to kill is the master's business. Forking is
//! only sound while the process has one thread; [`fork`] checks that.
#![allow(unsafe_code)]

use super::fd::check;
use super::signal::{self, Blocked};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// A process id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pid(i32);

impl Pid {
    /// From its number.
    pub fn from_raw(pid: i32) -> Self {
        Self(pid)
    }

    /// As a number.
    pub fn as_raw(self) -> i32 {
        self.0
    }

    /// This process.
    pub fn this() -> Self {
        Self(nix::unistd::getpid().as_raw())
    }

    /// The parent as it is now.
    pub fn parent() -> Self {
        Self(nix::unistd::getppid().as_raw())
    }

    /// Whether some process has this id (kill(2) with signal 0).
    pub fn is_alive(self) -> bool {
        self.0 > 0 && nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0), None) != Err(nix::errno::Errno::ESRCH)
    }
}

impl Pid {
    /// Whether a process of this id runs; one that ended and was not reaped does not (proc_pid_stat(5)).
    pub fn runs(self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{self}/stat")).unwrap_or_default();
        let state = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.trim_start().chars().next());
        self.is_alive() && !matches!(state, Some('Z' | 'X'))
    }
}

impl std::fmt::Display for Pid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It called exit with this code.
    Exited(i32),
    /// It was killed by this signal.
    Killed(i32),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Killed(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
        }
    }
}

impl Outcome {
    /// As the end of a sentence that begins with the child.
    pub fn told(self) -> String {
        match self {
            Self::Exited(_) => self.to_string(),
            Self::Killed(_) => format!("was {self}"),
        }
    }
}

/// Code of a child whose life ended in a panic.
pub const PANICKED: i32 = 101;

/// Forks a child that lives `life` and ends with the code it gives, without running anything of the parent's: no
/// destructors, no atexit handlers.
///
/// The child starts with all signals blocked; `life` restores them through the mask it is given, once it has its own
/// handlers. Refused when another thread runs, since a lock it holds would be held in the child for ever.
pub fn fork(life: impl FnOnce(Blocked) -> i32) -> io::Result<Pid> {
    if threads()? != 1 {
        return Err(io::Error::other("a thread runs in the process that forks"));
    }
    let mask = Blocked::all()?;
    // SAFETY: this process has one thread, checked above, so the child finds every lock free and may run any code.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Pid(child.as_raw())),
        nix::unistd::ForkResult::Child => {
            let code = catch_unwind(AssertUnwindSafe(|| life(mask))).unwrap_or(PANICKED);
            end(code)
        }
    }
}

/// Ends this process at once (_exit(2)).
pub fn end(code: i32) -> ! {
    // SAFETY: ends the process; nothing runs afterwards.
    unsafe { libc::_exit(code) }
}

/// A program as it is to be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its file, looked for anew at each execution.
    pub path: PathBuf,
    /// Its arguments, its name first.
    pub args: Vec<OsString>,
    /// Its environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where it starts.
    pub folder: PathBuf,
}

impl Program {
    /// This process's own, as it was started in `folder`; ask before the title is changed. The path is the name it was
    /// called by, so that a link or a file that is replaced leads to the new one.
    pub fn this(folder: &Path) -> io::Result<Self> {
        let running = std::env::current_exe()?;
        let args: Vec<OsString> = std::env::args_os().collect();
        let name = args.first().map(PathBuf::from).unwrap_or_default();
        let called = if name.as_os_str().as_encoded_bytes().contains(&b'/') {
            vec![std::path::absolute(folder.join(&name))?]
        } else {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&folders)
                .map(|of_path| folder.join(of_path).join(&name))
                .collect()
        };
        // A name is only what the caller chose to say; it counts if the file behind it is the one that runs.
        let is_running = |path: &PathBuf| file_identity(path).is_some_and(|file| Some(file) == file_identity(&running));
        let path = called.into_iter().find(is_running).unwrap_or_else(|| running.clone());
        Ok(Self {
            path,
            args,
            env: std::env::vars_os().collect(),
            folder: folder.to_owned(),
        })
    }
}

fn file_identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Becomes another program (execve(2)), to which only the `passed` descriptors stay open, under their numbers. It finds
/// no signal ignored or blocked. Returns only why it could not; the process is then fit for nothing but to end.
pub fn execute(program: &Program, passed: &[BorrowedFd<'_>], mask: Blocked) -> io::Error {
    let become_it = || -> io::Result<std::convert::Infallible> {
        let text = |text: OsString| CString::new(text.into_vec()).map_err(io::Error::from);
        let path = text(program.path.clone().into_os_string())?;
        let args: Vec<CString> = program.args.iter().cloned().map(text).collect::<io::Result<_>>()?;
        let pair = |(name, value): &(OsString, OsString)| {
            let mut line = name.clone();
            line.push("=");
            line.push(value);
            text(line)
        };
        let env: Vec<CString> = program.env.iter().map(pair).collect::<io::Result<_>>()?;
        nix::unistd::chdir(&program.folder)?;
        for fd in passed {
            // SAFETY: no pointers; the descriptor is open for as long as it is borrowed.
            check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) })?;
        }
        signal::all_to_default();
        drop(mask);
        Ok(nix::unistd::execve(&path, &args, &env)?)
    };
    match become_it() {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

/// Has orphans among our descendants become our children (prctl(2)), as they do anyway with process 1.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Takes a variable out of the environment, so that no child finds it. False when more than one thread runs, for another
/// could be reading the environment.
pub fn forget_variable(name: &str) -> bool {
    if !matches!(threads(), Ok(1)) {
        return false;
    }
    #[expect(clippy::disallowed_methods, reason = "it was meant for this process alone")]
    // SAFETY: this process has one thread, checked above.
    unsafe {
        std::env::remove_var(name)
    };
    true
}

/// Number of threads of this process.
pub fn threads() -> io::Result<usize> {
    // The link count of the folder is two more than its entries and costs one call instead of three.
    use std::os::unix::fs::MetadataExt;
    Ok((std::fs::metadata("/proc/self/task")?.nlink() as usize).saturating_sub(2))
}

/// Looks for a child that has ended without reaping it; None when there is none.
///
/// By hand: nix knows no real-time signals, and would fail for ever on a child that was killed by one.
pub fn look() -> io::Result<Option<(Pid, Outcome)>> {
    // SAFETY: all zeros is a valid siginfo_t, the one that means "none" (waitid(2)).
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: the kernel writes to the live struct.
        let done = unsafe { libc::waitid(libc::P_ALL, 0, &mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
        match check(done) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        // SAFETY: waitid filled the fields of SIGCHLD, or left zeros.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        return Ok(match (pid, info.si_code) {
            (0, _) => None,
            (_, libc::CLD_EXITED) => Some((Pid(pid), Outcome::Exited(status))),
            _ => Some((Pid(pid), Outcome::Killed(status))),
        });
    }
}

/// Whether a terminal sends this process what it sends to its foreground (a resize, say).
pub fn is_in_foreground() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else {
        return false;
    };
    nix::unistd::tcgetpgrp(&terminal).is_ok_and(|group| group == nix::unistd::getpgrp())
}

/// Reaps one child that has ended; gives the most memory that was ever resident in it, in bytes (wait4(2)).
pub fn reap(pid: Pid) -> u64 {
    // SAFETY: all zeros is a valid rusage: one of a process that used nothing.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to the live struct; how the child ended was asked for before.
    unsafe { libc::wait4(pid.0, std::ptr::null_mut(), libc::WNOHANG, &mut usage) };
    u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024
}

/// Kills a child that was not reaped yet, so that its id cannot belong to another process.
pub fn kill(pid: Pid) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.0), nix::sys::signal::Signal::SIGKILL);
}

/// Has the kernel send TERM to this process when its parent ends (prctl(2)). A change of user clears it, so this
/// comes after; false when the parent is not `parent` any more, for then the signal will never come.
pub fn term_when_parent_ends(parent: Pid) -> io::Result<bool> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
    Ok(Pid::parent() == parent)
}

/// Has the kernel kill this process when its parent ends; false when the parent is gone already.
pub fn kill_when_parent_ends(parent: Pid) -> io::Result<bool> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    Ok(Pid::parent() == parent)
}

/// Lets other processes come first, but is not starved by them (setpriority(2)).
pub fn be_nice() {
    // SAFETY: no pointers; one that cannot be had changes nothing.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 4) };
}

/// Raises the soft limit of open files to the hard one.
pub fn raise_open_files() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// Resident memory of a process, in bytes, without what it shares with others through a memfd (proc_pid_status(5), VmRSS less RssShmem): the
/// shared cache is nobody's own. None when there is no such process.
pub fn memory_of(pid: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let shared = kib("RssShmem:").unwrap_or(0);
    Some(kib("VmRSS:")?.saturating_sub(shared).saturating_mul(1024))
}

/// The process's break, its end of heap.
pub(super) fn heap_end() -> io::Result<u64> {
    // SAFETY: an increment of zero only asks.
    let end = unsafe { libc::sbrk(0) };
    check(if end as isize == -1 { -1 } else { 0 })?;
    Ok(end as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::shm;
    use std::sync::atomic::Ordering;

    #[test]
    fn shared_memory_is_nobodys_own() {
        const MIB: usize = 64;
        let before = memory_of(Pid::this()).unwrap();
        let shared = shm::create("memory-test", (MIB << 20) / 8).unwrap();
        for page in shared.words.chunks(512) {
            page[0].store(1, Ordering::Relaxed);
        }
        let after = memory_of(Pid::this()).unwrap();
        assert!(after < before + (MIB << 20) as u64 / 2, "{before} and then {after}");
    }
}
