//! The pieces that bytes can arrive in.
//!
//! Takes a byte of the input; gives the places to cut the others at, the same for the same byte.

/// Where each piece of `length` bytes ends; the last end is `length`. Up to 127 it is the size of every piece, above that
/// the seed of sizes that are mostly small.
pub fn ends(how: u8, length: usize) -> Vec<usize> {
    let mut state = u64::from(how).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let size = (state >> 33) as usize;
        if size.is_multiple_of(4) {
            size / 4 % 97
        } else {
            size / 4 % 7
        }
    };
    let mut ends = Vec::new();
    let mut at = 0;
    while at < length {
        at += match how {
            0 => length,
            1..=127 => usize::from(how),
            _ => 1 + next(),
        };
        ends.push(at.min(length));
    }
    ends
}
