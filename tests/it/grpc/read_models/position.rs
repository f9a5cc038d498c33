//! `min_position`: an answer that waits for the projection.

use annals::wire::proto::v1::{
    ApplyRequest, FindRequest, GetRequest, WatchRequest, watch_response::Message,
};
use prost::Message as _;
use tonic::{Code, Status};

use crate::support::{
    Refusal, TestStore,
    models::{Models, apply, create, find, refused, upsert, watch},
    raw::Raw,
    within,
};

/// A server with the model `m`, whose checkpoint is the first position.
async fn with_model() -> (TestStore, Models, Vec<u64>) {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["n"]])).await.unwrap();
    let at = store.fill("Payment-1", 4).await;
    models.apply(apply("m", 0, at[0], [upsert("k", r#"{"n":0}"#)])).await.unwrap();
    (store, models, at)
}

fn get(min_position: u64) -> GetRequest {
    GetRequest { model: "m".to_owned(), version: 0, key: "k".to_owned(), min_position }
}

/// What each of the calls that wait has seen of `k`, and the checkpoint with it.
async fn asked(models: &Models, min_position: u64) -> Vec<Result<(String, u64), Status>> {
    let found = models.find(FindRequest { min_position, ..find("m", [], "") });
    let watched = async {
        let request = WatchRequest { min_position, ..watch("m", []) };
        let mut watch = models.watch(request).await?;
        loop {
            if let Message::CaughtUp(caught_up) = watch.next().await? {
                return Ok((watch.documents["k"].json.clone(), caught_up.checkpoint));
            }
        }
    };
    let (got, found, watched) = tokio::join!(models.get(get(min_position)), found, watched);
    vec![
        got.map(|answer| (answer.document.unwrap().json, answer.checkpoint)),
        found.map(|mut page| (page.documents.remove(0).json, page.checkpoint)),
        watched,
    ]
}

#[tokio::test]
async fn a_position_that_is_reached_is_answered_at_once() {
    let (_store, models, at) = with_model().await;
    for min_position in [0, 1, at[0]] {
        for answer in asked(&models, min_position).await {
            assert_eq!(answer.unwrap(), (r#"{"n":0}"#.to_owned(), at[0]));
        }
    }
}

#[tokio::test]
async fn an_answer_waits_until_the_projection_is_there() {
    let (_store, models, at) = with_model().await;
    let waiting = tokio::spawn({
        let (models, min_position) = (models.clone(), at[2]);
        async move { asked(&models, min_position).await }
    });
    // Not far enough, then beyond it.
    models.apply(apply("m", at[0], at[1], [upsert("k", r#"{"n":1}"#)])).await.unwrap();
    // Those that wait have asked by now or will ask: either way they may see the last state only.
    models.apply(apply("m", at[1], at[3], [upsert("k", r#"{"n":3}"#)])).await.unwrap();
    for answer in within(waiting).await.unwrap() {
        assert_eq!(answer.unwrap(), (r#"{"n":3}"#.to_owned(), at[3]));
    }
}

/// Who asks for a position that the log does not have yet waits as well: it may come.
#[tokio::test]
async fn an_answer_waits_for_events_that_are_still_to_come() {
    let (store, models, at) = with_model().await;
    let waiting = tokio::spawn({
        let (models, min_position) = (models.clone(), at[3] + 2);
        async move { asked(&models, min_position).await }
    });
    let more = store.fill("Payment-1", 2).await;
    models.apply(apply("m", at[0], more[0], [upsert("k", r#"{"n":4}"#)])).await.unwrap();
    models.apply(apply("m", more[0], more[1], [upsert("k", r#"{"n":5}"#)])).await.unwrap();
    for answer in within(waiting).await.unwrap() {
        assert_eq!(answer.unwrap(), (r#"{"n":5}"#.to_owned(), more[1]));
    }
}

#[tokio::test]
async fn what_is_not_there_before_the_deadline_is_told_with_the_checkpoint() {
    let (store, _models, at) = with_model().await;
    let found = FindRequest { min_position: at[1], ..find("m", [], "") };
    let watched = WatchRequest { min_position: u64::MAX, ..watch("m", []) };
    // tonic's client has a timer of its own, which may be first.
    let mut raw = Raw::connect(store.address).await;
    for (name, request, min_position) in [
        ("Get", get(at[1]).encode_to_vec(), at[1]),
        ("Find", found.encode_to_vec(), at[1]),
        ("Watch", watched.encode_to_vec(), u64::MAX),
    ] {
        let path = format!("ReadModelService/{name}");
        let answer = raw.call(&path, &[("grpc-timeout", "100m")], &request).await;
        let status = answer.status.unwrap_or_else(|| panic!("{name} did not wait"));
        let refusal =
            refused::<()>(Err(status), Code::DeadlineExceeded, "MIN_POSITION_NOT_REACHED");
        assert_eq!(refusal.fact("min_position"), min_position.to_string(), "{name}");
        assert_eq!(refusal.fact("checkpoint"), at[0].to_string(), "{name}");
    }
}

#[tokio::test]
async fn an_answer_that_waits_for_the_current_version_is_that_of_the_version_after_a_switch() {
    let (_store, models, at) = with_model().await;
    models.create(create("m", 2, &[&["n"]])).await.unwrap();
    let request = ApplyRequest { version: 2, ..apply("m", 0, at[3], [upsert("k", r#"{"n":22}"#)]) };
    models.apply(request).await.unwrap();
    let waiting = tokio::spawn({
        let (models, min_position) = (models.clone(), at[2]);
        async move { models.get(get(min_position)).await }
    });
    // It has asked by now, most of the time: the answer is the same in both cases.
    for _ in 0..20 {
        assert_eq!(models.checkpoint("m", 0).await.unwrap().version, 1);
    }
    models.switch("m", 2).await.unwrap();
    let answer = within(waiting).await.unwrap().unwrap();
    assert_eq!(
        (answer.document.unwrap().json, answer.checkpoint),
        (r#"{"n":22}"#.to_owned(), at[3])
    );
}

#[tokio::test]
async fn an_answer_that_waits_for_a_version_that_is_dropped_ends() {
    let (_store, models, at) = with_model().await;
    let waiting = tokio::spawn({
        let (models, min_position) = (models.clone(), at[2]);
        async move { models.get(get(min_position)).await }
    });
    for _ in 0..20 {
        models.checkpoint("m", 0).await.unwrap();
    }
    models.drop("m", 0).await.unwrap();
    refused(within(waiting).await.unwrap(), Code::NotFound, "UNKNOWN_MODEL");
}
