//! A watcher that does not read: what it has missed comes as a new result, and the projection is not held up.

use std::collections::BTreeMap;

use annals::wire::proto::v1::watch_response::Message;

use crate::support::{
    TestStore, connect,
    models::{Models, Watch, apply, create, delete, equals, number, upsert, watch},
};

const APPLIES: u64 = 120;
const KEYS: u64 = 40;

/// More changes than any connection or queue takes, while the watcher reads nothing: 120 times 1 MiB and more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_ends_with_the_right_result_and_holds_nobody_up() {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["n"]])).await.unwrap();
    let at = store.fill("Payment-1", usize::try_from(APPLIES).unwrap()).await;
    let slow = Models::new(connect(store.address).await);
    let mut watches = Vec::new();
    for request in [watch("m", []), watch("m", [equals("n", number(0.0))])] {
        let mut watch = slow.watch(request).await.unwrap();
        watch.caught_up().await;
        watches.push(watch);
    }
    // Reads all the time, on a connection of its own.
    let mut fast = models.watch(watch("m", [])).await.unwrap();
    fast.caught_up().await;

    let fill = "x".repeat(30_000);
    let mut before = 0;
    for (round, position) in (0..APPLIES).zip(&at) {
        let mut writes: Vec<_> = (0..KEYS)
            .map(|key| {
                let n = (key + round) % 3;
                upsert(&format!("{key:02}"), &format!(r#"{{"n":{n},"at":{round},"f":"{fill}"}}"#))
            })
            .collect();
        writes.push(upsert(&format!("round-{round}"), r#"{"n":0}"#));
        if round > 1 {
            writes.push(delete(&format!("round-{}", round - 2)));
        }
        models.apply(apply("m", before, *position, writes)).await.unwrap();
        before = *position;
    }
    fast.until(before).await;
    let everything = models.documents("m").await;
    let kept = |watch: &Watch| -> BTreeMap<String, String> {
        watch.documents.iter().map(|(key, it)| (key.clone(), it.json.clone())).collect()
    };
    assert_eq!(kept(&fast), everything);

    let mut resets = 0;
    let mut of_zero = everything.clone();
    of_zero.retain(|_, json| json.starts_with(r#"{"n":0"#));
    for (watch, expected) in watches.iter_mut().zip([&everything, &of_zero]) {
        let mut checkpoints = Vec::new();
        loop {
            match watch.next().await.unwrap() {
                Message::Reset(reset) => {
                    assert_eq!(reset.version, 1);
                    resets += 1;
                }
                Message::CaughtUp(caught_up) => {
                    checkpoints.push(caught_up.checkpoint);
                    if caught_up.checkpoint == before {
                        break;
                    }
                }
                Message::Changes(_) | Message::Heartbeat(_) => {}
            }
        }
        assert!(checkpoints.is_sorted(), "{checkpoints:?}");
        assert_eq!(kept(watch), *expected);
    }
    assert!(resets > 0, "they were too slow");
    // And it goes on from here.
    let next = store.fill("Payment-1", 1).await[0];
    models
        .apply(apply("m", before, next, [delete("00"), upsert("new", r#"{"n":0}"#)]))
        .await
        .unwrap();
    for watch in watches.iter_mut().chain([&mut fast]) {
        watch.until(next).await;
        assert!(watch.documents.contains_key("new") && !watch.documents.contains_key("00"));
    }
}
