//! What the example is about: payments, and the business around them.
//!
//! ```text
//! User ──► Organization ──► Workflow ──► CloudResource ──► Billing ──► Payment
//!  registers   is created       runs         is used          is invoiced   processed, failed, refunded
//! ```
//!
//! No network and no clock here: rules, and the events that they allow.

pub mod business;
pub mod money;
pub mod payment;
