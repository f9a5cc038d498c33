//! What is looked for in a candidate, where no index knows it.

use super::{
    MetadataMatch, TimeRange, json::JsonMatch, nodes::Work, plan::Direction, text::TextMatch,
};
use crate::core::{
    clock::Timestamp,
    index::{column, times::TimeView},
    log::format::{self, Data, Indexed},
    name::Name,
    position::Position,
};

/// So many bytes of data are looked through for one unit of a budget: about the time of a jump.
const BYTES_A_JUMP: usize = 512;

/// What is looked for in a candidate.
pub(super) enum Check {
    /// In its column, and where that is not exact in the record.
    Occurred { range: TimeRange, times: TimeView },
    /// In its record.
    Record(Box<RecordCheck>),
}

/// What a check came to.
pub(super) enum Verdict {
    Holds,
    /// Not here, and not before this key.
    Not(u64),
}

impl Check {
    pub(super) fn look(&self, key: u64, work: &mut Work<'_>) -> Verdict {
        let position = Position::new(work.direction.key(key));
        let holds = match self {
            Self::Occurred { range, times } => {
                let Some(holds) = occurred_in(*range, position, times, work) else {
                    // Nothing in the whole block is.
                    let (first, last) = column::block_of(position);
                    return Verdict::Not(match work.direction {
                        Direction::Forwards => last.get() + 1,
                        Direction::Backwards => work.direction.key(first.get()) + 1,
                    });
                };
                holds
            }
            Self::Record(check) => check.holds(position, work),
        };
        if holds { Verdict::Holds } else { Verdict::Not(key + 1) }
    }

    pub(super) fn names(&self) -> Vec<&'static str> {
        match self {
            Self::Occurred { .. } => vec!["occurred time"],
            Self::Record(check) => check.names(),
        }
    }
}

/// Whether the event at `position` occurred in `range`; `None`: none in its block of the column did.
fn occurred_in(
    range: TimeRange,
    position: Position,
    times: &TimeView,
    work: &mut Work<'_>,
) -> Option<bool> {
    let TimeRange { from, to } = range;
    let Some(second) = times.get(position) else {
        return Some(occurred_at(position, work).is_some_and(|moment| range.contains(moment)));
    };
    let after = from.is_none_or(|from| from.seconds() < second);
    let before = to.is_none_or(|to| second < to.seconds());
    let at_an_end = [from, to].into_iter().flatten().any(|end| end.seconds() == second);
    if after && before {
        return Some(true);
    }
    if at_an_end {
        return Some(occurred_at(position, work).is_some_and(|moment| range.contains(moment)));
    }
    let (min, max) = times.span_micros(position).unwrap_or((i64::MIN, i64::MAX));
    let meets =
        from.is_none_or(|from| from.micros() <= max) && to.is_none_or(|to| min <= to.micros_up());
    meets.then_some(false)
}

fn occurred_at(position: Position, work: &mut Work<'_>) -> Option<Timestamp> {
    work.cost.examined += 1;
    let record = work.reader.record(position)?;
    Some(format::occurred_at(format::message(&record)))
}

/// What is looked for in a record; what is empty is not.
pub(super) struct RecordCheck {
    pub correlation_ids: Vec<Name>,
    pub causation_ids: Vec<Name>,
    pub stream_prefixes: Vec<Name>,
    pub metadata: Vec<MetadataMatch>,
    pub text: Option<TextMatch>,
    pub json: Vec<JsonMatch>,
}

impl RecordCheck {
    pub(super) fn is_nothing(&self) -> bool {
        !self.looks_at_fields() && self.text.is_none() && self.json.is_empty()
    }

    fn looks_at_fields(&self) -> bool {
        !(self.correlation_ids.is_empty()
            && self.causation_ids.is_empty()
            && self.stream_prefixes.is_empty()
            && self.metadata.is_empty())
    }

    fn names(&self) -> Vec<&'static str> {
        [
            (!self.correlation_ids.is_empty(), "correlation id"),
            (!self.causation_ids.is_empty(), "causation id"),
            (!self.stream_prefixes.is_empty(), "stream prefix"),
            (!self.metadata.is_empty(), "metadata that is not indexed"),
            (self.text.is_some(), "text in the data"),
            (!self.json.is_empty(), "JSON data"),
        ]
        .into_iter()
        .filter_map(|(is_there, name)| is_there.then_some(name))
        .collect()
    }

    fn holds(&self, position: Position, work: &mut Work<'_>) -> bool {
        work.cost.examined += 1;
        // Nothing of a removed event matches.
        let Some(record) = work.reader.record(position) else { return false };
        let message = format::message(&record);
        if self.looks_at_fields() && !self.fields_hold(message) {
            return false;
        }
        if let Some(text) = &self.text {
            let data = format::data_bytes(message);
            work.cost.examined_bytes += data.len() as u64;
            let units = u32::try_from(data.len() / BYTES_A_JUMP).unwrap_or(u32::MAX);
            *work.budget = work.budget.saturating_sub(units);
            if !text.is_in(data) {
                return false;
            }
        }
        self.json.is_empty() || self.json_holds(message, work)
    }

    fn fields_hold(&self, message: &[u8]) -> bool {
        let is_one = |names: &[Name], text: &str| names.iter().any(|name| name.as_str() == text);
        let mut stream = self.stream_prefixes.is_empty();
        let mut correlation = self.correlation_ids.is_empty();
        let mut causation = self.causation_ids.is_empty();
        let mut metadata = 0;
        format::for_each_indexed(message, |indexed| {
            match indexed {
                Indexed::Stream(name) => {
                    stream = stream
                        || self.stream_prefixes.iter().any(|it| name.starts_with(it.as_str()));
                }
                Indexed::Correlation(id) => correlation |= is_one(&self.correlation_ids, id),
                Indexed::Causation(id) => causation |= is_one(&self.causation_ids, id),
                Indexed::Metadata(key, value) => {
                    let wanted = self.metadata.iter().filter(|it| it.key.as_str() == key);
                    metadata += wanted.filter(|it| it.values.iter().any(|it| it == value)).count();
                }
                Indexed::OccurredAt(_) | Indexed::Type(_) | Indexed::Tag(_) => {}
            }
            true
        });
        stream && correlation && causation && metadata == self.metadata.len()
    }

    fn json_holds(&self, message: &[u8], work: &mut Work<'_>) -> bool {
        let (Data::Text(text), content_type) = format::data(message) else { return false };
        if !is_json(content_type) {
            return false;
        }
        work.cost.examined_bytes += text.len() as u64;
        // To parse costs more than to search.
        let units = u32::try_from(text.len() / (BYTES_A_JUMP / 16)).unwrap_or(u32::MAX);
        *work.budget = work.budget.saturating_sub(units);
        let Ok(value) = serde_json::from_str(text) else { return false };
        self.json.iter().all(|json| json.holds(&value))
    }
}

/// Whether text of this content type is JSON. Empty: the default, which is.
fn is_json(content_type: &str) -> bool {
    let (media_type, _) = content_type.split_once(';').unwrap_or((content_type, ""));
    let media_type = media_type.trim().to_ascii_lowercase();
    media_type.is_empty() || media_type == "application/json" || media_type.ends_with("+json")
}
