//! The only code that knows gRPC. An RPC is: convert, call a service, convert.

pub mod block;
pub mod codec;
pub mod status;

/// What build.rs makes of `proto/`, with lints off for it alone.
#[allow(clippy::all, clippy::pedantic, clippy::unwrap_used)]
pub mod proto {
    /// `annals.v1`, the protocol.
    pub mod v1 {
        tonic::include_proto!("annals.v1");
    }
    /// `annals.bench.v1`, the empty twins for benchmarks.
    pub mod bench {
        tonic::include_proto!("annals.bench.v1");
    }
    /// Every file above and what it imports, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/annals.binpb"));
}
