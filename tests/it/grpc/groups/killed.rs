//! A server that is killed, not stopped: what was settled since the last checkpoint comes again, and what was
//! said for good is so.

use annals::wire::proto::v1::{
    GroupSettings, GroupStrategy, command_service_client::CommandServiceClient,
};

use crate::support::{
    ANY, append_request, connect,
    consumer::{Groups, consumer, group, patient},
    process::Process,
    within,
};

/// Events of one stream, in a store of its own. The checkpoint interval is an hour, so none is written.
async fn store(data: &std::path::Path, strategy: GroupStrategy) -> (Process, Groups, Vec<u64>) {
    let process = Process::start_on(data);
    let channel = connect(process.address).await;
    let settings = GroupSettings {
        strategy: strategy.into(),
        hold_back_parked_keys: strategy == GroupStrategy::OrderedByStream,
        ..patient()
    };
    let groups = Groups::new(channel.clone());
    groups.create(group("mail", settings)).await.unwrap();
    let request = append_request("Payment-1", ANY, ["Paid"; 4]);
    let answer = within(CommandServiceClient::new(channel).append(request)).await.unwrap();
    let answer = answer.into_inner();
    (process, groups, (answer.first_position..=answer.position).collect())
}

async fn start_again(process: Process, data: &std::path::Path) -> (Process, Groups) {
    drop(process);
    let process = Process::start_on(data);
    let groups = Groups::new(connect(process.address).await);
    (process, groups)
}

#[tokio::test]
async fn what_was_not_settled_comes_again_after_a_kill_and_what_is_parked_stays_parked() {
    let data = tempfile::tempdir().unwrap();
    let (process, groups, events) = store(data.path(), GroupStrategy::RoundRobin).await;
    let mut first = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(first.positions(4).await, events);
    first.ack([events[0]]).await;
    first.park([events[1], events[2]]).await;
    groups.until_parked("mail", &events[1..3]).await;
    let before = groups.parked("mail").await;
    let (_process, groups) = start_again(process, data.path()).await;
    assert_eq!(groups.parked("mail").await, before);
    let mut second = groups.consume(consumer("mail", "")).await.unwrap();
    // What was settled before something was parked is noted with it.
    assert_eq!(second.positions(1).await, events[3..]);
    second.expect_nothing().await;
}

#[tokio::test]
async fn dropped_events_stay_dropped_after_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let (process, groups, events) = store(data.path(), GroupStrategy::RoundRobin).await;
    let mut first = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(first.positions(4).await, events);
    first.park([events[1], events[2]]).await;
    groups.until_parked("mail", &events[1..3]).await;
    assert_eq!(groups.drop_parked("mail", &events[1..2]).await, 1);
    let (_process, groups) = start_again(process, data.path()).await;
    assert_eq!(groups.parked_positions("mail").await, events[2..3]);
    let mut second = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(second.positions(2).await, [events[0], events[3]]);
    second.expect_nothing().await;
}

/// The group goes back to before it, and has it on its list: whoever settles or drops it then is done with it.
#[tokio::test]
async fn parked_events_that_are_settled_or_dropped_after_a_kill_do_not_come_again() {
    let data = tempfile::tempdir().unwrap();
    let (process, groups, events) = store(data.path(), GroupStrategy::RoundRobin).await;
    let narrow = GroupSettings { window_max: 1, ..patient() };
    groups.create(group("narrow", narrow)).await.unwrap();
    let mut first = groups.consume(consumer("narrow", "")).await.unwrap();
    for position in &events[..2] {
        first.expect(*position, 1).await;
        first.ack([*position]).await;
    }
    for position in &events[2..] {
        first.expect(*position, 1).await;
        first.park([*position]).await;
    }
    groups.until_parked("narrow", &events[2..]).await;
    let (_process, groups) = start_again(process, data.path()).await;
    assert_eq!(groups.drop_parked("narrow", &events[2..3]).await, 1);
    assert_eq!(groups.replay_parked("narrow", &events[3..]).await, 1);
    let mut second = groups.consume(consumer("narrow", "")).await.unwrap();
    second.expect(events[3], 2).await;
    second.ack([events[3]]).await;
    groups.until_parked("narrow", &[]).await;
    second.expect_nothing().await;
}

#[tokio::test]
async fn requests_to_replay_and_moves_are_there_after_a_kill() {
    use annals::wire::proto::v1::set_group_position_request::Target;
    let data = tempfile::tempdir().unwrap();
    let (process, groups, events) = store(data.path(), GroupStrategy::RoundRobin).await;
    let mut first = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(first.positions(4).await, events);
    first.park([events[1], events[2]]).await;
    groups.until_parked("mail", &events[1..3]).await;
    drop(first);
    groups.until("mail", |info| info.consumer_count == 0).await;
    assert_eq!(groups.replay_parked("mail", &events[2..3]).await, 1);
    let position = groups.info("mail").await.position;
    groups.set_position("mail", position, Target::After(events[2])).await.unwrap();
    let (_process, groups) = start_again(process, data.path()).await;
    let replaying: Vec<_> = groups.parked("mail").await.iter().map(|it| it.replaying).collect();
    assert_eq!(replaying, [false, true]);
    let mut second = groups.consume(consumer("mail", "")).await.unwrap();
    assert_eq!(second.positions(2).await, events[2..]);
    second.expect_nothing().await;
}

/// The first of a key was parked, replayed and settled, and the second, that it had held back; the rest still
/// waits. Whatever comes again comes in order.
#[tokio::test]
async fn what_was_held_back_comes_in_order_after_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let (process, groups, events) = store(data.path(), GroupStrategy::OrderedByStream).await;
    let mut first = groups.consume(consumer("mail", "")).await.unwrap();
    first.expect(events[0], 1).await;
    first.park([events[0]]).await;
    groups.until_parked("mail", &events).await;
    groups.replay_parked("mail", &events[..1]).await;
    for position in &events[..2] {
        assert_eq!(first.positions(1).await, [*position]);
        first.ack([*position]).await;
    }
    groups.until_parked("mail", &events[2..]).await;
    assert_eq!(first.positions(1).await, events[2..3]);
    // Whatever is to be written of that is written.
    first.expect_nothing().await;
    let (_process, groups) = start_again(process, data.path()).await;
    let mut second = groups.consume(consumer("mail", "")).await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != events.last() {
        seen.extend(second.positions(1).await);
        second.ack([*seen.last().unwrap()]).await;
    }
    assert!(seen.is_sorted(), "{seen:?} of {events:?}");
    assert!(seen.ends_with(&events[2..]), "{seen:?} of {events:?}");
    second.expect_nothing().await;
}
