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

use std::{cell::Cell, sync::Arc};

use siphasher::sip::SipHasher13;
use uuid::Uuid;

use crate::core::{
    position::Position,
    sync::{AtomicU64, Ordering, Snapshot},
};

/// How many shards an index has.
pub const SHARDS: usize = 1024;
const SHARD_CAPACITY_MIN: usize = 16;
/// Of 8 bytes, in the 64 that processors load together.
const ENTRIES_IN_LINE: usize = 8;
const FINGERPRINT_BITS: u32 = 24;
const POSITION_BITS: u32 = 40;
/// More cannot be indexed: 2^40 - 1, a trillion events.
pub const POSITION_MAX: Position = Position::new((1 << POSITION_BITS) - 1);

type Entries = Box<[AtomicU64]>;

/// The look-up, for anyone.
pub struct IdIndex {
    /// Written by the [`IdWriter`]: an empty entry once, no other.
    shards: Box<[Snapshot<Entries>]>,
    keys: Keys,
}

/// What the hash is keyed with: random, and a secret of the store.
pub type Keys = (u64, u64);

/// The sequencer's side. It has its own hold on every shard, and there is one in a store.
pub struct IdWriter {
    index: Arc<IdIndex>,
    shards: Box<[Arc<Entries>]>,
    /// How many entries each shard has.
    counts: Box<[u32]>,
    allocated: usize,
    /// Entries of positions below need not be kept.
    floor: Position,
    /// How often a shard has been replaced: what was seen in an older one says nothing of it.
    replaced: u32,
}

/// Where an id belongs. Worked out once for a look-up and an insertion.
#[derive(Debug, Clone)]
pub struct Place {
    shard: u32,
    fingerprint: u32,
    /// Where the writer's look-up has found the first free entry, and at which of its `replaced`.
    free: Cell<Option<(u32, u32)>>,
}

impl Place {
    fn shard(&self) -> usize {
        self.shard as usize
    }
}

fn fingerprint_of(entry: u64) -> u32 {
    u32::try_from(entry >> POSITION_BITS).expect("24 bits")
}

fn position_of(entry: u64) -> Position {
    Position::new(entry & POSITION_MAX.get())
}

/// A table that is filled once, fastest in the order of the starts.
struct Filling {
    entries: Vec<u64>,
    /// The last start that came in order; and where nothing lies any more, nor behind. Between the two all is taken, so that
    /// the next one in order belongs there, or at its start, without a look.
    last: usize,
    end: usize,
}

impl Filling {
    fn with_capacity(capacity: usize) -> Self {
        Self { entries: vec![0; capacity], last: 0, end: 0 }
    }

    /// Adds one. There is room.
    fn put(&mut self, entry: u64) {
        let capacity = self.entries.len();
        let start = start(fingerprint_of(entry), capacity);
        let mut index = start.max(self.end);
        if start >= self.last && index < capacity {
            self.last = start;
        } else {
            index = start;
            while self.entries[index] != 0 {
                index = if index + 1 == capacity { 0 } else { index + 1 };
            }
        }
        self.entries[index] = entry;
        self.end = self.end.max(index + 1);
    }

    fn filled(self) -> Entries {
        self.entries.into_iter().map(AtomicU64::new).collect()
    }
}

/// Where the probe for a fingerprint begins: monotone in the fingerprint.
fn start(fingerprint: u32, capacity: usize) -> usize {
    let place = (u64::from(fingerprint) * capacity as u64) >> FINGERPRINT_BITS;
    usize::try_from(place).expect("below the capacity")
}

/// The position in `entries` for which `is_it` says that the event there has the id; or where the first free entry
/// is, behind all that could have it.
fn search(
    entries: &Entries,
    fingerprint: u32,
    mut is_it: impl FnMut(Position) -> bool,
) -> Result<Position, usize> {
    let mut index = start(fingerprint, entries.len());
    loop {
        // Relaxed: an entry that the reader's watermark covers was stored before it; any other may be
        // missed. The writer reads what it wrote.
        let entry = entries[index].load(Ordering::Relaxed);
        if entry == 0 {
            return Err(index);
        }
        let position = position_of(entry);
        if entry >> POSITION_BITS == u64::from(fingerprint) && is_it(position) {
            return Ok(position);
        }
        index = if index + 1 == entries.len() { 0 } else { index + 1 };
    }
}

impl IdIndex {
    /// Where `id` belongs.
    pub fn place(&self, id: &Uuid) -> Place {
        let hash = SipHasher13::new_with_keys(self.keys.0, self.keys.1).hash(id.as_bytes());
        let shard = u32::try_from(hash & (SHARDS as u64 - 1)).expect("ten bits");
        let fingerprint = u32::try_from(hash >> (64 - FINGERPRINT_BITS)).expect("24 bits");
        Place { shard, fingerprint, free: Cell::new(None) }
    }

    /// The position for which `is_it` says that the event there has this id. `is_it` is asked for few
    /// others, and may be asked for positions above the watermark.
    pub fn find(&self, id: &Uuid, is_it: impl FnMut(Position) -> bool) -> Option<Position> {
        self.find_at(&self.place(id), is_it)
    }

    /// What the hash is keyed with.
    pub fn keys(&self) -> Keys {
        self.keys
    }

    /// The entries of one shard whose positions are at most `head`, in an order in which they can be
    /// restored. There are [`SHARDS`].
    pub fn entries(&self, shard: usize, head: Position) -> Vec<u64> {
        let entries = self.shards[shard].load();
        // Relaxed: what `head`, a watermark that was taken before, covers was stored before it.
        let entries = entries.iter().map(|entry| entry.load(Ordering::Relaxed));
        entries.filter(|entry| *entry != 0 && position_of(*entry) <= head).collect()
    }

    fn find_at(&self, place: &Place, is_it: impl FnMut(Position) -> bool) -> Option<Position> {
        self.shards[place.shard()].with(|entries| search(entries, place.fingerprint, is_it)).ok()
    }

    /// Memory held.
    pub fn allocated(&self) -> usize {
        self.shards.iter().map(|shard| 40 + 8 * shard.with(|entries| entries.len())).sum()
    }
}

impl IdWriter {
    /// The writer of an empty index.
    pub fn new() -> Self {
        Self::with_shards(SHARDS)
    }

    fn with_shards(count: usize) -> Self {
        // Version 4 UUIDs are random but for six bits of each half.
        let random = || Uuid::new_v4().as_u64_pair();
        let ((a, b), (c, d)) = (random(), random());
        let keys = (a ^ b.rotate_left(32), c ^ d.rotate_left(32));
        Self::restore(keys, vec![Vec::new(); count], Position::ZERO).expect("there is none")
    }

    /// The writer of an index whose shards have these entries, as [`IdIndex::entries`] gave them up to
    /// `head`; `None` if they cannot be.
    pub fn restore(keys: Keys, shards: Vec<Vec<u64>>, head: Position) -> Option<Self> {
        let possible =
            |entry: &u64| Position::ZERO < position_of(*entry) && position_of(*entry) <= head;
        if !shards.iter().flatten().all(possible) {
            return None;
        }
        let counts =
            shards.iter().map(|entries| u32::try_from(entries.len()).expect("a shard's are few"));
        let counts = counts.collect();
        let restored = shards.into_iter().map(|old| {
            let capacity = SHARD_CAPACITY_MIN.max(old.len() + old.len().div_ceil(4));
            let mut filling = Filling::with_capacity(capacity);
            for entry in old {
                filling.put(entry);
            }
            Arc::new(filling.filled())
        });
        let shards: Box<[Arc<Entries>]> = restored.collect();
        let index = Arc::new(IdIndex {
            shards: shards.iter().map(|entries| Snapshot::new(Arc::clone(entries))).collect(),
            keys,
        });
        let allocated = index.allocated();
        Some(Self { index, shards, counts, allocated, floor: Position::ZERO, replaced: 0 })
    }

    /// The look-up that anyone may use.
    pub fn index(&self) -> &Arc<IdIndex> {
        &self.index
    }

    /// Loads what a look-up of each place looks at first, two lines of the cache. The ids of a batch lie far apart in memory: loaded
    /// together they are waited for together.
    pub fn touch(&self, places: &[Place]) {
        let mut all = 0;
        for place in places {
            let entries = &self.shards[place.shard()];
            let start = start(place.fingerprint, entries.len());
            // Relaxed: the values are not used.
            all |= entries[start].load(Ordering::Relaxed);
            if let Some(entry) = entries.get(start + ENTRIES_IN_LINE) {
                all |= entry.load(Ordering::Relaxed);
            }
        }
        std::hint::black_box(all);
    }

    /// As [`IdIndex::find`], also for what is not published yet.
    pub fn find(&self, place: &Place, is_it: impl FnMut(Position) -> bool) -> Option<Position> {
        let found = search(&self.shards[place.shard()], place.fingerprint, is_it);
        found
            .map_err(|free| {
                let free = u32::try_from(free).expect("a shard's are few");
                place.free.set(Some((self.replaced, free)));
            })
            .ok()
    }

    /// Notes that the id that belongs to `place`, and is not in the index, is at `position`.
    pub fn insert(&mut self, place: &Place, position: Position) {
        assert!(position <= POSITION_MAX, "a store holds at most {POSITION_MAX} events");
        let entry = u64::from(place.fingerprint) << POSITION_BITS | position.get();
        let shard = place.shard();
        self.counts[shard] += 1;
        let entries = &self.shards[shard];
        // At most 85 % full: an unsuccessful search then looks at 23 entries in the mean (Knuth, The Art
        // of Computer Programming 3, 6.4, theorem K), which are 3 cache lines.
        if u64::from(self.counts[shard]) * 20 <= entries.len() as u64 * 17 {
            // An entry that was taken is never given back, so what is free lies there or behind.
            let free = place.free.get().filter(|(replaced, _)| *replaced == self.replaced);
            match free {
                Some((_, free)) => put_from(entries, free as usize, entry),
                None => put_from(entries, start(place.fingerprint, entries.len()), entry),
            }
            return;
        }
        // Relaxed: nobody else writes.
        let load = |entry: &AtomicU64| entry.load(Ordering::Relaxed);
        let is_kept = |old: &u64| *old != 0 && position_of(*old) >= self.floor;
        let count = if self.floor == Position::ZERO {
            self.counts[shard] as usize
        } else {
            entries.iter().map(load).filter(is_kept).count() + 1
        };
        // Where nothing is below the floor: a quarter more.
        let capacity = if count < entries.len() / 2 {
            SHARD_CAPACITY_MIN.max(2 * count)
        } else {
            entries.len() + entries.len().div_ceil(4)
        };
        let mut larger = Filling::with_capacity(capacity);
        // What lies behind an empty place is nearly in order. (What lies at the beginning may belong to the end.)
        let empty = entries.iter().position(|entry| load(entry) == 0).unwrap_or(0);
        let (before, behind) = entries.split_at(empty);
        for part in [behind, before] {
            part.iter().map(load).filter(is_kept).for_each(|entry| larger.put(entry));
        }
        larger.put(entry);
        let larger = larger.filled();
        self.replaced = self.replaced.wrapping_add(1);
        self.allocated = self.allocated + 8 * larger.len() - 8 * entries.len();
        self.counts[shard] = u32::try_from(count).expect("a shard's are few");
        self.shards[shard] = Arc::new(larger);
        self.index.shards[shard].store(Arc::clone(&self.shards[shard]));
    }

    /// From now on ids of positions below `floor` may be forgotten: as room is needed.
    pub fn forget(&mut self, floor: Position) {
        self.floor = floor;
    }

    /// Memory held.
    pub fn allocated(&self) -> usize {
        self.allocated
    }
}

impl Default for IdWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// Stores `entry` in the first free place from `index` on. One is free.
fn put_from(entries: &[AtomicU64], mut index: usize, entry: u64) {
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
        let mut writer = IdWriter::new();
        let index = Arc::clone(writer.index());
        let ids: Vec<Uuid> = (0..50_000u128).map(Uuid::from_u128).collect();
        let find = |id: &Uuid| index.find(id, |position| ids[place(position)] == *id);
        for (at, id) in ids.iter().enumerate() {
            assert_eq!(find(id), None);
            writer.insert(&index.place(id), Position::new(at as u64 + 1));
            assert_eq!(find(id), Some(Position::new(at as u64 + 1)));
        }
        let half = Position::new(ids.len() as u64 / 2);
        let shards = (0..SHARDS).map(|shard| index.entries(shard, half)).collect();
        let mut restored = IdWriter::restore(index.keys(), shards, half).expect("they are its own");
        for (at, id) in ids.iter().enumerate() {
            let position = Position::new(at as u64 + 1);
            let at_place =
                |writer: &IdWriter| writer.find(&index.place(id), |at| ids[place(at)] == *id);
            assert_eq!(find(id), Some(position));
            assert_eq!(at_place(&writer), Some(position));
            assert_eq!(at_place(&restored), Some(position).filter(|_| position <= half));
            if position > half {
                restored.insert(&index.place(id), position);
                assert_eq!(at_place(&restored), Some(position));
            }
        }
    }

    fn place(position: Position) -> usize {
        usize::try_from(position.get() - 1).expect("a small number")
    }

    #[test]
    fn ids_that_may_be_forgotten_make_room_and_others_are_found() {
        const KEPT: u64 = 10_000;
        let mut writer = IdWriter::new();
        let index = Arc::clone(writer.index());
        let id = |position: u64| Uuid::from_u128(position.into());
        let mut most = 0;
        for position in 1..=20 * KEPT {
            writer.insert(&index.place(&id(position)), Position::new(position));
            writer.forget(Position::new(position.saturating_sub(KEPT)));
            assert_eq!(writer.allocated(), index.allocated());
            most = most.max(writer.allocated());
            if position % 977 == 0 {
                for kept in position.saturating_sub(KEPT).max(1)..=position {
                    let found = index.find(&id(kept), |at| at.get() == kept);
                    assert_eq!(found, Some(Position::new(kept)));
                }
            }
        }
        let most = u64::try_from(most).expect("a size");
        assert!(most < 50 * KEPT + 200_000, "{most} bytes for {KEPT} ids");
    }

    /// What was seen free is used, also where others have taken it meanwhile or the shard has been replaced. Seen to fail
    /// where it is used of a shard that was replaced.
    #[test]
    fn what_was_looked_up_before_others_were_inserted_is_found_after_its_insertion() {
        const TOGETHER: usize = 700;
        let mut writer = IdWriter::with_shards(SHARDS);
        let index = Arc::clone(writer.index());
        let ids: Vec<Uuid> = (0..40_000u128).map(|id| Uuid::from_u128(id << 64)).collect();
        for (batch, together) in ids.chunks(TOGETHER).enumerate() {
            let places: Vec<Place> = together.iter().map(|id| index.place(id)).collect();
            for place in &places {
                assert_eq!(writer.find(place, |_| false), None);
            }
            for (at, place) in places.iter().enumerate() {
                writer.insert(place, Position::new((batch * TOGETHER + at) as u64 + 1));
            }
        }
        for (at, id) in ids.iter().enumerate() {
            let found = index.find(id, |position| ids[place(position)] == *id);
            assert_eq!(found, Some(Position::new(at as u64 + 1)));
        }
    }

    #[test]
    fn an_id_takes_twelve_bytes_or_less() {
        let mut writer = IdWriter::new();
        let mut next = 1u64;
        for total in [100_000, 300_000, 1_000_000] {
            while next <= total {
                let place = writer.index().place(&Uuid::new_v4());
                writer.insert(&place, Position::new(next));
                next += 1;
            }
            let bytes = writer.allocated() as u64;
            assert_eq!(bytes, writer.index().allocated() as u64);
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
        // The growth at the fourteenth entry falls into the modelled part.
        const BEFORE: u64 = 13;
        let place = |position: u64| {
            let fingerprint = u32::try_from(position).expect("a small number") << 8;
            Place { shard: 0, fingerprint, free: Cell::new(None) }
        };
        loom::model(move || {
            let mut writer = IdWriter::with_shards(1);
            let index = Arc::clone(writer.index());
            for position in 1..=BEFORE {
                writer.insert(&place(position), Position::new(position));
            }
            let mut watermark = WatermarkWriter::new();
            watermark.advance(Position::new(BEFORE));
            let shared = Arc::clone(watermark.shared());
            let thread = loom::thread::spawn(move || {
                writer.insert(&place(BEFORE + 1), Position::new(BEFORE + 1));
                watermark.advance(Position::new(BEFORE + 1));
            });
            let seen = shared.get();
            assert_eq!(index.find_at(&place(seen.get()), |at| at == seen), Some(seen));
            thread.join().expect("the writer does not panic");
        });
    }
}
