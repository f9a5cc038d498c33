//! The command bus.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use annals_client::{
    Client, Error, NewEvent,
    aggregate::{Context, Repository},
    bus::{Command, CommandBus, CommandEnvelope, CommandError, Message as _, Receipt, Violation},
    client::Retry,
    testing::{Scenario, TestStore},
};
use uuid::Uuid;

use crate::account::{Account, AccountEvent, Deposit, Overdrawn, Withdraw, deposit};

fn bus(client: &Client) -> CommandBus {
    let accounts = Repository::<Account>::new(client.clone());
    CommandBus::builder()
        .trace()
        .validate()
        .timeout(Duration::from_secs(30))
        .idempotent(client)
        .decide::<Deposit, _>(&accounts)
        .decide::<Withdraw, _>(&accounts)
        .build()
}

fn withdraw(amount: u64) -> CommandEnvelope {
    CommandEnvelope::new(Withdraw { account: "1".to_owned(), amount, by: "ada".to_owned() })
}

async fn balance(client: &Client) -> u64 {
    Repository::<Account>::new(client.clone()).load("1").await.unwrap().balance
}

#[test]
fn a_scenario_tells_what_follows_and_why_not() {
    use AccountEvent::{Deposited, Withdrawn};
    let command = |amount| Withdraw { account: "1".to_owned(), amount, by: "ada".to_owned() };
    let withdrawn = |amount| Withdrawn { amount, by: "ada".to_owned() };
    let given = || Scenario::<Account>::given([Deposited { amount: 10 }]);
    let after = given().when(&command(6)).then([withdrawn(6)]);
    after.when(&command(4)).then([withdrawn(4)]).then_state(|it| assert_eq!(it.balance, 0));
    given().when(&command(11)).then_refused(&Overdrawn { left: 10 });
    Scenario::<Account>::new().when(&command(1)).then_refused(&Overdrawn { left: 0 });
    // It sees what it is there to see.
    for wrong in [
        || Scenario::<Account>::new().when(&deposit_of(1)).then([]).then_state(|_| ()),
        || Scenario::<Account>::new().when(&withdraw_of(1)).then([]).then_state(|_| ()),
        || Scenario::<Account>::new().when(&deposit_of(1)).then_refused(&Overdrawn { left: 0 }),
        || Scenario::<Account>::new().when(&withdraw_of(1)).then_refused(&Overdrawn { left: 1 }),
    ] {
        assert!(std::panic::catch_unwind(wrong).is_err());
    }
}

fn deposit_of(amount: u64) -> Deposit {
    Deposit { account: "1".to_owned(), amount }
}

fn withdraw_of(amount: u64) -> Withdraw {
    Withdraw { account: "1".to_owned(), amount, by: String::new() }
}

#[tokio::test]
async fn events_carry_the_commands_ids_and_facts() {
    let store = TestStore::start().await;
    let (client, bus) = (store.client(), bus(&store.client()));
    let at = "2024-03-01T10:00:00Z".parse().unwrap();
    let command = deposit().metadata("userId", "ada").occurred_at(at);
    let id = command.command_id().to_string();
    let receipt = bus.send(command).await.unwrap();
    assert_eq!(receipt, Receipt { version: 1, position: 1, duplicate: false });
    let first = client.read_all().collect().await.unwrap().remove(0);
    assert_eq!(first.causation_id.as_ref(), Some(&id));
    assert_eq!(first.correlation_id.as_ref(), Some(&id));
    assert_eq!((first.metadata["userId"].as_str(), first.occurred_at), ("ada", at));

    // What follows from an event belongs to what that belongs to, and follows from it once.
    let follows = |purpose| deposit().caused_by(&first).once_for(&first, purpose);
    assert!(!bus.send(follows("a")).await.unwrap().duplicate);
    assert!(bus.send(follows("a")).await.unwrap().duplicate);
    assert!(!bus.send(follows("b")).await.unwrap().duplicate);
    let others = client.read_all().after(1).collect().await.unwrap();
    assert_eq!(others.len(), 2);
    for other in &others {
        assert_eq!(other.causation_id, Some(first.id.to_string()));
        assert_eq!(other.correlation_id.as_ref(), Some(&id));
    }

    bus.send(withdraw(1).correlation_id("order-7")).await.unwrap();
    let last = client.read_all().after(3).collect().await.unwrap().remove(0);
    assert_eq!(last.correlation_id.as_deref(), Some("order-7"));
}

#[tokio::test]
async fn what_is_wrong_forbidden_or_refused_writes_nothing_and_says_why() {
    let store = TestStore::start().await;
    let client = store.client();
    let accounts = Repository::<Account>::new(client.clone());
    let bus = CommandBus::builder()
        .validate()
        .authorize(|command: CommandEnvelope| async move {
            match command.context().metadata.get("userId").map(String::as_str) {
                Some("mallory") => Err(format!("mallory may not {}", command.name())),
                _ => Ok(()),
            }
        })
        .decide::<Deposit, _>(&accounts)
        .decide::<Withdraw, _>(&accounts)
        .build();
    let invalid = bus.send(deposit_of(0)).await.unwrap_err();
    assert_eq!(invalid.to_string(), "Deposit is invalid: amount: must be more than 0");
    let CommandError::Invalid { violations, .. } = invalid else { panic!("{invalid}") };
    assert_eq!(violations, [Violation::new("amount", "must be more than 0")]);
    let forbidden = bus.send(deposit().metadata("userId", "mallory")).await.unwrap_err();
    assert_eq!(forbidden.to_string(), "Deposit is not allowed: mallory may not Deposit");
    let refused = bus.send(withdraw(1)).await.unwrap_err();
    assert_eq!(refused.refusal::<Overdrawn>(), Some(&Overdrawn { left: 0 }));
    assert_eq!(refused.to_string(), "only 0 is left");
    let unhandled = CommandBus::builder().build().send(deposit()).await.unwrap_err();
    assert_eq!(unhandled.to_string(), "nobody handles Deposit");
    assert!(client.read_all().collect().await.unwrap().is_empty());
}

#[tokio::test]
#[should_panic(expected = "Deposit has two handlers")]
async fn a_command_has_one_handler() {
    let store = TestStore::start().await;
    let accounts = Repository::<Account>::new(store.client());
    let _ = CommandBus::builder().decide::<Deposit, _>(&accounts).decide::<Deposit, _>(&accounts);
}

/// Whether it was accepted or would now be refused, from this process or another one, also many at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_sent_again_is_carried_out_once() {
    let store = TestStore::start().await;
    let client = store.client();
    let command = deposit();
    let senders: Vec<_> = (0..8)
        .map(|_| {
            let (bus, command) = (bus(&client), command.clone());
            tokio::spawn(async move { bus.send(command).await.unwrap() })
        })
        .collect();
    let mut receipts = Vec::new();
    for sender in senders {
        receipts.push(sender.await.unwrap());
    }
    assert_eq!(receipts.iter().filter(|receipt| !receipt.duplicate).count(), 1, "{receipts:?}");
    assert!(receipts.iter().all(|it| (it.version, it.position) == (1, 1)), "{receipts:?}");

    let all = withdraw(10);
    assert!(!bus(&client).send(all.clone()).await.unwrap().duplicate);
    let again = bus(&client).send(all).await.unwrap();
    assert_eq!(again, Receipt { version: 2, position: 2, duplicate: true });
    // The deposit, after the account has gone on.
    let again = bus(&client).send(command).await.unwrap();
    assert!(again.duplicate);
    assert_eq!((balance(&client).await, client.read_all().collect().await.unwrap().len()), (0, 2));
    // Another one is another one.
    let refused = bus(&client).send(withdraw(10)).await.unwrap_err();
    assert!(refused.refusal::<Overdrawn>().is_some(), "{refused}");
}

/// Its events are several now where they were one, so that the store refuses them.
#[tokio::test]
async fn a_repeat_that_decides_otherwise_is_the_first_ones_answer() {
    struct Split(AtomicU32);
    impl Command for Split {
        const NAME: &'static str = "Split";
    }
    let store = TestStore::start().await;
    let client = store.client();
    let handled = client.clone();
    let bus = CommandBus::builder()
        .idempotent(&client)
        .handle(move |command: Arc<Split>, context: Context| {
            let client = handled.clone();
            async move {
                let count = command.0.fetch_add(1, SeqCst) as usize + 1;
                let events = vec![AccountEvent::Opened; count];
                let stream = format!("Account-{count}");
                Ok(client.append(stream, 0, context.events(&events)?).await?.into())
            }
        })
        .build();
    let command = CommandEnvelope::new(Split(AtomicU32::new(1)));
    let first = bus.send(command.clone()).await.unwrap();
    assert_eq!(first, Receipt { version: 2, position: 2, duplicate: false });
    client.append("Account-2", 2, [NewEvent::new("Closed")]).await.unwrap();
    let again = bus.send(command).await.unwrap();
    assert_eq!(again, Receipt { duplicate: true, ..first });
    assert_eq!(client.read_all().collect().await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_saves_by_itself_is_called_again_where_it_came_second() {
    let store = TestStore::start().await;
    let client = store.client();
    let accounts = Repository::<Account>::new(client.clone());
    let pause = Duration::from_millis(1);
    let retry = Retry { tries: 50, pause, pause_max: Duration::from_millis(20) };
    let builder = |retry| {
        let accounts = accounts.clone();
        CommandBus::builder().retry_conflicts(retry).handle(
            move |command: Arc<Deposit>, context: Context| {
                let accounts = accounts.clone();
                async move {
                    let mut account = accounts.load(&command.account).await?;
                    account.record(AccountEvent::Deposited { amount: command.amount });
                    accounts.save(&mut account, &context).await?;
                    let (version, position) = (account.version(), account.position());
                    Ok(Receipt { version, position, duplicate: false })
                }
            },
        )
    };
    let bus = builder(retry).build();
    let senders: Vec<_> = (0..8)
        .map(|_| {
            let bus = bus.clone();
            tokio::spawn(async move { bus.send(deposit()).await })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap().unwrap();
    }
    assert_eq!(balance(&client).await, 80);

    // One that always comes second gives up, and says so.
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let late = CommandBus::builder()
        .retry_conflicts(Retry { tries: 3, ..retry })
        .handle(move |_: Arc<Deposit>, _| {
            counted.fetch_add(1, SeqCst);
            let (stream, expected, actual) = ("Account-1".to_owned(), 1, 2);
            async move {
                Err(CommandError::Store(Error::WrongExpectedVersion { stream, expected, actual }))
            }
        })
        .build();
    let given_up = late.send(deposit()).await.unwrap_err();
    assert!(matches!(given_up, CommandError::Contended { tries: 3 }), "{given_up}");
    assert_eq!(calls.load(SeqCst), 3);
}

/// The writer of a test's log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_command_is_traced_with_its_name_its_ids_and_its_outcome() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let bus = CommandBus::builder()
        .trace()
        .handle(|command: Arc<Deposit>, _| async move {
            match command.amount {
                10 => Ok(Receipt { version: 1, position: 1, duplicate: false }),
                _ => Err(CommandError::refused(Overdrawn { left: 0 })),
            }
        })
        .build();
    let done = deposit().correlation_id("order-7");
    let id = done.command_id();
    bus.send(done).await.unwrap();
    bus.send(deposit_of(11)).await.unwrap_err();
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("command{")).collect();
    let [done, refused] = ours.as_slice() else { panic!("{text}") };
    let span = format!("command{{name=\"Deposit\" id={id} correlation_id=\"order-7\"}}");
    assert!(done.contains(&span) && done.contains(": done"), "{done}");
    assert!(refused.contains(": not done error=only 0 is left"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_takes_too_long_is_given_up() {
    let bus = CommandBus::builder()
        .timeout(Duration::from_secs(5))
        .handle(|_: Arc<Deposit>, _| std::future::pending())
        .build();
    let given_up = bus.send(deposit()).await.unwrap_err();
    assert!(matches!(given_up, CommandError::TimedOut), "{given_up}");
}

/// The first one that is added is the outermost; errors that are not ours come through.
#[tokio::test]
async fn layers_are_called_in_the_order_in_which_they_are_added() {
    let called = Arc::new(Mutex::new(Vec::new()));
    let noted = |name: &'static str| {
        let called = Arc::clone(&called);
        tower::filter::FilterLayer::new(move |command: CommandEnvelope| {
            called.lock().unwrap().push(name);
            match command.context().command_id {
                Some(id) if id.is_max() => Err(std::io::Error::other("not this one")),
                _ => Ok(command),
            }
        })
    };
    let done = Receipt { version: 1, position: 1, duplicate: false };
    let bus = CommandBus::builder()
        .layer(noted("first"))
        .layer(noted("second"))
        .handle(move |_: Arc<Deposit>, _| async move { Ok(done) })
        .build();
    assert_eq!(bus.send(deposit()).await.unwrap(), done);
    assert_eq!(*called.lock().unwrap(), ["first", "second"]);
    let other = bus.send(deposit().id(Uuid::max())).await.unwrap_err();
    assert!(matches!(other, CommandError::Other(_)), "{other:?}");
    assert_eq!(other.to_string(), "not this one");
    assert_eq!(called.lock().unwrap().len(), 3, "the second layer is not asked");
}
