//! The tests that need more than one module, linked once.
#![allow(clippy::unwrap_used)]

mod cli;
mod commit_log;
mod compaction;
mod crash;
mod evict;
mod filter_model;
mod groups_chaos;
mod grpc;
mod indexes;
mod paused_subscriptions;
mod paused_time;
mod retention_cases;
mod retention_model;
mod store_model;
mod support;
