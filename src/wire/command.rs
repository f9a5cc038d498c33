//! `annals.v1.CommandService`.

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::{
    Answers, answers,
    append::{self, AppendRequest, AppendStreamRequest, CommitRequest},
    pipeline::Pipeline,
    proto::{
        commands::command_service_server,
        v1::{
            AppendResponse, AppendStreamResponse, CommitResponse, DeleteStreamRequest,
            DeleteStreamResponse, SetRetentionRequest, SetRetentionResponse,
            TombstoneStreamRequest, TombstoneStreamResponse, TruncateStreamRequest,
            TruncateStreamResponse,
        },
    },
    settings,
};
use crate::{
    core::{
        limits::Limits,
        retention::{Change, Setting},
    },
    service::command::CommandService,
};

/// The service on the wire.
pub struct Commands {
    service: CommandService,
    limits: Limits,
    stop: CancellationToken,
}

impl Commands {
    /// Pipelines end when `stop` is cancelled.
    pub fn new(service: CommandService, limits: Limits, stop: CancellationToken) -> Self {
        Self { service, limits, stop }
    }

    /// Makes a setting; the position of its event, and whether it changed nothing.
    async fn set(&self, setting: Setting) -> Result<(u64, bool), Status> {
        let committed = self.service.commit(setting.proposal(Uuid::now_v7())).await?;
        Ok((committed.last.get(), committed.recorded_at.is_none()))
    }
}

#[tonic::async_trait]
impl command_service_server::CommandService for Commands {
    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendResponse>, Status> {
        let proposal = append::proposal(request.into_inner(), &self.limits)?;
        let committed = self.service.commit(proposal).await?;
        Ok(Response::new(append::appended(&committed)))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        let request = request.into_inner();
        let streams = request.writes.iter().map(|write| write.stream.clone()).collect();
        let proposal = append::commit_proposal(request, &self.limits)?;
        let committed = self.service.commit(proposal).await?;
        Ok(Response::new(append::committed(streams, &committed)))
    }

    async fn set_retention(
        &self,
        request: Request<SetRetentionRequest>,
    ) -> Result<Response<SetRetentionResponse>, Status> {
        let setting = settings::set_retention(request.into_inner(), &self.limits)?;
        let (position, unchanged) = self.set(setting).await?;
        Ok(Response::new(SetRetentionResponse { position, unchanged }))
    }

    async fn truncate_stream(
        &self,
        request: Request<TruncateStreamRequest>,
    ) -> Result<Response<TruncateStreamResponse>, Status> {
        let setting = settings::truncate(&request.into_inner(), &self.limits)?;
        let (position, unchanged) = self.set(setting).await?;
        Ok(Response::new(TruncateStreamResponse { position, unchanged }))
    }

    async fn delete_stream(
        &self,
        request: Request<DeleteStreamRequest>,
    ) -> Result<Response<DeleteStreamResponse>, Status> {
        let DeleteStreamRequest { stream, expected_version } = request.into_inner();
        let setting = settings::delete(&stream, expected_version, Change::Delete, &self.limits)?;
        let (position, unchanged) = self.set(setting).await?;
        Ok(Response::new(DeleteStreamResponse { position, unchanged }))
    }

    async fn tombstone_stream(
        &self,
        request: Request<TombstoneStreamRequest>,
    ) -> Result<Response<TombstoneStreamResponse>, Status> {
        let TombstoneStreamRequest { stream, expected_version } = request.into_inner();
        let setting = settings::delete(&stream, expected_version, Change::Tombstone, &self.limits)?;
        let (position, unchanged) = self.set(setting).await?;
        Ok(Response::new(TombstoneStreamResponse { position, unchanged }))
    }

    type AppendStreamStream = Answers<AppendStreamResponse>;

    async fn append_stream(
        &self,
        request: Request<Streaming<AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let stop = self.stop.clone();
        let pipeline = Pipeline::new(self.service.clone(), self.limits, stop, request.into_inner());
        // A box: what makes the answers moves it for each.
        Ok(Response::new(answers(Box::new(pipeline), |mut pipeline| async move {
            let response = pipeline.next().await?;
            Some((response, pipeline))
        })))
    }
}
