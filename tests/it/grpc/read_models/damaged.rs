//! Where the file of the read models, or the log beside it, is not what it was.

use std::{fs, path::Path};

use annals::{
    config::Config,
    server::{self, ServerError},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::support::{
    Refusal, TestStore,
    models::{apply, create, refused, upsert},
};

const FILE: &str = "read_models.redb";

async fn start(data: &Path) -> TestStore {
    TestStore::start_with(|config| config.data = Some(data.to_owned())).await
}

/// A directory in which a server has left two documents at the head.
async fn left() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let store = start(data.path()).await;
    let models = store.models();
    let at = store.fill("Payment-1", 3).await;
    models.create(create("m", 0, &[&["n"]])).await.unwrap();
    let writes = [upsert("a", r#"{"n":"needle"}"#), upsert("b", r#"{"n":1}"#)];
    models.apply(apply("m", 0, at[2], writes)).await.unwrap();
    store.stop.cancel();
    store.stopped().await.unwrap();
    data
}

#[tokio::test]
async fn a_file_that_is_none_of_ours_stops_the_start_and_is_named() {
    for damage in ["garbage", "short"] {
        let data = left().await;
        let path = data.path().join(FILE);
        let good = fs::read(&path).unwrap();
        match damage {
            "garbage" => fs::write(&path, [0x55; 5000]).unwrap(),
            _ => fs::write(&path, &good[..3000]).unwrap(),
        }
        let config = Config { data: Some(data.path().to_owned()), ..Config::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = server::run(config, listener, CancellationToken::new()).await.unwrap_err();
        let ServerError::ReadModels(error) = error else { panic!("{damage}: {error}") };
        assert!(error.to_string().contains(FILE), "{damage}: {error}");

        // Moved away, as the error says, it is missed by nobody but the projections.
        fs::remove_file(&path).unwrap();
        let store = start(data.path()).await;
        assert_eq!(store.read_all().await.len(), 3);
        assert!(store.models().all().await.is_empty());
    }
}

#[tokio::test]
async fn a_document_that_was_changed_on_the_disk_is_told_and_hurts_no_other() {
    let data = left().await;
    let path = data.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    let needle = b"needle";
    let places: Vec<usize> =
        (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
    assert!(!places.is_empty(), "the file holds documents as they are");
    for at in places {
        bytes[at] = b'N';
    }
    fs::write(&path, bytes).unwrap();
    let store = start(data.path()).await;
    let refusal = refused(store.models().document("m", "a").await, Code::DataLoss, "MODELS_FAILED");
    assert!(refusal.fact("fault").contains("document a"), "{refusal:?}");
    assert_eq!(store.models().json("m", "b").await, r#"{"n":1}"#);
}

#[tokio::test]
async fn a_version_that_is_ahead_of_the_log_is_emptied_and_made_again() {
    let data = left().await;
    // The log has lost everything, as one that was never synced can.
    for folder in ["segments", "index"] {
        fs::remove_dir_all(data.path().join(folder)).unwrap();
    }
    let store = start(data.path()).await;
    let models = store.models();
    let [model] = models.all().await.try_into().unwrap();
    let [version] = model.versions.try_into().unwrap();
    assert_eq!((version.checkpoint, version.document_count, version.document_bytes), (0, 0, 0));
    assert_eq!(version.indexes.len(), 1);
    refused(models.document("m", "b").await, Code::NotFound, "UNKNOWN_DOCUMENT");
    let at = store.fill("Payment-1", 1).await;
    models.apply(apply("m", 0, at[0], [upsert("a", "{}")])).await.unwrap();
    assert_eq!(models.documents("m").await.len(), 1);
}
