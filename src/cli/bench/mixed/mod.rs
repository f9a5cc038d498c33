//! `annals bench mixed`: appends, reads and live subscribers together, for as long as one likes.
//!
//! ```text
//! appender ── Append ──► server ── Subscribe ──► subscriber   each position once, in order, up to
//!     paced, repeats      │                        the last one that was acknowledged
//!     what fails          └── ReadAll ──► reader   somewhere in the log, positions rise
//! ```
//!
//! Nothing here grows with the time that it runs: counts and histograms of a fixed size. Errors are counted by
//! code and end nothing.

mod tally;
mod tell;
mod work;

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::Instant};

use self::{
    tell::Teller,
    work::{Follower, Shared},
};
use super::{
    Bench, CliError, WriteArgs,
    load::{Amount, Budget},
    rounds::parse_time,
};
use crate::{cli::client::ServerArgs, shutdown};

/// What was acknowledged arrives within this, or it is missing.
const ARRIVAL_MAX: Duration = Duration::from_secs(10);

/// Measure appends, reads and live subscribers together, for as long as you like
///
/// Errors are counted by their code and end nothing: the call backs off and is repeated, with the same event
/// ids, so that nothing is appended twice. Each subscriber follows the whole log and checks that it gets every
/// position once and in order, up to the last append that was acknowledged; if it does not, this fails. An
/// event that retention hides before it was sent counts as missing. Ctrl-C ends it with the totals.
#[derive(Debug, clap::Args)]
pub struct MixedArgs {
    /// How long it takes, such as 10s, 5m, 12h or 3d
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_time, conflicts_with = "count")]
    duration: Duration,
    /// End after so many events were appended instead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Append so many events a second, all callers together [default: as fast as they are answered]
    #[arg(long, value_name = "EVENTS_PER_S", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pace: Option<u64>,
    /// Print a line for each interval of this length, such as 10s
    #[arg(long, value_name = "DURATION", value_parser = parse_time)]
    report_every: Option<Duration>,
    /// How many callers read, each one call at a time, on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    readers: u32,
    /// A read is of at most so many events
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    limit: u32,
    /// How many subscribers follow the log live, each on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    subscribers: u32,
    /// Print one JSON object a line: one for each interval, and one with the totals
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    server: ServerArgs,
}

impl MixedArgs {
    fn amount(&self) -> Amount {
        self.count.map_or(Amount::For(self.duration), Amount::Events)
    }
}

pub(super) async fn run(args: MixedArgs) -> Result<(), CliError> {
    let data_bytes = args.write.data_bytes()?;
    let bench = Bench::of("mixed", &args.server).await?;
    let names = bench.names(&args.write.events);
    let appenders = args.server.channels(args.write.connections()).await?;
    let readers = args.server.channels(args.readers).await?;
    let subscribers = args.server.channels(args.subscribers).await?;

    // They stand before the first append, so that they miss none.
    let mut followers = Vec::new();
    for channel in subscribers {
        followers.push(Follower::begin(channel).await?);
    }
    let budget = Budget::begin(args.amount());
    let shared = Shared::new(&bench, &args, Arc::clone(&budget), names.prefix, data_bytes);
    let shared = Arc::new(shared);
    let signal = shutdown::on_signal().map_err(|error| CliError::file("signals", error))?;

    let mut writing = JoinSet::new();
    for caller in 0..args.write.callers {
        let channel = appenders[caller as usize % appenders.len()].clone();
        writing.spawn(work::append(Arc::clone(&shared), channel, caller));
    }
    let mut reading = JoinSet::new();
    for (channel, reader) in readers.into_iter().zip(0..) {
        reading.spawn(work::read(Arc::clone(&shared), channel, reader));
    }
    let (end, known) = watch::channel(None);
    let mut following = JoinSet::new();
    for follower in followers {
        following.spawn(follower.run(Arc::clone(&shared), known.clone()));
    }

    let mut teller = Teller::begin(&bench, &args, &shared)?;
    {
        let work = async {
            finish(&mut writing).await?;
            budget.stop();
            finish(&mut reading).await
        };
        tokio::pin!(work);
        let mut ticks = teller.ticks();
        loop {
            tokio::select! {
                done = &mut work => break done?,
                _ = ticks.tick() => teller.tick()?,
                () = signal.cancelled(), if !budget.is_over() => budget.stop(),
            }
        }
    }
    // What the appends took; the rest of the way of the last events is not in the rates.
    let elapsed = teller.elapsed();
    end.send_replace(Some((shared.acknowledged(), Instant::now() + ARRIVAL_MAX)));
    finish(&mut following).await?;
    teller.end(elapsed, &names.category)
}

/// Until all have ended.
async fn finish(tasks: &mut JoinSet<()>) -> Result<(), CliError> {
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| CliError::Failed(error.to_string()))?;
    }
    Ok(())
}
