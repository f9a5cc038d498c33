//! The command bus: each command to the one handler of its type, through layers.

use std::{
    any::TypeId,
    fmt,
    future::Future,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use tower::{
    Service, ServiceExt as _,
    filter::FilterLayer,
    retry::{Policy, RetryLayer},
};
use uuid::Uuid;

use super::{
    BoxFuture, Builder, Command, CommandEnvelope, CommandError, Handling, Message as _, Receipt,
};
use crate::{
    Client,
    aggregate::{Aggregate, Context, Decide, Repository, event_id},
    client::{Backoff, Retry},
};

/// Sends commands to their handlers.
///
/// ```
/// # use annals_client::testing::TestStore;
/// # use std::time::Duration;
/// use annals_client::aggregate::{Aggregate, Decide, Repository};
/// use annals_client::bus::{Command, CommandBus, CommandEnvelope, CommandError, Violation};
/// use annals_client::client::Retry;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # #[serde(tag = "type", content = "data")]
/// # enum AccountEvent { Deposited { amount: u64 }, Withdrawn { amount: u64 } }
/// # #[derive(Default)]
/// # struct Account { balance: u64 }
/// # impl Aggregate for Account {
/// #     const CATEGORY: &'static str = "Account";
/// #     type Event = AccountEvent;
/// #     fn apply(&mut self, event: &AccountEvent) {
/// #         match event {
/// #             AccountEvent::Deposited { amount } => self.balance += amount,
/// #             AccountEvent::Withdrawn { amount } => self.balance -= amount,
/// #         }
/// #     }
/// # }
/// # #[derive(Debug, thiserror::Error)]
/// # #[error("only {left} is left")]
/// # struct Overdrawn { left: u64 }
///
/// struct Withdraw {
///     account: String,
///     amount: u64,
/// }
///
/// impl Command for Withdraw {
///     const NAME: &'static str = "Withdraw";
///
///     fn validate(&self) -> Vec<Violation> {
///         match self.amount {
///             0 => vec![Violation::new("amount", "must be more than 0")],
///             _ => Vec::new(),
///         }
///     }
/// }
///
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
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// let accounts = Repository::<Account>::new(client.clone());
/// # let mut account = accounts.load("1").await?;
/// # account.record(AccountEvent::Deposited { amount: 10 });
/// # accounts.save(&mut account, &Default::default()).await?;
/// let bus = CommandBus::builder()
///     .trace()
///     .validate()
///     .authorize(|command: CommandEnvelope| async move {
///         command.context().metadata.contains_key("userId").then_some(()).ok_or("who are you?".into())
///     })
///     .timeout(Duration::from_secs(5))
///     .idempotent(&client)
///     .decide::<Withdraw, _>(&accounts)
///     .build();
///
/// let withdraw = |amount| CommandEnvelope::new(Withdraw { account: "1".into(), amount }).metadata("userId", "ada");
/// let command = withdraw(6);
/// bus.send(command.clone()).await?;
/// assert!(bus.send(command).await?.duplicate, "the same one again does nothing");
/// assert!(bus.send(withdraw(6)).await.unwrap_err().refusal::<Overdrawn>().is_some());
/// assert!(matches!(bus.send(withdraw(0)).await, Err(CommandError::Invalid { .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CommandBus {
    service: Handling<CommandEnvelope>,
}

impl fmt::Debug for CommandBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandBus").finish_non_exhaustive()
    }
}

impl CommandBus {
    /// Without handlers and layers.
    pub fn builder() -> Builder<CommandEnvelope> {
        Builder::new()
    }

    /// Sends a command, or one in its envelope, to its handler.
    pub async fn send(&self, command: impl Into<CommandEnvelope>) -> Result<Receipt, CommandError> {
        self.service.clone().oneshot(command.into()).await
    }
}

impl Builder<CommandEnvelope> {
    /// The handler of commands of one type. What it appends is made by [`Context::events`], so that it can be told from what
    /// another command does.
    ///
    /// ```
    /// # use annals_client::{ExpectedVersion, aggregate::Context, testing::TestStore};
    /// # use annals_client::bus::{CommandBus, Receipt};
    /// # use std::sync::Arc;
    /// # #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    /// # #[serde(tag = "type", content = "data")]
    /// # enum AccountEvent { Deposited { amount: u64 }, Withdrawn { amount: u64 } }
    /// # struct Deposit { account: String, amount: u64 }
    /// # impl annals_client::bus::Command for Deposit {
    /// #     const NAME: &'static str = "Deposit";
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// let accounts = client.clone();
    /// let bus = CommandBus::builder().handle(move |command: Arc<Deposit>, context: Context| {
    ///     let client = accounts.clone();
    ///     async move {
    ///         let events = context.events(&[AccountEvent::Deposited { amount: command.amount }])?;
    ///         let stream = format!("Account-{}", command.account);
    ///         let appended = client.append(stream, ExpectedVersion::Any, events).await?;
    ///         let (version, position) = (appended.version, appended.position);
    ///         Ok(Receipt { version, position, duplicate: appended.duplicate })
    ///     }
    /// });
    /// let receipt = bus.build().send(Deposit { account: "1".into(), amount: 10 }).await?;
    /// assert_eq!(receipt.version, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If they have one already.
    pub fn handle<C, F, D>(self, handler: F) -> Self
    where
        C: Command,
        F: Fn(Arc<C>, Context) -> D + Send + Sync + 'static,
        D: Future<Output = Result<Receipt, CommandError>> + Send + 'static,
    {
        let handler = move |envelope: CommandEnvelope| -> BoxFuture<_> {
            Box::pin(handler(envelope.shared(), envelope.context()))
        };
        self.add(TypeId::of::<C>(), C::NAME, Arc::new(handler))
    }

    /// Commands of one type are decided by their aggregate, again where somebody else was first.
    ///
    /// ```
    /// # use annals_client::{aggregate::{Aggregate, Repository}, bus::CommandBus, testing::TestStore};
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
    /// let accounts = Repository::<Account>::new(store.client());
    /// let bus = CommandBus::builder().decide::<Deposit, _>(&accounts).build();
    /// bus.send(Deposit { account: "1".into(), amount: 10 }).await?;
    /// assert_eq!(accounts.load("1").await?.balance, 10);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If they have a handler already.
    pub fn decide<C, A>(self, repository: &Repository<A>) -> Self
    where
        A: Aggregate,
        C: Command + Decide<A>,
    {
        let repository = repository.clone();
        self.handle(move |command: Arc<C>, context| {
            let repository = repository.clone();
            async move {
                let id = command.aggregate_id();
                let decided = repository.decide(id, &context, |it| command.decide(it)).await;
                let (root, duplicate) = decided?;
                Ok(Receipt { version: root.version(), position: root.position(), duplicate })
            }
        })
    }

    /// Refuses commands that are wrong by themselves: [`Command::validate`].
    ///
    /// ```
    /// # use annals_client::bus::{Command, CommandBus, Receipt, Violation};
    /// # use std::sync::Arc;
    /// # struct Deposit { amount: u64 }
    /// # impl Command for Deposit {
    /// #     const NAME: &'static str = "Deposit";
    /// #     fn validate(&self) -> Vec<Violation> {
    /// #         match self.amount {
    /// #             0 => vec![Violation::new("amount", "must be more than 0")],
    /// #             _ => Vec::new(),
    /// #         }
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let done = |_: Arc<Deposit>, _| async { Ok(Receipt { version: 1, position: 1, duplicate: false }) };
    /// let bus = CommandBus::builder().validate().handle(done).build();
    /// let invalid = bus.send(Deposit { amount: 0 }).await.unwrap_err();
    /// assert_eq!(invalid.to_string(), "Deposit is invalid: amount: must be more than 0");
    /// bus.send(Deposit { amount: 10 }).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn validate(self) -> Self {
        self.layer(FilterLayer::new(|envelope: CommandEnvelope| match envelope.violations() {
            violations if violations.is_empty() => Ok(envelope),
            violations => Err(CommandError::Invalid { command: envelope.name(), violations }),
        }))
    }

    /// Calls again, after a pause, where a save came second: for handlers that load and save by themselves.
    /// [`Builder::decide`] does so without it.
    ///
    /// ```
    /// # use annals_client::{aggregate::{Context, Repository}, testing::TestStore};
    /// # use annals_client::{bus::{CommandBus, Receipt}, client::Retry};
    /// # use std::sync::{Arc, atomic::{AtomicBool, Ordering::SeqCst}};
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
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let accounts = Repository::<Account>::new(client.clone());
    /// # let is_late = AtomicBool::new(true);
    /// # let is_late = Arc::new(is_late);
    /// let handled = accounts.clone();
    /// let deposit = move |command: Arc<Deposit>, context: Context| {
    ///     let accounts = handled.clone();
    /// #     let is_late = Arc::clone(&is_late);
    ///     async move {
    ///         let mut account = accounts.load(&command.account).await?;
    ///         account.record(AccountEvent::Deposited { amount: command.amount });
    /// #         if is_late.swap(false, SeqCst) {
    /// #             let mut other = accounts.load(&command.account).await?;
    /// #             other.record(AccountEvent::Deposited { amount: 1 });
    /// #             accounts.save(&mut other, &Context::default()).await?;
    /// #         }
    ///         let position = accounts.save(&mut account, &context).await?; // The first time it is late.
    ///         Ok(Receipt { version: account.version(), position, duplicate: false })
    ///     }
    /// };
    /// let bus = CommandBus::builder().retry_conflicts(Retry::default()).handle(deposit).build();
    /// assert_eq!(bus.send(Deposit { account: "1".into(), amount: 10 }).await?.version, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn retry_conflicts(self, retry: Retry) -> Self {
        self.layer(RetryLayer::new(AtConflicts { retry, backoff: Backoff::new(&retry) }))
    }

    /// A command that is sent again, with the same id, is carried out once: also from another process, after a restart, and
    /// where its first answer was lost. It is known by the first of its events, in the log, for as long as that can be read;
    /// so a command has one append or one commit.
    ///
    /// ```
    /// # use annals_client::{aggregate::Repository, testing::TestStore};
    /// # use annals_client::bus::{CommandBus, CommandEnvelope};
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
    /// let bus = CommandBus::builder().idempotent(&client).decide::<Deposit, _>(&accounts).build();
    /// let command = CommandEnvelope::new(Deposit { account: "1".into(), amount: 10 });
    /// let first = bus.send(command.clone()).await?;
    /// let again = bus.send(command).await?;
    /// assert_eq!((again.position, again.duplicate), (first.position, true));
    /// # Ok(())
    /// # }
    /// ```
    pub fn idempotent(self, client: &Client) -> Self {
        let client = client.clone();
        self.layer(tower::layer::layer_fn(move |inner| Idempotent {
            inner,
            client: client.clone(),
        }))
    }

    /// The bus.
    pub fn build(self) -> CommandBus {
        CommandBus { service: self.service() }
    }
}

#[derive(Clone)]
struct AtConflicts {
    retry: Retry,
    backoff: Backoff,
}

impl Policy<CommandEnvelope, Receipt, CommandError> for AtConflicts {
    type Future = tokio::time::Sleep;

    fn retry(
        &mut self,
        _: &mut CommandEnvelope,
        result: &mut Result<Receipt, CommandError>,
    ) -> Option<tokio::time::Sleep> {
        if !matches!(result, Err(CommandError::Store(error)) if error.is_conflict()) {
            return None;
        }
        let pause = self.backoff.next();
        if pause.is_none() {
            *result = Err(CommandError::Contended { tries: self.retry.tries });
        }
        pause.map(tokio::time::sleep)
    }

    fn clone_request(&mut self, envelope: &CommandEnvelope) -> Option<CommandEnvelope> {
        Some(envelope.clone())
    }
}

/// Looks, where a command was not carried out, whether it had been before.
#[derive(Clone)]
struct Idempotent<S> {
    inner: S,
    client: Client,
}

impl Service<CommandEnvelope> for Idempotent<Handling<CommandEnvelope>> {
    type Response = Receipt;
    type Error = CommandError;
    type Future = BoxFuture<Result<Receipt, CommandError>>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), CommandError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, envelope: CommandEnvelope) -> Self::Future {
        let (id, client) = (envelope.command_id(), self.client.clone());
        let called = self.inner.call(envelope);
        Box::pin(async move {
            let error = match called.await {
                Ok(receipt) => return Ok(receipt),
                Err(error) => error,
            };
            // What refuses the second time what was done the first time: the rules, or the ids of the events.
            let may_be_done = match &error {
                CommandError::Refused(_) | CommandError::Contended { .. } => true,
                CommandError::Store(error) => error.reason() == "EVENT_ID_CONFLICT",
                _ => false,
            };
            if !may_be_done {
                return Err(error);
            }
            done_before(&client, id).await?.ok_or(error)
        })
    }
}

/// What the command with this id has done; `None`: nothing that can be read.
async fn done_before(client: &Client, command_id: Uuid) -> crate::Result<Option<Receipt>> {
    let first = client.event_by_id(event_id(command_id, 0)).await?;
    let Some(first) = first else { return Ok(None) };
    let mut receipt = Receipt { version: first.version, position: first.position, duplicate: true };
    let mut events = client.read_stream(first.stream).after(first.version).events().await?;
    let mut index = 1;
    while let Some(event) = events.next().await? {
        if event.id != event_id(command_id, index) {
            break;
        }
        (receipt.version, receipt.position) = (event.version, event.position);
        index += 1;
    }
    Ok(Some(receipt))
}
