//! The models that there are, for whoever asks: published by the writer after each commit.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicUsize},
};

use tokio::sync::watch;

use super::{
    changes::Changes,
    database::{DatabaseError, VersionRecord, View},
    document::FieldPath,
};

/// All models, by name.
pub type Models = BTreeMap<String, Model>;

/// A model.
#[derive(Clone)]
pub struct Model {
    pub current: u32,
    pub versions: BTreeMap<u32, Arc<Version>>,
}

/// A version of a model, for as long as it is there.
pub struct Version {
    pub number: u32,
    pub id: u64,
    pub indexes: Vec<Vec<FieldPath>>,
    pub changes: Arc<Changes>,
    /// As of the last commit.
    record: watch::Sender<VersionRecord>,
}

impl Version {
    pub fn new(number: u32, record: VersionRecord, all_bytes: Arc<AtomicUsize>) -> Self {
        Self {
            number,
            id: record.id,
            indexes: record.paths(),
            changes: Arc::new(Changes::new(record.checkpoint, all_bytes)),
            record: watch::Sender::new(record),
        }
    }

    /// As it is now.
    pub fn record(&self) -> VersionRecord {
        self.record.borrow().clone()
    }

    /// Told of every commit to it. That it was dropped, or is not the current one any more, the list of models tells.
    pub fn follow(&self) -> watch::Receiver<VersionRecord> {
        self.record.subscribe()
    }

    pub(super) fn publish(&self, record: VersionRecord) {
        self.record.send_replace(record);
    }
}

/// What a database has.
pub fn read(view: &View, all_bytes: &Arc<AtomicUsize>) -> Result<Models, DatabaseError> {
    let (versions, current) = view.catalog()?;
    let mut models = Models::new();
    for listed in versions {
        let version = Version::new(listed.version, listed.record, Arc::clone(all_bytes));
        let model = models
            .entry(listed.model)
            .or_insert_with(|| Model { current: listed.version, versions: BTreeMap::new() });
        model.versions.insert(listed.version, Arc::new(version));
    }
    for (name, version) in current {
        if let Some(model) = models.get_mut(&name).filter(|it| it.versions.contains_key(&version)) {
            model.current = version;
        }
    }
    Ok(models)
}
