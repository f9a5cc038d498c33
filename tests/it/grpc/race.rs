//! Many want the same: exactly one gets it, and the others are told what they lost to.

use std::sync::Arc;

use annals::wire::proto::v1::{
    AppendCondition, AppendRequest, Filter, NewEvent, ReadStreamRequest,
    command_service_client::CommandServiceClient,
};
use tokio::{sync::Barrier, task::JoinSet};
use tonic::{Code, transport::Channel};

use crate::support::{
    ANY, Refusal, TestStore, append_request, connect, event, expect, status_of, within,
};

const CLIENTS: usize = 64;
const CONNECTIONS: usize = 4;

/// Runs `client` as many times at once, over a few connections, and collects what each returns.
async fn race<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    store: &TestStore,
    clients: usize,
    client: impl Fn(usize, CommandServiceClient<Channel>, Arc<Barrier>) -> F,
) -> Vec<T> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(CommandServiceClient::new(connect(store.address).await));
    }
    let start = Arc::new(Barrier::new(clients));
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let commands = connections[number % CONNECTIONS].clone();
        tasks.spawn(client(number, commands, Arc::clone(&start)));
    }
    let mut results = Vec::new();
    // The first that panics ends the race, or the others would wait for it.
    while let Some(result) = tasks.join_next().await {
        results.push(result.unwrap());
    }
    results
}

/// The number of the client that appended it, as its correlation id.
fn event_of(client: usize) -> NewEvent {
    NewEvent { correlation_id: client.to_string(), ..event("Claimed") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_appends_that_expect_the_same_version_exactly_one_wins() {
    const ROUNDS: u64 = 10_000;
    let store = TestStore::start().await;
    let victories = race(&store, CLIENTS, |client, mut commands, start| async move {
        let mut won = Vec::new();
        for version in 0..ROUNDS {
            start.wait().await;
            let request = append_request("Race-1", expect(version), [event_of(client)]);
            match commands.append(request).await {
                Ok(answer) => {
                    assert_eq!(answer.into_inner().version, version + 1);
                    won.push((version + 1, client));
                }
                Err(refusal) => {
                    assert_eq!(refusal.code(), Code::FailedPrecondition);
                    assert_eq!(refusal.reason(), "WRONG_EXPECTED_VERSION");
                    assert_eq!(refusal.fact("stream"), "Race-1");
                    assert_eq!(refusal.fact("expected"), version.to_string());
                    assert_eq!(refusal.fact("actual"), (version + 1).to_string());
                }
            }
        }
        won
    })
    .await;
    let mut victories = victories.concat();
    victories.sort_unstable();

    let request = ReadStreamRequest { stream: "Race-1".to_owned(), ..Default::default() };
    let recorded: Vec<(u64, usize)> = store
        .read_stream(request)
        .await
        .unwrap()
        .iter()
        .map(|event| (event.version, event.correlation_id.parse().unwrap()))
        .collect();
    assert_eq!(recorded.len() as u64, ROUNDS);
    assert!(recorded.iter().map(|(version, _)| *version).eq(1..=ROUNDS));
    assert!(victories == recorded, "who was told that he won is who is in the stream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_appends_to_different_streams_under_the_same_condition_exactly_one_wins() {
    const ROUNDS: u64 = 500;
    let store = TestStore::start().await;
    let answers = race(&store, 16, |client, mut commands, start| async move {
        let mut answers = Vec::new();
        for round in 0..ROUNDS {
            let seat = vec![format!("seat-{round}")];
            let filters = vec![Filter { tags: seat.clone(), ..Filter::default() }];
            let claim = NewEvent { tags: seat, ..event_of(client) };
            let request = AppendRequest {
                conditions: vec![AppendCondition { filters, after: 0 }],
                ..append_request(&format!("Guest-{client}"), ANY, [claim])
            };
            start.wait().await;
            answers.push(match commands.append(request).await {
                Ok(answer) => (round, true, answer.into_inner().position),
                Err(refusal) => {
                    assert_eq!(refusal.code(), Code::FailedPrecondition);
                    assert_eq!(refusal.reason(), "CONDITION_BROKEN");
                    (round, false, refusal.fact("positions").parse().unwrap())
                }
            });
        }
        answers
    })
    .await
    .concat();
    for round in 0..ROUNDS {
        let of_round = || answers.iter().filter(move |(in_round, ..)| *in_round == round);
        let winners: Vec<u64> =
            of_round().filter(|(_, won, _)| *won).map(|(.., position)| *position).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        assert!(of_round().all(|(.., position)| *position == winners[0]), "round {round}");
    }
    assert_eq!(store.head().await, ROUNDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_same_append_sent_by_many_at_once_all_get_the_one_answer() {
    const ROUNDS: u64 = 300;
    let store = TestStore::start().await;
    let answers = race(&store, 16, |_, mut commands, start| async move {
        let mut answers = Vec::new();
        for round in 0..ROUNDS {
            let id = uuid::Uuid::from_u128(u128::from(round) + 1).to_string();
            let event = NewEvent { id, ..event("Sent") };
            start.wait().await;
            let request = append_request("Repeat-1", expect(round), [event]);
            answers.push((round, within(commands.append(request)).await.unwrap().into_inner()));
        }
        answers
    })
    .await
    .concat();
    for round in 0..ROUNDS {
        let of_round: Vec<_> = answers.iter().filter(|(in_round, _)| *in_round == round).collect();
        assert_eq!(of_round.iter().filter(|(_, answer)| !answer.duplicate).count(), 1);
        assert!(of_round.iter().all(|(_, answer)| answer.position == round + 1));
        assert!(of_round.iter().all(|(_, answer)| answer.version == round + 1));
    }
    assert_eq!(store.head().await, ROUNDS);
}

#[tokio::test]
async fn a_pipeline_that_lost_the_race_is_told_what_a_unary_call_is_told() {
    use annals::wire::proto::v1::{AppendStreamRequest, append_stream_response::Result};
    let store = TestStore::start().await;
    store.append("Race-1", expect(0), ["Claimed"]).await.unwrap();
    let late = append_request("Race-1", expect(0), ["Claimed"]);
    let unary = store.send(late.clone()).await.unwrap_err();
    let request = AppendStreamRequest { append: Some(late) };
    let mut answers = store.pipeline(tokio_stream::iter([request])).await.unwrap();
    let Some(Result::Error(error)) = answers.remove(0).result else { panic!("it is too late") };
    let error = status_of(&error);
    assert_eq!((error.code(), error.message()), (unary.code(), unary.message()));
    assert_eq!((error.reason(), error.fact("actual")), (unary.reason(), unary.fact("actual")));
}
