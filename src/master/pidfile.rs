//! The file that tells others the master's pid.
//!
//! Takes a path; writes it whole or not at all, and removes it again if it is still ours. It is no lock: the socket
//! is what two servers cannot share.
#![forbid(unsafe_code)]

use crate::sys::process::Pid;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A pidfile that we wrote.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
    pid: Pid,
}

/// Why it could not be written.
#[derive(Debug)]
pub enum PidfileError {
    /// Another process that lives is named in it.
    Taken(PathBuf, Pid),
    /// It could not be written.
    Write(PathBuf, io::Error),
}

impl fmt::Display for PidfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(path, pid) => write!(
                f,
                "pidfile {} names process {pid}, which is running; stop it, or remove the file if it is another program",
                path.display()
            ),
            Self::Write(path, error) => write!(f, "cannot write pidfile {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for PidfileError {}

impl Pidfile {
    /// Writes our pid to `path`, refusing when a living process is named there.
    pub fn write(path: &Path) -> Result<Self, PidfileError> {
        if let Some(other) = read(path)
            && other != Pid::this()
            && other.runs()
        {
            return Err(PidfileError::Taken(path.to_owned(), other));
        }
        Self::put(path)
    }

    fn put(path: &Path) -> Result<Self, PidfileError> {
        let pid = Pid::this();
        let failed = |error| PidfileError::Write(path.to_owned(), error);
        // Beside it, so that the rename is atomic and a reader never sees half a number.
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{pid}"));
        std::fs::write(&beside, format!("{pid}\n")).map_err(failed)?;
        std::fs::rename(&beside, path).map_err(|error| {
            let _ = std::fs::remove_file(&beside);
            failed(error)
        })?;
        Ok(Self {
            path: path.to_owned(),
            pid,
        })
    }

    /// Writes our pid in place of that of `before`, whose successor we are.
    pub fn succeed(path: &Path, before: Pid) -> Result<Self, PidfileError> {
        if read(path) == Some(before) {
            return Self::put(path);
        }
        Self::write(path)
    }

    /// Writes our pid again, after a successor that failed may have written its own.
    pub fn restore(&self, failed: Pid) -> Result<(), PidfileError> {
        if read(&self.path) == Some(failed) {
            Self::put(&self.path)?;
        }
        Ok(())
    }

    /// Removes it, if we are the process that wrote it and it still says so.
    pub fn remove(&self) {
        if Pid::this() == self.pid && read(&self.path) == Some(self.pid) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn read(path: &Path) -> Option<Pid> {
    std::fs::read_to_string(path)
        .ok()?
        .trim()
        .parse()
        .ok()
        .map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfile_of_a_living_process_is_refused_and_a_stale_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        std::fs::write(&path, "1\n").unwrap();
        assert!(matches!(Pidfile::write(&path), Err(PidfileError::Taken(..))));
        std::fs::write(&path, "garbage").unwrap();
        let pidfile = Pidfile::write(&path).unwrap();
        assert_eq!(read(&path), Some(Pid::this()));
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        pidfile.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_pidfile_of_a_process_that_ended_and_that_nobody_reaps_is_stale() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = Pid::from_raw(child.id() as i32);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while ended.runs() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(ended.is_alive(), "it is not reaped yet");
        std::fs::write(&path, format!("{ended}\n")).unwrap();
        assert!(Pidfile::write(&path).is_ok());
        child.wait().unwrap();
    }

    #[test]
    fn a_pidfile_that_another_took_over_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let pidfile = Pidfile::write(&path).unwrap();
        std::fs::write(&path, "1\n").unwrap();
        pidfile.remove();
        assert!(path.exists());
    }
}
