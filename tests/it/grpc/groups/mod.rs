//! Consumer groups from the outside: what group.proto promises.

mod ack;
mod bad_input;
mod delivery;
mod durable;
mod half_open;
mod killed;
mod life;
mod limits;
mod nack;
mod order;
mod parked;
mod poll;
mod position;
mod starts;
mod timeout;
