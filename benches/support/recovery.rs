//! How long a durable server takes to come back after a crash.

use std::time::Duration;

use super::{
    disk::Place,
    server::Server,
    shapes,
    target::{Target, Twin},
};

/// Events of an append.
pub const COMMIT_EVENTS: usize = 100;
const CALLERS: usize = 16;
/// So many appends are made ready at once.
const CALLS_AT_ONCE: usize = 1600;

/// A start on a directory with a history, from the start of the process on.
pub struct Start {
    pub checked: Duration,
    pub indexed: Duration,
    pub listening: Duration,
}

/// A log that was read back.
pub struct Recovery {
    pub events: u64,
    pub bytes: u64,
    pub segments: usize,
    /// With the files' pages in memory, and without; and with them, but without the written indexes.
    pub warm: Vec<Start>,
    pub cold: Vec<Start>,
    pub unindexed: Vec<Start>,
}

/// Fills the log with `events` events, or a few more, and kills the server and starts it again `rounds`
/// times from memory and as often from the disk.
pub async fn run(mut target: Target, events: usize, rounds: usize) -> Recovery {
    let mut calls = events.div_ceil(COMMIT_EVENTS * CALLERS) * CALLERS;
    let mut part = 0;
    while calls > 0 {
        let some = calls.min(CALLS_AT_ONCE);
        let each = [CALLERS, some / CALLERS, COMMIT_EVENTS];
        shapes::append(Twin::Real, &mut target, &format!("Recovery{part}"), each).await;
        (calls, part) = (calls - some, part + 1);
    }
    let bytes = target.log_bytes().await;
    let place = target.server.place.clone().expect("durable mode");
    let (mut warm, mut cold, mut unindexed) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..3 * rounds {
        // Last those without indexes: a server soon writes them again, but not before it is killed.
        let kind = if round < 2 * rounds { round % 2 } else { 2 };
        let meanwhile = |place: &Place| match kind {
            0 => {}
            1 => place.forget_pages().expect("the files are ours"),
            _ => place.remove_indexes().expect("the files are ours"),
        };
        target = target.crash_and_connect(meanwhile).await;
        target.check_head().await;
        let starts = match kind {
            0 => &mut warm,
            1 => &mut cold,
            _ => &mut unindexed,
        };
        starts.push(start(&target.server));
    }
    let (events, segments) = (target.appended, place.segments());
    Recovery { events, bytes, segments, warm, cold, unindexed }
}

fn start(server: &Server) -> Start {
    let last = |said: &str| {
        let line = server.start.iter().rev().find(|(_, line)| line.contains(said));
        line.unwrap_or_else(|| panic!("it says: {said}")).0
    };
    Start {
        checked: last("segments checked"),
        indexed: last("history read back"),
        listening: last("listening"),
    }
}
