//! Applying writes: all or nothing, from the checkpoint that is expected only, in order.

use annals::wire::proto::v1::{ApplyRequest, JsonOperator::Less};
use tonic::Code;

use crate::support::{
    Refusal, TestStore,
    models::{
        Models, apply, create, delete, equals, find, invalid, matches, merge, number, refused,
        text, upsert,
    },
};

/// A server with the model `m`, whose indexed field is `n`, and so many events.
async fn with_model(events: usize) -> (TestStore, Models, Vec<u64>) {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["n"]])).await.unwrap();
    let positions = store.fill("Payment-1", events).await;
    (store, models, positions)
}

#[tokio::test]
async fn documents_and_checkpoint_are_written_together() {
    let (_store, models, at) = with_model(3).await;
    let writes = [upsert("a", r#"{"n":1}"#), upsert("b", r#"{"n":2}"#)];
    let answer = models.apply(apply("m", 0, at[1], writes)).await.unwrap();
    assert_eq!((answer.checkpoint, answer.document_count), (at[1], 2));
    let checkpoint = models.checkpoint("m", 0).await.unwrap();
    assert_eq!((checkpoint.checkpoint, checkpoint.head), (at[1], at[2]));
    let a = models.document("m", "a").await.unwrap();
    assert_eq!((&*a.key, &*a.json, a.position), ("a", r#"{"n":1}"#, at[1]));

    let answer = models.apply(apply("m", at[1], at[2], [upsert("b", r#"{"n":3}"#)])).await.unwrap();
    assert_eq!((answer.checkpoint, answer.document_count), (at[2], 2));
    // Each document has the checkpoint that was written with it.
    assert_eq!(models.document("m", "a").await.unwrap().position, at[1]);
    let b = models.document("m", "b").await.unwrap();
    assert_eq!((&*b.json, b.position), (r#"{"n":3}"#, at[2]));
    let version = models.all().await.remove(0).versions.remove(0);
    assert_eq!((version.checkpoint, version.document_count), (at[2], 2));
    assert_eq!(version.document_bytes, 16, "two keys of 1 byte, two documents of 7");
    assert!(version.applied_at.unwrap().seconds >= version.created_at.unwrap().seconds);
}

#[tokio::test]
async fn a_checkpoint_moves_without_any_write() {
    let (_store, models, at) = with_model(2).await;
    let answer = models.apply(apply("m", 0, at[0], [])).await.unwrap();
    assert_eq!((answer.checkpoint, answer.document_count), (at[0], 0));
    models.apply(apply("m", at[0], at[1], [])).await.unwrap();
    assert_eq!(models.checkpoint("m", 1).await.unwrap().checkpoint, at[1]);
}

#[tokio::test]
async fn one_bad_write_among_good_ones_leaves_nothing_of_them() {
    let (_store, models, at) = with_model(3).await;
    let first = [upsert("kept", r#"{"n":"kept"}"#), upsert("gone", r#"{"n":"gone"}"#)];
    models.apply(apply("m", 0, at[0], first)).await.unwrap();
    let before = models.documents("m").await;
    let long = format!(r#"{{"n":"{}"}}"#, "x".repeat(1025));
    let bad = [
        ("no JSON", upsert("bad", "{"), "upsert"),
        ("a list", upsert("bad", "[]"), "upsert"),
        ("a patch that is no object", merge("kept", "7"), "merge"),
        ("a long indexed string", upsert("bad", &long), "upsert"),
        ("a long indexed string by a patch", merge("kept", &long), "merge"),
    ];
    for (what, write, field) in bad {
        for place in 0..4 {
            let mut writes = vec![
                upsert("kept", r#"{"n":"changed"}"#),
                delete("gone"),
                merge("new", r#"{"n":"new"}"#),
            ];
            writes.insert(place, write.clone());
            let answer = models.apply(apply("m", at[0], at[1], writes)).await;
            invalid(what, answer, &[&format!("writes[{place}].{field}")]);
            assert_eq!(models.checkpoint("m", 0).await.unwrap().checkpoint, at[0], "{what}");
            assert_eq!(models.documents("m").await, before, "{what}");
        }
    }
    let version = models.all().await.remove(0).versions.remove(0);
    assert_eq!((version.document_count, version.document_bytes), (2, 32));
    for (value, expected) in [("kept", vec!["kept"]), ("changed", vec![]), ("new", vec![])] {
        let found = models.found(find("m", [equals("n", text(value))], "")).await;
        assert_eq!(found, expected, "no index has what was not written");
    }
    models.apply(apply("m", at[0], at[1], [delete("gone")])).await.unwrap();
}

#[tokio::test]
async fn a_wrong_checkpoint_is_told_with_the_actual_one_and_writes_nothing() {
    let (_store, models, at) = with_model(4).await;
    models.apply(apply("m", 0, at[1], [upsert("a", "{}")])).await.unwrap();
    for expected in [0, at[0], at[2]] {
        let request = apply("m", expected, at[3], [upsert("b", "{}"), delete("a")]);
        let refusal =
            refused(models.apply(request).await, Code::FailedPrecondition, "WRONG_CHECKPOINT");
        let facts = ["model", "version", "expected", "actual"].map(|name| refusal.fact(name));
        let said = ["m".to_owned(), "1".to_owned(), expected.to_string(), at[1].to_string()];
        assert_eq!(facts, said);
    }
    let documents = models.documents("m").await;
    assert_eq!(documents.into_keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(models.checkpoint("m", 0).await.unwrap().checkpoint, at[1]);
    // The same Apply again, as after an unknown outcome, is not applied twice.
    let refusal = models.apply(apply("m", 0, at[1], [upsert("a", "{}")])).await.unwrap_err();
    assert_eq!(
        (&*refusal.reason(), refusal.fact("actual")),
        ("WRONG_CHECKPOINT", at[1].to_string())
    );
}

#[tokio::test]
async fn a_checkpoint_must_be_beyond_the_expected_one_and_not_beyond_the_head() {
    let (store, models, at) = with_model(3).await;
    models.apply(apply("m", 0, at[1], [])).await.unwrap();
    for checkpoint in [0, at[0], at[1]] {
        let answer = models.apply(apply("m", at[1], checkpoint, [upsert("a", "{}")])).await;
        invalid("not beyond", answer, &["checkpoint"]);
    }
    for checkpoint in [at[2] + 1, u64::MAX] {
        let answer = models.apply(apply("m", at[1], checkpoint, [upsert("a", "{}")])).await;
        invalid("beyond the head", answer, &["checkpoint"]);
    }
    invalid("the largest", models.apply(apply("m", u64::MAX, u64::MAX, [])).await, &["checkpoint"]);
    assert_eq!(models.checkpoint("m", 0).await.unwrap().checkpoint, at[1]);
    assert!(models.documents("m").await.is_empty());
    // As soon as there is such an event, it is in order.
    let next = store.fill("Payment-1", 1).await[0];
    models.apply(apply("m", at[1], next, [upsert("a", "{}")])).await.unwrap();
}

#[tokio::test]
async fn several_writes_to_one_key_are_done_in_order() {
    let (_store, models, at) = with_model(2).await;
    let writes = [
        upsert("a", r#"{"n":1,"x":1}"#),
        merge("a", r#"{"n":2}"#),
        merge("a", r#"{"y":3}"#),
        upsert("b", r#"{"n":1}"#),
        delete("b"),
        merge("b", r#"{"n":9}"#),
        upsert("c", r#"{"n":1}"#),
        delete("c"),
        delete("d"),
        upsert("d", r#"{"n":4}"#),
    ];
    let answer = models.apply(apply("m", 0, at[0], writes)).await.unwrap();
    assert_eq!(answer.document_count, 3);
    let parsed = |json: String| serde_json::from_str::<serde_json::Value>(&json).unwrap();
    let a = parsed(models.json("m", "a").await);
    assert_eq!(a, serde_json::json!({"n": 2, "x": 1, "y": 3}));
    assert_eq!(parsed(models.json("m", "b").await), serde_json::json!({"n": 9}));
    assert_eq!(parsed(models.json("m", "d").await), serde_json::json!({"n": 4}));
    // The index has the last state of each, and no other.
    assert_eq!(models.found(find("m", [], "n")).await, ["a", "d", "b"]);
}

#[tokio::test]
async fn a_document_that_is_not_there_is_deleted_without_a_fault() {
    let (_store, models, at) = with_model(2).await;
    let answer = models.apply(apply("m", 0, at[0], [delete("a"), delete("a")])).await.unwrap();
    assert_eq!((answer.checkpoint, answer.document_count), (at[0], 0));
    let refusal = refused(models.document("m", "a").await, Code::NotFound, "UNKNOWN_DOCUMENT");
    let facts = ["model", "version", "key"].map(|name| refusal.fact(name));
    assert_eq!(facts, ["m", "1", "a"]);
}

#[tokio::test]
async fn a_version_that_is_not_the_current_one_is_written_to_by_its_number() {
    let (_store, models, at) = with_model(2).await;
    models.create(create("m", 2, &[])).await.unwrap();
    let next = ApplyRequest { version: 2, ..apply("m", 0, at[1], [upsert("a", r#"{"v":2}"#)]) };
    models.apply(next).await.unwrap();
    models.apply(apply("m", 0, at[0], [upsert("a", r#"{"v":1}"#)])).await.unwrap();
    assert_eq!(models.json("m", "a").await, r#"{"v":1}"#);
    for (asked, told) in [(0, (1, at[0])), (1, (1, at[0])), (2, (2, at[1]))] {
        let answer = models.checkpoint("m", asked).await.unwrap();
        assert_eq!((answer.version, answer.checkpoint), told);
    }
}

/// 10 000 writes and nearly 16 MiB are taken in one step.
#[tokio::test]
async fn the_largest_apply_is_taken_whole() {
    let (_store, models, at) = with_model(2).await;
    let fill = "x".repeat(1500);
    let writes: Vec<_> = (0..10_000)
        .map(|number| {
            upsert(&format!("key-{number}"), &format!(r#"{{"n":{number},"f":"{fill}"}}"#))
        })
        .collect();
    let answer = models.apply(apply("m", 0, at[0], writes)).await.unwrap();
    assert_eq!(answer.document_count, 10_000);
    let found = models.found(find("m", [matches("n", Less, number(3.0))], "n")).await;
    assert_eq!(found, ["key-0", "key-1", "key-2"]);
    assert_eq!(models.documents("m").await.len(), 10_000);
}
