//! Poll and Settle: the same for clients without bidirectional streams.

use std::time::Instant;

use annals::wire::proto::v1::{Ack, GroupSettings, Nack, NackAction, PollRequest, SettleRequest};

use crate::support::{
    TestStore,
    consumer::{Delivered, Groups, consumer, group, millis, patient, unpack},
    within,
};

fn asking(name: &str, events_max: u32) -> PollRequest {
    PollRequest { group: "mail".to_owned(), consumer: name.to_owned(), events_max, wait_max: None }
}

fn settling(name: &str) -> SettleRequest {
    SettleRequest {
        group: "mail".to_owned(),
        consumer: name.to_owned(),
        ..SettleRequest::default()
    }
}

async fn poll(groups: &Groups, request: PollRequest) -> Vec<Delivered> {
    let answer = groups.poll(request).await.unwrap();
    answer.events.map(unpack).unwrap_or_default()
}

async fn polled(groups: &Groups, request: PollRequest) -> Vec<u64> {
    poll(groups, request).await.iter().map(|delivered| delivered.event.position).collect()
}

async fn start(settings: GroupSettings) -> (TestStore, Groups) {
    let store = TestStore::start().await;
    let groups = store.groups();
    groups.create(group("mail", settings)).await.unwrap();
    (store, groups)
}

/// Waits for the first that comes, at most a minute.
fn waiting(request: PollRequest) -> PollRequest {
    PollRequest { wait_max: Some(millis(60_000)), ..request }
}

/// Nobody has looked ahead for it.
#[tokio::test]
async fn the_first_poll_of_a_group_gets_what_is_there_and_does_not_wait() {
    let (store, groups) = start(patient()).await;
    let events = store.fill("Payment-1", 3).await;
    assert_eq!(polled(&groups, asking("a", 2)).await, events[..2]);
}

#[tokio::test]
async fn a_poll_that_got_nothing_leaves_no_consumer_behind() {
    let (_store, groups) = start(patient()).await;
    assert!(polled(&groups, asking("a", 2)).await.is_empty());
    assert_eq!(groups.info("mail").await.consumer_count, 0);
}

#[tokio::test]
async fn a_poll_takes_no_more_than_asked_for_and_nothing_that_is_in_flight() {
    let (store, groups) = start(GroupSettings { in_flight_max: 4, ..patient() }).await;
    let events = store.fill("Payment-1", 10).await;
    assert_eq!(polled(&groups, waiting(asking("a", 0))).await, events[..1]);
    assert_eq!(polled(&groups, asking("a", 2)).await, events[1..3]);
    // Calls with the same name are the same consumer: it may have four.
    assert_eq!(polled(&groups, asking("a", 9)).await, events[3..4]);
    assert!(polled(&groups, asking("a", 9)).await.is_empty());
    assert_eq!(polled(&groups, asking("b", 3)).await, events[4..7]);
    assert_eq!(groups.info("mail").await.in_flight_count, 7);
    let ack = Some(Ack { positions: vec![events[2]], up_to: events[0] });
    let told = groups.settle(SettleRequest { ack, ..settling("a") }).await.unwrap();
    assert!(told.is_empty());
    let info = groups.info("mail").await;
    assert_eq!((info.settled_count, info.in_flight_count), (2, 5), "settled once it is answered");
    assert_eq!(polled(&groups, asking("a", 9)).await, events[7..9]);
}

#[tokio::test]
async fn a_poll_waits_for_the_first_event_but_no_longer_than_told() {
    let (store, groups) = start(patient()).await;
    assert!(poll(&groups, asking("a", 1)).await.is_empty());
    let begun = Instant::now();
    let short = PollRequest { wait_max: Some(millis(200)), ..asking("a", 1) };
    assert!(poll(&groups, short).await.is_empty());
    assert!(begun.elapsed().as_millis() >= 200);
    let task = tokio::spawn({
        let groups = groups.clone();
        async move { poll(&groups, waiting(asking("a", 5))).await }
    });
    // A call that is answered on the same server was behind it, or it is not there yet: both are right.
    store.info().await;
    let events = store.fill("Payment-1", 1).await;
    let answer = within(task).await.unwrap();
    assert_eq!((answer[0].event.position, answer[0].deliveries), (events[0], 1));
    assert_eq!(answer.len(), 1);
}

#[tokio::test]
async fn what_is_polled_is_to_be_settled_before_the_moment_that_the_answer_tells() {
    use annals::core::clock::{Clock, SystemClock};
    let (store, groups) =
        start(GroupSettings { message_timeout: Some(millis(60_000)), ..patient() }).await;
    store.fill("Payment-1", 1).await;
    let before = SystemClock.now_micros();
    let answer = groups.poll(waiting(asking("a", 1))).await.unwrap();
    let after = SystemClock.now_micros();
    let moment = answer.settle_before.unwrap();
    let micros = moment.seconds * 1_000_000 + i64::from(moment.nanos / 1000);
    assert!((before + 60_000_000 - 1..=after + 60_000_000).contains(&micros));
}

#[tokio::test]
async fn what_is_not_settled_in_time_goes_to_another_one_and_the_late_one_is_told() {
    let settings = GroupSettings {
        message_timeout: Some(millis(1000)),
        retry_delay: Some(millis(0)),
        ..patient()
    };
    let (store, groups) = start(settings).await;
    let events = store.fill("Payment-1", 1).await;
    assert_eq!(polled(&groups, waiting(asking("late", 1))).await, events);
    let again = poll(&groups, waiting(asking("other", 1))).await;
    let ack = Some(Ack { positions: events.clone(), up_to: 0 });
    let request = SettleRequest { ack: ack.clone(), ..settling("late") };
    assert_eq!(groups.settle(request).await.unwrap(), events);
    assert_eq!((again[0].event.position, again[0].deliveries), (events[0], 2));
    let request = SettleRequest { ack: ack.clone(), ..settling("other") };
    assert!(groups.settle(request.clone()).await.unwrap().is_empty());
    assert_eq!(groups.settle(request).await.unwrap(), events, "it is settled already");
    assert_eq!(groups.info("mail").await.settled_count, 1);
}

/// A poll says something: who asks is not paused.
#[tokio::test]
async fn one_that_let_an_event_time_out_gets_it_again_when_it_asks_again() {
    let settings = GroupSettings {
        message_timeout: Some(millis(200)),
        retry_delay: Some(millis(0)),
        ..patient()
    };
    let (store, groups) = start(settings).await;
    let events = store.fill("Payment-1", 1).await;
    for deliveries in 1..4 {
        let again = poll(&groups, waiting(asking("a", 1))).await;
        assert_eq!((again[0].event.position, again[0].deliveries), (events[0], deliveries));
    }
    // What only waits is taken, late as it is.
    groups.until("mail", |info| info.in_flight_count == 0).await;
    let ack = Some(Ack { positions: events, up_to: 0 });
    assert!(groups.settle(SettleRequest { ack, ..settling("a") }).await.unwrap().is_empty());
    assert_eq!(groups.info("mail").await.settled_count, 1);
}

#[tokio::test]
async fn one_settle_says_what_became_of_each_event() {
    let (store, groups) = start(patient()).await;
    let events = store.fill("Payment-1", 6).await;
    assert_eq!(polled(&groups, waiting(asking("a", 6))).await, events);
    let nack = |position, action: NackAction| Nack {
        positions: vec![position],
        action: action.into(),
        reason: format!("{action:?}"),
        retry_after: None,
    };
    let request = SettleRequest {
        ack: Some(Ack { positions: vec![events[0], events[5] + 100], up_to: 0 }),
        nacks: vec![
            nack(events[1], NackAction::Park),
            nack(events[2], NackAction::Skip),
            nack(events[3], NackAction::Retry),
            Nack { retry_after: Some(millis(0)), ..nack(events[4], NackAction::Retry) },
            nack(events[5] + 101, NackAction::Park),
        ],
        ..settling("a")
    };
    let mut told = groups.settle(request).await.unwrap();
    told.sort_unstable();
    assert_eq!(told, [events[5] + 100, events[5] + 101]);
    let info = groups.info("mail").await;
    assert_eq!((info.settled_count, info.parked_count), (2, 1));
    let parked = groups.parked("mail").await.remove(0);
    assert_eq!((parked.position, &*parked.reason), (events[1], "Park"));
    let again = poll(&groups, waiting(asking("a", 9))).await;
    assert_eq!((again[0].event.position, again[0].deliveries, again.len()), (events[4], 2, 1));
    assert_eq!(groups.info("mail").await.retry_count, 1, "one waits for an hour");
}

#[tokio::test]
async fn polls_and_open_consumers_share_a_group() {
    let (store, groups) = start(GroupSettings { in_flight_max: 3, ..patient() }).await;
    let mut stream = groups.consume(consumer("mail", "stream")).await.unwrap();
    let events = store.fill("Payment-1", 6).await;
    assert_eq!(stream.positions(3).await, events[..3]);
    assert_eq!(polled(&groups, waiting(asking("poll", 9))).await, events[3..]);
    // Of the same name, and still another consumer.
    stream.ack(events[3..].to_vec()).await;
    assert_eq!(stream.not_in_flight().await, events[3..]);
    let ack = Some(Ack { positions: vec![], up_to: events[5] });
    assert!(groups.settle(SettleRequest { ack, ..settling("poll") }).await.unwrap().is_empty());
    let info = groups.info("mail").await;
    assert_eq!((info.settled_count, info.in_flight_count), (3, 3));
}
