//! A cache of recent events, from the outside.

use annals::{
    core::sequencer::WhenFull,
    wire::proto::v1::{
        NewEvent, ReadAllRequest, SubscribeRequest, new_event::Data, subscribe_request,
    },
};
use tonic::Code;

use crate::support::{ANY, Refusal, TestStore, event};

#[tokio::test]
async fn who_asks_for_what_was_dropped_is_told_where_the_rest_begins() {
    let store = TestStore::start_with(|config| {
        config.max_memory = Some(4 << 20);
        config.when_full = WhenFull::Evict;
    })
    .await;
    let large = || NewEvent { data: Some(Data::Text("x".repeat(10_000))), ..event("Large") };
    for _ in 0..60 {
        store.append("Large-1", ANY, (0..10).map(|_| large())).await.unwrap();
    }
    let info = store.info().await;
    let first = info.first_position;
    assert!(first > 100 && info.head == 600, "{first}");
    let all = store.read_all().await;
    assert_eq!(all.len() as u64, 601 - first);
    assert_eq!(all[0].position, first);
    assert_eq!(store.count(vec![]).await.unwrap(), 601 - first);
    assert_eq!(store.stream("Large-1").await.unwrap().version, 600);

    let after = first - 1;
    let next = store.read(ReadAllRequest { after, limit: 1, ..ReadAllRequest::default() }).await;
    assert_eq!(next.unwrap()[0].position, first);
    let after = first - 2;
    let read = store.read(ReadAllRequest { after, ..ReadAllRequest::default() }).await.unwrap_err();
    let start = Some(subscribe_request::Start::After(after));
    let request = SubscribeRequest { start, ..SubscribeRequest::default() };
    let subscription = match store.subscribe(request).await {
        Ok(mut subscription) => subscription.next().await.unwrap_err(),
        Err(refusal) => refusal,
    };
    for refusal in [read, subscription] {
        assert_eq!(refusal.code(), Code::OutOfRange);
        assert_eq!(refusal.reason(), "POSITION_NOT_KEPT");
        assert_eq!(refusal.fact("first"), first.to_string());
    }
}
