//! The buses: what their layers promise, over a real server.

mod command;
mod event;
mod query;
