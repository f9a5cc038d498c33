//! Use cases: what a call means, without a transport and without bytes on a disk.

pub mod backup;
pub mod command;
mod counts;
pub mod query;
pub mod scan;
pub mod subscription;
pub mod upkeep;
pub mod verify;
