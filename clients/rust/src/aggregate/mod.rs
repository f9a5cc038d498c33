//! Aggregates: state that is folded from the events of one stream, and decisions about it.
//!
//! ```
//! # use annals_client::testing::TestStore;
//! use annals_client::aggregate::{Aggregate, Context, Repository};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! #[serde(tag = "type", content = "data")]
//! enum AccountEvent {
//!     Deposited { amount: u64 },
//!     Withdrawn { amount: u64 },
//! }
//!
//! #[derive(Default)]
//! struct Account {
//!     balance: u64,
//! }
//!
//! impl Aggregate for Account {
//!     const CATEGORY: &'static str = "Account";
//!     type Event = AccountEvent;
//!
//!     fn apply(&mut self, event: &AccountEvent) {
//!         match event {
//!             AccountEvent::Deposited { amount } => self.balance += amount,
//!             AccountEvent::Withdrawn { amount } => self.balance -= amount,
//!         }
//!     }
//! }
//!
//! #[derive(Debug, thiserror::Error)]
//! #[error("only {left} is left")]
//! struct Overdrawn {
//!     left: u64,
//! }
//!
//! impl Account {
//!     fn withdraw(&self, amount: u64) -> Result<Vec<AccountEvent>, Overdrawn> {
//!         if amount > self.balance {
//!             return Err(Overdrawn { left: self.balance });
//!         }
//!         Ok(vec![AccountEvent::Withdrawn { amount }])
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = TestStore::start().await;
//! # let client = store.client();
//! let accounts = Repository::<Account>::new(client);
//! let mut account = accounts.load("1").await?;
//! account.record(AccountEvent::Deposited { amount: 10 });
//! accounts.save(&mut account, &Context::default()).await?;
//!
//! // The whole decision again, on newer state, where somebody else was first:
//! let account = accounts.execute("1", &Context::default(), |account| account.withdraw(4)).await?;
//! assert_eq!(account.balance, 6);
//! # Ok(())
//! # }
//! ```

mod repository;
mod snapshot;

use std::{collections::BTreeMap, ops::Deref};

use chrono::{DateTime, Utc};
pub use repository::{ExecuteError, Repository};
use serde::{Serialize, de::DeserializeOwned};
pub use snapshot::Snapshot;
use uuid::Uuid;

use crate::{NewEvent, Result};

/// State that is folded from the events of one stream, `CATEGORY-id`.
///
/// ```
/// # use annals_client::aggregate::Aggregate;
/// # #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
/// # #[serde(tag = "type", content = "data")]
/// # enum AccountEvent { Deposited { amount: u64 }, Withdrawn { amount: u64 } }
/// # #[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
/// # struct Account { balance: u64 }
/// impl Aggregate for Account {
///     const CATEGORY: &'static str = "Account"; // Its streams: `Account-1`, `Account-2`.
///     type Event = AccountEvent;
///
///     fn apply(&mut self, event: &AccountEvent) {
///         match event {
///             AccountEvent::Deposited { amount } => self.balance += amount,
///             AccountEvent::Withdrawn { amount } => self.balance -= amount,
///         }
///     }
/// }
///
/// let mut account = Account::default();
/// account.apply(&AccountEvent::Deposited { amount: 10 });
/// assert_eq!(account.balance, 10);
/// ```
pub trait Aggregate: Default + Send + Sync + 'static {
    /// The category of its streams.
    const CATEGORY: &'static str;

    /// What happens to it: an enum with `#[serde(tag = "type", content = "data")]`.
    type Event: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Changes the state by what has happened. It must not fail: what cannot happen is not decided.
    fn apply(&mut self, event: &Self::Event);
}

/// A command that one aggregate decides. Nothing here knows a network, a clock or a store.
///
/// [`CommandBus`](crate::bus::CommandBus) sends it, [`Scenario`](crate::testing::Scenario) tests it.
///
/// ```
/// # use annals_client::aggregate::Decide;
/// # #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
/// # #[serde(tag = "type", content = "data")]
/// # enum AccountEvent { Deposited { amount: u64 }, Withdrawn { amount: u64 } }
/// # #[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
/// # struct Account { balance: u64 }
/// # impl annals_client::aggregate::Aggregate for Account {
/// #     const CATEGORY: &'static str = "Account";
/// #     type Event = AccountEvent;
/// #     fn apply(&mut self, event: &AccountEvent) {
/// #         match event {
/// #             AccountEvent::Deposited { amount } => self.balance += amount,
/// #             AccountEvent::Withdrawn { amount } => self.balance -= amount,
/// #         }
/// #     }
/// # }
/// # #[derive(Debug, PartialEq, thiserror::Error)]
/// # #[error("only {left} is left")]
/// # struct Overdrawn { left: u64 }
/// # struct Withdraw { account: String, amount: u64 }
/// impl Decide<Account> for Withdraw {
///     type Error = Overdrawn;
///
///     fn aggregate_id(&self) -> String {
///         self.account.clone()
///     }
///
///     fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Overdrawn> {
///         match account.balance {
///             left if left < self.amount => Err(Overdrawn { left }),
///             _ => Ok(vec![AccountEvent::Withdrawn { amount: self.amount }]),
///         }
///     }
/// }
///
/// let withdraw = Withdraw { account: "1".into(), amount: 5 };
/// assert_eq!(withdraw.decide(&Account { balance: 3 }), Err(Overdrawn { left: 3 }));
/// ```
pub trait Decide<A: Aggregate>: Send + Sync + 'static {
    /// Why the aggregate's rules refuse it.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Which aggregate: its stream's name without the category.
    fn aggregate_id(&self) -> String;

    /// The events that follow from it, in the state that the aggregate is in; none: there is nothing to do.
    fn decide(&self, aggregate: &A) -> Result<Vec<A::Event>, Self::Error>;
}

/// What the events of one save carry besides what they say.
///
/// ```
/// # use annals_client::{aggregate::{Context, Repository}, testing::TestStore};
/// # #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
/// # #[serde(tag = "type", content = "data")]
/// # enum AccountEvent { Deposited { amount: u64 }, Withdrawn { amount: u64 } }
/// # #[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
/// # struct Account { balance: u64 }
/// # impl annals_client::aggregate::Aggregate for Account {
/// #     const CATEGORY: &'static str = "Account";
/// #     type Event = AccountEvent;
/// #     fn apply(&mut self, event: &AccountEvent) {
/// #         match event {
/// #             AccountEvent::Deposited { amount } => self.balance += amount,
/// #             AccountEvent::Withdrawn { amount } => self.balance -= amount,
/// #         }
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let accounts = Repository::<Account>::new(client.clone());
/// # let mut account = accounts.load("1").await?;
/// # account.record(AccountEvent::Deposited { amount: 10 });
/// let context = Context {
///     correlation_id: Some("order-7".into()),
///     metadata: [("userId".into(), "ada".into())].into(),
///     ..Context::default()
/// };
/// accounts.save(&mut account, &context).await?;
///
/// let events = client.read_stream("Account-1").collect().await?;
/// assert_eq!(events[0].correlation_id.as_deref(), Some("order-7"));
/// assert_eq!(events[0].metadata["userId"], "ada");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    /// Which command they follow from: their ids are made of it, so that a command has its events once. `None`: each has
    /// an id of its own.
    pub command_id: Option<Uuid>,
    /// What they belong to, over all streams.
    pub correlation_id: Option<String>,
    /// What made them happen: the id of a command or an event.
    pub causation_id: Option<String>,
    /// Facts about them.
    pub metadata: BTreeMap<String, String>,
    /// What they are about besides their stream.
    pub tags: Vec<String>,
    /// When they happened. `None`: when the server records them.
    pub occurred_at: Option<DateTime<Utc>>,
}

impl Context {
    /// The events of one append, or of one commit: a set of events as [`NewEvent::of`] takes them, in their order.
    ///
    /// ```
    /// # use annals_client::aggregate::Context;
    /// # use serde::Serialize;
    /// # use uuid::Uuid;
    /// #[derive(Serialize)]
    /// #[serde(tag = "type", content = "data")]
    /// enum AccountEvent {
    ///     Opened,
    /// }
    ///
    /// let context = Context { command_id: Some(Uuid::now_v7()), ..Context::default() };
    /// let once = context.events(&[AccountEvent::Opened])?;
    /// assert_eq!(once[0].id, context.events(&[AccountEvent::Opened])?[0].id);
    /// # Ok::<_, annals_client::Error>(())
    /// ```
    pub fn events<'a, E: Serialize + 'a>(
        &self,
        events: impl IntoIterator<Item = &'a E>,
    ) -> Result<Vec<NewEvent>> {
        let events = events.into_iter().enumerate();
        events.map(|(index, event)| self.event(index, event)).collect()
    }

    fn event<E: Serialize>(&self, index: usize, event: &E) -> Result<NewEvent> {
        let mut new = NewEvent::of(event)?;
        new.correlation_id.clone_from(&self.correlation_id);
        new.causation_id.clone_from(&self.causation_id);
        new.metadata.clone_from(&self.metadata);
        new.tags.clone_from(&self.tags);
        new.occurred_at = self.occurred_at;
        if let Some(command_id) = self.command_id {
            new.id = event_id(command_id, index);
        }
        Ok(new)
    }
}

/// The id of a command's event with this index, from 0.
pub(crate) fn event_id(command_id: Uuid, index: usize) -> Uuid {
    Uuid::new_v5(&command_id, index.to_string().as_bytes())
}

/// An aggregate with its identity, its version, and what has been decided but not saved.
///
/// ```
/// # use annals_client::aggregate::Root;
/// # #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
/// # #[serde(tag = "type", content = "data")]
/// # enum AccountEvent { Deposited { amount: u64 }, Withdrawn { amount: u64 } }
/// # #[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
/// # struct Account { balance: u64 }
/// # impl annals_client::aggregate::Aggregate for Account {
/// #     const CATEGORY: &'static str = "Account";
/// #     type Event = AccountEvent;
/// #     fn apply(&mut self, event: &AccountEvent) {
/// #         match event {
/// #             AccountEvent::Deposited { amount } => self.balance += amount,
/// #             AccountEvent::Withdrawn { amount } => self.balance -= amount,
/// #         }
/// #     }
/// # }
/// let mut account = Root::<Account>::new("1");
/// account.record(AccountEvent::Deposited { amount: 10 });
/// assert_eq!(account.balance, 10, "the state is read through it");
/// assert_eq!((account.id(), account.stream().as_str()), ("1", "Account-1"));
/// assert_eq!(account.uncommitted(), [AccountEvent::Deposited { amount: 10 }]);
/// assert_eq!((account.version(), account.position()), (0, 0), "nothing is in the log yet");
/// ```
#[derive(Debug)]
pub struct Root<A: Aggregate> {
    id: String,
    state: A,
    version: u64,
    position: u64,
    uncommitted: Vec<A::Event>,
}

impl<A: Aggregate> Root<A> {
    /// One that nothing has happened to.
    pub fn new(id: impl Into<String>) -> Self {
        let state = A::default();
        Self { id: id.into(), state, version: 0, position: 0, uncommitted: Vec::new() }
    }

    /// One that these events have happened to, in this order.
    ///
    /// ```
    /// # use annals_client::aggregate::Root;
    /// # #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    /// # #[serde(tag = "type", content = "data")]
    /// # enum AccountEvent { Deposited { amount: u64 }, Withdrawn { amount: u64 } }
    /// # #[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
    /// # struct Account { balance: u64 }
    /// # impl annals_client::aggregate::Aggregate for Account {
    /// #     const CATEGORY: &'static str = "Account";
    /// #     type Event = AccountEvent;
    /// #     fn apply(&mut self, event: &AccountEvent) {
    /// #         match event {
    /// #             AccountEvent::Deposited { amount } => self.balance += amount,
    /// #             AccountEvent::Withdrawn { amount } => self.balance -= amount,
    /// #         }
    /// #     }
    /// # }
    /// let events = [AccountEvent::Deposited { amount: 10 }, AccountEvent::Withdrawn { amount: 4 }];
    /// let account = Root::<Account>::from_events("1", &events);
    /// assert_eq!((account.balance, account.version()), (6, 2));
    /// assert!(account.uncommitted().is_empty());
    /// ```
    pub fn from_events<'a>(
        id: impl Into<String>,
        events: impl IntoIterator<Item = &'a A::Event>,
    ) -> Self {
        let mut root = Self::new(id);
        for event in events {
            root.replay(event);
        }
        root
    }

    fn replay(&mut self, event: &A::Event) {
        self.state.apply(event);
        self.version += 1;
    }

    /// Its identity: its stream's name without the category.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its stream.
    pub fn stream(&self) -> String {
        stream::<A>(&self.id)
    }

    /// How many events of it are in the log, as far as is known; 0: none.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The position of its last event in the log, as far as is known: the `min_position` of a query that must see it. 0:
    /// there is none.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What has been decided and not saved.
    pub fn uncommitted(&self) -> &[A::Event] {
        &self.uncommitted
    }

    /// Lets an event happen: the state changes at once, the log with the next save.
    pub fn record(&mut self, event: A::Event) {
        self.state.apply(&event);
        self.uncommitted.push(event);
    }
}

/// The stream of the aggregate with this id.
fn stream<A: Aggregate>(id: &str) -> String {
    format!("{}-{id}", A::CATEGORY)
}

impl<A: Aggregate> Deref for Root<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.state
    }
}
