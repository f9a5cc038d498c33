//! The table: medians of rounds, real beside empty.

use std::{path::Path, process::Command, thread::available_parallelism, time::Duration};

use annals::wire::proto::v1::{Filter, Mode};
use hdrhistogram::Histogram;

use super::{
    analytics::{Figure, Questions},
    disk::{self, FileSystem, Over, Place},
    recovery::{COMMIT_EVENTS, Recovery, Start},
    shapes::{IN_FLIGHT_MAX, Shape},
    target::{DATA_BYTES, HISTORY_COMMIT_EVENTS, Outcome, Target, Twin},
};

/// The rounds of one shape on one server.
pub struct Row {
    shape: Shape,
    real: Vec<Outcome>,
    empty: Vec<Outcome>,
    disk: Vec<Outcome>,
    bare: Vec<Bare>,
}

/// What the disk alone does with a shape's batches.
#[derive(Clone, Copy)]
pub struct Bare {
    batch_bytes: usize,
    batches: usize,
    events: u64,
    /// In room that was taken and never written, and over zeros.
    taken: Duration,
    zeros: Duration,
}

impl Bare {
    /// Writes and syncs `batches` batches of so many events of so many bytes.
    pub fn measure(place: &Place, (events, event_bytes): (usize, usize), batches: usize) -> Self {
        let batch_bytes = events * event_bytes;
        let took = |over| disk::write_and_sync(place, over, batch_bytes, batches);
        let (taken, zeros) = (took(Over::Taken), took(Over::Zeros));
        Self { batch_bytes, batches, events: (events * batches) as u64, taken, zeros }
    }
}

impl Row {
    pub fn new(shape: Shape) -> Self {
        let (real, empty, disk) = (Vec::new(), Vec::new(), Vec::new());
        Self { shape, real, empty, disk, bare: Vec::new() }
    }

    pub fn add_bare(&mut self, bare: Bare) {
        self.bare.push(bare);
    }

    pub fn add(&mut self, twin: Twin, outcome: Outcome) {
        match twin {
            Twin::Real => self.real.push(outcome),
            Twin::Empty => self.empty.push(outcome),
            Twin::Disk => self.disk.push(outcome),
        }
    }

    fn is_latency(&self) -> bool {
        self.shape == Shape::Live
    }
}

pub async fn header(smoke: bool, rounds: usize, targets: &[Target]) {
    header_lines(smoke, rounds, targets).await;
    println!(
        "\n{:<30} {:>10} {:>10}  {:<18} {:>15} {:>15} {:>15}",
        "", "events/s", "empty", "ratio (min max)", "p50/p99 µs", "empty", "cpu ns/event"
    );
}

/// What was measured, and where.
pub async fn header_lines(smoke: bool, rounds: usize, targets: &[Target]) {
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
}

/// The heading of [`durable_rows`].
pub fn durable_header(file_system: Option<&FileSystem>) {
    match file_system {
        Some(FileSystem { kind, source }) => println!("file system {kind} on {source}"),
        None => println!("file system unknown"),
    }
    println!(
        "\n{:<26} {:>9} {:>9}  {:<18} {:>15} {:>15} {:>24} {:>9} {:>9} {:>9}  {:<18} {:<18} {:>14}",
        "events/s",
        "durable",
        "disk",
        "to disk (min max)",
        "p50/p99 µs",
        "disk",
        "cpu ns/event",
        "empty",
        "bare",
        "ov. zeros",
        "to lower",
        "to both in turn",
        "bare batch",
    );
}

/// One line for each server in durable mode.
pub fn durable_rows(rows: &[Row]) {
    for (index, row) in rows.iter().enumerate() {
        let name = match rows.len() {
            1 => row.shape.name().to_owned(),
            _ => format!("{} {}", letter(index), row.shape.name()),
        };
        let bare = |took: fn(&Bare) -> Duration| {
            row.bare.iter().map(move |bare| per_second(bare.events, took(bare)))
        };
        let rounds = || {
            row.real.iter().map(rate).zip(row.empty.iter().map(rate)).zip(bare(|bare| bare.taken))
        };
        let to_lower = spread(rounds().map(|((real, empty), bare)| real / empty.min(bare)));
        let in_turn =
            spread(rounds().map(|((real, empty), bare)| real * (1.0 / empty + 1.0 / bare)));
        let median = |values: [f64; 3]| format!("{:.0}", values[1]);
        let batch = row.bare.last();
        let batch = batch.map(|bare| format!("{} B x{}", bare.batch_bytes, bare.batches));
        let batch = batch.unwrap_or("-".into());
        println!(
            "{name:<26} {:>9} {:>9}  {:<18} {:>15} {:>15} {:>24} {:>9} {:>9} {:>9}  {:<18} {:<18} {batch:>14}",
            median(spread(row.real.iter().map(rate))),
            median(spread(row.disk.iter().map(rate))),
            show(spread(
                row.real.iter().map(rate).zip(row.disk.iter().map(rate)).map(|(a, b)| a / b)
            )),
            latency(&row.real),
            latency(&row.disk),
            format!("{} / {} / {}", cpu(&row.real), cpu(&row.disk), cpu(&row.empty)),
            median(spread(row.empty.iter().map(rate))),
            median(spread(bare(|bare| bare.taken))),
            median(spread(bare(|bare| bare.zeros))),
            show(to_lower),
            show(in_turn),
        );
    }
}

pub fn durable_footer() {
    println!(
        "\nMedians of the rounds. disk: the same bytes behind the same gRPC, which a loop of one pwrite and one fdatasync for \
         all that wait\nputs over zeros: what the disk allows these callers, without a store. cpu: durable / disk / empty. \
         bare: a loop of pwrite and fdatasync in the bench's process, in room \
         taken beforehand and never written,\na batch as large as all that can wait at once; ov. zeros: \
         the same over zeros that are on the disk. to lower: durable to the\nlower of empty and bare; to both \
         in turn: to one after the other, which is all that a single caller can have."
    );
}

/// What the starts after a crash came to.
pub fn recovery(file_system: Option<&FileSystem>, recovery: &Recovery) {
    let Recovery { events, bytes, segments, warm, cold, unindexed } = recovery;
    let kind = file_system.map_or("unknown", |system| system.kind.as_str());
    println!(
        "\nrecovery: {events} events, {} MB in {segments} segments, in commits of {COMMIT_EVENTS} · \
         file system {kind} · commit {} · {} starts each",
        bytes / 1_000_000,
        commit(),
        warm.len()
    );
    let kinds =
        [("files in memory", warm), ("files on disk only", cold), ("without indexes", unindexed)];
    for (name, starts) in kinds {
        let seconds = |took: fn(&Start) -> Duration| {
            spread(starts.iter().map(|start| took(start).as_secs_f64()))
        };
        let all = seconds(|start| start.listening);
        println!(
            "{name:<20} {:.2} s ({:.2} {:.2}) from spawn to listening: {:.0} events/s, {:.0} MB/s · read and \
             checked after {:.2} s, indexed {:.2} s later",
            all[1],
            all[0],
            all[2],
            per_second(*events, Duration::from_secs_f64(all[1])),
            per_second(*bytes, Duration::from_secs_f64(all[1])) / 1e6,
            seconds(|start| start.checked)[1],
            seconds(|start| start.indexed.saturating_sub(start.checked))[1],
        );
    }
}

fn figure(name: &str, figure: Figure, remark: &str) {
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let Figure { median, least, greatest } = figure;
    println!("{name:<44} {:>9.3} ms ({:.3} {:.3})  {remark}", ms(median), ms(least), ms(greatest));
}

/// Asks all questions, each so many times, and tells what they cost.
pub async fn analytics(mut questions: Questions, rounds: usize, smoke: bool) {
    let events = questions.events() as u64;
    println!("\nanalytics: {events} events of 256 B · median (least greatest) of {rounds}");
    let (of_type, count) = questions.statistics(vec![type_filter("Type3")], rounds).await;
    figure("statistics of one type, all time", of_type, &format!("{count} events"));
    let (of_all, count) = questions.statistics(Vec::new(), rounds).await;
    figure("statistics of everything", of_all, &format!("{count} events"));
    let trends = questions.trends(rounds).await;
    figure("trends of everything by day, Amsterdam", trends, "");
    for (name, (found, count)) in [
        ("search, one type", questions.rare(rounds).await),
        ("search, one user", questions.user(rounds).await),
        ("search, one user and two types", questions.user_and_type(rounds).await),
    ] {
        figure(name, found, &format!("{count} events, decoded by the client"));
    }
    figure("correlation of 5 events", questions.correlation(rounds).await, "");
    for (name, (seen, bytes, inside, matches)) in [
        ("count, text in a type: 1 % of the log", questions.text(rounds).await),
        ("count, text in 1 % of the time", questions.text_in_time(rounds).await),
    ] {
        let rate = per_second(bytes, inside.median) / 1e9;
        figure(name, seen, &format!("{matches} match"));
        figure("  of that in the server", inside, &format!("{bytes} B of data: {rate:.2} GB/s"));
    }
    let (hits, empty) = questions.hits(if smoke { 20 } else { 4000 }).await;
    figure("statistics from the cache, one at a time", hits, "");
    let ratio = hits.median.as_secs_f64() / empty.median.as_secs_f64();
    figure("  an empty call, by turns", empty, &format!("ratio {ratio:.2}"));
    let memory = questions.memory().await;
    println!("\nbytes an event, as the server tells them:");
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let each = |bytes: u64| bytes as f64 / events as f64;
    let parts = [
        ("streams", memory.stream_bytes),
        ("categories", memory.category_bytes),
        ("types", memory.type_bytes),
        ("tags", memory.tag_bytes),
        ("correlation ids", memory.correlation_bytes),
        ("causation ids", memory.causation_bytes),
        ("metadata", memory.metadata_bytes),
        ("columns", memory.column_bytes),
    ];
    for (name, bytes) in parts {
        println!("  {name:<20} {:>6.2}", each(bytes));
    }
    let all: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    println!("  default indexes      {:>6.2}", each(all));
    println!("  event ids            {:>6.2}", each(memory.event_id_bytes));
    println!("  offsets              {:>6.2}", each(memory.offset_bytes));
    println!("  resident             {:>6.2}", each(memory.resident_bytes));
    let (seconds, rounds) = if smoke { (1, 1) } else { (5, 5) };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // By turns, and the other one first the next time.
        for asked in [round % 2 == 0, round % 2 != 0] {
            let outcome = questions.paced(seconds, round, asked).await;
            if asked { with.push(outcome) } else { without.push(outcome) }
        }
    }
    println!(
        "\nappends of 100 at a pace of 100 000 events/s, {rounds} rounds of {seconds} s by turns:"
    );
    for (name, outcomes) in [("alone", &without), ("with uncached statistics each second", &with)] {
        let rates = spread(outcomes.iter().map(|(rate, _)| *rate));
        let took = spread(outcomes.iter().map(|(_, took)| took.median.as_secs_f64() * 1e6));
        println!(
            "  {name:<38} {:>9.0} events/s ({:.0} {:.0}), a call {:.0} µs ({:.0} {:.0})",
            rates[1], rates[0], rates[2], took[1], took[0], took[2]
        );
    }
}

fn type_filter(name: &str) -> Filter {
    Filter { types: vec![name.to_owned()], ..Filter::default() }
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

pub fn footer() {
    println!(
        "\nMedians of the rounds. Ratio: real to empty of each round, of rates, or of the latencies' \
         p50 in the live row\n(append to arrival, to one empty call's round trip). cpu: the server's \
         processor time, real / empty."
    );
}

fn letter(index: usize) -> char {
    char::from(b'A' + u8::try_from(index).expect("few servers"))
}

#[expect(clippy::cast_precision_loss, reason = "a figure of four digits at most is printed")]
pub fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a figure of four digits at most is printed")]
pub fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

#[expect(clippy::cast_precision_loss, reason = "a figure of four digits at most is printed")]
pub fn micros(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1000.0
}

fn rate(outcome: &Outcome) -> f64 {
    per_second(outcome.events, outcome.elapsed)
}

/// Nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "a figure of four digits at most is printed")]
fn quantile(outcome: &Outcome, quantile: f64) -> f64 {
    outcome.latencies.value_at_quantile(quantile) as f64
}

/// Least, median, greatest; NaN of nothing.
pub fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    if values.is_empty() {
        return [f64::NAN; 3];
    }
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

pub fn show([least, median, greatest]: [f64; 3]) -> String {
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
