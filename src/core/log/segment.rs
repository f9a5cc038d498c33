//! A fixed-size piece of the log: bytes that are written once, in order, and read by anyone.
//!
//! ```text
//! [ header ][ event ][ event ][ seal ][ event ]................
//!                                             ^ readable: below, nothing changes any more
//! ```
//!
//! [`SegmentWriter`] is the sequencer's and there is one for a segment; [`Segment`] is everybody's. A
//! sealed one may lie in a file instead of in memory: then it is bytes that nobody writes.
//! What may be *seen* is the watermark's to say; `readable` is only what may be *read* without a race,
//! so this file is sound by itself, whatever its callers do. Unsafe code: [`Buffer`]'s, and its use.

use std::{
    io,
    ops::Range,
    sync::{Arc, OnceLock},
    thread::{self, JoinHandle},
};

use bytes::Bytes;

use super::{
    buffer::Buffer,
    chain::Hash,
    format::{self, EventView, FormatError},
    kept::Kept,
    packing::Packed,
};
use crate::core::{
    position::Position,
    sync::{AtomicU32, Ordering},
};

/// A segment holds this many bytes: two commits of the largest size fit, and a 32-bit offset does.
pub const SEGMENT_SIZE_BYTES: usize = 40 << 20;
/// The writer asks for so much of a segment's memory at a time: half as many pages or twice as many gain as much
/// (docs/benchmarks-appends.md).
const EXPECTED_BYTES: usize = 128 << 10;
/// From this size on a thread asks ahead of the writer. What is smaller stays small.
const AHEAD_FROM_BYTES: usize = 1 << 20;
/// When no more than this is left of what was asked for, the thread asks for as much again: with four times as much
/// at once others wait for the processor (docs/benchmarks-appends.md).
const AHEAD_BYTES: usize = 1 << 20;
/// Offsets come in chunks, so that a segment of few large events does not pay for many small ones.
const OFFSETS_IN_CHUNK: usize = 4096;

/// A segment as its readers have it.
pub struct Segment {
    first: Position,
    content: Content,
    /// Of a rewritten one, once the upkeep has looked at it.
    kept: OnceLock<Kept>,
}

/// Where the bytes of a sealed segment are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// In memory of ours.
    Memory,
    /// In a file, which the memory shows.
    File,
}

enum Content {
    /// In memory, growing or full.
    Written {
        buffer: Buffer,
        /// Bytes below never change again. Written by the [`SegmentWriter`] only.
        readable: AtomicU32,
        /// Where the n-th event's record begins. Written by the [`SegmentWriter`] only.
        offsets: Box<[OnceLock<Box<[AtomicU32]>>]>,
    },
    /// Sealed: bytes that nobody writes any more.
    Fixed { bytes: Bytes, offsets: Box<[u32]>, home: Home },
    /// The same, compressed.
    Packed { packed: Packed, offsets: Box<[u32]>, home: Home },
}

/// A record, with its tag and length: of an event or of what is left of one.
#[derive(Debug, Clone)]
pub enum Record<'a> {
    /// As it lies in the segment.
    Lying(&'a [u8]),
    /// Unpacked.
    Unpacked(Bytes),
}

impl std::ops::Deref for Record<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Lying(bytes) => bytes,
            Self::Unpacked(bytes) => bytes,
        }
    }
}

impl PartialEq for Record<'_> {
    /// Two records are the same if they have the same bytes.
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Record<'_> {
    /// The event, or what is left of one.
    pub fn event(&self) -> EventView<'_> {
        EventView::of(self)
    }
}

/// The one hand that writes to a segment.
pub struct SegmentWriter {
    segment: Arc<Segment>,
    /// How many bytes are written. Kept here, as `readable` is for the readers.
    size: usize,
    /// Up to here the system was asked for memory.
    expected: usize,
    /// How many events are written.
    events: usize,
}

impl Segment {
    /// A sealed segment of `bytes`, header and all, in which the records of the events from `first` on
    /// begin at `offsets`.
    pub fn fixed(first: Position, bytes: Bytes, offsets: Box<[u32]>, home: Home) -> Self {
        Self::of(first, Content::Fixed { bytes, offsets, home })
    }

    /// The same, compressed; the offsets are those of the plain bytes.
    pub fn packed(first: Position, packed: Packed, offsets: Box<[u32]>, home: Home) -> Self {
        Self::of(first, Content::Packed { packed, offsets, home })
    }

    fn of(first: Position, content: Content) -> Self {
        Self { first, content, kept: OnceLock::new() }
    }

    /// The position of its first event.
    pub fn first(&self) -> Position {
        self.first
    }

    /// The record at `position`. The caller has seen a watermark that covers the position, in this segment.
    #[inline]
    pub fn record(&self, position: Position) -> Record<'_> {
        let offset = self.offset(position);
        if let Content::Packed { packed, .. } = &self.content {
            let mut bytes = packed.from(offset);
            bytes.truncate(format::field_size(&bytes));
            return Record::Unpacked(bytes);
        }
        let bytes = self.readable(offset..);
        Record::Lying(&bytes[..format::field_size(bytes)])
    }

    /// The plain bytes from `offset` on: all that is readable, or of a packed segment a block's.
    pub fn run(&self, offset: usize) -> Record<'_> {
        match &self.content {
            Content::Packed { packed, .. } => Record::Unpacked(packed.from(offset)),
            _ => Record::Lying(self.readable(offset..)),
        }
    }

    /// A slice that begins at `offset` ends here at the latest.
    pub fn slice_end(&self, offset: usize) -> usize {
        match &self.content {
            Content::Packed { packed, .. } => packed.block_end(offset),
            _ => usize::MAX,
        }
    }

    /// Whether it is compressed.
    pub fn is_packed(&self) -> bool {
        matches!(self.content, Content::Packed { .. })
    }

    /// The same segment, not compressed: unpacked if it must be.
    /// The error says where it cannot be, and why.
    pub fn plain(self: &Arc<Self>) -> Result<Arc<Self>, (usize, FormatError)> {
        let Content::Packed { packed, offsets, .. } = &self.content else {
            return Ok(Arc::clone(self));
        };
        let plain = Self::fixed(self.first, packed.plain()?, offsets.clone(), Home::Memory);
        Ok(Arc::new(plain))
    }

    /// How many bytes its header has.
    pub fn header_size(&self) -> usize {
        self.offset(self.first)
    }

    /// How many bytes it has when it is not compressed.
    pub fn plain_size(&self) -> usize {
        match &self.content {
            Content::Packed { packed, .. } => packed.plain_size(),
            _ => self.size(),
        }
    }

    /// How many bytes it has: where it is compressed, compressed.
    pub fn size(&self) -> usize {
        match &self.content {
            Content::Packed { packed, .. } => packed.bytes().len(),
            _ => self.readable(0..).len(),
        }
    }

    /// Notes which of its events were not removed. For the upkeep, which reads them all anyway.
    pub fn note_kept(&self, kept: Kept) {
        // What is noted already is the same.
        self.kept.set(kept).ok();
    }

    /// Whether that is noted, or none can be removed: they only are where it was rewritten.
    pub fn knows_kept(&self) -> bool {
        matches!(self.content, Content::Written { .. }) || self.kept.get().is_some()
    }

    /// The first event from `position` on, in it, that was not removed. Where that is not noted: `position`.
    pub fn kept_from(&self, position: Position) -> Option<Position> {
        let Some(kept) = self.kept.get() else { return Some(position) };
        kept.from(self.index(position)).map(|index| self.first.plus(index as u64))
    }

    /// The last one up to `position`.
    pub fn kept_up_to(&self, position: Position) -> Option<Position> {
        let Some(kept) = self.kept.get() else { return Some(position) };
        kept.up_to(self.index(position)).map(|index| self.first.plus(index as u64))
    }

    /// Where the record at `position` begins. The same condition as [`Segment::record`].
    pub fn offset(&self, position: Position) -> usize {
        let index = self.index(position);
        let offset = match &self.content {
            Content::Written { offsets, .. } => {
                let chunk = offsets[index / OFFSETS_IN_CHUNK].get().expect("the event is written");
                // Relaxed: whoever saw the watermark that covers the event sees its offset.
                chunk[index % OFFSETS_IN_CHUNK].load(Ordering::Relaxed)
            }
            Content::Fixed { offsets, .. } | Content::Packed { offsets, .. } => offsets[index],
        };
        offset as usize
    }

    /// The bytes from `range.start` to where it is readable now.
    ///
    /// # Panics
    /// If it is compressed.
    pub fn readable(&self, range: std::ops::RangeFrom<usize>) -> &[u8] {
        match &self.content {
            Content::Written { buffer, readable, .. } => {
                // Acquire, pairs with the Release in `SegmentWriter::append`: what is below was written
                // before.
                let end = readable.load(Ordering::Acquire) as usize;
                read(buffer, range.start.min(end)..end, end)
            }
            Content::Fixed { bytes, .. } => &bytes[range.start.min(bytes.len())..],
            Content::Packed { .. } => unreachable!("a packed segment is unpacked first"),
        }
    }

    /// The bytes of `range` as a value of their own that keeps the segment alive. Nothing is copied.
    pub fn slice(self: &Arc<Self>, range: Range<usize>) -> Bytes {
        struct Slice(Arc<Segment>, Range<usize>);
        impl AsRef<[u8]> for Slice {
            fn as_ref(&self) -> &[u8] {
                &self.0.readable(self.1.start..)[..self.1.len()]
            }
        }
        match &self.content {
            Content::Written { .. } => Bytes::from_owner(Slice(Arc::clone(self), range)),
            Content::Fixed { bytes, .. } => bytes.slice(range),
            Content::Packed { packed, .. } => packed.from(range.start).slice(..range.len()),
        }
    }

    /// Memory set aside for bytes, and for offsets. What a file's pages have is not ours.
    pub fn allocated(&self) -> (usize, usize) {
        let kept = self.kept.get().map_or(0, Kept::allocated);
        let (bytes, offsets) = match &self.content {
            Content::Written { buffer, offsets, .. } => {
                let chunks = offsets.iter().filter(|chunk| chunk.get().is_some()).count();
                (buffer.size(), chunks * OFFSETS_IN_CHUNK * size_of::<AtomicU32>())
            }
            Content::Fixed { bytes, offsets, home } => {
                let bytes = if *home == Home::Memory { bytes.len() } else { 0 };
                (bytes, size_of_val(&**offsets))
            }
            Content::Packed { packed, offsets, home } => {
                let bytes = if *home == Home::Memory { packed.bytes().len() } else { 0 };
                (bytes, size_of_val(&**offsets) + packed.allocated())
            }
        };
        (bytes, offsets + kept)
    }

    /// Where its bytes are.
    pub fn home(&self) -> Home {
        match &self.content {
            Content::Written { .. } => Home::Memory,
            Content::Fixed { home, .. } | Content::Packed { home, .. } => *home,
        }
    }

    fn expect_writes(&self, range: Range<usize>) {
        if let Content::Written { buffer, .. } = &self.content {
            buffer.expect_writes(range);
        }
    }

    fn index(&self, position: Position) -> usize {
        let index =
            position.get().checked_sub(self.first.get()).expect("a position of this segment");
        usize::try_from(index).expect("a segment's events are counted in memory")
    }
}

#[allow(unsafe_code)]
fn read(buffer: &Buffer, range: Range<usize>, readable: usize) -> &[u8] {
    assert!(range.end <= readable, "only what is readable is read");
    // SAFETY: the range is below a value of `readable` that was loaded with Acquire; the writer
    // wrote it before it stored that value with Release, and writes only above it from then on.
    unsafe { buffer.read(range) }
}

impl SegmentWriter {
    /// An empty segment of `size` bytes, header written, whose first event will be at `first` and before
    /// which the chain has come to `chain`, where one is kept.
    pub fn new(first: Position, size: usize, chain: Option<&Hash>) -> Self {
        let events_max = size / EVENT_SIZE_BYTES_MIN + 1;
        let content = Content::Written {
            buffer: Buffer::new(size),
            readable: AtomicU32::new(0),
            offsets: (0..events_max.div_ceil(OFFSETS_IN_CHUNK)).map(|_| OnceLock::new()).collect(),
        };
        let segment = Arc::new(Segment::of(first, content));
        let mut writer = Self { segment, size: 0, expected: 0, events: 0 };
        writer.append(&format::header(first, chain), &[]);
        writer
    }

    /// The segment that it writes to.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// How many bytes there is room for.
    pub fn capacity(&self) -> usize {
        match &self.segment.content {
            Content::Written { buffer, .. } => buffer.size(),
            Content::Fixed { .. } | Content::Packed { .. } => unreachable!("a writer's is written"),
        }
    }

    /// Whether so many bytes still fit.
    pub fn fits(&self, size: usize) -> bool {
        size <= self.capacity() - self.size
    }

    /// How many bytes are written.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Writes `bytes`, in which the records of events begin at `records`, and makes them readable.
    ///
    /// # Panics
    /// If they do not fit.
    #[allow(unsafe_code)]
    pub fn append(&mut self, bytes: &[u8], records: &[u32]) {
        self.expect(self.size + bytes.len());
        let Content::Written { buffer, readable, offsets } = &self.segment.content else {
            unreachable!("a writer's segment is written")
        };
        // SAFETY: there is one writer for a segment and it is borrowed mutably; no slice of the range
        // exists, as all slices end at `readable`, which is `self.size`.
        unsafe { buffer.write(self.size, bytes) };
        let base = u32::try_from(self.size).expect("a segment's size fits 32 bits");
        for record in records {
            let chunk = offsets[self.events / OFFSETS_IN_CHUNK]
                .get_or_init(|| (0..OFFSETS_IN_CHUNK).map(|_| AtomicU32::new(0)).collect());
            // Relaxed: the watermark publishes it.
            chunk[self.events % OFFSETS_IN_CHUNK].store(base + record, Ordering::Relaxed);
            self.events += 1;
        }
        self.size += bytes.len();
        let end = u32::try_from(self.size).expect("a segment's size fits 32 bits");
        // Release, pairs with the Acquire in `Segment::readable`: the bytes were written before.
        readable.store(end, Ordering::Release);
    }

    /// Asks for memory up to `end`, and for what will come after it. Nothing depends on the answer, nor on there being
    /// a thread: a page that is not there is given when it is touched, which takes the writer longer.
    fn expect(&mut self, end: usize) {
        if end > self.expected {
            let more = EXPECTED_BYTES.max(end - self.expected);
            self.segment.expect_writes(self.expected..self.expected + more);
            self.expected += more;
        }
        let wanted = self.capacity().min(end + AHEAD_BYTES);
        if end >= AHEAD_FROM_BYTES && self.expected < wanted {
            let next = self.expected..self.expected + AHEAD_BYTES;
            self.expected = next.end;
            let _ = expect_beside(Arc::clone(&self.segment), next);
        }
    }
}

/// Asks for the pages of `range` in a thread of its own, in which nobody waits for them.
fn expect_beside(segment: Arc<Segment>, range: Range<usize>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("annals-memory".to_owned()).spawn(move || {
        for at in range.clone().step_by(EXPECTED_BYTES) {
            segment.expect_writes(at..range.end.min(at + EXPECTED_BYTES));
            thread::yield_now();
        }
    })
}

/// No record is smaller: tag and length, an id, a position and a version of one byte, two empty
/// moments, a stream and a type of one letter.
const EVENT_SIZE_BYTES_MIN: usize = 2 + 38 + 2 + 2 + 2 * 2 + 3 + 3;

const _: () = {
    let limit = crate::core::limits::Limits::HARD;
    let commit = limit.commit_size_bytes_max + format::SEAL_SIZE_BYTES_MAX;
    assert!(format::HEADER_SIZE_BYTES_MAX + commit <= SEGMENT_SIZE_BYTES, "one commit fits");
    assert!(SEGMENT_SIZE_BYTES <= u32::MAX as usize, "an offset fits");
};

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::{clock::Timestamp, log::format::Stamp, position::Version};

    fn records(first: u64, count: u64) -> (Vec<u8>, Vec<u32>) {
        let (mut bytes, mut begins) = (Vec::new(), Vec::new());
        for position in first..first + count {
            begins.push(u32::try_from(bytes.len()).expect("a small number"));
            let stamp = Stamp {
                id: Uuid::from_u128(u128::from(position)),
                position: Position::new(position),
                version: Version::new(position),
                recorded_at: Timestamp::default(),
                occurred_at: Timestamp::default(),
            };
            format::put_event(&mut bytes, &stamp, &[0x32, 1, b's', 0x3a, 1, b't']);
        }
        (bytes, begins)
    }

    #[test]
    fn a_slice_outlives_the_segment_and_its_writer() {
        let mut writer = SegmentWriter::new(Position::new(5), 1000, None);
        let (bytes, begins) = records(5, 2);
        writer.append(&bytes, &begins);
        let segment = Arc::clone(writer.segment());
        let begin = segment.offset(Position::new(5));
        let slice = segment.slice(begin..begin + bytes.len());
        assert_eq!(*segment.record(Position::new(6)), bytes[begins[1] as usize..]);
        drop((segment, writer));
        assert_eq!(slice, bytes);
    }

    #[test]
    fn readers_read_while_the_writer_writes() {
        let mut writer = SegmentWriter::new(Position::new(1), 100_000, None);
        let segment = Arc::clone(writer.segment());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for position in 1..=500 {
                    let (bytes, begins) = records(position, 1);
                    writer.append(&bytes, &begins);
                }
            });
            let (all, _) = records(1, 500);
            let header = format::header(Position::new(1), None);
            let begin = header.len();
            let mut seen = 0;
            while seen < all.len() {
                let bytes = segment.readable(begin..);
                assert!(bytes.len() >= seen, "what is readable stays readable");
                seen = bytes.len();
                assert_eq!(bytes, &all[..seen]);
            }
        });
    }

    /// Minor page faults of this thread: proc(5), field 10 of `stat`.
    #[cfg(all(target_os = "linux", not(miri)))]
    fn page_faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux has it");
        let (_, fields) = stat.rsplit_once(") ").expect("the name is in parentheses");
        fields.split(' ').nth(7).and_then(|faults| faults.parse().ok()).expect("a number")
    }

    #[test]
    #[cfg(all(target_os = "linux", not(miri)))]
    fn the_writer_finds_the_pages_that_were_asked_for_beside_it() {
        const SIZE: usize = 4 << 20;
        let mut writer = SegmentWriter::new(Position::new(1), SIZE, None);
        let asked = expect_beside(Arc::clone(writer.segment()), 0..2 * SIZE);
        asked.expect("a thread").join().expect("it does not panic beyond the end");
        let bytes = vec![1; SIZE - writer.size()];
        let before = page_faults();
        writer.append(&bytes, &[]);
        let faults = page_faults() - before;
        // A sanitizer's own memory has an eighth as many.
        assert!(faults < 512, "{faults} of 1024 pages were not there");
        assert_eq!(writer.segment().size(), SIZE);
    }

    #[test]
    #[cfg(all(target_os = "linux", not(miri)))]
    fn memory_is_asked_for_ahead_once_much_is_written() {
        let mut writer = SegmentWriter::new(Position::new(1), 16 << 20, None);
        let bytes = vec![1; AHEAD_FROM_BYTES / 2];
        writer.append(&bytes, &[]);
        assert!(writer.expected < AHEAD_FROM_BYTES, "a small segment stays small");
        while writer.fits(bytes.len()) {
            writer.append(&bytes, &[]);
            let wanted = writer.capacity().min(writer.size() + AHEAD_BYTES);
            assert!(writer.size() < AHEAD_FROM_BYTES || writer.expected >= wanted);
        }
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn nothing_is_read_that_is_not_written() {
        let writer = SegmentWriter::new(Position::new(1), 1000, None);
        let written = writer.size();
        let _ = writer.segment().slice(0..written + 1).len();
    }

    #[test]
    #[should_panic(expected = "a write stays inside")]
    fn nothing_is_written_beyond_the_end() {
        let mut writer = SegmentWriter::new(Position::new(1), 100, None);
        writer.append(&[0; 200], &[]);
    }
}

#[cfg(all(test, feature = "loom"))]
mod model {
    use super::*;

    /// Seen to fail with Relaxed in `SegmentWriter::append` or in `Segment::readable`.
    #[test]
    fn what_is_readable_is_not_written_any_more() {
        loom::model(|| {
            let mut writer = SegmentWriter::new(Position::new(1), 24, None);
            let segment = Arc::clone(writer.segment());
            let thread = loom::thread::spawn(move || {
                writer.append(&[1, 1], &[]);
                writer.append(&[2], &[]);
            });
            let seen = segment.readable(0..).len();
            assert!(seen >= 16, "the header was there before");
            thread.join().expect("the writer does not panic");
        });
    }
}
