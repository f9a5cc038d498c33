//! Read models of projections that run elsewhere: JSON documents by key, and the projection's checkpoint, written
//! together.
//!
//! ```text
//! Apply ──► writer.rs, a thread: what waits is one commit ──► database.rs, redb
//!               │ publishes                                       ▲ snapshots
//!               ▼                                                 │
//!           catalog.rs: versions, checkpoints   changes.rs    Get, Find, Watch
//! ```
//!
//! A checkpoint only rises, so it also numbers the states of a version: a watch goes from one to the next by it.

mod catalog;
mod changes;
mod database;
mod decide;
mod document;
mod find;
mod merge;
mod order;
mod plan;
mod watch;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use self::{
    catalog::Models,
    database::ModelDatabase,
    writer::{Apply, Task, Writer},
};
pub use self::{
    catalog::Version,
    database::{DatabaseError, Stored, VersionRecord},
    decide::Write,
    document::{FieldPath, check},
    find::{FindRequest, Found},
    plan::FieldMatch,
    watch::{Message, Watch},
};
use super::{
    page_token::TokenError,
    places::{NoPlace, Places},
    query::MIN_POSITION_WAIT_MAX,
};
use crate::core::{clock::Clock, commit_log::disk::SyncMode, history::History, position::Position};

/// The file in the data directory.
const FILE: &str = "read_models.redb";
/// With `--sync never` commits are made safe at the latest after this: until then redb cannot use their pages again.
const SETTLE_AFTER_MAX: Duration = Duration::from_secs(5);

/// How much there may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Versions of models.
    pub models_max: usize,
    /// Bytes of keys and documents.
    pub size_max: u64,
    /// Bytes of one document.
    pub document_size_max: usize,
}

/// Why a call about read models failed. Nothing was written, but for `Failed`: ask for the checkpoint.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadModelError {
    #[error("there is no read model {model} with version {version} (0: any)")]
    UnknownModel { model: String, version: u32 },
    #[error("version {version} of read model {model} exists, with other indexes")]
    Exists { model: String, version: u32 },
    #[error("read model {model}, version {version}, has checkpoint {actual}, expected {expected}")]
    WrongCheckpoint { model: String, version: u32, expected: u64, actual: u64 },
    #[error("read model {model}, version {version}, has no document {key}")]
    UnknownDocument { model: String, version: u32, key: String },
    #[error("there are {limit} versions of read models, no more are allowed")]
    TooMany { limit: usize },
    #[error("no index of read model {model}, version {version}, answers this for {fields}")]
    NotIndexed { model: String, version: u32, fields: String },
    #[error("version {version} is the current one of read model {model}; switch first")]
    IsCurrent { model: String, version: u32 },
    #[error("the read models have {used} bytes, at most {max} are allowed")]
    Full { used: u64, max: u64 },
    /// One of the writes cannot be.
    #[error("writes[{write}].{field} {what}")]
    Invalid { write: usize, field: &'static str, what: String },
    #[error("the checkpoint is {checkpoint}, the log's head {head}")]
    BeyondHead { checkpoint: u64, head: Position },
    #[error("page_token {0}")]
    PageToken(#[from] TokenError),
    #[error(
        "the read model has not reached position {min_position} in time; it is at {checkpoint}"
    )]
    MinPositionNotReached { min_position: u64, checkpoint: u64 },
    #[error("too many calls wait to write read models")]
    Overloaded,
    #[error(transparent)]
    TooManyOpen(#[from] NoPlace),
    #[error("the server stops")]
    Stopping,
    #[error("the database of the read models failed: {0}")]
    Failed(DatabaseError),
    #[error("the read models are damaged: {0}")]
    Damaged(DatabaseError),
}

/// Why the read models cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenModelsError {
    #[error("{}: {source}. It holds read models only, which projections make again: move it away to start without", path.display())]
    File { path: PathBuf, source: DatabaseError },
    #[error("no database in memory: {0}")]
    Memory(DatabaseError),
    #[error("cannot start a thread")]
    Thread(#[from] std::io::Error),
}

/// The documents to apply, checked but for what the version says.
pub struct ApplyRequest {
    pub model: String,
    /// 0: the current one.
    pub version: u32,
    pub expected: u64,
    pub checkpoint: u64,
    pub writes: Vec<(String, Write)>,
}

/// What is known of a model.
pub struct ModelFacts {
    pub name: String,
    pub current: u32,
    pub versions: Vec<(u32, VersionRecord)>,
}

/// Keeps the read models.
#[derive(Clone)]
pub struct ReadModelService {
    shared: Arc<Shared>,
}

struct Shared {
    database: Arc<ModelDatabase>,
    writer: Writer,
    models: tokio::sync::watch::Receiver<Arc<Models>>,
    history: Arc<History>,
    clock: Arc<dyn Clock>,
    places: Places,
    stop: CancellationToken,
}

impl ReadModelService {
    /// Opens what `data`, a data directory, has; without one all is in memory.
    pub fn open(
        data: Option<(&Path, SyncMode)>,
        bounds: Bounds,
        history: Arc<History>,
        clock: Arc<dyn Clock>,
        places: Places,
        stop: CancellationToken,
    ) -> Result<Self, OpenModelsError> {
        let all_bytes: Arc<AtomicUsize> = Arc::default();
        let head = history.log.watermark().get().get();
        let read = |database: &ModelDatabase| {
            empty_those_beyond(head, database)?;
            catalog::read(&database.view()?, &all_bytes)
        };
        let (database, models, settle_after) = match data {
            None => {
                let database = ModelDatabase::in_memory().map_err(OpenModelsError::Memory)?;
                let models = read(&database).map_err(OpenModelsError::Memory)?;
                (database, models, None)
            }
            Some((directory, sync)) => {
                let path = directory.join(FILE);
                let opened = ModelDatabase::in_file(&path, sync == SyncMode::Always);
                let opened = opened.and_then(|database| Ok((read(&database)?, database)));
                let (models, database) =
                    opened.map_err(|source| OpenModelsError::File { path, source })?;
                let settle_after = match sync {
                    SyncMode::Always => None,
                    SyncMode::Interval(interval) => Some(interval.min(SETTLE_AFTER_MAX)),
                    SyncMode::Never => Some(SETTLE_AFTER_MAX),
                };
                (database, models, settle_after)
            }
        };
        let database = Arc::new(database);
        let (publish, models) = tokio::sync::watch::channel(Arc::new(models));
        let writer = Writer::start(
            Arc::clone(&database),
            publish,
            bounds,
            Arc::clone(&clock),
            settle_after,
            all_bytes,
        )?;
        let shared = Shared { database, writer, models, history, clock, places, stop };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns when what waits is written and safe. Blocks.
    pub fn stop(&self) {
        self.shared.writer.stop();
    }

    /// The log's head.
    pub fn head(&self) -> Position {
        self.shared.history.log.watermark().get()
    }

    /// The clock of heartbeats.
    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    fn models(&self) -> Arc<Models> {
        Arc::clone(&self.shared.models.borrow())
    }

    /// Makes a version, or finds that it is there already as it is wanted.
    pub async fn create(
        &self,
        model: String,
        version: u32,
        indexes: Vec<Vec<String>>,
    ) -> Result<VersionRecord, ReadModelError> {
        self.ask(|answer| Task::Create { model, version, indexes, answer }).await
    }

    /// Makes a version the current one. The one that was it before.
    pub async fn switch(&self, model: String, version: u32) -> Result<u32, ReadModelError> {
        self.ask(|answer| Task::Switch { model, version, answer }).await
    }

    /// Removes a version, or with 0 all of them. Which.
    pub async fn drop_model(
        &self,
        model: String,
        version: u32,
    ) -> Result<Vec<u32>, ReadModelError> {
        self.ask(|answer| Task::Drop { model, version, answer }).await
    }

    async fn ask<T>(
        &self,
        task: impl FnOnce(tokio::sync::oneshot::Sender<Result<T, ReadModelError>>) -> Task,
    ) -> Result<T, ReadModelError> {
        self.shared.writer.ask(task).await
    }

    /// Writes documents and a checkpoint, if the version's is the expected one.
    pub async fn apply(&self, request: ApplyRequest) -> Result<VersionRecord, ReadModelError> {
        let ApplyRequest { model, version, expected, checkpoint, writes } = request;
        let version = self.version(&model, version)?;
        let head = self.head();
        if checkpoint > head.get() {
            return Err(ReadModelError::BeyondHead { checkpoint, head });
        }
        for (number, (_, write)) in writes.iter().enumerate() {
            if let Write::Upsert(text) = write
                && let Err(what) = decide::check_indexed(text, &version)
            {
                return Err(ReadModelError::Invalid { write: number, field: "upsert", what });
            }
        }
        self.shared.writer.apply(Apply { model, version, expected, checkpoint, writes }).await
    }

    /// A version of a model; 0: the current one.
    pub fn version(&self, model: &str, version: u32) -> Result<Arc<Version>, ReadModelError> {
        let models = self.models();
        let found = models.get(model).and_then(|it| {
            let number = if version == 0 { it.current } else { version };
            it.versions.get(&number)
        });
        let unknown = || ReadModelError::UnknownModel { model: model.to_owned(), version };
        found.cloned().ok_or_else(unknown)
    }

    /// A version that has come to `min_position`, with 0 the one that is the current one by then. It waits at most 30
    /// seconds and at most `patience`.
    pub async fn reach(
        &self,
        model: &str,
        version: u32,
        min_position: u64,
        patience: Option<Duration>,
    ) -> Result<Arc<Version>, ReadModelError> {
        let found = self.version(model, version)?;
        if found.record().checkpoint >= min_position {
            return Ok(found);
        }
        let patience =
            patience.map_or(MIN_POSITION_WAIT_MAX, |patience| patience.min(MIN_POSITION_WAIT_MAX));
        let reached = self.reached(model, version, min_position);
        let waited = tokio::select! {
            waited = tokio::time::timeout(patience, reached) => waited,
            () = self.shared.stop.cancelled() => return Err(ReadModelError::Stopping),
        };
        if let Ok(reached) = waited {
            return reached;
        }
        let checkpoint = self.version(model, version)?.record().checkpoint;
        Err(ReadModelError::MinPositionNotReached { min_position, checkpoint })
    }

    async fn reached(
        &self,
        model: &str,
        version: u32,
        min_position: u64,
    ) -> Result<Arc<Version>, ReadModelError> {
        let mut models = self.shared.models.clone();
        loop {
            // Before the version is looked up: another one that takes its place from now on wakes.
            models.borrow_and_update();
            let found = self.version(model, version)?;
            let mut states = found.follow();
            if states.borrow_and_update().checkpoint >= min_position {
                return Ok(found);
            }
            tokio::select! {
                _ = states.changed() => {}
                changed = models.changed() => {
                    if changed.is_err() {
                        return Err(ReadModelError::Stopping);
                    }
                }
            }
        }
    }

    /// A document, and the version's checkpoint.
    pub async fn get(
        &self,
        model: &str,
        version: &Arc<Version>,
        key: String,
    ) -> Result<(Stored, u64), ReadModelError> {
        let (database, id) = (Arc::clone(&self.shared.database), version.id);
        let (name, number) = (model.to_owned(), version.number);
        blocking(move || {
            let view = database.view()?;
            let checkpoint = view.checkpoint(&name, number)?;
            Ok((view.document(id, &key)?, checkpoint, name, key))
        })
        .await
        .and_then(|(document, checkpoint, model, key)| match (document, checkpoint) {
            (Some(document), Some(checkpoint)) => Ok((document, checkpoint)),
            (_, None) => Err(ReadModelError::UnknownModel { model, version: number }),
            _ => Err(ReadModelError::UnknownDocument { model, version: number, key }),
        })
    }

    /// Models whose names follow `after`, at most so many, and whether there are more.
    pub fn list(&self, after: &str, size: usize) -> (Vec<ModelFacts>, bool) {
        let models = self.models();
        let range = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        let mut rest = models.range::<str, _>(range);
        let page = rest.by_ref().take(size).map(|(name, model)| ModelFacts {
            name: name.clone(),
            current: model.current,
            versions: model.versions.values().map(|it| (it.number, it.record())).collect(),
        });
        (page.collect(), rest.next().is_some())
    }
}

/// A log that lost its end (`--sync never`, `repair`) no longer has what some versions were made of: they begin anew.
fn empty_those_beyond(head: u64, database: &ModelDatabase) -> Result<(), DatabaseError> {
    let (versions, _) = database.view()?.catalog()?;
    for listed in versions.into_iter().filter(|listed| listed.record.checkpoint > head) {
        let database::Listed { model, version, record } = listed;
        let checkpoint = record.checkpoint;
        tracing::warn!(
            model,
            version,
            checkpoint,
            head,
            "the read model is ahead of the log; it is emptied, and its projection makes it again"
        );
        database.write(|tables| {
            tables.drop_version(&model, version, record.id)?;
            let id = tables.next_id()?;
            let (checkpoint, documents, bytes, applied_at) = (0, 0, 0, None);
            let empty =
                VersionRecord { id, checkpoint, documents, bytes, applied_at, ..record.clone() };
            tables.set_version(&model, version, &empty)
        })?;
    }
    Ok(())
}

/// Reads the database on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, DatabaseError> + Send + 'static,
) -> Result<T, ReadModelError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read.map_err(ReadModelError::Damaged),
        // The runtime stops.
        Err(_) => Err(ReadModelError::Stopping),
    }
}
