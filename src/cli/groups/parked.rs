//! `annals groups parked`, `replay` and `drop`: events that nobody could handle.

use serde::Serialize;
use serde_json::json;

use crate::{
    cli::{
        CliError,
        client::ServerArgs,
        cloud_events::format_time,
        output::{self, EventJson, Output, event_line, grouped, printable},
    },
    wire::proto::v1::{DropParkedRequest, ListParkedRequest, ParkedEvent, ReplayParkedRequest},
};

const PAGE_SIZE_MAX: u64 = 1000;

/// List the events that a group has parked, each with the reason
#[derive(Debug, clap::Args)]
pub struct ParkedArgs {
    /// The group
    group: String,
    /// Only those after this position
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    after: u64,
    /// At most so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Deliver parked events again: those at these positions, or all
///
/// They stay on the list until a consumer has settled them.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The group
    group: String,
    /// Positions of parked events; others are passed over
    #[arg(value_name = "POSITION")]
    positions: Vec<u64>,
    /// The first so many, not all
    #[arg(long, value_name = "N", conflicts_with = "positions",
        value_parser = clap::value_parser!(u32).range(1..))]
    first: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Take parked events off the list, for good; the events themselves stay
#[derive(Debug, clap::Args)]
pub struct DropArgs {
    /// The group
    group: String,
    #[command(flatten)]
    which: WhichArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct WhichArgs {
    /// Positions of parked events; others are passed over
    #[arg(value_name = "POSITION")]
    positions: Vec<u64>,
    /// All that are parked
    #[arg(long)]
    all: bool,
}

pub async fn list(args: ParkedArgs) -> Result<(), CliError> {
    let mut client = args.server.connect().await?.subscriptions();
    let mut out = Output::stdout();
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut after = args.after;
    loop {
        let request = ListParkedRequest {
            group: args.group.clone(),
            after,
            page_size: u32::try_from(left.min(PAGE_SIZE_MAX)).unwrap_or(u32::MAX),
        };
        let page = client.list_parked(request).await?.into_inner();
        for parked in &page.parked {
            print(parked, args.json, &mut out)?;
        }
        left = left.saturating_sub(page.parked.len() as u64);
        after = page.parked.last().map_or(after, |parked| parked.position);
        if page.parked.is_empty() || !page.more {
            return Ok(out.flush()?);
        }
        if left == 0 {
            out.flush()?;
            let parked = grouped(page.parked_count);
            output::note(&format!("{parked} are parked; the next ones: --after {after}"));
            return Ok(());
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ParkedJson<'a> {
    position: u64,
    event: Option<EventJson<'a>>,
    reason: &'a str,
    deliveries: u32,
    parked_at: Option<String>,
    held_back: bool,
    replaying: bool,
}

fn print(parked: &ParkedEvent, json: bool, out: &mut Output) -> Result<(), CliError> {
    if json {
        out.json(&ParkedJson {
            position: parked.position,
            event: parked.event.as_ref().map(EventJson::of),
            reason: &parked.reason,
            deliveries: parked.deliveries,
            parked_at: parked.parked_at.as_ref().and_then(format_time),
            held_back: parked.held_back,
            replaying: parked.replaying,
        })?;
        return Ok(());
    }
    out.line(|palette| match &parked.event {
        Some(event) => event_line(event, palette),
        None => format!("{:>8}  (the event is hidden or removed)", parked.position),
    })?;
    let remark = remark(parked);
    out.line(|palette| format!("{:>10}{dim}{remark}{dim:#}", "", dim = palette.dim))?;
    Ok(())
}

/// `parked 2011-03-01T09:30:00Z, delivered 11 times: no such account`
fn remark(parked: &ParkedEvent) -> String {
    let mut text = format!("parked {}", output::time(parked.parked_at.as_ref()));
    if parked.held_back {
        text.push_str(", held back by an earlier one of its key");
    } else {
        let times =
            if parked.deliveries == 1 { "once" } else { &format!("{} times", parked.deliveries) };
        text = format!("{text}, delivered {times}");
    }
    if parked.replaying {
        text.push_str(", being delivered again");
    }
    if !parked.reason.is_empty() {
        text = format!("{text}: {}", printable(&parked.reason));
    }
    text
}

pub async fn replay(args: ReplayArgs) -> Result<(), CliError> {
    let ReplayArgs { group, positions, first, json, server } = args;
    let request = ReplayParkedRequest { group, positions, events_max: first.unwrap_or(0) };
    let answer = server.connect().await?.subscriptions().replay_parked(request).await?;
    tell(answer.into_inner().event_count, "delivered again", json)
}

pub async fn drop_parked(args: DropArgs) -> Result<(), CliError> {
    let DropArgs { group, which: WhichArgs { positions, all }, json, server } = args;
    let request = DropParkedRequest { group, positions, all };
    let answer = server.connect().await?.subscriptions().drop_parked(request).await?;
    tell(answer.into_inner().event_count, "dropped", json)
}

fn tell(event_count: u64, done: &str, json: bool) -> Result<(), CliError> {
    let mut out = Output::stdout();
    if json {
        out.json(&json!({ "eventCount": event_count }))?;
    } else {
        out.line(|_| format!("{} {done}", grouped(event_count)))?;
    }
    Ok(out.flush()?)
}
