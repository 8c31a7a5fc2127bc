//! The control socket: where a running server hears the verbs of the command line.
//!
//! Takes a path; gives a Unix socket of mode 0600, the requests that came in over it, each with a [`Ticket`], and brings the
//! replies back. It never waits: a caller that is slow, silent or hostile costs a place among `MOST` for five seconds and
//! nothing else. What is done about a request is not decided here.
#![forbid(unsafe_code)]

pub use super::caller::Ticket;

use super::caller::{Caller, soon};
use crate::sys::path::{self, Room, absolute, identity_of};
use crate::sys::{socket, time};
use crate::verbs::{Reply, Request};
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most connections at a time. Beyond it the one that has been silent longest makes room.
const MOST: usize = 32;
/// Most connections taken from the queue in one round: fewer than [`MOST`], so that nobody is sent away unheard.
const AT_ONCE: usize = 8;
/// The pause between two lines of the log about strangers.
const QUIET: Duration = Duration::from_secs(10);
/// Connections that wait in the kernel.
const BACKLOG: u32 = 64;

/// Why there is no control socket.
#[derive(Debug)]
pub enum ControlError {
    /// bind(2), listen(2) or connect(2) failed.
    Bind(PathBuf, io::Error),
    /// The path belongs to something else.
    NotASocket(PathBuf),
    /// A server answers there.
    InUse(PathBuf),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(path, error) => {
                write!(f, "cannot open the control socket {}: {error}", path.display())?;
                f.write_str(match error.kind() {
                    ErrorKind::NotFound => "; create the folder first or choose another [control] socket",
                    ErrorKind::PermissionDenied => "; choose a folder you may write to for [control] socket",
                    _ => "; choose another [control] socket",
                })
            }
            Self::NotASocket(path) => write!(
                f,
                "cannot open the control socket {0}: {0} exists and is no socket; move it away",
                path.display()
            ),
            Self::InUse(path) => write!(
                f,
                "cannot open the control socket {}: another server answers there; stop it or choose another [control] socket",
                path.display()
            ),
        }
    }
}

impl std::error::Error for ControlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind(_, error) => Some(error),
            Self::NotASocket(_) | Self::InUse(_) => None,
        }
    }
}

/// Where a server that was told no path has its control socket: in the runtime directory that systemd made for it
/// (`RUNTIME_DIRECTORY`, systemd.exec(5)), else nowhere.
pub fn default_path(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let folders = env("RUNTIME_DIRECTORY")?;
    let first = folders.split(':').next().filter(|folder| !folder.is_empty())?;
    Some(Path::new(first).join("control.sock"))
}

/// The socket and everybody who speaks over it.
#[derive(Debug)]
pub struct Control {
    /// None once the successor listens.
    socket: Option<OwnedFd>,
    path: PathBuf,
    /// Device and inode of the file we made.
    file: Option<(u64, u64)>,
    /// In the order in which they came.
    callers: Vec<Caller>,
    tickets: u64,
    /// Strangers are not spoken of in the log until then (ns).
    quiet_until: u64,
    /// accept(2) failed for want of descriptors; the moment to try again (ns).
    rests_until: Option<u64>,
}

impl Control {
    /// Makes the socket. A leftover on which nobody answers is replaced.
    ///
    /// # Errors
    /// Another server answers there, the path is something else's, or the kernel says why not.
    pub fn open(path: &Path) -> Result<Self, ControlError> {
        // It must mean the same whatever the working directory will be.
        let path = absolute(path);
        let failed = |error| ControlError::Bind(path.clone(), error);
        match path::make_room(&path).map_err(failed)? {
            Room::Free => {}
            Room::NotASocket => return Err(ControlError::NotASocket(path)),
            Room::InUse => return Err(ControlError::InUse(path)),
            Room::Closed(error) => return Err(failed(error)),
        }
        let socket = socket::listen_unix_alone(&path, BACKLOG).map_err(failed)?;
        Ok(Self::over(socket, path))
    }

    /// Goes on with the socket of a predecessor, which listens at `path`.
    pub fn adopt(socket: OwnedFd, path: PathBuf) -> Self {
        Self::over(socket, path)
    }

    fn over(socket: OwnedFd, path: PathBuf) -> Self {
        Self {
            socket: Some(socket),
            file: identity_of(&path),
            path,
            callers: Vec::new(),
            tickets: 0,
            quiet_until: 0,
            rests_until: None,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listening socket, for a successor; none once it was let go.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// A successor listens from now on: no new caller is heard here, and the file is left to it. Those who have asked are
    /// answered as before.
    pub fn let_go(&mut self) {
        self.socket = None;
        self.file = None;
    }

    /// What to wait on for something to read.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let listening = self.socket().filter(|_| self.rests_until.is_none());
        let callers = self.callers.iter().filter(|caller| caller.is_heard());
        listening.into_iter().chain(callers.map(AsFd::as_fd)).collect()
    }

    /// The moment at which [`Control::attend`] has something to do even if nothing is heard (ns, CLOCK_MONOTONIC).
    pub fn deadline(&self) -> Option<u64> {
        let callers = self.callers.iter().filter_map(Caller::deadline);
        callers.chain(self.rests_until).min()
    }

    /// Reads what is there, sends off what waits to leave, and lets go of whoever took too long; gives what was asked.
    pub fn attend(&mut self) -> Vec<(Ticket, Request)> {
        let now = time::monotonic_ns();
        let mut asked = Vec::new();
        for caller in &mut self.callers {
            asked.extend(caller.go_on(now));
        }
        self.sweep();
        self.admit(now, &mut asked);
        self.sweep();
        asked
    }

    /// Brings a reply back; one whose caller has gone is forgotten.
    pub fn reply(&mut self, ticket: Ticket, reply: &Reply) {
        if let Some(caller) = self.callers.iter_mut().find(|caller| caller.ticket() == ticket) {
            caller.hear(reply);
        }
        self.sweep();
    }

    /// Removes the file, unless another server has put its own there since. For the master that made it, when it stops.
    pub fn unlink(&self) {
        if self.file.is_some() && identity_of(&self.path) == self.file {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn sweep(&mut self) {
        self.callers.retain(|caller| !caller.is_over());
    }

    /// Takes new callers in.
    fn admit(&mut self, now: u64, asked: &mut Vec<(Ticket, Request)>) {
        if self.rests_until.is_some_and(|until| until > now) {
            return;
        }
        self.rests_until = None;
        for _ in 0..AT_ONCE {
            let Some(socket) = &self.socket else { return };
            let stream = match socket::accept(socket) {
                Ok((stream, _)) => stream,
                Err(error) => {
                    match error.kind() {
                        ErrorKind::WouldBlock => {}
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted => continue,
                        // No descriptor is free, say: it comes at once and for ever, so the loop must not ask at once.
                        _ => self.rests_until = Some(soon()),
                    }
                    return;
                }
            };
            self.tickets += 1;
            let mut caller = Caller::new(Ticket(self.tickets), stream, now);
            if let Err(reason) = caller.is_entitled() {
                // Whoever tries all the time fills no disk.
                if self.quiet_until <= now {
                    self.quiet_until = now.saturating_add(time::nanos(QUIET));
                    tracing::warn!("a verb was refused at the control socket: {reason}");
                }
                caller.turn_away(&reason);
            } else if !self.make_place() {
                caller.turn_away("too many verbs are under way; try again when they are done");
            } else {
                asked.extend(caller.go_on(now));
                self.callers.push(caller);
            }
        }
    }

    /// Sees to it that one more can be taken in: who has gone unnoticed goes first, then who has said nothing for longest.
    fn make_place(&mut self) -> bool {
        if self.callers.len() < MOST {
            return true;
        }
        self.callers.retain(|caller| !socket::is_gone(caller));
        if self.callers.len() < MOST {
            return true;
        }
        let Some(index) = self.callers.iter().position(Caller::is_silent) else {
            return false;
        };
        self.callers
            .remove(index)
            .turn_away("others were waiting and no request had come");
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll;
    use crate::verbs::Outcome;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::net::UnixStream;

    /// A socket, its path, and the folder that goes away with the test.
    fn open() -> (Control, PathBuf, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        (Control::open(&path).unwrap(), path, folder)
    }

    fn say(path: &Path, line: &str) -> UnixStream {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        stream
    }

    fn hear(stream: &UnixStream) -> Reply {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        Reply::read(line.as_bytes()).unwrap()
    }

    /// Goes round as the master does, until nothing is left to be heard.
    fn rounds(control: &mut Control) -> Vec<(Ticket, Request)> {
        let mut asked = Vec::new();
        loop {
            if poll::readable(&control.fds(), Some(0)).unwrap().is_empty() {
                return asked;
            }
            asked.extend(control.attend());
        }
    }

    #[test]
    fn a_request_waits_for_its_reply_however_it_arrived() {
        let (mut control, path, _folder) = open();
        let mut slow = say(&path, "{\"verb\":");
        assert!(rounds(&mut control).is_empty());
        assert!(control.deadline().is_some(), "it has five seconds");
        slow.write_all(b"\"reload\"}\n").unwrap();
        let asked = rounds(&mut control);
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].1, Request::Reload);
        assert_eq!(control.deadline(), None, "now the time is the master's");
        control.reply(asked[0].0, &Reply::done("generation 2 serves"));
        let reply = hear(&slow);
        assert_eq!(reply.note.as_deref(), Some("generation 2 serves"));
        assert_eq!(reply.master_pid, i32::try_from(std::process::id()).ok());
        assert_eq!(slow.read(&mut [0]).unwrap(), 0, "one request a connection");
        assert!(control.callers.is_empty());
    }

    #[test]
    fn a_ticket_whose_caller_has_gone_is_forgotten() {
        let (mut control, path, _folder) = open();
        let caller = say(&path, "{\"verb\":\"reload\"}\n");
        let (ticket, _) = rounds(&mut control)[0];
        drop(caller);
        assert!(rounds(&mut control).is_empty());
        assert!(control.callers.is_empty());
        control.reply(ticket, &Reply::done("too late"));
    }

    #[test]
    fn one_that_only_ended_its_half_is_answered_and_wakes_nobody_meanwhile() {
        let (mut control, path, _folder) = open();
        let caller = say(&path, "{\"verb\":\"reload\"}\nand more");
        let (ticket, _) = rounds(&mut control)[0];
        caller.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(rounds(&mut control).is_empty());
        control.reply(ticket, &Reply::refused("no"));
        assert_eq!(hear(&caller).reason.as_deref(), Some("no"));
    }

    #[test]
    fn who_asked_for_the_stop_is_told_of_the_end_by_the_end_of_the_connection() {
        let (mut control, path, _folder) = open();
        let mut caller = say(&path, "{\"verb\":\"stop\"}\n");
        let (ticket, _) = rounds(&mut control)[0];
        control.reply(ticket, &Reply::done("stopping"));
        assert_eq!(hear(&caller).outcome, Outcome::Done);
        control.attend();
        caller.set_nonblocking(true).unwrap();
        assert_eq!(caller.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(control);
        assert_eq!(caller.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_reply_that_is_not_read_waits_without_holding_anybody_up() {
        let (mut control, path, _folder) = open();
        let lazy = say(&path, "{\"verb\":\"status\"}\n");
        let (ticket, _) = rounds(&mut control)[0];
        let document = serde_json::json!({ "filler": "x".repeat(4 << 20) });
        control.reply(ticket, &Reply::status(document.clone()));
        assert_eq!(control.callers.len(), 1, "the kernel does not take as much at once");
        assert!(control.deadline().is_some() && rounds(&mut control).is_empty());
        let reader = std::thread::spawn(move || hear(&lazy));
        while !control.callers.is_empty() {
            poll::readable(&control.fds(), control.deadline()).unwrap();
            control.attend();
        }
        assert_eq!(reader.join().unwrap().status, Some(document));
    }

    #[test]
    fn silent_callers_make_room_and_waiting_ones_do_not() {
        let (mut control, path, _folder) = open();
        let mut silent: Vec<UnixStream> = (0..BACKLOG.min(40)).map(|_| say(&path, "")).collect();
        assert!(rounds(&mut control).is_empty());
        assert_eq!(control.callers.len(), MOST);
        assert!(hear(&silent[0]).reason.unwrap().contains("others were waiting"));
        let asking: Vec<UnixStream> = (0..MOST).map(|_| say(&path, "{\"verb\":\"reload\"}\n")).collect();
        assert_eq!(rounds(&mut control).len(), MOST);
        let turned_away = say(&path, "");
        assert!(rounds(&mut control).is_empty());
        assert!(hear(&turned_away).reason.unwrap().contains("too many"));
        drop(asking);
        silent.clear();
        let late = say(&path, "{\"verb\":\"ping\"}\n");
        assert_eq!(rounds(&mut control).len(), 1);
        drop(late);
    }

    #[test]
    fn a_successor_goes_on_with_the_same_socket_and_file() {
        let (mut old, path, _folder) = open();
        let waiting = say(&path, "{\"verb\":\"upgrade\"}\n");
        let (ticket, _) = rounds(&mut old)[0];
        let mut new = Control::adopt(old.socket().unwrap().try_clone_to_owned().unwrap(), path.clone());
        old.let_go();
        let later = say(&path, "{\"verb\":\"ping\"}\n");
        assert!(rounds(&mut old).is_empty());
        let (ping, request) = rounds(&mut new).remove(0);
        assert_eq!(request, Request::Ping);
        new.reply(ping, &Reply::done("here"));
        assert_eq!(hear(&later).outcome, Outcome::Done);
        old.reply(ticket, &Reply::done("the new master serves"));
        assert_eq!(hear(&waiting).outcome, Outcome::Done);
        old.unlink();
        assert!(path.exists());
        new.unlink();
        assert!(!path.exists());
    }

    #[test]
    fn the_path_is_taken_from_nobody_who_answers() {
        use std::os::unix::fs::PermissionsExt;
        let (control, path, _folder) = open();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Control::open(&path), Err(ControlError::InUse(_))));
        // Not even when its queue is full.
        let _callers: Vec<_> = std::iter::from_fn(|| socket::connect_unix(&path).ok()).collect();
        assert!(matches!(Control::open(&path), Err(ControlError::InUse(_))));
        drop(control);
        let again = Control::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        again.unlink();
        assert!(path.exists(), "it is another's by now");
        assert!(matches!(Control::open(&path), Err(ControlError::NotASocket(_))));
        let long = path.with_file_name("a".repeat(200));
        assert!(Control::open(&long).unwrap_err().to_string().contains("choose another"));
    }

    #[test]
    fn systemd_names_the_folder_of_the_socket() {
        let told = |value: Option<&str>| {
            default_path(&|name: &str| {
                assert_eq!(name, "RUNTIME_DIRECTORY");
                value.map(str::to_owned)
            })
        };
        assert_eq!(told(Some("/run/a:/run/b")), Some(PathBuf::from("/run/a/control.sock")));
        assert_eq!((told(None), told(Some(""))), (None, None));
    }
}
