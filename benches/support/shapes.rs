//! The shapes of calls: each a real call and its empty twin with as many bytes.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use annals::wire::proto::{
    bench::{CallRequest, EchoRequest, StreamRequest, empty_service_client::EmptyServiceClient},
    v1::{
        AppendRequest, AppendStreamRequest, ReadAllRequest, SubscribeRequest, SubscribeResponse,
        append_stream_response, command_service_client::CommandServiceClient,
        query_service_client::QueryServiceClient, subscribe_request, subscribe_response,
        subscription_service_client::SubscriptionServiceClient,
    },
};
use bytes::Bytes;
use hdrhistogram::Histogram;
use prost::Message;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_stream::Stream;
use tonic::{Streaming, client::Grpc, transport::Channel};

use super::{
    codec::Raw,
    target::{Outcome, Target, Twin, latencies},
};

/// Requests of a pipeline that are not yet answered.
pub const IN_FLIGHT_MAX: usize = 512;
/// So many answers make room at once: one wake-up for each would be the load generator's, not the server's.
const ROOM_BATCH: usize = 64;

/// A shape.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Unary, each caller on its own stream.
    Append { name: &'static str, callers: usize, events: usize },
    /// Pipelined on one connection, one event a request.
    AppendStream,
    /// The whole history; `decode`: into events, else only counted.
    ReadAll { decode: bool },
    /// Subscribe until it has caught up.
    CatchUp,
    /// Subscribe, live: from the append to the event's arrival, one at a time.
    Live,
}

/// Those that read go first: they read the prepared history and nothing else.
pub const SHAPES: [Shape; 9] = [
    Shape::ReadAll { decode: false },
    Shape::ReadAll { decode: true },
    Shape::CatchUp,
    Shape::Append { name: "append, 1 caller", callers: 1, events: 1 },
    Shape::Append { name: "append, 16 callers", callers: 16, events: 1 },
    Shape::Append { name: "append, 128 callers", callers: 128, events: 1 },
    Shape::Append { name: "append of 100, 16 callers", callers: 16, events: 100 },
    Shape::AppendStream,
    Shape::Live,
];

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Self::Append { name, .. } => name,
            Self::AppendStream => "append stream, pipelined",
            Self::ReadAll { decode: false } => "read all",
            Self::ReadAll { decode: true } => "read all, decoded by client",
            Self::CatchUp => "subscribe, catching up",
            Self::Live => "subscribe, live",
        }
    }

    /// How many events can wait to be appended at once, for shapes that append: the batch that is
    /// written and synced together is no larger.
    pub fn waiting_max(self) -> Option<usize> {
        match self {
            Self::Append { callers, events, .. } => Some(callers * events),
            Self::AppendStream => Some(IN_FLIGHT_MAX),
            Self::ReadAll { .. } | Self::CatchUp | Self::Live => None,
        }
    }
}

/// How much there is to do in a round.
pub struct Sizes {
    pub history_commits: usize,
    /// How often the history is read.
    reads: usize,
    /// In all, by how many callers: 1, and more.
    calls_of_one: usize,
    calls_of_many: usize,
    calls_of_hundred: usize,
    pipelined: usize,
    live: usize,
}

impl Sizes {
    pub const FULL: Self = Self {
        history_commits: 4000,
        reads: 3,
        calls_of_one: 5_000,
        calls_of_many: 25_600,
        calls_of_hundred: 2_000,
        pipelined: 120_000,
        live: 4_000,
    };
    /// Without a history.
    pub const NOTHING: Self = Self { history_commits: 0, ..Self::FULL };
    /// For shapes that only append.
    pub const DURABLE: Self = Self { history_commits: 100, ..Self::FULL };
    pub const SMOKE: Self = Self {
        history_commits: 20,
        reads: 1,
        calls_of_one: 20,
        calls_of_many: 256,
        calls_of_hundred: 32,
        pipelined: 2_000,
        live: 20,
    };
}

/// One round of a shape's twin.
pub async fn run(
    shape: Shape,
    twin: Twin,
    target: &mut Target,
    sizes: &Sizes,
    round: usize,
) -> Outcome {
    match shape {
        Shape::Append { callers, events, .. } => {
            let calls = match (callers, events) {
                (1, _) => sizes.calls_of_one,
                (_, 1) => sizes.calls_of_many,
                _ => sizes.calls_of_hundred,
            };
            let name = format!("Unary{callers}x{events}-{round}");
            append(twin, target, &name, [callers, calls / callers, events]).await
        }
        Shape::AppendStream => pipeline(twin, target, sizes.pipelined, round).await,
        Shape::ReadAll { decode } => read_all(twin, target, decode, sizes.reads).await,
        Shape::CatchUp => catch_up(twin, target, sizes.reads).await,
        Shape::Live => live(twin, target, sizes.live, round).await,
    }
}

// --- Unary ---------------------------------------------------------------------------------------

/// Unary appends by so many callers, so many calls in all, so many events each.
pub async fn append(
    twin: Twin,
    target: &mut Target,
    name: &str,
    [callers, calls, events]: [usize; 3],
) -> Outcome {
    let mut work: Vec<Pin<Box<dyn Future<Output = Histogram<u64>> + Send>>> = Vec::new();
    for caller in 0..callers {
        let stream = format!("{name}-{caller}");
        // What the client does before it calls is not measured.
        let before = target.appended;
        let requests: Vec<_> = (0..calls)
            .map(|call| target.append(&stream, Some((call * events) as u64), events))
            .collect();
        let channel = target.connection(caller).clone();
        work.push(match twin {
            Twin::Real => Box::pin(append_calls(channel, requests)),
            Twin::Empty => {
                target.appended = before;
                Box::pin(empty_calls(channel, requests.iter().map(empty_call).collect()))
            }
        });
    }
    let load = async {
        let mut callers: JoinSet<_> = work.into_iter().collect();
        let mut took = latencies();
        while let Some(caller) = callers.join_next().await {
            took += caller.expect("a caller does not panic");
        }
        (took.len() * events as u64, took)
    };
    target.measure(load).await
}

async fn append_calls(channel: Channel, requests: Vec<AppendRequest>) -> Histogram<u64> {
    let mut client = CommandServiceClient::new(channel);
    let mut took = latencies();
    let mut version = 0;
    for request in requests {
        version += request.events.len() as u64;
        let started = Instant::now();
        let response = client.append(request).await.expect("nobody else writes to the stream");
        took.saturating_record(nanos(started.elapsed()));
        assert_eq!(response.get_ref().version, version, "each call appends its events, once");
    }
    took
}

/// An empty call of as many bytes.
fn empty_call(request: &AppendRequest) -> CallRequest {
    CallRequest { payload: payload(request.encoded_len()) }
}

async fn empty_calls(channel: Channel, requests: Vec<CallRequest>) -> Histogram<u64> {
    let mut client = EmptyServiceClient::new(channel);
    let mut took = latencies();
    for request in requests {
        let size = request.payload.len() as u64;
        let started = Instant::now();
        let response = client.call(request).await.expect("an empty call is answered");
        took.saturating_record(nanos(started.elapsed()));
        assert_eq!(response.get_ref().payload_bytes, size);
    }
    took
}

/// What makes a message of `size` bytes together with its tag and length.
fn payload(size: usize) -> Bytes {
    let tag_and_length = 1 + prost::length_delimiter_len(size);
    Bytes::from(vec![b'x'; size.saturating_sub(tag_and_length)])
}

pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

// --- Pipelined -----------------------------------------------------------------------------------

async fn pipeline(twin: Twin, target: &mut Target, count: usize, round: usize) -> Outcome {
    let before = target.appended;
    let stream = format!("Pipeline-{round}");
    let requests: Vec<_> = (0..count)
        .map(|index| AppendStreamRequest {
            append: Some(target.append(&stream, Some(index as u64), 1)),
        })
        .collect();
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let channel = target.connection(0).clone();
    match twin {
        Twin::Real => {
            let requests = bounded(requests, Arc::clone(&room));
            target.measure(append_stream(channel, requests, &room)).await
        }
        Twin::Empty => {
            target.appended = before;
            let requests = requests
                .iter()
                .map(|request| EchoRequest { payload: payload(request.encoded_len()) })
                .collect();
            let requests = bounded(requests, Arc::clone(&room));
            target.measure(echo(channel, requests, &room)).await
        }
    }
}

/// The requests one by one, each when there is room.
fn bounded<T: Send + 'static>(
    requests: Vec<T>,
    room: Arc<Semaphore>,
) -> impl Stream<Item = T> + Send + 'static {
    futures_util::stream::unfold((requests.into_iter(), room), |(mut requests, room)| async {
        let request = requests.next()?;
        room.acquire().await.expect("it is never closed").forget();
        Some((request, (requests, room)))
    })
}

/// Answer `count` makes room for another request.
pub fn answered(count: u64, room: &Semaphore) {
    if count.is_multiple_of(ROOM_BATCH as u64) {
        room.add_permits(ROOM_BATCH);
    }
}

async fn append_stream(
    channel: Channel,
    requests: impl Stream<Item = AppendStreamRequest> + Send + 'static,
    room: &Semaphore,
) -> (u64, Histogram<u64>) {
    use append_stream_response::Result::Appended;
    let mut client = CommandServiceClient::new(channel);
    let mut answers = client.append_stream(requests).await.expect("a pipeline").into_inner();
    let mut count = 0;
    while let Some(answer) = answers.message().await.expect("it ends with the requests") {
        count += 1;
        assert_eq!(answer.request, count, "an answer for each request, in order");
        let Some(Appended(appended)) = answer.result else { panic!("refused: {answer:?}") };
        assert_eq!(appended.version, count, "each request appends its event, once");
        answered(count, room);
    }
    (count, latencies())
}

async fn echo(
    channel: Channel,
    requests: impl Stream<Item = EchoRequest> + Send + 'static,
    room: &Semaphore,
) -> (u64, Histogram<u64>) {
    let mut client = EmptyServiceClient::new(channel);
    let mut answers = client.echo(requests).await.expect("a pipeline").into_inner();
    let mut count = 0;
    while let Some(answer) = answers.message().await.expect("it ends with the requests") {
        count += 1;
        assert!(answer.payload_bytes > 0);
        answered(count, room);
    }
    (count, latencies())
}

// --- Reads ---------------------------------------------------------------------------------------

/// A server stream whose messages are not decoded.
pub async fn raw<T: Message + 'static>(
    channel: &Channel,
    path: &'static str,
    request: T,
) -> Streaming<Bytes> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.expect("the connection stands");
    let path = http::uri::PathAndQuery::from_static(path);
    client
        .server_streaming(tonic::Request::new(request), path, Raw::default())
        .await
        .expect("the server answers")
        .into_inner()
}

async fn read_all(twin: Twin, target: &mut Target, decode: bool, reads: usize) -> Outcome {
    let history = target.history;
    let channel = target.connection(0);
    let request = ReadAllRequest { limit: history.events, ..ReadAllRequest::default() };
    let load = async {
        for _ in 0..reads {
            match twin {
                Twin::Empty => empty_stream(target).await,
                Twin::Real if decode => {
                    let mut client = QueryServiceClient::new(channel.clone());
                    let reading = client.read_all(request.clone()).await.expect("a read");
                    let mut reading = reading.into_inner();
                    let mut position = 0;
                    while let Some(block) = reading.message().await.expect("it ends well") {
                        position += block.events.len() as u64;
                        assert_eq!(block.events.last().map(|event| event.position), Some(position));
                    }
                    assert_eq!(position, history.events, "every event is read");
                }
                Twin::Real => {
                    let path = "/annals.v1.QueryService/ReadAll";
                    let mut reading = raw(channel, path, request.clone()).await;
                    let mut bytes = 0;
                    while let Some(message) = reading.message().await.expect("it ends well") {
                        bytes += message.len() as u64;
                    }
                    assert_eq!(bytes, history.bytes, "every event is read");
                }
            }
        }
        (history.events * reads as u64, latencies())
    };
    target.measure(load).await
}

/// As many bytes in as many messages as the history.
async fn empty_stream(target: &Target) {
    let history = target.history;
    let payload_bytes =
        u32::try_from(history.bytes.div_ceil(history.messages)).expect("a message is small");
    let request = StreamRequest { payload_bytes, messages: history.messages };
    let path = "/annals.bench.v1.EmptyService/Stream";
    let mut reading = raw(target.connection(0), path, request).await;
    let mut bytes = 0;
    while let Some(message) = reading.message().await.expect("it ends well") {
        bytes += message.len() as u64;
    }
    assert!(bytes >= history.bytes, "as much as the history");
}

async fn catch_up(twin: Twin, target: &mut Target, reads: usize) -> Outcome {
    /// `SubscribeResponse.caught_up`, length-delimited.
    const CAUGHT_UP_TAG: u8 = 4 << 3 | 2;
    let history = target.history;
    let load = async {
        for _ in 0..reads {
            if twin == Twin::Empty {
                empty_stream(target).await;
                continue;
            }
            let path = "/annals.v1.SubscriptionService/Subscribe";
            let mut following = raw(target.connection(0), path, SubscribeRequest::default()).await;
            let mut bytes = 0;
            let last = loop {
                let message = following.message().await.expect("it goes on").expect("it is open");
                bytes += message.len() as u64;
                if message[0] == CAUGHT_UP_TAG {
                    break SubscribeResponse::decode(message).expect("a message");
                }
            };
            assert!(bytes > history.bytes, "every event is read");
            let Some(subscribe_response::Message::CaughtUp(at)) = last.message else {
                panic!("not what its tag says: {last:?}")
            };
            assert_eq!(at.position, history.events, "every event is read");
        }
        (history.events * reads as u64, latencies())
    };
    target.measure(load).await
}

// --- Live ----------------------------------------------------------------------------------------

async fn live(twin: Twin, target: &mut Target, count: usize, round: usize) -> Outcome {
    let before = target.appended;
    let requests: Vec<_> = (0..count)
        .map(|index| target.append(&format!("Live-{round}"), Some(index as u64), 1))
        .collect();
    if twin == Twin::Empty {
        target.appended = before;
        let requests = requests.iter().map(empty_call).collect();
        let calls = empty_calls(target.connection(0).clone(), requests);
        return target.measure(async { (count as u64, calls.await) }).await;
    }
    // On a connection of its own, as a subscriber is.
    let mut subscriber = SubscriptionServiceClient::new(target.connection(1).clone());
    let start = Some(subscribe_request::Start::FromNow(()));
    let request = SubscribeRequest { start, ..SubscribeRequest::default() };
    let mut following = subscriber.subscribe(request).await.expect("a subscription").into_inner();
    loop {
        let message = following.message().await.expect("it goes on").expect("it is open").message;
        if matches!(message, Some(subscribe_response::Message::CaughtUp(_))) {
            break;
        }
    }
    let mut client = CommandServiceClient::new(target.connection(0).clone());
    let load = async {
        let mut took = latencies();
        for (request, position) in requests.into_iter().zip(before + 1..) {
            let started = Instant::now();
            let receive = async {
                // After each event it has caught up again, and says so.
                loop {
                    let message = following.message().await.expect("it goes on");
                    let message = message.expect("it is open").message;
                    if let Some(subscribe_response::Message::Events(block)) = message {
                        return (started.elapsed(), block.events);
                    }
                }
            };
            let (appended, (arrived, events)) = tokio::join!(client.append(request), receive);
            took.saturating_record(nanos(arrived));
            let appended = appended.expect("nobody else writes").into_inner();
            assert_eq!(appended.position, position);
            assert_eq!(events.len(), 1, "each event arrives by itself");
            assert_eq!(events[0].position, position, "each event once, in order");
        }
        (count as u64, took)
    };
    target.measure(load).await
}
