//! What the server takes at once: calls, and bytes of requests. More is refused, before anything is done.
//!
//! ```text
//! connection ──► Admission ──► Calls ──► services
//!                a place, until the last byte of the answer is sent
//!                bytes, as they come; until the call has answered, of a stream until the message is taken
//! ```
//!
//! Health checks have places of their own, so that a server that is overloaded, and says so, is not taken for one
//! that has died.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use prost_types::MethodDescriptorProto;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{call, connections::Origin, status};
use crate::service::places::{NoPlace, Place, Places};

/// The one call that is answered whatever else there is to do.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
/// So many at once, and more as any call.
const HEALTH_CHECKS_MAX: usize = 256;
/// The compression flag and the length before each message (gRPC over HTTP/2, "Requests").
const PREFIX_BYTES: usize = 5;

/// Puts [`Admitted`] around a service.
#[derive(Clone)]
pub struct Admission {
    calls: Places,
    checks: Places,
    room: Room,
    request_bytes_max: usize,
    /// The paths of calls with more than one request.
    streaming: Arc<HashSet<String>>,
}

impl Admission {
    /// As many calls as `calls` has places, whose requests have `room_bytes` together, and none more than
    /// `request_bytes_max`.
    pub fn new(calls: Places, room_bytes: usize, request_bytes_max: usize) -> Self {
        Self {
            calls,
            checks: Places::new(HEALTH_CHECKS_MAX),
            room: Room { used: Arc::default(), max: room_bytes },
            request_bytes_max,
            streaming: Arc::new(call::paths(MethodDescriptorProto::client_streaming)),
        }
    }

    /// A place for the call, or why there is none.
    fn admit(&self, path: &str, origin: Option<&Origin>) -> Result<Place, Status> {
        if path == HEALTH_CHECK
            && let Ok(place) = self.checks.take()
        {
            return Ok(place);
        }
        if let Some(max) = origin.and_then(|origin| origin.full) {
            return Err(status::overloaded("connections", max));
        }
        self.calls.take().map_err(|NoPlace { limit }| status::overloaded("calls", limit))
    }
}

impl<S> Layer<S> for Admission {
    type Service = Admitted<S>;

    fn layer(&self, inner: S) -> Admitted<S> {
        Admitted { inner, admission: self.clone() }
    }
}

/// A service that takes no more than it may.
#[derive(Clone)]
pub struct Admitted<S> {
    inner: S,
    admission: Admission,
}

impl<S> Service<Request<Body>> for Admitted<S>
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let origin = request.extensions_mut().remove::<Origin>();
        let path = request.uri().path();
        let place = match self.admission.admit(path, origin.as_ref()) {
            Ok(place) => place,
            Err(refusal) => return Box::pin(async move { Ok(refusal.into_http()) }),
        };
        let streaming = self.admission.streaming.contains(path);
        // Where tonic looks for the peer's address.
        if let Some(origin) = origin {
            request.extensions_mut().insert(origin.tcp);
        }
        let taken =
            Arc::new(Taken { room: self.admission.room.clone(), bytes: AtomicUsize::new(0) });
        let bytes_max = self.admission.request_bytes_max;
        let held = Arc::clone(&taken);
        let request = request.map(|body| {
            let framing = Framing::default();
            Body::new(Received { body, taken: held, framing, bytes_max, streaming })
        });
        let call = self.inner.call(request);
        Box::pin(async move {
            let response = call.await?;
            drop(taken);
            // A refusal, whose status stands in the headers, has no body.
            if response.body().is_end_stream() {
                return Ok(response);
            }
            Ok(response.map(|body| Body::new(Answer { body, _place: place })))
        })
    }
}

/// Bytes that the requests of all calls may have together.
#[derive(Clone)]
struct Room {
    used: Arc<AtomicUsize>,
    max: usize,
}

/// What one call has of the room; given back when dropped.
struct Taken {
    room: Room,
    /// Changed by the call's body only.
    bytes: AtomicUsize,
}

impl Taken {
    fn take(&self, bytes: usize) -> Result<(), Status> {
        // Relaxed, here and below: the numbers order nothing.
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let before = self.room.used.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes <= self.room.max {
            Ok(())
        } else {
            Err(status::overloaded("bytes of requests", self.room.max))
        }
    }

    fn keep(&self, bytes: usize) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        self.room.used.fetch_sub(before - bytes, Ordering::Relaxed);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.keep(0);
    }
}

/// Where messages begin and end in the bytes of a request.
#[derive(Default)]
struct Framing {
    prefix: [u8; PREFIX_BYTES],
    /// How much of the prefix there is, while that is not all.
    prefix_bytes: usize,
    /// How much is missing of the message behind it.
    missing: usize,
    /// How much there is of the message that is not whole, its prefix included.
    begun: usize,
}

impl Framing {
    /// The next bytes; the length that a message says it has, if that is more than `max`.
    fn pass(&mut self, mut bytes: &[u8], max: usize) -> Result<(), usize> {
        while !bytes.is_empty() {
            let wanted = match self.missing {
                0 => PREFIX_BYTES - self.prefix_bytes,
                missing => missing,
            };
            let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            self.begun += part.len();
            if self.missing > 0 {
                self.missing -= part.len();
            } else {
                self.prefix[self.prefix_bytes..][..part.len()].copy_from_slice(part);
                self.prefix_bytes += part.len();
                if self.prefix_bytes < PREFIX_BYTES {
                    return Ok(());
                }
                let [_, length @ ..] = self.prefix;
                self.missing = u32::from_be_bytes(length) as usize;
                self.prefix_bytes = 0;
                if self.missing > max {
                    return Err(self.missing);
                }
            }
            if self.missing == 0 {
                self.begun = 0;
            }
        }
        Ok(())
    }
}

/// A request's body, whose bytes are counted.
struct Received {
    body: Body,
    taken: Arc<Taken>,
    framing: Framing,
    bytes_max: usize,
    streaming: bool,
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.streaming {
            // Who asks for more has taken the messages that were whole.
            this.taken.keep(this.framing.begun);
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.taken.take(data.len())?;
            let passed = this.framing.pass(data, this.bytes_max);
            passed.map_err(|size| status::request_too_large(size, this.bytes_max))?;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body, which keeps the call's place.
struct Answer {
    body: Body,
    _place: Place,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two messages of 3 and 0 bytes and the beginning of one of 300, cut anywhere.
    #[test]
    fn what_is_begun_is_what_follows_the_last_whole_message() {
        let bytes = [0, 0, 0, 0, 3, 7, 7, 7, 0, 0, 0, 0, 0, 1, 0, 0, 1, 44, 9];
        let begun = [1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6];
        for cut in 0..=bytes.len() {
            let mut framing = Framing::default();
            framing.pass(&bytes[..cut], 300).unwrap();
            assert_eq!(framing.begun, if cut == 0 { 0 } else { begun[cut - 1] });
            framing.pass(&bytes[cut..], 300).unwrap();
            assert_eq!((framing.begun, framing.missing), (6, 299));
        }
        assert_eq!(Framing::default().pass(&bytes, 299), Err(300));
        assert_eq!(Framing::default().pass(&[0, 255, 255, 255, 255], 299), Err(0xffff_ffff));
    }

    #[test]
    fn the_room_is_given_back_in_parts_and_as_a_whole() {
        let room = Room { used: Arc::default(), max: 10 };
        let used = || room.used.load(Ordering::Relaxed);
        let taken = || Taken { room: room.clone(), bytes: AtomicUsize::new(0) };
        let (first, second) = (taken(), taken());
        first.take(10).unwrap();
        second.take(1).unwrap_err();
        drop(second);
        assert_eq!(used(), 10);
        first.keep(4);
        taken().take(6).unwrap();
        assert_eq!(used(), 4);
        drop(first);
        assert_eq!(used(), 0);
    }
}
