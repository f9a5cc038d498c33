//! Where commits become as durable as the mode promises: the seam between the sequencer and the disk.
//!
//! The sequencer hands over each commit's bytes as it writes them, and asks for one sync for a batch of
//! commits before anybody is told of any of them.

pub mod memory;

use std::sync::Arc;

use super::position::Position;

/// Takes commits in order and makes them durable.
pub trait CommitLog: Send {
    /// Takes the bytes of the commit that begins at `first`: records, then the seal.
    fn write(&mut self, first: Position, bytes: &[u8]) -> Result<(), CommitLogError>;

    /// Returns when everything written is as durable as the mode promises.
    fn sync(&mut self) -> Result<(), CommitLogError>;
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
