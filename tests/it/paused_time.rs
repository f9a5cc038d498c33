//! When a replay sends what, a watch tells what, and a search says how far it is: the services with time
//! paused, so that it passes only where they wait.

use std::{sync::Arc, time::Duration};

use annals::{
    core::{
        append::{Proposal, Write},
        clock::{Clock, ManualClock, Timestamp},
        commit_log::memory::Memory,
        event::NewEvent,
        filter::{Clause, Filter, plan::Direction, text::TextMatch},
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
        analytics::{StatisticsQuery, Update, Watched, calendar::Zone, tally::TimeBase},
        page_token::Fingerprint,
        query::QueryError,
        replay::{Message, Replay, ReplayOptions},
        search::{Found, Search},
    },
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::positions;

/// When the first event of a history is, in seconds since 1970.
const BEGIN: i64 = 1_288_526_400;

/// An empty history.
fn empty() -> (Store, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let sequencer = Sequencer::new(LogWriter::with_segment_size(1 << 20), Box::new(Memory));
    let store = Store::new(sequencer, Arc::clone(&clock) as Arc<dyn Clock>, 10);
    (store, clock)
}

fn append(store: &Store, occurred_at: Option<Timestamp>, body: Body<'_>) {
    let (stream, event_type) = (Name::any("Payment-1"), Name::any("Paid"));
    let event = NewEvent::new(Uuid::new_v4(), &stream, &event_type, &[], occurred_at, body);
    let write = Write { stream, events: event.into(), expected: None };
    let proposal = Proposal {
        writes: [write].into(),
        conditions: Vec::new(),
        validate_only: false,
        setting: None,
    };
    let (mut answer, leads) = store.submit(proposal).unwrap();
    assert!(leads && !store.lead(1), "nobody else calls");
    answer.try_recv().unwrap().unwrap();
}

/// A history with one commit of one event for each of these: the seconds since the beginning when it occurred.
/// It is recorded a thousand seconds later, twice as far from the first one.
fn history(occurred: &[f64]) -> (Store, Arc<ManualClock>) {
    let (store, clock) = empty();
    for seconds in occurred {
        clock.set(BEGIN * 1_000_000 + micros(1000.0 + 2.0 * seconds));
        let occurred_at = Timestamp::from_micros(BEGIN * 1_000_000 + micros(*seconds));
        append(&store, Some(occurred_at), Body::default());
    }
    (store, clock)
}

#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
fn micros(seconds: f64) -> i64 {
    (seconds * 1e6).round() as i64
}

fn options(speed: Option<f64>) -> ReplayOptions {
    ReplayOptions {
        filter: Filter::default(),
        after: Position::ZERO,
        from: None,
        speed,
        base: TimeBase::Occurred,
        pause_max: Duration::from_hours(24 * 3660),
        limit: 0,
    }
}

/// What was told, and after how long: positions, or a pause.
#[derive(Debug, PartialEq)]
enum Told {
    Events(f64, Vec<u64>),
    /// When it was told, how long it is, and the time of the event that comes next, seconds since the
    /// beginning.
    Pause(f64, f64, f64),
}
use Told::{Events, Pause};

/// Milliseconds: timers are no finer. They never fire early.
fn rounded(time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let seconds = time.as_millis() as f64 / 1000.0;
    seconds
}

async fn replayed(store: &Store, clock: &ManualClock, options: ReplayOptions) -> Vec<Told> {
    let begun = Instant::now();
    let stop = CancellationToken::new();
    let mut replay = Replay::begin(store.history(), clock, options, stop).await.unwrap();
    let mut told = Vec::new();
    let mut count = 0;
    while let Some(message) = replay.next().await.unwrap() {
        let at = rounded(begun.elapsed());
        match message {
            Message::Started { head } => {
                assert_eq!((head, at), (store.history().log.watermark().get(), 0.0));
            }
            Message::Events(block) => {
                let positions = positions(&block.bytes);
                assert_eq!(block.events, positions.len() as u64);
                count += block.events;
                told.push(Events(at, positions));
            }
            Message::Pause { wait, until } => {
                let until = until.since(Timestamp::from_micros(BEGIN * 1_000_000)).unwrap();
                told.push(Pause(at, rounded(wait), until.as_secs_f64()));
            }
            Message::Ended { events, .. } => assert_eq!(events, count),
        }
    }
    told
}

#[tokio::test(start_paused = true)]
async fn at_its_own_pace_events_come_when_they_came_and_long_pauses_are_told() {
    let (store, clock) = history(&[0.0, 0.5, 0.5, 1.5, 2.75, 62.75]);
    let told = replayed(&store, &clock, options(Some(1.0))).await;
    let expected = [
        Events(0.0, vec![1]),
        Events(0.5, vec![2, 3]),
        // A second and no more is not told.
        Events(1.5, vec![4]),
        Pause(1.5, 1.25, 2.75),
        Events(2.75, vec![5]),
        Pause(2.75, 60.0, 62.75),
        Events(62.75, vec![6]),
    ];
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn twice_as_fast_half_as_fast_and_a_million_times_as_fast() {
    let (store, clock) = history(&[0.0, 3.0, 5.0, 86_405.0]);
    let expected = [
        Events(0.0, vec![1]),
        Pause(0.0, 1.5, 3.0),
        Events(1.5, vec![2]),
        Events(2.5, vec![3]),
        Pause(2.5, 43_200.0, 86_405.0),
        Events(43_202.5, vec![4]),
    ];
    assert_eq!(replayed(&store, &clock, options(Some(2.0))).await, expected);
    let expected = [
        Events(0.0, vec![1]),
        Pause(0.0, 6.0, 3.0),
        Events(6.0, vec![2]),
        Pause(6.0, 4.0, 5.0),
        Events(10.0, vec![3]),
        Pause(10.0, 172_800.0, 86_405.0),
        Events(172_810.0, vec![4]),
    ];
    assert_eq!(replayed(&store, &clock, options(Some(0.5))).await, expected);
    let fast = replayed(&store, &clock, options(Some(1e6))).await;
    let [Events(first, _), .., Events(last, positions)] = &fast[..] else { panic!("{fast:?}") };
    assert!(*first == 0.0 && positions.ends_with(&[4]), "{fast:?}");
    // 86 ms, by timers of a millisecond.
    assert!((0.086..=0.089).contains(last), "{fast:?}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_never_longer_than_pause_max() {
    let (store, clock) = history(&[0.0, 1.0, 101.0, 101.25, 1e6]);
    let bounded = |speed, pause_max| ReplayOptions { pause_max, ..options(Some(speed)) };
    let told = replayed(&store, &clock, bounded(1.0, Duration::from_secs(5))).await;
    let expected = [
        Events(0.0, vec![1]),
        Events(1.0, vec![2]),
        Pause(1.0, 5.0, 101.0),
        Events(6.0, vec![3]),
        Events(6.25, vec![4]),
        Pause(6.25, 5.0, 1e6),
        Events(11.25, vec![5]),
    ];
    assert_eq!(told, expected);
    // As it is waited for, not as it was.
    let told = replayed(&store, &clock, bounded(50.0, Duration::from_millis(500))).await;
    let times = [(0.0, 1), (0.02, 2), (0.52, 3), (0.525, 4), (1.025, 5)];
    assert_eq!(told, times.map(|(at, position)| Events(at, vec![position])));
    // None at all.
    let told = replayed(&store, &clock, bounded(1.0, Duration::ZERO)).await;
    assert_eq!(told, [Events(0.0, vec![1, 2, 3, 4, 5])]);
}

/// An event from before the latest one comes with it, and the pace goes on from that.
#[tokio::test(start_paused = true)]
async fn times_that_go_back_wait_for_nothing() {
    let (store, clock) = history(&[10.0, 10.5, 0.0, 10.25, 11.0, 3.0, 11.5]);
    let told = replayed(&store, &clock, options(Some(1.0))).await;
    let expected = [
        Events(0.0, vec![1]),
        Events(0.5, vec![2, 3, 4]),
        Events(1.0, vec![5, 6]),
        Events(1.5, vec![7]),
    ];
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn the_pace_is_that_of_the_time_that_is_asked_for() {
    let (store, clock) = history(&[0.0, 0.25, 0.5]);
    let recorded = ReplayOptions { base: TimeBase::Recorded, ..options(Some(1.0)) };
    let told = replayed(&store, &clock, recorded).await;
    assert_eq!(told, [Events(0.0, vec![1]), Events(0.5, vec![2]), Events(1.0, vec![3])]);
    let told = replayed(&store, &clock, options(Some(1.0))).await;
    assert_eq!(told, [Events(0.0, vec![1]), Events(0.25, vec![2]), Events(0.5, vec![3])]);
    assert_eq!(replayed(&store, &clock, options(None)).await, [Events(0.0, vec![1, 2, 3])]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_from_a_time_or_position_begins_at_once() {
    let (store, clock) = history(&[0.0, 100.0, 200.0, 200.5]);
    let from = Timestamp::new(BEGIN + 101, 0);
    let told = replayed(&store, &clock, ReplayOptions { from, ..options(Some(1.0)) }).await;
    assert_eq!(told, [Events(0.0, vec![3]), Events(0.5, vec![4])]);
    let after = Position::new(2);
    let told = replayed(&store, &clock, ReplayOptions { after, ..options(Some(1.0)) }).await;
    assert_eq!(told, [Events(0.0, vec![3]), Events(0.5, vec![4])]);
}

/// Who reads late is sent what is due by then together, and what follows comes when it would have come.
#[tokio::test(start_paused = true)]
async fn a_reader_that_is_late_is_not_late_for_ever() {
    let (store, clock) = history(&[0.0, 0.5, 1.0, 10.0, 10.5]);
    let begun = Instant::now();
    let stop = CancellationToken::new();
    let mut replay =
        Replay::begin(store.history(), &*clock, options(Some(1.0)), stop).await.unwrap();
    let mut next = async || loop {
        let message = replay.next().await.unwrap();
        if let Some(Message::Events(block)) = message {
            return (rounded(begun.elapsed()), positions(&block.bytes));
        }
    };
    assert_eq!(next().await, (0.0, vec![1]));
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(next().await, (5.0, vec![2, 3]));
    assert_eq!(next().await, (10.0, vec![4]));
    assert_eq!(next().await, (10.5, vec![5]));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_ends_a_pause() {
    let (store, clock) = history(&[0.0, 1e6]);
    let stop = CancellationToken::new();
    let replay = Replay::begin(store.history(), &*clock, options(Some(1.0)), stop.clone());
    let mut replay = replay.await.unwrap();
    for _ in 0..3 {
        assert!(!matches!(replay.next().await, Ok(Some(Message::Ended { .. }))));
    }
    let since = Instant::now();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(7)).await;
        stop.cancel();
    });
    assert_eq!(replay.next().await.unwrap_err(), QueryError::Stopping);
    assert_eq!(since.elapsed().as_secs(), 7);
}

/// Everything is looked through in both directions, nothing is found, and now and then a second has passed.
#[tokio::test(start_paused = true)]
async fn a_search_that_finds_nothing_for_a_second_tells_how_far_it_is() {
    const EVENTS: u64 = 200;
    let (store, clock) = empty();
    let hay = "hay".repeat(20_000);
    for _ in 0..EVENTS {
        append(&store, None, Body { data: Data::Text(&hay), ..Body::default() });
    }
    let text = TextMatch::new(vec!["needle".to_owned()]).ok();
    let filter = Filter { clauses: vec![Clause { text, ..Clause::default() }] };
    for direction in [Direction::Forwards, Direction::Backwards] {
        let page = (Fingerprint::of(b"needle"), Position::ZERO);
        let mut search = Search::new(store.history(), &*clock, &filter, direction, page, 0);
        let mut told: Vec<u64> = Vec::new();
        for _ in 0..2 {
            tokio::spawn(tokio::time::advance(Duration::from_secs(1)));
            let Found::Progress(position) = search.next().await.unwrap() else {
                panic!("{direction:?}: a second has passed")
            };
            told.push(position.get());
        }
        if direction == Direction::Backwards {
            told.reverse();
        }
        assert!(0 < told[0] && told[0] < told[1] && told[1] <= EVENTS, "{told:?}");
        // No more time passes.
        let Found::End { next, events, head } = search.next().await.unwrap() else {
            panic!("it ends")
        };
        assert_eq!((next, events, head.get()), (None, 0, EVENTS));
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_gathers_changes_for_its_interval_and_tells_the_first_after_a_rest_at_once() {
    const INTERVAL: Duration = Duration::from_millis(100);
    let (store, clock) = history(&[0.0]);
    let query = StatisticsQuery {
        filter: Filter::default(),
        groups: Vec::new(),
        zone: Zone::UTC,
        base: TimeBase::Occurred,
        rows_max: 10,
    };
    let (stop, begun) = (CancellationToken::new(), Instant::now());
    let mut watched = Watched::new(query, Arc::clone(store.history()), clock, stop.clone());
    let mut next = async || {
        let (events, complete) = match watched.next(INTERVAL).await? {
            Update::Complete(statistics) => (statistics.events, true),
            Update::Changes(statistics) => (statistics.events, false),
        };
        Ok::<_, QueryError>((rounded(begun.elapsed()), events, complete))
    };
    assert_eq!(next().await, Ok((0.0, 1, true)));
    for _ in 0..3 {
        append(&store, None, Body::default());
    }
    assert_eq!(next().await, Ok((0.1, 4, false)));
    append(&store, None, Body::default());
    assert_eq!(next().await, Ok((0.2, 5, false)));
    tokio::time::advance(Duration::from_secs(10)).await;
    append(&store, None, Body::default());
    assert_eq!(next().await, Ok((10.2, 6, false)));
    // Nothing comes any more.
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_hours(1)).await;
        stop.cancel();
    });
    assert_eq!(next().await, Err(QueryError::Stopping));
    assert_eq!(begun.elapsed().as_secs(), 3610);
}
