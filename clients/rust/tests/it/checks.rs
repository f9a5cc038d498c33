//! A target whose check of the checkpoint can be turned off: what a harness must be seen to fail without.

use annals_client::projection::{Target, TargetError};

/// With the check: commits only where the runner believes the checkpoint to be. Without: wherever it is.
pub struct Checks<T> {
    pub target: T,
    pub is_on: bool,
}

impl<T: Target> Target for Checks<T> {
    type Batch = T::Batch;

    async fn checkpoint(&mut self) -> Result<u64, TargetError> {
        self.target.checkpoint().await
    }

    fn begin(&mut self) -> T::Batch {
        self.target.begin()
    }

    async fn commit(
        &mut self,
        expected: u64,
        checkpoint: u64,
        batch: &mut T::Batch,
    ) -> Result<(), TargetError> {
        if self.is_on {
            return self.target.commit(expected, checkpoint, batch).await;
        }
        let actual = self.target.checkpoint().await?;
        self.target.commit(actual, checkpoint.max(actual + 1), batch).await?;
        // What it remembers is forgotten: it would put right again what the other one counts twice.
        self.target.checkpoint().await.map(drop)
    }
}
