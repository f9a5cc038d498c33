//! gRPC by hand over HTTP/2: what no well-behaved client sends, and what it does not show.
//!
//! tonic's client has a timer of its own for `grpc-timeout`, decodes and reads ahead. Here nothing is
//! decoded, deadlines are the server's alone, and nothing is read that nobody asked for.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;
use tonic::Status;

use super::within;

/// What some clients take of headers, and no more: 8 KiB, counted as HTTP/2 counts
/// (RFC 9113, 6.5.2: names, values and 32 bytes each).
pub const HEADER_LIST_BYTES_MAX: u32 = 8192;

/// A connection.
pub struct Raw(SendRequest<Bytes>);

/// A call that is under way.
pub struct Call {
    pub request: SendStream<Bytes>,
    response: ResponseFuture,
}

/// A call's end.
pub struct Answer {
    pub headers: HeaderMap,
    /// The messages, each with the flag that says whether it is compressed.
    pub messages: Vec<(u8, Bytes)>,
    /// The status; `None`: OK.
    pub status: Option<Status>,
    /// How large the headers that carry the status are.
    pub status_bytes: usize,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut builder = Builder::new();
        builder.max_header_list_size(HEADER_LIST_BYTES_MAX);
        let (requests, connection) = within(builder.handshake(socket)).await.unwrap();
        tokio::spawn(connection);
        Self(requests)
    }

    /// Begins a call of `annals.v1.{path}`, with `headers` beside the usual ones.
    pub async fn begin(&mut self, path: &str, headers: &[(&str, &str)]) -> Call {
        let mut request = Request::post(format!("http://localhost/annals.v1.{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut ready = within(self.0.clone().ready()).await.unwrap();
        let (response, request) = ready.send_request(request.body(()).unwrap(), false).unwrap();
        Call { request, response }
    }

    /// Begins an `Append`.
    pub async fn append(&mut self) -> Call {
        self.begin("CommandService/Append", &[]).await
    }

    /// A call with one message, to its end.
    pub async fn call(&mut self, path: &str, headers: &[(&str, &str)], message: &[u8]) -> Answer {
        let mut call = self.begin(path, headers).await;
        call.request.send_data(frame(message), true).unwrap();
        call.end().await
    }
}

impl Call {
    /// The headers, and what follows: nobody reads it, so the server may send what the window holds.
    pub async fn begun(self) -> RecvStream {
        within(self.response).await.unwrap().into_body()
    }

    /// Waits until this call or the other one is answered: the answer, and the one that is left.
    pub async fn or(mut self, mut other: Self) -> (Answer, Self) {
        tokio::select! {
            response = &mut self.response => (Answer::read(response.unwrap()).await, other),
            response = &mut other.response => (Answer::read(response.unwrap()).await, self),
        }
    }

    /// Reads everything.
    pub async fn end(self) -> Answer {
        Answer::read(within(self.response).await.unwrap()).await
    }
}

impl Answer {
    async fn read(response: http::Response<RecvStream>) -> Self {
        let (parts, mut body) = response.into_parts();
        let mut bytes = BytesMut::new();
        while let Some(data) = within(body.data()).await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            bytes.extend_from_slice(&data);
        }
        let trailers = within(body.trailers()).await.unwrap();
        let with_status = trailers.as_ref().unwrap_or(&parts.headers);
        let size = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            name.as_str().len() + value.len() + 32
        };
        let status = Status::from_header_map(with_status).expect("a call ends with a status");
        Self {
            status_bytes: with_status.iter().map(size).sum(),
            status: Some(status).filter(|status| status.code() != tonic::Code::Ok),
            headers: parts.headers,
            messages: unframe(bytes.freeze()),
        }
    }

    /// The messages, decoded.
    pub fn decoded<T: Message + Default>(&self) -> Vec<T> {
        self.messages.iter().map(|(_, message)| T::decode(&message[..]).unwrap()).collect()
    }
}

/// A message as it goes over the wire: not compressed, its length, itself.
pub fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

fn unframe(mut bytes: Bytes) -> Vec<(u8, Bytes)> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let head = bytes.split_to(5);
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        messages.push((head[0], bytes.split_to(length as usize)));
    }
    messages
}
