//! A search: what a filter picks, a page at a time. The token of the next page says where the last one ended
//! and nothing else, so it is good for ever, and holds nothing in the server.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
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
/// The version of the token.
const TOKEN_VERSION: u8 = 1;
/// Version, fingerprint of what is looked for, position, checksum.
const TOKEN_SIZE_BYTES: usize = 1 + 8 + 8 + 4;

/// What is looked for, so that a token of one search is not taken by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 8]);

/// Why a text is not the token of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("is not a token that a search has given")]
    Malformed,
    #[error("is of a search with other filters or in the other direction")]
    OtherSearch,
}

impl Fingerprint {
    /// Of the bytes of a request that say what is looked for.
    pub fn of(request: &[u8]) -> Self {
        let digest = Sha256::digest(request);
        Self(*digest.first_chunk().expect("a digest is longer"))
    }

    /// The token of the page after `reached`.
    fn token(self, reached: Position) -> String {
        let mut token = vec![TOKEN_VERSION];
        token.extend_from_slice(&self.0);
        token.extend_from_slice(&reached.get().to_le_bytes());
        let checksum = crc32c::crc32c(&token);
        token.extend_from_slice(&checksum.to_le_bytes());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Where the page of this token begins; the empty one is the first page's.
    pub fn after(self, token: &str) -> Result<Position, TokenError> {
        if token.is_empty() {
            return Ok(Position::ZERO);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| TokenError::Malformed)?;
        let token: [u8; TOKEN_SIZE_BYTES] = bytes.try_into().map_err(|_| TokenError::Malformed)?;
        let (checked, checksum) = token.split_last_chunk::<4>().ok_or(TokenError::Malformed)?;
        if checked[0] != TOKEN_VERSION || crc32c::crc32c(checked).to_le_bytes() != *checksum {
            return Err(TokenError::Malformed);
        }
        if checked[1..9] != self.0 {
            return Err(TokenError::OtherSearch);
        }
        let position = checked[9..].first_chunk().ok_or(TokenError::Malformed)?;
        Ok(Position::new(u64::from_le_bytes(*position)))
    }
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
        let next = more.map(|reached| self.fingerprint.token(reached));
        Found::End { next, events: self.events, head: self.scan.head() }
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A token leads back to where it was given, and no other text leads anywhere.
        #[test]
        fn a_token_is_its_own_search_s(position in any::<u64>(), bit in 0usize..168, other: String) {
            let (search, elsewhere) = (Fingerprint::of(b"a"), Fingerprint::of(b"b"));
            let token = search.token(Position::new(position));
            prop_assert_eq!(search.after(&token), Ok(Position::new(position)));
            prop_assert_eq!(elsewhere.after(&token), Err(TokenError::OtherSearch));
            let mut bytes = URL_SAFE_NO_PAD.decode(&token).expect("it is base64");
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(search.after(&URL_SAFE_NO_PAD.encode(bytes)).is_err());
            prop_assert!(other.is_empty() || search.after(&other).is_err());
        }
    }
}
