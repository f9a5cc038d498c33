//! Counts of events by hour, day, week, month, type, category, stream or metadata, once or live.

use std::time::Duration;

use tonic::{Response, Status, Streaming};

use super::{
    Cached, GroupBy, TimeBase, duration,
    live::{Live, Watched},
};
use crate::{Client, Filter, Result, proto};

/// Statistics that are being described: [`Client::statistics`] begins them.
///
/// ```
/// # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// use annals_client::{Filter, query::GroupBy};
///
/// let payments = client
///     .statistics()
///     .filter(Filter::new().category("Payment"))
///     .by(GroupBy::Day)
///     .by(GroupBy::Type)
///     .time_zone("Europe/Amsterdam");
/// client.append("Payment-1", ExpectedVersion::Any, [NewEvent::new("PaymentFailed")]).await?;
/// assert_eq!(payments.clone().get().await?.answer.event_count, 1);
///
/// let mut watch = payments.watch(Duration::from_millis(100)).await?;
/// assert!(watch.next().await?.complete);
/// client.append("Payment-1", ExpectedVersion::Any, [NewEvent::new("PaymentFailed")]).await?;
/// assert_eq!(watch.next().await?.statistics.event_count, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is counted before `get` or `watch`"]
pub struct Statistics {
    client: Client,
    request: proto::GetStatisticsRequest,
}

impl Client {
    /// Counts events in all and by what [`Statistics::by`] says.
    pub fn statistics(&self) -> Statistics {
        Statistics { client: self.clone(), request: proto::GetStatisticsRequest::default() }
    }
}

impl Statistics {
    /// Only what one of the filters picks; of several any one.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.request.filters.push(filter.0);
        self
    }

    /// And put them together so: at most 16, each once. Where nothing is said: by hour, day, type, category and each
    /// indexed metadata key.
    pub fn by(mut self, group_by: impl Into<GroupBy>) -> Self {
        self.request.group_by.push(group_by.into().into_proto());
        self
    }

    /// The time zone of hours, days, weeks and months: a name of the IANA database, UTC where nothing is said.
    pub fn time_zone(mut self, name: impl Into<String>) -> Self {
        self.request.time_zone = name.into();
        self
    }

    /// Which time is meant by hour, day, week and month.
    pub fn time_base(mut self, time_base: TimeBase) -> Self {
        self.request.time_base = time_base.into_proto();
        self
    }

    /// At most so many rows of each group: 1 to 100 000, 1000 where nothing is said. Of times the latest are sent, of
    /// names those with the most events.
    pub fn rows_max(mut self, rows: u32) -> Self {
        self.request.rows_max = rows;
        self
    }

    /// Wait until the log has reached this position: read your own writes.
    pub fn min_position(mut self, position: u64) -> Self {
        self.request.min_position = position;
        self
    }

    /// The counts as of now.
    pub async fn get(self) -> Result<Cached<proto::GetStatisticsResponse>> {
        let Self { client, request } = self;
        client
            .call_with_headers(request, |client, request| async move {
                client.queries().get_statistics(request).await
            })
            .await
            .map(Cached::of)
    }

    /// The counts, and then the rows that change, gathered for so long: 100 ms to 1 h.
    pub async fn watch(self, interval: Duration) -> Result<StatisticsWatch> {
        let request = proto::WatchStatisticsRequest {
            statistics: Some(self.request),
            interval: Some(duration(interval)),
        };
        Live::start(self.client, request).await.map(StatisticsWatch)
    }
}

/// What has changed.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.append("Payment-1", 0, [NewEvent::new("PaymentFailed")]).await?;
/// use annals_client::query::GroupBy;
/// use std::{collections::BTreeMap, time::Duration};
///
/// let by_type = client.statistics().by(GroupBy::Type);
/// let mut watch = by_type.watch(Duration::from_millis(100)).await?;
/// let mut counts = BTreeMap::new();
/// let change = watch.next().await?;
/// if change.complete {
///     counts.clear();
/// }
/// let rows = change.statistics.groups[0].rows.iter();
/// counts.extend(rows.map(|row| (row.key.clone(), row.count)));
/// assert_eq!(counts["PaymentFailed"], 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct StatisticsChange {
    /// The counts of now. Each group has the rows that have changed: each replaces the row with its key.
    pub statistics: proto::GetStatisticsResponse,
    /// All rows are there, and those before count no more: the first time, after a broken connection, and where events
    /// were hidden since.
    pub complete: bool,
}

/// A watch that stands. It connects again by itself; then everything comes again, as a complete change.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.append("Payment-1", 0, [NewEvent::new("PaymentFailed")]).await?;
/// use std::time::Duration;
///
/// let mut watch = client.statistics().watch(Duration::from_millis(100)).await?;
/// assert_eq!(watch.next().await?.statistics.event_count, 1);
/// client.append("Payment-2", 0, [NewEvent::new("PaymentFailed")]).await?;
/// assert_eq!(watch.next().await?.statistics.event_count, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct StatisticsWatch(Live<proto::WatchStatisticsRequest>);

impl StatisticsWatch {
    /// The next change. It waits for one as long as it takes, and fails where a new connection cannot help.
    ///
    /// Safe to drop and call again (as in `select!`): nothing is lost.
    pub async fn next(&mut self) -> Result<StatisticsChange> {
        let answer = self.0.next().await?;
        let statistics = answer.statistics.unwrap_or_default();
        Ok(StatisticsChange { statistics, complete: answer.complete })
    }
}

impl Watched for proto::WatchStatisticsRequest {
    type Answer = proto::WatchStatisticsResponse;

    async fn watch(&self, client: &Client) -> Result<Response<Streaming<Self::Answer>>, Status> {
        client.queries().watch_statistics(self.clone()).await
    }
}
