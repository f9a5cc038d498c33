//! The table: medians of rounds, real beside empty.

use std::{path::Path, process::Command, thread::available_parallelism, time::Duration};

use annals::wire::proto::v1::Mode;

use super::{
    shapes::{IN_FLIGHT_MAX, Shape},
    target::{DATA_BYTES, HISTORY_COMMIT_EVENTS, Outcome, Target, Twin},
};

/// The rounds of one shape on one server.
pub struct Row {
    shape: Shape,
    real: Vec<Outcome>,
    empty: Vec<Outcome>,
}

impl Row {
    pub fn new(shape: Shape) -> Self {
        Self { shape, real: Vec::new(), empty: Vec::new() }
    }

    pub fn add(&mut self, twin: Twin, outcome: Outcome) {
        match twin {
            Twin::Real => self.real.push(outcome),
            Twin::Empty => self.empty.push(outcome),
        }
    }

    fn is_latency(&self) -> bool {
        self.shape == Shape::Live
    }
}

pub async fn header(smoke: bool, rounds: usize, targets: &[Target]) {
    let info = targets[0].info().await;
    let mode = match info.mode() {
        Mode::Memory => "memory".to_owned(),
        Mode::Durable => format!("durable, sync {}", info.sync),
        Mode::Unspecified => "unknown".to_owned(),
    };
    let cores = available_parallelism().map_or(0, usize::from);
    let build = if cfg!(debug_assertions) { "debug, NOT release" } else { "release" };
    let history = targets[0].history;
    println!(
        "mode {mode} · {cores} cores, shared by server and load · commit {} · {build} · \
         data {DATA_BYTES} B · rounds {rounds}",
        commit()
    );
    println!(
        "history {} events, {} MB, in commits of {HISTORY_COMMIT_EVENTS} · \
         append stream with at most {IN_FLIGHT_MAX} in flight",
        history.events,
        history.bytes / 1_000_000
    );
    for (index, target) in targets.iter().enumerate().skip(usize::from(targets.len() == 1)) {
        println!("server {}: {}", letter(index), target.server.binary.display());
    }
    if smoke {
        println!("smoke, not figures");
    }
    println!(
        "\n{:<30} {:>10} {:>10}  {:<18} {:>15} {:>15} {:>15}",
        "", "events/s", "empty", "ratio (min max)", "p50/p99 µs", "empty", "cpu ns/event"
    );
}

/// One line for each server, and how the others compare with the first.
pub fn rows(rows: &[Row]) {
    for (index, row) in rows.iter().enumerate() {
        let name = match rows.len() {
            1 => row.shape.name().to_owned(),
            _ => format!("{} {}", letter(index), row.shape.name()),
        };
        let ratios = spread(row.real.iter().zip(&row.empty).map(|(real, empty)| {
            if row.is_latency() {
                quantile(real, 0.5) / quantile(empty, 0.5)
            } else {
                rate(real) / rate(empty)
            }
        }));
        let rate = |rounds: &[Outcome]| {
            if row.is_latency() {
                "-".into()
            } else {
                format!("{:.0}", spread(rounds.iter().map(rate))[1])
            }
        };
        println!(
            "{name:<30} {:>10} {:>10}  {:<18} {:>15} {:>15} {:>15}",
            rate(&row.real),
            rate(&row.empty),
            show(ratios),
            latency(&row.real),
            latency(&row.empty),
            format!("{} / {}", cpu(&row.real), cpu(&row.empty)),
        );
    }
    let (first, others) = rows.split_first().expect("there is a server");
    for (index, other) in (1..).zip(others) {
        let rates = first.real.iter().zip(&other.real).map(|(a, b)| rate(b) / rate(a));
        let tails =
            first.real.iter().zip(&other.real).map(|(a, b)| quantile(b, 0.99) / quantile(a, 0.99));
        let cpu = cpu_nanos(&other.real).zip(cpu_nanos(&first.real)).map(|(b, a)| b / a);
        println!(
            "  {} / A: rate {}, p99 {}, cpu {:.2}",
            letter(index),
            show(spread(rates)),
            show(spread(tails)),
            cpu.unwrap_or(f64::NAN)
        );
    }
}

pub fn footer(smoke: bool) {
    println!(
        "\nMedians of the rounds. Ratio: real to empty of each round, of rates, or of the latencies' \
         p50 in the live row\n(append to arrival, to one empty call's round trip). cpu: the server's \
         processor time, real / empty."
    );
    if smoke {
        println!("smoke, not figures: every result was as it should be");
    }
}

fn letter(index: usize) -> char {
    char::from(b'A' + u8::try_from(index).expect("few servers"))
}

#[expect(clippy::cast_precision_loss, reason = "a figure of four digits at most is printed")]
fn rate(outcome: &Outcome) -> f64 {
    outcome.events as f64 / outcome.elapsed.as_secs_f64()
}

/// Nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "a figure of four digits at most is printed")]
fn quantile(outcome: &Outcome, quantile: f64) -> f64 {
    outcome.latencies.value_at_quantile(quantile) as f64
}

/// Least, median, greatest; NaN of nothing.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    if values.is_empty() {
        return [f64::NAN; 3];
    }
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

fn show([least, median, greatest]: [f64; 3]) -> String {
    if median.is_nan() {
        return "-".into();
    }
    format!("{median:.2} ({least:.2} {greatest:.2})")
}

fn latency(rounds: &[Outcome]) -> String {
    if rounds.first().is_none_or(|round| round.latencies.is_empty()) {
        return "-".into();
    }
    let micros = |at| spread(rounds.iter().map(|round| quantile(round, at) / 1000.0))[1];
    format!("{:.0} / {:.0}", micros(0.5), micros(0.99))
}

fn cpu(rounds: &[Outcome]) -> String {
    cpu_nanos(rounds).map_or("-".into(), |nanos| format!("{nanos:.0}"))
}

/// Of all rounds together: the clock's ticks are long.
#[expect(clippy::cast_precision_loss, reason = "a figure of four digits at most is printed")]
fn cpu_nanos(rounds: &[Outcome]) -> Option<f64> {
    let events: u64 = rounds.iter().map(|round| round.events).sum();
    let time: Option<Duration> = rounds.iter().map(|round| round.cpu).sum();
    Some(time?.as_secs_f64() * 1e9 / events as f64)
}

/// The commit of the working tree, marked if it is not quite that.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let output = Command::new("git").args(arguments).current_dir(here).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".into() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    if changed.is_some_and(|changed| !changed.is_empty()) {
        commit + " and changes"
    } else {
        commit
    }
}
