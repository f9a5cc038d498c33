//! Use cases: what a call means, without a transport and without bytes on a disk.

pub mod analytics;
pub mod backup;
pub mod cache;
pub mod command;
pub mod correlation;
mod counts;
pub mod group;
mod matches;
pub mod page_token;
pub mod places;
pub mod query;
pub mod read_model;
pub mod replay;
pub mod scan;
pub mod search;
pub mod subscription;
pub mod upkeep;
pub mod verify;
