//! A growing list of rising positions: one writer, many readers, no lock. The postings of a name.
//!
//! ```text
//! blocks  [first 100 | bits 1001..][first 5000 | 0 3 9 ..][first 9000 | 0 1 4 . .]    offsets from the first
//!           full, packed             full                  len = 3: the rest is not written yet
//! ```
//!
//! A short list is one block that is copied into a larger one as it grows (a stream of a few events costs
//! little); a long one gets further blocks. 4 bytes a position, and what growth sets aside; a block that is
//! full is packed where that is smaller: as bits where positions are dense, else with 2 bytes each (the two
//! kinds of containers of Roaring bitmaps, Chambi et al. 2016, with ranks for both).

use std::sync::Arc;

use super::{SoleWriter, block::Block};
use crate::core::{log::protobuf, position::Position, sync::Snapshot};

/// The first block has room for so many positions.
const BLOCK_MIN: usize = 2;
/// A block of more is not copied any more; another one is begun.
const BLOCK_COPIED_MAX: usize = 512;
/// No block has more: what an empty tail can waste is bounded.
const BLOCK_MAX: usize = 16_384;

/// The list. Never empty.
pub struct PositionList(Snapshot<Blocks>);

/// A list's blocks: those that are full, and the one at its end, which in most lists is the only one.
struct Blocks {
    full: Box<[Arc<Block>]>,
    last: Block,
}

impl Blocks {
    /// A list's first block.
    fn one(block: Block) -> Arc<Self> {
        Arc::new(Self { full: Box::default(), last: block })
    }

    fn len(&self) -> usize {
        self.full.len() + 1
    }

    fn get(&self, index: usize) -> Option<&Block> {
        self.full
            .get(index)
            .map(|block| &**block)
            .or((index == self.full.len()).then_some(&self.last))
    }

    fn at(&self, index: usize) -> &Block {
        self.full.get(index).map_or(&self.last, |block| block)
    }

    fn iter(&self) -> impl Iterator<Item = &Block> {
        self.full.iter().map(|block| &**block).chain([&self.last])
    }

    /// How many blocks begin at or before `position`.
    fn begun(&self, position: u64) -> usize {
        self.partition_point(|block| block.first <= position)
    }

    /// How many blocks `is_before` says yes to: the first ones.
    fn partition_point(&self, is_before: impl Fn(&Block) -> bool) -> usize {
        if is_before(&self.last) {
            return self.len();
        }
        self.full.partition_point(|block| is_before(block))
    }

    /// Memory held.
    fn allocated(&self) -> usize {
        let full: usize = self.full.iter().map(|block| Self::allocated_for(block)).sum();
        size_of::<Self>() + 16 + full + self.last.allocated()
    }

    /// Of this for a full block, with its count and its place.
    fn allocated_for(full: &Block) -> usize {
        size_of::<Block>() + 24 + full.allocated()
    }
}

impl PositionList {
    /// A list of one position.
    pub fn new(first: Position) -> Self {
        Self(Snapshot::new(Blocks::one(Block::new(first.get(), 0, BLOCK_MIN))))
    }

    /// A list of these positions, which rise; `None` if they do not or there are none.
    pub fn restore(positions: &[u64]) -> Option<Self> {
        let rising = positions.is_sorted_by(|a, b| a < b);
        let mut full = Vec::new();
        let mut rest = positions;
        while let (true, [first, ..]) = (rising, rest) {
            let near = rest.partition_point(|position| u32::try_from(position - first).is_ok());
            let len = near.min(BLOCK_MAX);
            let before = positions.len() - rest.len();
            // A short list has room as if it had grown one by one.
            let room = if before == 0 && len < BLOCK_COPIED_MAX {
                len.next_power_of_two().max(BLOCK_MIN)
            } else {
                len.max(BLOCK_COPIED_MAX)
            };
            let block = Block::of(*first, before as u64, room, rest[..len].iter().copied());
            rest = &rest[len..];
            if rest.is_empty() {
                let blocks = Blocks { full: full.into_boxed_slice(), last: block };
                return Some(Self(Snapshot::new(Arc::new(blocks))));
            }
            full.push(Arc::new(block.packed().unwrap_or(block)));
        }
        None
    }

    /// The list up to `head` that [`Positions::encode`] has written; `None` if `bytes` is none.
    pub fn decode(bytes: &mut &[u8], head: Position) -> Option<Self> {
        let count = usize::try_from(protobuf::take_varint(bytes).ok()?).ok()?;
        // Each takes a byte at least.
        let mut positions = Vec::with_capacity(count.min(bytes.len()));
        let mut last = 0u64;
        for _ in 0..count {
            last = last.checked_add(protobuf::take_varint(bytes).ok()?)?;
            positions.push(last);
        }
        if last > head.get() || positions.first() == Some(&0) {
            return None;
        }
        Self::restore(&positions)
    }

    /// Adds `position`, which is above all that are in the list. By how many bytes the list has changed:
    /// grown, or less where a full block was packed.
    pub fn push(&self, position: Position, writer: &mut SoleWriter) -> isize {
        self.push_to(&mut self.last(), position, position, writer)
    }

    /// The writer's own hold on the block that it writes to: good until the list is packed or forgets.
    pub fn last(&self) -> Last {
        Last(self.0.load())
    }

    /// The same as [`PositionList::push`] of all from `from` to `to`, where the writer has hold of its last block, here or with
    /// others.
    pub fn push_to(
        &self,
        hold: &mut Last,
        from: Position,
        to: Position,
        writer: &mut SoleWriter,
    ) -> isize {
        let (mut next, to) = (from.get(), to.get());
        let mut change = 0;
        loop {
            next = hold.0.last.push(next, to, writer);
            if next > to {
                return change;
            }
            change += self.push_anew(hold, next, to);
            next += 1;
        }
    }

    /// The same of one position, where its block is to be another one, with room for those up to `to` if they are few.
    fn push_anew(&self, hold: &mut Last, position: u64, to: u64) -> isize {
        let Blocks { full, last } = &*hold.0;
        let len = last.len();
        let near = u32::try_from(position - last.first).is_ok();
        let (blocks, closed) = if full.is_empty() && len < BLOCK_COPIED_MAX && near {
            let all = usize::try_from(to - position).unwrap_or(BLOCK_MAX).saturating_add(len + 1);
            let room = all.min(BLOCK_COPIED_MAX).max(len * 2);
            let positions = last.positions().chain([position]);
            (Blocks::one(Block::of(last.first, last.before, room, positions)), 0)
        } else {
            let before = last.before + len as u64;
            let room = usize::try_from(before / 2).unwrap_or(BLOCK_MAX);
            let room = room.clamp(BLOCK_COPIED_MAX, BLOCK_MAX);
            let closed = Arc::new(last.fitted().unwrap_or_else(|| last.copied()));
            let size = Blocks::allocated_for(&closed);
            let full = full.iter().cloned().chain([closed]).collect();
            (Arc::new(Blocks { full, last: Block::new(position, before, room) }), size)
        };
        let is = blocks.last.allocated() + closed;
        let was = last.allocated();
        hold.0 = Arc::clone(&blocks);
        // Stored after it is filled: a reader that loads it sees it whole.
        self.0.store(blocks);
        is.cast_signed() - was.cast_signed()
    }

    /// Gives back what growth has set aside. How many bytes the list is smaller by.
    pub fn pack(&self, _: &mut SoleWriter) -> usize {
        let was = self.0.load();
        let Some(fitted) = was.last.fitted() else { return 0 };
        let blocks = Blocks { full: was.full.clone(), last: fitted };
        let freed = was.last.allocated() - blocks.last.allocated();
        self.0.store(Arc::new(blocks));
        freed
    }

    /// Forgets positions below `floor`, as far as whole blocks go: how many bytes the list is smaller by.
    /// What is left is counted as before. `None`: all of the list is below, and nothing was changed.
    pub fn forget(&self, floor: Position, _: &mut SoleWriter) -> Option<usize> {
        let below = |block: &Block| block.get(block.len() - 1) < floor.get();
        if !self.0.with(|blocks| below(blocks.at(0))) {
            return Some(0);
        }
        let was = self.0.load();
        let forgotten = was.partition_point(below);
        let full = was.full.get(forgotten..)?.into();
        let blocks = Blocks { full, last: was.last.copied() };
        let freed = was.allocated() - blocks.allocated();
        self.0.store(Arc::new(blocks));
        Some(freed)
    }

    /// The positions as of now. Those that a watermark covers that was taken before are all in it.
    pub fn view(&self) -> Positions {
        Positions { blocks: self.0.load() }
    }

    /// Memory held, without the allocator's own.
    pub fn allocated(&self) -> usize {
        size_of::<Self>() + self.0.with(Blocks::allocated)
    }
}

/// The blocks of a list, of which its writer fills the last.
pub struct Last(Arc<Blocks>);

impl Last {
    /// How many positions the list has, forgotten ones among them.
    pub fn written(&self) -> u64 {
        self.0.last.before + self.0.last.len() as u64
    }
}

/// A list's positions as of one moment, and perhaps some that were added since.
#[derive(Clone)]
pub struct Positions {
    blocks: Arc<Blocks>,
}

impl Positions {
    /// How many are at most `head`, forgotten ones among them: what is asked for is not below those.
    pub fn count(&self, head: Position) -> u64 {
        // All but the newest few are below the head: look from the end, then bisect.
        let Some(block) = self.block(head) else { return self.blocks.at(0).before };
        block.before + block.rank(head.get()) as u64
    }

    /// Those that are at most `head`, in their order.
    pub fn up_to(&self, head: Position) -> impl Iterator<Item = u64> {
        self.blocks.iter().take_while(move |block| block.first <= head.get()).flat_map(
            move |block| {
                let mut all = Vec::new();
                block.fill(0, head.get(), usize::MAX, &mut all);
                all
            },
        )
    }

    /// Adds those from `from` up to `to` to `out`, in their order, until it has `max`.
    pub fn fill(&self, from: Position, to: Position, max: usize, out: &mut Vec<u64>) {
        let first = self.blocks.begun(from.get()).saturating_sub(1);
        for block in self.blocks.iter().skip(first) {
            if block.first > to.get() || out.len() == max {
                return;
            }
            block.fill(from.get(), to.get(), max, out);
        }
    }

    /// Appends those up to `head` to `out`: how many, then each as its distance from the one before.
    pub fn encode(&self, head: Position, out: &mut Vec<u8>) {
        protobuf::put_varint(out, self.count(head) - self.blocks.at(0).before);
        let mut last = 0;
        for position in self.up_to(head) {
            protobuf::put_varint(out, position - last);
            last = position;
        }
    }

    /// The `index`-th one, from 0; `None` where there is none, or it is forgotten.
    pub fn get(&self, index: u64) -> Option<Position> {
        let after = self.blocks.partition_point(|block| block.before <= index);
        let block = self.blocks.at(after.checked_sub(1)?);
        let inside = usize::try_from(index - block.before).ok()?;
        (inside < block.len()).then(|| Position::new(block.get(inside)))
    }

    /// The first one that is not forgotten.
    pub fn first(&self) -> Position {
        Position::new(self.blocks.at(0).first)
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
        self.blocks.begun(position.get()).checked_sub(1).map(|index| self.blocks.at(index))
    }
}

/// A place in a list, for steps that go to neighbours most of the time.
pub struct Walk {
    positions: Positions,
    block: usize,
    near: usize,
}

impl Walk {
    /// A walk over `positions`.
    pub fn new(positions: Positions) -> Self {
        Self { positions, block: 0, near: 0 }
    }

    /// The list.
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// The first position from `from` on.
    pub fn at_or_after(&mut self, from: Position) -> Option<Position> {
        let (blocks, from) = (&self.positions.blocks, from.get());
        let next = |block: usize| blocks.get(block + 1).is_some_and(|next| next.first <= from);
        if blocks.at(self.block).first > from || next(self.block) {
            (self.block, self.near) = (blocks.begun(from).saturating_sub(1), 0);
        }
        if let Some(found) = blocks.at(self.block).at_or_after(from, &mut self.near) {
            return Some(Position::new(found));
        }
        blocks.get(self.block + 1).map(|block| Position::new(block.first))
    }

    /// The last position up to `from`.
    pub fn at_or_before(&mut self, from: Position) -> Option<Position> {
        let (blocks, from) = (&self.positions.blocks, from.get());
        let next = |block: usize| blocks.get(block + 1).is_some_and(|next| next.first <= from);
        if blocks.at(self.block).first > from || next(self.block) {
            self.block = blocks.begun(from).checked_sub(1)?;
        }
        blocks.at(self.block).at_or_before(from).map(Position::new)
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
            gaps in prop_oneof![
                // Bits, two bytes each, and gaps that no block spans.
                proptest::collection::vec(prop_oneof![2000 => 1u64..4, 1 => 1u64 << 31..1 << 33], 1..6000),
                proptest::collection::vec(prop_oneof![20 => 1u64..400, 1 => 1u64 << 17..1 << 18], 1..3000),
                proptest::collection::vec(prop_oneof![20 => 1u64..4, 1 => 1u64 << 31..1 << 33], 1..1500),
                // Runs.
                proptest::collection::vec(prop_oneof![300 => Just(1u64), 1 => 2u64..1 << 33], 1..6000),
            ],
            probes in proptest::collection::vec(any::<proptest::sample::Index>(), 20),
        ) {
            let mut writer = SoleWriter::new();
            let mut model: Vec<u64> = Vec::new();
            let mut list: Option<PositionList> = None;
            for gap in gaps {
                model.push(model.last().copied().unwrap_or(0) + gap);
            }
            for run in model.chunk_by(|a, b| a + 1 == *b) {
                let (first, last) = (Position::new(run[0]), Position::new(run[run.len() - 1]));
                let (list, from) = match &list {
                    None => (&*list.insert(PositionList::new(first)), first.next()),
                    Some(list) => (list, first),
                };
                let before = list.allocated();
                let grown = list.push_to(&mut list.last(), from, last, &mut writer);
                prop_assert_eq!(list.allocated(), before.strict_add_signed(grown));
            }
            let list = list.expect("at least one");
            let mut bytes = Vec::new();
            list.view().encode(Position::MAX, &mut bytes);
            let head = Position::new(model[model.len() - 1]);
            let restored = PositionList::decode(&mut &bytes[..], head).expect("they rise");
            let packed = PositionList::restore(&model).expect("they rise");
            let before = packed.allocated();
            prop_assert_eq!(before - packed.pack(&mut writer), packed.allocated());
            // Restored, packed or not, it grows on.
            model.push(model[model.len() - 1] + 3);
            for list in [&list, &restored, &packed] {
                let before = list.allocated();
                let grown = list.push(Position::new(model[model.len() - 1]), &mut writer);
                prop_assert_eq!(list.allocated(), before.strict_add_signed(grown));
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
            let mut walks = [Walk::new(view.clone()), Walk::new(restored.clone())];
            let head = Position::new(model[model.len() - 1]);
            for at in 1..model.len().min(2000) {
                let from = Position::new(model[at - 1] + 1);
                let next = Some(Position::new(model[at]));
                prop_assert!(walks.iter_mut().all(|walk| walk.at_or_after(from) == next));
            }
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
                    // A walk that comes from anywhere says the same.
                    for walk in &mut walks {
                        prop_assert_eq!(walk.at_or_after(at).map(Position::get), after.copied());
                        prop_assert_eq!(walk.at_or_before(at).map(Position::get), before.copied());
                    }
                    let mut some = Vec::new();
                    view.fill(at, head, 700, &mut some);
                    let expected = model.iter().filter(|position| **position >= at.get()).take(700);
                    prop_assert!(expected.copied().eq(some.iter().copied()));
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
