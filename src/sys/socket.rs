//! Stream sockets beyond what std offers: listening with a backlog, accepting, sendfile and the filter on new callers.
//!
//! Takes and gives owned descriptors and std's addresses; all sockets are non-blocking and close-on-exec. What is
//! read from or written to them is the worker's business.
#![allow(unsafe_code)]

use super::fd::check;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind, connect, getpeername,
    getsockname, getsockopt, listen, setsockopt, shutdown, socket, sockopt,
};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The far or near end of a stream socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket, by its path; clients mostly have none.
    Unix(Option<PathBuf>),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(Some(path)) => write!(f, "unix:{}", path.display()),
            Self::Unix(None) => f.write_str("unix:"),
        }
    }
}

/// A listening TCP socket with SO_REUSEADDR, and with SO_REUSEPORT if it is to be `shared`; an IPv6 one takes IPv6 alone, so that
/// `[::]` and `0.0.0.0` can be bound side by side.
pub fn listen_tcp(address: SocketAddr, backlog: u32, shared: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    let fd = socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if shared {
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    start_listening(&fd, backlog)?;
    Ok(fd)
}

/// Whether other sockets may be bound to the same address (SO_REUSEPORT).
pub fn is_shared(listener: &impl AsFd) -> bool {
    getsockopt(listener, sockopt::ReusePort).unwrap_or(false)
}

/// A listening Unix stream socket; creates the file, with the umask of the process.
pub fn listen_unix(path: &Path, backlog: u32) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    bind(fd.as_raw_fd(), &address)?;
    start_listening(&fd, backlog)?;
    Ok(fd)
}

/// As [`listen_unix`], with a file that is never open to more than its owner, whatever the umask.
pub fn listen_unix_alone(path: &Path, backlog: u32) -> io::Result<OwnedFd> {
    use nix::sys::stat::{Mode, fchmod};
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // bind(2) makes the file with the mode that the socket has, less the umask (unix_bind_bsd in the kernel's af_unix.c).
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &address)?;
    start_listening(&fd, backlog)?;
    Ok(fd)
}

/// A connection to a Unix stream socket, without waiting: `WouldBlock` when the queue behind it is full.
pub fn connect_unix(path: &Path) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(fd.as_raw_fd(), &address)?;
    Ok(fd)
}

/// The user id of the process at the other end of a Unix socket, as it was when it connected (SO_PEERCRED, unix(7)).
pub fn peer_user(fd: &impl AsFd) -> io::Result<u32> {
    Ok(getsockopt(fd, sockopt::PeerCredentials)?.uid())
}

/// Whether the other end of a Unix stream socket is closed altogether, not just for writing (POLLHUP, poll(2)).
pub fn is_gone(fd: &impl AsFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut set = [PollFd::new(fd.as_fd(), PollFlags::empty())];
    matches!(poll(&mut set, PollTimeout::ZERO), Ok(1))
}

fn start_listening(fd: &OwnedFd, backlog: u32) -> io::Result<()> {
    let backlog = Backlog::new(i32::try_from(backlog).unwrap_or(i32::MAX)).unwrap_or(Backlog::MAXCONN);
    Ok(listen(fd, backlog)?)
}

/// Takes one connection from the queue (accept4(2)), non-blocking and close-on-exec.
pub fn accept(listener: &impl AsFd) -> io::Result<(OwnedFd, Address)> {
    let mut storage = std::mem::MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let raw = listener.as_fd().as_raw_fd();
    // SAFETY: the kernel writes an address of at most `len` bytes into live storage of that size.
    let fd = check(unsafe { libc::accept4(raw, storage.as_mut_ptr().cast(), &mut len, flags) })?;
    // SAFETY: `fd` was just created and nobody else owns it.
    let stream = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the storage holds the `len` bytes of address that accept4 wrote; the rest is zero.
    let storage = unsafe { SockaddrStorage::from_raw(storage.as_ptr().cast(), Some(len)) };
    // A client on an unnamed Unix socket has an address of two bytes, which says no more than its family.
    Ok((stream, storage.map_or(Address::Unix(None), |storage| address(&storage))))
}

/// The address of the other end.
pub fn peer(fd: &impl AsFd) -> io::Result<Address> {
    Ok(address(&getpeername::<SockaddrStorage>(fd.as_fd().as_raw_fd())?))
}

/// The address of this end.
pub fn local(fd: &impl AsFd) -> io::Result<Address> {
    Ok(address(&getsockname::<SockaddrStorage>(fd.as_fd().as_raw_fd())?))
}

fn address(storage: &SockaddrStorage) -> Address {
    if let Some(v4) = storage.as_sockaddr_in() {
        Address::Tcp(SocketAddr::V4((*v4).into()))
    } else if let Some(v6) = storage.as_sockaddr_in6() {
        Address::Tcp(SocketAddr::V6((*v6).into()))
    } else {
        Address::Unix(storage.as_unix_addr().and_then(UnixAddr::path).map(Path::to_owned))
    }
}

/// Sends small segments at once (TCP_NODELAY).
pub fn set_nodelay(fd: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(fd, sockopt::TcpNoDelay, &true)?)
}

/// Copies from a file to a socket inside the kernel, from `offset`, at most `count` bytes; gives how many left.
pub fn sendfile(socket: &impl AsFd, file: &impl AsFd, offset: u64, count: usize) -> io::Result<usize> {
    let mut offset = offset as libc::off_t;
    let (socket, file) = (socket.as_fd().as_raw_fd(), file.as_fd().as_raw_fd());
    // SAFETY: both descriptors are borrowed for the call and `offset` is live.
    let sent = unsafe { libc::sendfile(socket, file, &mut offset, count) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Has the kernel hold no more than so many bytes for a peer beyond those on their way (TCP_NOTSENT_LOWAT of tcp(7)); connections have it
/// from their listener.
pub fn hold_at_most(fd: &impl AsFd, bytes: u32) -> io::Result<()> {
    let len = size_of_val(&bytes) as libc::socklen_t;
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: the option is one int, which is read during the call.
    check(unsafe {
        libc::setsockopt(
            raw,
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const bytes).cast(),
            len,
        )
    })
    .map(|_| ())
}

/// Bytes sent that the peer has not taken: unacknowledged over TCP (SIOCOUTQ of tcp(7)), with the kernel's own overhead on a Unix socket.
pub fn queued(fd: &impl AsFd) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed for the call, which writes one int (TIOCOUTQ is SIOCOUTQ).
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Ends our half of the conversation; the peer may still talk.
pub fn shutdown_write(fd: &impl AsFd) -> io::Result<()> {
    Ok(shutdown(fd.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Write)?)
}

/// Has the close of a TCP connection reset it and drop what was not sent yet (SO_LINGER of zero, socket(7)).
pub fn reset_on_close(fd: &impl AsFd) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(setsockopt(fd, sockopt::Linger, &linger)?)
}

/// Takes nothing more: on a listening Unix socket new callers are refused while the queue can still be accepted.
pub fn shutdown_read(fd: &impl AsFd) -> io::Result<()> {
    Ok(shutdown(fd.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Read)?)
}

/// Ends both halves; whoever is blocked on the socket wakes.
pub fn shutdown_both(fd: &impl AsFd) -> io::Result<()> {
    Ok(shutdown(fd.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Both)?)
}

/// Sends what fits at once, whoever else may use the socket; gives the number of bytes that left.
pub fn send_now(fd: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    use nix::sys::socket::{MsgFlags, send};
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(send(fd.as_fd().as_raw_fd(), bytes, flags)?)
}

/// Ends a connection by a reset, at once, while its descriptor stays open: over TCP by dissolving it (connect(2),
/// AF_UNSPEC). A Unix socket knows no reset; its client sees the end of the stream.
pub fn break_off(fd: &impl AsFd) -> io::Result<()> {
    // SAFETY: all zeros is a valid sockaddr: the family AF_UNSPEC, and nothing else of it is read.
    let nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    let len = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: `nowhere` is live and `len` bytes long.
    let dissolved = check(unsafe { libc::connect(fd.as_fd().as_raw_fd(), &raw const nowhere, len) });
    match dissolved {
        Ok(_) => Ok(()),
        Err(_) => shutdown_both(fd),
    }
}

/// Makes a listening TCP socket deaf to new callers while handshakes under way and the queue go on.
///
/// A socket filter sees the segment from its TCP header on: byte 13 holds the flags (RFC 9293 3.1), SYN is 0x02 and
/// ACK 0x10. A bare SYN is dropped, so the caller retries, and meets whoever listens next; all else passes.
pub fn drop_new_callers(listener: &impl AsFd) -> io::Result<()> {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut program = [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 13),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0x12),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 0x02),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    let (pointer, len) = (
        (&raw const filter).cast(),
        size_of::<libc::sock_fprog>() as libc::socklen_t,
    );
    let raw = listener.as_fd().as_raw_fd();
    // SAFETY: the kernel copies the program, which lives until the call returns.
    check(unsafe { libc::setsockopt(raw, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, pointer, len) }).map(|_| ())
}

/// Has a listening TCP socket refuse new callers while handshakes under way and the queue go on. It cannot be undone.
///
/// For who may not attach a filter: Linux 6.18 asks for CAP_NET_ADMIN where the socket is TCP. Bound to an interface that does not
/// exist (SO_BINDTOIFINDEX, Linux 5.0), the listener is found by nobody's SYN any more.
pub fn refuse_new_callers(listener: &impl AsFd) -> io::Result<()> {
    let nowhere = libc::c_int::MAX;
    let (pointer, len) = ((&raw const nowhere).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    let raw = listener.as_fd().as_raw_fd();
    // SAFETY: the option takes an int, which lives until the call returns.
    check(unsafe { libc::setsockopt(raw, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, pointer, len) }).map(|_| ())
}

/// Whether [`refuse_new_callers`] is in force.
pub fn refuses_new_callers(listener: &impl AsFd) -> bool {
    let mut interface: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    let raw = listener.as_fd().as_raw_fd();
    let value = (&raw mut interface).cast();
    // SAFETY: both pointers are to live variables of the sizes given.
    let asked = unsafe { libc::getsockopt(raw, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, value, &mut len) };
    asked == 0 && interface == libc::c_int::MAX
}

/// Whether [`drop_new_callers`] is in force: the filter of a socket can be asked for its length.
pub fn drops_new_callers(listener: &impl AsFd) -> bool {
    let mut len: libc::socklen_t = 0;
    let raw = listener.as_fd().as_raw_fd();
    // SAFETY: with a length of zero the kernel only says how many instructions there are.
    let asked = unsafe {
        libc::getsockopt(
            raw,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::null_mut(),
            &mut len,
        )
    };
    asked == 0 && len > 0
}

/// Whether [`shutdown_read`] was called on a listening Unix socket.
pub fn is_shut_for_reading(listener: &impl AsFd) -> bool {
    // By hand: nix does not know this flag and would say that nothing was found.
    let mut set = libc::pollfd {
        fd: listener.as_fd().as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one live pollfd; the call does not wait.
    let looked = unsafe { libc::poll(&mut set, 1, 0) };
    looked == 1 && set.revents & libc::POLLRDHUP != 0
}

/// Changes the length of the accept queue of a socket that listens (listen(2)).
pub fn set_backlog(listener: &OwnedFd, backlog: u32) -> io::Result<()> {
    start_listening(listener, backlog)
}

/// Undoes [`drop_new_callers`]; nothing to undo is fine.
pub fn let_new_callers_in(listener: &impl AsFd) -> io::Result<()> {
    let none: libc::c_int = 0;
    let (pointer, len) = ((&raw const none).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    let raw = listener.as_fd().as_raw_fd();
    // SAFETY: the option takes an int that the kernel ignores.
    match check(unsafe { libc::setsockopt(raw, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, pointer, len) }) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
