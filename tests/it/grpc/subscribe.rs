//! Subscribe: what is sent, in which order, and what ends it.

use annals::{
    core::clock::{Clock, SystemClock},
    wire::proto::v1::{
        Filter, NewEvent, SubscribeRequest, subscribe_request::Start, subscribe_response::Message,
    },
};
use prost_types::Duration;
use tonic::Code;

use crate::support::{
    ANY, Events, Refusal, TestStore,
    dice::Dice,
    event,
    model::{self, Model},
    raw::{Raw, frame},
    within,
};

fn from(start: Start) -> SubscribeRequest {
    SubscribeRequest { start: Some(start), ..SubscribeRequest::default() }
}

fn types(names: &[&str]) -> Vec<Filter> {
    let types = names.iter().map(|name| (*name).to_owned()).collect();
    vec![Filter { types, ..Filter::default() }]
}

#[tokio::test]
async fn a_subscription_is_confirmed_sends_what_is_there_says_so_and_goes_on_live() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Opened", "Paid"]).await.unwrap();
    for (start, after, there) in [
        (None, 0, vec!["Opened", "Paid"]),
        (Some(Start::After(0)), 0, vec!["Opened", "Paid"]),
        (Some(Start::After(1)), 1, vec!["Paid"]),
        (Some(Start::After(2)), 2, vec![]),
        (Some(Start::FromNow(())), 2, vec![]),
    ] {
        let request = SubscribeRequest { start, ..SubscribeRequest::default() };
        let mut subscription = store.subscribe(request).await.unwrap();
        let Message::Confirmed(confirmed) = subscription.next().await.unwrap() else {
            panic!("it is confirmed first")
        };
        assert_eq!((confirmed.after, confirmed.head), (after, 2), "{start:?}");
        assert!(!confirmed.subscription_id.is_empty());
        let (events, caught_up) = subscription.until_caught_up().await;
        assert_eq!((events.types(), caught_up), (there, 2), "{start:?}");
    }

    let mut subscription = store.subscribe(from(Start::FromNow(()))).await.unwrap();
    assert_eq!(subscription.until_caught_up().await, (vec![], 2));
    for number in 3..100 {
        store.append("Payment-1", ANY, ["Noted"]).await.unwrap();
        let Message::Events(block) = subscription.next().await.unwrap() else {
            panic!("it stays live")
        };
        assert_eq!(block.events.positions(), [number]);
    }
}

#[tokio::test]
async fn a_position_beyond_the_head_is_out_of_range() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Opened"]).await.unwrap();
    for after in [2, u64::MAX] {
        let mut subscription = store.subscribe(from(Start::After(after))).await;
        let refusal = match &mut subscription {
            Err(refusal) => refusal.clone(),
            Ok(subscription) => subscription.next().await.unwrap_err(),
        };
        assert_eq!(refusal.code(), Code::OutOfRange);
        assert_eq!(refusal.reason(), "POSITION_BEYOND_HEAD");
        assert_eq!((refusal.fact("after"), &*refusal.fact("head")), (after.to_string(), "1"));
    }
    // The refused ones take no place.
    assert_eq!(store.info().await.subscription_count, 0);
}

#[tokio::test]
async fn a_message_holds_no_more_events_than_asked_for() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, vec!["Paid"; 100]).await.unwrap();
    for filters in [vec![], types(&["Paid"])] {
        let request = SubscribeRequest { batch_size: 7, filters, ..SubscribeRequest::default() };
        let mut subscription = store.subscribe(request).await.unwrap();
        let mut sizes = Vec::new();
        loop {
            match subscription.next().await.unwrap() {
                Message::Events(block) => sizes.push(block.events.len()),
                Message::CaughtUp(_) => break,
                _ => {}
            }
        }
        assert_eq!(sizes, [vec![7; 14], vec![2]].concat());
    }
}

#[tokio::test]
async fn what_does_not_match_moves_the_checkpoint() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, vec!["Other"; 25]).await.unwrap();
    let request = SubscribeRequest {
        filters: types(&["Paid"]),
        checkpoint_interval: 10,
        ..SubscribeRequest::default()
    };
    let mut subscription = store.subscribe(request).await.unwrap();
    assert_eq!(subscription.until_caught_up().await, (vec![], 25));

    store.append("Payment-1", ANY, vec!["Other"; 10]).await.unwrap();
    let Message::Checkpoint(checkpoint) = subscription.next().await.unwrap() else {
        panic!("ten did not match")
    };
    assert_eq!(checkpoint.position, 35);
    // Nine are too few, the tenth is enough.
    store.append("Payment-1", ANY, vec!["Other"; 9]).await.unwrap();
    store.append("Payment-1", ANY, ["Other"]).await.unwrap();
    let Message::Checkpoint(checkpoint) = subscription.next().await.unwrap() else {
        panic!("ten more did not match")
    };
    assert_eq!(checkpoint.position, 45);
    store.append("Payment-1", ANY, ["Other", "Paid"]).await.unwrap();
    assert_eq!(subscription.event().await.unwrap().position, 47);
}

/// Sent faster than a message can hold: it says so, sends all of it, and says that it is through.
#[tokio::test]
async fn a_subscription_that_falls_behind_says_so_and_catches_up_again() {
    let store = TestStore::start().await;
    let request = SubscribeRequest { batch_size: 10, ..SubscribeRequest::default() };
    let mut subscription = store.subscribe(request).await.unwrap();
    assert_eq!(subscription.until_caught_up().await, (vec![], 0));
    for round in 0..3 {
        let before = 1000 * round;
        store.append("Payment-1", ANY, vec!["Paid"; 1000]).await.unwrap();
        let Message::FellBehind(behind) = subscription.next().await.unwrap() else {
            panic!("990 wait")
        };
        assert_eq!((behind.position, behind.head), (before, before + 1000));
        let (events, position) = subscription.until_caught_up().await;
        assert!(events.positions().into_iter().eq(before + 1..=before + 1000));
        assert_eq!(position, before + 1000);
    }
    // Ten fit a message.
    store.append("Payment-1", ANY, vec!["Paid"; 10]).await.unwrap();
    assert!(matches!(subscription.next().await.unwrap(), Message::Events(_)));
}

#[tokio::test]
async fn a_heartbeat_says_when_nothing_else_is_sent() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Opened"]).await.unwrap();
    let request = SubscribeRequest {
        heartbeat_interval: Some(Duration { seconds: 0, nanos: 100_000_000 }),
        ..SubscribeRequest::default()
    };
    let mut subscription = store.subscribe(request).await.unwrap();
    subscription.until_caught_up().await;
    let mut before = 0;
    for _ in 0..3 {
        let Message::Heartbeat(heartbeat) = subscription.next_or_heartbeat().await.unwrap() else {
            panic!("nothing else happens")
        };
        assert_eq!(heartbeat.position, 1);
        let sent_at = heartbeat.sent_at.unwrap();
        let micros = sent_at.seconds * 1_000_000 + i64::from(sent_at.nanos) / 1000;
        assert!(before < micros && micros <= SystemClock.now_micros(), "the server's clock");
        before = micros;
    }
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
    assert_eq!(subscription.event().await.unwrap().position, 2);
}

#[tokio::test]
async fn one_subscription_too_many_is_refused_until_another_one_ends() {
    let store = TestStore::start_with(|config| config.subscriptions_max = 2).await;
    let mut first = store.subscribe(SubscribeRequest::default()).await.unwrap();
    let second = store.subscribe(SubscribeRequest::default()).await.unwrap();
    first.until_caught_up().await;
    for _ in 0..3 {
        let refusal = store.subscribe(SubscribeRequest::default()).await.err().unwrap();
        assert_eq!(refusal.code(), Code::ResourceExhausted);
        assert_eq!(refusal.reason(), "TOO_MANY_SUBSCRIPTIONS");
        assert_eq!(refusal.fact("limit"), "2");
    }
    assert_eq!(store.info().await.subscription_count, 2);
    drop(second);
    within(async { while store.info().await.subscription_count > 1 {} }).await;
    let mut third = store.subscribe(SubscribeRequest::default()).await.unwrap();
    third.until_caught_up().await;
    // The first one has noticed nothing.
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
    assert_eq!(first.event().await.unwrap().position, 1);
}

#[tokio::test]
async fn a_subscription_with_a_deadline_ends_with_it() {
    use prost::Message as _;
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
    let mut raw = Raw::connect(store.address).await;
    let request = SubscribeRequest::default().encode_to_vec();
    let path = "SubscriptionService/Subscribe";
    let answer = raw.call(path, &[("grpc-timeout", "200m")], &request).await;
    let status = answer.status.unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.reason(), "DEADLINE_EXCEEDED");
    assert!(answer.messages.len() >= 3, "confirmed, the event, caught up, and then it waited");
    within(async { while store.info().await.subscription_count > 0 {} }).await;
}

/// HTTP/2 asks for no more of a body while its reader takes nothing; the deadline holds all the same, and
/// what the call held is free.
#[tokio::test]
async fn a_deadline_holds_for_a_subscriber_that_does_not_read() {
    use prost::Message as _;
    let store = TestStore::start_with(|config| config.subscriptions_max = 1).await;
    for _ in 0..3 {
        store.append("Payment-1", ANY, vec!["Paid"; 10_000]).await.unwrap();
    }
    let mut raw = Raw::connect(store.address).await;
    let headers = [("grpc-timeout", "200m")];
    let mut call = raw.begin("SubscriptionService/Subscribe", &headers).await;
    let request = SubscribeRequest::default().encode_to_vec();
    call.request.send_data(frame(&request), true).unwrap();
    let unread = call.begun().await;
    within(async { while store.info().await.subscription_count > 0 {} }).await;
    drop(unread);
}

/// A client that went away in the middle of a message is noticed, and its place is free.
#[tokio::test]
async fn a_subscriber_that_resets_its_call_is_forgotten() {
    use prost::Message as _;
    let store = TestStore::start_with(|config| config.subscriptions_max = 1).await;
    for _ in 0..3 {
        store.append("Payment-1", ANY, vec!["Paid"; 10_000]).await.unwrap();
    }
    let mut raw = Raw::connect(store.address).await;
    let mut call = raw.begin("SubscriptionService/Subscribe", &[]).await;
    let request = SubscribeRequest::default().encode_to_vec();
    call.request.send_data(frame(&request), true).unwrap();
    // It reads nothing: the server has sent what the window holds, and waits.
    let messages = call.begun().await;
    assert_eq!(store.info().await.subscription_count, 1);
    drop(messages);
    within(async { while store.info().await.subscription_count > 0 {} }).await;
}

#[tokio::test]
async fn names_that_nobody_had_used_are_followed_from_their_first_event() {
    let store = TestStore::start().await;
    let name = || vec!["Later-1".to_owned()];
    for (what, filter) in [
        ("type", Filter { types: name(), ..Filter::default() }),
        ("stream", Filter { streams: name(), ..Filter::default() }),
        ("category", Filter { categories: vec!["Later".to_owned()], ..Filter::default() }),
        ("tag", Filter { tags: name(), ..Filter::default() }),
        ("all tags", Filter { tags_all: name(), types: name(), ..Filter::default() }),
    ] {
        let store = TestStore::start().await;
        let request = SubscribeRequest { filters: vec![filter], ..SubscribeRequest::default() };
        let mut subscription = store.subscribe(request).await.unwrap();
        subscription.until_caught_up().await;
        store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
        let later = NewEvent { tags: name(), ..event("Later-1") };
        store.append("Later-1", ANY, [later]).await.unwrap();
        assert_eq!(subscription.event().await.unwrap().position, 2, "{what}");
    }
    assert_eq!(store.head().await, 0);
}

/// While others write: what matches, all of it, in order, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filtered_subscription_sends_what_the_model_finds() {
    let store = TestStore::start().await;
    let (mut dice, mut model) = (Dice::new(7), Model::default());
    let mut filters: Vec<_> = (0..12).map(|_| model::random_filters(&mut dice)).collect();
    filters.push(vec![]);
    let mut subscriptions = Vec::new();
    for (number, filters) in filters.iter().enumerate() {
        let request = SubscribeRequest {
            filters: filters.clone(),
            batch_size: u32::try_from(number).unwrap(),
            checkpoint_interval: 10,
            ..SubscribeRequest::default()
        };
        subscriptions.push(store.subscribe(request).await.unwrap());
    }
    // What ends each: an event that every filter picks.
    let readers: Vec<_> = subscriptions
        .into_iter()
        .zip(filters.clone())
        .map(|(mut subscription, filters)| {
            tokio::spawn(async move {
                let (mut events, mut safe) = (Vec::new(), 0);
                while safe < 1500 {
                    let position = match subscription.next().await.unwrap() {
                        Message::Confirmed(confirmed) => confirmed.after,
                        Message::Events(block) => {
                            events.extend(block.events);
                            events.last().map_or(0, |event| event.position)
                        }
                        Message::Checkpoint(checkpoint) => checkpoint.position,
                        Message::CaughtUp(caught_up) => caught_up.position,
                        Message::FellBehind(behind) => behind.position,
                        Message::Heartbeat(heartbeat) => heartbeat.position,
                    };
                    assert!(safe <= position, "what is safe stays safe");
                    safe = position;
                }
                (filters, events, safe)
            })
        })
        .collect();
    while model.log.len() < 1520 {
        let stream = model::random_stream(&mut dice);
        let events: Vec<_> = (0..=dice.below(9)).map(|_| model::random_event(&mut dice)).collect();
        let answer = store.append(&stream, ANY, events.clone()).await.unwrap();
        model.note(&stream, events, &answer);
    }
    for reader in readers {
        let (filters, events, safe) = within(reader).await.unwrap();
        let mut expected = model.read(&filters, false, 0, 0);
        expected.retain(|event| event.position <= safe);
        assert!(events == expected, "{filters:?} up to {safe}: {:?}", events.positions());
    }
}
