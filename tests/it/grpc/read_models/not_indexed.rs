//! What no index answers is refused, and nothing is looked for.

use annals::wire::proto::v1::{
    ApplyRequest, FieldMatch, FindRequest,
    JsonOperator::{Greater, Less},
};
use tonic::Code;

use crate::support::{
    Refusal, TestStore,
    models::{Models, apply, create, equals, find, matches, number, refused, text, upsert, watch},
};

async fn with_model() -> (TestStore, Models) {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["a", "b", "c"], &["d"]])).await.unwrap();
    models.create(create("bare", 0, &[])).await.unwrap();
    let position = store.fill("Payment-1", 1).await[0];
    let writes = [upsert("k", r#"{"a":1,"b":1,"c":1,"d":1,"e":1}"#)];
    for model in ["m", "bare"] {
        models.apply(apply(model, 0, position, writes.clone())).await.unwrap();
    }
    (store, models)
}

fn one(field: &str) -> FieldMatch {
    equals(field, number(1.0))
}

#[tokio::test]
async fn what_no_index_answers_is_refused_with_the_fields_that_were_named() {
    let (_store, models) = with_model().await;
    let cases: Vec<(FindRequest, &[&str])> = vec![
        // In no index at all.
        (find("m", [one("e")], ""), &["e"]),
        (find("m", [one("a"), one("e")], ""), &["a", "e"]),
        (find("m", [], "e"), &["e"]),
        (find("m", [one("a")], "e"), &["a", "e"]),
        (find("bare", [one("a")], ""), &["a"]),
        (find("bare", [], "a"), &["a"]),
        // Not the first field of an index.
        (find("m", [one("b")], ""), &["b"]),
        (find("m", [one("b"), one("c")], ""), &["b", "c"]),
        (find("m", [], "b"), &["b"]),
        // Not the field that follows those that are compared.
        (find("m", [one("a")], "c"), &["a", "c"]),
        (find("m", [one("b")], "c"), &["b", "c"]),
        (find("m", [one("d")], "b"), &["b", "d"]),
        // An order goes on behind EQUALS only.
        (find("m", [matches("a", Greater, number(0.0))], "b"), &["a", "b"]),
        (find("m", [matches("a", Less, text("x"))], "b"), &["a", "b"]),
    ];
    for (request, fields) in cases {
        let refusal =
            refused(models.find(request.clone()).await, Code::FailedPrecondition, "NOT_INDEXED");
        let told = refusal.fact("fields");
        let mut told: Vec<_> = told.split(',').map(str::trim).collect();
        told.sort_unstable();
        assert_eq!(told, fields, "{request:?}");
        let facts = (refusal.fact("model"), refusal.fact("version"));
        assert_eq!(facts, (request.model, "1".to_owned()));
    }
}

#[tokio::test]
async fn a_watch_needs_an_index_as_a_find_does() {
    let (_store, models) = with_model().await;
    for unindexed in [vec![one("e")], vec![one("b")], vec![one("a"), one("e")]] {
        let answer = match models.watch(watch("m", unindexed)).await {
            Ok(mut watch) => watch.next().await.map(drop),
            Err(refusal) => Err(refusal),
        };
        refused(answer, Code::FailedPrecondition, "NOT_INDEXED");
    }
    for indexed in
        [vec![], vec![one("a")], vec![one("d"), one("c")], vec![matches("a", Less, number(2.0))]]
    {
        let mut watch = models.watch(watch("m", indexed)).await.unwrap();
        watch.caught_up().await;
        assert_eq!(watch.documents.len(), 1);
    }
}

#[tokio::test]
async fn what_an_index_answers_is_answered() {
    let (_store, models) = with_model().await;
    for request in [
        find("m", [], ""),
        find("bare", [], ""),
        find("m", [one("a")], ""),
        find("m", [one("a"), one("c")], ""),
        find("m", [one("a"), one("d")], ""),
        find("m", [one("d"), one("c")], ""),
        find("m", [one("a"), one("b")], "c"),
        find("m", [one("a")], "b"),
        find("m", [], "a"),
        find("m", [one("b")], "a"),
        find("m", [one("b")], "d"),
        find("m", [matches("a", Greater, number(0.0))], "a"),
        find("m", [matches("a", Greater, number(0.0)), one("d")], "d"),
    ] {
        assert_eq!(models.found(request.clone()).await, ["k"], "{request:?}");
    }
}

/// The next version has other indexes: what is asked of it is answered by them.
#[tokio::test]
async fn each_version_has_its_own_indexes() {
    let (store, models) = with_model().await;
    models.create(create("m", 2, &[&["e"]])).await.unwrap();
    let head = store.head().await;
    let writes = vec![upsert("k2", r#"{"a":1,"e":1}"#)];
    let request = ApplyRequest { version: 2, ..apply("m", 0, head, writes) };
    models.apply(request).await.unwrap();
    let of = |version, field| FindRequest { version, ..find("m", [one(field)], "") };
    assert_eq!(models.found(of(2, "e")).await, ["k2"]);
    refused(models.find(of(2, "a")).await, Code::FailedPrecondition, "NOT_INDEXED");
    refused(models.find(of(0, "e")).await, Code::FailedPrecondition, "NOT_INDEXED");
    models.switch("m", 2).await.unwrap();
    assert_eq!(models.found(of(0, "e")).await, ["k2"]);
    assert_eq!(models.found(of(1, "a")).await, ["k"]);
}
