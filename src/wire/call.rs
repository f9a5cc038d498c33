//! What surrounds every call: its span, and its deadline.
//!
//! tonic's own timeout ends at the response headers, so that a stream runs on for ever, and it answers
//! CANCELLED. Here the deadline is the call's to its last byte, and it answers `DEADLINE_EXCEEDED`.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Status, body::Body, metadata::MetadataMap};
use tower::{Layer, Service};
use tracing::Instrument;

use super::status;

const TIMEOUT_HEADER: &str = "grpc-timeout";
/// tonic's timeout is outside of this one and starts a moment earlier; so much earlier do we answer.
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

/// Puts [`Calls`] around a service.
#[derive(Clone, Copy)]
pub struct CallLayer;

impl<S> Layer<S> for CallLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls { inner }
    }
}

/// A service whose calls have a span and keep their deadlines.
#[derive(Clone)]
pub struct Calls<S> {
    inner: S,
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
        let timeout = request
            .headers()
            .get(TIMEOUT_HEADER)
            .and_then(|value| timeout(value.to_str().ok()?))
            .map(|timeout| Instant::now() + timeout.saturating_sub(EARLIER));
        let call = self.inner.call(request);
        let call = async move {
            let Some(deadline) = timeout else { return call.await };
            match tokio::time::timeout_at(deadline, call).await {
                Ok(response) => Ok(response?.map(|body| {
                    Body::new(Limited { body, sleep: Box::pin(sleep_until(deadline)), over: false })
                })),
                Err(_) => Ok(status::deadline_exceeded().into_http()),
            }
        };
        Box::pin(call.instrument(span))
    }
}

/// A body that ends at a deadline.
struct Limited {
    body: Body,
    sleep: Pin<Box<Sleep>>,
    over: bool,
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        // The deadline first: a stream that is always ready must end, too.
        if self.sleep.as_mut().poll(context).is_ready() {
            self.over = true;
            let mut trailers = HeaderMap::new();
            status::deadline_exceeded().add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.over = frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_at_most_eight_digits_and_a_unit() {
        assert_eq!(timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_hours(99_999_999)));
        for bad in ["", "S", "5", "5s", "-5S", "123456789S", "5é", "é"] {
            assert_eq!(timeout(bad), None, "{bad:?}");
        }
    }
}
