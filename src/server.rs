//! Builds core, services and wire, in that order, and serves them on the listener it is given.

use std::{io, sync::Arc, time::Instant};

use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::{codec::CompressionEncoding, server::NamedService, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::Layer;

use crate::{
    bare_disk::BareDisk,
    config::Config,
    core::{
        clock::{Clock, SystemClock, Timestamp},
        commit_log::CommitLogError,
        position::Position,
        store::Store,
    },
    open_files,
    service::{
        cache::QueryCache,
        command::CommandService,
        group::GroupService,
        places::Places,
        query::QueryService,
        read_model::{Bounds, OpenModelsError, ReadModelService},
        subscription::{Interests, SubscriptionService},
    },
    storage::{self, Storage, StorageError},
    wire::{
        admin::{Admin, Load, LoadLimits},
        admission::Admission,
        call::CallLayer,
        command::Commands,
        connections,
        empty::Empty,
        group::Groups,
        proto::{
            self,
            bench::empty_service_server::EmptyServiceServer,
            commands::command_service_server::CommandServiceServer,
            v1::{
                admin_service_server::AdminServiceServer, query_service_server::QueryServiceServer,
                read_model_service_server::ReadModelServiceServer,
                subscription_service_server::SubscriptionServiceServer,
            },
        },
        query::Queries,
        read_model::ReadModels,
        serve::{KeepAlive, serve},
        subscription::Subscriptions,
    },
};

/// A request is a commit and what is around it: conditions, names, protobuf's own.
const REQUEST_OVERHEAD_BYTES: usize = 4 << 20;
/// A health check names a service.
const HEALTH_REQUEST_BYTES_MAX: usize = 4 << 10;
/// So many files are kept for other things than connections: segments, read models, what the runtime needs.
const FILES_BESIDE_CONNECTIONS: usize = 256;

/// Why the server could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The history cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The state of a consumer group cannot be read.
    #[error("the event at position {position} is of a consumer group, and of a newer version")]
    Group { position: Position },
    /// The read models cannot be opened.
    #[error("the read models cannot be opened")]
    ReadModels(#[from] OpenModelsError),
    /// There is no thread more for the bench service.
    #[error("the bench service's thread cannot start")]
    BareDisk(#[source] io::Error),
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
    let storage = storage::open(&config, &clock).await?;
    let store = Arc::clone(&storage.store);
    let (health, health_service) = tonic_health::server::health_reporter();
    let health_service = health_service
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .max_decoding_message_size(HEALTH_REQUEST_BYTES_MAX);
    let load = load(&config);
    let following = match Following::start(&config, &store, &clock, &stop) {
        Ok(following) => following,
        Err(error) => {
            // The directory is given back.
            tokio::task::spawn_blocking(move || storage.stop()).await.ok();
            return Err(error);
        }
    };
    let groups = following.groups.clone();
    let read_models = following.read_models.clone();
    let routes =
        routes(&config, &storage, &clock, &stop, health.clone(), following, load.clone()).await?;
    let routes = routes.add_service(health_service);

    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "listening");
    }
    tokio::spawn(watch_the_log(store.broken(), health.clone()));
    let incoming =
        connections::accept(listener, load.connections.clone(), config.keep_alive_timeout);
    let admission = Admission::new(
        load.calls.clone(),
        load.limits.requests_bytes_max,
        load.limits.request_bytes_max,
    );
    let service = admission.layer(CallLayer::new(stop.clone()).layer(routes.prepare()));
    let keep_alive =
        KeepAlive { interval: config.keep_alive_interval, timeout: config.keep_alive_timeout };
    let serving = serve(incoming, service, keep_alive, stop.clone());
    let serving = async { tokio::join!(serving, told_that_it_stops(health, &stop)) };
    let too_late = async {
        stop.cancelled().await;
        tokio::time::sleep(config.shutdown_timeout).await;
    };
    tokio::select! {
        _ = serving => {}
        () = too_late => {
            tracing::warn!("calls were still open at the deadline; they are dropped");
        }
    }
    // Groups note where they are; then what still waits is decided and made safe.
    groups.stopped().await;
    tokio::task::spawn_blocking(move || {
        read_models.stop();
        storage.stop();
    })
    .await
    .ok();
    tracing::info!(head = %store.history().log.watermark().get(), "stopped");
    Ok(())
}

/// Whoever watches the health is told that it ends, and then it does: a watch has no end of its own, and would hold the
/// server until the deadline.
async fn told_that_it_stops(mut health: HealthReporter, stop: &CancellationToken) {
    stop.cancelled().await;
    // "" is the server as a whole.
    for service in SERVICES.iter().chain(&[""]) {
        health.set_service_status(*service, ServingStatus::NotServing).await;
    }
    for service in SERVICES.iter().chain(&[""]) {
        health.clear_service_status(service).await;
    }
}

/// What the server takes at once.
fn load(config: &Config) -> Load {
    let files = open_files::raise_limit().and_then(|files| usize::try_from(files).ok());
    let connections_max = files.map_or(config.connections_max, |files| {
        let possible = files.saturating_sub(FILES_BESIDE_CONNECTIONS).max(1);
        if possible < config.connections_max {
            let wanted = config.connections_max;
            tracing::warn!(wanted, possible, files, "fewer connections: too few open files");
        }
        possible.min(config.connections_max)
    });
    Load {
        connections: Places::new(connections_max),
        calls: Places::new(config.calls_max),
        limits: LoadLimits {
            request_bytes_max: config.limits.commit_size_bytes_max + REQUEST_OVERHEAD_BYTES,
            requests_bytes_max: config.requests_bytes_max,
            append_queue_max: config.append_queue_max,
            append_queue_bytes_max: config.append_queue_bytes_max,
        },
    }
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
        tracing::error!(reason, "appends are refused, reads go on; look at the disk, then restart");
        for service in [CommandServiceServer::<Commands>::NAME, ""] {
            health.set_service_status(service, ServingStatus::NotServing).await;
        }
    }
}

const SERVICES: [&str; 5] = [
    CommandServiceServer::<Commands>::NAME,
    QueryServiceServer::<Queries>::NAME,
    SubscriptionServiceServer::<Subscriptions>::NAME,
    ReadModelServiceServer::<ReadModels>::NAME,
    AdminServiceServer::<Admin>::NAME,
];

/// What follows the log: who listens, and how many may.
struct Following {
    places: Places,
    subscriptions: SubscriptionService,
    groups: GroupService,
    read_models: ReadModelService,
}

impl Following {
    fn start(
        config: &Config,
        store: &Arc<Store>,
        clock: &Arc<dyn Clock>,
        stop: &CancellationToken,
    ) -> Result<Self, ServerError> {
        let history = store.history();
        let places = Places::new(config.subscriptions_max);
        // Before anything runs: it may refuse the start.
        let read_models = ReadModelService::open(
            config.data.as_deref().map(|data| (data, config.sync)),
            Bounds {
                models_max: config.models_max,
                size_max: config.models_size_bytes_max.map_or(u64::MAX, |max| max as u64),
                document_size_max: config.document_size_bytes_max,
            },
            Arc::clone(history),
            Arc::clone(clock),
            places.clone(),
            stop.clone(),
        )?;
        let interests = Interests::new(Arc::clone(history), stop.clone());
        tokio::spawn(interests.clone().follow());
        let subscriptions = SubscriptionService::new(
            Arc::clone(history),
            Arc::clone(clock),
            places.clone(),
            interests.clone(),
            stop.clone(),
        );
        let groups = GroupService::start(
            CommandService::new(Arc::clone(store)),
            Arc::clone(history),
            Arc::clone(clock),
            interests,
            places.clone(),
            (config.groups_max, config.limits.event_size_bytes_max),
            stop.clone(),
        )
        .map_err(|position| ServerError::Group { position })?;
        Ok(Self { places, subscriptions, groups, read_models })
    }
}

async fn routes(
    config: &Config,
    storage: &Storage,
    clock: &Arc<dyn Clock>,
    stop: &CancellationToken,
    health: HealthReporter,
    following: Following,
    load: Load,
) -> Result<Routes, ServerError> {
    let store = &storage.store;
    let limits = config.limits;
    let history = store.history();
    let cache = Arc::new(QueryCache::new(config.query_cache));
    let Following { places, subscriptions, groups, read_models } = following;
    let commands = Commands::new(CommandService::new(Arc::clone(store)), limits, stop.clone());
    let queries =
        QueryService::new(Arc::clone(history), Arc::clone(clock), places.clone(), stop.clone());
    let queries = Queries::new(queries, Arc::clone(&cache), limits);
    let admin = Admin {
        store: Arc::clone(store),
        compactor: storage.compactor(),
        places,
        load: load.clone(),
        cache,
        limits,
        sync: config.data.is_some().then_some(config.sync),
        started_at: Timestamp::from_micros(clock.now_micros()),
        started: Instant::now(),
        stop: stop.clone(),
    };
    let request_bytes_max = load.limits.request_bytes_max;

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
            Groups { service: groups, limits },
            limits
        ))))
        .add_service(service!(ReadModelServiceServer::new(ReadModels {
            service: read_models,
            document_size_max: config.document_size_bytes_max,
        })))
        .add_service(service!(AdminServiceServer::new(admin)));
    if config.bench_service {
        let disk = config.data.as_deref().map(BareDisk::begin).transpose();
        let disk = disk.map_err(ServerError::BareDisk)?;
        routes = routes.add_service(service!(EmptyServiceServer::new(Empty { disk })));
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
