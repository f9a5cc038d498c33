//! Projections: events folded into a read model, each exactly once.
//!
//! ```text
//! log ──subscription──► Projection::handle ──► a batch ──► Target::commit(expected, checkpoint, batch)
//!          ▲ after the checkpoint                                │ documents and checkpoint in one write
//!          └────────────────────────────────────────────────────┘
//! ```
//!
//! A target writes a batch and the position behind it together, and only if its checkpoint is still the one that the
//! runner has seen. So a crash between any two steps repeats nothing and loses nothing, and of two runners of one
//! projection one finds that the other was there. [`ReadModelTarget`] keeps documents on the server; a database of your
//! own needs a [`Target`]: three functions, of which `commit` writes batch and checkpoint in one transaction.
//!
//! ```
//! # use annals_client::{Event, Filter, NewEvent, testing::TestStore};
//! use annals_client::projection::{Documents, HandlerError, Projection, ReadModelTarget, Runner};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Count {
//!     events: u64,
//! }
//!
//! /// How many events each stream has.
//! struct Counts;
//!
//! impl Projection<Documents> for Counts {
//!     fn name(&self) -> &str {
//!         "counts"
//!     }
//!
//!     fn filters(&self) -> Vec<Filter> {
//!         vec![Filter::new().category("Payment")]
//!     }
//!
//!     async fn handle(&mut self, event: &Event, counts: &mut Documents) -> Result<(), HandlerError> {
//!         let mut count: Count = counts.get(&event.stream).await?.unwrap_or_default();
//!         count.events += 1;
//!         counts.put(&event.stream, &count)?;
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = TestStore::start().await;
//! # let client = store.client();
//! # client.append("Payment-1", 0, [NewEvent::new("A"), NewEvent::new("B")]).await?;
//! let model = client.read_model("counts");
//! model.create(&[]).await?;
//! let runner = Runner::new(&client, Counts, ReadModelTarget::new(model.clone()));
//! runner.run_until_caught_up().await?;
//! assert_eq!(model.get::<Count>("Payment-1").await?.unwrap().value.events, 2);
//! # Ok(())
//! # }
//! ```

mod documents;
mod runner;

use std::{error::Error as StdError, future::Future};

pub use documents::{Documents, ReadModelTarget, rebuild};
pub use runner::{OnFailure, Progress, RunError, Runner};

use crate::{Event, Filter};

/// Why an event could not be handled.
pub type HandlerError = Box<dyn StdError + Send + Sync>;

/// What folds events into a batch `B`.
///
/// It must say the same of the same events: after a crash, or where another runner was first, it handles events again,
/// whose effects were not committed.
pub trait Projection<B>: Send {
    /// Names it where it is seen: in the server's list of subscriptions, in logs, in the stream of parked events.
    fn name(&self) -> &str;

    /// Which events it is for. None: every event.
    fn filters(&self) -> Vec<Filter>;

    /// Adds to the batch what follows from the event. What a failed call has added is taken back.
    fn handle(
        &mut self,
        event: &Event,
        batch: &mut B,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// Changes that are collected, to be committed together.
pub trait Batch: Send {
    /// What is added from here on can be taken back.
    fn mark(&mut self);

    /// Takes back what was added since the last mark.
    fn undo(&mut self);
}

/// Where a projection's read model is, and its checkpoint.
pub trait Target: Send {
    /// What it collects.
    type Batch: Batch;

    /// The position up to which events are in the read model; 0: none are.
    fn checkpoint(&mut self) -> impl Future<Output = Result<u64, TargetError>> + Send;

    /// An empty batch.
    fn begin(&mut self) -> Self::Batch;

    /// Writes the batch and the new checkpoint together, if the checkpoint is still the expected one; otherwise nothing. A
    /// batch that was written is done with; one that was not may come again.
    fn commit(
        &mut self,
        expected: u64,
        checkpoint: u64,
        batch: &mut Self::Batch,
    ) -> impl Future<Output = Result<(), TargetError>> + Send;
}

/// Why a target has not done what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The checkpoint is another one: somebody else was first. Nothing was written.
    #[error("the checkpoint is {actual}")]
    Conflict {
        /// Where it is.
        actual: u64,
    },
    /// It may work later: it is tried again.
    #[error(transparent)]
    Transient(HandlerError),
    /// It will not work.
    #[error(transparent)]
    Permanent(HandlerError),
}

impl From<crate::Error> for TargetError {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::WrongCheckpoint { actual, .. } => Self::Conflict { actual },
            error if error.is_on_the_way() => Self::Transient(error.into()),
            error => Self::Permanent(error.into()),
        }
    }
}
