//! Where the dynamic loader has put a library.
//!
//! Takes an address within it; gives its base and its length. Which library that should be is the caller's business.
#![allow(unsafe_code)]

use super::Place;
use std::ffi::{c_int, c_void};

struct Search {
    address: u64,
    found: Option<Place>,
}

/// The library that this address lies in.
pub(super) fn of(within: *const c_void) -> Option<Place> {
    let mut search = Search {
        address: within as u64,
        found: None,
    };
    // SAFETY: the callback takes what is given here, and the search outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
    search.found
}

unsafe extern "C" fn look(library: *mut libc::dl_phdr_info, _: usize, search: *mut c_void) -> c_int {
    // SAFETY: dl_iterate_phdr(3) hands over a valid library and what it was given.
    let (library, search) = unsafe { (&*library, &mut *search.cast::<Search>()) };
    // SAFETY: as many headers as it says, which live as long as the library is loaded.
    let headers = unsafe { std::slice::from_raw_parts(library.dlpi_phdr, usize::from(library.dlpi_phnum)) };
    let loads = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let base = library.dlpi_addr;
    let holds = |header: &libc::Elf64_Phdr| {
        let start = base.wrapping_add(header.p_vaddr);
        (start..start.wrapping_add(header.p_memsz)).contains(&search.address)
    };
    if !loads().any(holds) {
        return 0;
    }
    let end = loads().map(|header| header.p_vaddr.wrapping_add(header.p_memsz)).max();
    search.found = Some(Place {
        base,
        len: end.unwrap_or(0),
    });
    1
}
