//! Versions side by side: listed, switched, dropped, and made again.

use annals::wire::proto::v1::{ApplyRequest, FindRequest, ListModelsRequest, Model, ModelVersion};
use tonic::Code;

use crate::support::{
    Refusal, TestStore,
    models::{apply, create, delete, equals, find, merge, number, refused, upsert},
};

fn page(page_size: u32, page_token: &str) -> ListModelsRequest {
    ListModelsRequest { page_size, page_token: page_token.to_owned() }
}

#[tokio::test]
async fn models_are_listed_page_by_page_in_the_order_of_their_names_bytes() {
    let store = TestStore::start().await;
    let models = store.models();
    let empty = models.list(ListModelsRequest::default()).await.unwrap();
    assert_eq!((empty.models.len(), &*empty.next_page_token, empty.head), (0, "", 0));
    let mut names: Vec<String> = (0..23).map(|it| format!("m{it}")).collect();
    names.extend(["Z", "ä", "\u{10000}", "\u{ffff}", "m 1"].map(str::to_owned));
    for name in &names {
        models.create(create(name, 0, &[])).await.unwrap();
    }
    store.fill("Payment-1", 5).await;
    names.sort_unstable();
    for page_size in [1, 2, 5, 27, 28, 1000, 0] {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let answer = models.list(page(page_size, &token)).await.unwrap();
            assert_eq!(answer.head, 5);
            let most = if page_size == 0 { 100 } else { page_size as usize };
            assert!((1..=most).contains(&answer.models.len()));
            seen.extend(answer.models.into_iter().map(|it| it.model));
            token = answer.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(seen, names, "pages of {page_size}");
    }
}

#[tokio::test]
async fn a_switch_holds_for_every_call_that_follows() {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["n"]])).await.unwrap();
    models.create(create("m", 2, &[&["n"]])).await.unwrap();
    let at = store.fill("Payment-1", 3).await;
    let to = |version, json: &str| ApplyRequest {
        version,
        ..apply("m", 0, at[version as usize], [upsert("k", json)])
    };
    models.apply(to(1, r#"{"n":1}"#)).await.unwrap();
    models.apply(to(2, r#"{"n":2}"#)).await.unwrap();
    let current = async || {
        let json = models.json("m", "k").await;
        let told = models.checkpoint("m", 0).await.unwrap();
        let listed = models.all().await.remove(0).current_version;
        assert_eq!(told.version, listed);
        assert_eq!(told.checkpoint, at[listed as usize]);
        assert_eq!(json, format!(r#"{{"n":{listed}}}"#));
        let ours = equals("n", number(f64::from(listed)));
        assert_eq!(models.found(find("m", [ours], "")).await, ["k"]);
        listed
    };
    assert_eq!(current().await, 1);
    assert_eq!(models.switch("m", 2).await.unwrap(), 1);
    assert_eq!(current().await, 2);
    // Nothing changes.
    assert_eq!(models.switch("m", 2).await.unwrap(), 2);
    assert_eq!(current().await, 2);
    // And back.
    assert_eq!(models.switch("m", 1).await.unwrap(), 2);
    assert_eq!(current().await, 1);
    let refusal = refused(models.switch("m", 3).await, Code::NotFound, "UNKNOWN_MODEL");
    assert_eq!((refusal.fact("model"), refusal.fact("version")), ("m".to_owned(), "3".to_owned()));
    assert_eq!(current().await, 1);
}

#[tokio::test]
async fn the_current_version_is_not_dropped_unless_it_is_the_only_one() {
    let store = TestStore::start().await;
    let models = store.models();
    for version in [1, 2, 5] {
        models.create(create("m", version, &[])).await.unwrap();
    }
    models.create(create("other", 0, &[])).await.unwrap();
    let refusal =
        refused(models.drop("m", 1).await, Code::FailedPrecondition, "MODEL_VERSION_CURRENT");
    assert_eq!((refusal.fact("model"), refusal.fact("version")), ("m".to_owned(), "1".to_owned()));
    assert_eq!(models.drop("m", 5).await.unwrap(), [5]);
    models.switch("m", 2).await.unwrap();
    assert_eq!(models.drop("m", 1).await.unwrap(), [1]);
    let versions =
        |all: &[Model]| -> Vec<u32> { all[0].versions.iter().map(|it| it.version).collect() };
    assert_eq!(versions(&models.all().await), [2]);
    refused(models.drop("m", 1).await, Code::NotFound, "UNKNOWN_MODEL");
    // The last one goes, and the model with it.
    assert_eq!(models.drop("m", 2).await.unwrap(), [2]);
    refused(models.checkpoint("m", 0).await, Code::NotFound, "UNKNOWN_MODEL");
    let all = models.all().await;
    assert_eq!(all.iter().map(|it| &*it.model).collect::<Vec<_>>(), ["other"]);
}

#[tokio::test]
async fn a_model_is_dropped_with_all_its_versions() {
    let store = TestStore::start().await;
    let models = store.models();
    for version in [3, 1, 2] {
        models.create(create("m", version, &[])).await.unwrap();
    }
    models.create(create("m2", 0, &[])).await.unwrap();
    assert_eq!(models.drop("m", 0).await.unwrap(), [1, 2, 3]);
    refused(models.drop("m", 0).await, Code::NotFound, "UNKNOWN_MODEL");
    assert_eq!(models.all().await.len(), 1);
}

#[tokio::test]
async fn a_dropped_model_that_is_made_again_is_empty() {
    let store = TestStore::start().await;
    let models = store.models();
    let at = store.fill("Payment-1", 2).await;
    for round in 0..3 {
        // Other indexes may stand in the place of those that are gone.
        let field: &[&[&str]] = if round == 1 { &[&["s"]] } else { &[&["n"]] };
        let made = models.create(create("m", 0, field)).await.unwrap();
        assert_eq!((made.checkpoint, made.document_count, made.document_bytes), (0, 0, 0));
        assert!(models.documents("m").await.is_empty());
        refused(models.document("m", "k").await, Code::NotFound, "UNKNOWN_DOCUMENT");
        let order = field[0][0];
        assert!(models.found(find("m", [], order)).await.is_empty());
        let answer = models.apply(apply("m", 0, at[1], [upsert("k", r#"{"n":1,"s":1}"#)])).await;
        assert_eq!(answer.unwrap().document_count, 1);
        assert_eq!(models.found(find("m", [], order)).await, ["k"]);
        assert_eq!(models.drop("m", 0).await.unwrap(), [1]);
    }
}

#[tokio::test]
async fn what_is_dropped_is_dropped_of_no_other_version_or_model() {
    let store = TestStore::start().await;
    let models = store.models();
    let at = store.fill("Payment-1", 1).await[0];
    let all = [("m", 1), ("m", 2), ("m", 11), ("mm", 1), ("m\u{e9}", 1), ("l", 7)];
    for (model, version) in all {
        models.create(create(model, version, &[&["n"]])).await.unwrap();
        let json = format!(r#"{{"n":1,"of":"{model}@{version}"}}"#);
        let writes = ["a", "b"].map(|key| upsert(key, &json));
        let request = ApplyRequest { version, ..apply(model, 0, at, writes) };
        models.apply(request).await.unwrap();
    }
    models.drop("m", 2).await.unwrap();
    models.drop("l", 0).await.unwrap();
    for (model, version) in [("m", 1), ("m", 11), ("mm", 1), ("m\u{e9}", 1)] {
        for request in [find(model, [], ""), find(model, [equals("n", number(1.0))], "")] {
            let found = models.find_all(FindRequest { version, ..request }).await.unwrap();
            let of = format!(r#"{{"n":1,"of":"{model}@{version}"}}"#);
            assert!(found.len() == 2 && found.iter().all(|it| it.json == of), "{found:?}");
        }
    }
    let sizes: Vec<ModelVersion> =
        models.all().await.into_iter().flat_map(|it| it.versions).collect();
    assert!(sizes.iter().all(|it| it.document_count == 2 && it.document_bytes > 0), "{sizes:?}");
}

/// What is listed of a version's size is what its documents have.
#[tokio::test]
async fn the_size_of_a_version_is_that_of_its_keys_and_documents() {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["n"], &["n", "x"]])).await.unwrap();
    let at = store.fill("Payment-1", 4).await;
    let steps = [
        vec![upsert("a", "{}"), upsert("bb", r#"{"n":1}"#), upsert("é", "{ }")],
        vec![upsert("a", r#"{"n":100}"#), delete("bb"), delete("c")],
        vec![
            merge("a", r#"{"n":1,"x":2}"#),
            merge("d", r#"{"n":null}"#),
            upsert("e", "{}"),
            delete("e"),
        ],
        vec![delete("a"), delete("d"), delete("é")],
    ];
    let mut before = 0;
    for (writes, at) in steps.into_iter().zip(at) {
        let count = models.apply(apply("m", before, at, writes)).await.unwrap().document_count;
        let documents = models.documents("m").await;
        let bytes: usize = documents.iter().map(|(key, json)| key.len() + json.len()).sum();
        let version = models.all().await.remove(0).versions.remove(0);
        let told = (version.document_count, version.document_bytes);
        assert_eq!(told, (documents.len() as u64, bytes as u64));
        assert_eq!(count, told.0);
        before = at;
    }
}
