//! `annals search`: what a filter picks, page by page.

use super::{
    CliError,
    client::ServerArgs,
    filter::FilterArgs,
    output::{self, Output, grouped},
};
use crate::wire::proto::v1::{Direction, SearchEnd, SearchRequest, search_response::Message};

const PAGE_SIZE: u64 = 100;

/// Find events
///
/// Prints a page of the events that match, and on stderr the token of the next page: --page-token TOKEN,
/// with the same options, goes on with it, also after a restart of the server.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    /// The newest first
    #[arg(long)]
    backwards: bool,
    /// At most so many events
    #[arg(
        long,
        value_name = "N",
        default_value_t = PAGE_SIZE,
        value_parser = clap::value_parser!(u64).range(1..),
    )]
    limit: u64,
    /// All events, without pages
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Go on where the page before has ended
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    page_token: String,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: SearchArgs) -> Result<(), CliError> {
    let direction = if args.backwards { Direction::Backwards } else { Direction::Forwards };
    let request = SearchRequest {
        filters: args.filter.into_filters(),
        direction: direction.into(),
        limit: if args.all { 0 } else { args.limit },
        page_token: args.page_token,
        min_position: 0,
    };
    let mut queries = args.server.connect().await?.queries();
    let mut messages = queries.search(request).await?.into_inner();
    let mut out = Output::stdout();
    while let Some(message) = messages.message().await? {
        match message.message {
            Some(Message::Events(block)) => {
                for event in &block.events {
                    out.event(event, args.json)?;
                }
            }
            // Nothing may come for long: what was found is shown.
            Some(Message::Progress(_)) => out.flush()?,
            Some(Message::End(end)) => {
                // Before the remark, where both go to a terminal.
                out.flush()?;
                if let Some(text) = remark(&end) {
                    output::note(&text);
                }
                return Ok(());
            }
            // Of a newer protocol.
            None => {}
        }
    }
    out.flush()?;
    Err(CliError::ConnectionLost("the page has no end".to_owned()))
}

fn remark(end: &SearchEnd) -> Option<String> {
    let events = || grouped(end.event_count);
    match end.next_page_token.as_str() {
        "" => None,
        token => Some(format!("{} events; there may be more: --page-token {token}", events())),
    }
}
