//! The positions of the visible events that a filter picks, some at a time: what is counted, told and explained
//! walks over them.

use std::{
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::task::JoinSet;

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

/// Where at least so many candidates are to be looked at, all cores count: below, to begin costs what it gains.
const SHARED_FROM: u64 = 16_384;
/// The log is counted in so many stretches for each core: where one has more matches than others, few wait for it.
const STRETCHES_A_CORE: u64 = 4;

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
        let from = self.next?;
        tokio::task::yield_now().await;
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
    let candidates = plan::explain(filter, history, reader);
    let candidates = candidates.iter().fold(0u64, |sum, it| sum.saturating_add(it.candidates_max));
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    if candidates < SHARED_FROM || cores == 1 {
        return count_after(history, filter, reader, visibility, Position::ZERO).await;
    }
    count_on(cores, history, filter, reader, visibility).await
}

/// The same by so many tasks.
async fn count_on(
    tasks: usize,
    history: &Arc<History>,
    filter: &Filter,
    reader: &Reader,
    visibility: Option<Visibility>,
) -> (u64, Cost) {
    let stretches = STRETCHES_A_CORE * tasks as u64;
    let (before, head) = (reader.first().previous().get(), reader.head().get());
    let length = head.saturating_sub(before).div_ceil(stretches).max(1);
    let (next, filter) = (Arc::new(AtomicU64::new(before)), Arc::new(filter.clone()));
    let mut counts = JoinSet::new();
    for _ in 0..tasks {
        let (next, filter, history) = (Arc::clone(&next), Arc::clone(&filter), Arc::clone(history));
        let (reader, visibility) = (reader.clone(), visibility.clone());
        counts.spawn(async move {
            let (mut count, mut costs) = (0, Vec::new());
            loop {
                // Relaxed: each number is taken once, and that is all.
                let after = next.fetch_add(length, Ordering::Relaxed);
                if after >= head {
                    return (count, costs.into_iter().sum::<Cost>());
                }
                let reader = reader.up_to(Position::new(after + length));
                let (visibility, after) = (visibility.clone(), Position::new(after));
                let (more, cost) = count_after(&history, &filter, &reader, visibility, after).await;
                count += more;
                costs.push(cost);
            }
        });
    }
    let counts = counts.join_all().await;
    (counts.iter().map(|(count, _)| count).sum(), counts.iter().map(|(_, cost)| *cost).sum())
}

async fn count_after(
    history: &History,
    filter: &Filter,
    reader: &Reader,
    visibility: Option<Visibility>,
    after: Position,
) -> (u64, Cost) {
    let mut matches = Matches::new(history, filter, reader, visibility, after);
    let mut count = 0;
    while let Some(found) = matches.next().await {
        count += found.len() as u64;
    }
    (count, matches.cost())
}
