//! Who follows: events that are as they are by their position alone, filters that pick some of them, and
//! subscribers that check that they get exactly those.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use annals::{
    cli::bench::{
        events::{data, id},
        load::{latencies, nanos},
    },
    wire::{
        codec::Codec,
        proto::v1::{
            AppendRequest, Filter, MetadataMatch, NewEvent, SubscribeRequest, SubscribeResponse,
            new_event, subscribe_request, subscribe_response,
        },
    },
};
use hdrhistogram::Histogram;
use prost::Message;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tonic::{Streaming, client::Grpc, transport::Channel};

use super::target::DATA_BYTES;

/// Who waits for nothing more still waits so long, in case it comes.
const NOTHING_MORE: Duration = Duration::from_millis(100);
const KINDS: usize = 8;
const TAIL: &str = "Tail-1";

// --- Events and filters --------------------------------------------------------------------------

/// Which of `values` names the event at `position` has: of stream, type, tag, correlation, user.
fn names(position: u64, values: u64) -> [u64; 5] {
    // SplitMix64 (Steele, Lea and Flood 2014): the same in every run, and no two indexes go together.
    [0, 1, 2, 3, 4].map(|index| {
        let mut mixed = (position * 5 + index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % (4 * values)
    })
}

/// Of a category two parts, of each part two streams.
fn stream(number: u64) -> String {
    format!("Category{}-{}/{}", number / 4, number / 2 % 2, number % 2)
}

/// One event of 256 bytes for a stream; its id is that of its position.
fn append(position: u64, stream: String, event: NewEvent) -> AppendRequest {
    // From other numbers than those of [`Target::append`].
    let id = id(u128::from(position) + (1 << 64));
    let data = Some(new_event::Data::Text(data(DATA_BYTES)));
    let event = NewEvent { id: id.to_string(), data, ..event };
    AppendRequest { stream, events: vec![event], ..AppendRequest::default() }
}

pub fn to_tail(position: u64) -> AppendRequest {
    let event = NewEvent { r#type: "PaymentProcessed".to_owned(), ..NewEvent::default() };
    append(position, TAIL.to_owned(), event)
}

pub fn to_many(position: u64, values: u64) -> AppendRequest {
    let [of_stream, r#type, tag, correlation, user] = names(position, values);
    let event = NewEvent {
        r#type: format!("Type{}", r#type / 4),
        tags: vec![format!("tag-{}", tag / 4)],
        correlation_id: format!("correlation-{}", correlation / 4),
        metadata: [("userId".to_owned(), format!("user-{}", user / 4))].into(),
        ..NewEvent::default()
    };
    append(position, stream(of_stream), event)
}

/// What the subscriber `number` of `values` follows, each something else.
pub fn filters(number: usize, values: u64) -> Vec<Filter> {
    let of_kind = (number / KINDS) as u64;
    let other = of_kind + values / KINDS as u64;
    let types = |value: u64| Filter { types: vec![format!("Type{value}")], ..Filter::default() };
    let tags = |value: u64| Filter { tags: vec![format!("tag-{value}")], ..Filter::default() };
    match number % KINDS {
        0 => vec![by_stream(&stream(of_kind * 4 + 3))],
        1 => vec![types(of_kind)],
        2 => vec![tags(of_kind)],
        3 => {
            let correlation_ids = vec![format!("correlation-{of_kind}")];
            vec![Filter { correlation_ids, ..Filter::default() }]
        }
        4 => {
            let (key, values) = ("userId".to_owned(), vec![format!("user-{of_kind}")]);
            vec![Filter { metadata: vec![MetadataMatch { key, values }], ..Filter::default() }]
        }
        5 => vec![Filter { categories: vec![format!("Category{of_kind}")], ..Filter::default() }],
        6 => {
            let stream_prefixes = vec![format!("Category{of_kind}-0/")];
            vec![Filter { stream_prefixes, ..Filter::default() }]
        }
        _ => vec![types(other), tags(other)],
    }
}

/// Which of the subscribers want the event at `position`, each once.
pub fn wanted_by(position: u64, values: u64) -> impl Iterator<Item = usize> {
    let [stream, r#type, tag, correlation, user] = names(position, values);
    let per_kind = values / KINDS as u64;
    let of = move |kind: usize, value: u64| {
        let number = usize::try_from(value).expect("small") * KINDS + kind;
        (value < per_kind).then_some(number)
    };
    let [r#type, tag] = [r#type / 4, tag / 4];
    let either = [r#type, tag].map(|value| value.checked_sub(per_kind).and_then(|it| of(7, it)));
    [
        of(0, stream / 4).filter(|_| stream % 4 == 3),
        of(1, r#type),
        of(2, tag),
        of(3, correlation / 4),
        of(4, user / 4),
        of(5, stream / 4),
        of(6, stream / 4).filter(|_| stream % 4 < 2),
        either[0],
        either[1].filter(|_| either[0] != either[1]),
    ]
    .into_iter()
    .flatten()
}

fn by_stream(name: &str) -> Filter {
    Filter { streams: vec![name.to_owned()], ..Filter::default() }
}

/// Every event that [`to_tail`] makes, by its stream.
pub fn of_tail() -> Vec<Filter> {
    vec![by_stream(TAIL)]
}

// --- Subscribers ---------------------------------------------------------------------------------

/// What a subscriber receives.
pub trait Received: Message + Default + 'static {
    fn is_caught_up(&self) -> bool;
    fn positions(&self) -> impl Iterator<Item = u64>;
}

impl Received for SubscribeResponse {
    fn is_caught_up(&self) -> bool {
        matches!(self.message, Some(subscribe_response::Message::CaughtUp(_)))
    }

    fn positions(&self) -> impl Iterator<Item = u64> {
        let events = match &self.message {
            Some(subscribe_response::Message::Events(block)) => &block.events[..],
            _ => &[],
        };
        events.iter().map(|event| event.position)
    }
}

/// The same without all but the positions: a load generator that decodes every event a hundred times would
/// measure itself.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Positions {
    #[prost(message, optional, tag = "2")]
    batch: Option<BatchOfPositions>,
    #[prost(message, optional, tag = "4")]
    caught_up: Option<()>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BatchOfPositions {
    #[prost(message, repeated, tag = "1")]
    events: Vec<OnePosition>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct OnePosition {
    #[prost(uint64, tag = "2")]
    position: u64,
}

impl Received for Positions {
    fn is_caught_up(&self) -> bool {
        self.caught_up.is_some()
    }

    fn positions(&self) -> impl Iterator<Item = u64> {
        self.batch.iter().flat_map(|batch| &batch.events).map(|event| event.position)
    }
}

/// Follows what is appended from now on.
pub async fn follow<M: Received>(channel: &Channel, filters: Vec<Filter>) -> Streaming<M> {
    let start = Some(subscribe_request::Start::FromNow(()));
    let request = SubscribeRequest { start, filters, ..SubscribeRequest::default() };
    let mut client = Grpc::new(channel.clone());
    client.ready().await.expect("the connection stands");
    let path = http::uri::PathAndQuery::from_static("/annals.v1.SubscriptionService/Subscribe");
    let codec = Codec::<SubscribeRequest, M>::default();
    let answer = client.server_streaming(tonic::Request::new(request), path, codec).await;
    let mut following = answer.expect("a subscription").into_inner();
    while !following.message().await.expect("it goes on").expect("it is open").is_caught_up() {}
    following
}

/// When each event after `base` was about to be appended.
pub struct Times {
    start: Instant,
    base: u64,
    /// Nanoseconds after `start`; events that have no place here are not timed.
    at: Box<[AtomicU64]>,
}

impl Times {
    pub fn new(base: u64, events: usize) -> Arc<Self> {
        let at = (0..events).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { start: Instant::now(), base, at })
    }

    fn of(&self, position: u64) -> Option<&AtomicU64> {
        self.at.get(usize::try_from(position - self.base - 1).expect("small"))
    }

    pub fn appends(&self, position: u64) {
        // Relaxed: the server tells of the event later than this.
        self.of(position).inspect(|at| at.store(nanos(self.start.elapsed()), Ordering::Relaxed));
    }
}

/// Subscribers, each in a task of its own.
pub struct Crowd {
    tasks: JoinSet<Taken>,
    /// The last position that is appended, once it is known.
    end: watch::Sender<Option<u64>>,
    /// A permit for each event that one has received.
    pub arrived: Arc<Semaphore>,
}

/// What subscribers have received.
pub struct Taken {
    pub delays: Histogram<u64>,
    pub events: u64,
    pub messages: u64,
    pub last_at: Instant,
}

impl Crowd {
    pub fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            end: watch::Sender::new(None),
            arrived: Arc::new(Semaphore::new(0)),
        }
    }

    /// One more, who must receive `expected`, each event once and in order, up to the end.
    pub fn add<M: Received>(
        &mut self,
        following: Streaming<M>,
        expected: impl Iterator<Item = u64> + Send + 'static,
        times: &Arc<Times>,
    ) {
        let (end, arrived) = (self.end.subscribe(), Arc::clone(&self.arrived));
        self.tasks.spawn(take(following, expected, Arc::clone(times), end, arrived));
    }

    /// Until all have received all up to `end`.
    pub async fn end(mut self, end: u64) -> Taken {
        self.end.send_replace(Some(end));
        let mut all =
            Taken { delays: latencies(), events: 0, messages: 0, last_at: Instant::now() };
        while let Some(taken) = self.tasks.join_next().await {
            let Taken { delays, events, messages, last_at } =
                taken.expect("a subscriber gets what it should");
            all.delays += delays;
            all.last_at = all.last_at.max(last_at);
            (all.events, all.messages) = (all.events + events, all.messages + messages);
        }
        all
    }
}

async fn take<M: Received>(
    mut following: Streaming<M>,
    mut expected: impl Iterator<Item = u64>,
    times: Arc<Times>,
    mut end: watch::Receiver<Option<u64>>,
    arrived: Arc<Semaphore>,
) -> Taken {
    let mut taken = Taken { delays: latencies(), events: 0, messages: 0, last_at: Instant::now() };
    let mut next = expected.next();
    loop {
        let known = *end.borrow_and_update();
        if known.is_some_and(|end| next.is_none_or(|next| next > end)) {
            break;
        }
        let message = tokio::select! {
            biased;
            message = following.message() => message.expect("it goes on").expect("it is open"),
            _ = end.changed() => continue,
        };
        let now = nanos(times.start.elapsed());
        let before = taken.events;
        for position in message.positions() {
            assert_eq!(Some(position), next, "each of its events, once, in order, and no other");
            next = expected.next();
            taken.events += 1;
            if let Some(at) = times.of(position) {
                // Relaxed: see `appends`.
                taken.delays.saturating_record(now - at.load(Ordering::Relaxed));
            }
        }
        if taken.events > before {
            taken.messages += 1;
            taken.last_at = Instant::now();
            arrived.add_permits(usize::try_from(taken.events - before).expect("small"));
        }
    }
    while let Ok(more) = tokio::time::timeout(NOTHING_MORE, following.message()).await {
        let more = more.expect("it goes on").expect("it is open");
        assert_eq!(more.positions().next(), None, "no event comes after the last one");
    }
    taken
}
