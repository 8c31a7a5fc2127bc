//! A service manager's ear: the socket behind NOTIFY_SOCKET.
//!
//! Takes a server that is to be told of it; gives the messages in their order, with the descriptors that came along. It
//! keeps what it is given and starts nothing: that is the test's work.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use appserver::sys::fd;
use tempfile::TempDir;

use crate::support::server::Builder;
use crate::support::wait;

/// The ear.
pub struct Manager {
    socket: OwnedFd,
    folder: TempDir,
    heard: Vec<Message>,
    next: usize,
}

/// One message.
#[derive(Debug)]
pub struct Message {
    /// Its lines.
    pub text: String,
    /// What came with it.
    pub passed: Option<OwnedFd>,
}

impl Message {
    /// The value of a line `NAME=value`.
    pub fn value(&self, name: &str) -> Option<&str> {
        let mut lines = self.text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

impl Manager {
    /// One that listens.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket: socket.into(),
            folder,
            heard: Vec::new(),
            next: 0,
        }
    }

    /// Has a server report to it.
    pub fn manage(&self, server: Builder) -> Builder {
        server.env("NOTIFY_SOCKET", self.folder.path().join("notify").display().to_string())
    }

    /// Everything heard so far.
    pub fn heard(&mut self) -> &[Message] {
        let mut buffer = [0; 8192];
        while let Ok((len, passed)) = fd::receive(&self.socket, &mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            self.heard.push(Message { text, passed });
        }
        &self.heard
    }

    /// The messages that came after those that were waited for.
    pub fn news(&mut self) -> &[Message] {
        let next = self.next;
        &self.heard()[next..]
    }

    /// Waits for a message with this line, or with a line that begins so; later waits look behind it.
    pub fn wait_for(&mut self, line: &str) -> &mut Message {
        let found = wait::within(wait::PATIENCE, || {
            let next = self.next;
            let mut messages = self.heard()[next..].iter();
            let index = messages.position(|message| message.text.lines().any(|told| told.starts_with(line)))?;
            Some(next + index)
        });
        let Some(index) = found else {
            panic!("nobody told {line:?}: {:#?}", self.heard());
        };
        self.next = index + 1;
        &mut self.heard[index]
    }
}
