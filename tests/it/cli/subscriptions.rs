//! `annals subscriptions`: who listens, as a scripted server tells it.

use annals::wire::proto::v1::{
    Filter, ListSubscriptionsResponse, SubscriptionInfo, SubscriptionKind,
    WatchSubscriptionsResponse,
};
use prost_types::Duration;
use serde_json::{Value, json};

use super::fake_server::Fake;

fn group() -> SubscriptionInfo {
    SubscriptionInfo {
        subscription_id: "billing".to_owned(),
        kind: SubscriptionKind::Group.into(),
        filters: vec![Filter { types: vec!["Paid".to_owned()], ..Filter::default() }],
        position: 7,
        events_behind: 1200,
        time_behind: Some(Duration { seconds: 61, nanos: 0 }),
        events_per_second: 1.5,
        parked_count: 2,
        consumer_count: 3,
        last_error: "no\u{1b}room".to_owned(),
        ..SubscriptionInfo::default()
    }
}

fn subscription(position: u64) -> SubscriptionInfo {
    SubscriptionInfo {
        subscription_id: "17".to_owned(),
        kind: SubscriptionKind::Subscription.into(),
        name: "annals tail".to_owned(),
        peer: "127.0.0.1:5".to_owned(),
        position,
        live: true,
        ..SubscriptionInfo::default()
    }
}

fn pages() -> Vec<ListSubscriptionsResponse> {
    let page = |info, token: &str| ListSubscriptionsResponse {
        subscriptions: vec![info],
        next_page_token: token.to_owned(),
    };
    vec![page(group(), "next"), page(subscription(1_207), "")]
}

#[test]
fn every_page_is_one_table() {
    let fake = Fake::scripted(|state| state.answers.list_subscriptions = pages());
    let (code, stdout, stderr) = fake.run(&["subscriptions"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "kind          id       who                      position            behind   rate  \
             state        filter       last error",
            "group         billing  3 consumers                     7  1 200, 1 min 1 s  1.5/s  \
             catching up  type=Paid    no\\u{1b}room",
            "subscription  17       annals tail 127.0.0.1:5      1207                 0  0.0/s  \
             live         every event",
        ]
    );
    let asked = &fake.0.lock().unwrap().asked.list_subscriptions;
    assert_eq!(asked.iter().map(|it| it.page_token.as_str()).collect::<Vec<_>>(), ["", "next"]);
}

#[test]
fn as_json_each_is_an_object_with_the_names_of_the_protocol() {
    let fake = Fake::scripted(|state| state.answers.list_subscriptions = pages());
    let (code, stdout, stderr) = fake.run(&["subscriptions", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["kind"], "SUBSCRIPTION_KIND_GROUP");
    assert_eq!(lines[0]["filters"], json!([{"types": ["Paid"]}]));
    assert_eq!((&lines[0]["timeBehind"], &lines[0]["parkedCount"]), (&json!("61s"), &json!(2)));
    assert_eq!((&lines[1]["position"], &lines[1]["timeBehind"]), (&json!(1207), &Value::Null));
    // Only of a group.
    assert!(lines[1].get("lastError").is_none());
    assert_eq!(lines.len(), 2);
}

#[test]
fn a_watch_prints_all_first_and_then_what_changes_until_its_pipe_is_closed() {
    let changes = || {
        vec![
            WatchSubscriptionsResponse {
                subscriptions: vec![group(), subscription(1)],
                ..Default::default()
            },
            WatchSubscriptionsResponse {
                subscriptions: vec![subscription(2)],
                ..Default::default()
            },
            WatchSubscriptionsResponse {
                ended_subscription_ids: vec!["17".to_owned()],
                deleted_groups: vec!["billing".to_owned()],
                ..Default::default()
            },
        ]
    };
    let fake = Fake::scripted(|state| state.watched = changes());
    let (lines, _) = fake.lines(&["subscriptions", "--watch"], 6);
    assert!(lines[0].starts_with("kind "), "{lines:?}");
    // Under the first row, in its columns.
    assert_eq!(lines[2].replace("    1  ", "    2  "), lines[3]);
    assert_eq!(lines[4..], ["17 ended", "billing was deleted"]);

    let fake = Fake::scripted(|state| state.watched = changes());
    let (lines, _) = fake.lines(&["subscriptions", "--watch", "--json"], 3);
    let last: Value = serde_json::from_str(&lines[2]).unwrap();
    assert_eq!(
        last,
        json!({
            "subscriptions": [],
            "endedSubscriptionIds": ["17"],
            "deletedGroups": ["billing"],
        })
    );
}
