//! How many versions there may be, and how much room they may take.

use annals::wire::proto::v1::ApplyRequest;
use tonic::Code;

use crate::support::{
    Refusal, TestStore,
    models::{apply, create, delete, invalid, merge, refused, upsert, watch},
};

const MIB: usize = 1 << 20;

/// A document of so many bytes.
fn of_size(bytes: usize) -> String {
    format!(r#"{{"x":"{}"}}"#, "x".repeat(bytes - 8))
}

#[tokio::test]
async fn one_version_too_many_is_refused_until_another_one_is_dropped() {
    let store = TestStore::start_with(|config| config.models_max = 3).await;
    let models = store.models();
    models.create(create("a", 1, &[])).await.unwrap();
    models.create(create("a", 2, &[])).await.unwrap();
    models.create(create("b", 0, &[])).await.unwrap();
    for (model, version) in [("a", 3), ("b", 2), ("c", 0)] {
        let answer = models.create(create(model, version, &[])).await;
        let refusal = refused(answer, Code::ResourceExhausted, "TOO_MANY_MODELS");
        assert_eq!(refusal.fact("limit"), "3");
    }
    // A repeat makes none, and is answered; one with other indexes is refused for that.
    models.create(create("a", 2, &[])).await.unwrap();
    let other = models.create(create("a", 2, &[&["n"]])).await;
    refused(other, Code::AlreadyExists, "MODEL_EXISTS");
    models.drop("a", 2).await.unwrap();
    models.create(create("c", 0, &[])).await.unwrap();
    let full = models.create(create("d", 0, &[])).await;
    refused(full, Code::ResourceExhausted, "TOO_MANY_MODELS");
    models.drop("a", 0).await.unwrap();
    models.create(create("d", 0, &[])).await.unwrap();
    let names: Vec<_> = models.all().await.into_iter().map(|it| it.model).collect();
    assert_eq!(names, ["b", "c", "d"]);
}

/// The documents' limit is the server's, and that of what a merge makes, too.
#[tokio::test]
async fn a_server_may_allow_smaller_documents() {
    let store = TestStore::start_with(|config| config.document_size_bytes_max = 100).await;
    let models = store.models();
    models.create(create("m", 0, &[])).await.unwrap();
    let at = store.fill("Payment-1", 2).await;
    let (fits, too_large) = (of_size(100), of_size(101));
    let answer = models.apply(apply("m", 0, at[0], [upsert("k", &too_large)])).await;
    invalid("too large", answer, &["writes[0].upsert"]);
    models.apply(apply("m", 0, at[0], [upsert("k", &fits)])).await.unwrap();
    let answer = models.apply(apply("m", at[0], at[1], [merge("k", r#"{"a":1}"#)])).await;
    invalid("it grows", answer, &["writes[0].merge"]);
    models.apply(apply("m", at[0], at[1], [merge("k", r#"{"x":1}"#)])).await.unwrap();
}

#[tokio::test]
async fn what_does_not_fit_into_the_room_of_all_models_is_refused_whole_and_less_is_always_taken() {
    let store = TestStore::start_with(|config| config.models_size_bytes_max = Some(2 * MIB)).await;
    let models = store.models();
    let at = store.fill("Payment-1", 9).await;
    models.create(create("m", 0, &[])).await.unwrap();
    models.create(create("m", 2, &[])).await.unwrap();
    models.create(create("other", 0, &[])).await.unwrap();
    let large = of_size(MIB - 1);
    models.apply(apply("m", 0, at[0], [upsert("a", &large)])).await.unwrap();
    models.apply(apply("other", 0, at[0], [upsert("a", &large)])).await.unwrap();
    // Not a byte more, in whichever version.
    let to_2 = ApplyRequest { version: 2, ..apply("m", 0, at[0], [upsert("b", "{}")]) };
    for request in [apply("m", at[0], at[1], [upsert("b", "{}"), merge("a", "{}")]), to_2] {
        let refusal = refused(models.apply(request).await, Code::ResourceExhausted, "MODELS_FULL");
        let number = |fact: &str| refusal.fact(fact).parse::<usize>().unwrap();
        assert_eq!(number("max"), 2 * MIB);
        assert!(number("used") > 2 * MIB, "{refusal}");
    }
    let told = models.checkpoint("m", 0).await.unwrap();
    assert_eq!((told.checkpoint, models.documents("m").await.len()), (at[0], 1));
    // A checkpoint alone, a smaller document and a delete are taken; then there is room.
    models.apply(apply("m", at[0], at[1], [])).await.unwrap();
    models.apply(apply("m", at[1], at[2], [upsert("a", &of_size(MIB / 2))])).await.unwrap();
    models.apply(apply("m", at[2], at[3], [upsert("b", &of_size(MIB / 4))])).await.unwrap();
    models.apply(apply("m", at[3], at[4], [delete("a")])).await.unwrap();
    models.drop("other", 0).await.unwrap();
    models.apply(apply("m", at[4], at[5], [upsert("a", &large)])).await.unwrap();
}

/// Watches take places, as subscriptions do.
#[tokio::test]
async fn a_watch_takes_a_place_among_all_that_is_open() {
    let store = TestStore::start_with(|config| config.subscriptions_max = 1).await;
    let models = store.models();
    models.create(create("m", 0, &[])).await.unwrap();
    let mut first = models.watch(watch("m", [])).await.unwrap();
    first.caught_up().await;
    let answer = match models.watch(watch("m", [])).await {
        Ok(mut watch) => watch.next().await.map(drop),
        Err(refusal) => Err(refusal),
    };
    let refusal = refused(answer, Code::ResourceExhausted, "TOO_MANY_SUBSCRIPTIONS");
    assert_eq!(refusal.fact("limit"), "1");
    first.expect_nothing().await;
}

/// 64 at once, each with its own document: all are taken, whichever way they are committed together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applies_to_many_models_at_once_are_each_answered_with_their_own() {
    const MODELS: usize = 64;
    let store = TestStore::start().await;
    let at = store.fill("Payment-1", 2).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..MODELS {
        let (models, at) = (store.models(), at.clone());
        tasks.spawn(async move {
            let model = format!("m{number}");
            models.create(create(&model, 0, &[&["n"]])).await.unwrap();
            let json = format!(r#"{{"n":{number}}}"#);
            let answer = models.apply(apply(&model, 0, at[0], [upsert("k", &json)])).await.unwrap();
            assert_eq!((answer.checkpoint, answer.document_count), (at[0], 1));
            // One that cannot be, in the same commit as others that can.
            let wrong = models.apply(apply(&model, 0, at[1], [upsert("k", "{}")])).await;
            refused(wrong, Code::FailedPrecondition, "WRONG_CHECKPOINT");
            assert_eq!(models.json(&model, "k").await, json);
        });
    }
    while let Some(done) = crate::support::within(tasks.join_next()).await {
        done.unwrap();
    }
    assert_eq!(store.models().all().await.len(), MODELS);
}

/// A small request may not make the server load all that it can name.
#[tokio::test]
async fn what_one_apply_replaces_has_a_limit_and_smaller_parts_go_through() {
    const PARTS: usize = 26;
    const IN_PART: usize = 10;
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[])).await.unwrap();
    let at = store.fill("Payment-1", PARTS + 2).await;
    let large = of_size(MIB);
    let key = |number: usize| format!("k{number}");
    let mut checkpoint = 0;
    for (part, position) in at[..PARTS].iter().enumerate() {
        let keys = part * IN_PART..(part + 1) * IN_PART;
        let writes: Vec<_> = keys.map(|number| upsert(&key(number), &large)).collect();
        models.apply(apply("m", checkpoint, *position, writes)).await.unwrap();
        checkpoint = *position;
    }
    // 256 of them have 256 MiB.
    let all: Vec<_> = (0..PARTS * IN_PART).map(|number| delete(&key(number))).collect();
    let answer = models.apply(apply("m", checkpoint, at[PARTS], all.clone())).await;
    invalid("260 MiB", answer, &["writes[256].delete"]);
    let deleted = models.apply(apply("m", checkpoint, at[PARTS], &all[..256])).await.unwrap();
    assert_eq!(deleted.document_count, 4);
}
