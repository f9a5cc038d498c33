//! What of a window is noted in the log, and how a start goes on with it.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::{Key, Parked, ToPark, Window};
use crate::{core::position::Position, service::group::settings::Settings};

/// What of a window survives a crash: the rest follows from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Every event up to here that matches is settled or parked.
    pub position: Position,
    /// So is every one up to here, but for those that are named: with how often they were delivered.
    pub settled_to: Position,
    pub unsettled: Vec<(Position, u32)>,
}

impl Window {
    /// The window that was left at a checkpoint with these parked events: `unsettled` are the checkpoint's, with
    /// their keys, without those that are gone.
    pub fn restore(
        settings: Settings,
        checkpoint: &Checkpoint,
        unsettled: Vec<(Position, Key, u32)>,
        parked: BTreeMap<Position, Parked>,
        now: Instant,
    ) -> Self {
        let mut window = Self::new(settings, checkpoint.settled_to.max(checkpoint.position));
        for (position, parked) in parked {
            window.restore_parked(position, parked);
        }
        for (position, key, deliveries) in unsettled {
            window.offer_one(position, key, deliveries);
        }
        window.assign(now);
        window
    }

    /// Whether something was settled since the last checkpoint was taken.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// What is to be noted; from now on nothing was settled that it does not tell of.
    pub fn take_checkpoint(&mut self) -> Checkpoint {
        self.dirty = false;
        self.checkpoint(&[])
    }

    /// What there will be to note when these are parked.
    pub fn checkpoint(&self, to_park: &[ToPark]) -> Checkpoint {
        let parked: BTreeSet<_> = to_park.iter().map(|to_park| to_park.position).collect();
        let open = || self.open.iter().filter(|position| !parked.contains(position));
        let position = open().next().map_or(self.read_to, |first| first.previous());
        let parked_to = parked.iter().rev().find(|position| self.open.contains(position));
        let settled_to = self.settled_to.max(position).max(parked_to.copied().unwrap_or_default());
        let unsettled = open().take_while(|open| **open <= settled_to);
        let unsettled = unsettled.map(|position| (*position, self.events[position].deliveries));
        Checkpoint { position, settled_to, unsettled: unsettled.collect() }
    }

    /// It could not be written.
    pub fn not_noted(&mut self) {
        self.dirty = true;
    }
}
