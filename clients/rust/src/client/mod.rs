//! The connection to a server, and what every call over it has in common: a deadline, and another try where that
//! can help.

mod connection;
mod options;
mod retry;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

pub(crate) use connection::CertificateRefused;
pub use connection::Connection;
pub use options::ClientOptions;
pub(crate) use retry::Backoff;
pub use retry::Retry;
use tokio::time::{Instant, timeout_at};
/// What [`ClientOptions::tls`] takes, so that nobody needs tonic for it.
#[cfg(feature = "tls")]
pub use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use tonic::{Code, Request, Response, Status};

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
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// let writer = client.clone();
/// let appended = tokio::spawn(async move {
///     writer.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await
/// });
/// let position = appended.await.unwrap()?.position;
/// let events = client.read_all().min_position(position).collect().await?;
/// assert_eq!(events[0].event_type, "PaymentProcessed");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    connections: Arc<Connections>,
    deadline: Duration,
    retry: Retry,
}

#[derive(Debug)]
struct Connections {
    /// At least one, all of one server.
    all: Vec<Connection>,
    next: AtomicUsize,
}

impl Client {
    /// A client of the server at `url`, such as `http://127.0.0.1:2113`, with everything else as
    /// [`ClientOptions`] has it. The server need not be there yet: the first call waits for it.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let url = format!("http://{}", store.address());
    /// use annals_client::Client;
    ///
    /// let client = Client::connect(url).await?;
    /// assert_eq!(client.count([]).await?.answer.count, 0);
    ///
    /// let wrong = Client::connect("127.0.0.1:2113").await;
    /// assert!(wrong.is_err(), "it has no http://");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect(url: impl Into<String>) -> Result<Self> {
        ClientOptions::new(url).connect().await
    }

    /// The same connections with another deadline for each call.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// use std::time::Duration;
    ///
    /// let hasty = client.with_deadline(Duration::from_millis(100));
    /// let error = hasty.read_all().min_position(1).collect().await.unwrap_err();
    /// assert!(error.is_outcome_unknown(), "nobody has written it in time");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// One of the connections, in turn.
    fn connection(&self) -> Connection {
        let Connections { all, next } = &*self.connections;
        // Relaxed: any turn will do.
        let turn = next.fetch_add(1, Ordering::Relaxed);
        all[turn % all.len()].clone()
    }

    /// The generated client of the calls that write, without deadlines and repeats.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// use annals_client::proto;
    ///
    /// let request = proto::AppendRequest {
    ///     stream: "Payment-1".to_owned(),
    ///     events: vec![proto::NewEvent { r#type: "PaymentProcessed".into(), ..Default::default() }],
    ///     validate_only: true,
    ///     ..Default::default()
    /// };
    /// client.commands().append(request).await?;
    /// assert_eq!(client.count([]).await?.answer.count, 0, "it was only looked at");
    /// # Ok(())
    /// # }
    /// ```
    pub fn commands(&self) -> CommandServiceClient<Connection> {
        CommandServiceClient::new(self.connection())
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    /// The generated client of the calls that read, without deadlines and repeats.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// use annals_client::proto;
    ///
    /// let appended = client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
    /// let request =
    ///     proto::GetStreamRequest { stream: "Payment-1".into(), min_position: appended.position };
    /// let answer = client.queries().get_stream(request).await?.into_inner();
    /// assert_eq!(answer.stream.unwrap().version, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn queries(&self) -> QueryServiceClient<Connection> {
        QueryServiceClient::new(self.connection()).max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    /// The generated client of subscriptions and groups, without deadlines and repeats.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// use annals_client::proto;
    ///
    /// let _subscription = client.subscribe().name("mailer").start().await?;
    /// let request = proto::ListSubscriptionsRequest::default();
    /// let answer = client.subscriptions().list_subscriptions(request).await?.into_inner();
    /// assert_eq!(answer.subscriptions[0].name, "mailer");
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscriptions(&self) -> SubscriptionServiceClient<Connection> {
        SubscriptionServiceClient::new(self.connection())
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    /// The generated client of read models, without deadlines and repeats.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// use annals_client::proto;
    ///
    /// client.read_model("payments").create(&[]).await?;
    /// let request = proto::ListModelsRequest { page_size: 1, ..Default::default() };
    /// let answer = client.read_models().list_models(request).await?.into_inner();
    /// assert_eq!(answer.models[0].model, "payments");
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_models(&self) -> ReadModelServiceClient<Connection> {
        ReadModelServiceClient::new(self.connection())
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    /// The generated client of the operator's calls, without deadlines and repeats.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// use annals_client::proto;
    ///
    /// let info = client.admin().get_info(proto::GetInfoRequest {}).await?.into_inner();
    /// assert_eq!((info.head, info.stream_count), (0, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn admin(&self) -> AdminServiceClient<Connection> {
        AdminServiceClient::new(self.connection()).max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
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
                _ => {
                    let url = self.connections.all[0].url();
                    let late = Status::deadline_exceeded(format!("{url} has not answered"));
                    return Err(late.into());
                }
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
