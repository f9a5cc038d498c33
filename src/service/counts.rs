//! How many visible events there are: of all, of a filter, of a category, of a type.
//!
//! Where nothing is hidden a count is read off the indexes. Otherwise streams are counted by their floors
//! and the rest event by event, in steps between which other tasks get their turn.

use std::sync::Arc;

use super::matches;
use crate::core::{
    filter::Filter,
    history::History,
    index::{
        map::{Entry, IndexMap},
        positions::Positions,
    },
    log::Reader,
    name::{self, Name},
    position::Position,
    retention::Visibility,
};

/// So many events or streams are counted before other tasks get their turn.
const COUNTED_BETWEEN_YIELDS: usize = 4096;

/// How many events that `reader` sees `filter` matches.
pub async fn of_filter(
    history: &Arc<History>,
    filter: &Filter,
    reader: &Reader,
    visibility: Option<Visibility>,
) -> u64 {
    let (head, before) = (reader.head(), reader.first().previous());
    let mut visibility = visibility.filter(|it| !it.hides_dropped_only());
    if let Some(visibility) = &mut visibility {
        if filter.is_everything() {
            return of_streams(history, "", |_| true, visibility).await.0;
        }
        if let Some(count) = visible_by_index(history, filter, visibility).await {
            return count;
        }
    } else {
        if filter.is_everything() {
            return head.get() - before.get();
        }
        if let Some(count) = by_index(history, filter, (before, head)) {
            return count;
        }
    }
    matches::count(history, filter, reader, visibility).await.0
}

/// The index that knows all of a filter that names values of one kind only, no event of which has two, and
/// the values.
fn one_index<'a>(
    history: &'a History,
    filter: &'a Filter,
) -> Option<(&'a IndexMap, Vec<&'a Name>)> {
    let [clause] = &filter.clauses[..] else { return None };
    let (map, names) = [
        (&history.streams, &clause.streams),
        (&history.categories, &clause.categories),
        (&history.types, &clause.types),
    ]
    .into_iter()
    .find(|(_, names)| !names.is_empty() && names.len() == clause.size())?;
    let mut names: Vec<_> = names.iter().collect();
    names.sort();
    names.dedup();
    Some((map, names))
}

/// Of the events after the first position, up to the second.
fn by_index(history: &History, filter: &Filter, range: (Position, Position)) -> Option<u64> {
    let (map, names) = one_index(history, filter)?;
    let count = |name: &&Name| {
        let positions = map.get(name.as_str())?;
        Some(positions.count(range.1) - positions.count(range.0))
    };
    Some(names.iter().filter_map(count).sum())
}

async fn visible_by_index(
    history: &History,
    filter: &Filter,
    visibility: &mut Visibility,
) -> Option<u64> {
    let (map, names) = one_index(history, filter)?;
    let mut count = 0;
    for name in names {
        if std::ptr::eq(map, &raw const history.streams) {
            count += of_stream(history, name.as_str(), visibility).0;
        } else if std::ptr::eq(map, &raw const history.categories) {
            count += of_category(history, name.as_str(), visibility).await.0;
        } else if let Some(positions) = map.get(name.as_str()) {
            count += of_positions(&positions, visibility).await.0;
        }
    }
    Some(count)
}

/// How many visible events a stream has, and where the last one is.
fn of_stream(history: &History, stream: &str, visibility: &mut Visibility) -> (u64, Position) {
    let Some(positions) = history.streams.get(stream) else { return (0, Position::ZERO) };
    let version = positions.count(visibility.reader().head());
    let visible = version.saturating_sub(visibility.floor(stream).get());
    let last = if visible > 0 { positions.get(version - 1) } else { None };
    (visible, last.unwrap_or_default())
}

/// The same of a category, stream by stream.
pub async fn of_category(
    history: &History,
    category: &str,
    visibility: &mut Visibility,
) -> (u64, Position) {
    of_streams(history, category, |stream| name::category(stream) == category, visibility).await
}

/// The same of the streams whose names begin with `prefix` and that are `wanted`.
async fn of_streams(
    history: &History,
    prefix: &str,
    wanted: impl Fn(&str) -> bool,
    visibility: &mut Visibility,
) -> (u64, Position) {
    let head = visibility.reader().head();
    let (mut count, mut last) = (0, Position::ZERO);
    let mut after = String::new();
    loop {
        let streams = history.streams.list(prefix, &after, head);
        let some: Vec<Entry> = streams.take(COUNTED_BETWEEN_YIELDS).collect();
        for entry in some.iter().filter(|entry| wanted(entry.name.as_str())) {
            let of_stream = of_stream(history, entry.name.as_str(), visibility);
            count += of_stream.0;
            last = last.max(of_stream.1);
        }
        match some.last() {
            Some(entry) if some.len() == COUNTED_BETWEEN_YIELDS => after = entry.name.to_string(),
            _ => return (count, last),
        }
        tokio::task::yield_now().await;
    }
}

/// The same of the events at `positions`, one by one.
pub async fn of_positions(positions: &Positions, visibility: &mut Visibility) -> (u64, Position) {
    let (mut count, mut last) = (0, Position::ZERO);
    let before = positions.count(visibility.reader().first().previous());
    for index in before..positions.count(visibility.reader().head()) {
        if index % COUNTED_BETWEEN_YIELDS as u64 == 0 {
            tokio::task::yield_now().await;
        }
        // The oldest may be forgotten.
        let Some(position) = positions.get(index) else { continue };
        if !visibility.hides(position) {
            count += 1;
            last = position;
        }
    }
    (count, last)
}
