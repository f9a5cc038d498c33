//! `annals stats`: counts by hour, day, type and so on, as of now or live. What `trends` asks for in the
//! same way is here, too.

use clap::builder::RangedU64ValueParser;
use serde_json::{Value, json};

use super::{
    CliError,
    client::ServerArgs,
    cloud_events::format_time,
    filter::FilterArgs,
    output::{self, Output, bar, cut, grouped, printable},
};
use crate::wire::proto::v1::{
    GetStatisticsRequest, GetStatisticsResponse, GroupBy, Grouping, StatisticsGroup, StatisticsRow,
    TimeBase, WatchStatisticsRequest,
};

/// Of each group in a table, unless told otherwise: several tables fit on a few screens.
const TABLE_ROWS: u32 = 20;

/// A key takes at most half of the line.
const KEY_WIDTH_MIN: usize = 8;

const NAMES: [(&str, Grouping); 7] = [
    ("hour", Grouping::Hour),
    ("day", Grouping::Day),
    ("week", Grouping::Week),
    ("month", Grouping::Month),
    ("type", Grouping::Type),
    ("category", Grouping::Category),
    ("stream", Grouping::Stream),
];

const METADATA: &str = "metadata:";

/// Count events by hour, day, type, category and more
///
/// First the totals, then a table for each way to put events together: of times the latest, of names
/// those with the most events.
#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// How to put events together: hour, day, week, month, type, category, stream or metadata:KEY with
    /// a key that the server indexes; may be repeated [default: hour, day, type, category and every
    /// such key]
    #[arg(long, value_name = "GROUP", value_parser = parse_group)]
    by: Vec<GroupBy>,
    /// At most so many rows of each group [default: 20, with --json 1000]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u32>::new().range(1..=100_000))]
    rows: Option<u32>,
    #[command(flatten)]
    times: TimeArgs,
    /// Go on, and print the rows that change
    #[arg(long)]
    watch: bool,
    /// Print one JSON object; with --watch one a change, each on a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// What hours, days, weeks and months are.
#[derive(Debug, clap::Args)]
pub struct TimeArgs {
    /// The time zone of hours, days, weeks and months, such as Europe/Amsterdam [default: UTC]
    #[arg(long, value_name = "ZONE", default_value = "", hide_default_value = true)]
    pub time_zone: String,
    /// By the time when the server took an event, not the time when it occurred
    #[arg(long)]
    recorded: bool,
}

impl TimeArgs {
    pub fn time_base(&self) -> TimeBase {
        if self.recorded { TimeBase::Recorded } else { TimeBase::Occurred }
    }
}

pub fn parse_group(text: &str) -> Result<GroupBy, String> {
    let named = NAMES.iter().find(|(name, _)| *name == text);
    match (named, text.strip_prefix(METADATA)) {
        (Some((_, grouping)), _) => Ok(grouping_alone(*grouping)),
        (None, Some(key)) if !key.is_empty() => {
            Ok(GroupBy { grouping: Grouping::Metadata.into(), metadata_key: key.to_owned() })
        }
        _ => {
            Err("hour, day, week, month, type, category, stream or metadata:KEY is expected"
                .to_owned())
        }
    }
}

fn grouping_alone(grouping: Grouping) -> GroupBy {
    GroupBy { grouping: grouping.into(), metadata_key: String::new() }
}

/// As an option would have it.
pub fn group_name(group: &GroupBy) -> String {
    let grouping = group.grouping();
    match NAMES.iter().find(|(_, named)| *named == grouping) {
        Some((name, _)) => (*name).to_owned(),
        None => format!("{METADATA}{}", printable(&group.metadata_key)),
    }
}

pub async fn run(args: StatsArgs) -> Result<(), CliError> {
    let rows_max = args.rows.unwrap_or(if args.json { 0 } else { TABLE_ROWS });
    let request = GetStatisticsRequest {
        filters: args.filter.into_filters(),
        group_by: args.by,
        time_base: args.times.time_base().into(),
        time_zone: args.times.time_zone,
        rows_max,
        min_position: 0,
    };
    let mut queries = args.server.connect().await?.queries();
    let mut out = Output::stdout();
    if !args.watch {
        let statistics = queries.get_statistics(request).await?.into_inner();
        if args.json {
            out.json(&to_json(&statistics))?;
        } else {
            print(&statistics, &mut out)?;
        }
        return Ok(out.flush()?);
    }
    let request = WatchStatisticsRequest { statistics: Some(request), interval: None };
    let mut changes = queries.watch_statistics(request).await?.into_inner();
    let watch = async {
        while let Some(change) = changes.message().await? {
            let statistics = change.statistics.unwrap_or_default();
            if args.json {
                let statistics = to_json(&statistics);
                out.json(&json!({ "complete": change.complete, "statistics": statistics }))?;
            } else if change.complete {
                print(&statistics, &mut out)?;
            } else {
                print_change(&statistics, &mut out)?;
            }
            out.flush()?;
        }
        Err(CliError::ConnectionLost("the server ended the watch".to_owned()))
    };
    tokio::select! {
        result = watch => result,
        () = output::stdout_closed() => Ok(()),
    }
}

fn print(statistics: &GetStatisticsResponse, out: &mut Output) -> Result<(), CliError> {
    for (name, value) in totals(statistics) {
        out.line(|palette| format!("{dim}{name:<18}{dim:#}{value}", dim = palette.dim))?;
    }
    let line_width = output::terminal_width();
    for group in &statistics.groups {
        out.line(|_| String::new())?;
        out.line(|palette| {
            format!("{style}{}{style:#}", title(group), style = palette.event_type)
        })?;
        for line in table(group, line_width) {
            out.line(|_| line)?;
        }
    }
    Ok(())
}

fn totals(statistics: &GetStatisticsResponse) -> Vec<(&'static str, String)> {
    let from_to = |from: Option<_>, to: Option<_>| {
        format!("{} to {}", output::time(from.as_ref()), output::time(to.as_ref()))
    };
    let mut rows = vec![
        ("events", grouped(statistics.event_count)),
        ("streams", grouped(statistics.stream_count)),
    ];
    if statistics.event_count > 0 {
        let GetStatisticsResponse { first_occurred_at, last_occurred_at, .. } = statistics;
        rows.push(("occurred", from_to(*first_occurred_at, *last_occurred_at)));
        let GetStatisticsResponse { first_recorded_at, last_recorded_at, .. } = statistics;
        rows.push(("recorded", from_to(*first_recorded_at, *last_recorded_at)));
    }
    rows.push(("up to position", statistics.position.to_string()));
    rows
}

/// `by day: the latest 20 of 123`
fn title(group: &StatisticsGroup) -> String {
    let group_by = group.group_by.clone().unwrap_or_default();
    let name = group_name(&group_by);
    let sent = group.rows.len() as u64;
    if sent >= group.row_count {
        return format!("by {name}");
    }
    let which = match group_by.grouping() {
        Grouping::Hour | Grouping::Day | Grouping::Week | Grouping::Month => "latest",
        _ => "largest",
    };
    format!("by {name}: the {which} {} of {}", grouped(sent), grouped(group.row_count))
}

/// Key, count, bar; and what is in none of the rows.
fn table(group: &StatisticsGroup, line_width: usize) -> Vec<String> {
    let rest = [("(other rows)", group.other_count), ("(without)", group.without_count)];
    let rest = rest.into_iter().filter(|(_, count)| *count > 0);
    let rows: Vec<(&str, u64)> =
        group.rows.iter().map(|row| (row.key.as_str(), row.count)).chain(rest.clone()).collect();
    let longest = group.rows.iter().map(|row| row.count).max().unwrap_or(0);
    let widths = Widths::of(rows.iter().copied(), 2, line_width);
    let barred = group.rows.len();
    let line = |(number, (key, count)): (usize, &(&str, u64))| {
        // What is left over would dwarf the rows.
        let bar = if number < barred { bar(*count, longest, widths.bar) } else { String::new() };
        format!("  {}  {bar}", widths.key_and_count(key, *count)).trim_end().to_owned()
    };
    rows.iter().enumerate().map(line).collect()
}

/// The columns of a table: key, count, bar.
pub struct Widths {
    key: usize,
    count: usize,
    /// What the others leave of the line.
    pub bar: usize,
}

impl Widths {
    /// For rows that are indented by so many characters.
    pub fn of<'a>(
        rows: impl Iterator<Item = (&'a str, u64)> + Clone,
        indent: usize,
        line: usize,
    ) -> Self {
        let key_max = (line / 2).saturating_sub(indent).max(KEY_WIDTH_MIN);
        let keys = rows.clone().map(|(key, _)| printable(key).chars().count());
        let key = keys.max().unwrap_or(0).min(key_max);
        let count = rows.map(|(_, count)| grouped(count).len()).max().unwrap_or(0);
        // Two spaces between the columns; the last character of a line is left free, or some terminals
        // break it.
        let taken = indent + key + 2 + count + 2 + 1;
        Self { key, count, bar: line.saturating_sub(taken).max(1) }
    }

    pub fn key_and_count(&self, key: &str, count: u64) -> String {
        let (key, key_width, count_width) = (cut(key, self.key), self.key, self.count);
        format!("{key:<key_width$}  {:>count_width$}", grouped(count))
    }
}

/// `day  2010-10-31  1 235`, a line a row.
fn print_change(statistics: &GetStatisticsResponse, out: &mut Output) -> Result<(), CliError> {
    for group in &statistics.groups {
        let name = group_name(&group.group_by.clone().unwrap_or_default());
        for row in &group.rows {
            out.line(|palette| {
                let (key, count) = (printable(&row.key), grouped(row.count));
                format!("{dim}{name}{dim:#}  {key}  {count}", dim = palette.dim)
            })?;
        }
    }
    Ok(())
}

/// By the names of the protocol's JSON.
pub fn group_json(group: &GroupBy) -> Value {
    let mut json = json!({ "grouping": group.grouping().as_str_name() });
    if !group.metadata_key.is_empty() {
        json["metadataKey"] = group.metadata_key.as_str().into();
    }
    json
}

/// Every field, by the names of the protocol's JSON.
fn to_json(statistics: &GetStatisticsResponse) -> Value {
    let time = |time: &Option<prost_types::Timestamp>| time.as_ref().and_then(format_time);
    let row = |row: &StatisticsRow| {
        let mut json = json!({ "key": row.key, "count": row.count });
        if let Some(start) = time(&row.start) {
            json["start"] = start.into();
        }
        json
    };
    let group = |group: &StatisticsGroup| {
        json!({
            "groupBy": group.group_by.as_ref().map(group_json),
            "rows": group.rows.iter().map(row).collect::<Vec<_>>(),
            "rowCount": group.row_count,
            "otherCount": group.other_count,
            "withoutCount": group.without_count,
        })
    };
    json!({
        "eventCount": statistics.event_count,
        "streamCount": statistics.stream_count,
        "firstOccurredAt": time(&statistics.first_occurred_at),
        "lastOccurredAt": time(&statistics.last_occurred_at),
        "firstRecordedAt": time(&statistics.first_recorded_at),
        "lastRecordedAt": time(&statistics.last_recorded_at),
        "groups": statistics.groups.iter().map(group).collect::<Vec<_>>(),
        "position": statistics.position,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, count: u64) -> StatisticsRow {
        StatisticsRow { key: key.to_owned(), start: None, count }
    }

    #[test]
    fn a_group_is_printed_as_it_is_asked_for() {
        let texts =
            ["hour", "day", "week", "month", "type", "category", "stream", "metadata:userId"];
        for text in texts {
            assert_eq!(group_name(&parse_group(text).expect("a group")), text);
        }
        for bad in ["", "days", "metadata", "metadata:", "Hour"] {
            assert!(parse_group(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_table_has_its_counts_right_aligned_and_bars_that_fit_the_line() {
        let mut group = StatisticsGroup {
            group_by: Some(grouping_alone(Grouping::Type)),
            rows: vec![row("Paid", 1600), row("Refunded\n", 800), row("Lost", 1)],
            row_count: 5,
            other_count: 12_000,
            without_count: 0,
        };
        assert_eq!(title(&group), "by type: the largest 3 of 5");
        assert_eq!(
            table(&group, 41),
            [
                "  Paid           1 600  ████████████████",
                "  Refunded         800  ████████",
                "  Lost               1  ▏",
                "  (other rows)  12 000",
            ]
        );
        group.row_count = 3;
        assert_eq!(title(&group), "by type");
        group.rows[0].key = "é".repeat(300);
        let lines = table(&group, 80);
        assert!(lines.iter().all(|line| line.chars().count() < 80), "{lines:?}");
        assert!(lines[0].contains("é…  "), "{lines:?}");
        // A line too short for anything ends no process.
        assert_eq!(table(&group, 0).len(), 4);
    }

    #[test]
    fn statistics_as_json_have_the_names_of_the_protocol() {
        let group = GroupBy { grouping: Grouping::Metadata.into(), metadata_key: "k".to_owned() };
        let statistics = GetStatisticsResponse {
            event_count: 2,
            last_recorded_at: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            groups: vec![StatisticsGroup {
                group_by: Some(group),
                rows: vec![row("v", 2)],
                row_count: 1,
                ..StatisticsGroup::default()
            }],
            position: 9,
            ..GetStatisticsResponse::default()
        };
        let json = to_json(&statistics);
        assert_eq!(json["lastRecordedAt"], "1970-01-01T00:00:01Z");
        assert_eq!(
            json["groups"][0],
            json!({
                "groupBy": {"grouping": "GROUPING_METADATA", "metadataKey": "k"},
                "rows": [{"key": "v", "count": 2}],
                "rowCount": 1,
                "otherCount": 0,
                "withoutCount": 0,
            })
        );
    }
}
