//! The server stops: it says so, what is in flight ends well, and nothing holds it for long.

use std::time::Duration;

use annals::wire::proto::v1::{
    AppendStreamRequest, CountRequest, Filter, NewEvent, ReadAllRequest, SubscribeRequest,
    append_stream_response::Result as Answer, command_service_client::CommandServiceClient,
    new_event::Data, subscribe_response::Message,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::{health_check_response::ServingStatus, health_client::HealthClient};

use super::health::{SERVICES, about};
use crate::support::{
    ANY, Refusal, TestStore, append_request, connect, endpoint, event, queries,
    raw::{Raw, frame},
    within,
};

/// A server that would wait for an hour: what returns sooner was not held up.
async fn patient() -> TestStore {
    TestStore::start_with(|config| config.shutdown_timeout = Duration::from_hours(1)).await
}

#[tokio::test]
async fn a_server_that_stops_is_not_serving_and_its_watchers_do_not_hold_it_up() {
    let store = patient().await;
    let mut watchers = Vec::new();
    for service in SERVICES {
        let mut health = HealthClient::new(store.channel.clone());
        let mut watch = within(health.watch(about(service))).await.unwrap().into_inner();
        let status = within(watch.message()).await.unwrap().unwrap().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
        watchers.push((service, watch));
    }
    store.stop.cancel();
    for (service, watch) in &mut watchers {
        let status = within(watch.message()).await.unwrap().unwrap().status();
        assert_eq!(status, ServingStatus::NotServing, "{service:?}");
    }
    store.stopped().await.unwrap();
}

/// Whatever is sent, acknowledged or seen at that moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_ends_with_the_position_to_resume_after() {
    let store = patient().await;
    let picks = |types: &[&str]| SubscribeRequest {
        filters: vec![Filter {
            types: types.iter().map(|name| (*name).to_owned()).collect(),
            ..Filter::default()
        }],
        batch_size: 3,
        checkpoint_interval: 5,
        ..SubscribeRequest::default()
    };
    let mut everything = store.subscribe(SubscribeRequest::default()).await.unwrap();
    let mut even = store.subscribe(picks(&["Even"])).await.unwrap();
    let mut nothing = store.subscribe(picks(&["Never"])).await.unwrap();
    let writer = tokio::spawn({
        let mut commands = CommandServiceClient::new(connect(store.address).await);
        async move {
            // Until the server takes no more.
            for position in 1.. {
                let event_type = if position % 2 == 0 { "Even" } else { "Odd" };
                let request = append_request("Payment-1", ANY, [event_type]);
                if commands.append(request).await.is_err() {
                    return position - 1;
                }
            }
            unreachable!("the server stops")
        }
    });
    let before = everything.events(500).await;
    assert!(before.iter().map(|event| event.position).eq(1..=500));
    store.stop.cancel();

    let mut last = 500;
    let status = loop {
        match everything.event().await {
            Ok(event) => {
                last += 1;
                assert_eq!(event.position, last);
            }
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), &*status.reason()), (Code::Unavailable, "SHUTTING_DOWN"));
    assert_eq!(status.fact("resume_after"), last.to_string(), "neither a gap nor a repeat");

    for (subscription, step) in [(&mut even, 2), (&mut nothing, u64::MAX)] {
        let (mut last, mut safe) = (0, 0);
        let status = loop {
            match subscription.next().await {
                Ok(Message::Events(block)) => {
                    for event in block.events {
                        last += step;
                        assert_eq!(event.position, last);
                        safe = last;
                    }
                }
                Ok(Message::Checkpoint(checkpoint)) => safe = checkpoint.position,
                Ok(_) => {}
                Err(status) => break status,
            }
        };
        assert_eq!((status.code(), &*status.reason()), (Code::Unavailable, "SHUTTING_DOWN"));
        let resume_after: u64 = status.fact("resume_after").parse().unwrap();
        assert!(safe <= resume_after, "{safe} was sent, {resume_after} was told");
        // The next match after what was sent is after what was told, too.
        assert!(resume_after < last.saturating_add(step), "{last}, {resume_after}");
    }
    let written = within(writer).await.unwrap();
    assert!(written >= last, "what was seen was acknowledged");
    store.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_in_flight_gives_all_it_has_before_the_server_is_gone() {
    const EVENTS: usize = 4000;
    let store = patient().await;
    let large = || NewEvent { data: Some(Data::Text("x".repeat(2000))), ..event("Paid") };
    for _ in 0..EVENTS / 1000 {
        store.append("Payment-1", ANY, (0..1000).map(|_| large())).await.unwrap();
    }
    // Windows of the least size: most of it is not sent yet when the server stops.
    let channel = endpoint(store.address)
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .connect()
        .await
        .unwrap();
    let mut blocks =
        within(queries(channel).read_all(ReadAllRequest::default())).await.unwrap().into_inner();
    let mut count = within(blocks.message()).await.unwrap().unwrap().events.len();
    assert!(count < EVENTS / 10);
    store.stop.cancel();
    while let Some(block) = within(blocks.message()).await.unwrap() {
        count += block.events.len();
    }
    assert_eq!(count, EVENTS);
    store.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_pipeline_is_answered_for_all_that_was_taken_and_then_ended() {
    let store = patient().await;
    let (requests, receiver) = mpsc::channel(100);
    let feeder = tokio::spawn(async move {
        let request = || AppendStreamRequest {
            append: Some(append_request("Payment-1", ANY, ["Paid", "Noted"])),
        };
        while requests.send(request()).await.is_ok() {}
    });
    let mut all = store.subscribe(SubscribeRequest::default()).await.unwrap();
    let mut answers =
        store.commands().append_stream(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let mut answered = 0;
    let status = loop {
        match within(answers.message()).await {
            Ok(answer) => {
                let answer = answer.expect("it ends with a status");
                answered += 1;
                assert_eq!(answer.request, answered);
                let Some(Answer::Appended(appended)) = answer.result else { panic!("{answer:?}") };
                assert_eq!(appended.position, 2 * answered, "it is the only writer");
                if answered == 500 {
                    store.stop.cancel();
                }
            }
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), &*status.reason()), (Code::Unavailable, "SHUTTING_DOWN"));
    assert!(answered >= 500);
    // Nobody saw more than was answered: nothing was taken without an answer.
    let mut seen = 0;
    while let Ok(event) = all.event().await {
        seen = event.position;
    }
    assert!(seen <= 2 * answered, "{seen} events seen, {answered} appends answered");
    within(feeder).await.unwrap();
    store.stopped().await.unwrap();
}

#[tokio::test]
async fn quiet_streams_do_not_hold_the_server_up() {
    let store = patient().await;
    let (_requests, receiver) = mpsc::channel::<AppendStreamRequest>(1);
    let mut commands = store.commands();
    let pipeline =
        within(commands.append_stream(ReceiverStream::new(receiver))).await.unwrap().into_inner();
    let mut subscription = store.subscribe(SubscribeRequest::default()).await.unwrap();
    subscription.until_caught_up().await;
    let idle = connect(store.address).await;
    store.stop.cancel();
    // The streams are open, the connections too, and nobody reads.
    store.stopped().await.unwrap();
    drop((pipeline, subscription, idle));
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_the_server_until_the_deadline_only() {
    let store =
        TestStore::start_with(|config| config.shutdown_timeout = Duration::from_millis(300)).await;
    let large = || NewEvent { data: Some(Data::Text("x".repeat(100_000))), ..event("Paid") };
    store.append("Payment-1", ANY, (0..100).map(|_| large())).await.unwrap();
    let mut raw = Raw::connect(store.address).await;
    let mut call = raw.begin("QueryService/ReadAll", &[]).await;
    call.request.send_data(frame(&ReadAllRequest::default().encode_to_vec()), true).unwrap();
    let unread = call.begun().await;
    store.stop.cancel();
    store.stopped().await.unwrap();
    drop(unread);
}

/// What it waits for cannot come any more.
#[tokio::test]
async fn a_query_that_waits_for_a_position_does_not_hold_the_server_up() {
    let store = patient().await;
    let mut queries = store.queries();
    let waiting = tokio::spawn(async move {
        let request = CountRequest { min_position: 1, ..CountRequest::default() };
        queries.count(request).await.unwrap_err()
    });
    // A call that is answered on the same server was behind it, or it is not there yet: both must end.
    store.info().await;
    store.stop.cancel();
    store.stopped().await.unwrap();
    let status = within(waiting).await.unwrap();
    assert_eq!(status.code(), Code::Unavailable);
}
