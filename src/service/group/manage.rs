//! Makes, changes, moves and ends groups, and tells of them.

use std::{hash::RandomState, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Group, GroupError, GroupService,
    consumer::ConsumerFacts,
    driver::look_ahead,
    journal::{Begin, Change, Created, Updated},
    key_at,
    settings::Settings,
    window::{Checkpoint, Counts, Parked, Window},
};
use crate::{
    core::{
        append::Proposal,
        clock::Timestamp,
        filter::{Filter, bound},
        history::History,
        name::Name,
        position::Position,
    },
    service::{
        analytics::tally::TimeBase,
        replay::first_at,
        subscription::{self, Caller, Kind, Row, time_behind},
    },
};

/// What is known of a group.
#[derive(Debug, Clone)]
pub struct GroupFacts {
    pub name: Name,
    pub settings: Settings,
    pub filter: Filter,
    pub created_at: Timestamp,
    pub start_after: Position,
    pub position: Position,
    /// At most so many events match and are neither settled nor parked.
    pub events_behind: u64,
    /// How long ago the first event after the position was recorded; `None` where there is none.
    pub time_behind: Option<Duration>,
    pub counts: Counts,
    pub last_error: Option<(Arc<str>, Timestamp)>,
}

/// Where a group is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    After(Position),
    /// Past exactly this event.
    Past(Position),
}

/// Some parked events.
#[derive(Debug, Clone)]
pub struct ParkedPage {
    /// With their records, where they can be seen.
    pub parked: Vec<(Position, Parked, Option<Bytes>)>,
    /// How many there are in all.
    pub count: usize,
    /// There are more after the last one.
    pub more: bool,
}

/// Which parked events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    These(Vec<Position>),
    /// The first so many.
    First(usize),
}

impl GroupService {
    /// Makes a group, unless there is the same already.
    pub async fn create(
        &self,
        name: Name,
        begin: Begin,
        filter: Filter,
        settings: Settings,
    ) -> Result<GroupFacts, GroupError> {
        let shared = &self.shared;
        let creating = Arc::clone(&shared.creating).lock_owned().await;
        if let Ok(group) = self.group(&name) {
            let Created { begin: before, filter: filters, settings: set, .. } = &group.made;
            return if (*before, filters, *set) == (begin, &filter, settings) {
                Ok(self.facts(&group))
            } else {
                Err(GroupError::Exists { group: name })
            };
        }
        let limit = shared.groups_max;
        if shared.groups().len() >= limit {
            return Err(GroupError::TooManyGroups { limit });
        }
        let after = match begin {
            Begin::After(after) => self.check_position(Position::new(after))?,
            Begin::Now => shared.history.log.watermark().get(),
            Begin::Time(time) => {
                first_at(&shared.history, time, TimeBase::Occurred).await.previous()
            }
        };
        let made = Created { begin, after: after.get(), filter: filter.clone(), settings };
        let proposal = Change::Created(&made).proposal(&name);
        self.check_size(&proposal)?;
        // Whoever calls may go meanwhile: the group is there once it is written.
        let service = self.clone();
        let making = tokio::spawn(async move {
            let committed = service.shared.commands.commit(proposal).await?;
            let created_at = committed.recorded_at.expect("something was written");
            let window = Window::new(settings, after);
            let created = committed.last;
            let hasher = RandomState::new();
            let group = Group::with_window(name, created, created_at, made, filter, window, hasher);
            service.shared.run(Arc::clone(&group));
            tracing::info!(group = %group.name, %after, "group made");
            drop(creating);
            Ok(service.facts(&group))
        });
        making.await.unwrap_or(Err(GroupError::ShuttingDown))
    }

    /// A group can go on after it.
    fn check_position(&self, after: Position) -> Result<Position, GroupError> {
        let log = &self.shared.history.log;
        let (head, first) = (log.watermark().get(), log.first());
        if after > head {
            return Err(GroupError::BeyondHead { after, head });
        }
        if after > Position::ZERO && after.next() < first {
            return Err(GroupError::NotKept { after, first });
        }
        Ok(after)
    }

    fn check_size(&self, proposal: &Proposal) -> Result<(), GroupError> {
        let max = self.shared.event_size_bytes_max;
        let events = proposal.writes.iter().flat_map(|write| write.events.iter());
        match events.map(|event| event.size_max()).max() {
            Some(size) if size > max => Err(GroupError::TooLarge { size, max }),
            _ => Ok(()),
        }
    }

    /// Gives a group other settings, other filters, or both.
    pub async fn update(
        &self,
        name: &Name,
        settings: Option<Settings>,
        filter: Option<Filter>,
    ) -> Result<GroupFacts, GroupError> {
        self.alone(name, move |service, group| async move {
            let shared = &service.shared;
            let before = {
                let state = group.state();
                Updated { filter: state.filter.clone(), settings: *state.window.settings() }
            };
            let settings = settings.unwrap_or(before.settings);
            let filter = filter.unwrap_or_else(|| before.filter.clone());
            let updated = Updated { filter, settings };
            if updated == before {
                return Ok(service.facts(&group));
            }
            service.check_size(&Change::Updated(&updated).proposal(&group.name))?;
            group.commit(shared, &Change::Updated(&updated)).await?;
            let reader = shared.history.log.reader();
            let key = |position| key_at(position, &reader, settings.strategy, &group.hasher);
            {
                let mut state = group.state();
                state.window.change(settings, key, Instant::now());
                state.filter = updated.filter;
                state.interest = None;
                state.generation += 1;
            }
            group.changed.notify_one();
            Ok(service.facts(&group))
        })
        .await
    }

    /// Ends a group.
    pub async fn delete(&self, name: &Name) -> Result<(), GroupError> {
        let group = self.group(name)?;
        let service = self.clone();
        let ending = tokio::spawn(async move {
            let shared = &service.shared;
            // Nobody makes it anew before it is gone.
            let _creating = shared.creating.lock().await;
            let _writing = group.writing.lock().await;
            if group.ended.is_cancelled() {
                return Err(group.unknown());
            }
            group.commit(shared, &Change::Deleted).await?;
            shared.groups().remove(&group.name);
            group.ended.cancel();
            tracing::info!(group = %group.name, "group deleted");
            Ok(())
        });
        ending.await.unwrap_or(Err(GroupError::ShuttingDown))
    }

    /// One group and its consumers, in the order in which they came.
    pub fn get(&self, name: &Name) -> Result<(GroupFacts, Vec<ConsumerFacts>), GroupError> {
        let group = self.group(name)?;
        let consumers = group.state().consumers();
        Ok((self.facts(&group), consumers))
    }

    /// At most so many groups after `after`, in the order of their names, and whether there are more.
    pub fn list(&self, after: &str, max: usize) -> (Vec<GroupFacts>, bool) {
        let groups: Vec<_> = {
            let groups = self.shared.groups();
            let behind = groups.values().filter(|group| group.name.as_str() > after);
            behind.take(max + 1).cloned().collect()
        };
        let more = groups.len() > max;
        (groups.iter().take(max).map(|group| self.facts(group)).collect(), more)
    }

    /// Moves a group that is at `expected`. Where it is then.
    pub async fn set_position(
        &self,
        name: &Name,
        expected: Position,
        target: Target,
    ) -> Result<Position, GroupError> {
        self.alone(name, move |service, group| async move {
            service.move_group(&group, expected, target).await
        })
        .await
    }

    async fn move_group(
        &self,
        group: &Group,
        expected: Position,
        target: Target,
    ) -> Result<Position, GroupError> {
        let shared = &self.shared;
        let wrong =
            |actual| GroupError::WrongPosition { group: group.name.clone(), expected, actual };
        {
            let state = group.state();
            if !state.is_at(expected) {
                return Err(wrong(state.position()));
            }
        }
        match target {
            Target::After(after) => {
                self.check_position(after)?;
                let checkpoint =
                    Checkpoint { position: after, settled_to: after, unsettled: Vec::new() };
                group.commit(shared, &Change::Checkpoint(group.created, &checkpoint)).await?;
                let moved = {
                    let mut state = group.state();
                    let moved = state.is_at(expected);
                    if moved {
                        state.window.move_to(after, Instant::now());
                        state.generation += 1;
                    } else {
                        // Something was settled while that was written: this note takes it back.
                        state.window.not_noted();
                    }
                    moved.then_some(()).ok_or_else(|| wrong(state.position()))
                };
                if moved.is_err() {
                    group.note(shared).await?;
                }
                moved?;
            }
            Target::Past(position) => {
                // Nobody has looked while there was no consumer.
                while group.state().window.read_to() < position && look_ahead(shared, group, true) {
                    tokio::task::yield_now().await;
                }
                if !group.state().window.skip(position, Instant::now()) {
                    let group = group.name.clone();
                    return Err(GroupError::NotUnsettled { group, position });
                }
                group.note(shared).await?;
            }
        }
        group.changed.notify_one();
        let position = group.state().position();
        tracing::info!(group = %group.name, %expected, %position, "group moved");
        Ok(position)
    }

    /// At most so many parked events after a position.
    pub fn list_parked(
        &self,
        name: &Name,
        after: Position,
        max: usize,
    ) -> Result<ParkedPage, GroupError> {
        let group = self.group(name)?;
        let history = &self.shared.history;
        let state = group.state();
        let reader = history.log.reader();
        let mut visibility = history.visibility(&reader, &*self.shared.clock);
        let mut parked = state.window.list_parked(after);
        let page = parked.by_ref().take(max).map(|(position, parked)| {
            let hidden = visibility.as_mut().is_some_and(|it| it.hides(position));
            let record = reader.record(position).filter(|_| !hidden);
            let record = record.map(|record| Bytes::copy_from_slice(&record));
            (position, parked.clone(), record)
        });
        let page = page.collect();
        let more = parked.next().is_some();
        Ok(ParkedPage { parked: page, count: state.window.parked_count(), more })
    }

    /// Delivers parked events again. How many come; others wait for earlier ones of their keys.
    pub async fn replay_parked(&self, name: &Name, which: Which) -> Result<usize, GroupError> {
        self.alone(name, move |service, group| async move {
            let positions = {
                let state = group.state();
                let window = &state.window;
                let waits = |position: &Position| window.is_parked(*position);
                match which {
                    Which::These(positions) => positions.into_iter().filter(waits).collect(),
                    Which::First(max) => {
                        let parked = window.list_parked(Position::ZERO).map(|(at, _)| at);
                        parked.filter(waits).take(max).collect::<Vec<_>>()
                    }
                }
            };
            if positions.is_empty() {
                return Ok(0);
            }
            group.commit(&service.shared, &Change::Replayed(&positions)).await?;
            let count = group.state().window.replay(&positions, Instant::now());
            group.changed.notify_one();
            Ok(count)
        })
        .await
    }

    /// Forgets parked events. How many.
    pub async fn drop_parked(&self, name: &Name, which: Which) -> Result<usize, GroupError> {
        self.alone(name, move |service, group| async move {
            let positions = {
                let state = group.state();
                match which {
                    Which::These(positions) => positions,
                    Which::First(max) => {
                        let parked = state.window.list_parked(Position::ZERO);
                        parked.map(|(at, _)| at).take(max).collect::<Vec<_>>()
                    }
                }
            };
            let count = group.state().window.drop_parked(&positions, Instant::now());
            group.changed.notify_one();
            group.note_unparked(&service.shared).await?;
            Ok(count)
        })
        .await
    }

    /// Does `work` as the only one who writes of a group: to its end, also if whoever calls goes meanwhile.
    async fn alone<T, W>(
        &self,
        name: &Name,
        work: impl FnOnce(Self, Arc<Group>) -> W + Send + 'static,
    ) -> Result<T, GroupError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, GroupError>> + Send,
    {
        let (service, group) = (self.clone(), self.group(name)?);
        let working = tokio::spawn(async move {
            let _writing = group.writing.lock().await;
            if group.ended.is_cancelled() {
                return Err(group.unknown());
            }
            work(service, Arc::clone(&group)).await
        });
        working.await.unwrap_or(Err(GroupError::ShuttingDown))
    }

    fn facts(&self, group: &Group) -> GroupFacts {
        let shared = &self.shared;
        let history = &shared.history;
        let reader = history.log.reader();
        let state = group.state();
        let (window, position) = (&state.window, state.position());
        let unread = position.max(window.read_to());
        let mut unread_max = bound::matches_max(&state.filter, history, &reader, unread);
        if state.filter.is_everything() {
            unread_max -= server_events(history, unread, reader.head()).min(unread_max);
        }
        let events_behind = window.open() as u64 + unread_max;
        let now = shared.clock.now_micros();
        let time_behind = (events_behind > 0).then(|| time_behind(&reader, position, now));
        GroupFacts {
            name: group.name.clone(),
            settings: *window.settings(),
            filter: state.filter.clone(),
            created_at: group.created_at,
            start_after: Position::new(group.made.after),
            position,
            events_behind,
            time_behind: time_behind.flatten(),
            counts: window.counts(),
            last_error: state.last_error.clone(),
        }
    }

    /// The rows of all groups, in the order of their names.
    pub fn rows(&self) -> Vec<Row> {
        let groups: Vec<_> = self.shared.groups().values().cloned().collect();
        groups.iter().map(|group| self.row(group)).collect()
    }

    fn row(&self, group: &Group) -> Row {
        let facts = self.facts(group);
        let (events, events_per_second) = {
            let sent = &mut group.state().sent;
            (sent.events, sent.rate(Instant::now()))
        };
        let Counts { in_flight, parked, consumers, .. } = facts.counts;
        let last_error = facts.last_error.map(|(error, at)| (error.to_string(), at));
        Row {
            id: facts.name.to_string(),
            kind: Kind::Group,
            caller: Caller::default(),
            filter: Some(Arc::new(facts.filter)),
            start_after: facts.start_after,
            position: facts.position,
            events_behind: facts.events_behind,
            time_behind: facts.time_behind,
            events,
            events_per_second,
            live: facts.events_behind == 0,
            opened_at: facts.created_at,
            group: Some(subscription::GroupFacts {
                in_flight: in_flight as u64,
                parked: parked as u64,
                consumers: consumers as u64,
                last_error,
            }),
        }
    }
}

/// How many events between two positions are the server's own.
fn server_events(history: &History, after: Position, to: Position) -> u64 {
    let count = |category: &str| {
        let list = history.categories.get(category);
        list.map_or(0, |list| list.count(to) - list.count(after.min(to)))
    };
    SERVER_CATEGORIES.iter().map(|category| count(category)).sum()
}

/// What the names of the server's own streams begin with.
const SERVER_CATEGORIES: [&str; 4] = ["$group", "$checkpoint", "$stream", "$category"];
