//! Reads, held against a model of the plainest kind: a list, looked through from end to end.

use annals::wire::proto::v1::{
    Direction, Filter, GetEventRequest, NewEvent, ReadAllRequest, ReadStreamRequest,
    SubscribeRequest, get_event_request::Key,
};

use crate::support::{
    ANY, Events, TestStore,
    dice::Dice,
    event,
    model::{self, Model},
};

/// A store with a few thousand random events, and its model.
async fn filled(dice: &mut Dice) -> (TestStore, Model) {
    let (store, mut model) = (TestStore::start().await, Model::default());
    for _ in 0..1200 {
        let stream = model::random_stream(dice);
        let count = if dice.once_in(20) { 20 } else { 1 + dice.below(4) };
        let events: Vec<_> = (0..count).map(|_| model::random_event(dice)).collect();
        let answer = store.append(&stream, ANY, events.clone()).await.unwrap();
        model.note(&stream, events, &answer);
    }
    (store, model)
}

fn direction(dice: &mut Dice) -> Direction {
    *dice.pick(&[Direction::Unspecified, Direction::Forwards, Direction::Backwards])
}

/// Near the ends, far beyond them, anywhere.
fn place(dice: &mut Dice, last: u64) -> u64 {
    match dice.below(6) {
        0 => 0,
        1 => 1 + dice.below(3),
        2 => last + dice.below(3),
        3 => *dice.pick(&[u64::MAX, u64::MAX - 1, last * 2 + 1]),
        _ => dice.below(last + 1),
    }
}

fn limit(dice: &mut Dice) -> u64 {
    match dice.below(4) {
        0 => 0,
        1 => 1,
        2 => 1_000_000,
        _ => dice.below(500),
    }
}

#[tokio::test]
async fn a_read_of_the_log_gives_what_the_model_gives() {
    let mut dice = Dice::new(1);
    let (store, model) = filled(&mut dice).await;
    let head = model.log.len() as u64;
    assert_eq!(store.read_all().await, model.log);
    for _ in 0..800 {
        let direction = direction(&mut dice);
        let request = ReadAllRequest {
            direction: direction.into(),
            after: place(&mut dice, head),
            limit: limit(&mut dice),
            filters: model::random_filters(&mut dice),
            min_position: 0,
        };
        let backwards = direction == Direction::Backwards;
        let expected = model.read(&request.filters, backwards, request.after, request.limit);
        let events = store.read(request.clone()).await.unwrap();
        assert!(
            events == expected,
            "{request:?}: {:?}, not {:?}",
            events.positions(),
            expected.positions()
        );
    }
}

#[tokio::test]
async fn a_read_of_a_stream_gives_what_the_model_gives() {
    let mut dice = Dice::new(2);
    let (store, model) = filled(&mut dice).await;
    for _ in 0..800 {
        let stream = dice.pick(&model.log).stream.clone();
        let version = model.stream(&stream).count() as u64;
        let direction = direction(&mut dice);
        let (after, limit) = (place(&mut dice, version), limit(&mut dice));
        let request = ReadStreamRequest {
            stream,
            direction: direction.into(),
            after,
            limit,
            min_position: 0,
        };
        let backwards = direction == Direction::Backwards;
        let expected = model.read_stream(&request.stream, backwards, after, limit);
        let events = store.read_stream(request.clone()).await.unwrap();
        assert!(events == expected, "{request:?}: {:?}", events.positions());
    }
}

#[tokio::test]
async fn a_count_is_the_number_of_events_that_the_model_finds() {
    let mut dice = Dice::new(3);
    let (store, model) = filled(&mut dice).await;
    for _ in 0..500 {
        let filters = model::random_filters(&mut dice);
        let expected = model.read(&filters, false, 0, 0).len() as u64;
        assert_eq!(store.count(filters.clone()).await.unwrap(), expected, "{filters:?}");
    }
}

#[tokio::test]
async fn every_event_is_found_by_its_id_and_by_its_position() {
    let mut dice = Dice::new(4);
    let (store, model) = filled(&mut dice).await;
    let mut queries = store.queries();
    for event in &model.log {
        let shouted = event.id.to_uppercase();
        for key in [Key::Id(event.id.clone()), Key::Id(shouted), Key::Position(event.position)] {
            let request = GetEventRequest { key: Some(key), min_position: 0 };
            let answer = queries.get_event(request).await.unwrap().into_inner();
            assert_eq!(answer.event.as_ref(), Some(event));
        }
    }
}

/// Two tags that alternate over many events, and meet at both ends only: the search has to pause.
#[tokio::test]
async fn what_is_rare_among_many_candidates_is_found_by_every_way_to_look() {
    const EVENTS: u64 = 30_000;
    let store = TestStore::start().await;
    let tagged = |position: u64| {
        let tags: &[&str] = match position {
            1 | EVENTS => &["red", "blue"],
            _ if position.is_multiple_of(2) => &["red"],
            _ => &["blue"],
        };
        NewEvent { tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), ..event("Tagged") }
    };
    for first in (1..=EVENTS).step_by(10_000) {
        store.append("Many-1", ANY, (first..first + 10_000).map(tagged)).await.unwrap();
    }
    let both = Filter { tags_all: vec!["red".to_owned(), "blue".to_owned()], ..Default::default() };
    let filters = vec![both];
    for (direction, after, expected) in [
        (Direction::Forwards, 0, vec![1, EVENTS]),
        (Direction::Backwards, 0, vec![EVENTS, 1]),
        (Direction::Forwards, 1, vec![EVENTS]),
        (Direction::Backwards, EVENTS, vec![1]),
        (Direction::Forwards, EVENTS, vec![]),
        (Direction::Backwards, 1, vec![]),
    ] {
        let request = ReadAllRequest {
            direction: direction.into(),
            after,
            filters: filters.clone(),
            ..ReadAllRequest::default()
        };
        assert_eq!(store.read(request).await.unwrap().positions(), expected);
    }
    assert_eq!(store.count(filters.clone()).await.unwrap(), 2);
    let request = SubscribeRequest { filters, ..SubscribeRequest::default() };
    let mut subscription = store.subscribe(request).await.unwrap();
    let (events, position) = subscription.until_caught_up().await;
    assert_eq!((events.positions(), position), (vec![1, EVENTS], EVENTS));
}

/// Larger than a block, larger than a segment: they come back as they were.
#[tokio::test]
async fn large_events_come_back_whole_across_segments() {
    use annals::wire::proto::v1::{new_event::Data, recorded_event};
    let store = TestStore::start().await;
    let size = |number: usize| 200_000 + number * 1_000_003 % 4_000_000;
    for number in 0..30_u8 {
        let data = vec![number; size(number.into())];
        let large = NewEvent { data: Some(Data::Binary(data.into())), ..event("Large") };
        store.append("Large-1", ANY, [large, event("Small")]).await.unwrap();
    }
    assert!(store.info().await.memory.unwrap().segment_bytes > 40 << 20, "several segments");
    let backwards =
        ReadAllRequest { direction: Direction::Backwards.into(), ..ReadAllRequest::default() };
    let mut reversed = store.read(backwards).await.unwrap();
    reversed.reverse();
    let forwards = store.read_all().await;
    assert!(forwards == reversed);
    assert!(forwards.positions().into_iter().eq(1..=60));
    for (number, pair) in (0..30_u8).zip(forwards.chunks(2)) {
        let Some(recorded_event::Data::Binary(data)) = &pair[0].data else { panic!("no data") };
        assert!(data.len() == size(number.into()) && data.iter().all(|byte| *byte == number));
        assert_eq!(pair[1].r#type, "Small");
    }
}

/// A read is as of the moment of the call.
#[tokio::test]
async fn an_empty_log_reads_as_nothing() {
    let store = TestStore::start().await;
    for direction in [Direction::Forwards, Direction::Backwards] {
        for filters in [vec![], vec![Filter { types: vec!["Paid".into()], ..Default::default() }]] {
            let request = ReadAllRequest {
                direction: direction.into(),
                filters: filters.clone(),
                ..ReadAllRequest::default()
            };
            assert_eq!(store.read(request).await.unwrap(), []);
            assert_eq!(store.count(filters).await.unwrap(), 0);
        }
    }
}
