//! Counts of what a filter picks: in all, by time, by name; once, or again whenever they change.
//!
//! ```text
//! positions that match ─► columns ─► Tally: by code, by quarter of an hour ─► rows: by name, by zone's day
//! ```
//!
//! A tally is made once and goes on with what comes later, so that to watch costs what is new. Where events
//! are hidden it is made anew: what was counted may be hidden since.

pub mod calendar;
pub mod causation;
mod slots;
pub mod tally;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    calendar::{Bucket, Unit, Zone},
    tally::{Buckets, By, Named, Row, Rows, Tally, TimeBase, TooManyRows},
};
use super::query::QueryError;
use crate::core::{
    clock::{Clock, Timestamp},
    filter::{Clause, Filter},
    history::History,
    log::Reader,
    position::Position,
};

/// An answer over time has at most so many rows.
pub const TREND_ROWS_MAX: usize = 20_000;

/// What to count, and how to put it together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatisticsQuery {
    pub filter: Filter,
    pub groups: Vec<By>,
    pub zone: Zone,
    pub base: TimeBase,
    /// Of each group at most so many.
    pub rows_max: usize,
}

/// Counts, up to a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistics {
    pub events: u64,
    pub streams: u64,
    pub occurred: Option<(Timestamp, Timestamp)>,
    pub recorded: Option<(Timestamp, Timestamp)>,
    pub groups: Vec<(By, Rows)>,
    pub position: Position,
}

/// What to count over time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrendsQuery {
    pub filter: Filter,
    pub unit: Unit,
    pub zone: Zone,
    pub base: TimeBase,
    pub fill_empty: bool,
    pub split: Option<Named>,
    pub series_max: usize,
}

/// Counts over time, up to a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trends {
    /// In the order of time, then of the series.
    pub rows: Vec<TrendRow>,
    pub events: u64,
    /// The series and what is known of the others; no rows where it is not split.
    pub series: Rows,
    pub position: Position,
}

/// One hour, day, week or month of one series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrendRow {
    pub key: String,
    /// Seconds since 1970.
    pub start: i64,
    pub end: i64,
    /// Empty where it is not split.
    pub series: String,
    pub count: u64,
}

/// A query whose answer can be told again with what has come since.
pub trait Analysis: Clone + Send + Sync + 'static {
    /// The answer.
    type Answer: Clone + Send;

    /// What it counts.
    fn filter(&self) -> &Filter;

    /// Nothing yet.
    fn tally(&self) -> Tally;

    /// The answer of what was counted.
    fn answer(
        &self,
        tally: &Tally,
        history: &History,
        reader: &Reader,
    ) -> Result<Self::Answer, TooManyRows>;

    /// What has changed since `before`; `None`: rows of then are none any more, and all have to be told.
    fn changes(&self, before: &Self::Answer, now: &Self::Answer) -> Option<Self::Answer>;

    /// Whether these, which have come since `before`, tell of nothing.
    fn is_nothing(before: &Self::Answer, changes: &Self::Answer) -> bool;
}

impl Analysis for StatisticsQuery {
    type Answer = Statistics;

    fn filter(&self) -> &Filter {
        &self.filter
    }

    fn tally(&self) -> Tally {
        Tally::new(&self.groups, self.base, self.zone)
    }

    fn answer(
        &self,
        tally: &Tally,
        history: &History,
        reader: &Reader,
    ) -> Result<Statistics, TooManyRows> {
        let groups = self
            .groups
            .iter()
            .map(|by| (*by, tally.rows(*by, self.zone, history, reader, self.rows_max)));
        Ok(Statistics {
            events: tally.events(),
            streams: tally.streams(),
            occurred: tally.occurred(),
            recorded: tally.recorded(reader),
            groups: groups.collect(),
            position: tally.reached(),
        })
    }

    fn changes(&self, before: &Statistics, now: &Statistics) -> Option<Statistics> {
        if now.events < before.events {
            return None;
        }
        let mut changes = now.clone();
        for ((_, rows), (_, before)) in changes.groups.iter_mut().zip(&before.groups) {
            let mut were: HashMap<&str, &Row> =
                before.rows.iter().map(|row| (&*row.key, row)).collect();
            let first = rows.rows.first().and_then(|row| row.range);
            let cut = rows.row_count > rows.rows.len() as u64;
            let mut fewer = rows.row_count < before.row_count;
            rows.rows.retain(|row| {
                let was = were.remove(&*row.key).map(|was| was.count);
                fewer |= was.is_some_and(|was| was > row.count);
                was != Some(row.count)
            });
            // Times that are no longer among the latest keep their counts.
            let pushed_out = |row: &Row| cut && row.range < first;
            if fewer || !were.into_values().all(pushed_out) {
                return None;
            }
        }
        Some(changes)
    }

    fn is_nothing(before: &Statistics, changes: &Statistics) -> bool {
        // Not every event is in a row that is told.
        before.events == changes.events
            && changes.groups.iter().all(|(_, rows)| rows.rows.is_empty())
    }
}

impl Analysis for TrendsQuery {
    type Answer = Trends;

    fn filter(&self) -> &Filter {
        &self.filter
    }

    fn tally(&self) -> Tally {
        Tally::over_time(self.unit, self.split, self.base, self.zone)
    }

    fn answer(
        &self,
        tally: &Tally,
        history: &History,
        reader: &Reader,
    ) -> Result<Trends, TooManyRows> {
        let (unit, zone) = (self.unit, self.zone);
        let (names, series) = if self.split.is_some() {
            tally.series(unit, zone, history, reader, self.series_max)
        } else {
            (Rows::default(), vec![tally.buckets(unit, zone)])
        };
        let labels: Vec<&str> = match self.split {
            Some(_) => names.rows.iter().map(|row| &*row.key).collect(),
            None => vec![""],
        };
        let rows = self.trend_rows(&labels, &series)?;
        Ok(Trends { rows, events: tally.events(), series: names, position: tally.reached() })
    }

    fn changes(&self, before: &Trends, now: &Trends) -> Option<Trends> {
        let names = |trends: &Trends| {
            let mut names: Vec<String> =
                trends.series.rows.iter().map(|row| row.key.clone()).collect();
            names.sort_unstable();
            names
        };
        let key = |row: &TrendRow| (row.start, row.series.clone());
        let mut were: HashMap<(i64, String), u64> =
            before.rows.iter().map(|row| (key(row), row.count)).collect();
        let mut changes = now.clone();
        let mut fewer = now.events < before.events;
        changes.rows.retain(|row| {
            let was = were.remove(&key(row));
            fewer |= was.is_some_and(|was| was > row.count);
            was != Some(row.count)
        });
        (!fewer && were.is_empty() && names(before) == names(now)).then_some(changes)
    }

    fn is_nothing(before: &Trends, changes: &Trends) -> bool {
        before.events == changes.events && changes.rows.is_empty()
    }
}

impl TrendsQuery {
    fn trend_rows(
        &self,
        labels: &[&str],
        series: &[Buckets],
    ) -> Result<Vec<TrendRow>, TooManyRows> {
        let too_many = |rows| Err(TooManyRows { rows, max: TREND_ROWS_MAX });
        let mut told: Vec<Bucket> = if self.fill_empty {
            let Some((first, last)) = self.span(series) else { return Ok(Vec::new()) };
            let mut told = vec![self.zone.bucket(self.unit, first)];
            while let Some(bucket) = told.last().filter(|bucket| bucket.end <= last) {
                told.push(self.zone.next(self.unit, *bucket));
                if told.len() * labels.len() > TREND_ROWS_MAX {
                    return too_many(told.len() * labels.len());
                }
            }
            told
        } else {
            series.iter().flatten().map(|(bucket, _)| *bucket).collect()
        };
        told.sort_unstable_by_key(|bucket| bucket.start);
        told.dedup();
        let mut rows = Vec::new();
        let mut left: Vec<&[(Bucket, u64)]> = series.iter().map(|buckets| &buckets[..]).collect();
        for bucket in told {
            for (label, left) in labels.iter().zip(&mut left) {
                let count = match left.split_first() {
                    Some(((first, count), rest)) if *first == bucket => {
                        *left = rest;
                        *count
                    }
                    _ if self.fill_empty => 0,
                    _ => continue,
                };
                if rows.len() == TREND_ROWS_MAX {
                    return too_many(series.iter().map(Buckets::len).sum());
                }
                rows.push(TrendRow {
                    key: self.zone.key(self.unit, bucket.start),
                    start: bucket.start,
                    end: bucket.end,
                    series: (*label).to_owned(),
                    count,
                });
            }
        }
        Ok(rows)
    }

    /// The first and the last second whose buckets are told, also without events.
    fn span(&self, series: &[Buckets]) -> Option<(i64, i64)> {
        let range = |clause: &Clause| match self.base {
            TimeBase::Occurred => clause.occurred,
            TimeBase::Recorded => clause.recorded,
        };
        let mut ranges = self.filter.clauses.iter().map(range);
        let first = ranges.next();
        let common = first.filter(|first| ranges.all(|range| range == *first)).unwrap_or_default();
        let starts = || series.iter().flatten().map(|(bucket, _)| bucket.start);
        let from = common.from.map(Timestamp::seconds).or_else(|| starts().min())?;
        // The last nanosecond before the end.
        let to = common.to.map(|to| to.seconds() - i64::from(to.nanos() == 0));
        let to = to.or_else(|| starts().max())?;
        Some((from, to))
    }
}

/// Counts, with what is hidden now left out.
pub async fn analyse<A: Analysis>(
    query: &A,
    history: &Arc<History>,
    clock: &dyn Clock,
) -> Result<A::Answer, TooManyRows> {
    let reader = history.log.reader();
    let visibility = history.visibility(&reader, clock);
    let mut tally = query.tally();
    tally.count(history, query.filter(), &reader, visibility).await?;
    query.answer(&tally, history, &reader)
}

/// A query that is answered again and again.
pub struct Watched<A: Analysis> {
    query: A,
    history: Arc<History>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    tally: Tally,
    told: Option<A::Answer>,
    told_at: Instant,
}

/// What is told of a watched query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update<T> {
    /// All of it; what was told before counts no more.
    Complete(T),
    /// What has changed.
    Changes(T),
}

impl<A: Analysis> Watched<A> {
    /// Nothing is told yet. It ends when `stop` is cancelled.
    pub fn new(
        query: A,
        history: Arc<History>,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> Self {
        let tally = query.tally();
        Self { query, history, clock, stop, tally, told: None, told_at: Instant::now() }
    }

    /// The first answer, or what has changed, at the earliest `interval` after what was told last.
    pub async fn next(&mut self, interval: Duration) -> Result<Update<A::Answer>, QueryError> {
        loop {
            if self.told.is_some() {
                let (watermark, reached) = (self.history.log.watermark(), self.tally.reached());
                let changed = async {
                    watermark.beyond(reached).await;
                    tokio::time::sleep_until(self.told_at + interval).await;
                };
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return Err(QueryError::Stopping),
                    () = changed => {}
                }
            }
            let update = self.update().await?;
            // Changes that nobody is told of are not looked for more often either.
            self.told_at = Instant::now();
            if let Some(update) = update {
                return Ok(update);
            }
        }
    }

    /// What has changed up to now; `None`: nothing.
    async fn update(&mut self) -> Result<Option<Update<A::Answer>>, TooManyRows> {
        let reader = self.history.log.reader();
        let visibility = self.history.visibility(&reader, &*self.clock);
        if visibility.is_some() {
            self.tally = self.query.tally();
        }
        self.tally.count(&self.history, self.query.filter(), &reader, visibility).await?;
        let now = self.query.answer(&self.tally, &self.history, &reader)?;
        let Some(told) = self.told.replace(now.clone()) else {
            return Ok(Some(Update::Complete(now)));
        };
        Ok(match self.query.changes(&told, &now) {
            None => Some(Update::Complete(now)),
            Some(changes) if A::is_nothing(&told, &changes) => None,
            Some(changes) => Some(Update::Changes(changes)),
        })
    }
}
