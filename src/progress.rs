//! How far a start is: a bar where somebody looks at a terminal, a line in the log now and then elsewhere.
//! Any thread may tell it.

use std::{
    io::{self, IsTerminal},
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::config::LogFormat;

/// The log has a line so often.
const LINE_INTERVAL: Duration = Duration::from_secs(2);
/// What takes less is not worth a bar.
const BAR_AFTER: Duration = Duration::from_millis(300);

/// Whether there is somebody who wants a bar: stderr has the log, for people, on a terminal.
pub fn is_watched(format: LogFormat) -> bool {
    format == LogFormat::Text && io::stderr().is_terminal()
}

/// One part of a start.
pub struct Progress {
    what: &'static str,
    began: Instant,
    watched: bool,
    state: Mutex<State>,
}

struct State {
    bar: Option<ProgressBar>,
    told: Instant,
}

impl Progress {
    /// Begins with `what`: `checking segments`.
    pub fn begin(what: &'static str, watched: bool) -> Self {
        let now = Instant::now();
        Self { what, began: now, watched, state: Mutex::new(State { bar: None, told: now }) }
    }

    /// So much of it is done.
    pub fn at(&self, done: u64, all: u64) {
        let mut state = self.state.lock().expect("no holder panics");
        if self.watched {
            if self.began.elapsed() >= BAR_AFTER {
                state.bar.get_or_insert_with(|| bar(self.what, all)).set_position(done);
            }
        } else if is_due(&mut state.told, Instant::now()) {
            tracing::info!(done, all, "{}", self.what);
        }
    }

    /// That was it, or it has failed: the terminal's line is free again.
    pub fn end(self) {
        if let Some(bar) = self.state.into_inner().expect("no holder panics").bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &'static str, all: u64) -> ProgressBar {
    let bar = ProgressBar::new(all).with_message(what);
    match ProgressStyle::with_template("{bar:30} {percent}%  {msg}: {pos} of {len}  {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Whether it is time for a line again, the last of which was at `told`.
fn is_due(told: &mut Instant, now: Instant) -> bool {
    let due = now.duration_since(*told) >= LINE_INTERVAL;
    if due {
        *told = now;
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_a_line_every_two_seconds_at_most() {
        let start = Instant::now();
        let mut told = start;
        let lines = (0..100).filter(|tenth| {
            let now = start + Duration::from_millis(100 * tenth);
            is_due(&mut told, now)
        });
        assert_eq!(lines.collect::<Vec<_>>(), [20, 40, 60, 80]);
    }
}
