//! Consumer groups: the server shares events among consumers, delivers again what they do not settle, and parks what
//! fails again and again.
//!
//! ```
//! # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> annals_client::Result<()> {
//! # let store = TestStore::start().await;
//! # let client = store.client();
//! use annals_client::{
//!     Filter,
//!     group::{NackAction, NewGroup},
//! };
//!
//! let mails = client.group("mails");
//! mails.create(NewGroup::new().filter(Filter::new().category("Payment"))).await?;
//! let events = [NewEvent::new("PaymentProcessed"), NewEvent::new("PaymentFailed")];
//! client.append("Payment-1", ExpectedVersion::NoStream, events).await?;
//!
//! let mut consumer = client.consume("mails").name("mailer-1").start().await?;
//! let processed = consumer.next().await?;
//! assert_eq!(processed.event.event_type, "PaymentProcessed");
//! processed.ack().await;
//! let failed = consumer.next().await?;
//! failed.nack(NackAction::Park, "the address is wrong").await;
//! consumer.stop().await?;
//! assert_eq!(mails.list_parked().await?[0].reason, "the address is wrong");
//! # Ok(())
//! # }
//! ```

mod consumer;
mod settings;

use chrono::{DateTime, Utc};

pub use consumer::{Consume, Consumer, ConsumerMessage, Delivery, NackAction};
pub use settings::{GroupSettings, NewGroup, Strategy};

pub use crate::proto::{ConsumerInfo, GetGroupResponse, GroupInfo};
use crate::{
    Client, Error, Event, Filter, Result,
    event::moment,
    proto::{self, set_group_position_request::Target},
};

/// The most that the server gives on one page.
const PAGE_SIZE: u32 = 1000;

/// A consumer group, which may not exist yet: [`Client::group`].
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
/// # client.append("Payment-1", 0, events).await?;
/// use annals_client::group::NewGroup;
///
/// let mails = client.group("mails");
/// mails.create(NewGroup::new()).await?;
/// let mut consumer = mails.consume().start().await?;
/// consumer.next().await?.ack().await;
/// consumer.stop().await?;
///
/// let known = mails.get().await?.group.unwrap();
/// assert_eq!((known.group.as_str(), known.settled_count), ("mails", 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Group {
    client: Client,
    group: String,
}

/// An event that is parked.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # use annals_client::group::{NackAction, NewGroup};
/// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
/// # client.append("Payment-1", 0, events).await?;
/// # let mails = client.group("mails");
/// # mails.create(NewGroup::new()).await?;
/// # let mut consumer = mails.consume().start().await?;
/// # for _ in 0..2 {
/// #     consumer.next().await?.nack(NackAction::Park, "the address is wrong").await;
/// # }
/// # consumer.stop().await?;
/// let parked = mails.list_parked().await?;
/// assert_eq!((parked[0].reason.as_str(), parked[0].deliveries), ("the address is wrong", 1));
/// assert_eq!(parked[0].event.as_ref().unwrap().event_type, "PaymentRequested");
/// assert!(!parked[0].held_back && !parked[0].replaying);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// Its position.
    pub position: u64,
    /// The event; `None` where it is hidden or removed by now.
    pub event: Option<Event>,
    /// Why.
    pub reason: String,
    /// How often it had been delivered.
    pub deliveries: u32,
    /// When it was parked.
    pub parked_at: Option<DateTime<Utc>>,
    /// It did not fail: it waits for one of the same key that did.
    pub held_back: bool,
    /// It was asked for again, and is not settled yet.
    pub replaying: bool,
}

impl Client {
    /// The consumer group of this name.
    ///
    /// Where there is none, its calls are [`Error::Server`] with the reason `UNKNOWN_GROUP`.
    pub fn group(&self, name: impl Into<String>) -> Group {
        Group { client: self.clone(), group: name.into() }
    }

    /// All groups, in the order of their names' bytes; all pages at once.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// use annals_client::group::NewGroup;
    ///
    /// for name in ["mails", "audit"] {
    ///     client.group(name).create(NewGroup::new()).await?;
    /// }
    /// let groups = client.list_groups().await?;
    /// assert_eq!((groups[0].group.as_str(), groups[1].group.as_str()), ("audit", "mails"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list_groups(&self) -> Result<Vec<GroupInfo>> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = proto::ListGroupsRequest { page_size: PAGE_SIZE, page_token };
            let page = self
                .call(request, |client, request| async move {
                    client.subscriptions().list_groups(request).await
                })
                .await?;
            all.extend(page.groups);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }
}

impl Group {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.group
    }

    /// Makes the group. The same again changes nothing; another one of that name is [`Error::Server`] with the reason
    /// `GROUP_EXISTS`.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// use annals_client::{Filter, group::NewGroup};
    ///
    /// let new = NewGroup::new().filter(Filter::new().category("Payment"));
    /// let mails = client.group("mails");
    /// mails.create(new.clone()).await?;
    /// mails.create(new).await?;
    /// let other = mails.create(NewGroup::new()).await.unwrap_err();
    /// assert_eq!(other.reason(), "GROUP_EXISTS");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create(&self, new: NewGroup) -> Result<GroupInfo> {
        let request = proto::CreateGroupRequest { group: self.group.clone(), ..new.0 };
        let answer = self
            .client
            .call(request, |client, request| async move {
                client.subscriptions().create_group(request).await
            })
            .await?;
        answer.group.ok_or_else(absent)
    }

    /// Gives the group other settings, all of them: what is not set becomes the default.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # use annals_client::group::{NackAction, NewGroup};
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// # let mails = client.group("mails");
    /// # mails.create(NewGroup::new()).await?;
    /// use annals_client::group::GroupSettings;
    ///
    /// let mails = mails.set_settings(GroupSettings::new().in_flight_max(50)).await?;
    /// assert_eq!(mails.settings.unwrap().in_flight_max, 50);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_settings(&self, settings: GroupSettings) -> Result<GroupInfo> {
        self.update(Some(settings.0), None).await
    }

    /// Gives the group other filters, for events that it has not looked at yet. None: every event.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # use annals_client::group::{NackAction, NewGroup};
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// # let mails = client.group("mails");
    /// # mails.create(NewGroup::new()).await?;
    /// use annals_client::Filter;
    ///
    /// let mails = mails.set_filters([Filter::new().types(["PaymentProcessed"])]).await?;
    /// assert_eq!(mails.filters[0].types, ["PaymentProcessed"]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_filters(
        &self,
        filters: impl IntoIterator<Item = Filter>,
    ) -> Result<GroupInfo> {
        let filters = filters.into_iter().map(|filter| filter.0).collect();
        self.update(None, Some(proto::Filters { filters })).await
    }

    async fn update(
        &self,
        settings: Option<proto::GroupSettings>,
        filters: Option<proto::Filters>,
    ) -> Result<GroupInfo> {
        let request = proto::UpdateGroupRequest { group: self.group.clone(), settings, filters };
        let answer = self
            .client
            .call(request, |client, request| async move {
                client.subscriptions().update_group(request).await
            })
            .await?;
        answer.group.ok_or_else(absent)
    }

    /// Ends the group, its position and its list of parked events. The events themselves stay.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # use annals_client::group::{NackAction, NewGroup};
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// # let mails = client.group("mails");
    /// # mails.create(NewGroup::new()).await?;
    /// mails.delete().await?;
    /// assert_eq!(mails.get().await.unwrap_err().reason(), "UNKNOWN_GROUP");
    /// assert_eq!(client.read_stream("Payment-1").collect().await?.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete(&self) -> Result<()> {
        let request = proto::DeleteGroupRequest { group: self.group.clone() };
        self.client
            .call(request, |client, request| async move {
                client.subscriptions().delete_group(request).await
            })
            .await
            .map(drop)
    }

    /// The group as it is, with its consumers.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # use annals_client::group::{NackAction, NewGroup};
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// # let mails = client.group("mails");
    /// # mails.create(NewGroup::new()).await?;
    /// let _consumer = mails.consume().name("mailer-1").start().await?;
    /// let known = mails.get().await?;
    /// assert_eq!(known.consumers[0].name, "mailer-1");
    /// assert_eq!(known.group.unwrap().parked_count, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(&self) -> Result<GetGroupResponse> {
        let request = proto::GetGroupRequest { group: self.group.clone() };
        self.client
            .call(request, |client, request| async move {
                client.subscriptions().get_group(request).await
            })
            .await
    }

    /// Lets the group go on after this position, back or on, if its position is still the expected one; where it is
    /// then. Parked events stay parked.
    ///
    /// [`Error::Server`] with the reason `WRONG_GROUP_POSITION`: it is another one; nothing was changed.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # use annals_client::group::{NackAction, NewGroup};
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// # let mails = client.group("mails");
    /// # mails.create(NewGroup::new()).await?;
    /// # let first = client.event_at(1).await?.unwrap();
    /// let position = mails.get().await?.group.unwrap().position;
    /// mails.set_position(position, first.position).await?;
    /// let mut consumer = mails.consume().start().await?;
    /// assert_eq!(consumer.next().await?.event.version, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_position(&self, expected: u64, after: u64) -> Result<u64> {
        self.go(expected, Target::After(after)).await
    }

    /// Counts exactly the event at this position, which is not settled, as handled, if the group's position is still
    /// the expected one; where the group is then.
    ///
    /// [`Error::Server`] with the reason `NOT_UNSETTLED`: there is nothing to skip.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # use annals_client::group::{NackAction, NewGroup};
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// # let mails = client.group("mails");
    /// # mails.create(NewGroup::new()).await?;
    /// # let first = client.event_at(1).await?.unwrap();
    /// let position = mails.get().await?.group.unwrap().position;
    /// mails.skip(position, first.position).await?;
    /// let mut consumer = mails.consume().start().await?;
    /// assert_eq!(consumer.next().await?.event.version, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn skip(&self, expected: u64, position: u64) -> Result<u64> {
        self.go(expected, Target::Skip(position)).await
    }

    async fn go(&self, expected_position: u64, target: Target) -> Result<u64> {
        let request = proto::SetGroupPositionRequest {
            group: self.group.clone(),
            expected_position,
            target: Some(target),
        };
        let answer = self
            .client
            .call(request, |client, request| async move {
                client.subscriptions().set_group_position(request).await
            })
            .await?;
        Ok(answer.position)
    }

    /// The parked events, in the order of the log; all pages at once.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # use annals_client::group::{NackAction, NewGroup};
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// # let mails = client.group("mails");
    /// # mails.create(NewGroup::new()).await?;
    /// # let mut consumer = mails.consume().start().await?;
    /// # for _ in 0..2 {
    /// #     consumer.next().await?.nack(NackAction::Park, "the address is wrong").await;
    /// # }
    /// # consumer.stop().await?;
    /// for parked in mails.list_parked().await? {
    ///     assert_eq!(parked.reason, "the address is wrong");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list_parked(&self) -> Result<Vec<Parked>> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let group = self.group.clone();
            let request = proto::ListParkedRequest { group, after, page_size: PAGE_SIZE };
            let page = self
                .client
                .call(request, |client, request| async move {
                    client.subscriptions().list_parked(request).await
                })
                .await?;
            for parked in page.parked {
                after = parked.position;
                all.push(Parked::from_proto(parked)?);
            }
            if !page.more {
                return Ok(all);
            }
        }
    }

    /// Delivers these parked events again, at most 10 000; one that is not parked is passed over. They stay on the list
    /// until a consumer has settled them. How many come again.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # use annals_client::group::{NackAction, NewGroup};
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// # let mails = client.group("mails");
    /// # mails.create(NewGroup::new()).await?;
    /// # let mut consumer = mails.consume().start().await?;
    /// # for _ in 0..2 {
    /// #     consumer.next().await?.nack(NackAction::Park, "the address is wrong").await;
    /// # }
    /// # consumer.stop().await?;
    /// let second = mails.list_parked().await?[1].position;
    /// assert_eq!(mails.replay_parked([second]).await?, 1);
    /// let mut consumer = mails.consume().start().await?;
    /// assert_eq!(consumer.next().await?.event.position, second);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn replay_parked(&self, positions: impl IntoIterator<Item = u64>) -> Result<u64> {
        let positions: Vec<u64> = positions.into_iter().collect();
        // Without positions the server means all of them.
        if positions.is_empty() {
            return Ok(0);
        }
        self.replay(positions, 0).await
    }

    /// Delivers the first so many parked events again; 0: all of them. How many come again.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # use annals_client::group::{NackAction, NewGroup};
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// # let mails = client.group("mails");
    /// # mails.create(NewGroup::new()).await?;
    /// # let mut consumer = mails.consume().start().await?;
    /// # for _ in 0..2 {
    /// #     consumer.next().await?.nack(NackAction::Park, "the address is wrong").await;
    /// # }
    /// # consumer.stop().await?;
    /// assert_eq!(mails.replay_first_parked(1).await?, 1);
    /// let mut consumer = mails.consume().start().await?;
    /// assert_eq!(consumer.next().await?.event.event_type, "PaymentRequested");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn replay_first_parked(&self, events_max: u32) -> Result<u64> {
        self.replay(Vec::new(), events_max).await
    }

    async fn replay(&self, positions: Vec<u64>, events_max: u32) -> Result<u64> {
        let group = self.group.clone();
        let request = proto::ReplayParkedRequest { group, positions, events_max };
        let answer = self
            .client
            .call(request, |client, request| async move {
                client.subscriptions().replay_parked(request).await
            })
            .await?;
        Ok(answer.event_count)
    }

    /// Takes these parked events off the list, for good, at most 10 000; one that is not parked is passed over. How many
    /// there were.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # use annals_client::group::{NackAction, NewGroup};
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// # let mails = client.group("mails");
    /// # mails.create(NewGroup::new()).await?;
    /// # let mut consumer = mails.consume().start().await?;
    /// # for _ in 0..2 {
    /// #     consumer.next().await?.nack(NackAction::Park, "the address is wrong").await;
    /// # }
    /// # consumer.stop().await?;
    /// let first = mails.list_parked().await?[0].position;
    /// assert_eq!(mails.drop_parked([first]).await?, 1);
    /// assert_eq!(mails.list_parked().await?.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn drop_parked(&self, positions: impl IntoIterator<Item = u64>) -> Result<u64> {
        let positions: Vec<u64> = positions.into_iter().collect();
        // Refused by the server, which cannot know what is meant.
        if positions.is_empty() {
            return Ok(0);
        }
        self.forget(positions, false).await
    }

    /// Takes all parked events off the list, for good. How many there were.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # use annals_client::group::{NackAction, NewGroup};
    /// # let events = ["PaymentRequested", "PaymentProcessed"].map(NewEvent::new);
    /// # client.append("Payment-1", 0, events).await?;
    /// # let mails = client.group("mails");
    /// # mails.create(NewGroup::new()).await?;
    /// # let mut consumer = mails.consume().start().await?;
    /// # for _ in 0..2 {
    /// #     consumer.next().await?.nack(NackAction::Park, "the address is wrong").await;
    /// # }
    /// # consumer.stop().await?;
    /// assert_eq!(mails.drop_all_parked().await?, 2);
    /// assert!(mails.list_parked().await?.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn drop_all_parked(&self) -> Result<u64> {
        self.forget(Vec::new(), true).await
    }

    async fn forget(&self, positions: Vec<u64>, all: bool) -> Result<u64> {
        let request = proto::DropParkedRequest { group: self.group.clone(), positions, all };
        let answer = self
            .client
            .call(request, |client, request| async move {
                client.subscriptions().drop_parked(request).await
            })
            .await?;
        Ok(answer.event_count)
    }

    /// Takes events of the group: the same as [`Client::consume`].
    pub fn consume(&self) -> Consume {
        self.client.consume(self.group.clone())
    }
}

impl Parked {
    fn from_proto(parked: proto::ParkedEvent) -> Result<Self> {
        Ok(Self {
            position: parked.position,
            event: parked.event.map(Event::from_proto).transpose()?,
            reason: parked.reason,
            deliveries: parked.deliveries,
            parked_at: parked.parked_at.and_then(moment),
            held_back: parked.held_back,
            replaying: parked.replaying,
        })
    }
}

fn absent() -> Error {
    Error::Decode { what: "what is known of a group".to_owned(), reason: "it is not there".into() }
}
