//! A server, the connections to it, and what is known of its log.

use std::time::{Duration, Instant};

use annals::wire::proto::v1::{
    AppendRequest, GetInfoRequest, GetInfoResponse, NewEvent, ReadAllRequest,
    admin_service_client::AdminServiceClient, command_service_client::CommandServiceClient,
    new_event,
};
use hdrhistogram::Histogram;
use prost::Message;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use super::{
    disk::Place,
    server::Server,
    shapes::{self, Sizes},
};
use annals::wire::block::EventBlock;

/// What each event says.
pub const DATA_BYTES: usize = 256;
/// As the command line's client: a reader waits for no round trip.
const WINDOW_BYTES: u32 = 8 << 20;
const CONNECTIONS: usize = 2;
/// The history that reads read is appended in commits of so many events, to so many streams.
pub const HISTORY_COMMIT_EVENTS: usize = 100;
const HISTORY_STREAMS: usize = 1000;

/// The real call or the empty one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Twin {
    Real,
    Empty,
}

/// What a round came to.
pub struct Outcome {
    pub events: u64,
    pub elapsed: Duration,
    /// Of the server.
    pub cpu: Option<Duration>,
    /// Of single calls, nanoseconds; empty where calls are not alone.
    pub latencies: Histogram<u64>,
}

/// The log as it was after preparation.
#[derive(Clone, Copy)]
pub struct History {
    pub events: u64,
    /// As `ReadAll` sends them, in so many messages.
    pub bytes: u64,
    pub messages: u64,
}

/// One server.
pub struct Target {
    pub server: Server,
    pub connections: Vec<Channel>,
    pub history: History,
    /// How many events were appended.
    pub appended: u64,
    ids: u128,
}

impl Target {
    /// Connects to `server` and gives it a history.
    pub async fn prepare(server: Server, sizes: &Sizes) -> Self {
        let connections = Self::connect(&server, CONNECTIONS).await;
        let history = History { events: 0, bytes: 0, messages: 0 };
        let mut target = Self { server, connections, history, appended: 0, ids: 0 };
        target.fill(sizes.history_commits).await;
        target
    }

    /// The same log in a server that was killed and started again.
    pub async fn crash_and_connect(self, meanwhile: impl FnOnce(&Place)) -> Self {
        let server = self.server.crash_and_start(meanwhile);
        let connections = Self::connect(&server, CONNECTIONS).await;
        Self { server, connections, ..self }
    }

    /// So many connections more to `server`.
    pub async fn connect(server: &Server, count: usize) -> Vec<Channel> {
        let endpoint = Endpoint::from_shared(server.url.clone())
            .expect("a URL")
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let mut connections = Vec::new();
        for _ in 0..count {
            connections.push(endpoint.connect().await.expect("the server listens"));
        }
        connections
    }

    async fn fill(&mut self, commits: usize) {
        let mut client = CommandServiceClient::new(self.connections[0].clone());
        for commit in 0..commits {
            let stream = format!("History-{}", commit % HISTORY_STREAMS);
            let request = self.append(&stream, None, HISTORY_COMMIT_EVENTS);
            client.append(request).await.expect("the server takes a history");
        }
        // Read once with care, so that afterwards counting bytes is enough.
        let (mut position, mut bytes, mut messages) = (0, 0, 0);
        let mut reading = shapes::raw(
            &self.connections[0],
            "/annals.v1.QueryService/ReadAll",
            ReadAllRequest::default(),
        )
        .await;
        while let Some(message) = reading.message().await.expect("the log is readable") {
            (bytes, messages) = (bytes + message.len() as u64, messages + 1);
            for event in EventBlock::decode(message).expect("events").events {
                position += 1;
                assert_eq!(event.position, position, "no gap and no repeat");
            }
        }
        assert_eq!(position, self.appended, "all that was appended, and nothing else");
        self.history = History { events: position, bytes, messages };
    }

    /// A request of `events` events for `stream`. Ids are the client's, so that a repeat is safe: as
    /// clients should.
    pub fn append(
        &mut self,
        stream: &str,
        expected_version: Option<u64>,
        events: usize,
    ) -> AppendRequest {
        self.appended += events as u64;
        let mut event = || {
            self.ids += 1;
            // Spread over all bits, as random ids are, and the same in every run: an odd factor makes
            // no two alike.
            let id =
                Uuid::from_u128(self.ids.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
            NewEvent {
                id: id.to_string(),
                r#type: "PaymentProcessed".to_owned(),
                data: Some(new_event::Data::Text(data())),
                ..NewEvent::default()
            }
        };
        let events = (0..events).map(|_| event()).collect();
        let stream = stream.to_owned();
        AppendRequest { stream, events, expected_version, ..AppendRequest::default() }
    }

    /// How many bytes the log has.
    pub async fn log_bytes(&self) -> u64 {
        let memory = self.info().await.memory.expect("the server tells it");
        memory.event_bytes + memory.file_bytes
    }

    /// The connection of the `index`th of several callers.
    pub fn connection(&self, index: usize) -> &Channel {
        &self.connections[index % self.connections.len()]
    }

    /// Runs `load`, which says how many events it moved and how long single calls took.
    pub async fn measure(&self, load: impl Future<Output = (u64, Histogram<u64>)>) -> Outcome {
        let before = self.server.cpu_time();
        let started = Instant::now();
        let (events, latencies) = load.await;
        let elapsed = started.elapsed();
        let cpu =
            self.server.cpu_time().zip(before).map(|(after, before)| after.saturating_sub(before));
        Outcome { events, elapsed, cpu, latencies }
    }

    pub async fn info(&self) -> GetInfoResponse {
        let mut client = AdminServiceClient::new(self.connections[0].clone());
        client.get_info(GetInfoRequest {}).await.expect("the server answers").into_inner()
    }

    /// All that was acknowledged is there.
    pub async fn check_head(&self) {
        assert_eq!(self.info().await.head, self.appended, "every append is in the log, once");
    }
}

/// JSON of [`DATA_BYTES`] bytes.
pub fn data() -> String {
    let start = r#"{"amount":"129.90","currency":"EUR","note":""#;
    let end = r#""}"#;
    let fill = DATA_BYTES - start.len() - end.len();
    format!("{start}{}{end}", "x".repeat(fill))
}

/// For latencies in nanoseconds, up to a minute, two digits.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("the bounds are sane")
}
