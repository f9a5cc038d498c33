//! Pipelined appends: many on their way at once, over one call, answered in their order.
//!
//! ```
//! # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> annals_client::Result<()> {
//! # let store = TestStore::start().await;
//! # let client = store.client();
//! let pipeline = client.append_stream().await?;
//! let mut pending = Vec::new();
//! for number in 0..100 {
//!     let event = NewEvent::json("Measured", &number)?;
//!     pending.push(pipeline.append("Sensor-1", ExpectedVersion::Exact(number), [event]).await?);
//! }
//! for (version, pending) in (1..).zip(pending) {
//!     assert_eq!(pending.await?.version, version);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Nothing is repeated by itself. When the connection breaks, every append without an answer fails with an error whose
//! [`Error::is_outcome_unknown`] is true: begin another pipeline and append the same events, with their ids, again. That
//! is safe: those that had been written are answered as the first time.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_stream::Stream;
use tonic::{Code, Request, Status, Streaming};

use crate::{
    Client, Error, ExpectedVersion, NewEvent, Result,
    append::{Appended, Condition, append_request},
    error::ServerError,
    proto::{self, append_stream_response},
    subscribe::ended_without_error,
};

/// So many appends of one pipeline are on their way at once: the server reads no further, either.
const IN_FLIGHT_MAX: usize = 1024;

/// Pipelined appends: [`Client::append_stream`]. Dropped, it sends no more; what was sent is still answered.
///
/// ```
/// # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// let pipeline = client.append_stream().await?;
/// let requested = [NewEvent::new("PaymentRequested")];
/// let first = pipeline.append("Payment-1", ExpectedVersion::NoStream, requested).await?;
/// let processed = [NewEvent::new("PaymentProcessed")];
/// let second = pipeline.append("Payment-1", ExpectedVersion::Exact(1), processed).await?;
/// assert_eq!((first.await?.version, second.await?.version), (1, 2));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AppendStream {
    pipeline: Arc<Pipeline>,
}

/// An append on its way: a future of its answer. Dropped, the append is made all the same.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// let pipeline = client.append_stream().await?;
/// let refused = pipeline.append("Payment-1", 7, [NewEvent::new("PaymentFailed")]).await?;
/// let accepted = pipeline.append("Payment-2", 0, [NewEvent::new("PaymentRequested")]).await?;
/// assert!(refused.await.unwrap_err().is_conflict());
/// assert_eq!(accepted.await?.version, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "it tells whether the append was made"]
pub struct Pending(oneshot::Receiver<Result<Appended>>);

impl Client {
    /// Begins to append over one call, without waiting for each answer.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// let pipeline = client.append_stream().await?;
    /// let pending = pipeline.append("Sensor-1", 0, [NewEvent::new("Measured")]).await?;
    /// assert_eq!(pending.await?.position, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn append_stream(&self) -> Result<AppendStream> {
        let (pipeline, answers) = self
            .call((), |client, _| async move {
                let pipeline = Arc::new(Pipeline {
                    room: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
                    state: Mutex::default(),
                });
                let requests = Request::new(Requests(Arc::clone(&pipeline)));
                let answers = client.commands().append_stream(requests).await?;
                Ok(answers.map(|answers| (pipeline, answers)))
            })
            .await?;
        tokio::spawn(hear(Arc::clone(&pipeline), answers));
        Ok(AppendStream { pipeline })
    }
}

impl AppendStream {
    /// Sends an append, as soon as less than 1024 are on their way. Appends are made in the order in which this
    /// returns; one that is refused is answered with its error, and the others go on.
    ///
    /// An error here: the connection is broken, and nothing was sent.
    pub async fn append(
        &self,
        stream: impl Into<String>,
        expected: impl Into<ExpectedVersion>,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> Result<Pending> {
        self.append_if(stream, expected, events, Vec::new()).await
    }

    /// The same, if these conditions hold, at most 16.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// use annals_client::{Filter, append::Condition};
    ///
    /// let pipeline = client.append_stream().await?;
    /// let paid = Condition { filters: vec![Filter::new().tag("order-1")], after: 0 };
    /// let mut pending = Vec::new();
    /// for payment in ["Payment-1", "Payment-2"] {
    ///     let event = NewEvent::new("PaymentProcessed").tag("order-1");
    ///     pending.push(pipeline.append_if(payment, 0, [event], vec![paid.clone()]).await?);
    /// }
    /// let second = pending.pop().unwrap().await;
    /// assert_eq!(second.unwrap_err().reason(), "CONDITION_BROKEN");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn append_if(
        &self,
        stream: impl Into<String>,
        expected: impl Into<ExpectedVersion>,
        events: impl IntoIterator<Item = NewEvent>,
        conditions: Vec<Condition>,
    ) -> Result<Pending> {
        let append = append_request(stream, expected, events, conditions);
        // Closed: the state says why.
        let room = Arc::clone(&self.pipeline.room).acquire_owned().await.ok();
        let (answer, pending) = oneshot::channel();
        let mut state = self.pipeline.state();
        if let Some(error) = &state.broken {
            return Err(error.clone());
        }
        state.waiting.push_back((answer, room));
        state.requests.push_back(proto::AppendStreamRequest { append: Some(append) });
        state.wake();
        Ok(Pending(pending))
    }
}

impl Drop for AppendStream {
    fn drop(&mut self) {
        let mut state = self.pipeline.state();
        state.complete = true;
        state.wake();
    }
}

impl Future for Pending {
    type Output = Result<Appended>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.0).poll(context);
        answer.map(|answer| answer.unwrap_or_else(|_| Err(ended_without_error().into())))
    }
}

type Answer = oneshot::Sender<Result<Appended>>;

/// What an [`AppendStream`] shares with the call.
#[derive(Debug)]
struct Pipeline {
    /// A permit for each append that has no answer, so that both queues are bounded.
    room: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Not sent yet.
    requests: VecDeque<proto::AppendStreamRequest>,
    /// Not answered yet, in the order of the requests.
    waiting: VecDeque<(Answer, Option<OwnedSemaphorePermit>)>,
    sender: Option<Waker>,
    /// No request will follow.
    complete: bool,
    broken: Option<Error>,
}

impl State {
    fn wake(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }
}

impl Pipeline {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the append that waits longest; `false`: none does.
    fn answer(&self, answer: Result<Appended>) -> bool {
        let Some((waiting, _room)) = self.state().waiting.pop_front() else { return false };
        // Nobody may wait for it any more.
        let _ = waiting.send(answer);
        true
    }

    fn end(&self, error: &Error) {
        let mut state = self.state();
        state.broken = Some(error.clone());
        state.requests.clear();
        for (waiting, _room) in state.waiting.drain(..) {
            // Nobody may wait for it any more.
            let _ = waiting.send(Err(error.clone()));
        }
        state.wake();
        drop(state);
        self.room.close();
    }
}

/// What the call sends.
struct Requests(Arc<Pipeline>);

impl Stream for Requests {
    type Item = proto::AppendStreamRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.state();
        if let Some(request) = state.requests.pop_front() {
            return Poll::Ready(Some(request));
        }
        if state.complete || state.broken.is_some() {
            return Poll::Ready(None);
        }
        state.sender = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Hands each answer to who waits for it, until the call ends.
async fn hear(pipeline: Arc<Pipeline>, mut answers: Streaming<proto::AppendStreamResponse>) {
    let status = loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                if !pipeline.answer(outcome(answer)) {
                    break Status::internal("an answer came that no append waits for");
                }
            }
            ended => break ended.err().unwrap_or_else(ended_without_error),
        }
    };
    pipeline.end(&unknown_outcome(status.into()));
}

fn outcome(answer: proto::AppendStreamResponse) -> Result<Appended> {
    match answer.result {
        Some(append_stream_response::Result::Appended(appended)) => {
            Ok(Appended::from_proto(&appended))
        }
        Some(append_stream_response::Result::Error(status)) => {
            let details = status.encode_to_vec().into();
            Err(Status::with_details(Code::from(status.code), status.message, details).into())
        }
        None => Err(Error::Decode {
            what: format!("the answer to append {}", answer.request),
            reason: "it says neither yes nor no".to_owned(),
        }),
    }
}

/// Whatever ends the call, what had no answer may have been written.
fn unknown_outcome(error: Error) -> Error {
    match error {
        error if error.is_outcome_unknown() => error,
        Error::Server(error) => ServerError { code: Code::Unknown, ..error }.into(),
        error => Status::unknown(error.to_string()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_ends_a_pipeline_leaves_the_outcome_unknown() {
        for code in (0..=16).map(Code::from) {
            let error = unknown_outcome(Status::new(code, "it broke").into());
            assert!(error.is_outcome_unknown(), "{code:?}");
            assert!(error.to_string().contains("it broke"), "{error}");
        }
    }
}
