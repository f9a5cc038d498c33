//! Projections: each event counts exactly once, whatever fails in between.

use std::{sync::Arc, time::Duration};

use annals_client::{
    Client, Event, ExpectedVersion, Filter, NewEvent,
    client::Retry,
    projection::{
        Documents, HandlerError, OnFailure, Projection, ReadModelTarget, RunError, Runner, Target,
        TargetError, rebuild,
    },
    read_model::{Change, Find, ReadModel},
    testing::TestStore,
};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::checks::Checks;

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct Total {
    events: u64,
    amount: u64,
}

/// Adds up the amounts of each stream of `Account`. An event of the type `Broken` cannot be handled.
#[derive(Clone, Default)]
struct Totals {
    /// Handles only as many events as there are permits.
    gate: Option<Arc<Semaphore>>,
}

impl Projection<Documents> for Totals {
    fn name(&self) -> &'static str {
        "totals"
    }

    fn filters(&self) -> Vec<Filter> {
        vec![Filter::new().category("Account")]
    }

    async fn handle(&mut self, event: &Event, totals: &mut Documents) -> Result<(), HandlerError> {
        if let Some(gate) = &self.gate {
            gate.acquire().await?.forget();
        }
        let mut total: Total = totals.get(&event.stream).await?.unwrap_or_default();
        total.events += 1;
        total.amount += event.json::<u64>()?;
        totals.put(&event.stream, &total)?;
        if event.event_type == "Broken" {
            return Err("it is broken".into());
        }
        Ok(())
    }
}

/// Appends `count` events over three accounts; what the totals must be.
async fn fill(client: &Client, count: u64) -> [Total; 3] {
    let mut totals: [Total; 3] = Default::default();
    for number in 0..count {
        let account = usize::try_from(number % 3).unwrap();
        let event = NewEvent::json("Deposited", &number).unwrap();
        client.append(format!("Account-{account}"), ExpectedVersion::Any, [event]).await.unwrap();
        totals[account].events += 1;
        totals[account].amount += number;
    }
    totals
}

async fn model(client: &Client) -> ReadModel {
    let model = client.read_model("totals");
    model.create(&[&["events"]]).await.unwrap();
    model
}

async fn totals(model: &ReadModel) -> Vec<Total> {
    let found = model.find_all::<Total>(Find::new()).await.unwrap();
    found.into_iter().map(|document| document.value).collect()
}

fn runner<T: Target<Batch = Documents>>(client: &Client, target: T) -> Runner<Totals, T> {
    let retry = Retry { tries: 2, pause: Duration::from_millis(1), ..Retry::default() };
    Runner::new(client, Totals::default(), target).batch_size(7).retry(retry)
}

#[tokio::test]
async fn the_read_model_is_a_fold_over_the_log_and_the_checkpoint_passes_what_does_not_match() {
    let store = TestStore::start().await;
    let client = store.client();
    let expected = fill(&client, 100).await;
    client.append("User-1", 0, [NewEvent::new("Registered")]).await.unwrap();
    let model = model(&client).await;
    let target = ReadModelTarget::new(model.clone());
    runner(&client, target).run_until_caught_up().await.unwrap();
    assert_eq!(totals(&model).await, expected);
    assert_eq!(model.checkpoint().await.unwrap().checkpoint, 101);
}

/// Also after an event that does not concern it: its position is reached all the same.
#[tokio::test]
async fn a_client_reads_its_own_writes_in_a_read_model() {
    let store = TestStore::start().await;
    let client = store.client();
    let model = model(&client).await;
    let running = runner(&client, ReadModelTarget::new(model.clone()));
    let progress = running.progress();
    let running = tokio::spawn(running.run(std::future::pending()));
    for number in 0..5_u64 {
        let event = NewEvent::json("Deposited", &number).unwrap();
        client.append("Account-1", ExpectedVersion::Any, [event]).await.unwrap();
        let other = client.append(format!("User-{number}"), 0, [NewEvent::new("Registered")]);
        let position = other.await.unwrap().position;
        let reading = model.clone().min_position(position);
        let total = reading.get::<Total>("Account-1").await.unwrap().unwrap().value;
        assert_eq!(total.events, number + 1);
    }
    assert!(progress.borrow().checkpoint >= 9);
    running.abort();
}

/// Commits, and says that it has not: the answer was lost.
struct LosesAnswers(ReadModelTarget, u32);

impl Target for LosesAnswers {
    type Batch = Documents;

    async fn checkpoint(&mut self) -> Result<u64, TargetError> {
        self.0.checkpoint().await
    }

    fn begin(&mut self) -> Documents {
        self.0.begin()
    }

    async fn commit(
        &mut self,
        expected: u64,
        checkpoint: u64,
        batch: &mut Documents,
    ) -> Result<(), TargetError> {
        let committed = self.0.commit(expected, checkpoint, batch).await;
        self.1 += 1;
        match committed {
            Ok(()) if self.1.is_multiple_of(2) => Err(TargetError::Transient("lost".into())),
            committed => committed,
        }
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_counts_once() {
    let store = TestStore::start().await;
    let client = store.client();
    let expected = fill(&client, 60).await;
    let model = model(&client).await;
    let target = LosesAnswers(ReadModelTarget::new(model.clone()), 0);
    runner(&client, target).run_until_caught_up().await.unwrap();
    assert_eq!(totals(&model).await, expected);
}

/// One runner has begun when another one handles the same events and commits them; then the first goes on.
#[tokio::test]
async fn a_runner_that_was_overtaken_repeats_nothing() {
    let store = TestStore::start().await;
    let client = store.client();
    let expected = fill(&client, 6).await;
    let model = model(&client).await;
    let gate = Arc::new(Semaphore::new(0));
    let slow = Totals { gate: Some(Arc::clone(&gate)) };
    let slow = Runner::new(&client, slow, ReadModelTarget::new(model.clone()));
    let mut progress = slow.progress();
    let slow = tokio::spawn(slow.run_until_caught_up());
    // It has begun at checkpoint 0.
    progress.changed().await.unwrap();
    let quick = runner(&client, ReadModelTarget::new(model.clone()));
    quick.run_until_caught_up().await.unwrap();
    gate.add_permits(1000);
    slow.await.unwrap().unwrap();
    assert_eq!(totals(&model).await, expected);
}

/// The harness sees what it is there to see: without the check of the checkpoint events count twice.
#[tokio::test]
async fn without_the_checkpoint_check_events_count_twice() {
    let store = TestStore::start().await;
    let client = store.client();
    let expected = fill(&client, 6).await;
    let model = model(&client).await;
    for is_on in [true, false] {
        let mut target = Checks { target: ReadModelTarget::new(model.clone()), is_on };
        let mut batch = {
            target.checkpoint().await.unwrap();
            target.begin()
        };
        for event in client.read_all().limit(6).collect().await.unwrap() {
            Totals::default().handle(&event, &mut batch).await.unwrap();
        }
        // Both believe that the projection is at 0, as a runner does whose connection was away for a while.
        let committed = target.commit(0, 5, &mut batch).await;
        assert!(committed.is_ok(), "{committed:?}");
    }
    assert_ne!(totals(&model).await, expected);
    let doubled: u64 = totals(&model).await.iter().map(|total| total.events).sum();
    assert_eq!(doubled, 12);
}

/// Two runners of one projection, stopped at any moment and started anew 100 times beside the writers; then one that
/// comes to the end. The model, and what it must say.
async fn dropped_and_started_anew(store: &TestStore, is_on: bool) -> (ReadModel, [Total; 3]) {
    let client = store.client();
    let model = model(&client).await;
    let checks = || Checks { target: ReadModelTarget::new(model.clone()), is_on };
    let writing = tokio::spawn({
        let client = client.clone();
        async move { fill(&client, 3000).await }
    });
    let mut drops = 0;
    while drops < 100 || !writing.is_finished() {
        // Of different sizes, so that their batches overlap.
        let running = runner(&client, checks());
        let mut progress = running.progress();
        let other = runner(&client, checks()).batch_size(5);
        let running = tokio::spawn(running.run(std::future::pending()));
        let other = tokio::spawn(other.run(std::future::pending()));
        let turns = rand::rng().random_range(0..6);
        for _ in 0..turns {
            // Where nothing is left to do, or without the check, there may be no progress.
            let changed = tokio::time::timeout(Duration::from_millis(20), progress.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                break;
            }
        }
        running.abort();
        other.abort();
        drops += 1;
    }
    let expected = writing.await.unwrap();
    let target = ReadModelTarget::new(model.clone());
    runner(&client, target).run_until_caught_up().await.unwrap();
    (model, expected)
}

#[tokio::test(flavor = "multi_thread")]
async fn runners_that_are_dropped_at_any_moment_lose_and_repeat_nothing() {
    let store = TestStore::start().await;
    let (model, expected) = dropped_and_started_anew(&store, true).await;
    assert_eq!(totals(&model).await, expected);
    assert_eq!(model.checkpoint().await.unwrap().checkpoint, 3000);
}

/// The same, seen to fail: it is the check that keeps them apart.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_checkpoint_check_dropped_runners_do_not_count_once() {
    let store = TestStore::start().await;
    let (model, expected) = dropped_and_started_anew(&store, false).await;
    assert_ne!(totals(&model).await, expected);
}

async fn with_a_broken_event() -> (TestStore, ReadModel) {
    let store = TestStore::start().await;
    let client = store.client();
    for event_type in ["Deposited", "Broken", "Deposited"] {
        let event = NewEvent::json(event_type, &1).unwrap();
        client.append("Account-1", ExpectedVersion::Any, [event]).await.unwrap();
    }
    let model = model(&client).await;
    (store, model)
}

#[tokio::test]
async fn a_runner_stops_before_an_event_that_cannot_be_handled() {
    let (store, model) = with_a_broken_event().await;
    let client = store.client();
    let target = ReadModelTarget::new(model.clone());
    let stopped = runner(&client, target).run_until_caught_up().await;
    let Err(RunError::Handler { position: 2, event_type, .. }) = stopped else {
        panic!("{stopped:?}")
    };
    assert_eq!(event_type, "Broken");
    // What came before is there, and nothing of the event itself.
    assert_eq!(totals(&model).await, [Total { events: 1, amount: 1 }]);
    assert_eq!(model.checkpoint().await.unwrap().checkpoint, 1);
}

#[tokio::test]
async fn an_event_that_cannot_be_handled_is_parked_once_and_passed_over() {
    let (store, model) = with_a_broken_event().await;
    let client = store.client();
    for version in [0, 2] {
        let model = client.read_model("totals").version(version);
        model.create(&[&["events"]]).await.unwrap();
        let target = ReadModelTarget::new(model.clone());
        let parking = runner(&client, target).on_failure(OnFailure::Park);
        parking.run_until_caught_up().await.unwrap();
        assert_eq!(totals(&model).await, [Total { events: 2, amount: 2 }]);
    }
    let parked = client.read_stream("ProjectionParked-totals").collect().await.unwrap();
    let [parked] = parked.as_slice() else { panic!("{parked:?}") };
    let said: serde_json::Value = parked.json().unwrap();
    assert_eq!(said["position"], 2);
    assert_eq!(said["error"], "it is broken");
    assert_eq!(totals(&model).await.len(), 1);
}

#[tokio::test]
async fn a_rebuilt_version_takes_the_place_of_the_old_one_at_once() {
    let store = TestStore::start().await;
    let client = store.client();
    let expected = fill(&client, 30).await;
    let model = model(&client).await;
    let target = ReadModelTarget::new(model.clone());
    runner(&client, target).run_until_caught_up().await.unwrap();
    let mut watch = model.watch::<Total>(Find::new()).await.unwrap();

    let next = rebuild(&client, "totals", &[&["amount"]], Totals::default()).await.unwrap();
    assert_eq!(next.checkpoint().await.unwrap().version, 2);
    assert_eq!(model.checkpoint().await.unwrap().version, 2);
    assert_eq!(totals(&model).await, expected);
    assert_eq!(totals(&model.clone().version(1)).await, expected, "the old one is there still");
    // Who watched the old one is told to forget it.
    let mut resets = 0;
    while resets == 0 {
        let told = watch.next().await.unwrap();
        resets = told.iter().filter(|change| matches!(change, Change::Reset)).count();
    }
}
