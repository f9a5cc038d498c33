//! Serves connections: HTTP/2, and a task for each.

use std::{convert::Infallible, pin::pin, time::Duration};

use futures_util::{Stream, StreamExt};
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{body::Body, server::NamedService, transport::server::Connected};
use tower::{Service, ServiceExt, util::Oneshot};

use super::{
    connection_task::{Calls, ConnectionTask},
    connections::{Connection, Origin},
    proto::{
        bench::empty_service_server::EmptyServiceServer,
        commands::command_service_server::CommandServiceServer,
    },
};

/// What a client may send on one call before we have read it, and on one connection.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// What one call may have on its way to a socket that takes no more: two blocks of events, and a little.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// Calls open at once on one connection.
const CALLS_OF_A_CONNECTION_MAX: u32 = 4096;
/// The headers of one call, counted as HTTP/2 counts (RFC 9113, 6.5.2). More is answered with HTTP status 431.
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;

/// Whether the connection's own task runs the calls of this path: all that goes through the sequencer, which is for one
/// after the other anyway, and what is measured beside it. Reads have tasks of their own: they may take long.
fn is_run_by_the_connection(path: &str) -> bool {
    let method = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    method.is_some_and(|(service, method)| match service {
        CommandServiceServer::<()>::NAME => true,
        EmptyServiceServer::<()>::NAME => method != "Stream",
        _ => false,
    })
}

/// When a client that says nothing is asked whether it is there, and how long it has to answer.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    pub interval: Duration,
    pub timeout: Duration,
}

/// Serves `connections` until `stop` is cancelled; then none is taken any more, and each ends when its calls have.
pub async fn serve<S>(
    connections: impl Stream<Item = Connection>,
    service: S,
    keep_alive: KeepAlive,
    stop: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let tasks = TaskTracker::new();
    {
        let mut connections = pin!(connections.take_until(stop.cancelled()));
        while let Some(connection) = connections.next().await {
            let calls = Calls::default();
            let service = ServiceOfConnection {
                service: service.clone(),
                origin: connection.connect_info(),
                calls: calls.clone(),
            };
            let outlet = connection.outlet();
            let served =
                http(calls.clone(), keep_alive).serve_connection(TokioIo::new(connection), service);
            let stop = stop.clone();
            let connection = async move {
                let mut served = pin!(served);
                let ended = tokio::select! {
                    ended = &mut served => ended,
                    () = stop.cancelled() => {
                        served.as_mut().graceful_shutdown();
                        served.await
                    }
                };
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection has failed");
                }
            };
            let push = move || _ = outlet.upgrade().map(|outlet| outlet.push());
            tasks.spawn(ConnectionTask::new(connection, calls, push));
        }
        // The listener is closed here: who connects is told so at once.
    }
    tasks.close();
    tasks.wait().await;
}

/// What is spoken on a connection.
fn http(calls: Calls, keep_alive: KeepAlive) -> http2::Builder<Calls> {
    let mut http = http2::Builder::new(calls);
    http.timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_concurrent_streams(CALLS_OF_A_CONNECTION_MAX)
        .keep_alive_interval(Some(keep_alive.interval))
        .keep_alive_timeout(keep_alive.timeout)
        .max_header_list_size(HEADER_LIST_BYTES_MAX);
    http
}

/// The service as one connection has it.
struct ServiceOfConnection<S> {
    service: S,
    origin: Origin,
    calls: Calls,
}

impl<S> hyper::service::Service<Request<Incoming>> for ServiceOfConnection<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Oneshot<S, Request<Body>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if is_run_by_the_connection(request.uri().path()) {
            self.calls.run_next();
        }
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.origin.clone());
        self.service.clone().oneshot(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::call::paths;

    /// What is renamed in a proto is renamed here.
    #[test]
    fn a_connection_runs_commands_and_what_is_measured_beside_them() {
        let mut run: Vec<_> = paths(|_| true).into_iter().collect();
        run.retain(|path| is_run_by_the_connection(path));
        run.sort_unstable();
        let commands = [
            "Append",
            "AppendStream",
            "Commit",
            "DeleteStream",
            "SetRetention",
            "TombstoneStream",
            "TruncateStream",
        ]
        .map(|method| format!("/annals.v1.CommandService/{method}"));
        let empty = ["Append", "AppendStream", "Call", "Echo", "Persist"]
            .map(|method| format!("/annals.bench.v1.EmptyService/{method}"));
        assert_eq!(run, [&empty[..], &commands[..]].concat());
    }
}
