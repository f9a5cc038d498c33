//! Aggregates over real gRPC.

use std::time::Duration;

use annals_client::{
    Error,
    aggregate::{Context, ExecuteError, Repository, Root},
    bus::{CommandBus, CommandEnvelope},
    testing::TestStore,
};

use crate::account::{Account, AccountEvent, Deposit, Overdrawn, Withdraw};

#[tokio::test]
async fn a_saved_aggregate_is_loaded_as_it_was_left_and_as_it_was_before() {
    let store = TestStore::start().await;
    let accounts = Repository::<Account>::new(store.client());
    let at = |day: u32| Context {
        correlation_id: Some("case-1".to_owned()),
        occurred_at: Some(format!("2024-01-{day:02}T00:00:00Z").parse().unwrap()),
        ..Context::default()
    };
    let mut account = accounts.load("1").await.unwrap();
    assert_eq!(account.version(), 0);
    account.record(AccountEvent::Opened);
    account.record(AccountEvent::Deposited { amount: 10 });
    assert_eq!(account.uncommitted().len(), 2);
    assert_eq!(accounts.save(&mut account, &at(1)).await.unwrap(), 2);
    assert_eq!((account.version(), account.uncommitted().len()), (2, 0));
    account.record(AccountEvent::Deposited { amount: 5 });
    accounts.save(&mut account, &at(3)).await.unwrap();
    assert_eq!(accounts.save(&mut account, &at(3)).await.unwrap(), 0, "nothing to save");

    let loaded = accounts.load("1").await.unwrap();
    assert_eq!((loaded.balance, loaded.version()), (15, 3));
    assert_eq!(accounts.load_version("1", 2).await.unwrap().balance, 10);
    let before = at(2).occurred_at.unwrap();
    assert_eq!(accounts.load_at("1", before).await.unwrap().version(), 2);
    let events = store.client().read_stream("Account-1").collect().await.unwrap();
    assert!(events.iter().all(|event| event.correlation_id.as_deref() == Some("case-1")));
    let decoded: Vec<AccountEvent> = events.iter().map(|event| event.decode().unwrap()).collect();
    assert_eq!(Root::<Account>::from_events("1", &decoded).balance, 15);
}

#[tokio::test]
async fn a_save_on_a_stale_version_is_refused_and_keeps_what_was_decided() {
    let store = TestStore::start().await;
    let accounts = Repository::<Account>::new(store.client());
    let (mut first, mut second) =
        (accounts.load("1").await.unwrap(), accounts.load("1").await.unwrap());
    first.record(AccountEvent::Opened);
    second.record(AccountEvent::Opened);
    accounts.save(&mut first, &Context::default()).await.unwrap();
    let refused = accounts.save(&mut second, &Context::default()).await;
    assert!(matches!(refused, Err(Error::WrongExpectedVersion { .. })), "{refused:?}");
    assert_eq!((second.version(), second.uncommitted().len()), (0, 1));
}

/// Each decision holds on the state on which it was made, conflicts are decided again, and what was accepted is in the log
/// once; also where a command is sent a second time, as after a lost answer.
#[tokio::test(flavor = "multi_thread")]
async fn sixteen_senders_overdraw_nothing_and_lose_nothing() {
    const SENDERS: usize = 16;
    const COMMANDS: usize = 20;
    let store = TestStore::start().await;
    let accounts = Repository::<Account>::new(store.client());
    let bus = CommandBus::builder()
        .idempotent(&store.client())
        .decide::<Deposit, _>(&accounts)
        .decide::<Withdraw, _>(&accounts)
        .build();
    for round in 0..3 {
        let id = format!("{round}");
        // Enough for a little more than half of the commands.
        bus.send(Deposit { account: id.clone(), amount: 1000 }).await.unwrap();
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let (bus, id) = (bus.clone(), id.clone());
                tokio::spawn(async move {
                    let mut accepted = Vec::new();
                    for command in 0..COMMANDS {
                        let by = format!("{sender}/{command}");
                        let amount = 1 + ((sender * 7 + command * 3) % 10) as u64;
                        let withdraw = Withdraw { account: id.clone(), amount, by: by.clone() };
                        let withdraw = CommandEnvelope::new(withdraw);
                        match bus.send(withdraw.clone()).await {
                            Ok(_) => {
                                accepted.push((by, amount));
                                if command % 4 == 0 {
                                    assert!(bus.send(withdraw).await.unwrap().duplicate);
                                }
                            }
                            Err(error) => match error.refusal() {
                                Some(Overdrawn { left }) => {
                                    assert!(*left < amount, "{left} was enough for {amount}");
                                }
                                None => panic!("{error}"),
                            },
                        }
                    }
                    accepted
                })
            })
            .collect();
        let mut accepted = Vec::new();
        for sender in senders {
            accepted.extend(sender.await.unwrap());
        }
        let mut withdrawn = Vec::new();
        let mut balance = 0_u64;
        for event in store.client().read_stream(format!("Account-{id}")).collect().await.unwrap() {
            match event.decode().unwrap() {
                AccountEvent::Withdrawn { amount, by } => {
                    balance = balance.checked_sub(amount).expect("an overdraft");
                    withdrawn.push((by, amount));
                }
                AccountEvent::Deposited { amount } => balance += amount,
                AccountEvent::Opened => {}
            }
        }
        accepted.sort();
        withdrawn.sort();
        assert_eq!(accepted, withdrawn, "accepted, and in the log once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_always_comes_second_gives_up_and_says_so() {
    let store = TestStore::start().await;
    let client = store.client();
    let retry = annals_client::client::Retry {
        tries: 3,
        pause: Duration::from_millis(1),
        pause_max: Duration::from_millis(1),
    };
    let accounts = Repository::<Account>::new(client.clone()).conflicts(retry);
    let (decided, others) = std::sync::mpsc::channel();
    let other = tokio::task::spawn_blocking({
        let accounts = accounts.clone();
        let runtime = tokio::runtime::Handle::current();
        move || {
            for go_on in others {
                let go_on: std::sync::mpsc::Sender<()> = go_on;
                runtime.block_on(async {
                    let mut account = accounts.load("1").await.unwrap();
                    account.record(AccountEvent::Opened);
                    accounts.save(&mut account, &Context::default()).await.unwrap();
                });
                go_on.send(()).unwrap();
            }
        }
    });
    let mut decisions = 0;
    let given_up = accounts
        .execute("1", &Context::default(), |_| {
            decisions += 1;
            let (go_on, gone_on) = std::sync::mpsc::channel();
            decided.send(go_on).unwrap();
            // Somebody else is first, each time.
            tokio::task::block_in_place(|| gone_on.recv()).unwrap();
            Ok::<_, Overdrawn>(vec![AccountEvent::Opened])
        })
        .await;
    assert!(matches!(given_up, Err(ExecuteError::Contended { tries: 3 })), "{given_up:?}");
    assert_eq!(decisions, 3);
    drop(decided);
    other.await.unwrap();
    assert_eq!(accounts.load("1").await.unwrap().version(), 3);
}
