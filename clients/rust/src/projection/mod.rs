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
///
/// ```
/// use annals_client::projection::HandlerError;
///
/// fn amount(text: &str) -> Result<u64, HandlerError> {
///     match text.parse()? {
///         0 => Err("an amount is more than 0".into()),
///         amount => Ok(amount),
///     }
/// }
///
/// assert_eq!(amount("0").unwrap_err().to_string(), "an amount is more than 0");
/// assert!(amount("12x").unwrap_err().is::<std::num::ParseIntError>());
/// ```
pub type HandlerError = Box<dyn StdError + Send + Sync>;

/// What folds events into a batch `B`.
///
/// It must say the same of the same events: after a crash, or where another runner was first, it handles events again,
/// whose effects were not committed.
///
/// ```
/// # use annals_client::{Event, Filter, NewEvent, testing::TestStore};
/// # use annals_client::projection::{Documents, HandlerError, Projection, ReadModelTarget, Runner};
/// /// The type of the last event of each payment.
/// struct Last;
///
/// impl Projection<Documents> for Last {
///     fn name(&self) -> &str {
///         "last"
///     }
///
///     fn filters(&self) -> Vec<Filter> {
///         vec![Filter::new().category("Payment")]
///     }
///
///     async fn handle(&mut self, event: &Event, last: &mut Documents) -> Result<(), HandlerError> {
///         last.put(&event.stream, &serde_json::json!({ "type": event.event_type }))?;
///         Ok(())
///     }
/// }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.append("Payment-1", 0, [NewEvent::new("A"), NewEvent::new("B")]).await?;
/// # let model = client.read_model("last");
/// # model.create(&[]).await?;
/// # Runner::new(&client, Last, ReadModelTarget::new(model.clone())).run_until_caught_up().await?;
/// # assert_eq!(model.get::<serde_json::Value>("Payment-1").await?.unwrap().value["type"], "B");
/// # Ok(())
/// # }
/// ```
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
///
/// ```
/// # use annals_client::projection::Batch;
/// #[derive(Default)]
/// struct Rows {
///     rows: Vec<String>,
///     marked: usize,
/// }
///
/// impl Batch for Rows {
///     fn mark(&mut self) {
///         self.marked = self.rows.len();
///     }
///
///     fn undo(&mut self) {
///         self.rows.truncate(self.marked);
///     }
/// }
/// # let mut batch = Rows { rows: vec!["1".into()], ..Rows::default() };
/// # batch.mark();
/// # batch.rows.push("2".into());
/// # batch.undo();
/// # assert_eq!(batch.rows, ["1"]);
/// ```
pub trait Batch: Send {
    /// What is added from here on can be taken back.
    fn mark(&mut self);

    /// Takes back what was added since the last mark.
    fn undo(&mut self);
}

/// Where a projection's read model is, and its checkpoint.
///
/// ```
/// # use annals_client::{Event, Filter, NewEvent, testing::TestStore};
/// # use annals_client::projection::{Batch, HandlerError, Projection, Runner, Target, TargetError};
/// # use std::sync::{Arc, Mutex};
/// # #[derive(Default)]
/// # struct Rows { rows: Vec<String>, marked: usize }
/// # impl Batch for Rows {
/// #     fn mark(&mut self) { self.marked = self.rows.len(); }
/// #     fn undo(&mut self) { self.rows.truncate(self.marked); }
/// # }
/// # #[derive(Default)]
/// # struct Rest { checkpoint: u64, rows: Vec<String> }
/// # #[derive(Clone, Default)]
/// # struct Table(Arc<Mutex<Rest>>);
/// impl Target for Table {
///     type Batch = Rows;
///
///     async fn checkpoint(&mut self) -> Result<u64, TargetError> {
///         Ok(self.0.lock().unwrap().checkpoint)
///     }
///
///     fn begin(&mut self) -> Rows {
///         Rows::default()
///     }
///
///     async fn commit(&mut self, expected: u64, new: u64, batch: &mut Rows) -> Result<(), TargetError> {
///         let mut table = self.0.lock().unwrap(); // The transaction.
///         if table.checkpoint != expected {
///             return Err(TargetError::Conflict { actual: table.checkpoint });
///         }
///         table.checkpoint = new;
///         table.rows.append(&mut batch.rows);
///         Ok(())
///     }
/// }
/// # struct Streams;
/// # impl Projection<Rows> for Streams {
/// #     fn name(&self) -> &str { "streams" }
/// #     fn filters(&self) -> Vec<Filter> { Vec::new() }
/// #     async fn handle(&mut self, event: &Event, batch: &mut Rows) -> Result<(), HandlerError> {
/// #         batch.rows.push(event.stream.clone());
/// #         Ok(())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.append("Payment-1", 0, [NewEvent::new("A"), NewEvent::new("B")]).await?;
/// # let table = Table::default();
/// # Runner::new(&client, Streams, table.clone()).run_until_caught_up().await?;
/// # assert_eq!(table.0.lock().unwrap().rows, ["Payment-1", "Payment-1"]);
/// # assert_eq!(table.0.lock().unwrap().checkpoint, 2);
/// # Ok(())
/// # }
/// ```
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
///
/// ```
/// # use annals_client::projection::TargetError;
/// use std::io::{Error, ErrorKind};
///
/// fn of_database(error: Error) -> TargetError {
///     match error.kind() {
///         ErrorKind::TimedOut | ErrorKind::ConnectionReset => TargetError::Transient(error.into()),
///         _ => TargetError::Permanent(error.into()),
///     }
/// }
///
/// assert!(matches!(of_database(ErrorKind::TimedOut.into()), TargetError::Transient(_)));
/// assert!(matches!(of_database(ErrorKind::NotFound.into()), TargetError::Permanent(_)));
/// ```
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
            error @ crate::Error::Connect { .. } => Self::Permanent(error.into()),
            error if error.is_on_the_way() => Self::Transient(error.into()),
            error => Self::Permanent(error.into()),
        }
    }
}
