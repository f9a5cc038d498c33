//! A subscription whose filters change while it goes on, and that may send events only as they are permitted.
//!
//! A change takes effect where the cursor stands, and is answered before the next one is taken: there is no
//! queue of changes.

use std::collections::BTreeMap;

use super::{Message, SubscribeError, SubscribeOptions, Subscription};
use crate::core::{
    filter::{Clause, Filter},
    position::Position,
};

/// What to follow at first, and how.
#[derive(Debug, Clone)]
pub struct InteractiveOptions {
    pub subscribe: SubscribeOptions,
    /// Send no event that is not permitted.
    pub pull: bool,
    /// Where there is no filter follow nothing, until one is added.
    pub without_filters: bool,
}

/// What an interactive subscriber is told.
#[derive(Debug)]
pub enum Told {
    Message(Message),
    /// Up to `position` the filters before have decided, after it those with these names do.
    FiltersChanged {
        position: Position,
        names: Vec<String>,
    },
}

/// There is no filter of this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no filter has this name")]
pub struct UnknownFilter;

/// An interactive subscription.
pub struct Interactive {
    subscription: Subscription,
    /// By their names.
    filters: BTreeMap<String, Clause>,
    /// The filters have changed, and nobody was told yet.
    changed: bool,
}

impl Interactive {
    /// The names of `clauses` are `0`, `1`, and so on.
    pub(super) fn new(mut subscription: Subscription, clauses: Vec<Clause>, pull: bool) -> Self {
        if pull {
            subscription.pull();
        }
        let filters =
            (0..).zip(clauses).map(|(index, clause): (u32, _)| (index.to_string(), clause));
        Self { subscription, filters: filters.collect(), changed: false }
    }

    /// Whether the next change can be taken: the one before was answered.
    pub fn takes_changes(&self) -> bool {
        !self.changed && !self.subscription.is_new()
    }

    /// Adds a filter, in the place of one with the same name. Only where it takes changes.
    pub fn add_filter(&mut self, name: String, clause: Clause) {
        debug_assert!(self.takes_changes(), "one change after the other");
        self.filters.insert(name, clause);
        self.changed = true;
    }

    /// Removes one. Only where it takes changes.
    pub fn remove_filter(&mut self, name: &str) -> Result<(), UnknownFilter> {
        debug_assert!(self.takes_changes(), "one change after the other");
        self.filters.remove(name).ok_or(UnknownFilter)?;
        self.changed = true;
        Ok(())
    }

    /// Permits so many events more.
    pub fn permit(&mut self, events: u32) {
        self.subscription.permit(events);
    }

    /// The next message; it waits for it as long as it takes, and nothing is lost where that is given up. An
    /// error ends the subscription.
    pub async fn next(&mut self) -> Result<Told, SubscribeError> {
        if self.changed {
            // What the filters before have picked goes first.
            if let Some(message) = self.subscription.flush() {
                return Ok(Told::Message(message));
            }
            self.changed = false;
            let clauses: Vec<_> = self.filters.values().cloned().collect();
            let filter = (!clauses.is_empty()).then_some(Filter { clauses });
            let position = self.subscription.follow(filter);
            let names = self.filters.keys().cloned().collect();
            return Ok(Told::FiltersChanged { position, names });
        }
        self.subscription.next().await.map(Told::Message)
    }
}
