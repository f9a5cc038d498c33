//! A real server on a free port of loopback, and short words for what tests do with it.

pub mod asked;
pub mod consumer;
pub mod dice;
pub mod model;
pub mod models;
pub mod process;
pub mod raw;

use std::{net::SocketAddr, time::Duration};

use annals::{
    config::Config,
    core::log::format,
    server::{self, ServerError},
    wire::proto::v1::{
        AppendRequest, AppendResponse, AppendStreamRequest, AppendStreamResponse, CommitRequest,
        CommitResponse, CountRequest, Filter, GetInfoRequest, GetInfoResponse, GetStreamRequest,
        NewEvent, ReadAllRequest, ReadStreamRequest, RecordedEvent, StreamInfo, StreamWrite,
        SubscribeRequest, SubscribeResponse, admin_service_client::AdminServiceClient,
        command_service_client::CommandServiceClient, query_service_client::QueryServiceClient,
        subscribe_response::Message, subscription_service_client::SubscriptionServiceClient,
    },
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;
use uuid::Uuid;

/// So long may anything take: a hang is a failure, a slow machine is not.
const HANG: Duration = Duration::from_mins(2);

/// Waits for `future`, but not for ever.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.expect("it hangs")
}

/// `expected_version`: the stream has exactly so many events.
#[expect(clippy::unnecessary_wraps, reason = "it reads well beside `ANY`")]
pub fn expect(version: u64) -> Option<u64> {
    Some(version)
}

/// `expected_version`: not checked.
pub const ANY: Option<u64> = None;

/// What can be appended: an event, or a type.
pub trait IntoEvent {
    fn into_event(self) -> NewEvent;
}

impl IntoEvent for NewEvent {
    fn into_event(self) -> NewEvent {
        self
    }
}

impl IntoEvent for &str {
    fn into_event(self) -> NewEvent {
        event(self)
    }
}

/// An event with an id of its own and nothing but its type.
pub fn event(event_type: &str) -> NewEvent {
    NewEvent {
        id: Uuid::new_v4().to_string(),
        r#type: event_type.to_owned(),
        ..NewEvent::default()
    }
}

/// An append to one stream.
pub fn append_request<E: IntoEvent>(
    stream: &str,
    expected_version: Option<u64>,
    events: impl IntoIterator<Item = E>,
) -> AppendRequest {
    AppendRequest {
        stream: stream.to_owned(),
        events: events.into_iter().map(IntoEvent::into_event).collect(),
        expected_version,
        ..AppendRequest::default()
    }
}

/// A part of a commit.
pub fn write<E: IntoEvent>(
    stream: &str,
    expected_version: Option<u64>,
    events: impl IntoIterator<Item = E>,
) -> StreamWrite {
    let events = events.into_iter().map(IntoEvent::into_event).collect();
    StreamWrite { stream: stream.to_owned(), events, expected_version }
}

/// A server and a connection to it. Dropped, it stops.
pub struct TestStore {
    pub address: SocketAddr,
    pub channel: Channel,
    pub stop: CancellationToken,
    served: Option<JoinHandle<Result<(), ServerError>>>,
}

impl TestStore {
    /// A server with the default configuration.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A server with another one.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(server::run(config, listener, stop.clone()));
        let channel = connect(address).await;
        Self { address, channel, stop, served: Some(served) }
    }

    /// Waits for `server::run` to return.
    pub async fn stopped(mut self) -> Result<(), ServerError> {
        within(self.served.take().expect("once")).await.unwrap()
    }

    pub fn commands(&self) -> CommandServiceClient<Channel> {
        CommandServiceClient::new(self.channel.clone())
    }

    pub fn queries(&self) -> QueryServiceClient<Channel> {
        queries(self.channel.clone())
    }

    pub async fn append<E: IntoEvent>(
        &self,
        stream: &str,
        expected_version: Option<u64>,
        events: impl IntoIterator<Item = E>,
    ) -> Result<AppendResponse, Status> {
        self.send(append_request(stream, expected_version, events)).await
    }

    pub async fn send(&self, request: AppendRequest) -> Result<AppendResponse, Status> {
        Ok(within(self.commands().append(request)).await?.into_inner())
    }

    pub async fn commit(
        &self,
        writes: impl IntoIterator<Item = StreamWrite>,
    ) -> Result<CommitResponse, Status> {
        let writes = writes.into_iter().collect();
        self.send_commit(CommitRequest { writes, ..CommitRequest::default() }).await
    }

    pub async fn send_commit(&self, request: CommitRequest) -> Result<CommitResponse, Status> {
        Ok(within(self.commands().commit(request)).await?.into_inner())
    }

    /// An `AppendStream`: its answers, to its end.
    pub async fn pipeline(
        &self,
        requests: impl Stream<Item = AppendStreamRequest> + Send + 'static,
    ) -> Result<Vec<AppendStreamResponse>, Status> {
        within(async {
            let answers = self.commands().append_stream(requests).await?.into_inner();
            collect(answers, |answer| vec![answer]).await
        })
        .await
    }

    /// The whole log.
    pub async fn read_all(&self) -> Vec<RecordedEvent> {
        self.read(ReadAllRequest::default()).await.unwrap()
    }

    pub async fn read(&self, request: ReadAllRequest) -> Result<Vec<RecordedEvent>, Status> {
        within(async {
            let blocks = self.queries().read_all(request).await?.into_inner();
            collect(blocks, |block| block.events).await
        })
        .await
    }

    pub async fn read_stream(
        &self,
        request: ReadStreamRequest,
    ) -> Result<Vec<RecordedEvent>, Status> {
        within(async {
            let blocks = self.queries().read_stream(request).await?.into_inner();
            collect(blocks, |block| block.events).await
        })
        .await
    }

    pub async fn stream(&self, name: &str) -> Result<StreamInfo, Status> {
        let request = GetStreamRequest { stream: name.to_owned(), min_position: 0 };
        Ok(within(self.queries().get_stream(request)).await?.into_inner().stream.unwrap())
    }

    pub async fn count(&self, filters: Vec<Filter>) -> Result<u64, Status> {
        let request = CountRequest { filters, min_position: 0 };
        Ok(within(self.queries().count(request)).await?.into_inner().count)
    }

    pub async fn info(&self) -> GetInfoResponse {
        info(self.channel.clone()).await
    }

    pub async fn head(&self) -> u64 {
        self.info().await.head
    }

    pub async fn subscribe(&self, request: SubscribeRequest) -> Result<Subscription, Status> {
        subscribe(self.channel.clone(), request).await
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A connection of its own.
pub async fn connect(address: SocketAddr) -> Channel {
    within(endpoint(address).connect()).await.unwrap()
}

/// How to connect.
pub fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}")).unwrap().tcp_nodelay(true)
}

/// A client of the `QueryService` that takes any event.
pub fn queries(channel: Channel) -> QueryServiceClient<Channel> {
    QueryServiceClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// The server's facts.
pub async fn info(channel: Channel) -> GetInfoResponse {
    let mut admin = AdminServiceClient::new(channel);
    within(admin.get_info(GetInfoRequest {})).await.unwrap().into_inner()
}

async fn collect<T, U>(
    mut answers: Streaming<T>,
    parts: impl Fn(T) -> Vec<U>,
) -> Result<Vec<U>, Status> {
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.extend(parts(answer));
    }
    Ok(all)
}

/// Subscribes on `channel`.
pub async fn subscribe(
    channel: Channel,
    request: SubscribeRequest,
) -> Result<Subscription, Status> {
    let mut client = SubscriptionServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let messages = within(client.subscribe(request)).await?.into_inner();
    Ok(Subscription { messages, events: Vec::new() })
}

/// An open subscription.
pub struct Subscription {
    messages: Streaming<SubscribeResponse>,
    /// Sent, and not handed out by [`Subscription::event`] yet.
    events: Vec<RecordedEvent>,
}

impl Subscription {
    /// The next message that is not a heartbeat; the status that ends it.
    pub async fn next(&mut self) -> Result<Message, Status> {
        loop {
            match self.next_or_heartbeat().await? {
                Message::Heartbeat(_) => {}
                message => return Ok(message),
            }
        }
    }

    /// The next message.
    pub async fn next_or_heartbeat(&mut self) -> Result<Message, Status> {
        let message = within(self.messages.message()).await?;
        Ok(message.expect("a subscription ends with a status").message.unwrap())
    }

    /// The next event, whatever else is sent before.
    pub async fn event(&mut self) -> Result<RecordedEvent, Status> {
        while self.events.is_empty() {
            if let Message::Events(block) = self.next().await? {
                self.events = block.events;
                self.events.reverse();
            }
        }
        Ok(self.events.pop().unwrap())
    }

    /// So many events.
    pub async fn events(&mut self, count: usize) -> Vec<RecordedEvent> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            events.push(self.event().await.unwrap());
        }
        events
    }

    /// Reads on until it has caught up; the events on the way, and how far it is.
    pub async fn until_caught_up(&mut self) -> (Vec<RecordedEvent>, u64) {
        let mut events = Vec::new();
        loop {
            match self.next().await.unwrap() {
                Message::Events(block) => events.extend(block.events),
                Message::CaughtUp(caught_up) => return (events, caught_up.position),
                _ => {}
            }
        }
    }
}

/// The positions of the events of a block.
pub fn positions(mut block: &[u8]) -> Vec<u64> {
    let mut positions = Vec::new();
    while !block.is_empty() {
        let (field, rest) = block.split_at(format::field_size(block));
        if field[0] == format::EVENT_TAG {
            positions.push(format::EventView::of(field).stamp.position.get());
        }
        block = rest;
    }
    positions
}

/// What a refusal says.
pub trait Refusal {
    /// The reason of its `ErrorInfo`.
    fn reason(&self) -> String;
    /// One of the facts of its `ErrorInfo`; empty if it is not there.
    fn fact(&self, name: &str) -> String;
    /// The fields of its `BadRequest`.
    fn violations(&self) -> Vec<String>;
}

impl Refusal for Status {
    fn reason(&self) -> String {
        let info = self.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo: {self}"));
        assert_eq!(info.domain, "annals");
        info.reason
    }

    fn fact(&self, name: &str) -> String {
        let info = self.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo: {self}"));
        info.metadata.get(name).cloned().unwrap_or_default()
    }

    fn violations(&self) -> Vec<String> {
        let bad = self.get_details_bad_request();
        let violations = bad.map(|bad| bad.field_violations).unwrap_or_default();
        violations.into_iter().map(|violation| violation.field).collect()
    }
}

/// The status in an answer of a pipeline, as a unary call would have ended with it.
pub fn status_of(error: &tonic_types::Status) -> Status {
    let bytes = prost::Message::encode_to_vec(error);
    Status::with_details(error.code.into(), error.message.clone(), bytes.into())
}

/// What a test asks about events.
pub trait Events {
    fn types(&self) -> Vec<&str>;
    fn positions(&self) -> Vec<u64>;
}

impl Events for Vec<RecordedEvent> {
    fn types(&self) -> Vec<&str> {
        self.iter().map(|event| &*event.r#type).collect()
    }

    fn positions(&self) -> Vec<u64> {
        self.iter().map(|event| event.position).collect()
    }
}
