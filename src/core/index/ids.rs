//! Event id → position, in 9.4 to 11.8 bytes an event.
//!
//! ```text
//! shard (by 10 bits of the hash)   [ 0 ][fp|pos][fp|pos][ 0 ][fp|pos] …   linear probing
//! entry: 24 bits of the hash, 40 bits of position; 0 is empty. The id itself is in the log.
//! ```
//!
//! An entry's place is proportional to its 24 bits, so a shard grows by a quarter in one ordered pass
//! without looking at an id, and grows alone: no append waits for more than one shard's copy. A match of
//! the 24 bits is checked against the log. The hash is keyed at random for each store: ids are the
//! client's choice, and chosen ones must not make a chain. (Nothing is ever iterated in its order, so
//! the sequencer stays deterministic.)

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use uuid::Uuid;

use super::SoleWriter;
use crate::core::{
    position::Position,
    sync::{AtomicU64, Ordering, Snapshot},
};

const SHARDS: usize = 1024;
const SHARD_CAPACITY_MIN: usize = 16;
const FINGERPRINT_BITS: u32 = 24;
const POSITION_BITS: u32 = 40;
/// More cannot be indexed: 2^40 - 1, a trillion events.
pub const POSITION_MAX: Position = Position::new((1 << POSITION_BITS) - 1);

struct Shard {
    /// Written by the sole writer: an empty entry once, no other.
    entries: Snapshot<Box<[AtomicU64]>>,
}

/// The look-up.
pub struct IdIndex {
    shards: Box<[Shard]>,
    hasher: RandomState,
}

/// How many entries each shard has, and how much memory all have. The writer's.
pub struct IdCounts {
    shards: Box<[u32]>,
    allocated: usize,
}

impl IdCounts {
    /// Memory held by the index.
    pub fn allocated(&self) -> usize {
        self.allocated
    }
}

fn empty(capacity: usize) -> Box<[AtomicU64]> {
    (0..capacity).map(|_| AtomicU64::new(0)).collect()
}

/// Where the probe for a fingerprint begins: monotone in the fingerprint.
fn start(fingerprint: u64, capacity: usize) -> usize {
    let place = (fingerprint * capacity as u64) >> FINGERPRINT_BITS;
    usize::try_from(place).expect("below the capacity")
}

impl IdIndex {
    /// An empty index and the counts that its writer keeps.
    pub fn new() -> (Self, IdCounts) {
        let shard = |_| Shard { entries: Snapshot::new(Arc::new(empty(SHARD_CAPACITY_MIN))) };
        let index = Self { shards: (0..SHARDS).map(shard).collect(), hasher: RandomState::new() };
        let allocated = index.allocated();
        (index, IdCounts { shards: vec![0; SHARDS].into_boxed_slice(), allocated })
    }

    fn place(&self, id: &Uuid) -> (usize, u64) {
        let hash = self.hasher.hash_one(id.as_u128());
        let shard = usize::try_from(hash & (SHARDS as u64 - 1)).expect("ten bits");
        (shard, hash >> (64 - FINGERPRINT_BITS))
    }

    /// The position for which `is_it` says that the event there has this id. `is_it` is asked for few
    /// others, and may be asked for positions above the watermark.
    pub fn find(&self, id: &Uuid, is_it: impl FnMut(Position) -> bool) -> Option<Position> {
        self.find_at(self.place(id), is_it)
    }

    fn find_at(
        &self,
        (shard, fingerprint): (usize, u64),
        mut is_it: impl FnMut(Position) -> bool,
    ) -> Option<Position> {
        self.shards[shard].entries.with(|entries| {
            let mut index = start(fingerprint, entries.len());
            loop {
                // Relaxed: an entry that the caller's watermark covers was stored before it; any other
                // may be missed.
                let entry = entries[index].load(Ordering::Relaxed);
                if entry == 0 {
                    return None;
                }
                let position = Position::new(entry & POSITION_MAX.get());
                if entry >> POSITION_BITS == fingerprint && is_it(position) {
                    return Some(position);
                }
                index = if index + 1 == entries.len() { 0 } else { index + 1 };
            }
        })
    }

    /// Notes that `id`, which is not in the index, is at `position`.
    pub fn insert(
        &self,
        id: &Uuid,
        position: Position,
        counts: &mut IdCounts,
        writer: &mut SoleWriter,
    ) {
        self.insert_at(self.place(id), position, counts, writer);
    }

    fn insert_at(
        &self,
        (shard, fingerprint): (usize, u64),
        position: Position,
        counts: &mut IdCounts,
        _: &mut SoleWriter,
    ) {
        assert!(position <= POSITION_MAX, "a store holds at most {POSITION_MAX} events");
        let count = &mut counts.shards[shard];
        let shard = &self.shards[shard].entries;
        let entry = fingerprint << POSITION_BITS | position.get();
        *count += 1;
        // At most 85 % full: an unsuccessful search then looks at 23 entries in the mean (Knuth, The Art
        // of Computer Programming 3, 6.4, theorem K), which are 3 cache lines.
        if shard.with(|entries| u64::from(*count) * 20 <= entries.len() as u64 * 17) {
            shard.with(|entries| put(entries, entry));
            return;
        }
        let old = shard.load();
        let larger = empty(old.len() + old.len().div_ceil(4));
        counts.allocated += 8 * (larger.len() - old.len());
        for old in &**old {
            // Relaxed: nobody else writes.
            let old = old.load(Ordering::Relaxed);
            if old != 0 {
                put(&larger, old);
            }
        }
        put(&larger, entry);
        shard.store(Arc::new(larger));
    }

    /// Memory held.
    pub fn allocated(&self) -> usize {
        let entries = |shard: &Shard| shard.entries.with(|entries| entries.len());
        self.shards.iter().map(|shard| 40 + 8 * entries(shard)).sum()
    }
}

/// Stores `entry` in the first free place from its start. One is free.
fn put(entries: &[AtomicU64], entry: u64) {
    let mut index = start(entry >> POSITION_BITS, entries.len());
    // Relaxed: nobody else writes, and the watermark or the snapshot publishes it.
    while entries[index].load(Ordering::Relaxed) != 0 {
        index = if index + 1 == entries.len() { 0 } else { index + 1 };
    }
    // Relaxed: as above.
    entries[index].store(entry, Ordering::Relaxed);
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_found_where_it_is_and_no_other_is() {
        let (index, mut counts) = IdIndex::new();
        let mut permit = SoleWriter::new();
        let ids: Vec<Uuid> = (0..50_000u128).map(Uuid::from_u128).collect();
        let find = |id: &Uuid| index.find(id, |position| ids[place(position)] == *id);
        for (at, id) in ids.iter().enumerate() {
            assert_eq!(find(id), None);
            index.insert(id, Position::new(at as u64 + 1), &mut counts, &mut permit);
            assert_eq!(find(id), Some(Position::new(at as u64 + 1)));
        }
        for (at, id) in ids.iter().enumerate() {
            assert_eq!(find(id), Some(Position::new(at as u64 + 1)));
        }
    }

    fn place(position: Position) -> usize {
        usize::try_from(position.get() - 1).expect("a small number")
    }

    #[test]
    fn an_id_takes_twelve_bytes_or_less() {
        let (index, mut counts) = IdIndex::new();
        let mut permit = SoleWriter::new();
        let mut next = 1u64;
        for total in [100_000, 300_000, 1_000_000] {
            while next <= total {
                let id = Uuid::new_v4();
                index.insert(&id, Position::new(next), &mut counts, &mut permit);
                next += 1;
            }
            let bytes = index.allocated() as u64;
            assert_eq!(bytes, counts.allocated() as u64);
            assert!(bytes <= 12 * total, "{bytes} bytes for {total} ids");
        }
    }
}

#[cfg(all(test, feature = "loom"))]
mod model {
    use super::*;
    use crate::core::log::watermark::WatermarkWriter;

    /// Also while the shard grows. Seen to fail where the watermark advances before the insert.
    #[test]
    fn an_id_that_the_watermark_covers_is_found() {
        // The growth at the fifteenth entry falls into the modelled part.
        const BEFORE: u64 = 13;
        loom::model(|| {
            let shard = Shard { entries: Snapshot::new(Arc::new(empty(SHARD_CAPACITY_MIN))) };
            let index =
                Arc::new(IdIndex { shards: vec![shard].into(), hasher: RandomState::new() });
            let mut counts = IdCounts { shards: vec![0].into(), allocated: 0 };
            let mut permit = SoleWriter::new();
            let insert = |index: &IdIndex, position, counts: &mut _, permit: &mut _| {
                index.insert_at((0, position << 8), Position::new(position), counts, permit);
            };
            for position in 1..=BEFORE {
                insert(&index, position, &mut counts, &mut permit);
            }
            let mut watermark = WatermarkWriter::new();
            watermark.advance(Position::new(BEFORE));
            let shared = Arc::clone(watermark.shared());
            let writer = {
                let index = Arc::clone(&index);
                loom::thread::spawn(move || {
                    insert(&index, BEFORE + 1, &mut counts, &mut permit);
                    watermark.advance(Position::new(BEFORE + 1));
                })
            };
            let seen = shared.get();
            let place = (0, seen.get() << 8);
            assert_eq!(index.find_at(place, |position| position == seen), Some(seen));
            writer.join().expect("the writer does not panic");
        });
    }
}
