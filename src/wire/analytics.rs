//! Searches, correlations, statistics, trends, replays, plans: proto ↔ service, as in `convert.rs`.

use std::{collections::HashSet, time::Duration};

use prost::Message as _;

use super::{
    block::EventBlock,
    convert::{At, Check, InvalidRequest, TEXT_BYTES_MAX, duration, timestamp},
    filter,
    proto::v1::{
        self, CorrelationSummary, CountResponse, ExplainResponse, FilterPlan,
        GetCorrelationResponse, GetStatisticsRequest, GetStatisticsResponse, GetTrendsRequest,
        GetTrendsResponse, IndexUse, RecordedEvent, ReplayEnded, ReplayPause, ReplayRequest,
        ReplayResponse, ReplayStarted, ReplayedEvents, SearchEnd, SearchProgress, SearchResponse,
        StatisticsGroup, StatisticsRow, TimelineEntry, TrendSeries, WatchStatisticsResponse,
        WatchTrendsResponse, get_correlation_response, replay_response, search_response,
    },
};
use crate::{
    core::{
        clock::Timestamp,
        filter::plan::{self, Direction},
        history::{History, MetadataIndex},
        limits::Limits,
        log::format,
        name::Name,
        position::Position,
    },
    service::{
        analytics::{
            Statistics, StatisticsQuery, TrendRow, Trends, TrendsQuery, Update,
            calendar::{Unit, UnknownZone, Zone},
            tally::{By, Named, Row, Rows, TimeBase},
        },
        cache::Answer,
        correlation::{Cause, EVENTS_MAX, Entry, Timeline},
        page_token::{Fingerprint, TokenError},
        query::Explanation,
        replay::{Message, ReplayOptions},
        search::{self, Found},
    },
};

const GROUPS_MAX: usize = 16;
const ROWS_DEFAULT: u32 = 1000;
const ROWS_MAX: u32 = 100_000;
const SERIES_DEFAULT: u32 = 10;
const SERIES_MAX: u32 = 1000;
const INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_hours(1);
const SPEED_MIN: f64 = 0.001;
const SPEED_MAX: f64 = 1_000_000.0;
/// A replay waits no longer, whatever it is told: ten years.
const PAUSE_MAX: Duration = Duration::from_hours(10 * 366 * 24);

/// Where a page of a search begins.
pub fn page(
    request: &v1::SearchRequest,
    direction: Direction,
) -> Result<(Fingerprint, Position), InvalidRequest> {
    let mut said = vec![u8::from(direction == Direction::Backwards)];
    let v1::SearchRequest { filters, direction: _, limit: _, page_token, min_position: _ } =
        request;
    for filter in normal(filters.clone()) {
        filter.encode_length_delimited(&mut said).expect("a vector grows");
    }
    let fingerprint = Fingerprint::of(&said);
    let after = search::after(fingerprint, page_token);
    let wrong = |error: TokenError| InvalidRequest::one("page_token", error.to_string());
    Ok((fingerprint, after.map_err(wrong)?))
}

/// Filters in one order, each value once: what means the same is the same. Too many are left as they are: they
/// are refused.
fn normal(mut filters: Vec<v1::Filter>) -> Vec<v1::Filter> {
    if filter::are_too_many(&filters) {
        return filters;
    }
    for filter in &mut filters {
        let v1::Filter {
            streams,
            stream_prefixes,
            categories,
            types,
            tags,
            tags_all,
            correlation_ids,
            causation_ids,
            metadata,
            occurred: _,
            recorded: _,
            texts,
            json: _,
        } = filter;
        for names in [
            streams,
            stream_prefixes,
            categories,
            types,
            tags,
            tags_all,
            correlation_ids,
            causation_ids,
            texts,
        ] {
            names.sort_unstable();
            names.dedup();
        }
        for v1::MetadataMatch { key: _, values } in &mut *metadata {
            values.sort_unstable();
            values.dedup();
        }
        metadata.sort_by(|a, b| (&a.key, &a.values).cmp(&(&b.key, &b.values)));
    }
    filters.sort_by_cached_key(prost::Message::encode_to_vec);
    filters.dedup();
    filters
}

impl From<Found> for SearchResponse {
    fn from(found: Found) -> Self {
        use search_response::Message as Sent;
        let message = match found {
            Found::Block(block) => Sent::Events(EventBlock::from_encoded(block.bytes)),
            Found::Progress(position) => {
                Sent::Progress(SearchProgress { position: position.get() })
            }
            Found::End { next, events, head } => Sent::End(SearchEnd {
                next_page_token: next.unwrap_or_default(),
                event_count: events,
                head: head.get(),
            }),
        };
        Self { message: Some(message) }
    }
}

/// Which correlation, and how many of its events.
pub fn correlation(id: &str, limit: u32) -> Result<(Name, usize), InvalidRequest> {
    let mut check = Check::default();
    let root = At::Root;
    let id = check.name(root.field("correlation_id"), id, TEXT_BYTES_MAX);
    let max = u32::try_from(EVENTS_MAX).expect("a small number");
    let limit = check.number(root.field("limit"), limit, max, max);
    check.finish(id.map(|id| (id, limit as usize)))
}

/// The first message of a timeline.
pub fn summary(timeline: &Timeline) -> GetCorrelationResponse {
    let summary = CorrelationSummary {
        event_count: timeline.event_count,
        sent_count: timeline.entries.len() as u64,
        first_occurred_at: Some(timestamp(timeline.first_occurred_at)),
        last_occurred_at: Some(timestamp(timeline.last_occurred_at)),
        stream_count: timeline.stream_count,
        root_count: timeline.root_count,
    };
    let message = get_correlation_response::Message::Summary(summary);
    GetCorrelationResponse { message: Some(message) }
}

/// The next message of a timeline; `None` at its end.
pub fn entry(timeline: &mut Timeline) -> Option<GetCorrelationResponse> {
    let entry = timeline.entries.pop_front()?;
    let Entry { position, occurred_at, cause, cause_occurred_at, depth, tree_order } = entry;
    let record = timeline.reader.record(position).expect("the timeline's reader sees it");
    let event = RecordedEvent::decode(format::message(&record)).expect("the log holds events");
    let (cause, cause_position) = match cause {
        Cause::None => (v1::Cause::None, Position::ZERO),
        Cause::Known(position) => (v1::Cause::Known, position),
        Cause::Elsewhere(position) => (v1::Cause::Elsewhere, position),
        Cause::Unknown => (v1::Cause::Unknown, Position::ZERO),
        Cause::Circle(position) => (v1::Cause::Circle, position),
    };
    let entry = TimelineEntry {
        event: Some(event),
        since_first: Some(between(timeline.first_occurred_at, occurred_at)),
        since_cause: cause_occurred_at.map(|cause| between(cause, occurred_at)),
        cause: cause.into(),
        cause_position: cause_position.get(),
        depth,
        tree_order,
    };
    let message = get_correlation_response::Message::Entry(entry);
    Some(GetCorrelationResponse { message: Some(message) })
}

/// The time between two moments; negative where the second is earlier.
fn between(from: Timestamp, to: Timestamp) -> prost_types::Duration {
    let mut seconds = to.seconds() - from.seconds();
    let nanos = |moment: Timestamp| i32::try_from(moment.nanos()).expect("below 10^9");
    let mut nanos = nanos(to) - nanos(from);
    // Both have the same sign: google/protobuf/duration.proto.
    if seconds > 0 && nanos < 0 {
        (seconds, nanos) = (seconds - 1, nanos + 1_000_000_000);
    } else if seconds < 0 && nanos > 0 {
        (seconds, nanos) = (seconds + 1, nanos - 1_000_000_000);
    }
    prost_types::Duration { seconds, nanos }
}

impl Check {
    fn zone(&mut self, at: At<'_>, name: &str) -> Option<Zone> {
        name.parse().map_err(|error: UnknownZone| self.wrong(at, error)).ok()
    }

    pub(super) fn base(&mut self, at: At<'_>, base: i32) -> TimeBase {
        match v1::TimeBase::try_from(base) {
            Ok(v1::TimeBase::Unspecified | v1::TimeBase::Occurred) => TimeBase::Occurred,
            Ok(v1::TimeBase::Recorded) => TimeBase::Recorded,
            Err(_) => {
                self.wrong(at, format_args!("is {base}, not a time base"));
                TimeBase::Occurred
            }
        }
    }

    fn by(&mut self, at: &At<'_>, by: &v1::GroupBy, metadata: &[MetadataIndex]) -> Option<By> {
        use v1::Grouping as Sent;
        let v1::GroupBy { grouping, metadata_key } = by;
        let grouping = Sent::try_from(*grouping);
        if grouping != Ok(Sent::Metadata) && !metadata_key.is_empty() {
            let what = "is for GROUPING_METADATA, and the grouping is another one";
            self.wrong(at.field("metadata_key"), what);
            return None;
        }
        Some(match grouping {
            Ok(Sent::Hour) => By::Time(Unit::Hour),
            Ok(Sent::Day) => By::Time(Unit::Day),
            Ok(Sent::Week) => By::Time(Unit::Week),
            Ok(Sent::Month) => By::Time(Unit::Month),
            Ok(Sent::Type) => By::Name(Named::Type),
            Ok(Sent::Category) => By::Name(Named::Category),
            Ok(Sent::Stream) => By::Name(Named::Stream),
            Ok(Sent::Metadata) => {
                let known = |index: &MetadataIndex| index.key.as_str() == metadata_key;
                let Some(index) = metadata.iter().position(known) else {
                    let keys: Vec<&str> = metadata.iter().map(|index| index.key.as_str()).collect();
                    let keys = keys.join(", ");
                    let what = format_args!("is not an indexed metadata key; those are: {keys}");
                    self.wrong(at.field("metadata_key"), what);
                    return None;
                };
                By::Name(Named::Metadata(index))
            }
            Ok(Sent::Unspecified) => {
                self.wrong(at.field("grouping"), "must be set");
                return None;
            }
            Err(_) => {
                let number = by.grouping;
                self.wrong(at.field("grouping"), format_args!("is {number}, not a grouping"));
                return None;
            }
        })
    }

    pub(super) fn interval(
        &mut self,
        at: At<'_>,
        interval: Option<prost_types::Duration>,
    ) -> Duration {
        let interval = match interval {
            None => INTERVAL_DEFAULT,
            Some(interval) => duration(interval).unwrap_or_default(),
        };
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
            self.wrong(at, "is not between 100 ms and 1 h");
        }
        interval
    }

    fn statistics(
        &mut self,
        at: &At<'_>,
        request: GetStatisticsRequest,
        limits: &Limits,
        metadata: &[MetadataIndex],
    ) -> Option<StatisticsQuery> {
        let GetStatisticsRequest {
            filters,
            group_by,
            time_zone,
            time_base,
            rows_max,
            min_position: _,
        } = request;
        let filter = self.filter(at, filters, limits);
        let field = at.field("group_by");
        let mut groups = Vec::new();
        if self.at_most(field, group_by.len(), GROUPS_MAX, "entries") {
            for (index, by) in group_by.iter().enumerate() {
                groups.extend(self.by(&field.index(index), by, metadata));
            }
        }
        if groups.iter().collect::<HashSet<_>>().len() < groups.len() {
            self.wrong(field, "has a grouping twice");
        }
        if group_by.is_empty() {
            groups = vec![By::Time(Unit::Hour), By::Time(Unit::Day)];
            groups.extend([Named::Type, Named::Category].map(By::Name));
            groups.extend((0..metadata.len()).map(|index| By::Name(Named::Metadata(index))));
        }
        let base = self.base(at.field("time_base"), time_base);
        let rows_max = self.number(at.field("rows_max"), rows_max, ROWS_DEFAULT, ROWS_MAX);
        let zone = self.zone(at.field("time_zone"), &time_zone)?;
        Some(StatisticsQuery { filter, groups, zone, base, rows_max: rows_max as usize })
    }

    fn trends(
        &mut self,
        at: &At<'_>,
        request: GetTrendsRequest,
        limits: &Limits,
        metadata: &[MetadataIndex],
    ) -> Option<TrendsQuery> {
        let GetTrendsRequest {
            filters,
            unit,
            time_zone,
            time_base,
            fill_empty,
            split_by,
            series_max,
            min_position: _,
        } = request;
        let filter = self.filter(at, filters, limits);
        let unit = match v1::Grouping::try_from(unit) {
            Ok(v1::Grouping::Hour) => Some(Unit::Hour),
            Ok(v1::Grouping::Day) => Some(Unit::Day),
            Ok(v1::Grouping::Week) => Some(Unit::Week),
            Ok(v1::Grouping::Month) => Some(Unit::Month),
            _ => {
                self.wrong(at.field("unit"), "must be hour, day, week or month");
                None
            }
        };
        let field = at.field("split_by");
        let split = match split_by.map(|by| self.by(&field, &by, metadata)) {
            Some(Some(By::Time(_))) => {
                self.wrong(field, "is a time: `unit` says that");
                None
            }
            Some(Some(By::Name(named))) => Some(named),
            Some(None) | None => None,
        };
        let base = self.base(at.field("time_base"), time_base);
        let series_max =
            self.number(at.field("series_max"), series_max, SERIES_DEFAULT, SERIES_MAX);
        let zone = self.zone(at.field("time_zone"), &time_zone)?;
        let (unit, series_max) = (unit?, series_max as usize);
        Some(TrendsQuery { filter, unit, zone, base, fill_empty, split, series_max })
    }
}

/// What to count.
pub fn statistics(
    request: GetStatisticsRequest,
    limits: &Limits,
    history: &History,
) -> Result<StatisticsQuery, InvalidRequest> {
    let mut check = Check::default();
    let query = check.statistics(&At::Root, request, limits, &history.metadata);
    check.finish(query)
}

/// What to count, and how often to tell it again.
pub fn watch_statistics(
    request: v1::WatchStatisticsRequest,
    limits: &Limits,
    history: &History,
) -> Result<(StatisticsQuery, Duration), InvalidRequest> {
    let v1::WatchStatisticsRequest { statistics, interval } = request;
    let mut check = Check::default();
    let root = At::Root;
    let interval = check.interval(root.field("interval"), interval);
    let (at, statistics) = (root.field("statistics"), statistics.unwrap_or_default());
    let query = check.statistics(&at, statistics, limits, &history.metadata);
    check.finish(query.map(|query| (query, interval)))
}

/// What to count over time.
pub fn trends(
    request: GetTrendsRequest,
    limits: &Limits,
    history: &History,
) -> Result<TrendsQuery, InvalidRequest> {
    let mut check = Check::default();
    let query = check.trends(&At::Root, request, limits, &history.metadata);
    check.finish(query)
}

/// What to count over time, and how often to tell it again.
pub fn watch_trends(
    request: v1::WatchTrendsRequest,
    limits: &Limits,
    history: &History,
) -> Result<(TrendsQuery, Duration), InvalidRequest> {
    let v1::WatchTrendsRequest { trends, interval } = request;
    let mut check = Check::default();
    let root = At::Root;
    let interval = check.interval(root.field("interval"), interval);
    let (at, trends) = (root.field("trends"), trends.unwrap_or_default());
    let query = check.trends(&at, trends, limits, &history.metadata);
    check.finish(query.map(|query| (query, interval)))
}

/// A moment of a bucket's; the first and the last may reach out of the years 1 to 9999, and are cut there.
fn at_second(seconds: i64) -> prost_types::Timestamp {
    let seconds = seconds.clamp(Timestamp::SECONDS_MIN, Timestamp::SECONDS_MAX);
    prost_types::Timestamp { seconds, nanos: 0 }
}

fn group_by(by: By, history: &History) -> v1::GroupBy {
    use v1::Grouping as Sent;
    let mut metadata_key = String::new();
    let grouping = match by {
        By::Time(Unit::Hour) => Sent::Hour,
        By::Time(Unit::Day) => Sent::Day,
        By::Time(Unit::Week) => Sent::Week,
        By::Time(Unit::Month) => Sent::Month,
        By::Name(Named::Type) => Sent::Type,
        By::Name(Named::Category) => Sent::Category,
        By::Name(Named::Stream) => Sent::Stream,
        By::Name(Named::Metadata(index)) => {
            metadata_key = history.metadata[index].key.to_string();
            Sent::Metadata
        }
    };
    v1::GroupBy { grouping: grouping.into(), metadata_key }
}

/// The answer.
pub fn statistics_response(statistics: Statistics, history: &History) -> GetStatisticsResponse {
    let Statistics { events, streams, occurred, recorded, groups, position } = statistics;
    let group = |(by, rows): (By, Rows)| {
        let Rows { rows, row_count, other_count, without_count } = rows;
        let row = |Row { key, range, count }| StatisticsRow {
            key,
            start: range.map(|(start, _)| at_second(start)),
            count,
        };
        StatisticsGroup {
            group_by: Some(group_by(by, history)),
            rows: rows.into_iter().map(row).collect(),
            row_count,
            other_count,
            without_count,
        }
    };
    GetStatisticsResponse {
        event_count: events,
        stream_count: streams,
        first_occurred_at: occurred.map(|ends| timestamp(ends.0)),
        last_occurred_at: occurred.map(|ends| timestamp(ends.1)),
        first_recorded_at: recorded.map(|ends| timestamp(ends.0)),
        last_recorded_at: recorded.map(|ends| timestamp(ends.1)),
        groups: groups.into_iter().map(group).collect(),
        position: position.get(),
    }
}

/// What has changed.
pub fn statistics_update(update: Update<Statistics>, history: &History) -> WatchStatisticsResponse {
    let (statistics, complete) = whole(update);
    let statistics = Some(statistics_response(statistics, history));
    WatchStatisticsResponse { statistics, complete }
}

fn whole<T>(update: Update<T>) -> (T, bool) {
    match update {
        Update::Complete(answer) => (answer, true),
        Update::Changes(changes) => (changes, false),
    }
}

/// The answer.
pub fn trends_response(trends: Trends) -> GetTrendsResponse {
    let Trends { rows, events, series, position } = trends;
    let row = |TrendRow { key, start, end, series, count }| v1::TrendRow {
        key,
        start: Some(at_second(start)),
        end: Some(at_second(end)),
        series,
        count,
    };
    GetTrendsResponse {
        rows: rows.into_iter().map(row).collect(),
        event_count: events,
        series: series
            .rows
            .into_iter()
            .map(|row| TrendSeries { key: row.key, count: row.count })
            .collect(),
        other_count: series.other_count,
        without_count: series.without_count,
        position: position.get(),
    }
}

/// What has changed.
pub fn trends_update(update: Update<Trends>) -> WatchTrendsResponse {
    let (trends, complete) = whole(update);
    WatchTrendsResponse { trends: Some(trends_response(trends)), complete }
}

/// What to replay.
pub fn replay(request: ReplayRequest, limits: &Limits) -> Result<ReplayOptions, InvalidRequest> {
    let ReplayRequest { filters, after, from, speed, time_base, pause_max, limit, min_position: _ } =
        request;
    let mut check = Check::default();
    let root = At::Root;
    let filter = check.filter(&root, filters, limits);
    let from = from.and_then(|from| check.timestamp(root.field("from"), from));
    let speed = (speed != 0.0).then_some(speed);
    if speed.is_some_and(|speed| !(SPEED_MIN..=SPEED_MAX).contains(&speed)) {
        check.wrong(root.field("speed"), "is neither 0 nor between 0.001 and 1 000 000");
    }
    let pause_max = match pause_max.map(duration) {
        None => PAUSE_MAX,
        Some(Some(pause)) => pause.min(PAUSE_MAX),
        Some(None) => {
            check.wrong(root.field("pause_max"), "is negative");
            PAUSE_MAX
        }
    };
    let base = check.base(root.field("time_base"), time_base);
    let after = Position::new(after);
    check.finish(Some(ReplayOptions { filter, after, from, speed, base, pause_max, limit }))
}

impl From<Message> for ReplayResponse {
    fn from(message: Message) -> Self {
        use replay_response::Message as Sent;
        let message = match message {
            Message::Started { head } => Sent::Started(ReplayStarted { head: head.get() }),
            Message::Events(block) => Sent::Events(ReplayedEvents {
                batch: Some(EventBlock::from_encoded(block.bytes)),
                is_replay: true,
            }),
            Message::Pause { wait, until } => Sent::Pause(ReplayPause {
                wait: prost_types::Duration::try_from(wait).ok(),
                until: Some(timestamp(until)),
            }),
            Message::Ended { events, position } => {
                Sent::Ended(ReplayEnded { event_count: events, position: position.get() })
            }
        };
        Self { message: Some(message) }
    }
}

impl From<Explanation> for ExplainResponse {
    fn from(explanation: Explanation) -> Self {
        let Explanation { head, plans, execution } = explanation;
        let plan = |plan: plan::Plan| {
            let (first, last) = plan.range;
            let none = plan.candidates_max == 0;
            let index = |index: plan::IndexUse| IndexUse {
                index: index.index,
                value_count: index.values,
                event_count: index.events,
            };
            FilterPlan {
                scans_log: plan.indexes.is_empty(),
                indexes: plan.indexes.into_iter().map(index).collect(),
                checks: plan.checks.iter().map(ToString::to_string).collect(),
                first_position: if none { 0 } else { first.get() },
                last_position: if none { 0 } else { last.get() },
                candidates_max: plan.candidates_max,
            }
        };
        let plans: Vec<FilterPlan> = plans.into_iter().map(plan).collect();
        let candidates: u64 = plans.iter().map(|plan| plan.candidates_max).sum();
        Self {
            head: head.get(),
            candidates_max: candidates,
            plans,
            execution: execution.map(|execution| v1::Execution {
                match_count: execution.matches,
                step_count: execution.cost.steps,
                examined_count: execution.cost.examined,
                examined_bytes: execution.cost.examined_bytes,
                elapsed: prost_types::Duration::try_from(execution.elapsed).ok(),
            }),
        }
    }
}

/// An answer that is kept.
#[derive(Clone)]
pub enum Kept {
    Statistics(GetStatisticsResponse),
    Trends(GetTrendsResponse),
    Count(CountResponse),
}

impl From<GetStatisticsResponse> for Kept {
    fn from(answer: GetStatisticsResponse) -> Self {
        Self::Statistics(answer)
    }
}

impl From<GetTrendsResponse> for Kept {
    fn from(answer: GetTrendsResponse) -> Self {
        Self::Trends(answer)
    }
}

impl From<CountResponse> for Kept {
    fn from(answer: CountResponse) -> Self {
        Self::Count(answer)
    }
}

impl Answer for Kept {
    fn size(&self) -> usize {
        match self {
            Self::Statistics(statistics) => {
                let rows = |group: &StatisticsGroup| -> usize {
                    let size = |row: &StatisticsRow| size_of::<StatisticsRow>() + row.key.len();
                    group.rows.iter().map(size).sum()
                };
                statistics.groups.iter().map(rows).sum()
            }
            Self::Trends(trends) => {
                let size = |row: &v1::TrendRow| {
                    size_of::<v1::TrendRow>() + row.key.len() + row.series.len()
                };
                trends.rows.iter().map(size).sum()
            }
            Self::Count(_) => 0,
        }
    }

    fn position(&self) -> Position {
        Position::new(match self {
            Self::Statistics(statistics) => statistics.position,
            Self::Trends(trends) => trends.position,
            Self::Count(count) => count.position,
        })
    }

    fn at(mut self, head: Position) -> Self {
        let position = match &mut self {
            Self::Statistics(statistics) => &mut statistics.position,
            Self::Trends(trends) => &mut trends.position,
            Self::Count(count) => &mut count.position,
        };
        *position = head.get();
        self
    }
}

/// What a request asks, in the one way that is kept: the first byte tells the call.
pub fn statistics_key(mut request: GetStatisticsRequest) -> Vec<u8> {
    request.min_position = 0;
    request.filters = normal(request.filters);
    let mut key = vec![1];
    request.encode(&mut key).expect("a vector grows");
    key
}

/// The same.
pub fn trends_key(mut request: GetTrendsRequest) -> Vec<u8> {
    request.min_position = 0;
    request.filters = normal(request.filters);
    let mut key = vec![2];
    request.encode(&mut key).expect("a vector grows");
    key
}

/// The same.
pub fn count_key(filters: Vec<v1::Filter>) -> Vec<u8> {
    let mut key = vec![3];
    for filter in normal(filters) {
        filter.encode_length_delimited(&mut key).expect("a vector grows");
    }
    key
}
