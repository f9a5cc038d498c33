//! Which events: a filter, and the cursor that walks what it picks.
//!
//! Everything a filter can name is indexed, so a cursor's steps are proportional to what the rarest
//! part of the filter matches, never to the log.

pub mod plan;

use super::name::Name;

/// Events that match any of the clauses; every event where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub clauses: Vec<Clause>,
}

/// Events that match every field that names anything; of one field, any of its values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clause {
    pub streams: Vec<Name>,
    pub categories: Vec<Name>,
    pub types: Vec<Name>,
    /// Events that have at least one of these.
    pub tags: Vec<Name>,
    /// Events that have all of these.
    pub tags_all: Vec<Name>,
}

impl Filter {
    /// Whether it picks every event.
    pub fn is_everything(&self) -> bool {
        self.clauses.is_empty()
    }
}

impl Clause {
    /// How many values it names.
    pub fn size(&self) -> usize {
        [&self.streams, &self.categories, &self.types, &self.tags, &self.tags_all]
            .iter()
            .map(|values| values.len())
            .sum()
    }
}
