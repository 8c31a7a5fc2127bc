//! What a service tells its service manager (sd_notify(3)), by hand: one datagram to `$NOTIFY_SOCKET`.
//!
//! Takes lines like `READY=1` and at most one descriptor; sends them without blocking. It also reads what the manager
//! tells a service through the environment, and takes that environment away from children. What is told, and when, is
//! the master's business.
#![forbid(unsafe_code)]

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: OwnedFd,
    address: UnixAddr,
}

impl Notifier {
    /// To the socket of this name: an absolute path, or an abstract name after `@`.
    ///
    /// # Errors
    /// `InvalidInput` for any other form (there is `vsock:`, for virtual machines), else from socket(2).
    pub fn to(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'/', ..] => UnixAddr::new(name),
            [b'@', rest @ ..] if !rest.is_empty() => UnixAddr::new_abstract(rest),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a Unix socket")),
        }?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Not connected: the manager may bind its socket anew while we live.
        let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        Ok(Self { socket, address })
    }

    /// Sends one message, with a descriptor if there is one (unix(7), SCM_RIGHTS).
    ///
    /// # Errors
    /// `WouldBlock` when the manager's queue is full: try again a little later. Others from sendmsg(2).
    pub fn send(&self, message: &str, passed: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let fds: Vec<i32> = passed.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        let parts = [IoSlice::new(message.as_bytes())];
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        loop {
            match sendmsg(self.socket.as_raw_fd(), &parts, control, flags, Some(&self.address)) {
                Err(nix::errno::Errno::EINTR) => {}
                other => return other.map(|_| ()).map_err(io::Error::from),
            }
        }
    }
}

/// How often the manager wants to hear `WATCHDOG=1` at the least (sd_watchdog_enabled(3)); None when it does not ask this process.
pub fn watchdog_interval(env: &dyn Fn(&str) -> Option<String>) -> Option<Duration> {
    let ours = env("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    let interval = env("WATCHDOG_USEC")?.parse().ok().filter(|usec| *usec > 0)?;
    ours.then(|| Duration::from_micros(interval))
}

/// In a child: takes away what the manager says to the master alone. A command that a handler starts would otherwise think that the
/// manager is speaking to it.
pub fn forget_environment() {
    for name in [
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
    ] {
        let gone = super::process::forget_variable(name);
        debug_assert!(gone, "the child of a fork has one thread until its runtime starts");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd::EventFd;
    use std::os::fd::AsFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    #[test]
    fn a_message_arrives_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("appserver-test-{}", std::process::id());
        let named = SocketAddr::from_abstract_name(&name).unwrap();
        let by_path = (path.as_os_str().to_owned(), UnixDatagram::bind(&path).unwrap());
        let by_name = (format!("@{name}").into(), UnixDatagram::bind_addr(&named).unwrap());
        for (address, manager) in [by_path, by_name] {
            let event = EventFd::new().unwrap();
            let notifier = Notifier::to(&address).unwrap();
            notifier.send("READY=1", None).unwrap();
            notifier.send("FDSTORE=1", Some(event.as_fd())).unwrap();
            let mut buffer = [0; 32];
            assert_eq!(manager.recv(&mut buffer).map(|len| &buffer[..len]).unwrap(), b"READY=1");
            assert_eq!(
                manager.recv(&mut buffer).map(|len| &buffer[..len]).unwrap(),
                b"FDSTORE=1"
            );
        }
    }

    #[test]
    fn what_is_no_unix_socket_is_refused_and_a_full_queue_blocks_nobody() {
        for name in ["", "@", "relative", "vsock:2:1234"] {
            assert!(Notifier::to(OsStr::new(name)).is_err(), "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let notifier = Notifier::to(path.as_os_str()).unwrap();
        assert!(notifier.send("READY=1", None).is_err(), "nobody is there");
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let full = (0..100_000).find_map(|_| notifier.send("STATUS=x", None).err());
        assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_watchdog_is_heeded_when_it_means_this_process() {
        let interval = |usec: &str, pid: Option<u32>| {
            let (usec, pid) = (usec.to_owned(), pid.map(|pid| pid.to_string()));
            watchdog_interval(&move |name| match name {
                "WATCHDOG_USEC" => Some(usec.clone()),
                "WATCHDOG_PID" => pid.clone(),
                _ => None,
            })
        };
        let two = Some(Duration::from_secs(2));
        assert_eq!(interval("2000000", None), two);
        assert_eq!(interval("2000000", Some(std::process::id())), two);
        assert_eq!(interval("2000000", Some(1)), None);
        assert_eq!(interval("0", None), None);
        assert_eq!(interval("soon", None), None);
        assert_eq!(watchdog_interval(&|_| None), None);
    }
}
