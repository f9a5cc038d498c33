//! The check of the whole log beside appends and reads: a walk over segments, in steps on threads that may
//! wait for a disk. A step begins when the last one's result was taken, so a caller that has gone costs one
//! step more.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::core::{
    history::History,
    log::{
        chain::Chain,
        verify::{Damage, Noted, Tally, Verifier, Walk},
    },
    position::Position,
};

/// So long a step takes, or one commit: its thread is then free for others.
const STEP: Duration = Duration::from_millis(100);

/// Why a check ends early.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The log is not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The log is whole, and not the one that was noted.
    #[error("the hash chain at position {position} is {actual}, not {expected}")]
    Differs { position: Position, expected: Chain, actual: Chain },
    /// The chain has values at the ends of commits only.
    #[error("position {position} is inside of a commit that ends at {end}; name a commit's end")]
    InsideCommit { position: Position, end: Position },
    /// There is no such position.
    #[error("there is no event at position {position}; the head is {head}")]
    BeyondHead { position: Position, head: Position },
    /// What is before `first` was dropped, with `--when-full evict`.
    #[error("what is before position {first} is dropped: the rest has no hash and no copy")]
    NotKept { first: Position },
    /// Nothing is known of the rest.
    #[error("the server stops; verify again")]
    ShuttingDown,
}

/// What was found good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    pub head: Position,
    pub tally: Tally,
    /// `None`: not known, as events before were dropped.
    pub chain: Option<Chain>,
    /// A position that was asked for, or the head, and the chain's value there.
    pub noted: (Position, Option<Chain>),
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Going { position: Position, head: Position, checked_bytes: u64, total_bytes: u64 },
    Done(Verified),
}

/// A check that goes on.
pub struct Verification {
    walk: Walk,
    noting: Position,
    expected: Option<Chain>,
    stop: CancellationToken,
}

impl Verification {
    /// Begins a check of the log as it is now. `noting`: a position whose value is asked for, 0 for the
    /// head; `expected`: what it must be.
    pub fn begin(
        history: &History,
        noting: Position,
        expected: Option<Chain>,
        stop: CancellationToken,
    ) -> Result<Self, VerifyError> {
        let reader = history.log.reader();
        let head = reader.head();
        if noting > head {
            return Err(VerifyError::BeyondHead { position: noting, head });
        }
        let first = reader.first();
        if first > Position::new(1) && (noting > Position::ZERO || expected.is_some()) {
            return Err(VerifyError::NotKept { first });
        }
        let noting = if noting == Position::ZERO { head } else { noting };
        let walk = Walk::new(&reader, Verifier::from(first).noting(noting));
        Ok(Self { walk, noting, expected, stop })
    }

    /// Goes on for a moment.
    pub async fn next(mut self) -> Result<(Progress, Option<Self>), VerifyError> {
        if self.stop.is_cancelled() {
            return Err(VerifyError::ShuttingDown);
        }
        let step = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            while self.walk.step()? {
                if began.elapsed() >= STEP {
                    return Ok((self, true));
                }
            }
            Ok::<_, VerifyError>((self, false))
        });
        // The runtime drops what waits when it stops.
        let (this, more) = step.await.map_err(|_| VerifyError::ShuttingDown)??;
        if !more {
            return Ok((Progress::Done(this.verified()?), None));
        }
        let verifier = this.walk.verifier();
        let progress = Progress::Going {
            position: verifier.position(),
            head: this.walk.head(),
            checked_bytes: verifier.tally().bytes,
            total_bytes: this.walk.bytes(),
        };
        Ok((progress, Some(this)))
    }

    fn verified(&self) -> Result<Verified, VerifyError> {
        let verified = verified(self.walk.verifier(), self.noting)?;
        verified.expect(self.expected)
    }
}

impl Verified {
    /// The same, if the value that was noted is `expected`.
    pub fn expect(self, expected: Option<Chain>) -> Result<Self, VerifyError> {
        let (position, actual) = self.noted;
        match expected.zip(actual) {
            Some((expected, actual)) if expected != actual => {
                Err(VerifyError::Differs { position, expected, actual })
            }
            _ => Ok(self),
        }
    }
}

/// What `verifier`, which has come to the end, has found; `position` is the one that it was to note.
pub fn verified(verifier: &Verifier, position: Position) -> Result<Verified, VerifyError> {
    let (head, chain) = (verifier.position(), verifier.chain().copied());
    let noted = match verifier.noted() {
        Noted::Value(value) => chain.map(|_| value),
        Noted::Inside(end) => return Err(VerifyError::InsideCommit { position, end }),
        // Of an empty log.
        Noted::Ahead if position == head => chain,
        Noted::Ahead => return Err(VerifyError::BeyondHead { position, head }),
    };
    Ok(Verified { head, tally: *verifier.tally(), chain, noted: (position, noted) })
}
