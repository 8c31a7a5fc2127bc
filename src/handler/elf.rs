//! Tells early and plainly why a file cannot be a module: not ELF, another architecture, not a library, truncated.
//!
//! Takes a descriptor, gives the reason as a sentence. The dynamic linker would refuse the same files, with words for linker authors
//! (and would crash on some truncated ones). Layout: elf(5).
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

const HEADER: usize = 64;

/// e_machine of the machine this server was built for (elf(5)).
const MACHINE: u16 = if cfg!(target_arch = "x86_64") {
    62
} else if cfg!(target_arch = "aarch64") {
    183
} else if cfg!(target_arch = "riscv64") {
    243
} else {
    0
};

/// Refuses what cannot be loaded.
///
/// # Errors
/// The reason.
pub fn check(fd: BorrowedFd<'_>) -> Result<(), String> {
    let file = std::fs::File::from(
        fd.try_clone_to_owned()
            .map_err(|error| format!("cannot be read: {error}"))?,
    );
    let length = file
        .metadata()
        .map_err(|error| format!("cannot be read: {error}"))?
        .len();
    let mut header = [0u8; HEADER];
    let got = file
        .read_at(&mut header, 0)
        .map_err(|error| format!("cannot be read: {error}"))?;
    verify(&header[..got], length)
}

fn verify(header: &[u8], length: u64) -> Result<(), String> {
    if length == 0 {
        return Err("the file is empty: was the build cut off?".into());
    }
    if header.len() < 4 || &header[..4] != b"\x7fELF" {
        return Err(
            "it is not an ELF file: name the shared library that `cargo build` or `gcc -shared` made (*.so)".into(),
        );
    }
    if header.len() < HEADER {
        return Err("it is truncated inside the ELF header: copy it again".into());
    }
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    if header[4] != 2 || header[5] != 1 {
        return Err("it is not a 64-bit little-endian library: build it for this machine".into());
    }
    if MACHINE != 0 && half(18) != MACHINE {
        return Err(format!(
            "it was built for another architecture ({}, and this server runs on {}): build it for this machine",
            architecture(half(18)),
            std::env::consts::ARCH,
        ));
    }
    if half(16) != 3 {
        return Err(
            "it is not a shared library (ELF type is not DYN): build it as a cdylib or with `gcc -shared`".into(),
        );
    }
    let sections = u64::from_le_bytes(header[40..48].try_into().expect("eight bytes"));
    let end = sections.saturating_add(u64::from(half(58)) * u64::from(half(60)));
    if end > length {
        return Err(format!(
            "it is truncated: it has {length} bytes and its own header speaks of {end}: copy it again"
        ));
    }
    Ok(())
}

/// The name of an e_machine as compilers spell it (elf(5)).
fn architecture(machine: u16) -> String {
    match machine {
        3 => "i386".into(),
        40 => "arm".into(),
        62 => "x86_64".into(),
        183 => "aarch64".into(),
        243 => "riscv64".into(),
        other => format!("ELF machine {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(machine: u16, kind: u16, sections: u64) -> Vec<u8> {
        let mut bytes = vec![0u8; HEADER];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16..18].copy_from_slice(&kind.to_le_bytes());
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[40..48].copy_from_slice(&sections.to_le_bytes());
        bytes[58..60].copy_from_slice(&64u16.to_le_bytes());
        bytes[60..62].copy_from_slice(&2u16.to_le_bytes());
        bytes
    }

    #[test]
    fn each_unusable_file_is_refused_by_name() {
        assert!(verify(b"", 0).expect_err("empty").contains("empty"));
        assert!(verify(b"#!/bin/sh\n", 10).expect_err("text").contains("not an ELF"));
        assert!(verify(b"\x7fELF\x02\x01", 6).expect_err("short").contains("truncated"));
        assert!(
            verify(&header(MACHINE + 1, 3, 64), 1000)
                .expect_err("machine")
                .contains("another architecture")
        );
        assert!(
            verify(&header(MACHINE, 2, 64), 1000)
                .expect_err("executable")
                .contains("not a shared library")
        );
        assert!(
            verify(&header(MACHINE, 3, 990), 1000)
                .expect_err("cut")
                .contains("truncated")
        );
        assert_eq!(verify(&header(MACHINE, 3, 64), 1000), Ok(()));
    }
}
