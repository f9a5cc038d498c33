//! Builds core, services and wire, in that order, and serves them on the listener it is given.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::{
    codec::CompressionEncoding,
    server::NamedService,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    config::Config,
    core::{
        clock::{Clock, SystemClock, Timestamp},
        commit_log::{
            CommitLogError,
            disk::{self, DataDirectory, OpenError, OpenLogError, SyncMode, recovery::Cut},
        },
        log::segment::SEGMENT_SIZE_BYTES,
        sequencer::Sequencer,
        store::Store,
    },
    service::{command::CommandService, query::QueryService, subscription::SubscriptionService},
    wire::{
        admin::Admin,
        call::CallLayer,
        command::Commands,
        empty::Empty,
        proto::{
            self,
            bench::empty_service_server::EmptyServiceServer,
            v1::{
                admin_service_server::AdminServiceServer,
                command_service_server::CommandServiceServer,
                query_service_server::QueryServiceServer,
                subscription_service_server::SubscriptionServiceServer,
            },
        },
        query::Queries,
        subscription::Subscriptions,
    },
};

/// A request is a commit and what is around it: conditions, names, protobuf's own.
const REQUEST_OVERHEAD_BYTES: usize = 4 << 20;
/// What a client may send on one call before we have read it, and on one connection.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Calls open at once on one connection.
const CALLS_OF_A_CONNECTION_MAX: u32 = 4096;
/// A connection is asked whether it is alive when it has been quiet for so long, and dropped if it does
/// not answer: so half-open ones end.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// While the history is read back, so often is told how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Why the server could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The listener failed.
    #[error("the server failed")]
    Transport(#[from] tonic::transport::Error),
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is in it cannot be read back, or it cannot be written to.
    #[error(transparent)]
    Log(#[from] OpenLogError),
    /// The operating system gives no thread.
    #[error("cannot start a thread")]
    Thread(#[from] std::io::Error),
    /// Our own descriptors were refused.
    #[error("reflection cannot describe the services")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves on `listener` until `stop` is cancelled, then stops as `shutdown` says.
pub async fn run(
    config: Config,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), ServerError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (store, leader) = open(&config, &clock).await?;
    let (health, health_service) = tonic_health::server::health_reporter();
    let health_service = health_service
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd);
    let routes = routes(&config, &store, &clock, &stop, health.clone()).await?;
    let routes = routes.add_service(health_service);

    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "listening");
    }
    tokio::spawn(watch_the_log(store.broken(), health.clone()));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(CALLS_OF_A_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .layer(CallLayer)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, {
            let stop = stop.clone();
            async move {
                stop.cancelled().await;
                // "" is the server as a whole.
                for service in SERVICES.iter().chain(&[""]) {
                    health.set_service_status(*service, ServingStatus::NotServing).await;
                }
            }
        });
    let too_late = async {
        stop.cancelled().await;
        tokio::time::sleep(config.shutdown_timeout).await;
    };
    let served = tokio::select! {
        served = serving => served,
        () = too_late => {
            tracing::warn!("calls were still open at the deadline; they are dropped");
            Ok(())
        }
    };
    if let Some(leader) = leader {
        // It decides what still waits and makes it safe.
        tokio::task::spawn_blocking(move || leader.stop()).await.ok();
    }
    tracing::info!(head = %store.history().log.watermark().get(), "stopped");
    Ok(served?)
}

/// The thread that leads in durable mode: it waits for the disk, so that no other does.
struct Leader {
    thread: std::thread::JoinHandle<()>,
    stopped: Arc<AtomicBool>,
}

impl Leader {
    fn start(store: &Arc<Store>, sync: SyncMode) -> Result<Self, ServerError> {
        let settle_after = match sync {
            SyncMode::Interval(interval) => Some(interval),
            SyncMode::Always | SyncMode::Never => None,
        };
        let stopped = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("annals-leader".to_owned()).spawn({
            let (store, stopped) = (Arc::clone(store), Arc::clone(&stopped));
            // Acquire, pairs with the Release in `stop`.
            move || store.lead_from_now_on(settle_after, || stopped.load(Ordering::Acquire))
        })?;
        Ok(Self { thread, stopped })
    }

    fn stop(self) {
        // Release, pairs with the Acquire above.
        self.stopped.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("the leader has panicked");
        }
    }
}

/// The store as it is configured: empty in memory, or read back from its directory.
async fn open(
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<(Arc<Store>, Option<Leader>), ServerError> {
    let Some(path) = config.data.clone() else {
        let store = Store::in_memory(Arc::clone(clock), config.append_queue_max);
        return Ok((Arc::new(store), None));
    };
    let sync = config.sync;
    let sequencer = tokio::task::spawn_blocking(move || read_back(&path, sync))
        .await
        .map_err(std::io::Error::other)??;
    let store = Arc::new(Store::new(sequencer, Arc::clone(clock), config.append_queue_max));
    let leader = Leader::start(&store, sync)?;
    Ok((store, Some(leader)))
}

fn read_back(path: &Path, sync: SyncMode) -> Result<Sequencer, ServerError> {
    let started = Instant::now();
    let directory = DataDirectory::open(path)?;
    let files = Arc::clone(directory.files());
    let (mut sequencer, recovered) =
        disk::open(files, sync, SEGMENT_SIZE_BYTES, Some(directory), |done, all| {
            tracing::info!(done, all, "segment checked");
        })?;
    if let Some(Cut { file, offset, reason }) = recovered.cut {
        tracing::warn!(file, offset, %reason, "a torn tail was cut off; nothing of it was acknowledged");
    }
    let mut reported = Instant::now();
    sequencer.restore(recovered.head, |position| {
        if reported.elapsed() >= PROGRESS_INTERVAL {
            reported = Instant::now();
            tracing::info!(%position, head = %recovered.head, "indexing");
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(path = %path.display(), head = %recovered.head, seconds, "history read back");
    Ok(sequencer)
}

/// When the log takes nothing more, the server does not serve commands; reads go on.
async fn watch_the_log(
    mut broken: watch::Receiver<Option<CommitLogError>>,
    health: HealthReporter,
) {
    let reason = match broken.wait_for(Option::is_some).await {
        Ok(reason) => reason.as_ref().map(ToString::to_string),
        // The store has gone first.
        Err(_) => None,
    };
    if let Some(reason) = reason {
        tracing::error!(reason, "appends are refused until a restart; reads go on");
        for service in [CommandServiceServer::<Commands>::NAME, ""] {
            health.set_service_status(service, ServingStatus::NotServing).await;
        }
    }
}

const SERVICES: [&str; 4] = [
    CommandServiceServer::<Commands>::NAME,
    QueryServiceServer::<Queries>::NAME,
    SubscriptionServiceServer::<Subscriptions>::NAME,
    AdminServiceServer::<Admin>::NAME,
];

async fn routes(
    config: &Config,
    store: &Arc<Store>,
    clock: &Arc<dyn Clock>,
    stop: &CancellationToken,
    health: HealthReporter,
) -> Result<Routes, ServerError> {
    let limits = config.limits;
    let history = store.history();
    let subscriptions = SubscriptionService::new(
        Arc::clone(history),
        Arc::clone(clock),
        config.subscriptions_max,
        stop.clone(),
    );
    let commands = Commands::new(CommandService::new(Arc::clone(store)), limits, stop.clone());
    let queries = Queries::new(QueryService::new(Arc::clone(history)), limits);
    let admin = Admin {
        store: Arc::clone(store),
        subscriptions: subscriptions.clone(),
        limits,
        sync: config.data.is_some().then_some(config.sync),
        started_at: Timestamp::from_micros(clock.now_micros()),
        started: Instant::now(),
    };
    let request_bytes_max = limits.commit_size_bytes_max + REQUEST_OVERHEAD_BYTES;

    // Requests may be compressed. Answers are not: a compressor for each message costs a hundred times
    // what the message does.
    macro_rules! service {
        ($server:expr) => {
            $server
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd)
                .max_decoding_message_size(request_bytes_max)
                .max_encoding_message_size(usize::MAX)
        };
    }
    let mut routes = Routes::default()
        .add_service(service!(CommandServiceServer::new(commands)))
        .add_service(service!(QueryServiceServer::new(queries)))
        .add_service(service!(SubscriptionServiceServer::new(Subscriptions::new(
            subscriptions,
            limits
        ))))
        .add_service(service!(AdminServiceServer::new(admin)));
    if config.bench_service {
        routes = routes.add_service(service!(EmptyServiceServer::new(Empty)));
    }
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    // grpcurl 1.8 and others ask for v1alpha only.
    Ok(routes
        .add_service(service!(reflection(config).build_v1()?))
        .add_service(service!(reflection(config).build_v1alpha()?)))
}

/// What a reflection client may see: the services that are served, and every error's details.
fn reflection(config: &Config) -> tonic_reflection::server::Builder<'static> {
    let mut builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.health.v1.Health");
    for service in SERVICES {
        builder = builder.with_service_name(service);
    }
    if config.bench_service {
        builder = builder.with_service_name(EmptyServiceServer::<Empty>::NAME);
    }
    builder
}
