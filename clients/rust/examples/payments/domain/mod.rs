//! What the example is about: payments. No network and no clock here: rules, and the events that they allow.

pub mod money;
pub mod payment;
