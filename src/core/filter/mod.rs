//! Which events: a filter, and the cursor that walks what it picks.
//!
//! What an index knows makes a cursor's steps proportional to what the rarest part of the filter matches.
//! The rest ([`text`], [`json`], metadata that is not indexed) is looked for in the events that are left
//! (`check`).

pub mod bound;
mod check;
pub mod json;
mod nodes;
pub mod plan;
pub mod text;

use serde::{Deserialize, Serialize};

use self::{json::JsonMatch, text::TextMatch};
use super::{clock::Timestamp, name::Name};

/// Events that match any of the clauses; every event where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Filter {
    pub clauses: Vec<Clause>,
}

/// Events that match every field that names anything; of one field, any of its values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Clause {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<Name>,
    /// Beginnings of streams' names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stream_prefixes: Vec<Name>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<Name>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<Name>,
    /// Events that have at least one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Name>,
    /// Events that have all of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags_all: Vec<Name>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub correlation_ids: Vec<Name>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causation_ids: Vec<Name>,
    /// Events that match each of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metadata: Vec<MetadataMatch>,
    #[serde(skip_serializing_if = "TimeRange::is_everything")]
    pub occurred: TimeRange,
    #[serde(skip_serializing_if = "TimeRange::is_everything")]
    pub recorded: TimeRange,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<TextMatch>,
    /// Events that match each of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub json: Vec<JsonMatch>,
}

/// Events that have this metadata key, with one of these values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataMatch {
    pub key: Name,
    pub values: Vec<String>,
}

/// Moments from one on and before another; all where neither is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeRange {
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
}

impl Filter {
    /// Whether it picks every event.
    pub fn is_everything(&self) -> bool {
        self.clauses.is_empty()
    }

    /// Whether names that are always indexed are all that it names.
    pub fn is_indexed(&self) -> bool {
        self.clauses.iter().all(|clause| {
            let Clause {
                streams: _,
                stream_prefixes,
                categories: _,
                types: _,
                tags: _,
                tags_all: _,
                correlation_ids: _,
                causation_ids: _,
                metadata,
                occurred,
                recorded,
                text,
                json,
            } = clause;
            stream_prefixes.is_empty()
                && metadata.is_empty()
                && occurred.is_everything()
                && recorded.is_everything()
                && text.is_none()
                && json.is_empty()
        })
    }
}

impl Clause {
    /// How many values it names.
    pub fn size(&self) -> usize {
        let names = [
            &self.streams,
            &self.stream_prefixes,
            &self.categories,
            &self.types,
            &self.tags,
            &self.tags_all,
            &self.correlation_ids,
            &self.causation_ids,
        ];
        let names: usize = names.iter().map(|values| values.len()).sum();
        let metadata: usize = self.metadata.iter().map(|entry| entry.values.len()).sum();
        let times = [self.occurred, self.recorded];
        let times = times.iter().filter(|range| !range.is_everything()).count();
        let texts = self.text.as_ref().map_or(0, |text| text.texts().len());
        names + metadata + times + texts + self.json.len()
    }
}

impl TimeRange {
    /// Whether every moment is in it.
    pub fn is_everything(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }

    /// Whether `moment` is in it.
    pub fn contains(&self, moment: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= moment) && self.to.is_none_or(|to| moment < to)
    }
}
