//! `annals bench`: puts load on a server and tells rates and latencies, beside calls that do nothing.
//!
//! ```text
//! append.rs  read.rs  subscribe.rs   a shape a file: its options, and the load, which takes channels and
//!                                    requests and knows no option
//! rounds.rs  report.rs               rounds, real and empty by turns · what they came to
//! mixed/                             all at once, for as long as one likes
//! overload/                          more than a server can take
//! load.rs    events.rs               what a round is, what it came to · what is appended
//! ```
//!
//! The loads are also those of `benches/end_to_end.rs`, which starts its servers itself.

pub mod append;
pub mod events;
mod fill;
pub mod load;
mod mixed;
mod overload;
pub mod raw;
pub mod read;
mod report;
mod rounds;
pub mod subscribe;

use serde_json::{Value, json};
use tonic::Code;
use uuid::Uuid;

use self::rounds::{EmptyCall, RoundArgs};
use super::{
    CliError,
    client::{self, ServerArgs},
};
use crate::{
    core::limits::Limits,
    wire::proto::{
        bench::{CallRequest, PersistRequest},
        v1::{AppendRequest, GetInfoRequest, GetInfoResponse, Mode},
    },
};

/// What an event has beside its data, about.
const EVENT_OVERHEAD_BYTES: usize = 200;

/// Measure a server: put load on it, and tell rates and latencies
///
/// Events are appended to streams of a category of this run's own, `bench_RUN`, or of --category; at the end
/// it says how to remove them. With --compare or --empty the same load goes to calls that do nothing, which
/// `annals serve --bench-service` offers: what the store costs is what a call costs more than its empty
/// twin. The load takes processor time, too: where it shares the processor with the server, the ratio
/// of the two is what counts.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    shape: Shape,
}

#[derive(Debug, clap::Subcommand)]
enum Shape {
    Append(append::AppendArgs),
    Stream(append::StreamArgs),
    Read(read::ReadArgs),
    Subscribe(subscribe::SubscribeArgs),
    Mixed(mixed::MixedArgs),
    Overload(overload::OverloadArgs),
}

/// On all processors: one thread would measure itself.
pub(super) fn run(args: BenchArgs) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::file("the runtime", error))?;
    runtime.block_on(async {
        match args.shape {
            Shape::Append(args) => append::append(args).await,
            Shape::Stream(args) => append::stream(args).await,
            Shape::Read(args) => read::run(args).await,
            Shape::Subscribe(args) => subscribe::run(args).await,
            Shape::Mixed(args) => mixed::run(args).await,
            Shape::Overload(args) => overload::run(args).await,
        }
    })
}

/// So many connections to a server, as all client commands have them.
pub async fn connect(
    url: &str,
    count: usize,
) -> Result<Vec<tonic::transport::Channel>, tonic::transport::Error> {
    let endpoint = client::endpoint(url.to_owned())?;
    let mut channels = Vec::with_capacity(count);
    for _ in 0..count {
        channels.push(endpoint.connect().await?);
    }
    Ok(channels)
}

/// What is appended, and where to.
#[derive(Debug, clap::Args)]
struct EventArgs {
    /// How many bytes of data, JSON, an event has
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..=4_000_000))]
    data_bytes: u32,
    /// Append to streams CATEGORY-RUN-N of this category, not of one for this run alone
    #[arg(long, value_name = "CATEGORY", value_parser = parse_category)]
    category: Option<String>,
}

impl EventArgs {
    /// How large an event's data is, if an append of that many can be taken.
    fn data_bytes(&self, batch: u32) -> Result<usize, CliError> {
        let data_bytes = self.data_bytes as usize;
        let bytes = (data_bytes + EVENT_OVERHEAD_BYTES) * batch as usize;
        let max = Limits::HARD.commit_size_bytes_max;
        if bytes > max {
            return Err(CliError::Usage(format!(
                "an append of {batch} events with {data_bytes} bytes of data is too large: about {bytes} bytes, at \
                 most {max} are allowed; use a smaller --batch or --data-bytes"
            )));
        }
        Ok(data_bytes)
    }
}

fn parse_category(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 256 || text.contains('-') || text.starts_with('$') {
        return Err("1 to 256 bytes without `-`, not beginning with `$`, are expected".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("it has control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// Who appends.
#[derive(Debug, clap::Args)]
struct WriteArgs {
    /// How many callers append, each one call (or pipeline) at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    callers: u32,
    /// How many connections they share [default: 1 for one caller, else 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: Option<u32>,
    /// Append to so many streams in turn, without an expected version [default: each caller has its own
    /// stream, and says which version it expects]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    streams: Option<u32>,
    /// How many events an append has
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    #[command(flatten)]
    events: EventArgs,
}

impl WriteArgs {
    fn data_bytes(&self) -> Result<usize, CliError> {
        self.events.data_bytes(self.batch)
    }

    fn connections(&self) -> u32 {
        self.connections.unwrap_or(if self.callers == 1 { 1 } else { 2 })
    }

    fn facts(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("callers", self.callers.into()),
            ("connections", self.connections().into()),
            ("batch", self.batch.into()),
            ("data_bytes", self.events.data_bytes.into()),
        ]
    }
}

/// One run against one server.
struct Bench {
    shape: &'static str,
    url: String,
    info: GetInfoResponse,
    run: Uuid,
}

/// What the streams of a run are called.
struct Names {
    category: String,
    /// The rest of a name is a number.
    prefix: String,
}

impl Bench {
    /// Asks the server who it is, and whether it offers the twin that is wanted.
    async fn begin(shape: &'static str, args: &RoundArgs) -> Result<Self, CliError> {
        let bench = Self::of(shape, &args.server).await?;
        let mut empty = args.server.connect().await?.empty();
        let answer = match args.twin() {
            None => return Ok(bench),
            Some(EmptyCall::Messages) => empty.append(AppendRequest::default()).await.map(drop),
            Some(EmptyCall::Bytes) => empty.call(CallRequest::default()).await.map(drop),
            Some(EmptyCall::Disk) => empty.persist(PersistRequest::default()).await.map(drop),
        };
        match answer {
            Err(status) if status.code() == Code::Unimplemented => Err(CliError::Failed(format!(
                "{} offers no empty calls to compare with; start it with `annals serve --bench-service`",
                bench.url
            ))),
            answer => Ok(answer.map(|()| bench)?),
        }
    }

    async fn of(shape: &'static str, server: &ServerArgs) -> Result<Self, CliError> {
        let mut admin = server.connect().await?.admin();
        let info = admin.get_info(GetInfoRequest {}).await?.into_inner();
        Ok(Self { shape, url: server.url().to_owned(), info, run: Uuid::new_v4() })
    }

    fn names(&self, events: &EventArgs) -> Names {
        let run = format!("{:08x}", self.run.as_fields().0);
        match &events.category {
            None => {
                let category = format!("bench_{run}");
                Names { prefix: format!("{category}-"), category }
            }
            Some(category) => {
                Names { prefix: format!("{category}-{run}-"), category: category.clone() }
            }
        }
    }

    fn id_base(&self) -> u128 {
        self.run.as_u128()
    }

    fn mode(&self) -> &'static str {
        match self.info.mode() {
            Mode::Memory => "memory",
            Mode::Durable => "durable",
            Mode::Unspecified => "unknown",
        }
    }

    fn server_line(&self) -> String {
        let sync = match self.info.mode() {
            Mode::Durable => format!(", sync {}", self.info.sync),
            Mode::Memory | Mode::Unspecified => String::new(),
        };
        format!("{} · server {} · mode {}{sync}", self.url, self.info.version, self.mode())
    }

    fn server_json(&self) -> Value {
        json!({
            "address": self.url,
            "version": self.info.version,
            "mode": self.mode(),
            "sync": self.info.sync,
        })
    }
}
