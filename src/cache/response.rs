//! A response as it is kept: its lifetime, status and tags, its fields as they are sent, and its body.
//!
//! Takes and gives these parts; knows the key of each, and what tells the responses to one URI apart: a record of its own that names the
//! request fields which do, beside which each variant lies. What may be kept, and what may be done with it, is decided in `policy`.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::making::Making;
use super::policy::Lifetime;
use super::record::{Draft, Entry, Kind};
use super::values::Refused;
use super::{Cache, Witness};

/// Bytes of a head before its texts.
const FIXED: usize = 1 + 2 + 2 + 4 + 4 * 8;
/// Lifetimes' flags.
const ALWAYS_VALIDATE: u8 = 1;
const NEVER_STALE: u8 = 2;
const STRICT: u8 = 4;

/// A response that is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// How long it is fresh, and what holds after that.
    pub lifetime: Lifetime,
    /// Its status.
    pub status: u16,
    reason: usize,
    tags: usize,
    entry: Entry,
}

/// What is looked for, and what was found.
#[derive(Debug, Clone)]
pub struct Sought {
    /// The key of the URI: its text, and perhaps of which generation.
    primary: Vec<u8>,
    primary_hash: u64,
    /// What tells variants apart, if the URI has any, and the key of the one that was asked for.
    variant: Option<(Variants, Vec<u8>)>,
    hash: u64,
    witness: Witness,
    /// What was there.
    pub found: Option<Kept>,
}

/// What tells the responses to one URI apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Variants {
    /// Which they are of: those of another number are found no more.
    serial: u64,
    /// The names that count, by line.
    names: Vec<u8>,
}

/// A response to be kept.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// How long it is fresh, and what holds after that.
    pub lifetime: Lifetime,
    /// Its status.
    pub status: u16,
    /// Its reason where it is not the usual one.
    pub reason: Vec<u8>,
    /// Its tags, by line.
    pub tags: Vec<u8>,
    /// Its fields, as they are sent.
    pub fields: Vec<u8>,
    /// The names that tell it from others of its URI, by line; none when there are none.
    pub names: Vec<u8>,
}

/// What a body is gathered in that is kept once it is whole.
#[derive(Debug)]
pub struct Gathering {
    cache: Arc<Cache>,
    sought: Sought,
    keeping: Keeping,
    /// The key of the variant, where there are such.
    variant: Vec<u8>,
    body: Vec<Bytes>,
    length: u64,
    /// Others wait for it.
    _making: Option<Making>,
}

impl Kept {
    fn of(entry: Entry) -> Option<Self> {
        let head = entry.head().first_chunk::<FIXED>()?;
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let flags = head[0];
        let reason = usize::from(u16::from_le_bytes([head[3], head[4]]));
        let tags = u32::from_le_bytes([head[5], head[6], head[7], head[8]]) as usize;
        if FIXED + reason + tags > entry.head().len() {
            return None;
        }
        Some(Self {
            status: u16::from_le_bytes([head[1], head[2]]),
            reason,
            tags,
            lifetime: Lifetime {
                born: number(9),
                fresh_for: number(17),
                while_revalidate: number(25),
                if_error: number(33),
                always_validate: flags & ALWAYS_VALIDATE != 0,
                never_stale: flags & NEVER_STALE != 0,
                strict: flags & STRICT != 0,
            },
            entry,
        })
    }

    /// Its reason where it is not the usual one.
    pub fn reason(&self) -> &[u8] {
        &self.entry.head()[FIXED..FIXED + self.reason]
    }

    /// Its tags, by line.
    pub fn tags(&self) -> &[u8] {
        &self.entry.head()[FIXED + self.reason..FIXED + self.reason + self.tags]
    }

    /// Its fields, as they are sent.
    pub fn text(&self) -> &[u8] {
        &self.entry.head()[FIXED + self.reason + self.tags..]
    }

    /// Its fields: names and values.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        lines(self.text())
    }

    /// Its body.
    pub fn body(&self) -> Bytes {
        self.entry.body()
    }
}

/// Names and values of fields as they are sent.
pub fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let line = line.strip_suffix(b"\r")?;
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii_start()))
    })
}

impl Keeping {
    fn head(&self) -> Vec<u8> {
        let lifetime = &self.lifetime;
        let mut head = Vec::with_capacity(FIXED + self.reason.len() + self.tags.len() + self.fields.len());
        let flags = [
            (lifetime.always_validate, ALWAYS_VALIDATE),
            (lifetime.never_stale, NEVER_STALE),
            (lifetime.strict, STRICT),
        ];
        head.push(flags.iter().filter(|(is, _)| *is).map(|(_, bit)| bit).sum());
        head.extend_from_slice(&self.status.to_le_bytes());
        head.extend_from_slice(&(self.reason.len() as u16).to_le_bytes());
        head.extend_from_slice(&(self.tags.len() as u32).to_le_bytes());
        for number in [
            lifetime.born,
            lifetime.fresh_for,
            lifetime.while_revalidate,
            lifetime.if_error,
        ] {
            head.extend_from_slice(&number.to_le_bytes());
        }
        head.extend_from_slice(&self.reason);
        head.extend_from_slice(&self.tags);
        head.extend_from_slice(&self.fields);
        head
    }
}

impl Variants {
    fn of(entry: &Entry) -> Option<Self> {
        let (serial, names) = entry.head().split_first_chunk::<8>()?;
        Some(Self {
            serial: u64::from_le_bytes(*serial),
            names: names.to_vec(),
        })
    }

    fn has(&self, name: &[u8]) -> bool {
        listed(&self.names).any(|known| known == name)
    }

    /// The key of a variant: that of its URI, the number, and what `text` makes of the names.
    fn key(&self, primary: &[u8], text: impl FnOnce(&[u8], &mut Vec<u8>)) -> Vec<u8> {
        let mut key = Vec::with_capacity(primary.len() + 64);
        key.extend_from_slice(primary);
        key.extend_from_slice(b"\n#");
        key.extend_from_slice(&self.serial.to_le_bytes());
        text(&self.names, &mut key);
        key
    }
}

/// The lines of a list.
pub fn listed(list: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

impl Sought {
    /// What stands for it: its URI's hash, or its variant's.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether its URI has variants, and this one is not among them.
    pub fn misses_variant(&self) -> bool {
        self.variant.is_some() && self.found.is_none()
    }
}

impl Cache {
    /// Looks for the response to a URI. `text` writes what a request says under the names that are listed, by line.
    pub fn look(&self, primary: Vec<u8>, text: impl FnOnce(&[u8], &mut Vec<u8>)) -> Sought {
        let primary_hash = self.hash(&primary);
        let witness = self.witness(primary_hash);
        let variants = self
            .find(Kind::Vary, primary_hash, &primary)
            .and_then(|entry| Variants::of(&entry));
        let variant = variants.map(|variants| {
            let key = variants.key(&primary, text);
            (variants, key)
        });
        let (hash, key) = match &variant {
            Some((_, key)) => (self.hash(key), key),
            None => (primary_hash, &primary),
        };
        let found = self.find(Kind::Response, hash, key).and_then(Kept::of);
        Sought {
            primary_hash,
            hash,
            witness,
            found,
            primary,
            variant,
        }
    }

    /// Looks once more for what was sought, which another may have kept meanwhile.
    pub fn look_again(&self, sought: Sought, text: impl FnOnce(&[u8], &mut Vec<u8>)) -> Sought {
        self.look(sought.primary, text)
    }

    /// Begins to gather a response. `text` as for [`Cache::look`].
    pub fn gather(
        self: &Arc<Self>,
        sought: Sought,
        keeping: Keeping,
        making: Option<Making>,
        text: impl FnOnce(&[u8], &mut Vec<u8>),
    ) -> Gathering {
        let mut gathering = Gathering {
            cache: self.clone(),
            sought,
            keeping,
            variant: Vec::new(),
            body: Vec::new(),
            length: 0,
            _making: making,
        };
        let known = gathering.sought.variant.take().map(|(variants, _)| variants);
        let named = |known: &Variants| listed(&gathering.keeping.names).all(|name| known.has(name));
        let variants = match known {
            Some(known) if named(&known) => known,
            known if known.is_none() && gathering.keeping.names.is_empty() => return gathering,
            // Names are added and never taken away, so that responses which name different ones settle.
            known => {
                let mut names = gathering.keeping.names.clone();
                if let Some(known) = &known {
                    for name in listed(&known.names) {
                        if !listed(&gathering.keeping.names).any(|other| other == name) {
                            names.push(b'\n');
                            names.extend_from_slice(name);
                        }
                    }
                }
                Variants {
                    serial: self.segment.serial(),
                    names,
                }
            }
        };
        gathering.variant = variants.key(&gathering.sought.primary, text);
        gathering.sought.variant = Some((variants, Vec::new()));
        gathering
    }

    /// Makes what is kept for a URI worthless, and what is being made for it. Waits for nobody.
    pub fn invalidate(&self, primary: &[u8]) {
        let hash = self.hash(primary);
        self.epoch(hash).fetch_add(1, Ordering::AcqRel);
        let mut toll = super::Toll::default();
        for kind in [Kind::Vary, Kind::Response] {
            self.shards[self.number(hash)].remove(kind, hash, primary, &mut toll);
        }
        self.pay(&toll);
    }
}

impl Gathering {
    /// Adds to the body; false when it has grown too long to be kept.
    #[must_use]
    pub fn add(&mut self, piece: Bytes) -> bool {
        self.length += piece.len() as u64;
        if self.length > self.cache.max_entry() {
            return false;
        }
        self.body.push(piece);
        true
    }

    /// The body is whole: keeps it, and wakes those who wait for it.
    ///
    /// # Errors
    /// Why it was not kept.
    pub fn keep(self) -> Result<(), Refused> {
        let cache = &*self.cache;
        let Sought {
            primary,
            primary_hash,
            witness,
            variant,
            ..
        } = &self.sought;
        let still = || cache.witness(*primary_hash) == *witness;
        let head = self.keeping.head();
        let mut draft = Draft {
            kind: Kind::Response,
            hash: *primary_hash,
            until: self.keeping.lifetime.useless_after(),
            key: primary,
            head: &head,
            body: &self.body,
        };
        if let Some((variants, _)) = variant {
            let there = cache.find(Kind::Vary, *primary_hash, primary);
            if there.and_then(|entry| Variants::of(&entry)).as_ref() != Some(variants) {
                let names = [&variants.serial.to_le_bytes()[..], &variants.names].concat();
                let marker = Draft {
                    kind: Kind::Vary,
                    until: 0,
                    head: &names,
                    body: &[],
                    ..draft
                };
                cache.keep(&marker, true, still)?;
            }
            draft.key = &self.variant;
            draft.hash = cache.hash(&self.variant);
        }
        cache.keep(&draft, false, still)?;
        if let Some(counters) = cache.counters.get() {
            counters.stores.fetch_add(1, Ordering::Relaxed);
        }
        cache.no_pass(self.sought.hash);
        Ok(())
    }

    /// The same, for one whom it need not tell.
    pub fn end(self) {
        let (cache, hash) = (self.cache.clone(), self.sought.hash);
        if self.keep().is_err() {
            cache.pass(hash);
        }
    }
}

/// The URI in a response's key: what stands before any other part of it.
pub(super) fn uri(key: &[u8]) -> &[u8] {
    let end = key.iter().position(|byte| *byte == b'\n').unwrap_or(key.len());
    &key[..end]
}

/// Whether a key is that of one generation alone.
pub(super) fn is_of_generation(key: &[u8]) -> bool {
    key[uri(key).len()..].starts_with(b"\n@")
}

/// Whether the head of a response has a tag.
pub(super) fn has_tag(head: &[u8], tag: &[u8]) -> bool {
    let Some(fixed) = head.first_chunk::<FIXED>() else {
        return false;
    };
    let reason = usize::from(u16::from_le_bytes([fixed[3], fixed[4]]));
    let tags = u32::from_le_bytes([fixed[5], fixed[6], fixed[7], fixed[8]]) as usize;
    let start = FIXED + reason;
    head.get(start..start + tags)
        .is_some_and(|tags| listed(tags).any(|found| found == tag))
}
