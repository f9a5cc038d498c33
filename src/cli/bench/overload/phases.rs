//! The load, phase by phase.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::{sync::Semaphore, task::JoinSet};
use tonic::{
    Code, Request, Status, codec::CompressionEncoding, metadata::AsciiMetadataValue,
    transport::Channel,
};
use tonic_health::pb::health_client::HealthClient;
use uuid::Uuid;

use super::{
    Run,
    calls::{Outcomes, latencies, micros},
    prober,
};
use crate::{
    cli::{CliError, info::size, output::grouped},
    wire::proto::v1::{
        AppendRequest, Filter, GetInfoResponse, GetStreamRequest, NewEvent, ReadAllRequest,
        SubscribeRequest, command_service_client::CommandServiceClient, new_event::Data,
        query_service_client::QueryServiceClient,
        subscription_service_client::SubscriptionServiceClient,
    },
};

/// Calls of each kind, one after the other.
const BASELINE_CALLS: usize = 200;
/// Connections that are being opened at once.
const OPENING_MAX: usize = 256;
/// So many streams the callers share.
const STREAMS: u64 = 1000;
/// Slow readers on one connection, their window, and what there is to read: more than window and buffers hold.
const READERS_OF_A_CONNECTION: u32 = 25;
const SLOW_WINDOW_BYTES: u32 = 16 << 10;
const FILL_EVENTS: u64 = 256;
const FILL_EVENT_BYTES: usize = 32 << 10;
/// What the server may hold for a reader that does not read, as documented, and beside that for all of them.
const READER_BYTES_MAX: u64 = 512 << 10;
const READERS_SLACK_BYTES: u64 = 64 << 20;
/// What tonic's client makes of a connection that is closed under its call.
const CLOSED: [Code; 3] = [Code::Unavailable, Code::Cancelled, Code::Unknown];
/// What an overloaded server may say, beside OK.
const SHED: [Code; 3] = [Code::Ok, Code::ResourceExhausted, Code::DeadlineExceeded];

/// How many connections so many readers have.
pub fn connections_of_readers(readers: u32) -> usize {
    readers.div_ceil(READERS_OF_A_CONNECTION) as usize
}

/// How long calls take one after the other: medians.
pub struct Baseline {
    pub health: Duration,
    pub append: Duration,
    pub read: Duration,
}

/// What became of a caller's append.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Acknowledged,
    Refused,
    Unknown,
}

fn event(id: u128, data: Data) -> NewEvent {
    NewEvent {
        id: Uuid::from_u128(id).to_string(),
        r#type: "Overloaded".to_owned(),
        data: Some(data),
        ..NewEvent::default()
    }
}

fn append(stream: String, events: Vec<NewEvent>) -> AppendRequest {
    AppendRequest { stream, events, ..AppendRequest::default() }
}

impl Run {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline());
        request
    }

    /// A small append whose id is no caller's.
    fn small(&self) -> AppendRequest {
        let event = event(Uuid::new_v4().as_u128(), Data::Text("{}".to_owned()));
        append(format!("{}-baseline", self.category), vec![event])
    }

    /// On a connection of its own.
    pub async fn baseline(&mut self, name: &'static str) -> Result<Baseline, CliError> {
        let channel = self.endpoint.connect().await.map_err(|error| lost(&error))?;
        let mut health = HealthClient::new(channel.clone());
        let mut commands = CommandServiceClient::new(channel.clone());
        let mut queries = QueryServiceClient::new(channel);
        let stream = format!("{}-baseline", self.category);
        let mut outcomes = Outcomes::new();
        let [mut healths, mut appends, mut reads] = [latencies(), latencies(), latencies()];
        for _ in 0..BASELINE_CALLS {
            let asked = Instant::now();
            let answer = prober::check(&mut health).await.map_err(Status::unavailable);
            healths.saturating_record(micros(asked.elapsed()));
            outcomes.add(&answer, asked.elapsed());

            let asked = Instant::now();
            let answer = commands.append(self.request(self.small())).await;
            appends.saturating_record(micros(asked.elapsed()));
            outcomes.add(&answer, asked.elapsed());

            let request = GetStreamRequest { stream: stream.clone(), min_position: 0 };
            let asked = Instant::now();
            let answer = queries.get_stream(self.request(request)).await;
            reads.saturating_record(micros(asked.elapsed()));
            outcomes.add(&answer, asked.elapsed());
        }
        self.note(name, outcomes, &[Code::Ok]).await?;
        let median =
            |latencies: &Histogram<u64>| Duration::from_micros(latencies.value_at_quantile(0.5));
        Ok(Baseline { health: median(&healths), append: median(&appends), read: median(&reads) })
    }

    /// Opens connections, with a call on each; those that are served are kept.
    pub async fn connections(&mut self, was: &GetInfoResponse) -> Result<Vec<Channel>, CliError> {
        let places = Arc::new(Semaphore::new(OPENING_MAX));
        let mut tasks = JoinSet::new();
        for _ in 0..self.args.connections {
            let (endpoint, places) = (self.endpoint.clone(), Arc::clone(&places));
            let stream = format!("{}-baseline", self.category);
            let request = self.request(GetStreamRequest { stream, min_position: 0 });
            tasks.spawn(async move {
                let _place = places.acquire().await;
                let asked = Instant::now();
                let answer = match endpoint.connect().await {
                    Err(error) => Err(Status::unavailable(crate::cli::with_causes(&error))),
                    Ok(channel) => {
                        let mut queries = QueryServiceClient::new(channel.clone());
                        queries.get_stream(request).await.map(|_| channel)
                    }
                };
                (answer, asked.elapsed())
            });
        }
        let (mut outcomes, mut channels) = (Outcomes::new(), Vec::new());
        while let Some(task) = tasks.join_next().await {
            let (answer, took) = task.map_err(|error| CliError::Failed(error.to_string()))?;
            outcomes.add(&answer, took);
            channels.extend(answer);
        }
        let served = outcomes.count(Code::Ok);
        let room = was.limits.map_or(u64::MAX, |limits| limits.connections_max.into());
        let room = room.saturating_sub(was.connection_count).min(self.args.connections.into());
        if served < room {
            let (served, room) = (grouped(served), grouped(room));
            self.report
                .broken("connections", format!("{served} are served, there was room for {room}"));
        }
        self.note(
            "connections",
            outcomes,
            &[&[Code::Ok, Code::ResourceExhausted], &CLOSED[..]].concat(),
        )
        .await?;
        Ok(channels)
    }

    /// One append by each caller, all at once, and then a look at what is in the log.
    pub async fn appends(&mut self, channels: &[Channel]) -> Result<(), CliError> {
        let shared = &channels[..channels.len().min(self.args.append_connections as usize)];
        if shared.is_empty() {
            self.report.broken("appends", "no connection is served".to_owned());
            return Ok(());
        }
        let mut tasks = JoinSet::new();
        for (caller, channel) in (0..u64::from(self.args.callers)).zip(shared.iter().cycle()) {
            let stream = format!("{}-{}", self.category, caller % STREAMS);
            let event = event(self.id_base + u128::from(caller), Data::Text("{}".to_owned()));
            let request = self.request(append(stream, vec![event]));
            let mut commands = CommandServiceClient::new(channel.clone());
            tasks.spawn(async move {
                let asked = Instant::now();
                let answer = commands.append(request).await;
                (caller, answer, asked.elapsed())
            });
        }
        let mut outcomes = Outcomes::new();
        let mut fates = HashMap::new();
        while let Some(task) = tasks.join_next().await {
            let (caller, answer, took) =
                task.map_err(|error| CliError::Failed(error.to_string()))?;
            outcomes.add(&answer, took);
            let fate = match answer.map_err(|status| status.code()) {
                Ok(_) => Fate::Acknowledged,
                Err(Code::ResourceExhausted) => Fate::Refused,
                Err(_) => Fate::Unknown,
            };
            fates.insert(self.id_base + u128::from(caller), fate);
        }
        self.note("appends", outcomes, &SHED).await?;
        self.check(fates).await
    }

    /// What was acknowledged is in the log exactly once, what was refused is not, and of what is unknown nothing is there
    /// twice.
    async fn check(&mut self, mut fates: HashMap<u128, Fate>) -> Result<(), CliError> {
        let filter = Filter { categories: vec![self.category.clone()], ..Filter::default() };
        let request = ReadAllRequest { filters: vec![filter], ..ReadAllRequest::default() };
        let mut queries = QueryServiceClient::new(self.control.clone());
        let mut blocks = queries.read_all(request).await?.into_inner();
        let (mut refused, mut twice) = (0, 0);
        let mut seen = std::collections::HashSet::new();
        while let Some(block) = blocks.message().await? {
            for event in block.events {
                let id = Uuid::parse_str(&event.id).map_or(0, |id| id.as_u128());
                if !seen.insert(id) {
                    twice += 1;
                }
                if fates.remove(&id) == Some(Fate::Refused) {
                    refused += 1;
                }
            }
        }
        let missing = fates.values().filter(|fate| **fate == Fate::Acknowledged).count();
        for (count, what) in [
            (missing, "acknowledged appends are missing"),
            (refused, "refused appends were written"),
            (twice, "events are there twice"),
        ] {
            if count > 0 {
                self.report.broken("appends", format!("{} {what}", grouped(count as u64)));
            }
        }
        Ok(())
    }

    /// Reads and subscriptions that take nothing beyond their first message, and appends beside them.
    pub async fn slow_readers(&mut self) -> Result<(), CliError> {
        let mut commands = CommandServiceClient::new(self.control.clone());
        let stream = format!("{}-fill", self.category);
        for _ in 0..FILL_EVENTS {
            let data = Data::Text("x".repeat(FILL_EVENT_BYTES));
            let event = event(Uuid::new_v4().as_u128(), data);
            commands.append(self.request(append(stream.clone(), vec![event]))).await?;
        }
        let resident = self.resident(&self.info().await?)?;
        let mut outcomes = Outcomes::new();
        let (mut reads, mut subscriptions, mut channel) = (Vec::new(), Vec::new(), None);
        let slow = self
            .endpoint
            .clone()
            .initial_stream_window_size(SLOW_WINDOW_BYTES)
            .initial_connection_window_size(SLOW_WINDOW_BYTES * READERS_OF_A_CONNECTION);
        for reader in 0..self.args.readers {
            if reader % READERS_OF_A_CONNECTION == 0 {
                channel = slow.connect().await.ok();
            }
            let Some(channel) = channel.clone() else { continue };
            let asked = Instant::now();
            if reader % 2 == 0 {
                let mut queries = QueryServiceClient::new(channel);
                let answer = queries.read_all(ReadAllRequest::default()).await;
                outcomes.add(&answer, asked.elapsed());
                reads.extend(answer);
            } else {
                let mut subscribing = SubscriptionServiceClient::new(channel);
                let answer = subscribing.subscribe(SubscribeRequest::default()).await;
                outcomes.add(&answer, asked.elapsed());
                subscriptions.extend(answer);
            }
        }
        for _ in 0..BASELINE_CALLS {
            let asked = Instant::now();
            let answer = commands.append(self.request(self.small())).await;
            outcomes.add(&answer, asked.elapsed());
        }
        let grown = self.resident(&self.info().await?)?.saturating_sub(resident);
        let slow = (reads.len() + subscriptions.len()) as u64;
        if grown > slow * READER_BYTES_MAX + READERS_SLACK_BYTES {
            let (slow, grown) = (grouped(slow), size(grown));
            self.report.broken("slow readers", format!("{slow} readers hold {grown}"));
        }
        self.note("slow readers", outcomes, &SHED).await
    }

    /// Requests that are larger than they may be, in each way; after each the server takes what is right.
    pub async fn oversized(&mut self) -> Result<(), CliError> {
        let limits = self.info().await?.limits.unwrap_or_default();
        let stream = format!("{}-oversized", self.category);
        let text = |bytes: u64| Data::Text("x".repeat(usize::try_from(bytes).unwrap_or(0)));
        let one = |data| append(stream.clone(), vec![event(Uuid::new_v4().as_u128(), data)]);
        let many = (0..=limits.commit_events_max)
            .map(|_| NewEvent { r#type: "Overloaded".to_owned(), ..NewEvent::default() });
        let mut headers = self.request(self.small());
        if let Ok(much) = AsciiMetadataValue::try_from("x".repeat(64 << 10)) {
            headers.metadata_mut().insert("much", much);
        }
        let too_large = [Code::ResourceExhausted].as_slice();
        let wrong = [Code::InvalidArgument].as_slice();
        // HTTP status 431 has no gRPC status, and resets the call: clients make of it what they like.
        let any = [&[Code::Internal, Code::ResourceExhausted], &CLOSED[..]].concat();
        let packed = Some(CompressionEncoding::Gzip);
        let cases = [
            ("a message", self.request(one(text(limits.request_bytes_max))), None, too_large),
            ("an event", self.request(one(text(limits.event_bytes_max))), None, wrong),
            ("a commit", self.request(append(stream.clone(), many.collect())), None, wrong),
            (
                "what is unpacked",
                self.request(one(text(4 * limits.request_bytes_max))),
                packed,
                too_large,
            ),
            ("headers", headers, None, &any[..]),
        ];
        let mut outcomes = Outcomes::new();
        // One connection for all: what is wrong with one call is not the next one's.
        let channel = self.endpoint.connect().await.map_err(|error| lost(&error))?;
        for (what, request, compression, expected) in cases {
            let mut commands = CommandServiceClient::new(channel.clone());
            if let Some(encoding) = compression {
                commands = commands.send_compressed(encoding);
            }
            let asked = Instant::now();
            let answer = commands.append(request).await;
            outcomes.add(&answer, asked.elapsed());
            let code = answer.map_or_else(|status| status.code(), |_| Code::Ok);
            if !expected.contains(&code) {
                let what =
                    format!("{what} above the limit: {code:?}, expected one of {expected:?}");
                self.report.broken("oversized", what);
            }
            let asked = Instant::now();
            let answer = commands.append(self.request(self.small())).await;
            outcomes.add(&answer, asked.elapsed());
            if let Err(status) = answer {
                let what = format!("after {what} above the limit: {:?}", status.code());
                self.report.broken("oversized", what);
            }
        }
        let expected = [&[Code::Ok, Code::InvalidArgument], any.as_slice()].concat();
        self.note("oversized", outcomes, &expected).await
    }
}

fn lost(error: &tonic::transport::Error) -> CliError {
    CliError::ConnectionLost(crate::cli::with_causes(error))
}
