//! `annals explain`: how a filter is answered, and what it costs.

use serde_json::{Value, json};

use super::{
    CliError,
    client::ServerArgs,
    filter::FilterArgs,
    info::size,
    output::{Output, duration, duration_json, grouped, nanos, printable},
};
use crate::wire::proto::v1::{Execution, ExplainRequest, ExplainResponse, FilterPlan};

/// Show how a filter is answered: from which indexes, with how many candidates
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// Walk over all matches, too, and tell what it has cost
    #[arg(long)]
    execute: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: ExplainArgs) -> Result<(), CliError> {
    let filters = args.filter.into_filters();
    let request = ExplainRequest { filters, execute: args.execute, min_position: 0 };
    let plan = args.server.connect().await?.queries().explain(request).await?.into_inner();
    let mut out = Output::stdout();
    if args.json {
        out.json(&to_json(&plan))?;
    } else {
        for (name, value) in rows(&plan) {
            out.line(|palette| format!("{dim}{name:<18}{dim:#}{value}", dim = palette.dim))?;
        }
    }
    Ok(out.flush()?)
}

fn rows(response: &ExplainResponse) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    for (number, plan) in (1..).zip(&response.plans) {
        if response.plans.len() > 1 {
            rows.push(("filter", format!("{number} of {}", response.plans.len())));
        }
        rows.extend(plan_rows(plan, response.head));
    }
    // One filter's candidates are all there are.
    if response.plans.len() != 1 {
        rows.push(("all candidates", candidates(response.candidates_max, response.head)));
    }
    if let Some(execution) = &response.execution {
        rows.extend(execution_rows(execution));
    }
    rows
}

fn plan_rows(plan: &FilterPlan, head: u64) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    for used in &plan.indexes {
        rows.push((
            "index",
            format!(
                "{}: values {}, events {}",
                printable(&used.index),
                grouped(used.value_count),
                grouped(used.event_count)
            ),
        ));
    }
    if plan.scans_log {
        rows.push(("index", "none: every event is a candidate".to_owned()));
    }
    rows.extend(plan.checks.iter().map(|check| ("then check", printable(check).into_owned())));
    rows.push(("candidates", candidates(plan.candidates_max, head)));
    if plan.first_position > 0 {
        rows.push(("positions", format!("{} to {}", plan.first_position, plan.last_position)));
    }
    rows
}

fn candidates(max: u64, head: u64) -> String {
    format!("at most {} of {} events", grouped(max), grouped(head))
}

fn execution_rows(execution: &Execution) -> [(&'static str, String); 5] {
    [
        ("matches", grouped(execution.match_count)),
        ("steps", grouped(execution.step_count)),
        ("records read", grouped(execution.examined_count)),
        ("data searched", size(execution.examined_bytes)),
        ("time", duration(execution.elapsed.as_ref().map_or(0, nanos))),
    ]
}

/// Every field, by the names of the protocol's JSON.
fn to_json(response: &ExplainResponse) -> Value {
    let plan = |plan: &FilterPlan| {
        let indexes = plan.indexes.iter().map(|used| {
            json!({
                "index": used.index,
                "valueCount": used.value_count,
                "eventCount": used.event_count,
            })
        });
        json!({
            "indexes": indexes.collect::<Vec<_>>(),
            "checks": plan.checks,
            "scansLog": plan.scans_log,
            "firstPosition": plan.first_position,
            "lastPosition": plan.last_position,
            "candidatesMax": plan.candidates_max,
        })
    };
    json!({
        "head": response.head,
        "plans": response.plans.iter().map(plan).collect::<Vec<_>>(),
        "candidatesMax": response.candidates_max,
        "execution": response.execution.as_ref().map(|execution| json!({
            "matchCount": execution.match_count,
            "stepCount": execution.step_count,
            "examinedCount": execution.examined_count,
            "examinedBytes": execution.examined_bytes,
            "elapsed": duration_json(&execution.elapsed.unwrap_or_default()),
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::v1::IndexUse;

    #[test]
    fn a_plan_tells_its_indexes_its_checks_and_what_it_has_cost() {
        let scan = FilterPlan { scans_log: true, candidates_max: 8577, ..FilterPlan::default() };
        let types = IndexUse { index: "types".to_owned(), value_count: 2, event_count: 1200 };
        let indexed = FilterPlan {
            indexes: vec![types],
            checks: vec!["text\n".to_owned()],
            first_position: 3,
            last_position: 80,
            candidates_max: 70,
            ..FilterPlan::default()
        };
        let elapsed = Some(prost_types::Duration { seconds: 0, nanos: 1_500_000 });
        let execution = Execution { match_count: 7, elapsed, ..Execution::default() };
        let mut response = ExplainResponse {
            head: 8577,
            plans: vec![indexed],
            candidates_max: 70,
            execution: Some(execution),
        };
        let lines = |response: &ExplainResponse| -> Vec<String> {
            rows(response).into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
        };
        assert_eq!(
            lines(&response),
            [
                "index: types: values 2, events 1 200",
                "then check: text ",
                "candidates: at most 70 of 8 577 events",
                "positions: 3 to 80",
                "matches: 7",
                "steps: 0",
                "records read: 0",
                "data searched: 0 B",
                "time: 1.5 ms",
            ]
        );
        assert_eq!(to_json(&response)["execution"]["elapsed"], "0.0015s");
        assert_eq!(to_json(&response)["plans"][0]["indexes"][0]["eventCount"], 1200);

        response.plans.push(scan);
        response.execution = None;
        let lines = lines(&response);
        assert_eq!(lines[0], "filter: 1 of 2");
        assert!(lines.contains(&"index: none: every event is a candidate".to_owned()), "{lines:?}");
        assert_eq!(
            lines.last().map(String::as_str),
            Some("all candidates: at most 70 of 8 577 events")
        );
    }
}
