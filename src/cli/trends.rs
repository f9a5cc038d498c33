//! `annals trends`: how many events there were in each hour, day, week or month, as bars, as of now or
//! live.

use clap::builder::RangedU64ValueParser;
use serde_json::{Value, json};

use super::{
    CliError,
    client::ServerArgs,
    cloud_events::format_time,
    filter::FilterArgs,
    output::{self, Output, bar, grouped, printable},
    stats::{TimeArgs, Widths, group_name, parse_group},
};
use crate::wire::proto::v1::{
    GetTrendsRequest, GetTrendsResponse, GroupBy, Grouping, TrendRow, TrendSeries,
    WatchTrendsRequest,
};

/// Show events over time
///
/// A bar for each hour, day, week or month, and with --split-by one for each type, category, stream or
/// metadata value in it.
#[derive(Debug, clap::Args)]
pub struct TrendsArgs {
    /// The unit of time: hour, day, week or month
    #[arg(long, value_name = "UNIT", default_value = "day", value_parser = parse_unit)]
    by: Grouping,
    /// Also by type, category, stream or metadata:KEY with a key that the server indexes
    #[arg(long, value_name = "GROUP", value_parser = parse_split)]
    split_by: Option<GroupBy>,
    /// With --split-by, at most so many series, those with the most events [default: 10]
    #[arg(
        long,
        value_name = "N",
        requires = "split_by",
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=1000),
    )]
    series: Option<u32>,
    /// Also the times without events
    #[arg(long)]
    fill: bool,
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

fn is_time(grouping: Grouping) -> bool {
    matches!(grouping, Grouping::Hour | Grouping::Day | Grouping::Week | Grouping::Month)
}

fn parse_unit(text: &str) -> Result<Grouping, String> {
    let unit = parse_group(text).ok().map(|group| group.grouping());
    let unit = unit.filter(|grouping| is_time(*grouping));
    unit.ok_or_else(|| "hour, day, week or month is expected".to_owned())
}

fn parse_split(text: &str) -> Result<GroupBy, String> {
    let group = parse_group(text).ok().filter(|group| !is_time(group.grouping()));
    group.ok_or_else(|| "type, category, stream or metadata:KEY is expected".to_owned())
}

pub async fn run(args: TrendsArgs) -> Result<(), CliError> {
    let split_by = args.split_by.as_ref().map(group_name);
    let request = GetTrendsRequest {
        filters: args.filter.into_filters(),
        unit: args.by.into(),
        time_base: args.times.time_base().into(),
        time_zone: args.times.time_zone,
        fill_empty: args.fill,
        split_by: args.split_by,
        series_max: args.series.unwrap_or(0),
        min_position: 0,
    };
    let mut queries = args.server.connect().await?.queries();
    let mut out = Output::stdout();
    if !args.watch {
        let trends = queries.get_trends(request).await?.into_inner();
        if args.json {
            out.json(&to_json(&trends))?;
        } else {
            print(&trends, split_by.as_deref(), &mut out)?;
        }
        return Ok(out.flush()?);
    }
    let request = WatchTrendsRequest { trends: Some(request), interval: None };
    let mut changes = queries.watch_trends(request).await?.into_inner();
    let watch = async {
        while let Some(change) = changes.message().await? {
            let trends = change.trends.unwrap_or_default();
            if args.json {
                let trends = to_json(&trends);
                out.json(&json!({ "complete": change.complete, "trends": trends }))?;
            } else if change.complete {
                print(&trends, split_by.as_deref(), &mut out)?;
            } else {
                for row in &trends.rows {
                    out.line(|_| changed(row))?;
                }
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

fn print(
    trends: &GetTrendsResponse,
    split_by: Option<&str>,
    out: &mut Output,
) -> Result<(), CliError> {
    for (name, value) in totals(trends, split_by) {
        out.line(|palette| format!("{dim}{name:<18}{dim:#}{value}", dim = palette.dim))?;
    }
    if !trends.rows.is_empty() {
        out.line(|_| String::new())?;
    }
    for line in chart(&trends.rows, is_split(trends), output::terminal_width()) {
        out.line(|_| line)?;
    }
    Ok(())
}

fn totals(trends: &GetTrendsResponse, split_by: Option<&str>) -> Vec<(&'static str, String)> {
    let mut rows = vec![("events", grouped(trends.event_count))];
    if let Some(split_by) = split_by {
        let series = grouped(trends.series.len() as u64);
        rows.push(("series", format!("{series}, by {split_by}")));
    }
    if trends.other_count > 0 {
        rows.push(("in other series", grouped(trends.other_count)));
    }
    if trends.without_count > 0 {
        rows.push(("in no series", grouped(trends.without_count)));
    }
    rows.push(("up to position", trends.position.to_string()));
    rows
}

/// A row cannot tell: the value of a metadata key may be empty.
fn is_split(trends: &GetTrendsResponse) -> bool {
    !trends.series.is_empty()
}

/// A line a row: the time, where it is another one than above; the series, if there are any; count, bar.
fn chart(rows: &[TrendRow], split: bool, line_width: usize) -> Vec<String> {
    let longest = rows.iter().map(|row| row.count).max().unwrap_or(0);
    let time_width = if split { key_width(rows) } else { 0 };
    let indent = if split { time_width + 2 } else { 0 };
    let keys = rows.iter().map(|row| (if split { &*row.series } else { &*row.key }, row.count));
    let widths = Widths::of(keys.clone(), indent, line_width);
    let mut above = None;
    let mut lines = Vec::with_capacity(rows.len());
    for (row, (key, count)) in rows.iter().zip(keys) {
        let mut line = String::new();
        if split {
            let time = if above == Some(&row.key) { "".into() } else { printable(&row.key) };
            line = format!("{time:<time_width$}  ");
        }
        line.push_str(&widths.key_and_count(key, count));
        line.push_str("  ");
        line.push_str(&bar(count, longest, widths.bar));
        lines.push(line.trim_end().to_owned());
        above = Some(&row.key);
    }
    lines
}

fn key_width(rows: &[TrendRow]) -> usize {
    rows.iter().map(|row| printable(&row.key).chars().count()).max().unwrap_or(0)
}

/// `2010-10-31  Paid  1 235`
fn changed(row: &TrendRow) -> String {
    let (key, count) = (printable(&row.key), grouped(row.count));
    match row.series.as_str() {
        "" => format!("{key}  {count}"),
        series => format!("{key}  {}  {count}", printable(series)),
    }
}

/// Every field, by the names of the protocol's JSON.
fn to_json(trends: &GetTrendsResponse) -> Value {
    let row = |row: &TrendRow| {
        let mut json = json!({
            "key": row.key,
            "start": row.start.as_ref().and_then(format_time),
            "end": row.end.as_ref().and_then(format_time),
            "count": row.count,
        });
        if is_split(trends) {
            json["series"] = row.series.as_str().into();
        }
        json
    };
    let series = |series: &TrendSeries| json!({ "key": series.key, "count": series.count });
    json!({
        "rows": trends.rows.iter().map(row).collect::<Vec<_>>(),
        "eventCount": trends.event_count,
        "series": trends.series.iter().map(series).collect::<Vec<_>>(),
        "otherCount": trends.other_count,
        "withoutCount": trends.without_count,
        "position": trends.position,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, series: &str, count: u64) -> TrendRow {
        let (key, series) = (key.to_owned(), series.to_owned());
        TrendRow { key, series, count, ..TrendRow::default() }
    }

    #[test]
    fn a_chart_has_a_bar_for_each_time_scaled_to_the_largest() {
        let rows = [row("2010-10-30", "", 32), row("2010-10-31", "", 0), row("2010-11-01", "", 9)];
        assert_eq!(
            chart(&rows, false, 21),
            ["2010-10-30  32  ████", "2010-10-31   0", "2010-11-01   9  █▏"]
        );
        assert_eq!(chart(&[], true, 80), [""; 0]);
    }

    #[test]
    fn a_chart_with_series_names_each_time_once_and_each_series_on_a_line() {
        let rows = [
            row("2010-10", "Paid", 1000),
            row("2010-10", "Lost\u{7}", 500),
            row("2010-11", "Paid", 250),
        ];
        assert_eq!(
            chart(&rows, true, 40),
            [
                "2010-10  Paid       1 000  ████████████",
                "         Lost\\u{7}    500  ██████",
                "2010-11  Paid         250  ███",
            ]
        );
    }

    #[test]
    fn a_unit_is_a_time_and_a_split_is_none() {
        assert_eq!(parse_unit("week"), Ok(Grouping::Week));
        assert!(["type", "", "metadata:k", "year"].iter().all(|text| parse_unit(text).is_err()));
        assert!(["stream", "metadata:k"].iter().all(|text| parse_split(text).is_ok()));
        assert!(["day", "", "metadata:"].iter().all(|text| parse_split(text).is_err()));
    }

    #[test]
    fn a_changed_row_is_a_line() {
        assert_eq!(changed(&row("2010-10", "", 1235)), "2010-10  1 235");
        assert_eq!(changed(&row("2010-10", "Paid", 1)), "2010-10  Paid  1");
    }
}
