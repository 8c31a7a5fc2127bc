//! A socket that clients connect to: bound by us or inherited, shared by all workers.
//!
//! Takes a `[[listener]]` of the configuration; gives a bound, listening, non-blocking [`Listener`]. It also shuts
//! the door: new callers are kept out while those in the queue can still be accepted. Who accepts, and when, is the
//! worker's business.
#![forbid(unsafe_code)]

use crate::config;
use crate::sys::{fd, privilege, socket};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

pub use crate::sys::socket::Address;

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: Address,
    origin: Origin,
}

/// Where a listener comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    /// We bound it; of a Unix socket we made the file at this path, with this device and inode.
    Bound(Option<(PathBuf, Option<(u64, u64)>)>),
    /// Somebody else did, and keeps it when we are gone.
    Inherited,
}

/// Why a listener could not be had.
#[derive(Debug)]
pub enum ListenerError {
    /// bind(2) or listen(2) failed.
    Bind(String, io::Error),
    /// The path of a Unix socket belongs to something else.
    NotASocket(PathBuf),
    /// A server answers on the Unix socket.
    InUse(PathBuf),
    /// Mode or owner of a Unix socket could not be set.
    Permissions(PathBuf, String),
    /// An inherited descriptor is not a listening socket.
    Inherited(RawFd, io::Error),
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
        }
    }
}

impl std::error::Error for ListenerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind(_, error) | Self::Inherited(_, error) => Some(error),
            _ => None,
        }
    }
}

/// The errno values whose cure we know (errno(3)); the rest speak for themselves.
mod libc_code {
    pub const ENOENT: i32 = 2;
    pub const EACCES: i32 = 13;
    pub const EINVAL: i32 = 22;
    pub const EADDRINUSE: i32 = 98;
    pub const EADDRNOTAVAIL: i32 = 99;
}

/// The text of an error without the number that std adds.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

impl Listener {
    /// Binds or adopts what the configuration names and opens its door. Adopt inherited ones before binding others.
    pub fn open(wanted: &config::Listener) -> Result<Self, ListenerError> {
        let listener = match &wanted.bind {
            config::Bind::Tcp(address) => {
                let socket = socket::listen_tcp(*address, wanted.backlog)
                    .map_err(|error| ListenerError::Bind(address.to_string(), error))?;
                let address = socket::local(&socket).unwrap_or(Address::Tcp(*address));
                Self {
                    socket,
                    address,
                    origin: Origin::Bound(None),
                }
            }
            config::Bind::Unix(path) => Self::bind_unix(path, wanted)?,
            config::Bind::Fd(number) => Self::adopt(*number)?,
        };
        if matches!(listener.address, Address::Tcp(_)) {
            // What is accepted inherits it: a piece of a response must not wait for the client's acknowledgement of the one before.
            let _ = socket::set_nodelay(&listener.socket);
        }
        // A predecessor that shut the door of an inherited socket may have died before it could open it.
        if matches!(listener.address, Address::Tcp(_)) {
            let _ = socket::let_new_callers_in(&listener.socket);
        }
        Ok(listener)
    }

    fn adopt(number: RawFd) -> Result<Self, ListenerError> {
        let inherited = |error| ListenerError::Inherited(number, error);
        let socket = fd::adopt(number).map_err(inherited)?;
        fd::set_nonblocking(&socket, true).map_err(inherited)?;
        let address = socket::local(&socket).map_err(inherited)?;
        Ok(Self {
            socket,
            address,
            origin: Origin::Inherited,
        })
    }

    fn bind_unix(path: &Path, wanted: &config::Listener) -> Result<Self, ListenerError> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        let failed = |error| ListenerError::Bind(format!("unix:{}", path.display()), error);
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(ListenerError::NotASocket(path.to_owned())),
            // Only a socket on which nobody answers is a leftover.
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                _ => return Err(ListenerError::InUse(path.to_owned())),
            },
            Err(_) => {}
        }
        // Nobody may connect between bind and chmod who may not afterwards.
        let before = wanted.mode.map(|mode| privilege::umask(!mode & 0o777));
        let socket = socket::listen_unix(path, wanted.backlog);
        if let Some(mask) = before {
            privilege::umask(mask);
        }
        let socket = socket.map_err(failed)?;
        let denied = |why: String| ListenerError::Permissions(path.to_owned(), why);
        if wanted.owner.is_some() || wanted.group.is_some() {
            privilege::look_up(wanted.owner.as_deref(), wanted.group.as_deref())
                .map_err(|error| denied(error.to_string()))?
                .own(path)
                .map_err(|error| denied(reason(&error)))?;
        }
        if let Some(mode) = wanted.mode {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(|error| denied(reason(&error)))?;
        }
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let file = identity_of(&path);
        Ok(Self {
            socket,
            address: Address::Unix(Some(path.clone())),
            origin: Origin::Bound(Some((path, file))),
        })
    }

    /// Takes one connection from the queue: non-blocking, close-on-exec. None when the queue is empty, also once the
    /// door is shut. An error (EMFILE and its like) comes at once and for ever: wait a little before the next try.
    pub fn accept(&self) -> io::Result<Option<(OwnedFd, Address)>> {
        loop {
            match socket::accept(&self.socket) {
                Ok(accepted) => return Ok(Some(accepted)),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    // The caller went away in the queue.
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                    // What a Unix listener says once it is shut down and its queue is empty.
                    _ if error.raw_os_error() == Some(libc_code::EINVAL) => return Ok(None),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether its connections are TCP.
    pub fn is_tcp(&self) -> bool {
        matches!(self.address, Address::Tcp(_))
    }

    /// Keeps new callers out; those in the queue can still be accepted. An inherited socket is left as it is: its
    /// owner keeps it open for whoever serves next.
    pub fn close_door(&self) -> io::Result<()> {
        match (&self.origin, &self.address) {
            (Origin::Inherited, _) => Ok(()),
            (_, Address::Tcp(_)) => socket::drop_new_callers(&self.socket),
            (_, Address::Unix(_)) => socket::shutdown_read(&self.socket),
        }
    }

    /// Whether [`Listener::close_door`] shuts anything: not for an inherited socket, whose queue waits for the next server.
    pub fn has_door(&self) -> bool {
        self.origin != Origin::Inherited
    }

    /// Closes this process's hold on the socket, also where other owners of this value remain. Nothing is accepted after it.
    pub fn close(&self) {
        if let Err(error) = fd::let_go(&self.socket) {
            tracing::warn!("{} could not be closed: {error}", self.address);
        }
    }

    /// Removes the file of a Unix socket that we bound, unless another server has put its own there since. For the master that
    /// bound it, when it stops.
    pub fn unlink(&self) {
        if let Origin::Bound(Some((path, file))) = &self.origin
            && identity_of(path) == *file
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Device and inode: what tells a file from a later one of its name.
fn identity_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    fn wanted(bind: config::Bind) -> config::Listener {
        config::Listener {
            bind,
            backlog: 64,
            mode: None,
            owner: None,
            group: None,
        }
    }

    fn tcp() -> (Listener, std::net::SocketAddr) {
        let listener = Listener::open(&wanted(config::Bind::Tcp("127.0.0.1:0".parse().unwrap()))).unwrap();
        let Address::Tcp(address) = *listener.address() else {
            panic!("not TCP")
        };
        (listener, address)
    }

    fn accept(listener: &Listener) -> TcpStream {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Some((stream, _)) = listener.accept().unwrap() {
                let stream = TcpStream::from(stream);
                stream.set_nonblocking(false).unwrap();
                return stream;
            }
            std::thread::yield_now();
        }
        panic!("nothing to accept");
    }

    #[test]
    fn a_shut_tcp_door_keeps_the_queue_and_what_is_open() {
        let (listener, address) = tcp();
        let mut open = TcpStream::connect(address).unwrap();
        let mut served = accept(&listener);
        let mut queued = TcpStream::connect(address).unwrap();
        listener.close_door().unwrap();
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(300));
        assert_eq!(
            late.unwrap_err().kind(),
            io::ErrorKind::TimedOut,
            "a new caller hears nothing"
        );
        let mut buffer = [0; 2];
        open.write_all(b"hi").unwrap();
        served.read_exact(&mut buffer).unwrap();
        let mut second = accept(&listener);
        queued.write_all(b"yo").unwrap();
        second.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"yo");
        assert!(listener.accept().unwrap().is_none());
        socket::let_new_callers_in(&listener.socket).unwrap();
        TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn a_shut_unix_door_refuses_callers_and_keeps_the_queue() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = Listener::open(&wanted(config::Bind::Unix(path.clone()))).unwrap();
        let mut queued = UnixStream::connect(&path).unwrap();
        listener.close_door().unwrap();
        assert_eq!(
            UnixStream::connect(&path).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        let (stream, peer) = listener.accept().unwrap().unwrap();
        assert_eq!(peer, Address::Unix(None));
        queued.write_all(b"x").unwrap();
        let mut stream = UnixStream::from(stream);
        stream.set_nonblocking(false).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        assert!(listener.accept().unwrap().is_none(), "the end of the queue is no error");
        listener.unlink();
        assert!(!path.exists());
    }

    #[test]
    fn only_a_dead_unix_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let mut config = wanted(config::Bind::Unix(path.clone()));
        config.mode = Some(0o660);
        let first = Listener::open(&config).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(Listener::open(&config), Err(ListenerError::InUse(_))));
        drop(first);
        Listener::open(&config).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::open(&config), Err(ListenerError::NotASocket(_))));
    }

    #[test]
    fn a_taken_address_is_told_with_what_to_do() {
        let (_first, address) = tcp();
        let error = Listener::open(&wanted(config::Bind::Tcp(address)))
            .unwrap_err()
            .to_string();
        let expected = format!(
            "cannot listen on {address}: address already in use; stop the server that uses it or choose another --bind"
        );
        assert_eq!(error, expected);
    }
}
