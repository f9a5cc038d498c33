//! `Replay` from the outside: what is sent, in which order, and that it says what it is. Its pace, to the
//! microsecond, is in `paused_time.rs`.

use std::time::{Duration, Instant};

use annals::wire::proto::v1::{
    Filter, NewEvent, RecordedEvent, ReplayRequest, ReplayResponse, TimeBase,
    replay_response::Message,
};
use prost::Message as _;
use tonic::Code;

use crate::support::{
    ANY, Events, TestStore,
    asked::{at, happened, of_texts, of_types, saying},
    raw::Raw,
    within,
};

/// The events of a replay, each of whose messages says that it is one.
fn events(messages: &[Message]) -> Vec<RecordedEvent> {
    let mut events = Vec::new();
    for message in messages {
        if let Message::Events(replayed) = message {
            assert!(replayed.is_replay, "always");
            let batch = replayed.batch.as_ref().unwrap();
            assert!(!batch.events.is_empty());
            events.extend(batch.events.iter().cloned());
        }
    }
    events
}

/// Started with this head, ended with so many events up to this position.
fn ends(messages: &[Message]) -> (u64, u64, u64) {
    let (Some(Message::Started(started)), Some(Message::Ended(ended))) =
        (messages.first(), messages.last())
    else {
        panic!("it starts and ends: {messages:?}");
    };
    let between = &messages[1..messages.len() - 1];
    assert!(!between.iter().any(|it| matches!(it, Message::Started(_) | Message::Ended(_))));
    (started.head, ended.event_count, ended.position)
}

#[tokio::test]
async fn a_replay_sends_what_is_there_in_the_order_of_the_log() {
    let store = TestStore::start().await;
    // Times that go back, and far apart: at once all the same.
    let times = ["2010-10-31T12:00:00Z", "2001-01-01T00:00:00Z", "2020-01-01T00:00:00Z"];
    for time in times {
        store
            .append("Payment-1", ANY, [happened("Paid", time), happened("Noted", time)])
            .await
            .unwrap();
    }
    let started = Instant::now();
    let messages = store.replay(ReplayRequest::default()).await.unwrap();
    assert!(started.elapsed() < Duration::from_mins(1), "years pass at once");
    assert_eq!(events(&messages), store.read_all().await);
    assert_eq!(ends(&messages), (6, 6, 6));

    let paid = ReplayRequest { filters: of_types(&["Paid"]), ..ReplayRequest::default() };
    for (request, positions, end) in [
        (paid.clone(), vec![1, 3, 5], (6, 3, 6)),
        (ReplayRequest { after: 1, ..paid.clone() }, vec![3, 5], (6, 2, 6)),
        (ReplayRequest { after: 2, limit: 1, ..paid.clone() }, vec![3], (6, 1, 3)),
        (ReplayRequest { limit: 2, ..paid.clone() }, vec![1, 3], (6, 2, 3)),
        (ReplayRequest { after: 6, ..paid.clone() }, vec![], (6, 0, 6)),
        (ReplayRequest { after: 5, ..ReplayRequest::default() }, vec![6], (6, 1, 6)),
        (ReplayRequest { limit: 6, ..ReplayRequest::default() }, vec![1, 2, 3, 4, 5, 6], (6, 6, 6)),
        (ReplayRequest { filters: of_types(&["Never"]), ..paid }, vec![], (6, 0, 6)),
    ] {
        let messages = store.replay(request.clone()).await.unwrap();
        assert_eq!(events(&messages).positions(), positions, "{request:?}");
        assert_eq!(ends(&messages), end, "{request:?}");
    }
}

#[tokio::test]
async fn an_empty_history_is_replayed() {
    let store = TestStore::start().await;
    for speed in [0.0, 1.0] {
        let request = ReplayRequest { speed, ..ReplayRequest::default() };
        assert_eq!(ends(&store.replay(request).await.unwrap()), (0, 0, 0));
    }
}

/// What is appended while it goes on is news.
#[tokio::test]
async fn a_replay_ends_with_what_was_there_when_it_began() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, vec!["Paid"; 3]).await.unwrap();
    let mut replay =
        within(store.queries().replay(ReplayRequest::default())).await.unwrap().into_inner();
    let mut messages = vec![within(replay.message()).await.unwrap().unwrap().message.unwrap()];
    store.append("Payment-1", ANY, vec!["Paid"; 3]).await.unwrap();
    while let Some(response) = within(replay.message()).await.unwrap() {
        messages.push(response.message.unwrap());
    }
    assert_eq!(events(&messages).positions(), [1, 2, 3]);
    assert_eq!(ends(&messages), (3, 3, 3));
}

#[tokio::test]
async fn a_replay_from_a_time_begins_with_the_first_event_of_that_time_or_later_and_at_once() {
    let store = TestStore::start().await;
    let times = [
        "2010-10-31T12:00:00Z",
        "2010-10-31T14:00:00Z",
        "2010-10-31T13:00:00Z",
        "2010-10-31T13:00:00.000000001Z",
    ];
    for time in times {
        store.append("Payment-1", ANY, [happened("Paid", time)]).await.unwrap();
    }
    for (from, positions) in [
        ("2010-10-31T00:00:00Z", vec![1, 2, 3, 4]),
        ("2010-10-31T12:00:00Z", vec![1, 2, 3, 4]),
        // The order is the log's: an earlier event may follow.
        ("2010-10-31T12:00:00.000000001Z", vec![2, 3, 4]),
        ("2010-10-31T14:00:00Z", vec![2, 3, 4]),
        ("2010-10-31T14:00:00.000000001Z", vec![]),
        ("9999-12-31T23:59:59Z", vec![]),
    ] {
        // At its own pace: nothing after the first two is later than they are.
        for speed in [0.0, 1.0] {
            if speed > 0.0 && positions.len() == 4 {
                continue;
            }
            let from = Some(at(from));
            let request = ReplayRequest { from, speed, ..ReplayRequest::default() };
            let messages = store.replay(request).await.unwrap();
            assert_eq!(events(&messages).positions(), positions, "{from:?}");
            assert_eq!(ends(&messages).2, 4);
            assert!(!messages.iter().any(|message| matches!(message, Message::Pause(_))));
        }
    }
    // Whichever of both begins later.
    let request = ReplayRequest { after: 3, from: Some(at(times[1])), ..ReplayRequest::default() };
    assert_eq!(events(&store.replay(request).await.unwrap()).positions(), [4]);
    // By the recorded time.
    let recorded = store.read_all().await[2].recorded_at;
    let request = ReplayRequest {
        from: recorded,
        time_base: TimeBase::Recorded.into(),
        ..ReplayRequest::default()
    };
    let first = events(&store.replay(request.clone()).await.unwrap())[0].clone();
    assert!(first.recorded_at.unwrap().nanos == recorded.unwrap().nanos && first.position <= 3);
    let request = ReplayRequest { from: Some(at("2099-01-01T00:00:00Z")), ..request };
    assert_eq!(ends(&store.replay(request).await.unwrap()), (4, 0, 4));
}

#[tokio::test]
async fn hidden_events_are_not_replayed() {
    let store = TestStore::start().await;
    for stream in ["Payment-1", "Payment-2", "Payment-1", "Payment-2"] {
        store.append(stream, ANY, [happened("Paid", "2010-10-31T12:00:00Z")]).await.unwrap();
    }
    store.hide_stream("Payment-1").await;
    for (speed, filters) in [(0.0, vec![]), (1.0, of_types(&["Paid"])), (0.0, of_types(&["Paid"]))]
    {
        let request = ReplayRequest { speed, filters, limit: 2, ..ReplayRequest::default() };
        let messages = store.replay(request).await.unwrap();
        assert_eq!(events(&messages).positions(), [2, 4]);
    }
}

/// All that are due at one time come together, the first ones, too.
#[tokio::test]
async fn events_of_one_time_come_in_one_message() {
    let store = TestStore::start().await;
    let (one, two) = ("2010-10-31T12:00:00Z", "2010-10-31T12:00:00.05Z");
    for time in [one, one, one, two, one, two] {
        store.append("Payment-1", ANY, [happened("Paid", time)]).await.unwrap();
    }
    for filters in [vec![], of_types(&["Paid"])] {
        let request = ReplayRequest { speed: 1.0, filters, ..ReplayRequest::default() };
        let messages = store.replay(request).await.unwrap();
        let sent: Vec<Vec<u64>> = messages
            .iter()
            .filter_map(|message| match message {
                Message::Events(replayed) => {
                    Some(replayed.batch.as_ref().unwrap().events.positions())
                }
                _ => None,
            })
            .collect();
        assert_eq!(sent, [vec![1, 2, 3], vec![4, 5, 6]]);
    }
}

/// By the client's clock: no event comes before it is due. A month in a million-fold of the pace.
#[tokio::test]
async fn no_event_comes_before_its_time() {
    let store = TestStore::start().await;
    let days = [1, 3, 3, 10, 2, 24];
    let events = days.map(|day| happened("Paid", &format!("2010-10-{day:02}T00:00:00Z")));
    store.append("Payment-1", ANY, events).await.unwrap();
    let request = ReplayRequest { speed: 1_000_000.0, ..ReplayRequest::default() };
    let started = Instant::now();
    let mut replay = within(store.queries().replay(request)).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Some(response) = within(replay.message()).await.unwrap() {
        let Some(Message::Events(replayed)) = response.message else { continue };
        for event in replayed.batch.unwrap().events {
            let day = days[usize::try_from(event.position).unwrap() - 1];
            let latest = days[..usize::try_from(event.position).unwrap()].iter().max().unwrap();
            let due = Duration::from_secs(86_400 * (latest - 1)) / 1_000_000;
            assert!(started.elapsed() >= due, "day {day} came after {:?}", started.elapsed());
            seen.push(event.position);
        }
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_long_pause_is_told_and_the_deadline_holds_in_it() {
    let store = TestStore::start().await;
    let events =
        [happened("Paid", "2010-10-01T00:00:00Z"), happened("Paid", "2010-10-02T00:00:00Z")];
    store.append("Payment-1", ANY, events).await.unwrap();
    let mut raw = Raw::connect(store.address).await;
    let request = ReplayRequest { speed: 2.0, ..ReplayRequest::default() }.encode_to_vec();
    let answer = raw.call("QueryService/Replay", &[("grpc-timeout", "200m")], &request).await;
    let messages: Vec<ReplayResponse> = answer.decoded();
    let [started, first, pause] = &messages[..] else { panic!("{messages:?}") };
    assert!(matches!(started.message, Some(Message::Started(_))));
    assert!(matches!(first.message, Some(Message::Events(_))));
    let Some(Message::Pause(pause)) = &pause.message else { panic!("{pause:?}") };
    assert_eq!(pause.until, Some(at("2010-10-02T00:00:00Z")));
    let wait = pause.wait.unwrap();
    assert!(
        (43_000..=43_200).contains(&wait.seconds),
        "half a day, less what has passed: {wait:?}"
    );
    assert_eq!(answer.status.unwrap().code(), Code::DeadlineExceeded);
    within(async { while store.info().await.subscription_count > 0 {} }).await;
}

/// More than a block, and other filters than names.
#[tokio::test]
async fn a_replay_of_many_blocks_is_what_a_read_gives() {
    let store = TestStore::start().await;
    for round in 0..30 {
        let text = format!("\"{}\"", if round % 3 == 0 { "needle" } else { "hay" }.repeat(500));
        let event = || NewEvent {
            occurred_at: Some(at(&format!("2010-10-31T12:00:00.{round:03}Z"))),
            ..saying("Paid", &text)
        };
        store.append("Payment-1", ANY, (0..10).map(|_| event())).await.unwrap();
    }
    for filters in [vec![], of_texts(&["NEEDLE"])] {
        let read = annals::wire::proto::v1::ReadAllRequest {
            filters: filters.clone(),
            ..Default::default()
        };
        let expected = store.read(read).await.unwrap();
        for speed in [0.0, 1.0, 100.0] {
            let filters: Vec<Filter> = filters.clone();
            let request = ReplayRequest { speed, filters, ..ReplayRequest::default() };
            let messages = store.replay(request).await.unwrap();
            assert!(events(&messages) == expected, "speed {speed}");
            assert_eq!(ends(&messages), (300, expected.len() as u64, 300));
        }
    }
}
