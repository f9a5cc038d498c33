//! What the rounds came to: a table for people, or one JSON object with units in its names.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{
    Bench, CliError,
    load::{Taken, Twin, nanos},
    rounds::RoundArgs,
};
use crate::cli::{
    output::{self, Output, grouped},
    table::{Column, Table},
};

/// Of latencies: name in a table, name in JSON, quantile.
const QUANTILES: [(&str, &str, f64); 5] = [
    ("p50 µs", "p50", 0.5),
    ("p90", "p90", 0.9),
    ("p99", "p99", 0.99),
    ("p99.9", "p99_9", 0.999),
    ("max", "max", 1.0),
];

const COLUMNS: [Column; 8] = [
    Column::Text("", 20),
    Column::Number("events/s"),
    Column::Number("timed"),
    Column::Number(QUANTILES[0].0),
    Column::Number(QUANTILES[1].0),
    Column::Number(QUANTILES[2].0),
    Column::Number(QUANTILES[3].0),
    Column::Number(QUANTILES[4].0),
];

/// Rounds of one twin.
#[derive(Default)]
struct Side {
    rates: Vec<f64>,
    taken: Option<Taken>,
}

impl Side {
    fn add(&mut self, taken: &Taken, rate: f64) {
        self.rates.push(rate);
        self.taken.get_or_insert_with(Taken::nothing).merge(taken);
    }

    fn median(&self) -> Option<f64> {
        spread(self.rates.iter().copied()).map(|[_, median, _]| median)
    }
}

/// Collects the rounds.
pub struct Report<'a> {
    bench: &'a Bench,
    args: &'a RoundArgs,
    facts: Vec<(&'static str, Value)>,
    /// Whether each round has a line of its own.
    each: bool,
    out: Output,
    table: Table<8>,
    rounds: Vec<Value>,
    real: Side,
    empty: Side,
}

impl<'a> Report<'a> {
    /// Says what is measured, and where.
    pub fn begin(
        bench: &'a Bench,
        args: &'a RoundArgs,
        facts: Vec<(&'static str, Value)>,
        each: bool,
    ) -> Result<Self, CliError> {
        let mut out = Output::stdout();
        if !args.json {
            let amount = format!("rounds of {}", args.amount_text());
            header(&mut out, bench, &facts, &amount)?;
        }
        Ok(Self {
            bench,
            args,
            facts,
            each,
            out,
            table: Table::new(COLUMNS),
            rounds: Vec::new(),
            real: Side::default(),
            empty: Side::default(),
        })
    }

    /// One round more.
    pub fn add(
        &mut self,
        round: u32,
        twin: Twin,
        taken: &Taken,
        elapsed: Duration,
    ) -> Result<(), CliError> {
        let rate = per_second(taken.events, elapsed);
        self.rounds.push(json!({
            "round": round,
            "call": call(twin),
            "events": taken.events,
            "elapsed_us": elapsed.as_micros(),
            "events_per_s": rounded(rate),
            "latency_us": latency_json(&taken.latencies),
        }));
        if self.each && !self.args.json {
            let name = match twin {
                Twin::Real => format!("round {round}"),
                _ => format!("round {round} empty"),
            };
            self.row(row(name, rate, &taken.latencies))?;
        }
        let side = if twin == Twin::Real { &mut self.real } else { &mut self.empty };
        side.add(taken, rate);
        Ok(())
    }

    fn row(&mut self, row: [String; 8]) -> Result<(), CliError> {
        self.table.print_next(row, &mut self.out)?;
        Ok(self.out.flush()?)
    }

    /// That was all.
    pub fn end(mut self, category: Option<&str>) -> Result<(), CliError> {
        let ratio = self.ratio();
        if self.args.json {
            let side = |side: &Side| {
                side.taken.as_ref().map(|taken| {
                    json!({
                        "events": taken.events,
                        "events_per_s": side.median().map(rounded),
                        "latency_us": latency_json(&taken.latencies),
                    })
                })
            };
            let empty = self.args.twin().map(|call| self::call(call.into()));
            self.out.json(&json!({
                "shape": self.bench.shape,
                "server": self.bench.server_json(),
                "load": facts_json(&self.facts),
                "category": category,
                "empty_call": empty,
                "rounds": self.rounds,
                "real": side(&self.real),
                "empty": side(&self.empty),
                "ratio": ratio.map(|ratio| ratio.json()),
            }))?;
            return Ok(self.out.flush()?);
        }
        for (name, side) in
            [("real", std::mem::take(&mut self.real)), ("empty", std::mem::take(&mut self.empty))]
        {
            if let (Some(rate), Some(taken)) = (side.median(), &side.taken) {
                self.row(row(name.to_owned(), rate, &taken.latencies))?;
            }
        }
        if let Some(ratio) = ratio {
            self.out.line(|_| ratio.line())?;
        }
        self.out.flush()?;
        if let Some(category) = category {
            tell_removal(category);
        }
        Ok(())
    }

    fn ratio(&self) -> Option<Ratio> {
        let rates = self.real.rates.iter().zip(&self.empty.rates).map(|(real, empty)| real / empty);
        let rates = spread(rates)?;
        let (real, empty) = (self.real.taken.as_ref()?, self.empty.taken.as_ref()?);
        let [real, empty] = [&real.latencies, &empty.latencies];
        let at = |quantile| {
            let timed = !real.is_empty() && !empty.is_empty();
            timed.then(|| micros(real, quantile) / micros(empty, quantile))
        };
        Some(Ratio { rates, p50: at(0.5), p99: at(0.99) })
    }
}

/// Real to empty.
struct Ratio {
    /// Least, median and greatest of the rounds' own ratios.
    rates: [f64; 3],
    /// Of all rounds together.
    p50: Option<f64>,
    p99: Option<f64>,
}

impl Ratio {
    fn line(&self) -> String {
        let [least, median, greatest] = self.rates;
        let mut line = format!("real / empty: events/s {median:.2} ({least:.2} {greatest:.2})");
        for (name, ratio) in [("p50", self.p50), ("p99", self.p99)] {
            if let Some(ratio) = ratio {
                line = format!("{line}, {name} {ratio:.2}");
            }
        }
        line
    }

    fn json(&self) -> Value {
        let [min, median, max] = self.rates;
        json!({
            "events_per_s": { "median": median, "min": min, "max": max },
            "p50": self.p50,
            "p99": self.p99,
        })
    }
}

/// What was asked for, as JSON.
pub fn facts_json(facts: &[(&'static str, Value)]) -> Value {
    facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn call(twin: Twin) -> &'static str {
    match twin {
        Twin::Real => "real",
        Twin::Messages => "messages",
        Twin::Bytes => "bytes",
        Twin::Disk => "disk",
    }
}

/// Two lines: the shape and the server, the load.
pub fn header(
    out: &mut Output,
    bench: &Bench,
    facts: &[(&'static str, Value)],
    amount: &str,
) -> Result<(), CliError> {
    out.line(|palette| {
        let (dim, bold) = (palette.dim, palette.event_type);
        format!("{bold}{}{bold:#} {dim}{}{dim:#}", bench.shape, bench.server_line())
    })?;
    let facts = facts.iter().map(|(name, value)| {
        let value = value.as_u64().map_or_else(|| value.to_string(), grouped);
        format!("{} {value}", name.replace('_', " "))
    });
    let facts: Vec<String> = facts.chain([amount.to_owned()]).collect();
    out.line(|palette| format!("{dim}{}{dim:#}", facts.join(", "), dim = palette.dim))?;
    Ok(out.flush()?)
}

/// How to get rid of what was written.
pub fn tell_removal(category: &str) {
    output::note(&format!(
        "what was appended is in the category {category}; to remove it:\n  \
         annals retention set --category {category} --max-age 1s && annals compact"
    ));
}

fn row(name: String, rate: f64, latencies: &Histogram<u64>) -> [String; 8] {
    let [p50, p90, p99, p99_9, max] = latency_cells(latencies);
    [name, grouped(rounded(rate)), grouped(latencies.len()), p50, p90, p99, p99_9, max]
}

/// The quantiles in microseconds; `-` where nothing was timed.
pub fn latency_cells(latencies: &Histogram<u64>) -> [String; 5] {
    QUANTILES.map(|(_, _, quantile)| {
        if latencies.is_empty() {
            return "-".to_owned();
        }
        match micros(latencies, quantile) {
            short if short < 100.0 => format!("{short:.1}"),
            long => format!("{long:.0}"),
        }
    })
}

/// The quantiles in microseconds, and of how many; null where nothing was timed.
pub fn latency_json(latencies: &Histogram<u64>) -> Value {
    if latencies.is_empty() {
        return Value::Null;
    }
    let mut json = json!({ "count": latencies.len() });
    for (_, name, quantile) in QUANTILES {
        json[name] = micros(latencies, quantile).into();
    }
    json
}

/// At that quantile, microseconds.
#[expect(clippy::cast_precision_loss, reason = "a figure of four digits at most is printed")]
pub fn micros(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1000.0
}

/// A rate; 0 of no time.
#[expect(clippy::cast_precision_loss, reason = "a figure of four digits at most is printed")]
pub fn per_second(count: u64, time: Duration) -> f64 {
    match nanos(time) {
        0 => 0.0,
        nanos => count as f64 * 1e9 / nanos as f64,
    }
}

/// Least, median, greatest; none of nothing.
pub fn spread(values: impl Iterator<Item = f64>) -> Option<[f64; 3]> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (least, greatest) = (*values.first()?, *values.last()?);
    // Of an even number, between the two in the middle.
    let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
    Some([least, median, greatest])
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts saturate")]
pub fn rounded(rate: f64) -> u64 {
    rate.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::load::latencies;

    #[test]
    fn nothing_timed_is_a_dash_and_null_and_the_rest_is_in_microseconds() {
        let mut latencies = latencies();
        assert_eq!(latency_cells(&latencies), ["-"; 5].map(str::to_owned));
        assert_eq!(latency_json(&latencies), Value::Null);
        latencies.saturating_record(12_000);
        let [p50, .., max] = latency_cells(&latencies);
        assert_eq!([p50.as_str(), max.as_str()], ["12.0", "12.0"]);
        assert_eq!(latency_json(&latencies)["count"], 1);
    }

    #[test]
    fn a_ratio_is_that_of_the_median_round_with_the_least_and_the_greatest() {
        assert_eq!(spread([3.0, 1.0, 2.0].into_iter()), Some([1.0, 2.0, 3.0]));
        assert_eq!(spread([4.0, 1.0].into_iter()), Some([1.0, 2.5, 4.0]));
        assert_eq!(spread([].into_iter()), None);
        let ratio = Ratio { rates: [0.5, 0.75, 1.0], p50: Some(1.5), p99: None };
        assert_eq!(ratio.line(), "real / empty: events/s 0.75 (0.50 1.00), p50 1.50");
        assert_eq!(ratio.json()["events_per_s"]["max"], 1.0);
    }
}
