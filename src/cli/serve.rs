//! `annals serve`: options to a running server.

use std::{io, net::SocketAddr};

use clap::{Arg, ArgMatches, Args, FromArgMatches};
use tokio::{net::TcpListener, runtime::Runtime};
use tracing::{info, warn};

use super::{CliError, output::Output, with_causes};
use crate::{
    allocator,
    config::{self, Loaded},
    core::commit_log::disk::{OpenLogError, SyncMode},
    server::{self, ServerError},
    shutdown,
    storage::StorageError,
    telemetry,
};

/// Start a server
///
/// Every option has three spellings: the flag below, an environment variable (`ANNALS_APPEND_QUEUE_MAX`) and
/// a key in the TOML file that --config names (`append-queue-max`). A flag wins over the environment,
/// the environment over the file.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Print every effective value with its origin, as a file for --config, and exit
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

/// The flags that were given, as text: `config::load` checks all of them together.
#[derive(Debug)]
struct ConfigFlags(Vec<(String, String)>);

impl Args for ConfigFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new(config::FILE_FLAG)
            .long(config::FILE_FLAG)
            .value_name("FILE")
            .help("A TOML file with options [env: ANNALS_CONFIG]");
        config::OPTIONS.iter().fold(command.arg(file), |command, option| {
            let default = option.default_value();
            let mut arg = Arg::new(option.name)
                .long(option.name)
                .value_name(option.value_name)
                .help(format!("{} [default: {}]", option.help, default.trim_matches('"')));
            if default == "false" {
                arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
            }
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let names = config::OPTIONS.iter().map(|option| option.name).chain([config::FILE_FLAG]);
        let given = names.filter_map(|name| {
            matches.get_one::<String>(name).map(|value| (name.to_owned(), value.clone()))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

pub fn run(args: ServeArgs) -> Result<(), CliError> {
    let loaded = config::load(args.flags.0, std::env::vars_os())?;
    if args.print_config {
        let mut out = Output::stdout();
        out.line(|_| loaded.to_string().trim_end().to_owned())?;
        return Ok(out.flush()?);
    }
    telemetry::init(&loaded.config.log_level, loaded.config.log_format)
        .map_err(|error| CliError::Failed(error.to_string()))?;
    allocator::configure();
    let runtime = runtime(loaded.config.worker_threads)
        .map_err(|error| CliError::file("the runtime", error))?;
    let result = runtime.block_on(serve(loaded));
    // What is left had its time, in `server::run`.
    runtime.shutdown_background();
    result
}

/// One of so many threads, or, where that is 0, of as many as there are cores.
fn runtime(worker_threads: usize) -> io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if worker_threads > 0 {
        builder.worker_threads(worker_threads);
    }
    builder.enable_all().build()
}

async fn serve(loaded: Loaded) -> Result<(), CliError> {
    let stop = shutdown::on_signal()
        .map_err(|error| CliError::Failed(format!("cannot handle signals: {error}")))?;
    let listen = loaded.config.listen;
    let listener = TcpListener::bind(listen).await.map_err(|error| cannot_listen(listen, error))?;

    let version = env!("CARGO_PKG_VERSION");
    match (&loaded.config.data, loaded.config.sync) {
        (None, _) => warn!(version, mode = "memory", "events end with this process"),
        (Some(data), SyncMode::Always) => {
            info!(version, mode = "durable", data = %data.display(), "an acknowledged append is safe");
        }
        (Some(data), sync) => {
            let data = data.display();
            warn!(version, mode = "durable", %data, ?sync, "weaker: power loss takes what is not synced");
        }
    }
    let settings: Vec<String> = loaded
        .settings()
        .map(|(name, value, origin)| format!("{name}={} ({origin})", value.trim_matches('"')))
        .collect();
    info!(settings = settings.join(", "), "configured");
    if !listen.ip().is_loopback() {
        warn!(%listen, "open to the network, and everyone there may read and write");
    }
    let data = loaded.config.data.clone();
    server::run(loaded.config, listener, stop).await.map_err(|error| {
        let said = with_causes(&error);
        CliError::Failed(match (error, data) {
            (ServerError::Storage(StorageError::Log(OpenLogError::Recovery(_))), Some(data)) => {
                format!(
                    "{said}\n  `annals repair --data {}` shows what can be kept",
                    data.display()
                )
            }
            _ => said,
        })
    })
}

fn cannot_listen(listen: SocketAddr, error: io::Error) -> CliError {
    if error.kind() == io::ErrorKind::AddrInUse {
        CliError::Failed(format!(
            "{listen} is in use, maybe by another `annals serve`; choose another port with --listen"
        ))
    } else {
        CliError::file(format!("cannot listen on {listen}"), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_served_by_as_many_threads_as_were_asked_for_or_as_there_are_cores() {
        let threads = |asked| runtime(asked).expect("there is one").metrics().num_workers();
        let cores = std::thread::available_parallelism().expect("it is known").get();
        assert_eq!([threads(1), threads(3), threads(0)], [1, 3, cores]);
    }
}
