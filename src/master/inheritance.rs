//! What a master hands to the one that succeeds it, and how that one reads it.
//!
//! Takes descriptors with what must be known of them; gives a sealed memfd whose number travels in an environment
//! variable, and at the other side an [`Inheritance`] that owns them. When it is given, and what becomes of the giver, is
//! decided in `upgrade`.
#![forbid(unsafe_code)]

use super::doors::Door;
use crate::cache::Cache;
use crate::config::Bind;
use crate::handler::image::{self, Image};
use crate::listener::{Deed, Listener};
use crate::sys::boot::BootSender;
use crate::sys::path::absolute;
use crate::sys::process::{self, Pid};
use crate::sys::{fd, shm};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The variable that holds the number of the memfd.
pub const VARIABLE: &str = "APPSERVER_UPGRADE";
/// Version of the text; a binary that knows only another one refuses.
const FORMAT: u64 = 1;

/// The text in the memfd (JSON). Descriptors are told by their numbers.
#[derive(Debug, Serialize, Deserialize)]
struct Text {
    /// Never changes its place or meaning, as `line`.
    format: u64,
    /// Over which the successor says that it is ready, or why it cannot be.
    line: RawFd,
    /// Where every successor tells its pid to a master that stays as their shepherd.
    shepherd: Option<RawFd>,
    predecessor: i32,
    listeners: Vec<(Deed, RawFd)>,
    control: Option<(PathBuf, RawFd)>,
    board: RawFd,
    handover: (RawFd, RawFd),
    /// The memory of the shared cache, and its bells.
    #[serde(default)]
    cache: Vec<RawFd>,
    images: Vec<ImageText>,
    generations: u64,
    wanted: usize,
    configured: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct ImageText {
    path: PathBuf,
    sha256: String,
    build_id: String,
    len: u64,
    fd: RawFd,
}

/// What a master has to hand over.
pub struct Estate<'a> {
    /// Where it listens.
    pub doors: &'a [Door],
    /// Where its monitor answers.
    pub admin: Option<(&'a Bind, &'a Listener)>,
    /// Where the verbs are heard.
    pub control: Option<(&'a Path, BorrowedFd<'a>)>,
    /// The memory of its scoreboard.
    pub board: BorrowedFd<'a>,
    /// Both ends of the channel on which connections are handed over.
    pub handover: (BorrowedFd<'a>, BorrowedFd<'a>),
    /// The cache that workers share.
    pub cache: Option<&'a Cache>,
    /// The modules of the generation that serves.
    pub images: &'a [Image],
    /// Number of the last generation that was tried.
    pub generations: u64,
    /// Number of workers there should be.
    pub wanted: usize,
    /// Number of workers that its configuration asked for.
    pub configured: usize,
    /// Where the successor answers.
    pub line: &'a BootSender,
    /// Where it tells its pid to a shepherd.
    pub shepherd: Option<BorrowedFd<'a>>,
}

impl<'a> Estate<'a> {
    /// Puts it down in a sealed memfd.
    ///
    /// # Errors
    /// From memfd_create(2) and its like.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        let image = |image: &Image| ImageText {
            path: absolute(image.path()),
            sha256: image.sha256().to_owned(),
            build_id: image.build_id().to_owned(),
            len: image.len(),
            fd: image.as_fd().as_raw_fd(),
        };
        let door = |door: &Door| (door.listener.deed(&door.wanted.bind), door.listener.as_fd().as_raw_fd());
        let admin = self
            .admin
            .map(|(bind, listener)| (listener.deed(bind), listener.as_fd().as_raw_fd()));
        let mut images: Vec<ImageText> = self.images.iter().map(image).collect();
        // Mounts of one file share its image.
        let mut seen = std::collections::BTreeSet::new();
        images.retain(|image| seen.insert(image.fd));
        let text = Text {
            format: FORMAT,
            line: self.line.as_fd().as_raw_fd(),
            shepherd: self.shepherd.map(|fd| fd.as_raw_fd()),
            predecessor: Pid::this().as_raw(),
            listeners: self.doors.iter().map(door).chain(admin).collect(),
            control: self.control.map(|(path, socket)| (path.to_owned(), socket.as_raw_fd())),
            board: self.board.as_raw_fd(),
            handover: (self.handover.0.as_raw_fd(), self.handover.1.as_raw_fd()),
            cache: self.cache_descriptors().iter().map(AsRawFd::as_raw_fd).collect(),
            images,
            generations: self.generations,
            wanted: self.wanted,
            configured: self.configured,
        };
        shm::sealed("appserver-upgrade", &serde_json::to_vec(&text)?)
    }

    /// The memory first.
    fn cache_descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let Some(cache) = self.cache else { return Vec::new() };
        std::iter::once(cache.fd())
            .chain(cache.bells().iter().map(AsFd::as_fd))
            .collect()
    }

    /// Every descriptor that must stay open in the successor.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = vec![self.line.as_fd(), self.board, self.handover.0, self.handover.1];
        all.extend(self.shepherd);
        all.extend(self.doors.iter().map(|door| door.listener.as_fd()));
        all.extend(self.admin.map(|(_, listener)| listener.as_fd()));
        all.extend(self.control.map(|(_, socket)| socket));
        all.extend(self.images.iter().map(|image| image.as_fd()));
        all.extend(self.cache_descriptors());
        all
    }
}

/// What a successor has been handed.
#[derive(Debug)]
pub struct Inheritance {
    /// To the one who handed it over.
    pub line: Rc<Line>,
    /// The old master.
    pub predecessor: Pid,
    /// Its listeners.
    pub listeners: Vec<(Deed, OwnedFd)>,
    /// Where it hears the verbs.
    pub control: Option<(PathBuf, OwnedFd)>,
    /// The memory of its scoreboard.
    pub board: OwnedFd,
    /// Both ends of the channel on which connections are handed over.
    pub handover: (OwnedFd, OwnedFd),
    /// The memory of the shared cache, and its bells; none where there was none.
    pub cache: Vec<OwnedFd>,
    /// The modules of the generation that served, under absolute paths.
    pub images: Vec<Image>,
    /// Number of the last generation that was tried.
    pub generations: u64,
    wanted: usize,
    configured: usize,
}

/// Why an inheritance cannot be read.
#[derive(Debug)]
pub enum InheritanceError {
    /// The variable holds no descriptor number.
    Variable(String),
    /// The text cannot be read.
    Read(io::Error),
    /// It is not as we write it.
    Text(serde_json::Error),
    /// It has another version.
    Format(u64),
    /// A descriptor in it is not open.
    Descriptor(io::Error),
}

impl fmt::Display for InheritanceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot take over from the old master: ")?;
        match self {
            Self::Variable(value) => write!(f, "{VARIABLE} is {value:?}; it is not for you to set, remove it"),
            Self::Read(error) => write!(f, "what it hands over cannot be read: {error}"),
            Self::Text(error) => write!(f, "what it hands over cannot be understood: {error}"),
            Self::Format(found) => write!(
                f,
                "it hands over in format {found}, this binary reads {FORMAT}; stop the server and start it anew"
            ),
            Self::Descriptor(error) => write!(f, "a descriptor it hands over cannot be had: {error}"),
        }
    }
}

impl std::error::Error for InheritanceError {}

impl Inheritance {
    /// What the environment says we have been handed, if anything. Must come before the process opens anything and before
    /// the configuration is read, for it takes the variable away. A reason why it cannot be read has then been told to the
    /// old master too.
    ///
    /// # Errors
    /// When there is something, but not for us.
    pub fn find() -> Result<Option<Self>, InheritanceError> {
        let Some(value) = std::env::var_os(VARIABLE) else {
            return Ok(None);
        };
        process::forget_variable(VARIABLE);
        let number: RawFd = value
            .to_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| InheritanceError::Variable(value.to_string_lossy().into_owned()))?;
        let mut memory = fd::inherit(&[number]).map_err(InheritanceError::Descriptor)?;
        let mut file = File::from(memory.remove(0));
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut bytes))
            .map_err(InheritanceError::Read)?;
        // The first two are looked at alone, so that every later format can at least be refused.
        let any: serde_json::Value = serde_json::from_slice(&bytes).map_err(InheritanceError::Text)?;
        let (format, line) = (any["format"].as_u64(), any["line"].as_i64());
        Self::read(any, format).map(Some).inspect_err(|error| {
            // It may be taken already; then the old master hears of our end instead.
            if let Some(line) = line
                && let Ok(mut line) = fd::inherit(&[line as RawFd])
            {
                BootSender::of(line.remove(0)).failed(&error.to_string());
            }
        })
    }

    fn read(any: serde_json::Value, format: Option<u64>) -> Result<Self, InheritanceError> {
        if format != Some(FORMAT) {
            return Err(InheritanceError::Format(format.unwrap_or(0)));
        }
        let text: Text = serde_json::from_value(any).map_err(InheritanceError::Text)?;
        let mut numbers = vec![text.line, text.board, text.handover.0, text.handover.1];
        numbers.extend(text.shepherd);
        numbers.extend(text.control.iter().map(|(_, number)| *number));
        numbers.extend(text.listeners.iter().map(|(_, number)| *number));
        numbers.extend(text.images.iter().map(|image| image.fd));
        numbers.extend(&text.cache);
        let mut fds = fd::inherit(&numbers).map_err(InheritanceError::Descriptor)?.into_iter();
        let mut next = || fds.next().expect("there are as many as numbers");
        let line = BootSender::of(next());
        let (board, handover) = (next(), (next(), next()));
        let shepherd = text.shepherd.map(|_| next());
        let control = text.control.map(|(path, _)| (path, next()));
        let listeners = text.listeners.into_iter().map(|(deed, _)| (deed, next())).collect();
        let received = |image: ImageText| {
            let facts = image::Facts {
                sha256: image.sha256,
                build_id: image.build_id,
                len: image.len,
            };
            Image::received(&image.path, next(), facts).map_err(InheritanceError::Descriptor)
        };
        let images = text.images.into_iter().map(received).collect::<Result<_, _>>()?;
        let cache = fds.collect();
        Ok(Self {
            line: Rc::new(Line {
                answer: RefCell::new(Some(line)),
                shepherd,
            }),
            predecessor: Pid::from_raw(text.predecessor),
            listeners,
            control,
            board,
            handover,
            cache,
            images,
            generations: text.generations,
            wanted: text.wanted,
            configured: text.configured,
        })
    }

    /// How many workers there are to be: what TTIN and TTOU made of it outlives an upgrade that does not change the number
    /// itself.
    pub fn wanted(&self, asked: usize) -> usize {
        if asked == self.configured { self.wanted } else { asked }
    }
}

/// The image among `images` that was read from this path, wherever either was written down.
pub fn image_of<'a>(images: &'a [Image], path: &Path) -> Option<&'a Image> {
    let path = absolute(path);
    images.iter().find(|image| image.path() == path)
}

/// From a successor to its predecessor, and to the shepherd of both if there is one.
#[derive(Debug)]
pub struct Line {
    answer: RefCell<Option<BootSender>>,
    shepherd: Option<OwnedFd>,
}

impl Line {
    /// Says that we serve.
    pub fn ready(&self) {
        if let Some(shepherd) = &self.shepherd {
            // First, so that the shepherd knows of us before our predecessor leaves.
            fd::write_without_blocking(shepherd, format!("{}\n", Pid::this()).as_bytes());
        }
        if let Some(answer) = self.answer.take() {
            answer.ready();
        }
    }

    /// Says why we cannot; only the first reason is told.
    pub fn refuse(&self, reason: &str) {
        if let Some(answer) = self.answer.take() {
            answer.failed(reason);
        }
    }

    /// Where successors tell a shepherd their pids.
    pub fn shepherd(&self) -> Option<BorrowedFd<'_>> {
        self.shepherd.as_ref().map(AsFd::as_fd)
    }
}
