//! A server that is killed under projections, again and again: documents and checkpoint are of one Apply, and
//! whatever was acknowledged is there.

use std::path::Path;

use annals::wire::proto::v1::{
    ApplyRequest, FindRequest, command_service_client::CommandServiceClient,
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::support::{
    ANY, Refusal, append_request, connect,
    dice::Dice,
    models::{Models, apply, create, delete, equals, find, merge, number, upsert},
    process::Process,
    within,
};

const KILLS: u64 = 20;
const PROJECTIONS: u32 = 3;
const EVENTS: usize = 20_000;
/// Documents that are written by turns.
const SLOTS: u64 = 5;

/// What a projection writes with `checkpoint`: it tells afterwards which Apply was the last one.
fn step(version: u32, expected_checkpoint: u64, checkpoint: u64) -> ApplyRequest {
    let slot = checkpoint % SLOTS;
    let parity = checkpoint % 2;
    let writes = vec![
        upsert("counter", &format!(r#"{{"count":{checkpoint},"parity":{parity}}}"#)),
        merge("merged", &format!(r#"{{"count":{checkpoint},"slot-{slot}":{checkpoint}}}"#)),
        upsert(
            &format!("slot-{slot}"),
            &format!(r#"{{"count":{checkpoint},"f":"{}"}}"#, "x".repeat(2000)),
        ),
        delete(&format!("slot-{}", (slot + 1) % SLOTS)),
        // One document for each step: as many as the checkpoint says.
        upsert(&format!("step-{checkpoint:06}"), r#"{"step":1}"#),
    ];
    ApplyRequest { version, ..apply("m", expected_checkpoint, checkpoint, writes) }
}

/// The projection `version`, until the server is gone: the last checkpoint that was acknowledged.
async fn project(models: Models, version: u32, told: mpsc::Sender<()>) -> u64 {
    let Ok(answer) = models.checkpoint("m", version).await else { return 0 };
    let mut checkpoint = answer.checkpoint;
    loop {
        match models.apply(step(version, checkpoint, checkpoint + 1)).await {
            Ok(answer) => {
                checkpoint += 1;
                assert_eq!(answer.checkpoint, checkpoint);
                // Who listened has heard enough once the server is to die.
                let _ = told.send(()).await;
            }
            Err(status) => {
                let refused = tonic_types::StatusExt::get_details_error_info(&status).is_some();
                assert!(!refused || status.reason() == "SHUTTING_DOWN", "{status}");
                return checkpoint;
            }
        }
    }
}

fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

/// The documents of a version are those of its checkpoint: counted, by each index, and by each key.
async fn check(models: &Models, version: u32, acknowledged: u64) -> u64 {
    let checkpoint = models.checkpoint("m", version).await.unwrap().checkpoint;
    assert!(acknowledged <= checkpoint, "{acknowledged} was acknowledged, {checkpoint} is there");
    assert!(checkpoint <= acknowledged + 1, "one Apply was on its way");
    let of = |request: FindRequest| FindRequest { version, ..request };
    let documents = models.find_all(of(find("m", [], ""))).await.unwrap();
    if checkpoint == 0 {
        assert!(documents.is_empty());
        return 0;
    }
    let parsed = |key: &str| {
        let document = documents.iter().find(|it| it.key == key);
        let document = document.unwrap_or_else(|| panic!("{key} is gone"));
        (serde_json::from_str::<serde_json::Value>(&document.json).unwrap(), document.position)
    };
    for key in ["counter".to_owned(), "merged".to_owned(), format!("slot-{}", checkpoint % SLOTS)] {
        let (json, position) = parsed(&key);
        assert_eq!((json["count"].as_u64(), position), (Some(checkpoint), checkpoint), "{key}");
    }
    let merged = parsed("merged").0;
    for back in 0..SLOTS.min(checkpoint) {
        let at = checkpoint - back;
        assert_eq!(merged[format!("slot-{}", at % SLOTS)], at);
    }
    let deleted = format!("slot-{}", (checkpoint + 1) % SLOTS);
    assert!(documents.iter().all(|it| it.key != deleted), "{deleted} was deleted");
    let steps: Vec<_> = documents.iter().filter(|it| it.key.starts_with("step-")).collect();
    assert_eq!(steps.len() as u64, checkpoint, "a step is missing, or one too many");
    assert!((1..).zip(&steps).all(|(at, it)| it.position == at), "each is of its own step");
    // The indexes say the same.
    let indexed =
        models.found(of(find("m", [equals("count", number(float(checkpoint)))], ""))).await;
    assert_eq!(indexed.len(), 3, "{indexed:?}");
    let parity = of(find("m", [equals("parity", number(float(checkpoint % 2)))], ""));
    assert_eq!(models.found(parity).await, ["counter"]);
    let other = of(find("m", [equals("parity", number(float((checkpoint + 1) % 2)))], ""));
    assert!(models.found(other).await.is_empty());
    let listed = models.all().await.remove(0);
    let listed = listed.versions.iter().find(|it| it.version == version).unwrap();
    let bytes: usize = documents.iter().map(|it| it.key.len() + it.json.len()).sum();
    assert_eq!(listed.document_count, documents.len() as u64);
    assert_eq!(listed.document_bytes, bytes as u64);
    checkpoint
}

async fn fill(data: &Path) {
    let process = Process::start_on(data);
    let channel = connect(process.address).await;
    let mut commands = CommandServiceClient::new(channel.clone());
    for _ in 0..EVENTS / 1000 {
        let request = append_request("Payment-1", ANY, vec!["Paid"; 1000]);
        within(commands.append(request)).await.unwrap();
    }
    let models = Models::new(channel);
    for version in 1..=PROJECTIONS {
        models.create(create("m", version, &[&["count"], &["parity", "count"]])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_and_checkpoint_agree_and_what_was_acknowledged_is_there_after_each_kill_9() {
    let data = tempfile::tempdir().unwrap();
    fill(data.path()).await;
    let mut dice = Dice::new(0x000a_11a1);
    let mut checkpoints = [0; PROJECTIONS as usize];
    for _ in 0..KILLS {
        let process = Process::start_on(data.path());
        let (told, mut heard) = mpsc::channel(64);
        let mut projections = JoinSet::new();
        for version in 1..=PROJECTIONS {
            let models = Models::new(connect(process.address).await);
            let told = told.clone();
            projections.spawn(async move { (version, project(models, version, told).await) });
        }
        drop(told);
        for _ in 0..=dice.below(60) {
            within(heard.recv()).await.unwrap();
        }
        drop(process);
        drop(heard);
        while let Some(ended) = within(projections.join_next()).await {
            let (version, acknowledged) = ended.unwrap();
            let place = &mut checkpoints[version as usize - 1];
            *place = acknowledged.max(*place);
        }

        let process = Process::start_on(data.path());
        let models = Models::new(connect(process.address).await);
        for version in 1..=PROJECTIONS {
            let place = &mut checkpoints[version as usize - 1];
            *place = check(&models, version, *place).await;
        }
    }
    let least = checkpoints.iter().min().unwrap();
    assert!(*least > KILLS / 2, "each has come on: {checkpoints:?}");
}
