//! `annals.v1.SubscriptionService`.

use tonic::{Request, Response, Status, Streaming};

use super::{
    Answers, answers,
    block::EventBlock,
    convert,
    group::Groups,
    proto::v1::{
        CaughtUp, Checkpoint, ConsumeRequest, ConsumeResponse, CreateGroupRequest,
        CreateGroupResponse, DeleteGroupRequest, DeleteGroupResponse, DropParkedRequest,
        DropParkedResponse, FellBehind, GetGroupRequest, GetGroupResponse, Heartbeat,
        ListGroupsRequest, ListGroupsResponse, ListParkedRequest, ListParkedResponse,
        ListSubscriptionsRequest, ListSubscriptionsResponse, PollRequest, PollResponse,
        ReplayParkedRequest, ReplayParkedResponse, SetGroupPositionRequest,
        SetGroupPositionResponse, SettleRequest, SettleResponse, SubscribeInteractiveRequest,
        SubscribeInteractiveResponse, SubscribeRequest, SubscribeResponse, SubscriptionConfirmed,
        UpdateGroupRequest, UpdateGroupResponse, WatchSubscriptionsRequest,
        WatchSubscriptionsResponse, subscribe_response, subscription_service_server,
    },
    status,
};
use crate::{
    core::limits::Limits,
    service::subscription::{Message, SubscriptionService},
};

/// The service on the wire.
pub struct Subscriptions {
    service: SubscriptionService,
    groups: Groups,
    limits: Limits,
}

impl Subscriptions {
    pub fn new(service: SubscriptionService, groups: Groups, limits: Limits) -> Self {
        Self { service, groups, limits }
    }
}

#[tonic::async_trait]
impl subscription_service_server::SubscriptionService for Subscriptions {
    type SubscribeStream = Answers<SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let options = convert::subscribe(request.into_inner(), &self.limits)?;
        let subscription = self.service.subscribe(options)?;
        Ok(Response::new(answers(Some(subscription), |subscription| async move {
            let mut subscription = subscription?;
            match subscription.next().await {
                Ok(message) => Some((Ok(message.into()), Some(subscription))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })))
    }

    type SubscribeInteractiveStream = Answers<SubscribeInteractiveResponse>;

    async fn subscribe_interactive(
        &self,
        _: Request<Streaming<SubscribeInteractiveRequest>>,
    ) -> Result<Response<Self::SubscribeInteractiveStream>, Status> {
        Err(status::not_yet())
    }

    async fn list_subscriptions(
        &self,
        _: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<ListSubscriptionsResponse>, Status> {
        Err(status::not_yet())
    }

    type WatchSubscriptionsStream = Answers<WatchSubscriptionsResponse>;

    async fn watch_subscriptions(
        &self,
        _: Request<WatchSubscriptionsRequest>,
    ) -> Result<Response<Self::WatchSubscriptionsStream>, Status> {
        Err(status::not_yet())
    }

    async fn create_group(
        &self,
        request: Request<CreateGroupRequest>,
    ) -> Result<Response<CreateGroupResponse>, Status> {
        self.groups.create(request.into_inner()).await.map(Response::new)
    }

    async fn update_group(
        &self,
        request: Request<UpdateGroupRequest>,
    ) -> Result<Response<UpdateGroupResponse>, Status> {
        self.groups.update(request.into_inner()).await.map(Response::new)
    }

    async fn delete_group(
        &self,
        request: Request<DeleteGroupRequest>,
    ) -> Result<Response<DeleteGroupResponse>, Status> {
        self.groups.delete(request.into_inner()).await.map(Response::new)
    }

    async fn get_group(
        &self,
        request: Request<GetGroupRequest>,
    ) -> Result<Response<GetGroupResponse>, Status> {
        self.groups.get(request.get_ref()).map(Response::new)
    }

    async fn list_groups(
        &self,
        request: Request<ListGroupsRequest>,
    ) -> Result<Response<ListGroupsResponse>, Status> {
        self.groups.list(request.into_inner()).map(Response::new)
    }

    async fn set_group_position(
        &self,
        request: Request<SetGroupPositionRequest>,
    ) -> Result<Response<SetGroupPositionResponse>, Status> {
        self.groups.set_position(request.into_inner()).await.map(Response::new)
    }

    async fn settle(
        &self,
        request: Request<SettleRequest>,
    ) -> Result<Response<SettleResponse>, Status> {
        self.groups.settle(request.into_inner()).map(Response::new)
    }

    async fn list_parked(
        &self,
        request: Request<ListParkedRequest>,
    ) -> Result<Response<ListParkedResponse>, Status> {
        self.groups.list_parked(request.into_inner()).map(Response::new)
    }

    async fn replay_parked(
        &self,
        request: Request<ReplayParkedRequest>,
    ) -> Result<Response<ReplayParkedResponse>, Status> {
        self.groups.replay_parked(request.into_inner()).await.map(Response::new)
    }

    async fn drop_parked(
        &self,
        request: Request<DropParkedRequest>,
    ) -> Result<Response<DropParkedResponse>, Status> {
        self.groups.drop_parked(request.into_inner()).await.map(Response::new)
    }

    type ConsumeStream = Answers<ConsumeResponse>;

    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        self.groups.consume(request).await
    }

    async fn poll(&self, request: Request<PollRequest>) -> Result<Response<PollResponse>, Status> {
        self.groups.poll(request).await.map(Response::new)
    }
}

impl From<Message> for SubscribeResponse {
    fn from(message: Message) -> Self {
        use subscribe_response::Message as Sent;
        let message = match message {
            Message::Confirmed { id, after, head } => Sent::Confirmed(SubscriptionConfirmed {
                subscription_id: id.to_string(),
                after: after.get(),
                head: head.get(),
            }),
            Message::Events(block) => Sent::Events(EventBlock::from_encoded(block.bytes)),
            Message::Checkpoint(position) => {
                Sent::Checkpoint(Checkpoint { position: position.get() })
            }
            Message::CaughtUp(position) => Sent::CaughtUp(CaughtUp { position: position.get() }),
            Message::FellBehind { position, head } => {
                Sent::FellBehind(FellBehind { position: position.get(), head: head.get() })
            }
            Message::Heartbeat { position, sent_at } => Sent::Heartbeat(Heartbeat {
                position: position.get(),
                sent_at: Some(convert::timestamp(sent_at)),
            }),
        };
        Self { message: Some(message), pending: 0, replaying: false }
    }
}
