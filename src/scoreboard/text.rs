//! Text kept in words.
//!
//! Takes and gives bytes, eight to a word; how long a text is, who writes and who may see it half written is the business
//! of those who keep it.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// Up to eight bytes as a word.
pub fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    let count = bytes.len().min(8);
    word[..count].copy_from_slice(&bytes[..count]);
    u64::from_le_bytes(word)
}

/// Writes as much of it as the words hold.
pub fn text_store(words: &[AtomicU64], text: &[u8]) {
    let (whole, rest) = text.as_chunks::<8>();
    for (word, bytes) in words.iter().zip(whole) {
        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
    }
    if let Some(word) = words.get(whole.len())
        && !rest.is_empty()
    {
        word.store(word_of(rest), Ordering::Relaxed);
    }
}

/// Reads `len` bytes.
pub fn text_load(words: &[AtomicU64], len: usize) -> Vec<u8> {
    let mut text: Vec<u8> = words
        .iter()
        .take(len.div_ceil(8))
        .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
        .collect();
    text.truncate(len);
    text
}
