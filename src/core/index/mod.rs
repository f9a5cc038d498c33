//! Finding events: which positions a stream, a category, a type or a tag has, and where an id is.
//!
//! Written by the sequencer before it moves the watermark, read by anyone without a lock. An index may
//! be ahead of the watermark, so a reader takes the watermark first and passes over what is above it.

mod block;
pub mod column;
pub mod ids;
pub mod map;
pub mod positions;
pub mod shared_ids;
mod sole;
pub mod times;

pub use sole::SoleWriter;
