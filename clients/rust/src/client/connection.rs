//! A channel whose errors name the server and the cause: tonic's own say "transport error".

use std::{
    error::Error as StdError,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    ConnectError, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    transport::{self, Channel},
};

/// What rustls says first about a certificate that it does not take.
const CERTIFICATE_FAULT: &str = "invalid peer certificate";

/// A connection to one server, for the generated clients. It is made when it is needed, and again when it breaks.
///
/// ```
/// # use annals_client::testing::TestStore;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// use annals_client::{client::Connection, proto::query_service_client::QueryServiceClient};
///
/// let mut queries: QueryServiceClient<Connection> = client.queries();
/// assert_eq!(queries.count(annals_client::proto::CountRequest::default()).await?.into_inner().count, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Connection {
    channel: Channel,
    url: Arc<str>,
}

impl Connection {
    pub(super) fn new(channel: Channel, url: Arc<str>) -> Self {
        Self { channel, url }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<Self::Response, Status>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.channel.poll_ready(context).map_err(|error| status(&self.url, error))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.channel.call(request);
        let url = Arc::clone(&self.url);
        Box::pin(async move { answer.await.map_err(|error| status(&url, error)) })
    }
}

/// The server's certificate is not taken: the source of a [`Status`], which has no code for that.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {url}: {reason}")]
pub(crate) struct CertificateRefused {
    pub(crate) url: String,
    pub(crate) reason: String,
}

/// The code is the one that tonic finds.
fn status(url: &str, error: transport::Error) -> Status {
    let reason = causes(&error);
    let is_connecting = chain(&error).any(<dyn StdError>::is::<ConnectError>);
    let code = Status::from_error(Box::new(error)).code();
    if !is_connecting {
        return Status::new(code, format!("call to {url}: {reason}"));
    }
    let mut status = Status::new(code, format!("cannot connect to {url}: {reason}"));
    if reason.contains(CERTIFICATE_FAULT) {
        status.set_source(Arc::new(CertificateRefused { url: url.to_owned(), reason }));
    }
    status
}

/// What an error and its sources say, each thing once.
pub(super) fn causes(error: &transport::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    for cause in chain(error) {
        let cause = cause.to_string();
        // Of what follows it says nothing.
        let is_empty = cause == "transport error";
        if !is_empty && said.last().is_none_or(|last| !last.ends_with(&cause)) {
            said.push(cause);
        }
    }
    if said.is_empty() { error.to_string() } else { said.join(": ") }
}

fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
