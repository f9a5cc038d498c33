//! Many at once: each gets its events, all of them, in order, none twice, while others append.

use annals::wire::proto::v1::{
    AppendStreamRequest, Filter, JsonMatch, JsonOperator, MetadataMatch, NewEvent, RecordedEvent,
    SubscribeRequest, append_stream_response::Result as Answer, new_event::Data, recorded_event,
    subscribe_response::Message,
};
use prost_types::{Value, value::Kind};

use crate::support::{
    ANY, TestStore, append_request, connect, dice::Dice, event, model, subscribe, within,
};

const SUBSCRIPTIONS: usize = 500;
const APPENDS: u64 = 1500;
/// Every filter picks it, in a clause of its own.
const LAST: &str = "Last";

const STREAMS: u64 = 40;
const USERS: u64 = 20;
const FLOWS: u64 = 30;

fn random_event(dice: &mut Dice) -> NewEvent {
    let metadata =
        [("userId", format!("u{}", dice.below(USERS))), ("note", format!("n{}", dice.below(5)))];
    NewEvent {
        r#type: (*dice.pick(&model::TYPES)).to_owned(),
        tags: model::TAGS.into_iter().filter(|_| dice.once_in(4)).map(str::to_owned).collect(),
        correlation_id: if dice.once_in(2) {
            format!("f{}", dice.below(FLOWS))
        } else {
            String::new()
        },
        causation_id: if dice.once_in(2) {
            format!("c{}", dice.below(FLOWS))
        } else {
            String::new()
        },
        metadata: metadata
            .into_iter()
            .filter(|_| dice.once_in(2))
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        data: Some(Data::Text(format!(
            "{{\"n\":{},\"word\":\"w{}\"}}",
            dice.below(9),
            dice.below(9)
        ))),
        ..event("Paid")
    }
}

fn stream(dice: &mut Dice) -> String {
    format!("{}-{}", dice.pick(&["Payment", "Order"]), dice.below(STREAMS))
}

fn random_clause(dice: &mut Dice) -> Filter {
    let mut clause = Filter::default();
    let name = |dice: &mut Dice, letter: char, max| vec![format!("{letter}{}", dice.below(max))];
    // One part, or two.
    for _ in 0..=dice.below(2) {
        match dice.below(10) {
            0 => clause.streams = (0..3).map(|_| stream(dice)).collect(),
            1 => clause.stream_prefixes = vec![format!("Payment-{}", 1 + dice.below(3))],
            2 => clause.categories = vec!["Order".to_owned()],
            3 => clause.types = vec![(*dice.pick(&model::TYPES)).to_owned()],
            4 => clause.tags = vec![(*dice.pick(&model::TAGS)).to_owned()],
            5 => clause.tags_all = vec!["red".to_owned(), "blue".to_owned()],
            6 => clause.correlation_ids = name(dice, 'f', FLOWS),
            7 => clause.causation_ids = name(dice, 'c', FLOWS),
            8 => {
                let (key, values) = if dice.once_in(3) {
                    ("note", name(dice, 'n', 5))
                } else {
                    ("userId", name(dice, 'u', USERS))
                };
                clause.metadata = vec![MetadataMatch { key: key.to_owned(), values }];
            }
            _ if dice.once_in(2) => clause.texts = vec![format!("\"W{}\"", dice.below(9))],
            _ => {
                let number = f64::from(u32::try_from(dice.below(9)).unwrap());
                clause.json = vec![JsonMatch {
                    path: "$.n".to_owned(),
                    operator: JsonOperator::Equals.into(),
                    value: Some(Value { kind: Some(Kind::NumberValue(number)) }),
                }];
            }
        }
    }
    clause
}

/// Whether one of the filters picks the event, looked at by itself.
fn picks(filters: &[Filter], event: &RecordedEvent) -> bool {
    let any = |values: &[String], of: &str| values.is_empty() || values.iter().any(|it| it == of);
    let text = match &event.data {
        Some(recorded_event::Data::Text(text)) => text.as_str(),
        _ => "",
    };
    filters.is_empty()
        || filters.iter().any(|filter| {
            let names = Filter {
                streams: filter.streams.clone(),
                categories: filter.categories.clone(),
                types: filter.types.clone(),
                tags: filter.tags.clone(),
                tags_all: filter.tags_all.clone(),
                ..Filter::default()
            };
            let prefixes = &filter.stream_prefixes;
            model::matches(&[names], event)
                && (prefixes.is_empty() || prefixes.iter().any(|it| event.stream.starts_with(it)))
                && any(&filter.correlation_ids, &event.correlation_id)
                && any(&filter.causation_ids, &event.causation_id)
                && filter.metadata.iter().all(|wanted| {
                    event.metadata.get(&wanted.key).is_some_and(|it| wanted.values.contains(it))
                })
                && filter.texts.iter().all(|word| text.contains(&word.to_lowercase()))
                && filter.json.iter().all(|json| {
                    let Some(Kind::NumberValue(number)) = json.value.clone().unwrap().kind else {
                        panic!("a number")
                    };
                    text.contains(&format!("\"n\":{number},"))
                })
        })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_subscriptions_gets_exactly_its_events() {
    let store = TestStore::start_with(|config| config.subscriptions_max = SUBSCRIPTIONS).await;
    let mut dice = Dice::new(11);
    for _ in 0..100 {
        store.append(&stream(&mut dice), ANY, [random_event(&mut dice)]).await.unwrap();
    }
    // Several share a connection.
    let mut channels = Vec::new();
    for _ in 0..4 {
        channels.push(connect(store.address).await);
    }
    let mut readers = Vec::new();
    for number in 0..SUBSCRIPTIONS {
        let clauses = *dice.pick(&[1, 1, 1, 2, 3]);
        let mut filters: Vec<_> = (0..clauses).map(|_| random_clause(&mut dice)).collect();
        filters.push(Filter { types: vec![LAST.to_owned()], ..Filter::default() });
        // And some want everything.
        let filters = if number % 100 == 0 { vec![] } else { filters };
        let request = SubscribeRequest {
            filters: filters.clone(),
            batch_size: *dice.pick(&[0, 1, 7, 100]),
            checkpoint_interval: *dice.pick(&[0, 10, 1000]),
            ..SubscribeRequest::default()
        };
        let mut subscription = subscribe(channels[number % 4].clone(), request).await.unwrap();
        readers.push(tokio::spawn(async move {
            let (mut positions, mut safe) = (Vec::new(), 0);
            loop {
                let position = match subscription.next().await.unwrap() {
                    Message::Events(block) => {
                        positions.extend(block.events.iter().map(|event| event.position));
                        if block.events.last().is_some_and(|event| event.r#type == LAST) {
                            return (filters, positions);
                        }
                        block.events.last().map_or(0, |event| event.position)
                    }
                    Message::Confirmed(confirmed) => confirmed.after,
                    Message::Checkpoint(checkpoint) => checkpoint.position,
                    Message::CaughtUp(caught_up) => caught_up.position,
                    Message::FellBehind(behind) => behind.position,
                    Message::Heartbeat(heartbeat) => heartbeat.position,
                };
                assert!(safe <= position, "what is safe stays safe");
                safe = position;
            }
        }));
    }
    let requests: Vec<_> = (0..APPENDS)
        .map(|_| {
            let count = *dice.pick(&[1, 1, 1, 2, 10]);
            let events: Vec<_> = (0..count).map(|_| random_event(&mut dice)).collect();
            let append = append_request(&stream(&mut dice), ANY, events);
            AppendStreamRequest { append: Some(append) }
        })
        .collect();
    let answers = store.pipeline(tokio_stream::iter(requests)).await.unwrap();
    assert!(answers.iter().all(|answer| matches!(answer.result, Some(Answer::Appended(_)))));
    store.append("End-1", ANY, [LAST]).await.unwrap();
    let log = store.read_all().await;
    for reader in readers {
        let (filters, positions) = within(reader).await.unwrap();
        let picked = log.iter().filter(|event| picks(&filters, event));
        let expected: Vec<u64> = picked.map(|event| event.position).collect();
        assert_eq!(positions, expected, "{filters:?}");
    }
}
