//! A module file as it was when it was read: sealed in memory, the same for every worker of a generation.
//!
//! Takes a path; gives an [`Image`], whose bytes cannot change whatever happens to the file. Reading and hashing
//! may block, so a short-lived child does them and passes the sealed descriptor back. Whether the bytes are a module
//! at all is found out by the loader.
#![forbid(unsafe_code)]

use crate::sys::{fd, shm};
use sha2::{Digest, Sha256};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The bytes of one module, under the path a mount knows it by.
#[derive(Debug, Clone)]
pub struct Image {
    path: PathBuf,
    bytes: Rc<Sealed>,
}

#[derive(Debug)]
struct Sealed {
    fd: OwnedFd,
    facts: Facts,
}

/// What was found out about an image while it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// SHA-256 of the bytes, in hex.
    pub sha256: String,
    /// The linker's build id, or the first 12 digits of the hash where there is none.
    pub build_id: String,
    /// Number of bytes.
    pub len: u64,
}

/// Why a module could not be read.
#[derive(Debug)]
pub enum ImageError {
    /// The file could not be read.
    Read(PathBuf, io::Error),
    /// The path names something that is not a file.
    NotAFile(PathBuf),
    /// The sealed copy could not be made.
    Seal(PathBuf, io::Error),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(_, error) if error.kind() == io::ErrorKind::NotFound => {
                f.write_str("no such file; build the module or correct its path")
            }
            Self::Read(_, error) => write!(f, "cannot read it: {error}"),
            Self::NotAFile(_) => f.write_str("it is not a regular file; name the shared library itself"),
            Self::Seal(_, error) => write!(f, "cannot copy it to memory: {error}"),
        }
    }
}

impl std::error::Error for ImageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(_, error) | Self::Seal(_, error) => Some(error),
            Self::NotAFile(_) => None,
        }
    }
}

impl Image {
    /// Reads, hashes and seals a module file. May block for as long as the file system does.
    pub fn read(path: &Path) -> Result<Self, ImageError> {
        let failed = |error| ImageError::Read(path.to_owned(), error);
        let meta = std::fs::metadata(path).map_err(failed)?;
        if !meta.is_file() {
            return Err(ImageError::NotAFile(path.to_owned()));
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        let sha256: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let build_id = gnu_build_id(&bytes).unwrap_or_else(|| sha256[..12].to_owned());
        let facts = Facts {
            sha256,
            build_id,
            len: bytes.len() as u64,
        };
        let file = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let name = format!("{file}@{}", facts.build_id);
        let fd = shm::sealed(&name, &bytes).map_err(|error| ImageError::Seal(path.to_owned(), error))?;
        Ok(Self {
            path: path.to_owned(),
            bytes: Rc::new(Sealed { fd, facts }),
        })
    }

    /// An image that another process read, under a descriptor number that no other image ever had here.
    pub fn received(path: &Path, fd: OwnedFd, facts: Facts) -> io::Result<Self> {
        let fd = fd::never_reused(fd)?;
        Ok(Self {
            path: path.to_owned(),
            bytes: Rc::new(Sealed { fd, facts }),
        })
    }

    /// The same bytes for a mount that knows the file by another path.
    pub fn under(&self, path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            bytes: self.bytes.clone(),
        }
    }

    /// The path it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of the bytes, in hex.
    pub fn sha256(&self) -> &str {
        &self.bytes.facts.sha256
    }

    /// The linker's build id, or the first 12 digits of the hash where there is none.
    pub fn build_id(&self) -> &str {
        &self.bytes.facts.build_id
    }

    /// What was found out while it was read.
    pub fn facts(&self) -> &Facts {
        &self.bytes.facts
    }

    /// Number of bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.bytes.facts.len
    }

    /// The path to load it by, in this process and the children it forks.
    pub fn proc_path(&self) -> PathBuf {
        fd::proc_path(&self.bytes.fd)
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bytes.fd.as_fd()
    }
}

/// The descriptor of the note NT_GNU_BUILD_ID in a 64-bit little-endian ELF file, in hex (elf(5)).
fn gnu_build_id(elf: &[u8]) -> Option<String> {
    let bytes = |at: usize, count: usize| elf.get(at..at.checked_add(count)?);
    let word = |at: usize| Some(u32::from_le_bytes(bytes(at, 4)?.try_into().ok()?) as usize);
    let long = |at: usize| usize::try_from(u64::from_le_bytes(bytes(at, 8)?.try_into().ok()?)).ok();
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(bytes(at, 2)?.try_into().ok()?)));
    if bytes(0, 6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, entry, count) = (long(32)?, half(54)?, half(56)?);
    for header in (0..count).map(|index| table.saturating_add(index * entry)) {
        const PT_NOTE: usize = 4;
        if word(header)? != PT_NOTE {
            continue;
        }
        let mut at = long(header + 8)?;
        let end = at.checked_add(long(header + 32)?)?;
        while at < end {
            const NT_GNU_BUILD_ID: usize = 3;
            let (name, text, kind) = (word(at)?, word(at + 4)?, word(at + 8)?);
            let start = at.checked_add(12)?.checked_add(name.next_multiple_of(4))?;
            if kind == NT_GNU_BUILD_ID && bytes(at + 12, name)? == b"GNU\0" {
                return Some(bytes(start, text)?.iter().map(|byte| format!("{byte:02x}")).collect());
            }
            at = start.checked_add(text.next_multiple_of(4))?;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    #[test]
    fn an_image_keeps_its_bytes_when_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.so");
        std::fs::write(&path, "first").unwrap();
        let image = Image::read(&path).unwrap();
        std::fs::write(&path, "other").unwrap();
        assert_eq!(std::fs::read(image.proc_path()).unwrap(), b"first");
        assert_eq!(image.len(), 5);
        assert_eq!(image.build_id(), &image.sha256()[..12]);
        let link = std::fs::read_link(image.proc_path()).unwrap();
        assert!(
            link.to_string_lossy().contains(&format!("m.so@{}", image.build_id())),
            "{link:?}"
        );
    }

    #[test]
    fn a_sealed_image_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.so");
        std::fs::write(&path, "first").unwrap();
        let image = Image::read(&path).unwrap();
        let mut file = File::from(image.as_fd().try_clone_to_owned().unwrap());
        assert_eq!(file.write(b"x").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_module_that_is_not_there_is_told_as_such() {
        let error = Image::read(Path::new("/nowhere/x.so")).unwrap_err();
        assert_eq!(error.to_string(), "no such file; build the module or correct its path");
        assert!(matches!(Image::read(Path::new("/tmp")), Err(ImageError::NotAFile(_))));
    }

    #[test]
    fn broken_elf_headers_give_no_build_id() {
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        assert_eq!(gnu_build_id(&elf), None);
        elf.resize(64, 0xff);
        assert_eq!(gnu_build_id(&elf), None);
    }
}
