//! What stops in which order, and by when.
//!
//! 1. The signal, or whoever owns the token, cancels it.
//! 2. Health says `NOT_SERVING`; no new connection is taken, and connections are told to go away.
//! 3. Subscriptions and pipelines end with UNAVAILABLE; a subscription says where to resume. Other
//!    calls in flight finish.
//! 4. What is not done by the deadline is dropped. An acknowledged event is where its mode keeps it by
//!    then: it was before it was acknowledged.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled on SIGINT or SIGTERM. A second signal ends the process at once.
///
/// # Errors
/// If the operating system takes no handler.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => ("SIGINT", 130),
                _ = terminate.recv() => ("SIGTERM", 143),
            }
        };
        let (name, _) = next().await;
        // First of all: whatever becomes of the log.
        cancel.cancel();
        tracing::info!(signal = name, "stopping; a second signal stops at once");
        let (name, code) = next().await;
        tracing::warn!(signal = name, "stopped at once");
        std::process::exit(code);
    });
    Ok(token)
}
