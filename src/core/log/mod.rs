//! The log: every event, in one order, readable by any thread without a lock.
//!
//! ```text
//! position  1 2 3 4 5 6 7 8 9   1 to 6: sealed segment, immutable
//!           [ sealed   ][active   7 to 9: active segment, written by the sequencer only
//!                       ^ watermark = 7: 8 and 9 exist, nobody may look yet
//! ```
//!
//! [`Reader`] takes the segment table once, then reads up to the watermark; it never waits. Only the
//! sequencer adds segments, through [`LogWriter`]. Files and syncing are `commit_log`'s, finding events
//! is `index`'s.

pub mod format;
pub mod segment;
pub mod watermark;

use std::sync::Arc;

use bytes::Bytes;

use self::{
    format::EventView,
    segment::{SEGMENT_SIZE_BYTES, Segment, SegmentWriter},
    watermark::{Watermark, WatermarkWriter},
};
use super::{position::Position, sync::Snapshot};

type Table = Vec<Arc<Segment>>;

/// The readers' side of the log.
pub struct Log {
    /// Ordered by first position, never empty. Written by the one [`LogWriter`].
    table: Snapshot<Table>,
    watermark: Arc<Watermark>,
}

/// The sequencer's side of the log.
pub struct LogWriter {
    log: Arc<Log>,
    active: SegmentWriter,
    watermark: WatermarkWriter,
    segment_size: usize,
    /// Bytes written to sealed segments.
    sealed_bytes: usize,
}

impl LogWriter {
    /// An empty log.
    pub fn new() -> Self {
        Self::with_segment_size(SEGMENT_SIZE_BYTES)
    }

    /// An empty log in segments of `segment_size` bytes; a larger commit gets a segment of its own size.
    pub fn with_segment_size(segment_size: usize) -> Self {
        let watermark = WatermarkWriter::new();
        let active = SegmentWriter::new(Position::new(1), segment_size);
        let log = Log {
            table: Snapshot::new(Arc::new(vec![Arc::clone(active.segment())])),
            watermark: Arc::clone(watermark.shared()),
        };
        Self { log: Arc::new(log), active, watermark, segment_size, sealed_bytes: 0 }
    }

    /// A log of segments that are filled already, the last of which is the active one. Nothing of it is
    /// visible before [`LogWriter::publish`].
    pub fn restore(mut segments: Vec<SegmentWriter>, segment_size: usize) -> Self {
        let Some(active) = segments.pop() else { return Self::with_segment_size(segment_size) };
        let watermark = WatermarkWriter::new();
        let sealed_bytes = segments.iter().map(SegmentWriter::size).sum();
        let table = segments.iter().chain([&active]).map(|writer| Arc::clone(writer.segment()));
        let log = Log {
            table: Snapshot::new(Arc::new(table.collect())),
            watermark: Arc::clone(watermark.shared()),
        };
        Self { log: Arc::new(log), active, watermark, segment_size, sealed_bytes }
    }

    /// The readers' side.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Writes one commit: `bytes`, in which the record of position `first` and those after it begin at
    /// `records`. Nobody sees it before [`LogWriter::publish`]. Where the commit begins a segment, that
    /// segment's size.
    pub fn append(&mut self, first: Position, bytes: &[u8], records: &[u32]) -> Option<usize> {
        let begun = (!self.active.fits(bytes.len())).then(|| {
            self.sealed_bytes += self.active.size();
            let size = self.segment_size.max(bytes.len() + format::HEADER_SIZE_BYTES_MAX);
            self.active = SegmentWriter::new(first, size);
            let mut table = Table::clone(&self.log.table.load());
            table.push(Arc::clone(self.active.segment()));
            self.log.table.store(Arc::new(table));
            size
        });
        self.active.append(bytes, records);
        begun
    }

    /// Makes everything up to and including `head` visible.
    pub fn publish(&mut self, head: Position) {
        self.watermark.advance(head);
    }

    /// A reader that sees what is written up to `head`, published or not: the sequencer's own view.
    pub fn reader(&self, head: Position) -> Reader {
        Reader { table: self.log.table.load(), head }
    }

    /// How many bytes are written.
    pub fn size(&self) -> usize {
        self.sealed_bytes + self.active.size()
    }
}

impl Default for LogWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl Log {
    /// A view of the log as of now. It holds the segments that it can see, not a lock.
    pub fn reader(&self) -> Reader {
        // The watermark first: the table that is loaded after it covers it.
        let head = self.watermark.get();
        Reader { table: self.table.load(), head }
    }

    /// Where the visible log ends.
    pub fn watermark(&self) -> &Watermark {
        &self.watermark
    }

    /// How many bytes are written, seals and headers among them.
    pub fn size(&self) -> usize {
        self.table.with(|table| table.iter().map(|segment| segment.readable(0..).len()).sum())
    }

    /// Memory set aside for bytes, and for offsets.
    pub fn allocated(&self) -> (usize, usize) {
        self.table.with(|table| {
            table
                .iter()
                .map(|segment| segment.allocated())
                .fold((0, 0), |(bytes, offsets), more| (bytes + more.0, offsets + more.1))
        })
    }
}

/// The log as of one moment.
#[derive(Clone)]
pub struct Reader {
    table: Arc<Table>,
    head: Position,
}

/// A run of whole records, as they lie in the log.
pub struct Slice {
    /// The records, and the seals between and after them.
    pub bytes: Bytes,
    /// The position of the last one.
    pub last: Position,
}

impl Reader {
    /// The last position of this view; 0 when it is empty.
    pub fn head(&self) -> Position {
        self.head
    }

    /// The record at `position`, with its tag and length; `None` at 0 and beyond the head.
    pub fn record(&self, position: Position) -> Option<&[u8]> {
        self.visible(position).then(|| self.segment(position).1.record(position))
    }

    /// The event at `position`; `None` at 0 and beyond the head.
    pub fn event(&self, position: Position) -> Option<EventView<'_>> {
        let record = self.record(position)?;
        Some(EventView::parse(format::message(record)).expect("the log holds what we wrote"))
    }

    /// The longest run of records that begins after `after`, in one segment, of at most `events_max`
    /// events, and of at most `bytes_max` bytes unless the first alone is larger. `None` at the head.
    pub fn slice(&self, after: Position, events_max: u64, bytes_max: usize) -> Option<Slice> {
        let first = after.next();
        if !self.visible(first) || events_max == 0 {
            return None;
        }
        let (index, segment) = self.segment(first);
        let segment_last =
            self.table.get(index + 1).map_or(self.head, |next| next.first().previous());
        let last_possible = segment_last.min(self.head).min(after.plus(events_max));
        let begin = segment.offset(first);
        // Offsets rise with positions: the last record that begins early enough, by bisection. It must
        // also end early enough, so one more may have to go.
        let (mut low, mut high) = (first, last_possible);
        while low < high {
            let middle = Position::new(low.get() + (high.get() - low.get()).div_ceil(2));
            if segment.offset(middle) - begin <= bytes_max {
                low = middle;
            } else {
                high = middle.previous();
            }
        }
        if low > first && record_end(segment, low) - begin > bytes_max {
            low = low.previous();
        }
        let mut end = record_end(segment, low);
        // Behind a record stands either the next one or the seal of its commit, and the watermark stops
        // behind seals only.
        let rest = segment.readable(end..);
        if rest.first() == Some(&format::SEAL_TAG) {
            end += format::field_size(rest);
        }
        Some(Slice { bytes: segment.slice(begin..end), last: low })
    }

    fn visible(&self, position: Position) -> bool {
        Position::ZERO < position && position <= self.head
    }

    /// The segment that holds `position`, which is visible, and its place in the table.
    fn segment(&self, position: Position) -> (usize, &Arc<Segment>) {
        let index = self.table.partition_point(|segment| segment.first() <= position) - 1;
        (index, &self.table[index])
    }
}

fn record_end(segment: &Segment, position: Position) -> usize {
    segment.offset(position) + segment.record(position).len()
}
