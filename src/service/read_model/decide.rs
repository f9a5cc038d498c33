//! What an Apply makes of the documents: decided whole before anything of it is written.

use std::collections::HashMap;

use super::{
    ReadModelError as E,
    catalog::Version,
    changes::Change,
    database::{DatabaseError, Stored, Tables},
    document::{self, Object},
    merge::Merging,
    order::{INDEXED_STRING_BYTES_MAX, StringTooLong},
};

/// What an Apply replaces, changes or deletes may have so many bytes: all of it is in memory at once.
const REPLACED_BYTES_MAX: usize = 256 << 20;

/// What becomes of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A document, checked.
    Upsert(String),
    /// A merge patch, checked.
    Merge(String),
    Delete,
}

impl Write {
    /// Its name in a request.
    fn field(&self) -> &'static str {
        match self {
            Self::Upsert(_) => "upsert",
            Self::Merge(_) => "merge",
            Self::Delete => "delete",
        }
    }
}

/// The documents as they would be, each key once. Nothing is written.
pub fn decide(
    tables: &Tables<'_>,
    version: &Version,
    checkpoint: u64,
    writes: Vec<(String, Write)>,
    size_max: usize,
) -> Result<Result<Vec<Change>, E>, DatabaseError> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut replaced = 0;
    let mut changes: Vec<Change> = Vec::with_capacity(writes.len());
    // Of each of them what is being merged, and by which write the last time.
    let mut merges: Vec<Option<(usize, Merging)>> = Vec::with_capacity(writes.len());
    for (number, (key, write)) in writes.into_iter().enumerate() {
        let place = if let Some(place) = places.get(&key) {
            *place
        } else {
            let before = tables.document(version.id, &key)?;
            replaced += before.as_ref().map_or(0, |it| it.json.len());
            if replaced > REPLACED_BYTES_MAX {
                let max = REPLACED_BYTES_MAX >> 20;
                let field = write.field();
                let what = format!("and what is before it touch documents of more than {max} MiB");
                return Ok(Err(E::Invalid { write: number, field, what }));
            }
            places.insert(key.clone(), changes.len());
            changes.push(Change { key, after: before.clone(), before });
            merges.push(None);
            changes.len() - 1
        };
        let (change, merge) = (&mut changes[place], &mut merges[place]);
        let json = match write {
            Write::Merge(patch) => {
                let target = || change.after.as_ref().map_or("{}", |it| it.json.as_str());
                let (last, merging) = merge.get_or_insert_with(|| (number, Merging::of(target())));
                merging.patch(&patch);
                *last = number;
                continue;
            }
            Write::Delete => None,
            Write::Upsert(text) => Some(text),
        };
        if let Some((last, merging)) = merge.take()
            && let Err(error) = merged(last, &merging, version, size_max)
        {
            return Ok(Err(error));
        }
        change.after = json.map(|json| Stored { position: checkpoint, json });
    }
    for (change, merge) in changes.iter_mut().zip(merges) {
        let Some((last, merging)) = merge else { continue };
        match merged(last, &merging, version, size_max) {
            Ok(json) => change.after = Some(Stored { position: checkpoint, json }),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(changes))
}

/// The document that merges have made, the last of them this write.
fn merged(
    write: usize,
    merging: &Merging,
    version: &Version,
    size_max: usize,
) -> Result<String, E> {
    let invalid = |what| E::Invalid { write, field: "merge", what };
    let json = merging.text();
    let size = json.len();
    if size > size_max {
        let what = format!("makes a document of {size} bytes, at most {size_max} are allowed");
        return Err(invalid(what));
    }
    debug_assert_eq!(document::check(&json), Ok(()), "two documents make one");
    check_indexed(&json, version).map_err(invalid)?;
    Ok(json)
}

/// Whether every indexed field of a document can be indexed; otherwise why not.
pub fn check_indexed(document: &str, version: &Version) -> Result<(), String> {
    let mut object = Object::of(document);
    for fields in &version.indexes {
        if let Err(StringTooLong(size)) = object.index_values(fields) {
            let max = INDEXED_STRING_BYTES_MAX;
            return Err(format!(
                "has an indexed string of {size} bytes, at most {max} are allowed"
            ));
        }
    }
    Ok(())
}
