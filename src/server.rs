//! server
#[derive(Debug, thiserror::Error)]
#[error("not yet")]
pub struct ServerError;
#[expect(clippy::unused_async, reason = "a placeholder")]
pub async fn run(
    _config: crate::config::Config,
    _listener: tokio::net::TcpListener,
    _stop: tokio_util::sync::CancellationToken,
) -> Result<(), ServerError> {
    Err(ServerError)
}
