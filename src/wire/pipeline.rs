//! `AppendStream`: appends that overlap on their way, answered in their order.

use std::{collections::VecDeque, pin::Pin, vec};

use futures_util::{FutureExt, future::BoxFuture};
use prost::Message;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, Streaming};

use super::{
    append::{self, AppendStreamRequest},
    convert::InvalidRequest,
    proto::v1::{AppendStreamResponse, append_stream_response},
    status,
};
use crate::{
    core::{
        append::{AppendError, Committed, Proposal},
        limits::Limits,
    },
    service::command::{CommandService, Together},
};

/// At most so many groups of one `AppendStream` are on their way at once; then it is read no further.
const GROUPS_MAX: usize = 8;

/// So many appends are handed in together at most.
const TOGETHER_MAX: usize = 128;

/// One `AppendStream`. What has come is handed in together, and no answer is waited for before more is read. Whoever sends
/// the answers does all of it: nothing is read faster than answers are taken, and where callers lead (in memory mode) and
/// nobody else does just then, no task is woken between a request and its answer.
pub struct Pipeline {
    service: CommandService,
    limits: Limits,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    /// `None` once they have ended, in one way or another.
    requests: Option<Streaming<AppendStreamRequest>>,
    /// What is being handed in: conditions are looked at first, which may take its time.
    handing_in: Option<Group<BoxFuture<'static, Together>>>,
    /// What was handed in, and is not answered.
    groups: VecDeque<Group<Together>>,
    /// What became of the group before them.
    outcomes: Outcomes,
    /// How many requests were answered.
    count: u64,
}

/// Requests that have come together.
struct Group<T> {
    /// For each of them why it was refused before it was handed in, if it was.
    requests: Vec<Result<(), Status>>,
    /// The others.
    together: T,
    /// How the call ends behind them, if it does.
    end: Option<Status>,
}

/// What became of a group, but for what was told already.
#[derive(Default)]
struct Outcomes {
    requests: vec::IntoIter<Result<(), Status>>,
    handed_in: vec::IntoIter<Result<Committed, AppendError>>,
    end: Option<Status>,
}

impl Outcomes {
    /// What became of the next request. It may be refused without the call's end.
    fn next(&mut self) -> Option<Result<Committed, Status>> {
        let handed_in = &mut self.handed_in;
        let request = self.requests.next()?;
        Some(request.and_then(|()| Ok(handed_in.next().expect("each has one")?)))
    }
}

impl Pipeline {
    /// Ends when `stop` is cancelled, behind what has been handed in.
    pub fn new(
        service: CommandService,
        limits: Limits,
        stop: CancellationToken,
        requests: Streaming<AppendStreamRequest>,
    ) -> Self {
        Self {
            service,
            limits,
            stop: Box::pin(stop.cancelled_owned()),
            requests: Some(requests),
            handing_in: None,
            groups: VecDeque::new(),
            outcomes: Outcomes::default(),
            count: 0,
        }
    }

    /// The next answer, or how the call ends; `None` behind the end.
    pub async fn next(&mut self) -> Option<Result<AppendStreamResponse, Status>> {
        loop {
            if let Some(outcome) = self.outcomes.next() {
                self.count += 1;
                return Some(Ok(response(self.count, outcome)));
            }
            if let Some(end) = self.outcomes.end.take() {
                return Some(Err(end));
            }
            let room = self.handing_in.is_none() && self.groups.len() < GROUPS_MAX;
            let requests = self.requests.as_mut().filter(|_| room);
            // What is not waited for to its end is waited for again: nothing is lost.
            tokio::select! {
                biased;
                Some(handed_in) = outcomes(self.groups.front_mut()) => {
                    let Group { requests, end, .. } = self.groups.pop_front()?;
                    let (requests, handed_in) = (requests.into_iter(), handed_in.into_iter());
                    self.outcomes = Outcomes { requests, handed_in, end };
                }
                Some(together) = together(self.handing_in.as_mut()) => {
                    let Group { requests, end, .. } = self.handing_in.take()?;
                    self.groups.push_back(Group { requests, together, end });
                }
                Some(request) = request(requests, &mut self.stop) => self.hand_in(request),
                else => return None,
            }
        }
    }

    /// Hands in what has come, `first` and what is behind it.
    fn hand_in(&mut self, first: Result<Option<AppendStreamRequest>, Status>) {
        let (mut requests, mut proposals) = (Vec::new(), Vec::new());
        let mut end = None;
        let mut next = Some(first);
        while let Some(request) = next.take() {
            match request {
                Ok(Some(request)) => {
                    let proposal = proposal(request, &self.limits);
                    requests.push(proposal.map(|it| proposals.push(it)));
                    if requests.len() < TOGETHER_MAX {
                        next = self.requests.as_mut().and_then(|it| it.message().now_or_never());
                    }
                }
                Ok(None) => self.requests = None,
                Err(status) => {
                    end = Some(status);
                    self.requests.take().map(|rest| tokio::spawn(super::linger(rest)));
                }
            }
        }
        let service = self.service.clone();
        let together = async move { service.submit(proposals).await }.boxed();
        self.handing_in = Some(Group { requests, together, end });
    }
}

/// What is handed in, if something is.
async fn together(group: Option<&mut Group<BoxFuture<'static, Together>>>) -> Option<Together> {
    Some((&mut group?.together).await)
}

/// What became of a group, if there is one.
async fn outcomes(
    group: Option<&mut Group<Together>>,
) -> Option<Vec<Result<Committed, AppendError>>> {
    Some(group?.together.outcomes().await)
}

/// The next request, if there are any; the server's stop is an error.
async fn request(
    requests: Option<&mut Streaming<AppendStreamRequest>>,
    stop: &mut Pin<Box<WaitForCancellationFutureOwned>>,
) -> Option<Result<Option<AppendStreamRequest>, Status>> {
    let requests = requests?;
    tokio::select! {
        biased;
        () = stop => Some(Err(status::shutting_down())),
        request = requests.message() => Some(request),
    }
}

fn proposal(request: AppendStreamRequest, limits: &Limits) -> Result<Proposal, Status> {
    let append = request.append.ok_or(InvalidRequest::one("append", "must be set"))?;
    Ok(append::proposal(append, limits)?)
}

/// The answer to the request of this number, from 1 on.
fn response(request: u64, outcome: Result<Committed, Status>) -> AppendStreamResponse {
    let result = match outcome {
        Ok(committed) => append_stream_response::Result::Appended(append::appended(&committed)),
        Err(status) => append_stream_response::Result::Error(tonic_types::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: details(&status),
        }),
    };
    AppendStreamResponse { request, result: Some(result) }
}

/// The details of a status, which travel with it in one piece.
fn details(status: &Status) -> Vec<prost_types::Any> {
    tonic_types::Status::decode(status.details()).map(|whole| whole.details).unwrap_or_default()
}
