//! Reads the segments back, checks every byte, and says where the log goes on.
//!
//! A crash can tear the newest file only, behind its last acknowledged commit. So a fault is a torn tail
//! if it is in the newest file and nothing valid follows it: then it is cut off and told. Any other
//! fault is corruption: nothing is touched, and the server does not start.

use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{files::Files, segment_name};
use crate::core::{
    log::{
        format::{self, CheckedCommit, FormatError},
        segment::SegmentWriter,
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

/// What is wrong with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it has no header")]
    Header,
    #[error("it is of format {0}, and this annals knows format 1: a newer one has written it")]
    Newer(u32),
    #[error("{0}")]
    Format(#[from] FormatError),
    #[error("an event does not have the position that follows")]
    Position,
}

/// What was cut off the newest segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub file: String,
    pub offset: usize,
    pub reason: Fault,
}

/// The log as it was found.
#[derive(Default)]
pub struct Recovered {
    /// In the order of the log, filled; the last one is the active one.
    pub segments: Vec<SegmentWriter>,
    /// The last position.
    pub head: Position,
    pub cut: Option<Cut>,
}

/// How a segment's bytes were found.
struct Checked {
    writer: SegmentWriter,
    last: Position,
    /// Where it stops being good, and why, if that is not its end.
    fault: Option<(usize, Fault, bool)>,
}

/// Reads and checks all segments of `files`, on all processors; `progress` is told the number of
/// segments that are done and of all. Segments have room for `segment_size` bytes. Nothing is changed on
/// the disk but a newest file that was never finished.
pub fn recover(
    files: &dyn Files,
    segment_size: usize,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<Recovered, RecoveryError> {
    let failed = |file: &str| {
        let file = file.to_owned();
        move |source| RecoveryError::Io { file, source }
    };
    let mut names = files.list().map_err(failed("the segments"))?;
    names.sort();
    let mut firsts = Vec::with_capacity(names.len());
    for name in &names {
        let first = name.strip_suffix(".segment").and_then(|digits| digits.parse().ok());
        let first = first.map(Position::new).filter(|first| segment_name(*first) == *name);
        firsts.push(first.ok_or_else(|| RecoveryError::Stranger(name.clone()))?);
    }

    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Result<Checked, RecoveryError>>>> =
        names.iter().map(|_| Mutex::new(None)).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            // Relaxed: it only gives out numbers.
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(name) = names.get(index) else { return };
            let checked = files
                .read(name)
                .map_err(failed(name))
                .map(|bytes| check(&bytes, firsts[index], segment_size));
            *results[index].lock().expect("no holder panics") = Some(checked);
            progress(index + 1, names.len());
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.min(names.len())).map(|_| scope.spawn(work)).collect();
        // A scope waits for its threads' work. Joined, they are gone, with all that was theirs.
        for thread in threads {
            thread.join().expect("no reader panics");
        }
    });

    let mut recovered = Recovered::default();
    let count = names.len();
    for (index, result) in results.into_iter().enumerate() {
        let result = result.into_inner().expect("no holder panics");
        let Checked { writer, last, fault } = result.expect("every segment was read")?;
        let (name, newest) = (&names[index], index + 1 == count);
        if firsts[index] != recovered.head.next() {
            return Err(RecoveryError::Missing {
                file: segment_name(recovered.head.next()),
                before: names[index.saturating_sub(1)].clone(),
                after: name.clone(),
            });
        }
        if let Some((offset, reason, valid_follows)) = fault {
            let file = name.clone();
            if !newest || valid_follows || matches!(reason, Fault::Newer(_)) {
                return Err(RecoveryError::Corrupt { file, offset, reason });
            }
            if reason == Fault::Header {
                // It was being made when the end came; no commit ever went into it.
                files.remove(name).map_err(failed(name))?;
                files.sync_names().map_err(failed(name))?;
                recovered.cut = Some(Cut { file, offset, reason });
                break;
            }
            recovered.cut = Some(Cut { file, offset, reason });
        }
        recovered.head = last;
        recovered.segments.push(writer);
    }
    Ok(recovered)
}

fn check(bytes: &[u8], first: Position, segment_size: usize) -> Checked {
    let mut writer = SegmentWriter::new(first, segment_size.max(bytes.len()));
    let mut last = first.previous();
    let header = writer.size();
    let fault = match format::read_header(bytes) {
        Some((version, _)) if version > format::FORMAT_VERSION => Some((0, Fault::Newer(version))),
        Some((_, found)) if found == first && bytes.starts_with(writer.segment().readable(0..)) => {
            commits(bytes, header, &mut writer, &mut last)
        }
        _ => Some((0, Fault::Header)),
    };
    let fault = fault.map(|(offset, fault)| (offset, fault, valid_follows(bytes, offset)));
    Checked { writer, last, fault }
}

/// Puts the commits of `bytes`, from `offset`, into the segment, until they end or one is not good.
fn commits(
    bytes: &[u8],
    mut offset: usize,
    writer: &mut SegmentWriter,
    last: &mut Position,
) -> Option<(usize, Fault)> {
    loop {
        let rest = &bytes[offset..];
        // Zeros are room that was not used yet.
        if rest.first().is_none_or(|byte| *byte == 0) {
            let used = rest.iter().position(|byte| *byte != 0);
            return used.map(|at| (offset + at, Fault::Format(FormatError::Tag)));
        }
        let commit = match format::check_commit(rest) {
            Ok(commit) => commit,
            Err(error) => return Some((offset, error.into())),
        };
        let CheckedCommit { size, records, first } = commit;
        if first != last.next() {
            return Some((offset, Fault::Position));
        }
        writer.append(&rest[..size], &records);
        *last = last.plus(records.len() as u64);
        offset += size;
    }
}

/// Whether a whole commit begins anywhere behind `offset`.
fn valid_follows(bytes: &[u8], offset: usize) -> bool {
    (offset + 1..bytes.len())
        .filter(|at| bytes[*at] == format::EVENT_TAG)
        .any(|at| format::check_commit(&bytes[at..]).is_ok())
}
