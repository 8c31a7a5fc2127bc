//! Memory behind a descriptor: words that every process writes, and bytes that nobody can.
//!
//! Takes a name and a number of 64-bit words, or bytes; gives the words zeroed as plain atomics that live as long as
//! the process, or the bytes sealed in a memfd. What they mean is the caller's business. There are no locks here and none
//! may be put in: whoever dies at any instruction leaves atomics that the others can still read.
#![allow(unsafe_code)]

use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;

/// A mapping that forked children share with the parent.
#[derive(Debug)]
pub struct Shared {
    /// The words, zero at the start, aligned to a page.
    pub words: &'static [AtomicU64],
    /// The memfd behind them, close-on-exec; a later master can be handed it.
    pub fd: OwnedFd,
}

/// Creates and maps `count` shared words. The memory is sparse: a page costs nothing until it is written.
pub fn create(name: &str, count: usize) -> io::Result<Shared> {
    let name = CString::new(name)?;
    let fd = memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let len = count
        .checked_mul(8)
        .and_then(NonZeroUsize::new)
        .ok_or(io::ErrorKind::InvalidInput)?;
    nix::unistd::ftruncate(&fd, len.get() as libc::off_t)?;
    // The size never changes, so that no holder of the descriptor can make a reader fault with SIGBUS.
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    nix::fcntl::fcntl(
        &fd,
        nix::fcntl::FcntlArg::F_ADD_SEALS(nix::fcntl::SealFlag::from_bits_truncate(seals)),
    )?;
    map(fd, len)
}

/// Maps memory that another process created, if it is `count` words long and can never change its size; else None.
pub fn open(fd: OwnedFd, count: usize) -> io::Result<Option<Shared>> {
    let len = count
        .checked_mul(8)
        .and_then(NonZeroUsize::new)
        .ok_or(io::ErrorKind::InvalidInput)?;
    // Asked first: what is no memfd has no seals.
    let Ok(seals) = fcntl(&fd, FcntlArg::F_GET_SEALS) else {
        return Ok(None);
    };
    let fixed = (SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW).bits();
    let file = File::from(fd);
    if seals & fixed != fixed || file.metadata()?.len() != len.get() as u64 {
        return Ok(None);
    }
    map(file.into(), len).map(Some)
}

/// Gives the pages of `len` bytes back: mappings of them are left, and read zero (fallocate(2), FALLOC_FL_PUNCH_HOLE).
pub fn clear(fd: &OwnedFd, len: u64) -> io::Result<()> {
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let len = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(fallocate(fd, mode, 0, len)?)
}

fn map(fd: OwnedFd, len: NonZeroUsize) -> io::Result<Shared> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new shared mapping at an address the kernel chooses; it is never unmapped, hence 'static.
    let start = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, &fd, 0)? };
    // SAFETY: the mapping is page-aligned, `len` bytes long as is the sealed memfd behind it, whatever bits it holds are
    // valid AtomicU64s and, as all access goes through atomics, may be written by other processes at any time.
    let words = unsafe { std::slice::from_raw_parts(start.as_ptr().cast::<AtomicU64>(), len.get() / 8) };
    Ok(Shared { words, fd })
}

/// An empty file in memory that a child can fill and its parent read.
pub fn scratch(name: &str) -> io::Result<File> {
    let name = CString::new(name)?;
    Ok(memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC)?.into())
}

/// How often sealing is tried. The kernel waits some 150 ms for others to let go of a page, and on a busy machine it can
/// itself hold one for longer (a list of pages of another processor, a page that is moved): EBUSY, though nobody maps it.
const SEALING_TRIES: usize = 20;

/// Copies `bytes` into a memfd that can neither be written nor resized any more. The kernel shows up to 249 bytes of
/// `name` in /proc (memfd_create(2)).
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let name: String = name.chars().filter(|c| *c != '\0').take(60).collect();
    let fd = memfd_create(
        CString::new(name)?.as_c_str(),
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    for _ in 1..SEALING_TRIES {
        match fcntl(&file, FcntlArg::F_ADD_SEALS(seals)) {
            Err(nix::errno::Errno::EBUSY) => {}
            done => return Ok(done.map(|_| file.into())?),
        }
    }
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}
