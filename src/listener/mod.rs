//! A socket that clients connect to: bound by us or inherited, shared by all workers.
//!
//! Takes a `[[listener]]` of the configuration; gives a bound, listening, non-blocking [`Listener`]. It also shuts
//! the door: new callers are kept out while those in the queue can still be accepted. Who accepts, and when, is the
//! worker's business.
#![forbid(unsafe_code)]

mod deed;
mod error;

use crate::config;
use crate::sys::path::{self, Room, absolute, identity_of};
use crate::sys::{fd, privilege, socket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use deed::Origin;
use error::{libc_code, reason};

pub use crate::sys::socket::Address;
pub use deed::Deed;
pub use error::ListenerError;

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: Address,
    origin: Origin,
    handed: bool,
}

impl Listener {
    /// Binds or adopts what the configuration names and opens its door. Adopt inherited ones before binding others.
    pub fn open(wanted: &config::Listener) -> Result<Self, ListenerError> {
        let listener = match &wanted.bind {
            config::Bind::Tcp(address) => {
                let socket = socket::listen_tcp(*address, wanted.backlog, wanted.reuse_port).map_err(|error| {
                    if wanted.reuse_port && error.kind() == io::ErrorKind::AddrInUse {
                        ListenerError::NotShared(address.to_string(), error)
                    } else {
                        ListenerError::Bind(address.to_string(), error)
                    }
                })?;
                let address = socket::local(&socket).unwrap_or(Address::Tcp(*address));
                Self {
                    socket,
                    address,
                    origin: Origin::Bound(None),
                    handed: false,
                }
            }
            config::Bind::Unix(path) => Self::bind_unix(path, wanted)?,
            config::Bind::Fd(number) => {
                let lent = fd::adopt(*number).and_then(Self::lent);
                return lent.map_err(|error| ListenerError::Inherited(*number, error));
            }
        };
        listener.open_door();
        listener.tell_sharing(wanted);
        Ok(listener)
    }

    /// The socket that somebody else bound and keeps: a service manager's.
    pub fn lent(socket: OwnedFd) -> io::Result<Self> {
        Self::passed(socket, Origin::Inherited)
    }

    /// The socket that a predecessor bound for `wanted` and that was kept for us with all that waits in it. It is ours
    /// as if we had bound it.
    pub fn kept(socket: OwnedFd, wanted: &config::Listener) -> Result<Self, ListenerError> {
        let failed = |error| ListenerError::Bind(wanted.bind.to_string(), error);
        let mut listener = Self::passed(socket, Origin::Bound(None)).map_err(failed)?;
        if let config::Bind::Unix(path) = &wanted.bind {
            let path = absolute(path);
            let file = identity_of(&path);
            listener.address = Address::Unix(Some(path.clone()));
            listener.origin = Origin::Bound(Some((path, file)));
        }
        listener.adjust(wanted)?;
        Ok(listener)
    }

    fn passed(socket: OwnedFd, origin: Origin) -> io::Result<Self> {
        fd::set_nonblocking(&socket, true)?;
        let address = socket::local(&socket)?;
        let listener = Self {
            socket,
            address,
            origin,
            handed: false,
        };
        listener.open_door();
        Ok(listener)
    }

    /// Takes over the listener that a predecessor hands us.
    ///
    /// # Errors
    /// When the descriptor is no listening socket.
    pub fn of(socket: OwnedFd, deed: &Deed) -> Result<Self, ListenerError> {
        let broken = |error| ListenerError::Handed(deed.bind.clone(), error);
        let mut listener = Self::passed(socket, deed.origin.clone()).map_err(broken)?;
        if let (Origin::Bound(Some((path, _))), Address::Unix(_)) = (&deed.origin, &listener.address) {
            listener.address = Address::Unix(Some(path.clone()));
        }
        listener.handed = true;
        Ok(listener)
    }

    /// Whether `address` is the place that `bind` names. A port of the kernel's choice is any.
    pub fn is_at(bind: &config::Bind, address: &Address) -> bool {
        match (bind, address) {
            (config::Bind::Tcp(wanted), Address::Tcp(found)) => {
                wanted == found || (wanted.port() == 0 && wanted.ip() == found.ip())
            }
            (config::Bind::Unix(wanted), Address::Unix(Some(found))) => absolute(wanted) == absolute(found),
            _ => false,
        }
    }

    fn open_door(&self) {
        if matches!(self.address, Address::Tcp(_)) {
            // What is accepted inherits it: a piece of a response must not wait for the client's acknowledgement of the one before.
            let _ = socket::set_nodelay(&self.socket);
            // A predecessor that shut the door of an inherited socket may have died before it could open it.
            let _ = socket::let_new_callers_in(&self.socket);
        }
    }

    /// The one for `bind` among those that a predecessor hands us, taken out.
    ///
    /// # Errors
    /// When its descriptor is no listening socket.
    pub fn handed(bind: &config::Bind, among: &mut Vec<(Deed, OwnedFd)>) -> Result<Option<Self>, ListenerError> {
        let found = among.iter().position(|(deed, _)| deed.is_of(bind));
        let handed = found.map(|index| among.remove(index));
        handed.map(|(deed, socket)| Self::of(socket, &deed)).transpose()
    }

    /// Whether a predecessor handed it to us, who may still be serving it.
    pub fn is_handed(&self) -> bool {
        self.handed
    }

    /// What a successor must know of it besides its descriptor; `bind` is how it was configured.
    pub fn deed(&self, bind: &config::Bind) -> Deed {
        Deed::of(bind, &self.origin)
    }

    fn bind_unix(path: &Path, wanted: &config::Listener) -> Result<Self, ListenerError> {
        let failed = |error| ListenerError::Bind(format!("unix:{}", path.display()), error);
        match path::make_room(path).map_err(failed)? {
            Room::Free => {}
            Room::NotASocket => return Err(ListenerError::NotASocket(path.to_owned())),
            Room::InUse | Room::Closed(_) => return Err(ListenerError::InUse(path.to_owned())),
        }
        // Nobody may connect between bind and chmod who may not afterwards.
        let before = wanted.mode.map(|mode| privilege::umask(!mode & 0o777));
        let socket = socket::listen_unix(path, wanted.backlog);
        if let Some(mask) = before {
            privilege::umask(mask);
        }
        let socket = socket.map_err(failed)?;
        permit(path, wanted)?;
        let path = absolute(path);
        let file = identity_of(&path);
        Ok(Self {
            socket,
            address: Address::Unix(Some(path.clone())),
            origin: Origin::Bound(Some((path, file))),
            handed: false,
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

    /// The kernel's number of the socket, the same for whoever holds it (fstat(2)).
    pub fn inode(&self) -> io::Result<u64> {
        fd::inode(&self.socket)
    }

    /// Whether its connections are TCP.
    pub fn is_tcp(&self) -> bool {
        matches!(self.address, Address::Tcp(_))
    }

    /// Keeps new callers out; those in the queue can still be accepted. An inherited socket is left as it is: its
    /// owner keeps it open for whoever serves next.
    pub fn close_door(&self) {
        if let Err(error) = self.keep_out() {
            tracing::warn!("cannot shut the door of {}: {error}", self.address);
        }
    }

    fn keep_out(&self) -> io::Result<()> {
        match (&self.origin, &self.address) {
            (Origin::Inherited, _) => Ok(()),
            (_, Address::Tcp(_)) => match socket::drop_new_callers(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    socket::refuse_new_callers(&self.socket)
                }
                other => other,
            },
            (_, Address::Unix(_)) => socket::shutdown_read(&self.socket),
        }
    }

    /// Whether its door is shut; the kernel knows, in whatever process it was shut.
    pub fn is_shut(&self) -> bool {
        match &self.address {
            Address::Tcp(_) => socket::drops_new_callers(&self.socket) || socket::refuses_new_callers(&self.socket),
            Address::Unix(_) => socket::is_shut_for_reading(&self.socket),
        }
    }

    /// Warns of what it means to share a port, once for each time that a socket comes to serve `wanted`. One that was open before
    /// may be otherwise than wanted: the kernel heeds the flag at bind(2).
    pub fn tell_sharing(&self, wanted: &config::Listener) {
        if !self.is_tcp() || matches!(wanted.bind, config::Bind::Fd(_)) {
            return;
        }
        let (address, shared) = (&self.address, socket::is_shared(&self.socket));
        if shared && wanted.reuse_port {
            tracing::warn!(
                "other servers of the same user may listen on {address} too (reuse-port): the kernel deals connections out by a hash, \
                 not by load; those queued at a server that is killed are lost; and any process of that user can take a share"
            );
        } else if self.origin == Origin::Inherited {
            if wanted.reuse_port {
                tracing::warn!(
                    "reuse-port has no effect on {address}: the service manager bound it; write ReusePort=yes in its .socket unit"
                );
            }
        } else if shared != wanted.reuse_port {
            tracing::warn!(
                "reuse-port = {} takes effect on {address} when the server is stopped and started: the listener that is open stays as it is",
                wanted.reuse_port
            );
        }
    }

    /// Takes on what can be changed of an open listener: its backlog, and mode and owner of a Unix socket.
    pub fn adjust(&self, wanted: &config::Listener) -> Result<(), ListenerError> {
        self.tell_sharing(wanted);
        socket::set_backlog(&self.socket, wanted.backlog)
            .map_err(|error| ListenerError::Bind(self.address.to_string(), error))?;
        match &self.origin {
            Origin::Bound(Some((path, file))) if identity_of(path) == *file => permit(path, wanted),
            _ => Ok(()),
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

/// Gives a Unix socket the owner and the mode it is to have.
fn permit(path: &Path, wanted: &config::Listener) -> Result<(), ListenerError> {
    use std::os::unix::fs::PermissionsExt;
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
    Ok(())
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
            reuse_port: false,
            protocol: config::Protocol::Http,
            proxy_protocol: false,
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
        assert!(!listener.is_shut());
        listener.close_door();
        assert!(listener.is_shut());
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
        assert!(!listener.is_shut());
        TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn who_may_not_filter_shuts_a_tcp_door_by_refusing() {
        let (listener, address) = tcp();
        let mut queued = TcpStream::connect(address).unwrap();
        assert!(!listener.is_shut());
        socket::refuse_new_callers(&listener.socket).unwrap();
        assert!(listener.is_shut());
        let late = TcpStream::connect(address);
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let mut served = accept(&listener);
        queued.write_all(b"yo").unwrap();
        served.read_exact(&mut [0; 2]).unwrap();
        assert!(listener.accept().unwrap().is_none());
    }

    #[test]
    fn a_shut_unix_door_refuses_callers_and_keeps_the_queue() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = Listener::open(&wanted(config::Bind::Unix(path.clone()))).unwrap();
        let mut queued = UnixStream::connect(&path).unwrap();
        assert!(!listener.is_shut());
        listener.close_door();
        assert!(listener.is_shut());
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
    fn a_listener_that_is_handed_over_keeps_its_address_its_file_and_its_queue() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let wish = wanted(config::Bind::Unix(path.clone()));
        let first = Listener::open(&wish).unwrap();
        let text = serde_json::to_string(&first.deed(&wish.bind)).unwrap();
        let deed: Deed = serde_json::from_str(&text).unwrap();
        assert!(deed.is_of(&wish.bind) && !deed.is_of(&config::Bind::Unix("s".into())));
        assert_eq!(deed.passed_as(), None);
        let _queued = UnixStream::connect(&path).unwrap();
        let socket = first.as_fd().try_clone_to_owned().unwrap();
        drop(first);
        let second = Listener::of(socket, &deed).unwrap();
        assert!(second.is_handed());
        assert_eq!(second.address(), &Address::Unix(Some(path.clone())));
        assert!(second.accept().unwrap().is_some());
        assert_eq!(second.deed(&wish.bind), deed, "it can be handed on");
        second.unlink();
        assert!(!path.exists());
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
