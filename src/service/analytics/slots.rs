//! Events by time, to be put together by any unit of it.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

/// Events are counted by quarters of an hour, of which every zone's buckets are made.
pub const QUARTER: i64 = 15 * 60;

pub type Sparse<K> = HashMap<K, u64, RandomState>;

/// So many quarters of an hour, about 30 years, are counted in a row; others one by one.
const DENSE_MAX: i64 = 1 << 20;

/// Events by time: mostly quarters of an hour that are near each other.
#[derive(Default)]
pub struct Slots {
    /// The first quarter of `dense`, from 1970.
    first: i64,
    dense: VecDeque<u64>,
    /// Seconds that are no quarter, and what is far.
    sparse: Sparse<i64>,
}

impl Slots {
    /// Counts so many events at `time`, seconds since 1970.
    pub fn add(&mut self, time: i64, events: u64) {
        let quarter = time.div_euclid(QUARTER);
        if time.rem_euclid(QUARTER) != 0 || !self.reach(quarter) {
            *self.sparse.entry(time).or_default() += events;
            return;
        }
        let at = usize::try_from(quarter - self.first).expect("it was reached");
        self.dense[at] += events;
    }

    /// Makes the row hold this quarter; not if it would be too long.
    fn reach(&mut self, quarter: i64) -> bool {
        if self.dense.is_empty() {
            self.first = quarter;
        }
        let end = self.first + i64::try_from(self.dense.len()).expect("a short row");
        if (self.first..end).contains(&quarter) {
            return true;
        }
        let (first, last) = (self.first.min(quarter), end.max(quarter + 1));
        if last - first > DENSE_MAX {
            return false;
        }
        for _ in first..self.first {
            self.dense.push_front(0);
        }
        self.first = first;
        self.dense.resize(usize::try_from(last - first).expect("a short row"), 0);
        true
    }

    /// How many are counted one by one.
    pub fn far(&self) -> usize {
        self.sparse.len()
    }

    /// Times and how many events they have.
    pub fn all(&self) -> Vec<(i64, u64)> {
        let dense = (self.first..).zip(&self.dense).filter(|(_, events)| **events > 0);
        let dense = dense.map(|(quarter, events)| (quarter * QUARTER, *events));
        dense.chain(self.sparse.iter().map(|(time, events)| (*time, *events))).collect()
    }
}
