//! The Rust client of Annals, an event store that speaks gRPC.
//!
//! ```text
//! Client ── append, read, subscribe, read models ──► server
//!   ▲
//!   ├── bus::{CommandBus, QueryBus, EventBus}   commands, queries and events to who handles them, through layers
//!   ├── aggregate::Repository   an aggregate: rebuilt from its events, saved with the version that was read
//!   └── projection::Runner   events folded into a read model, each exactly once
//! ```
//!
//! The README goes through all of it. [`testing`] is for tests: with the feature `testing` it has a server in the test's own
//! process.

#![deny(unsafe_code)]

pub mod aggregate;
pub mod append;
pub mod append_stream;
pub mod bus;
pub mod client;
pub mod error;
pub mod event;
pub mod filter;
pub mod group;
pub mod projection;
pub mod query;
pub mod read;
pub mod read_model;
pub mod retention;
pub mod subscribe;
pub mod testing;

pub use append::{Appended, ExpectedVersion};
pub use client::{Client, ClientOptions};
pub use error::{Error, Result};
pub use event::{Data, Event, NewEvent};
pub use filter::Filter;

/// What `proto/` describes, for calls that this crate does not wrap.
#[allow(clippy::all, clippy::pedantic, clippy::unwrap_used, rustdoc::all)]
pub mod proto {
    tonic::include_proto!("annals.v1");
}

/// The README's code, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
