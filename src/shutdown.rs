//! shutdown
pub fn on_signal() -> tokio_util::sync::CancellationToken {
    tokio_util::sync::CancellationToken::new()
}
