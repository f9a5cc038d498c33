//! Annals: an event store that starts with one command and speaks gRPC.
//!
//! `wire` uses `service`, `service` uses `core`, never back. ARCHITECTURE.md is the map.
//!
//! A build for a model checker is the core alone: nothing else has models, and the atomics of a checker
//! panic outside of one.

#![deny(unsafe_code)]

#[cfg(not(any(feature = "loom", feature = "shuttle")))]
mod allocator;
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
mod bare_disk;
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub mod cli;
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub mod config;
pub mod core;
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub mod open_files;
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub mod progress;
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub mod server;
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub mod service;
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub mod shutdown;
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub mod storage;
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub mod telemetry;
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
pub mod wire;
