//! Compaction from the outside: what was deleted is in no memory and in no file any more.

use std::path::Path;

use annals::wire::proto::v1::{
    CompactRequest, CompactResponse, DeleteStreamRequest, NewEvent,
    admin_service_client::AdminServiceClient, new_event::Data,
};
use tempfile::TempDir;

use crate::support::{ANY, TestStore, append_request, event, expect, within};

const SECRET: &str = "the name of a person";

fn secret() -> NewEvent {
    NewEvent { data: Some(Data::Text(SECRET.to_owned())), ..event("Said") }
}

impl TestStore {
    async fn compact(&self) -> CompactResponse {
        within(AdminServiceClient::new(self.channel.clone()).compact(CompactRequest {}))
            .await
            .unwrap()
            .into_inner()
    }

    async fn delete_stream(&self, stream: &str) {
        let request = DeleteStreamRequest { stream: stream.to_owned(), expected_version: None };
        within(self.commands().delete_stream(request)).await.unwrap();
    }
}

/// How often the secret is in the files of the segments.
fn secrets(directory: &Path) -> usize {
    let files = std::fs::read_dir(directory.join("segments")).unwrap();
    let bytes = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
    let count = |bytes: Vec<u8>| {
        bytes.windows(SECRET.len()).filter(|window| *window == SECRET.as_bytes()).count()
    };
    bytes.map(count).sum()
}

#[tokio::test]
async fn what_was_deleted_is_in_no_file_any_more_and_everything_else_is() {
    let directory = TempDir::new().unwrap();
    let start = || TestStore::start_with(|config| config.data = Some(directory.path().to_owned()));
    let store = start().await;
    let mut requests = Vec::new();
    for _ in 0..20 {
        let request = append_request("Person-1", ANY, [secret(), secret()]);
        store.send(request.clone()).await.unwrap();
        requests.push(request);
    }
    store.append("Person-2", ANY, [secret(), event("Other")]).await.unwrap();
    assert_eq!(store.compact().await, CompactResponse::default(), "nothing is hidden");
    assert_eq!(secrets(directory.path()), 41);
    store.delete_stream("Person-1").await;
    let before = store.read_all().await;

    let removed = store.compact().await;
    assert_eq!((removed.segment_count, removed.event_count), (1, 40));
    assert!(removed.freed_bytes > 0);
    assert_eq!(secrets(directory.path()), 1, "only that of the other person");
    let after = store.read_all().await;
    assert_eq!(after[..before.len()], before);
    assert_eq!(after.len(), before.len() + 1);
    assert_eq!(after[before.len()].stream, "$compaction");
    assert_eq!(store.compact().await.event_count, 0, "once is enough");

    store.stop.cancel();
    store.stopped().await.unwrap();
    let store = start().await;
    assert_eq!(store.read_all().await, after);
    let again = store.send(requests[7].clone()).await.unwrap();
    assert!(again.duplicate, "a repeat is known for ever");
    assert_eq!((again.first_version, again.version), (15, 16));
    let next = store.append("Person-1", expect(40), [event("Back")]).await.unwrap();
    assert_eq!(next.version, 41, "versions go on");
    store.stop.cancel();
    store.stopped().await.unwrap();
}

#[tokio::test]
async fn in_memory_mode_compaction_gives_memory_back() {
    let store = TestStore::start().await;
    let large = NewEvent { data: Some(Data::Text("x".repeat(1 << 20))), ..event("Large") };
    for _ in 0..50 {
        let event = NewEvent { id: String::new(), ..large.clone() };
        store.append("Large-1", ANY, [event]).await.unwrap();
    }
    store.append("Small-1", ANY, [event("Small")]).await.unwrap();
    let held = store.info().await.memory.unwrap().event_bytes;
    assert!(held > 50 << 20);
    store.delete_stream("Large-1").await;
    let removed = store.compact().await;
    assert_eq!(removed.event_count, 50);
    let memory = store.info().await.memory.unwrap();
    assert!(memory.event_bytes < 1 << 20, "{memory:?}");
    assert!(memory.segment_bytes < 42 << 20, "the segment that is written, and little else");
    let types: Vec<_> = store.read_all().await.into_iter().map(|event| event.r#type).collect();
    assert_eq!(types, ["Small", "$stream-deleted", "$compaction-requested"]);
}
