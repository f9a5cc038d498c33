//! A search: what a filter picks, a page at a time.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    page_token::{Fingerprint, TokenError},
    query::QueryError,
    scan::{Block, Progress, Scan},
};
use crate::core::{
    clock::Clock,
    filter::{Filter, plan::Direction},
    history::History,
    position::Position,
};

/// A client is told how far a search is when it was told nothing for so long.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Where the page of a search with this token begins; the empty one is the first page's.
pub fn after(fingerprint: Fingerprint, token: &str) -> Result<Position, TokenError> {
    let Some(place) = fingerprint.place(token)? else { return Ok(Position::ZERO) };
    let position = place.try_into().map_err(|_| TokenError::Malformed)?;
    Ok(Position::new(u64::from_le_bytes(position)))
}

/// What a searcher is told.
#[derive(Debug)]
pub enum Found {
    Block(Block),
    /// Everything before this position, in the search's direction, was looked at.
    Progress(Position),
    /// The page is complete.
    End {
        next: Option<String>,
        events: u64,
        head: Position,
    },
}

/// One page of a search.
pub struct Search {
    scan: Scan,
    fingerprint: Fingerprint,
    /// How many events the page has room for.
    remaining: u64,
    /// Where it became full. Then only whether there is another match is of interest.
    full_at: Option<Position>,
    events: u64,
    told_at: Instant,
}

impl Search {
    /// The page after `after`, of at most `limit` events, 0 for all.
    pub fn new(
        history: &Arc<History>,
        clock: &dyn Clock,
        filter: &Filter,
        direction: Direction,
        (fingerprint, after): (Fingerprint, Position),
        limit: u64,
    ) -> Self {
        let scan = Scan::all(history, clock, filter, direction, after, 0);
        let remaining = if limit == 0 { u64::MAX } else { limit };
        Self { scan, fingerprint, remaining, full_at: None, events: 0, told_at: Instant::now() }
    }

    /// The next message; the last one is the end.
    pub async fn next(&mut self) -> Result<Found, QueryError> {
        loop {
            if self.remaining == 0 && self.full_at.is_none() {
                self.full_at = Some(self.scan.reached());
            }
            let found = match self.scan.step(self.remaining.max(1)) {
                Progress::Block(_) if self.full_at.is_some() => self.end(self.full_at),
                Progress::Block(block) => {
                    self.events += block.events;
                    self.remaining -= block.events;
                    Found::Block(block)
                }
                Progress::Nothing => {
                    tokio::task::yield_now().await;
                    if self.told_at.elapsed() < PROGRESS_INTERVAL {
                        continue;
                    }
                    Found::Progress(self.scan.reached())
                }
                Progress::End => self.end(None),
                Progress::Dropped(first) => {
                    return Err(QueryError::NotKept { after: self.scan.reached(), first });
                }
            };
            self.told_at = Instant::now();
            return Ok(found);
        }
    }

    /// The end of the page, after which there is more from `more` on.
    fn end(&self, more: Option<Position>) -> Found {
        let next = more.map(|reached| self.fingerprint.token(&reached.get().to_le_bytes()));
        Found::End { next, events: self.events, head: self.scan.head() }
    }
}
