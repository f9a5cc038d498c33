//! Columns: of each event one small number, by position. One writer, many readers, no lock.
//!
//! ```text
//! position   1 2 3 …  16384 │ 16385 …
//! types      [ 1 1 2 … ]u8  │ [ 3 300 … ]u16        a block is as wide as its largest number
//! ```
//!
//! A number stands for a name: the code that an index map has given it. Statistics are walks over columns
//! at the speed of memory. (Times have columns of their own: [`times`](super::times).)

use std::{ops::Range, sync::Arc};

use super::{SoleWriter, sole::Sole};
use crate::core::{
    position::Position,
    sync::{AtomicU8, AtomicU16, AtomicU32, AtomicUsize, Ordering, Snapshot},
};

/// So many events share a block.
pub(super) const BLOCK_LEN: usize =
    if cfg!(any(feature = "loom", feature = "shuttle")) { 2 } else { 16_384 };
pub(super) const BLOCK_EVENTS: u64 = BLOCK_LEN as u64;

/// The block of `position`, from 0, and its place in it. Position 0 has none.
pub(super) fn place(position: Position) -> (u64, usize) {
    let index = position.get() - 1;
    let inside = usize::try_from(index % BLOCK_EVENTS).expect("below a block's length");
    (index / BLOCK_EVENTS, inside)
}

/// The blocks of a column as of one moment.
pub(super) struct Blocks<B> {
    /// How many blocks before these are forgotten.
    pub forgotten: u64,
    pub blocks: Vec<Arc<B>>,
}

impl<B> Blocks<B> {
    pub fn get(&self, block: u64) -> Option<&Arc<B>> {
        let index = block.checked_sub(self.forgotten)?;
        self.blocks.get(usize::try_from(index).ok()?)
    }

    /// The same with `last` behind the others.
    pub fn with(&self, last: B) -> Arc<Self> {
        let blocks = self.blocks.iter().cloned().chain([Arc::new(last)]).collect();
        Arc::new(Self { forgotten: self.forgotten, blocks })
    }

    /// The same without the blocks that are wholly below `floor`.
    pub fn without(&self, floor: Position) -> Option<Arc<Self>> {
        let (block, _) = place(floor.max(Position::new(1)));
        let more = usize::try_from(block.saturating_sub(self.forgotten)).unwrap_or(usize::MAX);
        let more = more.min(self.blocks.len());
        (more > 0).then(|| {
            let forgotten = self.forgotten + more as u64;
            Arc::new(Self { forgotten, blocks: self.blocks[more..].to_vec() })
        })
    }
}

/// The numbers of one block, in one width. Each is written once, by the sole writer.
enum Cells {
    /// All are 0.
    None,
    U8(Box<[AtomicU8]>),
    U16(Box<[AtomicU16]>),
    U32(Box<[AtomicU32]>),
}

impl Cells {
    /// Zeros, in a width that `largest` fits.
    fn wide(largest: u32) -> Self {
        if largest == 0 {
            Self::None
        } else if u8::try_from(largest).is_ok() {
            Self::U8((0..BLOCK_LEN).map(|_| AtomicU8::new(0)).collect())
        } else if u16::try_from(largest).is_ok() {
            Self::U16((0..BLOCK_LEN).map(|_| AtomicU16::new(0)).collect())
        } else {
            Self::U32((0..BLOCK_LEN).map(|_| AtomicU32::new(0)).collect())
        }
    }

    /// The largest number that fits.
    fn largest(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::U8(_) => u8::MAX.into(),
            Self::U16(_) => u16::MAX.into(),
            Self::U32(_) => u32::MAX,
        }
    }

    fn get(&self, index: usize) -> u32 {
        // What a watermark covers was written before it.
        let order = Ordering::Relaxed;
        match self {
            Self::None => 0,
            Self::U8(cells) => cells[index].load(order).into(),
            Self::U16(cells) => cells[index].load(order).into(),
            Self::U32(cells) => cells[index].load(order),
        }
    }

    /// Notes a number in these cells. Whether it fits.
    fn set(&self, run: Range<usize>, value: u32) -> bool {
        // The watermark publishes it, or the block that it is in.
        let order = Ordering::Relaxed;
        match self {
            Self::None => value == 0,
            Self::U8(cells) => u8::try_from(value).is_ok_and(|value| {
                cells[run].iter().for_each(|cell| cell.store(value, order));
                true
            }),
            Self::U16(cells) => u16::try_from(value).is_ok_and(|value| {
                cells[run].iter().for_each(|cell| cell.store(value, order));
                true
            }),
            Self::U32(cells) => {
                cells[run].iter().for_each(|cell| cell.store(value, order));
                true
            }
        }
    }

    fn allocated(&self) -> usize {
        let width = match self {
            Self::None => 0,
            Self::U8(_) => 1,
            Self::U16(_) => 2,
            Self::U32(_) => 4,
        };
        // The block, its counts, its place in the list, its cells.
        size_of::<Self>() + 24 + width * BLOCK_LEN
    }
}

/// A column of codes.
pub struct Column {
    blocks: Snapshot<Blocks<Cells>>,
    /// The writer's own hold on the block that it writes to, and its number.
    last: Sole<Option<(u64, Arc<Cells>)>>,
    /// Memory held. Written by the sole writer.
    allocated: AtomicUsize,
}

impl Column {
    /// An empty one.
    pub fn new() -> Self {
        Self::of(Vec::new())
    }

    fn of(blocks: Vec<Arc<Cells>>) -> Self {
        let allocated = blocks.iter().map(|cells| cells.allocated()).sum();
        let blocks = Snapshot::new(Arc::new(Blocks { forgotten: 0, blocks }));
        Self { blocks, last: Sole::new(None), allocated: AtomicUsize::new(allocated) }
    }

    /// The column of the first events up to `head` that [`ColumnView::encode`] has written, whose numbers are
    /// at most `max`; `None` if `bytes` is none.
    pub fn decode(bytes: &mut &[u8], head: Position, max: u32) -> Option<Self> {
        let mut blocks = Vec::new();
        for len in block_lens(head) {
            let (width, rest) = bytes.split_first()?;
            let size = match width {
                0..=2 | 4 => usize::from(*width),
                _ => return None,
            };
            let (raw, rest) = rest.split_at_checked(len * size)?;
            *bytes = rest;
            let cells = match size {
                0 => Cells::None,
                1 => Cells::U8(filled(raw.iter().copied(), 0, AtomicU8::new)),
                2 => {
                    let (raw, _) = raw.as_chunks::<2>();
                    Cells::U16(filled(
                        raw.iter().map(|raw| u16::from_le_bytes(*raw)),
                        0,
                        AtomicU16::new,
                    ))
                }
                _ => {
                    let (raw, _) = raw.as_chunks::<4>();
                    Cells::U32(filled(
                        raw.iter().map(|raw| u32::from_le_bytes(*raw)),
                        0,
                        AtomicU32::new,
                    ))
                }
            };
            if (0..len).any(|index| cells.get(index) > max) {
                return None;
            }
            blocks.push(Arc::new(cells));
        }
        Some(Self::of(blocks))
    }

    /// Notes the number of the event at `position`, which follows the last one. How many bytes the column
    /// has grown by.
    pub fn push(&self, position: Position, value: u32, writer: &mut SoleWriter) -> usize {
        self.push_run(position, position, value, writer)
    }

    /// The same of all events from `from` to `to`.
    pub fn push_run(
        &self,
        from: Position,
        to: Position,
        value: u32,
        writer: &mut SoleWriter,
    ) -> usize {
        let last = self.last.get(writer);
        let (mut next, mut grown) = (from, 0);
        while next <= to {
            let (block, first) = place(next);
            let more = usize::try_from(to.get() - next.get()).unwrap_or(BLOCK_LEN);
            let run = first..BLOCK_LEN.min(first + more + 1);
            next = next.plus(run.len() as u64);
            if let Some((number, cells)) = last
                && *number == block
                && cells.set(run.clone(), value)
            {
                continue;
            }
            grown += self.push_anew(block, run, value);
            *last = self.blocks.load().get(block).map(|cells| (block, Arc::clone(cells)));
        }
        grown
    }

    /// The same where the block is another one, or becomes another one.
    fn push_anew(&self, block: u64, run: Range<usize>, value: u32) -> usize {
        let blocks = self.blocks.load();
        if blocks.get(block).is_some_and(|cells| cells.set(run.clone(), value)) {
            return 0;
        }
        let Some(narrow) = blocks.get(block) else {
            // As wide as the one before: it is likely to need that.
            let before = blocks.blocks.last().map_or(0, |cells| cells.largest());
            let cells = Cells::wide(value.max(before));
            cells.set(run, value);
            let grown = cells.allocated();
            self.blocks.store(blocks.with(cells));
            return self.grown(grown);
        };
        let wider = Cells::wide(value);
        for index in 0..run.start {
            wider.set(index..index + 1, narrow.get(index));
        }
        wider.set(run, value);
        let grown = wider.allocated() - narrow.allocated();
        let mut all = blocks.blocks.clone();
        *all.last_mut().expect("the block is the last one") = Arc::new(wider);
        self.blocks.store(Arc::new(Blocks { forgotten: blocks.forgotten, blocks: all }));
        self.grown(grown)
    }

    /// Forgets blocks of positions below `floor`. How many bytes the column is smaller by.
    pub fn forget(&self, floor: Position, writer: &mut SoleWriter) -> usize {
        let Some(fewer) = self.blocks.with(|blocks| blocks.without(floor)) else { return 0 };
        *self.last.get(writer) = None;
        let left: usize = fewer.blocks.iter().map(|cells| cells.allocated()).sum();
        self.blocks.store(fewer);
        // Relaxed: a number to look at, and nobody else writes.
        self.allocated.swap(left, Ordering::Relaxed) - left
    }

    fn grown(&self, bytes: usize) -> usize {
        // Relaxed: a number to look at, and nobody else writes.
        self.allocated.fetch_add(bytes, Ordering::Relaxed);
        bytes
    }

    /// The numbers as of now. Those that a watermark covers that was taken before are all in it.
    pub fn view(&self) -> ColumnView {
        ColumnView(self.blocks.load())
    }

    /// Memory held.
    pub fn allocated(&self) -> usize {
        // Relaxed: a number to look at.
        self.allocated.load(Ordering::Relaxed)
    }
}

impl Default for Column {
    fn default() -> Self {
        Self::new()
    }
}

/// A column as of one moment.
#[derive(Clone)]
pub struct ColumnView(Arc<Blocks<Cells>>);

impl ColumnView {
    /// The number of the event at `position`, which is visible; 0 where it has none, or is forgotten.
    pub fn get(&self, position: Position) -> u32 {
        let (block, inside) = place(position);
        self.0.get(block).map_or(0, |cells| cells.get(inside))
    }

    /// The numbers of the events at these positions, which rise, as [`ColumnView::get`] gives them: a block at a
    /// time.
    pub fn gather(&self, positions: &[u64], out: &mut Vec<u32>) {
        out.clear();
        each_block(positions, |block, run| {
            let inside = run.iter().map(|position| place(Position::new(*position)).1);
            // What a watermark covers was written before it.
            let order = Ordering::Relaxed;
            match self.0.get(block).map(|cells| &**cells) {
                None | Some(Cells::None) => out.resize(out.len() + run.len(), 0),
                Some(Cells::U8(cells)) => {
                    out.extend(inside.map(|at| u32::from(cells[at].load(order))));
                }
                Some(Cells::U16(cells)) => {
                    out.extend(inside.map(|at| u32::from(cells[at].load(order))));
                }
                Some(Cells::U32(cells)) => out.extend(inside.map(|at| cells[at].load(order))),
            }
        });
    }

    /// Hands the numbers up to `head` out as bytes, block by block: the width in bytes, then the numbers,
    /// little-endian. Nothing is forgotten.
    pub fn encode<E>(
        &self,
        head: Position,
        mut put: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // What a watermark covers was written before it.
        let order = Ordering::Relaxed;
        let mut out = Vec::new();
        for (block, len) in block_lens(head).enumerate() {
            out.clear();
            match self.0.get(block as u64).map_or(&Cells::None, |cells| cells) {
                Cells::None => out.push(0),
                Cells::U8(cells) => {
                    out.push(1);
                    out.extend(cells[..len].iter().map(|cell| cell.load(order)));
                }
                Cells::U16(cells) => {
                    out.push(2);
                    let cells = cells[..len].iter().map(|cell| cell.load(order));
                    out.extend(cells.flat_map(u16::to_le_bytes));
                }
                Cells::U32(cells) => {
                    out.push(4);
                    let cells = cells[..len].iter().map(|cell| cell.load(order));
                    out.extend(cells.flat_map(u32::to_le_bytes));
                }
            }
            put(&out)?;
        }
        Ok(())
    }
}

/// Hands out runs of these positions, which rise, that are in one block, with the block.
pub(super) fn each_block(positions: &[u64], mut take: impl FnMut(u64, &[u64])) {
    for run in positions.chunk_by(|a, b| (a - 1) / BLOCK_EVENTS == (b - 1) / BLOCK_EVENTS) {
        take(place(Position::new(run[0])).0, run);
    }
}

/// How many events each block of a column up to `head` has.
pub(super) fn block_lens(head: Position) -> impl Iterator<Item = usize> {
    let head = head.get();
    (0..head.div_ceil(BLOCK_EVENTS)).map(move |block| {
        usize::try_from((head - block * BLOCK_EVENTS).min(BLOCK_EVENTS)).expect("a block's length")
    })
}

/// A block's cells: these, and `rest` behind them.
pub(super) fn filled<T: Copy, A>(
    values: impl Iterator<Item = T>,
    rest: T,
    cell: impl Fn(T) -> A,
) -> Box<[A]> {
    let mut cells: Vec<A> = Vec::with_capacity(BLOCK_LEN);
    cells.extend(values.map(&cell));
    cells.resize_with(BLOCK_LEN, || cell(rest));
    cells.into_boxed_slice()
}

/// The first and the last position of the block that `position` is in.
pub fn block_of(position: Position) -> (Position, Position) {
    let (block, _) = place(position);
    let first = block * BLOCK_EVENTS + 1;
    (Position::new(first), Position::new(first + BLOCK_EVENTS - 1))
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(index: usize) -> Position {
        Position::new(index as u64 + 1)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// A column says of each position what was noted there, at any width, pushed or restored.
        #[test]
        fn a_column_is_what_a_vector_is(
            values in proptest::collection::vec(
                prop_oneof![30 => 0u32..200, 5 => 0u32..70_000, 1 => any::<u32>()], 1..20_000),
            early in 0usize..3000,
            runs in proptest::collection::vec((any::<proptest::sample::Index>(), 1usize..9000), 0..4),
        ) {
            let mut writer = SoleWriter::new();
            let column = Column::new();
            let mut allocated = 0;
            // The first ones are small: the block widens later.
            let mut values: Vec<u32> = values.iter().enumerate()
                .map(|(index, value)| if index < early { value % 2 } else { *value }).collect();
            for (begin, len) in runs {
                let begin = begin.index(values.len());
                let end = values.len().min(begin + len);
                let value = values[begin];
                values[begin..end].fill(value);
            }
            let mut begin = 0;
            for run in values.chunk_by(|a, b| a == b) {
                let end = begin + run.len();
                allocated +=
                    column.push_run(position(begin), position(end - 1), run[0], &mut writer);
                begin = end;
            }
            prop_assert_eq!(column.allocated(), allocated);
            let mut bytes = Vec::new();
            let head = Position::new(values.len() as u64);
            let put = |block: &[u8]| { bytes.extend_from_slice(block); Ok::<_, ()>(()) };
            column.view().encode(head, put).expect("nothing fails");
            let restored = Column::decode(&mut &bytes[..], head, u32::MAX).expect("a column");
            let max = *values.iter().max().expect("at least one");
            prop_assert!(Column::decode(&mut &bytes[..], head, max).is_some());
            prop_assert!(max == 0 || Column::decode(&mut &bytes[..], head, max - 1).is_none());
            let every_third: Vec<u64> = (1..=head.get()).step_by(3).collect();
            let mut gathered = Vec::new();
            column.view().gather(&every_third, &mut gathered);
            prop_assert!(gathered.iter().eq(values.iter().step_by(3)));
            let next = values.len();
            restored.push(position(next), 7, &mut writer);
            prop_assert_eq!(restored.view().get(position(next)), 7);
            for (index, value) in values.iter().enumerate() {
                prop_assert_eq!(column.view().get(position(index)), *value);
                prop_assert_eq!(restored.view().get(position(index)), *value);
            }
        }
    }

    #[test]
    fn a_column_forgets_whole_blocks() {
        let mut writer = SoleWriter::new();
        let column = Column::new();
        let last = Position::new(3 * BLOCK_EVENTS);
        for at in 1..=last.get() {
            column.push(Position::new(at), 1, &mut writer);
        }
        let floor = Position::new(2 * BLOCK_EVENTS);
        let before = column.allocated();
        let freed = column.forget(floor, &mut writer);
        assert!(freed > 0 && column.allocated() == before - freed);
        assert_eq!(column.forget(floor, &mut writer), 0);
        let column = column.view();
        assert_eq!(column.get(Position::new(BLOCK_EVENTS)), 0);
        for at in [BLOCK_EVENTS + 1, floor.get(), last.get()].map(Position::new) {
            assert_eq!(column.get(at), 1);
        }
    }
}

#[cfg(all(test, feature = "loom"))]
mod model {
    use super::*;
    use crate::core::sync::AtomicU64;

    /// Whoever sees a position published finds its number, while the block widens and another begins. Seen
    /// to fail where the number is stored after the watermark.
    #[test]
    fn what_is_published_is_in_the_column() {
        loom::model(|| {
            let column = Arc::new(Column::new());
            let head = Arc::new(AtomicU64::new(0));
            let writer = {
                let (column, head) = (Arc::clone(&column), Arc::clone(&head));
                loom::thread::spawn(move || {
                    let mut permit = SoleWriter::new();
                    for (at, value) in [(1, 1), (2, 300), (3, 2)] {
                        column.push(Position::new(at), value, &mut permit);
                        // Release, pairs with the Acquire below: the watermark's part.
                        head.store(at, Ordering::Release);
                    }
                })
            };
            // Acquire, pairs with the Release above.
            let seen = head.load(Ordering::Acquire);
            let view = column.view();
            for at in 1..=seen {
                let expected = [1, 300, 2][usize::try_from(at - 1).expect("small")];
                assert_eq!(view.get(Position::new(at)), expected);
            }
            writer.join().expect("the writer does not panic");
        });
    }
}
