//! A server, the connections to it, and what is known of its log.

use std::time::{Duration, Instant};

use annals::{
    cli::bench::{
        self,
        events::Maker,
        load::{self, Fault, Taken},
        raw::raw,
    },
    wire::{
        block::EventBlock,
        proto::v1::{
            AppendRequest, GetInfoRequest, GetInfoResponse, ReadAllRequest,
            admin_service_client::AdminServiceClient, command_service_client::CommandServiceClient,
        },
    },
};
use hdrhistogram::Histogram;
use prost::Message;
use tonic::transport::Channel;

use super::{disk::Place, server::Server, shapes::Sizes};

/// What each event says.
pub const DATA_BYTES: usize = 256;
const CONNECTIONS: usize = 2;
/// The history that reads read is appended in commits of so many events, to so many streams.
pub const HISTORY_COMMIT_EVENTS: usize = 100;
const HISTORY_STREAMS: usize = 1000;

/// The real call, the empty one, or the one that only writes and syncs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Twin {
    Real,
    Empty,
    Disk,
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
    /// Which of the empty calls is the twin.
    pub empty: load::Twin,
    maker: Maker,
}

impl Target {
    /// Connects to `server` and gives it a history.
    pub async fn prepare(server: Server, sizes: &Sizes) -> Self {
        let connections = Self::connect(&server, CONNECTIONS).await;
        let history = History { events: 0, bytes: 0, messages: 0 };
        // The same ids in every run.
        let maker = Maker::new(0, DATA_BYTES);
        let empty = load::Twin::Bytes;
        let mut target = Self { server, connections, history, appended: 0, empty, maker };
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
        bench::connect(&server.url, count).await.expect("the server listens")
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
        let path = "/annals.v1.QueryService/ReadAll";
        let reading = raw(&self.connections[0], path, ReadAllRequest::default()).await;
        let mut reading = reading.expect("the server answers");
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

    /// A request of `events` events for `stream`.
    pub fn append(
        &mut self,
        stream: &str,
        expected_version: Option<u64>,
        events: usize,
    ) -> AppendRequest {
        self.appended += events as u64;
        self.maker.append(stream, expected_version, events as u64)
    }

    /// So many requests of so many events each for a new stream. Those of the other twins append nothing.
    pub fn appends(
        &mut self,
        twin: Twin,
        stream: &str,
        calls: usize,
        events: usize,
    ) -> Vec<AppendRequest> {
        let before = self.appended;
        let requests = (0..calls)
            .map(|call| self.append(stream, Some((call * events) as u64), events))
            .collect();
        if twin != Twin::Real {
            self.appended = before;
        }
        requests
    }

    /// Whom a twin calls where there are two empty ones.
    pub fn callee(&self, twin: Twin) -> load::Twin {
        match twin {
            Twin::Real => load::Twin::Real,
            Twin::Empty => self.empty,
            Twin::Disk => load::Twin::Disk,
        }
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
    pub async fn measure(&self, load: impl Future<Output = Result<Taken, Fault>>) -> Outcome {
        let before = self.server.cpu_time();
        let started = Instant::now();
        let Taken { events, latencies } = load.await.expect("every answer is as it should be");
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
