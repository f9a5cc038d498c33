//! The log: every event, in one order, readable by any thread without a lock.
//!
//! ```text
//! position  1 2 3 4 5 6 7 8 9   1 to 6: sealed segment, immutable
//!           [ sealed   ][active   7 to 9: active segment, written by the sequencer only
//!                       ^ watermark = 7: 8 and 9 exist, nobody may look yet
//! ```
//!
//! [`Reader`] takes the segment table once, then reads up to the watermark; it never waits. Only the
//! sequencer adds segments, through [`LogWriter`]; anyone may put another form of a sealed one in its
//! place ([`Log::replace`]): a file's, or one without the events that are gone. Files and syncing are
//! `commit_log`'s, finding events is `index`'s.

mod buffer;
pub mod chain;
pub mod compaction;
pub mod format;
pub mod kept;
pub mod packing;
pub mod protobuf;
pub mod segment;
pub mod verify;
pub mod watermark;

use std::sync::Arc;

use bytes::Bytes;

use self::{
    chain::Hash,
    segment::{Home, Record, SEGMENT_SIZE_BYTES, Segment, SegmentWriter},
    watermark::{Watermark, WatermarkWriter},
};
use super::{
    position::Position,
    sync::{AtomicBool, AtomicUsize, Mutex, Ordering, Snapshot},
};

type Table = Vec<Arc<Segment>>;

/// So much of a record is loaded ahead: the rest follows by itself.
const TOUCHED_BYTES: usize = 448;

/// The readers' side of the log.
pub struct Log {
    /// Ordered by first position, never empty. Written under `changes`.
    table: Snapshot<Table>,
    /// Held while the table is changed, which is short and rare.
    changes: Mutex<()>,
    /// Somebody wants the next commit to begin a segment.
    seal_wanted: AtomicBool,
    /// Bytes of sealed segments that are in memory. Written under `changes`.
    sealed_bytes: AtomicUsize,
    watermark: Arc<Watermark>,
}

/// The sequencer's side of the log.
pub struct LogWriter {
    log: Arc<Log>,
    active: SegmentWriter,
    watermark: WatermarkWriter,
    segment_size: usize,
}

impl LogWriter {
    /// An empty log.
    pub fn new() -> Self {
        Self::with_segment_size(SEGMENT_SIZE_BYTES)
    }

    /// An empty log in segments of `segment_size` bytes; a larger commit gets a segment of its own size.
    pub fn with_segment_size(segment_size: usize) -> Self {
        let active = SegmentWriter::new(Position::new(1), segment_size, None);
        Self::restore(Vec::new(), active, segment_size)
    }

    /// A log of `sealed` segments and an active one, filled already. Nothing of it is visible before
    /// [`LogWriter::publish`].
    pub fn restore(sealed: Vec<Arc<Segment>>, active: SegmentWriter, segment_size: usize) -> Self {
        let watermark = WatermarkWriter::new();
        let sealed_bytes = sealed.iter().map(|segment| bytes_in_memory(segment)).sum();
        let mut table = sealed;
        table.push(Arc::clone(active.segment()));
        let log = Log {
            table: Snapshot::new(Arc::new(table)),
            changes: Mutex::new(()),
            seal_wanted: AtomicBool::new(false),
            sealed_bytes: AtomicUsize::new(sealed_bytes),
            watermark: Arc::clone(watermark.shared()),
        };
        Self { log: Arc::new(log), active, watermark, segment_size }
    }

    /// The readers' side.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Writes one commit: `bytes`, in which the record of position `first` and those after it begin at
    /// `records`; `chain` is the chain's value before it, where one is kept. Nobody sees it before
    /// [`LogWriter::publish`]. Where the commit begins a segment, that segment's size.
    pub fn append(
        &mut self,
        first: Position,
        bytes: &[u8],
        records: &[u32],
        chain: Option<&Hash>,
    ) -> Option<usize> {
        // Relaxed, both: it says when, not what.
        let wanted = self.log.seal_wanted.load(Ordering::Relaxed)
            && self.log.seal_wanted.swap(false, Ordering::Relaxed)
            && first > self.active.segment().first();
        let begun = (wanted || !self.active.fits(bytes.len())).then(|| {
            let size = self.segment_size.max(bytes.len() + format::HEADER_SIZE_BYTES_MAX);
            let active = SegmentWriter::new(first, size, chain);
            self.log.add(Arc::clone(active.segment()), self.active.size());
            self.active = active;
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

    /// Drops the oldest segment, if it is sealed: it and the position of its last event.
    pub fn drop_oldest(&mut self) -> Option<(Arc<Segment>, Position)> {
        self.log.drop_oldest()
    }

    /// How many bytes of events are in memory.
    pub fn size(&self) -> usize {
        // Relaxed: a number to compare.
        self.log.sealed_bytes.load(Ordering::Relaxed) + self.active.size()
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

    /// The same view as of `head`, a watermark that was taken before, but for what was dropped since.
    pub fn reader_at(&self, head: Position) -> Reader {
        Reader { table: self.table.load(), head }
    }

    /// Where the visible log ends.
    pub fn watermark(&self) -> &Watermark {
        &self.watermark
    }

    /// Puts `active` behind all segments, the last of which was filled with `sealed` bytes.
    fn add(&self, active: Arc<Segment>, sealed: usize) {
        let _guard = self.changes.lock().expect("no holder panics");
        let mut table = Table::clone(&self.table.load());
        table.push(active);
        // Relaxed: a number to look at, written under the lock.
        self.sealed_bytes.fetch_add(sealed, Ordering::Relaxed);
        self.table.store(Arc::new(table));
    }

    /// Puts `segment` in the place of the sealed one with the same positions, unless that was dropped
    /// meanwhile. Who reads goes on with what it has; who comes later has the new one.
    pub fn replace(&self, segment: Arc<Segment>) {
        let _guard = self.changes.lock().expect("no holder panics");
        let mut table = Table::clone(&self.table.load());
        let sealed = &table[..table.len() - 1];
        let Ok(index) = sealed.binary_search_by_key(&segment.first(), |other| other.first()) else {
            return;
        };
        let (old, new) = (bytes_in_memory(&table[index]), bytes_in_memory(&segment));
        table[index] = segment;
        // Relaxed: numbers to look at, written under the lock.
        self.sealed_bytes.fetch_add(new, Ordering::Relaxed);
        self.sealed_bytes.fetch_sub(old, Ordering::Relaxed);
        self.table.store(Arc::new(table));
    }

    /// Makes the next commit begin a segment, so that the one before it is sealed.
    pub fn seal_at_next_commit(&self) {
        // Relaxed: as where it is taken.
        self.seal_wanted.store(true, Ordering::Relaxed);
    }

    /// Drops the oldest segment, if it is sealed: it and the position of its last event. Who reads goes on
    /// with what it has.
    fn drop_oldest(&self) -> Option<(Arc<Segment>, Position)> {
        let _guard = self.changes.lock().expect("no holder panics");
        let mut table = Table::clone(&self.table.load());
        let last = table.get(1)?.first().previous();
        let oldest = table.remove(0);
        // Relaxed: a number to look at, written under the lock.
        self.sealed_bytes.fetch_sub(bytes_in_memory(&oldest), Ordering::Relaxed);
        self.table.store(Arc::new(table));
        Some((oldest, last))
    }

    /// The first position that is kept; 1 but where old segments are dropped.
    pub fn first(&self) -> Position {
        self.table.with(|table| table[0].first())
    }

    /// All segments of now; the last one is being written.
    pub fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        self.table.load()
    }

    /// How many bytes are written, seals and headers among them: in memory, and in files that the memory
    /// shows.
    pub fn size(&self) -> (usize, usize) {
        self.table.with(|table| {
            table.iter().fold((0, 0), |(memory, files), segment| {
                let size = segment.size();
                match segment.home() {
                    Home::Memory => (memory + size, files),
                    Home::File => (memory, files + size),
                }
            })
        })
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

fn bytes_in_memory(segment: &Segment) -> usize {
    match segment.home() {
        Home::Memory => segment.size(),
        Home::File => 0,
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

    /// The same view, of what is up to `head`: to look at single records.
    #[must_use]
    pub fn up_to(&self, head: Position) -> Self {
        Self { table: Arc::clone(&self.table), head: head.min(self.head) }
    }

    /// The first position that this view has; 1 but where old segments are dropped.
    pub fn first(&self) -> Position {
        self.table[0].first()
    }

    /// The record at `position`, with its tag and length; `None` at 0 and beyond the head, and where the
    /// event was removed.
    #[inline]
    pub fn record(&self, position: Position) -> Option<Record<'_>> {
        self.trace(position).filter(|record| record[0] == format::EVENT_TAG)
    }

    /// The same, or what is left of a removed event: id, position, version, recorded time, stream.
    pub fn trace(&self, position: Position) -> Option<Record<'_>> {
        self.visible(position).then(|| self.segment(position).1.record(position))
    }

    /// Loads the beginnings of the records at these positions. Records that lie far apart in memory, loaded
    /// together, are waited for together. Where they are compressed it does nothing.
    pub fn touch(&self, positions: &[u64]) {
        let mut places = Vec::with_capacity(positions.len());
        for position in positions.iter().map(|position| Position::new(*position)) {
            if self.visible(position) {
                let segment = &**self.segment(position).1;
                if !segment.is_packed() {
                    places.push((segment, segment.offset(position)));
                }
            }
        }
        let mut all = 0;
        for (segment, offset) in places {
            let record = segment.readable(offset..);
            for at in (0..TOUCHED_BYTES).step_by(64) {
                all ^= record.get(at).copied().unwrap_or(0);
            }
        }
        std::hint::black_box(all);
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
        let bytes_max = bytes_max.min(segment.slice_end(begin) - begin);
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
        if end == segment.slice_end(begin) {
            return Some(Slice { bytes: segment.slice(begin..end), last: low });
        }
        let rest = segment.run(end);
        if rest.first() == Some(&format::SEAL_TAG) {
            end += format::field_size(&rest);
        }
        Some(Slice { bytes: segment.slice(begin..end), last: low })
    }

    /// The first position whose event was recorded at or after `micros`; behind the head if none was.
    pub fn first_recorded_at_or_after(&self, micros: i64) -> Position {
        // Recorded time never falls.
        let (mut low, mut high) = (self.first(), self.head.next());
        while low < high {
            let middle = Position::new(low.get() + (high.get() - low.get()) / 2);
            let record = self.trace(middle).expect("at most the head");
            if format::recorded_at(&record).micros() < micros {
                low = middle.next();
            } else {
                high = middle;
            }
        }
        low
    }

    /// The first position from `position` on whose event was not removed, as far as the segments know; behind the head if all were.
    pub fn kept_from(&self, mut position: Position) -> Position {
        while self.visible(position) {
            let (index, segment) = self.segment(position);
            if let Some(kept) = segment.kept_from(position) {
                return kept.min(self.head.next());
            }
            let Some(next) = self.table.get(index + 1) else { break };
            position = next.first();
        }
        self.head.next()
    }

    /// The last one up to `position`; 0 if all were.
    pub fn kept_up_to(&self, mut position: Position) -> Position {
        while self.visible(position) {
            let (_, segment) = self.segment(position);
            if let Some(kept) = segment.kept_up_to(position) {
                return kept;
            }
            position = segment.first().previous();
        }
        Position::ZERO
    }

    /// The segments of this view, in the order of the log, each with how many of its plain bytes are
    /// visible: the header and whole commits. None where there is no event.
    pub fn segments(&self) -> Vec<(Arc<Segment>, usize)> {
        let visible = self.table.iter().filter(|segment| segment.first() <= self.head);
        let mut segments: Vec<_> =
            visible.map(|segment| (Arc::clone(segment), segment.plain_size())).collect();
        if let Some((segment, end)) = segments.last_mut() {
            // The watermark stops behind seals only.
            *end = record_end(segment, self.head);
            *end += format::field_size(&segment.run(*end));
        }
        segments
    }

    fn visible(&self, position: Position) -> bool {
        self.first() <= position && position <= self.head
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
