//! Rounds of a load: how much each is, whom it calls, and by which turns.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::ValueEnum as _;
use indicatif::ProgressBar;
use serde_json::Value;

use super::{
    Bench, CliError,
    load::{Amount, Budget, Fault, Taken, Twin},
    report::Report,
};
use crate::cli::{client::ServerArgs, output, replay};

const ROUNDS_COMPARED: u32 = 5;
/// The bar moves so often.
const TICK: Duration = Duration::from_millis(100);

/// Which empty call stands beside the real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum EmptyCall {
    /// One that decodes the same messages
    Messages,
    /// One of as many bytes, which decodes next to nothing: the harder bar
    Bytes,
    /// That one, whose bytes a bare loop writes and syncs: what a disk allows, of appends in durable mode
    Disk,
}

impl From<EmptyCall> for Twin {
    fn from(call: EmptyCall) -> Self {
        match call {
            EmptyCall::Messages => Self::Messages,
            EmptyCall::Bytes => Self::Bytes,
            EmptyCall::Disk => Self::Disk,
        }
    }
}

/// What all loads but `mixed` take.
#[derive(Debug, clap::Args)]
pub struct RoundArgs {
    /// How long a round takes, such as 500ms, 10s or 5m
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_time, conflicts_with = "count")]
    duration: Duration,
    /// End a round after so many events instead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How many rounds [default: 1, with --compare 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Measure the empty call too, by turns with the real one, after a round that warms up and is left out
    ///
    /// The server has to be started with `annals serve --bench-service`.
    #[arg(
        long,
        value_name = "TWIN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "messages",
        conflicts_with = "empty",
    )]
    compare: Option<EmptyCall>,
    /// Measure the empty call only
    #[arg(
        long,
        value_name = "TWIN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "messages"
    )]
    empty: Option<EmptyCall>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// `500ms`, `10s`, `5m`, `1h` or `1d`, more than nothing, and less than what clocks can count.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let time = Duration::try_from(replay::parse_duration(text)?).unwrap_or_default();
    match time {
        Duration::ZERO => Err("it is longer than 0".to_owned()),
        time if time > Duration::from_hours(366 * 24) => Err("at most 366d are allowed".to_owned()),
        time => Ok(time),
    }
}

impl RoundArgs {
    /// The empty call that is asked for.
    pub fn twin(&self) -> Option<EmptyCall> {
        self.compare.or(self.empty)
    }

    /// Refuses an empty call that this shape does not have.
    pub fn refuse(&self, missing: &[EmptyCall]) -> Result<(), CliError> {
        let wanted = self.twin().filter(|wanted| missing.contains(wanted));
        let name = wanted.and_then(|wanted| wanted.to_possible_value());
        name.map_or(Ok(()), |name| {
            let name = name.get_name();
            Err(CliError::Usage(format!("this shape has no such empty call: leave out `={name}`")))
        })
    }

    fn is_compared(&self) -> bool {
        self.compare.is_some()
    }

    /// Where events are written; nowhere, if only the empty call is made.
    pub fn written_to<'a>(&self, category: &'a str) -> Option<&'a str> {
        self.empty.is_none().then_some(category)
    }

    fn amount(&self) -> Amount {
        self.count.map_or(Amount::For(self.duration), Amount::Events)
    }

    /// `5 s` or `1 000 events`.
    pub fn amount_text(&self) -> String {
        match self.amount() {
            Amount::For(time) => output::duration(i128::try_from(time.as_nanos()).unwrap_or(0)),
            Amount::Events(events) => format!("{} events", output::grouped(events)),
        }
    }

    /// Rounds by their number and who is called in them; 0 warms up.
    fn plan(&self) -> Vec<(u32, Twin)> {
        let rounds = self.rounds.unwrap_or(if self.is_compared() { ROUNDS_COMPARED } else { 1 });
        let twin = self.twin().map_or(Twin::Real, Twin::from);
        if !self.is_compared() {
            return (1..=rounds).map(|round| (round, twin)).collect();
        }
        // Whoever goes first goes last in the next round.
        let turns = |round: u32| {
            let turns = [(round, Twin::Real), (round, twin)];
            if round.is_multiple_of(2) { turns } else { [turns[1], turns[0]] }
        };
        (0..=rounds).flat_map(turns).collect()
    }
}

/// Runs all rounds and tells what they came to. `category`: where events were written.
pub async fn run(
    bench: &Bench,
    args: &RoundArgs,
    facts: Vec<(&'static str, Value)>,
    category: Option<&str>,
    round: impl AsyncFn(Twin, Arc<Budget>) -> Result<Taken, Fault>,
) -> Result<(), CliError> {
    let plan = args.plan();
    let mut report = Report::begin(bench, args, facts, plan.len() > 1)?;
    let bar = output::progress_bar(Some(plan.len() as u64 * 1000), false);
    for (index, (number, twin)) in plan.into_iter().enumerate() {
        let (budget, began) = (Budget::begin(args.amount()), Instant::now());
        let what = match (number, twin) {
            (0, _) => "warming up".to_owned(),
            (_, Twin::Real) => format!("round {number}"),
            (_, _) => format!("round {number}, empty"),
        };
        bar.set_message(what);
        let taken = watched(&bar, index as u64 * 1000, &budget, round(twin, Arc::clone(&budget)));
        let taken = match taken.await {
            Ok(taken) => taken,
            Err(fault) => {
                bar.finish_and_clear();
                return Err(fault.into());
            }
        };
        let elapsed = began.elapsed();
        if number > 0 {
            bar.suspend(|| report.add(number, twin, &taken, elapsed))?;
        }
    }
    bar.finish_and_clear();
    report.end(category)
}

/// `load`, with the bar going on meanwhile from where it is.
async fn watched<T>(
    bar: &ProgressBar,
    from: u64,
    budget: &Budget,
    load: impl Future<Output = T>,
) -> T {
    let mut ticks = tokio::time::interval(TICK);
    tokio::pin!(load);
    loop {
        tokio::select! {
            taken = &mut load => return taken,
            _ = ticks.tick() => bar.set_position(from + budget.done()),
        }
    }
}
