//! A growing list of rising positions: one writer, many readers, no lock. The postings of a name.
//!
//! ```text
//! blocks  [first 100 | 0 3 9 ..][first 5000 | 0 1 4 . .]    offsets of 32 bits from the block's first
//!                               len = 3: the rest is not written yet
//! ```
//!
//! A short list is one block that is copied into a larger one as it grows (a stream of a few events costs
//! little); a long one gets further blocks and is never copied. 4 bytes a position, and what growth
//! sets aside.

use std::sync::Arc;

use super::SoleWriter;
use crate::core::{
    position::Position,
    sync::{AtomicU32, Ordering, Snapshot},
};

/// The first block has room for so many positions.
const BLOCK_MIN: usize = 2;
/// A block of more is not copied any more; another one is begun.
const BLOCK_COPIED_MAX: usize = 512;
/// No block has more: what an empty tail can waste is bounded.
const BLOCK_MAX: usize = 16_384;

struct Block {
    first: u64,
    /// How many positions are in the blocks before.
    before: u64,
    /// How many entries are written. Written by the sole writer.
    len: AtomicU32,
    /// Distances from `first`, rising. Written by the sole writer, each once.
    offsets: Box<[AtomicU32]>,
}

impl Block {
    fn new(first: u64, before: u64, capacity: usize) -> Self {
        let offsets = (0..capacity).map(|_| AtomicU32::new(0)).collect();
        // The first entry is 0 already.
        Self { first, before, len: AtomicU32::new(1), offsets }
    }

    /// Memory held: the block, its count, its place in the list, its entries.
    fn allocated(&self) -> usize {
        size_of::<Self>() + 24 + self.offsets.len() * size_of::<AtomicU32>()
    }

    fn len(&self) -> usize {
        // Acquire, pairs with the Release in `Block::push`: the entries below were written before.
        self.len.load(Ordering::Acquire) as usize
    }

    fn get(&self, index: usize) -> u64 {
        // Relaxed: `index` is below a `len` that was loaded with Acquire.
        self.first + u64::from(self.offsets[index].load(Ordering::Relaxed))
    }

    /// Whether it was taken; not if the block is full or the position is too far from its first.
    fn push(&self, position: u64, _: &mut SoleWriter) -> bool {
        // Relaxed: nobody else writes it.
        let len = self.len.load(Ordering::Relaxed);
        let Ok(offset) = u32::try_from(position - self.first) else { return false };
        let Some(entry) = self.offsets.get(len as usize) else { return false };
        // Relaxed: published by the store below.
        entry.store(offset, Ordering::Relaxed);
        // Release, pairs with the Acquire in `Block::len`: whoever sees the length sees the entry.
        self.len.store(len + 1, Ordering::Release);
        true
    }
}

/// The list. Never empty.
pub struct PositionList(Snapshot<Vec<Arc<Block>>>);

impl PositionList {
    /// A list of one position.
    pub fn new(first: Position) -> Self {
        Self(Snapshot::new(Arc::new(vec![Arc::new(Block::new(first.get(), 0, BLOCK_MIN))])))
    }

    /// A list of these positions, which rise; `None` if they do not or there are none.
    pub fn restore(positions: &[u64]) -> Option<Self> {
        let rising = positions.is_sorted_by(|a, b| a < b);
        let mut blocks: Vec<Arc<Block>> = Vec::new();
        let mut rest = positions;
        while let (true, [first, ..]) = (rising, rest) {
            let near = rest.partition_point(|position| u32::try_from(position - first).is_ok());
            let len = near.min(BLOCK_MAX);
            let before = positions.len() - rest.len();
            // A short list is as large as its growth would have made it.
            let room = if before == 0 && len < BLOCK_COPIED_MAX {
                len.next_power_of_two().max(BLOCK_MIN)
            } else {
                len.max(BLOCK_COPIED_MAX)
            };
            let block = Block::new(*first, before as u64, room);
            for (entry, position) in block.offsets.iter().zip(&rest[..len]) {
                let offset = u32::try_from(position - first).expect("they are near");
                // Relaxed: nobody sees the block yet.
                entry.store(offset, Ordering::Relaxed);
            }
            // Relaxed: as above.
            block.len.store(u32::try_from(len).expect("at most a block's"), Ordering::Relaxed);
            blocks.push(Arc::new(block));
            rest = &rest[len..];
        }
        (!blocks.is_empty()).then(|| Self(Snapshot::new(Arc::new(blocks))))
    }

    /// Adds `position`, which is above all that are in the list. How many bytes the list has grown by.
    pub fn push(&self, position: Position, writer: &mut SoleWriter) -> usize {
        let position = position.get();
        if self.0.with(|blocks| blocks[blocks.len() - 1].push(position, writer)) {
            return 0;
        }
        let mut blocks = Vec::clone(&self.0.load());
        let last = &blocks[blocks.len() - 1];
        let len = last.len();
        let near = u32::try_from(position - last.first).is_ok();
        let before = last.allocated();
        let grown;
        if blocks.len() == 1 && len < BLOCK_COPIED_MAX && near {
            let larger = Block::new(last.first, 0, len * 2);
            for index in 1..len {
                assert!(larger.push(last.get(index), writer), "twice the room is enough");
            }
            assert!(larger.push(position, writer), "twice the room is enough");
            grown = larger.allocated() - before;
            blocks[0] = Arc::new(larger);
        } else {
            let before = last.before + len as u64;
            let room = usize::try_from(before / 2).unwrap_or(BLOCK_MAX);
            let room = room.clamp(BLOCK_COPIED_MAX, BLOCK_MAX);
            let block = Block::new(position, before, room);
            grown = block.allocated();
            blocks.push(Arc::new(block));
        }
        // Stored after it is filled: a reader that loads it sees it whole.
        self.0.store(Arc::new(blocks));
        grown
    }

    /// Forgets positions below `floor`, as far as whole blocks go: how many bytes the list is smaller by.
    /// What is left is counted as before. `None`: all of the list is below, and nothing was changed.
    pub fn forget(&self, floor: Position, _: &mut SoleWriter) -> Option<usize> {
        let below = |block: &Block| block.get(block.len() - 1) < floor.get();
        if !self.0.with(|blocks| below(&blocks[0])) {
            return Some(0);
        }
        let blocks = self.0.load();
        let forgotten = blocks.partition_point(|block| below(block));
        if forgotten == blocks.len() {
            return None;
        }
        let freed = blocks[..forgotten].iter().map(|block| block.allocated()).sum();
        self.0.store(Arc::new(blocks[forgotten..].to_vec()));
        Some(freed)
    }

    /// The positions as of now. Those that a watermark covers that was taken before are all in it.
    pub fn view(&self) -> Positions {
        Positions { blocks: self.0.load() }
    }

    /// Memory held, without the allocator's own.
    pub fn allocated(&self) -> usize {
        let blocks = |blocks: &Vec<Arc<Block>>| -> usize {
            blocks.iter().map(|block| block.allocated()).sum()
        };
        size_of::<Self>() + 40 + self.0.with(blocks)
    }
}

/// A list's positions as of one moment, and perhaps some that were added since.
#[derive(Clone)]
pub struct Positions {
    blocks: Arc<Vec<Arc<Block>>>,
}

impl Positions {
    /// How many are at most `head`, forgotten ones among them: what is asked for is not below those.
    pub fn count(&self, head: Position) -> u64 {
        // All but the newest few are below the head: look from the end, then bisect.
        let Some(block) = self.block(head) else { return self.blocks[0].before };
        block.before + Self::rank(block, head.get()) as u64
    }

    /// Those that are at most `head`, in their order.
    pub fn up_to(&self, head: Position) -> impl Iterator<Item = u64> {
        self.blocks
            .iter()
            .flat_map(|block| (0..block.len()).map(|index| block.get(index)))
            .take_while(move |position| *position <= head.get())
    }

    /// The `index`-th one, from 0; `None` where there is none, or it is forgotten.
    pub fn get(&self, index: u64) -> Option<Position> {
        let after = self.blocks.partition_point(|block| block.before <= index);
        let block = &self.blocks[after.checked_sub(1)?];
        let inside = usize::try_from(index - block.before).ok()?;
        (inside < block.len()).then(|| Position::new(block.get(inside)))
    }

    /// The first one that is not forgotten.
    pub fn first(&self) -> Position {
        Position::new(self.blocks[0].first)
    }

    /// The first one that is at least `from`.
    pub fn at_or_after(&self, from: Position) -> Option<Position> {
        self.get(self.count(from.previous()))
    }

    /// The last one that is at most `from`.
    pub fn at_or_before(&self, from: Position) -> Option<Position> {
        self.count(from).checked_sub(1).and_then(|index| self.get(index))
    }

    /// The last block that begins at or before `position`.
    fn block(&self, position: Position) -> Option<&Block> {
        let after = self.blocks.partition_point(|block| block.first <= position.get());
        after.checked_sub(1).map(|index| &*self.blocks[index])
    }

    /// How many entries of `block` are at most `position`.
    fn rank(block: &Block, position: u64) -> usize {
        let (mut low, mut high) = (0, block.len());
        if high > 0 && block.get(high - 1) <= position {
            return high;
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if block.get(middle) <= position { low = middle + 1 } else { high = middle }
        }
        low
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The list and a plain vector say the same of any position, at every length: also across the
        /// growth of the first block, the begin of further ones, and gaps of more than 32 bits.
        #[test]
        fn a_list_is_what_a_vector_of_its_positions_is(
            gaps in proptest::collection::vec(
                prop_oneof![20 => 1u64..4, 1 => 1u64 << 31..1 << 33], 1..1500),
            probes in proptest::collection::vec(any::<proptest::sample::Index>(), 20),
        ) {
            let mut writer = SoleWriter::new();
            let mut model: Vec<u64> = Vec::new();
            let mut list: Option<PositionList> = None;
            for gap in gaps {
                let position = model.last().copied().unwrap_or(0) + gap;
                model.push(position);
                match &list {
                    None => list = Some(PositionList::new(Position::new(position))),
                    Some(list) => {
                        let before = list.allocated();
                        let grown = list.push(Position::new(position), &mut writer);
                        prop_assert_eq!(list.allocated(), before + grown);
                    }
                }
            }
            let list = list.expect("at least one");
            let restored = PositionList::restore(&model).expect("they rise");
            // Restored or not, it grows on.
            model.push(model[model.len() - 1] + 3);
            for list in [&list, &restored] {
                let before = list.allocated();
                let grown = list.push(Position::new(model[model.len() - 1]), &mut writer);
                prop_assert_eq!(list.allocated(), before + grown);
                prop_assert!(list.view().up_to(Position::MAX).eq(model.iter().copied()));
                let half = Position::new(model[model.len() / 2]);
                prop_assert_eq!(list.view().up_to(half).count(), model.len() / 2 + 1);
            }
            let (view, restored) = (list.view(), restored.view());
            for (index, position) in model.iter().enumerate() {
                prop_assert_eq!(view.get(index as u64), Some(Position::new(*position)));
                prop_assert_eq!(restored.get(index as u64), Some(Position::new(*position)));
            }
            prop_assert_eq!(view.get(model.len() as u64), None);
            for probe in probes {
                let near = model[probe.index(model.len())];
                for at in [near - 1, near, near + 1] {
                    let count = model.partition_point(|position| *position <= at) as u64;
                    let at = Position::new(at);
                    prop_assert_eq!(view.count(at), count);
                    prop_assert_eq!(restored.count(at), count);
                    let after = model.iter().find(|position| **position >= at.get());
                    prop_assert_eq!(view.at_or_after(at).map(Position::get), after.copied());
                    let before = model.iter().rev().find(|position| **position <= at.get());
                    prop_assert_eq!(view.at_or_before(at).map(Position::get), before.copied());
                }
            }
        }
    }

    #[test]
    fn a_list_that_forgets_counts_on() {
        let mut writer = SoleWriter::new();
        let list = PositionList::new(Position::new(10));
        let all: Vec<u64> = (1..=5000).map(|number| 10 * number).collect();
        for position in &all[1..] {
            list.push(Position::new(*position), &mut writer);
        }
        let mut allocated = list.allocated();
        for floor in [5, 10, 11, 10_000, 30_000, 49_990] {
            let before = list.view();
            let freed = list.forget(Position::new(floor), &mut writer).expect("something is left");
            assert_eq!(list.allocated(), allocated - freed);
            allocated -= freed;
            assert!(
                before.up_to(Position::MAX).count() >= list.view().up_to(Position::MAX).count()
            );
            let view = list.view();
            assert!(view.first() <= Position::new(floor.max(10)), "nothing above it is forgotten");
            for (index, position) in all.iter().enumerate().filter(|(_, at)| **at >= floor) {
                assert_eq!(view.get(index as u64), Some(Position::new(*position)));
                assert_eq!(view.count(Position::new(*position)), index as u64 + 1);
            }
        }
        assert!(list.view().first() > Position::new(30_000), "whole blocks are forgotten");
        assert_eq!(list.view().get(0), None);
        assert_eq!(list.forget(Position::new(50_001), &mut writer), None);
        list.push(Position::new(60_000), &mut writer);
        assert_eq!(list.view().count(Position::MAX), 5001);
    }

    #[test]
    fn a_long_list_takes_little_more_than_four_bytes_a_position() {
        let mut writer = SoleWriter::new();
        let list = PositionList::new(Position::new(1));
        for position in 2..=1_000_000 {
            list.push(Position::new(position), &mut writer);
        }
        assert!(list.allocated() < 4_200_000, "{}", list.allocated());
    }
}

#[cfg(all(test, feature = "loom"))]
mod model {
    use super::*;

    /// Seen to fail with Relaxed in `Block::push` or in `Block::len`.
    #[test]
    fn who_sees_a_length_sees_the_entries_below_it() {
        loom::model(|| {
            let list = Arc::new(PositionList::new(Position::new(1)));
            let writer = {
                let list = Arc::clone(&list);
                loom::thread::spawn(move || {
                    let mut permit = SoleWriter::new();
                    list.push(Position::new(3), &mut permit);
                    // The block is full: it is copied into a larger one.
                    list.push(Position::new(7), &mut permit);
                })
            };
            let view = list.view();
            let count = view.count(Position::MAX);
            let seen: Vec<_> = (0..count).map(|index| view.get(index).map(Position::get)).collect();
            assert_eq!(seen, [Some(1), Some(3), Some(7)][..seen.len()]);
            writer.join().expect("the writer does not panic");
            assert_eq!(list.view().count(Position::MAX), 3);
        });
    }
}
