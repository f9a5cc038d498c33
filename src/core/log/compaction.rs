//! Rewrites a sealed segment without the events that are gone.
//!
//! ```text
//! before   header  [event 1][event 2][event 3] seal  [event 4] seal
//! after    header  [event 1][left of 2][event 3] seal'  [left of 4] seal'
//! ```
//!
//! Positions, versions and the hash chain stay as they are: of each event that is removed its id, place,
//! time, stream and digest are left (docs/format.md), so the header is the same, a repeat of its append is
//! still known, and only the seals' checksums are new.

use bytes::Bytes;

use super::{format, kept::Kept, segment::Segment};
use crate::core::position::Position;

/// A segment without what is gone.
pub struct Compacted {
    pub bytes: Bytes,
    /// Where its records begin.
    pub offsets: Box<[u32]>,
    /// How many events were removed from it, now.
    pub removed: u64,
    /// Which are left.
    pub kept: Kept,
}

/// What is gone of a segment and still there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survey {
    pub events: u64,
    pub bytes: usize,
}

fn positions(segment: &Segment, last: Position) -> impl Iterator<Item = Position> {
    (segment.first().get()..=last.get()).map(Position::new)
}

/// Which events of `segment`, whose last event is at `last`, are still there.
pub fn kept(segment: &Segment, last: Position) -> Kept {
    Kept::new(positions(segment, last).map(|at| segment.record(at)[0] == format::EVENT_TAG))
}

/// How much of `segment`, whose last event is at `last`, is gone and not yet removed, by what `is_gone`
/// says of its records.
pub fn survey(segment: &Segment, last: Position, mut is_gone: impl FnMut(&[u8]) -> bool) -> Survey {
    let mut survey = Survey::default();
    for position in positions(segment, last) {
        let record = segment.record(position);
        if record[0] == format::EVENT_TAG && is_gone(&record) {
            survey.events += 1;
            survey.bytes += record.len();
        }
    }
    survey
}

/// `segment`, whose last event is at `last`, without the events of which `is_gone` says so. It is sealed and
/// plain.
pub fn compact(
    segment: &Segment,
    last: Position,
    mut is_gone: impl FnMut(&[u8]) -> bool,
) -> Compacted {
    let old = segment.readable(0..);
    let mut at = segment.offset(segment.first());
    let mut out = Vec::with_capacity(old.len());
    out.extend_from_slice(&old[..at]);
    let mut offsets = Vec::new();
    let (mut removed, mut kept) = (0, Vec::new());
    // Of the commit at hand: where it begins in `out`, and its events.
    let (mut begin, mut count) = (out.len(), 0);
    for position in positions(segment, last) {
        let record = segment.record(position);
        offsets.push(u32::try_from(out.len()).expect("a segment's size fits 32 bits"));
        let is_event = record[0] == format::EVENT_TAG;
        let is_gone = is_event && is_gone(&record);
        if is_gone {
            format::put_removed(&mut out, &record);
            removed += 1;
        } else {
            out.extend_from_slice(&record);
        }
        kept.push(is_event && !is_gone);
        at += record.len();
        count += 1;
        if old.get(at) == Some(&format::SEAL_TAG) {
            at += format::field_size(&old[at..]);
            let mut seal = Vec::with_capacity(format::SEAL_SIZE_BYTES_MAX);
            format::put_seal(&mut seal, &out[begin..], count);
            out.extend_from_slice(&seal);
            (begin, count) = (out.len(), 0);
        }
    }
    out.shrink_to_fit();
    let kept = Kept::new(kept.into_iter());
    Compacted { bytes: Bytes::from(out), offsets: offsets.into_boxed_slice(), removed, kept }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::core::{
        clock::Timestamp,
        log::{
            chain::Chain,
            format::{Body, Data, EventView, Stamp},
            segment::{Home, SegmentWriter},
        },
        position::Version,
    };

    /// A segment of commits of so many events each, the last event's position, and the chain behind it.
    fn segment(commits: &[u64]) -> (Arc<Segment>, Position, Chain) {
        let mut writer =
            SegmentWriter::new(Position::new(8), 1 << 20, Some(Chain::GENESIS.value()));
        let (mut last, mut chain) = (Position::new(7), Chain::GENESIS);
        for count in commits {
            let (mut bytes, mut records) = (Vec::new(), Vec::new());
            for _ in 0..*count {
                last = last.next();
                records.push(u32::try_from(bytes.len()).expect("a small number"));
                let stamp = Stamp {
                    id: Uuid::from_u128(last.get().into()),
                    position: last,
                    version: Version::new(last.get()),
                    recorded_at: Timestamp::from_micros(5),
                    occurred_at: Timestamp::from_micros(4),
                };
                let body = Body {
                    stream: "Account-1",
                    event_type: "Made",
                    data: Data::Text("a secret"),
                    ..Body::default()
                };
                format::put_event(&mut bytes, &stamp, &body.encode());
            }
            chain.extend(&bytes, &records);
            let mut seal = Vec::new();
            let count = u32::try_from(*count).expect("a small number");
            format::put_seal(&mut seal, &bytes, count);
            bytes.extend_from_slice(&seal);
            writer.append(&bytes, &records);
        }
        (Arc::clone(writer.segment()), last, chain)
    }

    fn fixed(compacted: Compacted, home: Home) -> Segment {
        Segment::fixed(Position::new(8), compacted.bytes, compacted.offsets, home)
    }

    /// The chain behind the segment, every commit of which is checked.
    fn check(segment: &Segment) -> Chain {
        let bytes = segment.readable(0..);
        let mut at = segment.offset(segment.first());
        let (mut first, mut chain, mut records) = (segment.first(), Chain::GENESIS, Vec::new());
        while at < bytes.len() {
            let size = format::check_commit(&bytes[at..], first, &mut records).expect("it is good");
            chain.extend(&bytes[at..], &records);
            at += size;
            first = first.plus(records.len() as u64);
        }
        chain
    }

    proptest! {
        /// Compacted once or twice: what is left reads as before, what is gone has left its place and its
        /// digest, and the chain is the same.
        #[test]
        fn what_is_left_is_as_it_was_and_the_chain_holds(
            commits in proptest::collection::vec(1u64..5, 1..12),
            gone in proptest::collection::vec(0u8..3, 60),
        ) {
            let (before, last, chain) = segment(&commits);
            let round = |position: Position| gone[usize::try_from(position.get()).unwrap()];
            let is_gone = |until: u8| {
                move |record: &[u8]| round(EventView::of(record).stamp.position) <= until
            };
            let once = fixed(compact(&before, last, is_gone(0)), Home::Memory);
            let survey = survey(&once, last, is_gone(1));
            let twice = compact(&once, last, is_gone(1));
            prop_assert_eq!(twice.removed, survey.events);
            let twice = fixed(twice, Home::File);
            prop_assert_eq!(check(&before), chain);
            prop_assert_eq!(check(&once), chain);
            prop_assert_eq!(check(&twice), chain);
            for position in positions(&before, last) {
                let (old, new) = (before.record(position), twice.record(position));
                if round(position) > 1 {
                    prop_assert_eq!(&*old, &*new);
                } else {
                    let (old, new) = (old.event(), new.event());
                    prop_assert_eq!(old.stamp.id, new.stamp.id);
                    prop_assert_eq!(old.stamp.position, new.stamp.position);
                    prop_assert_eq!(old.stamp.version, new.stamp.version);
                    prop_assert_eq!(old.stamp.recorded_at, new.stamp.recorded_at);
                    prop_assert_eq!(old.body.stream, new.body.stream);
                    prop_assert_eq!(new.body.data, Data::None);
                }
            }
            let kept = positions(&before, last).filter(|position| round(*position) > 1).count();
            let bytes = twice.readable(0..);
            let secrets = bytes.windows(8).filter(|window| *window == b"a secret").count();
            prop_assert_eq!(secrets, kept, "nothing of a removed event's data is left");
        }
    }
}
