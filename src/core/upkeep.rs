//! What is done beside appends and reads, at low priority, by one thread: sealed segments become memory
//! maps of their files, and the indexes are written to disk.
//!
//! Nothing here is waited for by a reader or by the sequencer: a segment is put in another's place in one
//! step, and who reads the old one goes on with it.

use std::{io, sync::Arc};

use super::{
    commit_log::disk::{files::Files, segment_name, snapshot},
    history::History,
    log::segment::{Home, Segment},
    position::Position,
};

/// The indexes are written when so many events are new, or a quarter of all, whichever is more: then all
/// writing of indexes together is in proportion to the log.
const SNAPSHOT_EVENTS_MIN: u64 = 1_000_000;
/// At the end of the process they are written if so many are new: fewer are indexed sooner.
const SNAPSHOT_AT_END_EVENTS_MIN: u64 = 20_000;

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

/// The work, and what it has to know from one time to the next.
pub struct Upkeep {
    history: Arc<History>,
    /// None in memory mode.
    files: Option<DataFiles>,
    /// Up to where the indexes are written.
    snapshot: Position,
}

impl Upkeep {
    /// The upkeep of `history`, whose indexes are written up to `snapshot`.
    pub fn new(history: Arc<History>, files: Option<DataFiles>, snapshot: Position) -> Self {
        Self { history, files, snapshot }
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
            let positions = segment.first().get()..=last.get();
            let offset = |position| segment.offset(Position::new(position));
            let offsets = positions
                .map(|position| u32::try_from(offset(position)).expect("it was one before"));
            let segment = Segment::fixed(segment.first(), bytes, offsets.collect(), Home::File);
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
}
