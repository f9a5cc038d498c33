//! `annals.v1.CommandService`.

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::{
    Answers, answers,
    append::{self, AppendRequest, AppendStreamRequest, CommitRequest},
    convert,
    proto::{
        commands::command_service_server,
        v1::{
            AppendResponse, AppendStreamResponse, CommitResponse, DeleteStreamRequest,
            DeleteStreamResponse, SetRetentionRequest, SetRetentionResponse,
            TombstoneStreamRequest, TombstoneStreamResponse, TruncateStreamRequest,
            TruncateStreamResponse, append_stream_response,
        },
    },
    settings, status,
};
use crate::{
    core::{
        append::{Committed, Proposal},
        limits::Limits,
        retention::{Change, Setting},
    },
    service::command::{CommandService, Together},
};

/// At most so many appends of one `AppendStream` are on their way at once, in as many groups as full ones would be; then it
/// is read no further.
const PIPELINE_MAX: usize = 1024;

/// So many of them are handed in together at most.
const TOGETHER_MAX: usize = 128;

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
        let (handed_in, groups) = mpsc::channel(PIPELINE_MAX / TOGETHER_MAX);
        let pending = Pending { groups, taken: Vec::new().into_iter(), count: 0 };
        let pipeline = Pipeline {
            service: self.service.clone(),
            limits: self.limits,
            stop: self.stop.clone(),
            handed_in,
        };
        tokio::spawn(pipeline.run(request.into_inner()));
        Ok(Response::new(answers(pending, |mut pending| async move {
            let outcome = pending.next().await?;
            let response = outcome.map(|outcome| {
                let result = match outcome {
                    Ok(committed) => {
                        append_stream_response::Result::Appended(append::appended(&committed))
                    }
                    Err(status) => append_stream_response::Result::Error(tonic_types::Status {
                        code: status.code().into(),
                        message: status.message().to_owned(),
                        details: details(&status),
                    }),
                };
                AppendStreamResponse { request: pending.count, result: Some(result) }
            });
            Some((response, pending))
        })))
    }
}

/// The details of a status, which travel with it in one piece.
fn details(status: &Status) -> Vec<prost_types::Any> {
    use prost::Message;
    tonic_types::Status::decode(status.details()).map(|whole| whole.details).unwrap_or_default()
}

/// What became of a request: refused, or not. It may be refused without the pipeline's end.
type Outcome = Result<Committed, Status>;

/// Requests of a pipeline that have come together.
struct Group {
    /// For each of them why it was refused before it was handed in, if it was.
    requests: Vec<Result<(), Status>>,
    /// What became of the others.
    together: Together,
    /// The pipeline ends behind them.
    end: Option<Status>,
}

impl Group {
    /// Waits for it. The last one may be the pipeline's end.
    async fn outcomes(self) -> Vec<Result<Outcome, Status>> {
        let mut answers = self.together.outcomes().await.into_iter();
        let mut outcome = |request: Result<(), Status>| {
            request.and_then(|()| Ok(answers.next().expect("each has one")?))
        };
        let outcomes = self.requests.into_iter().map(|request| Ok(outcome(request)));
        outcomes.chain(self.end.map(Err)).collect()
    }
}

/// What a pipeline has handed in, in its order.
struct Pending {
    groups: mpsc::Receiver<Group>,
    taken: std::vec::IntoIter<Result<Outcome, Status>>,
    /// How many were asked for.
    count: u64,
}

impl Pending {
    /// What becomes of the next one, or how it all ends; `None` behind the end.
    async fn next(&mut self) -> Option<Result<Outcome, Status>> {
        while self.taken.len() == 0 {
            self.taken = self.groups.recv().await?.outcomes().await.into_iter();
        }
        self.count += 1;
        self.taken.next()
    }
}

/// Reads one `AppendStream` and hands its appends in, in their order: what has come together is handed in together. It
/// waits for no answer, so that appends overlap on their way; it ends with the stream, in both directions.
struct Pipeline {
    service: CommandService,
    limits: Limits,
    stop: CancellationToken,
    handed_in: mpsc::Sender<Group>,
}

impl Pipeline {
    async fn run(self, mut requests: Streaming<AppendStreamRequest>) {
        let lingers = loop {
            let first = tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(status::shutting_down()),
                request = requests.message() => request,
            };
            let (mut proposals, mut group) = (Vec::new(), Vec::new());
            let (mut open, mut end) = (true, None);
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Ok(Some(request)) => {
                        group.push(self.proposal(request).map(|it| proposals.push(it)));
                    }
                    Ok(None) => open = false,
                    Err(status) => (open, end) = (false, Some(status)),
                }
                let room = open && group.len() < TOGETHER_MAX;
                next = if room { requests.message().now_or_never() } else { None };
            }
            let together = self.service.submit(proposals).await;
            let lingers = end.is_some();
            let group = Group { requests: group, together, end };
            if self.handed_in.send(group).await.is_err() {
                return;
            }
            if !open {
                break lingers;
            }
        };
        if lingers {
            super::linger(requests).await;
        }
    }

    fn proposal(&self, request: AppendStreamRequest) -> Result<Proposal, Status> {
        let append = request.append.ok_or(convert::InvalidRequest::one("append", "must be set"))?;
        Ok(append::proposal(append, &self.limits)?)
    }
}
