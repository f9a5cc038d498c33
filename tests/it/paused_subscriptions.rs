//! When a subscription sends what: with time paused, so that it passes only where somebody waits.

use std::{sync::Arc, time::Duration};

use annals::{
    core::{
        append::{Proposal, Write},
        clock::{Clock, ManualClock},
        commit_log::memory::Memory,
        event::NewEvent,
        filter::{Clause, Filter},
        log::{
            LogWriter,
            format::{Body, Data},
        },
        name::Name,
        position::Position,
        sequencer::Sequencer,
        store::Store,
    },
    service::{
        places::Places,
        subscription::{
            Caller, InteractiveOptions, Interests, Message, Start, SubscribeError,
            SubscribeOptions, Subscription, SubscriptionService, Told as InteractiveTold,
        },
    },
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::positions;

const HOUR: Duration = Duration::from_hours(1);

/// A store, who subscribes to it, and when it began.
struct Stage {
    store: Store,
    service: SubscriptionService,
    stop: CancellationToken,
    began: Instant,
}

impl Stage {
    fn set() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        let sequencer = Sequencer::new(LogWriter::with_segment_size(1 << 20), Box::new(Memory));
        let store = Store::new(sequencer, Arc::clone(&clock), 10);
        let (history, stop) = (Arc::clone(store.history()), CancellationToken::new());
        let interests = Interests::new(Arc::clone(&history), stop.clone());
        tokio::spawn(interests.clone().follow());
        let (places, stop_too) = (Places::new(10), stop.clone());
        let service = SubscriptionService::new(history, clock, places, interests, stop_too);
        Self { store, service, stop, began: Instant::now() }
    }

    fn append(&self, event_type: &str, events: usize) {
        self.append_sized(event_type, events, 1);
    }

    /// Events of a little more than `size` bytes, in one commit.
    fn append_sized(&self, event_type: &str, events: usize, size: usize) {
        let (stream, text) = (Name::any("Payment-1"), "x".repeat(size));
        let event = || {
            let body = Body { data: Data::Text(&text), ..Body::default() };
            let event_type = Name::any(event_type);
            NewEvent::new(Uuid::new_v4(), &stream, &event_type, &[], None, body)
        };
        let events = (0..events).map(|_| event()).collect();
        let write = Write { stream: stream.clone(), events, expected: None };
        let proposal = Proposal { writes: [write].into(), ..Proposal::default() };
        let (mut answer, leads) = self.store.submit(proposal).unwrap();
        assert!(leads && !self.store.lead(1), "nobody else calls");
        answer.try_recv().unwrap().unwrap();
    }

    /// One that has caught up.
    async fn live(&self, options: SubscribeOptions) -> Follower {
        let subscription = self.service.subscribe(options, Caller::default()).await.unwrap();
        let mut follower = Follower { subscription, began: self.began };
        while !matches!(follower.next().await.unwrap().1, Told::CaughtUp(_)) {}
        follower
    }

    async fn pass(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

fn options(types: &[&str]) -> SubscribeOptions {
    let types = types.iter().map(|name| Name::any(name)).collect::<Vec<_>>();
    let clause = Clause { types: types.clone(), ..Clause::default() };
    SubscribeOptions {
        start: Start::After(Position::ZERO),
        filter: Filter { clauses: if types.is_empty() { vec![] } else { vec![clause] } },
        batch_size: 1000,
        batch_size_bytes: 64 << 10,
        batch_wait_max: Duration::ZERO,
        checkpoint_interval: 1_000_000,
        checkpoint_wait_max: HOUR,
        heartbeat_interval: HOUR,
    }
}

/// What was told: events by their positions.
#[derive(Debug, PartialEq, Clone)]
enum Told {
    Confirmed,
    Events(Vec<u64>),
    Checkpoint(u64),
    CaughtUp(u64),
    FellBehind(u64, u64),
    Heartbeat(u64),
}

struct Follower {
    subscription: Subscription,
    began: Instant,
}

impl Follower {
    /// The next message, and after how many milliseconds it came.
    async fn next(&mut self) -> Result<(u128, Told), SubscribeError> {
        let message = self.subscription.next().await?;
        let told = match message {
            Message::Confirmed { .. } => Told::Confirmed,
            Message::Events { block, .. } => Told::Events(positions(&block.bytes)),
            Message::Checkpoint(position) => Told::Checkpoint(position.get()),
            Message::CaughtUp(position) => Told::CaughtUp(position.get()),
            Message::FellBehind { position, head } => Told::FellBehind(position.get(), head.get()),
            Message::Heartbeat { position, .. } => Told::Heartbeat(position.get()),
        };
        Ok((self.began.elapsed().as_millis(), told))
    }
}

/// Timers are no finer than a millisecond, and never early.
fn assert_told(actual: &[(u128, Told)], expected: &[(u128, Told)]) {
    let about = |(at, told): &(u128, Told)| (at / 10 * 10, told.clone());
    let actual: Vec<_> = actual.iter().map(about).collect();
    assert_eq!(actual, expected);
}

#[tokio::test(start_paused = true)]
async fn a_live_event_waits_for_others_until_its_message_is_full_or_its_time_is_up() {
    for types in [&["A"][..], &[]] {
        let stage = Stage::set();
        // What is there does not wait.
        stage.append("A", 1);
        let wait = SubscribeOptions {
            batch_size: 3,
            batch_wait_max: Duration::from_secs(2),
            ..options(types)
        };
        let mut follower = stage.live(wait).await;
        let told = tokio::spawn(async move {
            let mut told = Vec::new();
            for _ in 0..4 {
                told.push(follower.next().await.unwrap());
            }
            told
        });
        // Full at the third.
        for _ in 0..3 {
            stage.pass(500).await;
            stage.append("A", 1);
        }
        // Two are not enough.
        stage.pass(500).await;
        stage.append("A", 1);
        stage.pass(1500).await;
        stage.append("A", 1);
        // Three, and one is left over.
        stage.pass(6000).await;
        stage.append("A", 2);
        stage.pass(100).await;
        stage.append("A", 2);
        let expected = [
            (1500, Told::Events(vec![2, 3, 4])),
            (4000, Told::Events(vec![5, 6])),
            (9600, Told::Events(vec![7, 8, 9])),
            (11_600, Told::Events(vec![10])),
        ];
        assert_told(&told.await.unwrap(), &expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_is_full_by_its_bytes_too() {
    let stage = Stage::set();
    let wait = SubscribeOptions {
        batch_size_bytes: 4096,
        batch_wait_max: Duration::from_secs(2),
        ..options(&["A"])
    };
    let mut follower = stage.live(wait).await;
    let told = tokio::spawn(async move {
        let mut told = Vec::new();
        for _ in 0..4 {
            told.push(follower.next().await.unwrap());
        }
        told
    });
    for size in [1500, 1500, 1500, 10_000] {
        stage.pass(100).await;
        stage.append_sized("A", 1, size);
    }
    stage.pass(100).await;
    stage.append("A", 1);
    let expected = [
        (300, Told::Events(vec![1, 2])),
        (400, Told::Events(vec![3])),
        (400, Told::Events(vec![4])),
        (2500, Told::Events(vec![5])),
    ];
    assert_told(&told.await.unwrap(), &expected);
}

/// What the filters before have picked is not the new ones' to lose.
#[tokio::test(start_paused = true)]
async fn an_event_that_waits_goes_before_the_filters_change() {
    let stage = Stage::set();
    let subscribe = SubscribeOptions { batch_wait_max: Duration::from_secs(2), ..options(&["A"]) };
    let options = InteractiveOptions { subscribe, pull: false, without_filters: false };
    let mut interactive = stage.service.interactive(options, Caller::default()).await.unwrap();
    let caught_up = |told: &_| matches!(told, InteractiveTold::Message(Message::CaughtUp(_)));
    while !caught_up(&interactive.next().await.unwrap()) {}
    stage.append("A", 2);
    tokio::select! {
        told = interactive.next() => panic!("{told:?} is too early"),
        () = stage.pass(1000) => {}
    }
    interactive.remove_filter("0").unwrap();
    let InteractiveTold::Message(Message::Events { block, .. }) = interactive.next().await.unwrap()
    else {
        panic!("what waits comes first")
    };
    assert_eq!(positions(&block.bytes), [1, 2]);
    let told = interactive.next().await.unwrap();
    let InteractiveTold::FiltersChanged { position, names } = told else { panic!("{told:?}") };
    assert_eq!((position, names), (Position::new(2), vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_has_not_sent_what_waits() {
    let stage = Stage::set();
    let wait = SubscribeOptions { batch_wait_max: Duration::from_secs(2), ..options(&["A"]) };
    let mut follower = stage.live(wait).await;
    stage.append("B", 3);
    stage.append("A", 1);
    let stop = stage.stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
    });
    let SubscribeError::ShuttingDown { resume_after } = follower.next().await.unwrap_err() else {
        panic!("it stops")
    };
    assert!(resume_after < Position::new(4), "{resume_after}");
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_comes_when_events_were_passed_over_and_it_is_quiet() {
    let stage = Stage::set();
    stage.append("A", 1);
    let quiet = SubscribeOptions {
        checkpoint_wait_max: Duration::from_secs(5),
        heartbeat_interval: Duration::from_mins(1),
        checkpoint_interval: 100,
        ..options(&["A"])
    };
    let mut follower = stage.live(quiet).await;
    let told = tokio::spawn(async move {
        let mut told = Vec::new();
        for _ in 0..7 {
            told.push(follower.next().await.unwrap());
        }
        told
    });
    stage.pass(1000).await;
    stage.append("B", 3);
    // At 5 s: a checkpoint. By 10 s nothing has passed: the next one that does is told at once.
    stage.pass(11_000).await;
    stage.append("B", 1);
    stage.pass(1000).await;
    stage.append("B", 1);
    stage.pass(1000).await;
    // It is quiet anew.
    stage.append("A", 1);
    stage.pass(4000).await;
    stage.append("B", 1);
    // By number.
    stage.pass(2000).await;
    stage.append("B", 100);
    let expected = [
        (5000, Told::Checkpoint(4)),
        (12_000, Told::Checkpoint(5)),
        (14_000, Told::Events(vec![7])),
        (19_000, Told::Checkpoint(8)),
        (20_000, Told::Checkpoint(108)),
        (80_000, Told::Heartbeat(108)),
        (140_000, Told::Heartbeat(108)),
    ];
    assert_told(&told.await.unwrap(), &expected);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_says_how_far_it_is_also_where_nothing_matches() {
    for types in [&["A"][..], &[]] {
        let stage = Stage::set();
        let beats =
            SubscribeOptions { heartbeat_interval: Duration::from_secs(3), ..options(types) };
        let mut follower = stage.live(beats).await;
        let told = tokio::spawn(async move {
            let mut told = Vec::new();
            for _ in 0..4 {
                told.push(follower.next().await.unwrap());
            }
            told
        });
        stage.pass(4000).await;
        stage.append("A", 1);
        stage.pass(4000).await;
        if !types.is_empty() {
            stage.append("B", 3);
        }
        let last = if types.is_empty() { 1 } else { 4 };
        let expected = [
            (3000, Told::Heartbeat(0)),
            (4000, Told::Events(vec![1])),
            (7000, Told::Heartbeat(1)),
            (10_000, Told::Heartbeat(last)),
        ];
        assert_told(&told.await.unwrap(), &expected);
    }
}

/// What does not match is nothing that a filtered one could fall behind.
#[tokio::test(start_paused = true)]
async fn who_falls_behind_says_so_with_what_waits_sent_before() {
    let stage = Stage::set();
    let small = SubscribeOptions {
        batch_size: 10,
        batch_wait_max: Duration::from_secs(2),
        ..options(&["A"])
    };
    let mut follower = stage.live(small).await;
    stage.append("B", 500);
    stage.append("A", 1);
    stage.pass(1000).await;
    let told = tokio::spawn(async move {
        let mut told = Vec::new();
        for _ in 0..5 {
            told.push(follower.next().await.unwrap());
        }
        told
    });
    stage.pass(1000).await;
    stage.append("A", 20);
    let expected = [
        (2000, Told::Events(vec![501])),
        (2000, Told::FellBehind(501, 521)),
        (2000, Told::Events((502..=511).collect())),
        (2000, Told::Events((512..=521).collect())),
        (2000, Told::CaughtUp(521)),
    ];
    assert_told(&told.await.unwrap(), &expected);
}

/// What is committed before the first event is sent is live all the same.
#[tokio::test(start_paused = true)]
async fn no_message_holds_history_and_live_events_both() {
    for types in [&["A"][..], &[]] {
        let stage = Stage::set();
        stage.append("A", 3);
        let subscribed = stage.service.subscribe(options(types), Caller::default()).await;
        let mut subscription = subscribed.unwrap();
        stage.append("A", 2);
        let mut told = Vec::new();
        loop {
            match subscription.next().await.unwrap() {
                Message::Confirmed { head, .. } => assert_eq!(head, Position::new(3)),
                Message::Events { block, pending, replaying } => {
                    told.push((positions(&block.bytes), pending, replaying));
                }
                Message::CaughtUp(_) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, [(vec![1, 2, 3], 2, true), (vec![4, 5], 0, false)]);
    }
}

/// What comes behind an event that waits is passed over when that was sent.
#[tokio::test(start_paused = true)]
async fn what_does_not_match_behind_an_event_that_waits_is_told_after_it() {
    let stage = Stage::set();
    let wait = SubscribeOptions {
        batch_wait_max: Duration::from_secs(2),
        checkpoint_interval: 2,
        ..options(&["A"])
    };
    let mut follower = stage.live(wait).await;
    let told =
        tokio::spawn(
            async move { [follower.next().await.unwrap(), follower.next().await.unwrap()] },
        );
    stage.pass(500).await;
    stage.append("A", 1);
    stage.pass(500).await;
    stage.append("B", 5);
    let expected = [(2500, Told::Events(vec![1])), (2500, Told::Checkpoint(6))];
    assert_told(&told.await.unwrap(), &expected);
}
