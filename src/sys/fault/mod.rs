//! Faults: what a process leaves behind when it crashes, and the stack of a thread that does not come back.
//!
//! Takes words of shared memory; its handlers write raw addresses there, without allocating and without a lock, and
//! then let the process die as it would have died without them. It knows nothing of names: those are found by another
//! process, later.
//!
//! The handlers stand aside for a module that installs its own afterwards, and do nothing in a process forked from this one.
#![allow(unsafe_code)]

mod mapping;
mod unwind;
mod words;

pub use words::{FRAMES, Left, Place, WORDS, Words};

use super::fd::check;
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What a crash is.
const CRASHES: [c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGILL, libc::SIGFPE];
/// Bytes of a thread's alternate stack, where the handler runs when the stack itself is the trouble.
const ALTERNATE: usize = 64 * 1024;
/// How long a thread has for writing its stack.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a thread that crashes too waits for the record of the first.
const POLITENESS: Duration = Duration::from_millis(500);

/// Where this process writes.
static MINE: OnceLock<Words> = OnceLock::new();
/// The process whose handlers these are; a child forked by a module inherits them and must not write.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// The thread that crashes.
static CRASHING: AtomicI32 = AtomicI32::new(0);
/// Of what.
static CAUSE: AtomicI32 = AtomicI32::new(0);

/// The signal that asks a thread for its stack. glibc and libraries that use real-time signals at all begin at the first.
fn question() -> c_int {
    libc::SIGRTMIN() + 11
}

/// Installs the handlers of this process: crashes are recorded in `words` from now on, and [`stack_of`] works. Gives the calling
/// thread its alternate stack.
///
/// # Errors
/// What the kernel said, or that `words` are too few.
pub fn install(words: &'static [AtomicU64]) -> io::Result<()> {
    let words = Words::over(words).ok_or(io::ErrorKind::InvalidInput)?;
    // A process has one place; the first one stays.
    let _ = MINE.set(words);
    unwind::warm_up();
    arm_thread()?;
    OWNER.store(this_process(), Ordering::Release);
    for signal in CRASHES {
        // Not deferred: a fault within the handler must come back to it, not kill with the wrong signal.
        handle(signal, crashed, libc::SA_NODEFER)?;
    }
    listen()
}

/// Below an alternate stack, where a write is a fault of its own.
const GUARD: usize = 16 * 1024;

thread_local! {
    /// Where the mapping of this thread's alternate stack begins; null without one of ours.
    static ALTERNATE_OF: Cell<*mut libc::c_void> = const { Cell::new(std::ptr::null_mut()) };
}

/// Gives the calling thread an alternate stack for the handlers: on its own there may be no room left, and the one that std gives
/// its threads is small. Its pages cost nothing until they are used. A thread that ends before the process gives it back by
/// [`disarm_thread`].
///
/// # Errors
/// There is no memory for it.
pub fn arm_thread() -> io::Result<()> {
    // SAFETY: zeros are a valid stack_t; the kernel writes to the live struct.
    let mut now: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above; without a new stack it only asks.
    check(unsafe { libc::sigaltstack(std::ptr::null(), &mut now) })?;
    if now.ss_flags & libc::SS_DISABLE == 0 && now.ss_size >= ALTERNATE {
        return Ok(());
    }
    // SAFETY: a fresh private mapping at an address of the kernel's choice.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            GUARD + ALTERNATE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the lowest part of the mapping made above, which nobody uses.
    check(unsafe { libc::mprotect(start, GUARD, libc::PROT_NONE) })?;
    let stack = libc::stack_t {
        // SAFETY: within the mapping made above.
        ss_sp: unsafe { start.byte_add(GUARD) },
        ss_flags: 0,
        ss_size: ALTERNATE,
    };
    // SAFETY: the memory is this thread's and is unmapped only after `disarm_thread` has taken it out of use.
    check(unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) })?;
    ALTERNATE_OF.set(start);
    Ok(())
}

/// Takes back what [`arm_thread`] gave the calling thread; the last thing it does.
pub fn disarm_thread() {
    let start = ALTERNATE_OF.replace(std::ptr::null_mut());
    if start.is_null() {
        return;
    }
    let none = libc::stack_t {
        ss_sp: std::ptr::null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: 0,
    };
    // SAFETY: with this flag the kernel looks at nothing else.
    if check(unsafe { libc::sigaltstack(&none, std::ptr::null_mut()) }).is_ok() {
        // SAFETY: the whole of the mapping that `arm_thread` made for this thread; the kernel has no use for it any more.
        unsafe { libc::munmap(start, GUARD + ALTERNATE) };
    }
}

/// The calling thread's id, as [`stack_of`] takes it.
pub fn tid() -> i32 {
    // SAFETY: no arguments, cannot fail (gettid(2)).
    unsafe { libc::gettid() }
}

/// Notes where a module lies, by an address within it. Modules are told in the order of their mounts.
pub fn loaded(within: *const c_void) {
    if let Some(words) = MINE.get() {
        // One whose place cannot be had keeps the others in order.
        words.module(mapping::of(within).unwrap_or(Place { base: 0, len: 0 }));
    }
}

/// Notes which module is loaded or initialised from now on, by its mount's index; None when all are.
pub fn busy(module: Option<usize>) {
    if let Some(words) = MINE.get() {
        words.busy(module);
    }
}

/// Leaves the stack of a thread that is stuck where the master finds it, unless a crash is recorded there.
pub fn leave(tid: i32, frames: &[u64]) {
    let Some(words) = MINE.get() else { return };
    if CRASHING.load(Ordering::Acquire) != 0 {
        return;
    }
    words.begin(0, 0, 0, tid);
    words.name(name_of(tid));
    for (index, frame) in frames.iter().enumerate() {
        words.frame(index, *frame);
    }
    words.end();
}

// ---- crashes ----

extern "C" fn crashed(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a handler installed with SA_SIGINFO a valid siginfo_t.
    let code = unsafe { (*info).si_code };
    let me = tid();
    if OWNER.load(Ordering::Acquire) == this_process() {
        match CRASHING.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                CAUSE.store(signal, Ordering::Release);
                // SAFETY: the arguments are those of this handler, which has not returned.
                unsafe { record(signal, code, info, context) };
            }
            // A fault while the first one was recorded: what is written is kept, and the first one is what we die of.
            Err(first) if first == me => die(CAUSE.load(Ordering::Acquire), true),
            Err(_) => wait_for_record(),
        }
    }
    // An instruction that faults does so again, now with nobody in between: signal and core dump are what they always were.
    // What somebody sent (abort(3) does) does not come again by itself.
    die(signal, code <= 0);
}

/// # Safety
/// The arguments are a handler's own.
unsafe fn record(signal: c_int, code: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(words) = MINE.get() else { return };
    // SAFETY: by the contract.
    let (address, at) = unsafe { ((*info).si_addr() as u64, unwind::interrupted(context)) };
    words.begin(signal, code, if code > 0 { address } else { 0 }, tid());
    words.stack_pointer(at.stack_pointer);
    // What is certain first: each step after it may meet memory that was written over, and end the recording.
    words.frame(0, at.at);
    words.name(own_name());
    words.memory(resident());
    if unwind::walk(at.at, &mut |index, address| words.frame(index, address)) == 1
        && cfg!(target_arch = "x86_64")
        && at.stack_pointer.is_multiple_of(8)
    {
        // A call to nowhere: who made it has just left its return address. If that cannot be read, this handler hears of it.
        // SAFETY: an aligned read; a fault is handled above.
        words.frame(1, unsafe { (at.stack_pointer as *const u64).read_volatile() });
    }
    words.end();
}

/// Takes the handler away and, if nothing else will, sends the signal again.
fn die(signal: c_int, again: bool) {
    // SAFETY: zeros are a valid sigaction: SIG_DFL, no flags, an empty mask. Both calls are async-signal-safe.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, &default, std::ptr::null_mut());
        if again {
            libc::syscall(libc::SYS_tgkill, this_process(), tid(), signal);
        }
    }
}

fn wait_for_record() {
    let pause = libc::timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000,
    };
    for _ in 0..POLITENESS.as_millis() {
        if MINE.get().is_none_or(|words| words.is_whole()) {
            return;
        }
        // SAFETY: reads a live struct; async-signal-safe.
        unsafe { libc::nanosleep(&pause, std::ptr::null_mut()) };
    }
}

/// Resident memory of this process in bytes, read without allocating (proc(5), statm). By raw calls: glibc's own look at the thread's
/// control block, which lies beside its stack and may be written over.
fn resident() -> u64 {
    let mut text = [0u8; 64];
    // SAFETY: the path ends with a zero, the buffer is live.
    let count = unsafe {
        let path = c"/proc/self/statm".as_ptr();
        let file = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDONLY | libc::O_CLOEXEC);
        let count = libc::syscall(libc::SYS_read, file, text.as_mut_ptr(), text.len());
        libc::syscall(libc::SYS_close, file);
        count
    };
    let text = &text[..usize::try_from(count).unwrap_or(0)];
    let pages = text.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let pages = pages.iter().fold(0u64, |all, digit| {
        all.wrapping_mul(10).wrapping_add(u64::from(digit.wrapping_sub(b'0')))
    });
    // SAFETY: asks glibc for a number that it was given at the start.
    pages.wrapping_mul(unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64)
}

fn own_name() -> [u8; 16] {
    let mut name = [0u8; 16];
    // SAFETY: the kernel writes at most 16 bytes (prctl(2), PR_GET_NAME).
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

fn name_of(tid: i32) -> [u8; 16] {
    let mut name = [0u8; 16];
    let text = std::fs::read(format!("/proc/self/task/{tid}/comm")).unwrap_or_default();
    let text = text.trim_ascii_end();
    let count = text.len().min(15);
    name[..count].copy_from_slice(&text[..count]);
    name
}

fn this_process() -> i32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::getpid() }
}

// ---- stacks that are asked for ----

/// Who is asked in the lower half, how far that is in the upper.
static ASKED: AtomicU64 = AtomicU64::new(0);
const WANTED: u64 = 1 << 32;
const WRITING: u64 = 2 << 32;
const WRITTEN: u64 = 3 << 32;
static STACK: [AtomicU64; FRAMES] = [const { AtomicU64::new(0) }; FRAMES];
static COUNT: AtomicU64 = AtomicU64::new(0);

/// The stack of another thread of this process: where it is, then its return addresses, innermost first. None when there is no such
/// thread, or it did not answer within 100 ms (it may have blocked every signal, or sit in the kernel for good).
///
/// One question at a time; the thread is interrupted for some microseconds and its system call, if it can be, goes on.
#[allow(clippy::disallowed_methods, reason = "the pause between two looks at the answer")]
pub fn stack_of(tid: i32) -> Option<Vec<u64>> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let who = u64::from(tid as u32);
    // One that began to write when we had lost patience with it must have finished first.
    if ASKED.load(Ordering::Acquire) & !u64::from(u32::MAX) == WRITING {
        return None;
    }
    ASKED.store(WANTED | who, Ordering::Release);
    // SAFETY: no pointers. Without the handler the signal would end the process, so it is installed before anyone asks.
    let sent = OWNER.load(Ordering::Acquire) == this_process()
        && unsafe { libc::syscall(libc::SYS_tgkill, this_process(), tid, question()) } == 0;
    if !sent {
        ASKED.store(0, Ordering::Release);
        return None;
    }
    let began = Instant::now();
    let mut waited = Duration::from_micros(20);
    loop {
        match ASKED.load(Ordering::Acquire) {
            state if state == WRITTEN | who => {
                let count = (COUNT.load(Ordering::Relaxed) as usize).min(FRAMES);
                let frames = STACK[..count].iter().map(|frame| frame.load(Ordering::Relaxed));
                return Some(frames.collect());
            }
            state if state == WANTED | who && began.elapsed() > PATIENCE => break,
            // It has begun, so it will end; but nobody waits for ever.
            _ if began.elapsed() > PATIENCE * 5 => break,
            _ => std::thread::sleep(waited),
        }
        waited = (waited * 2).min(Duration::from_millis(1));
    }
    let _ = ASKED.compare_exchange(WANTED | who, 0, Ordering::AcqRel, Ordering::Relaxed);
    None
}

/// Installs the handler behind [`stack_of`].
fn listen() -> io::Result<()> {
    // It disturbs no system call that can be restarted.
    handle(question(), answer, libc::SA_RESTART)
}

extern "C" fn answer(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let who = u64::from(tid() as u32);
    // An answer to a question that was given up, or a signal from elsewhere, is none.
    let begun = ASKED.compare_exchange(WANTED | who, WRITING | who, Ordering::AcqRel, Ordering::Relaxed);
    if begun.is_err() {
        return;
    }
    // SAFETY: this thread's own errno, which what follows may change.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the argument is this handler's.
    let at = unsafe { unwind::interrupted(context) };
    COUNT.store(0, Ordering::Relaxed);
    unwind::walk(at.at, &mut |index, address| {
        if let Some(place) = STACK.get(index) {
            place.store(address, Ordering::Relaxed);
            COUNT.store(index as u64 + 1, Ordering::Relaxed);
        }
    });
    ASKED.store(WRITTEN | who, Ordering::Release);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

fn handle(
    signal: c_int,
    handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void),
    flags: c_int,
) -> io::Result<()> {
    // SAFETY: zeros are a valid sigaction; the handler has the form SA_SIGINFO asks for and is async-signal-safe.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | flags;
    // SAFETY: reads a live struct.
    check(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) })?;
    Ok(())
}

#[cfg(test)]
mod tests;
