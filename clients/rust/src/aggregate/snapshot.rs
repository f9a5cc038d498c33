//! Snapshots: an aggregate's state at a version, so that it need not be folded from its first event. They are events, in a
//! stream beside the aggregate's; without them, or with one that does not fit, a load is slower and says the same.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Aggregate, Root};
use crate::{
    Client, Error, Event, ExpectedVersion, NewEvent, Result,
    retention::{Rule, Scope},
};

const EVENT_TYPE: &str = "SnapshotTaken";
/// So many are kept of each aggregate: one, and one more for who is about to read.
const KEPT: u64 = 2;

/// An aggregate whose state can be written down.
///
/// ```
/// # use annals_client::{aggregate::{Aggregate, Context, Repository, Snapshot}, testing::TestStore};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # #[serde(tag = "type", content = "data")]
/// # enum AccountEvent { Deposited { amount: u64 } }
/// #[derive(Default, Serialize, Deserialize)]
/// struct Account {
///     balance: u64,
/// }
/// # impl Aggregate for Account {
/// #     const CATEGORY: &'static str = "Account";
/// #     type Event = AccountEvent;
/// #     fn apply(&mut self, event: &AccountEvent) {
/// #         let AccountEvent::Deposited { amount } = event;
/// #         self.balance += amount;
/// #     }
/// # }
///
/// impl Snapshot for Account {
///     const SCHEMA: u32 = 1;
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// let accounts = Repository::<Account>::new(store.client()).snapshot_every(100);
/// # let mut account = accounts.load("1").await?;
/// # for _ in 0..100 { account.record(AccountEvent::Deposited { amount: 1 }); }
/// # accounts.save(&mut account, &Context::default()).await?;
/// # assert_eq!(accounts.load("1").await?.balance, 100);
/// # assert_eq!(store.client().read_stream("$snapshot-Account-1").collect().await?.len(), 1);
/// # Ok(())
/// # }
/// ```
pub trait Snapshot: Aggregate + Serialize + DeserializeOwned {
    /// The form in which the state is written, or the rules by which it is folded: one more whenever either changes. A
    /// snapshot with another number is passed over.
    const SCHEMA: u32;
}

/// How a repository uses snapshots.
pub(super) struct Snapshots<A> {
    every: u64,
    schema: u32,
    encode: fn(&A) -> serde_json::Result<Box<RawValue>>,
    decode: fn(&RawValue) -> serde_json::Result<A>,
}

impl<A> Clone for Snapshots<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Snapshots<A> {}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Taken {
    schema: u32,
    version: u64,
    /// The event with that version: what the snapshot says is so only while the stream has it.
    event_id: Uuid,
    state: Box<RawValue>,
}

impl<A: Aggregate> Snapshots<A> {
    pub(super) fn new(every: u64) -> Self
    where
        A: Snapshot,
    {
        Self {
            every: every.max(1),
            schema: A::SCHEMA,
            encode: |state| serde_json::value::to_raw_value(state),
            decode: |state| serde_json::from_str(state.get()),
        }
    }

    /// The state of the newest snapshot that fits, with the event that was its last one. The stream's events go on behind.
    pub(super) async fn load(&self, client: &Client, root: &mut Root<A>) -> Result<()> {
        let newest = client.read_stream(stream(root)).backwards().limit(1).collect().await;
        let snapshot = match newest {
            Ok(newest) => newest.into_iter().next(),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let Some((taken, state)) = snapshot.and_then(|snapshot| self.decode(&snapshot)) else {
            return Ok(());
        };
        let last = client.read_stream(root.stream()).after(taken.version - 1).limit(1).collect();
        let last = match last.await {
            Ok(last) => last.into_iter().next(),
            // The load itself meets it, and says so.
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        if let Some(last) = last.filter(|last| last.id == taken.event_id) {
            root.state = state;
            (root.version, root.position) = (last.version, last.position);
        }
        Ok(())
    }

    fn decode(&self, snapshot: &Event) -> Option<(Taken, A)> {
        let taken: Taken = snapshot.json().ok()?;
        if taken.schema != self.schema || taken.version == 0 {
            return None;
        }
        let state = (self.decode)(&taken.state).ok()?;
        Some((taken, state))
    }

    /// Takes a snapshot where the last save has passed a multiple of the versions after which one is due.
    pub(super) async fn take(
        &self,
        client: &Client,
        root: &Root<A>,
        version_before: u64,
        last_id: Uuid,
    ) {
        if root.version / self.every == version_before / self.every {
            return;
        }
        // The events are saved, which is what was asked for.
        if let Err(error) = self.write(client, root, last_id).await {
            tracing::warn!(stream = root.stream(), %error, "no snapshot was taken");
        }
    }

    async fn write(&self, client: &Client, root: &Root<A>, event_id: Uuid) -> Result<()> {
        let state = (self.encode)(&root.state).map_err(|error| Error::Encode {
            what: format!("a snapshot of {}", root.stream()),
            reason: error.to_string(),
        })?;
        let taken = Taken { schema: self.schema, version: root.version, event_id, state };
        let snapshot = NewEvent::json(EVENT_TYPE, &taken)?;
        let stream = stream(root);
        let appended = client.append(&*stream, ExpectedVersion::Any, [snapshot]).await?;
        if appended.version == 1 {
            client.set_retention(Scope::Stream(stream), Rule::new().max_count(KEPT)).await?;
        }
        Ok(())
    }
}

fn stream<A: Aggregate>(root: &Root<A>) -> String {
    format!("$snapshot-{}", root.stream())
}
