//! Consumer groups as tests use them: what an operator does, and a consumer with its open call.

use std::collections::VecDeque;

use annals::wire::proto::v1::{
    Ack, ConsumeConfirmed, ConsumeRequest, ConsumeResponse, ConsumeStart, ConsumerInfo,
    CreateGroupRequest, DeleteGroupRequest, DeliveredEvents, DropParkedRequest, GetGroupRequest,
    GetGroupResponse, GroupInfo, GroupSettings, ListGroupsRequest, ListGroupsResponse,
    ListParkedRequest, ListParkedResponse, Nack, NackAction, ParkedEvent, PollRequest,
    PollResponse, RecordedEvent, ReplayParkedRequest, SetGroupPositionRequest, SettleRequest,
    UpdateGroupRequest, consume_request::Message as Says, consume_response::Message,
    set_group_position_request::Target, subscription_service_client::SubscriptionServiceClient,
};
use prost_types::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

use super::{TestStore, within};

pub fn millis(count: i32) -> Duration {
    Duration { seconds: i64::from(count / 1000), nanos: count % 1000 * 1_000_000 }
}

pub const HOUR: Duration = Duration { seconds: 3600, nanos: 0 };

/// Settings under which nothing happens by itself: nobody is timed out, nothing is tried again, and no
/// checkpoint is written that a group's position would pass.
pub fn patient() -> GroupSettings {
    GroupSettings {
        message_timeout: Some(HOUR),
        retry_delay: Some(HOUR),
        retry_delay_max: Some(HOUR),
        checkpoint_interval: Some(HOUR),
        ..GroupSettings::default()
    }
}

/// A group of every event, from the log's start.
pub fn group(name: &str, settings: GroupSettings) -> CreateGroupRequest {
    CreateGroupRequest {
        group: name.to_owned(),
        settings: Some(settings),
        ..CreateGroupRequest::default()
    }
}

/// Who takes events of `group`. A heartbeat comes often, so that a test can see that nothing else does.
pub fn consumer(group: &str, name: &str) -> ConsumeStart {
    ConsumeStart {
        group: group.to_owned(),
        consumer: name.to_owned(),
        in_flight_max: 0,
        heartbeat_interval: Some(millis(100)),
    }
}

/// The calls about groups.
#[derive(Clone)]
pub struct Groups(SubscriptionServiceClient<Channel>);

impl TestStore {
    pub fn groups(&self) -> Groups {
        Groups::new(self.channel.clone())
    }

    /// Appends so many events to one stream, as one commit; their positions.
    pub async fn fill(&self, stream: &str, count: usize) -> Vec<u64> {
        let answer = self.append(stream, None, vec!["Paid"; count]).await.unwrap();
        (answer.first_position..=answer.position).collect()
    }
}

impl Groups {
    pub fn new(channel: Channel) -> Self {
        Self(SubscriptionServiceClient::new(channel).max_decoding_message_size(usize::MAX))
    }

    pub async fn create(&self, request: CreateGroupRequest) -> Result<GroupInfo, Status> {
        let answer = within(self.0.clone().create_group(request)).await?.into_inner();
        Ok(answer.group.unwrap())
    }

    pub async fn update(&self, request: UpdateGroupRequest) -> Result<GroupInfo, Status> {
        let answer = within(self.0.clone().update_group(request)).await?.into_inner();
        Ok(answer.group.unwrap())
    }

    pub async fn delete(&self, group: &str) -> Result<(), Status> {
        let request = DeleteGroupRequest { group: group.to_owned() };
        within(self.0.clone().delete_group(request)).await?;
        Ok(())
    }

    pub async fn get(&self, group: &str) -> Result<GetGroupResponse, Status> {
        let request = GetGroupRequest { group: group.to_owned() };
        Ok(within(self.0.clone().get_group(request)).await?.into_inner())
    }

    pub async fn list(&self, request: ListGroupsRequest) -> Result<ListGroupsResponse, Status> {
        Ok(within(self.0.clone().list_groups(request)).await?.into_inner())
    }

    pub async fn info(&self, group: &str) -> GroupInfo {
        self.get(group).await.unwrap().group.unwrap()
    }

    pub async fn consumers(&self, group: &str) -> Vec<ConsumerInfo> {
        self.get(group).await.unwrap().consumers
    }

    /// Waits until the group is so.
    pub async fn until(&self, group: &str, so: impl Fn(&GroupInfo) -> bool) -> GroupInfo {
        within(async {
            loop {
                let info = self.info(group).await;
                if so(&info) {
                    return info;
                }
            }
        })
        .await
    }

    /// Waits until the consumers are so.
    pub async fn until_consumers(&self, group: &str, so: impl Fn(&[ConsumerInfo]) -> bool) {
        within(async { while !so(&self.consumers(group).await) {} }).await;
    }

    pub async fn set_position(
        &self,
        group: &str,
        expected_position: u64,
        target: Target,
    ) -> Result<u64, Status> {
        let target = Some(target);
        let request =
            SetGroupPositionRequest { group: group.to_owned(), expected_position, target };
        self.send_position(request).await
    }

    pub async fn send_position(&self, request: SetGroupPositionRequest) -> Result<u64, Status> {
        Ok(within(self.0.clone().set_group_position(request)).await?.into_inner().position)
    }

    pub async fn poll(&self, request: PollRequest) -> Result<PollResponse, Status> {
        Ok(within(self.0.clone().poll(request)).await?.into_inner())
    }

    /// What could not be settled.
    pub async fn settle(&self, request: SettleRequest) -> Result<Vec<u64>, Status> {
        Ok(within(self.0.clone().settle(request)).await?.into_inner().not_in_flight_positions)
    }

    pub async fn list_parked(
        &self,
        request: ListParkedRequest,
    ) -> Result<ListParkedResponse, Status> {
        Ok(within(self.0.clone().list_parked(request)).await?.into_inner())
    }

    /// All that are parked, at most 1000.
    pub async fn parked(&self, group: &str) -> Vec<ParkedEvent> {
        let request = ListParkedRequest { group: group.to_owned(), after: 0, page_size: 1000 };
        self.list_parked(request).await.unwrap().parked
    }

    /// The positions of those that are parked.
    pub async fn parked_positions(&self, group: &str) -> Vec<u64> {
        self.parked(group).await.iter().map(|parked| parked.position).collect()
    }

    /// Waits until exactly these are parked.
    pub async fn until_parked(&self, group: &str, positions: &[u64]) {
        within(async { while self.parked_positions(group).await != positions {} }).await;
    }

    pub async fn replay(&self, request: ReplayParkedRequest) -> Result<u64, Status> {
        Ok(within(self.0.clone().replay_parked(request)).await?.into_inner().event_count)
    }

    /// These, or all where none is named.
    pub async fn replay_parked(&self, group: &str, positions: &[u64]) -> u64 {
        let positions = positions.to_vec();
        let request = ReplayParkedRequest { group: group.to_owned(), positions, events_max: 0 };
        self.replay(request).await.unwrap()
    }

    pub async fn drop_request(&self, request: DropParkedRequest) -> Result<u64, Status> {
        Ok(within(self.0.clone().drop_parked(request)).await?.into_inner().event_count)
    }

    /// These, or all where none is named.
    pub async fn drop_parked(&self, group: &str, positions: &[u64]) -> u64 {
        let positions = positions.to_vec();
        let all = positions.is_empty();
        let request = DropParkedRequest { group: group.to_owned(), positions, all };
        self.drop_request(request).await.unwrap()
    }

    /// A consumer whose messages are these; its answers.
    pub async fn consume_raw(
        &self,
        messages: Vec<ConsumeRequest>,
    ) -> Result<Streaming<ConsumeResponse>, Status> {
        let (requests, receiver) = mpsc::channel(messages.len().max(1));
        for message in messages {
            requests.try_send(message).unwrap();
        }
        let mut client = self.0.clone();
        let answers = within(client.consume(ReceiverStream::new(receiver))).await?.into_inner();
        // The requests end here, and the call with them unless it is refused before.
        Ok(answers)
    }

    /// A consumer whose call stands: it is confirmed.
    pub async fn consume(&self, start: ConsumeStart) -> Result<Consumer, Status> {
        let (requests, receiver) = mpsc::channel(1024);
        let start = ConsumeRequest { message: Some(Says::Start(start)) };
        requests.try_send(start).unwrap();
        let call = Request::new(ReceiverStream::new(receiver));
        let mut messages = within(self.0.clone().consume(call)).await?.into_inner();
        let first = within(messages.message()).await?.expect("it is confirmed first");
        let Some(Message::Confirmed(confirmed)) = first.message else {
            panic!("it is confirmed first: {first:?}")
        };
        Ok(Consumer { requests, messages, confirmed, delivered: VecDeque::new() })
    }
}

/// An event that a consumer was given, and how often it has been delivered.
#[derive(Debug, Clone)]
pub struct Delivered {
    pub event: RecordedEvent,
    pub deliveries: u32,
}

/// The events of a message, each with its count.
pub fn unpack(events: DeliveredEvents) -> Vec<Delivered> {
    let (batch, deliveries) = (events.batch.unwrap_or_default().events, events.deliveries);
    assert_eq!(batch.len(), deliveries.len(), "one count for each event");
    assert!(batch.is_sorted_by_key(|event| event.position), "in the order of the log");
    assert!(deliveries.iter().all(|count| *count > 0), "counted from 1");
    let pairs = batch.into_iter().zip(deliveries);
    pairs.map(|(event, deliveries)| Delivered { event, deliveries }).collect()
}

/// A consumer. Dropped, its call ends.
pub struct Consumer {
    requests: mpsc::Sender<ConsumeRequest>,
    messages: Streaming<ConsumeResponse>,
    pub confirmed: ConsumeConfirmed,
    /// Given, and not handed out by [`Consumer::delivered`] yet.
    delivered: VecDeque<Delivered>,
}

impl Consumer {
    /// The next message; the status that ends the call.
    pub async fn next_or_heartbeat(&mut self) -> Result<Message, Status> {
        let message = self.messages.message().await?;
        Ok(message.expect("it ends with a status").message.unwrap())
    }

    /// The next message that is not a heartbeat; the status that ends the call.
    pub async fn next(&mut self) -> Result<Message, Status> {
        within(async {
            loop {
                match self.next_or_heartbeat().await? {
                    Message::Heartbeat(_) => {}
                    message => return Ok(message),
                }
            }
        })
        .await
    }

    /// The status that ends the call, whatever comes before.
    pub async fn end(&mut self) -> Status {
        within(async {
            loop {
                if let Err(status) = self.next_or_heartbeat().await {
                    return status;
                }
            }
        })
        .await
    }

    /// The next event. Nothing else but heartbeats may come before.
    pub async fn delivered(&mut self) -> Delivered {
        while self.delivered.is_empty() {
            match self.next().await.unwrap() {
                Message::Events(events) => self.delivered.extend(unpack(events)),
                other => panic!("no events: {other:?}"),
            }
        }
        self.delivered.pop_front().unwrap()
    }

    /// The positions of the next events.
    pub async fn positions(&mut self, count: usize) -> Vec<u64> {
        let mut positions = Vec::with_capacity(count);
        while positions.len() < count {
            positions.push(self.delivered().await.event.position);
        }
        positions
    }

    /// The next event, and it is this one, delivered so often.
    pub async fn expect(&mut self, position: u64, deliveries: u32) {
        let next = self.delivered().await;
        assert_eq!((next.event.position, next.deliveries), (position, deliveries));
    }

    /// What could not be settled. Events that come before are kept.
    pub async fn not_in_flight(&mut self) -> Vec<u64> {
        loop {
            match self.next().await.unwrap() {
                Message::NotInFlight(not_in_flight) => return not_in_flight.positions,
                Message::Events(events) => self.delivered.extend(unpack(events)),
                other => panic!("it was settled: {other:?}"),
            }
        }
    }

    /// Nothing comes, for two intervals of heartbeats.
    pub async fn expect_nothing(&mut self) {
        assert!(self.delivered.is_empty(), "{:?}", self.delivered);
        for _ in 0..2 {
            let message = within(self.next_or_heartbeat()).await.unwrap();
            assert!(matches!(message, Message::Heartbeat(_)), "{message:?}");
        }
    }

    /// Says something. An ended call hears nothing.
    pub async fn say(&self, message: Says) {
        let _ = within(self.requests.send(ConsumeRequest { message: Some(message) })).await;
    }

    /// Sends a message without content.
    pub async fn say_nothing(&self) {
        within(self.requests.send(ConsumeRequest { message: None })).await.unwrap();
    }

    pub async fn ack(&self, positions: impl Into<Vec<u64>>) {
        self.say(Says::Ack(Ack { positions: positions.into(), up_to: 0 })).await;
    }

    pub async fn ack_up_to(&self, up_to: u64) {
        self.say(Says::Ack(Ack { positions: vec![], up_to })).await;
    }

    pub async fn nack(&self, positions: impl Into<Vec<u64>>, action: NackAction, reason: &str) {
        let (positions, reason) = (positions.into(), reason.to_owned());
        self.say(Says::Nack(Nack { positions, action: action.into(), reason, ..Nack::default() }))
            .await;
    }

    /// Try this one again, so much later.
    pub async fn retry_after(&self, position: u64, wait: Duration) {
        let action = NackAction::Retry.into();
        let retry_after = Some(wait);
        let positions = vec![position];
        self.say(Says::Nack(Nack { positions, action, retry_after, ..Nack::default() })).await;
    }

    pub async fn park(&self, positions: impl Into<Vec<u64>>) {
        self.nack(positions, NackAction::Park, "parked").await;
    }

    pub async fn heartbeat(&self) {
        self.say(Says::Heartbeat(())).await;
    }
}
