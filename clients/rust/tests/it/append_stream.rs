//! Pipelined appends: answers in order, and connections that break.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use annals_client::{
    Error, ExpectedVersion, Filter, NewEvent, append::Condition, testing::TestStore,
};

use crate::proxy::Proxy;

#[tokio::test]
async fn pipelined_appends_are_answered_in_order_and_a_refused_one_ends_no_other() {
    let store = TestStore::start().await;
    let client = store.client();
    let pipeline = client.append_stream().await.unwrap();
    let mut pending = Vec::new();
    let mut version = 0;
    for number in 1..=3000_u64 {
        // Every third one is stale.
        let expected = if number % 3 == 0 { version + 1 } else { version };
        version += u64::from(number % 3 != 0);
        let event = NewEvent::json("Measured", &number).unwrap();
        pending.push((
            number,
            expected,
            version,
            pipeline.append("Sensor-1", expected, [event]).await.unwrap(),
        ));
    }
    for (number, stale, version, pending) in pending {
        match pending.await {
            Ok(appended) => assert_eq!((appended.version, appended.position), (version, version)),
            Err(Error::WrongExpectedVersion { stream, expected, actual }) => {
                assert_eq!(number % 3, 0);
                assert_eq!((stream.as_str(), expected, actual), ("Sensor-1", stale, version));
            }
            Err(error) => panic!("{number}: {error}"),
        }
    }
    let events = client.read_stream("Sensor-1").collect().await.unwrap();
    let numbers: Vec<u64> = events.iter().map(|event| event.json().unwrap()).collect();
    assert!(numbers.into_iter().eq((1..=3000).filter(|number| number % 3 != 0)));
}

#[tokio::test]
async fn a_pipelined_append_whose_condition_is_broken_says_by_which_events() {
    let store = TestStore::start().await;
    let pipeline = store.client().append_stream().await.unwrap();
    let taken = || NewEvent::new("NameTaken").tag("name:ann");
    pipeline.append("User-1", 0, [taken()]).await.unwrap().await.unwrap();
    let condition = Condition { filters: vec![Filter::new().tag("name:ann")], after: 0 };
    let refused = pipeline.append_if("User-2", 0, [taken()], vec![condition]).await.unwrap().await;
    let Err(Error::ConditionBroken { condition: 0, positions }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(positions, [1]);
}

#[tokio::test]
async fn a_broken_connection_leaves_the_outcome_unknown_and_a_repeat_is_known_as_one() {
    let store = TestStore::start().await;
    let proxy = Proxy::before(&store).await;
    let client = proxy.client().await;
    let pipeline = client.append_stream().await.unwrap();
    let first = pipeline.append("Payment-1", 0, [NewEvent::new("Made")]).await.unwrap();
    assert_eq!(first.await.unwrap().version, 1);

    proxy.hold_answers();
    let mut written = store.client().subscribe().after(1).start().await.unwrap();
    let (second, third) = (NewEvent::new("Made"), NewEvent::new("Made"));
    let pending = [
        pipeline.append("Payment-1", 1, [second.clone()]).await.unwrap(),
        pipeline.append("Payment-1", 2, [third.clone()]).await.unwrap(),
    ];
    assert_eq!(written.next().await.unwrap().id, second.id);
    assert_eq!(written.next().await.unwrap().id, third.id);
    proxy.cut().await;
    for pending in pending {
        let error = pending.await.unwrap_err();
        assert!(error.is_outcome_unknown(), "{error}");
    }
    let error = pipeline.append("Payment-1", 3, [NewEvent::new("Made")]).await.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");

    proxy.let_answers_through();
    let pipeline = client.append_stream().await.unwrap();
    for (event, version) in [(second, 2), (third, 3)] {
        let again = pipeline.append("Payment-1", version - 1, [event]).await.unwrap();
        let again = again.await.unwrap();
        assert_eq!((again.version, again.duplicate), (version, true));
    }
    assert_eq!(client.read_all().collect().await.unwrap().len(), 3);
}

#[tokio::test]
async fn no_more_than_1024_appends_wait_for_their_answers() {
    let store = TestStore::start().await;
    let proxy = Proxy::before(&store).await;
    let pipeline = proxy.client().await.append_stream().await.unwrap();
    let event = || [NewEvent::new("Made")];
    let first = pipeline.append("Payment-1", 0, event()).await.unwrap();
    first.await.unwrap();
    proxy.hold_answers();
    let mut pending = Vec::new();
    for version in 1..=1024_u64 {
        pending.push(pipeline.append("Payment-1", version, event()).await.unwrap());
    }
    let mut one_more = pin!(pipeline.append("Payment-1", 1025, event()));
    let poll = one_more.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(poll, Poll::Pending), "{poll:?}");
    proxy.let_answers_through();
    assert_eq!(one_more.await.unwrap().await.unwrap().version, 1026);
    for (version, pending) in (2..).zip(pending) {
        assert_eq!(pending.await.unwrap().version, version);
    }
}

#[tokio::test]
async fn what_was_sent_is_answered_after_the_pipeline_is_dropped() {
    let store = TestStore::start().await;
    let client = store.client();
    let pipeline = client.append_stream().await.unwrap();
    let mut pending = Vec::new();
    for _ in 0..100 {
        let event = [NewEvent::new("Made")];
        pending.push(pipeline.append("Payment-1", ExpectedVersion::Any, event).await.unwrap());
    }
    drop(pipeline);
    for (version, pending) in (1..).zip(pending) {
        assert_eq!(pending.await.unwrap().version, version);
    }
}
