//! Making versions of models: what they are made with, and what is refused.

use annals::wire::proto::v1::{
    ApplyRequest, CreateModelRequest, FindRequest, GetRequest, Index, WatchRequest,
};
use tonic::Code;

use crate::support::{
    Refusal, TestStore,
    models::{apply, create, equals, find, indexes, number, refused, text, upsert},
};

#[tokio::test]
async fn a_model_begins_empty_as_version_1_and_is_its_current_one() {
    let store = TestStore::start().await;
    let models = store.models();
    let made = models.create(create("orders", 0, &[])).await.unwrap();
    assert_eq!((made.version, made.checkpoint, made.document_count), (1, 0, 0));
    assert_eq!((made.document_bytes, made.applied_at), (0, None));
    assert!(made.created_at.is_some() && made.indexes.is_empty());
    let all = models.all().await;
    assert_eq!((all.len(), &*all[0].model, all[0].current_version), (1, "orders", 1));
    assert_eq!(all[0].versions, [made]);
    let checkpoint = models.checkpoint("orders", 0).await.unwrap();
    assert_eq!((checkpoint.checkpoint, checkpoint.version, checkpoint.head), (0, 1, 0));
    assert_eq!(store.head().await, 0, "nothing is written to the log");
}

#[tokio::test]
async fn the_first_version_is_the_current_one_whatever_its_number_and_later_ones_are_not() {
    let store = TestStore::start().await;
    let models = store.models();
    for version in [u32::MAX, 3, 1, 7] {
        assert_eq!(models.create(create("m", version, &[])).await.unwrap().version, version);
    }
    let all = models.all().await;
    assert_eq!(all[0].current_version, u32::MAX);
    let versions: Vec<_> = all[0].versions.iter().map(|it| it.version).collect();
    assert_eq!(versions, [1, 3, 7, u32::MAX]);
}

#[tokio::test]
async fn the_same_request_again_changes_nothing_and_is_answered_with_what_is_there() {
    let store = TestStore::start().await;
    let models = store.models();
    let request = create("orders", 2, &[&["status", "customer.country"], &["amount"]]);
    let made = models.create(request.clone()).await.unwrap();
    assert_eq!(made.indexes, request.indexes);
    assert_eq!(models.create(request.clone()).await.unwrap(), made);
    let position = store.fill("Payment-1", 1).await[0];
    models
        .apply(apply("orders", 0, position, [upsert("a", r#"{"status":"paid"}"#)]))
        .await
        .unwrap();
    let again = models.create(request).await.unwrap();
    assert_eq!((again.checkpoint, again.document_count), (position, 1));
    assert_eq!((again.created_at, again.applied_at.is_some()), (made.created_at, true));
    assert_eq!(models.all().await[0].versions, [again]);
}

#[tokio::test]
async fn a_version_with_other_indexes_is_refused_and_stays_what_it_was() {
    let store = TestStore::start().await;
    let models = store.models();
    let made = models.create(create("orders", 0, &[&["status", "amount"]])).await.unwrap();
    let others: [&[&[&str]]; 4] =
        [&[], &[&["status"]], &[&["amount", "status"]], &[&["status", "amount"], &["amount"]]];
    for other in others {
        // Version 0 and version 1 are the same one.
        for version in [0, 1] {
            let answer = models.create(create("orders", version, other)).await;
            let refusal = refused(answer, Code::AlreadyExists, "MODEL_EXISTS");
            let facts = (&*refusal.fact("model"), &*refusal.fact("version"));
            assert_eq!(facts, ("orders", "1"), "{other:?}");
        }
    }
    assert_eq!(models.all().await[0].versions, [made]);
    // Another version may have any.
    models.create(create("orders", 2, &[&["amount"]])).await.unwrap();
}

#[tokio::test]
async fn the_largest_model_that_is_allowed_is_taken_and_works() {
    let store = TestStore::start().await;
    let models = store.models();
    let deep = "a.b.c.d.e.f.g.h".to_owned();
    let long = "x".repeat(256);
    let index = |number: usize| Index {
        fields: vec![format!("f{number}"), deep.clone(), long.clone(), "é".repeat(128)],
    };
    let request = CreateModelRequest {
        model: "é".repeat(128),
        version: u32::MAX,
        indexes: (0..16).map(index).collect(),
    };
    let made = models.create(request.clone()).await.unwrap();
    assert_eq!(made.indexes, request.indexes);
    let position = store.fill("Payment-1", 1).await[0];
    let json = r#"{"f3":1,"a":{"b":{"c":{"d":{"e":{"f":{"g":{"h":"deep"}}}}}}}}"#;
    let answer = models.apply(apply(&request.model, 0, position, [upsert("k", json)])).await;
    assert_eq!(answer.unwrap().document_count, 1);
    let matches = [equals("f3", number(1.0)), equals(&deep, text("deep"))];
    assert_eq!(models.found(find(&request.model, matches, "")).await, ["k"]);
}

#[tokio::test]
async fn a_model_that_does_not_exist_is_unknown_to_every_call() {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("there", 0, &[])).await.unwrap();
    let position = store.fill("Payment-1", 1).await[0];
    for (model, version) in [("nowhere", 0), ("nowhere", 1), ("there", 2), ("THERE", 0)] {
        let name = || model.to_owned();
        let key = "k".to_owned();
        let get = GetRequest { model: name(), version, key, min_position: 0 };
        let find = FindRequest { model: name(), version, ..FindRequest::default() };
        let watch = WatchRequest { model: name(), version, ..WatchRequest::default() };
        let apply = ApplyRequest { version, ..apply(model, 0, position, [upsert("k", "{}")]) };
        let refusals = [
            models.get(get).await.map(drop),
            models.find(find).await.map(drop),
            match models.watch(watch).await {
                Ok(mut watch) => Err(watch.end().await),
                Err(refusal) => Err(refusal),
            },
            models.apply(apply).await.map(drop),
            models.checkpoint(model, version).await.map(drop),
            models.switch(model, version.max(1)).await.map(drop),
            models.drop(model, version).await.map(drop),
        ];
        for (call, refusal) in refusals.into_iter().enumerate() {
            let refusal = refused(refusal, Code::NotFound, "UNKNOWN_MODEL");
            assert_eq!(refusal.fact("model"), model, "call {call}");
            if model == "there" {
                assert_eq!(refusal.fact("version"), "2", "call {call}");
            }
        }
    }
    assert_eq!(models.all().await[0].versions[0].document_count, 0);
}

#[tokio::test]
async fn models_with_names_of_any_kind_are_told_apart() {
    let store = TestStore::start().await;
    let models = store.models();
    let names = [
        "a",
        "a ",
        "A",
        "a/1",
        "a\u{e9}",
        "ae\u{301}",
        "..",
        "$a",
        "\"a\"",
        "ä".repeat(100).leak(),
    ];
    let position = store.fill("Payment-1", 1).await[0];
    for name in names {
        models.create(create(name, 0, &[&["n"]])).await.unwrap();
        let json = serde_json::json!({ "n": name }).to_string();
        models.apply(apply(name, 0, position, [upsert("k", &json)])).await.unwrap();
    }
    let mut sorted = names;
    sorted.sort_unstable();
    let all = models.all().await;
    assert_eq!(all.iter().map(|it| &*it.model).collect::<Vec<_>>(), sorted);
    for name in names {
        let json = models.json(name, "k").await;
        assert_eq!(json, serde_json::json!({ "n": name }).to_string());
        assert_eq!(models.all().await[0].versions[0].indexes, indexes(&[&["n"]]));
    }
}
