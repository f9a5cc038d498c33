//! The command line: `annals serve`, and a client's command a file.
//!
//! Answers go to stdout, everything else to stderr, so that every command can stand in a pipe. Exit
//! codes: 0 it is done, 1 it failed, 2 it was asked for wrongly. A reader that has seen enough and closes
//! the pipe (`| head`) is no failure.

pub mod bench;
pub mod cloud_events;

mod append;
mod backup;
mod client;
mod compact;
mod consumer;
mod correlation;
mod delete;
mod explain;
mod export;
mod filter;
mod filter_text;
mod groups;
mod import;
mod info;
mod models;
mod output;
mod read;
mod repair;
mod replay;
mod retention;
mod search;
mod serve;
mod stats;
mod streams;
mod subscriptions;
mod table;
mod tail;
mod trends;
mod verify;

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::config::Mistakes;

const WELCOME: &str = "\
Annals is an event store: streams of immutable events in one log, over gRPC.
Events live in memory and end with the server; `annals serve --data DIR` keeps them.

Commands
  serve          Start a server
  append         Append an event to a stream
  read           Read a stream, or the whole log
  tail           Follow the log live
  subscriptions  List who listens, and how far behind
  groups         Manage consumer groups, which share events; also: models, read models
  streams        List the streams
  search         Find events; also: explain, correlation, replay
  stats          Count events by hour, day, type and more; also: trends
  info           Show what the server is and holds; also: bench, how fast it is
  import         Append CloudEvents from a file
  export         Write events to a file as CloudEvents
  retention      Set what is kept; also: truncate, delete, tombstone, compact
  verify         Check the whole history; also: backup, repair
  help           Explain a command: annals help append

Quickstart
  annals serve &
  annals append Payment-1 PaymentProcessed '{\"amount\": 100}'
  annals read Payment-1
";

/// An event store that starts with one command and speaks gRPC.
#[derive(Debug, Parser)]
#[command(name = "annals", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Append(append::AppendArgs),
    Read(read::ReadArgs),
    Tail(tail::TailArgs),
    Subscriptions(subscriptions::SubscriptionsArgs),
    Groups(groups::GroupsArgs),
    Models(models::ModelsArgs),
    Streams(streams::StreamsArgs),
    Search(search::SearchArgs),
    Correlation(correlation::CorrelationArgs),
    Stats(stats::StatsArgs),
    Trends(trends::TrendsArgs),
    Replay(replay::ReplayArgs),
    Explain(explain::ExplainArgs),
    Info(info::InfoArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Retention(retention::RetentionArgs),
    Truncate(delete::TruncateArgs),
    Delete(delete::DeleteArgs),
    Tombstone(delete::TombstoneArgs),
    Compact(compact::CompactArgs),
    Verify(verify::VerifyArgs),
    Backup(backup::BackupArgs),
    Repair(repair::RepairArgs),
    Bench(bench::BenchArgs),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        None => welcome(),
        Some(Command::Serve(args)) => serve::run(args),
        Some(Command::Repair(args)) => repair::run(&args),
        Some(Command::Bench(args)) => bench::run(args),
        Some(command) => client(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn welcome() -> Result<(), CliError> {
    let mut out = output::Output::stdout();
    out.line(|_| WELCOME.trim_end().to_owned())?;
    Ok(out.flush()?)
}

/// One connection, one thing after the other: a client needs one thread.
fn client(command: Command) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::file("the runtime", error))?;
    runtime.block_on(async {
        match command {
            Command::Serve(_) | Command::Repair(_) | Command::Bench(_) => {
                unreachable!("they have runtimes of their own, or none")
            }
            Command::Append(args) => append::run(args).await,
            Command::Read(args) => read::run(args).await,
            Command::Tail(args) => tail::run(args).await,
            Command::Subscriptions(args) => subscriptions::run(args).await,
            Command::Groups(args) => groups::run(args).await,
            Command::Models(args) => models::run(args).await,
            Command::Streams(args) => streams::run(args).await,
            Command::Search(args) => search::run(args).await,
            Command::Correlation(args) => correlation::run(args).await,
            Command::Stats(args) => stats::run(args).await,
            Command::Trends(args) => trends::run(args).await,
            Command::Replay(args) => replay::run(args).await,
            Command::Explain(args) => explain::run(args).await,
            Command::Info(args) => info::run(args).await,
            Command::Import(args) => import::run(args).await,
            Command::Export(args) => export::run(args).await,
            Command::Retention(args) => retention::run(args).await,
            Command::Truncate(args) => delete::truncate(args).await,
            Command::Delete(args) => delete::delete(args).await,
            Command::Tombstone(args) => delete::tombstone(args).await,
            Command::Compact(args) => compact::run(args).await,
            Command::Verify(args) => verify::run(args).await,
            Command::Backup(args) => backup::run(args).await,
        }
    })
}

/// Why a command ends early.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The arguments make no sense; nothing was done.
    #[error("{0}")]
    Usage(String),
    /// The server's options make no sense; nothing was started.
    #[error(transparent)]
    Config(#[from] Mistakes),
    /// Nothing was sent.
    #[error("no server answers at {server}; start one with `annals serve`")]
    NoServer { server: String },
    /// What was sent may have been done.
    #[error("the connection to the server was lost: {0}")]
    ConnectionLost(String),
    /// The server's answer.
    #[error("{}", .0.message())]
    Refused(Box<Status>),
    /// A file, or something else of the machine's.
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    /// Something else.
    #[error("{0}")]
    Failed(String),
    /// It has been said already.
    #[error("failed")]
    Reported,
    /// Nobody reads stdout any more, or it cannot be written to.
    #[error("stdout: {0}")]
    Output(#[from] io::Error),
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        // A status that was sent has no source: one with a source was made here, of a broken connection.
        match std::error::Error::source(&status) {
            Some(source) => Self::ConnectionLost(innermost(source)),
            None => Self::Refused(Box::new(status)),
        }
    }
}

impl CliError {
    fn file(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    /// Says it on stderr.
    fn report(&self) -> ExitCode {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Reported => return ExitCode::FAILURE,
            Self::Refused(status) => output::error(&describe(status)),
            _ => output::error(&self.to_string()),
        }
        match self {
            Self::Usage(_) | Self::Config(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

/// What an error says, and what its causes say, each once.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .map_or_else(String::new, ToString::to_string)
}

/// A refusal for people: the message, the reason with its facts, and each field that is wrong.
fn describe(status: &Status) -> String {
    let mut lines = vec![match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }];
    if let Some(request) = status.get_details_bad_request() {
        let violations = request.field_violations.iter();
        lines.extend(violations.map(|it| format!("- {}: {}", it.field, it.description)));
    }
    lines.push(match status.get_details_error_info() {
        Some(info) => {
            let mut facts: Vec<_> =
                info.metadata.iter().map(|(key, value)| format!(" {key}={value}")).collect();
            facts.sort();
            format!("reason: {}{}", info.reason, facts.concat())
        }
        None if status.code() == Code::Unimplemented => {
            "is it an Annals server, and of this version?".to_owned()
        }
        None => format!("status: {:?}", status.code()),
    });
    lines.join("\n  ")
}
