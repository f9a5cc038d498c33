//! Consumer groups: the part of `annals.v1.SubscriptionService` whose positions the server keeps.

use tonic::{Request, Response, Status, Streaming};

use super::{
    Answers,
    proto::v1::{
        ConsumeRequest, ConsumeResponse, CreateGroupRequest, CreateGroupResponse,
        DeleteGroupRequest, DeleteGroupResponse, DropParkedRequest, DropParkedResponse,
        GetGroupRequest, GetGroupResponse, ListGroupsRequest, ListGroupsResponse,
        ListParkedRequest, ListParkedResponse, PollRequest, PollResponse, ReplayParkedRequest,
        ReplayParkedResponse, SetGroupPositionRequest, SetGroupPositionResponse, SettleRequest,
        SettleResponse, UpdateGroupRequest, UpdateGroupResponse,
    },
    status,
};

/// The calls about groups.
pub struct Groups;

impl Groups {
    pub async fn create(&self, _: CreateGroupRequest) -> Result<CreateGroupResponse, Status> {
        Err(status::not_yet())
    }

    pub async fn update(&self, _: UpdateGroupRequest) -> Result<UpdateGroupResponse, Status> {
        Err(status::not_yet())
    }

    pub async fn delete(&self, _: DeleteGroupRequest) -> Result<DeleteGroupResponse, Status> {
        Err(status::not_yet())
    }

    pub fn get(&self, _: &GetGroupRequest) -> Result<GetGroupResponse, Status> {
        Err(status::not_yet())
    }

    pub fn list(&self, _: ListGroupsRequest) -> Result<ListGroupsResponse, Status> {
        Err(status::not_yet())
    }

    pub async fn set_position(
        &self,
        _: SetGroupPositionRequest,
    ) -> Result<SetGroupPositionResponse, Status> {
        Err(status::not_yet())
    }

    pub async fn consume(
        &self,
        _: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Answers<ConsumeResponse>>, Status> {
        Err(status::not_yet())
    }

    pub async fn poll(&self, _: Request<PollRequest>) -> Result<PollResponse, Status> {
        Err(status::not_yet())
    }

    pub async fn settle(&self, _: SettleRequest) -> Result<SettleResponse, Status> {
        Err(status::not_yet())
    }

    pub fn list_parked(&self, _: ListParkedRequest) -> Result<ListParkedResponse, Status> {
        Err(status::not_yet())
    }

    pub async fn replay_parked(
        &self,
        _: ReplayParkedRequest,
    ) -> Result<ReplayParkedResponse, Status> {
        Err(status::not_yet())
    }

    pub async fn drop_parked(&self, _: DropParkedRequest) -> Result<DropParkedResponse, Status> {
        Err(status::not_yet())
    }
}
