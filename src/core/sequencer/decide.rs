//! What becomes of a proposal: a repeat, a refusal, or what there is to write. Nothing is written here.

use std::cell::LazyCell;

use uuid::Uuid;

use super::{Sequencer, version};
use crate::core::{
    append::{
        AppendError, BREAKING_POSITIONS_MAX, Committed, Condition, Proposal, Writes, Written,
    },
    event::NewEventView,
    filter::plan,
    index::ids::Place,
    log::{format, segment::Record},
    name::Name,
    position::{Position, Version},
    retention::Gone,
};

/// A refusal, or what there is to write.
pub(super) enum Decision {
    Answer(Committed),
    Write(Writes<Written>),
}

impl Sequencer {
    /// Idempotency, tombstones, expected versions, conditions, in this order. Writes nothing.
    pub(super) fn decide(
        &mut self,
        proposal: &Proposal,
        places: &[Place],
        now_micros: i64,
    ) -> Result<Decision, AppendError> {
        if let Some(answer) = self.repeat(proposal, places)? {
            return Ok(Decision::Answer(answer));
        }
        let mut writes = Writes::with_capacity(proposal.writes.len());
        for write in &proposal.writes {
            let actual = version(&self.history, &write.stream, &mut self.permit);
            let gone = self.history.retention.gone(write.stream.as_str(), actual, self.head);
            if gone == Some(Gone::Tombstoned) && !write.events.is_empty() {
                let (stream, version) = (write.stream.clone(), actual);
                return Err(AppendError::Tombstoned { stream, version });
            }
            match write.expected {
                Some(expected) if expected != actual => {
                    let stream = write.stream.clone();
                    return Err(AppendError::WrongExpectedVersion { stream, expected, actual });
                }
                _ => {}
            }
            let events = write.events.len() as u64;
            let first = if events == 0 { Version::ZERO } else { actual.next() };
            writes.push(Written { first, last: actual.plus(events) });
        }
        for (index, condition) in proposal.conditions.iter().enumerate() {
            self.check(index, condition, now_micros)?;
        }
        let changes = match &proposal.setting {
            Some(setting) => self.history.retention.decide(setting, &self.history, self.head)?,
            None => true,
        };
        let nothing_to_write =
            !changes || proposal.writes.iter().all(|write| write.events.is_empty());
        if proposal.validate_only || nothing_to_write {
            return Ok(Decision::Answer(Committed {
                writes,
                first: Position::ZERO,
                last: Position::ZERO,
                recorded_at: None,
                duplicate: false,
            }));
        }
        // A setting is how room is made.
        if proposal.setting.is_none() {
            self.check_room(proposal)?;
        }
        Ok(Decision::Write(writes))
    }

    /// The first answer again, if all events of the proposal are in their streams already, in their
    /// order; `None` if none is anywhere.
    fn repeat(
        &mut self,
        proposal: &Proposal,
        places: &[Place],
    ) -> Result<Option<Committed>, AppendError> {
        // Of nearly all proposals no id is known, and nothing is read.
        let (log, head) = (&self.log, self.head);
        let reader = LazyCell::new(|| log.reader(head));
        // Also of a removed event its id is left: a repeat is a repeat for ever.
        let find = |(event, place): (NewEventView<'_>, &Place)| {
            let has_id = |record: Record<'_>| format::has_id(&record, event.id);
            self.ids.find(place, |position| reader.trace(position).is_some_and(has_id))
        };
        let events = proposal.writes.iter().flat_map(|write| write.events.iter());
        let mut events = events.zip(places);
        let Some((known, at)) = events.find_map(|event| Some((event.0, find(event)?))) else {
            return Ok(None);
        };
        let mut places = places.iter();
        let conflict = |id: &Uuid, position| {
            let record = reader.trace(position).expect("it was found");
            let stream = record.event().body.stream;
            AppendError::EventIdConflict {
                id: *id,
                stream: Name::new(stream, usize::MAX).expect("it was one when it was written"),
                position,
            }
        };
        let (mut first, mut last) = (Position::MAX, Position::ZERO);
        let mut writes = Writes::with_capacity(proposal.writes.len());
        for write in &proposal.writes {
            let mut written = Written { first: Version::ZERO, last: Version::ZERO };
            for event in write.events.iter() {
                // Where one is unknown the others make the conflict.
                let place = places.next().expect("each event has one");
                let position = find((event, place)).ok_or_else(|| conflict(known.id, at))?;
                let record = reader.trace(position).expect("it was found");
                let recorded = record.event();
                let version = recorded.stamp.version;
                if recorded.body.stream != write.stream.as_str() || version <= written.last {
                    return Err(conflict(event.id, position));
                }
                if written.first == Version::ZERO {
                    written.first = version;
                }
                written.last = version;
                (first, last) = (first.min(position), last.max(position));
            }
            if write.events.is_empty() {
                written.last = version(&self.history, &write.stream, &mut self.permit);
            }
            writes.push(written);
        }
        let recorded_at = reader.trace(last).map(|record| format::recorded_at(&record));
        Ok(Some(Committed { writes, first, last, recorded_at, duplicate: true }))
    }

    fn check(
        &self,
        index: usize,
        condition: &Condition,
        now_micros: i64,
    ) -> Result<(), AppendError> {
        // What the caller has looked at already is not looked at again, unless its clock was ahead: what
        // was hidden then may not be now.
        let looked = condition.checked_at_micros <= now_micros;
        let checked = if looked { condition.checked } else { Position::ZERO };
        let dropped = self.log.log().first().previous();
        let after = condition.after.max(checked).max(dropped);
        let (history, filter) = (&self.history, &condition.filter);
        let reader = self.log.reader(self.head);
        let mut visibility = (!history.retention.is_empty(self.head))
            .then(|| history.retention.visibility(history, reader.clone(), now_micros));
        // A budget would have to be the same everywhere, and this one is never used up.
        let (budget, max) = (u32::MAX, BREAKING_POSITIONS_MAX);
        let (positions, _) =
            plan::matches(filter, history, &reader, after, max, budget, visibility.as_mut());
        if positions.is_empty() {
            return Ok(());
        }
        Err(AppendError::ConditionBroken { condition: index, after: condition.after, positions })
    }
}
