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
    append::{AppendError, Committed, Proposal, Queue},
    clock::Clock,
    combiner::Combiner,
    commit_log::CommitLogError,
    history::History,
    sequencer::Sequencer,
    sync::{AtomicUsize, Mutex, Ordering},
};

/// So many proposals are decided before they are published and answered together.
const BATCH_MAX: usize = 1024;

/// What a proposal comes to; an error of the channel means that the process is ending.
pub type Answer = oneshot::Receiver<Result<Committed, AppendError>>;

/// The store.
pub struct Store {
    history: Arc<History>,
    clock: Arc<dyn Clock>,
    waiting: Combiner<Waiting>,
    /// How many may wait.
    queue_max: usize,
    /// The bytes of the proposals that wait, or are being decided. Raised by every caller, lowered by the
    /// leader.
    waiting_bytes: AtomicUsize,
    waiting_bytes_max: usize,
    /// Taken by the leader only, so nobody ever waits for it but the next leader for the last one's
    /// final step.
    writer: Mutex<Writer>,
    /// The thread that leads, where one does.
    leader: OnceLock<Thread>,
    /// Why nothing more is taken, once that is so.
    broken: watch::Sender<Option<CommitLogError>>,
}

/// What waits for the writer.
enum Waiting {
    Proposal(Proposal, oneshot::Sender<Result<Committed, AppendError>>),
    Task(Task),
}

/// Something that only the writer may do. It must be short: appends wait for it.
pub type Task = Box<dyn FnOnce(&mut Sequencer) + Send>;

struct Writer {
    sequencer: Sequencer,
    proposals: Vec<Proposal>,
    callers: Vec<oneshot::Sender<Result<Committed, AppendError>>>,
    tasks: Vec<Task>,
    answers: Vec<Result<Committed, AppendError>>,
}

impl Store {
    /// The store that `sequencer` writes, in which at most `queue_max` appends wait at once.
    pub fn new(sequencer: Sequencer, clock: Arc<dyn Clock>, queue_max: usize) -> Self {
        Self {
            history: Arc::clone(sequencer.history()),
            clock,
            waiting: Combiner::new(queue_max),
            queue_max,
            waiting_bytes: AtomicUsize::new(0),
            waiting_bytes_max: usize::MAX,
            writer: Mutex::new(Writer {
                sequencer,
                proposals: Vec::new(),
                callers: Vec::new(),
                tasks: Vec::new(),
                answers: Vec::new(),
            }),
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
        // Relaxed, here and below: the number orders nothing.
        let before = self.waiting_bytes.fetch_add(size, Ordering::Relaxed);
        let (caller, answer) = oneshot::channel();
        let pushed = if before > 0 && before + size > self.waiting_bytes_max {
            Err(AppendError::Overloaded { queue: Queue::Bytes, max: self.waiting_bytes_max })
        } else {
            self.push(Waiting::Proposal(proposal, caller))
        };
        if pushed.is_err() {
            // Relaxed: as above.
            self.waiting_bytes.fetch_sub(size, Ordering::Relaxed);
        }
        Ok((answer, pushed?))
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
        let mut writer = self.writer();
        writer.sequencer.settle();
        self.tell_if_broken(&writer.sequencer);
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
            let mut writer = self.writer();
            let Writer { sequencer, proposals, callers, tasks, answers } = &mut *writer;
            let mut bytes = 0;
            let count = self.waiting.take(BATCH_MAX, |waiting| match waiting {
                Waiting::Proposal(proposal, caller) => {
                    bytes += proposal.size();
                    proposals.push(proposal);
                    callers.push(caller);
                }
                Waiting::Task(task) => tasks.push(task),
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
            self.tell_if_broken(sequencer);
            proposals.clear();
            // Relaxed: as in `submit`.
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            // Without an answer the caller's channel closes: the outcome is unknown.
            for (caller, answer) in callers.drain(..).zip(answers.drain(..)) {
                // The caller may be gone; what it asked for is done all the same.
                let _ = caller.send(answer);
            }
            for task in tasks.drain(..) {
                if catch_unwind(AssertUnwindSafe(|| task(sequencer))).is_err() {
                    sequencer.refuse_from_now_on(CommitLogError::new("an invariant does not hold"));
                    self.tell_if_broken(sequencer);
                }
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
        let events = vec![event(2 * id), event(2 * id + 1)];
        Proposal {
            writes: vec![Write { stream: stream.clone(), events, expected }],
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
        let writes = vec![Write { stream, events: vec![event], expected: None }];
        Proposal { writes, ..Proposal::default() }
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
