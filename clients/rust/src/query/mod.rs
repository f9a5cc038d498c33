//! Queries: counts, statistics and trends, searches, the timeline of a correlation, replays, and what is known of
//! streams, categories and event types.
//!
//! ```
//! # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> annals_client::Result<()> {
//! # let store = TestStore::start().await;
//! # let client = store.client();
//! use annals_client::{Filter, query::GroupBy};
//!
//! let events = [NewEvent::new("PaymentProcessed"), NewEvent::new("PaymentFailed")];
//! client.append("Payment-1", ExpectedVersion::NoStream, events).await?;
//!
//! let failed = client.count([Filter::new().types(["PaymentFailed"])]).await?;
//! assert_eq!(failed.answer.count, 1);
//!
//! let statistics = client.statistics().by(GroupBy::Type).get().await?;
//! assert_eq!(statistics.answer.groups[0].rows.len(), 2);
//! # Ok(())
//! # }
//! ```

mod correlation;
mod live;
mod lookup;
mod replay;
mod search;
mod statistics;
mod trends;

use std::{future::IntoFuture, pin::Pin, time::Duration};

use chrono::TimeDelta;
use tonic::Response;

pub use correlation::{Correlation, Entry, Timeline};
pub use replay::{Replay, ReplayMessage, Replaying};
pub use search::{Page, Pages, Search};
pub use statistics::{Statistics, StatisticsChange, StatisticsWatch};
pub use trends::{Trends, TrendsChange, TrendsWatch};

pub use crate::proto::{
    CategoryInfo, Cause, CorrelationSummary, CountResponse, EventTypeInfo, Execution,
    ExplainResponse, FilterPlan, GetStatisticsResponse, GetTrendsResponse, IndexUse,
    StatisticsGroup, StatisticsRow, StreamInfo, TrendRow, TrendSeries,
};
use crate::{Client, Filter, Result, proto};

/// Which of an event's times.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let at = "2010-10-31T23:30:00Z".parse().unwrap();
/// # let event = NewEvent::new("PaymentFailed").metadata("userId", "ann").occurred_at(at);
/// # client.append("Payment-1", 0, [event]).await?;
/// use annals_client::query::{TimeBase, Unit};
///
/// let days = client.trends(Unit::Day);
/// assert_eq!(days.clone().get().await?.answer.rows[0].key, "2010-10-31");
/// let recorded = days.time_base(TimeBase::Recorded).get().await?.answer;
/// assert_ne!(recorded.rows[0].key, "2010-10-31", "the server took it later");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimeBase {
    /// When it happened, as its client says.
    #[default]
    Occurred,
    /// When the server took it.
    Recorded,
}

impl TimeBase {
    fn into_proto(self) -> i32 {
        match self {
            Self::Occurred => proto::TimeBase::Occurred,
            Self::Recorded => proto::TimeBase::Recorded,
        }
        .into()
    }
}

/// A unit of a time zone's clock and calendar.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let at = "2010-10-31T23:30:00Z".parse().unwrap();
/// # let event = NewEvent::new("PaymentFailed").metadata("userId", "ann").occurred_at(at);
/// # client.append("Payment-1", 0, [event]).await?;
/// use annals_client::query::Unit;
///
/// for (unit, key) in [(Unit::Hour, "2010-11-01T00:00+01:00"), (Unit::Week, "2010-W44")] {
///     let trends = client.trends(unit).time_zone("Europe/Amsterdam").get().await?.answer;
///     assert_eq!(trends.rows[0].key, key);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// An hour. Its key: `2010-10-31T02:00+01:00`.
    Hour,
    /// A day. Its key: `2010-10-31`.
    Day,
    /// An ISO 8601 week, which begins on Monday. Its key: `2010-W43`.
    Week,
    /// A month. Its key: `2010-10`.
    Month,
}

impl Unit {
    fn into_proto(self) -> proto::Grouping {
        match self {
            Self::Hour => proto::Grouping::Hour,
            Self::Day => proto::Grouping::Day,
            Self::Week => proto::Grouping::Week,
            Self::Month => proto::Grouping::Month,
        }
    }
}

/// How events are put together.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let at = "2010-10-31T23:30:00Z".parse().unwrap();
/// # let event = NewEvent::new("PaymentFailed").metadata("userId", "ann").occurred_at(at);
/// # client.append("Payment-1", 0, [event]).await?;
/// use annals_client::query::{GroupBy, Unit};
///
/// let statistics =
///     client.statistics().by(Unit::Month).by(GroupBy::Stream).by(GroupBy::metadata("userId"));
/// let groups = statistics.get().await?.answer.groups;
/// let keys: Vec<&str> = groups.iter().map(|group| group.rows[0].key.as_str()).collect();
/// assert_eq!(keys, ["2010-10", "Payment-1", "ann"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GroupBy {
    /// By hour of the time zone's clock.
    Hour,
    /// By day.
    Day,
    /// By ISO 8601 week.
    Week,
    /// By month.
    Month,
    /// By event type.
    Type,
    /// By category.
    Category,
    /// By stream.
    Stream,
    /// By the value of this metadata key, one of the server's `--index-metadata`.
    Metadata(String),
}

impl From<Unit> for GroupBy {
    fn from(unit: Unit) -> Self {
        match unit {
            Unit::Hour => Self::Hour,
            Unit::Day => Self::Day,
            Unit::Week => Self::Week,
            Unit::Month => Self::Month,
        }
    }
}

impl GroupBy {
    /// By the value of this metadata key, one of the server's `--index-metadata`.
    pub fn metadata(key: impl Into<String>) -> Self {
        Self::Metadata(key.into())
    }

    fn into_proto(self) -> proto::GroupBy {
        let grouping = match self {
            Self::Hour => proto::Grouping::Hour,
            Self::Day => proto::Grouping::Day,
            Self::Week => proto::Grouping::Week,
            Self::Month => proto::Grouping::Month,
            Self::Type => proto::Grouping::Type,
            Self::Category => proto::Grouping::Category,
            Self::Stream => proto::Grouping::Stream,
            Self::Metadata(_) => proto::Grouping::Metadata,
        };
        let metadata_key = match self {
            Self::Metadata(key) => key,
            _ => String::new(),
        };
        proto::GroupBy { grouping: grouping.into(), metadata_key }
    }
}

/// An answer that the server keeps for the next one who asks the same, for as long as it is true.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.append("Payment-1", 0, [NewEvent::new("PaymentFailed")]).await?;
/// let first = client.count([]).await?;
/// let second = client.count([]).await?;
/// assert_eq!((first.hit, second.hit), (false, true));
/// assert_eq!(first.answer, second.answer);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Cached<T> {
    /// What the server said.
    pub answer: T,
    /// It had been kept.
    pub hit: bool,
}

impl<T> Cached<T> {
    fn of(response: Response<T>) -> Self {
        let hit = response.metadata().get("annals-cache").is_some_and(|from| from == "hit");
        Self { answer: response.into_inner(), hit }
    }
}

/// A count, which is made when it is awaited: [`Client::count`] begins one.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// use annals_client::Filter;
///
/// let appended = client.append("Payment-1", 0, [NewEvent::new("PaymentFailed")]).await?;
/// let failed = client.count([Filter::new().types(["PaymentFailed"])]);
/// let counted = failed.min_position(appended.position).await?.answer;
/// assert_eq!((counted.count, counted.position), (1, appended.position));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is counted before it is awaited"]
pub struct Count {
    client: Client,
    request: proto::CountRequest,
}

impl Client {
    /// Counts the events that one of the filters picks; without a filter all of them.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let at = "2010-10-31T23:30:00Z".parse().unwrap();
    /// # let event = NewEvent::new("PaymentFailed").metadata("userId", "ann").occurred_at(at);
    /// # client.append("Payment-1", 0, [event]).await?;
    /// use annals_client::Filter;
    ///
    /// let failed_or_of_ann =
    ///     [Filter::new().types(["PaymentFailed"]), Filter::new().metadata("userId", "ann")];
    /// assert_eq!(client.count(failed_or_of_ann).await?.answer.count, 1);
    /// assert_eq!(client.count([]).await?.answer.count, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn count(&self, filters: impl IntoIterator<Item = Filter>) -> Count {
        let request = proto::CountRequest { filters: into_proto(filters), min_position: 0 };
        Count { client: self.clone(), request }
    }

    /// How filters would be answered: from which indexes, with how many candidates. With `execute` all matches are
    /// walked over, too, and it tells what that has cost.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let at = "2010-10-31T23:30:00Z".parse().unwrap();
    /// # let event = NewEvent::new("PaymentFailed").metadata("userId", "ann").occurred_at(at);
    /// # client.append("Payment-1", 0, [event]).await?;
    /// use annals_client::Filter;
    ///
    /// let failed = Filter::new().types(["PaymentFailed"]);
    /// let explained = client.explain([failed], true).await?;
    /// assert_eq!(explained.plans[0].indexes[0].index, "types");
    /// assert_eq!(explained.execution.unwrap().match_count, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn explain(
        &self,
        filters: impl IntoIterator<Item = Filter>,
        execute: bool,
    ) -> Result<ExplainResponse> {
        let request =
            proto::ExplainRequest { filters: into_proto(filters), execute, min_position: 0 };
        self.call(request, |client, request| async move { client.queries().explain(request).await })
            .await
    }
}

impl Count {
    /// Wait until the log has reached this position: read your own writes.
    pub fn min_position(mut self, position: u64) -> Self {
        self.request.min_position = position;
        self
    }
}

impl IntoFuture for Count {
    type Output = Result<Cached<CountResponse>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { client, request } = self;
            client
                .call_with_headers(request, |client, request| async move {
                    client.queries().count(request).await
                })
                .await
                .map(Cached::of)
        })
    }
}

fn into_proto(filters: impl IntoIterator<Item = Filter>) -> Vec<proto::Filter> {
    filters.into_iter().map(|filter| filter.0).collect()
}

/// One that protobuf cannot say becomes the longest, which the server refuses.
pub(crate) fn duration(time: Duration) -> prost_types::Duration {
    let longest = prost_types::Duration { seconds: i64::MAX, nanos: 0 };
    time.try_into().unwrap_or(longest)
}

/// Negative ones, too.
fn time_delta(time: prost_types::Duration) -> Option<TimeDelta> {
    TimeDelta::try_seconds(time.seconds)?.checked_add(&TimeDelta::nanoseconds(time.nanos.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_keeps_its_sign_and_its_nanoseconds() {
        for (seconds, nanos, expected) in [
            (0, 0, TimeDelta::zero()),
            (1, 500_000_000, TimeDelta::milliseconds(1500)),
            (-1, -500_000_000, TimeDelta::milliseconds(-1500)),
            (0, -1, TimeDelta::nanoseconds(-1)),
        ] {
            let time = prost_types::Duration { seconds, nanos };
            assert_eq!(time_delta(time), Some(expected), "{seconds} s {nanos} ns");
        }
        assert_eq!(time_delta(prost_types::Duration { seconds: i64::MAX, nanos: 0 }), None);
    }

    #[test]
    fn a_duration_that_protobuf_cannot_say_is_not_taken_for_none() {
        assert_eq!(duration(Duration::MAX).seconds, i64::MAX);
        let short = prost_types::Duration { seconds: 1, nanos: 5 };
        assert_eq!(duration(Duration::new(1, 5)), short);
    }
}
