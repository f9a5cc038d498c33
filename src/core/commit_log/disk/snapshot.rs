//! A snapshot of the indexes, so that a start need not index everything again.
//!
//! ```text
//! DIR/index/00000000000010000000.index     the indexes up to position 10 000 000
//!
//! magic  names, postings, columns, ids: a section each  trailer        docs/format.md has the bytes
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
    history::{Columns, History, MetadataIndex},
    index::{
        column::Column,
        ids::{IdWriter, Keys, SHARDS},
        map::IndexMap,
        positions::PositionList,
        shared_ids::SharedIds,
        times::TimeColumn,
    },
    log::{
        Reader,
        chain::{self, Hash},
        protobuf,
    },
    name::Name,
    position::Position,
};

const MAGIC: &[u8; 8] = b"ANNLIDX2";
/// Streams, categories, types, tags, metadata, columns, correlations, causations, ids.
const SECTIONS: usize = 9;
/// Head, digest, two keys, where the sections end, checksum.
const TRAILER_SIZE_BYTES: usize = 8 + 32 + 16 + SECTIONS * 8 + 4;
/// So much is written at once.
const WRITTEN_AT_ONCE_BYTES: usize = 1 << 20;

/// The indexes as they were up to `head`.
pub struct Indexes {
    pub head: Position,
    pub streams: IndexMap,
    pub categories: IndexMap,
    pub types: IndexMap,
    pub tags: IndexMap,
    pub correlations: SharedIds,
    pub causations: SharedIds,
    pub metadata: Box<[MetadataIndex]>,
    pub columns: Columns,
    pub ids: IdWriter,
    /// Of the event at `head`: tells whether a log is the one that was indexed.
    pub(in crate::core) digest: Hash,
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
    #[error("other metadata keys are indexed now")]
    OtherKeys,
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
    let mut ends = [0; SECTIONS];
    let maps = [&history.streams, &history.categories, &history.types, &history.tags];
    for (map, end) in maps.into_iter().zip(&mut ends) {
        put_map(&mut out, map, head)?;
        *end = out.end();
    }
    for MetadataIndex { key, values, column } in &history.metadata {
        put_text(&mut out, key.as_str());
        // How many names follow cannot be known before: a map ends with an empty name's length and code 0.
        put_map(&mut out, values, head)?;
        out.bytes.extend_from_slice(&END_OF_MAP);
        column.view().encode(head, |block| out.put(block))?;
    }
    ends[4] = out.end();
    let Columns { streams, categories, types, occurred } = &history.columns;
    for column in [streams, categories, types] {
        column.view().encode(head, |block| out.put(block))?;
    }
    occurred.view().encode(head, |block| out.put(block))?;
    ends[5] = out.end();
    for (ids, end) in [(&history.correlations, 6), (&history.causations, 7)] {
        ids.encode(head, |part| out.put(part))?;
        ends[end] = out.end();
    }
    for shard in 0..SHARDS {
        let entries = history.ids.entries(shard, head);
        protobuf::put_varint(&mut out.bytes, entries.len() as u64);
        for entry in entries {
            out.bytes.extend_from_slice(&entry.to_le_bytes());
        }
        out.write_if_large()?;
    }
    ends[8] = out.end();
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

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        self.write_if_large()
    }

    fn write_if_large(&mut self) -> io::Result<()> {
        if self.bytes.len() < WRITTEN_AT_ONCE_BYTES { Ok(()) } else { self.write() }
    }
}

/// In the place of a name's length and code: no code is 0.
const END_OF_MAP: [u8; 2] = [0, 0];

fn put_text(out: &mut Out, text: &str) {
    protobuf::put_varint(&mut out.bytes, text.len() as u64);
    out.bytes.extend_from_slice(text.as_bytes());
}

fn put_map(out: &mut Out, map: &IndexMap, head: Position) -> io::Result<()> {
    for name in map.names() {
        let Some((code, positions)) = map.code(name.as_str()).zip(map.get(name.as_str())) else {
            continue;
        };
        if positions.count(head) == 0 {
            continue;
        }
        put_text(out, name.as_str());
        protobuf::put_varint(&mut out.bytes, code.into());
        positions.encode(head, &mut out.bytes);
        out.write_if_large()?;
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
    /// Whether they are the indexes of the log that `reader` sees, of these metadata keys.
    pub fn check(self, reader: &Reader, keys: &[MetadataIndex]) -> Result<Self, SnapshotError> {
        let keys = keys.iter().map(|index| &index.key);
        if !self.metadata.iter().map(|index| &index.key).eq(keys) {
            return Err(SnapshotError::OtherKeys);
        }
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
    let mut sections: [Range<usize>; SECTIONS] = Default::default();
    for section in &mut sections {
        let end = usize::try_from(number()?).map_err(|_| damaged())?;
        if end < begin || end > body_size {
            return Err(SnapshotError::Damaged);
        }
        *section = begin..end;
        begin = end;
    }
    let sections = sections.map(|section| &bytes[section]);
    let [streams, categories, types, tags, metadata, columns, correlations, causations, ids] =
        sections;
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let ids = take_ids(ids, keys, head)?;
            Some((
                ids,
                take_shared(correlations, head, keys)?,
                take_shared(causations, head, keys)?,
            ))
        });
        let names = || {
            let streams = take_map(streams, IndexMap::listed(), head)?;
            let categories = take_map(categories, IndexMap::listed(), head)?;
            let types = take_map(types, IndexMap::listed(), head)?;
            let tags = take_map(tags, IndexMap::unlisted(), head)?;
            let metadata = take_metadata(metadata, head)?;
            let columns = take_columns(columns, head, [&streams, &categories, &types])?;
            Some((streams, categories, types, tags, metadata, columns))
        };
        let names = names();
        let others = others.join().expect("the reader does not panic");
        let ((streams, categories, types, tags, metadata, columns), others) =
            names.zip(others).ok_or_else(damaged)?;
        let (ids, correlations, causations) = others;
        let digest = *digest;
        Ok(Indexes {
            head,
            streams,
            categories,
            types,
            tags,
            correlations,
            causations,
            metadata,
            columns,
            ids,
            digest,
        })
    })
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

fn take_size(bytes: &mut &[u8]) -> Option<usize> {
    usize::try_from(protobuf::take_varint(bytes).ok()?).ok()
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let size = take_size(bytes)?;
    let (text, rest) = bytes.split_at_checked(size)?;
    *bytes = rest;
    str::from_utf8(text).ok()
}

fn take_map(mut bytes: &[u8], map: IndexMap, head: Position) -> Option<IndexMap> {
    while !bytes.is_empty() {
        take_name(&mut bytes, &map, head, |name| Name::new(name, usize::MAX).ok())?;
    }
    map.restored().then_some(map)
}

fn take_name(
    bytes: &mut &[u8],
    map: &IndexMap,
    head: Position,
    name: impl Fn(&str) -> Option<Name>,
) -> Option<()> {
    let name = name(take_text(bytes)?)?;
    let code = u32::try_from(take_size(bytes)?).ok()?;
    let list = PositionList::decode(bytes, head)?;
    if map.get(name.as_str()).is_some() {
        return None;
    }
    map.insert(name, code, list);
    Some(())
}

fn take_metadata(mut bytes: &[u8], head: Position) -> Option<Box<[MetadataIndex]>> {
    let mut indexes = Vec::new();
    while !bytes.is_empty() {
        let key = Name::new(take_text(&mut bytes)?, usize::MAX).ok()?;
        let index = MetadataIndex::new(key);
        while !bytes.starts_with(&END_OF_MAP) {
            take_name(&mut bytes, &index.values, head, |value| Some(Name::any(value)))?;
        }
        bytes = &bytes[END_OF_MAP.len()..];
        if !index.values.restored() {
            return None;
        }
        let column = Column::decode(&mut bytes, head, index.values.code_max())?;
        indexes.push(MetadataIndex { column, ..index });
    }
    Some(indexes.into_boxed_slice())
}

fn take_columns(mut bytes: &[u8], head: Position, maps: [&IndexMap; 3]) -> Option<Columns> {
    let mut column = |map: &IndexMap| Column::decode(&mut bytes, head, map.code_max());
    let [streams, categories, types] = maps;
    let (streams, categories, types) = (column(streams)?, column(categories)?, column(types)?);
    let occurred = TimeColumn::decode(&mut bytes, head)?;
    bytes.is_empty().then_some(Columns { streams, categories, types, occurred })
}

fn take_shared(mut bytes: &[u8], head: Position, keys: Keys) -> Option<SharedIds> {
    let ids = SharedIds::decode(&mut bytes, head, keys)?;
    bytes.is_empty().then_some(ids)
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
