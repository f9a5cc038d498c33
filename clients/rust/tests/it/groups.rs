//! Consumer groups: what is delivered, settled and parked, over broken connections too.

use std::time::Duration;

use annals_client::{
    Client, ExpectedVersion, Filter, NewEvent,
    group::{
        Consumer, ConsumerMessage, Delivery, Group, GroupSettings, NackAction, NewGroup, Strategy,
    },
    testing::TestStore,
};

use crate::proxy::Proxy;

const HOUR: Duration = Duration::from_hours(1);

/// Nothing happens by itself.
fn patient() -> GroupSettings {
    GroupSettings::new().message_timeout(HOUR).retry_delay(HOUR, HOUR).checkpoint_interval(HOUR)
}

/// Of the category `Payment`.
async fn group(client: &Client, name: &str, settings: GroupSettings) -> Group {
    let group = client.group(name);
    let new = NewGroup::new().filter(Filter::new().category("Payment")).settings(settings);
    group.create(new).await.unwrap();
    group
}

async fn fill(client: &Client, count: usize) -> Vec<u64> {
    let events = (0..count).map(|_| NewEvent::new("Made"));
    let appended = client.append("Payment-1", ExpectedVersion::Any, events).await.unwrap();
    let count = u64::try_from(count).unwrap();
    (appended.position + 1 - count..=appended.position).collect()
}

async fn next(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(Duration::from_mins(1), consumer.next()).await.expect("it hangs").unwrap()
}

async fn take(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(next(consumer).await);
    }
    taken
}

fn positions(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.event.position).collect()
}

#[tokio::test]
async fn what_was_settled_before_a_stop_is_not_delivered_again() {
    let store = TestStore::start().await;
    let client = store.client();
    let mails = group(&client, "mails", patient()).await;
    let events = fill(&client, 6).await;
    let mut consumer = mails.consume().name("first").start().await.unwrap();
    let mut taken = take(&mut consumer, 5).await;
    assert_eq!(positions(&taken), events[..5]);
    let open = taken.pop().unwrap();
    taken.pop().unwrap().ack().await;
    consumer.ack_up_to(events[2]).await;
    let known = mails.get().await.unwrap();
    assert_eq!(known.consumers[0].name, "first");
    assert_eq!(known.consumers[0].consumer_id, consumer.id());
    consumer.stop().await.unwrap();

    let known = mails.get().await.unwrap();
    assert_eq!(known.group.unwrap().settled_count, 4);
    assert_eq!(known.consumers, []);
    open.ack().await;
    let mut second = mails.consume().start().await.unwrap();
    let left = take(&mut second, 2).await;
    assert_eq!(positions(&left), events[4..]);
    assert_eq!((left[0].deliveries, left[1].deliveries), (2, 2));
}

#[tokio::test]
async fn a_nack_says_what_becomes_of_an_event() {
    let store = TestStore::start().await;
    let client = store.client();
    let mails = group(&client, "mails", patient()).await;
    let events = fill(&client, 4).await;
    let mut consumer = mails.consume().start().await.unwrap();
    let mut taken = take(&mut consumer, 4).await.into_iter();
    let mut nack = async |action, reason: &str| taken.next().unwrap().nack(action, reason).await;
    nack(NackAction::Park, "no address").await;
    nack(NackAction::Skip, "").await;
    nack(NackAction::Retry, "later").await;
    nack(NackAction::RetryAfter(Duration::ZERO), "now").await;
    let again = next(&mut consumer).await;
    assert_eq!((again.event.position, again.deliveries), (events[3], 2));
    consumer.stop().await.unwrap();

    let known = mails.get().await.unwrap().group.unwrap();
    assert_eq!((known.settled_count, known.parked_count, known.retry_count), (1, 1, 1));
    let parked = mails.list_parked().await.unwrap();
    let [parked] = parked.as_slice() else { panic!("{parked:?}") };
    assert_eq!((parked.position, parked.reason.as_str()), (events[0], "no address"));
    assert_eq!((parked.deliveries, parked.held_back, parked.replaying), (1, false, false));
    let event = client.event_at(events[0]).await.unwrap();
    assert!(parked.event == event && event.is_some());
}

#[tokio::test]
async fn parked_events_come_again_or_are_forgotten() {
    let store = TestStore::start().await;
    let client = store.client();
    let mails = group(&client, "mails", patient()).await;
    let events = fill(&client, 4).await;
    let park_all = async || {
        let mut consumer = mails.consume().start().await.unwrap();
        for delivery in take(&mut consumer, 4).await {
            delivery.nack(NackAction::Park, "").await;
        }
        consumer.stop().await.unwrap();
    };
    park_all().await;
    assert_eq!(mails.replay_parked([]).await.unwrap(), 0);
    assert_eq!(mails.replay_parked([events[3], 999]).await.unwrap(), 1);
    assert_eq!(mails.replay_first_parked(2).await.unwrap(), 2);
    let mut consumer = mails.consume().start().await.unwrap();
    let mut again = positions(&take(&mut consumer, 3).await);
    again.sort_unstable();
    assert_eq!(again, [events[0], events[1], events[3]]);
    consumer.ack_up_to(events[3]).await;
    consumer.stop().await.unwrap();
    let left: Vec<_> = mails.list_parked().await.unwrap().iter().map(|it| it.position).collect();
    assert_eq!(left, [events[2]]);

    assert_eq!(mails.drop_parked([]).await.unwrap(), 0);
    assert_eq!(mails.drop_parked([events[2]]).await.unwrap(), 1);
    assert_eq!(mails.list_parked().await.unwrap(), []);
    fill(&client, 4).await;
    park_all().await;
    assert_eq!(mails.drop_all_parked().await.unwrap(), 4);
    assert_eq!(mails.list_parked().await.unwrap(), []);
}

#[tokio::test]
async fn a_consumer_goes_on_after_its_connection_breaks_and_gets_again_what_it_had() {
    let store = TestStore::start().await;
    let client = store.client();
    let mails = group(&client, "mails", patient().in_flight_max(2)).await;
    let proxy = Proxy::before(&store).await;
    let mut consumer = proxy.client().await.consume("mails").start().await.unwrap();
    let events = fill(&client, 3).await;
    let before = take(&mut consumer, 2).await;
    assert_eq!(positions(&before), events[..2]);
    proxy.cut().await;
    let after = take(&mut consumer, 2).await;
    assert_eq!(positions(&after), events[..2]);
    assert_eq!((after[0].deliveries, after[1].deliveries), (2, 2));
    // Too late, and of no effect.
    for late in before {
        late.ack().await;
    }
    for delivery in after {
        delivery.ack().await;
    }
    let last = next(&mut consumer).await;
    assert_eq!((last.event.position, last.deliveries), (events[2], 1));
    last.ack().await;
    consumer.stop().await.unwrap();
    let known = mails.get().await.unwrap().group.unwrap();
    assert_eq!((known.settled_count, known.redelivered_count), (3, 2));
}

#[tokio::test]
async fn a_consumer_whose_place_was_taken_waits_for_another_one() {
    let store = TestStore::start().await;
    let client = store.client();
    let mails = group(&client, "mails", patient().consumers_max(1)).await;
    let proxy = Proxy::before(&store).await;
    let mut first = proxy.client().await.consume("mails").start().await.unwrap();
    let events = fill(&client, 1).await;
    let refused = mails.consume().start().await.unwrap_err();
    assert_eq!(refused.reason(), "TOO_MANY_CONSUMERS");
    assert_eq!(next(&mut first).await.event.position, events[0]);
    proxy.cut().await;
    let second = loop {
        match mails.consume().start().await {
            Ok(second) => break second,
            // The server has not seen it yet.
            Err(error) => assert_eq!(error.reason(), "TOO_MANY_CONSUMERS", "{error}"),
        }
    };
    let waits = tokio::time::timeout(Duration::from_millis(200), first.next()).await;
    assert!(waits.is_err(), "{waits:?}");
    second.stop().await.unwrap();
    assert_eq!(next(&mut first).await.event.position, events[0]);
}

/// The server gives nothing to a consumer that let an event time out, until it says something.
#[tokio::test]
async fn a_consumer_that_waits_gets_events_after_it_let_one_time_out() {
    let store = TestStore::start().await;
    let client = store.client();
    let hasty = patient().message_timeout(Duration::from_millis(100)).retries_max(0);
    let mails = group(&client, "mails", hasty.in_flight_max(1)).await;
    let heartbeat = Duration::from_millis(100);
    let mut consumer = mails.consume().heartbeat_interval(heartbeat).start().await.unwrap();
    let events = fill(&client, 2).await;
    let dropped = next(&mut consumer).await.event.position;
    assert_eq!(dropped, events[0]);
    assert_eq!(next(&mut consumer).await.event.position, events[1]);
    assert_eq!(mails.list_parked().await.unwrap()[0].position, events[0]);
}

#[tokio::test]
async fn a_consumer_is_told_what_it_has_settled_too_late() {
    let store = TestStore::start().await;
    let client = store.client();
    let hasty = GroupSettings::new()
        .message_timeout(Duration::from_millis(100))
        .retry_delay(Duration::ZERO, Duration::ZERO)
        .retries_max(1000);
    let mails = group(&client, "mails", hasty).await;
    let mut slow = mails.consume().heartbeat_interval(HOUR).start().await.unwrap();
    let events = fill(&client, 1).await;
    let late = next(&mut slow).await;
    let mut quick = mails.consume().start().await.unwrap();
    let taken = next(&mut quick).await;
    assert!(taken.deliveries > 1, "{}", taken.deliveries);
    taken.ack().await;
    quick.stop().await.unwrap();
    late.ack().await;
    let told = slow.next_message().await.unwrap();
    assert!(
        matches!(&told, ConsumerMessage::NotInFlight(positions) if *positions == events),
        "{told:?}"
    );
}

#[tokio::test]
async fn of_a_stream_one_event_is_in_flight_where_the_strategy_orders_by_stream() {
    let store = TestStore::start().await;
    let client = store.client();
    let ordered = patient().strategy(Strategy::OrderedByStream);
    let mails = group(&client, "mails", ordered).await;
    let events = fill(&client, 2).await;
    client.append("Payment-2", 0, [NewEvent::new("Made")]).await.unwrap();
    let mut consumer = mails.consume().start().await.unwrap();
    let mut taken = take(&mut consumer, 2).await;
    assert_eq!(positions(&taken), [events[0], events[1] + 1]);
    taken.swap_remove(0).ack().await;
    assert_eq!(next(&mut consumer).await.event.position, events[1]);
}

#[tokio::test]
async fn a_group_is_made_once_changed_listed_and_deleted() {
    let store = TestStore::start().await;
    let client = store.client();
    let new = || NewGroup::new().after(0).settings(patient().in_flight_max(7));
    let mails = client.group("mails");
    let made = mails.create(new()).await.unwrap();
    assert_eq!(made.settings.unwrap().in_flight_max, 7);
    assert_eq!(mails.create(new()).await.unwrap().created_at, made.created_at);
    let error = mails.create(new().from_now()).await.unwrap_err();
    assert_eq!(error.reason(), "GROUP_EXISTS");

    // What else was set stays only where it is said again.
    let settings = GroupSettings::from(made.settings.unwrap()).retries_max(3);
    let settings = mails.set_settings(settings).await.unwrap().settings.unwrap();
    assert_eq!((settings.in_flight_max, settings.retries_max), (7, Some(3)));
    let settings = mails.set_settings(GroupSettings::new()).await.unwrap().settings.unwrap();
    assert_eq!((settings.in_flight_max, settings.retries_max), (10, Some(10)));
    let filters = [Filter::new().category("Payment")];
    assert_eq!(mails.set_filters(filters).await.unwrap().filters.len(), 1);
    assert_eq!(mails.set_filters([]).await.unwrap().filters, []);

    client.group("audit").create(NewGroup::new()).await.unwrap();
    let names = async || -> Vec<String> {
        client.list_groups().await.unwrap().into_iter().map(|group| group.group).collect()
    };
    assert_eq!(names().await, ["audit", "mails"]);
    mails.delete().await.unwrap();
    assert_eq!(names().await, ["audit"]);
    for error in [
        mails.get().await.unwrap_err(),
        mails.delete().await.unwrap_err(),
        mails.list_parked().await.unwrap_err(),
        mails.consume().start().await.unwrap_err(),
    ] {
        assert_eq!(error.reason(), "UNKNOWN_GROUP", "{error}");
    }
}

#[tokio::test]
async fn a_group_goes_on_where_it_is_told_to_if_it_is_where_the_caller_believes() {
    let store = TestStore::start().await;
    let client = store.client();
    let mails = group(&client, "mails", patient().in_flight_max(1)).await;
    let events = fill(&client, 3).await;
    let position = async || mails.get().await.unwrap().group.unwrap().position;
    let error = mails.set_position(position().await + 1, events[0]).await.unwrap_err();
    assert_eq!(error.reason(), "WRONG_GROUP_POSITION");
    mails.set_position(position().await, events[0]).await.unwrap();
    let mut consumer = mails.consume().start().await.unwrap();
    let second = next(&mut consumer).await;
    assert_eq!(second.event.position, events[1]);
    assert!(mails.skip(position().await, events[1]).await.unwrap() >= events[1]);
    let error = mails.skip(position().await, events[1]).await.unwrap_err();
    assert_eq!(error.reason(), "NOT_UNSETTLED");
    assert_eq!(next(&mut consumer).await.event.position, events[2]);
}
