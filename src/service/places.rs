//! Places for what stays open: subscriptions, consumers of groups, watches, replays; also connections, and calls.
//! Their number is limited.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The places of a server.
#[derive(Clone)]
pub struct Places {
    open: Arc<AtomicUsize>,
    limit: usize,
}

/// All places are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} subscriptions, consumers, watches and replays are open, no more are allowed")]
pub struct NoPlace {
    pub limit: usize,
}

/// One of the places, given back when dropped.
pub struct Place(Arc<AtomicUsize>);

impl Places {
    /// So many.
    pub fn new(limit: usize) -> Self {
        Self { open: Arc::default(), limit }
    }

    /// How many there are.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many are taken.
    pub fn open(&self) -> usize {
        // Relaxed: a number to look at.
        self.open.load(Ordering::Relaxed)
    }

    /// Takes one.
    pub fn take(&self) -> Result<Place, NoPlace> {
        // Relaxed: the number orders nothing.
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&self.open));
        if before < self.limit { Ok(place) } else { Err(NoPlace { limit: self.limit }) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Relaxed: as above.
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
