//! What the server takes at once: at each limit it serves, above it refuses and says why, and when there is room
//! again it serves again. Health checks are answered all the while.

use annals::{
    core::limits::Limits,
    wire::proto::v1::{
        AppendStreamRequest, AppendStreamResponse, GetStreamRequest, NewEvent, SubscribeRequest,
        command_service_client::CommandServiceClient, new_event::Data,
        query_service_client::QueryServiceClient,
    },
};
use prost::Message;
use tokio::{io::AsyncReadExt, net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_health::pb::{health_check_response::ServingStatus, health_client::HealthClient};

use super::health::about;
use crate::support::{
    ANY, Refusal, TestStore, append_request, connect, event,
    raw::{Raw, frame},
    within,
};

fn overloaded(status: &Status, what: &str, max: usize) {
    assert_eq!((status.code(), &*status.reason()), (Code::ResourceExhausted, "OVERLOADED"));
    assert_eq!((status.fact("what"), status.fact("max")), (what.to_owned(), max.to_string()));
}

async fn is_healthy(channel: &Channel) {
    let answer = within(HealthClient::new(channel.clone()).check(about(""))).await.unwrap();
    assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
}

async fn look(channel: &Channel) -> Result<(), Status> {
    let request = GetStreamRequest { stream: "Payment-1".to_owned(), min_position: 0 };
    within(QueryServiceClient::new(channel.clone()).get_stream(request)).await.map(drop)
}

/// A pipeline that has answered one append, so that the call is open beyond doubt.
struct OpenCall {
    requests: mpsc::Sender<AppendStreamRequest>,
    answers: Streaming<AppendStreamResponse>,
}

impl OpenCall {
    async fn begin(channel: &Channel) -> Self {
        let (requests, given) = mpsc::channel(1);
        let append = Some(append_request("Payment-1", ANY, ["Paid"]));
        requests.send(AppendStreamRequest { append }).await.unwrap();
        let mut commands = CommandServiceClient::new(channel.clone());
        let answers = within(commands.append_stream(ReceiverStream::new(given))).await.unwrap();
        let mut answers = answers.into_inner();
        within(answers.message()).await.unwrap().unwrap();
        Self { requests, answers }
    }

    async fn end(mut self) {
        drop(self.requests);
        assert!(within(self.answers.message()).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_call_above_the_limit_is_refused_until_another_has_ended() {
    let store = TestStore::start_with(|config| config.calls_max = 2).await;
    let channel = connect(store.address).await;
    let first = OpenCall::begin(&channel).await;
    look(&store.channel).await.unwrap();

    let second = OpenCall::begin(&channel).await;
    for channel in [&channel, &store.channel] {
        overloaded(&look(channel).await.unwrap_err(), "calls", 2);
        let refusal = store.subscribe(SubscribeRequest::default()).await.err().unwrap();
        overloaded(&refusal, "calls", 2);
        is_healthy(channel).await;
    }

    first.end().await;
    look(&store.channel).await.unwrap();
    let info = store.info().await;
    assert_eq!((info.call_count, info.limits.unwrap().calls_max), (2, 2));
    second.end().await;
}

#[tokio::test]
async fn a_connection_above_the_limit_is_told_so_until_another_is_closed() {
    let store = TestStore::start_with(|config| config.connections_max = 2).await;
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
    let second = connect(store.address).await;
    look(&second).await.unwrap();
    let info = store.info().await;
    assert_eq!((info.connection_count, info.limits.unwrap().connections_max), (2, 2));

    let third = connect(store.address).await;
    overloaded(&look(&third).await.unwrap_err(), "connections", 2);
    is_healthy(&third).await;
    look(&second).await.unwrap();

    drop(second);
    within(async { while store.info().await.connection_count > 1 {} }).await;
    look(&connect(store.address).await).await.unwrap();
}

/// Also one that is not served: it holds no place for others.
#[tokio::test]
async fn a_connection_that_says_nothing_ends() {
    let silence = std::time::Duration::from_millis(100);
    let store = TestStore::start_with(|config| config.keep_alive_timeout = silence).await;
    let mut socket = TcpStream::connect(store.address).await.unwrap();
    let mut sent = Vec::new();
    within(socket.read_to_end(&mut sent)).await.unwrap();
    look(&store.channel).await.unwrap_err();
    within(async { while store.info().await.connection_count > 1 {} }).await;
}

/// Of two requests for which there is room for one only.
#[tokio::test]
async fn bytes_of_requests_above_the_limit_are_refused_until_others_are_gone() {
    const MAX: usize = 100_000;
    let store = TestStore::start_with(|config| config.requests_bytes_max = MAX).await;
    let large = || NewEvent { data: Some(Data::Text("x".repeat(80_000))), ..event("Paid") };
    let message = frame(&append_request("Payment-1", ANY, [large()]).encode_to_vec());
    let (begun, rest) = message.split_at(60_000);

    let mut raw = Raw::connect(store.address).await;
    let [mut one, mut other] = [raw.append().await, raw.append().await];
    for call in [&mut one, &mut other] {
        call.request.send_data(begun.to_vec().into(), false).unwrap();
    }
    let (refused, mut left) = within(one.or(other)).await;
    overloaded(&refused.status.unwrap(), "bytes of requests", MAX);
    is_healthy(&store.channel).await;

    left.request.send_data(rest.to_vec().into(), true).unwrap();
    assert!(left.end().await.status.is_none());
    for _ in 0..3 {
        store.append("Payment-1", ANY, [large()]).await.unwrap();
    }
    assert_eq!(store.head().await, 4);
}

/// A pipeline gives back what it took with each message.
#[tokio::test]
async fn a_long_pipeline_of_large_requests_takes_the_room_of_one() {
    let store = TestStore::start_with(|config| config.requests_bytes_max = 100_000).await;
    let requests = (0..20).map(move |_| {
        let event = NewEvent { data: Some(Data::Text("x".repeat(60_000))), ..event("Paid") };
        AppendStreamRequest { append: Some(append_request("Payment-1", ANY, [event])) }
    });
    let (sender, given) = mpsc::channel(1);
    let channel = store.channel.clone();
    let mut answers =
        within(CommandServiceClient::new(channel).append_stream(ReceiverStream::new(given)))
            .await
            .unwrap()
            .into_inner();
    for request in requests {
        sender.send(request).await.unwrap();
        let answer = within(answers.message()).await.unwrap().unwrap();
        assert!(matches!(
            answer.result,
            Some(annals::wire::proto::v1::append_stream_response::Result::Appended(_))
        ));
    }
    assert_eq!(store.head().await, 20);
}

#[tokio::test]
async fn a_message_that_says_it_is_too_large_is_refused_before_it_comes() {
    let store = TestStore::start_with(|config| {
        config.limits = Limits { commit_size_bytes_max: 5 << 20, ..Limits::default() };
    })
    .await;
    let max = store.info().await.limits.unwrap().request_bytes_max;
    assert_eq!(max, 9 << 20);
    let mut raw = Raw::connect(store.address).await;
    for (size, reason) in [(max, "INVALID_REQUEST"), (max + 1, "REQUEST_TOO_LARGE")] {
        let mut call = raw.append().await;
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(size).unwrap().to_be_bytes());
        call.request.send_data(bytes.into(), false).unwrap();
        if size == max {
            // Fields that nobody knows: the message is looked at.
            call.request.send_data(vec![0xff; 9 << 20].into(), true).unwrap();
        }
        let status = call.end().await.status.unwrap();
        assert_eq!(status.reason(), reason);
        if size > max {
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert_eq!(
                (status.fact("size"), status.fact("max")),
                (size.to_string(), max.to_string())
            );
        }
    }
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
}

/// HTTP/2's own answer, 431: the call never gets as far as gRPC.
#[tokio::test]
async fn headers_above_the_limit_end_their_call_only() {
    let store = TestStore::start().await;
    let call = |bytes: usize| {
        let mut request = tonic::Request::new(append_request("Payment-1", ANY, ["Paid"]));
        request.metadata_mut().insert("much", "x".repeat(bytes).parse().unwrap());
        let mut commands = store.commands();
        async move { within(commands.append(request)).await }
    };
    call(15 << 10).await.unwrap();
    let refusal = call(17 << 10).await.unwrap_err();
    assert!(refusal.message().contains("431"), "{refusal}");
    call(15 << 10).await.unwrap();
    assert_eq!(store.head().await, 2);
}
