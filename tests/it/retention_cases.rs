//! Retention where it is seldom looked at: limits, clocks that differ, a disk that fails, slow readers.

use std::sync::Arc;

use annals::{
    core::{
        append::{AppendError, Condition, Proposal},
        clock::Clock,
        commit_log::{CommitLog, CommitLogError, memory::Memory},
        filter::{Clause, Filter, plan::Direction},
        log::{LogWriter, chain::Hash},
        position::{Position, Version},
        retention::{Change, ENDED_RULES_MAX, Rule, Scope, Setting},
        sequencer::{Sequencer, WhenFull},
        store::Store,
    },
    service::{
        places::Places,
        scan::Scan,
        subscription::{self, Interests, Message, SubscriptionService},
    },
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::retention_model::{Caller, SECOND, Subject, from_the_start, name, positions};

fn retain(scope: &Scope, rule: Rule) -> Proposal {
    let setting = Setting { scope: scope.clone(), change: Change::Retain(rule), expected: None };
    setting.proposal(Uuid::new_v4())
}

/// What the looser ones have hidden is remembered, up to a limit, and a stricter rule makes room.
#[test]
fn a_rule_that_is_loosened_too_often_is_refused_until_a_stricter_one_comes() {
    let subject = Subject::new(false, 1 << 20);
    let category = Scope::Category(name("Payment"));
    let counted = |max| Rule { max_age_micros: None, max_count: Some(max) };
    for max in 1..=ENDED_RULES_MAX as u64 + 1 {
        assert!(subject.commit(retain(&category, counted(max)), true).is_ok());
    }
    assert_eq!(subject.queries().retention(&category).ended_rules, ENDED_RULES_MAX);
    let refusal = subject.commit(retain(&category, counted(1000)), true).unwrap_err();
    assert!(matches!(refusal, AppendError::TooManyRules { max: ENDED_RULES_MAX, .. }));
    assert!(subject.commit(retain(&category, Rule::default()), true).is_err());
    assert!(subject.commit(retain(&category, counted(10)), true).is_ok());
    assert_eq!(subject.queries().retention(&category).ended_rules, 9);
    assert!(subject.commit(retain(&category, counted(1000)), true).is_ok());

    // A stream remembers one number only.
    let stream = Scope::Stream(name("Payment-1"));
    for max in 1..200 {
        assert!(subject.commit(retain(&stream, counted(max)), true).is_ok());
    }
}

/// A condition is judged at the time that is stamped on its batch: what a caller with a faster clock took
/// for hidden is looked at again.
#[test]
fn a_condition_that_was_looked_at_with_a_faster_clock_is_judged_at_the_stamped_time() {
    let subject = Subject::new(false, 1 << 20);
    let mut caller = Caller::default();
    subject.clock.set(100 * SECOND);
    let rule = Rule { max_age_micros: Some(10 * SECOND), max_count: None };
    subject.commit(retain(&Scope::Stream(name("Payment-1")), rule), true).unwrap();
    subject.commit(caller.append("Payment-1", 1), true).unwrap();

    let mut guarded = |checked_at_micros| {
        let streams = vec![name("Payment-1")];
        let filter = Filter { clauses: vec![Clause { streams, ..Clause::default() }] };
        let (after, checked) = (Position::ZERO, Position::new(2));
        let conditions = vec![Condition { filter, after, checked, checked_at_micros }];
        Proposal { conditions, ..caller.append("Order-1", 1) }
    };
    let refusal = subject.commit(guarded(111 * SECOND), true).unwrap_err();
    assert!(matches!(refusal, AppendError::ConditionBroken { .. }), "{refusal:?}");
    subject.clock.set(111 * SECOND);
    assert!(subject.commit(guarded(111 * SECOND), true).is_ok());
}

/// What was too old once stays so, also if the clock goes back.
#[test]
fn a_clock_that_goes_back_shows_nothing_again() {
    let subject = Subject::new(false, 1 << 20);
    subject.clock.set(100 * SECOND);
    let rule = Rule { max_age_micros: Some(10 * SECOND), max_count: None };
    subject.commit(retain(&Scope::Stream(name("Payment-1")), rule), true).unwrap();
    subject.commit(Caller::default().append("Payment-1", 1), true).unwrap();
    let read = || {
        let (history, filter) = (subject.store.history(), Filter::default());
        let (forwards, all) = (Direction::Forwards, Position::ZERO);
        positions(Scan::all(history, &*subject.clock, &filter, forwards, all, 0), 10)
    };
    assert_eq!(read(), [1, 2]);
    subject.clock.set(111 * SECOND);
    assert_eq!(read(), [1]);
    subject.clock.set(100 * SECOND);
    assert_eq!(read(), [1]);
}

/// Long runs between hidden events are sent as they lie, short ones together; all of them once.
#[test]
fn runs_of_visible_events_of_every_length_come_whole_and_in_order() {
    let subject = Subject::new(false, 100_000);
    let mut caller = Caller::default();
    let mut expected = Vec::new();
    let mut head = 0;
    for run in [1, 2, 3, 500, 1, 1, 2000, 1, 7] {
        for (stream, count) in [("Payment-1", run), ("Order-1", 1)] {
            subject.commit(caller.append(stream, count), true).unwrap();
            if stream == "Payment-1" {
                expected.extend(head + 1..=head + count as u64);
            }
            head += count as u64;
        }
    }
    let change = Change::Delete;
    let setting = Setting { scope: Scope::Stream(name("Order-1")), change, expected: None };
    subject.commit(setting.proposal(Uuid::new_v4()), true).unwrap();
    expected.push(head + 1);
    let (history, filter) = (subject.store.history(), Filter::default());
    for batch in [1, 2, 499, u64::MAX] {
        for direction in [Direction::Forwards, Direction::Backwards] {
            let scan = Scan::all(history, &*subject.clock, &filter, direction, Position::ZERO, 0);
            let seen = positions(scan, batch);
            let in_order: Vec<u64> = match direction {
                Direction::Forwards => expected.clone(),
                Direction::Backwards => expected.iter().rev().copied().collect(),
            };
            assert_eq!(seen, in_order);
        }
    }
}

/// A disk that fails at a sync, once so many have gone well.
struct Failing(u32);

impl CommitLog for Failing {
    fn begin(&mut self, _: Position, _: usize, _: Option<&Hash>) -> Result<(), CommitLogError> {
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> Result<(), CommitLogError> {
        Ok(())
    }

    fn sync(&mut self) -> Result<(), CommitLogError> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| CommitLogError::new("bad disk"))?;
        Ok(())
    }

    fn settle(&mut self) -> Result<(), CommitLogError> {
        self.sync()
    }
}

/// What was set is not seen before it is safe: a restart may not find it.
#[test]
fn a_setting_that_could_not_be_synced_hides_nothing() {
    for settings_before in [0, 1] {
        let mut subject = Subject::new(false, 1 << 20);
        let log = LogWriter::with_segment_size(1 << 20);
        let sequencer = Sequencer::new(log, Box::new(Failing(1 + settings_before)));
        let clock: Arc<dyn Clock> = subject.clock.clone();
        subject.store = Arc::new(Store::new(sequencer, clock, 10));
        subject.commit(Caller::default().append("Payment-1", 3), true).unwrap();
        let scope = Scope::Stream(name("Payment-1"));
        let truncate = |before| {
            let change = Change::Truncate { before: Version::new(before) };
            Setting { scope: scope.clone(), change, expected: None }.proposal(Uuid::new_v4())
        };
        if settings_before == 1 {
            subject.commit(truncate(2), true).unwrap();
        }
        let failure = subject.commit(truncate(4), true);
        assert!(matches!(failure, Err(AppendError::OutcomeUnknown(_))), "{failure:?}");
        assert_eq!(subject.queries().retention(&scope).floor.get(), u64::from(settings_before));
        let read =
            subject.queries().read_stream("Payment-1", Direction::Forwards, Version::ZERO, 0);
        assert_eq!(positions(read.unwrap(), 10).len() as u64, 3 - u64::from(settings_before));
    }
}

/// Or there would be no way to make room.
#[test]
fn a_full_store_takes_settings() {
    let mut subject = Subject::new(false, 1 << 20);
    let log = LogWriter::with_segment_size(1 << 20);
    let sequencer = Sequencer::new(log, Box::new(Memory)).with_memory_max(1, WhenFull::Reject);
    let clock: Arc<dyn Clock> = subject.clock.clone();
    subject.store = Arc::new(Store::new(sequencer, clock, 10));
    let full = subject.commit(Caller::default().append("Payment-1", 1), true);
    assert!(matches!(full, Err(AppendError::Full { .. })), "{full:?}");
    let rule = Rule { max_age_micros: None, max_count: Some(1) };
    subject.commit(retain(&Scope::Category(name("Payment")), rule), true).unwrap();
}

/// A slow subscriber is not sent for long what was hidden after its scan began.
#[test]
fn a_subscription_that_is_behind_notices_a_deletion() {
    let subject = Subject::new(false, 1 << 20);
    subject.commit(Caller::default().append("Payment-1", 1000), true).unwrap();
    let history = Arc::clone(subject.store.history());
    let clock: Arc<dyn Clock> = subject.clock.clone();
    let stop = CancellationToken::new();
    let interests = Interests::new(Arc::clone(&history), stop.clone());
    let service = SubscriptionService::new(history, clock, Places::new(10), interests, stop);
    let options = from_the_start(Filter::default(), 1);
    let subscription = service.subscribe(options, subscription::Caller::default());
    let mut subscription = subject.runtime.block_on(subscription).unwrap();
    let mut next = || subject.runtime.block_on(subscription.next()).unwrap();
    let mut sent = 0;
    while sent < 10 {
        sent += u64::from(matches!(next(), Message::Events { .. }));
    }
    let change = Change::Delete;
    let setting = Setting { scope: Scope::Stream(name("Payment-1")), change, expected: None };
    subject.commit(setting.proposal(Uuid::new_v4()), true).unwrap();
    loop {
        match next() {
            Message::Events { .. } => sent += 1,
            Message::CaughtUp(position) => break assert_eq!(position, Position::new(1001)),
            _ => {}
        }
    }
    assert!(sent < 100, "{sent} events were sent");
}
