//! Opens the store as it is configured: in memory, or from its directory with a thread that leads.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    config::Config,
    core::{
        clock::Clock,
        commit_log::{
            disk::{self, DataDirectory, OpenError, OpenLogError, SyncMode, recovery::Cut},
            memory::Memory,
        },
        log::{LogWriter, segment::SEGMENT_SIZE_BYTES},
        sequencer::Sequencer,
        store::Store,
    },
};

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

/// The store as it is configured: empty in memory, or read back from its directory.
pub async fn open(
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<(Arc<Store>, Option<Leader>), StorageError> {
    let memory_max = config.max_memory.unwrap_or(usize::MAX);
    let Some(path) = config.data.clone() else {
        let sequencer = Sequencer::new(LogWriter::new(), Box::new(Memory));
        let sequencer = sequencer.with_memory_max(memory_max);
        let store = Store::new(sequencer, Arc::clone(clock), config.append_queue_max);
        return Ok((Arc::new(store), None));
    };
    let sync = config.sync;
    let sequencer = tokio::task::spawn_blocking(move || read_back(&path, sync))
        .await
        .map_err(std::io::Error::other)??;
    let sequencer = sequencer.with_memory_max(memory_max);
    let store = Arc::new(Store::new(sequencer, Arc::clone(clock), config.append_queue_max));
    let leader = Leader::start(&store, sync)?;
    Ok((store, Some(leader)))
}

fn read_back(path: &Path, sync: SyncMode) -> Result<Sequencer, StorageError> {
    let started = Instant::now();
    let directory = DataDirectory::open(path)?;
    let files = Arc::clone(directory.files());
    let (mut sequencer, recovered) =
        disk::open(files, sync, SEGMENT_SIZE_BYTES, Some(directory), |done, all| {
            tracing::info!(done, all, "segment checked");
        })?;
    if let Some(Cut { file, offset, reason }) = recovered.cut {
        tracing::warn!(file, offset, %reason, "a torn tail was cut off; nothing of it was acknowledged");
    }
    let mut reported = Instant::now();
    sequencer.restore(recovered.head, |position| {
        if reported.elapsed() >= PROGRESS_INTERVAL {
            reported = Instant::now();
            tracing::info!(%position, head = %recovered.head, "indexing");
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(path = %path.display(), head = %recovered.head, seconds, "history read back");
    Ok(sequencer)
}
