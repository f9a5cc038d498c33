//! Consumer groups of every strategy under consumers that crash, hang, are late and say no, and a server
//! that is killed again and again: nothing is forgotten, and what is ordered comes in order.

mod checker;
mod checker_tests;
mod consumers;
mod run;

use std::sync::Arc;

use annals::wire::proto::v1::{GroupSettings, GroupStrategy, RecordedEvent};

use self::{
    checker::{Fact, Log, Rules, faults},
    run::{Group, Run},
};
use crate::support::{
    consumer::{HOUR, millis},
    dice::Dice,
    within,
};

const SEED: u64 = 0x000a_11a1;
/// How often the server is killed.
const KILLS: u64 = 25;
const CONSUMERS: u64 = 6;

const TIMEOUT_MILLIS: i32 = 300;

/// A group of each kind. Those that let events time out are judged by what comes soon after; those that do
/// not, by everything.
fn groups(run: &Arc<Run>) -> Vec<Arc<Group>> {
    let kinds = [
        ("robin", GroupStrategy::RoundRobin, false, true),
        ("one", GroupStrategy::DispatchToOne, false, true),
        ("stream", GroupStrategy::OrderedByStream, false, true),
        ("stream-held", GroupStrategy::OrderedByStream, true, true),
        ("stream-held-patient", GroupStrategy::OrderedByStream, true, false),
        ("correlation", GroupStrategy::OrderedByCorrelation, false, false),
        ("correlation-held", GroupStrategy::OrderedByCorrelation, true, true),
        ("robin-patient", GroupStrategy::RoundRobin, false, false),
    ];
    let group = |(name, strategy, hold_back, times_out): (&str, GroupStrategy, bool, bool)| {
        let ordered = matches!(
            strategy,
            GroupStrategy::OrderedByStream | GroupStrategy::OrderedByCorrelation
        );
        let timeout = if times_out { millis(TIMEOUT_MILLIS) } else { HOUR };
        let settings = GroupSettings {
            strategy: strategy.into(),
            message_timeout: Some(timeout),
            // An ordered group parks only what a consumer says: that is how its order can be judged.
            retries_max: Some(if ordered { 1000 } else { 2 }),
            retry_delay: Some(millis(10)),
            retry_delay_max: Some(millis(50)),
            in_flight_max: 5,
            hold_back_parked_keys: hold_back,
            window_max: 100,
            checkpoint_interval: Some(millis(50)),
            ..GroupSettings::default()
        };
        let rules = Rules {
            ordered,
            hold_back,
            timeout: times_out.then(|| timeout.try_into().unwrap()),
            parks_by_itself: !ordered,
        };
        Arc::new(Group::new(Arc::clone(run), name, strategy, settings, rules))
    };
    kinds.into_iter().map(group).collect()
}

/// What a group is about.
fn log_of(group: &Group, events: &[RecordedEvent]) -> Log {
    let key = |event: &RecordedEvent| match group.strategy {
        GroupStrategy::OrderedByStream => Some(event.stream.clone()),
        GroupStrategy::OrderedByCorrelation => {
            Some(event.correlation_id.clone()).filter(|id| !id.is_empty())
        }
        _ => None,
    };
    let matching = events.iter().filter(|event| event.r#type == run::PICKED);
    matching.map(|event| (event.position, key(event))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_forgotten_and_keys_stay_in_order_whatever_consumers_do_and_however_often_the_server_dies()
 {
    println!("seed {SEED:#x}");
    let mut dice = Dice::new(SEED);
    let data = tempfile::tempdir().unwrap();
    let run = Arc::new(Run::default());
    let groups = groups(&run);
    run.start(data.path());
    for group in &groups {
        group.create().await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for (number, group) in (0..).zip(&groups) {
        for consumer in 0..CONSUMERS {
            let dice = Dice::new(SEED ^ ((number << 32) | (consumer << 16) | 1));
            tasks.spawn(consumers::consume(Arc::clone(group), dice));
        }
    }
    tasks.spawn(run::watch_the_clock(Arc::clone(&run), groups.clone()));
    let mut others = tokio::task::JoinSet::new();
    for writer in 0..2 {
        others.spawn(run::write(
            Arc::clone(&run),
            groups.len() as u64,
            Dice::new(SEED ^ (2 + writer)),
        ));
    }
    others.spawn(run::operate(Arc::clone(&run), groups.clone(), Dice::new(SEED ^ 9)));
    for _ in 0..KILLS {
        run.progress_by(100 + dice.below(1500)).await;
        run.kill(&groups);
        run.start(data.path());
    }
    run.progress_by(500).await;

    // Everything calms down.
    run.busy.cancel();
    while let Some(ended) = within(others.join_next()).await {
        ended.unwrap();
    }
    let events = run.read_all().await;
    let last = events.iter().rfind(|event| event.r#type == run::PICKED).unwrap().position;
    for group in &groups {
        group.settled_up_to(last).await;
        let parked = group.all_parked().await;
        println!("{}: {} parked at the end", group.name, parked.len());
        group.note_now(Fact::Parked { positions: parked });
    }
    for group in &groups {
        group.replay_all_that_is_parked().await;
    }
    run.over.cancel();
    while let Some(ended) = within(tasks.join_next()).await {
        ended.unwrap();
    }

    let mut all = Vec::new();
    for group in &groups {
        let log = log_of(group, &events);
        let history = group.history();
        group.assert_what_was_delivered_is_in(&events);
        let count =
            |wanted: fn(&Fact) -> bool| history.iter().filter(|it| wanted(&it.fact)).count();
        let delivered = count(|fact| matches!(fact, Fact::Delivered { .. }));
        let refused = count(|fact| matches!(fact, Fact::Refused { .. }));
        let closed = count(|fact| matches!(fact, Fact::Closed { .. }));
        println!(
            "{}: {} events, {delivered} deliveries, {refused} refused, {closed} closed",
            group.name,
            log.len()
        );
        assert!(delivered > log.len() && closed > 0, "it was no calm run");
        let found = faults(&history, &log, group.rules);
        for fault in found.iter().take(3) {
            println!("{}: {fault:?}", group.name);
            group.tell(fault, &log);
        }
        if !found.is_empty() {
            all.push((group.name.clone(), found.len()));
        }
    }
    assert!(all.is_empty(), "{all:?}");
}
