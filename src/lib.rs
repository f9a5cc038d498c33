//! Annals: an event store that starts with one command and speaks gRPC.
//!
//! `wire` uses `service`, `service` uses `core`, never back. ARCHITECTURE.md is the map.

#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod core;
pub mod open_files;
pub mod progress;
pub mod server;
pub mod service;
pub mod shutdown;
pub mod storage;
pub mod telemetry;
pub mod wire;
