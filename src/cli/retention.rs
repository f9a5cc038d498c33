//! `annals retention`: what is kept of a stream or a category.

use serde_json::{Value, json};

use super::{
    CliError,
    client::ServerArgs,
    output::{Output, grouped, printable},
};
use crate::wire::proto::v1::{
    GetRetentionRequest, GetRetentionResponse, RetentionRule, SetRetentionRequest, StreamState,
    get_retention_request, set_retention_request,
};

/// Set or show what is kept of a stream or a category
///
/// What a rule hides is hidden at once, from every reader, and for ever: a looser rule brings nothing
/// back.
#[derive(Debug, clap::Args)]
pub struct RetentionArgs {
    #[command(subcommand)]
    command: RetentionCommand,
}

#[derive(Debug, clap::Subcommand)]
enum RetentionCommand {
    Set(SetArgs),
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct ScopeArgs {
    /// The stream
    stream: Option<String>,
    /// A category: the rule holds for each of its streams by itself, beside the stream's own
    #[arg(long, value_name = "CATEGORY")]
    category: Option<String>,
}

/// Set what is kept, in the place of what was set before
#[derive(Debug, clap::Args)]
struct SetArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    rule: RuleArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct RuleArgs {
    /// Hide events that were recorded longer ago, such as 90d, 12h, 30m or 10s
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    max_age: Option<prost_types::Duration>,
    /// Hide all events of a stream but so many of the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_count: Option<u64>,
    /// Keep everything from now on
    #[arg(long, conflicts_with_all = ["max_age", "max_count"])]
    everything: bool,
}

/// Show what is kept, and what is hidden
#[derive(Debug, clap::Args)]
struct ShowArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

const UNITS: [(&str, i64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

fn parse_age(text: &str) -> Result<prost_types::Duration, String> {
    let age = UNITS.into_iter().find_map(|(unit, seconds)| {
        let number: i64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(seconds).filter(|seconds| *seconds > 0)
    });
    let age = age.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
    age.ok_or_else(|| "a whole number of d, h, m or s is expected, such as 90d".to_owned())
}

fn format_age(age: &prost_types::Duration) -> String {
    if age.nanos > 0 {
        let fraction = format!("{:09}", age.nanos);
        return format!("{}.{}s", age.seconds, fraction.trim_end_matches('0'));
    }
    let whole = |(_, seconds): &(&str, i64)| age.seconds % seconds == 0;
    let (unit, seconds) = UNITS.into_iter().find(whole).unwrap_or(("s", 1));
    format!("{}{unit}", age.seconds / seconds)
}

pub async fn run(args: RetentionArgs) -> Result<(), CliError> {
    match args.command {
        RetentionCommand::Set(args) => set(args).await,
        RetentionCommand::Show(args) => show(args).await,
    }
}

async fn set(args: SetArgs) -> Result<(), CliError> {
    use set_retention_request::Scope;
    let RuleArgs { max_age, max_count, everything: _ } = args.rule;
    let ScopeArgs { stream, category } = args.scope;
    let scope = stream.map(Scope::Stream).or(category.map(Scope::Category));
    let request = SetRetentionRequest { scope, max_age, max_count };
    let answer = args.server.connect().await?.commands().set_retention(request).await?;
    let answer = answer.into_inner();
    let mut out = Output::stdout();
    if args.json {
        out.json(&json!({ "position": answer.position, "unchanged": answer.unchanged }))?;
    } else if answer.unchanged {
        out.line(|_| "unchanged: it was set already".to_owned())?;
    } else {
        let rule = describe(&RetentionRule { max_age, max_count });
        out.line(|_| format!("kept from now on: {rule}; set at position {}", answer.position))?;
    }
    Ok(out.flush()?)
}

async fn show(args: ShowArgs) -> Result<(), CliError> {
    use get_retention_request::Scope;
    let ScopeArgs { stream, category } = args.scope;
    let name = stream.clone().or_else(|| category.clone()).unwrap_or_default();
    let scope = stream.map(Scope::Stream).or(category.map(Scope::Category));
    let request = GetRetentionRequest { scope, min_position: 0 };
    let facts = args.server.connect().await?.queries().get_retention(request).await?.into_inner();
    let mut out = Output::stdout();
    if args.json {
        out.json(&to_json(&facts))?;
    } else {
        for (title, value) in rows(&name, &facts) {
            out.line(|palette| format!("{dim}{title:<18}{dim:#}{value}", dim = palette.dim))?;
        }
    }
    Ok(out.flush()?)
}

fn describe(rule: &RetentionRule) -> String {
    let age = rule.max_age.as_ref().map(|age| format!("at most {} old", format_age(age)));
    let count = rule.max_count.map(|count| format!("the newest {}", grouped(count)));
    let limits: Vec<String> = count.into_iter().chain(age).collect();
    if limits.is_empty() { "everything".to_owned() } else { limits.join(", ") }
}

fn state(facts: &GetRetentionResponse) -> &'static str {
    match facts.state() {
        StreamState::Unspecified => "never written to",
        StreamState::Live => "live",
        StreamState::Deleted => "deleted",
        StreamState::Tombstoned => "tombstoned",
    }
}

fn rows(name: &str, facts: &GetRetentionResponse) -> Vec<(&'static str, String)> {
    let rule = facts.rule.as_ref().map(describe).unwrap_or_default();
    // Only of a stream.
    let Some(category_rule) = &facts.category_rule else {
        return vec![
            ("category", printable(name).into_owned()),
            ("kept", rule),
            ("ended rules", grouped(facts.ended_rules.into())),
        ];
    };
    vec![
        ("stream", printable(name).into_owned()),
        ("kept", rule),
        ("by its category", describe(category_rule)),
        ("state", state(facts).to_owned()),
        ("version", grouped(facts.version)),
        ("hidden up to", grouped(facts.hidden_version)),
    ]
}

/// Every field, by the names of the protocol's JSON.
fn to_json(facts: &GetRetentionResponse) -> Value {
    let rule = |rule: &RetentionRule| {
        let seconds = |age: &prost_types::Duration| format!("{}s", protobuf_seconds(age));
        json!({ "maxAge": rule.max_age.as_ref().map(seconds), "maxCount": rule.max_count })
    };
    match &facts.category_rule {
        None => json!({
            "rule": facts.rule.as_ref().map(rule),
            "endedRules": facts.ended_rules,
        }),
        Some(category_rule) => json!({
            "rule": facts.rule.as_ref().map(rule),
            "categoryRule": rule(category_rule),
            "state": facts.state().as_str_name(),
            "version": facts.version,
            "hiddenVersion": facts.hidden_version,
        }),
    }
}

/// As protobuf's JSON has a duration: `1.5`, `86400`.
fn protobuf_seconds(age: &prost_types::Duration) -> String {
    let fraction = format!(".{:09}", age.nanos);
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{}{fraction}", age.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_read_as_it_is_printed() {
        for text in ["90d", "12h", "30m", "10s", "36h", "315576000000s"] {
            let age = parse_age(text).expect("an age");
            assert_eq!(parse_age(&format_age(&age)), Ok(age), "{text}");
        }
        assert_eq!(format_age(&prost_types::Duration { seconds: 86_400, nanos: 0 }), "1d");
        assert_eq!(format_age(&prost_types::Duration { seconds: 0, nanos: 1000 }), "0.000001s");
        for bad in ["", "d", "0s", "-1d", "1.5h", "1w", "10", "9223372036854775807d"] {
            assert!(parse_age(bad).is_err(), "{bad}");
        }
    }
}
