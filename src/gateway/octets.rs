//! The byte classes of the HTTP grammar, and how far a run of them reaches.
//!
//! Takes bytes; gives the length of their leading run of one class. Long runs are looked at eight bytes at a time, for
//! this is most of what a head costs. It knows nothing of lines or fields.

#![forbid(unsafe_code)]

/// tchar: what a field name is made of (RFC 9110 section 5.6.2).
pub const TOKEN: u8 = 1;
/// What we take in a method: upper-case letters, digits, hyphen, underscore.
pub const METHOD: u8 = 2;
/// SP, VCHAR and obs-text: what a field value is made of, HTAB excepted (RFC 9110 section 5.5).
pub const TEXT: u8 = 4;
/// What we take in a target: VCHAR without `#`, and raw bytes from 0x80 up, which nginx passes on as they came.
pub const TARGET: u8 = 8;
/// unreserved and sub-delims: what a registered name is made of, percent-encoding excepted (RFC 3986 section 3.2.2).
pub const REG_NAME: u8 = 16;
/// The ten digits.
pub const DIGIT: u8 = 32;

const CLASSES: [u8; 256] = classes();

/// Each byte in lower case: for names, where a look at a table is cheaper than to ask whether it is a letter.
pub const LOWER: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).to_ascii_lowercase();
        byte += 1;
    }
    table
};

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = class(byte as u8);
        byte += 1;
    }
    table
}

const fn class(byte: u8) -> u8 {
    let mut class = 0;
    if byte.is_ascii_alphanumeric() || is_one_of(byte, b"!#$%&'*+-.^_`|~") {
        class |= TOKEN;
    }
    if byte.is_ascii_uppercase() || byte.is_ascii_digit() || is_one_of(byte, b"-_") {
        class |= METHOD;
    }
    if byte >= b' ' && byte != 0x7f {
        class |= TEXT;
    }
    if byte > b' ' && byte != 0x7f && byte != b'#' {
        class |= TARGET;
    }
    if byte.is_ascii_alphanumeric() || is_one_of(byte, b"-._~!$&'()*+,;=") {
        class |= REG_NAME;
    }
    if byte.is_ascii_digit() {
        class |= DIGIT;
    }
    class
}

const fn is_one_of(byte: u8, list: &[u8]) -> bool {
    let mut at = 0;
    while at < list.len() {
        if list[at] == byte {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether `byte` is of `class`.
#[inline]
pub fn is(class: u8, byte: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

/// How many leading bytes are of `class`, by table: for names and methods, which are short. Words of a fixed length
/// let the compiler lay the steps out one after the other without a check for the end between them.
#[inline]
pub fn run(class: u8, bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = word(bytes, at) {
        for (within, &byte) in word.iter().enumerate() {
            if !is(class, byte) {
                return at + within;
            }
        }
        at += 8;
    }
    short_run(class, bytes, at)
}

/// The eight bytes at `at`, if there are as many.
#[inline(always)]
fn word(bytes: &[u8], at: usize) -> Option<&[u8; 8]> {
    bytes.get(at..at + 8)?.first_chunk()
}

/// The end of a run that has come to the last bytes, fewer than a word. More than that follows most runs in a head, so
/// this is kept out of their way.
#[inline(never)]
fn short_run(class: u8, bytes: &[u8], at: usize) -> usize {
    let end = bytes[at..].iter().position(|&byte| !is(class, byte));
    end.map_or(bytes.len(), |end| at + end)
}

/// How many leading bytes are [`TEXT`].
#[inline]
pub fn text_run(bytes: &[u8]) -> usize {
    long_run(TEXT, bytes, |word| below(word, b' ') | equal(word, 0x7f))
}

/// How many leading bytes are [`TARGET`].
#[inline]
pub fn target_run(bytes: &[u8]) -> usize {
    long_run(TARGET, bytes, |word| {
        below(word, b'!') | equal(word, 0x7f) | equal(word, b'#')
    })
}

/// `outside` marks with its high bit each byte of a word that is not of `class`; only the lowest mark need be exact.
#[inline]
fn long_run(class: u8, bytes: &[u8], outside: impl Fn(u64) -> u64) -> usize {
    let mut at = 0;
    while let Some(word) = word(bytes, at) {
        let marks = outside(u64::from_le_bytes(*word));
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    short_run(class, bytes, at)
}

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);

/// Marks the bytes below `limit` (at most 0x80). A borrow can spoil a mark only above a byte that is marked itself.
#[inline]
const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * limit as u64) & !word & HIGHS
}

/// Marks the bytes equal to `byte`, exact up to the first, like [`below`].
#[inline]
const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * byte as u64), 1)
}

#[cfg(test)]
mod tests {
    use super::{TARGET, TEXT, TOKEN, is, run, target_run, text_run};

    #[test]
    fn runs_over_words_find_the_same_end_as_runs_over_bytes() {
        for length in 0..20 {
            for at in 0..length {
                for byte in 0..=255u8 {
                    let mut bytes = vec![b'a'; length];
                    bytes[at] = byte;
                    // A second odd byte right behind must not draw the first mark away.
                    if at + 1 < length {
                        bytes[at + 1] = byte ^ 1;
                    }
                    assert_eq!(text_run(&bytes), run(TEXT, &bytes), "{bytes:?}");
                    assert_eq!(target_run(&bytes), run(TARGET, &bytes), "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn separators_and_eight_bit_bytes_are_no_token() {
        for &byte in b"\"(),/:;<=>?@[\\]{} \t\r\n\0\x7f\x80\xff" {
            assert!(!is(TOKEN, byte), "{byte:#x}");
        }
    }
}
