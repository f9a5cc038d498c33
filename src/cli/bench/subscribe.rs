//! `annals bench subscribe`: catching up from the start, or live, from the append to the arrival.

use std::{sync::Arc, time::Instant};

use prost::Message;
use tokio::task::JoinSet;
use tonic::{Streaming, transport::Channel};

use super::{
    Bench, CliError,
    append::{all, calls},
    events::Maker,
    fill::{self, FillArgs},
    load::{Budget, Fault, Taken, Twin},
    raw::{Counted, raw},
    read::{Volume, empty, undecodable},
    rounds::{self, EmptyCall, RoundArgs},
};
use crate::wire::proto::v1::{
    AppendRequest, CaughtUp, Filter, RecordedEvent, SubscribeRequest, SubscribeResponse,
    command_service_client::CommandServiceClient, subscribe_request, subscribe_response,
    subscription_service_client::SubscriptionServiceClient,
};

/// Measure subscriptions: catching up from the log's start, or live
///
/// Catching up reads what is there, or what --fill appends first, again and again; a latency is that of one
/// catch-up. With --live events are appended one at a time; a latency is from the append's start to the
/// event's arrival at a subscriber on another connection, and stands beside the round trip of an empty call.
#[derive(Debug, clap::Args)]
pub struct SubscribeArgs {
    /// Measure the way of an event, from the append to the arrival
    #[arg(long, conflicts_with_all = ["fill", "subscribers"])]
    live: bool,
    /// How many subscribers catch up, each on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    subscribers: u32,
    #[command(flatten)]
    fill: FillArgs,
    #[command(flatten)]
    rounds: RoundArgs,
}

pub(super) async fn run(args: SubscribeArgs) -> Result<(), CliError> {
    if args.live { live_rounds(args).await } else { catch_up_rounds(args).await }
}

// --- Catching up ---------------------------------------------------------------------------------

async fn catch_up_rounds(args: SubscribeArgs) -> Result<(), CliError> {
    let SubscribeArgs { subscribers, fill, rounds, .. } = args;
    rounds.refuse(&[EmptyCall::Bytes, EmptyCall::Disk])?;
    let bench = Bench::begin("subscribe", &rounds).await?;
    let filled = fill.run(&bench, &rounds, fill::STREAMS).await?;
    let head = Bench::of(bench.shape, &rounds.server).await?.info.head;
    if head == 0 {
        return Err(CliError::Failed(
            "there is nothing to catch up with yet; --fill N appends events first".to_owned(),
        ));
    }
    let channels = rounds.server.channels(subscribers).await?;
    let usual = match rounds.twin() {
        Some(_) => catch_up(&channels[0], None).await?.0,
        None => Volume::default(),
    };
    let round = async |twin, budget: Arc<Budget>| {
        let mut work = JoinSet::new();
        for channel in &channels {
            let (channel, budget) = (channel.clone(), Arc::clone(&budget));
            work.spawn(async move {
                let mut taken = Taken::nothing();
                while !budget.is_over() {
                    let started = Instant::now();
                    let (volume, whole) = match twin {
                        Twin::Real => catch_up(&channel, Some(&budget)).await?,
                        _ => empty(&channel, usual, Some(&budget)).await?,
                    };
                    if whole {
                        taken.add(volume.events, started);
                    } else {
                        taken.events += volume.events;
                    }
                }
                Ok(taken)
            });
        }
        all(work).await
    };
    let facts = vec![("subscribers", subscribers.into()), ("events_in_log", head.into())];
    let category = filled.as_ref().map(|filled| filled.category.as_str());
    rounds::run(&bench, &rounds, facts, category, round).await
}

/// A message of a subscription, of whose events only the number is of interest.
#[derive(Clone, PartialEq, prost::Message)]
struct Progress {
    #[prost(message, optional, tag = "2")]
    events: Option<Counted>,
    #[prost(message, optional, tag = "4")]
    caught_up: Option<CaughtUp>,
}

/// Follows from the log's start until it has caught up (then it is whole) or the budget is over.
pub async fn catch_up(channel: &Channel, budget: Option<&Budget>) -> Result<(Volume, bool), Fault> {
    let path = "/annals.v1.SubscriptionService/Subscribe";
    let mut following = raw(channel, path, SubscribeRequest::default()).await?;
    let mut volume = Volume::default();
    while let Some(message) = following.message().await? {
        let progress = Progress::decode(message.clone()).map_err(|error| undecodable(&error))?;
        if let Some(Counted { events }) = progress.events {
            volume.add(events, &message);
            if let Some(budget) = budget {
                budget.spend(events);
                if budget.is_over() {
                    return Ok((volume, false));
                }
            }
        }
        if let Some(CaughtUp { position, .. }) = progress.caught_up {
            // Fewer where some are hidden.
            if volume.events > position {
                let events = volume.events;
                return Err(Fault::Wrong(format!("{events} events up to position {position}")));
            }
            return Ok((volume, true));
        }
    }
    Err(ended())
}

fn ended() -> Fault {
    Fault::Wrong("the server ended the subscription".to_owned())
}

// --- Live ----------------------------------------------------------------------------------------

async fn live_rounds(args: SubscribeArgs) -> Result<(), CliError> {
    let SubscribeArgs { fill, rounds, .. } = args;
    let data_bytes = fill.events.data_bytes(1)?;
    let bench = Bench::begin("subscribe live", &rounds).await?;
    let names = bench.names(&fill.events);
    let maker = Maker::new(bench.id_base(), data_bytes);
    let channels = rounds.server.channels(2).await?;
    let stream = format!("{}0", names.prefix);
    let round = async |twin, budget: Arc<Budget>| {
        let requests =
            std::iter::from_fn(|| budget.take(1).map(|events| maker.append(&stream, None, events)));
        if twin != Twin::Real {
            return calls(channels[0].clone(), twin, requests).await;
        }
        // Others may append meanwhile.
        let filters = vec![Filter { streams: vec![stream.clone()], ..Filter::default() }];
        live(&channels[0], &channels[1], filters, requests).await
    };
    let facts = vec![("connections", 2.into()), ("data_bytes", fill.events.data_bytes.into())];
    let category = rounds.written_to(&names.category);
    rounds::run(&bench, &rounds, facts, category, round).await
}

/// A subscription from now on, which stands.
pub async fn follow(
    channel: &Channel,
    filters: Vec<Filter>,
) -> Result<Streaming<SubscribeResponse>, Fault> {
    let start = Some(subscribe_request::Start::FromNow(()));
    let request = SubscribeRequest { start, filters, ..SubscribeRequest::default() };
    let mut client = SubscriptionServiceClient::new(channel.clone());
    let mut following = client.subscribe(request).await?.into_inner();
    loop {
        let message = following.message().await?.ok_or_else(ended)?.message;
        if matches!(message, Some(subscribe_response::Message::CaughtUp(_))) {
            return Ok(following);
        }
    }
}

/// The next events that come.
async fn receive(
    following: &mut Streaming<SubscribeResponse>,
) -> Result<(Instant, Vec<RecordedEvent>), Fault> {
    // After each event it has caught up again, and says so.
    loop {
        let message = following.message().await?.ok_or_else(ended)?.message;
        if let Some(subscribe_response::Message::Events(block)) = message {
            return Ok((Instant::now(), block.events));
        }
    }
}

/// Appends one event after the other, each once the one before has arrived at a subscriber. Nobody else may
/// append what the filters pick. The latencies are those of the arrivals.
pub async fn live(
    appender: &Channel,
    subscriber: &Channel,
    filters: Vec<Filter>,
    requests: impl Iterator<Item = AppendRequest>,
) -> Result<Taken, Fault> {
    let mut following = follow(subscriber, filters).await?;
    let mut client = CommandServiceClient::new(appender.clone());
    let mut taken = Taken::nothing();
    for request in requests {
        let started = Instant::now();
        let append = async { Ok::<_, Fault>(client.append(request).await?.into_inner()) };
        let (answer, (arrived, events)) = tokio::try_join!(append, receive(&mut following))?;
        taken.events += 1;
        let took = arrived.duration_since(started);
        taken.latencies.saturating_record(super::load::nanos(took));
        let positions: Vec<_> = events.iter().map(|event| event.position).collect();
        if positions != [answer.position] {
            let position = answer.position;
            return Err(Fault::Wrong(format!(
                "after an append to position {position} came {positions:?}"
            )));
        }
    }
    Ok(taken)
}
