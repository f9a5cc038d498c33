//! A store: the history that anyone reads, and the way in to its one writer.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::{
    append::{AppendError, Committed, Proposal},
    clock::Clock,
    combiner::Combiner,
    commit_log::{CommitLog, CommitLogError},
    history::History,
    log::LogWriter,
    sequencer::Sequencer,
    sync::Mutex,
};

/// So many proposals are decided before they are published and answered together.
const BATCH_MAX: usize = 256;

/// What a proposal comes to; an error of the channel means that the process is ending.
pub type Answer = oneshot::Receiver<Result<Committed, AppendError>>;

/// The store.
pub struct Store {
    history: Arc<History>,
    clock: Arc<dyn Clock>,
    waiting: Combiner<(Proposal, oneshot::Sender<Result<Committed, AppendError>>)>,
    /// Taken by the leader only, so nobody ever waits for it but the next leader for the last one's
    /// final step.
    writer: Mutex<Writer>,
}

struct Writer {
    sequencer: Sequencer,
    proposals: Vec<Proposal>,
    callers: Vec<oneshot::Sender<Result<Committed, AppendError>>>,
    answers: Vec<Result<Committed, AppendError>>,
}

impl Store {
    /// An empty store in which at most `queue_max` appends wait at once.
    pub fn new(
        log: LogWriter,
        commit_log: Box<dyn CommitLog>,
        clock: Arc<dyn Clock>,
        queue_max: usize,
    ) -> Self {
        let sequencer = Sequencer::new(log, commit_log);
        Self {
            history: Arc::clone(sequencer.history()),
            clock,
            waiting: Combiner::new(queue_max),
            writer: Mutex::new(Writer {
                sequencer,
                proposals: Vec::new(),
                callers: Vec::new(),
                answers: Vec::new(),
            }),
        }
    }

    /// The read side.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// How many bytes of segments are written.
    pub fn log_size(&self) -> usize {
        self.writer().sequencer.log_size()
    }

    /// Hands `proposal` in. Proposals handed in by one thread are decided in that order. Where the
    /// second value is true the caller has become the leader and must call [`Store::lead`], whatever
    /// becomes of the call that it serves.
    pub fn submit(&self, proposal: Proposal) -> Result<(Answer, bool), AppendError> {
        let (caller, answer) = oneshot::channel();
        match self.waiting.push((proposal, caller)) {
            Ok(leads) => Ok((answer, leads)),
            Err(_) => Err(AppendError::Overloaded),
        }
    }

    /// Decides what waits, for the leader: at most `rounds` batches. Whether it still leads.
    pub fn lead(&self, rounds: usize) -> bool {
        for _ in 0..rounds {
            let mut writer = self.writer();
            let Writer { sequencer, proposals, callers, answers } = &mut *writer;
            let count = self.waiting.take(BATCH_MAX, |(proposal, caller)| {
                proposals.push(proposal);
                callers.push(caller);
            });
            let now = self.clock.now_micros();
            // A broken invariant must not leave the callers waiting: they are told, nothing more is
            // taken, and reads go on below the watermark.
            let applied =
                catch_unwind(AssertUnwindSafe(|| sequencer.apply(proposals, now, answers)));
            if applied.is_err() {
                sequencer.refuse_from_now_on(CommitLogError::new("an invariant does not hold"));
                answers.clear();
            }
            proposals.clear();
            // Without an answer the caller's channel closes: the outcome is unknown.
            for (caller, answer) in callers.drain(..).zip(answers.drain(..)) {
                // The caller may be gone; what it asked for is done all the same.
                let _ = caller.send(answer);
            }
            drop(writer);
            if !self.waiting.done(count) {
                return false;
            }
        }
        true
    }

    fn writer(&self) -> impl std::ops::DerefMut<Target = Writer> {
        self.writer.lock().expect("panics are caught inside")
    }
}
