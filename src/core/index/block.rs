//! A block of a [`PositionList`](super::positions::PositionList): positions as distances from the first, open at
//! its end, or full and packed.

use super::SoleWriter;
use crate::core::sync::{AtomicU32, Ordering};

pub(super) struct Block {
    pub first: u64,
    /// How many positions are in the blocks before.
    pub before: u64,
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
    pub fn new(first: u64, before: u64, capacity: usize) -> Self {
        let cells = (0..capacity).map(|_| AtomicU32::new(0)).collect();
        // The first entry is 0 already.
        Self { first, before, offsets: Offsets::Open { len: AtomicU32::new(1), cells } }
    }

    /// Memory held beside the block itself.
    pub fn allocated(&self) -> usize {
        match &self.offsets {
            Offsets::Open { cells, .. } => size_of_val(&**cells),
            Offsets::Dense { words, ranks, .. } => size_of_val(&**words) + size_of_val(&**ranks),
            Offsets::Split { begins, lows } => size_of_val(&**begins) + size_of_val(&**lows),
        }
    }

    pub fn len(&self) -> usize {
        match &self.offsets {
            // Acquire, pairs with the Release in `Block::push`: the entries below it were written before.
            Offsets::Open { len, .. } => index(len.load(Ordering::Acquire)),
            Offsets::Dense { len, .. } => *len,
            Offsets::Split { lows, .. } => lows.len(),
        }
    }

    /// All its positions.
    pub fn positions(&self) -> impl Iterator<Item = u64> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// The position at `at`, which is below [`Block::len`].
    pub fn get(&self, at: usize) -> u64 {
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
    pub fn rank(&self, position: u64) -> usize {
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
    pub fn at_or_after(&self, from: u64, near: &mut usize) -> Option<u64> {
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
    pub fn at_or_before(&self, from: u64) -> Option<u64> {
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
    pub fn fill(&self, from: u64, to: u64, max: usize, out: &mut Vec<u64>) {
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

    /// Adds the positions from `from` to `to`, as many as it takes: none if the block is packed, or full, or `from` is too far
    /// from its first. The first one that it has not taken.
    pub fn push(&self, from: u64, to: u64, _: &mut SoleWriter) -> u64 {
        let Offsets::Open { len, cells } = &self.offsets else { return from };
        let Ok(offset) = u32::try_from(from - self.first) else { return from };
        // Relaxed: nobody else writes it.
        let before = len.load(Ordering::Relaxed);
        let free = &cells[index(before)..];
        let mut taken = 0;
        for (cell, offset) in free.iter().zip(offset..=u32::MAX).take(index(to + 1 - from)) {
            // Relaxed: published by the store below.
            cell.store(offset, Ordering::Relaxed);
            taken += 1;
        }
        // Release, pairs with the Acquire in `Block::len`: whoever sees the length sees the entries.
        len.store(before + taken, Ordering::Release);
        from + u64::from(taken)
    }

    /// The same block with no room for more; `None` where that is not smaller.
    pub fn fitted(&self) -> Option<Self> {
        let Offsets::Open { cells, .. } = &self.offsets else { return None };
        let len = self.len();
        let exact = || Self::of(self.first, self.before, len, self.positions());
        self.packed().or_else(|| (len < cells.len()).then(exact))
    }

    /// The same block, with as much room.
    pub fn copied(&self) -> Self {
        let offsets = match &self.offsets {
            Offsets::Open { cells, .. } => {
                return Self::of(self.first, self.before, cells.len(), self.positions());
            }
            Offsets::Dense { len, words, ranks } => {
                Offsets::Dense { len: *len, words: words.clone(), ranks: ranks.clone() }
            }
            Offsets::Split { begins, lows } => {
                Offsets::Split { begins: begins.clone(), lows: lows.clone() }
            }
        };
        Self { first: self.first, before: self.before, offsets }
    }

    /// A block of these `len` positions, with room for `capacity`.
    pub fn of(
        first: u64,
        before: u64,
        capacity: usize,
        positions: impl Iterator<Item = u64>,
    ) -> Self {
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

    /// The same block in fewer bytes, for good; `None` where no other way is smaller than entries without room. Nothing is added to
    /// it any more.
    pub fn packed(&self) -> Option<Self> {
        if !matches!(self.offsets, Offsets::Open { .. }) {
            return None;
        }
        let len = self.len();
        let span = self.get(len - 1) - self.first + 1;
        let groups = index(span.div_ceil(64 * GROUP as u64));
        let highs = index(((span - 1) >> 16) + 1);
        let dense = groups.saturating_mul(8 * GROUP + 2);
        let split = (2 * (highs + 1)).saturating_add(2 * len);
        if dense.min(split) >= len * size_of::<u32>() {
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
