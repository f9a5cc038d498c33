//! Commands: what somebody wants to be done, how it is sent, and what comes of it.

use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    error::Error as StdError,
    fmt,
    sync::Arc,
};

use chrono::{DateTime, Utc};
use tower::BoxError;
use uuid::Uuid;

use super::{Message, sealed::Sealed};
use crate::{
    Appended, Error, Event,
    aggregate::{Context, ExecuteError},
};

/// What somebody wants to be done.
///
/// ```
/// # use annals_client::bus::{Command, Violation};
/// struct Deposit {
///     amount: u64,
/// }
///
/// impl Command for Deposit {
///     const NAME: &'static str = "Deposit";
///
///     fn validate(&self) -> Vec<Violation> {
///         let wrong = (self.amount == 0).then(|| Violation::new("amount", "must be more than 0"));
///         wrong.into_iter().collect()
///     }
/// }
///
/// assert!(Deposit { amount: 10 }.validate().is_empty());
/// assert_eq!(Deposit { amount: 0 }.validate()[0].field, "amount");
/// ```
pub trait Command: Send + Sync + 'static {
    /// Names it in logs and errors: `ProcessPayment`.
    const NAME: &'static str;

    /// What is wrong with it by itself, whatever has happened before; empty: nothing.
    fn validate(&self) -> Vec<Violation> {
        Vec::new()
    }
}

/// One field of a command and what is wrong with it.
///
/// ```
/// use annals_client::bus::Violation;
///
/// let violation = Violation::new("amount", "must be at most 1000");
/// assert_eq!(violation.field, "amount");
/// assert_eq!(violation.description, "must be at most 1000");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field.
    pub field: String,
    /// What is wrong with it, with the limit.
    pub description: String,
}

impl Violation {
    /// This is wrong with that field.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

/// What was done.
///
/// ```
/// # use annals_client::{aggregate::Repository, bus::CommandBus, testing::TestStore};
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
/// # struct Deposit { account: String, amount: u64 }
/// # impl annals_client::bus::Command for Deposit {
/// #     const NAME: &'static str = "Deposit";
/// # }
/// # impl annals_client::aggregate::Decide<Account> for Deposit {
/// #     type Error = std::convert::Infallible;
/// #     fn aggregate_id(&self) -> String { self.account.clone() }
/// #     fn decide(&self, _: &Account) -> Result<Vec<AccountEvent>, Self::Error> {
/// #         Ok(vec![AccountEvent::Deposited { amount: self.amount }])
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let accounts = Repository::<Account>::new(client.clone());
/// # let bus = CommandBus::builder().decide::<Deposit, _>(&accounts).build();
/// let receipt = bus.send(Deposit { account: "1".into(), amount: 10 }).await?;
/// assert_eq!((receipt.version, receipt.duplicate), (1, false));
/// let last = client.read_all().backwards().limit(1).min_position(receipt.position);
/// assert_eq!(last.collect().await?[0].stream, "Account-1");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The version of the stream that was written, or read where there was nothing to do.
    pub version: u64,
    /// The position of its last event: the `min_position` of a query that must see it.
    pub position: u64,
    /// The command had been carried out before; this time nothing was written.
    pub duplicate: bool,
}

impl From<Appended> for Receipt {
    fn from(appended: Appended) -> Self {
        let Appended { version, position, recorded_at: _, duplicate } = appended;
        Self { version, position, duplicate }
    }
}

/// Why a command was not carried out. Nothing was written but where it says so.
///
/// ```
/// # use annals_client::bus::{Command, CommandBus, CommandError, Receipt, Violation};
/// # use std::sync::Arc;
/// # struct Deposit { amount: u64 }
/// # impl Command for Deposit {
/// #     const NAME: &'static str = "Deposit";
/// #     fn validate(&self) -> Vec<Violation> { vec![Violation::new("amount", "must be more than 0")] }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let done = |_: Arc<Deposit>, _| async { Ok(Receipt { version: 1, position: 1, duplicate: false }) };
/// # let bus = CommandBus::builder().validate().handle(done).build();
/// match bus.send(Deposit { amount: 0 }).await {
///     Err(CommandError::Invalid { violations, .. }) => assert_eq!(violations[0].field, "amount"),
///     Err(CommandError::Forbidden { why, .. }) => panic!("not allowed: {why}"),
///     Err(error) => panic!("{error}"),
///     Ok(receipt) => panic!("it is version {}", receipt.version),
/// }
/// # }
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The bus has no handler for it.
    #[error("nobody handles {command}")]
    NoHandler {
        /// Its name.
        command: &'static str,
    },
    /// It is wrong by itself.
    #[error("{command} is invalid: {}", listed(violations))]
    Invalid {
        /// Its name.
        command: &'static str,
        /// What is wrong with it: at least one.
        violations: Vec<Violation>,
    },
    /// The authorization hook does not allow it.
    #[error("{command} is not allowed: {why}")]
    Forbidden {
        /// Its name.
        command: &'static str,
        /// The hook's reason.
        why: String,
    },
    /// The rules of what it is for refuse it: [`CommandError::refusal`] has which.
    #[error("{0}")]
    Refused(Arc<dyn StdError + Send + Sync>),
    /// Somebody else was first, every time.
    #[error("somebody else was first, {tries} times")]
    Contended {
        /// So often it was tried.
        tries: u32,
    },
    /// It took too long. It may be carried out all the same: send it again with the same id to find out.
    #[error("it took too long")]
    TimedOut,
    /// The store failed, or refused the events; [`Error::is_outcome_unknown`] says whether they may be written all the same.
    #[error(transparent)]
    Store(#[from] Error),
    /// A layer of your own.
    #[error("{0}")]
    Other(Arc<dyn StdError + Send + Sync>),
}

fn listed(violations: &[Violation]) -> String {
    let each = violations.iter().map(|it| format!("{}: {}", it.field, it.description));
    each.collect::<Vec<_>>().join("; ")
}

impl CommandError {
    /// The rules refuse it, for this reason.
    ///
    /// ```
    /// # use annals_client::bus::CommandError;
    /// # #[derive(Debug, PartialEq, thiserror::Error)]
    /// # #[error("only {left} is left")]
    /// # struct Overdrawn { left: u64 }
    /// let error = CommandError::refused(Overdrawn { left: 3 });
    /// assert_eq!(error.to_string(), "only 3 is left");
    /// ```
    pub fn refused(reason: impl StdError + Send + Sync + 'static) -> Self {
        Self::Refused(Arc::new(reason))
    }

    /// The reason, where rules refused it and it is of this type.
    ///
    /// ```
    /// # use annals_client::bus::CommandError;
    /// # #[derive(Debug, PartialEq, thiserror::Error)]
    /// # #[error("only {left} is left")]
    /// # struct Overdrawn { left: u64 }
    /// let error = CommandError::refused(Overdrawn { left: 3 });
    /// assert_eq!(error.refusal::<Overdrawn>(), Some(&Overdrawn { left: 3 }));
    /// assert_eq!(CommandError::TimedOut.refusal::<Overdrawn>(), None);
    /// ```
    pub fn refusal<E: StdError + 'static>(&self) -> Option<&E> {
        match self {
            Self::Refused(reason) => reason.downcast_ref(),
            _ => None,
        }
    }
}

impl From<BoxError> for CommandError {
    /// What a layer gives back: one of these, `tower`'s timeout, or something of its own.
    fn from(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => *error,
            Err(error) if error.is::<tower::timeout::error::Elapsed>() => Self::TimedOut,
            Err(error) => Self::Other(error.into()),
        }
    }
}

impl<E: StdError + Send + Sync + 'static> From<ExecuteError<E>> for CommandError {
    fn from(error: ExecuteError<E>) -> Self {
        match error {
            ExecuteError::Refused(reason) => Self::refused(reason),
            ExecuteError::Contended { tries } => Self::Contended { tries },
            ExecuteError::Store(error) => Self::Store(error),
        }
    }
}

trait AnyCommand: Any + Send + Sync {
    fn name(&self) -> &'static str;
    fn validate(&self) -> Vec<Violation>;
}

impl<C: Command> AnyCommand for C {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn validate(&self) -> Vec<Violation> {
        Command::validate(self)
    }
}

/// A command on its way: with its id, and what its events will carry.
///
/// Its events get its id as their causation id, and as their correlation id where none is given.
///
/// ```
/// # use annals_client::bus::CommandEnvelope;
/// # struct Deposit { account: String, amount: u64 }
/// # impl annals_client::bus::Command for Deposit {
/// #     const NAME: &'static str = "Deposit";
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let envelope = CommandEnvelope::new(Deposit { account: "1".into(), amount: 10 })
///     .correlation_id("order-7")
///     .metadata("userId", "ada")
///     .occurred_at("2024-03-01T10:00:00Z".parse()?);
///
/// let context = envelope.context();
/// assert_eq!(context.command_id, Some(envelope.command_id()));
/// assert_eq!(context.correlation_id.as_deref(), Some("order-7"));
/// assert_eq!(context.metadata["userId"], "ada");
/// assert_eq!(envelope.command::<Deposit>().map(|deposit| deposit.amount), Some(10));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CommandEnvelope {
    command: Arc<dyn AnyCommand>,
    id: Uuid,
    correlation_id: Option<String>,
    causation_id: Option<String>,
    metadata: BTreeMap<String, String>,
    occurred_at: Option<DateTime<Utc>>,
}

impl fmt::Debug for CommandEnvelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("CommandEnvelope");
        shown.field("command", &self.name()).field("id", &self.id).finish_non_exhaustive()
    }
}

impl<C: Command> From<C> for CommandEnvelope {
    fn from(command: C) -> Self {
        Self::new(command)
    }
}

impl CommandEnvelope {
    /// With an id of its own.
    pub fn new<C: Command>(command: C) -> Self {
        Self {
            command: Arc::new(command),
            id: Uuid::now_v7(),
            correlation_id: None,
            causation_id: None,
            metadata: BTreeMap::new(),
            occurred_at: None,
        }
    }

    /// With this id: who sends a command again gives it the id that it had.
    ///
    /// ```
    /// # use annals_client::{aggregate::Repository, bus::{CommandBus, CommandEnvelope}, testing::TestStore};
    /// # use uuid::Uuid;
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
    /// # struct Deposit { account: String, amount: u64 }
    /// # impl annals_client::bus::Command for Deposit {
    /// #     const NAME: &'static str = "Deposit";
    /// # }
    /// # impl annals_client::aggregate::Decide<Account> for Deposit {
    /// #     type Error = std::convert::Infallible;
    /// #     fn aggregate_id(&self) -> String { self.account.clone() }
    /// #     fn decide(&self, _: &Account) -> Result<Vec<AccountEvent>, Self::Error> {
    /// #         Ok(vec![AccountEvent::Deposited { amount: self.amount }])
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let accounts = Repository::<Account>::new(client.clone());
    /// # let bus = CommandBus::builder().idempotent(&client).decide::<Deposit, _>(&accounts).build();
    /// let id = Uuid::now_v7(); // Of who asks: it comes with the request.
    /// let deposit = || CommandEnvelope::new(Deposit { account: "1".into(), amount: 10 }).id(id);
    /// assert!(!bus.send(deposit()).await?.duplicate);
    /// assert!(bus.send(deposit()).await?.duplicate);
    /// assert_eq!(accounts.load("1").await?.balance, 10);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = id;
        self
    }

    /// Belonging to this.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Following from an event: its events get the event's correlation id, or its id where it has none, and the event's id as
    /// their causation id.
    #[must_use]
    pub fn caused_by(mut self, event: &Event) -> Self {
        let correlation_id = event.correlation_id.clone();
        self.correlation_id = Some(correlation_id.unwrap_or_else(|| event.id.to_string()));
        self.causation_id = Some(event.id.to_string());
        self
    }

    /// With an id that is made of an event's, of the command's name and of this purpose: who handles the event again sends the
    /// same command. The purpose tells commands of one type apart that follow from one event, such as whom they are for.
    ///
    /// ```
    /// # use annals_client::{NewEvent, bus::CommandEnvelope, testing::TestStore};
    /// # struct Deposit { account: String, amount: u64 }
    /// # impl annals_client::bus::Command for Deposit {
    /// #     const NAME: &'static str = "Deposit";
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Order-7", 0, [NewEvent::new("OrderCancelled")]).await?;
    /// let events = client.read_stream("Order-7").collect().await?;
    /// let refund = || {
    ///     let refund = CommandEnvelope::new(Deposit { account: "1".into(), amount: 10 });
    ///     refund.caused_by(&events[0]).once_for(&events[0], "refund")
    /// };
    /// assert_eq!(refund().command_id(), refund().command_id(), "it is carried out once");
    /// assert_eq!(refund().context().causation_id, Some(events[0].id.to_string()));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn once_for(self, event: &Event, purpose: &str) -> Self {
        let id = Uuid::new_v5(&event.id, format!("{} {purpose}", self.name()).as_bytes());
        self.id(id)
    }

    /// With one more fact for the metadata of its events, and for layers.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Its events happened at this moment, and not when the server records them.
    #[must_use]
    pub fn occurred_at(mut self, at: DateTime<Utc>) -> Self {
        self.occurred_at = Some(at);
        self
    }

    /// Its id.
    pub fn command_id(&self) -> Uuid {
        self.id
    }

    /// The command, where it is of this type.
    pub fn command<C: Command>(&self) -> Option<&C> {
        let command: &dyn Any = &*self.command;
        command.downcast_ref()
    }

    /// What its events will carry.
    pub fn context(&self) -> Context {
        let id = || Some(self.id.to_string());
        Context {
            command_id: Some(self.id),
            correlation_id: self.correlation_id.clone().or_else(id),
            causation_id: self.causation_id.clone().or_else(id),
            metadata: self.metadata.clone(),
            tags: Vec::new(),
            occurred_at: self.occurred_at,
        }
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        self.command.validate()
    }

    pub(super) fn shared<C: Command>(&self) -> Arc<C> {
        let command: Arc<dyn Any + Send + Sync> = self.command.clone();
        command.downcast().expect("handlers are found by the command's type")
    }
}

impl Sealed for CommandEnvelope {}

impl Message for CommandEnvelope {
    type Answer = Receipt;
    type Error = CommandError;

    fn name(&self) -> &'static str {
        self.command.name()
    }

    fn type_id(&self) -> TypeId {
        (*self.command).type_id()
    }

    fn span(&self) -> tracing::Span {
        let correlation_id = self.correlation_id.as_deref();
        tracing::info_span!("command", name = self.name(), id = %self.id, correlation_id)
    }

    fn forbidden(&self, why: String) -> CommandError {
        CommandError::Forbidden { command: self.name(), why }
    }

    fn unhandled(&self) -> CommandError {
        CommandError::NoHandler { command: self.name() }
    }
}
