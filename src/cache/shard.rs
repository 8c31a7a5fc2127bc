//! A part of the segment with its own lock: entries come in at one ring, and those that are asked for again go on to another (S3-FIFO).
//!
//! Takes drafts under the lock, and throws away what has to give way; gives entries to whoever asks, without it. A holder that dies leaves
//! the shard to be emptied by the next one; one that is stopped is not waited for.
#![forbid(unsafe_code)]

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::ghosts::Ghosts;
use super::index::{Index, Place, Slot};
use super::record::{self, Draft, Entry, Kind, Shape};
use super::ring::{Read, Ring};
use super::segment::{Plan, get};
use crate::scoreboard::Eviction;
use crate::sys::robust::{self, Held, Robust};

/// How long a writer waits for another.
pub(super) const PATIENCE: Duration = Duration::from_millis(1);
/// Asked for so often, an entry stays.
const WORTH_MOVING: u64 = 1;
/// So many entries are moved on for the sake of one that comes in, no more: who waits for the lock must not wait for long.
const MOST_MOVES: usize = 32;
/// The part of a ring that is kept free, so that what moves can be copied before it is given up.
const SLACK: usize = 32;
/// Reads of an entry that moves while it is read.
const TRIES: usize = 4;

/// A shard.
#[derive(Debug)]
pub(super) struct Shard {
    lock: Robust,
    small: Ring,
    main: Ring,
    index: Index,
    ghosts: Ghosts,
}

/// What an act cost others.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Toll {
    /// Entries thrown away, by [`Eviction`].
    pub evictions: [u64; 4],
    /// Everything in a shard was.
    pub wiped: u64,
    /// Reads that were begun again.
    pub retries: u64,
}

impl Toll {
    fn count(&mut self, cause: Eviction) {
        self.evictions[cause as usize] += 1;
    }
}

/// The right to write to a shard.
pub(super) struct Writer<'a> {
    shard: &'a Shard,
    pub toll: Toll,
    _held: Held,
}

/// The entry has no room in a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Shard {
    pub fn over(plan: Plan) -> Self {
        let state = &plan.head[robust::WORDS..];
        // What readers look at stands in a line of its own, apart from what each store writes.
        Self {
            lock: Robust::over(plan.head),
            small: Ring::over(plan.small, &state[8], &state[0]),
            main: Ring::over(plan.main, &state[9], &state[1]),
            index: Index::over(plan.index, plan.heat),
            ghosts: Ghosts::over(plan.ghosts, &state[16]),
        }
    }

    /// Words taken.
    pub fn used(&self) -> usize {
        self.small.used() + self.main.used()
    }

    /// Entries in `buckets` of its buckets, counted from the first.
    pub fn entries(&self, slots: usize) -> usize {
        let live = |number: &usize| {
            let place = self.index.get(Index::slot(*number));
            place.is_some_and(|place| place.position() >= self.ring(place).tail())
        };
        (0..slots.min(self.index.length())).filter(live).count()
    }

    /// Slots there are.
    pub fn slots(&self) -> usize {
        self.index.length()
    }

    fn ring(&self, place: Place) -> &Ring {
        if place.is_main() { &self.main } else { &self.small }
    }

    /// The entry of this key, and its slot.
    fn seek(&self, kind: Kind, hash: u64, key: &[u8], toll: &mut Toll) -> Option<(Slot, Place, Entry)> {
        for _ in 0..TRIES {
            let mut moved = false;
            for (slot, place) in self.index.likely(hash) {
                let wanted = |shape: &Shape, words: &[_]| {
                    shape.kind == kind && shape.hash == hash && record::has_key(words, shape, key)
                };
                match self.ring(place).read(place.position(), wanted) {
                    Read::Is(entry) => return Some((slot, place, entry)),
                    Read::Gone => moved |= self.index.get(slot).is_some_and(|now| now != place),
                    Read::Other => {}
                }
            }
            if !moved {
                return None;
            }
            toll.retries += 1;
        }
        None
    }

    /// The entry of this key. It is asked for once more by this.
    pub fn find(&self, kind: Kind, hash: u64, key: &[u8], toll: &mut Toll) -> Option<Entry> {
        let (slot, _, entry) = self.seek(kind, hash, key, toll)?;
        self.index.warm(slot);
        Some(entry)
    }

    /// Throws the entry of this key away, without a lock; whether there was one.
    pub fn remove(&self, kind: Kind, hash: u64, key: &[u8], toll: &mut Toll) -> bool {
        while let Some((slot, place, _)) = self.seek(kind, hash, key, toll) {
            if self.index.remove(slot, place) {
                toll.count(Eviction::Purged);
                return true;
            }
        }
        false
    }

    /// Throws away all that `is` says of, by what they are and by key and head. Needs no lock. What comes in meanwhile
    /// may stay.
    pub fn sweep(&self, toll: &mut Toll, mut is: impl FnMut(&Shape, &[u8], &[u8]) -> bool) {
        for slot in (0..self.index.length()).map(Index::slot) {
            while let Some(place) = self.index.get(slot) {
                let look = |shape: &Shape, words: &[_]| {
                    let bytes = record::bytes(words, shape.key + shape.head);
                    Some((*shape, bytes))
                };
                let wanted = match self.ring(place).peek(place.position(), look) {
                    Read::Is((shape, bytes)) => is(&shape, &bytes[..shape.key], &bytes[shape.key..]),
                    Read::Other => true,
                    // Another stands there now, or none.
                    Read::Gone if self.index.get(slot) != Some(place) => continue,
                    Read::Gone => false,
                };
                if !wanted {
                    break;
                }
                if self.index.remove(slot, place) {
                    toll.count(Eviction::Purged);
                    break;
                }
            }
        }
    }

    /// All entries, those that were asked for more than once first; `true` with them.
    pub fn each(&self, mut visit: impl FnMut(bool, Entry)) {
        for main in [true, false] {
            for slot in (0..self.index.length()).map(Index::slot) {
                if let Some(place) = self.index.get(slot).filter(|place| place.is_main() == main)
                    && let Read::Is(entry) = self.ring(place).read(place.position(), |_, _| true)
                {
                    visit(main, entry);
                }
            }
        }
    }

    /// The lock. A shard whose holder died is emptied first.
    pub fn write(&self, patience: Duration) -> Result<Writer<'_>, robust::Stuck> {
        let mut toll = Toll::default();
        let held = self.lock.lock(patience, || {
            self.wipe();
            toll.wiped = 1;
        })?;
        Ok(Writer {
            shard: self,
            toll,
            _held: held,
        })
    }

    /// Empties it. Whatever instruction the last writer died at, and whatever this one dies at: what the slots tell of lies below the tails.
    fn wipe(&self) {
        self.small.clear();
        self.main.clear();
        self.index.clear();
    }
}

impl Writer<'_> {
    /// The entry of this key.
    pub fn find(&mut self, kind: Kind, hash: u64, key: &[u8]) -> Option<Entry> {
        let shard = self.shard;
        shard.seek(kind, hash, key, &mut self.toll).map(|(.., entry)| entry)
    }

    /// Throws the entry of this key away; whether there was one.
    pub fn remove(&mut self, kind: Kind, hash: u64, key: &[u8]) -> bool {
        let shard = self.shard;
        shard.remove(kind, hash, key, &mut self.toll)
    }

    /// Keeps an entry, in place of another of its key. With `proven` it goes where those are that were asked for again.
    pub fn keep(&mut self, draft: &Draft<'_>, proven: bool, now: u64) -> Result<(), TooLarge> {
        let Shard { small, main, index, .. } = self.shard;
        let words = draft.words();
        // Twice for the filling at a ring's end.
        if words * 2 > main.capacity() {
            return Err(TooLarge);
        }
        let old = self.slot_of(draft);
        let known = old.is_some_and(|(_, place)| place.is_main());
        let to_main =
            known || proven || words * 2 > small.capacity() || old.is_none() && self.shard.ghosts.take(draft.hash);
        let ring = if to_main { main } else { small };
        self.make_room(to_main, words, now);
        let place = Place::new(draft.hash, to_main, ring.append(draft));
        // What had to give way may have been the old one, and a slot may be free now.
        let (slot, heat) = match self.slot_of(draft) {
            Some((slot, _)) => (slot, index.heat(slot)),
            None => (self.free_slot(draft.hash), 0),
        };
        index.set(slot, place);
        index.set_heat(slot, heat);
        Ok(())
    }

    /// Where this key's entry stands, whole or not.
    fn slot_of(&self, draft: &Draft<'_>) -> Option<(Slot, Place)> {
        let Shard { index, .. } = self.shard;
        index.likely(draft.hash).find(|(_, place)| {
            let look = |shape: &Shape, words: &'static [_]| {
                let same = shape.kind == draft.kind && shape.hash == draft.hash;
                (same && record::has_key(words, shape, draft.key)).then_some(())
            };
            matches!(self.shard.ring(*place).peek(place.position(), look), Read::Is(()))
        })
    }

    /// A slot for a new entry: a free one, one whose entry has been given up, or that of the coldest.
    fn free_slot(&mut self, hash: u64) -> Slot {
        let Shard { index, .. } = self.shard;
        let worth = |slot: &Slot| match index.get(*slot) {
            None => 0,
            Some(place) if place.position() < self.shard.ring(place).tail() => 1,
            Some(place) => 2 + index.heat(*slot) * 2 + u64::from(place.is_main()),
        };
        let slot = index.bucket(hash).min_by_key(worth).expect("a bucket has slots");
        if worth(&slot) > 1 {
            self.toll.count(Eviction::Index);
        }
        slot
    }

    /// Gives up the oldest until there is room for `words`.
    fn make_room(&mut self, in_main: bool, words: usize, now: u64) {
        let Shard { small, main, .. } = self.shard;
        let ring = if in_main { main } else { small };
        let mut moves = 0;
        let slack = ring.capacity() / SLACK;
        while ring.free() < ring.needs(words) + slack.min(ring.capacity() - 2 * words) {
            let Some((shape, record)) = ring.oldest() else {
                // Not a record: the words were damaged by no writer of ours. Nothing in the ring can be found any more.
                ring.clear();
                return;
            };
            let given_up = match self.live(in_main, &shape) {
                Some(entry) => self.pass_on(entry, &shape, record, now, &mut moves),
                None => false,
            };
            if !given_up {
                ring.give_up(shape.words);
            }
        }
    }

    /// The slot that tells of the oldest record of a ring.
    fn live(&self, in_main: bool, shape: &Shape) -> Option<(Slot, Place)> {
        if shape.kind == Kind::Pad {
            return None;
        }
        let Shard { small, main, index, .. } = self.shard;
        let tail = if in_main { main.tail() } else { small.tail() };
        let place = Place::new(shape.hash, in_main, tail);
        index.likely(shape.hash).find(|(_, found)| *found == place)
    }

    /// The oldest entry of a ring is to go: on to the main ring's head if it is worth it, else away. Whether it has been given up already.
    fn pass_on(
        &mut self,
        (slot, place): (Slot, Place),
        shape: &Shape,
        record: &'static [AtomicU64],
        now: u64,
        moves: &mut usize,
    ) -> bool {
        let Shard {
            main, index, ghosts, ..
        } = self.shard;
        let heat = index.heat(slot);
        let over = shape.is_over(now);
        if !over && heat >= WORTH_MOVING && *moves < MOST_MOVES {
            *moves += 1;
            if !place.is_main() {
                self.make_room(true, record.len(), now);
            }
            let own: Vec<AtomicU64>;
            let (record, given_up) = if main.free() >= main.needs(record.len()) {
                (record, false)
            } else {
                // It stands in its own way: for a moment nobody finds it.
                own = record.iter().map(|word| AtomicU64::new(get(word))).collect();
                main.give_up(record.len());
                (&own[..], true)
            };
            if main.free() >= main.needs(record.len()) {
                let to = Place::new(shape.hash, true, main.copy(record));
                index.set_heat(slot, if place.is_main() { heat - 1 } else { 0 });
                index.moved(slot, place, to);
                return given_up;
            }
            self.drop_entry(slot, place, Eviction::Space);
            return given_up;
        }
        let cause = if over { Eviction::Expired } else { Eviction::Space };
        if self.drop_entry(slot, place, cause) && !over && !place.is_main() {
            ghosts.add(shape.hash);
        }
        false
    }

    fn drop_entry(&mut self, slot: Slot, place: Place, cause: Eviction) -> bool {
        let gone = self.shard.index.remove(slot, place);
        if gone {
            self.toll.count(cause);
        }
        gone
    }
}
