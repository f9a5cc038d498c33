//! core

pub mod limits;
