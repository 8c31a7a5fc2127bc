//! What the service manager is told: systemd's notification protocol, from the master's side.
//!
//! Takes what the master has come to; gives messages of sd_notify(3), never blocking: what the manager has no room for
//! waits here and is sent again. Without a service manager nothing happens. When something is told is decided by the
//! loop, and it alone sends heartbeats, so that a master that hangs is found out.
#![forbid(unsafe_code)]

use crate::listener::Listener;
use crate::sys::notify::{self, Notifier};
use crate::sys::process::Pid;
use crate::sys::time;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct ServiceManager {
    notifier: Option<Notifier>,
    /// What found no room yet, with its descriptor.
    waiting: VecDeque<(String, Option<OwnedFd>)>,
    /// When that is tried again (ns).
    retry: u64,
    /// The last status.
    told: String,
    /// Whether it knows that we serve.
    up: bool,
    /// Whether it knows that we leave.
    leaving: bool,
    watchdog: Option<Beat>,
    extension: Option<Extension>,
}

/// The heartbeat it asks for.
#[derive(Debug)]
struct Beat {
    every: u64,
    next: u64,
}

/// More time, asked for piece by piece, so that a master that hangs meanwhile does not get all of it.
#[derive(Debug)]
struct Extension {
    until: u64,
    next: u64,
}

/// One piece of more time; it is asked for again when half of it is over.
const PIECE: Duration = Duration::from_secs(10);
/// How soon a message is sent again that found no room.
const RETRY: Duration = Duration::from_millis(50);
/// Most messages that wait: a manager that is this far behind does not run.
const MOST_WAITING: usize = 256;
/// Bytes of a status that are told.
const STATUS: usize = 1000;
/// What our names in its store begin with; the socket's inode follows, which outlives any master.
const OURS: &str = "appserver-listener-";

/// Whether a descriptor of this name was stored by one of us.
pub fn is_ours(name: &str) -> bool {
    name.starts_with(OURS)
}

impl ServiceManager {
    /// The one that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`).
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let Some(name) = env("NOTIFY_SOCKET") else {
            return Self::default();
        };
        let notifier = Notifier::to(name.as_ref()).inspect_err(|error| {
            tracing::warn!("the service manager at NOTIFY_SOCKET={name} is not told anything: {error}")
        });
        let watchdog = notify::watchdog_interval(env).map(|interval| Beat {
            every: time::nanos(interval) / 2,
            next: 0,
        });
        Self {
            notifier: notifier.ok(),
            watchdog,
            ..Self::default()
        }
    }

    /// Whether there is one: then it keeps our listeners.
    pub fn is_there(&self) -> bool {
        self.notifier.is_some()
    }

    /// All workers of the first generation are ready.
    pub fn ready(&mut self, status: &str) {
        self.up = true;
        self.settled(status);
    }

    /// A reload has begun.
    pub fn reloading(&mut self) {
        if self.up && !self.leaving {
            // The manager compares it with the moment of its request (systemd.service(5), Type=notify-reload).
            let now = time::monotonic_ns() / 1000;
            self.tell(format!("RELOADING=1\nMONOTONIC_USEC={now}"));
        }
    }

    /// A reload has ended, completed or refused; either way we serve.
    pub fn reloaded(&mut self, status: &str) {
        self.settled(status);
    }

    fn settled(&mut self, status: &str) {
        self.extension = None;
        if self.up && !self.leaving {
            self.told = one_line(status);
            self.tell(format!("READY=1\nSTATUS={}", self.told));
        } else {
            self.status(status);
        }
    }

    /// The server stops.
    pub fn stopping(&mut self, status: &str) {
        if !self.leaving {
            self.leaving = true;
            self.tell("STOPPING=1".to_owned());
        }
        self.status(status);
    }

    /// What `systemctl status` shows; told when it changed.
    pub fn status(&mut self, text: &str) {
        let text = one_line(text);
        if self.told != text {
            self.tell(format!("STATUS={text}"));
            self.told = text;
        }
    }

    /// Another process is the service from now on, a child of ours, of which we tell the status. Our last word: the manager does
    /// not hear us any more.
    pub fn main_pid(&mut self, pid: Pid, status: &str) {
        self.tell(format!("MAINPID={pid}\nSTATUS={}", one_line(status)));
        let unsaid = std::mem::take(&mut self.waiting);
        *self = Self {
            // Only a word that found no room keeps the way open.
            notifier: self.notifier.take().filter(|_| !unsaid.is_empty()),
            waiting: unsaid,
            leaving: true,
            ..Self::default()
        };
    }

    /// Says again what the manager did not hear while another process was the service.
    pub fn repeat<'a>(&mut self, listeners: impl Iterator<Item = &'a Listener>) {
        listeners.for_each(|listener| self.store(listener));
        if self.up {
            self.tell(format!("STATUS={}", self.told));
        }
    }

    /// Asks for more time than the unit grants, up to `patience` from now; ends with the next [`ServiceManager::ready`] or
    /// [`ServiceManager::reloaded`].
    pub fn extend(&mut self, patience: Duration) {
        let now = time::monotonic_ns();
        let until = now.saturating_add(time::nanos(patience));
        self.extension = Some(Extension { until, next: now });
        self.beat(now);
    }

    /// Has the manager keep a listener that we bound, so that its queue outlives us. Once is enough, twice does no harm.
    pub fn store(&mut self, listener: &Listener) {
        if self.notifier.is_none() || !listener.has_door() {
            return;
        }
        let named = name_of(listener).and_then(|name| Ok((name, listener.as_fd().try_clone_to_owned()?)));
        match named {
            // Without FDPOLL=0 it would drop a socket that says POLLHUP: a Unix listener whose door is shut.
            Ok((name, socket)) => self.pass(format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), Some(socket)),
            Err(error) => tracing::warn!("{} cannot be stored: {error}", listener.address()),
        }
    }

    /// Has the manager let go of a listener, before its door is shut.
    pub fn remove(&mut self, listener: &Listener) {
        if self.notifier.is_some()
            && listener.has_door()
            && let Ok(name) = name_of(listener)
        {
            self.remove_named(&name);
        }
    }

    /// Has the manager let go of what it gave us under this name.
    pub fn remove_named(&mut self, name: &str) {
        self.tell(format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    }

    /// Does what is due at `now` (ns): a heartbeat, another piece of time, what found no room before. For the loop alone.
    pub fn beat(&mut self, now: u64) {
        if self.retry <= now {
            while let Some((message, passed)) = self.waiting.pop_front() {
                if !self.send(&message, passed.as_ref()) {
                    self.waiting.push_front((message, passed));
                    break;
                }
            }
        }
        if let Some(beat) = self.watchdog.as_mut().filter(|beat| beat.next <= now) {
            beat.next = now.saturating_add(beat.every);
            self.send("WATCHDOG=1", None);
        }
        if let Some(extension) = self.extension.as_mut().filter(|extension| extension.next <= now) {
            extension.next = now.saturating_add(time::nanos(PIECE) / 2);
            if extension.until <= now {
                self.extension = None;
            } else {
                self.send(&format!("EXTEND_TIMEOUT_USEC={}", PIECE.as_micros()), None);
            }
        }
    }

    /// When [`ServiceManager::beat`] has something to do (ns).
    pub fn deadline(&self) -> Option<u64> {
        let retry = (!self.waiting.is_empty()).then_some(self.retry);
        let beat = self.watchdog.as_ref().map(|beat| beat.next);
        let extension = self.extension.as_ref().map(|extension| extension.next);
        [retry, beat, extension].into_iter().flatten().min()
    }

    fn tell(&mut self, message: String) {
        self.pass(message, None);
    }

    /// Sends a message after all that wait.
    fn pass(&mut self, message: String, passed: Option<OwnedFd>) {
        if (!self.waiting.is_empty() || !self.send(&message, passed.as_ref())) && self.waiting.len() < MOST_WAITING {
            self.waiting.push_back((message, passed));
        }
    }

    /// Sends one message now; false when there is no room for it.
    fn send(&mut self, message: &str, passed: Option<&OwnedFd>) -> bool {
        let Some(notifier) = &self.notifier else { return true };
        match notifier.send(message, passed.map(AsFd::as_fd)) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.retry = time::monotonic_ns().saturating_add(time::nanos(RETRY));
                false
            }
            Err(error) => {
                let what = message.split('\n').next().unwrap_or_default();
                tracing::debug!("the service manager was not told {what}: {error}");
                true
            }
        }
    }
}

fn name_of(listener: &Listener) -> io::Result<String> {
    Ok(format!("{OURS}{}", listener.inode()?))
}

/// A message is lines, so a text in it is one line.
fn one_line(text: &str) -> String {
    let mut line = text.replace(|letter: char| letter.is_control(), " ");
    let end = (0..=STATUS.min(line.len()))
        .rev()
        .find(|end| line.is_char_boundary(*end));
    line.truncate(end.unwrap_or(0));
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Bind};
    use std::os::unix::net::UnixDatagram;

    struct Manager {
        socket: UnixDatagram,
        folder: tempfile::TempDir,
    }

    impl Manager {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self { socket, folder }
        }

        fn service(&self, watchdog: Option<&str>) -> ServiceManager {
            let path = self.folder.path().join("notify").display().to_string();
            ServiceManager::from_env(&|name| match name {
                "NOTIFY_SOCKET" => Some(path.clone()),
                "WATCHDOG_USEC" => watchdog.map(str::to_owned),
                _ => None,
            })
        }

        fn heard(&self) -> Vec<String> {
            let mut buffer = [0; 4096];
            std::iter::from_fn(|| {
                let len = self.socket.recv(&mut buffer).ok()?;
                Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
            })
            .collect()
        }
    }

    #[test]
    fn a_reload_before_the_first_ready_is_not_told_and_none_after_the_stop() {
        let manager = Manager::new();
        let mut service = manager.service(None);
        service.reloading();
        service.reloaded("starting");
        assert_eq!(manager.heard(), ["STATUS=starting"]);
        service.ready("2 workers");
        assert_eq!(manager.heard(), ["READY=1\nSTATUS=2 workers"]);
        service.reloading();
        assert!(manager.heard()[0].starts_with("RELOADING=1\nMONOTONIC_USEC="));
        service.stopping("leaving");
        service.reloaded("undone");
        service.stopping("undone");
        assert_eq!(manager.heard(), ["STOPPING=1", "STATUS=leaving", "STATUS=undone"]);
    }

    #[test]
    fn a_status_is_one_line_and_told_when_it_changed() {
        let manager = Manager::new();
        let mut service = manager.service(None);
        service.status("refused:\nREADY=1");
        service.status("refused:\nREADY=1");
        assert_eq!(manager.heard(), ["STATUS=refused: READY=1"]);
        service.status(&"é".repeat(2 * STATUS));
        assert_eq!(manager.heard()[0].len(), "STATUS=".len() + STATUS);
    }

    #[test]
    fn beats_come_at_half_the_interval_and_more_time_piece_by_piece() {
        let manager = Manager::new();
        let mut service = manager.service(Some("4000000"));
        let second = time::nanos(Duration::from_secs(1));
        let now = time::monotonic_ns();
        service.beat(now);
        service.beat(now + second);
        assert_eq!(service.deadline(), Some(now + 2 * second));
        service.beat(now + 2 * second);
        assert_eq!(manager.heard(), ["WATCHDOG=1", "WATCHDOG=1"]);
        service.watchdog = None;
        service.extend(Duration::from_secs(12));
        let now = time::monotonic_ns();
        for after in [1, 6, 11, 16, 21] {
            service.beat(now + after * second);
        }
        assert_eq!(manager.heard(), ["EXTEND_TIMEOUT_USEC=10000000"; 3]);
        assert_eq!(service.deadline(), None);
        service.extend(Duration::from_secs(12));
        service.ready("");
        assert_eq!(service.deadline(), None, "who is ready needs no more time");
    }

    #[test]
    fn what_finds_no_room_is_told_later_in_its_order() {
        let manager = Manager::new();
        let mut service = manager.service(None);
        while service.waiting.is_empty() {
            service.remove_named("filler");
        }
        service.ready("late");
        assert!(service.deadline().is_some());
        manager.heard();
        service.beat(service.deadline().unwrap());
        assert_eq!(
            manager.heard(),
            ["FDSTOREREMOVE=1\nFDNAME=filler", "READY=1\nSTATUS=late"]
        );
        assert_eq!(service.deadline(), None);
    }

    #[test]
    fn a_stored_listener_has_one_name_for_life_and_a_lent_one_none() {
        let manager = Manager::new();
        let mut service = manager.service(None);
        let wanted = config::Listener::new(Bind::Tcp("127.0.0.1:0".parse().unwrap()));
        let listener = Listener::open(&wanted).unwrap();
        service.store(&listener);
        let again = listener.as_fd().try_clone_to_owned().unwrap();
        service.remove(&Listener::kept(again, &wanted).unwrap());
        let heard = manager.heard();
        let name = heard[1].strip_prefix("FDSTOREREMOVE=1\nFDNAME=").unwrap();
        assert!(is_ours(name));
        assert_eq!(heard[0], format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"));
        let lent = Listener::lent(listener.as_fd().try_clone_to_owned().unwrap()).unwrap();
        service.store(&lent);
        service.remove(&lent);
        assert!(manager.heard().is_empty());
    }

    #[test]
    fn the_successor_s_name_is_the_last_word() {
        let manager = Manager::new();
        let mut service = manager.service(Some("1000"));
        service.ready("up");
        service.main_pid(Pid::from_raw(7), "2 workers");
        service.stopping("leaving");
        service.beat(u64::MAX);
        assert_eq!(manager.heard(), ["READY=1\nSTATUS=up", "MAINPID=7\nSTATUS=2 workers"]);
        assert_eq!(service.deadline(), None);
    }
}
