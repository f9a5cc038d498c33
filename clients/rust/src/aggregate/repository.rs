//! Loads aggregates from their streams and saves what was decided, with the version that was read.

use std::{fmt, marker::PhantomData};

use chrono::{DateTime, Utc};

use super::{Aggregate, Context, Root, snapshot::Snapshots};
use crate::{
    Appended, Client, Error, Event, NewEvent, Result,
    aggregate::Snapshot,
    bus::EventBus,
    client::{Backoff, Retry},
};

/// The aggregates of one kind.
///
/// ```
/// # use annals_client::testing::TestStore;
/// use annals_client::aggregate::{Context, Repository};
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
///
/// let accounts = Repository::<Account>::new(store.client());
/// let mut account = accounts.load("1").await?;
/// assert_eq!(account.version(), 0, "nothing has happened to it");
/// account.record(AccountEvent::Deposited { amount: 10 });
/// let position = accounts.save(&mut account, &Context::default()).await?;
/// assert_eq!((account.version(), account.position()), (1, position));
/// assert_eq!(accounts.load("1").await?.balance, 10);
/// # Ok(())
/// # }
/// ```
pub struct Repository<A> {
    client: Client,
    conflicts: Retry,
    snapshots: Option<Snapshots<A>>,
    published_to: Option<EventBus>,
    kind: PhantomData<fn() -> A>,
}

impl<A> Clone for Repository<A> {
    fn clone(&self) -> Self {
        let (client, published_to) = (self.client.clone(), self.published_to.clone());
        Self { client, published_to, ..*self }
    }
}

impl<A: Aggregate> fmt::Debug for Repository<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("category", &A::CATEGORY).finish_non_exhaustive()
    }
}

/// Why a command was not carried out. Nothing was written, unless it is [`ExecuteError::Store`] with an outcome that is
/// not known.
///
/// ```
/// # use annals_client::{aggregate::{Context, ExecuteError, Repository}, testing::TestStore};
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
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let accounts = Repository::<Account>::new(store.client());
/// let withdraw = |account: &Account| Err(Overdrawn { left: account.balance });
/// match accounts.execute("1", &Context::default(), withdraw).await {
///     Err(ExecuteError::Refused(Overdrawn { left })) => assert_eq!(left, 0),
///     Err(ExecuteError::Contended { tries }) => panic!("too busy: {tries} tries"),
///     Err(ExecuteError::Store(error)) => return Err(error.into()),
///     Ok(account) => panic!("{} is left", account.balance),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError<E> {
    /// The aggregate's own rules refuse it.
    #[error(transparent)]
    Refused(E),
    /// Somebody else was first, every time.
    #[error("somebody else was first, {tries} times")]
    Contended {
        /// So often it was tried.
        tries: u32,
    },
    /// The store failed, or refused the events.
    #[error(transparent)]
    Store(#[from] Error),
}

impl<A: Aggregate> Repository<A> {
    /// With at most 64 tries of a decision where somebody else was first.
    pub fn new(client: Client) -> Self {
        let pause = std::time::Duration::from_millis(2);
        let pause_max = std::time::Duration::from_millis(200);
        let conflicts = Retry { tries: 64, pause, pause_max };
        Self { client, conflicts, snapshots: None, published_to: None, kind: PhantomData }
    }

    /// How often, and after which pauses, a decision is made again where somebody else was first.
    ///
    /// ```
    /// # use annals_client::{aggregate::{Context, Repository}, testing::TestStore};
    /// # use std::time::Duration;
    /// use annals_client::client::Retry;
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
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    ///
    /// let retry = Retry { tries: 3, pause: Duration::from_millis(10), ..Retry::default() };
    /// let accounts = Repository::<Account>::new(client).conflicts(retry);
    /// let deposit = |_: &Account| Ok::<_, Overdrawn>(vec![AccountEvent::Deposited { amount: 10 }]);
    /// let account = accounts.execute("1", &Context::default(), deposit).await?;
    /// assert_eq!(account.balance, 10);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn conflicts(mut self, retry: Retry) -> Self {
        self.conflicts = retry;
        self
    }

    /// With a snapshot after every so many events of an aggregate, in the stream `$snapshot-<its stream>`: loads begin with
    /// the newest one that fits.
    ///
    /// ```
    /// # use annals_client::{aggregate::{Context, Repository, Snapshot}, testing::TestStore};
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
    /// # impl Snapshot for Account {
    /// #     const SCHEMA: u32 = 1;
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// let accounts = Repository::<Account>::new(client.clone()).snapshot_every(2);
    /// let mut account = accounts.load("1").await?;
    /// account.record(AccountEvent::Deposited { amount: 10 });
    /// account.record(AccountEvent::Withdrawn { amount: 4 });
    /// accounts.save(&mut account, &Context::default()).await?;
    /// assert_eq!(client.read_stream("$snapshot-Account-1").collect().await?.len(), 1);
    /// assert_eq!(accounts.load("1").await?.balance, 6);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn snapshot_every(mut self, events: u64) -> Self
    where
        A: Snapshot,
    {
        self.snapshots = Some(Snapshots::new(events));
        self
    }

    /// What is saved goes to the handlers of this bus, before the save returns.
    ///
    /// ```
    /// # use annals_client::{Event, aggregate::{Context, Repository}, bus::EventBus, testing::TestStore};
    /// # use std::sync::{Arc, atomic::{AtomicU64, Ordering::SeqCst}};
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
    /// let last = Arc::new(AtomicU64::new(0));
    /// let bus = EventBus::new().on("Deposited", {
    ///     let last = Arc::clone(&last);
    ///     move |event: Arc<Event>| {
    ///         last.store(event.position, SeqCst);
    ///         async { Ok(()) }
    ///     }
    /// });
    /// let accounts = Repository::<Account>::new(client).publish_to(bus);
    /// # let mut account = accounts.load("1").await?;
    /// # account.record(AccountEvent::Deposited { amount: 10 });
    /// let saved = accounts.save(&mut account, &Context::default()).await?;
    /// assert_eq!(last.load(SeqCst), saved);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn publish_to(mut self, bus: EventBus) -> Self {
        self.published_to = Some(bus);
        self
    }

    /// The aggregate as it is now; with version 0 where nothing has happened to it.
    pub async fn load(&self, id: impl Into<String>) -> Result<Root<A>> {
        let mut root = Root::new(id);
        if let Some(snapshots) = &self.snapshots {
            snapshots.load(&self.client, &mut root).await?;
        }
        self.refresh(&mut root).await?;
        Ok(root)
    }

    /// The aggregate as it was: with the events up to this version.
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
    /// # let accounts = Repository::<Account>::new(store.client());
    /// # let mut account = accounts.load("1").await?;
    /// account.record(AccountEvent::Deposited { amount: 10 });
    /// account.record(AccountEvent::Withdrawn { amount: 4 });
    /// accounts.save(&mut account, &Context::default()).await?;
    /// assert_eq!(accounts.load_version("1", 1).await?.balance, 10);
    /// assert_eq!(accounts.load_version("1", 2).await?.balance, 6);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn load_version(&self, id: impl Into<String>, version: u64) -> Result<Root<A>> {
        let mut root = Root::new(id);
        if version > 0 {
            self.replay(&mut root, version, |_| true).await?;
        }
        Ok(root)
    }

    /// The aggregate as it was at this moment: with the events that had happened by then, in the order of its stream, up
    /// to the first that had not.
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
    /// # let accounts = Repository::<Account>::new(store.client());
    /// # let mut account = accounts.load("1").await?;
    /// let in_march = Some("2024-03-01T10:00:00Z".parse()?);
    /// account.record(AccountEvent::Deposited { amount: 10 });
    /// accounts.save(&mut account, &Context { occurred_at: in_march, ..Context::default() }).await?;
    /// account.record(AccountEvent::Withdrawn { amount: 4 });
    /// accounts.save(&mut account, &Context::default()).await?; // It happens now.
    ///
    /// let in_april = "2024-04-01T00:00:00Z".parse()?;
    /// assert_eq!(accounts.load_at("1", in_april).await?.balance, 10);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn load_at(&self, id: impl Into<String>, at: DateTime<Utc>) -> Result<Root<A>> {
        let mut root = Root::new(id);
        self.replay(&mut root, 0, |occurred_at| occurred_at <= at).await?;
        Ok(root)
    }

    /// Takes in what has happened since it was loaded. What is not saved must not be there.
    async fn refresh(&self, root: &mut Root<A>) -> Result<()> {
        self.replay(root, 0, |_| true).await
    }

    async fn replay(
        &self,
        root: &mut Root<A>,
        limit: u64,
        has_happened: impl Fn(DateTime<Utc>) -> bool,
    ) -> Result<()> {
        let read = self.client.read_stream(root.stream()).after(root.version).limit(limit);
        let mut events = match read.events().await {
            Ok(events) => events,
            Err(error) if is_empty(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        loop {
            match events.next().await {
                Ok(Some(event)) if has_happened(event.occurred_at) => {
                    root.state.apply(&event.decode()?);
                    // Its own: where old events are hidden there is more than was read.
                    (root.version, root.position) = (event.version, event.position);
                }
                Ok(_) => return Ok(()),
                Err(error) if is_empty(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends what is not saved yet, if the stream has the version that was read.
    ///
    /// [`Error::WrongExpectedVersion`]: somebody else was first; nothing was written, and the root is as it was. The position
    /// of the last event, 0 where there was nothing to save.
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
    /// # let accounts = Repository::<Account>::new(store.client());
    /// let mut ours = accounts.load("1").await?;
    /// let mut theirs = accounts.load("1").await?;
    /// theirs.record(AccountEvent::Deposited { amount: 10 });
    /// accounts.save(&mut theirs, &Context::default()).await?;
    ///
    /// ours.record(AccountEvent::Deposited { amount: 5 });
    /// let error = accounts.save(&mut ours, &Context::default()).await.unwrap_err();
    /// assert!(error.is_conflict());
    /// assert_eq!(ours.uncommitted().len(), 1, "it is as it was");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn save(&self, root: &mut Root<A>, context: &Context) -> Result<u64> {
        let events = context.events(&root.uncommitted)?;
        if events.is_empty() {
            return Ok(0);
        }
        let appended = self.append(root, events, |_| ()).await?;
        root.uncommitted.clear();
        if appended.duplicate {
            // They are in the stream, maybe among those that were loaded.
            *root = self.load(root.id.clone()).await?;
        }
        Ok(appended.position)
    }

    /// Loads, decides, saves; where somebody else was first, takes in what they did and makes the whole decision again.
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
    /// # #[derive(Debug, PartialEq, thiserror::Error)]
    /// # #[error("only {left} is left")]
    /// # struct Overdrawn { left: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = TestStore::start().await;
    /// # let accounts = Repository::<Account>::new(store.client());
    /// # let mut account = accounts.load("1").await?;
    /// # account.record(AccountEvent::Deposited { amount: 10 });
    /// # accounts.save(&mut account, &Context::default()).await?;
    /// let withdraw_4 = |account: &Account| match account.balance {
    ///     left if left < 4 => Err(Overdrawn { left }),
    ///     _ => Ok(vec![AccountEvent::Withdrawn { amount: 4 }]),
    /// };
    /// let account = accounts.execute("1", &Context::default(), withdraw_4).await?;
    /// assert_eq!((account.balance, account.version()), (6, 2));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn execute<E>(
        &self,
        id: impl Into<String>,
        context: &Context,
        decide: impl FnMut(&A) -> Result<Vec<A::Event>, E>,
    ) -> Result<Root<A>, ExecuteError<E>> {
        Ok(self.decide(id.into(), context, decide).await?.0)
    }

    /// The same; and whether the command's events had been there before.
    pub(crate) async fn decide<E>(
        &self,
        id: String,
        context: &Context,
        mut decide: impl FnMut(&A) -> Result<Vec<A::Event>, E>,
    ) -> Result<(Root<A>, bool), ExecuteError<E>> {
        let mut root = self.load(id).await?;
        let mut backoff = Backoff::new(&self.conflicts);
        loop {
            let decided = decide(&root.state).map_err(ExecuteError::Refused)?;
            let events = context.events(&decided)?;
            if events.is_empty() {
                return Ok((root, false));
            }
            let apply = |state: &mut A| decided.iter().for_each(|event| state.apply(event));
            match self.append(&mut root, events, apply).await {
                Ok(appended) => {
                    if appended.duplicate {
                        self.refresh(&mut root).await?;
                    }
                    return Ok((root, appended.duplicate));
                }
                Err(error) if error.is_conflict() => {
                    let Some(pause) = backoff.next() else {
                        return Err(ExecuteError::Contended { tries: self.conflicts.tries });
                    };
                    tokio::time::sleep(pause).await;
                    self.refresh(&mut root).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Appends, takes over what is so then, and does what follows. A duplicate leaves the root as it is: its events may be
    /// among those that it was loaded from.
    async fn append(
        &self,
        root: &mut Root<A>,
        events: Vec<NewEvent>,
        apply: impl FnOnce(&mut A),
    ) -> Result<Appended> {
        let last_id = events.last().map(|event| event.id);
        let published = self.published_to.as_ref().map(|bus| (bus, events.clone()));
        let version_before = root.version;
        let appended = self.client.append(root.stream(), version_before, events).await?;
        if appended.duplicate {
            return Ok(appended);
        }
        (root.version, root.position) = (appended.version, appended.position);
        apply(&mut root.state);
        if let (Some(snapshots), Some(last_id)) = (&self.snapshots, last_id) {
            snapshots.take(&self.client, root, version_before, last_id).await;
        }
        if let Some((bus, events)) = published {
            bus.publish(Event::of_append(&root.stream(), events, &appended)).await;
        }
        Ok(appended)
    }
}

/// Nothing was ever written to the stream: nothing has happened. A stream that was deleted is an error: what is decided on
/// nothing would be appended to what was there.
fn is_empty(error: &Error) -> bool {
    error.reason() == "UNKNOWN_STREAM"
}
