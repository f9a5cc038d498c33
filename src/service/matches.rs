//! The positions of the visible events that a filter picks, some at a time: what is counted, told and explained
//! walks over them.

use std::{
    convert::Infallible,
    num::NonZero,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::core::{
    filter::{
        Filter,
        plan::{self, Cost, Cursor, Direction},
    },
    history::History,
    log::Reader,
    position::Position,
    retention::Visibility,
};

/// So many are found before other tasks get their turn.
const FOUND_BETWEEN_YIELDS: usize = 4096;
/// And so many jumps are made.
const JUMPS_BETWEEN_YIELDS: u32 = 8192;

/// Where at least so many candidates are to be looked at, all cores do it: below, to begin costs what it gains.
const SHARED_FROM: u64 = 16_384;
/// The log is divided into at least so many stretches for each core: where one has more matches than others, few wait for it.
const STRETCHES_A_CORE: u64 = 4;
/// A stretch has no more events: after each another call gets its turn.
const STRETCH_EVENTS_MAX: u64 = 1 << 18;

/// A walk over what `reader` sees. It can be dropped at any time.
pub struct Matches<'a> {
    reader: &'a Reader,
    /// `None`: nothing is hidden.
    visibility: Option<Visibility>,
    cursor: Cursor,
    /// Where to go on.
    next: Option<Position>,
    found: Vec<u64>,
}

impl<'a> Matches<'a> {
    /// What `filter` picks after `after` and `visibility` does not hide.
    pub fn new(
        history: &History,
        filter: &Filter,
        reader: &'a Reader,
        visibility: Option<Visibility>,
        after: Position,
    ) -> Self {
        let next = after.max(reader.first().previous()).next();
        Self {
            reader,
            // The walk does not go where all is dropped.
            visibility: visibility.filter(|it| !it.hides_dropped_only()),
            cursor: Cursor::new(filter, history, reader, Direction::Forwards),
            next: Some(next).filter(|next| *next <= reader.head()),
            found: Vec::new(),
        }
    }

    /// The next ones, rising; none where the step has found none and there may be more. `None` at the end. Other
    /// tasks have had their turn before.
    pub async fn next(&mut self) -> Option<&[u64]> {
        if self.next.is_some() {
            tokio::task::yield_now().await;
        }
        self.step()
    }

    /// The same where no other task waits for this one's thread.
    fn step(&mut self) -> Option<&[u64]> {
        let from = self.next?;
        self.found.clear();
        let mut budget = JUMPS_BETWEEN_YIELDS;
        let (max, found) = (FOUND_BETWEEN_YIELDS, &mut self.found);
        self.next = self.cursor.fill(from, self.reader, &mut budget, max, found);
        if let Some(visibility) = &mut self.visibility {
            self.found.retain(|position| !visibility.hides(Position::new(*position)));
        }
        Some(&self.found)
    }

    /// What it has cost so far.
    pub fn cost(&self) -> Cost {
        self.cursor.cost()
    }
}

/// How many events that `reader` sees `filter` picks and `visibility` does not hide, and what it has cost to find
/// out. It can be dropped at any time.
pub async fn count(
    history: &Arc<History>,
    filter: &Filter,
    reader: &Reader,
    visibility: Option<Visibility>,
) -> (u64, Cost) {
    let whole = Whole { history, filter, reader, visibility, after: Position::ZERO };
    let count = |count: &mut u64, found: &[u64], _: &Reader| {
        *count += found.len() as u64;
        Ok::<_, Infallible>(())
    };
    let Ok((counts, cost)) = whole.fold(|| 0, count).await;
    (counts.into_iter().sum(), cost)
}

/// As many threads as there are cores walk, whoever has asked, a stretch each, in the order in which they asked: the
/// runtime's own stay free for what is short, and get their share of each core.
static WALKING: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(cores())));

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// All that a filter picks after a position, to be put together in any order.
pub struct Whole<'a> {
    pub history: &'a Arc<History>,
    pub filter: &'a Filter,
    pub reader: &'a Reader,
    /// `None`: nothing is hidden.
    pub visibility: Option<Visibility>,
    pub after: Position,
}

impl Whole<'_> {
    /// Adds the matches to parts that begin as `empty` gives them, rising positions some at a time, with a reader that
    /// sees them: to one part, or where there is much to do to one on each core. The parts, and what it has cost; or
    /// what `add` refuses. It can be dropped at any time.
    pub async fn fold<P: Send + 'static, E: Send + 'static>(
        self,
        empty: impl Fn() -> P,
        add: impl Fn(&mut P, &[u64], &Reader) -> Result<(), E> + Send + Sync + 'static,
    ) -> Result<(Vec<P>, Cost), E> {
        let plans = plan::explain(self.filter, self.history, self.reader);
        let candidates = plans.iter().fold(0u64, |sum, it| sum.saturating_add(it.candidates_max));
        let left = self.reader.head().get().saturating_sub(self.after.get());
        if candidates.min(left) >= SHARED_FROM {
            return self.fold_on(cores(), empty, add).await;
        }
        let Self { history, filter, reader, visibility, after } = self;
        let mut part = empty();
        let mut matches = Matches::new(history, filter, reader, visibility, after);
        while let Some(found) = matches.next().await {
            add(&mut part, found, reader)?;
        }
        Ok((vec![part], matches.cost()))
    }

    /// The same to so many parts, each on a thread that may block.
    async fn fold_on<P: Send + 'static, E: Send + 'static>(
        self,
        parts: usize,
        empty: impl Fn() -> P,
        add: impl Fn(&mut P, &[u64], &Reader) -> Result<(), E> + Send + Sync + 'static,
    ) -> Result<(Vec<P>, Cost), E> {
        let Self { history, filter, reader, visibility, after } = self;
        let (after, head) = (after.max(reader.first().previous()).get(), reader.head().get());
        let stretches = STRETCHES_A_CORE * parts as u64;
        let length = head.saturating_sub(after).div_ceil(stretches).clamp(1, STRETCH_EVENTS_MAX);
        let next = Arc::new(AtomicU64::new(after));
        let (filter, add) = (Arc::new(filter.clone()), Arc::new(add));
        // Who has begun a stretch stops after its step.
        let dropped = CancellationToken::new();
        let _stops = dropped.clone().drop_guard();
        let mut tasks = JoinSet::new();
        for _ in 0..parts {
            let (next, filter, add) = (Arc::clone(&next), Arc::clone(&filter), Arc::clone(&add));
            let (history, reader, visibility) =
                (Arc::clone(history), reader.clone(), visibility.clone());
            let (mut part, mut costs, dropped) = (empty(), Vec::new(), dropped.clone());
            tasks.spawn(async move {
                loop {
                    // Relaxed: each number is taken once, and that is all.
                    let after = next.fetch_add(length, Ordering::Relaxed);
                    if after >= head {
                        return Ok((part, costs.into_iter().sum::<Cost>()));
                    }
                    let place = Arc::clone(&WALKING).acquire_owned().await;
                    let (filter, add, history) =
                        (Arc::clone(&filter), Arc::clone(&add), Arc::clone(&history));
                    let reader = reader.up_to(Position::new(after + length));
                    let (visibility, dropped) = (visibility.clone(), dropped.clone());
                    let walk = move || {
                        let _place = place.expect("it is never closed");
                        let after = Position::new(after);
                        let mut matches =
                            Matches::new(&history, &filter, &reader, visibility, after);
                        while let Some(found) = matches.step() {
                            add(&mut part, found, &reader)?;
                            if dropped.is_cancelled() {
                                break;
                            }
                        }
                        Ok((part, matches.cost()))
                    };
                    let walked = tokio::task::spawn_blocking(walk).await;
                    let cost;
                    (part, cost) = walked.expect("a walk does not panic")?;
                    costs.push(cost);
                }
            });
        }
        let (mut parts, mut costs) = (Vec::new(), Vec::new());
        while let Some(ended) = tasks.join_next().await {
            let (part, cost) = ended.expect("nobody else ends them")?;
            parts.push(part);
            costs.push(cost);
        }
        Ok((parts, costs.into_iter().sum()))
    }
}
