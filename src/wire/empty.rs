//! `annals.bench.v1.EmptyService`: calls that do nothing, for benchmarks, on the same stack as the real
//! ones and with the same codec.

use bytes::Bytes;
use prost_types::Timestamp;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Answers, answers,
    convert::InvalidRequest,
    proto::{
        bench::{
            CallRequest, CallResponse, EchoRequest, EchoResponse, PersistRequest, PersistResponse,
            StreamRequest, StreamResponse, empty_service_server,
        },
        v1::{
            AppendRequest, AppendResponse, AppendStreamRequest, AppendStreamResponse,
            append_stream_response,
        },
    },
};
use crate::bare_disk::BareDisk;

const PAYLOAD_BYTES_MAX: u32 = 1 << 20;
const MESSAGES_MAX: u64 = 10_000_000;
/// Any time of today's length in bytes.
const RECORDED_AT: Timestamp = Timestamp { seconds: 1_800_000_000, nanos: 123_456_789 };

/// The service on the wire.
pub struct Empty {
    /// Where `Persist` writes.
    pub disk: Option<BareDisk>,
}

/// As large as a real answer: the same fields are set.
fn appended(request: &AppendRequest) -> AppendResponse {
    let events = request.events.len() as u64;
    AppendResponse {
        first_version: 1,
        version: events,
        first_position: 1,
        position: events,
        recorded_at: Some(RECORDED_AT),
        duplicate: false,
    }
}

#[tonic::async_trait]
impl empty_service_server::EmptyService for Empty {
    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendResponse>, Status> {
        Ok(Response::new(appended(request.get_ref())))
    }

    type AppendStreamStream = Answers<AppendStreamResponse>;

    async fn append_stream(
        &self,
        request: Request<Streaming<AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let mut count = 0;
        let mut answer = move |request: AppendStreamRequest| {
            count += 1;
            let answer = appended(&request.append.unwrap_or_default());
            let result = Some(append_stream_response::Result::Appended(answer));
            AppendStreamResponse { request: count, result }
        };
        let requests = request.into_inner();
        Ok(Response::new(Box::pin(requests.map(move |request| request.map(&mut answer)))))
    }

    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        let payload_bytes = request.into_inner().payload.len() as u64;
        Ok(Response::new(CallResponse { payload_bytes }))
    }

    async fn persist(
        &self,
        request: Request<PersistRequest>,
    ) -> Result<Response<PersistResponse>, Status> {
        let disk = self.disk.as_ref().ok_or_else(|| {
            Status::failed_precondition(
                "there is no disk to write to: start the server with --data",
            )
        })?;
        let payload = request.into_inner().payload;
        let payload_bytes = payload.len() as u64;
        disk.persist(payload).await.map_err(Status::unavailable)?;
        Ok(Response::new(PersistResponse { payload_bytes }))
    }

    type EchoStream = Answers<EchoResponse>;

    async fn echo(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Self::EchoStream>, Status> {
        let echo =
            |request: EchoRequest| EchoResponse { payload_bytes: request.payload.len() as u64 };
        let requests = request.into_inner();
        Ok(Response::new(Box::pin(requests.map(move |request| request.map(echo)))))
    }

    type StreamStream = Answers<StreamResponse>;

    async fn stream(
        &self,
        request: Request<StreamRequest>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let StreamRequest { payload_bytes, messages } = request.into_inner();
        if payload_bytes > PAYLOAD_BYTES_MAX {
            let what = format!("is {payload_bytes}, at most {PAYLOAD_BYTES_MAX} is allowed");
            return Err(InvalidRequest::one("payload_bytes", what).into());
        }
        if messages > MESSAGES_MAX {
            let what = format!("is {messages}, at most {MESSAGES_MAX} is allowed");
            return Err(InvalidRequest::one("messages", what).into());
        }
        let payload = Bytes::from(vec![0x2a; payload_bytes as usize]);
        Ok(Response::new(answers((payload, messages), |(payload, left)| async move {
            let left = left.checked_sub(1)?;
            Some((Ok(StreamResponse { payload: payload.clone() }), (payload, left)))
        })))
    }
}
