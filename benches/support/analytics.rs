//! What questions about a large history cost: statistics, filters, text search, the cache, and what they cost
//! the appends that go on meanwhile.

use std::time::{Duration, Instant};

use annals::wire::proto::{
    bench::{CallRequest, empty_service_client::EmptyServiceClient},
    v1::{
        AppendRequest, CountRequest, ExplainRequest, Filter, GetCorrelationRequest, GetInfoRequest,
        GetStatisticsRequest, GetTrendsRequest, Grouping, Memory, NewEvent, SearchRequest,
        admin_service_client::AdminServiceClient, command_service_client::CommandServiceClient,
        new_event, query_service_client::QueryServiceClient, search_response,
    },
};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use uuid::Uuid;

use super::target::DATA_BYTES;

/// Events of an append, each stream's in so many appends.
const COMMIT_EVENTS: usize = 20;
const COMMITS_OF_STREAM: usize = 5;
const CALLERS: usize = 8;
/// Of so many events one is of the type that is searched for a text.
const SEARCHED_SHARE: usize = 100;
/// So many events are of the rare type.
const RARE: usize = 1000;
const TYPES: usize = 10;
const ORGANIZATIONS: usize = 100;
const USERS: usize = 10_000;
/// Events of a correlation.
const CORRELATED: usize = 5;
/// Events occurred over so many seconds, about three years, up to here.
const SPAN_SECONDS: usize = 94_608_000;
const FIRST_SECOND: i64 = 1_672_531_200;
/// Appends that go on: events a second.
const PACE: usize = 100_000;
const PACED_COMMIT_EVENTS: usize = 100;

/// The history that is asked about, and who asks.
pub struct Questions {
    channel: Channel,
    other: Channel,
    events: usize,
    asked: u32,
}

/// Medians, with the least and the greatest.
#[derive(Clone, Copy)]
pub struct Figure {
    pub median: Duration,
    pub least: Duration,
    pub greatest: Duration,
}

impl Figure {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self { median: all[all.len() / 2], least: all[0], greatest: all[all.len() - 1] }
    }
}

/// Event `index` of the history, in the stream's part `index / COMMIT_EVENTS`.
fn event(index: usize, events: usize) -> NewEvent {
    let rare_every = (events / RARE).max(1);
    let event_type = if index % rare_every == rare_every / 2 && index / rare_every < RARE {
        "Rare".to_owned()
    } else if index % SEARCHED_SHARE == 7 {
        "Searched".to_owned()
    } else {
        format!("Type{}", index * 7 % TYPES)
    };
    let correlation = index / CORRELATED;
    let id =
        |index: usize| Uuid::from_u128(0xa000_0000_0000_4000_8000_0000_0000_0000 | index as u128);
    let needle = if index % (100 * SEARCHED_SHARE) == 7 { "Needle" } else { "straw!" };
    let mut text =
        format!(r#"{{"number":{index},"amount":{},"what":"{needle}","rest":""#, index % 997);
    let end = "\"}";
    text.extend(('a'..='z').cycle().skip(index % 26).take(DATA_BYTES - text.len() - end.len()));
    text.push_str(end);
    // Later events mostly occur later.
    let second = index * (SPAN_SECONDS / events.max(1)).max(1) % SPAN_SECONDS + index * 7919 % 3600;
    let metadata = [
        ("organizationId".to_owned(), format!("org-{}", index * 31 % ORGANIZATIONS)),
        ("userId".to_owned(), format!("user-{}", index * 8191 % USERS)),
    ];
    NewEvent {
        id: id(index).to_string(),
        r#type: event_type,
        data: Some(new_event::Data::Text(text)),
        correlation_id: Uuid::from_u128(0xc000 << 112 | correlation as u128).to_string(),
        causation_id: match index % CORRELATED {
            0 => String::new(),
            _ => id(index - 1).to_string(),
        },
        occurred_at: Some(prost_types::Timestamp {
            seconds: FIRST_SECOND + i64::try_from(second).expect("a small number"),
            nanos: 0,
        }),
        metadata: metadata.into(),
        ..NewEvent::default()
    }
}

fn types(name: &str) -> Filter {
    Filter { types: vec![name.to_owned()], ..Filter::default() }
}

fn user(number: usize) -> Filter {
    let (key, values) = ("userId".to_owned(), vec![format!("user-{number}")]);
    let metadata = vec![annals::wire::proto::v1::MetadataMatch { key, values }];
    Filter { metadata, ..Filter::default() }
}

impl Questions {
    /// Appends the history.
    pub async fn prepare(channels: &[Channel], events: usize) -> Self {
        let commits = events.div_ceil(COMMIT_EVENTS * CALLERS) * CALLERS;
        let events = commits * COMMIT_EVENTS;
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let mut client = CommandServiceClient::new(channels[caller % channels.len()].clone());
            callers.spawn(async move {
                for commit in (caller..commits).step_by(CALLERS) {
                    let stream = commit / COMMITS_OF_STREAM;
                    let category = ["Payment", "Order", "Shipment"][stream % 3];
                    let first = commit * COMMIT_EVENTS;
                    let new = (first..first + COMMIT_EVENTS).map(|index| event(index, events));
                    let (stream, events) = (format!("{category}-{stream}"), new.collect());
                    let request = AppendRequest { stream, events, ..AppendRequest::default() };
                    client.append(request).await.expect("nothing refuses it");
                }
            });
        }
        while let Some(caller) = callers.join_next().await {
            caller.expect("a caller does not panic");
        }
        Self { channel: channels[0].clone(), other: channels[1].clone(), events, asked: 0 }
    }

    /// How many events there are.
    pub fn events(&self) -> usize {
        self.events
    }

    fn queries(&self) -> QueryServiceClient<Channel> {
        QueryServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub async fn memory(&self) -> Memory {
        let mut admin = AdminServiceClient::new(self.channel.clone());
        let info = admin.get_info(GetInfoRequest {}).await.expect("it is answered").into_inner();
        info.memory.expect("it is told")
    }

    /// Statistics of a type, by all that is told by default. Each call asks for another number of rows, so that
    /// none is answered from the cache.
    pub async fn statistics(&mut self, filters: Vec<Filter>, rounds: usize) -> (Figure, u64) {
        let mut all = Vec::new();
        let mut count = 0;
        for _ in 0..rounds {
            self.asked += 1;
            let rows_max = 1000 + self.asked;
            let filters = filters.clone();
            let request = GetStatisticsRequest { filters, rows_max, ..Default::default() };
            let started = Instant::now();
            let answer = self.queries().get_statistics(request).await.expect("it is answered");
            all.push(started.elapsed());
            assert_eq!(
                answer.metadata().get("annals-cache").map(tonic::metadata::MetadataValue::as_bytes),
                Some(&b"miss"[..])
            );
            count = answer.get_ref().event_count;
        }
        (Figure::of(all), count)
    }

    /// Trends of everything by day.
    pub async fn trends(&mut self, rounds: usize) -> Figure {
        let mut all = Vec::new();
        for _ in 0..rounds {
            self.asked += 1;
            let request = GetTrendsRequest {
                unit: Grouping::Day.into(),
                time_zone: "Europe/Amsterdam".to_owned(),
                series_max: 1 + self.asked % 1000,
                ..Default::default()
            };
            let started = Instant::now();
            let answer = self.queries().get_trends(request).await.expect("it is answered");
            all.push(started.elapsed());
            assert_eq!(answer.get_ref().event_count, self.events as u64);
        }
        Figure::of(all)
    }

    /// All events that a filter picks, by Search. How many there are.
    pub async fn search(&self, filter: Filter, rounds: usize) -> (Figure, usize) {
        let mut all = Vec::new();
        let mut count = 0;
        for _ in 0..rounds {
            let request = SearchRequest { filters: vec![filter.clone()], ..Default::default() };
            let started = Instant::now();
            let mut found = self.queries().search(request).await.expect("a search").into_inner();
            count = 0;
            while let Some(message) = found.message().await.expect("it ends well") {
                if let Some(search_response::Message::Events(block)) = message.message {
                    count += block.events.len();
                }
            }
            all.push(started.elapsed());
        }
        (Figure::of(all), count)
    }

    /// Events of a user of one type: two indexes that meet.
    pub async fn user_and_type(&self, rounds: usize) -> (Figure, usize) {
        let filter = Filter { types: vec!["Type1".to_owned(), "Type5".to_owned()], ..user(4242) };
        self.search(filter, rounds).await
    }

    pub async fn user(&self, rounds: usize) -> (Figure, usize) {
        self.search(user(4242), rounds).await
    }

    pub async fn rare(&self, rounds: usize) -> (Figure, usize) {
        self.search(types("Rare"), rounds).await
    }

    /// The timeline of a correlation.
    pub async fn correlation(&self, rounds: usize) -> Figure {
        let mut all = Vec::new();
        for round in 0..rounds {
            let correlation = (self.events / CORRELATED / 2 + round * 977) as u128;
            let correlation_id = Uuid::from_u128(0xc000 << 112 | correlation).to_string();
            let request = GetCorrelationRequest { correlation_id, ..Default::default() };
            let started = Instant::now();
            let mut entries =
                self.queries().get_correlation(request).await.expect("it is there").into_inner();
            let mut count = 0;
            while entries.message().await.expect("it ends well").is_some() {
                count += 1;
            }
            all.push(started.elapsed());
            assert_eq!(count, 1 + CORRELATED);
        }
        Figure::of(all)
    }

    /// A text in the data of a hundredth of the log, counted and explained: time as the client sees it, bytes
    /// that were searched, and the time that the server took for them.
    pub async fn text(&self, rounds: usize) -> (Figure, u64, Figure, u64) {
        let filter = Filter { texts: vec!["nEEdle".to_owned()], ..types("Searched") };
        self.text_of(filter, rounds).await
    }

    /// The same in a hundredth of the time that the history spans.
    pub async fn text_in_time(&self, rounds: usize) -> (Figure, u64, Figure, u64) {
        let at = |share: usize| {
            let second = i64::try_from(SPAN_SECONDS / 1000 * share).expect("a small number");
            Some(prost_types::Timestamp { seconds: FIRST_SECOND + second, nanos: 0 })
        };
        let occurred = annals::wire::proto::v1::TimeRange { from: at(500), to: at(510) };
        let texts = vec!["nEEdle".to_owned()];
        let filter = Filter { texts, occurred: Some(occurred), ..Filter::default() };
        self.text_of(filter, rounds).await
    }

    async fn text_of(&self, filter: Filter, rounds: usize) -> (Figure, u64, Figure, u64) {
        let (mut all, mut inside) = (Vec::new(), Vec::new());
        let (mut bytes, mut matches) = (0, 0);
        for round in 0..rounds {
            // A value that nothing has makes another request of it.
            let tag = format!("none-{round}");
            let other = Filter { tags: vec![tag], ..Filter::default() };
            let request = CountRequest { filters: vec![filter.clone(), other], min_position: 0 };
            let started = Instant::now();
            let answer = self.queries().count(request).await.expect("it is answered").into_inner();
            all.push(started.elapsed());
            matches = answer.count;
            let filters = vec![filter.clone()];
            let request = ExplainRequest { filters, execute: true, min_position: 0 };
            let answer = self.queries().explain(request).await.expect("it is answered");
            let execution = answer.into_inner().execution.expect("it was executed");
            assert_eq!(execution.match_count, matches);
            let elapsed = execution.elapsed.expect("it is told");
            inside.push(Duration::try_from(elapsed).expect("it is positive"));
            bytes = execution.examined_bytes;
        }
        (Figure::of(all), bytes, Figure::of(inside), matches)
    }

    /// The same call again and again, answered from the cache, beside an empty call of as many bytes.
    pub async fn hits(&self, calls: usize) -> (Figure, Figure) {
        let request = GetStatisticsRequest {
            filters: vec![types("Rare")],
            rows_max: 5,
            ..Default::default()
        };
        let payload = bytes::Bytes::from(vec![b'x'; prost::Message::encoded_len(&request)]);
        let mut queries = self.queries();
        queries.get_statistics(request.clone()).await.expect("it is answered");
        let mut empty = EmptyServiceClient::new(self.channel.clone());
        let (mut hits, mut twins) = (Vec::new(), Vec::new());
        for _ in 0..calls {
            let started = Instant::now();
            let answer = queries.get_statistics(request.clone()).await.expect("it is answered");
            hits.push(started.elapsed());
            assert_eq!(
                answer.metadata().get("annals-cache").map(tonic::metadata::MetadataValue::as_bytes),
                Some(&b"hit"[..])
            );
            let call = CallRequest { payload: payload.clone() };
            let started = Instant::now();
            empty.call(call).await.expect("it is answered");
            twins.push(started.elapsed());
        }
        (Figure::of(hits), Figure::of(twins))
    }

    /// Appends at a pace for so long, with a call for statistics of everything each second or without: how many
    /// events a second there were, and how long a call took.
    pub async fn paced(&mut self, seconds: usize, round: usize, asked: bool) -> (f64, Figure) {
        let client = CommandServiceClient::new(self.other.clone());
        let commits = seconds * PACE / PACED_COMMIT_EVENTS;
        let gap = Duration::from_secs(1) * u32::try_from(PACED_COMMIT_EVENTS).expect("small")
            / u32::try_from(PACE).expect("small");
        let stream = format!("Paced-{round}-{asked}");
        let first =
            self.events * 2 + (round * 2 + usize::from(asked)) * commits * PACED_COMMIT_EVENTS;
        // Made before, so that it is the server that is measured.
        let requests: Vec<AppendRequest> = (0..commits)
            .map(|commit| {
                let first = first + commit * PACED_COMMIT_EVENTS;
                let new =
                    (first..first + PACED_COMMIT_EVENTS).map(|index| event(index, self.events));
                AppendRequest {
                    stream: stream.clone(),
                    events: new.collect(),
                    ..Default::default()
                }
            })
            .collect();
        let started = Instant::now();
        let appending = tokio::spawn(async move {
            let mut calls = JoinSet::new();
            let mut took: Vec<Duration> = Vec::with_capacity(commits);
            for (due, request) in (0u32..).zip(requests) {
                tokio::time::sleep_until((started + gap * due).into()).await;
                while calls.len() >= 64 {
                    took.extend(calls.join_next().await.expect("there are some").ok());
                }
                let mut client = client.clone();
                calls.spawn(async move {
                    let started = Instant::now();
                    client.append(request).await.expect("nothing refuses it");
                    started.elapsed()
                });
            }
            took.extend(calls.join_all().await);
            assert_eq!(took.len(), commits, "no call panics");
            (commits * PACED_COMMIT_EVENTS, started.elapsed(), took)
        });
        if asked {
            for second in 1..seconds {
                let due = started + Duration::from_secs(1) * u32::try_from(second).expect("small");
                tokio::time::sleep_until(due.into()).await;
                self.statistics(Vec::new(), 1).await;
            }
        }
        let (events, elapsed, took) = appending.await.expect("no panic");
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = events as f64 / elapsed.as_secs_f64();
        (rate, Figure::of(took))
    }
}
