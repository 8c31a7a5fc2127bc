//! Whom a master has handed over to, and those after it: the shepherd's part.
//!
//! Takes the pid of the successor and what successors tell over a pipe; gives whom to pass signals on to, and the code to
//! leave with. A master that does not stay follows its successor too, for as long as its own workers drain.
#![forbid(unsafe_code)]

use crate::exit::Exit;
use crate::sys::process::{Outcome, Pid};
use std::fs::File;
use std::io::Read;

/// The master that serves in our place.
#[derive(Debug)]
pub struct Followed {
    pid: Pid,
    /// We stay as shepherd; here it and those after it tell their pids.
    flock: Option<File>,
    ended: Option<Outcome>,
}

impl Followed {
    /// Follows the successor `pid`, and those after it where there is a `flock`.
    pub fn new(pid: Pid, flock: Option<File>) -> Self {
        Self {
            pid,
            flock,
            ended: None,
        }
    }

    /// Who serves; None when the server has ended.
    pub fn pid(&mut self) -> Option<Pid> {
        if self.ended.is_some() {
            return None;
        }
        if let Some(told) = self.flock.as_mut().and_then(last_pid) {
            self.pid = told;
        }
        Some(self.pid)
    }

    /// A child ended; true when it was one of them.
    pub fn ended(&mut self, pid: Pid, outcome: Outcome) -> bool {
        let before = self.pid;
        let Some(now) = self.pid() else { return false };
        // One that has handed over itself leaves when its workers have; then those after it are our children.
        if pid == now || (pid == before && !now.is_alive()) {
            tracing::info!("process {pid}, which had taken over from this one, {}", outcome.told());
            self.ended = Some(outcome);
        }
        pid == before || pid == now
    }

    /// With what code we leave once our workers have left; None while we stay.
    pub fn exit(&self) -> Option<Exit> {
        match self.ended {
            Some(Outcome::Exited(code)) => Some(Exit::of(code).unwrap_or(Exit::Start)),
            Some(Outcome::Killed(_)) => Some(Exit::Start),
            None if self.flock.is_some() => None,
            None => Some(Exit::Done),
        }
    }
}

/// The last pid that was told, if any was since the last look.
fn last_pid(flock: &mut File) -> Option<Pid> {
    let mut text = String::new();
    // It ends with an error when the pipe is empty; what was read until then stays.
    let _ = flock.read_to_string(&mut text);
    text.lines().last()?.parse().ok().map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd;
    use std::io::Write;
    use std::os::fd::OwnedFd;

    /// No process has it.
    const GONE: i32 = i32::MAX;

    #[test]
    fn a_shepherd_follows_who_was_told_last_and_leaves_with_the_code_of_the_last() {
        let (read, mut write) = std::io::pipe().unwrap();
        let read = File::from(OwnedFd::from(read));
        fd::set_nonblocking(&read, true).unwrap();
        let mut followed = Followed::new(Pid::from_raw(GONE - 1), Some(read));
        assert_eq!((followed.pid(), followed.exit()), (Some(Pid::from_raw(GONE - 1)), None));
        writeln!(write, "{}\n{}", GONE - 1, Pid::this()).unwrap();
        assert!(followed.ended(Pid::from_raw(GONE - 1), Outcome::Exited(0)));
        assert_eq!(
            (followed.pid(), followed.exit()),
            (Some(Pid::this()), None),
            "another serves"
        );
        assert!(
            !followed.ended(Pid::from_raw(GONE - 2), Outcome::Exited(0)),
            "a stranger"
        );
        assert!(followed.ended(Pid::this(), Outcome::Exited(4)));
        assert_eq!((followed.pid(), followed.exit()), (None, Some(Exit::Config)));
    }

    #[test]
    fn who_does_not_stay_leaves_well_unless_the_successor_fell_first() {
        let mut followed = Followed::new(Pid::from_raw(GONE), None);
        assert_eq!(followed.exit(), Some(Exit::Done));
        assert!(followed.ended(Pid::from_raw(GONE), Outcome::Killed(9)));
        assert_eq!(followed.exit(), Some(Exit::Start));
    }
}
