//! The log and its indexes: what the project exists for. It knows no transport and no generated type; all
//! it shares with the wire is the bytes of an event.
//!
//! ```text
//! Store::submit ─► Combiner ─► Sequencer ─► log ─► index ─► watermark     one writer at a time
//!                                            └──────┴─────────┴─► History  any reader, no lock
//! ```

pub mod append;
pub mod bell;
pub mod clock;
pub mod combiner;
pub mod commit_log;
pub mod event;
pub mod filter;
pub mod history;
pub mod index;
pub mod limits;
pub mod log;
pub mod name;
pub mod position;
pub mod retention;
pub mod sequencer;
pub mod store;
pub mod sync;
pub mod upkeep;
