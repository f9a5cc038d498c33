//! The only code that knows gRPC. An RPC is: convert, call a service, convert.

pub mod admin;
pub mod admission;
pub mod analytics;
pub mod append;
pub mod block;
pub mod call;
mod caller;
pub mod codec;
pub mod command;
pub mod connection_task;
pub mod connections;
pub mod consume;
mod content_type;
pub mod convert;
pub mod empty;
pub mod filter;
pub mod group;
mod interactive;
pub mod outlet;
mod pipeline;
pub mod query;
pub mod read_model;
pub mod serve;
mod settings;
pub mod status;
pub mod subscribing;
pub mod subscription;

use std::{pin::Pin, time::Duration};

use tokio_stream::Stream;
use tonic::{Status, Streaming};

/// What build.rs makes of `proto/`, with lints off for it alone.
#[allow(clippy::all, clippy::pedantic, clippy::unwrap_used)]
pub mod proto {
    /// `annals.v1`, the protocol.
    pub mod v1 {
        tonic::include_proto!("annals.v1");
    }
    /// `annals.v1.CommandService` as the server has it, with the requests of [`append`](super::append).
    pub mod commands {
        include!(concat!(env!("OUT_DIR"), "/commands/annals.v1.rs"));
    }
    /// `annals.bench.v1`, the empty twins for benchmarks.
    pub mod bench {
        pub use v1::*;

        /// As deep as its package, which is how it finds the messages of `annals.v1`.
        pub mod v1 {
            tonic::include_proto!("annals.bench.v1");
        }
    }
    /// Every file above and what it imports, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/annals.binpb"));
}

/// The messages of a streaming answer.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// So long is a stream of requests that the server ends read on, if the client goes on sending. A connection that
/// is closed with bytes unread is reset, and the client loses the last answers and the status.
const LINGER: Duration = Duration::from_secs(1);

async fn linger<T>(mut requests: Streaming<T>) {
    let rest = async { while let Ok(Some(_)) = requests.message().await {} };
    // Who sends on for longer is cut off.
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// The answers that `next` gives, one by one, until it gives none. Each is made when the connection has
/// room for it: that is all the back-pressure there is, and nothing is queued.
fn answers<S, T, F>(state: S, next: impl FnMut(S) -> F + Send + 'static) -> Answers<T>
where
    S: Send + 'static,
    T: 'static,
    F: Future<Output = Option<(Result<T, Status>, S)>> + Send + 'static,
{
    Box::pin(futures_util::stream::unfold(state, next))
}
