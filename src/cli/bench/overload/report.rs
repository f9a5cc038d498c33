//! What a run found: a row a phase, and the promises that were broken.

use std::time::Duration;

use serde_json::{Value, json};
use tonic::Code;

use super::{calls::Outcomes, prober::Probe};
use crate::{
    cli::{
        CliError,
        info::size,
        output::{self, Output, grouped},
        table::{Column, Table},
    },
    wire::proto::v1::GetInfoResponse,
};

const COLUMNS: [Column; 11] = [
    Column::Text("phase", 20),
    Column::Number("until"),
    Column::Number("calls"),
    Column::Number("OK"),
    Column::Number("shed"),
    Column::Number("other"),
    Column::Number("p50 / p99 ms"),
    Column::Number("health p50 / p99 / max ms"),
    Column::Number("failed"),
    Column::Number("connections"),
    Column::Number("memory"),
];

#[derive(Default)]
pub struct Report {
    rows: Vec<[String; COLUMNS.len()]>,
    phases: Vec<Value>,
    broken: Vec<(&'static str, String)>,
    closed_after: Duration,
    memory: Value,
}

impl Report {
    /// A promise that does not hold.
    pub fn broken(&mut self, phase: &'static str, what: String) {
        self.broken.push((phase, what));
    }

    pub fn closed_after(&mut self, closed_after: Duration) {
        self.closed_after = closed_after;
    }

    /// The server's memory before and after, and what of it is history that was appended, bytes.
    pub fn memory(&mut self, before: u64, after: u64, appended: u64) {
        self.memory =
            json!({ "beforeBytes": before, "afterBytes": after, "appendedBytes": appended });
    }

    pub fn phase(
        &mut self,
        name: &'static str,
        until: Duration,
        outcomes: &Outcomes,
        health: &Probe,
        info: &GetInfoResponse,
        resident: u64,
    ) {
        let (total, ok) = (outcomes.total(), outcomes.count(Code::Ok));
        let shed = outcomes.count(Code::ResourceExhausted);
        let quantile = |of: &hdrhistogram::Histogram<u64>, quantile| {
            let micros = of.value_at_quantile(quantile);
            format!("{}.{}", micros / 1000, micros / 100 % 10)
        };
        let [p50, p99] = [0.5, 0.99].map(|at| quantile(&outcomes.latencies, at));
        let [h50, h99, h100] = [0.5, 0.99, 1.0].map(|at| quantile(&health.latencies, at));
        self.rows.push([
            name.to_owned(),
            format!("{:.1} s", until.as_secs_f64()),
            grouped(total),
            grouped(ok),
            grouped(shed),
            grouped(total - ok - shed),
            format!("{p50} / {p99}"),
            format!("{h50} / {h99} / {h100}"),
            grouped(health.failures),
            grouped(info.connection_count),
            size(resident),
        ]);
        let codes: serde_json::Map<String, Value> =
            outcomes.codes().map(|(code, count)| (code, count.into())).collect();
        self.phases.push(json!({
            "phase": name,
            "untilSeconds": until.as_secs_f64(),
            "codes": codes,
            "p50Micros": outcomes.latencies.value_at_quantile(0.5),
            "p99Micros": outcomes.latencies.value_at_quantile(0.99),
            "health": {
                "checks": health.latencies.len(),
                "failures": health.failures,
                "p50Micros": health.latencies.value_at_quantile(0.5),
                "p99Micros": health.latencies.value_at_quantile(0.99),
                "maxMicros": health.latencies.max(),
            },
            "connections": info.connection_count,
            "head": info.head,
            "residentBytes": resident,
        }));
    }

    /// Prints it; an error where a promise was broken.
    pub fn print(self, as_json: bool) -> Result<(), CliError> {
        let mut out = Output::stdout();
        let broken: Vec<String> =
            self.broken.iter().map(|(phase, what)| format!("{phase}: {what}")).collect();
        if as_json {
            out.json(&json!({
                "phases": self.phases,
                "closedAfterSeconds": self.closed_after.as_secs_f64(),
                "memory": self.memory,
                "broken": broken,
            }))?;
        } else {
            Table::new(COLUMNS).print(self.rows, &mut out)?;
            let bytes = |name: &str| size(self.memory[name].as_u64().unwrap_or(0));
            out.line(|_| {
                format!(
                    "connections closed after {:.1} s; memory {} before, {} after, of which {} were appended",
                    self.closed_after.as_secs_f64(),
                    bytes("beforeBytes"),
                    bytes("afterBytes"),
                    bytes("appendedBytes"),
                )
            })?;
            if broken.is_empty() {
                out.line(|_| "every promise holds".to_owned())?;
            }
        }
        out.flush()?;
        for broken in &broken {
            output::error(broken);
        }
        if broken.is_empty() { Ok(()) } else { Err(CliError::Reported) }
    }
}
