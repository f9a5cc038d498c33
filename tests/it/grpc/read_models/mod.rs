//! Read models from the outside: what `read_model.proto` promises.

mod apply;
mod bad_input;
mod create;
mod damaged;
mod documents;
mod durable;
mod find;
mod find_model;
mod killed;
mod limits;
mod merge;
mod model;
mod not_indexed;
mod pages;
mod position;
mod race;
mod values;
mod versions;
mod watch;
mod watch_model;
mod watch_slow;
