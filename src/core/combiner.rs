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
//! docs/benchmarks-appends.md. Durable mode has one all the same: its leader waits for the disk.)

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
        // Release, pairs with the Acquire in `take`: the item is in the queue before it is counted. (The
        // model's queue is a mutex and cannot show what Relaxed would break.)
        Ok(self.waiting.fetch_add(1, Ordering::Release) == 0)
    }

    /// Takes items in the order in which they were pushed, at least one, until they weigh `max` together, as `each` says
    /// of each. For the leader.
    pub fn take(&self, max: usize, mut each: impl FnMut(T) -> usize) -> usize {
        // Acquire, pairs with the Release in `push`: so many items are in the queue; and with the one in
        // `done`: a new leader sees what the last one has done.
        let waiting = self.waiting.load(Ordering::Acquire);
        let (mut count, mut weight) = (0, 0);
        while count < waiting && weight < max {
            weight += each(self.queue.pop().expect("what is counted is in the queue"));
            count += 1;
        }
        count
    }

    /// Whether anything waits. For a thread that always leads.
    pub fn is_waiting(&self) -> bool {
        // Acquire, as in `take`.
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// The work on `count` items is done. Whether the caller still leads: more has come meanwhile.
    pub fn done(&self, count: usize) -> bool {
        // Release, pairs with the Acquire in `take`: the next leader sees this one's work.
        self.waiting.fetch_sub(count, Ordering::Release) != count
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

#[cfg(all(test, feature = "loom"))]
mod model {
    use loom::sync::Arc;

    use super::*;

    /// Leads if it must, counting what it has done in a cell that only a leader may touch.
    fn call(combiner: &Combiner<usize>, done: &loom::cell::UnsafeCell<usize>, item: usize) {
        if combiner.push(item).expect("there is room") {
            loop {
                let count = combiner.take(2, |_| done.with_mut(|_| 1));
                if !combiner.done(count) {
                    break;
                }
            }
        }
    }

    /// loom's cell fails if two leaders touch it without an order between them. Seen to fail with
    /// Relaxed in `take` or in `done`.
    #[test]
    fn leaders_follow_one_another_and_leave_nothing() {
        loom::model(|| {
            let shared = Arc::new((Combiner::new(4), Cell(loom::cell::UnsafeCell::new(0))));
            let threads: Vec<_> = (0..2)
                .map(|item| {
                    let shared = Arc::clone(&shared);
                    loom::thread::spawn(move || call(&shared.0, &shared.1.0, item))
                })
                .collect();
            call(&shared.0, &shared.1.0, 2);
            for thread in threads {
                thread.join().expect("no caller panics");
            }
            // Whoever led last has left nothing behind.
            assert_eq!(shared.0.waiting.load(Ordering::Acquire), 0);
            assert!(shared.0.queue.pop().is_none());
        });
    }

    struct Cell(loom::cell::UnsafeCell<usize>);
    // SAFETY: loom checks every access; that is what the cell is for.
    #[allow(unsafe_code)]
    unsafe impl Sync for Cell {}
    // SAFETY: as above.
    #[allow(unsafe_code)]
    unsafe impl Send for Cell {}
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_gives_the_item_back_and_the_first_caller_leads() {
        let combiner = Combiner::new(2);
        assert_eq!(combiner.push('a'), Ok(true));
        assert_eq!(combiner.push('b'), Ok(false));
        assert_eq!(combiner.push('c'), Err('c'));
        let mut taken = Vec::new();
        let count = combiner.take(10, |item| {
            taken.push(item);
            1
        });
        assert_eq!((count, taken), (2, vec!['a', 'b']));
        assert!(!combiner.done(count), "nothing is left");
        assert_eq!(combiner.push('d'), Ok(true), "so the next one leads");
    }
}
