//! Bytes that stand for a file in hyper's write queue.
//!
//! hyper sends only bytes it was given. For a file body it is given pieces of one static block of zeros; the guard knows them by
//! their address and sends the file with sendfile(2) instead. The block is never written out itself.
#![forbid(unsafe_code)]

use bytes::Bytes;

/// Most bytes one piece may stand for.
pub const MOST: usize = 1 << 20;

/// In .bss: no page of it is ever touched.
static BLOCK: [u8; MOST] = [0; MOST];

/// A piece that stands for `count` bytes of a file, or fewer.
pub fn bytes(count: u64) -> Bytes {
    let count = usize::try_from(count).unwrap_or(MOST).min(MOST);
    Bytes::from_static(&BLOCK[..count])
}

/// Whether these are such bytes.
pub fn is(slice: &[u8]) -> bool {
    !slice.is_empty() && BLOCK.as_ptr_range().contains(&slice.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pieces_of_the_block_are_phantoms() {
        let piece = bytes(10);
        assert!(is(&piece) && is(&piece[9..]));
        assert!(!is(&piece[..0]));
        assert!(!is(b"0000"));
        assert_eq!(bytes(u64::MAX).len(), MOST);
    }
}
