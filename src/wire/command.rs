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
        append::Proposal,
        limits::Limits,
        retention::{Change, Setting},
        store::Answer,
    },
    service::command::{CommandService, outcome},
};

/// So many appends of one `AppendStream` are on their way at once; then it is read no further.
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
        let (pending, handed_in) = mpsc::channel(PIPELINE_MAX);
        let handed_in = HandedIn { pending: handed_in, taken: Vec::new().into_iter(), count: 0 };
        let pipeline = Pipeline {
            service: self.service.clone(),
            limits: self.limits,
            stop: self.stop.clone(),
            pending,
        };
        tokio::spawn(pipeline.run(request.into_inner()));
        Ok(Response::new(answers(handed_in, |mut handed_in| async move {
            let (request, pending) = handed_in.next().await?;
            let answer = match pending {
                Pending::Answer(answer) => outcome(answer).await.map_err(Status::from),
                Pending::Refused(status) => Err(status),
                Pending::End(status) => return Some((Err(status), handed_in)),
            };
            let result = match answer {
                Ok(committed) => {
                    append_stream_response::Result::Appended(append::appended(&committed))
                }
                Err(status) => append_stream_response::Result::Error(tonic_types::Status {
                    code: status.code().into(),
                    message: status.message().to_owned(),
                    details: details(&status),
                }),
            };
            let response = AppendStreamResponse { request, result: Some(result) };
            Some((Ok(response), handed_in))
        })))
    }
}

/// The details of a status, which travel with it in one piece.
fn details(status: &Status) -> Vec<prost_types::Any> {
    use prost::Message;
    tonic_types::Status::decode(status.details()).map(|whole| whole.details).unwrap_or_default()
}

/// What became of one request of a pipeline.
enum Pending {
    /// Handed in.
    Answer(Answer),
    /// Refused before that; the pipeline goes on.
    Refused(Status),
    /// The pipeline ends here.
    End(Status),
}

/// What a pipeline has handed in, in its order: taken as it was handed in, many at once.
struct HandedIn {
    pending: mpsc::Receiver<Pending>,
    taken: std::vec::IntoIter<Pending>,
    /// How many were asked for.
    count: u64,
}

impl HandedIn {
    /// The next one, and its number from 1; `None` at the end.
    async fn next(&mut self) -> Option<(u64, Pending)> {
        if self.taken.len() == 0 {
            let mut more = Vec::new();
            self.pending.recv_many(&mut more, TOGETHER_MAX).await;
            self.taken = more.into_iter();
        }
        let next = self.taken.next()?;
        self.count += 1;
        Some((self.count, next))
    }
}

/// Reads one `AppendStream` and hands its appends in, in their order: what has come together is handed in together. It
/// waits for no answer, so that appends overlap on their way; it ends with the stream, in both directions.
struct Pipeline {
    service: CommandService,
    limits: Limits,
    stop: CancellationToken,
    pending: mpsc::Sender<Pending>,
}

impl Pipeline {
    async fn run(self, mut requests: Streaming<AppendStreamRequest>) {
        loop {
            let first = tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(status::shutting_down()),
                request = requests.message() => request,
            };
            let (mut proposals, mut pending) = (Vec::new(), Vec::new());
            let mut end = None;
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Ok(Some(request)) => {
                        pending.push(self.proposal(request).map(|it| proposals.push(it)));
                    }
                    Ok(None) => end = Some(None),
                    Err(status) => end = Some(Some(Pending::End(status))),
                }
                let room = end.is_none() && pending.len() < TOGETHER_MAX;
                next = if room { requests.message().now_or_never() } else { None };
            }
            let mut answers = self.service.submit(proposals).await.into_iter();
            let pending = pending.into_iter().map(|outcome| match outcome {
                Ok(()) => match answers.next().expect("each proposal has one") {
                    Ok(answer) => Pending::Answer(answer),
                    Err(error) => Pending::Refused(error.into()),
                },
                Err(status) => Pending::Refused(status),
            });
            let Ok(places) = self.pending.reserve_many(pending.len()).await else { return };
            for (place, pending) in places.zip(pending) {
                place.send(pending);
            }
            match end {
                None => {}
                Some(None) => return,
                Some(Some(last)) => {
                    if self.pending.send(last).await.is_ok() {
                        super::linger(requests).await;
                    }
                    return;
                }
            }
        }
    }

    fn proposal(&self, request: AppendStreamRequest) -> Result<Proposal, Status> {
        let append = request.append.ok_or(convert::InvalidRequest::one("append", "must be set"))?;
        Ok(append::proposal(append, &self.limits)?)
    }
}
