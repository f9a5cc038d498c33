//! What can go wrong, as facts: what a caller decides on has a variant of its own, everything else is what the
//! server said.

use std::{collections::BTreeMap, fmt};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::client::CertificateRefused;

/// What this crate's calls give.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
/// use annals_client::{Client, Result};
///
/// async fn versions(client: &Client, stream: &str) -> Result<u64> {
///     Ok(client.stream_info(stream).await?.version)
/// }
///
/// assert_eq!(versions(&client, "Payment-1").await?, 1);
/// # Ok(())
/// # }
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// use annals_client::Error;
///
/// match client.append("Payment-1", 7, [NewEvent::new("PaymentFailed")]).await {
///     Ok(appended) => println!("appended as {}", appended.version),
///     Err(Error::WrongExpectedVersion { expected, actual, .. }) => {
///         assert_eq!((expected, actual), (7, 0));
///     }
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else was first: read, decide again, append again. Nothing was written.
    #[error("stream {stream} has version {actual}, expected {expected}")]
    WrongExpectedVersion {
        /// The stream.
        stream: String,
        /// The version that the caller expected.
        expected: u64,
        /// The version that the stream has.
        actual: u64,
    },
    /// Events exist that an append condition says must not: at these positions, the first ones. Nothing was written.
    #[error("condition {condition} is broken by the events at {positions:?}")]
    ConditionBroken {
        /// Which condition, in the order of the call; from 0.
        condition: usize,
        /// Where the events are: at most 5.
        positions: Vec<u64>,
    },
    /// A projection is not where its caller believes it to be. Nothing was written.
    #[error("read model {model} has checkpoint {actual}, expected {expected}")]
    WrongCheckpoint {
        /// The read model.
        model: String,
        /// The checkpoint that the caller expected.
        expected: u64,
        /// The checkpoint that the read model has.
        actual: u64,
    },
    /// The server refused the call, or failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The connection cannot be made, now or later: the URL is wrong, or a certificate. A server that is away is
    /// [`Error::Server`] with [`Code::Unavailable`].
    #[error("cannot connect to {url}: {reason}")]
    Connect {
        /// The address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value cannot become an event's data, or a document.
    #[error("cannot encode {what}: {reason}")]
    Encode {
        /// The event or document.
        what: String,
        /// Why it cannot be encoded.
        reason: String,
    },
    /// An event's data, or a document, is not what was expected.
    #[error("cannot decode {what}: {reason}")]
    Decode {
        /// The event, the document, or another answer of the server.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What the server said: see `error.proto` for the reasons and their facts.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// use annals_client::Error;
///
/// let error = client.read_stream("Payment-9").collect().await.unwrap_err();
/// let Error::Server(error) = error else { return Err(error) };
/// assert_eq!(error.reason, "UNKNOWN_STREAM");
/// assert_eq!(error.facts["stream"], "Payment-9");
///
/// let error = client.append("", 0, [NewEvent::new("PaymentFailed")]).await.unwrap_err();
/// let Error::Server(error) = error else { return Err(error) };
/// assert_eq!(error.violations[0].0, "stream");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ServerError {
    /// The gRPC status.
    pub code: Code,
    /// The reason, such as `UNKNOWN_STREAM`. Empty where gRPC itself failed.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// The facts, by name.
    pub facts: BTreeMap<String, String>,
    /// Fields of the request that break a rule, each with what is wrong.
    pub violations: Vec<(String, String)>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason.as_str() {
            "" => write!(f, "{}", self.code.description())?,
            reason => write!(f, "{reason}")?,
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        for (field, fault) in &self.violations {
            write!(f, "; {field}: {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}

impl Error {
    /// The reason of the server, such as `UNKNOWN_STREAM`; empty for errors of this side and of gRPC itself.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// let error = client.group("mails").get().await.unwrap_err();
    /// assert_eq!(error.reason(), "UNKNOWN_GROUP");
    /// # Ok(())
    /// # }
    /// ```
    pub fn reason(&self) -> &str {
        match self {
            Self::WrongExpectedVersion { .. } => "WRONG_EXPECTED_VERSION",
            Self::ConditionBroken { .. } => "CONDITION_BROKEN",
            Self::WrongCheckpoint { .. } => "WRONG_CHECKPOINT",
            Self::Server(error) => &error.reason,
            Self::Connect { .. } | Self::Encode { .. } | Self::Decode { .. } => "",
        }
    }

    /// Whether what was asked for does not exist: a stream, an event, a document, a model, a group.
    ///
    /// ```
    /// # use annals_client::testing::TestStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// let error = client.stream_info("Payment-9").await.unwrap_err();
    /// assert!(error.is_not_found());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Server(error) if error.code == Code::NotFound)
    }

    /// Whether somebody else was first, so that to read and to decide again helps.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
    /// let late = client.append("Payment-1", 0, [NewEvent::new("PaymentFailed")]).await;
    /// assert!(late.unwrap_err().is_conflict());
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::WrongExpectedVersion { .. } | Self::ConditionBroken { .. })
    }

    /// Whether the same call can succeed later without a change: the server is away, restarts or is overloaded.
    ///
    /// ```
    /// use annals_client::Error;
    ///
    /// let away = Error::from(tonic::Status::unavailable("the server restarts"));
    /// assert!(away.is_transient());
    /// let refused = Error::from(tonic::Status::invalid_argument("a stream has no name"));
    /// assert!(!refused.is_transient());
    /// ```
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Server(error) => {
                error.code == Code::Unavailable
                    || (error.code == Code::ResourceExhausted && error.reason == "OVERLOADED")
            }
            _ => false,
        }
    }

    /// Whether the call may have been carried out all the same. An append is repeated with the same event ids.
    ///
    /// ```
    /// use annals_client::Error;
    ///
    /// let late = Error::from(tonic::Status::deadline_exceeded("no answer"));
    /// assert!(late.is_outcome_unknown());
    /// ```
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Server(error) => matches!(
                error.code,
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
            ),
            // It may be the end of a repeat.
            Self::Connect { .. } => true,
            _ => false,
        }
    }
}

impl Error {
    /// Whether the connection broke in the middle of an answer.
    fn is_broken_connection(&self) -> bool {
        matches!(self, Self::Server(error) if error.reason.is_empty()
            && matches!(error.code, Code::Unknown | Code::Internal | Code::Cancelled))
    }

    /// Whether to make the same call again: it cannot have another effect twice.
    pub(crate) fn is_repeatable(&self) -> bool {
        let unknown = matches!(self, Self::Server(error) if error.reason == "OUTCOME_UNKNOWN");
        unknown || self.is_transient() || self.is_broken_connection()
    }

    /// Whether it is about the way to the server and back, and says nothing of what was asked.
    pub(crate) fn is_on_the_way(&self) -> bool {
        self.is_repeatable() || self.is_outcome_unknown()
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let source = std::error::Error::source(&status);
        if let Some(CertificateRefused { url, reason }) = source.and_then(|it| it.downcast_ref()) {
            return Self::Connect { url: url.clone(), reason: reason.clone() };
        }
        let details = status.get_error_details();
        let info = details.error_info();
        let reason = info.map(|info| info.reason.clone()).unwrap_or_default();
        let facts: BTreeMap<String, String> =
            info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default();
        let fact = |name: &str| facts.get(name).cloned().unwrap_or_default();
        let number = |name: &str| fact(name).parse().unwrap_or_default();
        match reason.as_str() {
            "WRONG_EXPECTED_VERSION" => Self::WrongExpectedVersion {
                stream: fact("stream"),
                expected: number("expected"),
                actual: number("actual"),
            },
            "CONDITION_BROKEN" => Self::ConditionBroken {
                condition: fact("condition").parse().unwrap_or_default(),
                positions: fact("positions").split(',').filter_map(|at| at.parse().ok()).collect(),
            },
            "WRONG_CHECKPOINT" => Self::WrongCheckpoint {
                model: fact("model"),
                expected: number("expected"),
                actual: number("actual"),
            },
            _ => Self::Server(ServerError {
                code: status.code(),
                message: status.message().to_owned(),
                violations: details.bad_request().map_or_else(Vec::new, |bad| {
                    let named = bad.field_violations.iter();
                    named.map(|one| (one.field.clone(), one.description.clone())).collect()
                }),
                reason,
                facts,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_way_has_spoiled_is_told_from_what_the_server_says() {
        let broken = [Code::Internal, Code::Unknown, Code::Cancelled, Code::Unavailable];
        for code in broken {
            let error = Error::from(Status::new(code, "h2 protocol error"));
            assert!(error.is_repeatable() && error.is_on_the_way(), "{code:?}");
        }
        let slow = Error::from(Status::deadline_exceeded("the server has not answered"));
        assert!(slow.is_on_the_way() && !slow.is_repeatable());
        for code in [Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition] {
            let error = Error::from(Status::new(code, "no"));
            assert!(!error.is_on_the_way(), "{code:?}");
        }
    }
}
