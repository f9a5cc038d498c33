//! A repeat is safe, for ever; half a repeat is a fault of the client.

use annals::wire::proto::v1::{
    AppendCondition, AppendRequest, AppendResponse, AppendStreamRequest, CommitRequest, NewEvent,
    append_stream_response::Result as Answer,
};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::support::{
    ANY, Events, Refusal, TestStore, append_request, event, expect, status_of, write,
};

/// A condition that any event breaks.
fn broken() -> Vec<AppendCondition> {
    vec![AppendCondition::default()]
}

async fn pipelined(store: &TestStore, append: AppendRequest) -> Result<AppendResponse, Status> {
    let request = AppendStreamRequest { append: Some(append) };
    let mut answers = store.pipeline(tokio_stream::iter([request])).await?;
    match answers.remove(0).result.unwrap() {
        Answer::Appended(appended) => Ok(appended),
        Answer::Error(error) => Err(status_of(&error)),
    }
}

#[tokio::test]
async fn a_repeated_append_is_answered_as_the_first_one_was_whatever_it_expects() {
    let store = TestStore::start().await;
    store.append("Payment-1", expect(0), ["Opened"]).await.unwrap();
    let events = [event("Paid"), event("Refunded")];
    let first = store.append("Payment-1", expect(1), events.clone()).await.unwrap();
    store.append("Payment-1", expect(3), ["Closed"]).await.unwrap();
    assert!(!first.duplicate);

    let repeated = AppendResponse { duplicate: true, ..first };
    for expected in [expect(1), expect(0), expect(4), expect(u64::MAX), ANY] {
        for conditions in [vec![], broken()] {
            let request = append_request("Payment-1", expected, events.clone());
            let request = AppendRequest { conditions, ..request };
            assert_eq!(store.send(request.clone()).await.unwrap(), repeated);
            assert_eq!(pipelined(&store, request).await.unwrap(), repeated);
        }
    }
    // The same id in another spelling is the same id.
    let shouted = events.clone().map(|event| NewEvent { id: event.id.to_uppercase(), ..event });
    assert_eq!(store.append("Payment-1", ANY, shouted).await.unwrap(), repeated);
    let part = store.append("Payment-1", ANY, [events[1].clone()]).await.unwrap();
    assert_eq!((part.duplicate, part.version, part.position), (true, 3, 3));
    assert_eq!(store.read_all().await.types(), ["Opened", "Paid", "Refunded", "Closed"]);
}

#[tokio::test]
async fn a_repeated_commit_is_answered_as_the_first_one_was_whatever_it_expects() {
    let store = TestStore::start().await;
    store.append("Stock-1", ANY, ["Counted"]).await.unwrap();
    let (one, two) = ([event("Paid"), event("Noted")], [event("Reserved")]);
    let commit = |first, second, conditions| CommitRequest {
        writes: vec![write("Payment-1", first, one.clone()), write("Stock-1", second, two.clone())],
        conditions,
        validate_only: false,
    };
    let first = store.send_commit(commit(expect(0), expect(1), vec![])).await.unwrap();
    assert_eq!((first.first_position, first.position, first.duplicate), (2, 4, false));
    for request in [
        commit(expect(0), expect(1), vec![]),
        commit(expect(7), ANY, vec![]),
        commit(ANY, expect(0), broken()),
    ] {
        let mut repeated = store.send_commit(request).await.unwrap();
        assert!(std::mem::take(&mut repeated.duplicate));
        assert_eq!(repeated, first);
    }
    assert_eq!(store.head().await, 4);
}

#[tokio::test]
async fn known_ids_in_another_order_partly_new_or_elsewhere_are_a_conflict_that_writes_nothing() {
    let store = TestStore::start().await;
    let (a, b) = (event("Paid"), event("Refunded"));
    store.append("Payment-1", ANY, [a.clone(), b.clone()]).await.unwrap();
    let taken = |id: &NewEvent| if id.id == a.id { (&a.id, 1) } else { (&b.id, 2) };

    let new = || event("New");
    for (what, stream, events) in [
        ("another order", "Payment-1", vec![b.clone(), a.clone()]),
        ("a new one behind", "Payment-1", vec![a.clone(), new()]),
        ("a new one before", "Payment-1", vec![new(), b.clone()]),
        ("a new one between", "Payment-1", vec![a.clone(), new(), b.clone()]),
        ("another stream", "Payment-2", vec![a.clone(), b.clone()]),
        ("another stream, in part", "Payment-2", vec![new(), b.clone()]),
    ] {
        for expected in [ANY, expect(2), expect(0)] {
            let request = append_request(stream, expected, events.clone());
            let commit =
                [write("Order-1", ANY, ["Opened"]), write(stream, expected, events.clone())];
            for refusal in [
                store.send(request.clone()).await.unwrap_err(),
                pipelined(&store, request).await.unwrap_err(),
                store.commit(commit).await.unwrap_err(),
            ] {
                assert_eq!(refusal.code(), Code::AlreadyExists, "{what}");
                assert_eq!(refusal.reason(), "EVENT_ID_CONFLICT", "{what}");
                assert_eq!(refusal.fact("stream"), "Payment-1", "{what}");
                let id = NewEvent { id: refusal.fact("event_id"), ..NewEvent::default() };
                let (id, position) = taken(&id);
                assert_eq!(refusal.fact("event_id"), *id, "{what}");
                assert_eq!(refusal.fact("position"), position.to_string(), "{what}");
            }
        }
    }
    assert_eq!(store.head().await, 2);
    assert_eq!(store.info().await.stream_count, 1);
    assert_eq!(store.info().await.event_type_count, 2);
}

/// What was one commit cannot be repeated as another one.
#[tokio::test]
async fn a_commit_repeated_with_its_events_in_each_others_streams_is_a_conflict() {
    let store = TestStore::start().await;
    let (a, b) = (event("Paid"), event("Reserved"));
    let writes = [write("Payment-1", ANY, [a.clone()]), write("Stock-1", ANY, [b.clone()])];
    store.commit(writes).await.unwrap();
    let swapped = [write("Payment-1", ANY, [b]), write("Stock-1", ANY, [a])];
    let refusal = store.commit(swapped).await.unwrap_err();
    assert_eq!(refusal.reason(), "EVENT_ID_CONFLICT");
    assert_eq!(store.head().await, 2);
}

#[tokio::test]
async fn a_repeat_within_a_pipeline_finds_what_the_pipeline_wrote() {
    let store = TestStore::start().await;
    let once = append_request("Payment-1", expect(0), ["Paid"]);
    let mut half = once.clone();
    half.events.push(event("Refunded"));
    let requests = [once.clone(), once.clone(), half, once];
    let requests = requests.map(|append| AppendStreamRequest { append: Some(append) });
    let answers = store.pipeline(tokio_stream::iter(requests)).await.unwrap();
    let outcomes: Vec<_> = answers
        .into_iter()
        .map(|answer| match answer.result.unwrap() {
            Answer::Appended(appended) => Ok((appended.position, appended.duplicate)),
            Answer::Error(error) => Err(status_of(&error).reason()),
        })
        .collect();
    let conflict = Err("EVENT_ID_CONFLICT".to_owned());
    assert_eq!(outcomes, [Ok((1, false)), Ok((1, true)), conflict, Ok((1, true))]);
    assert_eq!(store.head().await, 1);
}

#[tokio::test]
async fn an_event_without_an_id_gets_one_of_its_own_each_time_it_is_sent() {
    let store = TestStore::start().await;
    let unnamed = || NewEvent { id: String::new(), ..event("Paid") };
    for _ in 0..3 {
        let answer = store.append("Payment-1", ANY, [unnamed(), unnamed()]).await.unwrap();
        assert!(!answer.duplicate);
    }
    let ids: Vec<String> = store.read_all().await.into_iter().map(|event| event.id).collect();
    let mut different = ids.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), 6);
    for id in ids {
        let parsed = Uuid::parse_str(&id).unwrap();
        assert!(!parsed.is_nil());
        assert_eq!(parsed.hyphenated().to_string(), id, "lower case, with hyphens");
    }
}

#[tokio::test]
async fn a_refused_append_may_be_sent_again_with_the_same_ids() {
    let store = TestStore::start().await;
    let paid = event("Paid");
    let refusal = store.append("Payment-1", expect(1), [paid.clone()]).await.unwrap_err();
    assert_eq!(refusal.reason(), "WRONG_EXPECTED_VERSION");
    let answer = store.append("Payment-1", expect(0), [paid]).await.unwrap();
    assert_eq!((answer.version, answer.duplicate), (1, false));
}
