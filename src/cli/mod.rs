//! The command line.
pub mod cloud_events;
