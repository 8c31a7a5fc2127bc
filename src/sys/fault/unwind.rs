//! Walking a stack from within a signal handler.
//!
//! Takes what the kernel told the handler; gives the address at which the thread was interrupted and the return
//! addresses above it. The walk is libgcc's, which std has linked already; it allocates nothing, and with glibc from 2.35 on it
//! takes no lock either (_dl_find_object). Names are found elsewhere, later.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

/// Where a thread was when a signal interrupted it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interrupted {
    pub at: u64,
    pub stack_pointer: u64,
}

/// Reads the registers that the kernel saved.
///
/// # Safety
/// `context` is the third argument of a handler that was installed with SA_SIGINFO, and the handler has not returned.
pub(super) unsafe fn interrupted(context: *const c_void) -> Interrupted {
    // SAFETY: by the contract it points to a ucontext_t.
    let machine = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
    #[cfg(target_arch = "x86_64")]
    let (at, stack_pointer) = (
        machine.gregs[libc::REG_RIP as usize] as u64,
        machine.gregs[libc::REG_RSP as usize] as u64,
    );
    #[cfg(target_arch = "aarch64")]
    let (at, stack_pointer) = (machine.pc, machine.sp);
    Interrupted { at, stack_pointer }
}

/// What the unwinder's callback is given.
struct Walk<'a> {
    from: u64,
    found: bool,
    index: usize,
    put: &'a mut dyn FnMut(usize, u64),
}

/// Gives each frame of this thread from the interrupted one on to `put`, with its index; tells how many there were. After a jump to
/// nowhere the interrupted one is the only one: nothing is known of the code there.
pub(super) fn walk(from: u64, put: &mut dyn FnMut(usize, u64)) -> usize {
    let mut walk = Walk {
        from,
        found: false,
        index: 0,
        put,
    };
    // SAFETY: the callback takes what is given here and the walk outlives the call.
    unsafe { _Unwind_Backtrace(step, (&raw mut walk).cast()) };
    if !walk.found {
        (walk.put)(0, from);
    }
    walk.index.max(1)
}

/// Has the unwinder do what it does only once, outside of any handler.
pub(super) fn warm_up() {
    walk(0, &mut |_, _| {});
}

extern "C" fn step(frame: *mut c_void, walk: *mut c_void) -> c_int {
    // SAFETY: `walk` is what was given to _Unwind_Backtrace, which calls this on one thread, one frame at a time.
    let walk = unsafe { &mut *walk.cast::<Walk<'_>>() };
    let mut exact: c_int = 0;
    // SAFETY: `frame` is the unwinder's own, valid during this call.
    let address = unsafe { _Unwind_GetIPInfo(frame, &mut exact) } as u64;
    // The handler's own frames come first.
    if !walk.found && address == walk.from {
        walk.found = true;
    }
    if walk.found {
        (walk.put)(walk.index, address);
        walk.index += 1;
    }
    // Endless on a stack that leads back to itself: no more than anybody keeps.
    if walk.index >= super::FRAMES { STOP } else { 0 }
}

/// _URC_END_OF_STACK.
const STOP: c_int = 5;

// The C++ ABI's level I (https://itanium-cxx-abi.github.io/cxx-abi/abi-eh.html) and what GCC added to it.
unsafe extern "C" {
    fn _Unwind_Backtrace(step: extern "C" fn(*mut c_void, *mut c_void) -> c_int, argument: *mut c_void) -> c_int;
    fn _Unwind_GetIPInfo(frame: *mut c_void, exact: *mut c_int) -> usize;
}
