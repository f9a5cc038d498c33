//! `annals bench overload`: gives a server far more to do than it takes, and looks whether it keeps its promises.
//!
//! ```text
//! baseline ─► connections ─► appends ─► slow readers ─► oversized ─► recovery
//!             opened and kept …………………………………………………………… closed
//! a prober, on a thread and a connection of its own, asks for the server's health all the while
//! ```
//!
//! A promise that is broken is a line at the end, and exit code 1. `calls.rs` counts what calls come to, `phases.rs`
//! makes the load, `prober.rs` asks, `report.rs` prints.

mod calls;
mod phases;
mod prober;
mod report;

use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use self::{
    calls::Outcomes,
    prober::{Probe, Prober},
    report::Report,
};
use crate::{
    cli::{CliError, client::ServerArgs, info::size, output::grouped},
    open_files,
    wire::proto::v1::{GetInfoRequest, GetInfoResponse, Memory, admin_service_client},
};

/// Files that are no connection of the load.
const FILES_BESIDE_CONNECTIONS: u64 = 128;
/// What recovering latencies may have more than the factor says: a busy machine's scheduling.
const LATENCY_SLACK: Duration = Duration::from_millis(5);

/// Overload a server, and look whether it keeps its promises
///
/// For a server that is there to be tested: it appends, and takes all that the server has. Opens connections, appends
/// by many callers at once, reads without reading on, and sends what is too large. The server must serve or shed each
/// call (a connection too many may be closed, a call may be late, and what is wrong in itself is refused as such), stay
/// healthy, lose no append that it acknowledged, and be as before when the load is gone. If it is not so, the exit
/// code is 1.
///
/// Needs about as many open files as --connections, and so does the server: see `ulimit -n`.
#[derive(Debug, clap::Args)]
pub struct OverloadArgs {
    /// Connections that are opened, and kept
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Callers who append one event each, all at once
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    callers: u32,
    /// The connections that the callers share
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    append_connections: u32,
    /// Reads and subscriptions that are begun and not read on
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    readers: u32,
    /// The deadline of each call
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    deadline: u64,
    /// How long a health check may take
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    health_max_ms: u64,
    /// How long the server has to be as before
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    recovery: u64,
    /// How many times as long as before a call may take when the load is gone, and 5 ms
    #[arg(long, value_name = "N", default_value_t = 3)]
    factor: u32,
    /// How much more memory than before the server may have then, beside what was appended: glibc's allocator keeps what
    /// was freed, for the next time
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory_slack: u64,
    /// The server's process, where it runs here: its memory is read from /proc, not asked for
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: OverloadArgs) -> Result<(), CliError> {
    let wanted = u64::from(args.connections) + FILES_BESIDE_CONNECTIONS;
    if let Some(files) = open_files::raise_limit().filter(|files| *files < wanted) {
        return Err(CliError::Usage(format!(
            "--connections {} needs {wanted} open files, and the limit is {files}: raise it with `ulimit -n {wanted}`, \
             or open fewer",
            args.connections
        )));
    }
    // That there is a server is told as by any other command.
    args.server.connect().await?;
    let mut run = Run::begin(args).await?;
    let before = run.baseline("baseline").await?;
    let info = run.info().await?;
    let resident = run.resident(&info)?;

    let mut channels = run.connections(&info).await?;
    run.appends(&channels).await?;
    run.make_room(&mut channels).await?;
    run.slow_readers().await?;
    run.oversized().await?;
    run.recovery(channels, &before, &info, resident).await?;
    run.prober.stop();
    run.report.print(run.args.json)
}

/// One run against one server.
struct Run {
    endpoint: Endpoint,
    /// For what is no load.
    control: Channel,
    prober: Prober,
    report: Report,
    /// All its streams are of this category.
    category: String,
    /// Event ids count from here.
    id_base: u128,
    started: Instant,
    args: OverloadArgs,
}

impl Run {
    async fn begin(args: OverloadArgs) -> Result<Self, CliError> {
        let server = args.server.url().to_owned();
        let endpoint = Endpoint::from_shared(server.clone())
            .map_err(|error| CliError::Usage(format!("--server {server}: {error}")))?
            .connect_timeout(Duration::from_secs(args.deadline))
            .tcp_nodelay(true);
        let no_server = |_| CliError::NoServer { server: server.clone() };
        let control = endpoint.connect().await.map_err(no_server)?;
        let prober = Prober::start(endpoint.clone())?;
        let id = Uuid::new_v4();
        Ok(Self {
            endpoint,
            control,
            prober,
            report: Report::default(),
            category: format!("overload_{:08x}", id.as_fields().0),
            // The lower half counts.
            id_base: id.as_u128() & !u128::from(u64::MAX),
            started: Instant::now(),
            args,
        })
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(self.args.deadline)
    }

    async fn info(&self) -> Result<GetInfoResponse, CliError> {
        let mut admin = admin_service_client::AdminServiceClient::new(self.control.clone());
        Ok(admin.get_info(GetInfoRequest {}).await?.into_inner())
    }

    /// The server's memory, bytes; 0 where nobody knows.
    fn resident(&self, info: &GetInfoResponse) -> Result<u64, CliError> {
        let Some(pid) = self.args.pid else {
            return Ok(info.memory.map_or(0, |memory| memory.resident_bytes));
        };
        let path = format!("/proc/{pid}/status");
        let status =
            std::fs::read_to_string(&path).map_err(|error| CliError::file(path.clone(), error))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| CliError::Failed(format!("{path}: no VmRSS")))
    }

    /// Ends a phase: how its calls went, whether any came to what is not `allowed`, and how the server was meanwhile.
    async fn note(
        &mut self,
        name: &'static str,
        outcomes: Outcomes,
        allowed: &[tonic::Code],
    ) -> Result<(), CliError> {
        let info = self.info().await?;
        let resident = self.resident(&info)?;
        let health = self.prober.take();
        for (code, count, example) in outcomes.others(allowed) {
            let count = grouped(count);
            self.report.broken(name, format!("{count} calls ended with {code}: {example}"));
        }
        self.judge_health(name, &health);
        self.report.phase(name, self.started.elapsed(), &outcomes, &health, &info, resident);
        Ok(())
    }

    fn judge_health(&mut self, name: &'static str, health: &Probe) {
        if let Some(failure) = &health.failure {
            self.report.broken(name, format!("health checks failed: {failure}"));
        }
        let (max, allowed) = (health.latencies.max() / 1000, self.args.health_max_ms);
        if max > allowed {
            let what = format!("a health check took {max} ms, at most {allowed} ms are allowed");
            self.report.broken(name, what);
        }
    }

    /// Waits until the server has noticed that no more than `most` connections are left, or no longer.
    async fn closed_to(&self, most: u64) -> Result<GetInfoResponse, CliError> {
        let (began, patience) = (Instant::now(), Duration::from_secs(self.args.recovery));
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            let info = self.info().await?;
            if info.connection_count <= most || began.elapsed() >= patience {
                return Ok(info);
            }
        }
    }

    /// Closes as many connections as the next phases open: all places may be taken.
    async fn make_room(&mut self, channels: &mut Vec<Channel>) -> Result<(), CliError> {
        let wanted = phases::connections_of_readers(self.args.readers) + 1;
        let kept = channels.len().saturating_sub(wanted);
        let closed = (channels.len() - kept) as u64;
        let most = self.info().await?.connection_count.saturating_sub(closed);
        channels.truncate(kept);
        self.closed_to(most).await.map(drop)
    }

    /// Closes all, and waits until the server is as it was.
    async fn recovery(
        &mut self,
        channels: Vec<Channel>,
        before: &phases::Baseline,
        was: &GetInfoResponse,
        resident: u64,
    ) -> Result<(), CliError> {
        drop(channels);
        let closing = Instant::now();
        let info = self.closed_to(was.connection_count).await?;
        if info.connection_count > was.connection_count {
            let open = grouped(info.connection_count - was.connection_count);
            let what = format!("{open} connections are still open");
            self.report.broken("recovery", what);
        }
        self.report.closed_after(closing.elapsed());

        let after = self.baseline("recovery").await?;
        for (what, before, after) in [
            ("a health check", before.health, after.health),
            ("an append", before.append, after.append),
            ("a read", before.read, after.read),
        ] {
            let allowed = before * self.args.factor + LATENCY_SLACK;
            if after > allowed {
                let what = format!("{what} takes {after:?}, took {before:?} before");
                self.report.broken("recovery", what);
            }
        }
        let info = self.info().await?;
        let appended = held(info.memory).saturating_sub(held(was.memory));
        let now = self.resident(&info)?;
        let grown = now.saturating_sub(resident);
        self.report.memory(resident, now, appended);
        if grown > appended + (self.args.memory_slack << 20) {
            let (grown, appended) = (size(grown), size(appended));
            let what = format!("memory grew by {grown}, of which {appended} were appended");
            self.report.broken("recovery", what);
        }
        Ok(())
    }
}

/// What the history has of the memory.
fn held(memory: Option<Memory>) -> u64 {
    memory.map_or(0, |memory| {
        memory.event_bytes
            + memory.offset_bytes
            + memory.event_id_bytes
            + memory.stream_bytes
            + memory.category_bytes
            + memory.type_bytes
            + memory.tag_bytes
            + memory.correlation_bytes
            + memory.causation_bytes
            + memory.metadata_bytes
            + memory.column_bytes
            + memory.query_cache_bytes
            + memory.unpacked_bytes
    })
}
