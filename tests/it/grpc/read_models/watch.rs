//! Watching: the first result, then what changes, and how a watch ends.

use std::time::{Duration, Instant};

use annals::wire::proto::v1::{
    ApplyRequest, JsonOperator::GreaterOrEqual, WatchRequest, watch_response::Message,
};
use tonic::Code;

use crate::support::{
    Refusal, TestStore,
    models::{Models, apply, create, delete, equals, matches, merge, number, text, upsert, watch},
    within,
};

/// A server with the model `m`, three documents of which two are failed, and so many events more.
async fn with_model(events: usize) -> (TestStore, Models, Vec<u64>) {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["status"], &["n"]])).await.unwrap();
    let at = store.fill("Payment-1", events + 1).await;
    let writes = [
        upsert("a", r#"{"status":"failed","n":1}"#),
        upsert("b", r#"{"status":"paid","n":2}"#),
        upsert("c", r#"{"status":"failed","n":3}"#),
    ];
    models.apply(apply("m", 0, at[0], writes)).await.unwrap();
    (store, models, at)
}

fn failed() -> WatchRequest {
    watch("m", [equals("status", text("failed"))])
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test]
async fn the_first_result_is_all_that_matches_and_then_it_is_whole() {
    let (_store, models, at) = with_model(0).await;
    let mut result = models.watch(failed()).await.unwrap();
    let caught_up = result.caught_up().await;
    assert_eq!((caught_up.checkpoint, caught_up.version), (at[0], 1));
    let expected = [("a", r#"{"status":"failed","n":1}"#), ("c", r#"{"status":"failed","n":3}"#)];
    assert_eq!(result.shown(), expected);
    assert!(result.documents.values().all(|document| document.position == at[0]));
    result.expect_nothing().await;
    // And of everything.
    let mut everything = models.watch(watch("m", [])).await.unwrap();
    everything.caught_up().await;
    assert_eq!(everything.documents.len(), 3);
}

#[tokio::test]
async fn an_empty_result_is_told_to_be_whole() {
    let (store, models, at) = with_model(1).await;
    let mut open = models.watch(watch("m", [equals("status", text("open"))])).await.unwrap();
    let first = open.next().await.unwrap();
    assert!(matches!(&first, Message::CaughtUp(it) if it.checkpoint == at[0]), "{first:?}");
    models.apply(apply("m", at[0], at[1], [upsert("x", r#"{"status":"open"}"#)])).await.unwrap();
    assert_eq!(open.changes().await, (strings(&["x"]), vec![]));
    // Of a model that no projection has begun.
    models.create(create("new", 4, &[])).await.unwrap();
    let mut new = models.watch(watch("new", [])).await.unwrap();
    let caught_up = new.caught_up().await;
    assert_eq!((caught_up.checkpoint, caught_up.version, new.documents.len()), (0, 4, 0));
    let head = store.head().await;
    models.apply(apply("new", 0, head, [upsert("y", "{}")])).await.unwrap();
    assert_eq!(new.until(head).await.checkpoint, head);
    assert_eq!(new.shown(), [("y", "{}")]);
}

#[tokio::test]
async fn documents_that_change_begin_or_stop_to_match_are_told_and_no_others() {
    let (_store, models, at) = with_model(8).await;
    let mut watch = models.watch(failed()).await.unwrap();
    watch.caught_up().await;
    let say = |n: &str, status: &str| format!(r#"{{"status":"{status}","n":{n}}}"#);
    let steps = [
        // It changes, and goes on to match.
        (vec![upsert("a", &say("9", "failed"))], strings(&["a"]), vec![]),
        (vec![merge("a", r#"{"more":1}"#)], strings(&["a"]), vec![]),
        // It begins to match: an old one, and a new one.
        (
            vec![merge("b", r#"{"status":"failed"}"#), upsert("d", &say("4", "failed"))],
            strings(&["b", "d"]),
            vec![],
        ),
        // It stops to match, by a change and by its end.
        (vec![upsert("c", &say("3", "paid")), delete("d")], vec![], strings(&["c", "d"])),
        // Both together.
        (vec![delete("a"), merge("c", r#"{"status":"failed"}"#)], strings(&["c"]), strings(&["a"])),
        // What it was in between is nobody's.
        (
            vec![
                upsert("c", &say("0", "paid")),
                upsert("c", &say("5", "failed")),
                delete("b"),
                upsert("b", &say("6", "failed")),
            ],
            strings(&["b", "c"]),
            vec![],
        ),
    ];
    let mut before = at[0];
    for ((writes, upserts, removed), position) in steps.into_iter().zip(&at[1..]) {
        models.apply(apply("m", before, *position, writes)).await.unwrap();
        let (mut told, mut gone) = watch.changes().await;
        told.sort();
        gone.sort();
        assert_eq!((told, gone), (upserts, removed), "at {position}");
        let next = watch.next().await.unwrap();
        assert!(matches!(&next, Message::CaughtUp(it) if it.checkpoint == *position), "{next:?}");
        before = *position;
    }
    let position = at[6];
    let expected = [("b", say("6", "failed")), ("c", say("5", "failed"))];
    let shown: Vec<_> =
        watch.shown().into_iter().map(|(key, json)| (key, json.to_owned())).collect();
    assert_eq!(shown, expected);
    assert!(watch.documents.values().all(|it| it.position == position));
}

/// The result did not change, and the client learns that it is the result of a later checkpoint.
#[tokio::test]
async fn an_apply_that_concerns_no_document_of_the_watch_moves_its_checkpoint_and_tells_nothing() {
    let (_store, models, at) = with_model(3).await;
    let mut watch = models.watch(failed()).await.unwrap();
    watch.caught_up().await;
    models.apply(apply("m", at[0], at[1], [merge("b", r#"{"n":7}"#), delete("z")])).await.unwrap();
    let next = watch.next().await.unwrap();
    assert!(matches!(&next, Message::CaughtUp(it) if it.checkpoint == at[1]), "{next:?}");
    models.apply(apply("m", at[1], at[2], [])).await.unwrap();
    let next = watch.next().await.unwrap();
    assert!(matches!(&next, Message::CaughtUp(it) if it.checkpoint == at[2]), "{next:?}");
    watch.expect_nothing().await;
}

#[tokio::test]
async fn a_range_is_watched_by_what_enters_and_leaves_it() {
    let (_store, models, at) = with_model(2).await;
    let large =
        watch("m", [matches("n", GreaterOrEqual, number(2.0)), equals("status", text("failed"))]);
    let mut watch = models.watch(large).await.unwrap();
    watch.caught_up().await;
    assert_eq!(watch.shown().len(), 1);
    let writes = [merge("a", r#"{"n":2}"#), merge("c", r#"{"n":1.99}"#), merge("b", r#"{"n":5}"#)];
    models.apply(apply("m", at[0], at[1], writes)).await.unwrap();
    assert_eq!(watch.changes().await, (strings(&["a"]), strings(&["c"])));
}

#[tokio::test]
async fn a_large_result_and_a_large_change_come_in_parts_and_are_whole_at_the_end() {
    let (_store, models, at) = with_model(2).await;
    let writes: Vec<_> =
        (0..3500).map(|it| upsert(&format!("{it:05}"), r#"{"status":"failed"}"#)).collect();
    let mut before = models.watch(failed()).await.unwrap();
    before.caught_up().await;
    models.apply(apply("m", at[0], at[1], writes)).await.unwrap();
    before.until(at[1]).await;
    assert_eq!(before.documents.len(), 3502);
    let mut after = models.watch(failed()).await.unwrap();
    assert_eq!(after.caught_up().await.checkpoint, at[1]);
    assert_eq!(after.documents, before.documents);
    let writes: Vec<_> = (0..3500).map(|it| delete(&format!("{it:05}"))).collect();
    models.apply(apply("m", at[1], at[2], writes)).await.unwrap();
    for watch in [&mut before, &mut after] {
        watch.until(at[2]).await;
        assert_eq!(watch.documents.keys().collect::<Vec<_>>(), ["a", "c"]);
    }
}

#[tokio::test]
async fn another_current_version_resets_the_watch_of_the_current_one_and_no_other() {
    let (_store, models, at) = with_model(2).await;
    models.create(create("m", 2, &[&["status"]])).await.unwrap();
    let to_2 = |expected, position, writes: Vec<_>| ApplyRequest {
        version: 2,
        ..apply("m", expected, position, writes)
    };
    let writes = vec![upsert("z", r#"{"status":"failed","v":2}"#)];
    models.apply(to_2(0, at[1], writes)).await.unwrap();
    let mut current = models.watch(failed()).await.unwrap();
    let mut first = models.watch(WatchRequest { version: 1, ..failed() }).await.unwrap();
    let mut second = models.watch(WatchRequest { version: 2, ..failed() }).await.unwrap();
    for (watch, version) in [(&mut current, 1), (&mut first, 1), (&mut second, 2)] {
        assert_eq!(watch.caught_up().await.version, version);
    }
    models.switch("m", 2).await.unwrap();
    let next = current.next().await.unwrap();
    assert!(matches!(&next, Message::Reset(reset) if reset.version == 2), "{next:?}");
    assert!(current.documents.is_empty());
    let caught_up = current.caught_up().await;
    assert_eq!((caught_up.checkpoint, caught_up.version), (at[1], 2));
    assert_eq!(current.shown(), [("z", r#"{"status":"failed","v":2}"#)]);
    first.expect_nothing().await;
    second.expect_nothing().await;
    // From here on it follows version 2.
    models.apply(to_2(at[1], at[2], vec![delete("z")])).await.unwrap();
    assert_eq!(current.changes().await, (vec![], strings(&["z"])));
    assert_eq!(second.changes().await, (vec![], strings(&["z"])));
    first.expect_nothing().await;
    // And a switch to the same version is none.
    current.caught_up().await;
    models.switch("m", 2).await.unwrap();
    current.expect_nothing().await;
}

/// No index of the next version answers what is watched: the watch ends, and says so.
#[tokio::test]
async fn a_switch_to_a_version_without_the_index_ends_the_watch() {
    let (_store, models, _) = with_model(0).await;
    models.create(create("m", 2, &[&["n"]])).await.unwrap();
    let mut watch = models.watch(failed()).await.unwrap();
    watch.caught_up().await;
    models.switch("m", 2).await.unwrap();
    let refusal = watch.end().await;
    assert_eq!((refusal.code(), &*refusal.reason()), (Code::FailedPrecondition, "NOT_INDEXED"));
}

#[tokio::test]
async fn a_drop_ends_the_watches_of_what_is_dropped_and_no_others() {
    let (_store, models, _) = with_model(0).await;
    models.create(create("m", 2, &[&["status"]])).await.unwrap();
    models.create(create("other", 0, &[])).await.unwrap();
    let mut current = models.watch(failed()).await.unwrap();
    let mut second = models.watch(WatchRequest { version: 2, ..failed() }).await.unwrap();
    let mut other = models.watch(watch("other", [])).await.unwrap();
    for watch in [&mut current, &mut second, &mut other] {
        watch.caught_up().await;
    }
    models.drop("m", 2).await.unwrap();
    let refusal = second.end().await;
    assert_eq!((refusal.code(), &*refusal.reason()), (Code::NotFound, "UNKNOWN_MODEL"));
    current.expect_nothing().await;
    models.drop("m", 0).await.unwrap();
    let refusal = current.end().await;
    assert_eq!((refusal.code(), &*refusal.reason()), (Code::NotFound, "UNKNOWN_MODEL"));
    assert_eq!(refusal.fact("model"), "m");
    other.expect_nothing().await;
}

#[tokio::test]
async fn heartbeats_come_only_while_nothing_else_does() {
    let (_store, models, at) = with_model(1).await;
    let mut watch = models.watch(failed()).await.unwrap();
    watch.caught_up().await;
    let began = Instant::now();
    for _ in 0..3 {
        let message = within(watch.next_or_heartbeat()).await.unwrap();
        let Message::Heartbeat(heartbeat) = message else { panic!("{message:?}") };
        assert!(heartbeat.sent_at.is_some());
    }
    assert!(began.elapsed() >= Duration::from_millis(250), "every 100 ms");
    // Another one is far from its heartbeat.
    let slow = prost_types::Duration { seconds: 3600, nanos: 0 };
    let request = WatchRequest { heartbeat_interval: Some(slow), ..failed() };
    let mut patient = models.watch(request).await.unwrap();
    patient.caught_up().await;
    models.apply(apply("m", at[0], at[1], [delete("a")])).await.unwrap();
    let next = within(patient.next_or_heartbeat()).await.unwrap();
    assert!(matches!(next, Message::Changes(_)), "{next:?}");
}

#[tokio::test]
async fn a_server_that_stops_ends_its_watches_and_is_not_held_up_by_them() {
    let store =
        TestStore::start_with(|config| config.shutdown_timeout = Duration::from_hours(1)).await;
    let models = store.models();
    models.create(create("m", 0, &[])).await.unwrap();
    let mut idle = models.watch(watch("m", [])).await.unwrap();
    idle.caught_up().await;
    // This one waits for what will not come.
    let request = WatchRequest { min_position: 1000, ..watch("m", []) };
    let waiting = tokio::spawn({
        let models = models.clone();
        async move {
            match models.watch(request).await {
                Ok(mut watch) => watch.end().await,
                Err(refusal) => refusal,
            }
        }
    });
    store.stop.cancel();
    let refusal = idle.end().await;
    assert_eq!((refusal.code(), &*refusal.reason()), (Code::Unavailable, "SHUTTING_DOWN"));
    // Its call had begun, or not yet.
    assert_eq!(within(waiting).await.unwrap().code(), Code::Unavailable);
    store.stopped().await.unwrap();
}

/// A watch that nobody reads any more costs nobody anything: the server goes on, and stops at once.
#[tokio::test]
async fn a_watch_that_is_dropped_is_forgotten() {
    let (store, models, at) = with_model(1).await;
    for _ in 0..20 {
        models.watch(failed()).await.unwrap().caught_up().await;
    }
    models.apply(apply("m", at[0], at[1], [delete("a")])).await.unwrap();
    let mut last = models.watch(failed()).await.unwrap();
    last.caught_up().await;
    assert_eq!(last.documents.keys().collect::<Vec<_>>(), ["c"]);
    store.stop.cancel();
    store.stopped().await.unwrap();
}
