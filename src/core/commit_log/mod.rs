//! Where commits become as durable as the mode promises: the seam between the sequencer and the disk.
//!
//! The sequencer says when a segment begins, hands over each commit's bytes as it writes them, and asks
//! for one sync for a batch of commits before anybody is told of any of them.

pub mod disk;
pub mod memory;

use std::sync::Arc;

use super::{log::chain::Hash, position::Position};

/// Takes commits in order and makes them durable.
pub trait CommitLog: Send {
    /// From here on commits go to a new segment of `size` bytes, whose first event is at `first` and
    /// before which the hash chain, where one is kept, has come to `chain`. The segment before it is safe
    /// when this returns.
    fn begin(
        &mut self,
        first: Position,
        size: usize,
        chain: Option<&Hash>,
    ) -> Result<(), CommitLogError>;

    /// Takes the bytes of one commit: records, then the seal.
    fn write(&mut self, bytes: &[u8]) -> Result<(), CommitLogError>;

    /// Returns when everything written is as durable as the mode promises.
    fn sync(&mut self) -> Result<(), CommitLogError>;

    /// Makes everything written safe, whatever the mode promises: when it is quiet, and at the end.
    fn settle(&mut self) -> Result<(), CommitLogError>;
}

/// A write or a sync failed. What is on the disk is then unknown, so the sequencer takes nothing more:
/// recovery decides.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the log takes no more appends: {0}")]
pub struct CommitLogError(pub Arc<dyn std::error::Error + Send + Sync>);

impl CommitLogError {
    /// The failure that `reason` tells.
    pub fn new(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(Arc::from(reason.into()))
    }
}

impl PartialEq for CommitLogError {
    /// Two failures are the same if they read the same.
    fn eq(&self, other: &Self) -> bool {
        self.0.to_string() == other.0.to_string()
    }
}

impl Eq for CommitLogError {}
