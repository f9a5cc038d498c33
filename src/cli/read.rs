//! `annals read`: a stream or the log, as of now.

use tonic::Streaming;

use super::{CliError, client::ServerArgs, filter::FilterArgs, output::Output};
use crate::wire::{
    block::EventBlock,
    proto::v1::{Direction, ReadAllRequest, ReadStreamRequest},
};

/// Read a stream, or the whole log
#[derive(Debug, clap::Args)]
pub struct ReadArgs {
    /// The stream; without it the whole log
    #[arg(conflicts_with = "FilterArgs")]
    stream: Option<String>,
    /// The newest first
    #[arg(long)]
    backwards: bool,
    /// Begin after this version of the stream, or after this position of the log
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    after: u64,
    /// At most so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: ReadArgs) -> Result<(), CliError> {
    let mut queries = args.server.connect().await?.queries();
    let direction = if args.backwards { Direction::Backwards } else { Direction::Forwards };
    let (direction, after, limit) = (direction.into(), args.after, args.limit.unwrap_or(0));
    let mut blocks: Streaming<EventBlock> = if let Some(stream) = args.stream {
        let request = ReadStreamRequest { stream, direction, after, limit, min_position: 0 };
        queries.read_stream(request).await?.into_inner()
    } else {
        let filters = args.filter.into_filters();
        let request = ReadAllRequest { direction, after, limit, filters, min_position: 0 };
        queries.read_all(request).await?.into_inner()
    };
    let mut out = Output::stdout();
    while let Some(block) = blocks.message().await? {
        for event in &block.events {
            out.event(event, args.json)?;
        }
    }
    Ok(out.flush()?)
}
