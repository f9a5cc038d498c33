//! Compaction from the outside: what was deleted is in no memory and in no file any more.

use std::path::Path;

use annals::{
    config::Config,
    core::log::packing::Codec,
    server,
    wire::proto::v1::{
        CompactRequest, CompactResponse, DeleteStreamRequest, NewEvent, ReadStreamRequest,
        VerifyRequest, admin_service_client::AdminServiceClient, new_event::Data, verify_response,
    },
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

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
    let packed = store.compact().await;
    assert!(packed.freed_index_bytes > 0, "lists grow ahead of what is in them");
    let freed_index_bytes = packed.freed_index_bytes;
    let nothing = CompactResponse { freed_index_bytes, ..CompactResponse::default() };
    assert_eq!(packed, nothing, "nothing is hidden");
    assert_eq!(store.compact().await, CompactResponse::default(), "packed once");
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

/// Compressed, read, checked, copied, started again: the same events and the same hash.
#[tokio::test]
async fn a_compressed_directory_is_as_good_as_any() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let start = |compress| {
        TestStore::start_with(move |config| {
            config.data = Some(path.to_owned());
            config.compress = compress;
        })
    };
    let verify = async |store: &TestStore| {
        let mut admin = AdminServiceClient::new(store.channel.clone());
        let request = VerifyRequest::default();
        let mut messages = within(admin.verify(request)).await.unwrap().into_inner();
        loop {
            let message = within(messages.message()).await.unwrap().unwrap().message;
            if let Some(verify_response::Message::Result(result)) = message {
                return result;
            }
        }
    };
    let store = start(Some(Codec::Zstd)).await;
    let wordy = |_| NewEvent { data: Some(Data::Text("many words ".repeat(50))), ..event("Said") };
    for _ in 0..40 {
        store.append("Person-1", ANY, (0..10).map(wordy)).await.unwrap();
    }
    store.append("Person-2", ANY, [secret()]).await.unwrap();
    store.delete_stream("Person-2").await;
    let before = verify(&store).await;
    let removed = store.compact().await;
    assert_eq!((removed.segment_count, removed.event_count), (1, 1));
    let packed = directory.path().join("segments/00000000000000000001.segment");
    let size = std::fs::metadata(&packed).unwrap().len();
    assert!(size < 60_000, "{size} bytes for 250 000");

    let all = store.read_all().await;
    assert_eq!(all.len(), 402);
    let person = ReadStreamRequest { stream: "Person-1".to_owned(), ..Default::default() };
    assert_eq!(store.read_stream(person).await.unwrap(), all[..400]);
    let after = verify(&store).await;
    assert_eq!((after.event_count, after.removed_count), (before.event_count, 1));
    store.stop.cancel();
    store.stopped().await.unwrap();

    let store = start(None).await;
    assert_eq!(store.read_all().await, all);
    assert_eq!(verify(&store).await.head_hash, after.head_hash);
    store.stop.cancel();
    store.stopped().await.unwrap();

    // A flipped bit stops the start.
    let mut bytes = std::fs::read(&packed).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&packed, bytes).unwrap();
    let mut config = Config { data: Some(directory.path().to_owned()), ..Config::default() };
    config.listen.set_port(0);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusal = within(server::run(config, listener, CancellationToken::new())).await;
    let text = refusal.unwrap_err().to_string();
    assert!(text.contains("00000000000000000001.segment is damaged at byte"), "{text}");
}
