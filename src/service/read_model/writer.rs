//! The one who writes read models: a thread that takes what waits, commits it together, and answers.
//!
//! What is refused is refused before anything of it is written, so it hurts nothing else of the commit. Whoever asks
//! sees a commit when it is as safe as the mode promises, not before.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use super::{
    Bounds, ReadModelError as E,
    catalog::{Model, Models, Version},
    changes::Change,
    database::{DatabaseError, ModelDatabase, Stored, Tables, VersionRecord},
    decide::{Write, decide},
};
use crate::core::clock::Clock;

/// So much waits at once; more is refused.
const QUEUE_MAX: usize = 1024;
/// And so many bytes of documents.
const QUEUE_BYTES_MAX: usize = 128 << 20;
/// So much is committed together.
const COMMIT_BYTES_MAX: usize = 32 << 20;
/// Of what was dropped so much is removed in one step.
const PURGE_STEP: usize = 10_000;

/// Documents and a checkpoint to write.
pub struct Apply {
    pub model: String,
    pub version: Arc<Version>,
    pub expected: u64,
    pub checkpoint: u64,
    /// Keys, and what becomes of their documents.
    pub writes: Vec<(String, Write)>,
}

impl Apply {
    fn size(&self) -> usize {
        let size = |write: &Write| match write {
            Write::Upsert(text) | Write::Merge(text) => text.len(),
            Write::Delete => 0,
        };
        let one =
            |(key, write): &(String, Write)| size_of::<(String, Write)>() + key.len() + size(write);
        size_of::<Self>() + self.writes.iter().map(one).sum::<usize>()
    }
}

/// What is asked of the writer.
pub enum Task {
    Create {
        model: String,
        version: u32,
        indexes: Vec<Vec<String>>,
        answer: Answer<VersionRecord>,
    },
    Apply {
        apply: Apply,
        answer: Answer<VersionRecord>,
    },
    Switch {
        model: String,
        version: u32,
        answer: Answer<u32>,
    },
    Drop {
        model: String,
        version: u32,
        answer: Answer<Vec<u32>>,
    },
    /// What came before is done; nothing after it is.
    Stop,
}

type Answer<T> = oneshot::Sender<Result<T, E>>;

/// How to reach the writer.
pub struct Writer {
    tasks: SyncSender<Task>,
    queued_bytes: Arc<AtomicUsize>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread. With `settle_after` commits are made safe so much later.
    pub fn start(
        database: Arc<ModelDatabase>,
        models: watch::Sender<Arc<Models>>,
        bounds: Bounds,
        clock: Arc<dyn Clock>,
        settle_after: Option<Duration>,
        all_bytes: Arc<AtomicUsize>,
    ) -> std::io::Result<Self> {
        let (tasks, queue) = sync_channel(QUEUE_MAX);
        let queued_bytes = Arc::default();
        let writing = Writing {
            database,
            models,
            bounds,
            clock,
            settle_after,
            all_bytes,
            queued_bytes: Arc::clone(&queued_bytes),
            broken: None,
        };
        let thread = std::thread::Builder::new()
            .name("annals-models".to_owned())
            .spawn(move || writing.run(&queue))?;
        Ok(Self { tasks, queued_bytes, thread: Mutex::new(Some(thread)) })
    }

    /// Hands in an apply. It waits only for its answer.
    pub async fn apply(&self, apply: Apply) -> Result<VersionRecord, E> {
        let size = apply.size();
        // Relaxed: a number to compare.
        if self.queued_bytes.fetch_add(size, Ordering::Relaxed) > QUEUE_BYTES_MAX {
            // Relaxed: as above.
            self.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            return Err(E::Overloaded);
        }
        let (answer, answered) = oneshot::channel();
        let sent = self.send(Task::Apply { apply, answer });
        if sent.is_err() {
            // Relaxed: as above. What was sent is taken off by the writer.
            self.queued_bytes.fetch_sub(size, Ordering::Relaxed);
        }
        sent?;
        answered.await.map_err(|_| E::Stopping)?
    }

    /// Hands in anything else.
    pub async fn ask<T>(&self, task: impl FnOnce(Answer<T>) -> Task) -> Result<T, E> {
        let (answer, answered) = oneshot::channel();
        self.send(task(answer))?;
        answered.await.map_err(|_| E::Stopping)?
    }

    fn send(&self, task: Task) -> Result<(), E> {
        self.tasks.try_send(task).map_err(|error| match error {
            TrySendError::Full(_) => E::Overloaded,
            TrySendError::Disconnected(_) => E::Stopping,
        })
    }

    /// Returns when what waited is written and everything is safe.
    pub fn stop(&self) {
        // An error: the thread has gone already.
        let _ = self.tasks.send(Task::Stop);
        let thread = self.thread.lock().expect("no holder panics").take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the writer of the read models has panicked");
        }
    }
}

struct Writing {
    database: Arc<ModelDatabase>,
    models: watch::Sender<Arc<Models>>,
    bounds: Bounds,
    clock: Arc<dyn Clock>,
    settle_after: Option<Duration>,
    all_bytes: Arc<AtomicUsize>,
    queued_bytes: Arc<AtomicUsize>,
    /// The database failed: nothing is written any more.
    broken: Option<DatabaseError>,
}

/// An answer that waits for the commit.
type Ready = Box<dyn FnOnce(Result<(), DatabaseError>)>;

/// What a commit does to one version.
struct Draft {
    version: Arc<Version>,
    record: VersionRecord,
    /// For each apply: its checkpoint, and what has changed where anybody watches.
    steps: Vec<(u64, Option<Vec<Change>>)>,
}

/// A commit that is being made.
#[derive(Default)]
struct Commit {
    /// By the version's number in the database.
    drafts: BTreeMap<u64, Draft>,
    /// The models after it, if they are others.
    models: Option<Models>,
    answers: Vec<Ready>,
}

impl Writing {
    fn run(mut self, waiting: &Receiver<Task>) {
        let mut purging = true;
        let mut settle_at: Option<Instant> = None;
        loop {
            // What was dropped before the last stop is removed now; otherwise it sleeps until there is something.
            let task = match (purging, settle_at) {
                (true, _) => waiting.recv_timeout(Duration::ZERO),
                (false, Some(at)) => {
                    waiting.recv_timeout(at.saturating_duration_since(Instant::now()))
                }
                (false, None) => waiting.recv().map_err(RecvTimeoutError::from),
            };
            match task {
                Ok(Task::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(task) => {
                    purging |= matches!(task, Task::Drop { .. });
                    if !self.commit(task, waiting) {
                        break;
                    }
                    if let Some(settle_after) = self.settle_after {
                        settle_at.get_or_insert_with(|| Instant::now() + settle_after);
                    }
                }
                Err(RecvTimeoutError::Timeout) if purging => purging = self.purge(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if settle_at.is_some_and(|at| at <= Instant::now()) {
                settle_at = None;
                self.settle();
            }
        }
        self.settle();
    }

    /// Commits `first` and what waits behind it. Whether to go on after it.
    fn commit(&mut self, first: Task, waiting: &Receiver<Task>) -> bool {
        let mut size = task_size(&first);
        let mut tasks = vec![first];
        let mut goes_on = true;
        while size < COMMIT_BYTES_MAX
            && goes_on
            && let Ok(task) = waiting.try_recv()
        {
            match task {
                Task::Stop => goes_on = false,
                task => {
                    size += task_size(&task);
                    tasks.push(task);
                }
            }
        }
        // Relaxed: a number to compare.
        self.queued_bytes.fetch_sub(size, Ordering::Relaxed);
        if let Some(error) = &self.broken {
            for task in tasks {
                refuse(task, &E::Failed(error.clone()));
            }
            return goes_on;
        }
        let before = Arc::clone(&self.models.borrow());
        let database = Arc::clone(&self.database);
        let mut commit = Commit::default();
        let mut tasks = tasks.into_iter();
        let committed = database.write(|tables| {
            for task in tasks.by_ref() {
                self.take(task, tables, &before, &mut commit)?;
            }
            Ok(())
        });
        if let Err(error) = &committed {
            self.fail(error.clone());
        } else {
            self.publish(&mut commit);
        }
        for answer in commit.answers {
            answer(committed.clone());
        }
        if let Err(error) = committed {
            for task in tasks {
                refuse(task, &E::Failed(error.clone()));
            }
        }
        goes_on
    }

    fn fail(&mut self, error: DatabaseError) {
        tracing::error!(%error, "read models take no more writes until a restart; reads go on");
        self.broken = Some(error);
    }

    /// Makes a commit visible: the models, then their checkpoints, which wake who waits.
    fn publish(&self, commit: &mut Commit) {
        if let Some(models) = commit.models.take() {
            self.models.send_replace(Arc::new(models));
        }
        for draft in std::mem::take(&mut commit.drafts).into_values() {
            for (checkpoint, changes) in draft.steps {
                draft.version.changes.note(checkpoint, changes);
            }
            draft.version.publish(draft.record);
        }
    }

    fn settle(&mut self) {
        if self.broken.is_none()
            && let Err(error) = self.database.settle()
        {
            self.fail(error);
        }
    }

    fn purge(&mut self) -> bool {
        match self.database.write(|tables| tables.purge(PURGE_STEP)) {
            Ok(more) => more,
            Err(error) => {
                self.fail(error);
                false
            }
        }
    }

    /// Does one task, or refuses it before it has written anything.
    fn take(
        &self,
        task: Task,
        tables: &mut Tables<'_>,
        before: &Models,
        commit: &mut Commit,
    ) -> Result<(), DatabaseError> {
        match task {
            Task::Create { model, version, indexes, answer } => {
                let created = self.create(model, version, indexes, tables, before, commit);
                reply(commit, answer, created)
            }
            Task::Apply { apply, answer } => {
                let applied = self.apply(apply, tables, before, commit);
                reply(commit, answer, applied)
            }
            Task::Switch { model, version, answer } => {
                let models = commit.models.get_or_insert_with(|| before.clone());
                let switched = match models.get_mut(&model) {
                    Some(it) if it.versions.contains_key(&version) => {
                        let written = tables.set_current(&model, version);
                        written.map(|()| Ok(std::mem::replace(&mut it.current, version)))
                    }
                    _ => Ok(Err(E::UnknownModel { model, version })),
                };
                reply(commit, answer, switched)
            }
            Task::Drop { model, version, answer } => {
                let dropped = drop_versions(model, version, tables, before, commit);
                reply(commit, answer, dropped)
            }
            // Never among the tasks of a commit.
            Task::Stop => Ok(()),
        }
    }

    fn create(
        &self,
        model: String,
        version: u32,
        indexes: Vec<Vec<String>>,
        tables: &mut Tables<'_>,
        before: &Models,
        commit: &mut Commit,
    ) -> Result<Result<VersionRecord, E>, DatabaseError> {
        let models = commit.models.as_ref().unwrap_or(before);
        if let Some(there) = models.get(&model).and_then(|it| it.versions.get(&version)) {
            let draft = commit.drafts.get(&there.id);
            let record = draft.map_or_else(|| there.record(), |draft| draft.record.clone());
            let is_same = record.indexes == indexes;
            return Ok(is_same.then_some(record).ok_or(E::Exists { model, version }));
        }
        let limit = self.bounds.models_max;
        if models.values().map(|it| it.versions.len()).sum::<usize>() >= limit {
            return Ok(Err(E::TooMany { limit }));
        }
        let record = VersionRecord {
            id: tables.next_id()?,
            indexes,
            checkpoint: 0,
            documents: 0,
            bytes: 0,
            created_at: self.clock.now_micros(),
            applied_at: None,
        };
        tables.set_version(&model, version, &record)?;
        let made = Arc::new(Version::new(version, record.clone(), Arc::clone(&self.all_bytes)));
        if !models.contains_key(&model) {
            tables.set_current(&model, version)?;
        }
        let models = commit.models.get_or_insert_with(|| before.clone());
        let new = || Model { current: version, versions: BTreeMap::new() };
        models.entry(model).or_insert_with(new).versions.insert(version, made);
        Ok(Ok(record))
    }

    fn apply(
        &self,
        apply: Apply,
        tables: &mut Tables<'_>,
        before: &Models,
        commit: &mut Commit,
    ) -> Result<Result<VersionRecord, E>, DatabaseError> {
        let Apply { model, version, expected, checkpoint, writes } = apply;
        let models = commit.models.as_ref().unwrap_or(before);
        let there = models.get(&model).and_then(|it| it.versions.get(&version.number));
        if there.is_none_or(|it| it.id != version.id) {
            return Ok(Err(E::UnknownModel { model, version: version.number }));
        }
        let draft = commit.drafts.get(&version.id);
        let mut record = draft.map_or_else(|| version.record(), |draft| draft.record.clone());
        if record.checkpoint != expected {
            let (version, actual) = (version.number, record.checkpoint);
            return Ok(Err(E::WrongCheckpoint { model, version, expected, actual }));
        }
        let changes =
            match decide(tables, &version, checkpoint, writes, self.bounds.document_size_max)? {
                Ok(changes) => changes,
                Err(error) => return Ok(Err(error)),
            };
        for change in &changes {
            let size = |it: &Option<Stored>| {
                it.as_ref().map_or(0, |it| (change.key.len() + it.json.len()) as u64)
            };
            let count = |it: &Option<Stored>| u64::from(it.is_some());
            record.bytes = record.bytes + size(&change.after) - size(&change.before);
            record.documents = record.documents + count(&change.after) - count(&change.before);
        }
        let used = self.used_without(version.id, models, commit) + record.bytes;
        let before_bytes = draft.map_or_else(|| version.record().bytes, |draft| draft.record.bytes);
        if used > self.bounds.size_max && record.bytes > before_bytes {
            return Ok(Err(E::Full { used, max: self.bounds.size_max }));
        }
        record.checkpoint = checkpoint;
        record.applied_at = Some(self.clock.now_micros());
        for Change { key, before, after } in &changes {
            tables.put(version.id, key, before.as_ref(), after.as_ref(), &version.indexes)?;
        }
        tables.set_version(&model, version.number, &record)?;
        let step = (checkpoint, version.changes.is_watched().then_some(changes));
        let draft = commit.drafts.entry(version.id).or_insert_with(|| Draft {
            version,
            record: record.clone(),
            steps: Vec::new(),
        });
        draft.record = record.clone();
        draft.steps.push(step);
        Ok(Ok(record))
    }

    /// Bytes of all versions but one.
    fn used_without(&self, id: u64, models: &Models, commit: &Commit) -> u64 {
        if self.bounds.size_max == u64::MAX {
            return 0;
        }
        let versions = models.values().flat_map(|it| it.versions.values());
        let bytes = |it: &Arc<Version>| {
            let draft = commit.drafts.get(&it.id);
            draft.map_or_else(|| it.record().bytes, |draft| draft.record.bytes)
        };
        versions.filter(|it| it.id != id).map(bytes).sum()
    }
}

fn drop_versions(
    model: String,
    version: u32,
    tables: &mut Tables<'_>,
    before: &Models,
    commit: &mut Commit,
) -> Result<Result<Vec<u32>, E>, DatabaseError> {
    let models = commit.models.get_or_insert_with(|| before.clone());
    let unknown = E::UnknownModel { model: model.clone(), version };
    let Some(there) = models.get_mut(&model) else { return Ok(Err(unknown)) };
    let numbers: Vec<u32> = match version {
        0 => there.versions.keys().copied().collect(),
        one if !there.versions.contains_key(&one) => return Ok(Err(unknown)),
        one if one == there.current && there.versions.len() > 1 => {
            return Ok(Err(E::IsCurrent { model, version }));
        }
        one => vec![one],
    };
    for number in &numbers {
        if let Some(dropped) = there.versions.remove(number) {
            tables.drop_version(&model, *number, dropped.id)?;
            commit.drafts.remove(&dropped.id);
        }
    }
    if there.versions.is_empty() {
        tables.drop_current(&model)?;
        models.remove(&model);
    }
    Ok(Ok(numbers))
}

fn task_size(task: &Task) -> usize {
    match task {
        Task::Apply { apply, .. } => apply.size(),
        _ => 0,
    }
}

/// Answers once it is committed; at once where the database has failed, which then ends the commit.
fn reply<T: 'static>(
    commit: &mut Commit,
    answer: Answer<T>,
    outcome: Result<Result<T, E>, DatabaseError>,
) -> Result<(), DatabaseError> {
    // Who does not wait any more has no need of an answer.
    match outcome {
        Ok(outcome) => commit.answers.push(Box::new(move |committed| {
            let _ = answer.send(committed.map_err(E::Failed).and(outcome));
        })),
        Err(error) => {
            let _ = answer.send(Err(E::Failed(error.clone())));
            return Err(error);
        }
    }
    Ok(())
}

fn refuse(task: Task, error: &E) {
    let error = error.clone();
    // Who does not wait any more has no need of it.
    match task {
        Task::Create { answer, .. } | Task::Apply { answer, .. } => drop(answer.send(Err(error))),
        Task::Switch { answer, .. } => drop(answer.send(Err(error))),
        Task::Drop { answer, .. } => drop(answer.send(Err(error))),
        Task::Stop => {}
    }
}
