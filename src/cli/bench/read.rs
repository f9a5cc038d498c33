//! `annals bench read`: the whole log, or stream by stream.

use std::{sync::Arc, time::Instant};

use prost::Message;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{
    Bench, CliError,
    append::all,
    fill::{self, FillArgs},
    load::{Budget, Fault, Taken, Twin},
    raw::{Counted, raw},
    rounds::{self, EmptyCall, RoundArgs},
};
use crate::{
    cli::client::ServerArgs,
    wire::{
        block::EventBlock,
        proto::{
            bench::StreamRequest,
            v1::{ListStreamsRequest, ReadAllRequest, ReadStreamRequest},
        },
    },
};

/// The empty service's limits.
const PAYLOAD_BYTES_MAX: u64 = 1 << 20;
/// So many streams are read to know what a call's answer has.
const STREAMS_TRIED: usize = 100;
const PAGE_SIZE_MAX: u32 = 1000;

/// Measure reads: of the whole log, or of streams, one a call
///
/// Reads what is there, again and again, or what --fill appends first. Events are counted and not decoded,
/// unless --decode asks for it. A latency is that of one whole call.
#[derive(Debug, clap::Args)]
pub struct ReadArgs {
    /// Read streams, one a call, in turn: so many (1000 where no number is given) of those that there are
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        default_missing_value = "1000",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
    )]
    streams: Option<u32>,
    /// A call reads at most so many events; of the whole log somewhere in it [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Decode the events, and check their order
    #[arg(long)]
    decode: bool,
    /// How many callers read
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    callers: u32,
    /// How many connections they share [default: 1 for one caller, else 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: Option<u32>,
    #[command(flatten)]
    fill: FillArgs,
    #[command(flatten)]
    rounds: RoundArgs,
}

/// One read.
#[derive(Debug, Clone)]
pub enum Read {
    /// Of the log.
    All(ReadAllRequest),
    /// Of one stream.
    Stream(ReadStreamRequest),
}

/// What a read brought.
#[derive(Debug, Clone, Copy, Default)]
pub struct Volume {
    pub events: u64,
    pub bytes: u64,
    pub messages: u64,
}

impl Volume {
    /// One message more.
    pub fn add(&mut self, events: u64, message: &bytes::Bytes) {
        self.events += events;
        self.bytes += message.len() as u64;
        self.messages += 1;
    }
}

pub(super) async fn run(args: ReadArgs) -> Result<(), CliError> {
    let ReadArgs { streams, limit, decode, callers, connections, fill, rounds } = args;
    rounds.refuse(&[EmptyCall::Bytes, EmptyCall::Disk])?;
    let bench = Bench::begin("read", &rounds).await?;
    let filled = fill.run(&bench, &rounds, streams.unwrap_or(fill::STREAMS)).await?;
    let reads = match (streams, &filled) {
        (None, _) => Reads::all(&bench, &rounds.server, limit).await?,
        (Some(_), Some(filled)) => Reads::of(&filled.streams, limit),
        (Some(count), None) => Reads::of(&listed(&rounds.server, count).await?, limit),
    };
    if reads.is_empty() {
        return Err(CliError::Failed(
            "there is nothing to read yet; --fill N appends events first".to_owned(),
        ));
    }
    let connections = connections.unwrap_or(if callers == 1 { 1 } else { 2 });
    let channels = rounds.server.channels(connections).await?;
    let reads = Arc::new(reads);
    let usual = match rounds.twin() {
        Some(_) => reads.usual(&channels[0]).await?,
        None => Volume::default(),
    };
    let round = async |twin, budget: Arc<Budget>| {
        let mut work = JoinSet::new();
        for caller in 0..callers as usize {
            let channel = channels[caller % channels.len()].clone();
            let (reads, budget) = (Arc::clone(&reads), Arc::clone(&budget));
            work.spawn(async move {
                if twin == Twin::Real {
                    again_and_again(&channel, &reads, caller, decode, &budget).await
                } else {
                    empty_again_and_again(&channel, usual, &budget).await
                }
            });
        }
        all(work).await
    };
    let mut facts = vec![
        ("callers", callers.into()),
        ("connections", connections.into()),
        ("decode", decode.into()),
    ];
    match &*reads {
        Reads::All { head, .. } => facts.push(("events_in_log", (*head).into())),
        Reads::Streams(reads) => facts.push(("streams", reads.len().into())),
    }
    if let Some(limit) = limit {
        facts.push(("limit", limit.into()));
    }
    let category = filled.as_ref().map(|filled| filled.category.as_str());
    rounds::run(&bench, &rounds, facts, category, round).await
}

/// What there is to read.
enum Reads {
    All { head: u64, limit: Option<u64> },
    Streams(Vec<ReadStreamRequest>),
}

impl Reads {
    async fn all(bench: &Bench, server: &ServerArgs, limit: Option<u64>) -> Result<Self, CliError> {
        let head = Bench::of(bench.shape, server).await?.info.head;
        Ok(Self::All { head, limit })
    }

    fn of(streams: &[String], limit: Option<u64>) -> Self {
        let limit = limit.unwrap_or(0);
        let read = |stream: &String| ReadStreamRequest {
            stream: stream.clone(),
            limit,
            ..ReadStreamRequest::default()
        };
        Self::Streams(streams.iter().map(read).collect())
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::All { head, .. } => *head == 0,
            Self::Streams(streams) => streams.is_empty(),
        }
    }

    /// The `number`th read: each of a log begins somewhere else, the same in every run.
    fn get(&self, number: usize) -> Read {
        match self {
            Self::All { head, limit } => {
                let limit = limit.map_or(*head, |limit| limit.min(*head));
                let somewhere = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let after = somewhere % (head - limit + 1);
                Read::All(ReadAllRequest { after, limit, ..ReadAllRequest::default() })
            }
            Self::Streams(streams) => Read::Stream(streams[number % streams.len()].clone()),
        }
    }

    /// What one call brings, as a mean.
    async fn usual(&self, channel: &Channel) -> Result<Volume, CliError> {
        let calls = match self {
            Self::All { .. } => 1,
            Self::Streams(streams) => streams.len().min(STREAMS_TRIED),
        };
        let mut sum = Volume::default();
        for number in 0..calls {
            let (volume, _) = read(channel, self.get(number), false, None).await?;
            sum.events += volume.events;
            sum.bytes += volume.bytes;
            sum.messages += volume.messages;
        }
        let calls = calls as u64;
        Ok(Volume {
            events: sum.events / calls,
            bytes: sum.bytes / calls,
            messages: sum.messages.div_ceil(calls),
        })
    }
}

/// So many of the streams that there are; the server's own are none.
async fn listed(server: &ServerArgs, count: u32) -> Result<Vec<String>, CliError> {
    let mut queries = server.connect().await?.queries();
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let page_size = PAGE_SIZE_MAX;
        let request = ListStreamsRequest { page_size, page_token, ..ListStreamsRequest::default() };
        let page = queries.list_streams(request).await?.into_inner();
        let wanted = count as usize - names.len();
        let found = page.streams.into_iter().map(|stream| stream.name);
        names.extend(found.filter(|name| !name.starts_with('$')).take(wanted));
        page_token = page.next_page_token;
        if page_token.is_empty() || names.len() == count as usize {
            return Ok(names);
        }
    }
}

async fn again_and_again(
    channel: &Channel,
    reads: &Reads,
    caller: usize,
    decode: bool,
    budget: &Budget,
) -> Result<Taken, Fault> {
    let mut taken = Taken::nothing();
    // Callers do not follow each other through the same streams.
    let mut number = caller * 7919;
    while !budget.is_over() {
        let mut request = reads.get(number);
        if let Some(left) = budget.left() {
            limit_to(&mut request, left);
        }
        number += 1;
        let started = Instant::now();
        let (volume, whole) = read(channel, request, decode, Some(budget)).await?;
        if whole {
            taken.add(volume.events, started);
        } else {
            taken.events += volume.events;
        }
    }
    Ok(taken)
}

fn limit_to(read: &mut Read, left: u64) {
    let limit = match read {
        Read::All(request) => &mut request.limit,
        Read::Stream(request) => &mut request.limit,
    };
    // 0: all.
    *limit = if *limit == 0 { left } else { left.min(*limit) };
}

async fn empty_again_and_again(
    channel: &Channel,
    usual: Volume,
    budget: &Budget,
) -> Result<Taken, Fault> {
    let mut taken = Taken::nothing();
    while !budget.is_over() {
        let started = Instant::now();
        let (volume, whole) = empty(channel, usual, Some(budget)).await?;
        if whole {
            taken.add(volume.events, started);
        } else {
            taken.events += volume.events;
        }
    }
    Ok(taken)
}

/// One read, and whether it came to its end or to that of the budget.
pub async fn read(
    channel: &Channel,
    request: Read,
    decode: bool,
    budget: Option<&Budget>,
) -> Result<(Volume, bool), Fault> {
    let mut messages = match request.clone() {
        Read::All(request) => raw(channel, "/annals.v1.QueryService/ReadAll", request).await?,
        Read::Stream(request) => {
            raw(channel, "/annals.v1.QueryService/ReadStream", request).await?
        }
    };
    let (mut volume, mut last) = (Volume::default(), 0);
    while let Some(message) = messages.message().await? {
        let events = if decode {
            let events =
                EventBlock::decode(message.clone()).map_err(|error| undecodable(&error))?.events;
            for event in &events {
                if event.position <= last {
                    let place = event.position;
                    return Err(Fault::Wrong(format!("position {place} was read after {last}")));
                }
                last = event.position;
            }
            events.len() as u64
        } else {
            Counted::decode(message.clone()).map_err(|error| undecodable(&error))?.events
        };
        volume.add(events, &message);
        if let Some(budget) = budget {
            budget.spend(events);
            // One of events ends with the call's own limit.
            if budget.left().is_none() && budget.is_over() {
                return Ok((volume, false));
            }
        }
    }
    Ok((volume, true))
}

/// An empty call with as many bytes in as many messages as `usual`, and whether it came to its end.
pub async fn empty(
    channel: &Channel,
    usual: Volume,
    budget: Option<&Budget>,
) -> Result<(Volume, bool), Fault> {
    let bytes = usual.bytes.div_ceil(usual.messages.max(1)).clamp(1, PAYLOAD_BYTES_MAX);
    let messages = usual.bytes.div_ceil(bytes);
    let payload_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let request = StreamRequest { payload_bytes, messages };
    let mut answers = raw(channel, "/annals.bench.v1.EmptyService/Stream", request).await?;
    let mut volume = Volume::default();
    while let Some(message) = answers.message().await? {
        Counted::decode(message.clone()).map_err(|error| undecodable(&error))?;
        // Its share of the events that the call stands for.
        let so_far = usual.events * (volume.messages + 1) / messages;
        let events = so_far - volume.events;
        volume.add(events, &message);
        if let Some(budget) = budget {
            budget.spend(events);
            if budget.is_over() {
                return Ok((volume, volume.messages == messages));
            }
        }
    }
    Ok((volume, true))
}

pub fn undecodable(error: &prost::DecodeError) -> Fault {
    Fault::Wrong(format!("a message does not decode: {error}"))
}
