//! Snapshots: a load says the same with them as without.

use annals_client::{
    Client, Error, ExpectedVersion, NewEvent,
    aggregate::{Aggregate, Context, Repository, Snapshot},
    testing::TestStore,
};
use serde::{Deserialize, Serialize};

use crate::account::{Account, AccountEvent};

async fn deposit(accounts: &Repository<Account>, count: u64) {
    for _ in 0..count {
        let decide = |_: &Account| Ok::<_, Error>(vec![AccountEvent::Deposited { amount: 1 }]);
        accounts.execute("1", &Context::default(), decide).await.unwrap();
    }
}

async fn versions(client: &Client) -> Vec<u64> {
    let taken = client.read_stream("$snapshot-Account-1").collect().await.unwrap();
    let taken = taken.iter().map(|event| event.json::<serde_json::Value>().unwrap());
    taken.map(|taken| taken["version"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn the_newest_two_are_kept_and_a_load_begins_with_the_newest() {
    let store = TestStore::start().await;
    let client = store.client();
    let accounts = Repository::<Account>::new(client.clone()).snapshot_every(5);
    deposit(&accounts, 4).await;
    assert!(client.read_stream("$snapshot-Account-1").collect().await.is_err(), "none yet");
    deposit(&accounts, 13).await;
    assert_eq!(versions(&client).await, [10, 15]);
    let mut many = accounts.load("1").await.unwrap();
    (0..5).for_each(|_| many.record(AccountEvent::Deposited { amount: 1 }));
    accounts.save(&mut many, &Context::default()).await.unwrap();
    assert_eq!(versions(&client).await, [15, 22]);

    // The events before it are not read any more: the state is the snapshot's, and what came after.
    client.append("Account-1", 22, [NewEvent::new("Opened")]).await.unwrap();
    client.truncate_stream("Account-1", 22).await.unwrap();
    let loaded = accounts.load("1").await.unwrap();
    let read = client.read_stream("Account-1").backwards().limit(1).collect().await.unwrap();
    assert_eq!((loaded.balance, loaded.version(), loaded.position()), (22, 23, read[0].position));
    let plain = Repository::<Account>::new(client.clone()).load("1").await.unwrap();
    assert_eq!(plain.balance, 1, "without it there are two events to read");
}

/// The same events folded by other rules.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Counted {
    deposits: u64,
}

impl Aggregate for Counted {
    const CATEGORY: &'static str = "Account";
    type Event = AccountEvent;

    fn apply(&mut self, _: &AccountEvent) {
        self.deposits += 1;
    }
}

impl Snapshot for Counted {
    const SCHEMA: u32 = 2;
}

#[tokio::test]
async fn a_snapshot_that_does_not_fit_is_passed_over() {
    let store = TestStore::start().await;
    let client = store.client();
    let accounts = Repository::<Account>::new(client.clone()).snapshot_every(5);
    deposit(&accounts, 7).await;
    // Of another schema.
    let counted = Repository::<Counted>::new(client.clone()).snapshot_every(100);
    assert_eq!(counted.load("1").await.unwrap().deposits, 7);
    // Of a stream that is not there any more, as after a weaker sync: its events have other ids.
    let other = store_with_snapshot_of(&client).await;
    let accounts = Repository::<Account>::new(other.client()).snapshot_every(5);
    let loaded = accounts.load("1").await.unwrap();
    assert_eq!((loaded.balance, loaded.version()), (1, 1));
    accounts.execute("1", &Context::default(), |it| it.withdraw(1, "ada")).await.unwrap();
    // Not even one.
    let nonsense = NewEvent::json("SnapshotTaken", &"nonsense").unwrap();
    client.append("$snapshot-Account-1", 1, [nonsense]).await.unwrap();
    let accounts = Repository::<Account>::new(client.clone()).snapshot_every(5);
    assert_eq!(accounts.load("1").await.unwrap().balance, 7);
}

/// A store that has the snapshots of another one, and one event of the account.
async fn store_with_snapshot_of(client: &Client) -> TestStore {
    let store = TestStore::start().await;
    let other = store.client();
    let taken = client.read_stream("$snapshot-Account-1").collect().await.unwrap();
    for event in taken {
        let copy = NewEvent::json("SnapshotTaken", &event.json::<serde_json::Value>().unwrap());
        other.append("$snapshot-Account-1", ExpectedVersion::Any, [copy.unwrap()]).await.unwrap();
    }
    deposit(&Repository::new(other), 1).await;
    store
}

#[tokio::test]
async fn a_deleted_stream_stays_an_error_also_with_a_snapshot() {
    let store = TestStore::start().await;
    let client = store.client();
    let accounts = Repository::<Account>::new(client.clone()).snapshot_every(5);
    deposit(&accounts, 7).await;
    client.delete_stream("Account-1", ExpectedVersion::Any).await.unwrap();
    let gone = accounts.load("1").await.unwrap_err();
    assert_eq!(gone.reason(), "STREAM_DELETED");
}
