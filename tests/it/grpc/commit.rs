//! Several streams, conditions, and checks that write nothing: all of it or none of it.

use std::collections::HashMap;

use annals::wire::proto::v1::{
    AppendCondition, AppendRequest, CommitRequest, Filter, NewEvent, StreamResult,
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{
    ANY, Events, IntoEvent, Refusal, TestStore, append_request,
    dice::Dice,
    event, expect,
    model::{self, Model},
    within, write,
};

const NOTHING: [&str; 0] = [];

#[tokio::test]
async fn a_commit_writes_all_of_its_streams_in_the_order_of_the_call() {
    let store = TestStore::start().await;
    store.append("Stock-1", ANY, ["Counted"]).await.unwrap();
    let answer = store
        .commit([
            write("Payment-1", expect(0), ["Paid", "Noted"]),
            write("Account-1", expect(0), NOTHING),
            write("Stock-1", expect(1), ["Reserved"]),
            write("Order-1", ANY, ["Closed"]),
        ])
        .await
        .unwrap();
    let result = |stream: &str, first_version, version| StreamResult {
        stream: stream.to_owned(),
        first_version,
        version,
    };
    assert_eq!(
        answer.results,
        [
            result("Payment-1", 1, 2),
            result("Account-1", 0, 0),
            result("Stock-1", 2, 2),
            result("Order-1", 1, 1)
        ]
    );
    assert_eq!((answer.first_position, answer.position), (2, 5));
    let log = store.read_all().await;
    assert_eq!(log.types(), ["Counted", "Paid", "Noted", "Reserved", "Closed"]);
    assert!(log[1..].iter().all(|event| event.recorded_at == answer.recorded_at));
    assert_eq!(store.stream("Account-1").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_commit_with_one_stale_stream_writes_nothing_to_any() {
    let store = TestStore::start().await;
    store.append("Stock-1", ANY, ["Counted"]).await.unwrap();
    for (last, actual) in [
        (write("Stock-1", expect(0), ["Reserved"]), "1"),
        (write("Stock-1", expect(2), NOTHING), "1"),
        (write("Stock-2", expect(1), NOTHING), "0"),
    ] {
        let refusal =
            store.commit([write("Payment-1", ANY, ["Paid"]), last.clone()]).await.unwrap_err();
        assert_eq!(refusal.code(), Code::FailedPrecondition);
        assert_eq!(refusal.reason(), "WRONG_EXPECTED_VERSION");
        assert_eq!((refusal.fact("stream"), &*refusal.fact("actual")), (last.stream, actual));
    }
    assert_eq!(store.head().await, 1);
    assert_eq!(store.info().await.stream_count, 1);
}

/// Many commits at once, each over several streams, among single appends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_of_a_commit_are_adjacent_whoever_else_writes() {
    const STREAMS: [&str; 3] = ["Payment-1", "Stock-1", "Order-1"];
    let store = TestStore::start().await;
    let mut tasks = JoinSet::new();
    for writer in 0..8 {
        let mut commands = store.commands();
        tasks.spawn(async move {
            for round in 0..100 {
                let name = format!("{writer}/{round}");
                let part = |event_type: &str| NewEvent {
                    correlation_id: name.clone(),
                    ..event(event_type)
                };
                if writer % 2 == 0 {
                    let writes = STREAMS.map(|to| write(to, ANY, [part("One"), part("Two")]));
                    let request = CommitRequest { writes: writes.into(), ..Default::default() };
                    commands.commit(request).await.unwrap();
                } else {
                    let request = append_request(STREAMS[0], ANY, [part("Alone")]);
                    commands.append(request).await.unwrap();
                }
            }
        });
    }
    while let Some(task) = within(tasks.join_next()).await {
        task.unwrap();
    }
    let log = store.read_all().await;
    assert_eq!(log.len(), 4 * 100 * 6 + 4 * 100);
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for commit in log.chunk_by(|a, b| a.correlation_id == b.correlation_id) {
        let size = if commit[0].r#type == "Alone" { 1 } else { 6 };
        assert_eq!(commit.len(), size, "{:?}", commit[0]);
        *seen.entry(&commit[0].correlation_id).or_default() += 1;
    }
    assert_eq!(seen.len(), 800);
    for name in STREAMS {
        let versions = log.iter().filter(|event| event.stream == name).map(|event| event.version);
        assert!(versions.eq(1..=store.stream(name).await.unwrap().version), "{name}");
    }
}

fn guarded(filters: Vec<Filter>, after: u64) -> AppendRequest {
    let conditions = vec![AppendCondition { filters, after }];
    AppendRequest { conditions, ..append_request("Guarded-1", ANY, ["Written"]) }
}

#[tokio::test]
async fn a_condition_breaks_on_what_its_filter_names_and_holds_otherwise() {
    let store = TestStore::start().await;
    let tagged = |event_type: &str, tags: &[&str]| NewEvent {
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        ..event_type.into_event()
    };
    store.append("Seat-1", ANY, [tagged("Held", &["row:1", "seat:1"])]).await.unwrap();
    store.append("Seat-2", ANY, [tagged("Held", &["row:1", "seat:2"])]).await.unwrap();
    store.append("Hall-1", ANY, [tagged("Opened", &[]), tagged("Noted", &[])]).await.unwrap();

    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let none = Filter::default;
    let streams = |names: &[&str]| Filter { streams: list(names), ..none() };
    let categories = |names: &[&str]| Filter { categories: list(names), ..none() };
    let types = |names: &[&str]| Filter { types: list(names), ..none() };
    let tags = |names: &[&str]| Filter { tags: list(names), ..none() };
    let tags_all = |names: &[&str]| Filter { tags_all: list(names), ..none() };
    let cases = [
        (vec![], 0, "1,2,3,4"),
        (vec![], 3, "4"),
        (vec![], 4, ""),
        (vec![], 1000, ""),
        (vec![types(&["Held"])], 0, "1,2"),
        (vec![types(&["Held", "Noted"])], 1, "2,4"),
        (vec![types(&["Sold"])], 0, ""),
        (vec![tags(&["seat:1", "seat:3"])], 0, "1"),
        (vec![tags(&["row:1"])], 2, ""),
        (vec![tags_all(&["row:1", "seat:2"])], 0, "2"),
        (vec![tags_all(&["seat:1", "seat:2"])], 0, ""),
        (vec![streams(&["Seat-2", "Hall-1"])], 0, "2,3,4"),
        (vec![streams(&["Seat"])], 0, ""),
        (vec![categories(&["Seat"])], 1, "2"),
        (vec![categories(&["Sea"])], 0, ""),
        (vec![types(&["Sold"]), tags(&["seat:2"]), streams(&["Hall-1"])], 0, "2,3,4"),
        (vec![Filter { types: list(&["Held"]), ..streams(&["Hall-1"]) }], 0, ""),
        (vec![Filter { types: list(&["Held"]), ..tags(&["seat:2"]) }], 0, "2"),
    ];
    for (filters, after, positions) in cases {
        let request = AppendRequest { validate_only: true, ..guarded(filters.clone(), after) };
        let answer = store.send(request).await;
        let found = answer.err().map_or(String::new(), |refusal| {
            assert_eq!(refusal.code(), Code::FailedPrecondition);
            assert_eq!(refusal.reason(), "CONDITION_BROKEN");
            assert_eq!(
                (&*refusal.fact("condition"), refusal.fact("after")),
                ("0", after.to_string())
            );
            refusal.fact("positions")
        });
        assert_eq!(found, positions, "{filters:?} after {after}");
    }

    let request = AppendRequest {
        conditions: vec![
            AppendCondition { filters: vec![types(&["Sold"])], after: 0 },
            AppendCondition { filters: vec![types(&["Noted"])], after: 1 },
        ],
        ..append_request("Guarded-1", expect(0), ["Written"])
    };
    let refusal = store.send(request).await.unwrap_err();
    assert_eq!((&*refusal.fact("condition"), &*refusal.fact("positions")), ("1", "4"));
    assert_eq!(store.head().await, 4);
    store.send(guarded(vec![types(&["Noted"])], 4)).await.unwrap();
    assert_eq!(store.head().await, 5);
}

/// The first five positions, whatever filter: as the model finds them.
#[tokio::test]
async fn a_random_condition_names_the_first_events_that_break_it() {
    let store = TestStore::start().await;
    let (mut dice, mut model) = (Dice::new(5), Model::default());
    for _ in 0..300 {
        let stream = model::random_stream(&mut dice);
        let events: Vec<_> = (0..=dice.below(3)).map(|_| model::random_event(&mut dice)).collect();
        let answer = store.append(&stream, ANY, events.clone()).await.unwrap();
        model.note(&stream, events, &answer);
    }
    for _ in 0..500 {
        let filters = model::random_filters(&mut dice);
        let after = dice.below(model.log.len() as u64 + 10);
        let expected: Vec<_> = model
            .read(&filters, false, after, 5)
            .positions()
            .iter()
            .map(ToString::to_string)
            .collect();
        let request = AppendRequest { validate_only: true, ..guarded(filters.clone(), after) };
        let answer = store.send(request).await;
        let found = answer.err().map_or(String::new(), |refusal| refusal.fact("positions"));
        assert_eq!(found, expected.join(","), "{filters:?} after {after}");
    }
}

#[tokio::test]
async fn validate_only_answers_as_if_and_writes_nothing() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Opened"]).await.unwrap();
    let only = |request| AppendRequest { validate_only: true, ..request };

    let answer = store.send(only(append_request("Payment-1", expect(1), ["Paid", "Noted"])));
    let answer = answer.await.unwrap();
    assert_eq!((answer.first_version, answer.version), (2, 3));
    assert_eq!((answer.first_position, answer.position, answer.recorded_at), (0, 0, None));

    let writes = vec![write("Payment-1", expect(1), ["Paid"]), write("New-1", expect(0), ["Made"])];
    let request = CommitRequest { writes, validate_only: true, ..Default::default() };
    let answer = store.send_commit(request.clone()).await.unwrap();
    let versions: Vec<_> = answer.results.iter().map(|result| result.version).collect();
    assert_eq!((versions, answer.position, answer.recorded_at), (vec![2, 1], 0, None));

    let stale = store.send(only(append_request("Payment-1", expect(0), ["Paid"]))).await;
    assert_eq!(stale.unwrap_err().reason(), "WRONG_EXPECTED_VERSION");
    let broken = store.send(only(guarded(vec![], 0))).await;
    assert_eq!(broken.unwrap_err().reason(), "CONDITION_BROKEN");
    let bad = store.send(only(append_request("", ANY, ["Paid"]))).await;
    assert_eq!(bad.unwrap_err().reason(), "INVALID_REQUEST");

    assert_eq!(store.head().await, 1);
    let info = store.info().await;
    assert_eq!((info.stream_count, info.event_type_count), (1, 1));
    // The ids are still free.
    let request = CommitRequest { validate_only: false, ..request };
    assert!(!store.send_commit(request).await.unwrap().duplicate);
}
