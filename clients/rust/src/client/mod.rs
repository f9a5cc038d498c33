//! The connection to a server, and what every call over it has in common: a deadline, and another try where that
//! can help.

mod options;
mod retry;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

pub use options::ClientOptions;
pub(crate) use retry::Backoff;
pub use retry::Retry;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Response, Status, transport::Channel};

use crate::{
    Error, Result,
    proto::{
        admin_service_client::AdminServiceClient, command_service_client::CommandServiceClient,
        query_service_client::QueryServiceClient,
        read_model_service_client::ReadModelServiceClient,
        subscription_service_client::SubscriptionServiceClient,
    },
};

/// A batch of events is at most a commit of 16 MiB; the rest is room.
const MESSAGE_SIZE_BYTES_MAX: usize = 64 << 20;

/// A client of one server. Clones share its connections.
///
/// Every call has a deadline, and is repeated with growing pauses while the server is away or overloaded: that is
/// safe, because events keep their ids, and everything else has the same effect twice.
#[derive(Debug, Clone)]
pub struct Client {
    connections: Arc<Connections>,
    deadline: Duration,
    retry: Retry,
}

#[derive(Debug)]
struct Connections {
    channels: Vec<Channel>,
    next: AtomicUsize,
}

impl Client {
    /// A client of the server at `url`, such as `http://127.0.0.1:2113`, with everything else as
    /// [`ClientOptions`] has it. The server need not be there yet: the first call waits for it.
    pub async fn connect(url: impl Into<String>) -> Result<Self> {
        ClientOptions::new(url).connect().await
    }

    /// The same connections with another deadline for each call.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// One of the connections, in turn.
    fn channel(&self) -> Channel {
        let Connections { channels, next } = &*self.connections;
        // Relaxed: any turn will do.
        let turn = next.fetch_add(1, Ordering::Relaxed);
        channels[turn % channels.len()].clone()
    }

    /// The generated client of the calls that write, without deadlines and repeats.
    pub fn commands(&self) -> CommandServiceClient<Channel> {
        CommandServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    /// The generated client of the calls that read, without deadlines and repeats.
    pub fn queries(&self) -> QueryServiceClient<Channel> {
        QueryServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    /// The generated client of subscriptions and groups, without deadlines and repeats.
    pub fn subscriptions(&self) -> SubscriptionServiceClient<Channel> {
        SubscriptionServiceClient::new(self.channel())
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    /// The generated client of read models, without deadlines and repeats.
    pub fn read_models(&self) -> ReadModelServiceClient<Channel> {
        ReadModelServiceClient::new(self.channel())
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    /// The generated client of the operator's calls, without deadlines and repeats.
    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    /// Makes a call until it succeeds, is refused, or its deadline has passed.
    pub(crate) async fn call<M, T, F>(
        &self,
        message: M,
        call: impl Fn(Self, Request<M>) -> F,
    ) -> Result<T>
    where
        M: Clone,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_with_headers(message, call).await.map(Response::into_inner)
    }

    /// The same, with the answer's headers.
    pub(crate) async fn call_with_headers<M, T, F>(
        &self,
        message: M,
        call: impl Fn(Self, Request<M>) -> F,
    ) -> Result<Response<T>>
    where
        M: Clone,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let until = Instant::now() + self.deadline;
        let mut backoff = Backoff::new(&self.retry);
        loop {
            let mut request = Request::new(message.clone());
            request.set_timeout(until.saturating_duration_since(Instant::now()));
            // Here too: a read sends no deadline along, or its answer would end in the middle.
            let error: Error = match timeout_at(until, call(self.clone(), request)).await {
                Ok(Ok(answer)) => return Ok(answer),
                // tonic's own timer says CANCELLED.
                Ok(Err(status)) if status.code() != Code::Cancelled || Instant::now() < until => {
                    status.into()
                }
                _ => return Err(Status::deadline_exceeded("the server has not answered").into()),
            };
            match backoff.next() {
                Some(pause) if error.is_repeatable() && Instant::now() + pause < until => {
                    tracing::debug!(%error, ?pause, "a call is made again");
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(error),
            }
        }
    }
}
