//! The shapes of calls: each a real call and its empty twin with as many bytes.

use annals::{
    cli::bench::{
        append,
        load::{self, Fault, Taken, latencies},
        raw::raw,
        subscribe,
    },
    wire::proto::{
        bench::StreamRequest,
        v1::{
            ReadAllRequest, SubscribeRequest, SubscribeResponse,
            query_service_client::QueryServiceClient, subscribe_response,
        },
    },
};
use futures_util::future::BoxFuture;
use prost::Message;
use tokio::sync::Semaphore;

use super::target::{Outcome, Target, Twin};

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

    /// Whether there is a call of this shape that only writes and syncs.
    pub fn has_disk(self) -> bool {
        matches!(self, Self::Append { .. })
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

// --- Appends -------------------------------------------------------------------------------------

/// Unary appends by so many callers, so many calls in all, so many events each.
pub async fn append(
    twin: Twin,
    target: &mut Target,
    name: &str,
    [callers, calls, events]: [usize; 3],
) -> Outcome {
    let mut work: Vec<BoxFuture<'static, Result<Taken, Fault>>> = Vec::new();
    for caller in 0..callers {
        // What the client does before it calls is not measured.
        let requests = target.appends(twin, &format!("{name}-{caller}"), calls, events);
        let channel = target.connection(caller).clone();
        work.push(match target.callee(twin) {
            callee @ (load::Twin::Bytes | load::Twin::Disk) => {
                let requests: Vec<_> = requests.iter().map(append::empty_call).collect();
                Box::pin(append::empty_calls(channel, callee, requests.into_iter()))
            }
            callee => Box::pin(append::calls(channel, callee, requests.into_iter())),
        });
    }
    target.measure(async { append::all(work.into_iter().collect()).await }).await
}

async fn pipeline(twin: Twin, target: &mut Target, count: usize, round: usize) -> Outcome {
    let requests = target.appends(twin, &format!("Pipeline-{round}"), count, 1);
    let channel = target.connection(0).clone();
    match target.callee(twin) {
        load::Twin::Bytes => {
            let requests: Vec<_> = requests.into_iter().map(append::echo).collect();
            target.measure(append::echoes(channel, requests.into_iter(), IN_FLIGHT_MAX)).await
        }
        callee => {
            let requests = requests.into_iter();
            target.measure(append::pipeline(channel, callee, requests, IN_FLIGHT_MAX)).await
        }
    }
}

/// Answer `count` makes room for another request.
pub fn answered(count: u64, room: &Semaphore) {
    if count.is_multiple_of(ROOM_BATCH as u64) {
        room.add_permits(ROOM_BATCH);
    }
}

// --- Reads ---------------------------------------------------------------------------------------

async fn read_all(twin: Twin, target: &mut Target, decode: bool, reads: usize) -> Outcome {
    let history = target.history;
    let channel = target.connection(0);
    let request = ReadAllRequest { limit: history.events, ..ReadAllRequest::default() };
    let load = async {
        for _ in 0..reads {
            match twin {
                Twin::Empty | Twin::Disk => empty_stream(target).await,
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
                    let mut reading =
                        raw(channel, path, request.clone()).await.expect("the server answers");
                    let mut bytes = 0;
                    while let Some(message) = reading.message().await.expect("it ends well") {
                        bytes += message.len() as u64;
                    }
                    assert_eq!(bytes, history.bytes, "every event is read");
                }
            }
        }
        Ok(Taken { events: history.events * reads as u64, latencies: latencies() })
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
    let mut reading = raw(target.connection(0), path, request).await.expect("the server answers");
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
            if twin != Twin::Real {
                empty_stream(target).await;
                continue;
            }
            let path = "/annals.v1.SubscriptionService/Subscribe";
            let mut following = raw(target.connection(0), path, SubscribeRequest::default())
                .await
                .expect("a subscription");
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
        Ok(Taken { events: history.events * reads as u64, latencies: latencies() })
    };
    target.measure(load).await
}

// --- Live ----------------------------------------------------------------------------------------

async fn live(twin: Twin, target: &mut Target, count: usize, round: usize) -> Outcome {
    let requests = target.appends(twin, &format!("Live-{round}"), count, 1);
    let appender = target.connection(0);
    match target.callee(twin) {
        // On a connection of its own, as a subscriber is.
        load::Twin::Real => {
            let subscriber = target.connection(1);
            let requests = requests.into_iter();
            target.measure(subscribe::live(appender, subscriber, Vec::new(), requests)).await
        }
        load::Twin::Messages => {
            let requests = requests.into_iter();
            target.measure(append::calls(appender.clone(), load::Twin::Messages, requests)).await
        }
        callee => {
            let requests: Vec<_> = requests.iter().map(append::empty_call).collect();
            let requests = requests.into_iter();
            target.measure(append::empty_calls(appender.clone(), callee, requests)).await
        }
    }
}
