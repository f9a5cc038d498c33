//! Reads the segments back, checks every byte, and says where the log goes on.
//!
//! A crash can tear the newest file only, behind its last acknowledged commit. So a fault is a torn tail
//! if it is in the newest file and nothing valid follows it: then it is cut off and told. Any other
//! fault is corruption: nothing is touched, and the server does not start.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use super::{UNFINISHED, files::Files, segment_name};
use crate::core::{
    log::{
        chain::Chain,
        format::{self, FormatError, Header},
        packing::{self, Packed},
        segment::{Home, Segment, SegmentWriter},
        verify::{self, Fault},
    },
    position::Position,
};

/// Why the segments cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("{file} is damaged at byte {offset}: {reason}; nothing was changed")]
    Corrupt { file: String, offset: usize, reason: Fault },
    #[error("{file} is missing: {before} ends before it and {after} begins behind it")]
    Missing { file: String, before: String, after: String },
    #[error("{0} is not a segment; nothing but segments belongs here")]
    Stranger(String),
    #[error("cannot read {file}")]
    Io { file: String, source: io::Error },
}

/// What was cut off the newest segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub file: String,
    pub offset: usize,
    pub reason: Fault,
}

/// The log as it was found.
pub struct Recovered {
    /// In the order of the log.
    pub sealed: Vec<Arc<Segment>>,
    /// The newest segment, to go on in; `None` where there is no file.
    pub active: Option<SegmentWriter>,
    /// The last position.
    pub head: Position,
    /// The hash chain up to the head.
    pub chain: Chain,
    pub cut: Option<Cut>,
}

/// How a segment's bytes were found.
struct Checked {
    segment: Found,
    last: Position,
    /// Where it stops being good, and why, if that is not its end, and whether anything good follows.
    fault: Option<(usize, Fault, bool)>,
}

enum Found {
    Sealed(Arc<Segment>),
    Newest(SegmentWriter, Chain),
}

/// Reads and checks all segments of `files`, on all processors; `progress` is told the number of
/// segments that are done and of all. The newest segment has room for `segment_size` bytes. Nothing is
/// changed on the disk but files that were never finished, and those only if all else is good.
pub fn recover(
    files: &dyn Files,
    segment_size: usize,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<Recovered, RecoveryError> {
    let mut names = files.list().map_err(failed("the segments"))?;
    names.sort();
    let (unfinished, names): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| name.ends_with(UNFINISHED));
    let mut firsts = Vec::with_capacity(names.len());
    for name in &names {
        firsts.push(first_position(name).ok_or_else(|| RecoveryError::Stranger(name.clone()))?);
    }

    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results: Vec<Mutex<Option<Result<Checked, RecoveryError>>>> =
        names.iter().map(|_| Mutex::new(None)).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut records = Vec::new();
        loop {
            // Relaxed: it only gives out numbers.
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(name) = names.get(index) else { return };
            let first = firsts[index];
            let mut check = || {
                if index + 1 == names.len() {
                    let bytes = files.read(name)?;
                    // One that is packed was sealed: what came behind it is gone, or was never begun.
                    if !packing::is_packed(&bytes) {
                        return Ok(check_newest(&bytes, first, segment_size, &mut records));
                    }
                }
                Ok(check_sealed(&files.map(name)?, first, &mut records))
            };
            let checked = check().map_err(failed(name));
            *results[index].lock().expect("no holder panics") = Some(checked);
            // Relaxed: a number to look at.
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, names.len());
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.min(names.len())).map(|_| scope.spawn(work)).collect();
        // A scope waits for its threads' work. Joined, they are gone, with all that was theirs.
        for thread in threads {
            thread.join().expect("no reader panics");
        }
    });

    let mut recovered = Recovered {
        sealed: Vec::with_capacity(names.len()),
        active: None,
        head: Position::ZERO,
        chain: Chain::GENESIS,
        cut: None,
    };
    let mut never_begun = None;
    for (index, result) in results.into_iter().enumerate() {
        let result = result.into_inner().expect("no holder panics");
        let Checked { segment, last, fault } = result.expect("every segment was read")?;
        let name = &names[index];
        if firsts[index] != recovered.head.next() {
            return Err(RecoveryError::Missing {
                file: segment_name(recovered.head.next()),
                before: names[index.saturating_sub(1)].clone(),
                after: name.clone(),
            });
        }
        let newest = matches!(segment, Found::Newest(..));
        if let Some((offset, reason, valid_follows)) = fault {
            let file = name.clone();
            if !newest || valid_follows || matches!(reason, Fault::Newer(_)) {
                return Err(RecoveryError::Corrupt { file, offset, reason });
            }
            recovered.cut = Some(Cut { file, offset, reason });
            if reason == Fault::Header {
                // It was being made when the end came; no commit ever went into it.
                never_begun = Some(name);
                break;
            }
        }
        recovered.head = last;
        match segment {
            Found::Sealed(segment) => recovered.sealed.push(segment),
            Found::Newest(writer, chain) => {
                recovered.chain = chain;
                recovered.active = Some(writer);
            }
        }
    }
    if let (None, Some(last)) = (&recovered.active, recovered.sealed.last()) {
        recovered.chain = chain_of(last);
    }
    for name in unfinished.iter().chain(never_begun) {
        files.remove(name).and_then(|()| files.sync_names()).map_err(failed(name))?;
    }
    Ok(recovered)
}

fn failed(file: &str) -> impl FnOnce(io::Error) -> RecoveryError {
    let file = file.to_owned();
    move |source| RecoveryError::Io { file, source }
}

/// The first position of the segment that has this name; `None` if no segment has.
pub fn first_position(name: &str) -> Option<Position> {
    let first = Position::new(name.strip_suffix(".segment")?.parse().ok()?);
    (segment_name(first) == name).then_some(first)
}

fn check_header(bytes: &[u8], first: Position) -> Result<Header, Fault> {
    // In a file the chain is always kept.
    verify::check_header(bytes, first)
        .and_then(|header| if header.chain.is_some() { Ok(header) } else { Err(Fault::Header) })
}

fn check_sealed(bytes: &Bytes, first: Position, records: &mut Vec<u32>) -> Checked {
    if let Ok(header) = check_header(bytes, first)
        && bytes.get(header.size) == Some(&format::PACKED_TAG)
    {
        return check_packed(bytes, &header, records);
    }
    let mut offsets = Vec::new();
    let mut end = 0;
    let fault = match check_header(bytes, first) {
        Ok(header) => {
            end = header.size;
            commits(bytes, header.size, first, records, |offset, size, records| {
                let base = u32::try_from(offset).expect("checked to fit");
                offsets.extend(records.iter().map(|record| base + record));
                end = offset + size;
            })
        }
        Err(fault) => Some((0, fault)),
    };
    let last = first.previous().plus(offsets.len() as u64);
    let fault = fault.map(|(offset, fault)| (offset, fault, true));
    let segment = Segment::fixed(first, bytes.slice(..end), offsets.into_boxed_slice(), Home::File);
    Checked { segment: Found::Sealed(Arc::new(segment)), last, fault }
}

fn check_packed(bytes: &Bytes, header: &Header, records: &mut Vec<u32>) -> Checked {
    let first = header.first;
    let mut offsets = Vec::new();
    let packed = Packed::open(bytes.clone(), header.size, |plain_start, plain| {
        let next = first.plus(offsets.len() as u64);
        let fault = commits(plain, 0, next, records, |offset, _, records| {
            let base = u32::try_from(plain_start + offset).expect("a block is checked to fit");
            offsets.extend(records.iter().map(|record| base + record));
        });
        match fault {
            None => Ok(()),
            Some((at, Fault::Format(error))) => Err((at, error)),
            Some((at, _)) => Err((at, FormatError::Packed)),
        }
    });
    let last = first.previous().plus(offsets.len() as u64);
    let offsets = offsets.into_boxed_slice();
    let (segment, fault) = match packed {
        Ok(packed) => (Segment::packed(first, packed, offsets, Home::File), None),
        Err((at, error)) => {
            let segment = Segment::fixed(first, Bytes::new(), Box::default(), Home::File);
            (segment, Some((at, error.into(), true)))
        }
    };
    Checked { segment: Found::Sealed(Arc::new(segment)), last, fault }
}

fn check_newest(
    bytes: &[u8],
    first: Position,
    segment_size: usize,
    records: &mut Vec<u32>,
) -> Checked {
    let room = segment_size.max(bytes.len());
    let mut last = first.previous();
    let header = match check_header(bytes, first) {
        Ok(header) => header,
        Err(fault) => {
            let writer = SegmentWriter::new(first, room, None);
            let fault = Some((0, fault, valid_follows(bytes, 0)));
            return Checked { segment: Found::Newest(writer, Chain::GENESIS), last, fault };
        }
    };
    let mut writer = SegmentWriter::new(first, room, header.chain.as_ref());
    let mut chain = Chain::from_header(header.chain.expect("it was checked"));
    let fault = commits(bytes, header.size, first, records, |offset, size, records| {
        writer.append(&bytes[offset..offset + size], records);
        chain.extend(&bytes[offset..], records);
        last = last.plus(records.len() as u64);
    });
    let fault = fault.map(|(offset, fault)| (offset, fault, valid_follows(bytes, offset)));
    Checked { segment: Found::Newest(writer, chain), last, fault }
}

/// Tells `each` of the commits of `bytes`, from `offset` and the position `first` on, their offset, size
/// and records, until they end or one is not good.
fn commits(
    bytes: &[u8],
    mut offset: usize,
    mut first: Position,
    records: &mut Vec<u32>,
    mut each: impl FnMut(usize, usize, &[u32]),
) -> Option<(usize, Fault)> {
    if bytes.len() > u32::MAX as usize {
        return Some((u32::MAX as usize, Fault::Size));
    }
    loop {
        let rest = &bytes[offset..];
        // Zeros are room that was not used yet.
        if rest.first().is_none_or(|byte| *byte == 0) {
            let used = rest.iter().position(|byte| *byte != 0);
            return used.map(|at| (offset + at, Fault::Format(FormatError::Tag)));
        }
        match format::check_commit(rest, first, records) {
            Ok(size) => {
                each(offset, size, records);
                first = first.plus(records.len() as u64);
                offset += size;
            }
            Err(error) => return Some((offset, error.into())),
        }
    }
}

/// The chain behind a sealed segment that was checked.
fn chain_of(segment: &Arc<Segment>) -> Chain {
    let segment = segment.plain().map_err(|(_, error)| error).expect("it was checked");
    let bytes = segment.readable(0..);
    let header = format::read_header(bytes).expect("it was checked");
    let mut chain = Chain::from_header(header.chain.expect("it was checked"));
    let each = |offset: usize, _: usize, records: &[u32]| chain.extend(&bytes[offset..], records);
    commits(bytes, header.size, header.first, &mut Vec::new(), each);
    chain
}

/// Whether a whole commit begins anywhere behind `offset`, or a whole block of packed ones.
pub(super) fn valid_follows(bytes: &[u8], offset: usize) -> bool {
    let mut records = Vec::new();
    (offset + 1..bytes.len()).any(|at| {
        let rest = &bytes[at..];
        match bytes[at] {
            format::EVENT_TAG | format::REMOVED_TAG => format::read_position(rest)
                .is_some_and(|first| format::check_commit(rest, first, &mut records).is_ok()),
            format::PACKED_TAG => packing::read_packed(rest).is_ok(),
            _ => false,
        }
    })
}
