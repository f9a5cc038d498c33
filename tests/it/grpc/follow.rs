//! Many write, many follow, one of them hardly at all.

use std::{collections::HashMap, net::SocketAddr};

use annals::wire::proto::v1::{
    AppendStreamRequest, GetInfoResponse, NewEvent, SubscribeRequest,
    append_stream_response::Result as Answer, command_service_client::CommandServiceClient,
    new_event::Data, subscribe_request::Start,
};
use tokio::{sync::watch, task::JoinSet};

use crate::support::{
    append_request, connect, endpoint, event, expect, info, process::Process, subscribe, within,
};

const WRITERS: u64 = 8;
const APPENDS_OF_A_WRITER: u64 = 25_000;
const APPENDS: u64 = WRITERS * APPENDS_OF_A_WRITER;
/// The slow subscriber reads one event when so many more have been appended.
const SLOWNESS: u64 = 4_000;
/// What the server may hold beside what it says it holds. Only the slow subscriber's events are twice
/// as much.
const MEMORY_BESIDE_BYTES_MAX: u64 = 64 << 20;

fn paid() -> NewEvent {
    let text = "€".repeat(200);
    NewEvent { data: Some(Data::Text(format!("\"{text}\""))), ..event("Paid") }
}

/// Appends to a stream of its own, each append expecting the one before.
async fn write(address: SocketAddr, writer: u64, done: watch::Sender<u64>) {
    let mut commands = CommandServiceClient::new(connect(address).await);
    let stream = format!("Writer-{writer}");
    if writer.is_multiple_of(2) {
        for version in 0..APPENDS_OF_A_WRITER {
            let request = append_request(&stream, expect(version), [paid()]);
            let answer = commands.append(request).await.unwrap().into_inner();
            assert_eq!(answer.version, version + 1);
            done.send_modify(|done| *done += 1);
        }
    } else {
        let requests = tokio_stream::iter((0..APPENDS_OF_A_WRITER).map(move |version| {
            let append = append_request(&stream, expect(version), [paid()]);
            AppendStreamRequest { append: Some(append) }
        }));
        let mut answers = commands.append_stream(requests).await.unwrap().into_inner();
        for request in 1..=APPENDS_OF_A_WRITER {
            let answer = answers.message().await.unwrap().unwrap();
            assert_eq!(answer.request, request);
            let Some(Answer::Appended(appended)) = answer.result else { panic!("{answer:?}") };
            assert_eq!(appended.version, request);
            done.send_modify(|done| *done += 1);
        }
        assert_eq!(answers.message().await.unwrap(), None);
    }
}

/// Reads from `start` to the last append, and finds every event once, in both orders.
async fn follow(address: SocketAddr, start: Option<Start>) {
    let request = SubscribeRequest { start, ..SubscribeRequest::default() };
    let after = match start {
        Some(Start::After(after)) => after,
        Some(Start::FromNow(()) | Start::FromTime(_)) | None => 0,
    };
    let mut subscription = subscribe(connect(address).await, request).await.unwrap();
    let mut versions: HashMap<String, u64> = HashMap::new();
    for position in after + 1..=APPENDS {
        let event = subscription.event().await.unwrap();
        assert_eq!(event.position, position, "every position once, in order");
        let before = versions.insert(event.stream, event.version);
        let next = before.map_or(event.version, |before| before + 1);
        assert_eq!(event.version, next, "every version once, in order");
    }
}

fn held(info: &GetInfoResponse) -> (u64, u64) {
    let memory = info.memory.unwrap();
    let parts = memory.event_bytes
        + memory.offset_bytes
        + memory.event_id_bytes
        + memory.stream_bytes
        + memory.category_bytes
        + memory.type_bytes
        + memory.tag_bytes
        + memory.correlation_bytes
        + memory.causation_bytes
        + memory.metadata_bytes
        + memory.column_bytes;
    (memory.resident_bytes, parts)
}

/// All of Must show 4: whenever a subscriber begins, it gets every position once, in order, without a
/// gap; and one that does not read costs nobody anything, and gets everything all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_follows_gets_every_event_once_and_who_does_not_read_costs_nothing() {
    let store = Process::start();
    let address = store.address;
    let channel = connect(address).await;
    let before = info(channel.clone()).await;

    // Windows of the least size, so that what is not read stays with the server.
    let windows = 65_535;
    let lazy = endpoint(address)
        .initial_stream_window_size(windows)
        .initial_connection_window_size(windows)
        .connect()
        .await
        .unwrap();
    let request = SubscribeRequest { batch_size: 1, ..SubscribeRequest::default() };
    let mut slow = subscribe(lazy, request).await.unwrap();

    let (done, mut progress) = watch::channel(0);
    let (mut writers, mut followers) = (JoinSet::new(), JoinSet::new());
    for start in [None, Some(Start::After(0)), Some(Start::FromNow(()))] {
        followers.spawn(follow(address, start));
    }
    // They stand before the first append.
    within(async { while info(channel.clone()).await.subscription_count < 4 {} }).await;
    for writer in 0..WRITERS {
        writers.spawn(write(address, writer, done.clone()));
    }
    let mut read_slowly = 0;
    for due in (SLOWNESS..=APPENDS).step_by(usize::try_from(SLOWNESS).unwrap()) {
        within(progress.wait_for(|done| *done >= due)).await.unwrap();
        read_slowly += 1;
        assert_eq!(slow.event().await.unwrap().position, read_slowly);
        if due % (APPENDS / 4) == 0 && due < APPENDS {
            followers.spawn(follow(address, None));
            followers.spawn(follow(address, Some(Start::After(due))));
        }
    }
    while let Some(writer) = within(writers.join_next()).await {
        writer.unwrap();
    }
    followers.spawn(follow(address, None));
    followers.spawn(follow(address, Some(Start::After(APPENDS - 1))));
    while let Some(follower) = within(followers.join_next()).await {
        follower.unwrap();
    }

    let after = info(channel).await;
    assert_eq!((after.head, after.stream_count), (APPENDS, WRITERS));
    let ((resident_before, held_before), (resident, held)) = (held(&before), held(&after));
    assert!(resident > 0, "the operating system says what the process uses");
    let beside = resident.saturating_sub(resident_before).saturating_sub(held - held_before);
    assert!(beside < MEMORY_BESIDE_BYTES_MAX, "{beside} bytes more than {before:?} to {after:?}");

    for position in read_slowly + 1..=APPENDS {
        assert_eq!(slow.event().await.unwrap().position, position, "the slow one loses nothing");
    }
}
