//! `annals bench append` and `annals bench stream`: appends, one call each or pipelined.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use prost::Message;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_stream::Stream;
use tonic::{Status, Streaming, transport::Channel};

use super::{
    Bench, CliError, WriteArgs,
    events::Maker,
    load::{Budget, Fault, Taken, Twin},
    rounds::{self, EmptyCall, RoundArgs},
};
use crate::wire::proto::{
    bench::{CallRequest, EchoRequest, PersistRequest, empty_service_client::EmptyServiceClient},
    v1::{
        AppendRequest, AppendResponse, AppendStreamRequest, append_stream_response,
        command_service_client::CommandServiceClient,
    },
};

/// So many answers make room at once: one wake-up for each would be the load generator's, not the server's.
const ROOM_BATCH: usize = 64;

/// Measure appends: a caller waits for each answer
///
/// A latency is that of one call. Making the requests is in the rate, and not in the latencies.
#[derive(Debug, clap::Args)]
pub struct AppendArgs {
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    rounds: RoundArgs,
}

/// Measure pipelined appends: a caller sends on while answers are on their way
///
/// A latency is from when a request is handed to the connection to its answer, so it grows with --in-flight.
#[derive(Debug, clap::Args)]
pub struct StreamArgs {
    /// How many requests of one pipeline may be without an answer
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: u32,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    rounds: RoundArgs,
}

pub(super) async fn append(args: AppendArgs) -> Result<(), CliError> {
    let AppendArgs { write, rounds } = args;
    let data_bytes = write.data_bytes()?;
    let bench = Bench::begin("append", &rounds).await?;
    let load = Load::new(&bench, &write, data_bytes, &rounds).await?;
    let round = async |twin, budget: Arc<Budget>| {
        let mut callers = JoinSet::new();
        for (channel, requests) in load.work(twin, &budget) {
            callers.spawn(calls(channel, twin, requests));
        }
        all(callers).await
    };
    let mut facts = write.facts();
    facts.push(("streams", load.streams().into()));
    let category = rounds.written_to(&load.category);
    rounds::run(&bench, &rounds, facts, category, round).await
}

pub(super) async fn stream(args: StreamArgs) -> Result<(), CliError> {
    let StreamArgs { in_flight, write, rounds } = args;
    rounds.refuse(&[EmptyCall::Disk])?;
    let data_bytes = write.data_bytes()?;
    let bench = Bench::begin("stream", &rounds).await?;
    let load = Load::new(&bench, &write, data_bytes, &rounds).await?;
    let round = async |twin, budget: Arc<Budget>| {
        let mut pipelines = JoinSet::new();
        for (channel, requests) in load.work(twin, &budget) {
            pipelines.spawn(pipeline(channel, twin, requests, in_flight as usize));
        }
        all(pipelines).await
    };
    let mut facts = write.facts();
    facts.extend([("streams", load.streams().into()), ("in_flight", in_flight.into())]);
    let category = rounds.written_to(&load.category);
    rounds::run(&bench, &rounds, facts, category, round).await
}

/// What all callers came to, once all have ended; the first fault ends them.
pub async fn all(mut callers: JoinSet<Result<Taken, Fault>>) -> Result<Taken, Fault> {
    let mut taken = Taken::nothing();
    while let Some(caller) = callers.join_next().await {
        taken.merge(&caller.map_err(|error| Fault::Wrong(error.to_string()))??);
    }
    Ok(taken)
}

/// Who appends what to which stream.
struct Load {
    maker: Arc<Maker>,
    connections: Vec<Channel>,
    callers: u64,
    batch: u64,
    category: String,
    prefix: String,
    /// Shared by all callers; none: each has its own.
    shared_streams: Option<u64>,
    /// Of shared streams, appends so far: whose turn it is, whoever appends. They go on from round to round.
    turns: Arc<AtomicU64>,
    /// Of own streams, the versions, which go on from round to round.
    versions: Vec<Arc<AtomicU64>>,
}

impl Load {
    async fn new(
        bench: &Bench,
        write: &WriteArgs,
        data_bytes: usize,
        rounds: &RoundArgs,
    ) -> Result<Self, CliError> {
        let names = bench.names(&write.events);
        Ok(Self {
            maker: Arc::new(Maker::new(bench.id_base(), data_bytes)),
            connections: rounds.server.channels(write.connections()).await?,
            callers: write.callers.into(),
            batch: write.batch.into(),
            category: names.category,
            prefix: names.prefix,
            shared_streams: write.streams.map(u64::from),
            turns: Arc::default(),
            versions: (0..write.callers).map(|_| Arc::default()).collect(),
        })
    }

    fn streams(&self) -> u64 {
        self.shared_streams.unwrap_or(self.callers)
    }

    /// Of each caller the connection, and the requests, which end with the budget.
    fn work(
        &self,
        twin: Twin,
        budget: &Arc<Budget>,
    ) -> Vec<(Channel, impl Iterator<Item = AppendRequest> + Send + 'static)> {
        let work = |caller: u64| {
            let index = usize::try_from(caller).expect("few callers");
            let (budget, maker) = (Arc::clone(budget), Arc::clone(&self.maker));
            let (prefix, batch, shared) = (self.prefix.clone(), self.batch, self.shared_streams);
            let own = format!("{prefix}{caller}");
            // What nothing appends has no part in the turns and versions.
            let (turns, versions) = match twin {
                Twin::Real => (Arc::clone(&self.turns), Arc::clone(&self.versions[index])),
                _ => Default::default(),
            };
            let requests = std::iter::from_fn(move || {
                let events = budget.take(batch)?;
                Some(if let Some(streams) = shared {
                    // Relaxed: a count, which nothing else hangs on.
                    let turn = turns.fetch_add(1, Ordering::Relaxed);
                    maker.append(&format!("{prefix}{}", turn % streams), None, events)
                } else {
                    // Relaxed: only this caller has it.
                    let version = versions.fetch_add(events, Ordering::Relaxed);
                    maker.append(&own, Some(version), events)
                })
            });
            (self.connections[index % self.connections.len()].clone(), requests)
        };
        (0..self.callers).map(work).collect()
    }
}

/// Makes the calls one after the other, until there is none or one fails.
pub async fn calls(
    channel: Channel,
    twin: Twin,
    requests: impl Iterator<Item = AppendRequest>,
) -> Result<Taken, Fault> {
    if let Twin::Bytes | Twin::Disk = twin {
        return empty_calls(channel, twin, requests.map(|request| empty_call(&request))).await;
    }
    let mut store = CommandServiceClient::new(channel.clone());
    let mut empty = EmptyServiceClient::new(channel);
    let mut taken = Taken::nothing();
    for request in requests {
        let (events, expected) = (request.events.len() as u64, request.expected_version);
        let started = Instant::now();
        let answer = match twin {
            Twin::Real => store.append(request).await?,
            _ => empty.append(request).await?,
        };
        taken.add(events, started);
        check(answer.get_ref(), events, expected.filter(|_| twin == Twin::Real))?;
    }
    Ok(taken)
}

/// An empty call of as many bytes, and how many events it stands for.
pub fn empty_call(request: &AppendRequest) -> (CallRequest, u64) {
    (CallRequest { payload: payload(request.encoded_len()) }, request.events.len() as u64)
}

/// The same of calls that decode next to nothing, and of those whose bytes go to a disk.
pub async fn empty_calls(
    channel: Channel,
    twin: Twin,
    requests: impl Iterator<Item = (CallRequest, u64)>,
) -> Result<Taken, Fault> {
    let mut client = EmptyServiceClient::new(channel);
    let mut taken = Taken::nothing();
    for (request, events) in requests {
        let size = request.payload.len() as u64;
        let started = Instant::now();
        let taken_bytes = if twin == Twin::Disk {
            let request = PersistRequest { payload: request.payload };
            client.persist(request).await?.into_inner().payload_bytes
        } else {
            client.call(request).await?.into_inner().payload_bytes
        };
        taken.add(events, started);
        if taken_bytes != size {
            return Err(Fault::Wrong(format!("{size} bytes were answered by {taken_bytes}")));
        }
    }
    Ok(taken)
}

/// Whether `answer` says that so many events were appended, once, where they were expected to be.
pub fn check(answer: &AppendResponse, events: u64, expected: Option<u64>) -> Result<(), Fault> {
    let appended = answer.version + 1 - answer.first_version.min(answer.version);
    let in_place = expected.is_none_or(|version| answer.first_version == version + 1);
    if appended == events && in_place && !answer.duplicate {
        return Ok(());
    }
    Err(Fault::Wrong(format!(
        "an append of {events} events after version {expected:?} was answered by {answer:?}"
    )))
}

/// What makes a message of `size` bytes together with its tag and length.
fn payload(size: usize) -> Bytes {
    let tag_and_length = 1 + prost::length_delimiter_len(size);
    Bytes::from(vec![b'x'; size.saturating_sub(tag_and_length)])
}

// --- Pipelined -----------------------------------------------------------------------------------

/// A request of a pipeline.
pub struct Request<T> {
    message: T,
    events: u64,
    expected: Option<u64>,
}

/// A request that has no answer yet.
struct Sent {
    at: Instant,
    events: u64,
    expected: Option<u64>,
}

/// What the two directions of a pipeline share.
struct InFlight {
    room: Semaphore,
    room_batch: usize,
    sent: Mutex<VecDeque<Sent>>,
}

impl InFlight {
    fn at_most(count: usize) -> Arc<Self> {
        // Below that the answers would wait for requests, which wait for them.
        let room_batch = ROOM_BATCH.min(count.div_ceil(8));
        Arc::new(Self {
            room: Semaphore::new(count),
            room_batch,
            sent: Mutex::new(VecDeque::with_capacity(count)),
        })
    }

    /// The requests one by one, each when there is room.
    fn send<T: Send + 'static>(
        self: &Arc<Self>,
        requests: impl Iterator<Item = Request<T>> + Send + 'static,
    ) -> impl Stream<Item = T> + Send + 'static {
        let state = (requests, Arc::clone(self));
        futures_util::stream::unfold(state, |(mut requests, shared)| async {
            shared.room.acquire().await.ok()?.forget();
            let Request { message, events, expected } = requests.next()?;
            shared.sent().push_back(Sent { at: Instant::now(), events, expected });
            Some((message, (requests, shared)))
        })
    }

    fn sent(&self) -> std::sync::MutexGuard<'_, VecDeque<Sent>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the answers until they end with the requests.
    async fn receive<T>(
        &self,
        mut answers: Streaming<T>,
        check: impl Fn(T, u64, &Sent) -> Result<(), Fault>,
    ) -> Result<Taken, Fault> {
        let (mut taken, mut count) = (Taken::nothing(), 0);
        while let Some(answer) = answers.message().await? {
            count += 1;
            let sent = self.sent().pop_front();
            let sent = sent.ok_or_else(|| Fault::Wrong("an answer to no request".to_owned()))?;
            taken.add(sent.events, sent.at);
            check(answer, count, &sent)?;
            if count.is_multiple_of(self.room_batch as u64) {
                self.room.add_permits(self.room_batch);
            }
        }
        match self.sent().len() {
            0 => Ok(taken),
            missing => Err(Fault::Wrong(format!("{missing} requests were not answered"))),
        }
    }
}

/// Makes the appends through one pipeline, of at most so many without an answer.
pub async fn pipeline(
    channel: Channel,
    twin: Twin,
    requests: impl Iterator<Item = AppendRequest> + Send + 'static,
    in_flight: usize,
) -> Result<Taken, Fault> {
    use append_stream_response::Result::{Appended, Error};
    if twin == Twin::Bytes {
        return echoes(channel, requests.map(echo), in_flight).await;
    }
    let in_flight = InFlight::at_most(in_flight);
    let requests = in_flight.send(requests.map(move |request| Request {
        events: request.events.len() as u64,
        expected: request.expected_version.filter(|_| twin == Twin::Real),
        message: AppendStreamRequest { append: Some(request) },
    }));
    let answers = match twin {
        Twin::Real => CommandServiceClient::new(channel).append_stream(requests).await?,
        _ => EmptyServiceClient::new(channel).append_stream(requests).await?,
    };
    let receive = in_flight.receive(answers.into_inner(), |answer, count, sent| {
        if answer.request != count {
            return Err(Fault::Wrong(format!("request {count} was answered by {answer:?}")));
        }
        match answer.result {
            Some(Appended(appended)) => check(&appended, sent.events, sent.expected),
            Some(Error(error)) => {
                let details = error.encode_to_vec().into();
                Err(Status::with_details(error.code.into(), error.message, details).into())
            }
            None => Err(Fault::Wrong(format!("request {count} has an empty answer"))),
        }
    });
    receive.await
}

/// A request of as many bytes as that of an append.
pub fn echo(request: AppendRequest) -> Request<EchoRequest> {
    let events = request.events.len() as u64;
    let size = AppendStreamRequest { append: Some(request) }.encoded_len();
    Request { message: EchoRequest { payload: payload(size) }, events, expected: None }
}

/// The same of requests that are decoded next to not at all.
pub async fn echoes(
    channel: Channel,
    requests: impl Iterator<Item = Request<EchoRequest>> + Send + 'static,
    in_flight: usize,
) -> Result<Taken, Fault> {
    let in_flight = InFlight::at_most(in_flight);
    let requests = in_flight.send(requests);
    let answers = EmptyServiceClient::new(channel).echo(requests).await?.into_inner();
    in_flight.receive(answers, |_, _, _| Ok(())).await
}
