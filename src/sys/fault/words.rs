//! What a worker leaves behind about its faults, word by word in shared memory.
//!
//! Takes plain words; gives the fault handler places to write that need no allocation and no lock, and a reader what was
//! written, even when the writer died over it. Whose words they are is decided above.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Most frames that are kept of a stack.
pub const FRAMES: usize = 96;
/// Words that all of it takes.
pub const WORDS: usize = 192;

/// 0 nothing, odd while it is written, even when it is whole.
const STATE: usize = 0;
/// Signal in the lower half, si_code in the upper.
const SIGNAL: usize = 1;
const ADDRESS: usize = 2;
const TID: usize = 3;
const STACK_POINTER: usize = 4;
const MEMORY: usize = 5;
const NAME: usize = 6;
const COUNT: usize = 8;
const FIRST_FRAME: usize = 16;
/// Index of the module that is loaded or initialised at the moment, and one.
const BUSY: usize = FIRST_FRAME + FRAMES;
const MODULE_COUNT: usize = BUSY + 1;
const FIRST_MODULE: usize = BUSY + 2;
/// Most modules whose place is kept.
const MODULES: usize = (WORDS - FIRST_MODULE) / 2;

/// The words of one process.
#[derive(Debug, Clone, Copy)]
pub struct Words(&'static [AtomicU64]);

/// How a stack came to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The signal; 0 when nothing crashed and the stack was asked for.
    pub signal: i32,
    /// The signal's si_code (sigaction(2)).
    pub code: i32,
    /// The signal's si_addr: what was accessed, where it makes sense.
    pub address: u64,
    /// The thread.
    pub tid: i32,
    /// Its name.
    pub thread: String,
    /// Its stack pointer.
    pub stack_pointer: u64,
    /// The process's resident memory (bytes); 0 when unknown.
    pub memory: u64,
    /// The address it was at, then the return addresses, innermost first.
    pub frames: Vec<u64>,
}

impl Left {
    /// Whether the fault is an access a little beyond the stack, as when it has no room left.
    pub fn is_stack_overflow(&self) -> bool {
        const NEAR: u64 = 64 * 1024;
        self.signal == libc::SIGSEGV && self.code > 0 && self.address.abs_diff(self.stack_pointer) < NEAR
    }
}

/// Where a module lies in the address space of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What must be subtracted from an address to have the one in its ELF file.
    pub base: u64,
    /// Bytes from there to its end.
    pub len: u64,
}

impl Words {
    /// Over memory that has at least [`WORDS`] words; None when it has fewer.
    pub fn over(words: &'static [AtomicU64]) -> Option<Self> {
        (words.len() >= WORDS).then_some(Self(words))
    }

    fn put(self, word: usize, value: u64) {
        self.0[word].store(value, Ordering::Relaxed);
    }

    fn get(self, word: usize) -> u64 {
        self.0[word].load(Ordering::Relaxed)
    }

    /// Begins to write a stack, over the one before.
    pub(super) fn begin(self, signal: i32, code: i32, address: u64, tid: i32) {
        self.put(STATE, self.get(STATE) | 1);
        fence(Ordering::Release);
        self.put(COUNT, 0);
        self.put(SIGNAL, u64::from(signal as u32) | u64::from(code as u32) << 32);
        self.put(ADDRESS, address);
        self.put(TID, tid as u64);
        for word in [STACK_POINTER, MEMORY, NAME, NAME + 1] {
            self.put(word, 0);
        }
    }

    pub(super) fn name(self, name: [u8; 16]) {
        let (one, two) = name.split_at(8);
        for (word, half) in [(NAME, one), (NAME + 1, two)] {
            self.put(word, half.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)));
        }
    }

    pub(super) fn stack_pointer(self, at: u64) {
        self.put(STACK_POINTER, at);
    }

    pub(super) fn memory(self, bytes: u64) {
        self.put(MEMORY, bytes);
    }

    /// One more frame; those beyond the last place are left out.
    pub(super) fn frame(self, index: usize, address: u64) {
        if index < FRAMES {
            self.put(FIRST_FRAME + index, address);
            self.0[COUNT].store(index as u64 + 1, Ordering::Release);
        }
    }

    /// The stack is whole.
    pub(super) fn end(self) {
        self.0[STATE].store((self.get(STATE) | 1) + 1, Ordering::Release);
    }

    pub(super) fn is_whole(self) -> bool {
        let state = self.0[STATE].load(Ordering::Acquire);
        state != 0 && state.is_multiple_of(2)
    }

    /// The stack that was left. A writer that died over it has left its beginning; one that is at it is not waited for.
    pub fn left(self) -> Option<Left> {
        let state = self.0[STATE].load(Ordering::Acquire);
        if state == 0 {
            return None;
        }
        let count = (self.0[COUNT].load(Ordering::Acquire) as usize).min(FRAMES);
        let name: Vec<u8> = [self.get(NAME), self.get(NAME + 1)].map(u64::to_le_bytes).concat();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Left {
            signal: self.get(SIGNAL) as u32 as i32,
            code: (self.get(SIGNAL) >> 32) as u32 as i32,
            address: self.get(ADDRESS),
            tid: self.get(TID) as i32,
            thread: String::from_utf8_lossy(name).into_owned(),
            stack_pointer: self.get(STACK_POINTER),
            memory: self.get(MEMORY),
            // A zero is where the first function of a thread would return to.
            frames: (0..count)
                .map(|index| self.get(FIRST_FRAME + index))
                .enumerate()
                .filter(|(index, address)| *index == 0 || *address != 0)
                .map(|(_, address)| address)
                .collect(),
        })
    }

    /// Notes where the next module lies.
    pub(super) fn module(self, place: Place) {
        let index = self.get(MODULE_COUNT) as usize;
        if index < MODULES {
            self.put(FIRST_MODULE + index * 2, place.base);
            self.put(FIRST_MODULE + index * 2 + 1, place.len);
        }
        self.0[MODULE_COUNT].store(index as u64 + 1, Ordering::Release);
    }

    /// Where the modules lie, in the order in which they were loaded.
    pub fn modules(self) -> Vec<Place> {
        let count = (self.0[MODULE_COUNT].load(Ordering::Acquire) as usize).min(MODULES);
        let place = |index| Place {
            base: self.get(FIRST_MODULE + index * 2),
            len: self.get(FIRST_MODULE + index * 2 + 1),
        };
        (0..count).map(place).collect()
    }

    pub(super) fn busy(self, module: Option<usize>) {
        self.put(BUSY, module.map_or(0, |index| index as u64 + 1));
    }

    /// The module that is being loaded or initialised, by its mount's index.
    pub fn busy_with(self) -> Option<usize> {
        (self.get(BUSY) as usize).checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Words {
        let words: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        Words::over(Box::leak(words.into_boxed_slice())).unwrap()
    }

    #[test]
    fn a_stack_is_read_as_it_was_left_whole_or_not() {
        let words = words();
        assert_eq!(words.left(), None);
        words.begin(libc::SIGSEGV, 1, 0x7000, 42);
        words.name(*b"handler\0\0\0\0\0\0\0\0\0");
        words.stack_pointer(0x7008);
        words.frame(0, 0xabc);
        let cut_off = words.left().unwrap();
        assert_eq!((cut_off.frames.as_slice(), words.is_whole()), (&[0xabc][..], false));
        for index in 1..200 {
            words.frame(index, index as u64);
        }
        words.end();
        let left = words.left().unwrap();
        assert!(words.is_whole() && left.is_stack_overflow());
        assert_eq!((left.signal, left.code, left.tid), (libc::SIGSEGV, 1, 42));
        assert_eq!((left.thread.as_str(), left.frames.len()), ("handler", FRAMES));
        words.begin(0, 0, 0, 7);
        words.end();
        assert!(words.is_whole());
        assert_eq!(words.left().map(|left| left.frames), Some(vec![]));
    }

    #[test]
    fn modules_beyond_the_table_are_left_out_and_hurt_nothing() {
        let words = words();
        for base in 0..100 {
            words.module(Place { base, len: 1 });
        }
        assert_eq!(words.modules().len(), MODULES);
        words.busy(Some(3));
        assert_eq!(words.busy_with(), Some(3));
        words.busy(None);
        assert_eq!((words.busy_with(), words.left()), (None, None));
    }
}
