//! What is done beside appends and reads, at low priority, by one thread: sealed segments become memory
//! maps of their files and are compressed, the indexes are written to disk, and what is gone is removed.
//!
//! Nothing here is waited for by a reader or by the sequencer: a segment is put in another's place in one
//! step, and who reads the old one goes on with it.

use std::{collections::BTreeSet, io, sync::Arc};

use bytes::Bytes;

use super::{
    commit_log::disk::{UNFINISHED, files::Files, segment_name, snapshot},
    history::History,
    log::{
        compaction::{Compacted, compact, kept, survey},
        format,
        kept::Kept,
        packing::{Codec, Packed},
        segment::{Home, Segment},
    },
    position::Position,
    retention::Visibility,
};

/// The indexes are written when so many events are new, or a quarter of all, whichever is more: then all
/// writing of indexes together is in proportion to the log.
const SNAPSHOT_EVENTS_MIN: u64 = 1_000_000;
/// At the end of the process they are written if so many are new: fewer are indexed sooner.
const SNAPSHOT_AT_END_EVENTS_MIN: u64 = 20_000;

/// A segment is rewritten when this part of its bytes is gone: 1 in so many. Then all rewriting together
/// writes at most so many times what is removed.
const GONE_SHARE: usize = 4;

/// The files of a data directory.
#[derive(Clone)]
pub struct DataFiles {
    pub segments: Arc<dyn Files>,
    pub index: Arc<dyn Files>,
}

/// When the indexes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// When much is new.
    Sometimes,
    /// When it saves a start's time: the process ends.
    AtEnd,
}

/// Which segments are rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Those of which enough is gone.
    Enough,
    /// Those of which anything is gone.
    Any,
}

/// What a compaction has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    pub segments: u64,
    pub events: u64,
    /// How much smaller the segments are.
    pub bytes: u64,
    /// How much smaller the indexes are.
    pub index_bytes: u64,
}

/// The work, and what it has to know from one time to the next.
pub struct Upkeep {
    history: Arc<History>,
    /// None in memory mode.
    files: Option<DataFiles>,
    /// How sealed segments are compressed, if they are.
    codec: Option<Codec>,
    /// Segments that would not be smaller.
    stay_plain: BTreeSet<Position>,
    /// Up to where the indexes are written.
    snapshot: Position,
    /// The first position of the segment that was looked at last.
    looked_at: Position,
}

impl Upkeep {
    /// The upkeep of `history`, whose indexes are written up to `snapshot`.
    pub fn new(history: Arc<History>, files: Option<DataFiles>, snapshot: Position) -> Self {
        Self {
            history,
            files,
            codec: None,
            stay_plain: BTreeSet::new(),
            snapshot,
            looked_at: Position::ZERO,
        }
    }

    /// The same, which compresses sealed segments.
    #[must_use]
    pub fn with_codec(mut self, codec: Option<Codec>) -> Self {
        self.codec = codec;
        self
    }

    /// Compresses the oldest sealed segment that is not. How many bytes that has saved.
    pub fn pack_next(&mut self) -> io::Result<Option<u64>> {
        let Some(codec) = self.codec else { return Ok(None) };
        let head = self.history.log.watermark().get();
        let segments = self.history.log.segments();
        for pair in segments.windows(2) {
            let (segment, next) = (&pair[0], &pair[1]);
            let (first, last) = (segment.first(), next.first().previous());
            let done = segment.is_packed() || self.stay_plain.contains(&first);
            if done || !self.is_sealed(segment) || last > head {
                continue;
            }
            let plain = segment.readable(0..);
            let Some(packed) = Packed::pack(codec, plain) else {
                self.stay_plain.insert(first);
                continue;
            };
            let saved = plain.len() - packed.len();
            self.put(segment, &Bytes::from(packed), offsets(segment, last), None)?;
            return Ok(Some(saved as u64));
        }
        Ok(None)
    }

    /// Whether nobody writes to the segment or its file any more. It is not the last one.
    fn is_sealed(&self, segment: &Segment) -> bool {
        self.files.is_none() || segment.home() == Home::File
    }

    /// Puts these bytes, plain or packed, in the place of a segment and of its file.
    fn put(
        &self,
        segment: &Segment,
        bytes: &Bytes,
        offsets: Box<[u32]>,
        kept: Option<Kept>,
    ) -> io::Result<()> {
        let first = segment.first();
        let (bytes, home) = match &self.files {
            Some(files) => (rewrite(&*files.segments, first, bytes)?, Home::File),
            None => (bytes.clone(), Home::Memory),
        };
        let header = format::read_header(&bytes).expect("it has the one that it had");
        let segment = if bytes.get(header.size) == Some(&format::PACKED_TAG) {
            let packed = Packed::open(bytes, header.size, |_, _| Ok(()));
            let packed = packed.map_err(|(_, error)| io::Error::other(error))?;
            Segment::packed(first, packed, offsets, home)
        } else {
            Segment::fixed(first, bytes, offsets, home)
        };
        if let Some(kept) = kept {
            segment.note_kept(kept);
        }
        self.history.log.replace(Arc::new(segment));
        Ok(())
    }

    /// Puts a map of its file in the place of each sealed segment that is in memory. How many were.
    pub fn map_sealed(&self) -> io::Result<usize> {
        let Some(files) = &self.files else { return Ok(0) };
        let head = self.history.log.watermark().get();
        let segments = self.history.log.segments();
        let mut mapped = 0;
        for pair in segments.windows(2) {
            let (segment, next) = (&pair[0], &pair[1]);
            let last = next.first().previous();
            // What is published is in the file.
            if segment.home() == Home::File || last > head {
                continue;
            }
            let bytes = files.segments.map(&segment_name(segment.first()))?;
            // Until the file has been cut to its length its turn has not come.
            if bytes.len() != segment.readable(0..).len() {
                continue;
            }
            let offsets = offsets(segment, last);
            let segment = Segment::fixed(segment.first(), bytes, offsets, Home::File);
            self.history.log.replace(Arc::new(segment));
            mapped += 1;
        }
        Ok(mapped)
    }

    /// Writes the indexes if it is due. Up to where, if it was.
    pub fn write_indexes(&mut self, due: Due) -> io::Result<Option<Position>> {
        let Some(files) = &self.files else { return Ok(None) };
        let reader = self.history.log.reader();
        let new = reader.head().get() - self.snapshot.get();
        let enough = match due {
            Due::Sometimes => SNAPSHOT_EVENTS_MIN.max(self.snapshot.get() / 4),
            Due::AtEnd => SNAPSHOT_AT_END_EVENTS_MIN,
        };
        if new < enough {
            return Ok(None);
        }
        snapshot::write(&*files.index, &self.history, &reader)?;
        self.snapshot = reader.head();
        Ok(Some(self.snapshot))
    }

    /// Looks at the next sealed segment, round and round, and removes what is gone if it is enough.
    pub fn compact_next(&mut self) -> io::Result<Removed> {
        let Some(mut visibility) = self.visibility() else { return Ok(Removed::default()) };
        let segments = self.history.log.segments();
        let next = segments.partition_point(|segment| segment.first() <= self.looked_at);
        let next = if next + 1 < segments.len() { next } else { 0 };
        self.looked_at = segments[next].first();
        self.compact_segment(&segments, next, &mut visibility, Gone::Enough)
    }

    /// Removes everything that is gone from all sealed segments.
    pub fn compact(&self) -> io::Result<Removed> {
        let Some(mut visibility) = self.visibility() else { return Ok(Removed::default()) };
        let segments = self.history.log.segments();
        let mut all = Removed::default();
        for index in 0..segments.len() {
            let removed = self.compact_segment(&segments, index, &mut visibility, Gone::Any)?;
            all.segments += removed.segments;
            all.events += removed.events;
            all.bytes += removed.bytes;
        }
        Ok(all)
    }

    /// Whether anything is gone of the segment that is being written: it has to be sealed before that can
    /// be removed.
    pub fn active_has_gone(&self) -> bool {
        let Some(mut visibility) = self.visibility() else { return false };
        let segments = self.history.log.segments();
        let active = &segments[segments.len() - 1];
        let head = visibility.reader().head();
        head >= active.first() && survey(active, head, is_gone(&mut visibility)).events > 0
    }

    /// What is hidden now, if anything can be. The time is that at which the head was recorded: every node
    /// comes to the same.
    fn visibility(&self) -> Option<Visibility> {
        let reader = self.history.log.reader();
        let head = reader.trace(reader.head())?;
        let now = format::recorded_at(&head).micros();
        let retention = &self.history.retention;
        let empty = retention.is_empty(reader.head());
        (!empty).then(|| retention.visibility(&self.history, reader.clone(), now))
    }

    fn compact_segment(
        &self,
        segments: &[Arc<Segment>],
        index: usize,
        visibility: &mut Visibility,
        gone: Gone,
    ) -> io::Result<Removed> {
        let (segment, Some(next)) = (&segments[index], segments.get(index + 1)) else {
            return Ok(Removed::default());
        };
        let last = next.first().previous();
        if !self.is_sealed(segment) || last > visibility.reader().head() {
            return Ok(Removed::default());
        }
        let before = segment.size();
        let looked_at = segment;
        let segment = &segment.plain().map_err(|(_, error)| io::Error::other(error))?;
        let size = segment.size();
        let found = survey(segment, last, is_gone(visibility));
        let enough = gone == Gone::Any || found.bytes * GONE_SHARE >= size;
        if found.events == 0 || !enough {
            // One that an earlier process has rewritten.
            if !looked_at.knows_kept() {
                looked_at.note_kept(kept(segment, last));
            }
            return Ok(Removed::default());
        }
        let compacted = compact(segment, last, is_gone(visibility));
        let Compacted { bytes, offsets, removed, kept } = compacted;
        let packed = self.codec.and_then(|codec| Packed::pack(codec, &bytes));
        let bytes = packed.map_or(bytes, Bytes::from);
        let smaller = before.saturating_sub(bytes.len()) as u64;
        self.put(segment, &bytes, offsets, Some(kept))?;
        Ok(Removed { segments: 1, events: removed, bytes: smaller, index_bytes: 0 })
    }
}

fn offsets(segment: &Segment, last: Position) -> Box<[u32]> {
    (segment.first().get()..=last.get())
        .map(|position| segment.offset(Position::new(position)))
        .map(|offset| u32::try_from(offset).expect("a segment's size fits 32 bits"))
        .collect()
}

fn is_gone(visibility: &mut Visibility) -> impl FnMut(&[u8]) -> bool {
    |record| {
        let (stream, version) = format::stream_and_version(record);
        visibility.is_hidden(stream, version)
    }
}

/// Puts a file of these bytes in the place of the segment's: after a crash it is the old one or the new
/// one, whole.
fn rewrite(files: &dyn Files, first: Position, bytes: &[u8]) -> io::Result<Bytes> {
    let name = segment_name(first);
    let unfinished = format!("{name}{UNFINISHED}");
    if files.list()?.contains(&unfinished) {
        files.remove(&unfinished)?;
    }
    let mut file = files.open(&unfinished, true)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    files.rename(&unfinished, &name)?;
    files.sync_names()?;
    files.map(&name)
}
