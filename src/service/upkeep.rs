//! The thread of the upkeep: it does what is due now and then, at low priority, and compacts when told.

use std::{
    io,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::core::{
    append::{AppendError, Proposal, Write},
    commit_log::CommitLogError,
    event::NewEvent,
    log::format::Body,
    name::Name,
    store::Store,
    upkeep::{Due, Removed, Upkeep},
};

/// So many may wait for the upkeep.
const ORDERS_MAX: usize = 16;
/// So often the upkeep looks whether there is something to do.
const INTERVAL: Duration = Duration::from_secs(1);
/// So many names' lists are packed between two batches of appends: less than a millisecond.
const PACKED_AT_ONCE: usize = 32;
/// What others do comes first.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// What the upkeep is told to do at once.
enum Order {
    Compact(oneshot::Sender<Result<Removed, CompactError>>),
    Stop,
}

/// Why nothing, or not everything, was removed. Nothing is lost by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompactError {
    /// The disk failed.
    #[error("the disk failed: {0}")]
    Disk(String),
    /// The segment that is written could not be sealed.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Too many wait for the upkeep.
    #[error("compactions are under way")]
    Busy,
    /// The server stops.
    #[error("the server stops")]
    Stopping,
}

/// Asks the upkeep to compact. For anyone.
#[derive(Clone)]
pub struct Compactor(mpsc::SyncSender<Order>);

impl Compactor {
    /// Removes everything that is gone, and returns when that is done. It is done also if nobody waits.
    pub async fn compact(&self) -> Result<Removed, CompactError> {
        let (caller, answer) = oneshot::channel();
        self.0.try_send(Order::Compact(caller)).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => CompactError::Busy,
            mpsc::TrySendError::Disconnected(_) => CompactError::Stopping,
        })?;
        answer.await.unwrap_or(Err(CompactError::Stopping))
    }
}

/// The thread of the upkeep.
pub struct Upkeeper {
    thread: std::thread::JoinHandle<()>,
    orders: mpsc::SyncSender<Order>,
}

impl Upkeeper {
    /// Starts it. The store is that of the upkeep.
    pub fn start(mut upkeep: Upkeep, store: Arc<Store>) -> io::Result<Self> {
        let (orders, queue) = mpsc::sync_channel(ORDERS_MAX);
        let thread =
            std::thread::Builder::new().name("annals-upkeep".to_owned()).spawn(move || {
                // Of this thread only; where it is not allowed it is as it was.
                #[cfg(target_os = "linux")]
                let _ = rustix::process::setpriority_process(None, NICENESS);
                loop {
                    match queue.recv_timeout(INTERVAL) {
                        Err(mpsc::RecvTimeoutError::Timeout) => {
                            keep_up(&mut upkeep, Due::Sometimes);
                            // It is told.
                            let _ = told(upkeep.compact_next());
                        }
                        Ok(Order::Compact(caller)) => {
                            // The caller may be gone.
                            let _ = caller.send(compact(&upkeep, &store));
                        }
                        Ok(Order::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => break,
                    }
                }
                keep_up(&mut upkeep, Due::AtEnd);
            })?;
        Ok(Self { thread, orders })
    }

    /// What removes the events that are gone.
    pub fn compactor(&self) -> Compactor {
        Compactor(self.orders.clone())
    }

    /// Returns when what was ordered is done, and what saves time at the next start is written. To call
    /// while somebody leads the store.
    pub fn stop(self) {
        // The thread is there until it is told.
        let _ = self.orders.send(Order::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the upkeep has panicked");
        }
    }
}

/// Removes everything that is gone, also from the segment that is written: that one is sealed first.
fn compact(upkeep: &Upkeep, store: &Store) -> Result<Removed, CompactError> {
    let disk = |error: io::Error| CompactError::Disk(error.to_string());
    if upkeep.active_has_gone() {
        store.history().log.seal_at_next_commit();
        let (answer, leads) = store.submit(compaction_requested())?;
        if leads {
            while store.lead(1) {}
        }
        let unknown = |_| AppendError::OutcomeUnknown(CommitLogError::new("the server stops"));
        answer.blocking_recv().map_err(unknown)??;
    }
    upkeep.map_sealed().map_err(disk)?;
    let removed = told(upkeep.compact()).map_err(disk)?;
    Ok(Removed { index_bytes: pack_indexes(store)?, ..removed })
}

/// Gives back what growth has set aside in the indexes, some names at a time, between appends.
fn pack_indexes(store: &Store) -> Result<u64, CompactError> {
    let mut freed = 0;
    for (map, index) in store.history().maps().enumerate() {
        for names in index.names().chunks(PACKED_AT_ONCE) {
            let names = names.to_vec();
            let (caller, answer) = oneshot::channel();
            let leads = store.order(Box::new(move |sequencer| {
                // The caller waits.
                let _ = caller.send(sequencer.pack(map, &names));
            }))?;
            if leads {
                while store.lead(1) {}
            }
            freed += answer.blocking_recv().map_err(|_| CompactError::Stopping)? as u64;
        }
    }
    Ok(freed)
}

/// The commit that begins the segment behind the one that is to be sealed; and the log tells that
/// somebody has asked.
fn compaction_requested() -> Proposal {
    let name = |text| Name::new(text, usize::MAX).expect("it is one");
    let (stream, event_type) = (name("$compaction"), name("$compaction-requested"));
    let event = NewEvent::new(Uuid::now_v7(), &stream, &event_type, &[], None, Body::default());
    Proposal {
        writes: [Write { stream, events: event.into(), expected: None }].into(),
        ..Proposal::default()
    }
}

fn told(removed: io::Result<Removed>) -> io::Result<Removed> {
    match &removed {
        Ok(Removed { segments: 0, .. }) => {}
        Ok(Removed { segments, events, bytes, .. }) => {
            tracing::info!(segments, events, bytes, "removed what is gone");
        }
        Err(error) => tracing::warn!(%error, "what is gone is not removed"),
    }
    removed
}

/// What fails here fails again next time, and nothing is lost by it: it is told.
fn keep_up(upkeep: &mut Upkeep, due: Due) {
    let started = Instant::now();
    match upkeep.map_sealed() {
        Ok(0) => {}
        Ok(segments) => tracing::debug!(segments, "sealed segments mapped"),
        Err(error) => tracing::warn!(%error, "sealed segments stay in memory"),
    }
    // One at a time: what else is due comes in between.
    match upkeep.pack_next() {
        Ok(None) => {}
        Ok(Some(saved)) => tracing::debug!(saved, "a segment compressed"),
        Err(error) => tracing::warn!(%error, "a segment stays as it is"),
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
