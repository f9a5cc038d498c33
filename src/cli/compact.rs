//! `annals compact`: remove what is hidden.

use super::{
    CliError,
    client::ServerArgs,
    output::{Output, grouped},
};
use crate::wire::proto::v1::{CompactRequest, CompactResponse};

/// Remove the events that retention, truncation and deletion have hidden
///
/// The server does so by itself, now and then, where much of a segment is hidden. This removes all of it
/// now, from memory and disk, and packs the indexes. Positions and versions stay as they are.
#[derive(Debug, clap::Args)]
pub struct CompactArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: CompactArgs) -> Result<(), CliError> {
    let removed = args.server.connect().await?.admin().compact(CompactRequest {}).await?;
    let CompactResponse { segment_count, event_count, freed_bytes, freed_index_bytes } =
        removed.into_inner();
    let mut out = Output::stdout();
    out.line(|_| {
        if args.json {
            let json = serde_json::json!({
                "segmentCount": segment_count,
                "eventCount": event_count,
                "freedBytes": freed_bytes,
                "freedIndexBytes": freed_index_bytes,
            });
            json.to_string()
        } else {
            let removed = if event_count == 0 {
                "nothing to remove".to_owned()
            } else {
                let (events, segments) = (grouped(event_count), grouped(segment_count));
                let freed = grouped(freed_bytes);
                format!(
                    "events removed: {events}; segments rewritten: {segments}; bytes freed: {freed}"
                )
            };
            let indexes = grouped(freed_index_bytes);
            format!("{removed}; bytes freed in indexes: {indexes}")
        }
    })?;
    Ok(out.flush()?)
}
