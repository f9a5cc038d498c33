//! How callers meet the sequencer: they queue, and the first to arrive works for all.
//!
//! ```text
//! caller A  push, waiting 0 → 1: leads    take 1 … done 1, waiting 1 → still leads   take 1 … → 0
//! caller B            push, waiting 1 → 2: waits for its answer
//! ```
//!
//! `waiting` goes up after a push and down after the work is done, so it is above 0 for as long as
//! somebody leads: exactly the caller who raised it from 0 leads, until it brings it back to 0. There is
//! no lock to hand over and no wake-up to lose. No thread is passed through on the way: an append that
//! meets no other costs no switch. (A writer thread of its own cost two switches for each append;
//! docs/benchmarks.md.)

#[cfg(not(any(feature = "loom", feature = "shuttle")))]
use crossbeam_queue::ArrayQueue;

use super::sync::{AtomicUsize, Ordering};

/// A bounded queue and who works it off.
pub struct Combiner<T> {
    queue: ArrayQueue<T>,
    /// Items pushed and not yet done. Raised by every caller, lowered by the leader.
    waiting: AtomicUsize,
}

impl<T> Combiner<T> {
    /// A queue of at most `capacity` items.
    pub fn new(capacity: usize) -> Self {
        Self { queue: ArrayQueue::new(capacity), waiting: AtomicUsize::new(0) }
    }

    /// Queues `item`. `Ok(true)`: the caller leads, and must [`take`](Self::take) until
    /// [`done`](Self::done) says that nothing is left. `Err`: the queue is full.
    pub fn push(&self, item: T) -> Result<bool, T> {
        self.queue.push(item)?;
        // AcqRel: the item is in the queue before it is counted (Release, pairs with the Acquire in
        // `take`); a new leader sees what the last one wrote before it left (Acquire, pairs with the
        // Release in `done`).
        Ok(self.waiting.fetch_add(1, Ordering::AcqRel) == 0)
    }

    /// Takes at most `max` items, at least one, in the order in which they were pushed. For the leader.
    pub fn take(&self, max: usize, mut each: impl FnMut(T)) -> usize {
        // Acquire, pairs with the Release in `push`: so many items are in the queue.
        let count = self.waiting.load(Ordering::Acquire).min(max);
        for _ in 0..count {
            each(self.queue.pop().expect("what is counted is in the queue"));
        }
        count
    }

    /// The work on `count` items is done. Whether the caller still leads: more has come meanwhile.
    pub fn done(&self, count: usize) -> bool {
        // AcqRel: the next leader sees this one's work (Release); if it goes on itself it sees the items
        // (Acquire, pairs with the Release in `push`).
        self.waiting.fetch_sub(count, Ordering::AcqRel) != count
    }
}

/// The queue's stand-in for models, which cannot see into crossbeam's.
#[cfg(any(feature = "loom", feature = "shuttle"))]
struct ArrayQueue<T> {
    items: super::sync::Mutex<std::collections::VecDeque<T>>,
    capacity: usize,
}

#[cfg(any(feature = "loom", feature = "shuttle"))]
impl<T> ArrayQueue<T> {
    fn new(capacity: usize) -> Self {
        Self { items: super::sync::Mutex::new(std::collections::VecDeque::new()), capacity }
    }

    fn push(&self, item: T) -> Result<(), T> {
        let mut items = self.items.lock().expect("no holder panics");
        if items.len() == self.capacity {
            return Err(item);
        }
        items.push_back(item);
        Ok(())
    }

    fn pop(&self) -> Option<T> {
        self.items.lock().expect("no holder panics").pop_front()
    }
}
