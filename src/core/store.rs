//! A store: the history that anyone reads, and the way in to its one writer.
//!
//! In memory mode the caller that finds nobody at work leads. Where leading means to wait for a disk, a
//! thread of its own does it ([`Store::lead_from_now_on`]): no async thread ever waits.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    thread::{self, Thread},
    time::Duration,
};

use tokio::sync::{oneshot, watch};

use super::{
    append::{AppendError, Batch, Committed, Proposal, Queue},
    clock::Clock,
    combiner::Combiner,
    commit_log::CommitLogError,
    history::History,
    sequencer::Sequencer,
    sync::{AtomicUsize, Mutex, Ordering},
};

/// So many proposals are decided before they are published and answered together.
const BATCH_MAX: usize = 1024;

type Outcome = Result<Committed, AppendError>;

/// What a proposal comes to; an error of the channel means that the process is ending.
pub type Answer = oneshot::Receiver<Outcome>;
/// The same of several, in their order.
pub type Answers = oneshot::Receiver<Vec<Outcome>>;

/// The store.
pub struct Store {
    history: Arc<History>,
    clock: Arc<dyn Clock>,
    waiting: Combiner<Waiting>,
    /// How many proposals wait or are being decided, and their bytes. Raised by every caller, lowered by the leader.
    waiting_proposals: AtomicUsize,
    waiting_bytes: AtomicUsize,
    /// At most so many may.
    queue_max: usize,
    waiting_bytes_max: usize,
    /// Taken by the leader only, so nobody ever waits for it but the next leader for the last one's
    /// final step.
    writer: Mutex<Sequencer>,
    /// The thread that leads, where one does.
    leader: OnceLock<Thread>,
    /// Why nothing more is taken, once that is so.
    broken: watch::Sender<Option<CommitLogError>>,
}

/// What waits for the writer.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are proposals, and one that is alone allocates nothing"
)]
enum Waiting {
    Proposal(Proposal, oneshot::Sender<Outcome>),
    /// Handed in together, and answered together.
    Together(Vec<Proposal>, oneshot::Sender<Vec<Outcome>>),
    Task(Task),
}

/// Something that only the writer may do. It must be short: appends wait for it.
pub type Task = Box<dyn FnOnce(&mut Sequencer) + Send>;

/// Who waits for the answer to the next proposal, or to so many.
enum Caller {
    One(oneshot::Sender<Outcome>),
    Together(usize, oneshot::Sender<Vec<Outcome>>),
}

impl Caller {
    /// Takes its answers. Where they are missing its channel closes: the outcome is unknown.
    fn answer(self, mut answers: impl Iterator<Item = Outcome>) {
        // The caller may be gone; what it asked for is done all the same.
        match self {
            Self::One(caller) => {
                if let Some(answer) = answers.next() {
                    let _ = caller.send(answer);
                }
            }
            Self::Together(count, caller) => {
                let together: Vec<_> = answers.take(count).collect();
                if together.len() == count {
                    let _ = caller.send(together);
                }
            }
        }
    }
}

impl Store {
    /// The store that `sequencer` writes, in which at most `queue_max` appends wait at once.
    pub fn new(sequencer: Sequencer, clock: Arc<dyn Clock>, queue_max: usize) -> Self {
        Self {
            history: Arc::clone(sequencer.history()),
            clock,
            waiting: Combiner::new(queue_max),
            waiting_proposals: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            queue_max,
            waiting_bytes_max: usize::MAX,
            writer: Mutex::new(sequencer),
            leader: OnceLock::new(),
            broken: watch::Sender::new(None),
        }
    }

    /// The same, in which appends of at most `max` bytes wait at once. One always may.
    #[must_use]
    pub fn with_queue_bytes(self, max: usize) -> Self {
        Self { waiting_bytes_max: max, ..self }
    }

    /// The read side.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Where the time comes from.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Hands `proposal` in. Proposals handed in by one thread are decided in that order. Where the
    /// second value is true the caller has become the leader and must call [`Store::lead`], whatever
    /// becomes of the call that it serves.
    pub fn submit(&self, proposal: Proposal) -> Result<(Answer, bool), AppendError> {
        let size = proposal.size();
        self.reserve(size)?;
        let (caller, answer) = oneshot::channel();
        let pushed = self.push(Waiting::Proposal(proposal, caller));
        if pushed.is_err() {
            self.give_back(1, size);
        }
        Ok((answer, pushed?))
    }

    /// Hands `proposals` in together: they are decided in their order. The answers of those for which there is room,
    /// which are the first ones; why there was none for those behind; and as in [`Store::submit`] whether the caller has
    /// become the leader.
    pub fn submit_together(
        &self,
        mut proposals: Vec<Proposal>,
    ) -> (Option<Answers>, Vec<AppendError>, bool) {
        let (mut size, mut taken) = (0, 0);
        let mut refusal = None;
        for proposal in &proposals {
            let more = proposal.size();
            if let Err(error) = self.reserve(more) {
                refusal = Some(error);
                break;
            }
            (size, taken) = (size + more, taken + 1);
        }
        let mut refused = proposals.len() - taken;
        proposals.truncate(taken);
        let (mut answers, mut leads) = (None, false);
        if taken > 0 {
            let (caller, receiver) = oneshot::channel();
            match self.push(Waiting::Together(proposals, caller)) {
                Ok(now_leads) => (answers, leads) = (Some(receiver), now_leads),
                Err(error) => {
                    self.give_back(taken, size);
                    refused += taken;
                    refusal = Some(error);
                }
            }
        }
        let refused = refusal.map_or(Vec::new(), |refusal| vec![refusal; refused]);
        (answers, refused, leads)
    }

    /// Counts one more proposal, of so many bytes, among those that wait.
    fn reserve(&self, size: usize) -> Result<(), AppendError> {
        // Relaxed, here and below: the numbers order nothing.
        let proposals = self.waiting_proposals.fetch_add(1, Ordering::Relaxed);
        let bytes = self.waiting_bytes.fetch_add(size, Ordering::Relaxed);
        let (queue, max) = if proposals >= self.queue_max {
            (Queue::Appends, self.queue_max)
        } else if bytes > 0 && bytes + size > self.waiting_bytes_max {
            (Queue::Bytes, self.waiting_bytes_max)
        } else {
            return Ok(());
        };
        self.give_back(1, size);
        Err(AppendError::Overloaded { queue, max })
    }

    fn give_back(&self, proposals: usize, bytes: usize) {
        // Relaxed: as in `reserve`.
        self.waiting_proposals.fetch_sub(proposals, Ordering::Relaxed);
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Hands a task in, which is done between two batches. Whether the caller has become the leader, as in
    /// [`Store::submit`].
    pub fn order(&self, task: Task) -> Result<bool, AppendError> {
        self.push(Waiting::Task(task))
    }

    fn push(&self, waiting: Waiting) -> Result<bool, AppendError> {
        let leads = self
            .waiting
            .push(waiting)
            .map_err(|_| AppendError::Overloaded { queue: Queue::Appends, max: self.queue_max })?;
        if let Some(thread) = self.leader.get() {
            if leads {
                thread.unpark();
            }
            return Ok(false);
        }
        Ok(leads)
    }

    /// From now on `thread` leads, for all callers: it runs [`Store::lead_from_now_on`]. Said before the
    /// first call, or a caller and the thread would both lead.
    pub fn led_by(&self, thread: Thread) {
        let first = self.leader.set(thread).is_ok();
        assert!(first, "one thread leads");
    }

    /// Leads until `stopped` says so and nothing waits any more. When it was quiet for `settle_after`, and
    /// at the end, what was written is made safe. Whoever makes `stopped` true unparks the thread.
    pub fn lead_from_now_on(&self, settle_after: Option<Duration>, stopped: impl Fn() -> bool) {
        loop {
            // A caller that comes between this look and the parking has unparked the thread: it does
            // not sleep.
            if self.waiting.is_waiting() {
                while self.lead(1) {}
            } else if stopped() {
                break;
            } else if let Some(quiet) = settle_after {
                thread::park_timeout(quiet);
                if !self.waiting.is_waiting() {
                    self.settle();
                }
            } else {
                thread::park();
            }
        }
        self.settle();
    }

    fn settle(&self) {
        let mut sequencer = self.writer();
        sequencer.settle();
        self.tell_if_broken(&sequencer);
    }

    /// Tells when and why nothing more is taken.
    pub fn broken(&self) -> watch::Receiver<Option<CommitLogError>> {
        self.broken.subscribe()
    }

    fn tell_if_broken(&self, sequencer: &Sequencer) {
        if let Some(reason) = sequencer.broken() {
            self.broken.send_if_modified(|told| {
                let news = told.is_none();
                told.get_or_insert_with(|| reason.clone());
                news
            });
        }
    }

    /// Decides what waits, for the leader: at most `rounds` batches. Whether it still leads.
    pub fn lead(&self, rounds: usize) -> bool {
        for _ in 0..rounds {
            let (mut proposals, mut callers) = (Batch::new(), Batch::new());
            let (mut tasks, mut bytes) = (Vec::new(), 0);
            let mut sequencer = self.writer();
            let count = self.waiting.take(BATCH_MAX, |waiting| match waiting {
                Waiting::Proposal(proposal, caller) => {
                    bytes += proposal.size();
                    proposals.push(proposal);
                    callers.push(Caller::One(caller));
                    1
                }
                Waiting::Together(together, caller) => {
                    let count = together.len();
                    bytes += together.iter().map(Proposal::size).sum::<usize>();
                    proposals.extend(together);
                    callers.push(Caller::Together(count, caller));
                    count
                }
                Waiting::Task(task) => {
                    tasks.push(task);
                    1
                }
            });
            let now = self.clock.now_micros();
            // A broken invariant must not leave the callers waiting: they are told, nothing more is
            // taken, and reads go on below the watermark.
            let applied = catch_unwind(AssertUnwindSafe(|| sequencer.apply(&proposals, now)));
            if applied.is_err() {
                sequencer.refuse_from_now_on(CommitLogError::new("an invariant does not hold"));
            }
            self.tell_if_broken(&sequencer);
            for task in tasks {
                if catch_unwind(AssertUnwindSafe(|| task(&mut sequencer))).is_err() {
                    sequencer.refuse_from_now_on(CommitLogError::new("an invariant does not hold"));
                    self.tell_if_broken(&sequencer);
                }
            }
            drop(sequencer);
            self.give_back(proposals.len(), bytes);
            let leads = self.waiting.done(count);
            // Answers wake tasks, and may wake threads: somebody else may lead by now.
            let mut answers = applied.unwrap_or_default().into_iter();
            for caller in callers {
                caller.answer(&mut answers);
            }
            if !leads {
                return false;
            }
        }
        true
    }

    fn writer(&self) -> impl std::ops::DerefMut<Target = Sequencer> {
        self.writer.lock().expect("panics are caught inside")
    }
}

#[cfg(all(test, feature = "shuttle", not(feature = "loom")))]
mod model {
    use uuid::Uuid;

    use super::*;
    use crate::core::{
        append::Write,
        clock::ManualClock,
        commit_log::memory::Memory,
        event::NewEvent,
        log::{
            LogWriter,
            format::{self, Body},
        },
        name::Name,
        position::{Position, Version},
    };

    const CALLERS: u128 = 3;
    const CALLS: u128 = 3;

    fn store() -> Arc<Store> {
        // Segments end after a few events.
        let log = LogWriter::with_segment_size(400);
        let sequencer = Sequencer::new(log, Box::new(Memory));
        Arc::new(Store::new(sequencer, Arc::new(ManualClock::default()), 64))
    }

    fn proposal(id: u128, expected: Option<Version>) -> Proposal {
        let name = |text| Name::new(text, 100).expect("a name");
        let stream = name("Account-1");
        let body = Body::default();
        let event =
            |id| NewEvent::new(Uuid::from_u128(id), &stream, &name("T"), &[], None, body.clone());
        let events = vec![event(2 * id), event(2 * id + 1)].into();
        Proposal {
            writes: [Write { stream: stream.clone(), events, expected }].into(),
            ..Proposal::default()
        }
    }

    fn call(store: &Store, proposal: Proposal) -> Result<Committed, AppendError> {
        let (mut answer, leads) = store.submit(proposal)?;
        if leads {
            while store.lead(1) {}
        }
        loop {
            match answer.try_recv() {
                Ok(answer) => return answer,
                Err(oneshot::error::TryRecvError::Empty) => shuttle::thread::yield_now(),
                Err(oneshot::error::TryRecvError::Closed) => panic!("an append got no answer"),
            }
        }
    }

    /// What a reader sees is dense, whole, in whole commits, and in every index.
    fn check(store: &Store) -> Position {
        let history = store.history();
        let reader = history.log.reader();
        let head = reader.head();
        assert_eq!(head.get() % 2, 0, "commits of two are seen whole");
        let mut after = Position::ZERO;
        while let Some(slice) = reader.slice(after, u64::MAX, 300) {
            after = slice.last;
        }
        assert_eq!(after, head);
        for position in 1..=head.get() {
            let position = Position::new(position);
            let record = reader.record(position).expect("below the head");
            let event = record.event();
            assert_eq!(event.stamp.position, position);
            assert_eq!(event.stamp.version.get(), position.get(), "there is one stream");
            assert_eq!(history.find(&event.stamp.id, &reader), Some(position));
            assert!(format::has_id(&record, &event.stamp.id));
        }
        assert_eq!(history.streams.count("Account-1", head), head.get());
        assert_eq!(history.types.count("T", head), head.get());
        head
    }

    #[test]
    fn readers_see_whole_commits_while_callers_lead_each_other() {
        shuttle::check_random(
            || {
                let store = store();
                let callers: Vec<_> = (0..CALLERS)
                    .map(|caller| {
                        let store = Arc::clone(&store);
                        shuttle::thread::spawn(move || {
                            for id in 0..CALLS {
                                let answer = call(&store, proposal(1 + caller * CALLS + id, None));
                                let committed = answer.expect("nothing refuses it");
                                let head = store.history().log.watermark().get();
                                assert!(committed.last <= head, "answered before it is visible");
                            }
                        })
                    })
                    .collect();
                let mut seen = Position::ZERO;
                for _ in 0..3 {
                    let head = check(&store);
                    assert!(seen <= head);
                    seen = head;
                }
                for caller in callers {
                    caller.join().expect("no caller panics");
                }
                let all = u64::try_from(2 * CALLERS * CALLS).expect("a small number");
                assert_eq!(check(&store).get(), all);
            },
            2000,
        );
    }

    #[test]
    fn of_racing_appends_that_expect_the_same_version_one_wins() {
        shuttle::check_random(
            || {
                let store = store();
                let callers: Vec<_> = (0..CALLERS)
                    .map(|caller| {
                        let store = Arc::clone(&store);
                        shuttle::thread::spawn(move || {
                            call(&store, proposal(1 + caller, Some(Version::ZERO))).is_ok()
                        })
                    })
                    .collect();
                let won = callers
                    .into_iter()
                    .map(|caller| caller.join().expect("no caller panics"))
                    .filter(|won| *won)
                    .count();
                assert_eq!(won, 1);
                assert_eq!(check(&store), Position::new(2));
            },
            2000,
        );
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::{
        append::{Queue, Write},
        clock::ManualClock,
        commit_log::memory::Memory,
        event::NewEvent,
        log::{LogWriter, format::Body},
        name::Name,
    };

    fn proposal(id: u128, bytes: usize) -> Proposal {
        let name = |text| Name::new(text, 100).expect("a name");
        let (stream, event_type) = (name("Account-1"), name(&"T".repeat(50)));
        let text = "x".repeat(bytes);
        let body = Body { correlation_id: &text, ..Body::default() };
        let event = NewEvent::new(Uuid::from_u128(id), &stream, &event_type, &[], None, body);
        let writes = [Write { stream, events: event.into(), expected: None }].into();
        Proposal { writes, ..Proposal::default() }
    }

    /// Of those that are handed in together the first ones for which there is room are taken, whatever waits before them. Seen to
    /// fail where one more is let in.
    #[test]
    fn what_is_handed_in_together_is_taken_as_far_as_there_is_room() {
        let sequencer = Sequencer::new(LogWriter::with_segment_size(1 << 20), Box::new(Memory));
        let store = Store::new(sequencer, Arc::new(ManualClock::default()), 5);
        let store = store.with_queue_bytes(30_000);
        let proposals = |id, sizes: &[usize]| -> Vec<Proposal> {
            (id..).zip(sizes).map(|(id, bytes)| proposal(id, *bytes)).collect()
        };
        for round in 0..3 {
            let id = 100 * round;
            let (one, leads) = store.submit(proposal(id, 1)).expect("it is the first");
            assert!(leads);
            let (answers, refused, leads) = store.submit_together(proposals(id + 1, &[1; 6]));
            assert!(!leads);
            let full = AppendError::Overloaded { queue: Queue::Appends, max: 5 };
            assert_eq!(refused, [full.clone(), full.clone()]);
            let (none, refused, _) = store.submit_together(proposals(id + 10, &[1; 2]));
            assert!(none.is_none());
            assert_eq!(refused, [full.clone(), full]);
            assert!(!store.lead(1));
            let last = |outcome: Outcome| outcome.expect("it is written").last.get();
            let first = last(one.blocking_recv().expect("it is answered"));
            let together = answers.expect("four were taken").blocking_recv().expect("an answer");
            let together: Vec<u64> = together.into_iter().map(last).collect();
            assert_eq!(together, (first + 1..=first + 4).collect::<Vec<_>>());

            let sizes = [40_000, 1, 1];
            let (answers, refused, leads) = store.submit_together(proposals(id + 20, &sizes));
            assert!(leads);
            let full = AppendError::Overloaded { queue: Queue::Bytes, max: 30_000 };
            assert_eq!(refused, [full.clone(), full]);
            assert!(!store.lead(1));
            let answers = answers.expect("one always may").blocking_recv().expect("an answer");
            assert_eq!(answers.into_iter().map(last).collect::<Vec<_>>(), [first + 5]);
        }
    }

    /// Also one that was refused, for its bytes or for the number of those before it, has no part in it.
    #[test]
    fn so_many_bytes_may_wait_and_one_proposal_always() {
        let sequencer = Sequencer::new(LogWriter::with_segment_size(1 << 20), Box::new(Memory));
        let store = Store::new(sequencer, Arc::new(ManualClock::default()), 2);
        let store = store.with_queue_bytes(10_000);
        for round in 0..3 {
            let id = 10 * round;
            let (mut first, leads) = store.submit(proposal(id, 20_000)).expect("it is the first");
            assert!(leads);
            let refusal = store.submit(proposal(id + 1, 1)).expect_err("10 000 bytes are there");
            assert!(
                matches!(refusal, AppendError::Overloaded { queue: Queue::Bytes, max: 10_000 }),
                "{refusal}"
            );
            assert!(!store.lead(1));
            first.try_recv().expect("it is answered").expect("it is written");

            let (_, leads) = store.submit(proposal(id + 2, 4000)).expect("there is room");
            assert!(leads);
            store.submit(proposal(id + 3, 4000)).expect("there is room");
            let refusal = store.submit(proposal(id + 4, 1000)).expect_err("two wait");
            assert!(
                matches!(refusal, AppendError::Overloaded { queue: Queue::Appends, max: 2 }),
                "{refusal}"
            );
            assert!(!store.lead(1));
        }
    }
}
