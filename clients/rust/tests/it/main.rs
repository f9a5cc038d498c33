//! The client against a real server, in this process or as one of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod account;
mod aggregate;
mod append_stream;
mod basics;
mod bus;
mod checks;
mod documented;
mod groups;
mod projection;
mod projection_killed;
mod proxy;
mod queries;
mod retention;
mod snapshot;
mod tls;
