//! What surrounds every call: its span, and its deadline.
//!
//! The deadline is the call's to its last byte, and it answers `DEADLINE_EXCEEDED`. (The timeout of tonic's transport, which
//! we do without, ends at the response headers, so that a stream runs on for ever, and it answers CANCELLED.)

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame};
use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, metadata::MetadataMap};
use tower::{Layer, Service};
use tracing::Instrument;

use super::{proto::DESCRIPTORS, status};

const TIMEOUT_HEADER: &str = "grpc-timeout";
/// The client's own clock was started a moment earlier, and knows nothing of the call; so much earlier do we answer.
const EARLIER: Duration = Duration::from_millis(2);

/// How long the client is ready to wait, as its headers say: at most 8 digits and a unit
/// (gRPC over HTTP/2, "Requests").
fn timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// How long a call may wait for something: a little less than its deadline, so that it can say what it
/// has waited for. `None`: it has no deadline.
pub fn patience(metadata: &MetadataMap) -> Option<Duration> {
    let timeout = timeout(metadata.get(TIMEOUT_HEADER)?.to_str().ok()?)?;
    Some(timeout.saturating_sub(EARLIER * 2))
}

/// Calls of these services have no end of their own and end when the server stops. Ours do that
/// themselves, and say where to go on.
const ENDLESS: &str = "/grpc.reflection.";

/// Puts [`Calls`] around a service.
#[derive(Clone)]
pub struct CallLayer {
    stop: CancellationToken,
    /// Calls that answer with one message: that is whole when the call returns, and needs no watch over its
    /// body.
    unary: Arc<HashSet<String>>,
}

impl CallLayer {
    /// `stop` is cancelled when the server stops.
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop, unary: Arc::new(paths(|method| !method.server_streaming())) }
    }
}

/// The paths of our calls that are as `which` says.
pub(super) fn paths(which: impl Fn(&MethodDescriptorProto) -> bool) -> HashSet<String> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("build.rs wrote it");
    let mut paths = HashSet::new();
    for file in &files.file {
        for service in &file.service {
            for method in service.method.iter().filter(|method| which(method)) {
                let path = [file.package(), ".", service.name(), "/", method.name()].concat();
                paths.insert(format!("/{path}"));
            }
        }
    }
    paths
}

impl<S> Layer<S> for CallLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls { inner, layer: self.clone() }
    }
}

/// A service whose calls have a span and keep their deadlines.
#[derive(Clone)]
pub struct Calls<S> {
    inner: S,
    layer: CallLayer,
}

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let span = tracing::debug_span!("call", path = request.uri().path());
        let deadline = request
            .headers()
            .get(TIMEOUT_HEADER)
            .and_then(|value| timeout(value.to_str().ok()?))
            .map(|timeout| Instant::now() + timeout.saturating_sub(EARLIER));
        let path = request.uri().path();
        let stop = path.starts_with(ENDLESS).then(|| self.layer.stop.clone());
        let unary = deadline.is_some() && self.layer.unary.contains(path);
        let call = self.inner.call(request);
        let call = async move {
            match (deadline, stop) {
                (None, None) => call.await,
                (None, Some(stop)) => Ok(call.await?.map(|body| {
                    limited(body, async move { stop.cancelled().await }, status::shutting_down)
                })),
                (Some(deadline), _) => match timeout_at(deadline, call).await {
                    Ok(response) if unary => response,
                    Ok(response) => Ok(response?.map(|body| {
                        limited(body, sleep_until(deadline), status::deadline_exceeded)
                    })),
                    Err(_) => Ok(status::deadline_exceeded().into_http()),
                },
            }
        };
        Box::pin(call.instrument(span))
    }
}

/// `body` until `end` comes, and then the status that `why` makes.
fn limited(
    body: Body,
    end: impl Future<Output = ()> + Send + 'static,
    why: fn() -> Status,
) -> Body {
    // A refusal: its status stands in the headers.
    if body.is_end_stream() {
        return body;
    }
    let shared = Arc::new(Mutex::new(Limit { body: Some(body), reader: None }));
    // A body is not polled while its reader takes nothing. So the end comes from a task, which drops the
    // body, and all that the call holds, whoever reads.
    let ending = tokio::spawn({
        let shared = Arc::clone(&shared);
        async move {
            end.await;
            let mut limit = shared.lock().expect("no holder panics");
            limit.body = None;
            if let Some(reader) = limit.reader.take() {
                reader.wake();
            }
        }
    });
    Body::new(Limited { shared, ending, why, over: false })
}

struct Limit {
    /// Gone when the end has come.
    body: Option<Body>,
    /// Who waits for the next frame.
    reader: Option<Waker>,
}

/// A body that has an end.
struct Limited {
    shared: Arc<Mutex<Limit>>,
    ending: JoinHandle<()>,
    why: fn() -> Status,
    over: bool,
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let mut limit = this.shared.lock().expect("no holder panics");
        let Some(body) = &mut limit.body else {
            this.over = true;
            let mut trailers = HeaderMap::new();
            (this.why)().add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(context) else {
            limit.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        this.over = frame.is_none();
        Poll::Ready(frame)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        self.ending.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_answers_with_a_stream_is_not_unary() {
        let unary = paths(|method| !method.server_streaming());
        assert!(unary.contains("/annals.v1.CommandService/Append"));
        assert!(!unary.contains("/annals.v1.CommandService/AppendStream"));
        assert!(!unary.contains("/annals.v1.SubscriptionService/Subscribe"));
    }

    #[test]
    fn a_timeout_is_at_most_eight_digits_and_a_unit() {
        assert_eq!(timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_hours(99_999_999)));
        for bad in ["", "S", "5", "5s", "-5S", "123456789S", "5é", "é"] {
            assert_eq!(timeout(bad), None, "{bad:?}");
        }
    }
}
