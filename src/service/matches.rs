//! The positions of the visible events that a filter picks, some at a time: what is counted, told and explained
//! walks over them.

use crate::core::{
    filter::{
        Filter,
        plan::{Cost, Cursor, Direction},
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
