//! A snapshot of the indexes, so that a start need not index everything again.
//!
//! ```text
//! DIR/index/00000000000010000000.index     the indexes up to position 10 000 000
//!
//! magic  streams  categories  types  tags  ids  trailer        docs/format.md has the bytes
//! ```
//!
//! It holds nothing that does not follow from the segments: one that is missing, damaged or of another
//! log costs the time to index, and is told, and that is all. It is written by a reader of the history,
//! beside appends, and read back at a start, on two threads.

use std::{io, ops::Range};

use bytes::Bytes;

use super::{
    UNFINISHED,
    files::{File, Files},
};
use crate::core::{
    history::History,
    index::{
        ids::{IdWriter, Keys, SHARDS},
        map::IndexMap,
        positions::PositionList,
    },
    log::{
        Reader,
        chain::{self, Hash},
        format,
    },
    name::Name,
    position::Position,
};

const MAGIC: &[u8; 8] = b"ANNLIDX1";
/// Head, digest, two keys, where the five sections end, checksum.
const TRAILER_SIZE_BYTES: usize = 8 + 32 + 16 + 5 * 8 + 4;
/// So much is written at once.
const WRITTEN_AT_ONCE_BYTES: usize = 1 << 20;

/// The indexes as they were up to `head`.
pub struct Indexes {
    pub head: Position,
    pub streams: IndexMap,
    pub categories: IndexMap,
    pub types: IndexMap,
    pub tags: IndexMap,
    pub ids: IdWriter,
    /// Of the event at `head`: tells whether a log is the one that was indexed.
    digest: Hash,
}

/// Why a snapshot is not used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("cannot read it")]
    Io(#[from] io::Error),
    #[error("it is damaged")]
    Damaged,
    #[error("it is of another log")]
    OtherLog,
}

fn file_name(head: Position) -> String {
    format!("{:020}.index", head.get())
}

/// Writes the indexes of `history` as `reader` sees them to `files`, and removes older ones.
pub fn write(files: &dyn Files, history: &History, reader: &Reader) -> io::Result<()> {
    let head = reader.head();
    let Some(record) = reader.trace(head) else { return Ok(()) };
    let name = file_name(head);
    let unfinished = format!("{name}{UNFINISHED}");
    let older = files.list()?;
    for leftover in older.iter().filter(|other| **other == unfinished) {
        files.remove(leftover)?;
    }
    let mut out =
        Out { file: files.open(&unfinished, true)?, bytes: Vec::new(), offset: 0, checksum: 0 };
    out.bytes.extend_from_slice(MAGIC);
    let mut ends = [0; 5];
    let maps = [&history.streams, &history.categories, &history.types, &history.tags];
    for (map, end) in maps.into_iter().zip(&mut ends) {
        put_map(&mut out, map, head)?;
        *end = out.end();
    }
    for shard in 0..SHARDS {
        let entries = history.ids.entries(shard, head);
        format::put_varint(&mut out.bytes, entries.len() as u64);
        for entry in entries {
            out.bytes.extend_from_slice(&entry.to_le_bytes());
        }
        out.write_if_large()?;
    }
    ends[4] = out.end();
    out.bytes.extend_from_slice(&head.get().to_le_bytes());
    out.bytes.extend_from_slice(&chain::digest(&record));
    let keys = history.ids.keys();
    for number in [keys.0, keys.1].into_iter().chain(ends) {
        out.bytes.extend_from_slice(&number.to_le_bytes());
    }
    out.write()?;
    out.bytes.extend_from_slice(&out.checksum.to_le_bytes());
    out.write()?;
    out.file.sync()?;
    files.rename(&unfinished, &name)?;
    files.sync_names()?;
    for old in older.iter().filter(|other| **other != name && **other != unfinished) {
        files.remove(old)?;
    }
    Ok(())
}

/// A file that is written from its beginning to its end.
struct Out {
    file: Box<dyn File>,
    bytes: Vec<u8>,
    /// Where in the file `bytes` goes.
    offset: u64,
    /// Of what is in the file.
    checksum: u32,
}

impl Out {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_at(&self.bytes, self.offset)?;
        self.checksum = crc32c::crc32c_append(self.checksum, &self.bytes);
        self.offset = self.end();
        self.bytes.clear();
        Ok(())
    }

    fn write_if_large(&mut self) -> io::Result<()> {
        if self.bytes.len() < WRITTEN_AT_ONCE_BYTES { Ok(()) } else { self.write() }
    }
}

fn put_map(out: &mut Out, map: &IndexMap, head: Position) -> io::Result<()> {
    for name in map.names() {
        let Some(positions) = map.get(name.as_str()) else { continue };
        let count = positions.count(head);
        if count == 0 {
            continue;
        }
        let name = name.as_str().as_bytes();
        format::put_varint(&mut out.bytes, name.len() as u64);
        out.bytes.extend_from_slice(name);
        format::put_varint(&mut out.bytes, count);
        let mut last = 0;
        for position in positions.up_to(head) {
            format::put_varint(&mut out.bytes, position - last);
            last = position;
            out.write_if_large()?;
        }
    }
    Ok(())
}

/// The newest snapshot in `files`, if there is one, with its name.
pub fn read_newest(files: &dyn Files) -> Option<(String, Result<Indexes, SnapshotError>)> {
    let mut names = files.list().ok()?;
    names.retain(|name| name.strip_suffix(".index").is_some());
    let name = names.into_iter().max()?;
    let indexes = files.map(&name).map_err(SnapshotError::from).and_then(|bytes| read(&bytes));
    Some((name, indexes))
}

impl Indexes {
    /// Whether they are the indexes of the log that `reader` sees.
    pub fn check(self, reader: &Reader) -> Result<Self, SnapshotError> {
        let digest = reader.trace(self.head).map(|record| chain::digest(&record));
        if digest == Some(self.digest) { Ok(self) } else { Err(SnapshotError::OtherLog) }
    }
}

/// Reads a snapshot back. Takes any bytes.
pub fn read(bytes: &Bytes) -> Result<Indexes, SnapshotError> {
    let damaged = || SnapshotError::Damaged;
    let body_size = bytes.len().checked_sub(TRAILER_SIZE_BYTES).ok_or_else(damaged)?;
    let (checked, checksum) = bytes.split_at(bytes.len() - 4);
    let whole = bytes.starts_with(MAGIC) && crc32c::crc32c(checked).to_le_bytes() == checksum;
    if !whole {
        return Err(SnapshotError::Damaged);
    }
    let mut trailer = &checked[body_size..];
    let head = Position::new(take_u64(&mut trailer).ok_or_else(damaged)?);
    let (digest, rest) = trailer.split_first_chunk::<32>().ok_or_else(damaged)?;
    trailer = rest;
    let mut number = || take_u64(&mut trailer).ok_or_else(damaged);
    let keys: Keys = (number()?, number()?);
    let mut begin = MAGIC.len();
    let mut sections: [Range<usize>; 5] = Default::default();
    for section in &mut sections {
        let end = usize::try_from(number()?).map_err(|_| damaged())?;
        if end < begin || end > body_size {
            return Err(SnapshotError::Damaged);
        }
        *section = begin..end;
        begin = end;
    }
    let [streams, categories, types, tags, ids] = sections.map(|section| &bytes[section]);
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let ids = take_ids(ids, keys, head)?;
            let categories = take_map(categories, IndexMap::listed(), head)?;
            let types = take_map(types, IndexMap::listed(), head)?;
            let tags = take_map(tags, IndexMap::unlisted(), head)?;
            Some((ids, categories, types, tags))
        });
        let streams = take_map(streams, IndexMap::listed(), head);
        let others = others.join().expect("the reader does not panic");
        let ((ids, categories, types, tags), streams) = others.zip(streams).ok_or_else(damaged)?;
        Ok(Indexes { head, streams, categories, types, tags, ids, digest: *digest })
    })
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

fn take_size(bytes: &mut &[u8]) -> Option<usize> {
    usize::try_from(format::take_varint(bytes).ok()?).ok()
}

fn take_map(mut bytes: &[u8], map: IndexMap, head: Position) -> Option<IndexMap> {
    let mut positions = Vec::new();
    while !bytes.is_empty() {
        let size = take_size(&mut bytes)?;
        let (name, rest) = bytes.split_at_checked(size)?;
        bytes = rest;
        let name = Name::new(str::from_utf8(name).ok()?, usize::MAX).ok()?;
        let count = take_size(&mut bytes)?;
        positions.clear();
        let mut last = 0u64;
        for _ in 0..count {
            last = last.checked_add(format::take_varint(&mut bytes).ok()?)?;
            positions.push(last);
        }
        let known = map.get(name.as_str()).is_some();
        if known || last > head.get() || positions.first() == Some(&0) {
            return None;
        }
        map.insert(name, PositionList::restore(&positions)?);
    }
    Some(map)
}

fn take_ids(mut bytes: &[u8], keys: Keys, head: Position) -> Option<IdWriter> {
    let mut shards = Vec::with_capacity(SHARDS);
    for _ in 0..SHARDS {
        let count = take_size(&mut bytes)?;
        let (entries, rest) = bytes.split_at_checked(count.checked_mul(8)?)?;
        bytes = rest;
        let (entries, _) = entries.as_chunks::<8>();
        shards.push(entries.iter().map(|entry| u64::from_le_bytes(*entry)).collect());
    }
    if bytes.is_empty() { IdWriter::restore(keys, shards, head) } else { None }
}
