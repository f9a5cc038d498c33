//! `GetInfo`: what the server says of itself is so.

use annals::{
    core::limits::Limits,
    wire::proto::v1::{Mode, NewEvent, SubscribeRequest, new_event::Data},
};

use crate::support::{ANY, TestStore, event};

#[tokio::test]
async fn the_servers_facts_are_those_of_what_was_written() {
    let store = TestStore::start_with(|config| {
        config.limits = Limits { tags_max: 3, stream_name_bytes_max: 99, ..Limits::default() };
    })
    .await;
    let before = store.info().await;
    assert_eq!((before.mode(), before.head, before.tag_count), (Mode::Memory, 0, 0));
    assert_eq!(before.version, env!("CARGO_PKG_VERSION"));

    let tagged = |tag: &str| NewEvent {
        tags: vec![tag.to_owned(), "all".to_owned()],
        data: Some(Data::Text("x".repeat(1000))),
        ..event("Paid")
    };
    store.append("Payment-1", ANY, [tagged("a"), tagged("b")]).await.unwrap();
    store.append("Payment-2", ANY, [event("Noted")]).await.unwrap();
    let mut subscription = store.subscribe(SubscribeRequest::default()).await.unwrap();
    subscription.until_caught_up().await;

    let info = store.info().await;
    assert_eq!((info.head, info.stream_count, info.category_count), (3, 2, 1));
    assert_eq!((info.event_type_count, info.tag_count, info.subscription_count), (2, 3, 1));
    assert_eq!(info.started_at, before.started_at);
    let elapsed = |info: &annals::wire::proto::v1::GetInfoResponse| {
        let uptime = info.uptime.unwrap();
        (uptime.seconds, uptime.nanos)
    };
    assert!(elapsed(&info) > elapsed(&before));
    let (memory, was) = (info.memory.unwrap(), before.memory.unwrap());
    assert!((2000..4000).contains(&(memory.event_bytes - was.event_bytes)), "{memory:?}");
    assert!(memory.segment_bytes >= memory.event_bytes);
    assert!(memory.stream_bytes > was.stream_bytes && memory.type_bytes > was.type_bytes);
    let limits = info.limits.unwrap();
    assert_eq!((limits.tags_max, limits.stream_name_bytes_max), (3, 99));
    assert_eq!((limits.event_bytes_max, limits.commit_bytes_max), (4 << 20, 16 << 20));

    // And they are in force.
    store.append(&"x".repeat(99), ANY, ["Paid"]).await.unwrap();
    store.append(&"x".repeat(100), ANY, ["Paid"]).await.unwrap_err();
}
