//! Two projections that believe to be the only one: each step is one of them's.

use std::sync::Arc;

use annals::wire::proto::v1::ApplyRequest;
use tokio::{sync::Barrier, task::JoinSet};
use tonic::Code;

use crate::support::{
    Refusal, TestStore, connect,
    models::{Models, apply, create, merge, upsert},
    within,
};

const ROUNDS: usize = 500;

/// Each tries the same step as the other at the same moment, many times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_applies_from_the_same_checkpoint_exactly_one_wins_and_all_of_it_is_there() {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["by"]])).await.unwrap();
    let at = Arc::new(store.fill("Payment-1", ROUNDS).await);
    let start = Arc::new(Barrier::new(2));
    let mut projections = JoinSet::new();
    for me in ["one", "two"] {
        let models = Models::new(connect(store.address).await);
        let (at, start) = (Arc::clone(&at), Arc::clone(&start));
        projections.spawn(async move {
            let mut won = Vec::new();
            for round in 0..ROUNDS {
                let before = if round == 0 { 0 } else { at[round - 1] };
                let json = format!(r#"{{"by":"{me}","round":{round}}}"#);
                let writes = [
                    upsert("last", &json),
                    upsert(&format!("{me}-{round}"), &json),
                    merge("both", &format!(r#"{{"{round}":"{me}"}}"#)),
                ];
                let request = apply("m", before, at[round], writes);
                within(start.wait()).await;
                match models.apply(request).await {
                    Ok(answer) => {
                        // One document for each round, and two that all share.
                        assert_eq!(answer.document_count, round as u64 + 3);
                        won.push(round);
                    }
                    Err(refusal) => {
                        assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
                        assert_eq!(refusal.reason(), "WRONG_CHECKPOINT");
                        assert_eq!(refusal.fact("actual"), at[round].to_string());
                    }
                }
            }
            (me, won)
        });
    }
    let mut rounds = vec![Vec::new(); ROUNDS];
    while let Some(result) = within(projections.join_next()).await {
        let (me, won) = result.unwrap();
        for round in won {
            rounds[round].push(me);
        }
    }
    let documents = models.documents("m").await;
    assert_eq!(documents.len(), ROUNDS + 2);
    let both: serde_json::Value = serde_json::from_str(&documents["both"]).unwrap();
    for (round, winners) in rounds.iter().enumerate() {
        let [winner] = winners[..] else { panic!("round {round}: {winners:?}") };
        assert!(documents.contains_key(&format!("{winner}-{round}")), "round {round}");
        assert_eq!(both[round.to_string()], *winner);
    }
    let last = format!(r#"{{"by":"{}","round":{}}}"#, rounds[ROUNDS - 1][0], ROUNDS - 1);
    assert_eq!(documents["last"], last);
    assert_eq!(models.checkpoint("m", 0).await.unwrap().checkpoint, at[ROUNDS - 1]);
}

/// Different models and versions do not stand in each other's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projections_of_different_versions_are_each_alone() {
    const STEPS: usize = 50;
    let store = TestStore::start().await;
    let models = store.models();
    let at = Arc::new(store.fill("Payment-1", STEPS).await);
    let mut projections = JoinSet::new();
    for (model, version) in [("a", 1), ("a", 2), ("b", 1), ("c", 9)] {
        models.create(create(model, version, &[&["n"]])).await.unwrap();
        let (models, at) = (models.clone(), Arc::clone(&at));
        projections.spawn(async move {
            let mut before = 0;
            for (step, position) in at.iter().enumerate() {
                let key = (step % 7).to_string();
                let writes = [upsert(&key, &format!(r#"{{"n":{step},"v":{version}}}"#))];
                let request = ApplyRequest { version, ..apply(model, before, *position, writes) };
                models.apply(request).await.unwrap();
                before = *position;
            }
        });
    }
    while let Some(result) = within(projections.join_next()).await {
        result.unwrap();
    }
    for model in models.all().await {
        for version in model.versions {
            assert_eq!((version.checkpoint, version.document_count), (at[STEPS - 1], 7));
        }
    }
    // A creation is a race, too: all of the same are answered with one.
    let mut creations = JoinSet::new();
    for _ in 0..32 {
        let models = models.clone();
        creations.spawn(async move { models.create(create("new", 0, &[&["n"]])).await.unwrap() });
    }
    let made = within(creations.join_all()).await;
    assert!(made.iter().all(|version| *version == made[0]), "{made:?}");
}
