//! Who listens: `ListSubscriptions` and `WatchSubscriptions`.

use std::collections::BTreeMap;

use annals::wire::proto::v1::{
    Filter, ListSubscriptionsRequest, ListSubscriptionsResponse, SubscribeInteractiveRequest,
    SubscribeInteractiveStart, SubscribeRequest, SubscriptionInfo, SubscriptionKind,
    WatchSubscriptionsRequest, WatchSubscriptionsResponse,
    subscribe_interactive_request::Message as Asked, subscribe_request::Start,
    subscribe_response::Message, subscription_service_client::SubscriptionServiceClient,
};
use prost_types::Duration;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::support::{ANY, Refusal, Subscription, TestStore, connect, endpoint, subscribe, within};

fn client(store: &TestStore) -> SubscriptionServiceClient<Channel> {
    SubscriptionServiceClient::new(store.channel.clone())
}

async fn list(
    store: &TestStore,
    page_size: u32,
    page_token: &str,
) -> Result<ListSubscriptionsResponse, Status> {
    let page_token = page_token.to_owned();
    let request = ListSubscriptionsRequest { page_size, page_token };
    Ok(within(client(store).list_subscriptions(request)).await?.into_inner())
}

/// The rows, when they are as they should be: how far a subscriber is shows a moment later.
async fn rows(
    store: &TestStore,
    ready: impl Fn(&[SubscriptionInfo]) -> bool,
) -> Vec<SubscriptionInfo> {
    within(async {
        loop {
            let rows = list(store, 0, "").await.unwrap().subscriptions;
            if ready(&rows) {
                return rows;
            }
        }
    })
    .await
}

fn of(event_type: &str) -> Filter {
    Filter { types: vec![event_type.to_owned()], ..Filter::default() }
}

async fn watch(
    store: &TestStore,
    interval: Option<Duration>,
) -> Result<Streaming<WatchSubscriptionsResponse>, Status> {
    let request = WatchSubscriptionsRequest { interval };
    Ok(within(client(store).watch_subscriptions(request)).await?.into_inner())
}

const OFTEN: Option<Duration> = Some(Duration { seconds: 0, nanos: 100_000_000 });

async fn confirmed(subscription: &mut Subscription) -> String {
    let Message::Confirmed(confirmed) = subscription.next().await.unwrap() else {
        panic!("it is confirmed first")
    };
    confirmed.subscription_id
}

#[tokio::test]
async fn a_row_says_who_listens_to_what_and_how_far_it_is() {
    let store = TestStore::start().await;
    assert_eq!(list(&store, 0, "").await.unwrap(), ListSubscriptionsResponse::default());
    store.append("Payment-1", ANY, ["A", "B", "A"]).await.unwrap();
    let request = SubscribeRequest {
        filters: vec![of("A")],
        start: Some(Start::After(1)),
        name: "billing".to_owned(),
        ..SubscribeRequest::default()
    };
    let channel = endpoint(store.address).user_agent("billing/2.1").unwrap();
    let channel = within(channel.connect()).await.unwrap();
    let mut live = subscribe(channel, request.clone()).await.unwrap();
    let id = confirmed(&mut live).await;
    assert_eq!(live.until_caught_up().await.1, 3);

    let is_live = |rows: &[SubscriptionInfo]| rows.len() == 1 && rows[0].live;
    let row = rows(&store, is_live).await.remove(0);
    assert!(row.peer.starts_with("127.0.0.1:"), "{}", row.peer);
    assert!(row.user_agent.starts_with("billing/2.1"), "{}", row.user_agent);
    assert!(row.events_per_second > 0.0 && row.opened_at.is_some());
    let expected = SubscriptionInfo {
        subscription_id: id.clone(),
        kind: SubscriptionKind::Subscription.into(),
        name: "billing".to_owned(),
        filters: vec![of("A")],
        start_after: 1,
        position: 3,
        event_count: 1,
        live: true,
        ..SubscriptionInfo::default()
    };
    let blank = |row: SubscriptionInfo| SubscriptionInfo {
        peer: String::new(),
        user_agent: String::new(),
        events_per_second: 0.0,
        opened_at: None,
        ..row
    };
    assert_eq!(blank(row), expected);

    // What does not concern an idle one leaves it not behind.
    store.append("Payment-1", ANY, vec!["B"; 500]).await.unwrap();
    let idle = rows(&store, |rows| rows[0].position == 503).await.remove(0);
    assert_eq!((idle.events_behind, idle.time_behind, idle.live), (0, None, true));
    store.append("Payment-1", ANY, ["A"]).await.unwrap();
    let moved = rows(&store, |rows| rows[0].event_count == 2).await.remove(0);
    assert_eq!((moved.position, moved.events_behind), (504, 0));
    drop(live);
    rows(&store, <[_]>::is_empty).await;
}

/// One that does not read is behind, and its row says by how much.
#[tokio::test]
async fn who_does_not_read_is_behind() {
    let store = TestStore::start().await;
    let (asks, requests) = tokio::sync::mpsc::channel(1);
    let start = SubscribeInteractiveStart {
        subscribe: Some(SubscribeRequest { filters: vec![of("A")], ..Default::default() }),
        pull: true,
        ..SubscribeInteractiveStart::default()
    };
    let start = SubscribeInteractiveRequest { message: Some(Asked::Start(start)) };
    asks.send(start).await.unwrap();
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let answers = within(client(&store).subscribe_interactive(requests)).await.unwrap();
    // It reads what comes, and permits nothing.
    let reads = tokio::spawn(async move {
        let mut answers = answers.into_inner();
        while let Ok(Some(_)) = answers.message().await {}
    });
    for _ in 0..10 {
        store.append("Payment-1", ANY, ["B", "A"]).await.unwrap();
    }
    let stopped =
        rows(&store, |rows| rows.len() == 1 && rows[0].events_behind == 10).await.remove(0);
    let kind = SubscriptionKind::Interactive.into();
    assert_eq!((stopped.kind, stopped.position <= 1, stopped.live), (kind, true, true));
    assert_eq!((stopped.event_count, stopped.filters), (0, vec![of("A")]));
    let behind = stopped.time_behind.expect("the second event was not sent");
    assert!(behind.seconds >= 0 && (behind.seconds > 0 || behind.nanos >= 0));
    reads.abort();
}

#[tokio::test]
async fn pages_follow_one_another() {
    let store = TestStore::start().await;
    let mut open = Vec::new();
    for _ in 0..7 {
        let mut subscription = store.subscribe(SubscribeRequest::default()).await.unwrap();
        let id = confirmed(&mut subscription).await;
        open.push((id, subscription));
    }
    let mut ids: Vec<_> = open.iter().map(|(id, _)| id.clone()).collect();
    ids.sort();
    for (size, pages) in [(0, 1), (7, 1), (3, 3), (1, 7)] {
        let (mut seen, mut token, mut count) = (Vec::new(), String::new(), 0);
        loop {
            let page = list(&store, size, &token).await.unwrap();
            seen.extend(page.subscriptions.into_iter().map(|row| row.subscription_id));
            (token, count) = (page.next_page_token, count + 1);
            if token.is_empty() {
                break;
            }
        }
        assert_eq!((&seen, count), (&ids, pages), "{size}");
    }
    // The row that a page ended with may be gone.
    let page = list(&store, 3, "").await.unwrap();
    let at = open.iter().position(|(id, _)| *id == ids[2]).unwrap();
    drop(open.remove(at));
    rows(&store, |rows| rows.len() == 6).await;
    let rest = list(&store, 0, &page.next_page_token).await.unwrap().subscriptions;
    assert!(rest.iter().map(|row| &row.subscription_id).eq(&ids[3..]));
    for (size, token, field) in
        [(1001, "", "page_size"), (0, "x", "page_token"), (0, "subscription/7", "page_token")]
    {
        let refusal = list(&store, size, token).await.unwrap_err();
        assert_eq!(
            (refusal.code(), refusal.violations()),
            (Code::InvalidArgument, vec![field.into()])
        );
    }
}

#[tokio::test]
async fn a_watch_tells_all_rows_and_then_what_changes() {
    let store = TestStore::start_with(|config| config.subscriptions_max = 4).await;
    let mut first = store.subscribe(SubscribeRequest::default()).await.unwrap();
    let first_id = confirmed(&mut first).await;
    first.until_caught_up().await;
    let mut watch = watch(&store, OFTEN).await.unwrap();
    let mut known: BTreeMap<String, SubscriptionInfo> = BTreeMap::new();
    let mut next = async |known: &mut BTreeMap<String, SubscriptionInfo>| {
        let told = within(watch.message()).await?.unwrap();
        for row in told.subscriptions {
            assert!(known.get(&row.subscription_id) != Some(&row), "it has changed");
            known.insert(row.subscription_id.clone(), row);
        }
        for id in told.ended_subscription_ids {
            assert!(known.remove(&id).is_some(), "it was told of");
        }
        Ok::<_, Status>(())
    };
    next(&mut known).await.unwrap();
    assert!(known.contains_key(&first_id), "the first message has all");

    let mut second = store.subscribe(SubscribeRequest::default()).await.unwrap();
    let second_id = confirmed(&mut second).await;
    while !known.contains_key(&second_id) {
        next(&mut known).await.unwrap();
    }
    store.append("Payment-1", ANY, vec!["A"; 7]).await.unwrap();
    first.events(7).await;
    while known[&first_id].event_count < 7 {
        next(&mut known).await.unwrap();
    }
    drop(first);
    while known.contains_key(&first_id) {
        next(&mut known).await.unwrap();
    }
    assert_eq!(known.len(), 1);
    store.stop.cancel();
    let status = loop {
        if let Err(status) = next(&mut known).await {
            break status;
        }
    };
    assert_eq!((status.code(), &*status.reason()), (Code::Unavailable, "SHUTTING_DOWN"));
}

#[tokio::test]
async fn a_watch_takes_a_place_and_its_interval_is_checked() {
    let store = TestStore::start_with(|config| config.subscriptions_max = 1).await;
    for interval in
        [Duration { seconds: 0, nanos: 99_999_999 }, Duration { seconds: 3601, nanos: 0 }]
    {
        let refusal = watch(&store, Some(interval)).await.err().unwrap();
        assert_eq!(
            (refusal.code(), refusal.violations()),
            (Code::InvalidArgument, vec!["interval".into()])
        );
    }
    let mut one = watch(&store, None).await.unwrap();
    let told = within(one.message()).await.unwrap().unwrap();
    assert_eq!(told, WatchSubscriptionsResponse::default(), "nobody listens, and it says so");
    let refusal = watch(&store, None).await.err().unwrap();
    assert_eq!(refusal.reason(), "TOO_MANY_SUBSCRIPTIONS");
    drop(one);
    let other = connect(store.address).await;
    within(async { while crate::support::info(other.clone()).await.subscription_count > 0 {} })
        .await;
}
