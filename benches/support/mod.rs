//! What the end-to-end bench is made of.

pub mod analytics;
pub mod disk;
pub mod following;
pub mod packing;
pub mod recovery;
pub mod report;
pub mod server;
pub mod shapes;
pub mod subscriptions;
pub mod target;
