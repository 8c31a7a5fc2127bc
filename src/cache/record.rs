//! One entry as it lies in a ring: six words that tell what follows, then key, head and body.
//!
//! Takes the parts of an entry and writes them behind each other; reads them back into memory of one's own and tells whether they are whole
//! by their checksum. Where the record lies, and whether it may still lie there, is known in `ring`.
#![forbid(unsafe_code)]

use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::segment::{get, put};

/// Words before the bytes.
pub(super) const HEAD: usize = 6;
/// The longest key.
pub(super) const LONGEST_KEY: usize = u16::MAX as usize;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Filling up to the end of a ring.
    Pad = 1,
    /// A response.
    Response = 2,
    /// What tells the responses to one URI apart.
    Vary = 3,
    /// A handler's value.
    Value = 4,
}

impl Kind {
    pub fn of(number: u64) -> Option<Self> {
        [Self::Pad, Self::Response, Self::Vary, Self::Value]
            .into_iter()
            .find(|kind| *kind as u64 == number)
    }
}

/// What a record tells of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub kind: Kind,
    /// Words it takes, these included.
    pub words: usize,
    pub hash: u64,
    checksum: u64,
    /// When it is of no use any more (ms since 1970); 0 is never.
    pub until: u64,
    pub key: usize,
    pub head: usize,
    pub body: usize,
}

/// An entry to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draft<'a> {
    pub kind: Kind,
    pub hash: u64,
    pub until: u64,
    pub key: &'a [u8],
    pub head: &'a [u8],
    pub body: &'a [Bytes],
}

/// An entry that was read.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub shape: Shape,
    bytes: Bytes,
}

impl Draft<'_> {
    fn body_length(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }

    /// Words it takes.
    pub fn words(&self) -> usize {
        HEAD + (self.key.len() + self.head.len() + self.body_length()).div_ceil(8)
    }

    /// Bytes it has.
    pub fn length(&self) -> u64 {
        (self.key.len() + self.head.len() + self.body_length()) as u64
    }

    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        [self.key, self.head]
            .into_iter()
            .chain(self.body.iter().map(Bytes::as_ref))
    }

    /// Writes it to words that nobody reads yet.
    pub fn write(&self, to: &[AtomicU64]) {
        let words = self.words();
        let lengths = (self.key.len() as u64) << 32 | self.head.len() as u64;
        let body = self.body_length() as u64;
        put(&to[0], (words as u64) << 8 | self.kind as u64);
        put(&to[1], self.hash);
        put(&to[2], sum(self.seed(lengths, body), self.parts()));
        put(&to[3], self.until);
        put(&to[4], lengths);
        put(&to[5], body);
        let mut writer = Writer {
            to: &to[HEAD..words],
            at: 0,
            held: [0; 8],
            full: 0,
        };
        for part in self.parts() {
            writer.write(part);
        }
        writer.end();
    }

    fn seed(&self, lengths: u64, body: u64) -> u64 {
        seed(self.kind, self.hash, self.until, lengths, body)
    }
}

/// What stands before the bytes is covered by their checksum, too.
fn seed(kind: Kind, hash: u64, until: u64, lengths: u64, body: u64) -> u64 {
    let mixed = hash ^ until.rotate_left(17) ^ lengths.rotate_left(31) ^ body.rotate_left(47);
    mixed ^ kind as u64
}

fn sum<'a>(seed: u64, parts: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut hash = Xxh3::with_seed(seed);
    for part in parts {
        hash.update(part);
    }
    hash.digest()
}

/// Puts bytes together to words.
struct Writer<'a> {
    to: &'a [AtomicU64],
    at: usize,
    held: [u8; 8],
    full: usize,
}

impl Writer<'_> {
    fn write(&mut self, mut bytes: &[u8]) {
        if self.full > 0 {
            let some = bytes.len().min(8 - self.full);
            self.held[self.full..self.full + some].copy_from_slice(&bytes[..some]);
            self.full += some;
            bytes = &bytes[some..];
            if self.full < 8 {
                return;
            }
            self.next(u64::from_ne_bytes(self.held));
        }
        let (whole, rest) = bytes.as_chunks::<8>();
        for word in whole {
            self.next(u64::from_ne_bytes(*word));
        }
        self.held[..rest.len()].copy_from_slice(rest);
        self.full = rest.len();
    }

    fn next(&mut self, word: u64) {
        put(&self.to[self.at], word);
        self.at += 1;
        self.full = 0;
    }

    fn end(mut self) {
        if self.full > 0 {
            self.held[self.full..].fill(0);
            self.next(u64::from_ne_bytes(self.held));
        }
    }
}

/// Writes a filling of so many words.
pub(super) fn write_pad(to: &AtomicU64, words: usize) {
    put(to, (words as u64) << 8 | Kind::Pad as u64);
}

/// What stands at the beginning of these words; None when it cannot be a record. `at` reads a word.
pub(super) fn shape(words: &[AtomicU64]) -> Option<Shape> {
    let first = get(words.first()?);
    let kind = Kind::of(first & 0xff)?;
    let length = (first >> 8) as usize;
    if length == 0 || length > words.len() {
        return None;
    }
    if kind == Kind::Pad {
        return Some(Shape {
            kind,
            words: length,
            hash: 0,
            checksum: 0,
            until: 0,
            key: 0,
            head: 0,
            body: 0,
        });
    }
    let [_, hash, checksum, until, lengths, body] = words.first_chunk::<HEAD>()?.each_ref().map(get);
    let shape = Shape {
        kind,
        words: length,
        hash,
        checksum,
        until,
        key: (lengths >> 32) as usize,
        head: (lengths & 0xffff_ffff) as usize,
        body: usize::try_from(body).ok()?,
    };
    let bytes = shape.key.checked_add(shape.head)?.checked_add(shape.body)?;
    (HEAD + bytes.div_ceil(8) == length).then_some(shape)
}

/// Copies the first `length` bytes behind the words of a record's beginning.
pub(super) fn bytes(words: &[AtomicU64], length: usize) -> Vec<u8> {
    let words = &words[HEAD..HEAD + length.div_ceil(8)];
    let mut copy = vec![0; words.len() * 8];
    for (to, word) in copy.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *to = get(word).to_ne_bytes();
    }
    copy.truncate(length);
    copy
}

/// Whether the record's key is this one, without a copy of it.
pub(super) fn has_key(words: &[AtomicU64], shape: &Shape, key: &[u8]) -> bool {
    if shape.key != key.len() {
        return false;
    }
    let (whole, rest) = key.as_chunks::<8>();
    let same = |(word, bytes): (&AtomicU64, &[u8; 8])| get(word).to_ne_bytes() == *bytes;
    let last = || get(&words[HEAD + whole.len()]).to_ne_bytes();
    words[HEAD..].iter().zip(whole).all(same) && (rest.is_empty() || last()[..rest.len()] == *rest)
}

impl Shape {
    /// Bytes of key, head and body.
    pub fn length(&self) -> usize {
        self.key + self.head + self.body
    }

    /// Whether it is of no use at `now` (ms since 1970).
    pub fn is_over(&self, now: u64) -> bool {
        self.until != 0 && self.until <= now
    }

    /// Its bytes as an entry, if they are whole.
    pub fn check(self, bytes: Vec<u8>) -> Option<Entry> {
        let lengths = (self.key as u64) << 32 | self.head as u64;
        let seed = seed(self.kind, self.hash, self.until, lengths, self.body as u64);
        let whole = bytes.len() == self.length() && xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, seed) == self.checksum;
        whole.then(|| Entry {
            shape: self,
            bytes: bytes.into(),
        })
    }
}

impl Entry {
    /// Its key.
    pub fn key(&self) -> &[u8] {
        &self.bytes[..self.shape.key]
    }

    /// Its head.
    pub fn head(&self) -> &[u8] {
        &self.bytes[self.shape.key..self.shape.key + self.shape.head]
    }

    /// Its body, which shares the entry's memory.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(self.shape.key + self.shape.head..)
    }
}
