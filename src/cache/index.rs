//! Where entries lie: buckets of eight slots, and how often each was asked for.
//!
//! Takes hashes; gives slots. A slot is one word (ring, position, and some bits of the hash), so it is changed at once or not at all; readers
//! follow it without a lock, and whoever throws an entry away needs none either. Positions are never used twice: a slot that holds the same
//! word is the same entry.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use super::segment::{WAYS, exchange, get, publish, put};

/// The bit of a slot that is taken.
const TAKEN: u64 = 1 << 63;
/// The bit of one that lies in the main ring.
const MAIN: u64 = 1 << 48;
const POSITION: u64 = MAIN - 1;
const TAG: u64 = !(TAKEN | MAIN | POSITION);
/// The most that is counted of how often an entry was asked for (S3-FIFO).
const HOTTEST: u64 = 3;

/// The index of a shard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Index {
    slots: &'static [AtomicU64],
    heat: &'static [AtomicU64],
}

/// A slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    bucket: usize,
    way: usize,
}

/// What stands in a slot that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Place {
    pub fn new(hash: u64, main: bool, position: u64) -> Self {
        let main = if main { MAIN } else { 0 };
        Self(TAKEN | hash & TAG | main | position & POSITION)
    }

    pub fn is_main(self) -> bool {
        self.0 & MAIN != 0
    }

    pub fn position(self) -> u64 {
        self.0 & POSITION
    }
}

impl Index {
    pub fn over(slots: &'static [AtomicU64], heat: &'static [AtomicU64]) -> Self {
        Self { slots, heat }
    }

    /// Slots there are.
    pub fn length(&self) -> usize {
        self.slots.len()
    }

    /// The `number`-th of all slots.
    pub fn slot(number: usize) -> Slot {
        Slot {
            bucket: number / WAYS,
            way: number % WAYS,
        }
    }

    /// All slots that an entry of this hash can have.
    pub fn bucket(&self, hash: u64) -> impl Iterator<Item = Slot> + use<> {
        let buckets = self.slots.len() / WAYS;
        // The low half of the hash, spread evenly (Lemire's reduction); the shard and the tag use the high bits.
        let bucket = (((hash & 0xffff_ffff) * buckets as u64) >> 32) as usize;
        (0..WAYS).map(move |way| Slot { bucket, way })
    }

    /// What stands in those slots that are taken and may be this hash's.
    pub fn likely(&self, hash: u64) -> impl Iterator<Item = (Slot, Place)> + use<'_> {
        self.bucket(hash)
            .filter_map(|slot| self.get(slot).map(|place| (slot, place)))
            .filter(move |(_, place)| place.0 & TAG == hash & TAG)
    }

    fn word(&self, slot: Slot) -> &'static AtomicU64 {
        &self.slots[slot.bucket * WAYS + slot.way]
    }

    /// What stands in a slot.
    pub fn get(&self, slot: Slot) -> Option<Place> {
        let word = self.word(slot).load(Ordering::Acquire);
        (word != 0).then_some(Place(word))
    }

    /// Puts an entry into a slot, in place of any other. Under the lock.
    pub fn set(&self, slot: Slot, place: Place) {
        publish(self.word(slot), place.0);
    }

    /// Says that an entry has moved, if nobody has thrown it away meanwhile. Under the lock.
    pub fn moved(&self, slot: Slot, from: Place, to: Place) {
        exchange(self.word(slot), from.0, to.0);
    }

    /// Empties a slot if it still holds this; whether it did. Needs no lock.
    pub fn remove(&self, slot: Slot, place: Place) -> bool {
        exchange(self.word(slot), place.0, 0)
    }

    /// How often what stands there was asked for, up to [`HOTTEST`].
    pub fn heat(&self, slot: Slot) -> u64 {
        get(&self.heat[slot.bucket]) >> (slot.way * 8) & 0xff
    }

    /// It was asked for. Two who say so at once may count as one, and one who is late may warm what came after: it is a hint.
    pub fn warm(&self, slot: Slot) {
        let heat = self.heat(slot);
        // A word that is not written is not taken from the other readers' caches.
        if heat < HOTTEST {
            self.set_heat(slot, heat + 1);
        }
    }

    pub fn set_heat(&self, slot: Slot, heat: u64) {
        let word = &self.heat[slot.bucket];
        let others = get(word) & !(0xff << (slot.way * 8));
        word.store(others | heat << (slot.way * 8), Ordering::Relaxed);
    }

    /// Empties all.
    pub fn clear(&self) {
        self.slots.iter().chain(self.heat).for_each(|word| put(word, 0));
    }
}
