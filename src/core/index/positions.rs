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

use super::SoleWriter;
use crate::core::{
    log::format,
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
    offsets: Offsets,
}

/// Distances from a block's first position, rising; the first is 0.
enum Offsets {
    Open {
        /// How many are written. Written by the sole writer.
        len: AtomicU32,
        /// Written by the sole writer, each once.
        cells: Box<[AtomicU32]>,
    },
    /// A bit for each offset, and how many bits are set before each [`GROUP`] of words.
    Dense { len: usize, words: Box<[u64]>, ranks: Box<[u16]> },
    /// The low half of each; those with the high half `h` are from `begins[h]` to `begins[h + 1]`.
    Split { begins: Box<[u16]>, lows: Box<[u16]> },
}

/// Words of 64 bits that share a rank.
const GROUP: usize = 8;

fn low(offset: u64) -> u16 {
    u16::try_from(offset & 0xffff).expect("sixteen bits")
}

fn index(number: impl TryInto<usize>) -> usize {
    number.try_into().unwrap_or(usize::MAX)
}

impl Block {
    fn new(first: u64, before: u64, capacity: usize) -> Self {
        let cells = (0..capacity).map(|_| AtomicU32::new(0)).collect();
        // The first entry is 0 already.
        Self { first, before, offsets: Offsets::Open { len: AtomicU32::new(1), cells } }
    }

    /// Memory held: the block, its count, its place in the list, its entries.
    fn allocated(&self) -> usize {
        let entries = match &self.offsets {
            Offsets::Open { cells, .. } => size_of_val(&**cells),
            Offsets::Dense { words, ranks, .. } => size_of_val(&**words) + size_of_val(&**ranks),
            Offsets::Split { begins, lows } => size_of_val(&**begins) + size_of_val(&**lows),
        };
        size_of::<Self>() + 24 + entries
    }

    fn len(&self) -> usize {
        match &self.offsets {
            // Acquire, pairs with the Release in `Block::push`: the entries below it were written before.
            Offsets::Open { len, .. } => index(len.load(Ordering::Acquire)),
            Offsets::Dense { len, .. } => *len,
            Offsets::Split { lows, .. } => lows.len(),
        }
    }

    /// The position at `at`, which is below [`Block::len`].
    fn get(&self, at: usize) -> u64 {
        let offset = match &self.offsets {
            // Relaxed: `at` is below a length that was loaded with Acquire.
            Offsets::Open { cells, .. } => cells[at].load(Ordering::Relaxed).into(),
            Offsets::Dense { words, ranks, .. } => {
                let group = ranks.partition_point(|rank| usize::from(*rank) <= at) - 1;
                let mut left = at - usize::from(ranks[group]);
                let mut word = group * GROUP;
                while let ones = index(words[word].count_ones())
                    && ones <= left
                {
                    left -= ones;
                    word += 1;
                }
                let rest = (0..left).fold(words[word], |bits, _| bits & (bits - 1));
                word as u64 * 64 + u64::from(rest.trailing_zeros())
            }
            Offsets::Split { begins, lows } => {
                let high = begins.partition_point(|begin| usize::from(*begin) <= at) - 1;
                (high as u64) << 16 | u64::from(lows[at])
            }
        };
        self.first + offset
    }

    /// How many positions are at most `position`.
    fn rank(&self, position: u64) -> usize {
        let Some(offset) = position.checked_sub(self.first) else { return 0 };
        match &self.offsets {
            Offsets::Open { cells, .. } => {
                let len = self.len();
                // Relaxed: as in `get`.
                let at = |at: usize| u64::from(cells[at].load(Ordering::Relaxed));
                if at(len - 1) <= offset {
                    return len;
                }
                let (mut low, mut high) = (0, len);
                while low < high {
                    let middle = low + (high - low) / 2;
                    if at(middle) <= offset { low = middle + 1 } else { high = middle }
                }
                low
            }
            Offsets::Dense { len, words, ranks } => {
                let word = index(offset / 64);
                if word >= words.len() {
                    return *len;
                }
                let group = word / GROUP;
                let whole: u32 =
                    words[group * GROUP..word].iter().map(|word| word.count_ones()).sum();
                let last = words[word] & (u64::MAX >> (63 - offset % 64));
                usize::from(ranks[group]) + index(whole + last.count_ones())
            }
            Offsets::Split { begins, lows } => {
                let high = index(offset >> 16);
                let (Some(begin), Some(end)) = (begins.get(high), begins.get(high + 1)) else {
                    return lows.len();
                };
                let (begin, end) = (usize::from(*begin), usize::from(*end));
                begin + lows[begin..end].partition_point(|other| *other <= low(offset))
            }
        }
    }

    /// The first position from `from` on; `None` if all are before it. `near` is an entry at which to look
    /// first, and then the one that was found.
    fn at_or_after(&self, from: u64, near: &mut usize) -> Option<u64> {
        let Some(offset) = from.checked_sub(self.first) else {
            *near = 0;
            return Some(self.first);
        };
        if let Offsets::Dense { words, .. } = &self.offsets {
            let word = index(offset / 64);
            let first = words.get(word)? & (u64::MAX << (offset % 64));
            if first != 0 {
                return Some(self.first + word as u64 * 64 + u64::from(first.trailing_zeros()));
            }
            let more = words[word + 1..].iter().position(|word| *word != 0)?;
            let word = word + 1 + more;
            return Some(self.first + word as u64 * 64 + u64::from(words[word].trailing_zeros()));
        }
        let len = self.len();
        // Most steps go to the neighbour.
        for at in *near..len.min(*near + 2) {
            let position = self.get(at);
            if position >= from && (at == 0 || self.get(at - 1) < from) {
                *near = at;
                return Some(position);
            }
        }
        *near = self.rank(from - 1);
        (*near < len).then(|| self.get(*near))
    }

    /// The last position up to `from`; `None` if all are after it.
    fn at_or_before(&self, from: u64) -> Option<u64> {
        let offset = from.checked_sub(self.first)?;
        if let Offsets::Dense { words, .. } = &self.offsets {
            let word = index(offset / 64);
            let (word, bits) = match words.get(word) {
                Some(bits) => (word, bits & (u64::MAX >> (63 - offset % 64))),
                None => (words.len() - 1, words[words.len() - 1]),
            };
            let found =
                |word: usize, bits: u64| self.first + word as u64 * 64 + u64::from(bits.ilog2());
            if bits != 0 {
                return Some(found(word, bits));
            }
            let word = words[..word].iter().rposition(|bits| *bits != 0)?;
            return Some(found(word, words[word]));
        }
        self.rank(from).checked_sub(1).map(|at| self.get(at))
    }

    /// Adds the positions from `from` up to `to` to `out`, until it has `max`.
    fn fill(&self, from: u64, to: u64, max: usize, out: &mut Vec<u64>) {
        if let Offsets::Dense { words, .. } = &self.offsets {
            let offset = from.saturating_sub(self.first);
            let begin = index(offset / 64);
            for (word, bits) in words.iter().enumerate().skip(begin) {
                let mut bits = *bits;
                if word == begin {
                    bits &= u64::MAX << (offset % 64);
                }
                let base = self.first + word as u64 * 64;
                while bits != 0 {
                    let position = base + u64::from(bits.trailing_zeros());
                    if position > to || out.len() == max {
                        return;
                    }
                    out.push(position);
                    bits &= bits - 1;
                }
            }
            return;
        }
        let begin = from.checked_sub(1).map_or(0, |before| self.rank(before));
        let end = self.rank(to).min(begin + (max - out.len()));
        if let Offsets::Split { begins, lows } = &self.offsets {
            for (high, ends) in begins.windows(2).enumerate() {
                let (first, last) =
                    (usize::from(ends[0]).max(begin), usize::from(ends[1]).min(end));
                if first < last {
                    let base = self.first + ((high as u64) << 16);
                    out.extend(lows[first..last].iter().map(|low| base + u64::from(*low)));
                }
            }
        } else {
            out.extend((begin..end).map(|at| self.get(at)));
        }
    }

    /// Whether it was taken; not if the block is full or packed, or the position is too far from its first.
    fn push(&self, position: u64, _: &mut SoleWriter) -> bool {
        let Offsets::Open { len, cells } = &self.offsets else { return false };
        // Relaxed: nobody else writes it.
        let last = len.load(Ordering::Relaxed);
        let Ok(offset) = u32::try_from(position - self.first) else { return false };
        let Some(cell) = cells.get(index(last)) else { return false };
        // Relaxed: published by the store below.
        cell.store(offset, Ordering::Relaxed);
        // Release, pairs with the Acquire in `Block::len`: whoever sees the length sees the entry.
        len.store(last + 1, Ordering::Release);
        true
    }

    /// The same block with no room for more; `None` where that is not smaller.
    fn fitted(&self) -> Option<Self> {
        let Offsets::Open { cells, .. } = &self.offsets else { return None };
        let len = self.len();
        let exact = Self::of(self.first, self.before, len, (0..len).map(|at| self.get(at)));
        let packed = exact.packed();
        packed.or_else(|| (len < cells.len()).then_some(exact))
    }

    /// A block of these `len` positions, with room for `capacity`.
    fn of(first: u64, before: u64, capacity: usize, positions: impl Iterator<Item = u64>) -> Self {
        let block = Self::new(first, before, capacity);
        let Offsets::Open { len, cells } = &block.offsets else {
            unreachable!("a new block is open")
        };
        let mut count = 0;
        for (cell, position) in cells.iter().zip(positions) {
            let offset = u32::try_from(position - first).expect("they are near");
            // Relaxed: nobody sees the block yet.
            cell.store(offset, Ordering::Relaxed);
            count += 1;
        }
        // Relaxed: as above.
        len.store(count, Ordering::Relaxed);
        block
    }

    /// The same block in fewer bytes, for good; `None` where no other way is smaller. Nothing is added to
    /// it any more.
    fn packed(&self) -> Option<Self> {
        let Offsets::Open { cells, .. } = &self.offsets else { return None };
        let len = self.len();
        let span = self.get(len - 1) - self.first + 1;
        let groups = index(span.div_ceil(64 * GROUP as u64));
        let highs = index(((span - 1) >> 16) + 1);
        let dense = groups.saturating_mul(8 * GROUP + 2);
        let split = (2 * (highs + 1)).saturating_add(2 * len);
        if dense.min(split) >= size_of_val(&**cells) {
            return None;
        }
        let offsets = (0..len).map(|at| self.get(at) - self.first);
        let offsets = if dense <= split {
            let mut words = vec![0u64; groups * GROUP];
            for offset in offsets {
                words[index(offset / 64)] |= 1 << (offset % 64);
            }
            let mut before = 0u32;
            let ranks = words.chunks(GROUP).map(|group| {
                let rank = u16::try_from(before).expect("a block has few");
                before += group.iter().map(|word| word.count_ones()).sum::<u32>();
                rank
            });
            let ranks = ranks.collect();
            Offsets::Dense { len, words: words.into_boxed_slice(), ranks }
        } else {
            let mut begins = vec![0u16; highs + 1];
            for offset in offsets.clone() {
                begins[index(offset >> 16) + 1] += 1;
            }
            for high in 0..highs {
                begins[high + 1] += begins[high];
            }
            Offsets::Split { begins: begins.into_boxed_slice(), lows: offsets.map(low).collect() }
        };
        Some(Self { first: self.first, before: self.before, offsets })
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
            let block = Block::of(*first, before as u64, room, rest[..len].iter().copied());
            rest = &rest[len..];
            let packed = if rest.is_empty() { None } else { block.packed() };
            blocks.push(Arc::new(packed.unwrap_or(block)));
        }
        (!blocks.is_empty()).then(|| Self(Snapshot::new(Arc::new(blocks))))
    }

    /// The list up to `head` that [`Positions::encode`] has written; `None` if `bytes` is none.
    pub fn decode(bytes: &mut &[u8], head: Position) -> Option<Self> {
        let count = usize::try_from(format::take_varint(bytes).ok()?).ok()?;
        // Each takes a byte at least.
        let mut positions = Vec::with_capacity(count.min(bytes.len()));
        let mut last = 0u64;
        for _ in 0..count {
            last = last.checked_add(format::take_varint(bytes).ok()?)?;
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
        let position = position.get();
        if self.0.with(|blocks| blocks[blocks.len() - 1].push(position, writer)) {
            return 0;
        }
        let mut blocks = Vec::clone(&self.0.load());
        let last = blocks.pop().expect("a list is never empty");
        let len = last.len();
        let near = u32::try_from(position - last.first).is_ok();
        let was = last.allocated();
        if blocks.is_empty() && len < BLOCK_COPIED_MAX && near {
            let larger = Block::new(last.first, last.before, len * 2);
            for index in 1..len {
                assert!(larger.push(last.get(index), writer), "twice the room is enough");
            }
            assert!(larger.push(position, writer), "twice the room is enough");
            blocks.push(Arc::new(larger));
        } else {
            let before = last.before + len as u64;
            let room = usize::try_from(before / 2).unwrap_or(BLOCK_MAX);
            let room = room.clamp(BLOCK_COPIED_MAX, BLOCK_MAX);
            blocks.push(last.packed().map_or(last, Arc::new));
            blocks.push(Arc::new(Block::new(position, before, room)));
        }
        let kept = if blocks.len() > 1 { 2 } else { 1 };
        let is: usize = blocks[blocks.len() - kept..].iter().map(|block| block.allocated()).sum();
        // Stored after it is filled: a reader that loads it sees it whole.
        self.0.store(Arc::new(blocks));
        is.cast_signed() - was.cast_signed()
    }

    /// Gives back what growth has set aside. How many bytes the list is smaller by.
    pub fn pack(&self, _: &mut SoleWriter) -> usize {
        let mut blocks = Vec::clone(&self.0.load());
        let last = blocks.pop().expect("a list is never empty");
        let Some(fitted) = last.fitted() else { return 0 };
        let freed = last.allocated() - fitted.allocated();
        blocks.push(Arc::new(fitted));
        self.0.store(Arc::new(blocks));
        freed
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
        let first = self.blocks.partition_point(|block| block.first <= from.get());
        for block in &self.blocks[first.saturating_sub(1)..] {
            if block.first > to.get() || out.len() == max {
                return;
            }
            block.fill(from.get(), to.get(), max, out);
        }
    }

    /// Appends those up to `head` to `out`: how many, then each as its distance from the one before.
    pub fn encode(&self, head: Position, out: &mut Vec<u8>) {
        format::put_varint(out, self.count(head) - self.blocks[0].before);
        let mut last = 0;
        for position in self.up_to(head) {
            format::put_varint(out, position - last);
            last = position;
        }
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
        if blocks[self.block].first > from || next(self.block) {
            let after = blocks.partition_point(|block| block.first <= from);
            (self.block, self.near) = (after.saturating_sub(1), 0);
        }
        if let Some(found) = blocks[self.block].at_or_after(from, &mut self.near) {
            return Some(Position::new(found));
        }
        blocks.get(self.block + 1).map(|block| Position::new(block.first))
    }

    /// The last position up to `from`.
    pub fn at_or_before(&mut self, from: Position) -> Option<Position> {
        let (blocks, from) = (&self.positions.blocks, from.get());
        let next = |block: usize| blocks.get(block + 1).is_some_and(|next| next.first <= from);
        if blocks[self.block].first > from || next(self.block) {
            let after = blocks.partition_point(|block| block.first <= from);
            self.block = after.checked_sub(1)?;
        }
        blocks[self.block].at_or_before(from).map(Position::new)
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
            ],
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
                        prop_assert_eq!(list.allocated(), before.strict_add_signed(grown));
                    }
                }
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
