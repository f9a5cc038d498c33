//! `annals streams`: which streams there are.

use serde::Serialize;

use super::{
    CliError,
    client::ServerArgs,
    cloud_events::format_time,
    output::{self, Output, printable},
};
use crate::wire::proto::v1::{ListStreamsRequest, StreamInfo};

const PAGE_SIZE_MAX: u64 = 1000;

/// List the streams
///
/// In the order of their names: version, the time of the last event, name.
#[derive(Debug, clap::Args)]
pub struct StreamsArgs {
    /// Only streams whose name begins with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// At most so many streams
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StreamJson<'a> {
    name: &'a str,
    category: &'a str,
    version: u64,
    first_position: u64,
    last_position: u64,
    first_recorded_at: Option<String>,
    last_recorded_at: Option<String>,
}

impl<'a> From<&'a StreamInfo> for StreamJson<'a> {
    fn from(stream: &'a StreamInfo) -> Self {
        Self {
            name: &stream.name,
            category: &stream.category,
            version: stream.version,
            first_position: stream.first_position,
            last_position: stream.last_position,
            first_recorded_at: stream.first_recorded_at.as_ref().and_then(format_time),
            last_recorded_at: stream.last_recorded_at.as_ref().and_then(format_time),
        }
    }
}

pub async fn run(args: StreamsArgs) -> Result<(), CliError> {
    let mut queries = args.server.connect().await?.queries();
    let mut out = Output::stdout();
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut page_token = String::new();
    loop {
        let request = ListStreamsRequest {
            prefix: args.prefix.clone(),
            page_size: u32::try_from(left.min(PAGE_SIZE_MAX)).unwrap_or(u32::MAX),
            page_token,
            min_position: 0,
        };
        let page = queries.list_streams(request).await?.into_inner();
        for stream in &page.streams {
            if args.json {
                out.json(&StreamJson::from(stream))?;
            } else {
                out.line(|palette| {
                    let (dim, style) = (palette.dim, palette.stream);
                    let time = output::time(stream.last_recorded_at.as_ref());
                    format!(
                        "{:>8}  {dim}{time:<27}{dim:#}  {style}{}{style:#}",
                        stream.version,
                        printable(&stream.name)
                    )
                })?;
            }
        }
        left = left.saturating_sub(page.streams.len() as u64);
        page_token = page.next_page_token;
        if left == 0 || page_token.is_empty() {
            return Ok(out.flush()?);
        }
    }
}
