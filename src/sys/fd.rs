//! Descriptors that carry a message: event counters, socket pairs that pass descriptors, and inherited ones.
//!
//! Takes and gives owned descriptors, all close-on-exec. What is said over them is the caller's business; sockets
//! that clients connect to are in `socket`.
#![allow(unsafe_code)]

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An eventfd(2): a counter that makes its descriptor readable while it is not zero. Non-blocking.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new counter at zero.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it becomes an owned descriptor.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        // SAFETY: `fd` was just created and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// One that was made elsewhere.
    pub fn of(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Makes the descriptor readable. Async-signal-safe; a full counter is readable already, so errors mean nothing.
    pub fn wake(&self) {
        wake_raw(self.0.as_raw_fd());
    }

    /// Takes the count back to zero; tells whether it was above.
    pub fn clear(&self) -> bool {
        let mut count = [0u8; 8];
        matches!(nix::unistd::read(&self.0, &mut count), Ok(8))
    }

    /// For waiting on it in the runtime of this thread.
    pub fn watched(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is owned by the value and stays the same as long as it lives.
        unsafe { AsyncFd::register(self) }.map_err(io::Error::from)
    }

    /// A second handle on the same counter.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Keeps the descriptor open until the process ends.
    pub(super) fn leak(self) -> RawFd {
        self.0.into_raw_fd()
    }
}

/// Watches a descriptor, for something to read, in the runtime of this thread, by a handle of its own.
pub fn watch(of: &impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let own = of.as_fd().try_clone_to_owned()?;
    // SAFETY: the descriptor is owned by the value and stays the same as long as it lives.
    unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }.map_err(io::Error::from)
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Adds one to the eventfd behind `fd`; made for signal handlers.
pub(super) fn wake_raw(fd: RawFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: write(2) is async-signal-safe and reads eight bytes from a live array.
    unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
}

/// A pair of connected packet sockets: whole messages, end of file when the other side is gone. Both non-blocking
/// towards nobody: the caller decides by [`set_nonblocking`].
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// Sends one message, with a descriptor if there is one (unix(7), SCM_RIGHTS).
pub fn send(socket: &OwnedFd, message: &[u8], passed: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let fds: Vec<RawFd> = passed.iter().map(|fd| fd.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &control[..0] } else { &control[..] };
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(message)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Receives one message into `buffer`: its length and the descriptor that came with it. Length 0: the other side is
/// gone.
pub fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut passed = None;
    // It fails only where the kernel found no room for the descriptor: then it has closed it.
    for control in message.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(fds) = control {
            for fd in fds {
                // SAFETY: the kernel has just installed this descriptor for us; nobody else knows of it.
                passed = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    Ok((message.bytes, passed))
}

/// Sets or clears O_NONBLOCK on the open file description, which all processes that hold it share.
pub fn set_nonblocking(fd: &impl AsFd, on: bool) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, on);
    fcntl(fd, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// Moves a descriptor to a number that was not used before in this process, above all short-lived ones.
///
/// The dynamic loader knows a library by its path, and `/proc/self/fd/N` is a path: were N reused, it would hand out
/// the library that had the number before.
pub fn never_reused(fd: OwnedFd) -> io::Result<OwnedFd> {
    static NEXT: AtomicI32 = AtomicI32::new(FIRST);
    const FIRST: i32 = 256;
    let from = NEXT.load(Ordering::Relaxed);
    // SAFETY: duplicates a descriptor we hold; no pointers.
    let moved = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, from) });
    // At the limit of descriptors it begins anew, lower where the limit is low: old generations are long gone, and it is within a
    // worker, which knows one generation, that a number must not come twice.
    let moved = [FIRST, 64, 16].into_iter().fold(moved, |moved, from| {
        // SAFETY: as above.
        moved.or_else(|_| check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, from) }))
    })?;
    NEXT.store(moved + 1, Ordering::Relaxed);
    // SAFETY: `moved` was just created and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

/// The path under which this process, and a child that inherits the descriptor, can open it again (proc(5)).
pub fn proc_path(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// What systemd's socket activation handed over (sd_listen_fds(3)): the numbers from 3 up and their names. Empty
/// unless LISTEN_PID is this process.
pub fn inherited(env: &dyn Fn(&str) -> Option<String>) -> Vec<(RawFd, Option<String>)> {
    let ours = env("LISTEN_PID").and_then(|pid| pid.parse::<u32>().ok()) == Some(std::process::id());
    let count = env("LISTEN_FDS")
        .and_then(|count| count.parse::<u16>().ok())
        .unwrap_or(0);
    if !ours {
        return Vec::new();
    }
    let names = env("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names
        .split(':')
        .map(|name| Some(name.to_owned()).filter(|name| !name.is_empty()));
    (0..i32::from(count))
        .map(|offset| (3 + offset, names.next().flatten()))
        .collect()
}

/// Takes ownership of an inherited descriptor by its number: once a number, and only one that is open.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());
    // SAFETY: asks for the flags of a number; a number that is not open is an error, not undefined.
    check(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    let mut listening: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to live variables of the sizes given.
    check(unsafe {
        libc::getsockopt(
            number,
            libc::SOL_SOCKET,
            libc::SO_ACCEPTCONN,
            (&raw mut listening).cast(),
            &mut len,
        )
    })?;
    if listening == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a socket, but nobody called listen(2) on it",
        ));
    }
    if !TAKEN
        .lock()
        .expect("the holder only inserts and cannot panic")
        .insert(number)
    {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is named twice"));
    }
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open and a listening socket; the set above makes sure that it is owned only once. The caller
    // adopts before it opens listeners of its own, so it cannot be one of those.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes ownership of descriptors that a predecessor left open for us and told the numbers of: all or none, each once, and
/// close-on-exec from now on. Comes before anything else is opened.
pub fn inherit(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    let mut seen = BTreeSet::new();
    for number in numbers {
        if *number < 3 || !seen.insert(*number) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("descriptor {number} is named twice or is one of the first three"),
            ));
        }
        // SAFETY: changes the flags of a number; a number that is not open is an error, not undefined.
        check(unsafe { libc::fcntl(*number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    }
    // SAFETY: each is open and comes once; the caller asks before anything of this process is opened, so nobody else
    // owns them.
    Ok(numbers
        .iter()
        .map(|number| unsafe { OwnedFd::from_raw_fd(*number) })
        .collect())
}

/// Writes what fits without blocking; gives the number of bytes that left. A pipe that nobody reads takes nothing.
pub fn write_without_blocking(fd: &impl AsFd, bytes: &[u8]) -> usize {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut written = 0;
    while written < bytes.len() {
        let mut set = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
        if !matches!(poll(&mut set, PollTimeout::ZERO), Ok(1)) {
            break;
        }
        // A writable pipe has room for PIPE_BUF bytes (pipe(7)); more could block.
        let end = bytes.len().min(written + libc::PIPE_BUF);
        match nix::unistd::write(fd, &bytes[written..end]) {
            Ok(0) | Err(_) => break,
            Ok(count) => written += count,
        }
    }
    written
}

/// Opens a log for appending, making it where it is not there yet. A pipe that nobody reads is refused, and no write
/// to one that is full waits: whoever writes a log has others to serve.
pub fn append_to(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    options.append(true).create(true).custom_flags(libc::O_NONBLOCK);
    options.open(path)
}

/// The kernel's number of an open socket: the same in every process that holds it, and no other socket's meanwhile.
pub fn inode(fd: &impl AsFd) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(fd)?.st_ino)
}

/// Turns -1 into the error that errno names.
pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Closes what a descriptor stands for and keeps its number taken, by /dev/null: for one that has several owners in memory.
pub fn let_go(fd: &impl AsFd) -> io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    // SAFETY: both descriptors are open; the number stays valid for its owners, only what it refers to changes.
    check(unsafe { libc::dup3(null.as_raw_fd(), fd.as_fd().as_raw_fd(), libc::O_CLOEXEC) }).map(|_| ())
}

/// Another descriptor of what a number stands for, which another thread owns and is known to keep open meanwhile.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a number that is not open is an error, not undefined.
    let copy = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: `copy` was just created and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_crosses_a_packet_pair_with_its_message() {
        let (left, right) = packet_pair().unwrap();
        let event = EventFd::new().unwrap();
        send(&left, b"hello", Some(event.as_fd())).unwrap();
        let mut buffer = [0; 64];
        let (len, passed) = receive(&right, &mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"hello");
        EventFd(passed.unwrap()).wake();
        assert!(event.clear());
        assert!(!event.clear());
    }

    #[test]
    fn numbers_of_images_are_never_reused() {
        let first = never_reused(EventFd::new().unwrap().0).unwrap();
        let number = first.as_raw_fd();
        drop(first);
        assert!(never_reused(EventFd::new().unwrap().0).unwrap().as_raw_fd() > number);
    }

    #[test]
    fn sockets_meant_for_another_process_are_not_taken() {
        let other = |key: &str| match key {
            "LISTEN_PID" => Some("1".to_owned()),
            "LISTEN_FDS" => Some("2".to_owned()),
            _ => None,
        };
        assert!(inherited(&other).is_empty());
        let ours = |key: &str| match key {
            "LISTEN_PID" => Some(std::process::id().to_string()),
            "LISTEN_FDS" => Some("2".to_owned()),
            "LISTEN_FDNAMES" => Some("web:admin".to_owned()),
            _ => None,
        };
        assert_eq!(
            inherited(&ours),
            vec![(3, Some("web".to_owned())), (4, Some("admin".to_owned()))]
        );
    }
}
