//! What the mixed load has come to: a line for each interval, the totals, and the verdict.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::time::Interval;

use super::{MixedArgs, tally::Tally, work::Shared};
use crate::cli::{
    CliError,
    bench::{
        Bench,
        report::{facts_json, header, latency_cells, per_second, rounded, tell_removal},
    },
    output::{self, Output, grouped},
    table::{Column, Table},
};

/// The bar moves so often.
const TICK: Duration = Duration::from_millis(100);

const INTERVAL: [Column; 13] = [
    Column::Text("after", 12),
    Column::Number("appended/s"),
    Column::Number("p50 µs"),
    Column::Number("p99"),
    Column::Number("max"),
    Column::Number("read/s"),
    Column::Number("p99 µs"),
    Column::Number("received/s"),
    Column::Number("p50 µs"),
    Column::Number("p99"),
    Column::Number("max"),
    Column::Number("errors"),
    Column::Number("wrong"),
];

const TOTALS: [Column; 9] = [
    Column::Text("", 12),
    Column::Number("events"),
    Column::Number("events/s"),
    Column::Number("p50 µs"),
    Column::Number("p90"),
    Column::Number("p99"),
    Column::Number("p99.9"),
    Column::Number("max"),
    Column::Number("errors"),
];

/// Tells it.
pub struct Teller<'a> {
    bench: &'a Bench,
    shared: Arc<Shared>,
    json: bool,
    every: Option<Duration>,
    facts: Vec<(&'static str, Value)>,
    began: Instant,
    told: Instant,
    out: Output,
    table: Table<13>,
    bar: Option<ProgressBar>,
}

impl<'a> Teller<'a> {
    pub fn begin(
        bench: &'a Bench,
        args: &MixedArgs,
        shared: &Arc<Shared>,
    ) -> Result<Self, CliError> {
        let mut facts = args.write.facts();
        facts.extend([
            ("readers", args.readers.into()),
            ("limit", args.limit.into()),
            ("subscribers", args.subscribers.into()),
        ]);
        facts.extend(args.write.streams.map(|streams| ("streams", streams.into())));
        facts.extend(args.pace.map(|pace| ("pace_per_s", pace.into())));
        let mut out = Output::stdout();
        if !args.json {
            let amount = match args.count {
                Some(count) => format!("{} events", grouped(count)),
                None => output::duration(args.duration.as_nanos().try_into().unwrap_or(0)),
            };
            header(&mut out, bench, &facts, &amount)?;
        }
        let now = Instant::now();
        Ok(Self {
            bench,
            shared: Arc::clone(shared),
            json: args.json,
            every: args.report_every,
            facts,
            began: now,
            told: now,
            out,
            table: Table::new(INTERVAL),
            bar: args.report_every.is_none().then(|| output::progress_bar(Some(1000), false)),
        })
    }

    /// When there is something to tell.
    pub fn ticks(&self) -> Interval {
        let every = self.every.unwrap_or(TICK);
        tokio::time::interval_at(tokio::time::Instant::now() + every, every)
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// A line, or the bar moves.
    pub fn tick(&mut self) -> Result<(), CliError> {
        if let Some(bar) = &self.bar {
            bar.set_position(self.shared.budget.done());
            return Ok(());
        }
        let now = Instant::now();
        let time = now - self.told;
        self.told = now;
        let shared = &self.shared;
        let parts = [shared.appends.since(), shared.reads.since(), shared.arrivals.since()];
        if self.json {
            let mut json = json!({
                "kind": "interval",
                "elapsed_us": self.elapsed().as_micros(),
                "interval_us": time.as_micros(),
            });
            json_of(&mut json, &parts, time);
            json["verified"] = self.verified_json();
            self.out.json(&json)?;
        } else {
            let row = self.row(&parts, time);
            self.table.print_next(row, &mut self.out)?;
        }
        Ok(self.out.flush()?)
    }

    fn row(&self, [appends, reads, arrivals]: &[Tally; 3], time: Duration) -> [String; 13] {
        let rate = |tally: &Tally| grouped(rounded(per_second(tally.events, time)));
        let [append_p50, _, append_p99, _, append_max] = latency_cells(&appends.latencies);
        let [_, _, read_p99, ..] = latency_cells(&reads.latencies);
        let [arrival_p50, _, arrival_p99, _, arrival_max] = latency_cells(&arrivals.latencies);
        let errors: u64 = [appends, reads, arrivals].iter().map(|it| it.error_count()).sum();
        let found = self.shared.verified();
        [
            output::duration(i128::from(self.elapsed().as_secs()) * 1_000_000_000),
            rate(appends),
            append_p50,
            append_p99,
            append_max,
            rate(reads),
            read_p99,
            rate(arrivals),
            arrival_p50,
            arrival_p99,
            arrival_max,
            grouped(errors),
            grouped(found.missing + found.repeated + found.wrong_answers),
        ]
    }

    fn verified_json(&self) -> Value {
        let found = self.shared.verified();
        json!({
            "missing": found.missing,
            "repeated": found.repeated,
            "wrong_answers": found.wrong_answers,
        })
    }

    /// The totals, of a load that went on for `elapsed`. Fails where something was wrong.
    pub fn end(mut self, elapsed: Duration, category: &str) -> Result<(), CliError> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let shared = Arc::clone(&self.shared);
        let parts = [shared.appends.total(), shared.reads.total(), shared.arrivals.total()];
        let found = shared.verified();
        if self.json {
            let mut json = json!({
                "kind": "total",
                "shape": self.bench.shape,
                "server": self.bench.server_json(),
                "load": facts_json(&self.facts),
                "category": category,
                "elapsed_us": elapsed.as_micros(),
            });
            json_of(&mut json, &parts, elapsed);
            json["verified"] = self.verified_json();
            json["acknowledged_position"] = shared.acknowledged().into();
            self.out.json(&json)?;
            self.out.flush()?;
        } else {
            self.totals(&parts, elapsed)?;
            tell_removal(category);
        }
        if !found.is_good() {
            return Err(CliError::Failed(format!(
                "the store did not keep its word: {} events missing, {} repeated or out of order, {} wrong \
                 answers",
                found.missing, found.repeated, found.wrong_answers
            )));
        }
        match parts[0].events {
            0 => Err(CliError::Failed("nothing was appended".to_owned())),
            _ => Ok(()),
        }
    }

    fn totals(&mut self, parts: &[Tally; 3], elapsed: Duration) -> Result<(), CliError> {
        let names = ["appended", "read", "received"];
        let rows = names.iter().zip(parts).map(|(name, tally)| {
            let [p50, p90, p99, p99_9, max] = latency_cells(&tally.latencies);
            let rate = grouped(rounded(per_second(tally.events, elapsed)));
            let errors = grouped(tally.error_count());
            let name = (*name).to_owned();
            [name, grouped(tally.events), rate, p50, p90, p99, p99_9, max, errors]
        });
        Table::new(TOTALS).print(rows.collect(), &mut self.out)?;
        for (name, tally) in names.iter().zip(parts).filter(|(_, tally)| tally.error_count() > 0) {
            self.out.line(|_| format!("errors, {name}: {}", tally.errors_text()))?;
        }
        let found = self.shared.verified();
        self.out.line(|_| {
            format!(
                "verified: {} missing, {} repeated or out of order, {} wrong answers",
                grouped(found.missing),
                grouped(found.repeated),
                grouped(found.wrong_answers)
            )
        })?;
        Ok(self.out.flush()?)
    }
}

fn json_of(json: &mut Value, [appends, reads, arrivals]: &[Tally; 3], time: Duration) {
    json["appended"] = appends.json(time);
    json["read"] = reads.json(time);
    json["received"] = arrivals.json(time);
}
