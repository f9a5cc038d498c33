//! Checks a log from its beginning on: every commit's checksum, every position, the hash chain.
//!
//! ```text
//! begin(segment 1)  commit  commit …  begin(segment 2)  commit …       chain, position, tally
//!   ^ the header's chain value must be the one that the commits before it came to
//! ```
//!
//! [`Verifier`] is fed segments as bytes, from files or from memory, and stops after every commit, so that
//! its caller decides how long it works at once. [`Walk`] feeds it the log as of one moment. In memory
//! mode headers have no chain value; it is worked out from the beginning.

use std::{collections::VecDeque, fmt, sync::Arc};

use super::{
    Reader,
    chain::Chain,
    format::{self, FormatError, Header},
    segment::Segment,
};
use crate::core::position::Position;

/// What is wrong with a segment's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it has no header")]
    Header,
    #[error("it is of format {0}, and this annals knows format 1: a newer one has written it")]
    Newer(u32),
    #[error("it is larger than a segment can be")]
    Size,
    #[error("it does not begin at position {0}, which follows")]
    Gap(Position),
    /// Found at the header behind them.
    #[error(
        "the hash chain does not fit: of the events from {from} to {to} one was changed, removed or \
         re-ordered after it was recorded"
    )]
    Chain { from: Position, to: Position },
    #[error("{0}")]
    Format(#[from] FormatError),
}

/// Where it is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The position that the segment's name says.
    pub segment: Position,
    /// In the segment's bytes.
    pub offset: usize,
    pub fault: Fault,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, offset, fault } = self;
        write!(f, "segment {segment} is damaged at byte {offset}: {fault}")
    }
}

impl std::error::Error for Damage {}

/// How much was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events, those that were removed not among them.
    pub events: u64,
    /// What is left of removed events.
    pub removed: u64,
    pub segments: u64,
    /// Headers, records and seals.
    pub bytes: u64,
}

/// The chain's value at a position that somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// The position was not reached yet.
    Ahead,
    Value(Chain),
    /// The chain has no value there: the position is inside of a commit, which ends at this one.
    Inside(Position),
}

/// The check of a log, as far as it is.
pub struct Verifier {
    chain: Chain,
    /// Whether what is before the first position is known, or a header has told the chain's value.
    knows_chain: bool,
    position: Position,
    /// Up to here a header has confirmed the chain.
    confirmed: Position,
    tally: Tally,
    /// Of the segment at hand.
    segment: Position,
    /// Where in it the next commit begins.
    offset: usize,
    noting: Position,
    noted: Noted,
    records: Vec<u32>,
}

impl Verifier {
    /// Before everything.
    pub fn new() -> Self {
        Self::from(Position::new(1))
    }

    /// Before `first`: what was before that is dropped, and the chain is not known until a header tells.
    pub fn from(first: Position) -> Self {
        Self {
            chain: Chain::GENESIS,
            knows_chain: first == Position::new(1),
            position: first.previous(),
            confirmed: first.previous(),
            tally: Tally::default(),
            segment: Position::ZERO,
            offset: 0,
            noting: Position::MAX,
            noted: Noted::Ahead,
            records: Vec::new(),
        }
    }

    /// The same, which notes the chain's value at `position`.
    #[must_use]
    pub fn noting(mut self, position: Position) -> Self {
        self.noting = position;
        self
    }

    /// Everything up to here is checked.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The chain's value there, if it is known.
    pub fn chain(&self) -> Option<&Chain> {
        self.knows_chain.then_some(&self.chain)
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Where in the segment at hand the next commit begins.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The chain's value at the position that is to be noted.
    pub fn noted(&self) -> Noted {
        self.noted
    }

    /// Begins with the next segment: `bytes`, whose name says that it begins at `first`. After a fault of
    /// the chain it may go on, with the value that the header has.
    pub fn begin(&mut self, bytes: &[u8], first: Position) -> Result<Header, Damage> {
        (self.segment, self.offset) = (first, 0);
        if first != self.position.next() {
            return Err(self.damage(Fault::Gap(self.position.next())));
        }
        let header = check_header(bytes, first).map_err(|fault| self.damage(fault))?;
        self.tally.segments += 1;
        self.tally.bytes += header.size as u64;
        let Some(value) = header.chain else {
            self.offset = header.size;
            return Ok(header);
        };
        let expected = std::mem::replace(&mut self.chain, Chain::from_header(value));
        let from = std::mem::replace(&mut self.confirmed, self.position).next();
        let fault = Fault::Chain { from, to: self.position };
        let fits = !std::mem::replace(&mut self.knows_chain, true) || self.chain == expected;
        let damage = (!fits).then(|| self.damage(fault));
        self.offset = header.size;
        damage.map_or(Ok(header), Err)
    }

    /// Checks the next commit of the segment at hand, which has `bytes`; its size, or `None` where the
    /// segment ends. Zeros at the end are room that was not used yet.
    pub fn commit(&mut self, bytes: &[u8]) -> Result<Option<usize>, Damage> {
        let rest = &bytes[self.offset.min(bytes.len())..];
        if rest.first().is_none_or(|byte| *byte == 0) {
            return match rest.iter().position(|byte| *byte != 0) {
                None => Ok(None),
                Some(at) => {
                    self.offset += at;
                    Err(self.damage(FormatError::Tag.into()))
                }
            };
        }
        let size = format::check_commit(rest, self.position.next(), &mut self.records)
            .map_err(|error| self.damage(error.into()))?;
        if self.knows_chain {
            self.chain.extend(rest, &self.records);
        }
        let is_removed = |record: &&u32| rest[**record as usize] == format::REMOVED_TAG;
        let removed = self.records.iter().filter(is_removed).count() as u64;
        let records = self.records.len() as u64;
        self.tally.events += records - removed;
        self.tally.removed += removed;
        self.tally.bytes += size as u64;
        self.position = self.position.plus(records);
        self.offset += size;
        if self.noted == Noted::Ahead && self.noting <= self.position {
            let at_end = self.noting == self.position;
            self.noted =
                if at_end { Noted::Value(self.chain) } else { Noted::Inside(self.position) };
        }
        Ok(Some(size))
    }

    fn damage(&self, fault: Fault) -> Damage {
        Damage { segment: self.segment, offset: self.offset, fault }
    }
}

impl Default for Verifier {
    fn default() -> Self {
        Self::new()
    }
}

/// The damage of a segment that cannot be unpacked.
pub fn unreadable(segment: Position, (offset, error): (usize, FormatError)) -> Damage {
    Damage { segment, offset, fault: error.into() }
}

/// The header of a segment whose name says that it begins at `first`. Nothing else is in it than what we
/// write.
pub fn check_header(bytes: &[u8], first: Position) -> Result<Header, Fault> {
    if bytes.len() > u32::MAX as usize {
        return Err(Fault::Size);
    }
    match format::read_header(bytes) {
        Some(Header { format_version, .. })
            if format_version > format::FORMAT_VERSION && format::header_is_whole(bytes) =>
        {
            Err(Fault::Newer(format_version))
        }
        Some(header) => {
            let expected = format::header(first, header.chain.as_ref());
            if bytes.starts_with(&expected) { Ok(header) } else { Err(Fault::Header) }
        }
        None => Err(Fault::Header),
    }
}

/// The check of the log as of one moment, in steps.
pub struct Walk {
    head: Position,
    /// Those that are not done, each with how many of its bytes are visible.
    segments: VecDeque<(Arc<Segment>, usize)>,
    /// Whether the first of them has begun.
    begun: bool,
    bytes: u64,
    verifier: Verifier,
}

impl Walk {
    /// Over all that `reader` sees, by a verifier that begins where that begins.
    pub fn new(reader: &Reader, verifier: Verifier) -> Self {
        let segments: VecDeque<_> = reader.segments().into();
        let bytes = segments.iter().map(|(_, end)| *end as u64).sum();
        Self { head: reader.head(), segments, begun: false, bytes, verifier }
    }

    /// Where it ends.
    pub fn head(&self) -> Position {
        self.head
    }

    /// How many bytes there are to check in all.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// As far as it is.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Goes on by one commit, or to the next segment; whether there is more.
    pub fn step(&mut self) -> Result<bool, Damage> {
        let Some((segment, end)) = self.segments.front_mut() else { return Ok(false) };
        if !self.begun {
            let first = segment.first();
            *segment = segment.plain().map_err(|error| unreadable(first, error))?;
        }
        let bytes = &segment.readable(0..)[..*end];
        if !self.begun {
            self.verifier.begin(bytes, segment.first())?;
            self.begun = true;
        } else if self.verifier.commit(bytes)?.is_none() {
            self.segments.pop_front();
            self.begun = false;
        }
        Ok(true)
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::{
        clock::Timestamp,
        log::{
            LogWriter,
            chain::Hash,
            format::{Body, Stamp},
        },
        position::Version,
    };

    fn commit(first: u64, count: u64, of: &str) -> (Vec<u8>, Vec<u32>) {
        let (mut bytes, mut records) = (Vec::new(), Vec::new());
        for position in first..first + count {
            records.push(u32::try_from(bytes.len()).expect("a small number"));
            let stamp = Stamp {
                id: Uuid::from_u128(u128::from(position)),
                position: Position::new(position),
                version: Version::new(position),
                recorded_at: Timestamp::default(),
                occurred_at: Timestamp::default(),
            };
            let body = Body { stream: "S-1", event_type: of, ..Body::default() }.encode();
            format::put_event(&mut bytes, &stamp, &body);
        }
        let sealed = bytes.clone();
        format::put_seal(&mut bytes, &sealed, u32::try_from(count).expect("a small number"));
        (bytes, records)
    }

    /// A log of commits of two events, in segments of three commits or so; `kept`: with a chain.
    fn log(commits: u64, kept: bool, of: impl Fn(u64) -> &'static str) -> LogWriter {
        let mut log = LogWriter::with_segment_size(600);
        let mut chain = Chain::GENESIS;
        for number in 0..commits {
            let (bytes, records) = commit(number * 2 + 1, 2, of(number));
            let value: Option<Hash> = kept.then_some(*chain.value());
            log.append(Position::new(number * 2 + 1), &bytes, &records, value.as_ref());
            chain.extend(&bytes, &records);
        }
        log.publish(Position::new(commits * 2));
        log
    }

    fn check(log: &LogWriter, noting: u64) -> Result<Verifier, Damage> {
        let verifier = Verifier::new().noting(Position::new(noting));
        let mut walk = Walk::new(&log.log().reader(), verifier);
        while walk.step()? {}
        assert_eq!(walk.verifier().tally().bytes, walk.bytes());
        Ok(walk.verifier)
    }

    #[test]
    fn with_and_without_values_in_the_headers_the_chain_comes_to_the_same() {
        let kept = check(&log(20, true, |_| "T"), 8).expect("it is good");
        let not_kept = check(&log(20, false, |_| "T"), 8).expect("it is good");
        assert_eq!(kept.chain(), not_kept.chain());
        assert_eq!((kept.position().get(), kept.tally().events), (40, 40));
        assert!(kept.tally().segments > 3);
        let at_8 = check(&log(4, false, |_| "T"), 0).expect("it is good");
        assert_eq!(Some(kept.noted()), at_8.chain().copied().map(Noted::Value));
        let inside = check(&log(20, true, |_| "T"), 7).expect("it is good");
        assert_eq!(inside.noted(), Noted::Inside(Position::new(8)));
        assert_eq!(check(&log(0, true, |_| "T"), 1).expect("it is good").noted(), Noted::Ahead);
    }

    #[test]
    fn what_is_not_published_is_not_checked() {
        let mut log = log(5, true, |_| "T");
        let (bytes, records) = commit(11, 2, "T");
        log.append(Position::new(11), &bytes, &records, Some(Chain::GENESIS.value()));
        assert_eq!(check(&log, 0).expect("it is good").position().get(), 10);
    }

    #[test]
    fn where_old_segments_were_dropped_the_rest_is_checked_and_has_no_hash() {
        let mut log = log(20, false, |_| "T");
        log.drop_oldest().expect("it is sealed");
        let reader = log.log().reader();
        let mut walk = Walk::new(&reader, Verifier::from(reader.first()));
        while walk.step().expect("it is good") {}
        assert_eq!((walk.verifier().position().get(), walk.verifier().chain()), (40, None));
        assert!(walk.verifier().tally().events < 40);
    }

    /// Checksums are right, positions rise: only the header behind the event tells.
    #[test]
    fn an_event_of_the_past_that_was_rewritten_is_found_by_the_chain() {
        let good = log(20, true, |_| "T");
        let bad = log(20, true, |number| if number == 2 { "U" } else { "T" });
        let (good, bad) = (good.log().segments(), bad.log().segments());
        let mut verifier = Verifier::new();
        let mut found = Vec::new();
        for (index, segment) in good.iter().enumerate() {
            // The first segment is the other log's.
            let bytes = if index == 0 { bad[0].readable(0..) } else { segment.readable(0..) };
            found.extend(verifier.begin(bytes, segment.first()).err());
            while verifier.commit(bytes).expect("the checksums are right").is_some() {}
        }
        let fault = Fault::Chain { from: Position::new(1), to: good[1].first().previous() };
        assert_eq!(found, [Damage { segment: good[1].first(), offset: 0, fault }]);
    }
}
