//! Memory mode: what is in the segment is all there is, and nothing survives the process.

use super::{CommitLog, CommitLogError};
use crate::core::{log::chain::Hash, position::Position};

/// Promises nothing, so it has nothing to do.
pub struct Memory;

impl CommitLog for Memory {
    fn begin(&mut self, _: Position, _: usize, _: Option<&Hash>) -> Result<(), CommitLogError> {
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> Result<(), CommitLogError> {
        Ok(())
    }

    fn sync(&mut self) -> Result<(), CommitLogError> {
        Ok(())
    }

    fn settle(&mut self) -> Result<(), CommitLogError> {
        Ok(())
    }
}
