//! The options that say which events, for every command that reads the log.
//!
//! They are checked with all other options, before any server is asked: what a filter may not be ends
//! with exit code 2 and names the option.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::{ArgMatches, Command, FromArgMatches, error::ErrorKind};
use prost_types::{Timestamp, value::Kind};

use crate::wire::proto::v1::{Filter, JsonMatch, JsonOperator, MetadataMatch, TimeRange};

const HEADING: &str = "Which events";

/// Two characters before one: the first that fits is the operator.
const OPERATORS: [(&str, JsonOperator); 7] = [
    ("==", JsonOperator::Equals),
    ("!=", JsonOperator::NotEquals),
    ("<=", JsonOperator::LessOrEqual),
    (">=", JsonOperator::GreaterOrEqual),
    ("=", JsonOperator::Equals),
    ("<", JsonOperator::Less),
    (">", JsonOperator::Greater),
];

/// The filter that the options make.
#[derive(Debug)]
pub struct FilterArgs(Filter);

/// Different options must all match; of one option's values any.
#[derive(Debug, clap::Args)]
#[group(id = "FilterArgs")]
struct Options {
    /// Events of this stream; may be repeated
    #[arg(help_heading = HEADING, long, value_name = "STREAM")]
    in_stream: Vec<String>,
    /// Events of streams whose name begins with this; may be repeated
    #[arg(help_heading = HEADING, long, value_name = "PREFIX")]
    stream_prefix: Vec<String>,
    /// Events of this category's streams; may be repeated
    #[arg(help_heading = HEADING, long, value_name = "CATEGORY")]
    category: Vec<String>,
    /// Events of this type; may be repeated
    #[arg(help_heading = HEADING, long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Events with this tag; of several tags any
    #[arg(help_heading = HEADING, long, value_name = "TAG")]
    tag: Vec<String>,
    /// Events with this tag; of several tags all
    #[arg(help_heading = HEADING, long, value_name = "TAG")]
    tag_all: Vec<String>,
    /// Events with this correlation id; may be repeated
    #[arg(help_heading = HEADING, long, value_name = "ID")]
    correlation_id: Vec<String>,
    /// Events that this event or command caused; may be repeated
    #[arg(help_heading = HEADING, long, value_name = "ID")]
    causation_id: Vec<String>,
    /// Events with this metadata; of one key's values any, of several keys all
    #[arg(help_heading = HEADING, long, value_name = "KEY=VALUE", value_parser = parse_entry)]
    metadata: Vec<(String, String)>,
    /// Events that occurred at this time, such as 2011-03-01T09:30:00Z or 2011-03-01, or later
    #[arg(help_heading = HEADING, long, value_name = "TIME", value_parser = parse_time)]
    occurred_from: Option<Timestamp>,
    /// Events that occurred before this time
    #[arg(help_heading = HEADING, long, value_name = "TIME", value_parser = parse_time)]
    occurred_to: Option<Timestamp>,
    /// Events that the server took at this time or later
    #[arg(help_heading = HEADING, long, value_name = "TIME", value_parser = parse_time)]
    recorded_from: Option<Timestamp>,
    /// Events that the server took before this time
    #[arg(help_heading = HEADING, long, value_name = "TIME", value_parser = parse_time)]
    recorded_to: Option<Timestamp>,
    /// Events whose data contains this text, in upper or lower case; of several texts any
    #[arg(help_heading = HEADING, long, value_name = "TEXT")]
    text: Vec<String>,
    /// Events whose JSON data is so: '$.amount>=100', '$.currency=EUR', '$.lines[*].sku exists'; of
    /// several all
    #[arg(help_heading = HEADING, long, value_name = "MATCH", value_parser = parse_json_match)]
    json_match: Vec<JsonMatch>,
}

impl FilterArgs {
    /// Nothing where every event is asked for.
    pub fn into_filters(self) -> Vec<Filter> {
        if self.0 == Filter::default() { Vec::new() } else { vec![self.0] }
    }
}

impl FromArgMatches for FilterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let filter = Options::from_arg_matches(matches)?.filter();
        filter.map(Self).map_err(|fault| clap::Error::raw(ErrorKind::ValueValidation, fault))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for FilterArgs {
    fn augment_args(command: Command) -> Command {
        Options::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Options::augment_args_for_update(command)
    }
}

impl Options {
    fn filter(self) -> Result<Filter, String> {
        Ok(Filter {
            streams: self.in_stream,
            categories: self.category,
            types: self.types,
            tags: self.tag,
            tags_all: self.tag_all,
            stream_prefixes: self.stream_prefix,
            correlation_ids: self.correlation_id,
            causation_ids: self.causation_id,
            metadata: by_key(self.metadata),
            occurred: range("occurred", self.occurred_from, self.occurred_to)?,
            recorded: range("recorded", self.recorded_from, self.recorded_to)?,
            texts: self.text,
            json: self.json_match,
        })
    }
}

/// In the order in which the keys were first named.
fn by_key(entries: Vec<(String, String)>) -> Vec<MetadataMatch> {
    let mut places = HashMap::new();
    let mut matches: Vec<MetadataMatch> = Vec::new();
    for (key, value) in entries {
        let place = *places.entry(key.clone()).or_insert(matches.len());
        if place == matches.len() {
            matches.push(MetadataMatch { key, values: Vec::new() });
        }
        matches[place].values.push(value);
    }
    matches
}

fn range(
    name: &str,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> Result<Option<TimeRange>, String> {
    let order = |time: &Timestamp| (time.seconds, time.nanos);
    match (&from, &to) {
        (None, None) => Ok(None),
        (Some(from), Some(to)) if order(from) >= order(to) => {
            Err(format!("--{name}-from must be before --{name}-to"))
        }
        _ => Ok(Some(TimeRange { from, to })),
    }
}

fn parse_entry(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is expected".to_owned()),
    }
}

/// RFC 3339, or a date alone: its midnight, UTC.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    let date = |text: &str| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
    let time = DateTime::parse_from_rfc3339(text)
        .map(|time| time.with_timezone(&Utc))
        .ok()
        .or_else(|| date(text).map(|date| date.and_time(NaiveTime::MIN).and_utc()))
        .ok_or(
            "RFC 3339 is expected, such as 2011-03-01T09:30:00Z, or a date, such as 2011-03-01",
        )?;
    // A leap second has a second too many in its nanoseconds; for us it is the next second.
    let nanos = time.timestamp_subsec_nanos();
    Ok(Timestamp {
        seconds: time.timestamp() + i64::from(nanos / 1_000_000_000),
        nanos: i32::try_from(nanos % 1_000_000_000).unwrap_or_default(),
    })
}

fn parse_json_match(text: &str) -> Result<JsonMatch, String> {
    let (path, operator, value) = match find_operator(text)? {
        Some((at, symbol, operator)) => (&text[..at], operator, Some(&text[at + symbol.len()..])),
        None => match text.trim_end().strip_suffix("exists") {
            Some(path) if path.ends_with(char::is_whitespace) => (path, JsonOperator::Exists, None),
            _ => {
                return Err(
                    "PATH OP VALUE is expected, such as '$.amount >= 100', with ==, =, !=, <, \
                            <=, > or >=; or PATH exists"
                        .to_owned(),
                );
            }
        },
    };
    let path = path.trim();
    if !path.starts_with('$') {
        return Err("the path must be a JSONPath, which begins with $, such as $.amount".to_owned());
    }
    let value = value.map(|value| json_scalar(value.trim())).transpose()?;
    Ok(JsonMatch { path: path.to_owned(), operator: operator.into(), value })
}

/// The first one outside of quotes and brackets: its place, how it is written, what it is.
fn find_operator(text: &str) -> Result<Option<(usize, &'static str, JsonOperator)>, String> {
    let mut quote = None;
    let mut escaped = false;
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        if let Some(end) = quote {
            if !escaped && c == end {
                quote = None;
            }
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '\'' | '"' => quote = Some(c),
            '[' => depth += 1,
            ']' => depth = depth.checked_sub(1).ok_or("a ] has no [ before it")?,
            _ if depth > 0 => {}
            _ => {
                let rest = &text[at..];
                let found = OPERATORS.iter().find(|(symbol, _)| rest.starts_with(symbol));
                if let Some((symbol, operator)) = found {
                    return Ok(Some((at, symbol, *operator)));
                }
            }
        }
    }
    if quote.is_some() || depth > 0 {
        return Err("a quote or a bracket of the path is not closed".to_owned());
    }
    Ok(None)
}

/// A string needs no quotes, unless it is one of JSON's other scalars or begins as an operator does.
pub fn json_scalar(text: &str) -> Result<prost_types::Value, String> {
    if text.is_empty() {
        return Err("a value is expected after the operator; an empty string is \"\"".to_owned());
    }
    if text.starts_with(['=', '<', '>']) {
        return Err(
            "the operators are ==, =, !=, <, <=, > and >=; a string that begins so must be in \
                    quotes: \"=\""
                .to_owned(),
        );
    }
    let kind = match serde_json::from_str(text) {
        Ok(serde_json::Value::Null) => Kind::NullValue(0),
        Ok(serde_json::Value::Bool(value)) => Kind::BoolValue(value),
        // Numbers are compared as doubles.
        Ok(serde_json::Value::Number(number)) => {
            Kind::NumberValue(number.as_f64().ok_or("the number is out of range")?)
        }
        Ok(serde_json::Value::String(value)) => Kind::StringValue(value),
        Ok(serde_json::Value::Array(_) | serde_json::Value::Object(_)) => {
            return Err(
                "a string, a number, true, false or null is expected, no list and no object"
                    .to_owned(),
            );
        }
        Err(_) => Kind::StringValue(text.to_owned()),
    };
    Ok(prost_types::Value { kind: Some(kind) })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Read {
        #[command(flatten)]
        filter: FilterArgs,
    }

    fn parse(arguments: &[&str]) -> Result<Vec<Filter>, clap::Error> {
        let read = Read::try_parse_from([&["read"], arguments].concat())?;
        Ok(read.filter.into_filters())
    }

    fn matched(text: &str) -> (String, JsonOperator, Option<Kind>) {
        let parsed = parse_json_match(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
        let operator = parsed.operator();
        (parsed.path, operator, parsed.value.and_then(|value| value.kind))
    }

    #[test]
    fn every_field_of_a_filter_has_an_option() {
        assert_eq!(parse(&[]).expect("no option"), []);
        let options = "--in-stream A-1 --stream-prefix A- --category A --type T --tag a --tag-all b \
             --correlation-id c --causation-id d --metadata k=1 --metadata l= --metadata k=2=3 \
             --occurred-from 2011-03-01 --recorded-to 2011-03-01T01:00:00.5+01:00 --text x --text y \
             --json-match $.a=1 --json-match $.b=2";
        let filters = parse(&options.split_whitespace().collect::<Vec<_>>()).expect("options");
        let [filter] = <[Filter; 1]>::try_from(filters).expect("one filter");
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let midnight = Timestamp { seconds: 1_298_937_600, nanos: 0 };
        let expected = Filter {
            streams: owned(&["A-1"]),
            categories: owned(&["A"]),
            types: owned(&["T"]),
            tags: owned(&["a"]),
            tags_all: owned(&["b"]),
            stream_prefixes: owned(&["A-"]),
            correlation_ids: owned(&["c"]),
            causation_ids: owned(&["d"]),
            metadata: vec![
                MetadataMatch { key: "k".to_owned(), values: owned(&["1", "2=3"]) },
                MetadataMatch { key: "l".to_owned(), values: owned(&[""]) },
            ],
            occurred: Some(TimeRange { from: Some(midnight), to: None }),
            recorded: Some(TimeRange {
                from: None,
                to: Some(Timestamp { nanos: 500_000_000, ..midnight }),
            }),
            texts: owned(&["x", "y"]),
            json: vec![
                parse_json_match("$.a=1").expect("a match"),
                parse_json_match("$.b=2").expect("a match"),
            ],
        };
        assert_eq!(filter, expected);
    }

    #[test]
    fn a_bad_option_is_named_with_what_is_allowed_and_ends_with_2() {
        for (arguments, option, allowed) in [
            (&["--metadata", "k"][..], "--metadata", "KEY=VALUE"),
            (&["--metadata", "=v"], "--metadata", "KEY=VALUE"),
            (&["--occurred-from", "yesterday"], "--occurred-from", "RFC 3339"),
            (&["--occurred-to", "2011-02-29"], "--occurred-to", "2011-03-01"),
            (&["--recorded-from", "2011"], "--recorded-from", "RFC 3339"),
            (&["--recorded-to", "2011-03-01T00:00:00"], "--recorded-to", "RFC 3339"),
            (
                &["--recorded-from", "2011-03-01", "--recorded-to", "2011-03-01"],
                "--recorded-from",
                "before --recorded-to",
            ),
            (&["--json-match", "$.a"], "--json-match", "PATH exists"),
            (&["--json-match", "$.a ="], "--json-match", "a value"),
        ] {
            let error = parse(arguments).expect_err("it is bad");
            let text = error.to_string();
            assert!(text.contains(option) && text.contains(allowed), "{text}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn a_json_match_is_cut_at_the_first_operator_outside_of_quotes_and_brackets() {
        let number = |number| Some(Kind::NumberValue(number));
        let string = |text: &str| Some(Kind::StringValue(text.to_owned()));
        for (text, path, operator, value) in [
            ("$.amount>=100", "$.amount", JsonOperator::GreaterOrEqual, number(100.0)),
            ("$.amount <= -1.5e3", "$.amount", JsonOperator::LessOrEqual, number(-1500.0)),
            ("$.a>1", "$.a", JsonOperator::Greater, number(1.0)),
            ("$.a<1", "$.a", JsonOperator::Less, number(1.0)),
            ("$.currency == \"EUR\"", "$.currency", JsonOperator::Equals, string("EUR")),
            ("$.currency=EUR", "$.currency", JsonOperator::Equals, string("EUR")),
            ("$.a != 1 or 2", "$.a", JsonOperator::NotEquals, string("1 or 2")),
            ("$.a=\"1\"", "$.a", JsonOperator::Equals, string("1")),
            ("$.a=\"\"", "$.a", JsonOperator::Equals, string("")),
            ("$.a=\"<\"", "$.a", JsonOperator::Equals, string("<")),
            ("$.a=x=y", "$.a", JsonOperator::Equals, string("x=y")),
            ("$.a=it's", "$.a", JsonOperator::Equals, string("it's")),
            ("$.a=true", "$.a", JsonOperator::Equals, Some(Kind::BoolValue(true))),
            ("$.a=null", "$.a", JsonOperator::Equals, Some(Kind::NullValue(0))),
            ("$.a=007", "$.a", JsonOperator::Equals, string("007")),
            ("$['a=b'][0]=1", "$['a=b'][0]", JsonOperator::Equals, number(1.0)),
            (r"$['it\'s]=']=1", r"$['it\'s]=']", JsonOperator::Equals, number(1.0)),
            (r#"$["é<"]<1"#, r#"$["é<"]"#, JsonOperator::Less, number(1.0)),
            ("$.lines[*].sku exists", "$.lines[*].sku", JsonOperator::Exists, None),
            (" $.exists  exists ", "$.exists", JsonOperator::Exists, None),
            ("$.a = exists", "$.a", JsonOperator::Equals, string("exists")),
        ] {
            assert_eq!(matched(text), (path.to_owned(), operator, value), "{text}");
        }
        for text in [
            "",
            "$.a",
            "$.exists",
            "exists",
            "$.a exists b",
            "amount>1",
            ">1",
            "$.a=",
            "$.a===1",
            "$.a=>1",
            "$.a=[1]",
            "$.a={}",
            "$['a=1",
            "$[a=1",
            "$.a]=1",
            "$.a!1",
            "$.a ~ 1",
        ] {
            assert!(parse_json_match(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_has_a_zone_or_is_a_date() {
        let time = |text: &str| parse_time(text).map(|time| (time.seconds, time.nanos));
        assert_eq!(time("1970-01-02"), Ok((86_400, 0)));
        assert_eq!(time("1970-01-01T01:00:00+02:00"), Ok((-3600, 0)));
        assert_eq!(time("1969-12-31T23:59:59.9Z"), Ok((-1, 900_000_000)));
        assert_eq!(time("2016-12-31T23:59:60.5Z"), Ok((1_483_228_800, 500_000_000)));
        for text in ["", "now", "1970-01-01 ", "1970-13-01", "1970-01-01T00:00:00", "10:00"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
