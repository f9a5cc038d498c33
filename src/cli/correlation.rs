//! `annals correlation`: all events of a correlation id, as the trees of what caused what, or as they lie
//! in the log.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    CliError,
    client::ServerArgs,
    cloud_events::format_time,
    output::{
        self, EventJson, Output, Palette, duration, duration_json, grouped, nanos, printable,
    },
};
use crate::wire::proto::v1::{
    Cause, CorrelationSummary, GetCorrelationRequest, RecordedEvent, TimelineEntry,
    get_correlation_response::Message,
};

/// Levels of a tree that are drawn; deeper ones are numbered, or a long chain would walk off the screen.
const LEVELS_MAX: usize = 16;

/// Show what caused what among the events of a correlation
///
/// Each event stands below its cause: position, stream@version, type, the time since the first event of
/// all and since its cause.
#[derive(Debug, clap::Args)]
pub struct CorrelationArgs {
    /// The correlation id
    id: String,
    /// In the order of the log, without trees
    #[arg(long)]
    timeline: bool,
    /// At most so many events, the first ones [default: 10000]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::builder::RangedU64ValueParser::<u32>::new().range(1..=10_000),
    )]
    limit: Option<u32>,
    /// Print one JSON object a line: a summary, then the events in the order of the log
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: CorrelationArgs) -> Result<(), CliError> {
    let request = GetCorrelationRequest {
        correlation_id: args.id.clone(),
        limit: args.limit.unwrap_or(0),
        min_position: 0,
    };
    let mut queries = args.server.connect().await?.queries();
    let mut messages = queries.get_correlation(request).await?.into_inner();
    let mut out = Output::stdout();
    let mut summary = CorrelationSummary::default();
    let mut entries = Vec::new();
    while let Some(message) = messages.message().await? {
        match message.message {
            Some(Message::Summary(it)) if args.json => {
                out.json(&json!({ "summary": summary_json(&it) }))?;
                summary = it;
            }
            Some(Message::Summary(it)) => summary = it,
            Some(Message::Entry(entry)) if args.json => {
                out.json(&json!({ "entry": entry_json(&entry) }))?;
            }
            Some(Message::Entry(entry)) => entries.push(entry),
            // Of a newer protocol.
            None => {}
        }
    }
    if !args.json {
        out.line(|palette| header(&args.id, &summary, palette))?;
        let trees =
            if args.timeline { vec![String::new(); entries.len()] } else { draw(&mut entries) };
        for (entry, tree) in entries.iter().zip(&trees) {
            out.line(|palette| line(entry, tree, palette))?;
        }
    }
    out.flush()?;
    if summary.sent_count < summary.event_count {
        let (sent, all) = (grouped(summary.sent_count), grouped(summary.event_count));
        output::note(&format!("the first {sent} of {all} events"));
    }
    Ok(())
}

fn header(id: &str, summary: &CorrelationSummary, palette: &Palette) -> String {
    let counted = |count: u64, one: &str, many: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{} {many}", grouped(count)),
    };
    let CorrelationSummary { first_occurred_at: first, last_occurred_at: last, .. } = summary;
    let span = match (first, last) {
        (Some(first), Some(last)) => {
            let span = duration(since_epoch(last) - since_epoch(first));
            format!("; {} to {}, {span}", output::time(Some(first)), output::time(Some(last)))
        }
        _ => String::new(),
    };
    format!(
        "{style}{}{style:#}: {} in {}, {}{span}",
        printable(id),
        counted(summary.event_count, "event", "events"),
        counted(summary.stream_count, "stream", "streams"),
        counted(summary.root_count, "tree", "trees"),
        style = palette.stream,
    )
}

/// In nanoseconds.
fn since_epoch(time: &prost_types::Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

/// Puts the entries in the order of their trees, and draws of each what stands before it: from the last
/// entry to the first, because whether a branch goes on is known from below.
fn draw(entries: &mut [TimelineEntry]) -> Vec<String> {
    entries.sort_by_key(|entry| entry.tree_order);
    // Of each level, whether a sibling of the entry there, or of the one above it, comes further down.
    let mut goes_on = Vec::new();
    let mut trees = Vec::with_capacity(entries.len());
    for entry in entries.iter().rev() {
        // No tree is deeper than it has entries.
        let depth = usize::try_from(entry.depth).unwrap_or(usize::MAX).min(entries.len());
        // What is deeper belongs to another branch.
        goes_on.truncate(depth + 1);
        goes_on.resize(depth + 1, false);
        trees.push(branch(depth, &goes_on));
        goes_on[depth] = true;
    }
    trees.reverse();
    trees
}

fn branch(depth: usize, goes_on: &[bool]) -> String {
    if depth == 0 {
        return String::new();
    }
    let hidden = depth.saturating_sub(LEVELS_MAX);
    let mut text = if hidden > 0 { format!("…{hidden} ") } else { String::new() };
    for above in &goes_on[hidden + 1..depth] {
        text.push_str(if *above { "│  " } else { "   " });
    }
    text.push_str(if goes_on[depth] { "├─ " } else { "└─ " });
    text
}

/// Position, tree, stream@version, type, times.
fn line(entry: &TimelineEntry, tree: &str, palette: &Palette) -> String {
    let Palette { dim, stream, event_type } = palette;
    let nothing = RecordedEvent::default();
    let event = entry.event.as_ref().unwrap_or(&nothing);
    let mut line = format!(
        "{dim}{:>8}{dim:#}  {dim}{tree}{dim:#}{stream}{}@{}{stream:#}  {event_type}{}{event_type:#}",
        event.position,
        printable(&event.stream),
        event.version,
        printable(&event.r#type),
    );
    if let Some(since) = &entry.since_first {
        let _ = write!(line, "  {}", signed(since));
    }
    if let Some(note) = cause(entry, event) {
        let _ = write!(line, "  {dim}({note}){dim:#}");
    }
    line
}

fn signed(since: &prost_types::Duration) -> String {
    let nanos = nanos(since);
    let plus = if nanos < 0 { "" } else { "+" };
    format!("{plus}{}", duration(nanos))
}

fn cause(entry: &TimelineEntry, event: &RecordedEvent) -> Option<String> {
    let since = entry.since_cause.as_ref().map(signed).unwrap_or_default();
    let position = entry.cause_position;
    match entry.cause() {
        Cause::Unspecified | Cause::None => None,
        Cause::Known => Some(format!("{since} after {position}")),
        Cause::Elsewhere => Some(format!("{since} after {position}, which is not shown here")),
        Cause::Unknown => Some(format!("its cause {} is unknown", printable(&event.causation_id))),
        Cause::Circle => Some(format!("{since} after {position}, which it has caused: a circle")),
    }
}

/// By the names of the protocol's JSON.
fn summary_json(summary: &CorrelationSummary) -> Value {
    json!({
        "eventCount": summary.event_count,
        "sentCount": summary.sent_count,
        "firstOccurredAt": summary.first_occurred_at.as_ref().and_then(format_time),
        "lastOccurredAt": summary.last_occurred_at.as_ref().and_then(format_time),
        "streamCount": summary.stream_count,
        "rootCount": summary.root_count,
    })
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct EntryJson<'a> {
    event: Option<EventJson<'a>>,
    since_first: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since_cause: Option<String>,
    cause: &'static str,
    cause_position: u64,
    depth: u32,
    tree_order: u64,
}

fn entry_json(entry: &TimelineEntry) -> EntryJson<'_> {
    EntryJson {
        event: entry.event.as_ref().map(EventJson::of),
        since_first: entry.since_first.as_ref().map(duration_json),
        since_cause: entry.since_cause.as_ref().map(duration_json),
        cause: entry.cause().as_str_name(),
        cause_position: entry.cause_position,
        depth: entry.depth,
        tree_order: entry.tree_order,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(position: u64, tree_order: u64, depth: u32) -> TimelineEntry {
        let event = RecordedEvent {
            position,
            version: 1,
            stream: "S-1".to_owned(),
            r#type: "T".to_owned(),
            ..RecordedEvent::default()
        };
        let seconds = i64::try_from(position).expect("small") - 1;
        TimelineEntry {
            event: Some(event),
            since_first: Some(prost_types::Duration { seconds, nanos: 0 }),
            depth,
            tree_order,
            ..TimelineEntry::default()
        }
    }

    /// The positions in the order of the trees, each with what stands before it.
    fn drawn(entries: &mut [TimelineEntry]) -> Vec<String> {
        let trees = draw(entries);
        let position = |entry: &TimelineEntry| entry.event.as_ref().map_or(0, |it| it.position);
        entries.iter().zip(trees).map(|(it, tree)| format!("{tree}{}", position(it))).collect()
    }

    #[test]
    fn trees_are_drawn_depth_first_with_each_branch_as_long_as_it_goes() {
        let mut entries = [
            entry(1, 1, 0),
            entry(2, 2, 1),
            entry(3, 6, 1),
            entry(4, 3, 2),
            entry(5, 5, 2),
            entry(6, 4, 3),
            entry(7, 8, 0),
            entry(8, 7, 2),
            entry(9, 9, 1),
        ];
        assert_eq!(
            drawn(&mut entries),
            ["1", "├─ 2", "│  ├─ 4", "│  │  └─ 6", "│  └─ 5", "└─ 3", "   └─ 8", "7", "└─ 9",]
        );
        assert_eq!(drawn(&mut []), [""; 0]);
    }

    #[test]
    fn a_long_chain_is_numbered_and_a_depth_that_cannot_be_is_none() {
        let mut chain: Vec<_> = (0..40).map(|it| entry(it + 1, it + 1, 0)).collect();
        for (depth, entry) in (0..).zip(&mut chain) {
            entry.depth = depth;
        }
        let lines = drawn(&mut chain);
        assert_eq!(lines[2], "   └─ 3");
        assert_eq!(lines[39], format!("…23 {}└─ 40", "   ".repeat(LEVELS_MAX - 1)));
        assert_eq!(drawn(&mut [entry(1, 1, u32::MAX)]), ["└─ 1"]);
    }

    #[test]
    fn a_line_tells_the_time_since_the_first_and_what_is_known_of_the_cause() {
        let mut entry = entry(3, 2, 1);
        let text = |entry: &TimelineEntry| line(entry, "└─ ", &Palette::default());
        entry.set_cause(Cause::None);
        assert_eq!(text(&entry), "       3  └─ S-1@1  T  +2 s");
        entry.since_cause = Some(prost_types::Duration { seconds: -1, nanos: -500_000_000 });
        entry.cause_position = 1;
        entry.set_cause(Cause::Known);
        assert_eq!(text(&entry), "       3  └─ S-1@1  T  +2 s  (-1.5 s after 1)");
        entry.set_cause(Cause::Elsewhere);
        assert!(text(&entry).ends_with("(-1.5 s after 1, which is not shown here)"));
        entry.set_cause(Cause::Circle);
        assert!(text(&entry).ends_with("(-1.5 s after 1, which it has caused: a circle)"));
        entry.set_cause(Cause::Unknown);
        if let Some(event) = &mut entry.event {
            event.causation_id = "c\u{1b}".to_owned();
        }
        assert!(text(&entry).ends_with("(its cause c\\u{1b} is unknown)"));
    }

    #[test]
    fn a_correlation_is_counted_in_its_header() {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let summary = CorrelationSummary {
            event_count: 1200,
            sent_count: 1200,
            first_occurred_at: time(0),
            last_occurred_at: time(90_000),
            stream_count: 3,
            root_count: 1,
        };
        assert_eq!(
            header("case-1", &summary, &Palette::default()),
            "case-1: 1 200 events in 3 streams, 1 tree; 1970-01-01T00:00:00Z to \
             1970-01-02T01:00:00Z, 1 d 1 h"
        );
    }
}
