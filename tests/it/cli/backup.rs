//! `annals backup`: a copy while others write, what it is good for, and what is in its way.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use annals::wire::proto::v1::{
    AppendRequest, BackupRequest, NewEvent, ReadAllRequest, RecordedEvent,
    admin_service_client::AdminServiceClient, backup_response::Message,
    command_service_client::CommandServiceClient, new_event::Data,
};
use tonic::transport::Channel;
use uuid::Uuid;

use super::{
    commands::annals,
    made_history::{MadeHistory, Serving, json, record, run},
};
use crate::support::{connect, queries, within};

const WRITERS: u64 = 8;

fn in_memory() -> Serving {
    let mut command = annals(&["serve", "--listen", "127.0.0.1:0"]);
    command.args(["--log-format", "json"]);
    Serving::started_by(command)
}

async fn channel(server: &Serving) -> Channel {
    connect(server.address.parse().unwrap()).await
}

async fn read_all(server: &Serving, limit: u64) -> Vec<RecordedEvent> {
    let request = ReadAllRequest { limit, ..ReadAllRequest::default() };
    let mut blocks =
        within(queries(channel(server).await).read_all(request)).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(block) = within(blocks.message()).await.unwrap() {
        events.extend(block.events);
    }
    events
}

fn append(writer: u64, number: u64) -> AppendRequest {
    let event = |of: u64| NewEvent {
        id: Uuid::from_u64_pair(writer + 1, number * 2 + of).to_string(),
        r#type: "Happened".to_owned(),
        data: Some(Data::Text(format!("{{\"n\":{number},\"fill\":\"{}\"}}", "x".repeat(2000)))),
        ..NewEvent::default()
    };
    let events = vec![event(0), event(1)];
    AppendRequest { stream: format!("Writer-{writer}"), events, ..AppendRequest::default() }
}

/// Writes until it is told to stop; how many appends were acknowledged, and where the first one was.
async fn write(channel: Channel, writer: u64, stop: Arc<AtomicBool>) -> (u64, u64) {
    let mut client = CommandServiceClient::new(channel);
    let (mut number, mut first) = (0, 0);
    // Relaxed: only when it stops hangs on it.
    while !stop.load(Ordering::Relaxed) {
        let answer = within(client.append(append(writer, number))).await.unwrap().into_inner();
        if number == 0 {
            first = answer.first_position;
        }
        number += 1;
    }
    (number, first)
}

fn backup(server: &Serving, to: &Path) -> serde_json::Value {
    server.json(&["backup", to.to_str().unwrap(), "--json"])[0].clone()
}

/// Eight writers go on meanwhile: the copy is the log up to a commit, byte for byte as it is read, knows a
/// repeat, and can be gone on with.
async fn is_a_beginning_of_the_log(first: Serving) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let channel = channel(&first).await;
        writers.push(tokio::spawn(write(channel, writer, Arc::clone(&stop))));
    }
    // Enough for a second segment, so that a sealed one is copied, too.
    let mut counting = queries(channel(&first).await);
    let request =
        annals::wire::proto::v1::CountRequest { filters: Vec::new(), min_position: 25_000 };
    within(counting.count(request)).await.unwrap();
    let (first, made, copy) = tokio::task::spawn_blocking(move || {
        let made = backup(&first, &copy);
        (first, made, copy)
    })
    .await
    .unwrap();
    // Relaxed: as above.
    stop.store(true, Ordering::Relaxed);
    let mut written = Vec::new();
    for writer in writers {
        written.push(writer.await.unwrap());
    }
    let head = made["head"].as_u64().unwrap();
    assert!(head >= 25_000 && made["segmentCount"].as_u64().unwrap() >= 2, "{made}");
    assert!(head < first.json(&["info", "--json"])[0]["head"].as_u64().unwrap(), "they went on");
    let hash = made["headHash"].as_str().unwrap();
    let verified = json(&["verify", "--json", "--data", copy.to_str().unwrap()]);
    assert_eq!((&verified["head"], &verified["headHash"]), (&head.into(), &hash.into()));
    // The first server's chain comes to the same there.
    let at = head.to_string();
    let (code, _, stderr) = first.run(&["verify", "--at", &at, "--expect-hash", hash]);
    assert_eq!(code, Some(0), "{stderr}");

    let second = Serving::start(&copy);
    let copied = read_all(&second, 0).await;
    assert_eq!(copied.len() as u64, head);
    assert!(copied == read_all(&first, head).await, "the copy has the same events");
    let mut client = CommandServiceClient::new(channel(&second).await);
    for (writer, (_, position)) in (0..).zip(&written) {
        let again = within(client.append(append(writer, 0))).await.unwrap().into_inner();
        assert!(again.duplicate);
        assert_eq!(again.first_position, *position);
    }
    let new = within(client.append(append(99, 0))).await.unwrap().into_inner();
    assert_eq!(new.first_position, head + 1);
    assert_eq!(second.json(&["verify", "--json"])[0]["head"], head + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_durable_server_under_writers_is_a_beginning_of_its_log() {
    let data = tempfile::tempdir().unwrap();
    let mut command = annals(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    // What is measured here is not the disk.
    command.args(["--sync", "never", "--data"]).arg(data.path());
    is_a_beginning_of_the_log(Serving::started_by(command)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_server_in_memory_is_a_data_directory() {
    is_a_beginning_of_the_log(in_memory()).await;
}

#[test]
fn an_empty_log_is_copied_too() {
    let folder = tempfile::tempdir().unwrap();
    let server = in_memory();
    let made = backup(&server, folder.path());
    assert_eq!((&made["head"], &made["segmentCount"]), (&0.into(), &0.into()));
    let second = Serving::start(folder.path());
    assert_eq!(second.run(&["append", "S-1", "T"]).0, Some(0));
}

#[test]
fn a_copy_never_goes_where_something_is() {
    let server = in_memory();
    assert_eq!(server.run(&["append", "S-1", "T"]).0, Some(0));
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    fs::write(folder.path().join("mine"), "mine").unwrap();
    let (code, _, stderr) = server.run(&["backup", place]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("is not empty"), "{stderr}");
    fs::remove_file(folder.path().join("mine")).unwrap();

    let (code, stdout, stderr) = server.run(&["backup", place]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("hash") && stderr.contains("annals serve --data"), "{stdout}{stderr}");
    let (code, _, stderr) = server.run(&["backup", place]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("is a data directory already"), "{stderr}");

    let file = folder.path().join("annals");
    let (code, _, stderr) = server.run(&["backup", file.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("Not a directory"), "{stderr}");
}

/// Killed at any moment it is no data directory; the next backup there clears it away.
#[test]
fn what_an_interrupted_backup_left_is_no_data_directory_and_no_obstacle() {
    let server = in_memory();
    assert_eq!(server.run(&["append", "S-1", "T"]).0, Some(0));
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    // As it stands in the middle of a second segment.
    fs::create_dir(folder.path().join("segments")).unwrap();
    fs::write(folder.path().join("backup.unfinished"), "").unwrap();
    fs::write(folder.path().join("lock"), "").unwrap();
    fs::write(folder.path().join("segments/00000000000000000001.segment"), "half").unwrap();
    let (code, _, stderr) = run(&["serve", "--listen", "127.0.0.1:0", "--data", place]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("is no data directory"), "{stderr}");

    backup(&server, folder.path());
    assert!(!folder.path().join("backup.unfinished").exists());
    assert_eq!(json(&["verify", "--json", "--data", place])["head"], 1);
}

/// What is damaged is not copied as if it were good.
#[test]
fn a_copy_of_a_damaged_log_fails_and_is_no_data_directory() {
    let mut made = MadeHistory::new(3);
    *made.record_mut(14) = record(14, "{\"n\":0}");
    let data = made.write();
    let server = Serving::start(data.path());
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = server.run(&["backup", folder.path().to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("SEGMENT_DAMAGED"), "{stderr}");
    assert!(!folder.path().join("annals").exists());
}

/// Without the command line: the messages written one after the other are the files.
#[tokio::test]
async fn the_messages_are_the_files_of_the_directory() {
    let made = MadeHistory::new(2);
    let data = made.write();
    let server = Serving::start(data.path());
    let mut admin = AdminServiceClient::new(channel(&server).await);
    let mut messages = within(admin.backup(BackupRequest {})).await.unwrap().into_inner();
    let mut files: Vec<(String, u64, Vec<u8>)> = Vec::new();
    let mut total = 0;
    let result = loop {
        match within(messages.message()).await.unwrap().unwrap().message.unwrap() {
            Message::Begin(begin) => {
                assert_eq!(begin.head, 24);
                total = begin.total_bytes;
            }
            Message::File(file) => files.push((file.name, file.size_bytes, Vec::new())),
            Message::Content(content) => {
                assert!(content.len() <= 64 << 10);
                files.last_mut().unwrap().2.extend_from_slice(&content);
            }
            Message::Result(result) => break result,
        }
    };
    assert!(within(messages.message()).await.unwrap().is_none());
    assert_eq!(result.head_hash, made.head_hash());
    let honest = made.write();
    let mut sum = 0;
    for (name, size, content) in &files {
        assert_eq!(*size, content.len() as u64);
        assert_eq!(fs::read(honest.path().join(name)).unwrap(), *content, "{name}");
        sum += size;
    }
    assert_eq!((files.len(), files[2].0.as_str(), sum), (3, "annals", total));
}
