//! `SubscribeInteractive`: filters that change while it goes on, and events that are sent as they are asked for.

use annals::wire::proto::v1::{
    AddFilter, Filter, Permits, RemoveFilter, SubscribeInteractiveRequest,
    SubscribeInteractiveResponse, SubscribeInteractiveStart, SubscribeRequest,
    subscribe_interactive_request::Message as Asked, subscribe_interactive_response::Message,
    subscribe_request::Start, subscription_service_client::SubscriptionServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::support::{ANY, Events, Refusal, TestStore, within};

fn of(event_type: &str) -> Filter {
    Filter { types: vec![event_type.to_owned()], ..Filter::default() }
}

fn add(name: &str, filter: Filter) -> Asked {
    Asked::AddFilter(AddFilter { name: name.to_owned(), filter: Some(filter) })
}

fn remove(name: &str) -> Asked {
    Asked::RemoveFilter(RemoveFilter { name: name.to_owned() })
}

fn permit(events: u32) -> Asked {
    Asked::Permits(Permits { events })
}

/// From the start of the log, with what `change` does to that.
fn start(change: impl FnOnce(&mut SubscribeInteractiveStart)) -> Asked {
    let mut start = SubscribeInteractiveStart {
        subscribe: Some(SubscribeRequest::default()),
        ..SubscribeInteractiveStart::default()
    };
    change(&mut start);
    Asked::Start(start)
}

fn subscribe(start: &mut SubscribeInteractiveStart) -> &mut SubscribeRequest {
    start.subscribe.as_mut().unwrap()
}

struct Talk {
    asks: Option<mpsc::Sender<SubscribeInteractiveRequest>>,
    answers: Streaming<SubscribeInteractiveResponse>,
}

impl Talk {
    async fn begin(store: &TestStore, first: Asked) -> Self {
        let (asks, requests) = mpsc::channel(100);
        let mut client = SubscriptionServiceClient::new(store.channel.clone());
        let answers = client.subscribe_interactive(ReceiverStream::new(requests));
        let answers = within(answers).await.unwrap().into_inner();
        let mut talk = Self { asks: Some(asks), answers };
        talk.ask(first).await;
        talk
    }

    async fn ask(&mut self, message: Asked) {
        let request = SubscribeInteractiveRequest { message: Some(message) };
        self.asks.as_ref().unwrap().send(request).await.unwrap();
    }

    /// The next message that is not a heartbeat.
    async fn next(&mut self) -> Result<Message, Status> {
        loop {
            let answer = within(self.answers.message()).await?;
            match answer.expect("it ends with a status").message.unwrap() {
                Message::Heartbeat(_) => {}
                message => return Ok(message),
            }
        }
    }

    async fn until_caught_up(&mut self) -> (Vec<u64>, u64) {
        let mut positions = Vec::new();
        loop {
            match self.next().await.unwrap() {
                Message::Events(block) => positions.extend(block.events.positions()),
                Message::CaughtUp(caught_up) => return (positions, caught_up.position),
                _ => {}
            }
        }
    }

    /// What is sent before the answer to a change of filters; where it took effect, and their names.
    async fn changed(&mut self) -> (Vec<u64>, u64, Vec<String>) {
        let mut positions = Vec::new();
        loop {
            match self.next().await.unwrap() {
                Message::Events(block) => positions.extend(block.events.positions()),
                Message::FiltersChanged(changed) => {
                    return (positions, changed.position, changed.names);
                }
                _ => {}
            }
        }
    }

    /// So many events, in whatever messages.
    async fn events(&mut self, count: usize) -> Vec<u64> {
        let mut positions = Vec::new();
        while positions.len() < count {
            if let Message::Events(block) = self.next().await.unwrap() {
                positions.extend(block.events.positions());
            }
        }
        positions
    }

    async fn refused(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

#[tokio::test]
async fn filters_come_and_go_and_each_change_says_where() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["A", "B", "C"]).await.unwrap();
    let mut talk = Talk::begin(&store, start(|it| subscribe(it).filters = vec![of("A")])).await;
    assert_eq!(talk.until_caught_up().await, (vec![1], 3));

    talk.ask(add("more", of("B"))).await;
    talk.ask(remove("0")).await;
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(talk.changed().await, (vec![], 3, names(&["0", "more"])));
    assert_eq!(talk.changed().await, (vec![], 3, names(&["more"])));
    store.append("Payment-1", ANY, ["A", "B", "C"]).await.unwrap();
    assert_eq!(talk.events(1).await, [5]);

    // A name that is taken is another filter then.
    talk.ask(add("more", of("C"))).await;
    let (events, position, _) = talk.changed().await;
    assert!(events.is_empty() && (5..=6).contains(&position), "{events:?}, {position}");
    store.append("Payment-1", ANY, ["A", "B", "C"]).await.unwrap();
    let expected = if position < 6 { vec![6, 9] } else { vec![9] };
    assert_eq!(talk.events(expected.len()).await, expected);

    // Where none is left nothing is sent.
    talk.ask(remove("more")).await;
    assert_eq!(talk.changed().await.2, names(&[]));
    store.append("Payment-1", ANY, ["A", "B", "C"]).await.unwrap();
    talk.ask(add("all", Filter { categories: vec!["Payment".into()], ..Filter::default() })).await;
    let (events, position, _) = talk.changed().await;
    assert!(events.is_empty() && position >= 9);
    store.append("Payment-1", ANY, ["D"]).await.unwrap();
    let rest: Vec<u64> = (position + 1..=13).collect();
    assert_eq!(talk.events(rest.len()).await, rest);
}

/// Whenever a change comes, what was decided before it is what the filters before pick, and what comes after
/// what those after it do: no event is missed or sent twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_while_others_append_split_the_log_where_they_say() {
    const EVENTS: u64 = 3000;
    let store = TestStore::start().await;
    let first = start(|it| (it.without_filters, subscribe(it).batch_size) = (true, 7));
    let mut talk = Talk::begin(&store, first).await;
    let types = ["A", "B", "C"];
    let appends = async {
        for number in 0..EVENTS / 3 {
            let types = if number % 2 == 0 { types.to_vec() } else { vec!["C", "B", "A"] };
            store.append("Payment-1", ANY, types).await.unwrap();
        }
    };
    let of_position = |position: u64| {
        let (number, place) = ((position - 1) / 3, usize::try_from((position - 1) % 3).unwrap());
        types[if number.is_multiple_of(2) { place } else { 2 - place }]
    };
    let follow = async {
        // From which position on which types are followed.
        let (mut sent, mut filters) = (Vec::new(), vec![(0, Vec::new())]);
        let mut following: Vec<&str> = Vec::new();
        for round in 0..40 {
            let event_type = types[round % 3];
            if following.contains(&event_type) {
                following.retain(|it| *it != event_type);
                talk.ask(remove(event_type)).await;
            } else {
                following.push(event_type);
                talk.ask(add(event_type, of(event_type))).await;
            }
            let (events, position, names) = talk.changed().await;
            assert!(events.iter().all(|at| *at <= position), "{events:?} before {position}");
            sent.extend(events);
            filters.push((position, names));
            tokio::task::yield_now().await;
        }
        talk.ask(add("end", of("End"))).await;
        let (events, position, names) = talk.changed().await;
        sent.extend(events);
        filters.push((position, names));
        (sent, filters)
    };
    let ((), (mut sent, filters)) = tokio::join!(appends, follow);
    store.append("Payment-1", ANY, ["End"]).await.unwrap();
    while sent.last() != Some(&(EVENTS + 1)) {
        sent.extend(talk.events(1).await);
    }
    assert_eq!(sent.pop(), Some(EVENTS + 1));
    let expected: Vec<u64> = (1..=EVENTS)
        .filter(|position| {
            let decides = filters.iter().rev().find(|(after, _)| after < position);
            decides.is_some_and(|(_, names)| names.iter().any(|it| it == of_position(*position)))
        })
        .collect();
    assert_eq!(sent, expected, "{filters:?}");
}

#[tokio::test]
async fn no_event_is_sent_that_was_not_asked_for() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["B", "A", "B", "A", "A", "B", "A", "A"]).await.unwrap();
    for filters in [vec![of("A")], vec![]] {
        let matching: Vec<u64> =
            if filters.is_empty() { (1..=8).collect() } else { vec![2, 4, 5, 7, 8] };
        let pull = start(|it| (it.pull, subscribe(it).filters) = (true, filters));
        let mut talk = Talk::begin(&store, pull).await;
        assert!(matches!(talk.next().await.unwrap(), Message::Confirmed(_)));
        let mut sent = Vec::new();
        for permits in [1, 2] {
            talk.ask(permit(permits)).await;
            let events = talk.events(usize::try_from(permits).unwrap()).await;
            assert_eq!(events.len(), permits as usize);
            sent.extend(events);
            // A change is answered, with nothing that was not asked for before.
            if matching.len() == 5 {
                talk.ask(add("x", of("X"))).await;
                talk.ask(remove("x")).await;
                for _ in 0..2 {
                    assert_eq!(talk.changed().await.0, [0; 0]);
                }
            }
        }
        assert_eq!(sent, matching[..3]);
        // More than there are: they are for what is to come.
        talk.ask(permit(1_000_000)).await;
        let (events, _) = talk.until_caught_up().await;
        assert_eq!(events, matching[3..]);
    }
    // Everything else is sent without permits.
    let pull = start(|it| {
        it.pull = true;
        subscribe(it).filters = vec![of("Never")];
        subscribe(it).checkpoint_interval = 5;
    });
    let mut talk = Talk::begin(&store, pull).await;
    assert_eq!(talk.until_caught_up().await, (vec![], 8));
    store.append("Payment-1", ANY, vec!["B"; 5]).await.unwrap();
    assert!(matches!(talk.next().await.unwrap(), Message::Checkpoint(_)));
    store.append("Payment-1", ANY, vec!["Never"; 1001]).await.unwrap();
    loop {
        match talk.next().await.unwrap() {
            Message::FellBehind(behind) => break assert_eq!(behind.position, 13),
            Message::Events(_) => panic!("nothing was permitted"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn who_says_nothing_more_listens_on_and_who_stops_knows_where() {
    let store = TestStore::start().await;
    let mut talk = Talk::begin(&store, start(|_| {})).await;
    assert_eq!(talk.until_caught_up().await, (vec![], 0));
    talk.asks = None;
    store.append("Payment-1", ANY, ["A"]).await.unwrap();
    assert_eq!(talk.events(1).await, [1]);
    let mut silent = {
        let (asks, requests) = mpsc::channel(1);
        let mut client = SubscriptionServiceClient::new(store.channel.clone());
        let answers = client.subscribe_interactive(ReceiverStream::new(requests)).await.unwrap();
        Talk { asks: Some(asks), answers: answers.into_inner() }
    };
    store.stop.cancel();
    let status = talk.refused().await;
    assert_eq!((status.code(), &*status.reason()), (Code::Unavailable, "SHUTTING_DOWN"));
    assert_eq!(status.fact("resume_after"), "1");
    assert_eq!(silent.refused().await.reason(), "SHUTTING_DOWN");
    store.stopped().await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_ends_the_call_by_the_name_of_its_field() {
    let store = TestStore::start().await;
    let many = |count: usize| Filter {
        tags: (0..count).map(|number| number.to_string()).collect(),
        ..Filter::default()
    };
    let follow = || start(|it| subscribe(it).filters = vec![of("A"); 31]);
    let ends = |field: &'static str, asked: Vec<Asked>| (field, asked);
    for (field, asked) in [
        ends("start", vec![add("x", of("A"))]),
        ends("start", vec![permit(1)]),
        ends("start", vec![follow(), follow()]),
        ends("start.subscribe.batch_size", vec![start(|it| subscribe(it).batch_size = 10_001)]),
        ends(
            "start.subscribe.filters[0].types[0]",
            vec![start(|it| subscribe(it).filters = vec![of("")])],
        ),
        ends("add_filter.name", vec![follow(), add("", of("A"))]),
        ends("add_filter.name", vec![follow(), add(&"x".repeat(257), of("A"))]),
        ends("add_filter.filter", vec![follow(), add("x", Filter::default())]),
        ends("add_filter.filter.types[0]", vec![follow(), add("x", of("\n"))]),
        ends("add_filter.filter", vec![follow(), add("x", of("B")), add("y", of("B"))]),
        ends("add_filter.filter", vec![follow(), add("x", many(970))]),
        ends("remove_filter.name", vec![follow(), remove("31")]),
        ends("remove_filter.name", vec![follow(), remove("3"), remove("3")]),
        ends("permits.events", vec![follow(), permit(0)]),
        ends("permits.events", vec![follow(), permit(1_000_001)]),
    ] {
        let mut asked = asked.into_iter();
        let mut talk = Talk::begin(&store, asked.next().unwrap()).await;
        for message in asked {
            talk.ask(message).await;
        }
        let refusal = talk.refused().await;
        assert_eq!(refusal.code(), Code::InvalidArgument, "{field}");
        assert_eq!(refusal.violations(), [field], "{refusal}");
    }
    // As many as there may be, also in the place of another.
    let mut talk = Talk::begin(&store, follow()).await;
    for filter in [many(969), many(968), of("B")] {
        talk.ask(add("x", filter)).await;
        assert_eq!(talk.changed().await.2.len(), 32);
    }
    let beyond = start(|it| subscribe(it).start = Some(Start::After(1)));
    let refusal = Talk::begin(&store, beyond).await.refused().await;
    assert_eq!(refusal.reason(), "POSITION_BEYOND_HEAD");
}
