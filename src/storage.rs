//! Opens the store as it is configured, in memory or from its directory, with the threads that it has:
//! the one that leads, in durable mode, and the one of the upkeep.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::{
    config::Config,
    core::{
        clock::Clock,
        commit_log::{
            disk::{
                self, DataDirectory, OpenError, OpenLogError, SyncMode, files::Files,
                recovery::Cut, snapshot,
            },
            memory::Memory,
        },
        log::{LogWriter, segment::SEGMENT_SIZE_BYTES},
        name::Name,
        position::Position,
        sequencer::{Sequencer, WhenFull},
        store::Store,
        upkeep::{DataFiles, Upkeep},
    },
    progress::{self, Progress},
    service::upkeep::{Compactor, Upkeeper},
};

/// Why the history cannot be opened. Nothing in the directory was changed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// What is in it cannot be read back, or it cannot be written to.
    #[error(transparent)]
    Log(#[from] OpenLogError),
    /// The operating system gives no thread.
    #[error("cannot start a thread")]
    Thread(#[from] std::io::Error),
}

/// The thread that leads in durable mode: it waits for the disk, so that no other does.
pub struct Leader {
    thread: std::thread::JoinHandle<()>,
    stopped: Arc<AtomicBool>,
}

impl Leader {
    fn start(store: &Arc<Store>, sync: SyncMode) -> Result<Self, StorageError> {
        let settle_after = match sync {
            SyncMode::Interval(interval) => Some(interval),
            SyncMode::Always | SyncMode::Never => None,
        };
        let stopped = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("annals-leader".to_owned()).spawn({
            let (store, stopped) = (Arc::clone(store), Arc::clone(&stopped));
            // Acquire, pairs with the Release in `stop`.
            move || store.lead_from_now_on(settle_after, || stopped.load(Ordering::Acquire))
        })?;
        store.led_by(thread.thread().clone());
        Ok(Self { thread, stopped })
    }

    /// Returns when everything that waited is decided and safe.
    pub fn stop(self) {
        // Release, pairs with the Acquire above.
        self.stopped.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("the leader has panicked");
        }
    }
}

/// The store, and the threads that it has.
pub struct Storage {
    pub store: Arc<Store>,
    leader: Option<Leader>,
    upkeeper: Upkeeper,
}

impl Storage {
    /// What removes the events that are gone.
    pub fn compactor(&self) -> Compactor {
        self.upkeeper.compactor()
    }

    /// Returns when everything that waited is decided and safe, and the next start prepared.
    pub fn stop(self) {
        // A compaction that was begun has an append of its own, and waits for the leader.
        self.upkeeper.stop();
        if let Some(leader) = self.leader {
            leader.stop();
        }
    }
}

/// The store as it is configured: empty in memory, or read back from its directory.
pub async fn open(config: &Config, clock: &Arc<dyn Clock>) -> Result<Storage, StorageError> {
    let memory_max = config.max_memory.unwrap_or(usize::MAX);
    let store = |sequencer: Sequencer| {
        let sequencer = sequencer.with_memory_max(memory_max, config.when_full);
        let store = Store::new(sequencer, Arc::clone(clock), config.append_queue_max);
        Arc::new(store.with_queue_bytes(config.append_queue_bytes_max))
    };
    let keys = config.index_metadata.clone();
    let Some(path) = config.data.clone() else {
        let log = LogWriter::with_segment_size(segment_size(config));
        let store = store(Sequencer::new(log, Box::new(Memory)).with_metadata_keys(keys));
        let upkeep = Upkeep::new(Arc::clone(store.history()), None, Position::ZERO);
        let upkeep = upkeep.with_codec(config.compress);
        let upkeeper = Upkeeper::start(upkeep, Arc::clone(&store))?;
        return Ok(Storage { store, leader: None, upkeeper });
    };
    let sync = config.sync;
    let watched = progress::is_watched(config.log_format);
    let (sequencer, files, snapshot) =
        tokio::task::spawn_blocking(move || read_back(&path, sync, keys, watched))
            .await
            .map_err(std::io::Error::other)??;
    let store = store(sequencer);
    let leader = Leader::start(&store, sync)?;
    let upkeep = Upkeep::new(Arc::clone(store.history()), Some(files), snapshot);
    let upkeep = upkeep.with_codec(config.compress);
    let upkeeper = Upkeeper::start(upkeep, Arc::clone(&store))?;
    Ok(Storage { store, leader: Some(leader), upkeeper })
}

/// Where the oldest segment is dropped when memory is full, it must be a small part of all.
fn segment_size(config: &Config) -> usize {
    match (config.when_full, config.max_memory) {
        (WhenFull::Evict, Some(max)) => (max / 16).min(SEGMENT_SIZE_BYTES),
        _ => SEGMENT_SIZE_BYTES,
    }
}

fn read_back(
    path: &Path,
    sync: SyncMode,
    keys: Vec<Name>,
    watched: bool,
) -> Result<(Sequencer, DataFiles, Position), StorageError> {
    let started = Instant::now();
    let directory = DataDirectory::open(path)?;
    let files =
        DataFiles { segments: Arc::clone(directory.files()), index: Arc::clone(directory.index()) };
    let checking = Progress::begin("checking segments", watched);
    let opened = disk::open(
        Arc::clone(&files.segments),
        sync,
        SEGMENT_SIZE_BYTES,
        Some(directory),
        |done, all| checking.at(done as u64, all as u64),
    );
    checking.end();
    let (sequencer, recovered) = opened?;
    let mut sequencer = sequencer.with_metadata_keys(keys);
    if let Some(Cut { file, offset, reason }) = recovered.cut {
        tracing::warn!(file, offset, %reason, "a torn tail was cut off; nothing of it was acknowledged");
    }
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(head = %recovered.head, seconds, "segments checked");
    let snapshot = take_indexes(&mut sequencer, &*files.index, recovered.head);
    let indexing = Progress::begin("indexing events", watched);
    sequencer.restore(recovered.head, |position| {
        indexing.at(position.get(), recovered.head.get());
    });
    indexing.end();
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(path = %path.display(), head = %recovered.head, %snapshot, seconds, "history read back");
    Ok((sequencer, files, snapshot))
}

/// Takes the newest snapshot of the indexes, if it is good. Up to where it goes.
fn take_indexes(sequencer: &mut Sequencer, files: &dyn Files, head: Position) -> Position {
    let Some((file, indexes)) = snapshot::read_newest(files) else { return Position::ZERO };
    match indexes
        .and_then(|indexes| indexes.check(&sequencer.reader(head), &sequencer.history().metadata))
    {
        Ok(indexes) => {
            let head = indexes.head;
            sequencer.take_indexes(indexes);
            head
        }
        Err(error) => {
            tracing::warn!(file, %error, "the written indexes are not used; everything is indexed again");
            Position::ZERO
        }
    }
}
