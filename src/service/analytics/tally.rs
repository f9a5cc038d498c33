//! Counts what a filter picks: a walk over its positions that reads columns, and hardly ever a record.

use std::{collections::HashMap, sync::Arc};

use super::{
    super::matches::Whole,
    calendar::{Bucket, Unit, Zone},
    slots::{QUARTER, Slots, Sparse},
};
use crate::core::{
    clock::Timestamp,
    filter::Filter,
    history::History,
    index::{column::ColumnView, times::TimeView},
    log::{
        Reader,
        format::{self, Indexed},
    },
    name,
    position::Position,
    retention::Visibility,
};

/// A count keeps at most so many different times, also times by name.
const SLOTS_MAX: usize = 4 << 20;

/// Which of an event's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimeBase {
    Occurred,
    Recorded,
}

/// How events are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    Time(Unit),
    Name(Named),
}

/// What an event has one of, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Named {
    Type,
    Category,
    Stream,
    /// The value of an indexed key, by its place among them.
    Metadata(usize),
}

/// There would be more rows than an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer would have {rows} rows, at most {max} are sent")]
pub struct TooManyRows {
    pub rows: usize,
    pub max: usize,
}

/// Some rows of a group, and what is known of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    pub rows: Vec<Row>,
    /// How many there are, these among them.
    pub row_count: u64,
    /// Events of the others.
    pub other_count: u64,
    /// Events that have no such name.
    pub without_count: u64,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub key: String,
    /// Of times: where it begins and ends, seconds since 1970.
    pub range: Option<(i64, i64)>,
    pub count: u64,
}

/// How many events a name has, and one of them.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    events: u64,
    sample: u64,
}

/// Counts so far. It can go on with what comes later.
pub struct Tally {
    base: TimeBase,
    /// Times before this are kept to the second, later ones to the quarter of an hour.
    quarters_from: i64,
    /// Everything up to here is counted.
    reached: Position,
    events: u64,
    /// A bit for each stream's code.
    streams: Vec<u64>,
    /// The first and the last position.
    ends: Option<(Position, Position)>,
    occurred: Option<(Timestamp, Timestamp)>,
    slots: Option<Slots>,
    names: Vec<(Named, Vec<Count>)>,
    /// By the first of `names`: by code and time.
    split: Option<Sparse<(u32, i64)>>,
}

/// The columns as of one moment.
struct Views {
    streams: ColumnView,
    occurred: TimeView,
    names: Vec<ColumnView>,
}

impl Views {
    fn of(history: &History, names: &[(Named, Vec<Count>)]) -> Self {
        let columns = &history.columns;
        let view = |named: Named| match named {
            Named::Type => columns.types.view(),
            Named::Category => columns.categories.view(),
            Named::Stream => columns.streams.view(),
            Named::Metadata(index) => history.metadata[index].column.view(),
        };
        Self {
            streams: columns.streams.view(),
            occurred: columns.occurred.view(),
            names: names.iter().map(|(named, _)| view(*named)).collect(),
        }
    }
}

impl Tally {
    /// Nothing yet, to be put together in these ways.
    pub fn new(groups: &[By], base: TimeBase, zone: Zone) -> Self {
        let units = groups.iter().filter_map(|by| match by {
            By::Time(unit) => Some(*unit),
            By::Name(_) => None,
        });
        let quarters_from = units.map(|unit| zone.quarters_from(unit)).max();
        let names = groups.iter().filter_map(|by| match by {
            By::Time(_) => None,
            By::Name(named) => Some((*named, Vec::new())),
        });
        Self {
            base,
            quarters_from: quarters_from.unwrap_or(i64::MIN),
            reached: Position::ZERO,
            events: 0,
            streams: Vec::new(),
            ends: None,
            occurred: None,
            slots: quarters_from.map(|_| Slots::default()),
            names: names.collect(),
            split: None,
        }
    }

    /// The same by one unit of time, and that by name.
    pub fn over_time(unit: Unit, split: Option<Named>, base: TimeBase, zone: Zone) -> Self {
        let groups: Vec<By> = [By::Time(unit)].into_iter().chain(split.map(By::Name)).collect();
        Self { split: split.map(|_| Sparse::default()), ..Self::new(&groups, base, zone) }
    }

    /// Counts what comes after what is counted already and matches, up to the reader's head. Lets other tasks
    /// run, and can be dropped at any time.
    pub async fn count(
        &mut self,
        history: &Arc<History>,
        filter: &Filter,
        reader: &Reader,
        visibility: Option<Visibility>,
    ) -> Result<(), TooManyRows> {
        let views = Views::of(history, &self.names);
        let whole = Whole { history, filter, reader, visibility, after: self.reached };
        let empty = || (self.emptied(), Vec::new(), RecordedTime::default());
        let add = move |(tally, times, recorded): &mut (Self, _, _), found: &[u64], reader: &_| {
            tally.add(found, &views, reader, times, recorded);
            tally.check()
        };
        for (part, ..) in whole.fold(empty, add).await?.0 {
            self.absorb(part);
        }
        self.check()?;
        self.reached = reader.head().max(self.reached);
        Ok(())
    }

    /// Nothing yet, to be put together in the same ways.
    fn emptied(&self) -> Self {
        Self {
            base: self.base,
            quarters_from: self.quarters_from,
            reached: self.reached,
            events: 0,
            streams: Vec::new(),
            ends: None,
            occurred: None,
            slots: self.slots.as_ref().map(|_| Slots::default()),
            names: self.names.iter().map(|(named, _)| (*named, Vec::new())).collect(),
            split: self.split.as_ref().map(|_| Sparse::default()),
        }
    }

    /// Counts what `other`, a tally of other events that is put together in the same ways, has counted.
    fn absorb(&mut self, other: Self) {
        fn wider<T: Ord + Copy>(one: Option<(T, T)>, other: Option<(T, T)>) -> Option<(T, T)> {
            let (Some(a), Some(b)) = (one, other) else { return one.or(other) };
            Some((a.0.min(b.0), a.1.max(b.1)))
        }
        if self.events == 0 {
            *self = other;
            return;
        }
        self.events += other.events;
        self.ends = wider(self.ends, other.ends);
        self.occurred = wider(self.occurred, other.occurred);
        self.streams.resize(self.streams.len().max(other.streams.len()), 0);
        for (word, more) in self.streams.iter_mut().zip(other.streams) {
            *word |= more;
        }
        if let (Some(slots), Some(more)) = (&mut self.slots, &other.slots) {
            for (time, events) in more.all() {
                slots.add(time, events);
            }
        }
        for ((_, counts), (_, more)) in self.names.iter_mut().zip(other.names) {
            counts.resize(counts.len().max(more.len()), Count::default());
            for (count, more) in counts.iter_mut().zip(more) {
                count.events += more.events;
                count.sample = count.sample.max(more.sample);
            }
        }
        if let (Some(split), Some(more)) = (&mut self.split, other.split) {
            for (key, events) in more {
                *split.entry(key).or_default() += events;
            }
        }
    }

    fn check(&self) -> Result<(), TooManyRows> {
        let slots = self.slots.as_ref().map_or(0, Slots::far);
        let rows = slots.max(self.split.as_ref().map_or(0, HashMap::len));
        if rows > SLOTS_MAX { Err(TooManyRows { rows, max: SLOTS_MAX }) } else { Ok(()) }
    }

    /// Counts these events, which rise and follow those that are counted. A column at a time.
    fn add(
        &mut self,
        found: &[u64],
        views: &Views,
        reader: &Reader,
        times: &mut Vec<i64>,
        recorded: &mut RecordedTime,
    ) {
        let (Some(first), Some(last)) = (found.first(), found.last()) else { return };
        let positions = || found.iter().map(|position| Position::new(*position));
        self.events += found.len() as u64;
        let first = self.ends.map_or(Position::new(*first), |ends| ends.0);
        self.ends = Some((first, Position::new(*last)));
        let mut codes = Vec::with_capacity(found.len());
        views.streams.gather(found, &mut codes);
        for code in &codes {
            let code = usize::try_from(*code).expect("32 bits");
            let (word, bit) = (code / 64, code % 64);
            if word >= self.streams.len() {
                self.streams.resize(word + 1, 0);
            }
            self.streams[word] |= 1 << bit;
        }
        for ((_, counts), view) in self.names.iter_mut().zip(&views.names) {
            view.gather(found, &mut codes);
            for (code, position) in codes.iter().zip(found) {
                let code = usize::try_from(*code).expect("32 bits");
                if code >= counts.len() {
                    counts.resize(code + 1, Count::default());
                }
                counts[code].events += 1;
                counts[code].sample = *position;
            }
        }
        let look = |position| occurred_at(position, reader).seconds();
        views.occurred.gather(found, times, look);
        // Only the ends of these events can be ends of all.
        let ends = (times.iter().min().copied(), times.iter().max().copied());
        for (position, second) in positions().zip(&*times) {
            if Some(*second) == ends.0 || Some(*second) == ends.1 {
                self.stretch(position, *second, views, reader);
            }
        }
        let Some(slots) = &mut self.slots else { return };
        if self.base == TimeBase::Recorded {
            times.clear();
            times.extend(positions().map(|position| recorded.of(position, reader)));
        }
        let quarters_from = self.quarters_from;
        for time in &mut *times {
            if *time >= quarters_from {
                *time -= time.rem_euclid(QUARTER);
            }
        }
        match &mut self.split {
            None => {
                // Events that lie next to each other are of one time, as a rule.
                for run in times.chunk_by(|a, b| a == b) {
                    slots.add(run[0], run.len() as u64);
                }
            }
            Some(split) => {
                // There is one name, and these are its codes.
                for (code, time) in codes.iter().zip(&*times) {
                    *split.entry((*code, *time)).or_default() += 1;
                }
            }
        }
    }

    /// Makes the range of occurred times hold this event's. The record is read where the second leaves it open.
    fn stretch(&mut self, position: Position, second: i64, views: &Views, reader: &Reader) {
        let Some((least, greatest)) = self.occurred else {
            let moment = occurred_at(position, reader);
            self.occurred = Some((moment, moment));
            return;
        };
        let may_be_less = second < least.seconds()
            || second == least.seconds()
                && views.occurred.span_micros(position).is_none_or(|span| span.0 < least.micros());
        let may_be_greater = second > greatest.seconds()
            || second == greatest.seconds()
                && views
                    .occurred
                    .span_micros(position)
                    .is_none_or(|span| span.1 > greatest.micros_up());
        // A block's span is to the microsecond and does not tell which of its nanoseconds come first.
        let same = second == least.seconds() && least.nanos() % 1000 > 0
            || second == greatest.seconds() && greatest.nanos() % 1000 > 0;
        if may_be_less || may_be_greater || same {
            let moment = occurred_at(position, reader);
            self.occurred = Some((least.min(moment), greatest.max(moment)));
        }
    }

    /// Everything up to here is counted.
    pub fn reached(&self) -> Position {
        self.reached
    }

    /// How many events.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// In how many streams.
    pub fn streams(&self) -> u64 {
        self.streams.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// When the earliest and the latest occurred.
    pub fn occurred(&self) -> Option<(Timestamp, Timestamp)> {
        self.occurred
    }

    /// When the first and the last were recorded.
    pub fn recorded(&self, reader: &Reader) -> Option<(Timestamp, Timestamp)> {
        let recorded_at = |position| Some(format::recorded_at(&reader.trace(position)?));
        let (first, last) = self.ends?;
        Some((recorded_at(first)?, recorded_at(last)?))
    }

    /// The counts put together in one of the ways that it was made for: at most `max` rows.
    pub fn rows(&self, by: By, zone: Zone, history: &History, reader: &Reader, max: usize) -> Rows {
        match by {
            By::Time(unit) => self.time_rows(unit, zone, max),
            By::Name(named) => self.name_rows(named, history, reader, max),
        }
    }

    /// By time, in its order: the latest.
    fn time_rows(&self, unit: Unit, zone: Zone, max: usize) -> Rows {
        let buckets = self.buckets(unit, zone);
        let (left_out, told) = buckets.split_at(buckets.len().saturating_sub(max));
        let row = |(bucket, count): &(Bucket, u64)| Row {
            key: zone.key(unit, bucket.start),
            range: Some((bucket.start, bucket.end)),
            count: *count,
        };
        Rows {
            rows: told.iter().map(row).collect(),
            row_count: buckets.len() as u64,
            other_count: left_out.iter().map(|(_, count)| count).sum(),
            without_count: 0,
        }
    }

    /// By name, those with the most events first; of as many those that came first.
    fn name_rows(&self, named: Named, history: &History, reader: &Reader, max: usize) -> Rows {
        let Some((_, counts)) = self.names.iter().find(|(other, _)| *other == named) else {
            return Rows::default();
        };
        let (largest, mut rows) = self.largest(counts, max);
        for code in largest {
            let Count { events, sample } = counts[code];
            let Some(key) = name_at(named, Position::new(sample), history, reader) else {
                continue;
            };
            rows.rows.push(Row { key, range: None, count: events });
        }
        rows.rows.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.key.cmp(&b.key)));
        rows
    }

    /// The codes with the most events, at most `max`, and what is known of the others.
    fn largest(&self, counts: &[Count], max: usize) -> (Vec<usize>, Rows) {
        let mut codes: Vec<usize> =
            (1..counts.len()).filter(|code| counts[*code].events > 0).collect();
        let row_count = codes.len() as u64;
        let order = |code: &usize| (std::cmp::Reverse(counts[*code].events), *code);
        if codes.len() > max {
            codes.select_nth_unstable_by_key(max, order);
            codes.truncate(max);
        }
        codes.sort_unstable_by_key(order);
        let without_count = counts.first().map_or(0, |count| count.events);
        let shown: u64 = codes.iter().map(|code| counts[*code].events).sum();
        let other_count = self.events - without_count - shown;
        (codes, Rows { rows: Vec::new(), row_count, other_count, without_count })
    }

    /// Over time, split by the names with the most events, at most `series_max`: these, and of each its
    /// buckets.
    pub fn series(
        &self,
        unit: Unit,
        zone: Zone,
        history: &History,
        reader: &Reader,
        series_max: usize,
    ) -> (Rows, Vec<Buckets>) {
        let (Some(split), Some((named, counts))) = (&self.split, self.names.first()) else {
            return (Rows::default(), Vec::new());
        };
        let (codes, mut rows) = self.largest(counts, series_max);
        let mut slots: HashMap<usize, Vec<(i64, u64)>> =
            codes.iter().map(|code| (*code, Vec::new())).collect();
        for ((code, time), count) in split {
            let code = usize::try_from(*code).expect("32 bits");
            if let Some(slots) = slots.get_mut(&code) {
                slots.push((*time, *count));
            }
        }
        let mut series: Vec<(Row, Buckets)> = Vec::new();
        for code in codes {
            let Count { events, sample } = counts[code];
            let Some(key) = name_at(*named, Position::new(sample), history, reader) else {
                continue;
            };
            let times = slots.remove(&code).unwrap_or_default();
            series.push((Row { key, range: None, count: events }, buckets(times, unit, zone)));
        }
        series.sort_by(|(a, _), (b, _)| b.count.cmp(&a.count).then_with(|| a.key.cmp(&b.key)));
        let (largest, over_time) = series.into_iter().unzip();
        rows.rows = largest;
        (rows, over_time)
    }

    /// Over time, not split.
    pub fn buckets(&self, unit: Unit, zone: Zone) -> Buckets {
        buckets(self.slots.as_ref().map_or_else(Vec::new, Slots::all), unit, zone)
    }
}

/// In the order of time: each with how many events it has.
pub type Buckets = Vec<(Bucket, u64)>;

fn buckets(mut slots: Vec<(i64, u64)>, unit: Unit, zone: Zone) -> Buckets {
    slots.sort_unstable();
    let mut buckets = Buckets::new();
    let mut walk = zone.walk(unit);
    for (time, count) in slots {
        let bucket = walk.bucket(time);
        match buckets.last_mut() {
            Some((last, sum)) if *last == bucket => *sum += count,
            _ => buckets.push((bucket, count)),
        }
    }
    buckets
}

/// When events were recorded, to the quarter of an hour, of positions that rise.
#[derive(Default)]
struct RecordedTime {
    /// Up to this position.
    until: Position,
    second: i64,
}

impl RecordedTime {
    fn of(&mut self, position: Position, reader: &Reader) -> i64 {
        if position > self.until {
            let record = reader.trace(position).expect("the reader sees it");
            let second = format::recorded_at(&record).seconds();
            // It is to the quarter, but before quarters are counted: none is recorded then.
            self.second = second - second.rem_euclid(QUARTER);
            let next = self.second.saturating_add(QUARTER).saturating_mul(1_000_000);
            self.until = reader.first_recorded_at_or_after(next).previous();
        }
        self.second
    }
}

/// When the event at `position` occurred; of one that was removed since the reader's head was taken, when it was
/// recorded.
fn occurred_at(position: Position, reader: &Reader) -> Timestamp {
    if let Some(record) = reader.record(position) {
        return format::occurred_at(format::message(&record));
    }
    let trace = reader.trace(position).expect("the reader sees it");
    format::recorded_at(&trace)
}

/// The name that the event at `position` has.
fn name_at(named: Named, position: Position, history: &History, reader: &Reader) -> Option<String> {
    let record = reader.record(position)?;
    let mut found = None;
    format::for_each_indexed(format::message(&record), |indexed| {
        found = match (named, indexed) {
            (Named::Type, Indexed::Type(name)) | (Named::Stream, Indexed::Stream(name)) => {
                Some(name.to_owned())
            }
            (Named::Category, Indexed::Stream(stream)) => Some(name::category(stream).to_owned()),
            (Named::Metadata(index), Indexed::Metadata(key, value)) => {
                (history.metadata[index].key.as_str() == key).then(|| value.to_owned())
            }
            _ => None,
        };
        found.is_none()
    });
    found
}
