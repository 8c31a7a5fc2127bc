//! The title of the process in ps and top.
//!
//! Takes a text; shows it in /proc/self/cmdline. Tries to point the kernel at a text of ours (prctl(2),
//! PR_SET_MM_MAP); where that is not to be had, leaves the command line as it was rather than write over the
//! environment.
#![allow(unsafe_code)]

use super::fd::check;
use super::process::heap_end;
use std::io;

/// `struct prctl_mm_map` of linux/prctl.h.
#[repr(C)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// Shows `title` instead of the command line. Titles are few in the life of a process, so each keeps its bytes.
pub fn set(title: &str) -> io::Result<()> {
    let mut bytes = title.as_bytes().to_vec();
    bytes.push(0);
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name of the program may hold spaces; the last parenthesis ends it. The field behind is number 3 (proc(5)).
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_ascii_whitespace().collect())
        .unwrap_or_default();
    let field = |number: usize| {
        fields
            .get(number - 3)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let text: &'static [u8] = Vec::leak(bytes);
    let start = text.as_ptr() as u64;
    let map = MemoryMap {
        start_code: field(26),
        end_code: field(27),
        start_data: field(45),
        end_data: field(46),
        start_brk: field(47),
        brk: heap_end()?,
        start_stack: field(28),
        arg_start: start,
        arg_end: start + text.len() as u64,
        env_start: field(50),
        env_end: field(51),
        auxv: 0,
        auxv_size: 0,
        exe_fd: u32::MAX,
    };
    let (pointer, size) = (&raw const map as usize, size_of::<MemoryMap>());
    // SAFETY: the kernel copies the live struct and checks every address in it; only the arguments change, and the
    // text they point at is never freed.
    check(unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP as usize, pointer, size, 0usize) }).map(|_| ())
}
