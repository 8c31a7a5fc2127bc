//! Paths that have to mean the same later: in another working directory, or when the file behind one was replaced.
//!
//! Takes a path; gives it in full, tells one file of its name from another, and makes room for a Unix socket where a dead
//! server left its own. Nothing is created here, and nobody who answers is disturbed.
#![forbid(unsafe_code)]

use super::socket;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// What was found where a Unix socket is to be.
#[derive(Debug)]
pub enum Room {
    /// Nothing, any more.
    Free,
    /// Something that is no socket.
    NotASocket,
    /// The socket of a server that answers, or whose queue is full.
    InUse,
    /// A socket that we may not connect to, so that nobody knows.
    Closed(io::Error),
}

/// The same path in every working directory.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Device and inode: what tells a file from a later one of its name.
pub fn identity_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Makes room for a Unix socket: removes one on which nobody answers. Never waits.
///
/// # Errors
/// When a leftover cannot be removed (unlink(2)).
pub fn make_room(path: &Path) -> io::Result<Room> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Err(_) => return Ok(Room::Free),
        Ok(found) if !found.file_type().is_socket() => return Ok(Room::NotASocket),
        Ok(_) => {}
    }
    let asked = identity_of(path);
    match socket::connect_unix(path) {
        // It may have become another's while we asked.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused && identity_of(path) == asked => {
            std::fs::remove_file(path).map(|()| Room::Free)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Room::Free),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Room::Closed(error)),
        // A queue that is full is somebody's too.
        _ => Ok(Room::InUse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_a_socket_on_which_nobody_answers_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert!(matches!(make_room(&path).unwrap(), Room::Free));
        let listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(make_room(&path).unwrap(), Room::InUse));
        drop(listener);
        assert!(matches!(make_room(&path).unwrap(), Room::Free));
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(make_room(&path).unwrap(), Room::NotASocket));
        assert!(path.exists());
    }

    #[test]
    fn a_server_whose_queue_is_full_is_not_waited_for_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = socket::listen_unix(&path, 0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(caller) = socket::connect_unix(&path) {
            waiting.push(caller);
        }
        assert!(matches!(make_room(&path).unwrap(), Room::InUse));
        assert!(path.exists());
    }
}
