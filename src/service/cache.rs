//! Answers that are kept for the next one who asks the same, and that are never stale.
//!
//! An answer is good as long as no event has come that its filter matches, and nothing was hidden or dropped.
//! So a hit looks at what has come since, by the filter's own cursor, which costs a few jumps where that is
//! little; where it is much, or where one matches, the answer is worked out again.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quick_cache::{Weighter, sync::Cache};

use crate::core::{
    filter::{
        Filter,
        plan::{Cursor, Direction, Step},
    },
    history::History,
    log::Reader,
    position::Position,
};

/// A hit makes at most so many jumps over what has come since.
const JUMPS_MAX: u32 = 256;
/// What an entry takes beside its key and its answer: about.
const ENTRY_SIZE_BYTES: usize = 256;

/// The request, as bytes that say everything that the answer depends on.
pub type Key = Vec<u8>;

/// An answer that can be kept.
pub trait Answer: Clone + Send + Sync {
    /// The memory that it takes, about, bytes.
    fn size(&self) -> usize;

    /// The head as of which it was worked out.
    fn position(&self) -> Position;

    /// The same, as of a later head.
    #[must_use]
    fn at(self, head: Position) -> Self;
}

struct Entry<T> {
    answer: T,
    /// What it is about.
    filter: Filter,
    /// Up to here nothing has come that changes it. Rises.
    good_until: AtomicU64,
    /// Where the log began.
    first: Position,
    /// Whether anything was set that hides events.
    hidden: bool,
    /// What it took to work out.
    cost: Duration,
}

#[derive(Clone)]
struct Size;

impl<T: Answer> Weighter<Key, Arc<Entry<T>>> for Size {
    fn weight(&self, key: &Key, entry: &Arc<Entry<T>>) -> u64 {
        (ENTRY_SIZE_BYTES + key.len() + entry.answer.size()) as u64
    }
}

/// What the cache has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheFacts {
    pub hits: u64,
    pub misses: u64,
    pub entries: u64,
    pub bytes: u64,
    /// What the hits' answers had taken, less what the hits took.
    pub saved: Duration,
}

/// The cache.
pub struct QueryCache<T: Answer> {
    answers: Option<Cache<Key, Arc<Entry<T>>, Size>>,
    hits: AtomicU64,
    misses: AtomicU64,
    saved_micros: AtomicU64,
}

impl<T: Answer> QueryCache<T> {
    /// An empty cache that takes at most `bytes_max`; 0: it keeps nothing.
    pub fn new(bytes_max: usize) -> Self {
        // An estimate of how many there will be, from which it takes its tables' size.
        let entries = (bytes_max / 4096).clamp(16, 1 << 16);
        let answers =
            (bytes_max > 0).then(|| Cache::with_weighter(entries, bytes_max as u64, Size));
        Self {
            answers,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            saved_micros: AtomicU64::new(0),
        }
    }

    /// The answer to the request of this key, if it is kept and good.
    pub fn find(&self, key: &Key, history: &History) -> Option<T> {
        let started = Instant::now();
        let entry = self.answers.as_ref()?.get(key)?;
        let head = entry.good_at(history)?;
        let saved = entry.cost.saturating_sub(started.elapsed());
        let saved = u64::try_from(saved.as_micros()).unwrap_or(u64::MAX);
        // Relaxed, both: numbers to look at.
        self.hits.fetch_add(1, Ordering::Relaxed);
        self.saved_micros.fetch_add(saved, Ordering::Relaxed);
        Some(entry.answer.clone().at(head))
    }

    /// The answer to the request of this key, worked out by `work`, and kept; `filter` is what it is about.
    pub async fn work_out<A: Clone + Into<T>, E>(
        &self,
        key: Key,
        filter: &Filter,
        history: &History,
        work: impl Future<Output = Result<A, E>>,
    ) -> Result<A, E> {
        let started = Instant::now();
        let Some(answers) = &self.answers else { return work.await };
        let first = history.log.first();
        let answer = work.await?;
        let kept: T = answer.clone().into();
        let head = kept.position();
        let hidden = !history.retention.is_empty(head);
        // Relaxed: a number to look at.
        self.misses.fetch_add(1, Ordering::Relaxed);
        if !hidden || history.retention.is_timeless() {
            let good_until = AtomicU64::new(head.get());
            let (filter, cost) = (filter.clone(), started.elapsed());
            let entry = Entry { answer: kept, filter, good_until, first, hidden, cost };
            answers.insert(key, Arc::new(entry));
        }
        Ok(answer)
    }

    /// What it has done so far.
    pub fn facts(&self) -> CacheFacts {
        // Relaxed: numbers to look at.
        CacheFacts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: self.answers.as_ref().map_or(0, |answers| answers.len() as u64),
            bytes: self.answers.as_ref().map_or(0, Cache::weight),
            saved: Duration::from_micros(self.saved_micros.load(Ordering::Relaxed)),
        }
    }
}

impl<T> Entry<T> {
    /// The head up to which the answer is good, if that is the head of now.
    fn good_at(&self, history: &History) -> Option<Position> {
        let reader = history.log.reader();
        let head = reader.head();
        // Relaxed: it only saves a look.
        let good_until = Position::new(self.good_until.load(Ordering::Relaxed));
        if reader.first() != self.first || !history.retention.is_timeless() {
            return None;
        }
        // The reader's watermark may be older than that of who has looked last.
        if head <= good_until {
            return Some(good_until);
        }
        // What comes may hide what was there: the newest so many of a stream are kept.
        if self.hidden || !history.retention.is_empty(head) {
            return None;
        }
        nothing_came(&self.filter, history, &reader, good_until).then(|| {
            // Relaxed: as above.
            self.good_until.fetch_max(head.get(), Ordering::Relaxed);
            head
        })
    }
}

/// Whether no event after `after` matches, as far as that is found out soon.
fn nothing_came(filter: &Filter, history: &History, reader: &Reader, after: Position) -> bool {
    if filter.is_everything() {
        return false;
    }
    let mut budget = JUMPS_MAX;
    let mut cursor = Cursor::new(filter, history, reader, Direction::Forwards);
    cursor.seek(after.next(), reader, &mut budget) == Step::End
}
