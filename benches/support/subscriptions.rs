//! What subscriptions cost: the delay from an append to the arrival of its event, many who follow everything,
//! many who each follow something else, and the memory of those to whom nothing happens.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use annals::{
    cli::bench::load::{latencies, nanos},
    wire::proto::{
        bench::{CallRequest, empty_service_client::EmptyServiceClient},
        v1::{
            AppendRequest, AppendStreamRequest, Filter, SubscribeResponse, append_stream_response,
            command_service_client::CommandServiceClient,
        },
    },
};
use bytes::Bytes;
use futures_util::FutureExt;
use hdrhistogram::Histogram;
use prost::Message;
use tokio::sync::Semaphore;
use tokio_stream::Stream;
use tonic::transport::Channel;

use super::{
    following::{
        Crowd, Positions, Received, Taken, Times, filters, follow, of_tail, to_many, to_tail,
        wanted_by,
    },
    report::{micros, per_second, ratio, show, spread},
    shapes::{IN_FLIGHT_MAX, answered},
    target::Target,
};

/// So many calls of one kind, then as many of the other.
const CALLS_BY_TURNS: usize = 50;
/// Those with filters share so many connections; those without have one each.
const SHARED_CONNECTIONS: usize = 10;

/// How much there is to do.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Appends of a round, one at a time: to one subscriber, and to many.
    pub calls: [usize; 2],
    pub tails: usize,
    pub filtered: usize,
    pub seconds: u64,
    /// Appends a second while those with filters listen.
    pub pace: u64,
    /// So many who are idle.
    pub idle: [usize; 2],
}

impl Sizes {
    pub const SMOKE: Self =
        Self { calls: [20, 4], tails: 5, filtered: 16, seconds: 1, pace: 500, idle: [20, 40] };

    pub fn full(seconds: u64) -> Self {
        let (calls, idle) = ([2000, 500], [1000, 5000]);
        Self { calls, tails: 100, filtered: 1000, seconds, pace: 20_000, idle }
    }
}

// --- One at a time -------------------------------------------------------------------------------

/// A round of appends, each when all have received the one before, by turns with empty calls.
struct Delays {
    received: Histogram<u64>,
    appended: Histogram<u64>,
    empty: Histogram<u64>,
}

/// `subscribers` have a connection each.
async fn delays(
    target: &mut Target,
    subscribers: &[Channel],
    filters: &[Filter],
    calls: usize,
) -> Delays {
    let base = target.appended;
    let (times, mut crowd) = (Times::new(base, calls), Crowd::new());
    for channel in subscribers {
        let following = follow::<SubscribeResponse>(channel, filters.to_vec()).await;
        crowd.add(following, base + 1.., &times);
    }
    let everybody = u32::try_from(subscribers.len()).expect("small");
    let mut client = CommandServiceClient::new(target.connection(0).clone());
    let mut twin = EmptyServiceClient::new(target.connection(0).clone());
    let (mut appended, mut empty) = (latencies(), latencies());
    let requests: Vec<_> = (base + 1..).take(calls).map(to_tail).collect();
    for requests in requests.chunks(CALLS_BY_TURNS) {
        let payload = Bytes::from(vec![b'x'; requests[0].encoded_len()]);
        for _ in requests {
            let call = CallRequest { payload: payload.clone() };
            let started = Instant::now();
            twin.call(call).await.expect("an empty call is answered");
            empty.saturating_record(nanos(started.elapsed()));
        }
        for request in requests {
            target.appended += 1;
            let started = Instant::now();
            times.appends(target.appended);
            let answer = client.append(request.clone()).await.expect("nothing refuses it");
            appended.saturating_record(nanos(started.elapsed()));
            assert_eq!(answer.get_ref().position, target.appended);
            crowd.arrived.acquire_many(everybody).await.expect("it is never closed").forget();
        }
    }
    let Taken { delays: received, events, .. } = crowd.end(target.appended).await;
    assert_eq!(events, calls as u64 * u64::from(everybody));
    Delays { received, appended, empty }
}

// --- Under load ----------------------------------------------------------------------------------

/// A round of appends through one `AppendStream`, one event each.
struct Load {
    appended: u64,
    appending: Duration,
    /// Until the last event was received.
    elapsed: Duration,
    cpu: Option<Duration>,
    delivered: u64,
    messages: u64,
    delays: Histogram<u64>,
}

/// When to append: as fast as it is answered, for so long; or so many events a second, so many in all.
#[derive(Clone, Copy)]
enum Pace {
    For(Duration),
    Steady(u64, u64),
}

/// Appends as fast as it can while `subscribers`, with a connection each, follow everything.
async fn fan_out(target: &mut Target, subscribers: &[Channel], seconds: u64) -> Load {
    let (times, mut crowd) = (Times::new(target.appended, 0), Crowd::new());
    for channel in subscribers {
        let following = follow::<Positions>(channel, Vec::new()).await;
        crowd.add(following, target.appended + 1.., &times);
    }
    run(target, crowd, times, Pace::For(Duration::from_secs(seconds)), to_tail).await
}

/// Appends at a pace, while `sizes.filtered` follow something else each, or nobody.
async fn filtered(
    target: &mut Target,
    connections: &[Channel],
    sizes: &Sizes,
    listened: bool,
) -> Load {
    let (base, count) = (target.appended, sizes.pace * sizes.seconds);
    let values = sizes.filtered as u64;
    let places = usize::try_from(count).expect("small");
    let (times, mut crowd) = (Times::new(base, places), Crowd::new());
    let mut wanted = vec![Vec::new(); if listened { sizes.filtered } else { 0 }];
    for position in (base + 1..=base + count).filter(|_| listened) {
        wanted_by(position, values).for_each(|number| wanted[number].push(position));
    }
    for ((number, wanted), channel) in
        wanted.into_iter().enumerate().zip(connections.iter().cycle())
    {
        let following = follow::<Positions>(channel, filters(number, values)).await;
        crowd.add(following, wanted.into_iter(), &times);
    }
    let make = move |position| to_many(position, values);
    run(target, crowd, times, Pace::Steady(sizes.pace, count), make).await
}

async fn run(
    target: &mut Target,
    crowd: Crowd,
    times: Arc<Times>,
    pace: Pace,
    make: impl Fn(u64) -> AppendRequest + Send + 'static,
) -> Load {
    let base = target.appended;
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let (before, started) = (target.server.cpu_time(), Instant::now());
    let requests = requests(base, pace, times, Arc::clone(&room), make);
    let mut client = CommandServiceClient::new(target.connection(0).clone());
    let mut answers = client.append_stream(requests).await.expect("a pipeline").into_inner();
    while let Some(answer) = answers.message().await.expect("it ends with the requests") {
        let Some(append_stream_response::Result::Appended(appended)) = answer.result else {
            panic!("refused: {answer:?}")
        };
        target.appended += 1;
        assert_eq!(appended.position, target.appended, "each once, in order, and nobody else");
        answered(answer.request, &room);
    }
    let appending = started.elapsed();
    let Taken { delays, events: delivered, messages, last_at } = crowd.end(target.appended).await;
    let elapsed = appending.max(last_at - started);
    let cpu =
        target.server.cpu_time().zip(before).map(|(after, before)| after.saturating_sub(before));
    let appended = target.appended - base;
    Load { appended, appending, elapsed, cpu, delivered, messages, delays }
}

/// The requests one by one, each in its time and when there is room.
fn requests(
    base: u64,
    pace: Pace,
    times: Arc<Times>,
    room: Arc<Semaphore>,
    make: impl Fn(u64) -> AppendRequest + Send + 'static,
) -> impl Stream<Item = AppendStreamRequest> + Send + 'static {
    let started = Instant::now();
    futures_util::stream::unfold((0, make), move |(sent, make)| {
        let (times, room) = (Arc::clone(&times), Arc::clone(&room));
        async move {
            match pace {
                Pace::For(time) if started.elapsed() >= time => return None,
                Pace::Steady(_, count) if sent == count => return None,
                Pace::For(_) => {}
                Pace::Steady(rate, _) => {
                    let due = started + Duration::from_nanos(sent * 1_000_000_000 / rate);
                    if due > Instant::now() {
                        tokio::time::sleep_until(due.into()).await;
                    }
                }
            }
            room.acquire().await.expect("it is never closed").forget();
            let append = Some(make(base + sent + 1));
            times.appends(base + sent + 1);
            Some((AppendStreamRequest { append }, (sent + 1, make)))
        }
    })
}

// --- Memory --------------------------------------------------------------------------------------

/// How many resident bytes of the server `count` subscribers add to whom nothing happens, on connections that
/// stand already.
async fn idle(target: &Target, count: usize, with_filters: bool) -> u64 {
    let connections = Target::connect(&target.server, SHARED_CONNECTIONS).await;
    let resident = async || target.info().await.memory.expect("the server tells it").resident_bytes;
    for channel in &connections {
        drop(follow::<Positions>(channel, Vec::new()).await);
    }
    let before = resident().await;
    let mut open = Vec::new();
    for (number, channel) in (0..count).zip(connections.iter().cycle()) {
        let filters = if with_filters { filters(number, count as u64) } else { Vec::new() };
        open.push(follow::<Positions>(channel, filters).await);
    }
    let after = resident().await;
    // They are open still.
    for following in &mut open {
        while let Some(message) = following.message().now_or_never() {
            let heartbeat = message.expect("it goes on").expect("it is open");
            assert_eq!(heartbeat.positions().next(), None, "nothing happens to it");
        }
    }
    after.saturating_sub(before)
}

// --- The report ----------------------------------------------------------------------------------

/// How long after its append an event arrives, one at a time.
pub async fn tell_delays(target: &mut Target, sizes: &Sizes, rounds: usize) {
    println!(
        "\nfrom the append to the decoded event, one at a time, by turns with empty calls; a connection each\n\
         {:<34} {:>15} {:>15} {:>15}  {:<18} {:<18}",
        "µs, p50 / p99", "received", "the append", "empty call", "ratio of p50", "ratio of p99"
    );
    let one = Target::connect(&target.server, 1).await;
    let many = Target::connect(&target.server, sizes.tails).await;
    let by_stream = of_tail();
    let everything: &[Filter] = &[];
    let [calls, calls_of_many] = sizes.calls;
    let mut rows = [
        ("1 subscriber".to_owned(), &one, everything, calls, Vec::new()),
        ("1 subscriber, of one stream".to_owned(), &one, &by_stream[..], calls, Vec::new()),
        (format!("{} subscribers", sizes.tails), &many, everything, calls_of_many, Vec::new()),
    ];
    // Round 0 warms up.
    for round in 0..=rounds {
        for (_, subscribers, filters, calls, outcomes) in &mut rows {
            let delays = delays(target, subscribers, filters, *calls).await;
            if round > 0 {
                outcomes.push([delays.received, delays.appended, delays.empty]);
            }
        }
    }
    for (name, _, _, _, outcomes) in &rows {
        let value = |of: &[_; 3], kind: usize, at| micros(&of[kind], at);
        let ratio =
            |at| show(spread(outcomes.iter().map(|it| value(it, 0, at) / value(it, 2, at))));
        let [received, appended, empty] = [0, 1, 2].map(|kind| {
            let median = |at| spread(outcomes.iter().map(|it| value(it, kind, at)))[1];
            format!("{:.0} / {:.0}", median(0.5), median(0.99))
        });
        println!(
            "{name:<34} {received:>15} {appended:>15} {empty:>15}  {:<18} {:<18}",
            ratio(0.5),
            ratio(0.99)
        );
    }
}

/// What subscribers cost appends, and appends them.
pub async fn tell_loads(target: &mut Target, sizes: &Sizes, rounds: usize) {
    println!(
        "\none append stream, an event an append, {rounds} rounds of {} s by turns\n\
         {:<34} {:>10} {:>12} {:>10} {:>14} {:>14} {:>17}",
        sizes.seconds,
        "",
        "appends/s",
        "delivered/s",
        "a message",
        "cpu ns/append",
        "ns/delivery",
        "p50/p99 µs"
    );
    let subscribers = Target::connect(&target.server, sizes.tails).await;
    let [mut alone, mut followed] = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        alone.push(fan_out(target, &[], sizes.seconds).await);
        followed.push(fan_out(target, &subscribers, sizes.seconds).await);
    }
    load("as fast as it can, alone", &alone, &alone);
    load(&format!("  and {} who follow everything", sizes.tails), &followed, &alone);
    drop(subscribers);
    let shared = Target::connect(&target.server, SHARED_CONNECTIONS).await;
    let [mut alone, mut followed] = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        alone.push(filtered(target, &shared, sizes, false).await);
        followed.push(filtered(target, &shared, sizes, true).await);
    }
    load(&format!("at a pace of {}/s, alone", sizes.pace), &alone, &alone);
    load(&format!("  and {} with filters", sizes.filtered), &followed, &alone);
    println!(
        "a message: events in it. ns/delivery: the server's processor time beyond that of as many appends \
         alone, for each event\ndelivered. p50/p99: from the append to the event's arrival."
    );
}

/// `alone`: the same without subscribers.
fn load(name: &str, rounds: &[Load], alone: &[Load]) {
    let median = |of: &dyn Fn(&Load) -> f64| spread(rounds.iter().map(of))[1];
    let sum = |rounds: &[Load], of: fn(&Load) -> u64| rounds.iter().map(of).sum::<u64>();
    let cpu = |rounds: &[Load]| {
        let time: Option<Duration> = rounds.iter().map(|round| round.cpu).sum();
        Some(time?.as_secs_f64() * 1e9 / ratio(sum(rounds, |it| it.appended), 1))
    };
    let [per_append, per_append_alone] = [rounds, alone].map(|it| cpu(it).unwrap_or(f64::NAN));
    let delivered = sum(rounds, |round| round.delivered);
    let deliveries = ratio(delivered, sum(rounds, |round| round.appended));
    let (per_message, per_delivery) = match delivered {
        0 => ("-".to_owned(), "-".to_owned()),
        _ => (
            format!("{:.1}", ratio(delivered, sum(rounds, |round| round.messages))),
            format!("{:.0}", (per_append - per_append_alone) / deliveries),
        ),
    };
    let delay = if rounds.iter().all(|round| round.delays.is_empty()) {
        "-".to_owned()
    } else {
        let at = |at| median(&|round| micros(&round.delays, at));
        format!("{:.0} / {:.0}", at(0.5), at(0.99))
    };
    println!(
        "{name:<34} {:>10.0} {:>12.0} {per_message:>10} {per_append:>14.0} {per_delivery:>14} {delay:>17}",
        median(&|round| per_second(round.appended, round.appending)),
        median(&|round| per_second(round.delivered, round.elapsed)),
    );
}

/// What idle subscriptions take, each kind in a server that `start` gives.
pub async fn tell_idle(start: impl AsyncFn() -> Target, sizes: &Sizes) {
    println!("\nresident memory of idle subscriptions, each kind in a server of its own:");
    for count in sizes.idle {
        for (name, with_filters) in [("of everything", false), ("with a filter each", true)] {
            let bytes = idle(&start().await, count, with_filters).await;
            let each = ratio(bytes, count as u64) / 1024.0;
            println!("  {count:>5} {name:<20} {each:>6.1} KiB each");
        }
    }
}
