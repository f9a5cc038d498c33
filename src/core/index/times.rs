//! When each event occurred, to the second, by position: a column as in [`column`](super::column).
//!
//! ```text
//! position   1 2 3 …  16384 │ 16385 …
//! times      [ +0 +2 … ]    │ [ +0 -5 … ]     seconds from the block's first, and what the block spans
//! ```
//!
//! A time range is looked for in the blocks that span it.

use std::sync::Arc;

use super::{
    SoleWriter,
    column::{BLOCK_LEN, Blocks, block_lens, each_block, filled, place},
    sole::Sole,
};
use crate::core::{
    clock::Timestamp,
    position::Position,
    sync::{AtomicI64, AtomicU32, Ordering, Snapshot},
};

/// A moment that is too far from its block's first to be kept: it is in the record.
const FAR: u32 = u32::MAX;
/// What stands for the block's first moment: the middle.
const BASE: i64 = 1 << 31;

/// The times of one block.
struct Times {
    /// The first event's, seconds since 1970.
    base: i64,
    /// The least, rounded down, and the greatest, rounded up, microseconds. Written by the sole writer; they
    /// may cover events above a watermark.
    min: AtomicI64,
    max: AtomicI64,
    /// Seconds from `base`, plus [`BASE`]; [`FAR`]. Each is written once, by the sole writer.
    cells: Box<[AtomicU32]>,
}

impl Times {
    fn new(base: i64) -> Self {
        let cells = (0..BLOCK_LEN).map(|_| AtomicU32::new(FAR)).collect();
        Self { base, min: AtomicI64::new(i64::MAX), max: AtomicI64::new(i64::MIN), cells }
    }

    fn set(&self, index: usize, moment: Timestamp) {
        let offset =
            moment.seconds().checked_sub(self.base).and_then(|offset| offset.checked_add(BASE));
        let cell = offset.and_then(|offset| u32::try_from(offset).ok()).unwrap_or(FAR);
        // The watermark publishes them.
        let order = Ordering::Relaxed;
        self.cells[index].store(cell, order);
        self.min.store(self.min.load(order).min(moment.micros()), order);
        self.max.store(self.max.load(order).max(moment.micros_up()), order);
    }

    fn get(&self, index: usize) -> Option<i64> {
        // Relaxed: what a watermark covers was written before it.
        match self.cells[index].load(Ordering::Relaxed) {
            FAR => None,
            cell => Some(self.base + i64::from(cell) - BASE),
        }
    }

    fn allocated() -> usize {
        size_of::<Self>() + 24 + size_of::<AtomicU32>() * BLOCK_LEN
    }
}

/// A column of moments, to the second, with what each block spans.
pub struct TimeColumn {
    blocks: Snapshot<Blocks<Times>>,
    /// The writer's own hold on the block that it writes to, and its number.
    last: Sole<Option<(u64, Arc<Times>)>>,
}

impl TimeColumn {
    /// An empty one.
    pub fn new() -> Self {
        Self::of(Vec::new())
    }

    fn of(blocks: Vec<Arc<Times>>) -> Self {
        let blocks = Snapshot::new(Arc::new(Blocks { forgotten: 0, blocks }));
        Self { blocks, last: Sole::new(None) }
    }

    /// The column of the first events up to `head` that [`TimeView::encode`] has written; `None` if `bytes` is
    /// none.
    pub fn decode(bytes: &mut &[u8], head: Position) -> Option<Self> {
        let mut blocks = Vec::new();
        for len in block_lens(head) {
            let mut number = || {
                let (number, rest) = bytes.split_first_chunk::<8>()?;
                *bytes = rest;
                Some(i64::from_le_bytes(*number))
            };
            let (base, min, max) = (number()?, number()?, number()?);
            let (raw, rest) = bytes.split_at_checked(4 * len)?;
            *bytes = rest;
            let (raw, _) = raw.as_chunks::<4>();
            let (min, max) = (AtomicI64::new(min), AtomicI64::new(max));
            // A removed event that is noted later says nothing.
            let cells = filled(raw.iter().map(|raw| u32::from_le_bytes(*raw)), FAR, AtomicU32::new);
            if base.checked_add(BASE).is_none() || base.checked_sub(BASE).is_none() {
                return None;
            }
            blocks.push(Arc::new(Times { base, min, max, cells }));
        }
        Some(Self::of(blocks))
    }

    /// Notes when the event at `position` was, which follows the last one; `None`: it has no time. How many
    /// bytes the column has grown by.
    pub fn push(
        &self,
        position: Position,
        moment: Option<Timestamp>,
        writer: &mut SoleWriter,
    ) -> usize {
        let (block, inside) = place(position);
        let set = |times: &Times| {
            if let Some(moment) = moment {
                times.set(inside, moment);
            }
        };
        let last = self.last.get(writer);
        if let Some((number, times)) = last
            && *number == block
        {
            set(times);
            return 0;
        }
        let mut grown = 0;
        let mut blocks = self.blocks.load();
        if let Some(times) = blocks.get(block) {
            set(times);
        } else {
            let times = Times::new(moment.map_or(0, Timestamp::seconds));
            set(&times);
            blocks = blocks.with(times);
            self.blocks.store(Arc::clone(&blocks));
            grown = Times::allocated();
        }
        *last = blocks.get(block).map(|times| (block, Arc::clone(times)));
        grown
    }

    /// Forgets blocks of positions below `floor`. How many bytes the column is smaller by.
    pub fn forget(&self, floor: Position, writer: &mut SoleWriter) -> usize {
        let Some(fewer) = self.blocks.with(|blocks| blocks.without(floor)) else { return 0 };
        *self.last.get(writer) = None;
        let before = self.allocated();
        self.blocks.store(fewer);
        before - self.allocated()
    }

    /// The moments as of now. Those that a watermark covers that was taken before are all in it.
    pub fn view(&self) -> TimeView {
        TimeView(self.blocks.load())
    }

    /// Memory held.
    pub fn allocated(&self) -> usize {
        self.blocks.with(|blocks| blocks.blocks.len()) * Times::allocated()
    }
}

impl Default for TimeColumn {
    fn default() -> Self {
        Self::new()
    }
}

/// A column of moments as of one moment.
#[derive(Clone)]
pub struct TimeView(Arc<Blocks<Times>>);

impl TimeView {
    /// The seconds since 1970 of the event at `position`, which is visible; `None`: they are in the record.
    pub fn get(&self, position: Position) -> Option<i64> {
        let (block, inside) = place(position);
        self.0.get(block)?.get(inside)
    }

    /// The seconds of the events at these positions, which rise; where they are in the record, as `look` says. A
    /// block at a time.
    pub fn gather(&self, positions: &[u64], out: &mut Vec<i64>, look: impl Fn(Position) -> i64) {
        out.clear();
        each_block(positions, |block, run| match self.0.get(block) {
            None => out.extend(run.iter().map(|position| look(Position::new(*position)))),
            Some(times) => out.extend(run.iter().map(|position| {
                let position = Position::new(*position);
                times.get(place(position).1).unwrap_or_else(|| look(position))
            })),
        });
    }

    /// The least microsecond of the block that `position` is in, rounded down, and the greatest, rounded up,
    /// and of perhaps some events that came since; `None` where it has none.
    pub fn span_micros(&self, position: Position) -> Option<(i64, i64)> {
        let times = self.0.get(place(position).0)?;
        // Relaxed: what a watermark covers was written before it.
        let span = (times.min.load(Ordering::Relaxed), times.max.load(Ordering::Relaxed));
        (span.0 <= span.1).then_some(span)
    }

    /// Hands the moments up to `head` out as bytes, block by block: the first second, the least and
    /// the greatest microsecond, then 4 bytes each, little-endian. Nothing is forgotten.
    pub fn encode<E>(
        &self,
        head: Position,
        mut put: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut out = Vec::new();
        for (block, len) in block_lens(head).enumerate() {
            let times = self.0.get(block as u64).expect("nothing is forgotten");
            out.clear();
            // Relaxed, all: what a watermark covers was written before it.
            let span = [&times.min, &times.max].map(|end| end.load(Ordering::Relaxed));
            for number in [times.base, span[0], span[1]] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            // Relaxed: as above.
            let cells = times.cells[..len].iter().map(|cell| cell.load(Ordering::Relaxed));
            out.extend(cells.flat_map(u32::to_le_bytes));
            put(&out)?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use proptest::prelude::*;

    use super::{super::column::BLOCK_EVENTS, *};

    fn position(index: usize) -> Position {
        Position::new(index as u64 + 1)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Moments are kept to the second or not at all, and a block's span covers them.
        #[test]
        fn a_column_of_times_is_what_a_vector_is(
            values in proptest::collection::vec(
                prop_oneof![20 => -100_000i64..100_000, 1 => -62_135_596_800i64..=253_402_300_799], 1..20_000),
        ) {
            let mut writer = SoleWriter::new();
            let column = TimeColumn::new();
            for (index, value) in values.iter().enumerate() {
                let nanos = i64::try_from(index).expect("a small number");
                let moment = Timestamp::new(*value, nanos);
                column.push(position(index), moment.filter(|_| value % 7 != 0), &mut writer);
            }
            let mut bytes = Vec::new();
            let head = Position::new(values.len() as u64);
            let put = |block: &[u8]| { bytes.extend_from_slice(block); Ok::<_, ()>(()) };
            column.view().encode(head, put).expect("nothing fails");
            let restored = TimeColumn::decode(&mut &bytes[..], head).expect("a column");
            for column in [&column, &restored] {
                column.push(position(values.len()), None, &mut writer);
                prop_assert_eq!(column.view().get(position(values.len())), None);
            }
            let every_third: Vec<u64> = (1..=head.get()).step_by(3).collect();
            let mut gathered = Vec::new();
            column.view().gather(&every_third, &mut gathered, |_| 77);
            let one_by_one = every_third.iter().map(|at| column.view().get(Position::new(*at)));
            prop_assert!(one_by_one.map(|second| second.unwrap_or(77)).eq(gathered));
            for view in [column.view(), restored.view()] {
                for (index, value) in values.iter().enumerate() {
                    let at = position(index);
                    let first = values[index - index % BLOCK_LEN];
                    let base = if first % 7 == 0 { 0 } else { first };
                    match view.get(at) {
                        Some(seconds) => prop_assert_eq!(seconds, *value),
                        None => prop_assert!(value % 7 == 0 || (value - base).abs() > 1 << 30),
                    }
                    if value % 7 != 0 {
                        let (min, max) = view.span_micros(at).expect("it has one");
                        // Each has as many nanoseconds as there are before it.
                        let nanos = i64::try_from(index).expect("a small number");
                        let moment = Timestamp::new(*value, nanos).expect("in range");
                        prop_assert!(min <= moment.micros() && moment.micros_up() <= max);
                    }
                }
            }
        }
    }

    #[test]
    fn a_column_forgets_whole_blocks() {
        let mut writer = SoleWriter::new();
        let times = TimeColumn::new();
        let last = Position::new(3 * BLOCK_EVENTS);
        for at in 1..=last.get() {
            times.push(Position::new(at), Timestamp::new(5, 0), &mut writer);
        }
        let floor = Position::new(2 * BLOCK_EVENTS);
        let before = times.allocated();
        let freed = times.forget(floor, &mut writer);
        assert!(freed > 0 && times.allocated() == before - freed);
        let times = times.view();
        assert_eq!(times.get(Position::new(1)), None);
        for at in [BLOCK_EVENTS + 1, floor.get(), last.get()].map(Position::new) {
            assert_eq!(times.get(at), Some(5));
        }
    }
}
