//! `annals truncate`, `delete` and `tombstone`: events of a stream that nobody shall see again.

use serde_json::json;

use super::{
    CliError,
    client::ServerArgs,
    output::{Output, printable},
};
use crate::wire::proto::v1::{DeleteStreamRequest, TombstoneStreamRequest, TruncateStreamRequest};

/// Hide the events of a stream before a version
///
/// At once, from every reader, and for ever.
#[derive(Debug, clap::Args)]
pub struct TruncateArgs {
    /// The stream
    stream: String,
    /// Events with a smaller version are hidden
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    before: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Hide all events of a stream, which may be written to again
///
/// At once, from every reader, and for ever. Its versions go on where they were.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// The stream
    stream: String,
    /// How many events the stream must have had for it to be deleted
    #[arg(long, value_name = "N")]
    expected_version: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Hide all events of a stream, which can never be written to again
#[derive(Debug, clap::Args)]
pub struct TombstoneArgs {
    /// The stream
    stream: String,
    /// How many events the stream must have had for it to be tombstoned
    #[arg(long, value_name = "N")]
    expected_version: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn truncate(args: TruncateArgs) -> Result<(), CliError> {
    let TruncateArgs { stream, before: before_version, json, server } = args;
    let request = TruncateStreamRequest { stream: stream.clone(), before_version };
    let answer = server.connect().await?.commands().truncate_stream(request).await?.into_inner();
    let done = format!("truncated {} before version {before_version}", printable(&stream));
    tell(&done, answer.position, answer.unchanged, json)
}

pub async fn delete(args: DeleteArgs) -> Result<(), CliError> {
    let DeleteArgs { stream, expected_version, json, server } = args;
    let request = DeleteStreamRequest { stream: stream.clone(), expected_version };
    let answer = server.connect().await?.commands().delete_stream(request).await?.into_inner();
    let done = format!("deleted {}", printable(&stream));
    tell(&done, answer.position, answer.unchanged, json)
}

pub async fn tombstone(args: TombstoneArgs) -> Result<(), CliError> {
    let TombstoneArgs { stream, expected_version, json, server } = args;
    let request = TombstoneStreamRequest { stream: stream.clone(), expected_version };
    let answer = server.connect().await?.commands().tombstone_stream(request).await?.into_inner();
    let done = format!("tombstoned {}", printable(&stream));
    tell(&done, answer.position, answer.unchanged, json)
}

fn tell(done: &str, position: u64, unchanged: bool, json: bool) -> Result<(), CliError> {
    let mut out = Output::stdout();
    if json {
        out.json(&json!({ "position": position, "unchanged": unchanged }))?;
    } else if unchanged {
        out.line(|_| format!("already {done}"))?;
    } else {
        out.line(|_| format!("{done}, at position {position}"))?;
    }
    Ok(out.flush()?)
}
