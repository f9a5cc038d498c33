//! Appends: conditions are looked at outside of the sequencer first, then the proposal is handed in.

use std::sync::Arc;

use crate::core::{
    append::{AppendError, Committed, Condition, Proposal},
    commit_log::CommitLogError,
    filter::plan,
    retention::Visibility,
    store::{Answer, Answers, Store},
};

/// So many batches a caller decides for others before it hands the lead on.
const ROUNDS_OF_A_CALLER: usize = 4;
/// So many jumps a condition's check makes before other tasks get their turn.
const JUMPS_BETWEEN_YIELDS: u32 = 4096;

/// Writes events.
#[derive(Clone)]
pub struct CommandService {
    store: Arc<Store>,
}

impl CommandService {
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// Commits `proposal`, or says why not. Dropping the future does not take a proposal back, nor does
    /// it hold up others.
    pub async fn commit(&self, mut proposal: Proposal) -> Result<Committed, AppendError> {
        self.look_ahead(&mut proposal).await;
        let (answer, leads) = self.store.submit(proposal)?;
        if leads {
            self.lead();
        }
        outcome(answer).await
    }

    /// Hands `proposals` in together: they are decided in their order, and one task's in the order of its calls. The
    /// answers come later.
    pub async fn submit(&self, mut proposals: Vec<Proposal>) -> Together {
        for proposal in &mut proposals {
            self.look_ahead(proposal).await;
        }
        let count = proposals.len();
        // Nothing is waited for between taking the lead and leading.
        let (answers, refused, leads) = self.store.submit_together(proposals);
        if leads {
            self.lead();
        }
        Together { taken: count - refused.len(), answers, refused }
    }

    /// Decides what waits, for the caller who has the lead.
    fn lead(&self) {
        if self.store.lead(ROUNDS_OF_A_CALLER) {
            // The lead goes to a task that nobody can cancel.
            let store = Arc::clone(&self.store);
            tokio::spawn(async move {
                while store.lead(1) {
                    tokio::task::yield_now().await;
                }
            });
        }
    }

    async fn look_ahead(&self, proposal: &mut Proposal) {
        for condition in &mut proposal.conditions {
            self.check_ahead(condition).await;
        }
    }

    /// Looks for events that break `condition` up to the watermark, so that the sequencer need not: all
    /// writers wait for it.
    async fn check_ahead(&self, condition: &mut Condition) {
        let history = self.store.history();
        let reader = history.log.reader();
        let head = reader.head();
        let mut visibility = history.visibility(&reader, self.store.clock());
        condition.checked = condition.after.max(reader.first().previous());
        condition.checked_at_micros = visibility.as_ref().map_or(0, Visibility::now_micros);
        while condition.checked < head {
            let (filter, after) = (&condition.filter, condition.checked);
            let (budget, visibility) = (JUMPS_BETWEEN_YIELDS, visibility.as_mut());
            let (found, seen) =
                plan::matches(filter, history, &reader, after, 1, budget, visibility);
            if let Some(position) = found.first() {
                // The sequencer finds it at its first jump, and decides: a repeat is answered as the
                // first call was, whatever its conditions.
                condition.checked = position.previous();
                return;
            }
            condition.checked = seen;
            tokio::task::yield_now().await;
        }
    }
}

/// Waits for the answer to a proposal that was handed in.
async fn outcome(answer: Answer) -> Result<Committed, AppendError> {
    answer.await.unwrap_or_else(|_| Err(unanswered()))
}

fn unanswered() -> AppendError {
    AppendError::OutcomeUnknown(CommitLogError::new("the sequencer gave no answer"))
}

/// Proposals that were handed in together.
pub struct Together {
    taken: usize,
    answers: Option<Answers>,
    /// Those behind.
    refused: Vec<AppendError>,
}

impl Together {
    /// Waits for the answers, in the order of the proposals. They are told once; a future that is dropped before has
    /// taken none.
    pub async fn outcomes(&mut self) -> Vec<Result<Committed, AppendError>> {
        let answered = match &mut self.answers {
            Some(answers) => answers.await.ok(),
            None => Some(Vec::new()),
        };
        let mut outcomes = answered.unwrap_or_else(|| vec![Err(unanswered()); self.taken]);
        outcomes.extend(self.refused.drain(..).map(Err));
        outcomes
    }
}
