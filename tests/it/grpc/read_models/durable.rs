//! A server that stops and starts again: on a data directory the read models are what they were, in memory
//! they are gone.

use std::path::Path;

use annals::wire::proto::v1::{ApplyRequest, FindRequest};
use tonic::Code;

use crate::support::{
    TestStore,
    models::{apply, create, delete, equals, find, merge, number, refused, text, upsert},
};

async fn start(data: &Path) -> TestStore {
    TestStore::start_with(|config| config.data = Some(data.to_owned())).await
}

async fn restart(store: TestStore, data: &Path) -> TestStore {
    store.stop.cancel();
    store.stopped().await.unwrap();
    start(data).await
}

#[tokio::test]
async fn models_survive_a_stop_with_their_documents_checkpoints_and_indexes() {
    let data = tempfile::tempdir().unwrap();
    let mut store = start(data.path()).await;
    let models = store.models();
    let at = store.fill("Payment-1", 5).await;
    models.create(create("orders", 0, &[&["status", "customer.country"], &["n"]])).await.unwrap();
    models.create(create("orders", 7, &[])).await.unwrap();
    models.create(create("untouched", 3, &[&["x"]])).await.unwrap();
    let writes = [
        upsert("a", r#"{ "n":12.10, "status":"failed" }"#),
        upsert("b", r#"{"n":1,"status":"paid"}"#),
        upsert("gone", r#"{"n":2,"status":"failed"}"#),
    ];
    models.apply(apply("orders", 0, at[1], writes)).await.unwrap();
    let writes = [merge("b", r#"{"customer":{"country":"NL"}}"#), delete("gone")];
    models.apply(apply("orders", at[1], at[3], writes)).await.unwrap();
    let next = ApplyRequest { version: 7, ..apply("orders", 0, at[4], [upsert("a", "{}")]) };
    models.apply(next).await.unwrap();
    models.switch("orders", 7).await.unwrap();
    let before = models.all().await;
    let of_1 = |request: FindRequest| FindRequest { version: 1, ..request };
    let documents = models.find_all(of_1(find("orders", [], ""))).await.unwrap();
    for round in 0..3 {
        store = restart(store, data.path()).await;
        let models = store.models();
        assert_eq!(models.all().await, before, "round {round}");
        assert_eq!(models.find_all(of_1(find("orders", [], ""))).await.unwrap(), documents);
        let failed = of_1(find("orders", [equals("status", text("failed"))], ""));
        assert_eq!(models.found(failed).await, ["a"]);
        let by_n = of_1(find("orders", [], "n"));
        assert_eq!(models.found(by_n).await, ["b", "a"]);
        let two = of_1(find("orders", [equals("n", number(2.0))], ""));
        assert!(models.found(two).await.is_empty());
        assert_eq!(models.json("orders", "a").await, "{}", "version 7 is still the current one");
    }
    // A projection goes on where it was, and nowhere else.
    let models = store.models();
    let stale = ApplyRequest { version: 1, ..apply("orders", at[1], at[4], [upsert("c", "{}")]) };
    refused(models.apply(stale).await, Code::FailedPrecondition, "WRONG_CHECKPOINT");
    let right = ApplyRequest { version: 1, ..apply("orders", at[3], at[4], [upsert("c", "{}")]) };
    assert_eq!(models.apply(right).await.unwrap().document_count, 3);
}

#[tokio::test]
async fn what_was_dropped_stays_dropped_after_a_stop_and_is_empty_when_it_is_made_again() {
    let data = tempfile::tempdir().unwrap();
    let mut store = start(data.path()).await;
    let models = store.models();
    let at = store.fill("Payment-1", 2).await;
    for model in ["kept", "dropped", "again"] {
        models.create(create(model, 0, &[&["n"]])).await.unwrap();
        models.create(create(model, 2, &[&["n"]])).await.unwrap();
        for version in [1, 2] {
            let writes = [upsert("k", &format!(r#"{{"n":{version}}}"#))];
            let request = ApplyRequest { version, ..apply(model, 0, at[0], writes) };
            models.apply(request).await.unwrap();
        }
    }
    models.drop("kept", 2).await.unwrap();
    models.drop("dropped", 0).await.unwrap();
    models.drop("again", 0).await.unwrap();
    models.create(create("again", 0, &[&["n"]])).await.unwrap();
    for _ in 0..2 {
        store = restart(store, data.path()).await;
        let models = store.models();
        let all = models.all().await;
        let names: Vec<_> = all.iter().map(|it| (&*it.model, it.versions.len())).collect();
        assert_eq!(names, [("again", 1), ("kept", 1)]);
        assert_eq!(models.found(find("kept", [], "n")).await, ["k"]);
        assert_eq!(models.json("kept", "k").await, r#"{"n":1}"#);
        let again = &all[0].versions[0];
        assert_eq!((again.checkpoint, again.document_count), (0, 0));
        assert!(models.documents("again").await.is_empty());
        assert!(models.found(find("again", [], "n")).await.is_empty());
        refused(models.document("dropped", "k").await, Code::NotFound, "UNKNOWN_MODEL");
    }
    let models = store.models();
    models.create(create("dropped", 2, &[&["n"]])).await.unwrap();
    assert!(models.documents("dropped").await.is_empty());
    assert!(models.found(find("dropped", [], "n")).await.is_empty());
    let store = restart(store, data.path()).await;
    assert!(store.models().found(find("dropped", [], "n")).await.is_empty());
}

#[tokio::test]
async fn a_page_token_is_good_after_a_stop() {
    let data = tempfile::tempdir().unwrap();
    let store = start(data.path()).await;
    let at = store.fill("Payment-1", 1).await[0];
    store.models().create(create("m", 0, &[&["n"]])).await.unwrap();
    let writes: Vec<_> =
        (0..10).map(|it| upsert(&it.to_string(), &format!(r#"{{"n":{}}}"#, it % 3))).collect();
    store.models().apply(apply("m", 0, at, writes)).await.unwrap();
    let request = FindRequest { page_size: 4, ..find("m", [], "n") };
    let mut page = store.models().find(request.clone()).await.unwrap();
    let whole = store.models().found(request.clone()).await;
    let store = restart(store, data.path()).await;
    let mut seen = Vec::new();
    loop {
        seen.extend(page.documents.into_iter().map(|it| it.key));
        if page.next_page_token.is_empty() {
            break;
        }
        let request = FindRequest { page_token: page.next_page_token, ..request.clone() };
        page = store.models().find(request).await.unwrap();
    }
    assert_eq!(seen, whole);
}

#[tokio::test]
async fn in_memory_they_are_gone_with_the_server() {
    let store = TestStore::start().await;
    store.models().create(create("m", 0, &[])).await.unwrap();
    assert_eq!(store.models().all().await.len(), 1);
    store.stop.cancel();
    store.stopped().await.unwrap();
    let store = TestStore::start().await;
    assert!(store.models().all().await.is_empty());
}
