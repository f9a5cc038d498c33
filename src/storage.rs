//! Opens the store as it is configured, in memory or from its directory, with the threads that it has:
//! the one that leads, in durable mode, and the one of the upkeep.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
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
        position::Position,
        sequencer::Sequencer,
        store::Store,
        upkeep::{DataFiles, Due, Upkeep},
    },
};

/// So often the upkeep looks whether there is something to do.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);
/// What others do comes first.
#[cfg(target_os = "linux")]
const UPKEEP_NICENESS: i32 = 10;
/// While the history is read back, so often is told how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

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

/// The thread of the upkeep.
pub struct Upkeeper {
    thread: std::thread::JoinHandle<()>,
    stop: mpsc::SyncSender<()>,
}

impl Upkeeper {
    fn start(mut upkeep: Upkeep) -> Result<Self, StorageError> {
        let (stop, stopped) = mpsc::sync_channel(1);
        let thread =
            std::thread::Builder::new().name("annals-upkeep".to_owned()).spawn(move || {
                // Of this thread only; where it is not allowed it is as it was.
                #[cfg(target_os = "linux")]
                let _ = rustix::process::setpriority_process(None, UPKEEP_NICENESS);
                while stopped.recv_timeout(UPKEEP_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout)
                {
                    keep_up(&mut upkeep, Due::Sometimes);
                }
                keep_up(&mut upkeep, Due::AtEnd);
            })?;
        Ok(Self { thread, stop })
    }

    /// Returns when what saves time at the next start is written. To call when nothing is appended any
    /// more.
    pub fn stop(self) {
        // The thread is there until it is told.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the upkeep has panicked");
        }
    }
}

/// What fails here fails again next time, and nothing is lost by it: it is told.
fn keep_up(upkeep: &mut Upkeep, due: Due) {
    let started = Instant::now();
    match upkeep.map_sealed() {
        Ok(0) => {}
        Ok(segments) => tracing::debug!(segments, "sealed segments mapped"),
        Err(error) => tracing::warn!(%error, "sealed segments stay in memory"),
    }
    match upkeep.write_indexes(due) {
        Ok(None) => {}
        Ok(Some(head)) => {
            let seconds = started.elapsed().as_secs_f64();
            tracing::info!(%head, seconds, "indexes written");
        }
        Err(error) => tracing::warn!(%error, "indexes not written; the next start takes longer"),
    }
}

/// The store, and the threads that it has.
pub struct Storage {
    pub store: Arc<Store>,
    leader: Option<Leader>,
    upkeeper: Upkeeper,
}

impl Storage {
    /// Returns when everything that waited is decided and safe, and the next start prepared.
    pub fn stop(self) {
        if let Some(leader) = self.leader {
            leader.stop();
        }
        self.upkeeper.stop();
    }
}

/// The store as it is configured: empty in memory, or read back from its directory.
pub async fn open(config: &Config, clock: &Arc<dyn Clock>) -> Result<Storage, StorageError> {
    let memory_max = config.max_memory.unwrap_or(usize::MAX);
    let store = |sequencer: Sequencer| {
        let sequencer = sequencer.with_memory_max(memory_max);
        Arc::new(Store::new(sequencer, Arc::clone(clock), config.append_queue_max))
    };
    let Some(path) = config.data.clone() else {
        let store = store(Sequencer::new(LogWriter::new(), Box::new(Memory)));
        let upkeep = Upkeep::new(Arc::clone(store.history()), None, Position::ZERO);
        return Ok(Storage { store, leader: None, upkeeper: Upkeeper::start(upkeep)? });
    };
    let sync = config.sync;
    let (sequencer, files, snapshot) = tokio::task::spawn_blocking(move || read_back(&path, sync))
        .await
        .map_err(std::io::Error::other)??;
    let store = store(sequencer);
    let leader = Leader::start(&store, sync)?;
    let upkeep = Upkeep::new(Arc::clone(store.history()), Some(files), snapshot);
    Ok(Storage { store, leader: Some(leader), upkeeper: Upkeeper::start(upkeep)? })
}

fn read_back(
    path: &Path,
    sync: SyncMode,
) -> Result<(Sequencer, DataFiles, Position), StorageError> {
    let started = Instant::now();
    let directory = DataDirectory::open(path)?;
    let files =
        DataFiles { segments: Arc::clone(directory.files()), index: Arc::clone(directory.index()) };
    let (mut sequencer, recovered) = disk::open(
        Arc::clone(&files.segments),
        sync,
        SEGMENT_SIZE_BYTES,
        Some(directory),
        |done, all| {
            tracing::info!(done, all, "segment checked");
        },
    )?;
    if let Some(Cut { file, offset, reason }) = recovered.cut {
        tracing::warn!(file, offset, %reason, "a torn tail was cut off; nothing of it was acknowledged");
    }
    let snapshot = take_indexes(&mut sequencer, &*files.index, recovered.head);
    let mut reported = Instant::now();
    sequencer.restore(recovered.head, |position| {
        if reported.elapsed() >= PROGRESS_INTERVAL {
            reported = Instant::now();
            tracing::info!(%position, head = %recovered.head, "indexing");
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(path = %path.display(), head = %recovered.head, %snapshot, seconds, "history read back");
    Ok((sequencer, files, snapshot))
}

/// Takes the newest snapshot of the indexes, if it is good. Up to where it goes.
fn take_indexes(sequencer: &mut Sequencer, files: &dyn Files, head: Position) -> Position {
    let Some((file, indexes)) = snapshot::read_newest(files) else { return Position::ZERO };
    match indexes.and_then(|indexes| indexes.check(&sequencer.reader(head))) {
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
