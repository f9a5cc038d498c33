//! The protocol from the outside: a real server, real gRPC, and what error.proto and the comments of
//! the other files promise.

mod bad_filter;
mod bad_input;
mod bad_query;
mod commit;
mod compact;
mod compression;
mod correlation;
mod endless;
mod evict;
mod explain;
mod filtered;
mod follow;
mod format;
mod groups;
mod header_limit;
mod health;
mod idempotency;
mod info;
mod lists;
mod min_position;
mod pipeline;
mod query_cache;
mod race;
mod read;
mod replay;
mod retention;
mod search;
mod statistics;
mod stop;
mod strangers;
mod subscribe;
mod trends;
mod verify;
mod watch;
