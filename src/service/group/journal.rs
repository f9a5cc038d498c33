//! What a group is, as events of the log: so it is as durable as the log, and can be read by anyone.
//!
//! ```text
//! $group-<name>        $group-created   $group-updated   $group-parked   $parked-replayed   $parked-settled   …
//! $checkpoint-<name>   $group-checkpoint   $group-checkpoint   …     the last one counts
//! ```
//!
//! Checkpoints have a stream of their own: a start reads the last one of each group, and of the other stream all.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{
    settings::Settings,
    window::{Checkpoint, Parked, ToPark},
};
use crate::core::{
    append::{Proposal, Write, Writes},
    clock::Timestamp,
    event::NewEvent,
    filter::Filter,
    history::History,
    log::{
        Reader,
        format::{Body, Data, EventView},
    },
    name::{self, Name},
    position::Position,
};

const GROUP_PREFIX: &str = "$group-";
const CHECKPOINT_PREFIX: &str = "$checkpoint-";

const CREATED: &str = "$group-created";
const UPDATED: &str = "$group-updated";
const DELETED: &str = "$group-deleted";
const PARKED: &str = "$group-parked";
const REPLAYED: &str = "$parked-replayed";
const SETTLED: &str = "$parked-settled";
const CHECKPOINT: &str = "$group-checkpoint";

/// What is never delivered to a group: else what it writes would be work for it, for ever.
pub fn is_of_a_group(stream: &str) -> bool {
    stream.starts_with(GROUP_PREFIX) || stream.starts_with(CHECKPOINT_PREFIX)
}

/// Where a group was told to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Begin {
    After(u64),
    Now,
    /// With the first event that occurred then or later.
    Time(Timestamp),
}

/// A group as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    pub begin: Begin,
    /// The position that comes to.
    pub after: u64,
    pub filter: Filter,
    pub settings: Settings,
}

/// A group as it is from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Updated {
    pub filter: Filter,
    pub settings: Settings,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ParkedNote {
    position: u64,
    reason: Arc<str>,
    deliveries: u32,
    held: bool,
}

#[derive(Serialize, Deserialize)]
struct Positions {
    positions: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CheckpointNote {
    /// The position of the event that made the group: one that was made anew begins anew.
    created: u64,
    position: u64,
    settled_to: u64,
    unsettled: Vec<(u64, u32)>,
}

/// A change of a group, as it is written.
pub enum Change<'a> {
    Created(&'a Created),
    Updated(&'a Updated),
    Deleted,
    /// With where the group is then: what is parked is behind no checkpoint, or it would be looked at anew.
    Parked(&'a [ToPark], Position, &'a Checkpoint),
    Replayed(&'a [Position]),
    Settled(&'a [Position]),
    /// Of the group that was made at this position.
    Checkpoint(Position, &'a Checkpoint),
}

impl Change<'_> {
    /// The commit that makes it, for the group of that name.
    pub fn proposal(&self, group: &Name) -> Proposal {
        let numbers = |positions: &[Position]| Positions { positions: numbers(positions) };
        let (prefix, events) = match self {
            Self::Created(created) => (GROUP_PREFIX, vec![(CREATED, json(created))]),
            Self::Updated(updated) => (GROUP_PREFIX, vec![(UPDATED, json(updated))]),
            Self::Deleted => (GROUP_PREFIX, vec![(DELETED, String::new())]),
            Self::Parked(parked, ..) => {
                let note = |ToPark { position, reason, deliveries, held }: &ToPark| ParkedNote {
                    position: position.get(),
                    reason: Arc::clone(reason),
                    deliveries: *deliveries,
                    held: *held,
                };
                (GROUP_PREFIX, parked.iter().map(|it| (PARKED, json(&note(it)))).collect())
            }
            Self::Replayed(positions) => {
                (GROUP_PREFIX, vec![(REPLAYED, json(&numbers(positions)))])
            }
            Self::Settled(positions) => (GROUP_PREFIX, vec![(SETTLED, json(&numbers(positions)))]),
            Self::Checkpoint(created, checkpoint) => {
                (CHECKPOINT_PREFIX, vec![(CHECKPOINT, note(*created, checkpoint))])
            }
        };
        let mut writes = Writes::from([write(prefix, group, events)]);
        if let Self::Parked(_, created, checkpoint) = self {
            let note = note(*created, checkpoint);
            writes.push(write(CHECKPOINT_PREFIX, group, vec![(CHECKPOINT, note)]));
        }
        Proposal { writes, ..Proposal::default() }
    }
}

/// The events of these types and data, in one of a group's streams.
fn write(prefix: &str, group: &Name, events: Vec<(&str, String)>) -> Write {
    let stream = Name::any(&[prefix, group.as_str()].concat());
    let event = |(event_type, data): (&str, String)| {
        let data = if data.is_empty() { Data::None } else { Data::Text(&data) };
        let body = Body { data, ..Body::default() };
        NewEvent::new(Uuid::now_v7(), &stream, &Name::any(event_type), &[], None, body)
    };
    let events = events.into_iter().map(event).collect();
    Write { stream, events, expected: None }
}

fn note(created: Position, checkpoint: &Checkpoint) -> String {
    let Checkpoint { position, settled_to, unsettled } = checkpoint;
    json(&CheckpointNote {
        created: created.get(),
        position: position.get(),
        settled_to: settled_to.get(),
        unsettled: unsettled.iter().map(|(at, times)| (at.get(), *times)).collect(),
    })
}

fn numbers(positions: &[Position]) -> Vec<u64> {
    positions.iter().map(|position| position.get()).collect()
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names and numbers are JSON")
}

/// A group as the log tells of it.
#[derive(Debug)]
pub struct Recorded {
    pub name: Name,
    /// The position of the event that made it.
    pub created: Position,
    pub created_at: Timestamp,
    pub made: Created,
    /// By now.
    pub filter: Filter,
    pub settings: Settings,
    pub checkpoint: Checkpoint,
    /// Without keys.
    pub parked: BTreeMap<Position, Parked>,
}

/// The groups that the log tells of, in the order of their names. An event that cannot be read is an error: its
/// position.
pub fn read(history: &History) -> Result<Vec<Recorded>, Position> {
    let reader = history.log.reader();
    let mut groups = BTreeMap::new();
    let list = history.categories.get(name::category(GROUP_PREFIX));
    let positions = list.into_iter().flat_map(|list| list.up_to(reader.head()).collect::<Vec<_>>());
    for position in positions {
        let position = Position::new(position);
        let Some(record) = reader.record(position) else { continue };
        fold(&mut groups, &record.event()).ok_or(position)?;
    }
    let mut groups: Vec<Recorded> = groups.into_values().collect();
    for group in &mut groups {
        if let Some(checkpoint) = last_checkpoint(history, &reader, group)? {
            group.checkpoint = checkpoint;
        }
    }
    Ok(groups)
}

/// `None`: it cannot be read.
fn fold(groups: &mut BTreeMap<Name, Recorded>, event: &EventView<'_>) -> Option<()> {
    let Some(name) = event.body.stream.strip_prefix(GROUP_PREFIX) else { return Some(()) };
    let (name, at) = (Name::any(name), event.stamp.recorded_at);
    if event.body.event_type == CREATED {
        let made: Created = parse(event)?;
        let (filter, settings) = (made.filter.clone(), made.settings);
        let after = Position::new(made.after);
        let group = Recorded {
            name: name.clone(),
            created: event.stamp.position,
            created_at: at,
            made,
            filter,
            settings,
            checkpoint: Checkpoint { position: after, settled_to: after, unsettled: Vec::new() },
            parked: BTreeMap::new(),
        };
        groups.insert(name, group);
        return Some(());
    }
    // What is left of a group that is gone.
    let Some(group) = groups.get_mut(&name) else { return Some(()) };
    match event.body.event_type {
        UPDATED => {
            let Updated { filter, settings } = parse(event)?;
            (group.filter, group.settings) = (filter, settings);
        }
        DELETED => {
            groups.remove(&name);
        }
        PARKED => {
            let ParkedNote { position, reason, deliveries, held } = parse(event)?;
            let parked = Parked { reason, deliveries, at, held, replaying: false, key: None };
            group.parked.insert(Position::new(position), parked);
        }
        REPLAYED => {
            let Positions { positions } = parse(event)?;
            for position in positions {
                if let Some(parked) = group.parked.get_mut(&Position::new(position)) {
                    parked.replaying = true;
                }
            }
        }
        SETTLED => {
            let Positions { positions } = parse(event)?;
            for position in positions {
                group.parked.remove(&Position::new(position));
            }
        }
        // Of a later version.
        _ => {}
    }
    Some(())
}

fn last_checkpoint(
    history: &History,
    reader: &Reader,
    group: &Recorded,
) -> Result<Option<Checkpoint>, Position> {
    let stream = [CHECKPOINT_PREFIX, group.name.as_str()].concat();
    let Some(positions) = history.streams.get(&stream) else { return Ok(None) };
    let count = positions.count(reader.head());
    let Some(last) = count.checked_sub(1).and_then(|last| positions.get(last)) else {
        return Ok(None);
    };
    let Some(record) = reader.record(last) else { return Ok(None) };
    let note: CheckpointNote = parse(&record.event()).ok_or(last)?;
    let unsettled = note.unsettled.into_iter().map(|(at, times)| (Position::new(at), times));
    let checkpoint = Checkpoint {
        position: Position::new(note.position),
        settled_to: Position::new(note.settled_to),
        unsettled: unsettled.collect(),
    };
    Ok((note.created == group.created.get()).then_some(checkpoint))
}

fn parse<T: DeserializeOwned>(event: &EventView<'_>) -> Option<T> {
    let Data::Text(text) = event.body.data else { return None };
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::filter::{
        Clause, MetadataMatch, TimeRange,
        json::{JsonMatch, Operator, Scalar},
        text::TextMatch,
    };

    #[test]
    fn a_group_is_read_as_it_was_written() {
        let names = |text: &str| vec![Name::any(text)];
        let moment = Timestamp::new(-62_135_596_800, 999_999_999);
        let json = |value| {
            JsonMatch::new("$.a[0]['b c']..d", Operator::LessOrEqual, value).expect("a path")
        };
        let clause = Clause {
            streams: names("a\"-1"),
            stream_prefixes: names("b"),
            categories: names("c"),
            types: names("d"),
            tags: names("e"),
            tags_all: names("f"),
            correlation_ids: names("g"),
            causation_ids: names("h"),
            metadata: vec![MetadataMatch { key: Name::any("i"), values: vec![String::new()] }],
            occurred: TimeRange { from: moment, to: None },
            recorded: TimeRange { from: None, to: moment },
            text: TextMatch::new(vec!["ä+".to_owned()]).ok(),
            json: vec![
                json(Scalar::Null),
                json(Scalar::Bool(true)),
                // No JSON reader is bound to give the same number back.
                json(Scalar::Number(0.1 + 0.2)),
                json(Scalar::Number(f64::MIN_POSITIVE)),
                json(Scalar::Text("\u{0}".to_owned())),
            ],
        };
        let filter = Filter { clauses: vec![clause, Clause::default()] };
        for begin in [Begin::After(7), Begin::Now, Begin::Time(moment.expect("year 1"))] {
            let (filter, settings) = (filter.clone(), Settings::default());
            let created = Created { begin, after: 7, filter, settings };
            let read: Created = serde_json::from_str(&super::json(&created)).expect("it is JSON");
            assert_eq!(read, created);
        }
    }
}
