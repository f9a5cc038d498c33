//! What the example is about. No network and no clock here: rules, and the events that they allow.

pub mod business;
pub mod commands;
pub mod money;
pub mod payment;
