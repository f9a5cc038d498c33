//! `AppendStream`: many requests on their way at once, an answer for each, and clients that vanish.

use std::collections::HashSet;

use annals::wire::proto::v1::{
    AppendStreamRequest, AppendStreamResponse, NewEvent, RecordedEvent,
    append_stream_response::Result as Answer, command_service_client::CommandServiceClient,
};
use prost::Message;

use crate::support::{
    ANY, Refusal, TestStore, append_request, connect, event, expect,
    raw::{Raw, frame},
    status_of, within,
};

#[tokio::test]
async fn ten_thousand_pipelined_requests_are_answered_in_order_whichever_of_them_fail() {
    const REQUESTS: u64 = 10_000;
    let store = TestStore::start().await;
    // What each request comes to, by a count of one's own.
    let (mut version, mut position) = (0, 0);
    let mut expected = Vec::new();
    let mut requests = Vec::new();
    for request in 1..=REQUESTS {
        let (append, outcome) = if request % 7 == 0 {
            let stale = append_request("Pipe-1", expect(version + 1), ["Paid"]);
            (Some(stale), Err("WRONG_EXPECTED_VERSION"))
        } else if request % 11 == 0 {
            (Some(append_request("Pipe-1", expect(version), [""])), Err("INVALID_REQUEST"))
        } else if request % 1009 == 0 {
            (None, Err("INVALID_REQUEST"))
        } else {
            let events = if request % 3 == 0 { vec!["Paid", "Noted"] } else { vec!["Paid"] };
            let append = append_request("Pipe-1", expect(version), events.clone());
            version += events.len() as u64;
            position += events.len() as u64;
            (Some(append), Ok((version, position)))
        };
        requests.push(AppendStreamRequest { append });
        expected.push(outcome.map_err(str::to_owned));
    }
    let answers = store.pipeline(tokio_stream::iter(requests)).await.unwrap();
    let numbers: Vec<u64> = answers.iter().map(|answer| answer.request).collect();
    assert!(numbers.iter().copied().eq(1..=REQUESTS), "each is answered once, in order");
    for (answer, expected) in answers.into_iter().zip(expected) {
        let outcome = match answer.result.unwrap() {
            Answer::Appended(appended) => Ok((appended.version, appended.position)),
            Answer::Error(error) => Err(status_of(&error).reason()),
        };
        assert_eq!(outcome, expected, "request {}", answer.request);
    }
    assert_eq!(store.head().await, position);
}

/// An append of five events that know their number.
fn append_of_five(number: u64) -> AppendStreamRequest {
    let part = |_| NewEvent { correlation_id: number.to_string(), ..event("Part") };
    AppendStreamRequest { append: Some(append_request("Pipe-1", ANY, (0..5).map(part))) }
}

/// Every append is there whole, as one, in the order in which they were sent; how many there are.
fn whole_appends(log: &[RecordedEvent]) -> u64 {
    let mut count = 0;
    for commit in log.chunk_by(|a, b| a.correlation_id == b.correlation_id) {
        count += 1;
        assert_eq!(commit.len(), 5, "whole appends only");
        assert_eq!(commit[0].correlation_id, count.to_string(), "in order, none left out");
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_disappears_leaves_whole_appends_and_all_that_were_acknowledged() {
    for acknowledged in [0, 1, 10, 100, 1000] {
        let store = TestStore::start().await;
        let client = tokio::spawn({
            let channel = connect(store.address).await;
            async move {
                // Endless: it is the client that ends.
                let requests = tokio_stream::iter((1..).map(append_of_five));
                let mut commands = CommandServiceClient::new(channel);
                let mut answers = commands.append_stream(requests).await.unwrap().into_inner();
                for request in 1..=acknowledged {
                    let answer = answers.message().await.unwrap().unwrap();
                    assert_eq!(answer.request, request);
                    assert!(matches!(answer.result, Some(Answer::Appended(_))));
                }
            }
        });
        // The connection goes with the client.
        within(client).await.unwrap();
        assert!(whole_appends(&store.read_all().await) >= acknowledged);
        // And the store goes on.
        store.append("Other-1", expect(0), ["Paid"]).await.unwrap();
        let log = store.read_all().await;
        let appends: Vec<_> = log.into_iter().filter(|event| event.stream == "Pipe-1").collect();
        assert!(whole_appends(&appends) >= acknowledged);
    }
}

/// A message that is cut off in the middle is no message.
#[tokio::test]
async fn a_client_cut_off_in_the_middle_of_a_message_has_sent_those_before_it() {
    let store = TestStore::start().await;
    let mut raw = Raw::connect(store.address).await;
    let whole = frame(&append_of_five(1).encode_to_vec());
    let last = frame(&append_of_five(2).encode_to_vec());
    for cut in [3, 5, 6, last.len() / 2, last.len() - 1] {
        let before = store.head().await;
        let mut call = raw.begin("CommandService/AppendStream", &[]).await;
        // Ids of its own each time, or it would be a repeat.
        let mut message = AppendStreamRequest::decode(&whole[5..]).unwrap();
        for event in &mut message.append.as_mut().unwrap().events {
            event.id = uuid::Uuid::new_v4().to_string();
        }
        call.request.send_data(frame(&message.encode_to_vec()), false).unwrap();
        call.request.send_data(last.slice(..cut), true).unwrap();
        let answer = call.end().await;
        let answers: Vec<AppendStreamResponse> = answer.decoded();
        assert_eq!(answers.len(), 1, "cut at {cut}");
        // Cut behind its length and before its first byte, tonic takes it for the end.
        assert!(answer.status.is_some() || cut == 5, "cut at {cut}: it is told");
        assert_eq!(store.head().await, before + 5, "cut at {cut}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelines_side_by_side_do_not_mix_their_answers() {
    let store = TestStore::start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for pipeline in 0..8 {
        let mut commands = store.commands();
        tasks.spawn(async move {
            let stream = format!("Pipe-{pipeline}");
            let requests = (0..500).map(move |version| AppendStreamRequest {
                append: Some(append_request(&stream, expect(version), ["Paid"])),
            });
            let requests = tokio_stream::iter(requests);
            let mut answers = commands.append_stream(requests).await.unwrap().into_inner();
            let mut versions = Vec::new();
            while let Some(answer) = answers.message().await.unwrap() {
                let Some(Answer::Appended(appended)) = answer.result else { panic!("{answer:?}") };
                assert_eq!(answer.request, appended.version);
                versions.push(appended.position);
            }
            versions
        });
    }
    let mut positions = HashSet::new();
    while let Some(task) = within(tasks.join_next()).await {
        for position in task.unwrap() {
            assert!(positions.insert(position), "a position is given once");
        }
    }
    assert_eq!(positions.len(), 8 * 500);
}
