//! How many events there were in each hour, day, week or month, once or live.

use std::time::Duration;

use tonic::{Response, Status, Streaming};

use super::{
    Cached, GroupBy, TimeBase, Unit, duration,
    live::{Live, Watched},
};
use crate::{Client, Filter, Result, proto};

/// Trends that are being described: [`Client::trends`] begins them.
///
/// ```
/// # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// use annals_client::query::{GroupBy, Unit};
///
/// let at = "2024-03-01T10:00:00Z".parse().unwrap();
/// let event = NewEvent::new("PaymentFailed").occurred_at(at);
/// client.append("Payment-1", ExpectedVersion::NoStream, [event]).await?;
///
/// let months = client.trends(Unit::Month).split_by(GroupBy::Type).get().await?.answer;
/// assert_eq!(months.rows[0].key, "2024-03");
/// assert_eq!(months.series[0].key, "PaymentFailed");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is counted before `get` or `watch`"]
pub struct Trends {
    client: Client,
    request: proto::GetTrendsRequest,
}

impl Client {
    /// Counts events by this unit of time.
    pub fn trends(&self, unit: Unit) -> Trends {
        let request =
            proto::GetTrendsRequest { unit: unit.into_proto().into(), ..Default::default() };
        Trends { client: self.clone(), request }
    }
}

impl Trends {
    /// Only what one of the filters picks; of several any one.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.request.filters.push(filter.0);
        self
    }

    /// The time zone of the unit: a name of the IANA database, UTC where nothing is said.
    pub fn time_zone(mut self, name: impl Into<String>) -> Self {
        self.request.time_zone = name.into();
        self
    }

    /// Which time is meant.
    pub fn time_base(mut self, time_base: TimeBase) -> Self {
        self.request.time_base = time_base.into_proto();
        self
    }

    /// Also rows without events: from the first that has some to the last, or over the whole range where every filter
    /// names the same time range of the time base.
    pub fn fill_empty(mut self) -> Self {
        self.request.fill_empty = true;
        self
    }

    /// Also by type, category, stream or metadata.
    pub fn split_by(mut self, group_by: GroupBy) -> Self {
        self.request.split_by = Some(group_by.into_proto());
        self
    }

    /// With [`Trends::split_by`], at most so many series, those with the most events: 1 to 1000, 10 where nothing is
    /// said.
    pub fn series_max(mut self, series: u32) -> Self {
        self.request.series_max = series;
        self
    }

    /// Wait until the log has reached this position: read your own writes.
    pub fn min_position(mut self, position: u64) -> Self {
        self.request.min_position = position;
        self
    }

    /// The counts as of now.
    ///
    /// More than 20 000 rows are [`Error::Server`](crate::Error::Server) with the reason `TOO_MANY_ROWS`.
    pub async fn get(self) -> Result<Cached<proto::GetTrendsResponse>> {
        let Self { client, request } = self;
        client
            .call_with_headers(request, |client, request| async move {
                client.queries().get_trends(request).await
            })
            .await
            .map(Cached::of)
    }

    /// The counts, and then the rows that change, gathered for so long: 100 ms to 1 h.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Payment-1", 0, [NewEvent::new("PaymentFailed")]).await?;
    /// use annals_client::query::Unit;
    /// use std::time::Duration;
    ///
    /// let refused = client.trends(Unit::Day).watch(Duration::from_millis(1)).await;
    /// assert_eq!(refused.unwrap_err().reason(), "INVALID_REQUEST");
    /// let mut watch = client.trends(Unit::Day).watch(Duration::from_millis(100)).await?;
    /// assert_eq!(watch.next().await?.trends.rows[0].count, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn watch(self, interval: Duration) -> Result<TrendsWatch> {
        let request = proto::WatchTrendsRequest {
            trends: Some(self.request),
            interval: Some(duration(interval)),
        };
        Live::start(self.client, request).await.map(TrendsWatch)
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
/// use annals_client::query::{GroupBy, Unit};
/// use std::{collections::BTreeMap, time::Duration};
///
/// let hours = client.trends(Unit::Hour).split_by(GroupBy::Type);
/// let mut watch = hours.watch(Duration::from_millis(100)).await?;
/// let mut counts = BTreeMap::new();
/// let change = watch.next().await?;
/// if change.complete {
///     counts.clear();
/// }
/// counts.extend(change.trends.rows.into_iter().map(|row| ((row.key, row.series), row.count)));
/// assert_eq!(counts.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TrendsChange {
    /// The counts of now, with the rows that have changed: each replaces the row with its key and series.
    pub trends: proto::GetTrendsResponse,
    /// All rows are there, and those before count no more: the first time, after a broken connection, and where events
    /// were hidden since or other series are now the largest.
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
/// use annals_client::query::Unit;
/// use std::time::Duration;
///
/// let mut watch = client.trends(Unit::Month).watch(Duration::from_millis(100)).await?;
/// assert!(watch.next().await?.complete);
/// client.append("Payment-2", 0, [NewEvent::new("PaymentFailed")]).await?;
/// assert_eq!(watch.next().await?.trends.event_count, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TrendsWatch(Live<proto::WatchTrendsRequest>);

impl TrendsWatch {
    /// The next change. It waits for one as long as it takes, and fails where a new connection cannot help.
    ///
    /// Safe to drop and call again (as in `select!`): nothing is lost.
    pub async fn next(&mut self) -> Result<TrendsChange> {
        let answer = self.0.next().await?;
        Ok(TrendsChange { trends: answer.trends.unwrap_or_default(), complete: answer.complete })
    }
}

impl Watched for proto::WatchTrendsRequest {
    type Answer = proto::WatchTrendsResponse;

    async fn watch(&self, client: &Client) -> Result<Response<Streaming<Self::Answer>>, Status> {
        client.queries().watch_trends(self.clone()).await
    }
}
