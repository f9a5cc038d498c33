//! Who works: appenders, readers, subscribers, each a task that no error ends.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use prost_types::Timestamp;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::{Code, Status, Streaming, client::Grpc, transport::Channel};
use tonic_types::StatusExt;

use super::{
    MixedArgs,
    tally::{Order, Part},
};
use crate::{
    cli::bench::{
        Bench,
        events::Maker,
        load::{Budget, Fault, nanos},
    },
    core::clock::{Clock, SystemClock},
    wire::{
        codec::Codec,
        proto::v1::{
            GetInfoRequest, ReadAllRequest, SubscribeRequest, SubscriptionConfirmed,
            admin_service_client::AdminServiceClient, command_service_client::CommandServiceClient,
            query_service_client::QueryServiceClient, subscribe_request::Start,
        },
    },
};

const BACK_OFF_MIN: Duration = Duration::from_millis(10);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// Appends that are late by more are not caught up with: an outage is no reason for a burst.
const LATE_MAX: Duration = Duration::from_secs(1);

/// Where subscribers have to come to, and by when.
pub type End = Option<(u64, Instant)>;

/// What all work with.
pub struct Shared {
    pub budget: Arc<Budget>,
    pub appends: Part,
    pub reads: Part,
    pub arrivals: Part,
    pub verified: Mutex<Verified>,
    maker: Maker,
    wall: Wall,
    pace: Pace,
    prefix: String,
    batch: u64,
    limit: u64,
    /// Of all callers together; none: each has its own.
    streams: Option<u64>,
    turn: AtomicU64,
    /// The last position that is known to be in the log.
    acknowledged: AtomicU64,
}

/// What was found wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Of all subscribers.
    pub missing: u64,
    pub repeated: u64,
    /// Answers to reads and appends that are not what was asked for.
    pub wrong_answers: u64,
}

impl Verified {
    pub fn is_good(&self) -> bool {
        *self == Self::default()
    }
}

impl Shared {
    pub fn new(
        bench: &Bench,
        args: &MixedArgs,
        budget: Arc<Budget>,
        prefix: String,
        data_bytes: usize,
    ) -> Self {
        Self {
            budget,
            appends: Part::new(),
            reads: Part::new(),
            arrivals: Part::new(),
            verified: Mutex::default(),
            maker: Maker::new(bench.id_base(), data_bytes),
            wall: Wall::new(),
            pace: Pace::new(args.pace),
            prefix,
            batch: args.write.batch.into(),
            limit: args.limit.into(),
            streams: args.write.streams.map(u64::from),
            turn: AtomicU64::new(0),
            acknowledged: AtomicU64::new(bench.info.head),
        }
    }

    /// The last position that is known to be in the log.
    pub fn acknowledged(&self) -> u64 {
        // Relaxed: it only says how far there is something to read.
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub fn verified(&self) -> Verified {
        *self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, change: impl FnOnce(&mut Verified)) {
        change(&mut self.verified.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The time of day, as far as this process needs it: it never jumps.
struct Wall {
    base_nanos: u64,
    began: Instant,
}

impl Wall {
    fn new() -> Self {
        let micros = u64::try_from(SystemClock.now_micros()).unwrap_or(0);
        Self { base_nanos: micros * 1000, began: Instant::now() }
    }

    fn nanos(&self) -> u64 {
        self.base_nanos + nanos(self.began.elapsed())
    }

    fn timestamp(&self) -> Timestamp {
        let nanos = self.nanos();
        Timestamp {
            seconds: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            nanos: i32::try_from(nanos % 1_000_000_000).unwrap_or(0),
        }
    }

    /// How long ago that was.
    fn since(&self, then: &Timestamp) -> Option<u64> {
        let seconds = u64::try_from(then.seconds).ok()?;
        let then = seconds.checked_mul(1_000_000_000)? + u64::try_from(then.nanos).ok()?;
        Some(self.nanos().saturating_sub(then))
    }
}

/// When the next events may be appended, by all callers together.
struct Pace {
    events_per_s: Option<u64>,
    next: Mutex<Instant>,
}

impl Pace {
    fn new(events_per_s: Option<u64>) -> Self {
        Self { events_per_s, next: Mutex::new(Instant::now()) }
    }

    /// When so many more may be appended.
    fn due(&self, events: u64, now: Instant) -> Instant {
        let Some(events_per_s) = self.events_per_s else { return now };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let due = now.checked_sub(LATE_MAX).map_or(*next, |earliest| (*next).max(earliest));
        *next = due + Duration::from_nanos(events * 1_000_000_000 / events_per_s);
        due
    }
}

/// Waits longer with every failure in a row.
struct BackOff(Duration);

impl BackOff {
    fn new() -> Self {
        Self(BACK_OFF_MIN)
    }

    async fn wait(&mut self, budget: &Budget) {
        tokio::select! {
            () = tokio::time::sleep(self.0) => {}
            () = budget.over() => {}
        }
        self.0 = (self.0 * 2).min(BACK_OFF_MAX);
    }
}

// --- Appending -----------------------------------------------------------------------------------

/// Appends until the budget is over. An append that fails is repeated as it is, so that it counts once.
pub async fn append(shared: Arc<Shared>, channel: Channel, caller: u32) {
    let mut client = CommandServiceClient::new(channel);
    let own = format!("{}{caller}", shared.prefix);
    let mut version = 0;
    while let Some(events) = shared.budget.take(shared.batch) {
        let due = shared.pace.due(events, Instant::now());
        tokio::select! {
            () = sleep_until(due) => {}
            () = shared.budget.over() => return,
        }
        let occurred_at = Some(shared.wall.timestamp());
        let mut request = match shared.streams {
            None => shared.maker.append_at(&own, Some(version), events, occurred_at),
            Some(streams) => {
                // Relaxed: any order of turns will do.
                let turn = shared.turn.fetch_add(1, Ordering::Relaxed) % streams;
                let stream = format!("{}{turn}", shared.prefix);
                shared.maker.append_at(&stream, None, events, occurred_at)
            }
        };
        let mut back_off = BackOff::new();
        loop {
            let started = Instant::now();
            match client.append(request.clone()).await {
                Ok(answer) => {
                    shared.appends.add(events, started.elapsed());
                    let answer = answer.get_ref();
                    if answer.first_version + events != answer.version + 1 {
                        shared.note(|verified| verified.wrong_answers += 1);
                    }
                    version = answer.version;
                    // Relaxed: see `acknowledged`.
                    shared.acknowledged.fetch_max(answer.position, Ordering::Relaxed);
                    break;
                }
                Err(status) => {
                    shared.appends.fail(status.code());
                    if status.code() == Code::FailedPrecondition {
                        // The log is not the one that it was; the next answer tells the version.
                        request.expected_version = None;
                    }
                    back_off.wait(&shared.budget).await;
                    if shared.budget.is_ended() {
                        return;
                    }
                }
            }
        }
    }
}

// --- Reading -------------------------------------------------------------------------------------

/// Reads somewhere in the log, again and again, until the budget is over; once at least.
pub async fn read(shared: Arc<Shared>, channel: Channel, reader: u64) {
    let mut client = QueryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut back_off = BackOff::new();
    // Up to here a server that evicts has kept nothing, as far as it is known.
    let mut dropped = 0;
    // Readers do not follow each other through the log.
    for number in reader * 7919.. {
        let places = shared.acknowledged().saturating_sub(dropped + shared.limit) + 1;
        let after = dropped + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % places;
        let request = ReadAllRequest { after, limit: shared.limit, ..ReadAllRequest::default() };
        match read_once(&mut client, request, &shared).await {
            Ok(()) => back_off = BackOff::new(),
            Err(status) => {
                shared.reads.fail(status.code());
                if let Some(first) = first_kept(&status) {
                    dropped = first.saturating_sub(1);
                } else {
                    back_off.wait(&shared.budget).await;
                }
            }
        }
        if shared.budget.is_over() {
            return;
        }
    }
}

/// The first position that is kept, where `status` says that those before are dropped.
fn first_kept(status: &Status) -> Option<u64> {
    let facts = status.get_details_error_info()?;
    let dropped = facts.reason == "POSITION_NOT_KEPT";
    facts.metadata.get("first").filter(|_| dropped)?.parse().ok()
}

async fn read_once(
    client: &mut QueryServiceClient<Channel>,
    request: ReadAllRequest,
    shared: &Shared,
) -> Result<(), Status> {
    let (started, mut last, mut events) = (Instant::now(), request.after, 0);
    let mut blocks = client.read_all(request).await?.into_inner();
    while let Some(block) = blocks.message().await? {
        events += block.events.len() as u64;
        for event in &block.events {
            if event.position <= last {
                shared.note(|verified| verified.wrong_answers += 1);
            }
            last = event.position;
        }
    }
    shared.reads.add(events, started.elapsed());
    Ok(())
}

// --- Following -----------------------------------------------------------------------------------

/// A message of a subscription, decoded no further than it is looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct Arrivals {
    #[prost(message, optional, tag = "1")]
    confirmed: Option<SubscriptionConfirmed>,
    #[prost(message, optional, tag = "2")]
    batch: Option<Batch>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Batch {
    #[prost(message, repeated, tag = "1")]
    events: Vec<Arrived>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Arrived {
    #[prost(uint64, tag = "2")]
    position: u64,
    #[prost(message, optional, tag = "5")]
    occurred_at: Option<Timestamp>,
    #[prost(bytes = "bytes", tag = "6")]
    stream: Bytes,
}

/// A subscriber to the whole log.
pub struct Follower {
    channel: Channel,
    messages: Option<Streaming<Arrivals>>,
    order: Order,
}

impl Follower {
    /// One that stands.
    pub async fn begin(channel: Channel) -> Result<Self, Fault> {
        let mut messages = subscribe(&channel, Start::FromNow(())).await?;
        let first = messages.message().await?.and_then(|message| message.confirmed);
        let confirmed = first.ok_or_else(|| {
            Fault::Wrong("the subscription did not begin with its confirmation".to_owned())
        })?;
        let order = Order::after(confirmed.after);
        Ok(Self { channel, messages: Some(messages), order })
    }

    /// Follows until it has what the end asks for, or the end's time has come.
    pub async fn run(mut self, shared: Arc<Shared>, mut end: watch::Receiver<End>) {
        let mut back_off = BackOff::new();
        loop {
            let known = *end.borrow_and_update();
            if known.is_some_and(|(position, _)| self.order.last() >= position) {
                break;
            }
            let deadline = async {
                match known {
                    Some((_, deadline)) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                next = self.next() => next,
                _ = end.changed() => continue,
                () = deadline => break,
            };
            match next {
                Ok(message) => {
                    back_off = BackOff::new();
                    self.take(message, &shared);
                }
                Err(status) => {
                    self.messages = None;
                    shared.arrivals.fail(status.code());
                    if status.code() == Code::OutOfRange {
                        self.find_end(&shared).await;
                    }
                    // The budget may be over, and the rest of the way is still to go.
                    tokio::time::sleep(back_off.0).await;
                    back_off.0 = (back_off.0 * 2).min(BACK_OFF_MAX);
                }
            }
        }
        if let Some((position, _)) = *end.borrow() {
            self.change(&shared, |order| order.end(position));
        }
    }

    /// The next message; where the subscription is broken, of one that goes on where it was.
    async fn next(&mut self) -> Result<Arrivals, Status> {
        if self.messages.is_none() {
            let start = Start::After(self.order.last());
            self.messages = Some(subscribe(&self.channel, start).await?);
        }
        let messages = self.messages.as_mut().expect("it was made");
        let message = messages.message().await?;
        message.ok_or_else(|| Status::unavailable("the server ended the subscription"))
    }

    fn take(&mut self, message: Arrivals, shared: &Shared) {
        let Some(batch) = message.batch else { return };
        // Only what this process has appended says when that was.
        let own = batch.events.iter().filter(|it| it.stream.starts_with(shared.prefix.as_bytes()));
        let times = own.filter_map(|event| event.occurred_at.as_ref());
        let took: Vec<u64> = times.filter_map(|time| shared.wall.since(time)).collect();
        shared.arrivals.arrived(batch.events.len() as u64, &took);
        self.change(shared, |order| {
            batch.events.iter().for_each(|event| order.take(event.position));
        });
    }

    /// The log ends before what was received: a server without its history. Goes on at its end.
    async fn find_end(&mut self, shared: &Shared) {
        let mut admin = AdminServiceClient::new(self.channel.clone());
        if let Ok(info) = admin.get_info(GetInfoRequest {}).await {
            let head = info.get_ref().head;
            if head < self.order.last() {
                self.change(shared, |order| order.fall_back(head));
                // Relaxed: see `acknowledged`.
                shared.acknowledged.store(head, Ordering::Relaxed);
            }
        }
    }

    /// Changes the order, and notes what is newly wrong.
    fn change(&mut self, shared: &Shared, change: impl FnOnce(&mut Order)) {
        let before = self.order;
        change(&mut self.order);
        let (missing, repeated) =
            (self.order.missing - before.missing, self.order.repeated - before.repeated);
        if missing + repeated > 0 {
            shared.note(|verified| {
                verified.missing += missing;
                verified.repeated += repeated;
            });
        }
    }
}

async fn subscribe(channel: &Channel, start: Start) -> Result<Streaming<Arrivals>, Status> {
    let name = "annals bench".to_owned();
    let request = SubscribeRequest { start: Some(start), name, ..SubscribeRequest::default() };
    let mut client = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    client.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let path = http::uri::PathAndQuery::from_static("/annals.v1.SubscriptionService/Subscribe");
    let codec = Codec::<SubscribeRequest, Arrivals>::default();
    Ok(client.server_streaming(tonic::Request::new(request), path, codec).await?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::position::Position, service::query::QueryError};

    #[test]
    fn a_reader_is_told_what_a_server_that_evicts_has_kept() {
        let position = Position::new;
        let evicted = QueryError::NotKept { after: position(3), first: position(17) };
        assert_eq!(first_kept(&evicted.into()), Some(17));
        let beyond =
            QueryError::MinPositionNotReached { min_position: position(9), head: position(3) };
        assert_eq!(first_kept(&beyond.into()), None);
    }

    #[test]
    fn a_pace_is_kept_on_average_and_an_outage_makes_no_burst() {
        let pace = Pace::new(Some(1000));
        let start = Instant::now();
        *pace.next.lock().expect("nobody panics") = start;
        let due: Vec<_> = (0..3).map(|_| pace.due(10, start) - start).collect();
        assert_eq!(due, [0, 10, 20].map(Duration::from_millis));
        let later = start + Duration::from_mins(1);
        assert_eq!(pace.due(10, later), later - LATE_MAX);
        assert_eq!(Pace::new(None).due(10, later), later);
    }
}
