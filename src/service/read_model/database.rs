//! Read models in redb: in memory, or in one file of the data directory (ADR 24).
//!
//! ```text
//! versions   name, 0, version            -> what is known of it, JSON
//! current    name                        -> version
//! ids        "next"                      -> the next number; a number is never used again
//! dropped    number                      -> its documents are being removed
//! documents  number, key                 -> CRC-32C, position, the document
//! entries    number, index, values, key  -> nothing
//! ```
//!
//! All numbers are big-endian, so that they sort. A document's checksum is looked at whenever it is read: redb checks its
//! pages only after a crash.

use std::{ops::Bound, path::Path};

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition,
    WriteTransaction, backends::InMemoryBackend,
};
use serde::{Deserialize, Serialize};

use super::document::{FieldPath, Object};

type Bytes = &'static [u8];

const VERSIONS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("versions");
const CURRENT: TableDefinition<'_, Bytes, u32> = TableDefinition::new("current");
const IDS: TableDefinition<'_, Bytes, u64> = TableDefinition::new("ids");
const DROPPED: TableDefinition<'_, u64, ()> = TableDefinition::new("dropped");
const DOCUMENTS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("documents");
const ENTRIES: TableDefinition<'_, Bytes, ()> = TableDefinition::new("entries");

/// Of the database so much stays in memory.
const CACHE_BYTES: usize = 64 << 20;
/// Before a document stand its checksum and its position.
const HEAD_BYTES: usize = 12;

/// The database failed. What was committed before is safe.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct DatabaseError(String);

/// redb has an error for each kind of call.
macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for DatabaseError {
            fn from(error: redb::$error) -> Self {
                Self(error.to_string())
            }
        }
    )*};
}
from_redb!(
    CommitError,
    DatabaseError,
    SetDurabilityError,
    StorageError,
    TableError,
    TransactionError
);

/// What is known of a version of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// The number under which its documents stand.
    pub id: u64,
    /// Its indexes, as they were declared.
    pub indexes: Vec<Vec<String>>,
    pub checkpoint: u64,
    pub documents: u64,
    /// Bytes of keys and documents.
    pub bytes: u64,
    /// Microseconds since 1970.
    pub created_at: i64,
    pub applied_at: Option<i64>,
}

impl VersionRecord {
    /// The fields of each index.
    pub fn paths(&self) -> Vec<Vec<FieldPath>> {
        let path = |field: &String| FieldPath::parse(field).expect("checked when it was made");
        self.indexes.iter().map(|fields| fields.iter().map(path).collect()).collect()
    }
}

/// A version with its names, as the database lists them.
pub struct Listed {
    pub model: String,
    pub version: u32,
    pub record: VersionRecord,
}

/// All versions, and of models the current one.
pub type Catalog = (Vec<Listed>, Vec<(String, u32)>);

/// A document as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The checkpoint that was written with it.
    pub position: u64,
    pub json: String,
}

/// The database, open.
pub struct ModelDatabase {
    database: Database,
    durability: Durability,
}

impl ModelDatabase {
    /// An empty one that ends with the process.
    pub fn in_memory() -> Result<Self, DatabaseError> {
        let backend = InMemoryBackend::new();
        let database =
            Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?;
        Self::with(database, Durability::Immediate)
    }

    /// The one in this file, which is made where there is none. With `is_safe` every commit is on the disk when it
    /// returns; otherwise only after [`ModelDatabase::settle`].
    pub fn in_file(path: &Path, is_safe: bool) -> Result<Self, DatabaseError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        let durability = if is_safe { Durability::Immediate } else { Durability::None };
        Self::with(database, durability)
    }

    fn with(database: Database, durability: Durability) -> Result<Self, DatabaseError> {
        let made = database.begin_write()?;
        made.open_table(VERSIONS)?;
        made.open_table(CURRENT)?;
        made.open_table(IDS)?;
        made.open_table(DROPPED)?;
        made.open_table(DOCUMENTS)?;
        made.open_table(ENTRIES)?;
        made.commit()?;
        Ok(Self { database, durability })
    }

    /// Makes everything that was committed safe.
    pub fn settle(&self) -> Result<(), DatabaseError> {
        Ok(self.database.begin_write()?.commit()?)
    }

    /// All that is written through `write` is committed together, or nothing of it.
    pub fn write<T>(
        &self,
        write: impl FnOnce(&mut Tables<'_>) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(self.durability)?;
        let written = write(&mut Tables::open(&transaction)?)?;
        transaction.commit()?;
        Ok(written)
    }

    /// The database as of now.
    pub fn view(&self) -> Result<View, DatabaseError> {
        Ok(View(self.database.begin_read()?))
    }
}

/// The tables, to be written to.
pub struct Tables<'a> {
    versions: Table<'a, Bytes, Bytes>,
    current: Table<'a, Bytes, u32>,
    ids: Table<'a, Bytes, u64>,
    dropped: Table<'a, u64, ()>,
    documents: Table<'a, Bytes, Bytes>,
    entries: Table<'a, Bytes, ()>,
}

impl<'a> Tables<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, DatabaseError> {
        Ok(Self {
            versions: transaction.open_table(VERSIONS)?,
            current: transaction.open_table(CURRENT)?,
            ids: transaction.open_table(IDS)?,
            dropped: transaction.open_table(DROPPED)?,
            documents: transaction.open_table(DOCUMENTS)?,
            entries: transaction.open_table(ENTRIES)?,
        })
    }

    /// A number that no version has had.
    pub fn next_id(&mut self) -> Result<u64, DatabaseError> {
        let id = self.ids.get(b"next".as_slice())?.map_or(1, |id| id.value());
        self.ids.insert(b"next".as_slice(), id + 1)?;
        Ok(id)
    }

    pub fn set_version(
        &mut self,
        model: &str,
        version: u32,
        record: &VersionRecord,
    ) -> Result<(), DatabaseError> {
        let value = serde_json::to_vec(record).expect("numbers and texts are JSON");
        self.versions.insert(version_key(model, version).as_slice(), value.as_slice())?;
        Ok(())
    }

    pub fn set_current(&mut self, model: &str, version: u32) -> Result<(), DatabaseError> {
        self.current.insert(model.as_bytes(), version)?;
        Ok(())
    }

    /// Forgets the version; its documents are removed by [`Tables::purge`].
    pub fn drop_version(
        &mut self,
        model: &str,
        version: u32,
        id: u64,
    ) -> Result<(), DatabaseError> {
        self.versions.remove(version_key(model, version).as_slice())?;
        self.dropped.insert(id, ())?;
        Ok(())
    }

    pub fn drop_current(&mut self, model: &str) -> Result<(), DatabaseError> {
        self.current.remove(model.as_bytes())?;
        Ok(())
    }

    /// A document of the version with this number.
    pub fn document(&self, id: u64, key: &str) -> Result<Option<Stored>, DatabaseError> {
        match self.documents.get(document_key(id, key).as_slice())? {
            Some(value) => stored(key, value.value()).map(Some),
            None => Ok(None),
        }
    }

    /// Writes a document in the place of `before`, and its index entries.
    pub fn put(
        &mut self,
        id: u64,
        key: &str,
        before: Option<&Stored>,
        after: Option<&Stored>,
        indexes: &[Vec<FieldPath>],
    ) -> Result<(), DatabaseError> {
        let [mut before_object, mut after_object] =
            [before, after].map(|it| it.map(|it| Object::of(&it.json)));
        for (number, fields) in indexes.iter().enumerate() {
            let entry = |it: &mut Object<'_>| {
                let values = it.index_values(fields).expect("checked before");
                entry_key(id, number, &values, key)
            };
            let (before, after) =
                (before_object.as_mut().map(entry), after_object.as_mut().map(entry));
            if before == after {
                continue;
            }
            if let Some(entry) = before {
                self.entries.remove(entry.as_slice())?;
            }
            if let Some(entry) = after {
                self.entries.insert(entry.as_slice(), ())?;
            }
        }
        let at = document_key(id, key);
        match after {
            Some(Stored { position, json }) => {
                let mut value = Vec::with_capacity(HEAD_BYTES + json.len());
                value.extend_from_slice(&checksum(key, *position, json.as_bytes()));
                value.extend_from_slice(&position.to_be_bytes());
                value.extend_from_slice(json.as_bytes());
                self.documents.insert(at.as_slice(), value.as_slice())?;
            }
            None => {
                self.documents.remove(at.as_slice())?;
            }
        }
        Ok(())
    }

    /// Removes documents and entries of dropped versions, at most so many. Whether there are more.
    pub fn purge(&mut self, at_most: usize) -> Result<bool, DatabaseError> {
        let Some(id) = self.dropped.first()?.map(|(id, _)| id.value()) else { return Ok(false) };
        let (from, before) = (id.to_be_bytes().to_vec(), (id + 1).to_be_bytes().to_vec());
        let mut left = at_most;
        let range = from.as_slice()..before.as_slice();
        let mut keys = Vec::new();
        for entry in self.documents.range::<&[u8]>(range.clone())?.take(left) {
            keys.push(entry?.0.value().to_vec());
        }
        for key in &keys {
            self.documents.remove(key.as_slice())?;
        }
        left -= keys.len();
        keys.clear();
        for entry in self.entries.range::<&[u8]>(range)?.take(left) {
            keys.push(entry?.0.value().to_vec());
        }
        for key in &keys {
            self.entries.remove(key.as_slice())?;
        }
        if keys.len() < left {
            self.dropped.remove(id)?;
        }
        Ok(true)
    }
}

/// The database as of one moment. It holds back pages while it lives.
pub struct View(ReadTransaction);

/// Which way, and from where.
pub struct Walk<'a> {
    pub from: &'a [u8],
    pub before: &'a [u8],
    /// The place of the page before's last document: begin behind it.
    pub after: Option<&'a [u8]>,
    pub descending: bool,
}

impl View {
    /// All versions, and of models the current one.
    pub fn catalog(&self) -> Result<Catalog, DatabaseError> {
        let mut versions = Vec::new();
        for entry in self.0.open_table(VERSIONS)?.iter()? {
            let (key, value) = entry?;
            let damaged = || DatabaseError("the list of versions is damaged".to_owned());
            let (name, version) = key.value().split_last_chunk::<4>().ok_or_else(damaged)?;
            let name = name.strip_suffix(&[0]).ok_or_else(damaged)?;
            let record: VersionRecord =
                serde_json::from_slice(value.value()).map_err(|_| damaged())?;
            let is_path = |field: &String| FieldPath::parse(field).is_some();
            if !record.indexes.iter().flatten().all(is_path) {
                return Err(damaged());
            }
            versions.push(Listed {
                model: String::from_utf8(name.to_vec()).map_err(|_| damaged())?,
                version: u32::from_be_bytes(*version),
                record,
            });
        }
        let mut current = Vec::new();
        for entry in self.0.open_table(CURRENT)?.iter()? {
            let (key, value) = entry?;
            current.push((String::from_utf8_lossy(key.value()).into_owned(), value.value()));
        }
        Ok((versions, current))
    }

    /// The checkpoint of a version in this view.
    pub fn checkpoint(&self, model: &str, version: u32) -> Result<Option<u64>, DatabaseError> {
        let versions = self.0.open_table(VERSIONS)?;
        let Some(value) = versions.get(version_key(model, version).as_slice())? else {
            return Ok(None);
        };
        let record: Result<VersionRecord, _> = serde_json::from_slice(value.value());
        record.map(|record| Some(record.checkpoint)).map_err(|error| {
            DatabaseError(format!("version {version} of {model} is damaged: {error}"))
        })
    }

    /// A document of the version with this number.
    pub fn document(&self, id: u64, key: &str) -> Result<Option<Stored>, DatabaseError> {
        match self.0.open_table(DOCUMENTS)?.get(document_key(id, key).as_slice())? {
            Some(value) => stored(key, value.value()).map(Some),
            None => Ok(None),
        }
    }

    /// Walks over documents in the order of an index, or of their keys, until `take` says that it is enough. It is given
    /// the place of each (what [`Walk::after`] takes), its key and the document.
    pub fn walk(
        &self,
        id: u64,
        index: Option<usize>,
        walk: &Walk<'_>,
        mut take: impl FnMut(&[u8], &str, Stored) -> Result<bool, DatabaseError>,
    ) -> Result<(), DatabaseError> {
        let documents = self.0.open_table(DOCUMENTS)?;
        let prefix = match index {
            None => id.to_be_bytes().to_vec(),
            Some(number) => entry_key(id, number, &[], ""),
        };
        let whole = |place: &[u8]| [prefix.as_slice(), place].concat();
        let (mut from, mut before) =
            (Bound::Included(whole(walk.from)), Bound::Excluded(whole(walk.before)));
        if let Some(after) = walk.after {
            if walk.descending {
                before = Bound::Excluded(whole(after));
            } else {
                from = Bound::Excluded(whole(after));
            }
        }
        if is_empty(&from, &before) {
            return Ok(());
        }
        let range = (from.as_ref().map(Vec::as_slice), before.as_ref().map(Vec::as_slice));
        let strange = || DatabaseError("a key of the read models is damaged".to_owned());
        let place_of = |key: &[u8]| key.strip_prefix(prefix.as_slice()).map(<[u8]>::to_vec);
        let Some(_) = index else {
            let mut found = documents.range::<&[u8]>(range)?;
            while let Some(entry) = if walk.descending { found.next_back() } else { found.next() } {
                let (key, value) = entry?;
                let place = place_of(key.value()).ok_or_else(strange)?;
                let key = std::str::from_utf8(&place).map_err(|_| strange())?;
                if !take(&place, key, stored(key, value.value())?)? {
                    break;
                }
            }
            return Ok(());
        };
        let entries = self.0.open_table(ENTRIES)?;
        let mut found = entries.range::<&[u8]>(range)?;
        while let Some(entry) = if walk.descending { found.next_back() } else { found.next() } {
            let place = place_of(entry?.0.value()).ok_or_else(strange)?;
            let (values, length) = place.split_last_chunk::<2>().ok_or_else(strange)?;
            let begin = values.len().checked_sub(u16::from_be_bytes(*length).into());
            let key = values.get(begin.ok_or_else(strange)?..).ok_or_else(strange)?;
            let key = std::str::from_utf8(key).map_err(|_| strange())?;
            let value = documents.get(document_key(id, key).as_slice())?.ok_or_else(strange)?;
            if !take(&place, key, stored(key, value.value())?)? {
                break;
            }
        }
        Ok(())
    }
}

/// A range that ends before it begins is empty here, and a panic in other places.
fn is_empty(from: &Bound<Vec<u8>>, before: &Bound<Vec<u8>>) -> bool {
    match (from, before) {
        (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(before)) => from >= before,
        _ => false,
    }
}

fn version_key(model: &str, version: u32) -> Vec<u8> {
    // No name has a control character in it: the 0 ends it.
    [model.as_bytes(), &[0], &version.to_be_bytes()].concat()
}

fn document_key(id: u64, key: &str) -> Vec<u8> {
    [id.to_be_bytes().as_slice(), key.as_bytes()].concat()
}

/// The key's length comes last: values end by themselves, but who reads backwards finds the key at once.
fn entry_key(id: u64, number: usize, values: &[u8], key: &str) -> Vec<u8> {
    let number = u8::try_from(number).expect("at most 16 indexes");
    let mut entry = [id.to_be_bytes().as_slice(), &[number], values, key.as_bytes()].concat();
    if !key.is_empty() {
        let length = u16::try_from(key.len()).expect("at most 512 bytes");
        entry.extend_from_slice(&length.to_be_bytes());
    }
    entry
}

fn checksum(key: &str, position: u64, json: &[u8]) -> [u8; 4] {
    let sum = crc32c::crc32c(key.as_bytes());
    let sum = crc32c::crc32c_append(sum, &position.to_be_bytes());
    crc32c::crc32c_append(sum, json).to_be_bytes()
}

fn stored(key: &str, value: &[u8]) -> Result<Stored, DatabaseError> {
    let damaged = || DatabaseError(format!("the document {key} is damaged"));
    let (head, json) = value.split_at_checked(HEAD_BYTES).ok_or_else(damaged)?;
    let position = u64::from_be_bytes(head[4..].try_into().expect("8 bytes are left"));
    if head[..4] != checksum(key, position, json) {
        return Err(damaged());
    }
    let json = String::from_utf8(json.to_vec()).map_err(|_| damaged())?;
    Ok(Stored { position, json })
}
