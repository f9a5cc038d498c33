//! A copy of the log as of one moment, while appends go on: the files of a data directory, checked on the
//! way and sent as slices of the segments.
//!
//! ```text
//! Begin  (File  Piece…)…  File("annals") Piece  Done
//! ```
//!
//! Sealed segments do not change, and the active one only behind the head, so nothing is locked or copied.
//! Where headers have no chain value, in memory mode, the copy's have: it is a data directory.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::verify::{Verified, VerifyError, verified};
use crate::core::{
    commit_log::disk,
    history::History,
    log::{
        chain::Hash,
        format,
        segment::Segment,
        verify::{Damage, Verifier, unreadable},
    },
    position::Position,
};

/// A message has so much content at most.
pub const PIECE_SIZE_BYTES_MAX: usize = 64 << 10;
/// So much is checked at once, on a thread that may wait for a disk, and then sent without one.
const CHECKED_AT_ONCE_BYTES: usize = 2 << 20;

/// What is to be sent next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Begin { head: Position, total_bytes: u64 },
    File { name: String, size: u64 },
    Piece(Bytes),
    Done(Verified),
}

/// A copy that goes on.
pub struct Backup {
    verifier: Verifier,
    /// Those that are not begun, each with how many of its bytes are visible.
    segments: VecDeque<(Arc<Segment>, usize)>,
    at_hand: Option<AtHand>,
    /// Checked, and not sent.
    ready: VecDeque<Message>,
    head: Position,
    stop: CancellationToken,
    done: bool,
}

/// A segment of which a part was checked.
struct AtHand {
    segment: Arc<Segment>,
    end: usize,
}

impl Backup {
    /// Begins a copy of the log as it is now.
    pub fn begin(history: &History, stop: CancellationToken) -> Result<Self, VerifyError> {
        let reader = history.log.reader();
        let first = reader.first();
        if first > Position::new(1) {
            return Err(VerifyError::NotKept { first });
        }
        let segments: VecDeque<_> = reader.segments().into();
        let mut total_bytes = disk::MARK.len() as u64;
        for (segment, end) in &segments {
            let copied = copied_header(segment.first(), &Hash::default()).len();
            total_bytes += (end - segment.header_size() + copied) as u64;
        }
        let head = reader.head();
        Ok(Self {
            verifier: Verifier::new().noting(head),
            segments,
            at_hand: None,
            ready: VecDeque::from([Message::Begin { head, total_bytes }]),
            head,
            stop,
            done: false,
        })
    }

    /// The next message; `None` when the copy is complete.
    pub async fn next(mut self) -> Result<Option<(Message, Self)>, VerifyError> {
        while self.ready.is_empty() {
            if self.done {
                return Ok(None);
            }
            if self.stop.is_cancelled() {
                return Err(VerifyError::ShuttingDown);
            }
            // The runtime drops what waits when it stops.
            self = tokio::task::spawn_blocking(move || self.check())
                .await
                .map_err(|_| VerifyError::ShuttingDown)??;
        }
        Ok(self.ready.pop_front().map(|message| (message, self)))
    }

    /// Checks the next part, and readies it.
    fn check(mut self) -> Result<Self, VerifyError> {
        let Some(AtHand { segment, end }) = self.at_hand.take() else {
            match self.segments.pop_front() {
                Some((segment, end)) => self.begin_segment(&segment, end)?,
                None => self.finish()?,
            }
            return Ok(self);
        };
        let bytes = &segment.readable(0..)[..end];
        let from = self.verifier.offset();
        let mut more = true;
        while more && self.verifier.offset() - from < CHECKED_AT_ONCE_BYTES {
            more = self.verifier.commit(bytes)?.is_some();
        }
        let to = self.verifier.offset();
        for begin in (from..to).step_by(PIECE_SIZE_BYTES_MAX) {
            let piece = segment.slice(begin..to.min(begin + PIECE_SIZE_BYTES_MAX));
            self.ready.push_back(Message::Piece(piece));
        }
        self.at_hand = more.then_some(AtHand { segment, end });
        Ok(self)
    }

    fn begin_segment(&mut self, segment: &Arc<Segment>, end: usize) -> Result<(), Damage> {
        // A copy is not compressed: who serves it does that.
        let first = segment.first();
        let segment = segment.plain().map_err(|error| unreadable(first, error))?;
        let chain = *self.verifier.chain().expect("it begins at position 1");
        let header = self.verifier.begin(&segment.readable(0..)[..end], segment.first())?;
        let copied = copied_header(segment.first(), chain.value());
        let name = format!("{}/{}", disk::SEGMENTS, disk::segment_name(segment.first()));
        let size = (end - header.size + copied.len()) as u64;
        self.ready.push_back(Message::File { name, size });
        self.ready.push_back(Message::Piece(copied.into()));
        self.at_hand = Some(AtHand { segment, end });
        Ok(())
    }

    fn finish(&mut self) -> Result<(), VerifyError> {
        let size = disk::MARK.len() as u64;
        self.ready.push_back(Message::File { name: disk::MARK_FILE.to_owned(), size });
        self.ready.push_back(Message::Piece(Bytes::from_static(disk::MARK.as_bytes())));
        self.ready.push_back(Message::Done(verified(&self.verifier, self.head)?));
        self.done = true;
        Ok(())
    }
}

fn copied_header(first: Position, chain: &Hash) -> Vec<u8> {
    format::header(first, Some(chain))
}
