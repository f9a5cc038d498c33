//! `annals.v1.SubscriptionService`.

use tonic::{Request, Response, Status, Streaming};

use super::{
    Answers, answers, caller,
    group::Groups,
    interactive::Conversation,
    proto::v1::{
        ConsumeRequest, ConsumeResponse, CreateGroupRequest, CreateGroupResponse,
        DeleteGroupRequest, DeleteGroupResponse, DropParkedRequest, DropParkedResponse,
        GetGroupRequest, GetGroupResponse, ListGroupsRequest, ListGroupsResponse,
        ListParkedRequest, ListParkedResponse, ListSubscriptionsRequest, ListSubscriptionsResponse,
        PollRequest, PollResponse, ReplayParkedRequest, ReplayParkedResponse,
        SetGroupPositionRequest, SetGroupPositionResponse, SettleRequest, SettleResponse,
        SubscribeInteractiveRequest, SubscribeInteractiveResponse, SubscribeRequest,
        SubscribeResponse, UpdateGroupRequest, UpdateGroupResponse, WatchSubscriptionsRequest,
        WatchSubscriptionsResponse, subscription_service_server,
    },
    subscribing,
};
use crate::{
    core::limits::Limits,
    service::{
        query::QueryError,
        subscription::{Caller, SubscriptionService},
    },
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
        let caller = caller::of(&request);
        let (options, name) = subscribing::subscribe(request.into_inner(), &self.limits)?;
        let subscription = self.service.subscribe(options, Caller { name, ..caller }).await?;
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
        request: Request<Streaming<SubscribeInteractiveRequest>>,
    ) -> Result<Response<Self::SubscribeInteractiveStream>, Status> {
        // What it calls itself comes with the first message.
        let caller = caller::of(&request);
        let (service, requests) = (self.service.clone(), request.into_inner());
        let conversation = Conversation::new(service, self.limits, caller, requests);
        Ok(Response::new(answers(Some(conversation), |conversation| async move {
            let mut conversation = conversation?;
            match conversation.next().await {
                Ok(message) => Some((Ok(message), Some(conversation))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn list_subscriptions(
        &self,
        request: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<ListSubscriptionsResponse>, Status> {
        let page = subscribing::page(request.into_inner())?;
        Ok(Response::new(self.service.list(&page, self.groups.service.rows()).into()))
    }

    type WatchSubscriptionsStream = Answers<WatchSubscriptionsResponse>;

    async fn watch_subscriptions(
        &self,
        request: Request<WatchSubscriptionsRequest>,
    ) -> Result<Response<Self::WatchSubscriptionsStream>, Status> {
        let interval = subscribing::watch(request.into_inner())?;
        let groups = self.groups.service.clone();
        let watched = self.service.watch(move || groups.rows()).map_err(QueryError::from)?;
        Ok(Response::new(answers(Some(watched), move |watched| async move {
            let mut watched = watched?;
            match watched.next(interval).await {
                Ok(changes) => Some((Ok(changes.into()), Some(watched))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })))
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
