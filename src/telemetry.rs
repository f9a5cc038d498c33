//! Starts the log: one line an event, on stderr, so that stdout stays for answers.

use std::io::{self, IsTerminal};

use tracing_subscriber::{filter::EnvFilter, fmt};

use crate::config::LogFormat;

/// Why the log does not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// [`crate::config::load`] lets no such value through.
    #[error("not a log directive")]
    Directive(#[from] tracing_subscriber::filter::ParseError),
    /// A process starts its log once.
    #[error("the log has been started before")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Takes everything that `tracing` says from here on. `level` is a filter directive.
pub fn init(level: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let log = fmt()
        .with_env_filter(EnvFilter::builder().parse(level)?)
        .with_writer(io::stderr)
        // A log that nobody reads any more must not stop anything: told on stderr, it would panic.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal() && !no_color);
    match format {
        LogFormat::Text => log.with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    }
    .map_err(TelemetryError::Twice)
}
